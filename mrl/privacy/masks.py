"""Secure aggregation: the server learns the sum of the uploads, and no upload.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, on the sparse graph
of Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020. One sum, in four rounds:

1. Keys. Every client i draws a secret key a_i and a seed b_i and publishes g^a_i. The server puts the clients on a
   ring in random order; the `degree` nearest are a client's neighbours, with each of whom it shares g^(a_i a_j).
2. Shares. Every client cuts a_i and b_i by Shamir's scheme into one share for each neighbour, `threshold` of which are
   enough to put them together and fewer of which say nothing.
3. Uploads. Client i sends y_i = x_i + PRG(b_i) + Σ_j ± PRG(g^(a_i a_j)) modulo 2^64, + where i < j, − where i > j, with
   x_i in fixed point (`FixedPoint`). Between two clients who both send, the masks cancel to the last bit.
4. Opening. Of every client that sent, the neighbours give up the shares of b_i; of every one that did not, those of
   a_i, by which the server takes off the masks it left in others. Never both: a client asked for both refuses.

Against whom: the parties follow the protocol and look at all they see, and fewer than `threshold` of the neighbours of
any client tell the server what they hold (`privacy_failure`); enough neighbours stay (`dropout_failure`).
Left out of the papers: signatures and the round in which clients agree on who is there, which hold against a server
that lies; encryption of the shares on their way through the server. Nothing stops a client from sending nonsense
within the bounds: the server cannot see it.
Modelled: all parties live in this process; keys are agreed modulo 2^127 − 1, which is too small a group; the PRG is
Philox, which is not cryptographic. A deployment takes X25519 and AES-CTR or ChaCha20 in their place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor

from mrl.errors import ConfigError, RunError
from mrl.federated import Message, Uploads

FIELD = 2**31 - 1  # of the shares: products of two fit in 64 bits
LIMBS = 4  # numbers below FIELD in a secret: 124 bits
GROUP, GENERATOR = 2**127 - 1, 3  # in which keys are agreed
KEY_BYTES, SHARE_BYTES = 16, 4 * LIMBS  # a public key; a share of one secret


@dataclass(frozen=True)
class FixedPoint:
    """Floats as whole numbers modulo 2^64, such that a sum of `clients` of them cannot overflow.

    bound: the largest absolute value of one number of one upload. A sum of n is off by at most n / 2^(bits + 1).
    Raises ConfigError where clients · bound · 2^bits reaches 2^63.
    """

    clients: int
    bound: float
    bits: int = 32

    def __post_init__(self) -> None:
        if not (isinstance(self.clients, int) and self.clients >= 1):
            raise ConfigError(f"clients={self.clients!r}: give a whole number of at least 1")
        if not (isfinite(self.bound) and self.bound > 0):
            raise ConfigError(f"bound={self.bound!r}: must be finite and positive")
        if not (isinstance(self.bits, int) and 0 <= self.bits <= 52):
            raise ConfigError(f"bits={self.bits!r}: give a whole number from 0 to 52")
        if self.clients * ceil(self.bound * 2**self.bits) >= 2**63:
            raise ConfigError(
                f"{self.clients:,} clients with numbers up to {self.bound:g} overflow 64 bits at bits={self.bits}: "
                "lower bits, bound or the clients of a sum"
            )

    def encode(self, values: np.ndarray) -> np.ndarray:
        """uint64 of the same shape. Raises RunError where a value is not finite or beyond the bound."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():
            raise RunError("an upload with NaN or infinity cannot be masked: leave this client out")
        largest = float(np.abs(values).max(initial=0.0))
        if largest > self.bound:
            raise RunError(f"an upload holds {largest:g}, beyond the bound of {self.bound:g}: clip it, or raise bound")
        return np.rint(values * 2**self.bits).astype(np.int64).view(np.uint64)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """float64 of the same shape: what a sum of encoded uploads stands for."""
        return np.asarray(total, dtype=np.uint64).view(np.int64) / 2**self.bits


def secure_sum(
    uploads: Mapping[int, np.ndarray],
    generator: np.random.Generator,
    *,
    degree: int = 64,
    threshold: int | None = None,
    dropped: Collection[int] = (),
    silent: Collection[int] = (),
) -> np.ndarray:
    """The sum modulo 2^64 of the uploads of all clients but the dropped ones, as the server learns it.

    uploads: by client, uint64 arrays of one shape; those of dropped clients are never looked at. degree: neighbours of
    a client, all where there are fewer; even. threshold: shares that open a secret, None for just over half of the
    degree. dropped: clients that are gone after round 2; silent: after round 3, so that their upload counts.
    Raises ConfigError for impossible settings, RunError where too few are left to open the sum: no upload is lost to
    anyone then, the round is made again.
    """
    clients = sorted(uploads)
    graph = ring(clients, degree, generator)
    reach = len(graph[clients[0]])
    threshold = reach // 2 + 1 if threshold is None else threshold
    if not (isinstance(threshold, int) and reach // 2 < threshold <= reach):
        raise ConfigError(f"threshold={threshold!r}: give more than half of the {reach} neighbours, at most all")
    members = {number: Member(number, graph[number], threshold, generator) for number in clients}
    publics = {number: member.public for number, member in members.items()}  # round 1
    for number, member in members.items():  # round 2
        for neighbour, share in member.deal(generator).items():
            members[neighbour].held[number] = share
    server = Server(graph, publics, threshold)
    for number, member in members.items():  # round 3
        if number not in dropped:
            server.receive(number, member.mask(uploads[number], publics))
    for number, member in members.items():  # round 4
        if number not in dropped and number not in silent:
            server.collect(number, member.reveal(server.sent, server.missing))
    return server.total()


@dataclass
class Member:
    """A client within one sum: its secrets, and the shares that neighbours gave it. A new one for every sum."""

    number: int
    neighbours: Sequence[int]
    threshold: int
    generator: np.random.Generator = field(repr=False)
    held: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # by neighbour: shares of its a and b

    def __post_init__(self) -> None:
        self._secrets = self.generator.integers(0, FIELD, (2, LIMBS), dtype=np.uint64)  # a_i, b_i

    @property
    def public(self) -> int:
        """g^a_i."""
        return pow(GENERATOR, _joined(self._secrets[0]), GROUP)

    def deal(self, generator: np.random.Generator) -> dict[int, np.ndarray]:
        """For each neighbour its shares of a_i and b_i, (2, LIMBS)."""
        shares = share(self._secrets, len(self.neighbours), self.threshold, generator)
        return dict(zip(self.neighbours, shares, strict=True))

    def mask(self, upload: np.ndarray, publics: Mapping[int, int]) -> np.ndarray:
        """y_i, uint64 of the shape of the upload."""
        masked = np.array(upload, dtype=np.uint64) + stream(_joined(self._secrets[1]), upload.shape)
        key = _joined(self._secrets[0])
        for neighbour in self.neighbours:
            _add_pair(masked, self.number, neighbour, pow(publics[neighbour], key, GROUP))
        return masked

    def reveal(self, sent: Collection[int], missing: Collection[int]) -> dict[int, np.ndarray]:
        """By neighbour the share that opens its upload: of b where it sent, of a where it did not; (LIMBS,).

        Raises RunError where a neighbour is said to have sent and to be missing: both shares would lay its upload bare.
        """
        both = set(sent) & set(missing) & set(self.held)
        if both:
            raise RunError(f"client {min(both)} is said to have sent and not to have sent: no share of it is given up")
        kind = {number: 1 for number in sent} | {number: 0 for number in missing}
        return {number: shares[kind[number]] for number, shares in self.held.items() if number in kind}


class Server:
    """The server within one sum: public keys, masked uploads, and the shares it asked for."""

    def __init__(self, graph: Mapping[int, Sequence[int]], publics: Mapping[int, int], threshold: int):
        self.graph, self.publics, self.threshold = graph, publics, threshold
        self.sent: set[int] = set()
        self._sum: np.ndarray | None = None
        self._shares: dict[int, dict[int, np.ndarray]] = {}  # by client, by neighbour

    @property
    def missing(self) -> set[int]:
        """Clients that gave shares and sent nothing."""
        return set(self.graph) - self.sent

    def receive(self, number: int, masked: np.ndarray) -> None:
        """Add one masked upload; RunError where it has another shape or comes twice."""
        if number in self.sent:
            raise RunError(f"client {number} has sent already: one upload a client and sum")
        if self._sum is not None and masked.shape != self._sum.shape:
            raise RunError(f"client {number} sent an upload of shape {masked.shape}, others {self._sum.shape}")
        self._sum = masked.copy() if self._sum is None else self._sum + masked
        self.sent.add(number)

    def collect(self, number: int, shares: Mapping[int, np.ndarray]) -> None:
        """The shares that one client gives up."""
        for owner, part in shares.items():
            self._shares.setdefault(owner, {})[self.graph[owner].index(number)] = part

    def total(self) -> np.ndarray:
        """The sum of the uploads that came. Raises RunError where a secret has too few shares."""
        if self._sum is None:
            raise RunError("no client sent an upload: nothing to sum")
        total = self._sum.copy()
        for number in sorted(self.sent):
            total -= stream(self._opened(number), total.shape)
        for number in sorted(self.missing):
            reached = [neighbour for neighbour in self.graph[number] if neighbour in self.sent]
            if reached:  # whose halves of the pairs are still in the sum; the other halves take them out
                key = self._opened(number)
                for neighbour in reached:
                    _add_pair(total, number, neighbour, pow(self.publics[neighbour], key, GROUP))
        return total

    def _opened(self, number: int) -> int:
        """The secret of one client, from its neighbours' shares."""
        shares = self._shares.get(number, {})
        if len(shares) < self.threshold:
            raise RunError(
                f"client {number}: {len(shares)} of its neighbours answered, {self.threshold} are needed to open the "
                "sum; make the round again, or lower threshold or raise degree"
            )
        return _joined(reconstruct(shares, self.threshold))


def ring(clients: Sequence[int], degree: int, generator: np.random.Generator) -> dict[int, list[int]]:
    """By client its neighbours: the `degree` nearest on a ring in random order, all others where there are fewer.

    Raises ConfigError for fewer than two clients, or an odd degree.
    """
    if len(clients) < 2:
        raise ConfigError(f"{len(clients)} clients in a sum: the sum of one is its upload; take at least 2")
    if not (isinstance(degree, int) and degree >= 2 and degree % 2 == 0):
        raise ConfigError(f"degree={degree!r}: give an even number of at least 2")
    order = generator.permutation(np.asarray(clients)).tolist()
    if degree >= len(order) - 1:
        return {number: [other for other in order if other != number] for number in order}
    steps = [step for half in range(1, degree // 2 + 1) for step in (-half, half)]
    return {number: [order[(at + step) % len(order)] for step in steps] for at, number in enumerate(order)}


def privacy_failure(clients: int, degree: int, threshold: int, corrupt: float) -> float:
    """At most how likely some client has `threshold` neighbours among the share `corrupt` that tell the server all."""
    bad = round(corrupt * clients)
    return min(1.0, clients * float(hypergeom.sf(threshold - 1, clients - 1, min(bad, clients - 1), degree)))


def dropout_failure(clients: int, degree: int, threshold: int, gone: float) -> float:
    """At most how likely some client has fewer than `threshold` neighbours left, where the share `gone` are not."""
    return privacy_failure(clients, degree, degree - threshold + 1, gone)


def masked_bytes(numbers: int, degree: int = 64) -> int:
    """What one client sends in one sum of so many numbers: key, shares of two secrets, upload, shares given up."""
    return KEY_BYTES + 3 * degree * SHARE_BYTES + 8 * numbers


def stream(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint64 of that shape, by a seed below 2^128."""
    return np.random.Philox(key=seed).random_raw(int(np.prod(shape))).reshape(shape)


def _add_pair(upload: np.ndarray, number: int, neighbour: int, shared: int) -> None:
    """Add client `number`'s half of the mask of a pair, in place."""
    (np.add if number < neighbour else np.subtract)(upload, stream(shared, upload.shape), out=upload)


def share(secrets: np.ndarray, count: int, threshold: int, generator: np.random.Generator) -> np.ndarray:
    """Shamir's shares of numbers below FIELD, uint64: of (…) the values at 1 … count of random polynomials, (count, …).

    The polynomials have degree threshold − 1 and the secrets at 0.
    """
    coefficients = generator.integers(0, FIELD, (threshold - 1, *secrets.shape), dtype=np.uint64)
    points = np.arange(1, count + 1, dtype=np.uint64).reshape(-1, *[1] * secrets.ndim)
    values = np.zeros((count, *secrets.shape), dtype=np.uint64)
    for coefficient in (*coefficients, secrets):  # Horner
        values = (values * points + coefficient) % FIELD
    return values


def reconstruct(shares: Mapping[int, np.ndarray], threshold: int) -> np.ndarray:
    """The secrets from at least `threshold` shares, by their place from 0 on."""
    places = sorted(shares)[:threshold]
    total = np.zeros_like(shares[places[0]])
    for place in places:
        above, below = 1, 1  # Lagrange's polynomial of this point, at 0
        for other in places:
            if other != place:
                above, below = above * (other + 1) % FIELD, below * (other - place) % FIELD
        total = (total + shares[place] * np.uint64(above * pow(below, -1, FIELD) % FIELD)) % FIELD
    return total


def _joined(limbs: np.ndarray) -> int:
    """One whole number from its limbs."""
    return sum(int(limb) * FIELD**place for place, limb in enumerate(limbs))


@dataclass(frozen=True)
class MaskedSum:
    """Secure sums of messages: a `Summation` for `mrl.federated.Simulation`, for hundreds of clients.

    bound: the largest absolute value of a number in a message; clipped messages stay below their clip. bits, degree,
    threshold: as of `FixedPoint` and `secure_sum`. silent: the chance of a client to be gone before the opening.
    Histories count 4 bytes a number, as without masks: `masked_bytes` has what is sent.
    Raises RunError where a message is beyond the bound, or too few clients are left to open the sum.
    """

    bound: float
    bits: int = 32
    degree: int = 64
    threshold: int | None = None
    silent: float = 0.0
    seed: int = 0
    one_by_one: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        FixedPoint(1, self.bound, self.bits)

    def scale(self, uploads: Uploads) -> Tensor:
        return torch.ones_like(uploads.norms)

    def total(self, messages: Sequence[Message], *, round: int, step: int, missing: int = 0) -> Message:
        """The sum of the messages, each masked by itself, as the server learns it; missing: drop-outs of the step."""
        if any(message.clients > 1 for message in messages):
            raise ConfigError("late='count': the masks of a round are opened in it; with masks say late='discard'")
        if len(messages) < 2:
            raise RunError(
                f"round {round}: one client has sent, and the sum of one is its upload; make the round again"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for message in messages:
            for name, tensor in message.tensors.items():
                before = shapes.get(name, tensor.shape)
                shapes[name] = tuple(max(sizes) for sizes in zip(before, tensor.shape, strict=True))
        fixed = FixedPoint(len(messages), self.bound, self.bits)
        uploads = {number: fixed.encode(_flat(message, shapes)) for number, message in enumerate(messages)}
        gone = range(len(messages), len(messages) + missing)  # they gave shares and sent nothing
        generator = np.random.default_rng([self.seed, round, step])
        silent = np.flatnonzero(generator.random(len(messages)) < self.silent).tolist()
        options = {"degree": self.degree, "threshold": self.threshold, "dropped": gone, "silent": silent}
        total = fixed.decode(secure_sum({**uploads, **dict.fromkeys(gone)}, generator, **options))
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        parts = zip(shapes.items(), np.split(total, ends[:-1]), strict=True)
        tensors = {name: torch.from_numpy(part.reshape(shape)).float() for (name, shape), part in parts}
        return Message(round, step, tensors, len(messages))


def _flat(message: Message, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """All numbers of a message, padded with zeros to these shapes, as all clients of a sum send."""
    full = {name: np.zeros(shape) for name, shape in shapes.items()}
    for name, tensor in message.tensors.items():
        full[name][tuple(map(slice, tensor.shape))] = tensor.numpy()
    return np.concatenate([each.ravel() for each in full.values()])
