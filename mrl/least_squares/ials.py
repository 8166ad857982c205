"""iALS: implicit feedback factorised by least squares, solved exactly row by row, in batches on any device.

Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, with the frequency-scaled
L2 of Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks",
RecSys 2022. No sampling and no learning rate: the same seed gives the same factors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import isfinite, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.data import Positives
from mrl.errors import ConfigError, RunError

CHUNK = 2**22  # numbers in the largest intermediate of a batch of rows: 16 MiB in float32
SWEEPS = 24  # the wide half of the factors still gains up to here on sparse data; the narrow half is done by 8


def ials(
    positives: Positives,
    dim: int = 64,
    *,
    alpha0: float = 0.03,
    l2: float = 0.01,
    nu: float = 1.0,
    sweeps: int = SWEEPS,
    generator: torch.Generator | None = None,
    on_sweep: Callable[[dict], None] | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Factors that minimise the iALS objective, by exact alternating least squares.

        L = Σ_{(u,i)∈S} (1 − ⟨p_u, q_i⟩)² + α0 Σ_{u,i} ⟨p_u, q_i⟩² + Σ_u r_u ‖p_u‖² + Σ_i r_i ‖q_i‖²
        r_u = l2 · (|S_u| + α0 · I)^ν,  r_i = l2 · (|S_i| + α0 · U)^ν

    alpha0: weight of all pairs, beside the weight 1 of observed ones. sweeps: each solves all users, then all items.
    generator: a CPU generator, for the start; None for a fresh one with seed 0. Rows without positives are zero.
    on_sweep: called after each sweep with `sweep` (from 1), `loss` (the objective) and `seconds` (of the sweep).
    Returns users (U, dim) and items (I, dim), float32, on the device of `positives`.
    Raises ConfigError for impossible settings, RunError where the systems cannot be solved in 32-bit numbers.
    """
    check_ials_settings(dim=dim, alpha0=alpha0, l2=l2, nu=nu, sweeps=sweeps)
    generator = generator or torch.Generator().manual_seed(0)
    by_item = transpose(positives)
    user_l2 = frequency_l2(positives.counts, positives.num_items, alpha0=alpha0, l2=l2, nu=nu)
    item_l2 = frequency_l2(by_item.counts, positives.num_users, alpha0=alpha0, l2=l2, nu=nu)
    # drawn on the CPU so that every device starts alike; the scale is that of Rendle et al.
    items = torch.randn(positives.num_items, dim, dtype=torch.float32, generator=generator) * (0.1 / sqrt(dim))
    items = items.to(positives.items.device)
    for sweep in range(1, sweeps + 1):
        started = time.perf_counter()
        users = solve_rows(items, positives, user_l2, alpha0=alpha0, chunk=chunk)
        items = solve_rows(users, by_item, item_l2, alpha0=alpha0, chunk=chunk)
        if on_sweep is not None:
            loss = ials_objective(users, items, positives, alpha0=alpha0, l2=l2, nu=nu, chunk=chunk)
            on_sweep({"sweep": sweep, "loss": loss, "seconds": time.perf_counter() - started})
    return users, items


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


def solve_rows(other: Tensor, positives: Positives, row_l2: Tensor, *, alpha0: float, chunk: int = CHUNK) -> Tensor:
    """The exact minimiser of the iALS objective for every row, given the other side's factors `other` (I, D).

    Row u solves (Σ_{i∈S_u} q_i q_iᵀ + α0 QᵀQ + r_u 1) p_u = Σ_{i∈S_u} q_i, with r = row_l2 (R,). Rows need not have
    been trained on: the positives of new users fold them in. Returns (R, D); rows without positives are zero.
    Raises RunError where the systems cannot be solved in 32-bit numbers.
    """
    # In the eigenbasis of QᵀQ what all rows share is diagonal. A row with n < D positives then needs only an
    # n × n system (Woodbury), which is most rows of most data sets.
    solution = torch.zeros(positives.num_users, other.shape[1], dtype=other.dtype, device=other.device)
    try:
        spectrum, basis = torch.linalg.eigh((other.T @ other).double())
        spectrum, basis = (alpha0 * spectrum.clamp_min(0)).to(other.dtype), basis.to(other.dtype)
        rotated = F.pad(other @ basis, (0, 0, 0, 1))  # (I + 1, D): the last row, all zero, is what padding points to
        for rows, longest in row_chunks(positives.counts, other.shape[1], chunk):
            diagonal = spectrum + row_l2[rows].to(other.dtype)[:, None]  # (B, D)
            if longest < other.shape[1]:
                solution[rows] = _solve_short(rotated, positives, rows, longest, diagonal)
            else:
                solution[rows] = _solve_long(rotated, positives, rows, longest, diagonal, chunk)
        solved = bool(torch.isfinite(solution).all())
    except torch.linalg.LinAlgError:
        solved = False
    if not solved:
        least = float(row_l2.min())
        raise RunError(f"iALS: L2 of {least:.2g} a row is too little for 32-bit numbers; raise l2 or alpha0")
    return solution @ basis.T


def row_chunks(counts: Tensor, dim: int, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """Rows with positives, in batches of similar counts, each with its largest count; longest rows first."""
    order = torch.argsort(counts, descending=True, stable=True)
    lengths = counts[order].cpu().numpy()
    falling, start, end = -lengths, 0, int((lengths > 0).sum())
    while start < end:
        longest = int(lengths[start])
        widest = longest if longest < dim else dim  # columns of the largest matrix kept for a row
        fits = max(1, chunk // (widest * dim))
        alike = int(np.searchsorted(falling, -(longest // 2), side="left"))  # at most half of it is padding
        stop = min(start + fits, max(alike, start + 1), end)
        yield order[start:stop], longest
        start = stop


def mean_score(users: Tensor, items: Tensor, positives: Positives) -> float:
    """The mean score of the positives by users (U, D) and items (I, D), summed in float64; 0 where there are none."""
    total, step = 0.0, max(1, CHUNK // users.shape[1])
    for start in range(0, len(positives), step):
        pairs = slice(start, start + step)
        scores = users[positives.users[pairs].long()] * items[positives.items[pairs].long()]
        total += float(scores.sum(dtype=torch.float64))
    return total / max(len(positives), 1)


def gather_rows(rotated: Tensor, positives: Positives, rows: Tensor, start: int, stop: int) -> Tensor:
    """(B, stop − start, D): the factors of the start-th to stop-th positive of each row, zero where there is none."""
    columns = torch.arange(start, stop, device=rows.device)
    position = positives.offsets[rows][:, None] + columns
    missing = columns >= positives.counts[rows][:, None]
    index = positives.items[position.clamp_max(len(positives) - 1)].masked_fill(missing, positives.num_items)
    return F.embedding(index, rotated)


def add_outer(system: Tensor, rotated: Tensor, positives: Positives, rows: Tensor, longest: int, chunk: int) -> Tensor:
    """Add QᵀQ of the positives of each row to `system` (B, D, D), in place; returns Qᵀ1, (B, D).

    The positives are taken in pieces, so that a row with very many does not need them all at once.
    """
    target = torch.zeros_like(system[:, 0])
    piece = max(1, chunk // target.numel())
    for start in range(0, longest, piece):
        factors = gather_rows(rotated, positives, rows, start, min(start + piece, longest))  # (B, n, D)
        system.baddbmm_(factors.transpose(1, 2), factors)
        target += factors.sum(1)
    return target


def _solve_short(rotated: Tensor, positives: Positives, rows: Tensor, longest: int, diagonal: Tensor) -> Tensor:
    """(Δ + QᵀQ)⁻¹ Qᵀ1 = Δ⁻¹ Qᵀ (1 + Q Δ⁻¹ Qᵀ)⁻¹ 1: padding adds ones to the system and nothing to the answer."""
    factors = gather_rows(rotated, positives, rows, 0, longest)  # (B, n, D)
    scaled = factors / diagonal[:, None, :]
    system = torch.bmm(scaled, factors.transpose(1, 2))  # (B, n, n)
    system.diagonal(dim1=1, dim2=2).add_(1.0)
    weights = torch.cholesky_solve(torch.ones_like(system[:, :, :1]), torch.linalg.cholesky(system))
    return torch.bmm(scaled.transpose(1, 2), weights)[:, :, 0]


def _solve_long(
    rotated: Tensor, positives: Positives, rows: Tensor, longest: int, diagonal: Tensor, chunk: int
) -> Tensor:
    """(Δ + QᵀQ)⁻¹ Qᵀ1, for rows with many positives."""
    system = torch.diag_embed(diagonal)  # (B, D, D)
    target = add_outer(system, rotated, positives, rows, longest, chunk)
    return torch.cholesky_solve(target[:, :, None], torch.linalg.cholesky(system))[:, :, 0]


def ials_objective(
    users: Tensor,
    items: Tensor,
    positives: Positives,
    *,
    alpha0: float,
    l2: float,
    nu: float,
    column_l2: Tensor | None = None,
    chunk: int = CHUNK,
) -> float:
    """The value of the objective that `ials` minimises, summed in float64.

    column_l2 (D,): by how much the penalty of each column is multiplied, None for 1.
    """
    by_column = torch.ones_like(users[0]) if column_l2 is None else column_l2
    step = max(1, chunk // users.shape[1])
    loss = torch.zeros((), dtype=torch.float64, device=users.device)
    for start in range(0, len(positives), step):
        rows, columns = positives.users[start : start + step], positives.items[start : start + step]
        scores = (users[rows] * items[columns]).sum(1)
        loss += (1 - scores).double().square().sum()
    loss += alpha0 * ((users.T @ users).double() * (items.T @ items).double()).sum()
    sides = ((users, positives.counts, len(items)), (items, positives.item_counts, len(users)))
    for factors, counts, others in sides:
        row_l2 = frequency_l2(counts, others, alpha0=alpha0, l2=l2, nu=nu)
        loss += row_l2.double() @ factors.double().square() @ by_column.double()
    return float(loss)


def transpose(positives: Positives) -> Positives:
    """The same pairs with the sides swapped: which users each item is a positive of."""
    order = torch.argsort(positives.items, stable=True)  # users stay increasing within an item
    offsets = F.pad(positives.item_counts.cumsum(0), (1, 0))
    return Positives(offsets, positives.users[order], positives.num_users)
