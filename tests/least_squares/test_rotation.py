"""The initial model: axes rotated so that prefixes rank better, and the whole as it did."""

from __future__ import annotations

import pytest
import torch
from settings import train_config

from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares import rotation
from mrl.least_squares.rotation import initial_model, learn_rotation, propagated, rotate_leading
from mrl.least_squares.validation import fit_least_squares

CONFIG = train_config(
    dataset="planted",
    widths=(2, 4, 12, 24),
    alpha0=0.1,
    frequency_l2=0.03,
    popularity_exponent=0.0,
    l2_width_exponent=0.0,
    propagation=(1.0, 0.5),
    rotation_width=24,
    device="cpu",
)


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


@pytest.fixture(scope="module")
def factors(data) -> tuple[torch.Tensor, torch.Tensor]:
    return fit_least_squares(CONFIG, data.train)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(rotation, "STEPS", 30)


def ndcg(data: Interactions, vectors, widths=CONFIG.widths) -> list[float]:
    result = evaluate(*vectors, data, split="valid", widths=widths, ks=(20,))
    return [result.value("ndcg@20", width=width) for width in widths]


def test_prefixes_rank_better_for_it_and_the_whole_as_before(data, factors) -> None:
    rows: list[dict] = []
    plain = propagated(CONFIG, data.train, factors).vectors()
    better = initial_model(CONFIG, data.train, factors, rows.append).vectors()
    before, after = ndcg(data, plain), ndcg(data, better)
    assert sum(after[:2]) > 1.2 * sum(before[:2]) and after[2] > 0.98 * before[2]
    torch.testing.assert_close(better[0] @ better[1].T, plain[0] @ plain[1].T, rtol=1e-3, atol=1e-4)  # propagated too
    (row,) = rows
    assert row["phase"] == "rotation" and 0 < row["loss"] < 1 and row["seconds"] > 0


def test_fewer_dimensions_may_be_rotated(data, factors) -> None:
    plain = ndcg(data, propagated(CONFIG, data.train, factors).vectors())
    fewer = ndcg(data, initial_model(CONFIG.with_settings(rotation_width=12), data.train, factors).vectors())
    assert fewer[2:] == pytest.approx(plain[2:], rel=1e-3) and sum(fewer[:2]) > 1.1 * sum(plain[:2])
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    users, items = rotate_leading(factors, rotation)
    for width in (12, 24):
        expected = factors[0][:, :width] @ factors[1][:, :width].T
        torch.testing.assert_close(users[:, :width] @ items[:, :width].T, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(users[:, :4] @ items[:, :4].T, factors[0][:, :4] @ factors[1][:, :4].T, atol=1e-2)


def test_prefixes_come_to_rank_unseen_items_as_the_whole_does(data, factors) -> None:
    rotation, loss = learn_rotation(*factors, data.train, CONFIG.widths)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24), atol=1e-5, rtol=0)
    seen = torch.zeros(data.num_users, data.num_items, dtype=torch.bool)
    seen[data.train.users.long(), data.train.items.long()] = True

    def alike(users: torch.Tensor, items: torch.Tensor, width: int) -> float:
        whole, part = users @ items.T, users[:, :width] @ items[:, :width].T
        tops = [scores.masked_fill(seen, -torch.inf).topk(10).indices for scores in (whole, part)]
        return float((tops[0][:, :, None] == tops[1][:, None]).any(2).float().mean())

    users, items = (table @ rotation for table in factors)
    assert alike(users, items, 2) > 1.5 * alike(*factors, 2) and alike(users, items, 4) > 0.98 * alike(*factors, 4)
    assert 0 < loss < 0.5


@pytest.mark.usefixtures("quick")
def test_it_is_the_same_every_time_whatever_the_scale_and_another_by_another_seed(data, factors) -> None:
    first = learn_rotation(*factors, data.train, CONFIG.widths)
    second = learn_rotation(*factors, data.train, CONFIG.widths)
    assert torch.equal(first[0], second[0]) and first[1] == second[1]
    assert not torch.allclose(first[0], learn_rotation(*factors, data.train, CONFIG.widths, seed=1)[0], atol=0.05)
    louder = factors[0] * torch.linspace(0.5, 2, data.num_users)[:, None], factors[1] * 4
    torch.testing.assert_close(learn_rotation(*louder, data.train, CONFIG.widths)[0], first[0], atol=0.05, rtol=0)


def test_level_weights_say_for_which_level_it_is(data, factors) -> None:
    def by(*weights: float) -> list[float]:
        rotation, _ = learn_rotation(*factors, data.train, CONFIG.widths, level_weights=weights)
        return ndcg(data, [table @ rotation for table in factors])[:2]

    first, second = by(1, 0, 0, 0), by(0, 1, 0, 0)
    assert first[0] > 1.02 * second[0] and first[1] < second[1]
    assert by(0, 0, 0, 1) == pytest.approx(by(1, 1, 1, 1))  # no prefix has a weight: all alike


def test_without_a_rotation_it_is_least_squares_under_propagation(data, factors) -> None:
    plain = propagated(CONFIG, data.train, factors).vectors()
    for other in ({"rotation_width": 0}, {"rotation_width": None}):
        model = initial_model(CONFIG.with_settings(**other), data.train, factors)
        assert all(torch.equal(one, other) for one, other in zip(model.vectors(), plain, strict=True))


def test_what_leaves_nothing_to_rank_stays_as_it_is(data, factors) -> None:
    nothing = tuple(torch.zeros_like(table) for table in factors)
    rotation, loss = learn_rotation(*nothing, data.train, CONFIG.widths)
    assert torch.equal(rotation, torch.eye(24)) and loss == 0
    users, items = (axis.flatten() for axis in torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij"))
    everything = Positives.from_pairs(users, items, 3, 5)
    rotation, _ = learn_rotation(torch.randn(3, 4), torch.randn(5, 4), everything, (2, 4))
    assert torch.equal(rotation, torch.eye(4))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_rotates_as_well_as_the_cpu(data, factors) -> None:
    there = initial_model(CONFIG, data.train.to("cuda"), tuple(table.cuda() for table in factors)).vectors()
    here = initial_model(CONFIG, data.train, factors).vectors()  # other random numbers
    assert ndcg(data, tuple(table.cpu() for table in there)) == pytest.approx(ndcg(data, here), rel=0.1)
