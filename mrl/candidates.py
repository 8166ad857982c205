"""Candidates for negatives: drawn uniformly from what a user has not met, and scored at every level.

Both steps have two implementations with the same result: vectorised torch, for any device, and a compiled loop
for the CPU (numba), which searches only within a user's own positives and never copies a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrl.compiled import compiled, in_threads
from mrl.interactions import Positives

LEAST = 512  # users a slice at least: fewer take less time than a thread to start
SIMILARITIES = ("inner", "cosine", "distance")


class UniformCandidates:
    """Items a user has not met, drawn uniformly with replacement, exactly and without rejection.

    The r-th unobserved item of a user is r + c, where c counts the positives with no more than r unobserved
    items before them: one binary search a draw. It terminates for users who have nearly everything;
    users who have everything have nothing to draw (`trainable` is False for them).
    """

    def __init__(self, positives: Positives):
        self.num_items = positives.num_items
        self.offsets = positives.offsets
        self.free = positives.num_items - positives.counts  # (U,) unobserved items of each user
        self.trainable = self.free > 0
        users = positives.users.long()
        rank = torch.arange(len(positives), device=users.device) - self.offsets[users]
        gaps = positives.items - rank  # unobserved items before each positive; never decreasing within a user
        self.compiled = gaps.device.type == "cpu"
        # For one search over all users, a stride of I + 1 keeps the users apart.
        self._gaps = gaps.to(torch.int32) if self.compiled else users * (self.num_items + 1) + gaps

    def __call__(self, users: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """users: (B,) int64 rows, each trainable. Returns (B, *shape) int64 item rows."""
        draw = torch.rand(len(users), *shape, dtype=torch.float64, device=users.device, generator=generator)
        if self.compiled:
            flat = draw.flatten(1).numpy()
            rows = np.empty(flat.shape, np.int64)
            batch, tables = users.numpy(), (self.offsets.numpy(), self._gaps.numpy(), self.num_items)
            in_threads(lambda part: _unobserved(batch[part], flat[part], *tables, rows[part]), len(users), each=LEAST)
            return torch.from_numpy(rows).view(draw.shape)
        wide = (...,) + (None,) * len(shape)
        free = self.free[users][wide]
        rank = torch.minimum((draw * free).long(), free - 1)
        found = torch.searchsorted(self._gaps, rank + (users * (self.num_items + 1))[wide], right=True)
        return rank + found - self.offsets[users][wide]


@compiled
def _unobserved(users, draw, offsets, gaps, num_items, rows):
    for b in range(len(users)):
        start, stop = offsets[users[b]], offsets[users[b] + 1]
        free = num_items - (stop - start)
        for m in range(draw.shape[1]):
            rank = min(np.int64(draw[b, m] * free), free - 1)
            low, high = start, stop  # the first positive with more than `rank` unobserved items before it
            while low < high:
                middle = (low + high) // 2
                if gaps[middle] <= rank:
                    low = middle + 1
                else:
                    high = middle
            rows[b, m] = rank + low - start


def similarity(kind: str, users: Tensor, vectors: Tensor) -> Tensor:
    """users (B, d), vectors (B, M, d) -> (B, M): inner product, cosine or negative squared distance."""
    if kind == "distance":
        return -(users.unsqueeze(1) - vectors).square().sum(-1)
    if kind == "cosine":
        users, vectors = normalize(users, dim=-1), normalize(vectors, dim=-1)
    return torch.bmm(vectors, users.unsqueeze(-1)).squeeze(-1)


def level_scores(kind: str, users: Tensor, items: Tensor, candidates: Tensor, widths: Sequence[int]) -> Tensor:
    """Similarity of users (B, D) to the candidates (B, K, M) of each level among items (I, D): (B, K, M).

    Level k sees the first widths[k] columns. No gradient flows.
    """
    users, items = users.detach(), items.detach()
    if kind == "inner" and users.device.type == "cpu" and users.dtype == torch.float32:
        scores = np.empty(candidates.shape, np.float32)
        anchors, table, rows = users.contiguous().numpy(), items.contiguous().numpy(), candidates.numpy()
        edges = np.asarray(widths, np.int64)
        in_threads(lambda part: _inner(anchors[part], table, rows[part], edges, scores[part]), len(users), each=LEAST)
        return torch.from_numpy(scores)
    levels = (
        similarity(kind, users[:, :width], items[:, :width][candidates[:, level]]) for level, width in enumerate(widths)
    )
    return torch.stack(list(levels), 1)


@partial(compiled, fastmath=True)
def _inner(users, items, candidates, widths, scores):
    for b in range(len(users)):
        for k in range(len(widths)):
            for m in range(candidates.shape[2]):
                row = candidates[b, k, m]
                total = np.float32(0.0)
                for d in range(widths[k]):
                    total += users[b, d] * items[row, d]
                scores[b, k, m] = total
