"""Personalised propagation: vectors that keep what they are and pick up a share of their neighbours'.

    z_u = e_u + a Σ_{i∈S_u} z_i / √(|S_u| |S_i|)
    z_i = e_i + b Σ_{u∈S_i} z_u / √(|S_u| |S_i|)      `hops` times, from z = e

After APPNP (Gasteiger, Bojchevski, Günnemann, ICLR 2019, arXiv 1810.05997) on the graph of LightGCN. Untrained, it
improves factors of sparse data; as the backbone of a training that starts from good factors, with a = b = 1 (LightGCN's
mean over hops up to scale), it lets rare users and items learn from their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.data import Positives
from mrl.kernels import propagate
from mrl.least_squares.axes import score_spread
from mrl.model import LightGCN


class Propagation(LightGCN):
    """Ego embeddings to begin with, users (U, D) and items (I, D), and their propagation by propagation a and b."""

    def __init__(
        self, positives: Positives, start: tuple[Tensor, Tensor], *, user_share: float, item_share: float, hops: int = 1
    ):
        super().__init__(positives, start[0].shape[1], hops=effective_hops(hops, user_share, item_share), start=start)
        self.user_share, self.item_share = user_share, item_share

    def forward(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        users, items = self.users, self.items
        if self.hops:
            graph, transpose = self._graph(generator)
        for _ in range(self.hops):
            users, items = (
                self.users + self.user_share * propagate(graph, transpose, items) if self.user_share else self.users,
                self.items + self.item_share * propagate(transpose, graph, users) if self.item_share else self.items,
            )
        return users, items

    def item_lean(self, users: Tensor, signs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.item_share * super().item_lean(users, signs, generator)

    @torch.no_grad()
    def start_training(self, hops: int, spread: float | None = None) -> None:
        """Both sides pick up all of their neighbours' from now on, `hops` times.

        spread: scaled such that a user's scores have that standard deviation, mean over the users.
        """
        self.user_share, self.item_share, self.hops = 1.0, 1.0, hops
        if spread is None:
            return
        found = score_spread(*self.vectors()).mean()
        for table in (self.users, self.items):
            table.mul_((spread / found.clamp_min(1e-9)).sqrt())

    def by_hop(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The final vectors as if they were of one hop: (U, 1, D) and (I, 1, D)."""
        users, items = self(generator)
        return users.unsqueeze(1), items.unsqueeze(1)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users (U, D) and items (I, D) as they score."""
        return tuple(table.detach() for table in self.eval()())


def effective_hops(hops: int, user_share: float, item_share: float) -> int:
    """After how many hops nothing changes any more: what one side alone picks up is the same after every hop."""
    return hops if user_share and item_share else min(hops, int(bool(user_share or item_share)))
