"""Differential privacy of the sums: what is clipped, how much noise, which ε."""

from __future__ import annotations

import sys
from math import inf, sqrt

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.federated import FederatedConfig, Message, Simulation, Uploads
from mrl.federated.closed_form import block_spans
from mrl.privacy.masks import MaskedSum
from mrl.privacy.noise import NoisySum, epsilon, make_solvable, noise_multiplier

CONFIG = FederatedConfig(widths=[2, 4], alpha0=0.1, l2=0.1, start_rounds=1)


def some_positives(users: int = 30, items: int = 20) -> Positives:
    rows, columns = np.nonzero(np.random.default_rng(0).random((users, items)) < 0.3)
    return Positives.from_pairs(rows, columns, users, items)


def needs_accounting():
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (extra federated)")


def delta_of(sigma: float, eps: float) -> float:
    """δ of one Gaussian sum of sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    return norm.cdf(1 / (2 * sigma) - eps * sigma) - np.exp(eps) * norm.cdf(-1 / (2 * sigma) - eps * sigma)


def test_epsilon_is_that_of_the_gaussian_mechanism():
    needs_accounting()
    for sigma in (0.7, 2.0, 9.0):
        assert delta_of(sigma, epsilon(sigma, delta=1e-5)) == pytest.approx(1e-5, rel=1e-3)


def test_blocks_and_rounds_are_accounted_for():
    needs_accounting()
    single = noise_multiplier(2.0, delta=1e-5)
    assert noise_multiplier(2.0, delta=1e-5, messages=4) == pytest.approx(2 * single)
    assert noise_multiplier(2.0, delta=1e-5, messages=3, rounds=3) == pytest.approx(3 * single)
    assert noise_multiplier(inf, delta=1e-5) == 0


@pytest.mark.parametrize(("target", "rounds", "messages", "sampling"), [(1.0, 1, 1, 1.0), (4.0, 10, 5, 0.1)])
def test_the_multiplier_of_an_epsilon_gives_it(target, rounds, messages, sampling):
    needs_accounting()
    plan = {"delta": 1e-4, "rounds": rounds, "messages": messages, "sampling": sampling}
    assert epsilon(noise_multiplier(target, **plan), **plan) == pytest.approx(target, rel=1e-3)


def test_sampling_amplifies_and_messages_of_a_round_are_sampled_together():
    needs_accounting()
    plan = {"delta": 1e-4, "rounds": 20, "messages": 4}
    rare, often = (epsilon(4.0, sampling=share, **plan) for share in (0.05, 0.5))
    assert rare < often < epsilon(4.0, **plan) * 1.15
    # The blocks of a round fall to the same clients: four rounds of one message each would be cheaper than is true.
    assert rare > epsilon(4.0, sampling=0.05, delta=1e-4, rounds=80)


def test_without_dp_accounting_epsilon_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"pip install 'mrl\[federated\]'"):
        epsilon(1.0, delta=1e-5)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta": 0.0}, "delta=0.0: must be between 0 and 1"),
        ({"delta": 1e-5, "rounds": 0}, "rounds=0: give a whole number"),
        ({"delta": 1e-5, "messages": 1.5}, "messages=1.5"),
        ({"delta": 1e-5, "sampling": 1.5}, "sampling=1.5: must be above 0, at most 1"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    needs_accounting()
    with pytest.raises(ConfigError, match=message):
        epsilon(1.0, **arguments)


@pytest.mark.robustness
def test_impossible_noise_is_refused():
    with pytest.raises(ConfigError, match="clip=0: must be finite and positive"):
        NoisySum(0, 1.0)
    with pytest.raises(ConfigError, match=r"weights\['count'\]=-1: must be"):
        NoisySum(1.0, 1.0, weights={"count": -1})
    with pytest.raises(ConfigError, match="noise_multiplier=nan: must be finite and not negative"):
        NoisySum(1.0, float("nan"))
    with pytest.raises(ConfigError, match="does not tell the norms of its tensors apart"):
        NoisySum(1.0, 1.0, weights={"count": 2.0}).scale(Uploads(torch.ones(2), lambda scale: None))


def message(value: float, clients: int = 1) -> Message:
    return Message(3, 0, {"one": torch.full((400, 50), value), "other": torch.full((20_000,), value)}, clients)


@pytest.mark.parametrize("fewest", [0, 2])
def test_the_noise_has_the_deviation_it_should(fewest):
    summation = NoisySum(0.5, 3.0, weights={"other": 10.0}, fewest=fewest)
    total = summation.total([message(1.0), message(2.0)], round=3, step=0)
    assert total.clients == 2 and total.tensors["one"].dtype == torch.float32
    for name, deviation in (("one", 1.5), ("other", 0.15)):
        noise = (total.tensors[name] - 3.0).double().numpy().ravel() / deviation
        assert noise.std() == pytest.approx(1, abs=0.02) and abs(noise.mean()) < 0.03
    again = summation.total([message(1.0), message(2.0)], round=3, step=0)
    torch.testing.assert_close(again.tensors["one"], total.tensors["one"], rtol=0, atol=0)
    other = summation.total([message(1.0), message(2.0)], round=4, step=0)
    assert (other.tensors["one"] != total.tensors["one"]).float().mean() > 0.99


def test_each_client_adds_a_part_of_the_noise():
    summation = NoisySum(1.0, 2.0, fewest=4)
    total = summation.total([message(0.0)] * 9, round=1, step=0)  # more than are needed: more noise than is needed
    assert float(total.tensors["one"].std()) == pytest.approx(2 * sqrt(9 / 4), rel=0.02)
    together = summation.total([message(0.0, clients=9)], round=1, step=0)  # as the simulator adds up many at once
    assert float(together.tensors["one"].std()) == pytest.approx(2 * sqrt(9 / 4), rel=0.02)
    with pytest.raises(RunError, match="round 1: 3 clients have sent, 4 are needed for the noise"):
        summation.total([message(0.0)] * 3, round=1, step=0)


class Watched(NoisySum):
    """Keeps the norm of every client's message as it is sent, made by itself."""

    def scale(self, uploads: Uploads) -> torch.Tensor:
        scale = super().scale(uploads)
        for place in range(len(scale)):
            sent = uploads.total(scale * (torch.arange(len(scale)) == place))
            parts = ((self.weights.get(name, 1.0) * tensor).square().sum() for name, tensor in sent.tensors.items())
            self.norms.append(float(sum(parts).sqrt()))
        return scale

    norms: list[float] = []  # noqa: RUF012


@pytest.mark.parametrize("weights", [{}, {"directions": 20.0, "count": 0.3, "target": 4.0}])
@pytest.mark.parametrize("groups", [0, 7])
def test_no_message_is_longer_than_the_clip(weights, groups):
    Watched.norms.clear()
    config = FederatedConfig(widths=[2, 4], alpha0=0.1, l2=0.1, start_rounds=1, groups=groups)
    simulation = Simulation(config, some_positives(), summation=Watched(1.3, 0.0, weights=weights))
    for _ in range(2):
        simulation.round()
    assert len(Watched.norms) == 3 * (groups or 30)  # a start and two blocks
    assert max(Watched.norms) <= 1.3 * (1 + 1e-5) and min(Watched.norms) < 1.3 * (1 + 1e-5)


def test_without_clip_and_noise_nothing_changes():
    plain, noisy = (Simulation(CONFIG, some_positives(), summation=each) for each in (None, NoisySum(1e6, 0.0)))
    for _ in range(3):
        plain.round(), noisy.round()
    for one, other in zip(plain.vectors(), noisy.vectors(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_rounds_with_much_noise_end_in_finite_vectors(masked):
    spans = block_spans(CONFIG.widths, CONFIG.block)
    inner = {"inner": MaskedSum(1000.0), "fewest": 20} if masked else {}
    simulation = Simulation(CONFIG, some_positives(), summation=NoisySum(2.0, 8.0, spans=spans, **inner))
    for _ in range(3):
        simulation.round()
    users, items = simulation.vectors()
    assert torch.isfinite(users).all() and torch.isfinite(items).all() and items.abs().sum() > 0


def test_sums_that_noise_made_impossible_become_the_nearest_possible():
    generator = torch.Generator().manual_seed(0)
    outer = torch.randn(5, 3, generator=generator)  # upper triangles of two columns
    gram = torch.randn(2, 4, generator=generator)
    tensors = {"outer": outer, "gram": gram, "count": torch.tensor([-1.0, 2, 0, 3, 4]), "weight": torch.tensor([-5.0])}
    solvable = make_solvable(Message(2, 1, tensors), [slice(0, 2), slice(2, 4)]).tensors
    assert solvable["count"].tolist() == [0, 2, 0, 3, 4] and solvable["weight"].tolist() == [1]
    for before, after in zip(outer.double().numpy(), solvable["outer"].double().numpy(), strict=True):
        values, vectors = np.linalg.eigh([[before[0], before[1]], [before[1], before[2]]])
        nearest = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
        np.testing.assert_allclose(after, [nearest[0, 0], nearest[0, 1], nearest[1, 1]], atol=1e-6)
    torch.testing.assert_close(solvable["gram"][:, :2], gram[:, :2])
    assert torch.linalg.eigvalsh(solvable["gram"][:, 2:]).min() >= -1e-6
    torch.testing.assert_close(tensors["gram"], gram)  # what was summed stays as it is
    true = torch.tensor([[1.0, 0.5, 2.0]])
    kept = make_solvable(Message(2, 0, {"outer": true, "gram": torch.eye(2, 4)}), [slice(0, 2)]).tensors
    torch.testing.assert_close(kept["outer"], true)
