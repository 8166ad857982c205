"""What gradient methods have in common: the server's table of items, moved by the mean of what clients changed.

A column is averaged over the clients that hold it (*padding-based aggregation*, HeteFedRec, arXiv 2307.12810). The mean
is taken for a negative gradient, by Adam (FedAdam, Reddi et al., ICLR 2021, arXiv 2003.00295) or as it is: of rarely
met items a mean over all clients is tiny, and Adam moves their rows as far as others. Where users have met few items,
begin with small vectors (`initial_scale`): what is random of them is not unlearned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.errors import RunError
from mrl.federated.clients import Clients, Population
from mrl.federated.config import FederatedConfig
from mrl.federated.local_steps import Triplets, draw_triplets
from mrl.federated.messages import Message
from mrl.federated.method import Server

BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam


class GradientMethod:
    """What the gradient methods do alike; `mrl.federated.method.Method` says what the functions are."""

    def __init__(self, config: FederatedConfig, num_items: int):
        self.config, self.num_items, self.widths = config, num_items, config.widths

    def start_clients(self, population: Population, generator: torch.Generator) -> None:
        """Users at random, zero beyond the width of their client."""
        users, dim = population.users.shape
        held = torch.arange(dim) < population.widths[population.owner][:, None]
        population.users.copy_(self.config.initial_scale * torch.randn(users, dim, generator=generator) * held)

    def steps(self, round: int) -> int:
        return 1

    def draw(self, clients: Clients, round: int, steps: int, *by: Tensor) -> Triplets:
        """by: users (R, d) and items (I, d), which say which candidates are hard."""
        negatives, best, seed = self.config.negatives, self.config.candidates, self.config.seed
        return draw_triplets(clients, round, steps=steps, negatives=negatives, seed=seed, best=best, by=by)


def start_server(num_items: int, dim: int, generator: torch.Generator, scale: float = 0.1) -> Server:
    """Items (I, D) drawn at random with this standard deviation, and the moments of Adam."""
    items = scale * torch.randn(num_items, dim, generator=generator)
    return Server(0, {"items": items, "first": torch.zeros_like(items), "second": torch.zeros_like(items)})


def mean_change(total: Message) -> tuple[Tensor, Tensor]:
    """(I, d) and (d,): each column's mean change over the clients that hold it, and the sum of their weights."""
    weight = total.tensors["weight"]
    return total.tensors["items"] / torch.where(weight > 0, weight, 1.0), weight


def descend(server: Server, slope: Tensor, config: FederatedConfig) -> Server:
    """The server after one step against a gradient (I, D): of Adam, or plain."""
    rate = config.server_learning_rate
    if not bool(torch.isfinite(slope).all()):
        raise RunError(f"round {server.round}: the mean change of the items is not finite; lower learning_rate")
    if config.server_optimiser == "sgd":
        return server.with_tensors(items=server.items - rate * slope)
    first = torch.lerp(server.tensors["first"], slope, 1 - BETAS[0])
    second = torch.lerp(server.tensors["second"], slope.square(), 1 - BETAS[1])
    unbiased = [1 - beta ** max(server.round, 1) for beta in BETAS]
    step = first / unbiased[0] / ((second / unbiased[1]).sqrt() + EPSILON)
    return server.with_tensors(items=server.items - rate * step, first=first, second=second)
