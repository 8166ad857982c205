"""What travels between a server and its clients: named tensors with a size in bytes, checked before they count.

A server sees messages and nothing else of a client. Without masks or noise a message tells it a lot: which rows are
not zero says what a client has met, and a lone p pᵀ gives p away. Nothing here is private by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mrl.errors import MRLError

Reason = Literal["nothing", "round", "shape", "not finite", "norm"]


class MessageError(MRLError):
    """A client's message cannot be counted: `client`, `reason` (nothing, round, shape, not finite or norm), why."""

    def __init__(self, client: int, reason: Reason, what: str) -> None:
        super().__init__(f"client {client}: {what}; it is left out, and the round goes on without it")
        self.client, self.reason = client, reason


@dataclass(frozen=True, eq=False)
class Message:
    """One message of one step of one round, or the sum of those of several clients.

    tensors: by name; an array is sent whole, zeros too, so its size tells nothing of what it holds. clients: whose
    messages it is the sum of; 1 from one client, and from the server.
    """

    round: int
    step: int
    tensors: Mapping[str, Tensor]
    clients: int = 1

    @property
    def bytes(self) -> int:
        """What one client sends or receives of it: each sends tensors of these shapes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def norm(self) -> float:
        """The root of the sum of all squares."""
        return float(sum(tensor.double().square().sum() for tensor in self.tensors.values()) ** 0.5)


def add_up(messages: Sequence[Message]) -> Message:
    """The sum of messages of one step. A tensor of fewer rows or columns is padded with zeros at its end."""
    names = dict.fromkeys(name for message in messages for name in message.tensors)
    total = {name: _padded_sum([each.tensors[name] for each in messages if name in each.tensors]) for name in names}
    return Message(messages[0].round, messages[0].step, total, sum(message.clients for message in messages))


def _padded_sum(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    total = tensors[0].new_zeros([max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)])
    for tensor in tensors:
        total[tuple(map(slice, tensor.shape))] += tensor
    return total


def check_message(message: Message | None, like: Message, client: int, max_norm: float | None = None) -> Message:
    """The message, or MessageError: nothing came, or it is of another round, of another shape, not finite or too large.

    like: what the server expects of a client of that width: round, step, names and shapes. max_norm: of `Message.norm`.
    """
    if message is None:
        raise MessageError(client, "nothing", f"sent nothing in round {like.round}")
    if (message.round, message.step) != (like.round, like.step):
        raise MessageError(client, "round", f"sent round {message.round}, step {message.step} in round {like.round}")
    shapes, expected = ({name: tuple(tensor.shape) for name, tensor in m.tensors.items()} for m in (message, like))
    if shapes != expected:
        name = next(name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name))
        raise MessageError(client, "shape", f"sent {name} {shapes.get(name)} instead of {expected.get(name)}")
    if error := refusal(client, message.norm, max_norm):
        raise error
    return message


def refusal(client: int, norm: float, max_norm: float | None) -> MessageError | None:
    """The error of a message that is told by its norm alone."""
    if not math.isfinite(norm):
        return MessageError(client, "not finite", "sent NaN or Inf")
    if max_norm is not None and norm > max_norm:
        return MessageError(client, "norm", f"sent a norm of {norm:.3g}, above max_norm={max_norm:g}")
    return None
