"""Clients and what is theirs alone: their interactions, user vectors and width; and all of them, in a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.errors import ConfigError
from mrl.federated.config import FederatedConfig


@dataclass(frozen=True, eq=False)
class Clients:
    """Clients of one width that do the same step at once; with one of them, a client as it is.

    What a client computes is a function of its own rows of these and of what the server broadcast. Nothing of one
    client's goes into another's rows: they stand together only so that they are computed together.

    width: columns of items that they hold. ids: (C,) int64. positives: of their R users, over all items.
    owner: (R,) which of the C clients each user belongs to, increasing; users: (R, width). own: by name (C, …), what
    else a method keeps with its clients. memory: what they keep from step to step of one round.
    """

    width: int
    ids: Tensor
    positives: Positives
    owner: Tensor
    users: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_users(self) -> bool:
        """Whether every client is one user."""
        return len(self.ids) == len(self.owner)

    def updated(self, **changes: Any) -> Clients:
        return replace(self, **changes)


@dataclass(eq=False)
class Population:
    """All clients of a simulation: the table whose rows they are. No function of a server or a method's client side
    gets one; `Method.start_clients` and `Method.vectors` do, and treat each client by itself.

    widths: (C,) of each client. owner: (U,) which client each user belongs to. positives: of all U users.
    users: (U, D), zero beyond the client's width. own: by name (C, …).
    """

    positives: Positives
    owner: Tensor
    widths: Tensor
    users: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.widths)

    def groups(self, clients: Tensor | None = None) -> list[Clients]:
        """The clients (C,) by ids, None for all, put together by their width, narrow first."""
        ids = torch.arange(len(self)) if clients is None else clients.sort().values
        widths = self.widths[ids]
        return [self.take(ids[widths == width], int(width)) for width in widths.unique()]

    def take(self, ids: Tensor, width: int) -> Clients:
        """Clients (C,) of one width."""
        rows = self.rows_of(ids)
        place = torch.full((len(self),), -1)
        place[ids] = torch.arange(len(ids))
        owner = place[self.owner[rows]]
        own = {name: table[ids] for name, table in self.own.items()}
        return Clients(width, ids, self.positives.take(rows), owner, self.users[rows, :width], own)

    def put(self, clients: Clients) -> None:
        """Keep what the clients hold now."""
        self.users[self.rows_of(clients.ids), : clients.width] = clients.users
        for name, table in clients.own.items():
            self.own[name][clients.ids] = table

    def rows_of(self, ids: Tensor) -> Tensor:
        """(R,) the users of clients, client by client."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[ids] = True
        rows = chosen[self.owner].nonzero()[:, 0]
        return rows[torch.argsort(self.owner[rows], stable=True)]


def make_clients(config: FederatedConfig, positives: Positives, sizes: Tensor | None = None) -> Population:
    """The clients of a config: users, or groups of them dealt at random, their widths by how much data they have.

    sizes: (U,) interactions of each user, by which the widths go; None for the number of its positives.
    """
    users, clients = positives.num_users, config.groups or positives.num_users
    if clients > users:
        raise ConfigError(f"groups={clients}: there are {users} users; give fewer, or 0 for one a client")
    owner = np.arange(users)
    if config.groups:
        owner[np.random.default_rng(config.seed).permutation(users)] = np.arange(users) * clients // users
    sizes = positives.counts if sizes is None else sizes
    counts = np.bincount(owner, weights=sizes.numpy(), minlength=clients)
    widths = assign_widths(counts, config.widths, config.client_shares)
    return Population(positives, torch.from_numpy(owner), widths, torch.zeros(users, config.widths[-1]))


def assign_widths(counts: np.ndarray, widths: Sequence[int], shares: Sequence[float]) -> Tensor:
    """(C,) int64: a width for each client, narrow to those with the least data, in these shares.

    counts: (C,) interactions of each client; of equal ones the earlier are the narrower. HeteFedRec has 5 : 3 : 2.
    """
    order = np.argsort(counts, kind="stable")
    ends = np.round(np.cumsum(shares) / np.sum(shares) * len(counts)).astype(int)
    assigned = np.empty(len(counts), np.int64)
    for width, start, end in zip(widths, (0, *ends[:-1]), ends, strict=True):
        assigned[order[start:end]] = width
    return torch.from_numpy(assigned)
