"""Popularity projected out: what is removed, exactly that and no more, at every width, in items not seen before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mrl import popularity
from mrl.errors import ConfigError, DataError
from mrl.popularity import check_popularity, find_popularity, project, project_queries

WIDTHS = (4, 8, 16)


def skewed(seed: int = 0, items: int = 1200, dim: int = WIDTHS[-1]) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors (I, D) whose lengths and directions tell of their counts (I,), as those of a recommender do."""
    rng = np.random.default_rng(seed)
    counts = np.floor(rng.pareto(1.2, items) * 3)
    target = np.log1p(counts)
    noise = rng.standard_normal((items, dim)) * 0.9 ** np.arange(dim)
    vectors = noise * (0.2 + target[:, None]) / 3 + target[:, None] * rng.standard_normal(dim) * 0.3 + 0.1
    return vectors.astype(np.float32), counts


def slow_r2(features: np.ndarray, target: np.ndarray) -> float:
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 6)))
    error = target - cross_val_predict(probe, features, target, cv=5)
    return float(1 - (error**2).sum() / ((target - target.mean()) ** 2).sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_probe_of_held_out_items_finds_nothing_at_any_width(seed: int) -> None:
    items, counts = skewed(seed, 9000)
    target = np.log1p(counts)
    known, held_out = np.split(np.random.default_rng(seed).permutation(len(items)), [6000])
    found = find_popularity(items[known], counts[known], WIDTHS)
    assert found.widths == WIDTHS and max(found.after) < popularity.ENOUGH < 0.25 < min(found.before)
    without = project(items, found.directions, 1)
    for width, before in zip(WIDTHS, found.before, strict=True):
        assert abs(slow_r2(items[held_out, :width], target[held_out]) - before) < 0.08
        assert slow_r2(without[held_out, :width], target[held_out]) < 0.02


def test_directions_are_orthonormal_and_stay_within_their_block() -> None:
    found = find_popularity(*skewed(), WIDTHS[:2])
    assert found.widths == (*WIDTHS[:2], 16)  # what is behind the last width is a block, too
    assert np.allclose(found.directions.T @ found.directions, np.eye(sum(found.repeats)), atol=1e-12)
    starts = np.cumsum([0, *found.repeats])
    edges = pairwise((0, *found.widths))
    for (start, stop), (first, last) in zip(edges, pairwise(starts), strict=True):
        outside = np.delete(found.directions[:, first:last], np.s_[start:stop], axis=0)
        assert last > first and not outside.any()
    again = find_popularity(torch.from_numpy(skewed()[0]), skewed()[1], WIDTHS[:2])
    assert np.array_equal(again.directions, found.directions)


def test_one_block_is_rid_of_its_ridge_direction_found_slowly() -> None:
    items, counts = skewed()
    (first, *_) = find_popularity(items, counts, WIDTHS).directions.T
    x, y = (side - side.mean(axis=0) for side in (items[:, :4].astype(np.float64), np.log1p(counts)))
    penalty = popularity.PENALTY * x.var(axis=0).mean() * len(x)
    weights = Ridge(alpha=penalty, fit_intercept=False).fit(x, y).coef_
    assert np.allclose(first[:4], weights / np.linalg.norm(weights), atol=1e-9)


def test_the_probe_from_moments_is_the_probe_from_items() -> None:
    items, counts = skewed(items=200)
    target, folds = np.log1p(counts), np.array_split(np.arange(200), 4)
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 2)))[0]
    directions[4:] = 0
    directions[:4] = np.linalg.qr(directions[:4])[0]
    tables = [np.column_stack([items[rows], np.ones(50), target[rows]]).astype(np.float64) for rows in folds]
    moments = np.stack([table.T @ table for table in tables])
    without = project(items.astype(np.float64), directions, 1)[:, :8]
    best = -np.inf
    for penalty in popularity.PROBES:
        error = 0.0
        for rows in folds:
            train = np.delete(np.arange(200), rows)
            probe = make_pipeline(StandardScaler(), Ridge(alpha=penalty * len(train)))
            error += ((target[rows] - probe.fit(without[train], target[train]).predict(without[rows])) ** 2).sum()
        best = max(best, 1 - error / ((target - target.mean()) ** 2).sum())
    found = popularity._probe_r2(moments, directions, 8)
    assert found == pytest.approx(best, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), repeats=st.integers(1, 3))
def test_scores_change_by_the_low_rank_part_alone_at_every_width(seed: int, gamma: float, repeats: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.standard_normal((5, 16)), rng.standard_normal((7, 16))
    directions = np.zeros((16, 3 * repeats))
    for block, (start, stop) in enumerate(pairwise((0, *WIDTHS))):
        basis = np.linalg.qr(rng.standard_normal((stop - start, repeats)))[0]
        directions[start:stop, block * repeats : (block + 1) * repeats] = basis
    projected = project(users, directions, gamma), project(items, directions, gamma)
    queries = project_queries(users, directions, 1 - gamma)
    for level, width in enumerate(WIDTHS, 1):
        before = users[:, :width] @ items[:, :width].T
        change = np.zeros_like(before)
        for u in directions[:width, : level * repeats].T:  # rank one each
            for x in range(5):
                for y in range(7):
                    change[x, y] -= (1 - (1 - gamma) ** 2) * (users[x, :width] @ u) * (items[y, :width] @ u)
        assert np.allclose(projected[0][:, :width] @ projected[1][:, :width].T - before, change, atol=1e-12)
        assert np.allclose(queries[:, :width] @ items[:, :width].T - before, change, atol=1e-12)


def test_one_projection_changes_scores_by_the_rank_one_term() -> None:
    items, counts = skewed()
    directions = find_popularity(items, counts, [16]).directions[:, :1]
    users, items, u = items[:9].astype(np.float64), items.astype(np.float64), directions[:, 0]
    before = users @ items.T
    for gamma in (0.25, 1.0):
        change = project(users, directions, gamma) @ project(items, directions, gamma).T - before
        assert np.allclose(change, -(2 * gamma - gamma**2) * np.outer(users @ u, items @ u), atol=1e-12)
        assert np.linalg.matrix_rank(change, tol=1e-9) == 1


def test_at_nothing_vectors_are_the_same_bits_and_rows_do_not_depend_on_others() -> None:
    items, counts = skewed()
    directions = find_popularity(items, counts, WIDTHS).directions
    assert project(items, directions, 0) is items and project_queries(items, directions, 1.0) is items
    whole, kept = project(items, directions, 0.3), items.copy()
    assert np.array_equal(items, kept) and whole.dtype == np.float32
    for rows in (slice(0, 1), slice(5, 12), np.array([900, 3])):
        assert np.array_equal(project(items[rows], directions, 0.3), whole[rows])
    assert np.array_equal(project(torch.from_numpy(items), directions, 0.3).numpy(), whole)
    without = project(items.astype(np.float64), directions, 1)
    assert np.allclose(without @ directions, 0, atol=1e-12)
    assert np.allclose(project(without, directions, 1), without, atol=1e-12)


def test_where_nothing_tells_of_popularity_nothing_is_projected_out() -> None:
    items, counts = skewed(items=300)
    found = find_popularity(items, np.full(300, 5), WIDTHS)  # all alike
    assert found.repeats == (0, 0, 0) and found.before == found.after == (0.0, 0.0, 0.0)
    assert np.array_equal(project(items, found.directions, 1), items)
    noise = np.random.default_rng(0).standard_normal((4000, 16))
    assert find_popularity(noise, np.arange(4000), WIDTHS).repeats == (0, 0, 0)
    items[:, 4:8] = 0  # a block of nothing
    assert find_popularity(items, counts, WIDTHS).repeats[1] == 0
    assert np.isfinite(find_popularity(items, counts, [8, 16]).directions).all()


def test_a_block_keeps_half_of_its_dimensions_where_the_probe_is_never_silent() -> None:
    target = np.linspace(0, 3, 600)
    powers = np.column_stack([target ** (1 + power / 3) for power in range(8)])  # each column tells all
    found = find_popularity(powers, np.expm1(target), [2, 8])
    assert found.repeats[0] == 1 and found.repeats[1] <= 3


def test_few_items_will_do_and_fewer_are_refused() -> None:
    items, counts = skewed(items=30)
    assert len(find_popularity(items, counts, [4, 16]).repeats) == 2
    with pytest.raises(DataError, match=r"^popularity: 29 items are too few to tell it from chance; 30 are needed$"):
        find_popularity(items[:29], counts[:29], WIDTHS)
    with pytest.raises(DataError, match=r"^popularity: counts of shape \(29,\) for 30 items; give one number each$"):
        find_popularity(items, counts[:29], WIDTHS)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True, "half", None])
def test_shares_out_of_range_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^popularity=.*: must be a number from 0 to 1; 1 is as trained, 0 without"):
        check_popularity(value)
    with pytest.raises(ConfigError, match=r"^gamma=.*: must be a number from 0 to 1; 0 leaves vectors as they are$"):
        project(np.ones((2, 2)), np.ones((2, 1)), value)
    assert check_popularity(np.float32(0.5)) == 0.5 and check_popularity(1) == 1.0


@pytest.mark.parametrize("items", [300, 2400])
def test_what_is_left_is_what_so_many_items_cannot_tell(items: int) -> None:
    """Of new items, by the moments that the items are drawn from: a share of about dimensions / items."""
    dim, spread, left, kept = 32, 0.9 ** np.arange(32), [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        slope = rng.standard_normal(dim) / spread / dim**0.5
        vectors = rng.standard_normal((items, dim)) * spread
        target = 8 + vectors @ slope + 0.4 * rng.standard_normal(items)
        directions = find_popularity(vectors, np.expm1(target), (8, dim)).directions
        without = np.eye(dim) - directions @ directions.T
        covariance, system = without @ (spread**2 * slope), without @ np.diag(spread**2) @ without
        explained = covariance @ np.linalg.pinv(system, rcond=1e-10) @ covariance
        left.append(explained / (((spread * slope) ** 2).sum() + 0.4**2))
        kept.append(dim - directions.shape[1])
    assert 0.6 < np.mean(left) / (np.mean(kept) / items) < 1.6
