"""What a sweep of iALS and an evaluation take of each process: seconds, bytes sent, memory; measured, then on paper.

For U users, I items, N interactions (L of both sides in rows so long that they are solved exactly), D dimensions
and P processes, all shares even: seconds as if a machine ran at its full speed, times the factors f, which are fitted:

    sweep       S / bandwidth                                  S: bytes sent, (P − 1) (4 D (U + I) + 48 D²) / P
              + f₁ · (8 D² (U + I) + 2 D² L) / (P · flops)     Gram matrices (float64: twice), rotations, long rows
              + f₂ · 88 D N / (P · memory_bandwidth)           vectors gathered, and CG_STEPS + 1 products with them
              + f₃ · 2 T / P                                   seconds a tile, T = N / TILE, at most MOST_TILES
              + f₄ · 2 (7 + P) ⌈log₂ P⌉ · latency              collectives, one after the other
              + f₅ · (1 − M / P) · 88 D N / (P · memory_bandwidth)     what M machines' processes take from each other
    evaluation  4 D I C (P − 1) / (P · bandwidth)              items to all, C times
              + f₁ · 2 D U I / (P · flops)  +  f₂ · U / P  +  f₃  +  f₄ · (1 − M / P) · 2 D U I / (P · flops)
                                                               scores; seconds a user, and once; neighbours
    memory      f₁ + 8 (U + I)                                 the program; all ids; and the most of
                + 12 (N + H) / P                               reading a Parquet folder: pairs as keys, rows beside them
                + (16 N + 4 H) / P                             sharing: keys of pairs by item, beside rows of both sides
                + (8 N + 4 H + 4 D (2 U + I)) / P + 4 D max(U, I)   vectors, before and after propagation; fetched
    evaluation memory
                f₁ + 8 (U + I) + (4 N + 4 H + 4 D (2 U + I)) / P + 8 D I / B    as they are, and twice a block of items

What is sent has no factor: processes of one machine say nothing of a network. S is of sides that are gathered whole;
where only what is pointed to is fetched (`mrl.sharded.rows.Links`), its rows are bounded by those of equally
popular ones, n (1 − exp(−N / P n)) of n. What is fetched is at most FETCHED numbers. Bytes of memory have no factor
either, but that of the program, f₁, which is more in evaluation, for which loops are compiled; H interactions are held
out, `HELD_OUT` of N. Users alone pick up their neighbours' vectors, as usual settings have it. Items are gathered for
evaluation once, C = B = 1, or in B blocks for each of C parts of a process's users (`mrl.sharded.ranking`).

Left out: nested sweeps, propagation and reading data (but in memory), the rotation, writing runs, waiting for the
slowest process, rows of few positives, eigenvectors (on the first process); and the sampled epochs of mrl4rec, which
`mrl.sharded.cost` has. The rotation takes the first process 1 KiB an item that a step draws, for each level and three.
Nothing was measured on more than one machine, nor with more than two processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from mrl.distributed.least_squares import bytes_of_sweep
from mrl.sharded import ranking, rows
from mrl.sharded.cost import EpochLoad, Machine

SWEEP, EVALUATION, MEMORY, EVALUATION_MEMORY = "sweep", "evaluation", "memory", "evaluation memory"
HELD_OUT = 0.25  # of the interactions that are trained on: a fifth of all


@dataclass(frozen=True)
class Load:
    """What is computed, by how many processes on how many machines.

    long: interactions of both sides in rows that are solved exactly: of at least CHUNK / width.
    """

    users: int
    items: int
    interactions: int
    width: int
    processes: int = 1
    long: int = 0
    machines: int = 1

    def fetched(self, side: int) -> tuple[int, float]:
        """Rows of a side of so many that a process holds at a time, and that it fetches in a half sweep."""
        most, parts = max(1, rows.FETCHED // self.width), 1

        def wanted() -> float:
            return side * -np.expm1(-self.interactions / self.processes / parts / max(side, 1))

        while side > most and wanted() > most and parts < rows.MOST_TILES:
            parts *= 2
        if parts == 1 and wanted() >= rows.WORTH * side:
            return side, side
        return ceil(wanted()), parts * wanted()

    def sent_by_sweep(self) -> float:
        """Bytes that a process sends in a sweep, on average."""
        moved = [round(self.fetched(side)[1]) for side in (self.users, self.items)]
        return bytes_of_sweep(*moved, self.width, self.processes) / self.processes

    def sent_by_evaluation(self) -> float:
        """Bytes that a process sends in an evaluation, on average."""
        times = 1 if self.block == self.items else ceil(self.users / self.processes / ranking.USERS)
        return 4 * self.width * self.items * times * (self.processes - 1) / self.processes

    @property
    def block(self) -> int:
        """Items that are gathered at a time for evaluation."""
        return min(self.items, max(1, ranking.BLOCK // self.width))

    def terms(self, kind: str, machine: Machine) -> np.ndarray:
        """The terms of the formula of a kind that have factors, with all of these 1: seconds; of memory bytes."""
        both, shared, table = self.users + self.items, self.interactions / self.processes, 4 * self.width
        beside = 1 - self.machines / self.processes
        if kind == SWEEP:
            flops = (8 * both + 2 * self.long) * self.width**2 / self.processes / machine.flops
            moved = 22 * table * shared / machine.memory_bandwidth
            tiles = min(max(self.interactions / rows.TILE, 1), rows.MOST_TILES) / self.processes
            messages = 2 * (7 + self.processes) * ceil(log2(self.processes))
            return np.array([flops, moved, 2 * tiles, messages * machine.latency, beside * moved])
        if kind == EVALUATION:
            scores = 2 * self.width * self.users * self.items / self.processes / machine.flops
            return np.array([scores, self.users / self.processes, 1.0, beside * scores])
        return np.array([1.0])

    def held(self) -> float:
        """Bytes of a process from reading to the vectors of least squares, beside its program."""
        shared, both, table = self.interactions / self.processes, self.users + self.items, 4 * self.width
        fetched = table * max(self.fetched(side)[0] for side in (self.users, self.items))
        tables = table * (both + self.users) / self.processes
        reading, sharing = 12 * (1 + HELD_OUT) * shared, (16 + 4 * HELD_OUT) * shared
        return 8 * both + max(reading, sharing, (8 + 4 * HELD_OUT) * shared + tables + fetched)

    def held_in_evaluation(self) -> float:
        """Bytes of a process that evaluates, beside its program."""
        shared, both, table = self.interactions / self.processes, self.users + self.items, 4 * self.width
        tables = table * (both + self.users) / self.processes + 2 * table * self.block
        return 8 * both + 4 * (1 + HELD_OUT) * shared + tables

    def sending(self, kind: str, machine: Machine) -> float:
        """The term that has no factor: seconds of what is sent; bytes of data that are held."""
        sent = {SWEEP: self.sent_by_sweep, EVALUATION: self.sent_by_evaluation}
        held = {MEMORY: self.held, EVALUATION_MEMORY: self.held_in_evaluation}
        return sent[kind]() / machine.bandwidth if kind in sent else held[kind]()

    def predict(self, kind: str, machine: Machine, factors: np.ndarray) -> float:
        """Seconds, or bytes of memory, of a process, by the factors of `fit_factors`."""
        return float(self.terms(kind, machine) @ factors) + self.sending(kind, machine)


def fit_factors(
    kind: str, loads: Sequence[Load] | Sequence[EpochLoad], measured: Sequence[float], machine: Machine
) -> np.ndarray:
    """The factors of a kind's terms, none below 0, whose relative errors on what was measured are least in squares."""
    from scipy.optimize import nnls  # 38 MiB that training needs in no process

    each = np.asarray(measured, dtype=float)
    terms = np.array([load.terms(kind, machine) for load in loads]) / each[:, None]
    scale = np.where(terms.any(0), np.abs(terms).max(0), 1.0)  # bytes and seconds beside each other
    return nnls(terms / scale, 1 - np.array([load.sending(kind, machine) for load in loads]) / each)[0] / scale
