"""Ranking of items that lie on shards: gathered some at a time, so that no process has to hold them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrl.data import Positives
from mrl.evaluation import VectorRanking
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows

BLOCK = 2**26  # numbers of items that are gathered at a time: 256 MiB
USERS = 2**15  # whose lists are held meanwhile: as often as these, all items are gathered


class ShardedRanking:
    """As `mrl.evaluation.VectorRanking`, of own users (U', D) and own items (I', D): the same lists bit for bit.

    items: whose they are. Where there are more than a block, every call gathers all of them in every process: whoever
    has ranked its own users goes on with `finish`.
    """

    def __init__(self, group: Group, users: Tensor, own_items: Tensor, items: Rows, widths: Sequence[int]) -> None:
        self.group, self.users, self.own_items, self.items = group, users, own_items, items
        self.starts = range(0, max(items.total, 1), max(1, BLOCK // max(1, users.shape[1])))
        self.widths = tuple(widths)
        self.held = VectorRanking(users, self._gather(0), widths) if len(self.starts) == 1 else None

    def users_per_batch(self, k: int) -> int:
        """How many users to give to a call."""
        return USERS if self.held is None else self.held.users_per_batch(k)

    def __call__(self, rows: Tensor, k: int, hidden: Sequence[Positives] = ()) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (width, items (B, k), scores (B, k) float64) for own users `rows` (B,), narrowest width first."""
        if self.held is not None:
            return self.held(rows, k, hidden)
        self.group.largest(True)  # tells those who have finished that there is another call
        blocks, known = self._blocks(), [positives.take(rows) for positives in hidden]
        ids = torch.full((len(self.widths), len(rows), k), -1, device=rows.device)
        best = torch.full(ids.shape, -math.inf, dtype=torch.float64, device=rows.device)
        try:
            for start, table in blocks:
                ranking = VectorRanking(self.users[rows], table, self.widths)
                seen = [_within(positives, start, len(table)) for positives in known]
                for some in torch.arange(len(rows), device=rows.device).split(ranking.users_per_batch(k)):
                    for level, (_, found, scores) in enumerate(ranking(some, k, seen)):
                        found = torch.where(found < 0, found, found + start)
                        lists = ids[level, some], best[level, some], found, scores
                        ids[level, some], best[level, some] = _merge(*lists)
        finally:
            for _ in blocks:  # if this process has failed, the others wait for its part
                pass
        return zip(self.widths, ids, best, strict=True)

    def finish(self) -> None:
        """Take part in gathering until all processes have ranked all of their users."""
        while self.held is None and self.group.largest(False):
            for _ in self._blocks():
                pass

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        return ((start, self._gather(start)) for start in self.starts)

    def _gather(self, start: int) -> Tensor:
        """The items of a block, of all processes."""
        stop = start + self.starts.step
        edges = [min(max(bound, start), stop) for bound in self.items.bounds]
        own = slice(*(edge - self.items.start for edge in edges[self.group.rank : self.group.rank + 2]))
        counts = [end - first for first, end in pairwise(edges)]
        return self.group.gather(self.own_items[own], counts)


def _merge(ids: Tensor, best: Tensor, more: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best k of lists (B, k) and of more items, whose rows are all larger: of equal scores these come later."""
    values, order = torch.cat([best, scores], 1).sort(dim=1, descending=True, stable=True)
    k = ids.shape[1]
    return torch.cat([ids, more], 1).gather(1, order)[:, :k], values[:, :k]


def _within(positives: Positives, start: int, count: int) -> Positives:
    """What of positives is among so many items from `start` on, counted from there."""
    is_inside = (positives.items >= start) & (positives.items < start + count)
    offsets = pad(is_inside.cumsum(0), (1, 0))[positives.offsets]
    return Positives(offsets, positives.items[is_inside] - start, count)
