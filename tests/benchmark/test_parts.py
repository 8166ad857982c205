"""Planted data in Parquet parts: the same whoever writes them, one taxonomy, as many users and pairs as asked for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mrl.benchmark.parts import write_planted
from mrl.benchmark.scale import in_processes
from mrl.data import planted
from mrl.errors import ConfigError
from mrl.sharded import Group

SETTINGS = {"num_users": 701, "num_items": 90, "interactions": 9001, "branching": (3, 3), "seed": 4, "noise": 0.0}


def of_size(rank: int, size: int) -> Group:
    group = Group()
    group.rank, group.size = rank, size
    return group


def test_any_number_of_processes_writes_the_same_parts(tmp_path):
    written = {}
    for size in (1, 2, 3):
        folder = tmp_path / str(size)
        paths = [path for rank in range(size) for path in write_planted(of_size(rank, size), folder, 5, SETTINGS)]
        assert sorted(paths) == sorted(map(str, folder.iterdir())) and len(paths) == 5
        written[size] = pl.read_parquet(folder / "*.parquet")
    assert written[1].equals(written[2]) and written[1].equals(written[3])


def test_parts_share_the_taxonomy_and_are_as_many_pairs_as_asked_for(tmp_path):
    write_planted(Group(), tmp_path, 5, SETTINGS)
    log, first = pl.read_parquet(tmp_path / "*.parquet"), planted(**SETTINGS)
    assert len(log) == len(log.unique()) == 9001
    assert log["user"].unique().sort().to_list() == list(range(701))
    leaf = first.clusters[:, -1]
    home = first.clusters[:, 0]
    by_user = pl.DataFrame({"user": log["user"], "branch": home[log["item"].to_numpy()]})
    assert (by_user.group_by("user").agg(pl.col("branch").n_unique())["branch"] == 1).all(), "without noise all at home"
    counts = [pl.read_parquet(tmp_path / f"part-0000{part}.parquet")["item"].to_numpy() for part in range(5)]
    popular = np.corrcoef([np.bincount(items, minlength=90) for items in counts])
    assert popular.min() > 0.8, "the same items are popular everywhere"
    of_users = [np.bincount(leaf[items], minlength=9) for items in counts]
    assert not any(np.array_equal(of_users[0], other) for other in of_users[1:]), "of other users"


def test_processes_that_are_started_write_it(tmp_path):
    paths = in_processes(2, write_planted, str(tmp_path), 3, SETTINGS)
    assert [len(each) for each in paths] == [2, 1] and all("part-0000" in path for each in paths for path in each)


@pytest.mark.parametrize("parts", [0, 702])
def test_impossible_numbers_of_parts_are_named(tmp_path, parts):
    with pytest.raises(ConfigError, match=f"parts={parts}: must be from 1 to the 701 users"):
        write_planted(Group(), tmp_path, parts, SETTINGS)
