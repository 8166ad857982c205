"""Checkpoints of a run on shards: by `torch.distributed.checkpoint`, resumed by any number of processes.

Every process writes its own rows tile by tile, as safetensors, into a new folder, and reads those it owns then: tiles
do not depend on how many processes there are. What else a run knows stands in `checkpoint.safetensors`, which the first
process renames into its place once all have written. It names the folder: at any moment the last whole one counts.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from mrl.config import ELSEWHERE, TrainConfig
from mrl.distributed.data import ShardedData
from mrl.distributed.group import RESTARTED
from mrl.distributed.rows import Rows
from mrl.errors import RunError
from mrl.least_squares.ials import Factors
from mrl.runs import RunDirectory, check_compatible, run_path

FOLDER = "checkpoint-"  # and how many were saved before
Tables = Mapping[str, tuple[Rows, Tensor]]  # by name: whose rows are whose, and own rows


class Checkpoint:
    """What a run goes on from: state (JSON), and tables. All processes call what does not say otherwise."""

    def __init__(self, config: TrainConfig, data: ShardedData) -> None:
        settings = {name: value for name, value in config.to_dict().items() if name not in ELSEWHERE}
        settings["sharded"] = True  # what one process keeps is something else
        self.identity = {"fingerprint": data.fingerprint, "widths": config.widths, "settings": settings}
        self.group, self.path, self.resume = data.group, run_path(config).resolve(), config.resume
        self.saved, self.is_kept = 0, True
        self.directory: RunDirectory | None = None  # in the first process

    def find(self, directory: RunDirectory) -> dict[str, Any]:
        """In the first process: the state that is there; {} where there is none, or it is not to be resumed.

        What torchrun starts again resumes in any case. RunError where it is of other settings or data, or damaged.
        """
        self.directory = directory
        is_wanted = self.resume or os.environ.get(RESTARTED, "0") != "0"
        state = (directory.load_checkpoint() or ({}, {}))[1] if is_wanted else {}
        if state:
            check_compatible(state, **self.identity)
        self.leave(state.get("saved"))
        return state

    def begin(self, state: Mapping[str, Any]) -> list[str]:
        """With what the first process has found; notes: nothing is kept where some do not see its folder."""
        self.saved = state.get("saved", 0)
        self.is_kept = all(self.group.each(int((self.path / "config.json").exists())))
        return [] if self.is_kept else [f"no checkpoints: not every process sees {self.path}; give a shared run_dir"]

    def save(self, state: Mapping[str, Any], tables: Tables) -> None:
        """RunError where that fails; what was kept before is whole then."""
        if not self.is_kept:
            return
        self.saved += 1
        if tables:
            writer = dcp.HuggingFaceStorageWriter(self._folder, save_distributed=True)
            self._call(dcp.save, "could not be saved", "make room and resume", tables, storage_writer=writer)

        def point() -> None:
            self.directory.save_checkpoint({}, self.identity | dict(state) | {"saved": self.saved})
            self.leave(self.saved)

        self.group.tell(point)

    def load(self, sides: Mapping[str, Rows], width: int) -> Factors:
        """Own rows of the tables that were kept last, by name, so wide. RunError where they are not whole."""
        tables = {
            name: (rows, torch.empty(rows.stop - rows.start, width, dtype=torch.float32, device=self.group.device))
            for name, rows in sides.items()
        }
        reader = dcp.HuggingFaceStorageReader(self._folder)
        self._call(dcp.load, "is not whole", "give resume=False to start over", tables, storage_reader=reader)
        return tuple(table for _, table in tables.values())

    @property
    def _folder(self) -> str:
        return str(self.path / f"{FOLDER}{self.saved}")

    def leave(self, saved: int | None = None) -> None:
        """In the first process: remove all but this one, in the end all."""
        if saved is None:
            self.directory.drop_checkpoint()
        for folder in self.path.glob(f"{FOLDER}*"):
            if folder.name != f"{FOLDER}{saved}":
                shutil.rmtree(folder, ignore_errors=True)

    def _call(self, function: Callable, fault: str, remedy: str, tables: Tables, **storage: Any) -> None:
        """Save or load own tiles, each named by its first row."""
        tiles = {
            f"{name}.{rows.start + tile.start}": table[tile]
            for name, (rows, table) in tables.items()
            for tile in rows.own_tiles
        }
        try:
            with warnings.catch_warnings(action="ignore"):  # that one process is alone
                function(tiles, **storage, process_group=self.group.process_group, no_dist=self.group.size == 1)
        except dcp.CheckpointException as failed:
            why = str(next(iter(failed.failures.values()))[0]).partition("\n")[0]
            error = RunError(f"{self._folder}: {fault} ({why[:200]}); {remedy}")
            error.is_shared = True  # all processes raise it
            raise error from None
