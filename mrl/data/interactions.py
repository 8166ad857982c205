"""Implicit feedback as compressed rows: who met what, split into train, validation and test.

`Positives` is one split (CSR on any device), `Interactions` the three of them with raw ids and item labels.
Rows are dense integers; raw ids come back in every output. `build` makes them from a log of raw ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.data import splits
from mrl.data.frames import COLUMNS, as_frame
from mrl.data.splits import SplitSettings, distinct
from mrl.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Positives:
    """The positives of each user, as compressed sparse rows.

    offsets: (U + 1,) int64; items: (N,) int32, strictly increasing within a user.
    """

    offsets: Tensor
    items: Tensor
    num_items: int

    @classmethod
    def from_pairs(cls, users, items, num_users: int, num_items: int) -> Positives:
        """Build from two equally long integer arrays of rows, in any order; duplicates are merged."""
        users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        keys = distinct(users * num_items + items)
        counts = np.bincount(keys // num_items, minlength=num_users) if len(keys) else np.zeros(num_users, np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(torch.from_numpy(offsets), torch.from_numpy((keys % num_items).astype(np.int32)), num_items)

    @classmethod
    def empty(cls, num_users: int, num_items: int) -> Positives:
        return cls(torch.zeros(num_users + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), num_items)

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Positives)
            and self.num_items == other.num_items
            and torch.equal(self.offsets.cpu(), other.offsets.cpu())
            and torch.equal(self.items.cpu(), other.items.cpu())
        )

    __hash__ = None

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """(U,) int64: positives of each user."""
        return self.offsets.diff()

    @cached_property
    def users(self) -> Tensor:
        """(N,) int32: the user of each positive, beside `items`."""
        rows = torch.arange(self.num_users, dtype=torch.int32, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.counts)

    @property
    def item_counts(self) -> Tensor:
        """(I,) int64: in how many users' positives each item is."""
        return torch.bincount(self.items, minlength=self.num_items)

    def of(self, user: int) -> Tensor:
        """The positives of one user row, (n,) int32."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def take(self, rows: Tensor) -> Positives:
        """The positives of user rows (R,) int64, which become the users 0 to R − 1."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts  # of these rows alone: there may be many others
        offsets = F.pad(counts.cumsum(0), (1, 0))
        shift = torch.repeat_interleave(starts - offsets[:-1], counts)
        return Positives(offsets, self.items[shift + torch.arange(len(shift), device=shift.device)], self.num_items)

    def to(self, device: torch.device | str) -> Positives:
        if self.offsets.device == torch.device(device):
            return self
        return Positives(self.offsets.to(device), self.items.to(device), self.num_items)

    def keys(self) -> Tensor:
        """(N,) int64, increasing: user · I + item, for membership by binary search."""
        return self.users.long() * self.num_items + self.items

    def union(self, other: Positives) -> Positives:
        keys = torch.cat([self.keys().cpu(), other.keys().cpu()]).numpy()  # either may be on a GPU, alone
        return Positives.from_pairs(keys // self.num_items, keys % self.num_items, self.num_users, self.num_items)

    def without(self, other: Positives) -> Positives:
        keys = np.setdiff1d(self.keys().cpu().numpy(), other.keys().cpu().numpy(), assume_unique=True)
        return Positives.from_pairs(keys // self.num_items, keys % self.num_items, self.num_users, self.num_items)


@dataclass(frozen=True, eq=False)
class Interactions:
    """A data set: three disjoint splits over the same users and items.

    user_ids (U,) and item_ids (I,): raw ids by row, int64 or object (str) arrays.
    labels: what is known of the items, one row an item in row order (title, year, genres, depth_1, …), or None.
    notes: what was merged, dropped or is odd, in words, for people to read.
    dropped: pairs that `min_rating` left out of all three: nothing to learn from, but met, so never to be recommended.
        None where there are none.
    """

    name: str
    train: Positives
    valid: Positives
    test: Positives
    user_ids: np.ndarray
    item_ids: np.ndarray
    labels: pl.DataFrame | None = None
    notes: tuple[str, ...] = field(default=())
    dropped: Positives | None = None

    @property
    def num_users(self) -> int:
        return self.train.num_users

    @property
    def num_items(self) -> int:
        return self.train.num_items

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the splits, what was dropped and the raw ids: equal fingerprints, equal data."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test, *([] if self.dropped is None else [self.dropped])):
            digest.update(split.offsets.cpu().numpy().tobytes())
            digest.update(split.items.cpu().numpy().tobytes())
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(map(str, ids.tolist())).encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def split(self, name: str) -> Positives:
        """`train`, `valid` or `test` by name."""
        if name not in ("train", "valid", "test"):
            raise DataError(f"split={name!r}: must be train, valid or test")
        return getattr(self, name)

    def merge_valid(self) -> Interactions:
        """The same data with validation back in train: what a refit trains on.

        Under the `paper` protocol validation is the test set: DataError, or a refit would train on it.
        """
        if len(self.valid) and self.valid == self.test:
            raise DataError(f"{self.name}: validation is the test set (protocol paper); a refit would train on it")
        empty = Positives.empty(self.num_users, self.num_items)
        return replace(self, train=self.train.union(self.valid), valid=empty)


def build(log: Any, *, name: str, labels: Any = None, notes: Sequence[str] = (), **settings: Any) -> Interactions:
    """Make a data set from a log: threshold, merge duplicates, k-core, map ids to rows, split.

    log: columns `user` and `item` (raw ids: integers or text; a null item declares a user without items), and where
        there are any `rating`, `timestamp` (a number or a date) and `part` ("train" or "test"); a frame of polars or
        pandas, an Arrow table, a dict of columns or what else `mrl.data.frames.as_frame` takes.
    labels: a table with a column `item` of raw ids and what is known of them.
    settings: those of `mrl.data.splits.SplitSettings`, where the rules are too.

    Rows follow the sorted raw ids, so that ids 0 … n - 1 are their own rows. A pair that was met more than once counts
    from its earliest timestamp. What was merged or dropped or is odd is counted in `notes`. No validation part: see
    `hold_out` and `as_paper`. Raises ConfigError for settings, before it looks at the log, and DataError for the log.
    """
    if unknown := settings.keys() - {each.name for each in fields(SplitSettings)}:
        known = ", ".join(each.name for each in fields(SplitSettings))
        raise ConfigError(f"{min(unknown)}: no such setting of build; they are {known}")
    rules = SplitSettings(**settings)
    min_rating, core = rules.min_rating, rules.core
    notes = list(notes)
    log, labels = as_frame(log, name, COLUMNS, notes), None if labels is None else as_frame(labels, f"{name}: labels")
    if rows := log["user"].null_count():
        raise DataError(f"{name}: {rows} rows have no user id; remove them or fill them in")
    idle = log.filter(pl.col("item").is_null())["user"]
    log = log.filter(pl.col("item").is_not_null())
    below = log.clear()
    if min_rating is not None:
        log, below = splits.rated_at_least(log, min_rating, name, notes)
    else:
        splits.note_not_positive(log, notes)
    split, in_test = splits.given_parts(log, rules.split, name)
    times = splits.finite_times(log, split, name) if split in splits.TIMED_SPLITS else None

    user_ids = pl.concat([log["user"], idle]).unique().sort()
    item_ids = log["item"].unique().sort()
    width = max(len(item_ids), 1)
    keys = _rows(log["user"], user_ids).astype(np.int64) * width + _rows(log["item"], item_ids)  # (N,)
    if split == "given":
        keys, mask = splits.merge_parts(keys, in_test, rules.overlap, name, notes)
    else:
        (keys, times), mask = splits.merge_pairs(keys, times, notes), None
    users, items = (keys // width).astype(np.int32), (keys % width).astype(np.int32)
    largest = "check the data and these settings"
    if core > 1:
        everyone = users, items
        kept = splits.core_mask(users, items, core)
        users, items = users[kept], items[kept]
        mask, times = (None if values is None else values[kept] for values in (mask, times))
        idle = idle.clear()
        if dropped := len(kept) - len(users):
            notes.append(f"{dropped} interactions dropped by core={core}")
        if not len(users) and len(kept):
            largest = f"the largest core with any is {splits.largest_core(*everyone)}"
    if not len(users):
        raise DataError(f"{name}: no interactions left with {min_rating=}, {core=}; {largest}")
    user_ids, users = _compact(user_ids, np.concatenate([users, _rows(idle, user_ids)]), len(users))
    item_ids, items = _compact(item_ids, items, len(items))

    if split == "random":
        mask = splits.random_mask(users, rules.test_fraction, np.random.default_rng(rules.seed))
    elif split == "leave_last":
        mask = splits.last_mask(users, times)
    elif split == "temporal":
        mask = splits.temporal_mask(times, rules.test_fraction)
    if mask.all():
        remedy = f"lower test_fraction={rules.test_fraction}" if split == "temporal" else "check `part`"
        raise DataError(f"{name}: every interaction is in the test part, so there is nothing to train on; {remedy}")
    size = (len(user_ids), len(item_ids))
    train = Positives.from_pairs(users[~mask], items[~mask], *size)
    test = Positives.from_pairs(users[mask], items[mask], *size)
    labels = None if labels is None else in_row_order(labels, item_ids, name, notes)
    if split == "given":
        below = below.filter(pl.col("part") != "test")  # what happened later is as unknown as the test items
    dropped = _met_all_the_same(below, user_ids, item_ids, train.union(test)) if len(below) else None
    if dropped is not None:
        notes.append(f"{len(dropped)} pairs below min_rating={min_rating} kept as met: never recommended")
    ids = id_array(user_ids), id_array(item_ids)
    notes = (*notes, *_describe_unusual(train, test))
    return Interactions(name, train, Positives.empty(*size), test, *ids, labels, notes, dropped)


def _met_all_the_same(
    below: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series, positives: Positives
) -> Positives | None:
    """The pairs of `below` of users and items that are known, but for positives: of two ratings the better counts."""
    below = below.filter(pl.col("user").is_in(user_ids.implode()) & pl.col("item").is_in(item_ids.implode()))
    rows = _rows(below["user"], user_ids), _rows(below["item"], item_ids)
    dropped = Positives.from_pairs(*rows, len(user_ids), len(item_ids)).without(positives)
    return dropped if len(dropped) else None


def _rows(column: pl.Series, ids: pl.Series) -> np.ndarray:
    """(N,) int32: the row of each raw id in the sorted `ids`. By hash join: nothing is as large as the largest id."""
    table = ids.alias("id").to_frame().with_row_index("row")
    rows = column.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")["row"]
    return rows.cast(pl.Int32).to_numpy()


def _compact(ids: pl.Series, rows: np.ndarray, length: int) -> tuple[pl.Series, np.ndarray]:
    """The ids that occur in `rows`, and the first `length` of the rows renumbered to them."""
    used = np.zeros(len(ids), dtype=bool)
    used[rows] = True
    return ids.filter(pl.Series(used)), (np.cumsum(used, dtype=np.int32) - 1)[rows[:length]]


def id_array(ids: pl.Series) -> np.ndarray:
    return ids.to_numpy() if ids.dtype == pl.Int64 else np.array(ids.to_list(), dtype=object)


def in_row_order(labels: pl.DataFrame, item_ids: pl.Series, name: str, notes: list[str]) -> pl.DataFrame:
    """One row an item, in row order; null where nothing is known of it."""
    if "item" not in labels.columns:
        raise DataError(f"{name}: labels have no column item; they have {labels.columns}")
    labels = labels.with_columns(pl.col("item").cast(pl.String)).drop_nulls("item")  # as text: 0123 is not 123
    if repeats := len(labels) - labels["item"].n_unique():
        labels = labels.unique("item", keep="first", maintain_order=True)
        notes.append(f"{repeats} rows of labels are of an item that has some already; the first counts")
    ids = item_ids.cast(pl.String).alias("item")
    if missing := len(ids) - int(ids.is_in(labels["item"].implode()).sum()):
        notes.append(f"{missing} items without labels")
        if missing == len(ids) and len(labels):
            notes[-1] += f": their ids are like {ids[0]!r}, those of the labels like {labels['item'][0]!r}"
    return ids.to_frame().join(labels, on="item", how="left", maintain_order="left").drop("item")


def _describe_unusual(train: Positives, test: Positives) -> list[str]:
    """What is unusual but accepted, counted: cold users and items, users who have everything, an empty test part."""
    user_trained, user_tested = train.counts.numpy() > 0, test.counts.numpy() > 0
    item_trained, item_tested = train.item_counts.numpy() > 0, test.item_counts.numpy() > 0
    counts = {
        "users have no items": (~user_trained & ~user_tested).sum(),
        "users are only in test": (~user_trained & user_tested).sum(),
        "items are only in test": (~item_trained & item_tested).sum(),
        "users have every item in train and give no training triplet": (train.counts == train.num_items).sum(),
    }
    notes = [f"{count} {what}" for what, count in counts.items() if count]
    return notes if user_tested.any() else [*notes, "the test part is empty: no user has enough interactions"]
