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

# Of `mrl.softmax`: the items (U, N) that each user is to rank, and how likely each of them is to be the next (U, N).
Teacher = tuple[Tensor, Tensor]


def additions(positives: Positives) -> float:
    """At most so many take the scores of all users for all items: each meets another user once, or less."""
    met = positives.item_counts.double()[positives.items.long()]
    of_users = torch.zeros(positives.num_users, dtype=torch.float64, device=met.device)
    of_users = of_users.index_add_(0, positives.users.long(), met)
    return min(float(of_users @ positives.counts.double()), float(len(positives)) * positives.num_users)


class Neighbours:
    """The scores by interactions `positives` of all users, times `scale`."""

    scale: Tensor | float = 1.0

    def __init__(self, positives: Positives):
        self.positives = positives
        order = torch.argsort(positives.items.long(), stable=True)
        self.item_offsets, self.item_users = pad(positives.item_counts.cumsum(0), (1, 0)), positives.users[order]
        self.weights = positives.item_counts.clamp_min(1).to(torch.float32).rsqrt()  # (I,)

    def __call__(self, rows: Tensor) -> Tensor:
        """(B, I): of users by their rows (B,) the scores of all items."""
        if rows.device.type == "cpu":
            known, out = self.positives, torch.zeros(len(rows), self.positives.num_items, dtype=torch.float32)
            tables = known.offsets, known.items, self.item_offsets, self.item_users, self.weights, rows, out
            arrays = [table.numpy() for table in tables]
            in_threads(lambda part: _two_hops(*arrays[:-2], arrays[-2][part], arrays[-1][part]), len(rows), each=LEAST)
        else:
            out = self._products(rows)
        return out.mul_(self.scale * self.weights)

    @cached_property
    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Interactions by user (U, I) and by item (I, U), as sparse matrices of ones."""
        known = self.positives
        values, shape = torch.ones_like(known.items, dtype=torch.float32), (known.num_users, known.num_items)
        by_user = sparse_matrix(known.offsets, known.items.long(), values, shape)
        return by_user, sparse_matrix(self.item_offsets, self.item_users.long(), values, shape[::-1])

    def _products(self, rows: Tensor) -> Tensor:
        """The same but for the last weights, by products of the sparse matrix and tables of some users."""
        known, (graph, items), out = self.positives, self._matrices, []
        for some in rows.split(max(1, NUMBERS // (known.num_users + known.num_items))):
            mine = known.take(some)
            table = self.weights.new_zeros(known.num_items, len(some))
            table[mine.items.long(), mine.users.long()] = self.weights[mine.items.long()]
            shared = (graph @ table) / known.counts.clamp_min(1)[:, None]  # (U, B)
            out.append((items @ shared).T)
        return torch.cat(out)


@compiled
def _two_hops(offsets, items, item_offsets, item_users, weights, rows, out):
    """Add to out (B, I) what users `rows` (B,) have by the items that they share with others."""
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
            for m in range(offsets[other], offsets[other + 1]):
                row[items[m]] += share
