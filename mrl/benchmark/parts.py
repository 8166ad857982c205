"""Planted data of any size, as a folder of Parquet parts that no process ever holds whole.

Every part has users of its own in the one taxonomy, and is drawn by the seed and its number alone: any number of
processes, each of which writes some of them, makes the same folder. `mrl.distributed.parquet` reads it by shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mrl.data import planted
from mrl.errors import ConfigError
from mrl.sharded.group import Group


def write_planted(group: Group, folder: str | Path, parts: int, settings: Mapping[str, Any]) -> list[str]:
    """Write every group.size-th part; the paths, of this process alone. Started by `mrl.benchmark.scale.in_processes`.

    settings: of `mrl.data.planted`, with num_users, num_items and interactions of all parts together. Each has as many
    users as any other, within one, and interactions in proportion. Columns user and item, as of `Planted.log`.
    """
    users, interactions = settings["num_users"], settings["interactions"]
    if not 1 <= parts <= users:
        raise ConfigError(f"parts={parts}: must be from 1 to the {users} users")
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(group.rank, parts, group.size):
        first, last = users * part // parts, users * (part + 1) // parts
        share = interactions * last // users - interactions * first // users
        made = planted(**{**settings, "num_users": last - first, "interactions": share}, part=part)
        path = folder / f"part-{part:05d}.parquet"
        made.log.with_columns(pl.col("user") + first).write_parquet(path)
        paths.append(str(path))
    return paths
