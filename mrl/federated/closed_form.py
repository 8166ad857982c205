"""Federated nested least squares: the sweep of `mrl.least_squares.nested`, its item half as a sum over clients.

The user half of a sweep is a client's own: its row of `solve_blocks`, given the item vectors that it downloads. The
item half goes block by block. For block b of d columns, client u, who knows the levels up to its own and their weights
w alone, sends of every item, zeros where it has not met it,

    outer   W_b p_b p_bᵀ, the upper triangle      target   (W_b − Σ_{j≠b} W_max(b,j) s_j) p_b
    count   W_b, with the first block of a level

and W_max(b,j) p_b p_jᵀ and W_b themselves, its shares of PᵀP and of the number of users. s_j is what block j scores,
W_b = Σ_{k≥b} w_k over the client's levels. The server solves, for each item i,

    (outer_i + α0 G_bb + c_b l2 W_b (mass_i / W_b)^ν 1) q_b = target_i − α0 Σ_{j≠b} G_bj q_j,   mass = count + α0 Σ W_b

and broadcasts the new columns before the next block. With all clients at full width this is the central sweep; with
clients of different width each column is fitted by the clients that hold it, who fit every prefix of what they hold
(the aggregation and the dual task of HeteFedRec, Yuan et al., ICDE 2024, arXiv 2307.12810), in closed form.

An upload of a half sweep is 4 · Σ_b [ I (d (d + 1) / 2 + d) + d a + 1 ] + 4 · I · levels bytes for a client of width a
(`upload_bytes`). A level of many columns may be divided into blocks of a few: more steps, smaller uploads, and the
same sweep as of `solve_blocks` with those widths, of which those in between weigh nothing.

The start is a power iteration on D_I^-½ Xᵀ D_U⁻¹ X D_I^-½, federated likewise: a client of n items sends x (xᵀ Z) / n.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.errors import RunError
from mrl.federated.clients import Clients, Population
from mrl.federated.config import FederatedConfig
from mrl.federated.messages import Message
from mrl.federated.method import METHODS, Server, Uploads
from mrl.kernels import sparse_matrix
from mrl.least_squares.ials import frequency_l2
from mrl.least_squares.nested import column_penalty, shared_weight, solve_blocks

COLUMNS = 64  # of outer products that are added up at a time


class ClosedForm:
    """The method `closed_form`; see the module. `mrl.federated.method.Method` says what its functions are.

    The server keeps `items` (I, D), `met` and `count` (I,): items that nobody has met are zero, and those that nobody
    of a round has met stay as they are.
    """

    def __init__(self, config: FederatedConfig, num_items: int):
        self.config, self.num_items = config, num_items
        self.widths, self.weights = config.widths, config.weights
        self.dim = self.widths[-1]
        self.spans = block_spans(self.widths, config.block)
        self.penalty = column_penalty(self.widths, config.l2_width_exponent)
        self.shared = {
            width: shared_weight(self.widths[: level + 1], self.weights[: level + 1])
            for level, width in enumerate(self.widths)
        }
        self.alpha0 = config.alpha0

    def start_server(self, generator: torch.Generator) -> Server:
        items = torch.linalg.qr(torch.randn(self.num_items, self.dim, generator=generator))[0]
        return Server(0, {"items": items, "met": torch.zeros(self.num_items), "count": torch.zeros(self.num_items)})

    def start_clients(self, population: Population, generator: torch.Generator) -> None:
        """Nothing: their vectors begin at zero, and the first sweep solves them."""

    def steps(self, round: int) -> int:
        return 1 if round <= self.config.start_rounds else len(self.spans)

    def broadcast(self, server: Server, width: int, step: int) -> Message | None:
        """At first all columns that the clients hold, then those that the step before has changed."""
        if server.round <= self.config.start_rounds:
            met = server.tensors["met"]
            scale = torch.where(met > 0, met, 1.0).rsqrt()
            return Message(server.round, 0, {"directions": server.items[:, :width] * scale[:, None]})
        if self.spans[step].stop > width:
            return None
        changed = slice(0, width) if step == 0 else self.spans[step - 1]
        return Message(server.round, step, {"items": server.items[:, changed]})

    def work(self, clients: Clients, broadcast: Message) -> tuple[Clients, Uploads]:
        if "directions" in broadcast.tensors:
            return clients, _power_uploads(clients, broadcast)
        if broadcast.step == 0:
            items = broadcast.tensors["items"]
            memory = {"items": items.clone(), "by_item": _ByItem(clients)}
            clients = clients.updated(users=self.solve_users(clients, items), memory=memory)
            squares, held = clients.users.square(), self._held(clients)
            memory["squares"] = torch.stack([squares[:, span].sum(1) for span in held])
            memory["fourths"] = torch.stack([squares[:, span].square().sum(1) for span in held])
            memory["scores"] = torch.stack([self._scores(clients, span) for span in held])
        else:
            if "by_item" not in clients.memory:  # a client that was put away between steps has its tensors alone
                clients.memory["by_item"] = _ByItem(clients)
            changed = self.spans[broadcast.step - 1]
            clients.memory["items"][:, changed] = broadcast.tensors["items"]
            clients.memory["scores"][broadcast.step - 1] = self._scores(clients, changed)
        return clients, self._uploads(clients, broadcast)

    def solve_users(self, clients: Clients, items: Tensor) -> Tensor:
        """(R, a): the user half of a sweep, each row by itself. items: (I, a)."""
        levels = self.widths.index(clients.width) + 1
        l2 = frequency_l2(
            clients.positives.counts, self.num_items, alpha0=self.alpha0, l2=self.config.l2, nu=self.config.nu
        )
        return solve_blocks(
            clients.users,
            items,
            clients.positives,
            l2,
            widths=self.widths[:levels],
            level_weights=self.weights[:levels],
            alpha0=self.alpha0,
            l2_width_exponent=self.config.l2_width_exponent,
        )

    def _held(self, clients: Clients) -> list[slice]:
        return [span for span in self.spans if span.stop <= clients.width]

    def _scores(self, clients: Clients, span: slice) -> Tensor:
        """(N,): what a block scores the clients' own items, item by item."""
        by_item = clients.memory["by_item"]
        users = clients.users[:, span].contiguous().index_select(0, by_item.users)
        items = clients.memory["items"][:, span].contiguous().index_select(0, by_item.items)
        return users.mul_(items) @ torch.ones(users.shape[1])

    def _uploads(self, clients: Clients, broadcast: Message) -> Uploads:
        step = broadcast.step
        span, shared, by_item = self.spans[step], self.shared[clients.width].float(), clients.memory["by_item"]
        starts = [held.start for held in self._held(clients)]
        weight, between = shared[span.start, span.start], shared[span.start]
        others = between[starts].clone()
        others[step] = 0
        wanted = weight - others @ clients.memory["scores"]  # (N,)
        block = clients.users[:, span].contiguous()
        begins_level = span.start in (0, *self.widths)

        def total(scale: Tensor) -> Message:
            rows = scale[clients.owner]
            ones = (weight * rows)[:, None]
            tensors = {
                "outer": by_item.sum_outer(block * ones, block),
                "target": by_item.sum(block * rows[:, None], wanted),
                "gram": (block * rows[:, None]).T @ clients.users * between,
                "weight": ones.sum(0),
            }
            if begins_level:
                tensors["count"] = by_item.sum(ones)[:, 0]
            return Message(broadcast.round, step, tensors, int((scale != 0).sum()))

        if not clients.are_users:
            return _uploads(_each_part(len(clients), total), total)
        counts, squares = clients.positives.counts, clients.memory["squares"]
        norm = squares[step]
        targets = torch.zeros(len(norm)).index_add_(0, by_item.users, wanted.square())
        parts = {
            "outer": counts * weight**2 * (norm.square() + clients.memory["fourths"][step]) / 2,
            "target": targets * norm,
            "gram": norm * (between[starts].square() @ squares),
            "weight": (weight**2).expand(len(block)),
        }
        if begins_level:
            parts["count"] = counts * weight**2
        return _uploads(parts, total)

    def aggregate(self, server: Server, total: Message) -> Server:
        if "directions" in total.tensors:
            return self._iterate(server, total)
        span = self.spans[total.step]
        kept, server = self._remember(server, total)
        count = kept.get("count", server.tensors["count"])
        items, d = server.items.clone(), span.stop - span.start
        gram = self.alpha0 * F.pad(kept["gram"], (0, self.dim - kept["gram"].shape[1]))
        system = _unpacked(kept["outer"], d).add_(gram[:, span])
        weight = float(self.shared[self.dim][span.start, span.start])
        l2 = self.config.l2 * weight * ((count + self.alpha0 * kept["weight"]) / weight) ** self.config.nu
        system.diagonal(dim1=1, dim2=2).add_(l2[:, None] * self.penalty[span].float())
        gram[:, span] = 0
        right = torch.addmm(kept["target"], items, gram.T, alpha=-1)
        try:
            solved = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
        except torch.linalg.LinAlgError:
            raise RunError(
                f"round {total.round}: the sums of block {total.step} are not positive definite; raise l2 or alpha0, "
                "or take more clients a round"
            ) from None
        met, absent = server.tensors["met"], (count == 0).nonzero()[:, 0]
        solved[absent] = items[absent, span] * (met[absent] > 0)[:, None]
        items[:, span] = solved
        met = (met > 0).logical_or(count != 0).float()
        return server.with_tensors(items=items, met=met, count=count)

    def _remember(self, server: Server, total: Message) -> tuple[dict[str, Tensor], Server]:
        """The sums of the step, with the share of earlier rounds' that is remembered, and the server that has them."""
        kept = dict(total.tensors)
        if not self.config.memory:
            return kept, server
        for name, tensor in kept.items():
            before = server.tensors.get(f"{name}.{total.step}")
            kept[name] = tensor if before is None else tensor + self.config.memory * before
        return kept, server.with_tensors(**{f"{name}.{total.step}": tensor for name, tensor in kept.items()})

    def _iterate(self, server: Server, total: Message) -> Server:
        """One power iteration: columns made orthonormal in order, so that narrow ones know nothing of wide ones."""
        met = total.tensors["count"]
        sums, owners = total.tensors["directions"].double(), total.tensors["owners"].double()
        scale = torch.where(met > 0, met, 1.0).rsqrt().double()
        basis, singular = torch.linalg.qr(sums * scale[:, None] * (owners.max() / owners.clamp_min(1)))
        if server.round == self.config.start_rounds:  # the items of a spectral start: singular vectors, by their root
            basis = basis * singular.diagonal().abs() ** 0.25
        missing = self.dim - basis.shape[1]  # columns that nobody holds are zero
        return server.with_tensors(items=F.pad(basis.float(), (0, missing)), met=met)

    def vectors(self, server: Server, population: Population) -> tuple[Tensor, Tensor]:
        """Every client solves its users by the items of the last round, from where it is."""
        users = torch.zeros_like(population.users)
        for clients in population.groups():
            rows = population.rows_of(clients.ids)
            users[rows, : clients.width] = self.solve_users(clients, server.items[:, : clients.width])
        return users, server.items


def block_spans(widths: tuple[int, ...], block: int) -> list[slice]:
    """The columns of every step: those of a level, in pieces of at most `block`; 0 for whole levels."""
    spans = []
    for start, stop in pairwise((0, *widths)):
        edges = [*range(start, stop, block or stop - start), stop]
        spans += [slice(*edge) for edge in pairwise(edges)]
    return spans


def upload_bytes(num_items: int, widths: tuple[int, ...], width: int, block: int = 0) -> int:
    """What a client of a width sends in a round: the formula at the head of this room."""
    spans = [span for span in block_spans(widths, block) if span.stop <= width]
    sizes = [span.stop - span.start for span in spans]
    levels = widths.index(width) + 1
    return 4 * (sum(num_items * (d * (d + 1) // 2 + d) + d * width + 1 for d in sizes) + num_items * levels)


class _ByItem:
    """The pairs of clients item by item, so that sums over them go in that order; made once a round."""

    def __init__(self, clients: Clients):
        pairs = clients.positives
        self.shape = pairs.num_items, pairs.num_users
        items, order = pairs.items.sort(stable=True)
        self.users, self.items = pairs.users[order].long(), items.long()
        self.indices = F.pad(pairs.item_counts.cumsum(0), (1, 0)), self.users
        self.ones = self._graph(torch.ones(len(items)))

    def sum(self, rows: Tensor, by_pair: Tensor | None = None) -> Tensor:
        """(I, k): of every item the sum of the rows (R, k) of its users, times what is given by pair (N,)."""
        graph = self.ones if by_pair is None else self._graph(by_pair)
        return graph @ rows

    def _graph(self, values: Tensor) -> Tensor:
        return sparse_matrix(*self.indices, values, self.shape)

    def sum_outer(self, left: Tensor, right: Tensor) -> Tensor:
        """(I, d (d + 1) / 2): of every item the sum of the upper triangles of left rightᵀ (R, d) of its users."""
        sums, parts = [], []
        for column in range(left.shape[1]):
            parts.append(left[:, column, None] * right[:, column:])
            if sum(part.shape[1] for part in parts) >= COLUMNS or column + 1 == left.shape[1]:
                sums.append(self.sum(torch.cat(parts, 1)))
                parts = []
        return torch.cat(sums, 1)


def _power_uploads(clients: Clients, broadcast: Message) -> Uploads:
    """Of every item that a client's users have met the mean of the directions Z (I, a) of theirs, and 1."""
    directions, by_item, pairs = broadcast.tensors["directions"], _ByItem(clients), clients.positives
    means = F.embedding_bag(pairs.items.long(), directions, pairs.offsets[:-1], mode="mean")

    def total(scale: Tensor) -> Message:
        rows = scale[clients.owner][:, None]
        tensors = {
            "directions": by_item.sum(means * rows),
            "count": by_item.sum(rows)[:, 0],
            "owners": rows.sum().expand(clients.width).clone(),
        }
        return Message(broadcast.round, broadcast.step, tensors, int((scale != 0).sum()))

    if not clients.are_users:
        return _uploads(_each_part(len(clients), total), total)
    ones = torch.ones(len(clients))
    parts = {"directions": pairs.counts * means.square().sum(1), "count": pairs.counts, "owners": clients.width * ones}
    return _uploads(parts, total)


def _uploads(squares: dict[str, Tensor], total: Callable[[Tensor], Message]) -> Uploads:
    """Uploads of messages whose tensors have these sums of squares (C,): for single users no message is needed."""
    return Uploads(sum(squares.values()).sqrt(), total, {name: each.sqrt() for name, each in squares.items()})


def _each_part(clients: int, total: Callable[[Tensor], Message]) -> dict[str, Tensor]:
    """The sums of squares by tensor, message by message."""
    tensors = [total((torch.arange(clients) == client).float()).tensors for client in range(clients)]
    return {name: torch.stack([each[name].square().sum() for each in tensors]) for name in tensors[0]}


def _unpacked(upper: Tensor, d: int) -> Tensor:
    """(I, d, d) symmetric, of upper triangles (I, d (d + 1) / 2)."""
    rows, columns = torch.triu_indices(d, d)
    place = torch.zeros(d, d, dtype=torch.int64)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
    return upper.index_select(1, place.flatten()).unflatten(1, (d, d))


METHODS["closed_form"] = ClosedForm
