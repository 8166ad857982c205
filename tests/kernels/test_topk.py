"""The compiled top-k on its own: what a slow sort gives, whatever the ties and however much is masked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.kernels.topk import best_of_scores, mark_hits, rerank, shortlist


def slow_best(row: np.ndarray, k: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda item: (-row[item], item))
    kept = [item for item in order if row[item] > -np.inf][:k]
    return kept + [-1] * (k - len(kept))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    num_items=st.integers(1, 700),
    k=st.integers(1, 60),
    values=st.sampled_from([1, 2, 7, 10**6]),
    masked=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
def test_the_best_of_a_row_are_those_of_a_slow_sort(seed, num_items, k, values, masked) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-values, values, (3, num_items), endpoint=True).astype(np.float32) / 3
    scores[rng.random(scores.shape) < masked] = -np.inf
    k = min(k, num_items)
    ids, best = np.empty((3, k), np.int64), np.empty((3, k))
    best_of_scores(scores, k, ids, best)
    for row, ranked, value in zip(scores, ids, best, strict=True):
        assert ranked.tolist() == slow_best(row, k)
        assert [float(row[item]) if item >= 0 else -np.inf for item in ranked] == pytest.approx(value.tolist())


def test_hits_are_what_sets_say() -> None:
    rng = np.random.default_rng(0)
    positives, offsets = [[3, 7], [], [0, 1, 2, 9]], np.array([0, 2, 2, 6])
    ids, rows = rng.integers(-1, 10, (2, 4, 5)), np.array([2, 0, 1, 0])
    hits = np.ones(ids.shape, bool)
    mark_hits(ids, np.concatenate(positives).astype(np.int32), offsets, rows, hits)
    for (level, b, n), item in np.ndenumerate(ids):
        assert hits[level, b, n] == (item in positives[rows[b]])


@pytest.mark.parametrize("masked", [0, 4990])
def test_thousands_of_equal_scores_fall_by_id(masked: int) -> None:
    scores = np.zeros((2, 5000), np.float32)
    scores[0, :masked] = -np.inf
    ids, best = np.empty((2, 20), np.int64), np.empty((2, 20))
    best_of_scores(scores, 20, ids, best)
    assert ids[0].tolist() == [*range(masked, min(masked + 20, 5000)), *[-1] * 20][:20]
    assert ids[1].tolist() == list(range(20))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    num_items=st.integers(1, 700),
    k=st.integers(1, 400),
    values=st.sampled_from([1, 9, 10**6]),
)
def test_a_shortlist_holds_the_best_and_reranked_they_are_in_order(seed, num_items, k, values) -> None:
    rng = np.random.default_rng(seed)
    items = rng.integers(-values, values, (num_items, 3), endpoint=True).astype(np.float32)
    user = rng.integers(-2, 3, 3).astype(np.float32)
    scores = (items[:, :2].astype(float) @ user[:2]).astype(np.float32)
    scores[rng.random(num_items) < 0.3] = -np.inf
    ids = np.empty(k, np.int64)
    kept = ids[: shortlist(scores, k, items, ids)]
    assert sorted(kept) == sorted(item for item in slow_best(scores, k) if item >= 0)
    best, values_of = np.empty(5, np.int64), np.empty(5)
    whole = items.astype(float) @ user
    wanted = sorted(kept.tolist(), key=lambda item: (-whole[item], item))[:5]
    rerank(kept, user, 3, items, 5, best, values_of)
    assert best[: len(wanted)].tolist() == wanted
    assert values_of[: len(wanted)].tolist() == [whole[item] for item in wanted]
