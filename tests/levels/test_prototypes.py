"""Prototypes beside k-means: every measure against loops, balanced clusters that are, and views of halves of users."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import log

import numpy as np
import polars as pl
import pytest
import torch
from prototyped import blobs
from served import made_run
from sklearn.metrics import adjusted_mutual_info_score
from taxonomy import value

from mrl.errors import RunError
from mrl.hierarchy import normalise_rows
from mrl.hierarchy.clusters import cluster_items
from mrl.levels import balanced_kmeans, compare_clusterings, user_halves
from mrl.levels.prototypes import METHODS
from mrl.prototypes import fit_prototypes


@pytest.fixture(scope="module")
def compared() -> tuple[pl.DataFrame, np.ndarray]:
    items, branches = blobs()
    popularity = np.random.default_rng(0).integers(1, 40, len(items))
    labels = pl.DataFrame({"depth_1": branches[0], "depth_2": branches[1]})
    items = np.vstack([items, np.full((1, 16), 7.0)])  # that nobody met
    labels = pl.concat([labels, pl.DataFrame({"depth_1": [9], "depth_2": [99]})])
    options = {"per_dimension": 1.0, "labels": labels, "views": (items, items), "seeds": (0, 1)}
    return compare_clusterings(items, (4, 16), popularity=np.append(popularity, 0), **options), popularity


def test_every_method_finds_the_planted_taxonomy_and_is_as_large(compared):
    table, _ = compared
    assert set(table["method"]) == {*METHODS, "prototypes_views", "prototypes_views_tree"}
    ami = table.filter(metric="ami", label="depth_1", width=4)
    assert len(ami) == 7 * 2 and ami["value"].to_list() == pytest.approx([1.0] * 14)
    trees = table.filter(pl.col("method").str.ends_with("tree"), metric="dendrogram_purity", label="depth_2", width=16)
    assert trees["value"].min() > 0.95
    strict = table.filter(pl.col("method").str.ends_with("tree"), metric="share")
    assert strict["value"].to_list() == [1.0] * len(strict) and strict["other_width"].unique().to_list() == [4]
    assert set(table.filter(metric="stability")["seed"]) == {None}


def test_measures_are_what_loops_count(compared):
    table, popularity = compared
    items, _ = blobs()
    at_16 = [cluster_items(items, (4, 16), [4, 16], seed=seed)[1] for seed in (0, 1)]
    sizes = np.bincount(at_16[0])
    usage = -sum(size / 128 * log(size / 128) for size in sizes) / log(16)
    place = {"method": "kmeans", "width": 16}
    assert value(table, metric="usage_entropy", seed=0, **place) == pytest.approx(usage)
    below = np.array([np.mean([np.sum(popularity < each), np.sum(popularity <= each) - 1]) for each in popularity])
    fifths, mixed = np.floor(below * 5 / 128), 0.0
    for cluster in range(16):
        inside = fifths[at_16[0] == cluster]
        shares = [np.mean(inside == fifth) for fifth in range(5)]
        mixed += len(inside) / 128 * -sum(share * log(share) for share in shares if share) / log(5)
    assert value(table, metric="popularity_entropy", seed=0, **place) == pytest.approx(mixed)
    agreed = np.mean([adjusted_mutual_info_score(a, b) for a, b in combinations(at_16, 2)])
    assert value(table, metric="stability", **place) == pytest.approx(agreed)


def test_balanced_clusters_are_of_one_size_where_those_of_kmeans_are_not():
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(3, 5))
    points = normalise_rows(np.repeat(sides, (140, 30, 10), axis=0) + 0.3 * rng.normal(size=(180, 5)))
    balanced, plain = balanced_kmeans(points, 6, seed=1), cluster_items(points, [5], 6)[0]
    assert np.bincount(balanced, minlength=6).max() <= 33 < np.bincount(plain).max()
    np.testing.assert_array_equal(balanced, balanced_kmeans(points, 6, seed=1))

    def within(labels: np.ndarray) -> float:
        """Mean cosine of items and of those of their cluster."""
        return float(np.mean([points[row] @ points[labels == labels[row]].mean(0) for row in range(180)]))

    assert within(rng.permutation(balanced)) + 0.2 < within(balanced) < within(plain)


def test_halves_are_one_ridge_solve_an_item_on_disjoint_users():
    run = made_run(ties=False, users=30, items=40)
    halves = user_halves(run, seed=3)
    half = (torch.rand(30, generator=torch.Generator().manual_seed(3)) < 0.5).numpy()
    users = run.users.double().numpy()
    met = np.zeros((30, 40), bool)
    met[run.seen.users, run.seen.items] = True
    solved = 0
    for side, view in zip((half, ~half), halves, strict=True):
        for item in range(40):
            own = users[met[:, item] & side]
            if not len(own):
                np.testing.assert_array_equal(view[item], run.items[item])
                continue
            l2 = 0.01 * (len(own) + 0.1 * 30)
            expected = np.linalg.solve(own.T @ own + 0.1 * users.T @ users + l2 * np.eye(8), own.sum(0))
            np.testing.assert_allclose(view[item], expected, atol=1e-4)
            solved += 1
    assert solved > 40
    views = tuple(view[:, :4] for view in halves)
    assert fit_prototypes(run.items.numpy()[:, :4], [4], [5], views=views, steps=5).clusters.shape == (1, 40)
    with pytest.raises(RunError, match=r"no seen\.safetensors"):
        user_halves(replace(run, seen=None))
