"""Confidences of lists: against their formulas, list by list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl.cascade.confidence import CONFIDENCES, confidence_at, overlap, widths_compared


def lists_of(users: np.ndarray, items: np.ndarray, width: int, listed: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """The best items among the first `left` rows, as a ranking gives them: ties by row, -1 and -Inf at the end."""
    ids, best = np.full((len(users), listed), -1), np.full((len(users), listed), -np.inf)
    for b, user in enumerate(users):
        scores = [float(user[:width] @ item[:width]) for item in items[:left]]
        order = sorted(range(left), key=lambda item: (-scores[item], item))[:listed]
        ids[b, : len(order)], best[b, : len(order)] = order, [scores[item] for item in order]
    return ids, best


def slowly(kind: str, k: int, user: np.ndarray, width: int, ids, scores, before) -> float:
    energy = 1 - np.sqrt(sum(p * p for p in user[width:])) / np.sqrt(sum(p * p for p in user))
    here = [item for item in ids[:k] if item >= 0]
    shared = len(set(here) & set(before[:k])) / len(here) if here else 1.0
    if kind == "energy":
        return energy
    if kind == "overlap":
        return shared
    if kind == "overlap_energy":
        return shared * energy
    if kind == "rbo":
        agreement = [len(set(ids[:r]) & set(before[:r]) - {-1}) / r for r in range(1, k + 1)]
        weights = [0.9 ** (r - 1) for r in range(1, k + 1)]
        return sum(w * a for w, a in zip(weights, agreement, strict=True)) / sum(weights)
    if len(ids) <= k or ids[k] < 0:
        return np.inf
    if kind == "gap":
        return (scores[k - 1] - scores[k]) / max(scores[0] - scores[k], 1e-12)
    return (sum(scores[:k]) / k - scores[k]) / max(np.sqrt(sum(p * p for p in user[width:])), 1e-12)


@pytest.mark.parametrize("kind", CONFIDENCES)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_they_are_their_formulas(kind, seed, count, k, left, is_tied) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(count, 8)), rng.normal(size=(9, 8))
    if is_tied:
        items[:] = items[0]
    listed = min(k + 1, 9)
    before, _ = lists_of(users, items, 2, listed, left)
    ids, scores = lists_of(users, items, 4, listed, left)
    found = confidence_at(kind, k, users, 4, ids, scores, before)
    expected = [slowly(kind, k, *row[:1], 4, *row[1:]) for row in zip(users, ids, scores, before, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_what_has_no_neighbour_is_not_sure() -> None:
    ids, scores = np.array([[0, 1, 2]]), np.array([[3.0, 2.0, 1.0]])
    for kind in ("overlap", "rbo", "overlap_energy"):
        assert confidence_at(kind, 2, np.ones((1, 4)), 1, ids, scores, None).tolist() == [0.0]


def test_the_narrowest_width_is_compared_with_half_of_it() -> None:
    assert widths_compared((4, 8)) == (2, 4, 8)
    assert widths_compared((1, 2)) == (1, 2)


def test_overlap_counts_what_is_listed() -> None:
    items = np.array([[1, 2, 3], [1, -1, -1], [-1, -1, -1]])
    others = np.array([[3, 2, 9], [-1, -1, 1], [5, -1, -1]])
    np.testing.assert_allclose(overlap(items, others), [2 / 3, 1.0, 1.0])


def test_equal_scores_leave_no_gap() -> None:
    ids, scores = np.array([[0, 1, 2]]), np.ones((1, 3))
    assert confidence_at("gap", 2, np.ones((1, 4)), 2, ids, scores, None).tolist() == [0.0]
    assert confidence_at("margin", 2, np.ones((1, 4)), 2, ids, scores, None).tolist() == [0.0]


def test_a_user_without_a_vector_is_sure_by_energy_since_no_width_changes_anything() -> None:
    ids, scores = np.array([[0, 1]]), np.zeros((1, 2))
    assert confidence_at("energy", 1, np.zeros((1, 4)), 2, ids, scores, None).tolist() == [1.0]
