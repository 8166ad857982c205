"""What comes out the same bit for bit in any number of processes: products tile by tile, sums in fixed point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mrl.least_squares.axes import gram
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows


def times(rows: Rows, table: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """Own rows (R, D) times a matrix (D, F), tile by tile: the same in any process. out: where to; may be the table."""
    matrix, out = matrix.to(table), table.new_empty(len(table), matrix.shape[1]) if out is None else out
    for tile in rows.own_tiles:
        out[tile] = table[tile] @ matrix
    return out


def summed_gram(group: Group, rows: Rows, table: Tensor) -> Tensor:
    """(D, D) float64: tableᵀ table of all processes."""
    squares = [float(table[tile].double().square().sum(0).max()) for tile in rows.own_tiles]
    bound = group.largest(max(squares, default=0.0))  # by Cauchy–Schwarz, of every entry of every tile
    return exact_sum(group, rows, (gram(table[tile]) for tile in rows.own_tiles), bound, 2 * table.shape[1:])


def exact_sum(group: Group, rows: Rows, parts: Iterable[Tensor], bound: float, shape: Sequence[int]) -> Tensor:
    """The sum over all tiles of a float64 table each, none of whose entries is farther from 0 than `bound`.

    In fixed point: whole numbers add up to the same in any order, so in any number of processes.
    """
    total = torch.zeros(*shape, dtype=torch.int64, device=group.device)
    unit = 2.0 ** math.floor(62 - math.log2(max(bound, 1e-270) * len(rows.tiles)))
    for part in parts:
        total += (part * unit).round().long()
    return group.sum(total).double() / unit
