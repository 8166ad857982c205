"""Memory of a training in several processes, measured as it is started, on data that outweigh the program.

Each number of processes trains least squares with given settings on a Parquet folder of planted data: torchrun starts
them anew for each size, so that nothing else is in their memory.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from mrl.benchmark.parts import write_planted
from mrl.benchmark.scale import ScaleConfig, levels_of
from mrl.config import TrainConfig
from mrl.distributed.cost import EVALUATION_MEMORY, MEMORY, Load
from mrl.distributed.launch import start
from mrl.runs import Progress, load
from mrl.sharded.group import Group

PARTS = 16  # files of a folder
GIVEN = {"search": "none", "sweeps": 1, "rotation": False, "propagation": (0.5, 0.0)}


def measure_sharded_memory(config: ScaleConfig) -> pl.DataFrame:
    """A row for each of memory_sizes, memory_held_out, and number of processes.

    Columns: those of `Load`; held_out; `memory` until the vectors are there and `evaluation memory`, bytes, the most of
    a process; the latter null where it is not above the former, and so not seen.
    """
    rows = []
    for size in sorted((*config.memory_sizes, config.memory_held_out)):
        users, items = config.at_large(size)
        settings = {"num_users": users, "num_items": items, "interactions": size, "branching": (2,)}
        with TemporaryDirectory() as folder:
            data = str(Path(folder, "planted"))
            write_planted(Group(), data, min(PARTS, users), settings | {"seed": config.seed})
            for processes in config.processes:
                row = _measure(config, data, processes, str(Path(folder, f"run-{processes}")))
                rows.append(row | {"held_out": size == config.memory_held_out})
    return pl.DataFrame(rows, schema_overrides={EVALUATION_MEMORY: pl.Int64})


def _measure(config: ScaleConfig, dataset: str, processes: int, run_dir: str) -> dict:
    width = config.memory_width
    training = TrainConfig(
        dataset=dataset, recipe="least_squares", protocol="paper", widths=levels_of(width), seed=config.seed,
        least_squares=GIVEN | {"fit_width": width}, processes=processes, run_dir=run_dir, device="cpu",
    )  # fmt: skip
    start(training, Progress(shown=False))
    run = load(run_dir)
    fitted, whole = (max(run.environment[f"{name}_memory_mib_by_process"]) for name in ("fit", "peak"))
    users, items = (len(run.weights[side]) for side in ("users", "items"))
    sizes = {"users": users, "items": items, "interactions": len(run.seen), "width": width, "processes": processes}
    row = {field.name: sizes.get(field.name, field.default) for field in fields(Load)}
    return row | {MEMORY: fitted * 2**20, EVALUATION_MEMORY: whole * 2**20 if whole > fitted else None}
