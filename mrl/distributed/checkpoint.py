"""Checkpoints of a run on shards: by `torch.distributed.checkpoint`, resumed by any number of processes.

Every process writes its own rows tile by tile, as safetensors, into a new folder, and reads those it owns then: tiles
do not depend on how many there are. What else a run knows, and which folder counts, stands in `checkpoint.safetensors`,
which the first process renames into its place once all have written.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.distributed.data import ShardedData
from mrl.errors import RunError
from mrl.runs import RunDirectory, check_compatible, run_path
from mrl.sharded.group import RESTARTED, give_back
from mrl.sharded.rows import Rows
from mrl.train import identity

FILE = 2**24  # bytes of a file of tiles, about: while it is written, two copies of it are in memory


class Checkpoint:
    """What a run goes on from: its state (JSON), and factors. All processes call what does not say otherwise."""

    def __init__(self, config: TrainConfig, data: ShardedData) -> None:
        self.identity, self.group, self.saved, self.is_kept = identity(config, data), data.group, 0, True
        self.identity["settings"]["sharded"] = True  # what one process keeps is something else
        self.path = run_path(config).resolve()
        self.resume = config.resume or os.environ.get(RESTARTED, "0") != "0"  # what is started again does in any case

    def find(self, directory: RunDirectory) -> dict:
        """In the first process: what to go on from, {} for nothing. RunError where it is of another run, or damaged."""
        self.directory = directory
        _, state = (self.resume and directory.load_checkpoint()) or (None, {})
        if state:
            check_compatible(state, **self.identity)
        self.leave(state.get("saved"))
        return state

    def begin(self, state: Mapping) -> list[str]:
        """With what the first process has found; notes: nothing is kept where some do not see its folder."""
        self.saved = state.get("saved", 0)
        self.is_kept = all(self.group.each(int((self.path / "config.json").exists())))
        return [] if self.is_kept else [f"no checkpoints: not every process sees {self.path}; give a shared run_dir"]

    def save(self, state: Mapping, sides: Sequence[Rows], factors: Sequence[Tensor]) -> None:
        """Where it `is_kept`. RunError where that fails; what was kept before is whole then."""
        self.saved += 1
        if factors:
            self._call("save", "could not be saved", "make room and resume", sides, factors)

        def point() -> None:
            self.directory.save_checkpoint({}, self.identity | dict(state) | {"saved": self.saved})
            self.leave(self.saved)

        self.group.tell(point)
        give_back()

    def load(self, sides: Sequence[Rows], width: int) -> list[Tensor]:
        """Own factors, so wide, as they were kept last. RunError where they are not whole."""
        factors = [torch.empty(side.stop - side.start, width, device=self.group.device) for side in sides]
        self._call("load", "is not whole", "give resume=False to start over", sides, factors)
        return factors

    def leave(self, saved: int | None = None) -> None:
        """In the first process: remove all but this one, in the end all."""
        if saved is None:
            self.directory.drop_checkpoint()
        for folder in {*self.path.glob("checkpoint-*")} - {self.path / f"checkpoint-{saved}"}:
            shutil.rmtree(folder, ignore_errors=True)

    def _call(self, do: str, fault: str, remedy: str, *tables: Sequence) -> None:
        """Save or load own tiles, each named by its side and its first row."""
        import torch.distributed.checkpoint as dcp  # half as long to import as torch, and nobody else needs it

        pairs, path = list(enumerate(zip(*tables, strict=True))), str(self.path / f"checkpoint-{self.saved}")
        tiles = {f"{n}.{rows.start + own.start}": table[own] for n, (rows, table) in pairs for own in rows.own_tiles}
        if do == "save":
            storage = {"storage_writer": dcp.HuggingFaceStorageWriter(path, _files(pairs), save_distributed=True)}
        else:
            storage = {"storage_reader": dcp.HuggingFaceStorageReader(path)}
        try:
            with warnings.catch_warnings(action="ignore"):  # that one process is alone
                getattr(dcp, do)(tiles, **storage, process_group=self.group.process_group, no_dist=self.group.size == 1)
        except dcp.CheckpointException as failed:
            why = str(next(iter(failed.failures.values()))[0]).partition("\n")[0]
            error = RunError(f"{path}: {fault} ({why[:200]}); {remedy}")
            error.is_shared = True  # all processes raise it
            raise error from None


def _files(pairs: Iterable[tuple[int, tuple[Rows, Tensor]]]) -> dict[str, int]:
    """In which file each tile of all processes is, from 1."""
    files, written = {}, 0
    for n, (rows, table) in pairs:
        for first, last in pairwise(rows.tiles):
            files[f"{n}.{first}"] = 1 + written // FILE
            written += (last - first) * table.shape[1] * table.element_size()
    return files
