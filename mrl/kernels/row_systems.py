"""Small linear systems, one a row, in batches of rows with about as many positives: (Δ + QᵀQ) p = Qᵀ1.

Q (n, D) are the factors of a row's positives, Δ is diagonal. Rows with few positives are solved in as many unknowns as
they have positives (Woodbury), others by their D × D matrix, or by steps of conjugate gradients from where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.data import Positives

CHUNK = 2**20  # numbers in the largest intermediate of a batch of rows: 4 MiB in float32, which caches hold
CG_STEPS = 3  # of conjugate gradients: as good as exact solves, at a third of the time on dense data
CG_LEAST = 24  # positives of a row from which on the steps are cheaper than an exact solve


def row_chunks(counts: Tensor, dim: int, chunk: int, kept: int | None = None) -> Iterator[tuple[Tensor, int]]:
    """Rows with positives, in batches of similar counts, each with its largest count; longest rows first.

    kept: rows with fewer positives keep the factors of all of them, others a (D, D) matrix; None for D. Where it is
    given, rows of CG_LEAST to `kept` positives have batches of their own: how one is solved depends on no other.
    """
    edges, kept = (CG_LEAST, kept) if kept else (), kept or dim
    order = torch.argsort(counts, descending=True, stable=True)
    lengths = counts[order].cpu().numpy()
    falling, start, end = -lengths, 0, int((lengths > 0).sum())
    while start < end:
        longest = int(lengths[start])
        widest = longest if longest < kept else dim  # columns of the largest matrix kept for a row
        alike = int(np.searchsorted(falling, -(longest // 2), side="left"))  # at most half of it is padding
        ends = [int(np.searchsorted(falling, -edge, side="right")) for edge in edges if longest >= edge]
        stop = min(start + max(1, chunk // (widest * dim)), max(alike, start + 1), end, *ends)
        yield order[start:stop], longest
        start = stop


def square_chunks(counts: Tensor, dim: int, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """As `row_chunks`, where every row needs a (D, D) system of its own."""
    for index, _ in row_chunks(counts, dim, chunk):
        for part in index.split(max(1, chunk // dim**2)):
            yield part, int(counts[part].max())


def gather_rows(factors: Tensor, positives: Positives, rows: Tensor, start: int, stop: int) -> Tensor:
    """(B, stop − start, D): the factors of the start-th to stop-th positive of each row, zero where there is none.

    factors (I + 1, D): the other side, and a last row, all zero, that padding points to.
    """
    columns = torch.arange(start, stop, device=rows.device)
    position = positives.offsets[rows][:, None] + columns
    missing = columns >= positives.counts[rows][:, None]
    index = positives.items[position.clamp_max(len(positives) - 1)].masked_fill(missing, positives.num_items)
    return F.embedding(index, factors)


def add_outer(system: Tensor, factors: Tensor, positives: Positives, rows: Tensor, longest: int, chunk: int) -> Tensor:
    """Add QᵀQ of the positives of each row to `system` (B, D, D), in place; returns Qᵀ1, (B, D).

    The positives are taken in pieces, so that a row with very many does not need them all at once.
    """
    target = torch.zeros_like(system[:, 0])
    piece = max(1, chunk // target.numel())
    for start in range(0, longest, piece):
        own = gather_rows(factors, positives, rows, start, min(start + piece, longest))  # (B, n, D)
        system.baddbmm_(own.transpose(1, 2), own)
        target += own.sum(1)
    return target


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(B, n): matrices (B, n, m) times vectors (B, m), one by one."""
    return torch.bmm(matrices, vectors[:, :, None])[:, :, 0]


def cholesky_solve(system: Tensor, right: Tensor) -> Tensor:
    """(B, n): the solutions of B positive definite systems (B, n, n), or torch.linalg.LinAlgError."""
    return torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(system))[:, :, 0]


def solve_woodbury(own: Tensor, wanted: Tensor, diagonal: Tensor) -> Tensor:
    """(B, D): Δ⁻¹ Qᵀ (1 + Q Δ⁻¹ Qᵀ)⁻¹ wanted, of n × n systems; padding adds ones to them and nothing to the answer.

    own Q (B, n, D), wanted (B, n), diagonal Δ (B, D).
    """
    scaled = own / diagonal[:, None, :]
    system = torch.bmm(scaled, own.transpose(1, 2))  # (B, n, n)
    system.diagonal(dim1=1, dim2=2).add_(1.0)
    return times(scaled.transpose(1, 2), cholesky_solve(system, wanted))


def conjugate_gradients(own: Tensor, solution: Tensor, diagonal: Tensor) -> Tensor:
    """(B, D): from `solution` by CG_STEPS steps towards (Δ + QᵀQ)⁻¹ Qᵀ1, preconditioned by Δ.

    own Q (B, n, D), zero where a row has fewer than n positives; diagonal Δ (B, D).
    """
    across = own.transpose(1, 2)

    def system(vector: Tensor) -> Tensor:
        return diagonal * vector + times(across, times(own, vector))

    left = own.sum(1) - system(solution)
    step = left / diagonal
    square = (left * step).sum(1, keepdim=True)
    tiny = torch.finfo(left.dtype).tiny
    for _ in range(CG_STEPS):
        moved = system(step)
        length = square / (step * moved).sum(1, keepdim=True).clamp_min(tiny)
        solution, left = solution + length * step, left - length * moved
        scaled, before = left / diagonal, square
        square = (left * scaled).sum(1, keepdim=True)
        step = scaled + square / before.clamp_min(tiny) * step
    return solution
