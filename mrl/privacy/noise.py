"""User-level differential privacy of the sums: clipped messages, Gaussian noise, and what ε that is.

Every client scales its message of a step down to a norm of at most `clip`; the sum gets noise of standard deviation
noise_multiplier · clip (McMahan et al., "Learning differentially private recurrent language models", ICLR 2018; of
least squares: Chien et al., "Private alternating least squares", ICML 2021). All that the server and the clients see
then is (ε, δ)-differentially private towards a user's whole data, if every user is one client and the settings were
not chosen on the data: alpha0 and start of a config have to be given, and searches count as releases, too.
A user's vector is solved from these sums and its own data, and never leaves it. A run of `mrl.federated.fit_federated`
makes its rounds twice, in the search and on all of train, and validates between them: all of that counts.

A round of B messages, one for each block, releases B sums of the same user: together they are one Gaussian sum with
noise_multiplier / √B, which is what the accountant is given; rounds are composed, and where every client takes part in
a round by a coin of its own (Poisson sampling, which draws of a fixed number are not) this amplifies.
The number of clients of a sum is not hidden. Noise is drawn from a seed here; a deployment draws it from the system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from mrl.errors import ConfigError, RunError
from mrl.federated import Message, PlainSum, Summation, Uploads


def epsilon(
    noise_multiplier: float, *, delta: float, rounds: int = 1, messages: int = 1, sampling: float = 1.0
) -> float:
    """The ε of `rounds` rounds of `messages` noisy sums each.

    noise_multiplier: standard deviation of the noise by the clip. sampling: the chance of a client to be of a round.
    Exact without sampling (Balle and Wang 2018), else an upper bound by Rényi divergences, some 10 % above the least.
    Raises ConfigError for impossible settings, or without dp-accounting.
    """
    dp = _accounting()
    _check(noise_multiplier=noise_multiplier)
    _check_plan(delta, rounds, messages, sampling)
    if sampling == 1:
        return float(dp.get_epsilon_gaussian(noise_multiplier / sqrt(rounds * messages), delta))
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(_event(dp, noise_multiplier, rounds, messages, sampling))
    return float(accountant.get_epsilon(delta))


def noise_multiplier(
    epsilon: float, *, delta: float, rounds: int = 1, messages: int = 1, sampling: float = 1.0
) -> float:
    """The smallest noise multiplier with that ε, 0 for ε = ∞; arguments and errors as of `epsilon`."""
    if epsilon == float("inf"):
        return 0.0
    dp = _accounting()
    _check(epsilon=epsilon)
    _check_plan(delta, rounds, messages, sampling)
    together = sqrt(rounds * messages)
    unsampled = float(dp.get_sigma_gaussian(epsilon, delta)) * together
    if sampling == 1:
        return unsampled
    return float(
        dp.calibrate_dp_mechanism(
            dp.rdp.RdpAccountant,
            lambda multiplier: _event(dp, multiplier, rounds, messages, sampling),
            epsilon,
            delta,
            dp.ExplicitBracketInterval(0.1 * sqrt(messages), 2 * unsampled + 1),
            tol=1e-4,
        )
    )


def _event(dp: ModuleType, multiplier: float, rounds: int, messages: int, sampling: float):
    """What the accountant composes: a round's messages are one sampled Gaussian sum."""
    round = dp.PoissonSampledDpEvent(sampling, dp.GaussianDpEvent(multiplier / sqrt(messages)))
    return dp.SelfComposedDpEvent(round, rounds)


def _accounting() -> ModuleType:
    try:
        import dp_accounting
    except ImportError:
        raise ConfigError("ε needs dp-accounting, which is not installed; pip install 'mrl[federated]'") from None
    return dp_accounting


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value!r}: must be finite and positive")


def _check_plan(delta: float, rounds: int, messages: int, sampling: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta={delta!r}: must be between 0 and 1, and well below one by the number of users")
    if not 0 < sampling <= 1:
        raise ConfigError(f"sampling={sampling!r}: must be above 0, at most 1")
    for name, value in (("rounds", rounds), ("messages", messages)):
        if not (isinstance(value, int) and value >= 1):
            raise ConfigError(f"{name}={value!r}: give a whole number of at least 1")


@dataclass(frozen=True)
class NoisySum:
    """Sums of clipped messages with noise: a `Summation` for `mrl.federated.Simulation`.

    clip: the largest norm of a message. weights: by what each tensor is multiplied before norm and noise, and divided
    after, so that small ones are not lost beside large ones; 1 where it is not named. spans: columns of each step of
    the closed form, whose sums are then made such as can be solved (`mrl.federated.closed_form.block_spans`).
    fewest: 0: the server adds the noise, and sees the sum without it. Else each client adds its part, such that the
    parts of so many are the whole: then a sum of fewer is refused (RunError), and one of more has more noise.
    inner: how the messages are summed, such as `MaskedSum`.
    """

    clip: float
    noise_multiplier: float
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    spans: Sequence[slice] = ()
    fewest: int = 0
    inner: Summation = field(default_factory=PlainSum)

    def __post_init__(self) -> None:
        _check(clip=self.clip, **{f"weights[{name!r}]": weight for name, weight in self.weights.items()})
        if not (isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ConfigError(f"noise_multiplier={self.noise_multiplier!r}: must be finite and not negative")

    @property
    def one_by_one(self) -> bool:
        return self.inner.one_by_one

    def scale(self, uploads: Uploads) -> Tensor:
        """(C,): clip / norm, at most 1."""
        norms = uploads.norms
        if self.weights:
            if uploads.parts is None:
                raise ConfigError("weights: this method does not tell the norms of its tensors apart; leave them empty")
            parts = ((self.weights.get(name, 1.0) * part).square() for name, part in uploads.parts.items())
            norms = sum(parts).sqrt()
        return (self.clip / norms).clamp_max(1.0)

    def total(self, messages: Sequence[Message], *, round: int, step: int, missing: int = 0) -> Message:
        """The sum, with noise; RunError where fewer clients than `fewest` have sent."""
        senders = sum(message.clients for message in messages)
        if senders < self.fewest:
            raise RunError(
                f"round {round}: {senders} clients have sent, {self.fewest} are needed for the noise; the sum stays "
                "closed: make the round again, or lower fewest and raise noise_multiplier"
            )
        draws = np.random.default_rng([self.seed, round, step])
        if self.fewest:  # every client's part, by itself where its message is
            parts = [sqrt(message.clients / self.fewest) for message in messages]
            messages = [self._noised(each, part, draws) for each, part in zip(messages, parts, strict=True)]
        total = self.inner.total(messages, round=round, step=step, missing=missing)
        if not self.fewest:
            total = self._noised(total, 1.0, draws)
        return make_solvable(total, self.spans) if self.spans and self.noise_multiplier else total

    def _noised(self, message: Message, part: float, draws: np.random.Generator) -> Message:
        """The message with noise on every number."""
        deviation = part * self.noise_multiplier * self.clip
        tensors = {}
        for name, tensor in message.tensors.items():
            noise = draws.standard_normal(tuple(tensor.shape)) * (deviation / self.weights.get(name, 1.0))
            tensors[name] = tensor + torch.from_numpy(noise).to(tensor)
        return replace(message, tensors=tensors)


def make_solvable(total: Message, spans: Sequence[slice]) -> Message:
    """The sums of the closed form without what only noise can make of them: negative counts and eigenvalues.

    Every item's outer product and the block's own part of the Gramian become the nearest positive semi-definite
    matrix. This looks at nothing but the noisy sums, and costs no ε.
    """
    tensors = dict(total.tensors)
    for name in ("count", "weight", "owners"):
        if name in tensors:
            tensors[name] = tensors[name].clamp_min(0 if name == "count" else 1)
    if "outer" in tensors:
        span = spans[total.step]
        rows, columns = torch.triu_indices(span.stop - span.start, span.stop - span.start)
        full = tensors["gram"].new_zeros(len(tensors["outer"]), span.stop - span.start, span.stop - span.start)
        full[:, rows, columns] = tensors["outer"]
        full[:, columns, rows] = tensors["outer"]
        tensors["outer"] = _nearest_positive(full)[:, rows, columns]
        gram = tensors["gram"].clone()
        gram[:, span] = _nearest_positive((gram[:, span] + gram[:, span].T) / 2)
        tensors["gram"] = gram
    return replace(total, tensors=tensors)


def _nearest_positive(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices.double())
    return ((vectors * values.clamp_min(0)[..., None, :]) @ vectors.mT).to(matrices)
