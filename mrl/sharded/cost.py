"""What an epoch of `mrl.sharded.epochs` takes of each process: bytes sent and seconds, on paper.

For N interactions of U users and I items in batches of B, K levels of widths d_k up to D, M candidates a level and P
processes, all shares even, in each of the N / B steps

    A = R (1 − exp(−B K M / (P R) − y)) + (I − R) (1 − exp(−y))     rows that a process fetches to score
    R: items of the ⌈B / STRETCH⌉ windows that a step draws from, all up to LARGE; y: draws of each item from elsewhere,
       B / (P I) positives, and with windows K M N / (U I) times as many, drawn again
    S = (P − 1) / P · (A (8 + 4 D)            numbers, and rows as they answer
        + B / P · (1 + K) (8 + 8 D))          positives and negatives, there, and their gradients back
        + 16 (P − 1)                          counts

bytes are sent by a process, and an epoch takes

    N / B · S / bandwidth  +  f₁ · N / P · (4 M Σ d_k + 40 D (1 + K)) / memory_bandwidth     vectors read and written
    + f₂ · N / B           +  f₃ · 7 N / B · (P − 1) · latency                 seconds a step; collectives

Candidates are most of it: of a large catalogue, 4 D bytes each. With rule rns there are none, nor what fetches them.
With dens gates are summed up, too, Σ 64 (d_k² + d_k) (P − 1) / P bytes a step, and learned; that is not in the formula.
What is sent has no factor; the others are fitted by `mrl.distributed.cost.fit_factors`, of the kind EPOCH.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrl.errors import ConfigError
from mrl.kernels.candidates import LARGE, STRETCH, WINDOW
from mrl.sharded.asked import BYTES

EPOCH = "epoch"
COLLECTIVES = 7  # of a step


@dataclass(frozen=True)
class Machine:
    """What one process has of a machine, of its network, too.

    flops: of float32 products, a second. memory_bandwidth: bytes read and written a second. bandwidth: bytes sent a
    second. latency: seconds of a message.
    """

    flops: float
    memory_bandwidth: float
    bandwidth: float
    latency: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name}={value!r}: of a machine, must be above 0")


@dataclass(frozen=True)
class EpochLoad:
    """An epoch of so many interactions, by so many processes.

    nested: whether each level has its own candidates and negative (MNS); else one for all.
    """

    users: int
    items: int
    interactions: int
    widths: Sequence[int]
    candidates: int = 16
    nested: bool = True
    batch_size: int = 2048
    processes: int = 1

    @property
    def steps(self) -> int:
        return -(-self.interactions // self.batch_size)

    @property
    def picks(self) -> Sequence[int]:
        """The width of each negative that is picked."""
        return self.widths if self.nested else self.widths[-1:]

    def fetched(self) -> float:
        """Rows that a process fetches in a step to score candidates, its own among them."""
        pairs, drawn = self.batch_size / self.processes, len(self.picks) * self.candidates
        reached, elsewhere = float(self.items), 1.0
        if self.items > LARGE:
            reached *= 1 - (1 - WINDOW / self.items) ** -(-self.batch_size // STRETCH)
            elsewhere += drawn * self.interactions / (self.users * self.items)
        elsewhere *= pairs / self.items
        return reached * -np.expm1(-pairs * drawn / reached - elsewhere) - (self.items - reached) * np.expm1(-elsewhere)

    def sent(self) -> float:
        """Bytes that a process sends in an epoch, on average."""
        row, others = 4 * self.widths[-1], self.processes - 1
        of_pair = (1 + len(self.picks)) * (BYTES + 2 * row)
        answers = self.steps * self.fetched() * (BYTES + row) + self.interactions / self.processes * of_pair
        return others / self.processes * answers + self.steps * 16 * others

    def terms(self, kind: str, machine: Machine) -> np.ndarray:
        """The terms of the formula that have factors, with all of these 1: seconds. kind: EPOCH, here and below."""
        of_pair = 4 * self.candidates * sum(self.picks) + 40 * self.widths[-1] * (1 + len(self.picks))
        moved = self.interactions / self.processes * of_pair / machine.memory_bandwidth
        return np.array([moved, self.steps, COLLECTIVES * self.steps * (self.processes - 1) * machine.latency])

    def sending(self, kind: str, machine: Machine) -> float:
        """The term that has no factor: seconds of what is sent."""
        return self.sent() / machine.bandwidth

    def predict(self, kind: str, machine: Machine, factors: np.ndarray) -> float:
        """Seconds of an epoch of a process, by factors of the terms."""
        return float(self.terms(kind, machine) @ factors) + self.sending(kind, machine)
