"""Implicit feedback as compressed rows: who met what, split into train, validation and test.

`Positives` is one split (CSR on any device), `Interactions` the three of them with raw ids and item labels.
Rows are dense integers; raw ids come back in every output.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.errors import DataError


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
        keys = np.unique(users * num_items + items)
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
        return torch.bincount(self.items.long(), minlength=self.num_items)

    def of(self, user: int) -> Tensor:
        """The positives of one user row, (n,) int32."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def to(self, device: torch.device | str) -> Positives:
        if self.offsets.device == torch.device(device):
            return self
        return Positives(self.offsets.to(device), self.items.to(device), self.num_items)

    def keys(self) -> Tensor:
        """(N,) int64, increasing: user · I + item, for membership by binary search."""
        return self.users.long() * self.num_items + self.items

    def union(self, other: Positives) -> Positives:
        keys = torch.cat([self.keys(), other.keys()]).cpu().numpy()
        return Positives.from_pairs(keys // self.num_items, keys % self.num_items, self.num_users, self.num_items)


@dataclass(frozen=True, eq=False)
class Interactions:
    """A data set: three disjoint splits over the same users and items.

    user_ids (U,) and item_ids (I,): raw ids by row, int64 or object (str) arrays.
    labels: what is known of the items, one row an item in row order (title, year, genres, depth_1, …), or None.
    notes: what was merged, dropped or is odd, in words, for people to read.
    """

    name: str
    train: Positives
    valid: Positives
    test: Positives
    user_ids: np.ndarray
    item_ids: np.ndarray
    labels: pl.DataFrame | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def num_users(self) -> int:
        return self.train.num_users

    @property
    def num_items(self) -> int:
        return self.train.num_items

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the splits and the raw ids: equal fingerprints, equal data."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
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
        """The same data with validation back in train: what a refit trains on."""
        empty = Positives.empty(self.num_users, self.num_items)
        return replace(self, train=self.train.union(self.valid), valid=empty)
