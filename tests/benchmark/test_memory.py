"""Memory of trainings that torchrun starts: measured at a size, of what they make."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from mrl import TrainConfig
from mrl.benchmark import memory
from mrl.benchmark.scale import ScaleConfig
from mrl.distributed import launch
from mrl.distributed.cost import EVALUATION_MEMORY, MEMORY, Load


def test_a_size_is_measured_in_as_many_processes_as_are_asked_for(monkeypatch):
    config = ScaleConfig(
        memory_sizes=(20_000,), memory_held_out=30_000, processes=(2,), memory_width=8, large_users=10**6
    )
    started, threads = [], str(torch.get_num_threads())

    def start(training: TrainConfig, progress: object) -> None:
        """In this process, which saves the start of others; `tests/test_notebooks.py` starts some."""
        started.append(training)
        assert launch.run(launch.arguments(training), {"OMP_NUM_THREADS": threads}) == 0

    monkeypatch.setattr(memory, "start", start)
    table = memory.measure_sharded_memory(config)
    assert table["held_out"].to_list() == [False, True] and [each.processes for each in started] == [2, 2]
    assert table["interactions"].to_list() == pytest.approx([16_000, 24_000], rel=0.02), "a fifth is held out"
    assert table.select("width", "processes", "machines", "long").unique().rows() == [(8, 2, 1, 0)]
    loads = table.select("users", "items", "interactions", "width", "processes").rows()
    program = table[MEMORY] - pl.Series([Load(*row).held() for row in loads])
    assert (program > 100 * 2**20).all() and (table[EVALUATION_MEMORY].drop_nulls() > 100 * 2**20).all()
