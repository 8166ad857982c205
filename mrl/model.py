"""Backbones: modules whose forward pass returns the user and item matrices that score by inner product.

`MatrixFactorization` is the 0-hop case; `LightGCN` (He et al., SIGIR 2020, arXiv 2002.02126) averages the
embeddings of 0…h propagations over the symmetrically normalised interaction graph D^-½ A D^-½.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrl.data import Positives
from mrl.distillation import Teacher
from mrl.errors import ConfigError
from mrl.kernels import propagate, sparse_matrix


def xavier_uniform(rows: int, dim: int, generator: torch.Generator | None = None, of: int | None = None) -> Tensor:
    """(rows, dim) drawn from U(−a, a), a = √(6 / (rows + dim)): Glorot & Bengio 2010.

    of: rows of the whole table, where these are some of them.
    """
    bound = (6.0 / ((of or rows) + dim)) ** 0.5
    return (torch.rand(rows, dim, dtype=torch.float32, generator=generator) * 2 - 1) * bound


class MatrixFactorization(nn.Module):
    """One free vector a user and an item. Initial values are drawn on the CPU, so they are the same on every device.

    start: users (U, D) and items (I, D) to begin with instead, copied.
    """

    hops = 0
    teacher: Teacher | None = None  # of `mrl.softmax`: a wide model that this one is cut from

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int,
        *,
        generator: torch.Generator | None = None,
        start: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        tables = (xavier_uniform(rows, dim, generator) for rows in (num_users, num_items))
        if start is not None:
            tables = (table.detach().clone() for table in start)
        self.users, self.items = map(nn.Parameter, tables)

    def by_hop(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The embeddings of each hop: (U, H, D) and (I, H, D); here H = 1, the ego embeddings."""
        return self.users.unsqueeze(1), self.items.unsqueeze(1)

    def forward(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Users (U, D) and items (I, D), as they score."""
        return self.users, self.items

    def start_training(self, hops: int, spread: float | None = None) -> None:
        """Called once before the first epoch, and without `spread` before any other: nothing to do here."""


class LightGCN(MatrixFactorization):
    """Linear propagation over the user–item graph, mean over hops 0…h.

    edge_dropout: share of interactions left out of each propagation while training (both directions at once);
    message_dropout: share of propagated entries zeroed while training. The kept ones are scaled up.
    """

    def __init__(
        self,
        positives: Positives,
        dim: int,
        *,
        hops: int = 2,
        edge_dropout: float = 0.0,
        message_dropout: float = 0.0,
        generator: torch.Generator | None = None,
        start: tuple[Tensor, Tensor] | None = None,
    ):
        if hops < 0:
            raise ConfigError(f"hops={hops}: must be 0 or more")
        for name, share in (("edge_dropout", edge_dropout), ("message_dropout", message_dropout)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name}={share}: must be at least 0 and below 1")
        super().__init__(positives.num_users, positives.num_items, dim, generator=generator, start=start)
        self.hops, self.edge_dropout, self.message_dropout = hops, edge_dropout, message_dropout
        for name, table in _graph_tables(positives).items():
            self.register_buffer(name, table, persistent=False)  # comes from the data, never from a checkpoint

    def _graph(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The normalised interaction matrix (U, I) and its transpose, as sparse CSR, with edge dropout applied."""
        values = self.values
        if self.training and self.edge_dropout > 0:
            kept = (
                torch.rand(len(values), dtype=values.dtype, device=values.device, generator=generator)
                >= self.edge_dropout
            )
            values = values * kept / (1 - self.edge_dropout)
        return _sparse_graph(dict(self.named_buffers(recurse=False)) | {"values": values})

    def _drop(self, messages: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training or self.message_dropout == 0:
            return messages
        kept = (
            torch.rand(messages.shape, dtype=messages.dtype, device=messages.device, generator=generator)
            >= self.message_dropout
        )
        return messages * kept / (1 - self.message_dropout)

    def _hops(self, generator: torch.Generator | None) -> list[tuple[Tensor, Tensor]]:
        layers = [(self.users, self.items)]
        if self.hops:
            graph, transpose = self._graph(generator)
        for _ in range(self.hops):
            users, items = layers[-1]
            users, items = propagate(graph, transpose, items), propagate(transpose, graph, users)
            layers.append((self._drop(users, generator), self._drop(items, generator)))
        return layers

    def item_lean(self, users: Tensor, signs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(I, D): what items pick up in a hop from users (U, D) of sign 1, less what from those of −1. signs: (U,)."""
        graph, transpose = self._graph(generator)
        return propagate(transpose, graph, users * signs[:, None])

    def by_hop(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        users, items = zip(*self._hops(generator), strict=True)
        return torch.stack(users, 1), torch.stack(items, 1)

    def forward(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        users, items = zip(*self._hops(generator), strict=True)
        return sum(users) / len(users), sum(items) / len(items)


def normalised_graph(positives: Positives) -> tuple[Tensor, Tensor]:
    """D_U^-½ X D_I^-½ (U, I) of the interactions X, and its transpose, as sparse CSR."""
    return _sparse_graph(_graph_tables(positives))


def _graph_tables(positives: Positives) -> dict[str, Tensor]:
    """What both CSR matrices of the graph are made of."""
    users, items = positives.users.long(), positives.items.long()
    transposed = torch.argsort(items, stable=True)  # CSR order of the transpose: by item, then user
    return {
        "values": (positives.counts.float()[users] * positives.item_counts.float()[items]).rsqrt(),
        "offsets": positives.offsets.to(torch.int32),
        "columns": positives.items,
        "transposed": transposed,
        "transposed_offsets": F.pad(positives.item_counts.cumsum(0), (1, 0)).to(torch.int32),
        "transposed_columns": users[transposed].to(torch.int32),
    }


def _sparse_graph(tables: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    shape = (len(tables["offsets"]) - 1, len(tables["transposed_offsets"]) - 1)
    graph = sparse_matrix(tables["offsets"], tables["columns"], tables["values"], shape)
    values = tables["values"][tables["transposed"]]
    return graph, sparse_matrix(tables["transposed_offsets"], tables["transposed_columns"], values, shape[::-1])
