"""iALS: implicit feedback factorised by least squares, solved exactly row by row, in batches on any device.

Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, with the frequency-scaled
L2 of Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks",
RecSys 2022. No sampling and no learning rate: the same seed gives the same factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.kernels import fast_products, propagate
from mrl.kernels.row_systems import CG_LEAST, CG_STEPS, solve_compiled
from mrl.model import normalised_graph

RANK = 1e-6  # of the largest square, below which a direction is rounding
CHUNK = 2**20  # numbers in the largest intermediate of a batch of rows: 4 MiB in float32, which caches hold
SWEEPS = 24  # from random factors the wide half still gains up to here on sparse data; the narrow half is done by 8

Factors = tuple[Tensor, Tensor]


@fast_products()
def ials(
    positives: Positives,
    dim: int = 64,
    *,
    alpha0: float = 0.03,
    l2: float = 0.01,
    nu: float = 1.0,
    sweeps: int = SWEEPS,
    generator: torch.Generator | None = None,
    start: Factors | None = None,
    chunk: int = CHUNK,
) -> Factors:
    """Factors that minimise the iALS objective, by alternating least squares.

        L = Σ_{(u,i)∈S} (1 − ⟨p_u, q_i⟩)² + α0 Σ_{u,i} ⟨p_u, q_i⟩² + Σ_u r_u ‖p_u‖² + Σ_i r_i ‖q_i‖²
        r_u = l2 · (|S_u| + α0 · I)^ν,  r_i = l2 · (|S_i| + α0 · U)^ν

    alpha0: weight of all pairs, beside the weight 1 of observed ones. sweeps: each solves all users, then all items.
    generator: a CPU generator, for random factors to start from; None for a fresh one with seed 0.
    start: factors to go on from, in its place (`spectral_start`). Rows are then solved by a few steps of conjugate
    gradients from where they are, else exactly. Rows without positives are zero.
    Returns users (U, dim) and items (I, dim), float32, on the device of `positives`.
    Raises ConfigError for impossible settings, RunError where the systems cannot be solved in 32-bit numbers.
    """
    check_ials_settings(dim=dim, alpha0=alpha0, l2=l2, nu=nu, sweeps=sweeps)
    by_item = transpose(positives)
    user_l2 = frequency_l2(positives.counts, positives.num_items, alpha0=alpha0, l2=l2, nu=nu)
    item_l2 = frequency_l2(by_item.counts, positives.num_users, alpha0=alpha0, l2=l2, nu=nu)
    users, items = start if start is not None else (None, _random_items(positives, dim, generator) * (0.1 / sqrt(dim)))
    options, go_on = {"alpha0": alpha0, "chunk": chunk}, start is not None
    for _ in range(sweeps):
        users, items, _ = solve_rows(items, positives, user_l2, start=users if go_on else None, **options)
        items, users, _ = solve_rows(users, by_item, item_l2, start=items if go_on else None, **options)
    return users, items


def _random_items(positives: Positives, dim: int, generator: torch.Generator | None) -> Tensor:
    """(I, dim), drawn on the CPU so that every device starts alike."""
    generator = generator or torch.Generator().manual_seed(0)
    items = torch.randn(positives.num_items, dim, dtype=torch.float32, generator=generator)
    return items.to(positives.items.device)


@fast_products()
def spectral_start(positives: Positives, dim: int, *, seed: int = 0) -> Factors:
    """Users of zeros (U, dim) and items (I, dim), from which iALS needs a few sweeps only, the same for any α0 and λ.

    Items are the leading right singular vectors of D_U^-½ X D_I^-½, times the root of their singular values, by one
    power iteration on random columns (Halko, Martinsson, Tropp, SIAM Review 2011, arXiv 0909.4061). Columns that the
    data have no rank for are zero.
    """
    graph, transposed = normalised_graph(positives)
    items = _random_items(positives, dim, torch.Generator().manual_seed(seed))
    users = _orthonormal(propagate(graph, transposed, items))
    items = _orthonormal(propagate(transposed, graph, users))
    users = _orthonormal(propagate(graph, transposed, items))
    items = propagate(transposed, graph, users)
    squares, basis = torch.linalg.eigh((items.T @ items).double())
    squares, basis = squares.flip(0).clamp_min(0), basis.flip(1)
    scale = torch.where(squares > RANK * squares[0], squares**-0.25, 0)  # from singular values to their roots
    return torch.zeros_like(users), items @ (basis * scale).to(items)


def _orthonormal(table: Tensor) -> Tensor:
    """Columns that span what those of the table (R, D) span, by its Gram matrix; zero where there is no rank."""
    squares, basis = torch.linalg.eigh((table.T @ table).double())
    scale = torch.where(squares > RANK * squares[-1], squares**-0.5, 0)
    return table @ (basis * scale).to(table)


def check_ials_settings(*, dim: int, alpha0: float, l2: float, nu: float, sweeps: int) -> None:
    """Raise ConfigError, naming the setting, its value and the remedy, unless `ials` can run with these."""
    for name, value in (("dim", dim), ("sweeps", sweeps)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r}: give a whole number of at least 1")
    for name, value, usual in (("alpha0", alpha0, "0.01 to 1"), ("l2", l2, "0.001 to 0.1")):
        if not (isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value!r}: must be finite and above 0; {usual} is usual")
    if not (isfinite(nu) and nu >= 0):
        raise ConfigError(f"nu={nu!r}: must be finite and not negative; 1 is usual, 0 does not scale by frequency")


def frequency_l2(counts: Tensor, others: int, *, alpha0: float, l2: float, nu: float) -> Tensor:
    """(R,) float32: l2 · (positives of the row + α0 · rows of the other side)^ν."""
    return (l2 * (counts.double() + alpha0 * others) ** nu).float()


def solve_rows(
    other: Tensor,
    positives: Positives,
    row_l2: Tensor,
    *,
    alpha0: float,
    start: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor, Tensor]:
    """The minimiser of the iALS objective for every row, given the other side's factors `other` (I, D).

    Row u solves (Σ_{i∈S_u} q_i q_iᵀ + α0 QᵀQ + r_u 1) p_u = Σ_{i∈S_u} q_i, with r = row_l2 (R,). start (R, D): where
    rows of many positives go on from by steps of conjugate gradients; None: all are solved exactly.
    Returns rows (R, D), zero without positives, and the other side, both in the eigenbasis of QᵀQ, so that their scores
    stay what they are; and that basis (D, D).
    Raises RunError where the systems cannot be solved in 32-bit numbers.
    """
    spectrum, basis = eigenbasis((other.T @ other).double(), alpha0, row_l2)
    basis = basis.to(other)
    rotated = F.pad(other @ basis, (0, 0, 0, 1))
    solution = solve_in_eigenbasis(rotated, positives, row_l2, spectrum.to(other), basis, start=start, chunk=chunk)
    return solution, rotated[:-1], basis


def eigenbasis(gram: Tensor, alpha0: float, row_l2: Tensor) -> tuple[Tensor, Tensor]:
    """α0 times the eigenvalues (D,), none below 0, and the eigenvectors (D, D) of a Gram matrix; or RunError."""
    try:
        spectrum, basis = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:
        raise too_little(row_l2) from None
    return alpha0 * spectrum.clamp_min(0), basis


def solve_in_eigenbasis(
    rotated: Tensor,
    positives: Positives,
    row_l2: Tensor,
    spectrum: Tensor,
    basis: Tensor,
    *,
    start: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """`solve_rows` by the `eigenbasis` of a QᵀQ that may be of more rows than those at hand; (R, D) in that basis.

    There what all rows share is diagonal. A row with n < D positives then needs only an n × n system (Woodbury), which
    is most rows of most data sets.
    rotated (I + 1, D): the other side in the basis, and a last row, all zero, that padding points to. start (R, D): not
    in the basis.
    """
    dim, counts, solved = rotated.shape[1], positives.counts, True
    solution = torch.zeros(positives.num_users, dim, dtype=rotated.dtype, device=rotated.device)
    # rows whose factors fit in a chunk can go on by steps
    kept = None if start is None else max(dim, chunk // dim)
    if rotated.device.type == "cpu" and rotated.dtype == torch.float32:
        by_steps = (counts >= CG_LEAST) & (counts < (kept or 0))
        if kept:
            solution[by_steps] = start[by_steps] @ basis
        at_once = ((counts > 0) & (counts < CG_LEAST)) | by_steps
        solved = solve_compiled(solution, at_once.nonzero()[:, 0], rotated, positives, spectrum, row_l2)
        counts = counts.masked_fill(at_once, 0)
    try:
        for rows, longest in row_chunks(counts, dim, chunk, kept):
            diagonal = spectrum + row_l2[rows].to(rotated.dtype)[:, None]  # (B, D)
            by_steps = bool(kept) and CG_LEAST <= longest < kept
            if not by_steps and longest >= dim:
                system = torch.diag_embed(diagonal)  # (B, D, D)
                target = add_outer(system, rotated, positives, rows, longest, chunk)
                solution[rows] = cholesky_solve(system, target)
                continue
            own = gather_rows(rotated, positives, rows, 0, longest)  # (B, n, D)
            if by_steps:
                solution[rows] = conjugate_gradients(own, start[rows] @ basis, diagonal)
            else:
                solution[rows] = solve_woodbury(own, torch.ones_like(own[:, :, 0]), diagonal)
        solved &= bool(torch.isfinite(solution.sum()))
    except torch.linalg.LinAlgError:
        solved = False
    if not solved:
        raise too_little(row_l2)
    return solution


def too_little(row_l2: Tensor, what: str = "iALS") -> RunError:
    """The error of systems that the L2 of some row (R,) leaves unsolvable."""
    least = float(row_l2.min())
    return RunError(f"{what}: L2 of {least:.2g} a row is too little for 32-bit numbers; raise l2 or alpha0")


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


def transpose(positives: Positives) -> Positives:
    """The same pairs with the sides swapped: which users each item is a positive of."""
    order = torch.argsort(positives.items, stable=True)  # users stay increasing within an item
    offsets = F.pad(positives.item_counts.cumsum(0), (1, 0))
    return Positives(offsets, positives.users[order], positives.num_users)
