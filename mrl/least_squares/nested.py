"""Nested least squares: the iALS objective summed over the levels, solved block by block in closed form.

    L = Σ_k w_k [ Σ_{(u,i)∈S} (1 − s_k(u,i))² + α0 Σ_{u,i} s_k(u,i)² + Σ_{b≤k} c_b (Σ_u r_u ‖p_ub‖² + Σ_i r_i ‖q_ib‖²) ]
    r_u = l2 · (|S_u| + α0 · I)^ν,  r_i = l2 · (|S_i| + α0 · U)^ν,  c_b = max(1, d_b / 16)^l2_width_exponent

With the columns in blocks (block b holds the dimensions that level b adds) and W_b = Σ_{k≥b} w_k, the optimum of
one block of a row given all the rest is a small linear system,

    (Σ_{i∈S_u} q_b q_bᵀ + α0 G_bb + c_b r_u 1) p_b = Σ_{i∈S_u} (1 − Σ_{j≠b} ω_bj s_j) q_b − α0 Σ_{j≠b} ω_bj G_bj p_j,

where s_j is what block j alone scores, G = QᵀQ and ω_bj = W_max(b,j) / W_b: earlier blocks are subtracted in full,
later ones by their share of the weight. One level is plain iALS (`mrl.least_squares.ials`), from whose factors,
rotated to their principal axes (`mrl.least_squares.axes`), the sweeps start: from a random start the middle widths
stay behind. No sampling, no learning rate: the same settings give the same vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.data import Positives
from mrl.least_squares.axes import balance, rotate
from mrl.least_squares.ials import (
    CHUNK,
    add_outer,
    cholesky_solve,
    frequency_l2,
    gather_rows,
    row_chunks,
    solve_woodbury,
    square_chunks,
    times,
    too_little,
    transpose,
)
from mrl.widths import blocks, check_level_weights

FLAT = 16  # dimensions up to which all are penalised alike: those of dense data want less of a penalty than wider ones


def nested_least_squares(
    positives: Positives,
    widths: Sequence[int],
    factors: tuple[Tensor, Tensor],
    *,
    level_weights: Sequence[float] = (),
    alpha0: float = 0.03,
    l2: float = 0.01,
    nu: float = 1.0,
    l2_width_exponent: float = 0.0,
    sweeps: int = 1,
) -> tuple[Tensor, Tensor]:
    """Users (U, D) and items (I, D), D = widths[-1], whose every prefix has been fitted; float32.

    factors: those of iALS, of D dimensions; the sweeps start from their principal axes.
    l2_width_exponent: with which the penalty grows with the width. sweeps: each all users, then all items.
    Raises RunError where the systems cannot be solved in 32-bit numbers.
    """
    level_weights = check_level_weights(level_weights, widths)
    scale = {"alpha0": alpha0, "l2": l2, "nu": nu}
    by_item = transpose(positives)
    user_l2 = frequency_l2(positives.counts, positives.num_items, **scale)
    item_l2 = frequency_l2(by_item.counts, positives.num_users, **scale)
    users, items = balance(*rotate(*factors), user_l2, item_l2)
    levels = {"widths": widths, "level_weights": level_weights, "l2_width_exponent": l2_width_exponent}
    for _ in range(sweeps):
        users = solve_blocks(users, items, positives, user_l2, alpha0=alpha0, **levels)
        items = solve_blocks(items, users, by_item, item_l2, alpha0=alpha0, **levels)
    return users, items


def column_penalty(widths: Sequence[int], l2_width_exponent: float) -> Tensor:
    """(D,) float64: c of every column, by which the penalty of a row is multiplied there."""
    return _by_column(
        torch.tensor([max(1.0, width / FLAT) ** l2_width_exponent for width in widths], dtype=torch.float64), widths
    )


def shared_weight(widths: Sequence[int], level_weights: Sequence[float]) -> Tensor:
    """(D, D) float64: W_max(b,j) for the blocks b and j of every two columns, the weight of all levels with both."""
    above = torch.tensor(tuple(level_weights), dtype=torch.float64).flip(0).cumsum(0).flip(0)  # W_b
    block = _by_column(torch.arange(len(widths)), widths)
    return above[torch.maximum(block[:, None], block)]


def _by_column(values: Tensor, widths: Sequence[int]) -> Tensor:
    """(D,): of each column, the one of `values` (one a level) that is of the level that adds it."""
    return values.repeat_interleave(torch.tensor([span.stop - span.start for span in blocks(widths)]))


def solve_blocks(
    rows: Tensor,
    other: Tensor,
    positives: Positives,
    row_l2: Tensor,
    *,
    widths: Sequence[int],
    level_weights: Sequence[float],
    alpha0: float,
    l2_width_exponent: float = 0.0,
    chunk: int = CHUNK,
    only: Sequence[int] | None = None,
) -> Tensor:
    """Every row with each of its blocks solved exactly given the rest, narrow to wide.

    rows: the current factors (R, D); other: those of the other side (I, D); row_l2 (R,). only: blocks to solve, None
    for all. Returns (R, D); rows without positives are zero. Raises RunError where 32-bit numbers do not suffice.
    """
    gram = (other.T @ other).double()
    basis = block_eigenbasis(gram, widths)
    systems = BlockSystems(gram, basis, widths, level_weights, alpha0, l2_width_exponent, only)
    basis = basis.to(rows)
    rotated = F.pad(other @ basis, (0, 0, 0, 1))  # the last row, all zero, is what padding points to
    return systems.solve(rows @ basis, rotated, positives, row_l2, chunk) @ basis.T


def block_eigenbasis(gram: Tensor, widths: Sequence[int]) -> Tensor:
    """(D, D) float64: in it what all rows share of a block is diagonal, by the Gram matrix of the other side."""
    return torch.block_diag(*(torch.linalg.eigh(gram[span, span])[1] for span in blocks(widths)))


class BlockSystems:
    """What the systems of all rows share, by the Gram matrix (D, D) of the other side and its `block_eigenbasis`.

    Both float64; the rest as of `solve_blocks`.
    """

    def __init__(
        self,
        gram: Tensor,
        basis: Tensor,
        widths: Sequence[int],
        level_weights: Sequence[float],
        alpha0: float,
        l2_width_exponent: float = 0.0,
        only: Sequence[int] | None = None,
    ):
        spans, shared = blocks(widths), shared_weight(widths, level_weights)
        self.gram = alpha0 * (basis.T @ gram @ basis)
        self.columns = column_penalty(widths, l2_width_exponent)
        self.spans = [span for b, span in enumerate(spans) if only is None or b in only]
        self.ratios = []  # ω_b, (D,): zero in the block itself
        for span in self.spans:
            ratio = shared[span.start] / shared[span.start, span.start]
            ratio[span] = 0
            self.ratios.append(ratio)

    def solve(
        self, current: Tensor, rotated: Tensor, positives: Positives, row_l2: Tensor, chunk: int = CHUNK
    ) -> Tensor:
        """`solve_blocks` of rows (R, D) in the basis, by the other side in it and a last row of zeros (I + 1, D)."""
        solution, gram, columns = torch.zeros_like(current), self.gram.to(current), self.columns.to(current)
        spectrum, ratios = self.gram.diagonal().clamp_min(0).to(current), [ratio.to(current) for ratio in self.ratios]
        try:
            for index, longest in row_chunks(positives.counts, current.shape[1], chunk):
                diagonal = spectrum + row_l2[index].to(current)[:, None] * columns
                solve_block = _block_solver(rotated, positives, index, longest, gram, diagonal, chunk)
                block_rows = current[index]
                for span, ratio in zip(self.spans, ratios, strict=True):
                    block_rows[:, span] = solve_block(span, block_rows * ratio)
                solution[index] = block_rows
            solved = bool(torch.isfinite(solution.sum()))
        except torch.linalg.LinAlgError:
            solved = False
        if not solved:
            raise too_little(row_l2, "least squares")
        return solution


def _block_solver(
    rotated: Tensor, positives: Positives, index: Tensor, longest: int, gram: Tensor, diagonal: Tensor, chunk: int
) -> Callable[[slice, Tensor], Tensor]:
    """What solves a block of rows with about as many positives, given the other blocks (B, D), times ω; (B, d).

    Few positives: their factors are kept, and a block wider than they are many is solved in as many unknowns as there
    are positives. Many positives: only the sum of their outer products is kept.
    """
    if longest < 2 * gram.shape[1]:
        own = gather_rows(rotated, positives, index, 0, longest)  # (B, n, D)
        present = torch.arange(longest, device=index.device) < positives.counts[index][:, None]
        present = present.to(rotated)  # (B, n)
    else:
        own, outer = None, torch.zeros(len(index), *gram.shape, dtype=gram.dtype, device=gram.device)
        target = add_outer(outer, rotated, positives, index, longest, chunk)  # (B, D)

    def solve(span: slice, others: Tensor) -> Tensor:
        right, penalty = -(others @ gram[:, span]), diagonal[:, span]
        if own is None:
            right += target[:, span] - times(outer[:, span], others)
            return cholesky_solve(outer[:, span, span] + torch.diag_embed(penalty), right)
        block = own[:, :, span].contiguous()  # (B, n, d)
        wanted = present - times(own, others)
        if longest >= block.shape[2]:
            system = torch.diag_embed(penalty).baddbmm_(block.transpose(1, 2), block)
            return cholesky_solve(system, right + times(block.transpose(1, 2), wanted))
        without = right / penalty  # the optimum of a row without positives
        return without + solve_woodbury(block, wanted - times(block, without), penalty)

    return solve


def fold_in(
    other: Tensor,
    positives: Positives,
    others: int,
    *,
    widths: Sequence[int],
    level_weights: Sequence[float] = (),
    alpha0: float,
    l2: float,
    nu: float = 1.0,
    l2_width_exponent: float = 0.0,
    chunk: int = CHUNK,
) -> Tensor:
    """Vectors for rows that were not trained on, by one solve each, good at every width.

    All blocks at once: the objective of one row given the other side is quadratic, with the blocks of its system
    weighted by the levels that have both. other: the factors of the other side (I, D); positives: of the new rows, over
    the same I; others: rows that α0 counts, normally I. Returns (R, D); rows without positives are zero.
    """
    weights = check_level_weights(level_weights, widths)
    shared = shared_weight(widths, weights).to(other)
    gram = alpha0 * (other.T @ other)
    row_l2 = frequency_l2(positives.counts, others, alpha0=alpha0, l2=l2, nu=nu).to(other)
    penalised = column_penalty(widths, l2_width_exponent).to(other) * shared.diagonal()
    padded = F.pad(other, (0, 0, 0, 1))
    solution = torch.zeros(positives.num_users, other.shape[1], dtype=other.dtype, device=other.device)
    for index, longest in square_chunks(positives.counts, other.shape[1], chunk):
        system = gram.expand(len(index), -1, -1).clone()
        target = add_outer(system, padded, positives, index, longest, chunk)
        system *= shared
        system.diagonal(dim1=1, dim2=2).add_(row_l2[index][:, None] * penalised)
        try:
            solution[index] = cholesky_solve(system, target * shared.diagonal())
        except torch.linalg.LinAlgError:
            raise too_little(row_l2, "least squares") from None
    return solution
