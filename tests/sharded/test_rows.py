"""Rows shared out by their work, and fetched: against the whole table, over shard counts, empty shards included."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data import Positives
from mrl.runs import peak_memory_mib
from mrl.sharded import rows as rooms
from mrl.sharded.group import Group
from mrl.sharded.rows import Links, Rows, shard, share_rows, swap_pairs, take_own


def drawn(users: int, items: int, count: int, seed: int) -> Positives:
    rng = np.random.default_rng(seed)
    popular = (rng.random(count) ** 2 * items).astype(int)  # few items have most
    return Positives.from_pairs(rng.integers(0, users, count), popular, users, items)


def cut(total: int, edges: list[int], tiles: int, rank: int) -> Rows:
    """Rows in so many tiles, of which the processes own those between the edges."""
    places = np.unique(np.linspace(0, total, tiles + 1).astype(int)).tolist()
    bounds = (*(places[min(edge, len(places) - 1)] for edge in [0, *edges]), total)
    return Rows(tuple(places), bounds, rank)


def fetch_all(group: Group, seed: int, edges: tuple, tiles: int, fetched: int) -> dict:
    """By each process: its links against the whole, from both sides."""
    positives = drawn(23, 17, 90, seed)
    user_edges, item_edges = (sorted(each)[: group.size - 1] for each in edges)
    users, items = cut(23, user_edges, tiles, group.rank), cut(17, item_edges, tiles, group.rank)
    own = positives.take(torch.arange(users.start, users.stop))
    links = Links(group, users, items, own, width=2, fetched=fetched)
    table = torch.arange(34.0).reshape(17, 2) + 1
    seen = []
    for rows, tile, (found,) in links.blocks(table[items.start : items.stop]):
        assert torch.equal(found[-1], torch.zeros(2)), "padding points to zeros"
        assert torch.equal(tile.counts, own.counts[rows])
        for user in range(tile.num_users):
            expected = positives.of(users.start + rows.start + user)
            assert torch.equal(found[tile.of(user).long()], table[expected.long()])
            seen.append(users.start + rows.start + user)
    return {"seen": seen, "parts": len(links.parts), "whole": links.is_whole, "sent": group.sent}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])  # processes outlive examples
@given(
    seed=st.integers(0, 99),
    edges=st.tuples(*[st.lists(st.integers(0, 7), min_size=2, max_size=2)] * 2),
    tiles=st.integers(1, 7),
    fetched=st.sampled_from([2, 12, 1000]),
    size=st.integers(1, 3),
)
def test_links_fetch_the_rows_they_point_to(processes, seed, edges, tiles, fetched, size):
    found = processes.run(size, fetch_all, seed, edges, tiles, fetched)
    assert sorted(user for each in found for user in each["seen"]) == list(range(23)), "every row once"
    assert len({each["parts"] for each in found}) == 1, "or processes would wait for each other for ever"


def test_rows_are_shared_by_work_whatever_their_number(monkeypatch):
    monkeypatch.setattr(rooms, "TILE", 4)
    counts = torch.tensor([100, 1, 1, 1, 1, 1, 1, 1, 90, 0, 0, 0, 1, 1])
    made = {size: share_rows(counts, sized(size)) for size in (1, 2, 3, 5)}
    assert len({each.tiles for each in made.values()}) == 1, "tiles are the same for any number of processes"
    assert all({*each.bounds} <= {*each.tiles} for each in made.values())
    assert 1 <= made[2].bounds[1] <= 8, "one heavy row each"
    many = share_rows(torch.full((5000,), 3), sized(4))
    work = [sum(4 for _ in range(*edge)) for edge in pairwise(many.bounds)]
    assert max(work) < 1.05 * min(work)


@pytest.mark.parametrize("counts", [[], [0, 0], [5]], ids=["none", "idle", "one"])
def test_more_processes_than_rows(counts):
    made = share_rows(torch.tensor(counts, dtype=torch.int64), sized(3))
    assert made.bounds[0] == 0 and made.bounds[-1] == made.total == len(counts)
    assert list(made.bounds) == sorted(made.bounds)


def sized(size: int) -> Group:
    group = Group()
    group.size = size
    return group


def both_sides(group: Group, seed: int) -> list:
    positives = drawn(40, 11, 200, seed)
    own, users = take_own(group, positives)
    made = shard(group, own, users, width=2)
    by_item = [(made.items.start + row, made.by_item) for row in range(made.items.stop - made.items.start)]
    counts = [links.counts[row - made.items.start].item() for row, links in by_item]
    expected = positives.item_counts[made.items.start : made.items.stop].tolist()
    assert counts == expected
    for rows, tile, (ids,) in made.by_item.blocks(torch.arange(users.start, users.stop)[:, None]):
        for item in range(tile.num_users):
            of = positives.users[positives.items == made.items.start + rows.start + item]
            assert ids[tile.of(item).long(), 0].tolist() == of.tolist()
    return made.users.counts


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_shard_has_the_pairs_of_its_users_and_of_its_items(processes, monkeypatch, size):
    assert sum(processes.run(size, both_sides, 3)[0]) == 40


def swapped(group: Group, pairs: np.ndarray, bounds: tuple[int, ...], sent: int) -> np.ndarray:
    """Every process has every size-th of the pairs, and gives them in three pieces, of which some are empty."""
    mine = torch.from_numpy(pairs[group.rank :: group.size])
    pieces = ((piece[:, 0], piece[:, 1]) for piece in mine.split([0, len(mine) // 3, len(mine) - len(mine) // 3]))
    with patch.object(rooms, "SENT", sent):
        return swap_pairs(group, Rows(bounds, bounds, group.rank), 50, pieces, len(pairs))


@pytest.mark.parametrize("bounds", [(0, 40), (0, 7, 40), (0, 0, 21, 40), (0, 40, 40, 40)], ids=str)
@pytest.mark.parametrize("sent", [1, 7, 1000])
def test_distinct_pairs_come_to_the_owners_of_their_rows_in_order(processes, bounds, sent):
    pairs = np.random.default_rng(0).integers(0, 40, (300, 2)).astype(np.int32)
    found = processes.run(len(bounds) - 1, swapped, pairs, bounds, sent)
    expected = np.unique(pairs[:, 0] * 50 + pairs[:, 1])
    for start, stop, own in zip(bounds[:-1], bounds[1:], found, strict=True):
        assert np.array_equal(own, expected[(expected >= start * 50) & (expected < stop * 50)])


def peak_of_shard(group: Group, pairs: int) -> float:
    """Bytes a pair at the peak, beside what was there."""
    own = Positives(torch.arange(0, pairs + 1, 100), torch.arange(pairs, dtype=torch.int32) % 1000 + 1, 1001)
    own, users = take_own(group, own)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory_mib()
    with patch.object(rooms, "SENT", 2**16):
        shard(group, own, users, width=2)
    return (peak_memory_mib() - before) * 2**20 / pairs


def test_a_shard_takes_little_memory_while_it_is_made(processes):
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        assert processes.run(1, peak_of_shard, 4 * 10**6)[0] < 20, "its own, the key of each pair, and the other side's"
        return
    pytest.skip("this system does not tell the most memory anew")


def fetching_rule(group: Group, dense: bool) -> bool:
    """Whether all is gathered, where each process needs most rows of the other side, or few of them."""
    total = 300
    users, items = (cut(total, [1, 2][: group.size - 1], 3, group.rank) for _ in range(2))
    near = np.arange(total)
    pairs = (np.repeat(near, total), np.tile(near, total)) if dense else (near, near)
    own = Positives.from_pairs(*pairs, total, total).take(torch.arange(users.start, users.stop))
    links = Links(group, users, items, own, width=4)
    before = group.sent
    list(links.blocks(torch.ones(items.stop - items.start, 4)))
    return links.is_whole, group.sent - before


def test_all_is_gathered_only_where_most_of_it_is_needed(processes):
    assert processes.run(3, fetching_rule, True) == [(True, 100 * 4 * 4 * 2)] * 3
    assert processes.run(3, fetching_rule, False) == [(False, 0)] * 3
