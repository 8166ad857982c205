"""A sparse matrix times a table of vectors, the inner loop of graph models: differentiable, and compiled on the CPU."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mrl.kernels.threads import compiled, fetch, in_threads

LEAST = 256  # rows a thread at least
AHEAD = 8  # entries from one that is worked on to one whose vector is fetched


def propagate(graph: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
    """graph (R, C) @ x (C, D) for a sparse CSR matrix, differentiable in x; `transpose` is its transpose (C, R)."""
    return _Propagate.apply(graph, transpose, x)


def sparse_matrix(offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse CSR matrix, nothing of it checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)


class _Propagate(torch.autograd.Function):
    """With the transpose ready for the backward pass: torch would build it anew at every step."""

    @staticmethod
    def forward(ctx, graph: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.transpose = transpose
        return _times(graph, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _times(ctx.transpose, gradient)


def _times(graph: Tensor, x: Tensor) -> Tensor:
    x = x.detach().contiguous()
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return graph @ x
    offsets, columns, values = (part.numpy() for part in (graph.crow_indices(), graph.col_indices(), graph.values()))
    out, table = np.empty((len(graph), x.shape[1]), np.float32), x.numpy()
    in_threads(lambda part: _rows(part.start, offsets, columns, values, table, out[part]), len(out), each=LEAST)
    return torch.from_numpy(out)


@partial(compiled, fastmath={"contract", "reassoc"})
def _rows(first, offsets, columns, values, x, out):
    """Fill out, rows `first` and on: four entries at a time, for a quarter of the trips to each row of it."""
    dim, last = x.shape[1], len(columns) - 1
    for r in range(len(out)):
        row = out[r]
        row[:] = 0
        n, stop = offsets[first + r], offsets[first + r + 1]
        while n + 4 <= stop:
            for m in range(n + AHEAD, n + AHEAD + 4):
                place = columns[min(m, last)] * dim
                fetch(x, place, place + dim)
            a, b, c, e = values[n], values[n + 1], values[n + 2], values[n + 3]
            p, q, s, t = x[columns[n]], x[columns[n + 1]], x[columns[n + 2]], x[columns[n + 3]]
            for d in range(dim):
                row[d] += a * p[d] + b * q[d] + c * s[d] + e * t[d]
            n += 4
        while n < stop:
            value, vector = values[n], x[columns[n]]
            for d in range(dim):
                row[d] += value * vector[d]
            n += 1
