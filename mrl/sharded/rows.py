"""The rows of a table, shared out over processes by the work they make; what they point to, fetched from the others.

Rows are cut into tiles of about equal work, whatever the number of processes; each process owns the next few tiles.
What is computed is computed tile by tile, so that it is the same, but for the rounding of sums in float64, however
many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.sharded.group import Group

TILE, MOST_TILES = 2**14, 512  # interactions of a tile at least, unless there are so many tiles
SENT = 2**19  # pairs at a time
FETCHED = 2**28  # numbers that are fetched at a time, at most: 1 GiB in float32
DRAWN = 2**16  # random rows at a time
WORTH = 0.9  # of the rows that all-gather would move, above which it is taken: it sends no ids and copies nothing


@dataclass(frozen=True)
class Rows:
    """Which rows of one side each process owns. tiles (T + 1,): where tiles start and end; bounds (P + 1,) likewise."""

    tiles: tuple[int, ...]
    bounds: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        return self.bounds[-1]

    @property
    def start(self) -> int:
        return self.bounds[self.rank]

    @property
    def stop(self) -> int:
        return self.bounds[self.rank + 1]

    @property
    def counts(self) -> list[int]:
        """How many rows each process owns."""
        return np.diff(self.bounds).tolist()

    @property
    def own_tiles(self) -> list[slice]:
        """The tiles of this process, counted from its first row."""
        edges = [edge - self.start for edge in self.tiles if self.start <= edge <= self.stop]
        return [slice(*pair) for pair in pairwise(edges)]

    def draw(self, draw: Callable[[int], Tensor]) -> Tensor:
        """Own rows of a table that `draw`, of so many rows, would draw: all are drawn, some at a time, most dropped."""
        own = []
        for start in range(0, max(self.total, 1), DRAWN):
            drawn = draw(min(DRAWN, self.total - start))
            own.append(drawn[max(self.start - start, 0) : max(self.stop - start, 0)].clone())
        return torch.cat(own)

    def owners(self, rows: Tensor) -> Tensor:
        """Which process owns each of these rows."""
        return torch.bucketize(
            rows, torch.tensor(self.bounds[1:-1], dtype=rows.dtype, device=rows.device), right=True, out_int32=True
        )

    def split(self, sorted_rows: Tensor) -> list[int]:
        """How many of these rows, in increasing order, each process owns."""
        edges = torch.tensor(self.bounds, dtype=sorted_rows.dtype, device=sorted_rows.device)
        return torch.searchsorted(sorted_rows, edges).diff().tolist()


def share_rows(interactions: Tensor, group: Group) -> Rows:
    """Rows (N,) with so many interactions each, shared out such that every process has about as many of them."""
    work = np.concatenate([[0], np.cumsum(interactions.cpu().numpy() + 1.0)])
    parts = int(min(max(work[-1] // TILE, 1), MOST_TILES))
    tiles = np.unique(np.searchsorted(work, work[-1] * np.arange(parts + 1) / parts))
    ends = np.searchsorted(work[tiles], work[-1] * np.arange(group.size + 1) / group.size - 0.5 * work[-1] / parts)
    ends[0], ends[-1] = 0, len(tiles) - 1
    return Rows(tuple(tiles.tolist()), tuple(tiles[ends].tolist()), group.rank)


@dataclass(frozen=True)
class _Part:
    """Some tiles, and what is fetched for them. rows: of this process. positives: of these rows, of what is fetched.

    wanted (W,): the rows of the other side that are fetched, in order; None for all. sent: own rows that are sent, by
    process, and how many to each.
    """

    rows: slice
    tiles: list[slice]
    positives: Positives
    wanted: Tensor | None = None
    sent: Tensor | None = None
    sent_counts: Sequence[int] = ()
    wanted_counts: Sequence[int] = ()


class Links:
    """The positives of one's own rows, and how the rows of the other side that they point to are fetched.

    positives: of own rows, over all rows of the other side. width: of the widest rows that are fetched.

    The rule: at most `fetched` numbers are fetched at a time; for that tiles are taken in several parts, the same
    number in every process. In one part the whole other side is gathered, unless the rows that processes need and do
    not own are fewer than `WORTH` of what they do not own; then, and in several parts, these alone are fetched by
    all-to-all: their ids are told once, here.
    """

    def __init__(
        self, group: Group, own: Rows, other: Rows, positives: Positives, *, width: int, fetched: int = FETCHED
    ) -> None:
        self.group, self.own, self.other, self.counts = group, own, other, positives.counts
        most = max(1, fetched // width)
        parts, longest = 1, max(group.each(len(own.own_tiles)))
        while parts < longest and other.total > most:
            wanted = [self._wanted(positives, tiles) for tiles in self._cut(parts)]
            if max(group.each(max(map(len, wanted)))) <= most:
                break
            parts = min(2 * parts, longest)
        wanted = [self._wanted(positives, tiles) for tiles in self._cut(parts)]
        needed, absent = sum(map(self._foreign, wanted)), other.total - other.counts[group.rank]
        self.is_whole = parts == 1 and sum(group.each(needed)) >= WORTH * sum(group.each(absent))
        self.parts = [self._part(positives, *each) for each in zip(self._cut(parts), wanted, strict=True)]

    def _cut(self, parts: int) -> list[list[slice]]:
        tiles = self.own.own_tiles
        edges = [len(tiles) * part // parts for part in range(parts + 1)]
        return [tiles[start:stop] for start, stop in pairwise(edges)]

    def _wanted(self, positives: Positives, tiles: list[slice]) -> Tensor:
        edges = (tiles[0].start, tiles[-1].stop) if tiles else (0, 0)
        return torch.bincount(positives.items[slice(*positives.offsets[[*edges]])]).nonzero()[:, 0]

    def _foreign(self, wanted: Tensor) -> int:
        counts = self.other.split(wanted)
        return sum(counts) - counts[self.group.rank]

    def _part(self, positives: Positives, tiles: list[slice], wanted: Tensor) -> _Part:
        first, last = (tiles[0].start, tiles[-1].stop) if tiles else (0, 0)
        offsets = positives.offsets[first : last + 1]
        items = positives.items[offsets[0] : offsets[-1]]
        moved = [slice(tile.start - first, tile.stop - first) for tile in tiles]
        if self.is_whole:
            return _Part(slice(first, last), moved, Positives(offsets - offsets[0], items, self.other.total))
        place = torch.zeros(self.other.total, dtype=torch.int32, device=items.device)
        place[wanted] = torch.arange(len(wanted), dtype=torch.int32, device=items.device)
        own = Positives(offsets - offsets[0], place.index_select(0, items), len(wanted))
        counts = self.other.split(wanted)
        sent_counts = self.group.swap_counts(counts)
        sent = self.group.swap(wanted, counts, sent_counts) - self.other.start
        return _Part(slice(first, last), moved, own, wanted, sent, sent_counts, counts)

    def fetch(self, part: _Part, table: Tensor) -> Tensor:
        """(W + 1, …): of the other side's table, of which this process has its own rows, what the part points to.

        The last row is zeros, which padding points to.
        """
        if part.wanted is None:
            return self.group.gather(table, self.other.counts, spare=1)
        received = self.group.swap(table[part.sent], part.sent_counts, part.wanted_counts)
        return torch.cat([received, received.new_zeros(1, *received.shape[1:])])

    def blocks(self, *tables: Tensor) -> Iterator[tuple[slice, Positives, list[Tensor]]]:
        """Own rows tile by tile: which rows, their positives, and of each of the tables what these point to."""
        for part in self.parts:
            fetched = [self.fetch(part, table) for table in tables]
            for tile in part.tiles:
                offsets = part.positives.offsets[tile.start : tile.stop + 1]
                items = part.positives.items[offsets[0] : offsets[-1]]
                own = Positives(offsets - offsets[0], items, part.positives.num_items)
                yield slice(part.rows.start + tile.start, part.rows.start + tile.stop), own, fetched


@dataclass(frozen=True)
class Shard:
    """What a process has of the interactions: those of its users, and those of its items.

    positives: of its users, over all items.
    """

    group: Group
    positives: Positives
    users: Rows
    items: Rows
    by_user: Links
    by_item: Links


def shard(group: Group, own: Positives, users: Rows, *, width: int, fetched: int = FETCHED) -> Shard:
    """The interactions of a process's users, over all items, and those of its items, which the others send.

    own: positives of the users that this process owns. width: of the widest rows that are fetched.
    """
    own = own.to(group.device)
    counts = group.sum(own.item_counts)
    items = share_rows(counts, group)
    offsets = torch.nn.functional.pad(counts[items.start : items.stop].cumsum(0), (1, 0))

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, max(group.each(len(own))), SENT):
            met = own.items[start : start + SENT]
            at = torch.arange(start, start + len(met), device=group.device)
            yield met, torch.bucketize(at, own.offsets[1:], right=True) + users.start

    keys, met = swap_pairs(group, items, users.total, pairs(), int(offsets[-1])), own.items.new_empty(int(offsets[-1]))
    for start in range(0, len(keys), SENT):
        met[start : start + SENT] = torch.from_numpy(keys[start : start + SENT] % max(users.total, 1))
    del keys
    of_items = Positives(offsets, met, users.total)
    options = {"width": width, "fetched": fetched}
    by_user, by_item = Links(group, users, items, own, **options), Links(group, items, users, of_items, **options)
    return Shard(group, own, users, items, by_user, by_item)


def swap_pairs(group: Group, own: Rows, others: int, pairs: Iterable[tuple[Tensor, Tensor]], most: int) -> np.ndarray:
    """Distinct pairs of own rows as row · others + other (N,), increasing, of what all processes send, some at a time.

    pairs: rows, of any process, and others (n,), as often in every process. most: that come to this process, at most.
    """
    keys, count = np.empty(most, np.int64), 0
    for rows, met in pairs:
        owners = own.owners(rows)
        order, counts = torch.argsort(owners, stable=True), torch.bincount(owners, minlength=group.size).tolist()
        came = group.swap((rows.long() * others + met)[order].to(group.device), counts).cpu().numpy()
        keys[count : count + len(came)] = came
        count += len(came)
    keys = keys[:count]
    keys.sort()
    count, last = 0, -1
    for start in range(0, len(keys), SENT):  # in place: what is left is seldom less
        piece = keys[start : start + SENT]
        new = piece[np.diff(piece, prepend=last) > 0]
        keys[count : count + len(new)] = new
        count, last = count + len(new), piece[-1]
    return keys[:count]


def take_own(group: Group, positives: Positives) -> tuple[Positives, Rows]:
    """Of interactions that every process has whole: which users are its own, and their positives."""
    users = share_rows(positives.counts, group)
    return positives.take(torch.arange(users.start, users.stop)), users
