"""Three processes that compute together by gloo: started once for all tests, given one function after the other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import mrl  # noqa: F401  (before torch)
from mrl.sharded import Group


class Processes:
    """`size` processes; `run` calls a function of a module in the first few of them, `end` ends them."""

    def __init__(self, size: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.workers, self.has_ended = [], [], False
        for rank in range(size):
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(there, rank, size, str(folder / "store")), daemon=True)
            worker.start()
            self.pipes.append(here)
            self.workers.append(worker)

    def end(self) -> None:
        self.has_ended = True
        for worker in self.workers:
            worker.terminate()

    def run(self, size: int, function: Callable, *arguments: Any) -> list[Any]:
        """What `function(group, *arguments)` returns in each of the first `size` processes; AssertionError if it fails.

        A process that fails leaves the others waiting: they are ended, and nothing can be run any more.
        """
        for pipe in self.pipes[:size]:
            pipe.send((size, function, arguments))
        results = []
        for rank, pipe in enumerate(self.pipes[:size]):
            fault, result = pipe.recv() if pipe.poll(120) else ("does not answer", None)
            if fault:
                self.end()
                raise AssertionError(f"process {rank}: {fault}")
            results.append(result)
        return results


def _work(pipe: Any, rank: int, size: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    groups = [dist.new_group(list(range(some))) for some in range(1, size + 1)]
    while True:
        some, function, arguments = pipe.recv()
        try:
            pipe.send((None, function(Group(process_group=groups[some - 1]), *arguments)))
        except Exception as error:
            pipe.send((f"{type(error).__name__}: {error}", None))


@pytest.fixture(scope="session")
def started() -> Iterator[list[Processes]]:
    """The processes that there are; none before the first test that needs them."""
    found: list[Processes] = []
    yield found
    for each in found:
        each.end()


@pytest.fixture
def processes(started, tmp_path_factory) -> Processes:
    if not started or started[-1].has_ended:  # a test failed and left them waiting for each other
        started.append(Processes(3, tmp_path_factory.mktemp("processes")))
    return started[-1]
