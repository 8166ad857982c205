"""Groups of any size in threads of one process: what `torch.distributed` does for `mrl.sharded.Group`, in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from mrl.sharded.group import Group


class Member:
    """One of several threads that call the same collectives in the same order."""

    def __init__(self, rank: int, places: list, barrier: threading.Barrier) -> None:
        self.rank, self.places, self.barrier = rank, places, barrier

    def swap(self, value: Any) -> list:
        """The values of all members, in their order."""
        self.places[self.rank] = value
        self.barrier.wait(60)
        found = list(self.places)
        self.barrier.wait(60)
        return found

    def wait(self) -> None:
        """As of work that is done."""


class InMemory:
    """The functions of `torch.distributed` that groups use to fit; a process group is a `Member`."""

    ReduceOp = dist.ReduceOp

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_rank(self, group: Member) -> int:
        return group.rank

    def get_world_size(self, group: Member) -> int:
        return len(group.places)

    def all_reduce(self, table: Tensor, op: Any = dist.ReduceOp.SUM, group: Member | None = None) -> None:
        tables = torch.stack(group.swap(table.clone()))
        table.copy_(tables.amax(0) if op == dist.ReduceOp.MAX else tables.sum(0))

    def broadcast(self, table: Tensor, group_src: int, group: Member, async_op: bool = False) -> Member:
        table.copy_(group.swap(table.clone())[group_src])
        return group

    def all_to_all_single(
        self, received: Tensor, sent: Tensor, expected: list | None = None, counts: list | None = None, *, group: Member
    ) -> None:
        parts = group.swap(sent.clone().split(counts or [1] * len(group.places)))
        received.copy_(torch.cat([each[group.rank] for each in parts]))


def run(size: int, function: Callable, *arguments: Any) -> list[Any]:
    """What `function(group, *arguments)` returns in each of so many threads; raises what one of them raises."""
    places, barrier = [None] * size, threading.Barrier(size)

    def work(rank: int) -> Any:
        try:
            return function(Group(process_group=Member(rank, places, barrier)), *arguments)
        except BaseException:
            barrier.abort()  # or the others would wait
            raise

    with patch("mrl.sharded.group.dist", InMemory()), ThreadPoolExecutor(size) as pool:
        made = [pool.submit(work, rank) for rank in range(size)]
    errors = [each.exception() for each in made if each.exception()]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [each.result() for each in made]
