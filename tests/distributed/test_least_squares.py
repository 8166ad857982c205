"""Least squares on shards: the vectors are the same bit for bit in any number of processes, and those of one process
that has everything up to rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_threads import run

from mrl import TrainConfig
from mrl.data import Positives
from mrl.data.synthetic import planted
from mrl.distributed import least_squares
from mrl.least_squares import fit_least_squares as whole_fit
from mrl.least_squares.ials import spectral_start
from mrl.sharded import rows
from mrl.sharded.group import Group
from mrl.sharded.rows import shard, take_own

GIVEN = {"alpha0": 0.1, "frequency_l2": 0.01, "nu": 1.0, "sweeps": 2, "l2_width_exponent": 0.3}


def config(fit_width: int, nested_sweeps: int = 0) -> TrainConfig:
    settings = {**GIVEN, "fit_width": fit_width, "nested_sweeps": nested_sweeps}
    return TrainConfig(recipe="least_squares", widths=(2, 4, 8), least_squares=settings, seed=3)


def interactions(users: int, items: int, count: int, seed: int = 0) -> Positives:
    return planted(users, items, count, (3, 3), seed=seed).positives


def fitted(group: Group, positives: Positives, settings: TrainConfig, tile: int, fetched: int) -> tuple:
    rows.TILE = tile
    own, users = take_own(group, positives)
    made = shard(group, own, users, width=settings.least_squares.fit_width, fetched=fetched)
    factors = least_squares.fit_least_squares(settings, made)
    sides = zip(factors, (made.users, made.items), strict=True)
    return tuple(group.gather(table, side.counts).numpy() for table, side in sides)


# few tiles: of three processes some have no users or no items; little fetched: in several parts
@pytest.mark.parametrize("tile, fetched", [(200, 2**20), (200, 100), (1500, 2**20), (10**6, 2**20)])
@pytest.mark.parametrize("nested", [0, 1])
def test_any_number_of_processes_gives_the_same_vectors(processes, tile, fetched, nested):
    positives, settings = interactions(150, 60, 3000), config(12, nested)
    one, two, three = (processes.run(size, fitted, positives, settings, tile, fetched)[0] for size in (1, 2, 3))
    for found in (two, three):
        assert all(np.array_equal(*pair) for pair in zip(found, one, strict=True))
    expected = whole_fit(settings, positives)
    for found, table in zip(one, expected, strict=True):
        assert np.linalg.norm(found - table.numpy()) < 1e-5 * table.norm()
    scores, expected = one[0] @ one[1].T, (expected[0] @ expected[1].T).numpy()
    assert np.abs(scores - expected).max() < 1e-5


Edges = tuple[list[float], list[float]]  # where the shares of users and of items end, from 0 to 1


def cut(edges: Edges, size: int, seed: int, nested: int, tile: int, fetched: int) -> tuple:
    """Vectors of so many shards, in threads, whose users and items are shared out between the edges."""
    positives, kept = interactions(80, 40, 900, seed), rows.share_rows

    def share(counts, group: Group) -> rows.Rows:
        made, shares = kept(counts, group), edges[len(counts) == positives.num_items]
        places = [made.tiles[round(share * (len(made.tiles) - 1))] for share in sorted(shares[: size - 1])]
        return replace(made, bounds=(0, *places, made.total))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "TILE", tile)
        patch.setattr(rows, "share_rows", share)
        found = run(size, fitted, positives, config(12, nested), tile, fetched)
    assert all(np.array_equal(*pair) for each in found for pair in zip(each, found[0], strict=True))
    return found[0]


@cache
def uncut(seed: int, nested: int, tile: int) -> tuple:
    """Vectors of one shard, and of one process without shards."""
    whole = whole_fit(config(12, nested), interactions(80, 40, 900, seed))
    return cut(([], []), 1, seed, nested, tile, 2**20), [table.numpy() for table in whole]


edges = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@settings(max_examples=30)
@given(
    edges=st.tuples(edges, edges),
    size=st.integers(1, 5),
    seed=st.integers(0, 9),
    nested=st.integers(0, 1),
    tile=st.sampled_from([50, 200, 10**6]),  # many tiles, some, one: where a shard of two has all
    fetched=st.sampled_from([100, 2**20]),
)
def test_vectors_are_the_same_however_rows_are_shared_out(edges, size, seed, nested, tile, fetched):
    one, whole = uncut(seed, nested, tile)
    for found, alone, table in zip(cut(edges, size, seed, nested, tile, fetched), one, whole, strict=True):
        assert np.array_equal(found, alone)
        assert np.linalg.norm(found - table) < 1e-5 * np.linalg.norm(table)


def sent(group: Group, positives: Positives, sweeps: int) -> tuple[int, bool]:
    rows.TILE = 500
    own, users = take_own(group, positives)
    made = shard(group, own, users, width=16)
    factors, before = least_squares.spectral_start(made, 16), group.sent
    least_squares.ials(made, factors, alpha0=0.1, l2=0.01, nu=1.0, sweeps=sweeps)
    return group.sent - before, made.by_user.is_whole and made.by_item.is_whole


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sweep_sends_what_the_formula_says(processes, size):
    positives = interactions(900, 200, 60_000)
    found = processes.run(size, sent, positives, 3)
    assert all(whole for _, whole in found)
    expected = 3 * least_squares.bytes_of_sweep(900, 200, 16, size)
    assert abs(sum(count for count, _ in found) - expected) <= 0.05 * expected


def started(group: Group, positives: Positives) -> tuple:
    own, users = take_own(group, positives)
    made = shard(group, own, users, width=8)
    users, items = least_squares.spectral_start(made, 8, seed=5)
    return float(users.abs().sum()), group.gather(items, made.items.counts).numpy()


@pytest.mark.parametrize("size", [1, 3])
def test_it_starts_where_one_process_starts(processes, size):
    positives = interactions(150, 60, 3000)
    zero, items = processes.run(size, started, positives)[0]
    expected = spectral_start(positives, 8, seed=5)[1].numpy()
    assert zero == 0.0
    # columns may be mixed by rounding where singular values are close: what they span is the same
    assert np.abs(items @ items.T - expected @ expected.T).max() < 1e-4
