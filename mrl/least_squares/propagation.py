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
        if not self.hops:
            return self.users, self.items
        tables = *self._graph(generator), self.users, self.items
        return _Propagated.apply(*tables, self.user_share, self.item_share, self.hops)

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


class _Propagated(torch.autograd.Function):
    """All hops at once, so that nothing is kept of them: the gradients go back by as many, the shares exchanged."""

    @staticmethod
    def forward(ctx, graph, transpose, users, items, user_share, item_share, hops):
        ctx.back = graph, transpose, item_share, user_share, hops
        return _hops(graph, transpose, users, items, user_share, item_share, hops)

    @staticmethod
    def backward(ctx, users, items):
        graph, transpose, *rest = ctx.back
        return None, None, *_hops(graph, transpose, users, items, *rest), None, None, None


def _hops(graph, transpose, ego_users, ego_items, user_share, item_share, hops):
    """Ego users (U, D) and items (I, D) after so many hops; graph (U, I) and its transpose."""
    users, items = ego_users, ego_items
    for _ in range(hops):
        users, items = (
            _picked_up(graph, transpose, items, ego_users, user_share),
            _picked_up(transpose, graph, users, ego_items, item_share),
        )
    return users, items


def _picked_up(graph, transpose, table, ego, share):
    if not share:
        return ego
    product = propagate(graph, transpose, table)
    return torch.add(ego, product, alpha=share, out=product)
