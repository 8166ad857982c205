"""Lists of items that are gathered in blocks: those of all items in one table, whoever owns how many of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sharded.test_rows import cut

from mrl.data import Positives
from mrl.errors import RunError
from mrl.evaluation import VectorRanking
from mrl.sharded import ranking
from mrl.sharded.group import Group

ITEMS, WIDTHS = 23, (1, 4)


def drawn(seed: int, users: int) -> tuple[torch.Tensor, torch.Tensor, list[Positives]]:
    """Users and items of few different numbers, so that scores tie, and what is hidden."""
    rng = np.random.default_rng(seed)
    tables = [torch.from_numpy(rng.integers(-1, 2, (rows, 4)).astype(np.float32)) for rows in (users, ITEMS)]
    met = [(rng.random((users, ITEMS)) < share).nonzero() for share in (0.2, 0.6)]
    return *tables, [Positives.from_pairs(*pairs, users, ITEMS) for pairs in met]


def lists(group: Group, seed: int, edges: list[int], users: list[int], block: int, k: int) -> bool:
    """Whether own users' lists are those of one table, asked for in calls of at most four."""
    ranking.BLOCK, own = block, users[group.rank]
    rows, items, hidden = drawn(seed + group.rank, own)
    items = drawn(seed, 0)[1]
    owned = cut(ITEMS, sorted(edges)[: group.size - 1], 5, group.rank)
    found = ranking.ShardedRanking(group, rows, items[owned.start : owned.stop], owned, WIDTHS)
    expected, same = VectorRanking(rows, items, WIDTHS), []
    for some in torch.arange(own).split(4) if own else ():
        for one, other in zip(found(some, k, hidden), expected(some, k, hidden), strict=True):
            same.append(one[0] == other[0] and torch.equal(one[1], other[1]) and torch.equal(one[2], other[2]))
    found.finish()
    return all(same)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # processes outlive examples
@given(
    seed=st.integers(0, 99),
    edges=st.lists(st.integers(0, 5), min_size=2, max_size=2),
    users=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    block=st.sampled_from([4, 20, 48, 2**20]),
    k=st.sampled_from([1, 5, 30]),
    size=st.integers(1, 3),
)
def test_lists_of_blocks_are_those_of_one_table(processes, seed, edges, users, block, k, size):
    assert all(processes.run(size, lists, seed, edges, users, block, k))


def failing(group: Group) -> str:
    """What the second process says, whose vectors cannot be ranked; the first one must not wait for it."""
    ranking.BLOCK = 20
    rows, items, hidden = drawn(0, 3)
    owned = cut(ITEMS, [2], 5, group.rank)
    rows = rows * (torch.nan if group.rank else 1.0)
    found = ranking.ShardedRanking(group, rows, items[owned.start : owned.stop], owned, WIDTHS)
    said = ""
    try:
        list(found(torch.arange(3), 2, hidden))
    except RunError as error:
        said = str(error)
    found.finish()
    return said


def test_a_process_that_fails_sends_its_items_all_the_same(processes):
    first, second = processes.run(2, failing)
    assert not first and second.startswith("users, items: NaN")


@pytest.mark.parametrize("block", [2**20, 20])
def test_users_of_a_call(block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", block)
    rows, items, _ = drawn(0, 3)
    found = ranking.ShardedRanking(Group(), rows, items, cut(ITEMS, [], 5, 0), WIDTHS)
    whole = VectorRanking(rows, items, WIDTHS).users_per_batch(20)
    assert found.users_per_batch(20) == (ranking.USERS if block == 20 else whole)
