"""Prototypes after the fact: the planted tree, prefixes only, any numbering of the items, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from prototyped import blobs
from sklearn.metrics import adjusted_mutual_info_score

from mrl.data.synthetic import planted
from mrl.errors import ConfigError, DataError
from mrl.prototypes import fit_prototypes

WIDTHS, COUNTS = (4, 16), (4, 16)


def test_the_tree_is_the_planted_taxonomy():
    items, branches = blobs()
    found = fit_prototypes(items, WIDTHS, COUNTS)
    for level, branch in enumerate(branches):
        assert adjusted_mutual_info_score(branch, found.nodes[level]) == pytest.approx(1)
        assert adjusted_mutual_info_score(branch, found.clusters[level]) == pytest.approx(1)
    assert np.bincount(found.nodes[0]).tolist() == [32] * 4 and np.bincount(found.nodes[1]).tolist() == [8] * 16
    parent = dict(zip(found.nodes[1], found.nodes[0], strict=True))
    assert all(found.parents[1][child] == parent[child] for child in parent)
    assert set(map(tuple, found.codes.T)) == {(a, b) for a in range(4) for b in range(4)}


def test_later_dimensions_change_nothing_and_steps_lower_the_loss():
    items, _ = blobs()
    changed = items.copy()
    changed[:, 4:] = np.random.default_rng(1).normal(size=(len(items), 12))
    first, second = (fit_prototypes(each, WIDTHS, COUNTS, steps=20, seed=3) for each in (items, changed))
    np.testing.assert_array_equal(first.tables[0], second.tables[0])
    np.testing.assert_array_equal(first.codes[0], second.codes[0])
    assert (first.clusters[1] != second.clusters[1]).any()
    noise = np.random.default_rng(2).normal(size=(300, 12))
    few, many = (fit_prototypes(noise, [6, 12], [12, 24], steps=steps) for steps in (10, 100))
    assert (many.losses < few.losses).all()


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_items_that_are_numbered_otherwise_get_what_they_got(exponent):
    rng = np.random.default_rng(0)
    items, popularity = rng.normal(size=(150, 8)), rng.integers(1, 100, 150)
    items[1] = items[0]  # items that coincide, too
    views = tuple(items + 0.1 * rng.normal(size=(2, *items.shape)))
    options = {"widths": [2, 4, 8], "exponent": exponent, "steps": 30}
    found = fit_prototypes(items, views=views, popularity=popularity, **options)
    order = rng.permutation(150)
    again = fit_prototypes(
        items[order], views=tuple(view[order] for view in views), popularity=popularity[order], **options
    )
    np.testing.assert_array_equal(found.codes[:, order], again.codes)
    np.testing.assert_array_equal(found.nodes[:, order], again.nodes)
    np.testing.assert_array_equal(found.tables[2], again.tables[2])


def test_prototypes_are_used_evenly_by_items_or_by_traffic():
    rng = np.random.default_rng(0)
    items, popularity = rng.normal(size=(600, 4)) + 2 * np.eye(4)[0], (rng.pareto(1, 600) * 10 + 1).astype(int)
    even = fit_prototypes(items, [4], [6], steps=50).clusters[0]
    traffic = fit_prototypes(items, [4], [6], steps=50, popularity=popularity, exponent=1.0).clusters[0]
    of_items, of_traffic = np.bincount(even, minlength=6), np.bincount(traffic, popularity, minlength=6)
    assert of_items.max() / of_items.mean() < 1.2
    assert of_traffic.max() / of_traffic.mean() < np.bincount(even, popularity, minlength=6).max() / of_traffic.mean()


def test_new_items_go_down_the_tree_and_learned_tables_are_taken_as_they_are():
    items, _ = blobs()
    found = fit_prototypes(items, WIDTHS, COUNTS)
    np.testing.assert_array_equal(found.descend(items), found.nodes)
    again = fit_prototypes(items, WIDTHS, tables=found.tables)
    np.testing.assert_array_equal(again.nodes, found.nodes)
    assert np.isnan(again.losses).all()


@pytest.mark.slow
def test_planted_branches_are_found_in_factors_of_planted_data():
    truth = planted(num_users=1200, num_items=270, interactions=40_000, branching=(3, 3), seed=0)
    matrix = np.zeros((1200, 270))
    matrix[truth.positives.users, truth.positives.items] = 1
    matrix /= np.sqrt(matrix.sum(0) * matrix.sum(1, keepdims=True))
    _, _, factors = np.linalg.svd(matrix, full_matrices=False)
    found = fit_prototypes(factors[1:9].T, [2, 8], [3, 9])  # without the axis of popularity
    assert adjusted_mutual_info_score(truth.clusters[:, 0], found.nodes[0]) > 0.8
    assert adjusted_mutual_info_score(truth.clusters[:, 1], found.nodes[1]) > 0.8


def test_what_is_refused():
    items, _ = blobs()
    with pytest.raises(ConfigError, match=r"counts=\[4\]: must be one a width, \[4, 16\]"):
        fit_prototypes(items, WIDTHS, [4])
    with pytest.raises(ConfigError, match=r"counts=\[500\]: .*128 items"):
        fit_prototypes(items, [4], [500])
    with pytest.raises(DataError, match="finite"):
        fit_prototypes(np.where(items > 1, np.nan, items), WIDTHS)
    with pytest.raises(DataError, match="alike in shape"):
        fit_prototypes(items, WIDTHS, views=(items[:3], items))
    with pytest.raises(DataError, match=r"exponent=1.0: needs the popularity of each of the 128 items"):
        fit_prototypes(items, WIDTHS, exponent=1.0)
    with pytest.raises(DataError, match="0 for every item"):
        fit_prototypes(items, WIDTHS, exponent=1.0, popularity=np.zeros(128))
