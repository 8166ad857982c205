"""Parquet folders read by shards: the same data in any number of processes, and against what `build` makes of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from settings import train_config

from mrl import TrainConfig
from mrl.data import Interactions, Positives, build
from mrl.distributed import parquet
from mrl.distributed.data import load_sharded
from mrl.errors import MRLError
from mrl.files import read_log
from mrl.sharded import rows
from mrl.sharded.group import Group


def log(rows: int = 4000, seed: int = 0) -> pl.DataFrame:
    """Some pairs more than once, some rated low; ids with gaps."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 120, rows)
    items = (rng.random(rows) ** 2 * 60).astype(int)
    return pl.DataFrame({"user_id": users * 7 + 3, "item_id": items * 10**10, "rating": rng.integers(1, 6, rows) / 1})


def write(folder: Path, frame: pl.DataFrame, parts: int) -> Path:
    """In parts of unequal length, one of them empty, in hive partitions."""
    edges = [0, *sorted(np.random.default_rng(1).integers(0, len(frame), parts - 1).tolist()), len(frame)]
    for number, (start, stop) in enumerate(pairwise(edges)):
        inside = folder / f"year={2020 + number % 2}"
        inside.mkdir(parents=True, exist_ok=True)
        frame[start:stop].write_parquet(inside / f"part-{number:05d}-c0ffee.snappy.parquet")
    (folder / "_SUCCESS").write_text("")
    frame.clear().write_parquet(folder / "year=2020" / "part-00099-c0ffee.snappy.parquet")
    return folder


def loaded(group: Group, config: TrainConfig, chunk: int) -> tuple:
    parquet.CHUNK, rows.TILE = chunk, 300
    try:
        data = load_sharded(config, group)
        splits = [None if part is None else (part.users + data.users.start, part.items) for part in
                  (data.own.train, data.own.valid, data.own.test, data.own.dropped)]  # fmt: skip
        splits = [None if part is None else [table.tolist() for table in part] for part in splits]
        return data.users.counts, splits, data.user_ids, data.item_ids, data.notes, data.fingerprint
    except MRLError as error:
        return type(error).__name__, str(error)


def together(shards: list[tuple]) -> Interactions:
    counts, _, user_ids, item_ids, notes, _ = shards[0]
    size, parts = (sum(counts), len(item_ids)), []
    for part in range(4):
        pairs = [shard[1][part] for shard in shards]
        if pairs[0] is None:
            parts.append(None)
            continue
        parts.append(Positives.from_pairs(*(np.concatenate([each[side] for each in pairs]) for side in (0, 1)), *size))
    return Interactions("mine", *parts[:3], user_ids, item_ids, None, notes, parts[3])


@pytest.mark.parametrize(("kind", "chunk"), [("numbers", 300), ("text", 300), ("text", 10**6), ("rated", 10**6)])
def test_any_number_of_processes_reads_the_same(processes, tmp_path, kind, chunk):
    frame = log()
    if kind == "text":
        frame = frame.with_columns(user_id="u" + pl.col("user_id").cast(pl.String))
    folder = write(tmp_path / "mine", frame, 5)
    min_rating = 3.0 if kind == "rated" else None
    config = train_config(dataset=str(folder), min_rating=min_rating, test_fraction=0.25, valid_fraction=0.1, seed=2)
    shards = {size: processes.run(size, loaded, config, chunk) for size in (1, 2, 3)}
    made = {size: together(each) for size, each in shards.items()}
    for size in (2, 3):
        assert made[size].fingerprint == made[1].fingerprint == shards[size][0][-1] == shards[1][0][-1]
        assert max(map(len, (shard[1][0][0] for shard in shards[size]))) < 0.8 * len(made[1].train)
    notes: list[str] = []
    read = read_log(folder, user_column="user_id", item_column="item_id", rating_column="rating", notes=notes)
    whole = build(read, name="mine", min_rating=min_rating, test_fraction=0.25, seed=2)
    data = made[1]
    assert np.array_equal(data.user_ids, whole.user_ids) and np.array_equal(data.item_ids, whole.item_ids)
    assert data.merge_valid().train.union(data.test) == whole.train.union(whole.test)
    assert data.test.counts.equal(whole.test.counts), "as many of each user as in one process"
    assert not set(data.train.keys().tolist()) & set(data.test.keys().tolist())
    assert len(data.valid) > 0.07 * len(data.train)
    assert (data.dropped is None) == (whole.dropped is None) == (min_rating is None)
    assert data.dropped is None or data.dropped == whole.dropped
    assert any("repeated interactions merged" in note for note in data.notes)


def test_another_seed_holds_out_others(processes, tmp_path):
    folder = write(tmp_path / "mine", log(), 2)
    tests = [processes.run(1, loaded, train_config(dataset=str(folder), seed=seed), 10**6)[0][1][2] for seed in (0, 1)]
    assert tests[0] != tests[1]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"split": "leave_last"}, "split='leave_last': shards are split at random; take split='random', or processes="),
        ({"core": 5}, "core=5: is not sharded; take core=1"),
        ({"min_rating": 9}, "no interactions left with min_rating=9"),
        ({"user_column": "who"}, "no column 'who'"),
    ],
    ids=["split", "core", "rating", "column"],
)
def test_what_shards_do_without_is_refused(processes, tmp_path, settings, said):
    folder = write(tmp_path / "mine", log(), 2)
    for error, line in processes.run(2, loaded, train_config(dataset=str(folder), **settings), 10**6):
        assert error in ("ConfigError", "DataError") and said in line


def test_a_damaged_part_is_named(processes, tmp_path):
    folder = write(tmp_path / "mine", log(), 2)
    part = next(folder.glob("*/part-00001*"))
    part.write_bytes(part.read_bytes()[:-100])
    ((error, line),) = processes.run(1, loaded, train_config(dataset=str(folder)), 10**6)
    assert error == "DataError" and "part-00001" in line and "not a whole Parquet file" in line
