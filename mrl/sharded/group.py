"""The processes of a run: which one this is, and the collectives that sharded work needs, what they send counted.

`torch.distributed` under `torchrun`: NCCL where every process has a GPU, gloo elsewhere. Without torchrun there is one
process, and every collective gives back what it is given.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mrl import errors
from mrl.data import pick_device
from mrl.errors import MRLError

RESTARTED = "TORCHELASTIC_RESTART_COUNT"  # in the environment: how often torchrun has started all processes again
PIECE = 2**22  # bytes at a time to the first process
MAPPED = 2**22  # bytes from which on memory is mapped by itself, where that is asked for
PATIENCE = timedelta(minutes=60)  # for the slowest: one process reads or searches while the others wait


class Group:
    """Processes that compute together. rank: of this one; size: how many; device: on which it computes.

    sent: bytes that this process has sent to others so far: of what is gathered its own to each, of sums what a ring
    sends. Every process calls the same collectives in the same order. process_group: some of all; None for all.
    """

    def __init__(self, device: torch.device | str = "cpu", process_group: dist.ProcessGroup | None = None) -> None:
        self.device, self.process_group, self.sent = torch.device(device), process_group, 0
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank(process_group) if together else 0
        self.size = dist.get_world_size(process_group) if together else 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def sum(self, table: Tensor) -> Tensor:
        """The sum of the tables of all processes: of floats in float64, of whole numbers in int64."""
        table = table.to(torch.float64 if table.is_floating_point() else torch.int64, copy=True)
        if self.size > 1:
            dist.all_reduce(table, group=self.process_group)
            self.sent += 2 * table.nbytes * (self.size - 1) // self.size
        return table

    def largest(self, value: float) -> float:
        """The largest of the values of all processes."""
        table = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(table, dist.ReduceOp.MAX, group=self.process_group)
            self.sent += 2 * table.nbytes
        return float(table)

    def from_first(self, make: Callable[[], Sequence[Tensor]], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """What the first process makes: float64 tables of these shapes, the same in all processes, whatever machines.

        An error there is raised here, too.
        """
        made = [torch.empty(*shape, dtype=torch.float64, device=self.device) for shape in shapes]

        def keep() -> None:
            made[:] = [table.double().contiguous() for table in make()]

        self.tell(keep)
        for table in made if self.size > 1 else ():
            dist.broadcast(table, group_src=0, group=self.process_group)
            self.sent += table.nbytes * (self.size - 1) * self.is_first
        return made

    def each(self, number: int) -> list[int]:
        """A whole number of every process, in their order."""
        numbers = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        return self.sum(numbers).tolist()

    def gather(self, rows: Tensor, counts: Sequence[int], spare: int = 0) -> Tensor:
        """(Σ counts + spare, …): the rows of all processes in their order, and behind them spare rows of zeros.

        counts: rows of each process. Each sends its rows to all, as they are: nothing is filled up to equal lengths.
        """
        whole = rows.new_empty(sum(counts) + spare, *rows.shape[1:])
        *parts, behind = whole.split([*counts, spare])
        behind.zero_()
        parts[self.rank].copy_(rows)
        if self.size > 1:
            sending = [
                dist.broadcast(part, group_src=rank, group=self.process_group, async_op=True)
                for rank, part in enumerate(parts)
                if len(part)
            ]
            for work in sending:
                work.wait()
            self.sent += rows.nbytes * (self.size - 1)
        return whole

    def swap(self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> Tensor:
        """All-to-all: rows for each process in their order, `counts` of them; returns those from each, in their order.

        expected: rows from each process, where that is known; else it is asked first.
        """
        if self.size == 1:
            return rows
        expected = self.swap_counts(counts) if expected is None else expected
        received = rows.new_empty(sum(expected), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), list(expected), list(counts), group=self.process_group)
        self.sent += (len(rows) - counts[self.rank]) * rows[:1].numel() * rows.element_size()
        return received

    def swap_counts(self, counts: Sequence[int]) -> list[int]:
        """How many rows each process has for this one, by how many this one has for each."""
        told = torch.tensor(counts, dtype=torch.int64, device=self.device)
        received = torch.empty_like(told)
        if self.size == 1:
            return list(counts)
        dist.all_to_all_single(received, told, group=self.process_group)
        self.sent += told.nbytes * (self.size - 1) // self.size
        return received.tolist()

    def to_first(self, rows: Tensor) -> Tensor:
        """On the first process the rows of all, in their order; elsewhere none."""
        return self.swap(rows, [len(rows), *[0] * (self.size - 1)])

    def tell(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, as JSON; an error of mrl there is raised in all."""
        if self.size == 1:
            return make()
        value, fault = None, None
        if self.is_first:
            try:
                value = make()
            except MRLError as error:
                fault = [type(error).__name__, str(error)]
        text = json.dumps([value, fault]).encode() if self.is_first else b""
        data = (
            torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device)
            if text
            else torch.empty(0, dtype=torch.uint8, device=self.device)
        )
        counts = self.each(len(data))
        value, fault = json.loads(self.gather(data, counts).cpu().numpy().tobytes())
        if fault:
            error = getattr(errors, fault[0])(fault[1])
            error.is_shared = True  # all processes raise it, so one may tell
            raise error
        return value

    def pieces(self, rows: Tensor, most: int = PIECE) -> Iterator[Tensor]:
        """On the first process the rows of all, in their order, some at a time; elsewhere nothing, but they are sent.

        Every process has to iterate. most: bytes of a piece, about.
        """
        rows, step = rows.to(self.device), max(1, most // max(1, rows[:1].numel() * rows.element_size()))
        counts = self.each(len(rows))
        if self.is_first:
            yield from rows.split(step) if len(rows) else ()
        for rank in range(1, self.size):
            for start in range(0, counts[rank], step):
                stop = min(start + step, counts[rank])
                if self.rank == rank:
                    dist.send(rows[start:stop].contiguous(), group_dst=0, group=self.process_group)
                    self.sent += rows[start:stop].nbytes
                elif self.is_first:
                    piece = rows.new_empty(stop - start, *rows.shape[1:])
                    dist.recv(piece, group_src=rank, group=self.process_group)
                    yield piece


def join(device: str = "auto") -> Group:
    """The group of all processes that torchrun has started; of this one alone without it.

    Each takes a GPU of its machine by its local rank, where there are enough of them for all.
    """
    if "WORLD_SIZE" not in os.environ:
        return Group(pick_device(device))
    map_large()
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    chosen = pick_device(device)
    if chosen.type == "cuda" and torch.cuda.device_count() < here:
        chosen = torch.device("cpu")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":  # torchrun keeps its store, with addresses of the dead
            store = dist.PrefixStore(os.environ.get(RESTARTED, "0"), store)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return Group(chosen)


def give_back() -> None:
    """Give freed memory back to the system, where that can be asked for: glibc keeps what lies between what is held."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def map_large() -> None:
    """From here on tables of MAPPED bytes and more are mapped one by one, and go back to the system when freed.

    glibc would raise that limit to the largest that was freed, up to 32 MiB, and keep much of what is below.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, MAPPED)  # M_MMAP_THRESHOLD
        ctypes.CDLL(None).mallopt(-1, MAPPED)  # M_TRIM_THRESHOLD, which is no more than 128 KiB from then on


def leave() -> None:
    """Take leave of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
