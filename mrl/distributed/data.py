"""The data of a run on shards: each process has the interactions of its own users.

Parquet folders are read by shards (`mrl.distributed.parquet`); no process ever holds all pairs of them. Every other
data set is read whole by every process, which keeps what is its own: its splits are those of one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, check_held_out, load_data
from mrl.distributed.parquet import parquet_parts, read_shard
from mrl.errors import DataError
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows, share_rows

PARTS = ("train", "valid", "test", "dropped")


@dataclass(frozen=True)
class ShardedData:
    """own: the interactions of own users, over all items. users: whose are whose. user_ids (U,): of all users."""

    group: Group
    users: Rows
    own: Interactions
    user_ids: np.ndarray

    @property
    def name(self) -> str:
        return self.own.name

    @property
    def notes(self) -> tuple[str, ...]:
        return self.own.notes

    @property
    def item_ids(self) -> np.ndarray:
        return self.own.item_ids

    @property
    def labels(self) -> pl.DataFrame | None:
        return self.own.labels

    @property
    def num_users(self) -> int:
        return self.users.total

    @property
    def num_items(self) -> int:
        return self.own.num_items

    @cached_property
    def fingerprint(self) -> str:
        """That of `mrl.data.Interactions`. All processes have to ask."""
        digest = hashlib.sha256()
        for part in PARTS:
            if (own := getattr(self.own, part)) is not None:
                for table in (offset_pieces(self.group, own), self.group.pieces(own.items)):
                    for piece in table:
                        digest.update(piece.cpu().numpy().tobytes())
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(map(str, ids.tolist())).encode() + b"\0")
        return self.group.tell(digest.hexdigest)

    def merge_valid(self) -> ShardedData:
        """The same data with validation back in train; tile by tile, so that little is held beside."""
        own, counts, items = self.own, [torch.zeros(1, dtype=torch.int64)], [self.own.train.items[:0]]
        for tile in self.users.own_tiles:
            rows = torch.arange(tile.start, tile.stop)
            merged = own.train.take(rows).union(own.valid.take(rows))
            counts.append(merged.counts)
            items.append(merged.items)
        train = Positives(torch.cat(counts).cumsum(0), torch.cat(items), self.num_items)
        valid = Positives.empty(train.num_users, self.num_items)
        return replace(self, own=replace(own, train=train, valid=valid))


def offset_pieces(group: Group, own: Positives) -> Iterator[Tensor]:
    """On the first process the offsets (U + 1,) of the positives of all, in pieces; elsewhere nothing."""
    if group.is_first:
        yield torch.zeros(1, dtype=torch.int64)
    before = 0
    for counts in group.pieces(own.counts):
        offsets = counts.cumsum(0) + before
        before = int(offsets[-1])
        yield offsets


def load_sharded(config: TrainConfig, group: Group) -> ShardedData:
    """The data set of a config, with validation as its protocol says."""
    if (found := parquet_parts(config.dataset)) is not None:
        users, own, user_ids = read_shard(config, group, *found)
        data = ShardedData(group, users, own, user_ids)
        for part in ("test", "valid"):
            if not sum(group.each(len(own.split(part)))):
                raise DataError(f"{own.name}: no user has so many items that one can be held out for {part}")
        return data
    whole = load_data(config)
    check_held_out(whole, config.split, config.protocol)
    users = share_rows(whole.train.counts + whole.valid.counts + whole.test.counts, group)
    rows = torch.arange(users.start, users.stop)
    parts = {part: getattr(whole, part) for part in PARTS}
    taken = {part: positives.take(rows) for part, positives in parts.items() if positives is not None}
    own = replace(whole, user_ids=whole.user_ids[users.start : users.stop], **taken)
    return ShardedData(group, users, own, whole.user_ids)


def sample_of_users(data: ShardedData, rows: Tensor) -> Interactions | None:
    """The interactions of some users, by row, in increasing order, on the first process; None elsewhere.

    What is trained on is on its device.
    """
    group = data.group
    inside = (rows >= data.users.start) & (rows < data.users.stop)
    own = rows[inside] - data.users.start
    parts = {}
    for part in PARTS:
        positives = getattr(data.own, part)
        if positives is not None:
            taken = positives.take(own)
            counts, items = (group.to_first(table.to(group.device)) for table in (taken.counts, taken.items))
            found = Positives(F.pad(counts.cumsum(0), (1, 0)), items, data.num_items)
            parts[part] = found if part == "train" else found.to("cpu")
    return replace(data.own, user_ids=data.user_ids[rows.numpy()], **parts) if group.is_first else None
