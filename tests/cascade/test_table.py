"""The table of a cascade: mixes and savings against loops, errors against resampling, the sentence it makes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl.cascade.table import (
    View,
    at_width,
    best_fixed,
    best_mix,
    describe_cascade,
    equal_width,
    oracle,
    richest_mix,
    saving,
    tabulate,
)
from mrl.data import Positives

GRID = (2, 4, 6, 8)


def accuracies(seed: int, users: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random((users, 3)), rng.uniform(0.5, 1, (users, 1))], axis=1)


def short(kept: np.ndarray, full: np.ndarray, target: float) -> float:
    each = [target * f - k for k, f in zip(kept, full, strict=True)]
    return sum(each) + sum(s * s for s in each) ** 0.5


@given(st.integers(0, 500), st.integers(1, 30), st.sampled_from([0.6, 0.9, 0.98]))
def test_the_best_fixed_width_and_the_best_mix_are_those_of_a_loop(seed, users, target) -> None:
    accuracy = accuracies(seed, users)
    full = accuracy[:, -1]
    reached = [column for column in range(4) if short(accuracy[:, column], full, target) <= 1e-9]
    assert best_fixed(accuracy, target) == reached[0]
    least = min(
        (1 - part) * GRID[narrow] + part * GRID[wide]
        for narrow in range(4)
        for wide in range(narrow, 4)
        for part in np.linspace(0, 1, 101)
        if short((1 - part) * accuracy[:, narrow] + part * accuracy[:, wide], full, target) <= 1e-9
    )
    mix = best_mix(accuracy, GRID, target)
    assert mix.sum() == pytest.approx(1) and mix @ np.array(GRID) == pytest.approx(least)
    assert short(accuracy @ mix, full, target) <= 1e-8


@given(st.integers(0, 500), st.floats(2, 8))
def test_the_richest_mix_is_on_the_upper_hull_and_its_width_is_the_equal_width(seed, width) -> None:
    shares = np.random.default_rng(seed).random(4)
    mix = richest_mix(shares, GRID, width)
    assert mix.sum() == pytest.approx(1) and (mix >= 0).all() and mix @ np.array(GRID) == pytest.approx(width)
    possible = [
        shares[a] + (width - GRID[a]) / max(GRID[b] - GRID[a], 1) * (shares[b] - shares[a])
        for a in range(4) for b in range(a, 4) if GRID[a] <= width <= GRID[b]
    ]  # fmt: skip
    assert mix @ shares == pytest.approx(max(possible))
    assert equal_width(shares, GRID, float(mix @ shares)) <= width + 1e-6


def test_equal_width_is_between_the_widths_that_keep_less_and_more() -> None:
    shares = np.array([0.5, 0.9, 0.8, 1.0])
    assert equal_width(shares, GRID, 0.7) == pytest.approx(3.0)
    assert equal_width(shares, GRID, 0.95) == pytest.approx(6.0)  # 4 and 8 at random, past the poor 6
    assert equal_width(shares, GRID, 0.3) == 2.0 and equal_width(shares, GRID, 1.2) == 8.0


def test_a_choice_that_knows_saves_and_one_at_random_does_not() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(20_000) < 0.5
    accuracy = np.stack([np.where(easy, 1.0, 0.0), np.ones(20_000)], axis=1)
    assert saving(np.where(easy, 0, 1), accuracy, (2, 8)) == pytest.approx(1 - 5 / 8, abs=0.02)
    assert saving(rng.integers(0, 2, 20_000), accuracy, (2, 8)) == pytest.approx(0, abs=0.02)


def test_the_oracle_stops_where_a_user_loses_nothing() -> None:
    accuracy = np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.2, 0.1, 0.3], [0.4, 0.1, 0.3]])
    assert oracle(accuracy, "ndcg", 0.9).tolist() == [1, 0, 2, 0]
    overlaps = np.array([[0.95, 1.0, 1.0], [0.2, 0.9, 1.0], [0.2, 0.5, 1.0]])
    assert oracle(overlaps, "overlap", 0.9).tolist() == [0, 1, 2]


def table_of(accuracy: np.ndarray, stops: np.ndarray, **measured: np.ndarray) -> pl.DataFrame:
    users = len(accuracy)
    view = View(torch.arange(users), np.empty((4, users, 0), np.int64), {}, accuracy)
    facts = {"kind": "", "target": 0.9, "is_asked": True, "confidence": "gap", "width": None, "metric": "ndcg@20"}
    fixed = [
        (facts | {"kind": "fixed", "is_asked": False, "width": width}, at_width(at, users, 4), at_width(at, users, 4),
         np.array(1))
        for at, width in enumerate(GRID)
    ]  # fmt: skip
    everybody = at_width(3, users, 4)
    others = [
        (facts | {"kind": "best_fixed", "width": 8}, everybody, everybody, np.array(1)),
        (facts | {"kind": "cascade"}, at_width(stops, users, 4), at_width(stops, users, 4), stops + 1),
        (facts | {"kind": "oracle"}, at_width(0, users, 4), None, np.array(1)),
    ]
    return tabulate([*fixed, *others], GRID, 1000, view, measured)


def test_what_is_kept_and_its_error_are_those_of_other_users_drawn() -> None:
    rng = np.random.default_rng(1)
    accuracy, stops = accuracies(2, 400), rng.integers(0, 4, 400)
    row = table_of(accuracy, stops, ndcg=accuracy, overlap=accuracy).filter(kind="cascade").row(0, named=True)
    kept = accuracy[np.arange(400), stops]
    assert row["share"] == pytest.approx(kept.sum() / accuracy[:, 3].sum())
    assert row["expected_width"] == pytest.approx(np.array(GRID)[stops].mean()) == row["served_width"]
    assert row["multiply_adds"] == pytest.approx(1000 * row["expected_width"])
    assert row["lists"] == pytest.approx(1 + stops.mean())
    assert row["test_ndcg"] == pytest.approx(kept.mean()) and row["test_recall"] is None
    drawn = rng.integers(0, 400, (4000, 400))
    spread = (kept[drawn].sum(1) / accuracy[drawn, 3].sum(1)).std()
    assert row["share_error"] == pytest.approx(spread, rel=0.1)


def test_the_sentence_says_whether_it_pays() -> None:
    rng = np.random.default_rng(3)
    easy = rng.random(2000) < 0.5
    accuracy = np.stack([*[np.where(easy, 1.0, 0.2)] * 3, np.ones(2000)], axis=1)
    knows = table_of(accuracy, np.where(easy, 0, 3), ndcg=accuracy)
    text = describe_cascade(knows)
    assert "by the gap after the list keeps 100.0 % (± 0.0) of the full width's NDCG@20" in text
    assert f"expected width of {5 - 6 * (easy.mean() - 0.5):.1f}; 90 % were asked for" in text
    assert "The best fixed width is 8 of 8" in text and "a cascade saves" in text
    assert text.endswith("On test it keeps 100.0 %, the fixed width 100.0 %.")
    guesses = table_of(accuracy, rng.integers(0, 4, 2000))
    assert "cannot be told from chance" in describe_cascade(guesses) and "On test" not in describe_cascade(guesses)


def test_metrics_of_lists() -> None:
    """Two users, two widths, lists of two."""
    items = np.array([[[0, 1], [2, 3]], [[5, 0], [3, 2]]])
    view = View(torch.tensor([0, 2]), items, {})
    targets = Positives.from_pairs([0, 1, 2, 2], [0, 1, 2, 4], 3, 6)
    assert view.metric(targets, "recall").tolist() == [[1.0, 1.0], [0.5, 0.5]]
    second = 1 / np.log2(3)
    np.testing.assert_allclose(view.metric(targets, "ndcg"), [[1, second], [1 / (1 + second), second / (1 + second)]])
    assert view.overlap().tolist() == [[0.5, 1.0], [1.0, 1.0]]
    part = view.take(slice(1, 2))
    assert part.rows.tolist() == [2] and part.items.tolist() == [[[2, 3]], [[3, 2]]]
