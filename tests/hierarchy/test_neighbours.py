"""Neighbours at each width: known values, slow loops, ties, chance."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taxonomy import WIDTHS, at_chance, shuffled_within_columns, taxonomy, value

from mrl.errors import ConfigError
from mrl.hierarchy import neighbours as rooms
from mrl.hierarchy.clusters import membership
from mrl.hierarchy.neighbours import (
    find_nearest,
    list_neighbours,
    list_top_k,
    neighbour_jaccard,
    neighbour_overlap,
    top_columns,
)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**20))
def test_largest_ties_by_column(rows, columns, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (rows, columns)).astype(float)
    k = int(rng.integers(1, columns + 1))
    slow = [sorted(range(columns), key=lambda c, row=row: (-row[c], c))[:k] for row in scores]
    assert top_columns(scores, k).tolist() == slow


@pytest.mark.parametrize("normalise", [True, False])
def test_nearest_equals_a_slow_loop_for_any_chunk(normalise):
    items = np.random.default_rng(0).normal(size=(30, 6))
    neighbours = find_nearest(items, (2, 6), 4, normalise=normalise, chunk=7)
    assert (neighbours == find_nearest(items, (2, 6), 4, normalise=normalise)).all()
    for width, table in zip((2, 6), neighbours, strict=True):
        prefix = items[:, :width]
        for i in range(30):
            near = prefix @ prefix[i] / np.linalg.norm(prefix, axis=1)
            near = near if normalise else -np.linalg.norm(prefix - prefix[i], axis=1)
            order = [j for j in np.argsort(-near) if j != i][:4]
            assert table[i].tolist() == order
    with pytest.raises(ConfigError, match="k=30"):
        find_nearest(items, (2,), 30)


def test_jaccard_perfect_and_at_chance():
    items, labels = taxonomy()
    has_label, _ = membership(labels["depth_1"])
    near = find_nearest(items, WIDTHS, 5)
    table = neighbour_jaccard(near, WIDTHS, has_label, label="depth_1")
    assert value(table, width=4) == 1
    assert value(table, "chance", width=4) == pytest.approx(31 / 127, abs=0.02)  # 31 of the other 127 are alike
    lost = neighbour_jaccard(find_nearest(shuffled_within_columns(items), WIDTHS, 5), WIDTHS, has_label)
    assert all(at_chance(row) for row in lost.iter_rows(named=True))


def test_jaccard_of_multi_labels_equals_a_slow_loop_and_skips_unlabelled():
    rng = np.random.default_rng(0)
    has_label, near = rng.random((20, 5)) < 0.3, rng.integers(0, 20, (1, 20, 3))
    pairs = [(i, j) for i in range(20) for j in near[0, i] if has_label[i].any() and has_label[j].any()]
    slow = [(has_label[i] & has_label[j]).sum() / (has_label[i] | has_label[j]).sum() for i, j in pairs]
    assert len(pairs) < 60
    assert value(neighbour_jaccard(near, (4,), has_label, permutations=2)) == pytest.approx(np.mean(slow))


def test_overlap_known_values_and_exact_chance():
    same = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    other = np.array([[2, 3], [2, 0], [3, 1], [2, 3]])  # shares 1, 2, 1, 0 of 2
    table = neighbour_overlap(np.stack([same, other]), (4, 8))
    assert value(table, width=8, other_width=4) == 0.5
    assert value(table, width=4, other_width=4) == 1
    assert value(table, "chance", width=8, other_width=4) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    unrelated = np.stack([find_nearest(rng.normal(size=(300, 4)), (4,), 10)[0] for _ in range(2)])
    table = neighbour_overlap(unrelated, (4, 8))
    assert value(table, width=8, other_width=4) == pytest.approx(10 / 299, rel=0.25)


def test_one_items_neighbours_as_the_width_grows():
    items = np.array([[1, 0, 0.0], [1, 0.1, 5], [1, 1, 0], [0.5, 0.2, 0.1]])
    labels = pl.DataFrame({"title": ["query", "far when wide", None, "near"]})
    table = list_neighbours(items, (2, 3), 0, 2, labels=labels, item_ids=np.array(["a", "b", "c", "d"], dtype=object))
    assert table["query"].unique().to_list() == ["query"]
    assert table["item"].to_list() == ["b", "d", "d", "c"]
    assert table["title"].to_list() == ["far when wide", "near", "near", "c"]  # no title: the raw id
    assert table["new"].to_list() == [None, None, False, True]
    assert table["rank"].to_list() == [1, 2, 1, 2]
    with pytest.raises(ConfigError, match="row=4"):
        list_neighbours(items, (2, 3), 4)


def test_one_users_top_k_leaves_out_what_is_known_and_never_invents():
    items = np.array([[3, 0], [2, 0], [1, 9], [0, 0.0]])
    table = list_top_k(np.array([1.0, 1.0]), items, (1, 2), 2, exclude=[0])
    assert table["item"].to_list() == [1, 2, 2, 1]
    assert table["score"].to_list() == [2, 1, 10, 2]
    assert len(list_top_k(np.ones(2), items, (1,), 9, exclude=[0, 1])) == 2
    assert len(list_top_k(np.ones(2), items, (1,), 9, exclude=[0, 1, 2, 3])) == 0


def test_neighbours_of_some_rows_are_those_of_all_and_so_are_their_measures(monkeypatch):
    items, labels = taxonomy()
    items = items + np.random.default_rng(0).normal(size=items.shape)
    rows = np.array([3, 40, 41, 100])
    every, some = find_nearest(items, WIDTHS, 5), find_nearest(items, WIDTHS, 5, rows=rows)
    assert (some == every[:, rows]).all()
    monkeypatch.setattr(rooms, "SCORES", 1)  # a row at a time
    assert (find_nearest(items, WIDTHS, 5, rows=rows) == some).all()
    has_label, _ = membership(labels["depth_1"])
    share = (labels["depth_1"].to_numpy()[some] == labels["depth_1"].to_numpy()[rows][:, None]).mean(axis=(1, 2))
    assert neighbour_jaccard(some, WIDTHS, has_label, rows=rows)["value"].to_list() == pytest.approx(share.tolist())
    overlap = neighbour_overlap(some, WIDTHS, len(items))
    assert set(overlap["chance"]) == {5 / 127} and value(overlap, width=4, other_width=4) == 1
    slow = np.mean([len({*a} & {*b}) / 5 for a, b in zip(*some.tolist(), strict=True)])
    assert value(overlap, width=16, other_width=4) == pytest.approx(slow)


def test_jaccard_of_many_distinct_sets_is_the_same_without_a_table(monkeypatch):
    rng = np.random.default_rng(0)
    has_label = rng.random((60, 9)) < 0.3
    neighbours = find_nearest(rng.normal(size=(60, 4)), (2, 4), 5)
    tabled = neighbour_jaccard(neighbours, (2, 4), has_label, permutations=5)
    monkeypatch.setattr(rooms, "DISTINCT_SETS", 0)
    by_pair = neighbour_jaccard(neighbours, (2, 4), has_label, permutations=5)
    assert np.allclose(tabled.select("value", "chance", "chance_std"), by_pair.select("value", "chance", "chance_std"))
