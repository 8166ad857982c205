"""Items by the users in common: of users the scores x Rᵀ R that a graph filter gives, R = D_U^-½ X D_I^-½, x of X.

The linear part of GF-CF (Shen et al., CIKM 2021, arXiv 2108.07567). It says of rare items what no factors of some
hundred dimensions do. Two implementations: a compiled loop for the CPU, and sparse products of torch for any device.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mrl.data import Positives
from mrl.kernels import compiled, in_threads, sparse_matrix

LEAST = 32  # users a slice at least
NUMBERS = 2**27  # of users and items beside users, at a time, of the products of torch


def additions(positives: Positives) -> float:
    """At most so many take the scores of all users for all items: each meets another user once, or less."""
    met = positives.item_counts.double()[positives.items.long()]
    of_users = torch.zeros(positives.num_users, dtype=torch.float64, device=met.device)
    of_users = of_users.index_add_(0, positives.users.long(), met)
    return min(float(of_users @ positives.counts.double()), float(len(positives)) * positives.num_users)


class Neighbours:
    """The scores by interactions `positives` of all users, times `scale`. first: the user of row 0 of those asked."""

    scale: Tensor | float = 1.0
    first = 0

    def __init__(self, positives: Positives):
        self.positives = positives
        items, counts = positives.items.long(), positives.item_counts
        order = torch.argsort(items, stable=True)
        self.item_offsets, self.item_users = pad(counts.cumsum(0), (1, 0)), positives.users[order]
        self.weights = counts.clamp_min(1).to(torch.float32).rsqrt()  # (I,)
        self.place = torch.full((positives.num_items,), -1, dtype=torch.int32, device=items.device)

    def __call__(self, rows: Tensor, sample: Tensor) -> Tensor:
        """(B, S): of users by their rows (B,) the scores of some items (S,)."""
        rows = rows + self.first
        place = self.place.index_copy(0, sample, torch.arange(len(sample), dtype=torch.int32, device=sample.device))
        places = place[self.positives.items.long()]
        is_kept = places >= 0
        kept_before = pad(is_kept.cumsum(0, dtype=torch.int32), (1, 0))
        offsets = kept_before[self.positives.offsets]  # of the sample alone, by user
        if rows.device.type == "cpu":
            out = torch.zeros(len(rows), len(sample), dtype=torch.float32)
            tables = (
                *(self.positives.offsets, self.positives.items, self.item_offsets, self.item_users, self.weights),
                *(offsets, places[is_kept], rows, out),
            )
            arrays = [table.numpy() for table in tables]
            in_threads(lambda part: _two_hops(*arrays[:-2], arrays[-2][part], arrays[-1][part]), len(rows), each=LEAST)
        else:
            out = self._products(rows, sample)
        return out.mul_(self.scale * self.weights[sample])

    @cached_property
    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Interactions by user (U, I) and by item (I, U), as sparse matrices of ones."""
        known = self.positives
        values, shape = torch.ones_like(known.items, dtype=torch.float32), (known.num_users, known.num_items)
        by_user = sparse_matrix(known.offsets, known.items.long(), values, shape)
        return by_user, sparse_matrix(self.item_offsets, self.item_users.long(), values, shape[::-1])

    def _products(self, rows: Tensor, sample: Tensor) -> Tensor:
        """The same but for the weights of the sample, by products of the sparse matrix and tables of some users."""
        known, (graph, items), out = self.positives, self._matrices, []
        for some in rows.split(max(1, NUMBERS // (known.num_users + known.num_items))):
            mine = known.take(some)
            table = self.weights.new_zeros(known.num_items, len(some))
            table[mine.items.long(), mine.users.long()] = self.weights[mine.items.long()]
            shared = (graph @ table) / known.counts.clamp_min(1)[:, None]  # (U, B)
            out.append((items @ shared)[sample].T)
        return torch.cat(out)


# Of `mrl.softmax`: users (U, F) and items (I, F) of a wide model, and what is added to their scores.
Teacher = tuple[Tensor, Tensor, Neighbours | None]


@compiled
def _two_hops(offsets, items, item_offsets, item_users, weights, kept_offsets, kept, rows, out):
    """Add to out (B, S) what users `rows` (B,) have by the items that they share with others."""
    shared = np.zeros(len(offsets) - 1, np.float32)
    met = np.empty(len(shared), np.int32)
    for b in range(len(rows)):
        count = 0
        for n in range(offsets[rows[b]], offsets[rows[b] + 1]):
            weight = weights[items[n]]
            for m in range(item_offsets[items[n]], item_offsets[items[n] + 1]):
                other = item_users[m]
                if shared[other] == 0:
                    met[count] = other
                    count += 1
                shared[other] += weight
        row = out[b]
        for n in range(count):
            other = met[n]
            share = shared[other] / np.float32(offsets[other + 1] - offsets[other])
            shared[other] = 0
            for m in range(kept_offsets[other], kept_offsets[other + 1]):
                row[kept[m]] += share
