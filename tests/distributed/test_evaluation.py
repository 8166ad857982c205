"""Evaluation on shards against that of one process which has everything, users without test items included."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from mrl import TrainConfig, load_data
from mrl.distributed.data import load_sharded
from mrl.distributed.evaluation import evaluate
from mrl.errors import RunError
from mrl.evaluation import evaluate as whole
from mrl.sharded import rows
from mrl.sharded.group import Group
from mrl.sharded.rows import share_rows

PLANTED = {"num_users": 200, "num_items": 60, "interactions": 1500, "branching": (3, 3)}  # some have too few items
CONFIG = TrainConfig(dataset="planted", planted=PLANTED, recipe="least_squares")


def vectors() -> list[torch.Tensor]:
    data = load_data(CONFIG)
    sizes = data.num_users, data.num_items
    return [torch.randn(size, 8, generator=torch.Generator().manual_seed(size)) for size in sizes]


def sharded(group: Group, split: str) -> tuple:
    rows.TILE = 300
    data, tables = load_sharded(CONFIG, group), vectors()
    items = share_rows(torch.ones(data.num_items), group)
    own = tables[0][data.users.start : data.users.stop], tables[1][items.start : items.stop]
    result = evaluate(data, own, items, split=split, widths=(2, 8), per_user=True)
    return result.table, result.per_user, result.users


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_metrics_are_those_of_one_process(processes, split, size):
    expected = whole(*vectors(), load_data(CONFIG), split=split, widths=(2, 8), per_user=True)
    found = processes.run(size, sharded, split)
    for table, _, users in found:
        assert table.equals(expected.table) and users == expected.users
    order = ["width", "user", "metric", "k"]
    assert found[0][1].sort(order).equals(expected.per_user.sort(order).select(found[0][1].columns))
    assert isinstance(found[0][1], pl.DataFrame)


def nobody(group: Group) -> str:
    data = load_sharded(CONFIG, group).merge_valid()
    items = share_rows(torch.ones(data.num_items), group)
    own = torch.ones(data.users.stop - data.users.start, 2), torch.ones(items.stop - items.start, 2)
    with pytest.raises(RunError) as error:
        evaluate(data, own, items, split="valid", widths=(2,))
    return str(error.value)


def test_a_split_of_nobody_is_an_error_in_all(processes):
    assert all("nobody in planted has items there" in said for said in processes.run(2, nobody))
