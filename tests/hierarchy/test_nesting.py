"""Nesting, dendrogram purity and CKA: perfect, independent, at chance, and against slow loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taxonomy import at_chance, value

from mrl.hierarchy.nesting import dendrogram_purity, linear_cka, measure_nesting, purity_of_tree, tree_levels

single_labels = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n), st.lists(st.integers(0, 4), min_size=n, max_size=n)
    )
)


def test_nesting_perfect_and_independent():
    coarse, fine = np.repeat([0, 1, 2, 3], 8), np.repeat(np.arange(16), 2)
    table = measure_nesting(np.stack([coarse, fine]), (4, 8))
    assert value(table, metric="share") == 1 and value(table, metric="entropy") == 0
    crossed = measure_nesting(np.stack([coarse, np.tile(np.arange(8), 4)]), (4, 8))
    assert value(crossed, metric="share") == 0.25
    assert value(crossed, metric="entropy") == pytest.approx(2)  # all of H(coarse), in bits
    rng = np.random.default_rng(0)
    random = measure_nesting(rng.integers(0, 5, (3, 400)), (4, 8, 16))
    assert len(random) == 6 and all(at_chance(row) for row in random.iter_rows(named=True))


@settings(deadline=None, max_examples=40)
@given(single_labels)
def test_nesting_equals_a_slow_loop(pair):
    coarse, fine = map(np.array, pair)
    share = bits = 0.0
    for f in set(fine):
        inside = np.bincount(coarse[fine == f])
        share += inside.max()
        p = inside[inside > 0] / inside.sum()
        bits += inside.sum() * -(p * np.log2(p)).sum()
    table = measure_nesting(np.stack([coarse, fine]), (4, 8), permutations=1)
    assert value(table, metric="share") == pytest.approx(share / len(fine))
    assert value(table, metric="entropy") == pytest.approx(bits / len(fine), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 14), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**20))
def test_dendrogram_purity_equals_a_loop_over_pairs(count, depth, genres, seed):
    rng = np.random.default_rng(seed)
    levels = tree_levels(rng.integers(0, 3, (depth, count)))
    has_label = rng.random((count, genres)) < 0.5
    shares = []
    for i, j in combinations(range(count), 2):
        level = max(level for level in range(depth + 1) if levels[level, i] == levels[level, j])
        subtree = levels[level] == levels[level, i]
        shares += [has_label[subtree, g].mean() for g in range(genres) if has_label[i, g] and has_label[j, g]]
    assert purity_of_tree(levels, has_label) == pytest.approx(np.mean(shares) if shares else 0)


def test_dendrogram_purity_perfect_and_at_chance():
    labels = np.repeat(np.arange(4), 16)
    has_label = np.eye(4, dtype=bool)[labels]
    perfect = dendrogram_purity(np.stack([labels // 2, labels]), (4, 8), has_label)
    assert perfect["value"].to_list() == [0.5, 1]  # the first level holds two classes a node
    rng = np.random.default_rng(0)
    random = dendrogram_purity(rng.integers(0, 3, (2, 200)), (4, 8), rng.random((200, 5)) < 0.3)
    assert all(at_chance(row) for row in random.iter_rows(named=True))


def test_tree_levels_cut_crossing_clusters_and_keep_nested_ones():
    assert tree_levels(np.array([[0, 0, 1, 1], [0, 1, 0, 1]]))[-1].tolist() == [0, 1, 2, 3]
    assert tree_levels(np.array([[0, 0, 1, 1], [1, 1, 0, 2]]))[-1].tolist() == [0, 0, 1, 2]


def test_linear_cka_known_values():
    rng = np.random.default_rng(0)
    columns = np.linalg.qr(rng.normal(size=(50, 3)) - 0)[0]
    columns = np.linalg.qr(columns - columns.mean(axis=0))[0]  # orthonormal and centred
    table = linear_cka(columns + 7, (1, 2, 3))
    assert value(table, width=2, other_width=2) == pytest.approx(1)
    assert value(table, width=2, other_width=1) == pytest.approx(1 / np.sqrt(2))
    assert value(table, width=1, other_width=3) == pytest.approx(1 / np.sqrt(3))
    items = rng.normal(size=(40, 6)) * [5, 1, 3, 0.1, 2, 1]
    x, y = (items[:, :d] - items[:, :d].mean(axis=0) for d in (2, 6))
    slow = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert value(linear_cka(1e-3 * items, (2, 6)), width=6, other_width=2) == pytest.approx(slow)


def test_linear_cka_of_an_unrelated_block_that_dominates_is_near_chance():
    rng = np.random.default_rng(0)
    items = np.hstack([rng.normal(size=(400, 4)), 1000 * rng.normal(size=(400, 4))])
    row = linear_cka(items, (4, 8)).filter(pl.col("width") == 8, pl.col("other_width") == 4).row(0, named=True)
    assert row["value"] == pytest.approx(row["chance"], abs=5 * row["chance_std"]) and row["value"] < 0.05
    assert linear_cka(np.zeros((9, 4)), (2, 4))["value"].to_list() == [0] * 4
