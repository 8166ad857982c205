"""HeteFedRec: clients of different width train prefixes of one table by nested BPR (Yuan et al., ICDE 2024,
arXiv 2307.12810).

A client downloads the columns V[:, :a] that it holds, takes some gradient steps on its user vector and on its copy of
the items by the loss summed over all widths up to a (*unified dual-task learning*; `mrl.federated.local_steps`), and
sends what has changed. Column c of the change is averaged over the clients that hold it (*padding-based aggregation*),
and the server takes it for a negative gradient (FedAdam, Reddi et al., ICLR 2021, arXiv 2003.00295), beside

    decorrelation · mean over clients of ‖corr(V[:, :a]) − 1‖ / a  +  distillation · [cosines of the widths, apart]

(`mrl.loss`). The paper has clients add the decorrelation to their loss. It depends on what all of them
download alone, so the server computes it once, for the same sum where clients take one step.

The upload is dense, 4 · (I + 1) · a bytes: rows that are not zero would tell what a user has met.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrl.federated.averaging import GradientMethod, descend, mean_change, start_server
from mrl.federated.clients import Clients, Population
from mrl.federated.config import FederatedConfig
from mrl.federated.local_steps import Triplets
from mrl.federated.messages import Message
from mrl.federated.method import METHODS, Server, Uploads
from mrl.loss import decorrelation, relation_distillation

FITTING = 50  # steps of users that took no part in the rounds
SAMPLED = 512  # items whose relations are distilled in a round


class HeteFedRec(GradientMethod):
    """The method `hetefedrec`; see the module. `mrl.federated.method.Method` says what its functions are.

    The server keeps `items` (I, D) and the moments of Adam, `first` and `second`.
    """

    def __init__(self, config: FederatedConfig, num_items: int):
        super().__init__(config, num_items)
        self.weights = [weight * len(self.widths) for weight in config.weights]  # 1 each: the sum over widths

    def start_server(self, generator: torch.Generator) -> Server:
        return start_server(self.num_items, self.widths[-1], generator, self.config.initial_scale)

    def broadcast(self, server: Server, width: int, step: int) -> Message | None:
        return Message(server.round, step, {"items": server.items[:, :width].contiguous()})

    def work(self, clients: Clients, broadcast: Message) -> tuple[Clients, Uploads]:
        users, downloaded = clients.users.contiguous(), broadcast.tensors["items"]
        triplets = self.draw(clients, broadcast.round, self.config.local_steps, users, downloaded)
        rows = downloaded[triplets.items]
        for step in range(self.config.local_steps):
            users, by_row = self._step(clients, users, rows, triplets, step)
            rows.sub_(by_row, alpha=self.config.learning_rate)
        changes = rows.sub_(downloaded[triplets.items])
        return clients.updated(users=users), triplets.uploads(broadcast, changes, torch.ones(len(clients)))

    def _step(self, clients: Clients, users: Tensor, rows: Tensor, drawn: Triplets, step: int) -> tuple[Tensor, Tensor]:
        """Users (R, a) one step on, by the mean over what each has met, and the gradient by item rows (T, a)."""
        levels = self.widths.index(clients.width) + 1
        loss = self.widths[:levels], self.weights[:levels], self.config.vector_l2
        by_user, by_row = drawn.gradients(step, users, rows, *loss)
        return users - self.config.learning_rate / clients.positives.counts.clamp(min=1)[:, None] * by_user, by_row

    def aggregate(self, server: Server, total: Message) -> Server:
        change, weight = mean_change(total)
        slope = pad(-change / self.config.learning_rate, (0, self.widths[-1] - change.shape[1]))
        if self.config.decorrelation:
            slope = slope + self.config.decorrelation * self._decorrelation(server.items, weight)
        if self.config.distillation:
            slope = slope + self.config.distillation * self._distillation(server)
        return descend(server, slope, self.config)

    def _decorrelation(self, items: Tensor, weight: Tensor) -> Tensor:
        """(I, D): each column's mean, over the clients that hold it, of the gradient of their decorrelation."""
        weight = pad(weight, (0, self.widths[-1] - len(weight)))
        held = [float(weight[width - 1]) for width in self.widths]  # by clients of at least this width
        slope = torch.zeros_like(items)
        for width, at_least, wider in zip(self.widths, held, [*held[1:], 0.0], strict=True):
            if at_least > wider:
                slope[:, :width] += (at_least - wider) * _gradient(decorrelation, items[:, :width])
        return slope / torch.where(weight > 0, weight, 1.0)

    def _distillation(self, server: Server) -> Tensor:
        """(I, D): for a sample of the items, another one each round."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + server.round)
        sample = torch.randperm(self.num_items, generator=generator)[:SAMPLED]
        slope = torch.zeros_like(server.items)
        slope[sample] = _gradient(lambda items: relation_distillation(items, self.widths), server.items[sample])
        return slope

    def vectors(self, server: Server, population: Population) -> tuple[Tensor, Tensor]:
        """As they are; where only wide clients take part, the others fit theirs to the first columns by themselves."""
        users = population.users.clone()
        for clients in population.groups()[:-1] if self.config.scenario == "wide" else ():
            fitted, items = clients.users.contiguous(), server.items[:, : clients.width].contiguous()
            for number in range(FITTING):
                triplets = self.draw(clients, FITTING * server.round + number, 1, fitted, items)
                rows = items[triplets.items]
                fitted, _ = self._step(clients, fitted, rows, triplets, 0)
            users[population.rows_of(clients.ids), : clients.width] = fitted
        return users, server.items


def _gradient(function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """Of a scalar function of items (I, d)."""
    leaf = items.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(leaf), leaf)[0]


METHODS["hetefedrec"] = HeteFedRec
