"""What a federated method is, and how uploads become a sum: the two places where other methods and protections go in.

A round of the simulator (`mrl.federated.simulator`), for the clients that take part, those of one width together:

    for step in range(method.steps(round)):
        broadcast = method.broadcast(server, width, step)       the server's word to clients of that width
        clients, uploads = method.work(clients, broadcast)      on the clients: their own state and the broadcast only
        message = uploads.total(scale)                          the sum of what they send, each times its scale
        total = summation.total(messages, …)                    padded and added up; masks and noise go in here
        server = method.aggregate(server, total)                on the server: its own state and the sum only

A new method is a class with these functions, made by `METHODS[name](config, num_items)`: its room puts it there, and
is imported in `mrl/federated/__init__.py`. What a client draws at random it draws by seed, round (of the broadcast) and
its own id, so that a run that was interrupted goes on with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from mrl.errors import ConfigError
from mrl.federated.clients import Clients, Population
from mrl.federated.config import FederatedConfig
from mrl.federated.messages import Message, add_up


@dataclass(frozen=True, eq=False)
class Server:
    """All that the server knows: the round, and tensors by name, of which none has a row for a client.

    tensors: `items` (I, D), and what else a method keeps with the server.
    """

    round: int
    tensors: Mapping[str, Tensor]

    @property
    def items(self) -> Tensor:
        return self.tensors["items"]

    def with_tensors(self, **tensors: Tensor) -> Server:
        return replace(self, tensors={**self.tensors, **tensors})


@dataclass(frozen=True, eq=False)
class Uploads:
    """What clients of one width send in a step: one message each, which need not be made one by one.

    norms: (C,) `Message.norm` of each client's message. total: of a scale (C,), the sum of the messages, each times
    its scale; 0 leaves a client out, whatever it holds, NaN too. A scale that is 1 for one client and 0 for the others
    gives the message of that client.
    parts: by tensor (C,) its own norm, where a method tells them apart; the root of their squares is `norms`.
    """

    norms: Tensor
    total: Callable[[Tensor], Message]
    parts: Mapping[str, Tensor] | None = None

    def alone(self, client: int) -> Message:
        """The message of one of the clients, by its place among them."""
        return self.total((torch.arange(len(self.norms)) == client).float())


class Method(Protocol):
    """A federated method. Functions of a client get its own state and a broadcast; those of the server, sums."""

    def start_server(self, generator: torch.Generator) -> Server:
        """The server before the first round."""

    def start_clients(self, population: Population, generator: torch.Generator) -> None:
        """Give every client what it holds before the first round, in place; called once."""

    def steps(self, round: int) -> int:
        """Into how many exchanges a round (from 1) is divided."""

    def broadcast(self, server: Server, width: int, step: int) -> Message | None:
        """What clients of a width download; None where they have no part in the step."""

    def work(self, clients: Clients, broadcast: Message) -> tuple[Clients, Uploads]:
        """What clients compute by themselves: their new state, and what they send."""

    def aggregate(self, server: Server, total: Message) -> Server:
        """The server after a step, from the sum of all messages."""

    def vectors(self, server: Server, population: Population) -> tuple[Tensor, Tensor]:
        """Users (U, D) and items (I, D) as they score; a user's columns beyond the width of its client are zero.

        What clients compute for it, each for itself, changes nothing of their state.
        """


METHODS: dict[str, Callable[[FederatedConfig, int], Method]] = {}


def make_method(config: FederatedConfig, num_items: int) -> Method:
    """The method of a config; ConfigError where it is not there."""
    if config.method not in METHODS:
        raise ConfigError(f"method={config.method!r}: is not there; there is {', '.join(METHODS)}")
    return METHODS[config.method](config, num_items)


class Summation(Protocol):
    """How uploads become the sum that the server sees. A protection replaces `PlainSum`, which is none."""

    one_by_one: bool  # whether every client's message is made and handed over apart, as masks need it; slow

    def scale(self, uploads: Uploads) -> Tensor:
        """(C,): by what each client multiplies its message, by its norm: user-level clipping goes in here."""

    def total(self, messages: Sequence[Message], *, round: int, step: int, missing: int = 0) -> Message:
        """The sum, with whatever is added to it: noise goes in here. missing: clients of the step that sent nothing."""


@dataclass(frozen=True)
class PlainSum:
    """Messages added up as they are: the server could look at each of them."""

    one_by_one: bool = field(default=False)

    def scale(self, uploads: Uploads) -> Tensor:
        return torch.ones_like(uploads.norms)

    def total(self, messages: Sequence[Message], *, round: int, step: int, missing: int = 0) -> Message:
        return add_up(messages)
