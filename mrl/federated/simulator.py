"""Rounds of tens of thousands of clients in this process: who takes part, who fails, what is sent; to the last bit the
same from the same seed, and from a checkpoint.

Clients are rows of one table, and those of one width compute at once; what they compute still is a function of their
own rows and the broadcast alone (`mrl.federated.clients`). In each round some clients are drawn, of these some send
nothing (drop-outs) and some send late (stragglers): what comes late is discarded, or counted in the next round as if
it were of it, and until then its sender is not drawn. A message that cannot be counted is refused by name and the round
goes on without its sender.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.federated.clients import Clients, make_clients
from mrl.federated.config import FederatedConfig
from mrl.federated.messages import Message, MessageError, add_up, check_message, refusal
from mrl.federated.method import PlainSum, Server, Summation, Uploads, make_method

FEW = 5  # clients that a row of the history names

Tamper = Callable[[int, Message], Message | None]  # client and message → what arrives of it


@dataclass
class _Round:
    """A round under way. errors: of refused messages. late: what is to be counted in the next round, by step."""

    up: int = 0
    down: int = 0
    errors: list[MessageError] = field(default_factory=list)
    late: dict[int, list[Message]] = field(default_factory=dict)


class Simulation:
    """A server and its clients. `round()` runs one round and returns its row of the history.

    config: its alpha0 given. positives: of all users. sizes: of `make_clients`. summation: how uploads become a sum.
    tamper: what arrives of the messages of the clients `bad`, which are made one by one; for tests of faults.
    """

    def __init__(
        self,
        config: FederatedConfig,
        positives: Positives,
        *,
        sizes: Tensor | None = None,
        summation: Summation | None = None,
        bad: Collection[int] = (),
        tamper: Tamper | None = None,
    ):
        self.config, self.method = config, make_method(config, positives.num_items)
        self.summation = PlainSum() if summation is None else summation
        self.bad, self.tamper = sorted(bad), tamper
        self.population = make_clients(config, positives, sizes)
        generator = torch.Generator().manual_seed(config.seed)
        self.server: Server = self.method.start_server(generator)
        self.method.start_clients(self.population, generator)
        self.draws = np.random.default_rng(config.seed)
        self.late: dict[int, Message] = {}
        widths = self.population.widths
        # of the scenario `wide` only those that can hold the widest columns take part
        self.is_able = np.asarray(widths == widths.max() if config.scenario == "wide" else widths > 0)
        counts = torch.zeros(len(self.population)).index_add_(0, self.population.owner, positives.counts.float())
        self.chances = counts.double().numpy() ** config.activity
        self.busy = np.zeros(len(self.population), dtype=bool)

    def round(self) -> dict[str, Any]:
        """One round; its row: round, clients (counted), drawn, dropped, late, refused, why, bytes_up, bytes_down (of
        all clients together), seconds."""
        started, number, now = time.perf_counter(), self.server.round + 1, _Round()
        drawn, is_dropped, is_late = self._draw()
        self.server = replace(self.server, round=number)
        late_ids, bad_ids = torch.from_numpy(drawn[is_late]), torch.tensor(self.bad, dtype=torch.int64)
        cohort = [
            (each, torch.ones(len(each)), torch.isin(each.ids, late_ids), torch.isin(each.ids, bad_ids))
            for each in self.population.groups(torch.from_numpy(drawn[~is_dropped]))
        ]
        for step in range(self.method.steps(number)):
            messages: list[Message] = []
            for place, (clients, *state) in enumerate(cohort):
                broadcast = self.method.broadcast(self.server, clients.width, step)
                if broadcast is None:
                    continue
                now.down += broadcast.bytes * len(clients)
                clients, uploads = self.method.work(clients, broadcast)
                cohort[place] = clients, *state
                self._send(now, messages, clients, *state, uploads)
            if step == 0:  # those that drop out have fetched it, too
                now.down += sum(
                    self.method.broadcast(self.server, width, 0).bytes
                    for width in self.population.widths[torch.from_numpy(drawn[is_dropped])].tolist()
                )
            if step in self.late:
                messages.append(replace(self.late.pop(step), round=number))
            if messages:
                missing = int(is_dropped.sum()) + len({error.client for error in now.errors})
                total = self.summation.total(messages, round=number, step=step, missing=missing)
                self.server = self.method.aggregate(self.server, total)
        for clients, *_ in cohort:
            self.population.put(clients)
        self.late = {step: add_up(messages) for step, messages in now.late.items()}
        self.busy[:] = False
        self.busy[drawn[is_late]] = True
        refused = len({error.client for error in now.errors})
        sent = len(drawn) - int(is_dropped.sum())
        return {
            "round": number,
            "drawn": len(drawn),
            "dropped": len(drawn) - sent,
            "late": int(is_late.sum()),
            "refused": refused,
            "why": _describe(now.errors),
            "bytes_up": now.up,
            "bytes_down": now.down,
            "seconds": time.perf_counter() - started,
        }

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users (U, D), zero beyond the width of their client, and items (I, D), as they score now."""
        return self.method.vectors(self.server, self.population)

    def _draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The clients of a round (n,), and of these who drops out and who is late, (n,) bool."""
        able = np.flatnonzero(self.is_able & ~self.busy)
        count = min(len(able), max(1, round(self.config.fraction * int(self.is_able.sum()))))
        if self.config.fraction < 1:
            chances = self.chances[able]
            # without replacement, in proportion: the largest of exponential clocks (Efraimidis and Spirakis 2006)
            keys = self.draws.exponential(size=len(able)) / np.maximum(chances, 1e-12)
            able = np.sort(able[np.argsort(keys, kind="stable")[:count]])
        is_dropped = self.draws.random(len(able)) < self.config.dropout
        is_late = ~is_dropped & (self.draws.random(len(able)) < self.config.stragglers)
        return able, is_dropped, is_late

    def _send(
        self,
        now: _Round,
        messages: list[Message],
        clients: Clients,
        counted: Tensor,
        is_late: Tensor,
        is_bad: Tensor,
        uploads: Uploads,
    ) -> None:
        """Check what the clients send and put it to the messages of this step, or of the next round's.

        counted: (C,) 1, or 0 of clients of which a message was refused in this round, which it is set to here.
        """
        scale = self.summation.scale(uploads)
        norms, most = uploads.norms * scale, self.config.max_norm
        limit = torch.finfo(norms.dtype).max if most is None else most
        sending = int((counted > 0).sum())
        for place in ((counted > 0) & ~(norms <= limit)).nonzero()[:, 0].tolist():
            self._refuse(now, counted, place, refusal(int(clients.ids[place]), float(norms[place]), most))
        apart = torch.ones_like(is_bad) if self.summation.one_by_one else is_bad
        size = 0
        for place in (apart & (counted > 0)).nonzero()[:, 0].tolist():
            client = int(clients.ids[place])
            made = uploads.total(scale * (torch.arange(len(scale)) == place))
            size = made.bytes
            try:
                arrived = self.tamper(client, made) if self.tamper and client in self.bad else made
                message = check_message(arrived, made, client, most)
            except MessageError as error:
                self._refuse(now, counted, place, error)
                continue
            self._keep(now, messages, message, bool(is_late[place]))
        for late in (False, True):
            together = (counted > 0) & ~apart & (is_late == late)
            if together.any():
                message = uploads.total(scale * together)
                size = message.bytes
                self._keep(now, messages, message, late)
        now.up += size * sending

    def _keep(self, now: _Round, messages: list[Message], message: Message, is_late: bool) -> None:
        if not is_late:
            messages.append(message)
        elif self.config.late == "count":
            now.late.setdefault(message.step, []).append(message)

    def _refuse(self, now: _Round, counted: Tensor, place: int, error: MessageError) -> None:
        counted[place] = 0
        now.errors.append(error)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next round depends on: tensors, and what JSON holds."""
        tensors = {f"server.{name}": tensor for name, tensor in self.server.tensors.items()}
        tensors |= {"users": self.population.users, "busy": torch.from_numpy(self.busy)}
        tensors |= {f"own.{name}": table for name, table in self.population.own.items()}
        tensors |= {f"by_pair.{name}": table for name, table in self.population.by_pair.items()}
        for step, message in self.late.items():
            tensors |= {f"late.{step}.{name}": tensor for name, tensor in message.tensors.items()}
        meta = {"round": self.server.round, "draws": self.draws.bit_generator.state}
        return tensors, meta | {"late": {str(step): message.clients for step, message in self.late.items()}}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a `state`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}

        self.server = Server(meta["round"], part("server."))
        self.population.users, self.population.own = tensors["users"], part("own.")
        self.population.by_pair = part("by_pair.")
        self.busy = tensors["busy"].numpy().copy()
        self.draws.bit_generator.state = meta["draws"]
        self.late = {
            int(step): Message(meta["round"], int(step), part(f"late.{step}."), clients)
            for step, clients in meta["late"].items()
        }


def _describe(errors: list[MessageError]) -> str:
    """Why messages were refused, in a cell of the history: `not finite 1 (client 17); norm 2 (clients 3, 20)`."""
    clients: dict[str, list[int]] = {}
    for error in sorted(errors, key=lambda error: error.client):
        clients.setdefault(error.reason, []).append(error.client)
    parts = []
    for reason, ids in clients.items():
        named = ", ".join(map(str, ids[:FEW])) + (", …" if len(ids) > FEW else "")
        parts.append(f"{reason} {len(ids)} (client{'s' * (len(ids) > 1)} {named})")
    return "; ".join(parts)
