"""Gradient steps of nested BPR on many clients at once, each with its own copy of the item rows that it touches.

A client touches the items that its users have met and the negatives that it draws in a round. Its copies are rows
(client, item) of one table, so that a step of all clients is one compiled pass (`mrl.kernels.bpr`), and nothing has a
row for each client and each item. With S the interactions of a client, M negatives j for each of them and levels k,

    f = Σ_{(u,i)∈S} 1/M Σ_j [ Σ_k w_k softplus(s_k(u,j) − s_k(u,i)) + l2/2 (‖p_u‖² + ‖q_i‖² + ‖q_j‖²) ].

Negatives come from a stream of their own for every client and round: what others have met changes nothing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrl.federated.clients import Clients
from mrl.federated.messages import Message
from mrl.federated.method import Uploads
from mrl.kernels import UniformCandidates, bpr_sums, mix


@dataclass(frozen=True, eq=False)
class Triplets:
    """What C clients with R users train on in a round of E steps, and the T item rows that they touch.

    items: (T,) the item of each row, owner: (T,) its client, by place. pairs: (P,) which interactions of the clients
    have a negative at all, users: (P,) of which user, starts: (C + 1,) where those of each client begin.
    places: (E, P, 1 + M) the rows of the interaction's own item and of its negatives.
    """

    items: Tensor
    owner: Tensor
    pairs: Tensor
    users: Tensor
    starts: Tensor
    places: Tensor

    def gradients(
        self, step: int, users: Tensor, rows: Tensor, widths: Sequence[int], weights: Sequence[float], l2: float
    ) -> tuple[Tensor, Tensor]:
        """Of f by users (R, a) and by item rows (T, a)."""
        levels = np.array(widths, np.int64), np.array(weights, np.float32)
        tables = users.numpy(), rows.numpy(), self.users.numpy(), self.places[step].numpy(), self.starts.numpy()
        return tuple(map(torch.from_numpy, bpr_sums(*tables, *levels, l2)))

    def uploads(self, broadcast: Message, changes: Tensor, weights: Tensor) -> Uploads:
        """Messages of what clients changed of their rows, (T, a), each as a dense table, and of their weights (C,).

        `items` (I, a): the changes, times the weight where they are means. `weight` (a,): its weight in the mean of
        each column that it holds.
        """
        shape = broadcast.tensors["items"].shape

        def total(scale: Tensor) -> Message:
            scale = scale.float()
            items = torch.zeros(shape).index_add_(0, self.items, changes * scale[self.owner][:, None])
            tensors = {"items": items, "weight": (scale @ weights).expand(shape[1]).clone()}
            return Message(broadcast.round, broadcast.step, tensors, int((scale != 0).sum()))

        squares = torch.zeros(len(weights)).index_add_(0, self.owner, torch.einsum("td,td->t", changes, changes))
        return Uploads((squares + shape[1] * weights.square()).sqrt(), total)


def draw_triplets(
    clients: Clients, round: int, *, steps: int, negatives: int, seed: int, best: int = 1, by: tuple[Tensor, ...] = ()
) -> Triplets:
    """Negatives of every step of a round for all that the clients' users have met; who has met everything has none.

    best: every negative is the best of so many to its user, by inner products of users (R, d) and items (I, d), `by`.
    """
    positives = clients.positives
    draw = UniformCandidates(positives)
    users, met = positives.users.long(), positives.items.long()
    pairs = draw.trainable[users].nonzero()[:, 0]
    users, met = users[pairs], met[pairs]
    owner = clients.owner[users]
    starts = torch.searchsorted(owner, torch.arange(len(clients) + 1))
    stream = mix(np.array([seed], np.uint64))
    for part in (np.array([round]), clients.ids.numpy()[owner], (torch.arange(len(pairs)) - starts[owner]).numpy()):
        stream = mix(stream + part.astype(np.uint64) + np.uint64(1))  # (1,), then (P,)
    vectors = (by[0][users], by[1]) if best > 1 else ()
    drawn = draw.from_streams(users, stream, steps * negatives, best, vectors)
    keys = owner[:, None] * positives.num_items + torch.cat([met[:, None], drawn], 1)
    distinct, rows = torch.unique(keys, return_inverse=True)
    places = [torch.cat([rows[:, :1], each], 1) for each in rows[:, 1:].split(negatives, 1)]
    items, owner = distinct % positives.num_items, distinct // positives.num_items
    return Triplets(items, owner, pairs, users, starts, torch.stack(places))
