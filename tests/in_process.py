"""A Flower grid without Flower's engine: nodes are called in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from mrl.flower import app


class InProcess(Grid):
    """Nodes of `mrl.flower.app.client`. broken: what a node answers in its place, by node; None for an error."""

    def __init__(self, clients: int, broken: dict[int, Callable[[Message], Message | None]] | None = None):
        self.contexts = {
            100 + number: Context(1, 100 + number, {"partition-id": number}, RecordDict(), {})
            for number in range(clients)
        }
        self.broken = broken or {}
        be_a_server()

    def set_run(self, run) -> None: ...

    @property
    def run(self): ...

    def create_message(self, *arguments, **options): ...

    def get_nodes(self): ...

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            reply = app.client(message, self.contexts[node])
            if node in self.broken and message.metadata.message_type == "train":
                reply = self.broken[node](reply) or Message(Error(0, "out of memory"), reply_to=message)
            replies.append(reply)
        return replies


def be_a_server() -> None:
    """What Flower's engine tells a process before it may write messages."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
