"""FedMRL for recommendation: the first columns of items are shared, the rest is a client's own (arXiv 2406.00488).

Item i is to client c the vector x_ci = [V_i, Q_ci]: d₁ shared columns and a − d₁ private ones, fused by a private
projector P_c (a × a, at first the identity). With z = P_c x the client minimises

    BPR of ⟨p[:d₁], z[:d₁]⟩  +  BPR of ⟨p, z⟩                      (the prefix feeds one head, the whole the other)

over p, P_c, Q_c and its copy of V. Only the change of V travels, 4 · (I + 1) · d₁ bytes, averaged by the number of
interactions n_c. Widths are d₁ and what clients of more capacity hold; a client of width d₁ has no private columns.

A head is a vector in the space of x: ⟨p[:k], z[:k]⟩ = ⟨g_k, x⟩ with g_k = P_c[:k]ᵀ p[:k]. That makes it the problem of
`mrl.federated.local_steps`, with one more step of the chain rule.

**What the private columns can do.** Items here are ids, without features that a private model could read. So a client
learns Q of items it has met, and of no other: the rest is zero, its initial value, and no memory is spent on it.
(Negatives have private values within a round, which are dropped.) Items that a client has met are never recommended to
it, hence no list shows Q: at the widths beyond d₁ unseen items are ranked by the shared columns alone, through the
vector g_a instead of g_d₁. Q takes in what is particular to a client's own items, before it reaches what is shared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrl.errors import ConfigError
from mrl.federated.averaging import GradientMethod, descend, mean_change, start_server
from mrl.federated.clients import Clients, Population
from mrl.federated.config import FederatedConfig
from mrl.federated.messages import Message
from mrl.federated.method import METHODS, Server, Uploads


class FedMRL(GradientMethod):
    """The method `fedmrl`; see the module. `mrl.federated.method.Method` says what its functions are.

    The server keeps `items` (I, d₁) and the moments of Adam. Clients keep `projector` (D, D), and `private` by
    interaction (N, D − d₁).
    """

    def __init__(self, config: FederatedConfig, num_items: int):
        super().__init__(config, num_items)
        self.shared, self.dim = config.widths[0], config.widths[-1]
        if config.scenario == "wide":
            raise ConfigError("scenario='wide': all clients can hold what fedmrl shares; take mixed or narrow")
        if len(self.widths) > 1 and self.widths[1] < 2 * self.shared:
            raise ConfigError(
                f"widths={list(self.widths)}: fedmrl needs a second width of at least {2 * self.shared}, twice the "
                "first, to write both of its heads side by side"
            )

    def start_server(self, generator: torch.Generator) -> Server:
        return start_server(self.num_items, self.shared, generator, self.config.initial_scale)

    def start_clients(self, population: Population, generator: torch.Generator) -> None:
        super().start_clients(population, generator)
        population.own["projector"] = torch.eye(self.dim).repeat(len(population), 1, 1)
        population.by_pair["private"] = torch.zeros(len(population.positives), self.dim - self.shared)

    def broadcast(self, server: Server, width: int, step: int) -> Message | None:
        return Message(server.round, step, {"items": server.items})

    def work(self, clients: Clients, broadcast: Message) -> tuple[Clients, Uploads]:
        config, shared, width = self.config, self.shared, clients.width
        users, projector = clients.users.contiguous(), clients.own["projector"][:, :width, :width]
        seen = (users[:, None] @ projector[clients.owner][:, :, :shared])[:, 0]  # (R, d₁), of what is shared
        triplets = self.draw(clients, broadcast.round, config.local_steps, seen, broadcast.tensors["items"])
        private = clients.by_pair["private"]
        downloaded = broadcast.tensors["items"][triplets.items]
        rows = pad(downloaded, (0, width - shared))  # (T, a), the rows x of clients and items
        met = triplets.places[0, :, 0]  # (P,) rows of what the clients have met
        rows[met, shared:] = private[triplets.pairs, : width - shared]
        heads = list(dict.fromkeys((shared, width)))
        rate, counts = config.learning_rate, clients.positives.counts.float()
        by_client = torch.zeros(len(clients)).index_add_(0, clients.owner, counts)
        for step in range(config.local_steps):
            by_user, by_projector, by_row = torch.zeros_like(users), torch.zeros_like(projector), torch.zeros_like(rows)
            own = projector[clients.owner]  # (R, a, a)
            for head in heads:
                part = users[:, :head]
                vectors = (part[:, None] @ own[:, :head])[:, 0]  # (R, a), the g of each user
                loss = [width], [1.0], config.vector_l2 / len(heads)
                by_vector, by_head_row = triplets.gradients(step, vectors, rows, *loss)
                by_row += by_head_row
                by_user[:, :head] += (own[:, :head] @ by_vector[:, :, None])[:, :, 0]
                by_projector[:, :head].index_add_(0, clients.owner, part[:, :, None] * by_vector[:, None])
            users = users - rate / counts.clamp(min=1)[:, None] * by_user
            projector = projector - (rate / by_client.clamp(min=1))[:, None, None] * by_projector
            by_row[:, shared:] /= by_client[triplets.owner, None]
            rows.sub_(by_row, alpha=rate)
        private = private.clone()
        private[triplets.pairs, : width - shared] = rows[met, shared:]
        whole = clients.own["projector"].clone()
        whole[:, :width, :width] = projector
        clients = clients.updated(users=users, own={"projector": whole}, by_pair={"private": private})
        return clients, triplets.uploads(broadcast, rows[:, :shared] - downloaded, by_client)

    def aggregate(self, server: Server, total: Message) -> Server:
        change, _ = mean_change(total)
        return descend(server, -change / self.config.learning_rate, self.config)

    def vectors(self, server: Server, population: Population) -> tuple[Tensor, Tensor]:
        """Both heads as nested vectors of unseen items: items [V, V, 0], users [g₁, g_a − g₁, 0], as far as V goes."""
        shared = self.shared
        users = torch.zeros_like(population.users)
        for clients in population.groups():
            rows, own = population.rows_of(clients.ids), clients.own["projector"][clients.owner]
            first, whole = (
                (clients.users[:, None, :head] @ own[:, :head, :shared])[:, 0] for head in (shared, clients.width)
            )
            users[rows, :shared] = first
            if clients.width > shared:
                users[rows, shared : 2 * shared] = whole - first
        items = server.items
        if self.dim > shared:
            items = pad(torch.cat([items, items], 1), (0, self.dim - 2 * shared))
        return users, items


METHODS["fedmrl"] = FedMRL
