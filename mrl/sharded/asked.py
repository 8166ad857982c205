"""Rows of a sharded table by number: asked for, answered by whoever owns them, and gradients sent back the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.sharded.group import Group
from mrl.sharded.rows import Rows

BYTES = 8  # that are sent to ask for a row: its number and its key, int32 each


class Asked:
    """What this process asks for, and what it is asked for. All processes make one, and call the same of it.

    wanted (W,): rows of all processes' tables, in any order, more than once where it may be; keys (W,): a whole number
    each, for the owner. rows (A,) int64: own rows, counted from the first of them, that this process is asked for, by
    itself, too; keys (A,): theirs.
    """

    def __init__(self, group: Group, owned: Rows, wanted: Tensor, keys: Tensor) -> None:
        self.group, owners = group, owned.owners(wanted)
        self.order = torch.argsort(owners, stable=True)
        self.counts = torch.bincount(owners, minlength=group.size).tolist()
        self.expected = group.swap_counts(self.counts)
        asking = torch.stack([wanted, keys], 1).int()[self.order]
        asked = group.swap(asking, self.counts, self.expected)
        self.rows, self.keys = asked[:, 0].long() - owned.start, asked[:, 1]

    def fetch(self, table: Tensor) -> Tensor:
        """(W, …): the rows that were wanted, in that order. table: own rows, as they are now."""
        received = self.group.swap(table[self.rows], self.expected, self.counts)
        fetched = torch.empty_like(received)
        fetched[self.order] = received
        return fetched

    def give(self, table: Tensor) -> Tensor:
        """(A, …): what the others have for own `rows`. table (W, …): what this process has for those it wanted."""
        return self.group.swap(table[self.order], self.counts, self.expected)
