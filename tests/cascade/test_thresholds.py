"""Thresholds of a cascade: against every combination there is, and what they promise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl.cascade.thresholds import fit_thresholds, is_reached, stop_levels

WIDTHS = (2, 4, 8, 16)


def stop_slowly(confidence: np.ndarray, thresholds) -> list[int]:
    levels = []
    for user in confidence:
        level = 0
        while level < len(thresholds) and not user[level] >= thresholds[level]:
            level += 1
        levels.append(level)
    return levels


def totals(confidence, accuracy, widths, thresholds, target) -> tuple[float, float, float]:
    """Mean width, share of the last width's accuracy, and the shortfall with its standard error."""
    stops = stop_slowly(confidence, thresholds)
    kept = np.array([accuracy[user, level] for user, level in enumerate(stops)])
    shortfall = target * accuracy[:, -1] - kept
    return (
        float(np.mean([widths[level] for level in stops])),
        float(kept.sum() / accuracy[:, -1].sum()),
        float(shortfall.sum() + np.sqrt((shortfall**2).sum())),
    )


def drawn(seed: int, users: int, levels: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences with ties, of `kinds` values; accuracy that mostly grows with the level, and with confidence."""
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, kinds, (users, levels - 1)) / kinds
    accuracy = np.concatenate([confidence * rng.random((users, levels - 1)), np.ones((users, 1))], axis=1)
    return confidence, np.sort(accuracy, axis=1) if seed % 2 else accuracy


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 4), st.integers(1, 5))
def test_users_stop_where_a_loop_says(seed, users, levels, kinds) -> None:
    confidence, _ = drawn(seed, users, levels, kinds)
    thresholds = np.random.default_rng(seed + 1).choice([-np.inf, 0.0, 0.2, 0.5, 0.8, np.inf], levels - 1)
    assert stop_levels(confidence, thresholds).tolist() == stop_slowly(confidence, thresholds)


@given(
    st.integers(0, 1000), st.integers(1, 25), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.98])
)
def test_they_keep_the_target_and_are_no_wider_than_any_fixed_width(seed, users, levels, kinds, target) -> None:
    confidence, accuracy = drawn(seed, users, levels, kinds)
    widths = WIDTHS[-levels:]
    width, share, short = totals(
        confidence, accuracy, widths, fit_thresholds(confidence, accuracy, widths, target), target
    )
    assert short <= 1e-8 and share >= target - 1e-9
    for level in range(levels):
        fixed = [-np.inf if level == at else np.inf for at in range(levels - 1)]
        fixed_width, _, fixed_short = totals(confidence, accuracy, widths, fixed, target)
        assert fixed_short > 1e-8 or width <= fixed_width + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_they_are_close_to_the_best_of_all_combinations(seed) -> None:
    confidence, accuracy = drawn(2 * seed + 1, 40, 4, 4)
    possible = [-np.inf, 0.0, 0.25, 0.5, 0.75, np.inf]
    for target in (0.8, 0.95):
        found = totals(confidence, accuracy, WIDTHS, fit_thresholds(confidence, accuracy, WIDTHS, target), target)
        every = (totals(confidence, accuracy, WIDTHS, each, target) for each in product(possible, repeat=3))
        best = min(width for width, _, short in every if short <= 1e-8)
        assert best <= found[0] <= best + 1.0, (best, found)


def test_where_narrow_is_as_good_everybody_stops_there() -> None:
    accuracy = np.full((10, 3), 0.3)
    assert fit_thresholds(np.zeros((10, 2)), accuracy, (2, 4, 8), 0.98)[0] == -np.inf


def test_where_confidence_knows_only_the_sure_stop() -> None:
    sure = np.arange(100) % 2 == 0
    accuracy = np.stack([np.where(sure, 1.0, 0.0), np.ones(100)], axis=1)
    (threshold,) = fit_thresholds(np.where(sure, 0.9, 0.1)[:, None], accuracy, (4, 8), 0.98)
    assert 0.1 < threshold <= 0.9


def test_where_confidence_is_equal_nobody_is_told_from_another() -> None:
    accuracy = np.stack([np.linspace(0, 1, 50), np.ones(50)], axis=1)
    assert fit_thresholds(np.full((50, 1), 0.5), accuracy, (4, 8), 0.9) == (np.inf,)


def test_one_width_has_no_threshold() -> None:
    assert fit_thresholds(np.empty((3, 0)), np.ones((3, 1)), (8,), 0.9) == ()
    assert stop_levels(np.empty((3, 0)), ()).tolist() == [0, 0, 0]


def test_the_accuracy_of_few_users_is_not_trusted() -> None:
    assert is_reached(-1.0, 0.9) and not is_reached(-1.0, 1.1)
    accuracy = np.ones((4, 2))
    accuracy[:, 0] = [2.0, 0.0, 2.0, 0.0]  # as good on average, by luck
    assert fit_thresholds(np.zeros((4, 1)), accuracy, (4, 8), 0.98) == (np.inf,)
    assert fit_thresholds(np.zeros((40_000, 1)), np.tile(accuracy, (10_000, 1)), (4, 8), 0.98) == (-np.inf,)
