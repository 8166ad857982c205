"""Propagation on shards: own rows pick up a share of their neighbours', which are fetched.

One fetch of each side that is picked up from a hop; a row is summed where it lies, in the order of its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.kernels import propagate, sparse_matrix
from mrl.least_squares.ials import Factors
from mrl.least_squares.propagation import effective_hops
from mrl.sharded.group import Group
from mrl.sharded.rows import Links, Shard


class Graph:
    """Own rows of D_U^-½ X D_I^-½, or of its transpose: what `mrl.model.normalised_graph` is for one process."""

    def __init__(self, group: Group, own: Links, other: Links) -> None:
        self.links, self.counts, self.other_counts = own, own.counts.float(), other.counts.float()

    def times(self, table: Tensor) -> Tensor:
        """(R, D): own rows times the other side's table, of which this process has its own rows."""
        product = table.new_empty(len(self.counts), table.shape[1])
        for rows, positives, (fetched, counts) in self.links.blocks(table, self.other_counts):
            values = (self.counts[rows][positives.users.long()] * counts[positives.items.long()]).rsqrt()
            shape = (positives.num_users, len(fetched))
            matrix = sparse_matrix(positives.offsets.to(torch.int32), positives.items, values, shape)
            product[rows] = propagate(matrix, matrix, fetched)  # never backwards, which is what a transpose is for
        return product


def propagated(config: TrainConfig, shard: Shard, factors: Factors) -> Factors:
    """Own users and items under the propagation of a config: the vectors of `mrl.least_squares.Propagation`."""
    user_share, item_share = config.least_squares.propagation
    (ego_users, ego_items), (users, items) = factors, factors
    sides = shard.by_user, shard.by_item
    user_graph, item_graph = Graph(shard.group, *sides), Graph(shard.group, *sides[::-1])
    for _ in range(effective_hops(config.hops, user_share, item_share)):
        users, items = (
            user_graph.times(items).mul_(user_share).add_(ego_users) if user_share else users,
            item_graph.times(users).mul_(item_share).add_(ego_items) if item_share else items,
        )
    return users, items
