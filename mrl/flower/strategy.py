"""A Flower Strategy for clients of different width: columns are summed over the clients that hold them.

A round of `mrl.federated` has several steps (blocks), so one Flower round is one step. What the server does with a sum
is the method's (`mrl.federated.method`): nothing here knows which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import WARNING

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from torch import Tensor

from mrl.data import Positives
from mrl.errors import RunError
from mrl.federated import (
    Clients,
    FederatedConfig,
    Message,
    MessageError,
    PlainSum,
    Population,
    check_message,
    make_method,
)

TENSORS, FACTS = "tensors", "facts"  # the records of a message: its tensors, and where it belongs


def to_records(message: Message, **facts: str | int | float) -> RecordDict:
    """A message as Flower sends it."""
    arrays = {name: Array(np.ascontiguousarray(tensor.numpy())) for name, tensor in message.tensors.items()}
    facts |= {"round": message.round, "step": message.step}
    return RecordDict({TENSORS: ArrayRecord(arrays), FACTS: ConfigRecord(facts)})


def from_records(records: RecordDict) -> Message:
    """And back; RunError where records are missing."""
    if TENSORS not in records or FACTS not in records:
        raise RunError(f"a Flower message without {TENSORS} or {FACTS}: it is of another app")
    facts = records[FACTS]
    return Message(int(facts["round"]), int(facts["step"]), to_tensors(records[TENSORS]))


def to_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}


class ColumnSums(Strategy):
    """The server's side of a method, a step a Flower round; at the end every client measures its users.

    nodes: the width of each node. A node that fails, or sends what cannot be counted, is left out and logged.
    `metrics` has the sums over users that the clients measured, after the last round.
    """

    def __init__(self, config: FederatedConfig, num_items: int, nodes: Mapping[int, int], settings: str):
        self.method, self.nodes, self.settings = make_method(config, num_items), dict(nodes), settings
        self.server = self.method.start_server(torch.Generator().manual_seed(config.seed))
        self.plan = [
            (number, step) for number in range(1, config.rounds + 1) for step in range(self.method.steps(number))
        ]
        self.summation = PlainSum()
        self.expected: dict[int, Message] = {}  # by width: names and shapes of what a client sends in this step
        self.idle = {width: self._idle(num_items, config.widths[-1], width) for width in sorted(set(nodes.values()))}
        self.metrics: dict[str, float] = {}

    def _idle(self, num_items: int, dim: int, width: int) -> Clients:
        """A client that has met nothing: its messages have the names and shapes that others' must have."""
        nobody = Population(
            Positives.empty(1, num_items), torch.zeros(1).long(), torch.tensor([width]), torch.zeros(1, dim)
        )
        self.method.start_clients(nobody, torch.Generator().manual_seed(0))
        return nobody.take(torch.zeros(1).long(), width)

    def arrays(self) -> ArrayRecord:
        """What the server knows."""
        return to_records(Message(0, 0, self.server.tensors))[TENSORS]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[FlowerMessage]:
        number, step = self.plan[server_round - 1]
        if step == 0:
            self.server = replace(self.server, round=number)
        self.expected, sent = {}, {}
        for width, idle in self.idle.items():
            broadcast = self.method.broadcast(self.server, width, step)
            if broadcast is not None:
                sent[width] = broadcast
                self.idle[width], uploads = self.method.work(idle, broadcast)
                self.expected[width] = uploads.alone(0)
        return [
            FlowerMessage(to_records(sent[width], settings=self.settings), node, "train", group_id=str(server_round))
            for node, width in self.nodes.items()
            if width in sent
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[FlowerMessage]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        messages, refused = [], 0
        for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
            node = reply.metadata.src_node_id
            try:
                if reply.has_error():
                    raise MessageError(node, "nothing", f"failed: {reply.error.reason}")
                messages.append(check_message(from_records(reply.content), self.expected[self.nodes[node]], node))
            except (MessageError, RunError) as error:
                log(WARNING, str(error))
                refused += 1
        if not messages:
            raise RunError(f"Flower round {server_round}: no client sent anything that can be counted")
        number, step = self.plan[server_round - 1]
        total = self.summation.total(messages, round=number, step=step, missing=refused)
        self.server = self.method.aggregate(self.server, total)
        return self.arrays(), MetricRecord({"clients": total.clients, "refused": refused})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[FlowerMessage]:
        """After the last step: all that a client of each width may know, its columns of the items among it."""
        if server_round < len(self.plan):
            return []
        known = {width: self.server.tensors | {"items": self.server.items[:, :width]} for width in self.idle}
        facts = {
            "settings": self.settings,
            "columns": self.server.items.shape[1],
        }  # of the items as the server has them
        records = {
            width: to_records(Message(self.server.round, 0, tensors), **facts) for width, tensors in known.items()
        }
        return [FlowerMessage(records[width], node, "evaluate") for node, width in self.nodes.items()]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[FlowerMessage]) -> MetricRecord | None:
        for reply in replies:
            if reply.has_error():
                log(WARNING, f"client {reply.metadata.src_node_id}: failed to measure: {reply.error.reason}")
                continue
            for name, value in reply.content["metrics"].items():
                self.metrics[name] = self.metrics.get(name, 0.0) + float(value)
        return MetricRecord(self.metrics) if self.metrics else None

    def summary(self) -> None:
        """Nothing to say before it starts."""
