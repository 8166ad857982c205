"""Gains by width: which are clear, and what is behind the served dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.least_squares.gains import (
    clearly_better,
    clearly_wider,
    gains_of_wider,
    mean_over_splits,
    widened,
)


def test_a_gain_is_clear_by_its_standard_error() -> None:
    users = np.random.default_rng(0).normal(size=400)
    noise = np.random.default_rng(1).normal(size=400)
    noise -= noise.mean()
    error = noise.std() / 20
    for several in (1, 3):  # splits share users, so more of them are no surer
        clear, unclear = ([users + noise + gain * error] * several for gain in (2.3, 2.2))
        assert clearly_better(clear, [users] * several)
        assert not clearly_better(unclear, [users] * several)
    assert not clearly_better([users], [users])


def test_wider_vectors_are_worth_it_if_they_gain_a_hundredth_and_clearly() -> None:
    users = np.full(100, 0.5)
    assert clearly_wider([users * 1.011], [users]) and not clearly_wider([users * 1.009], [users])
    noisy = users * (1 + 0.02 + np.where(np.arange(100) % 2, 0.2, -0.2))
    assert mean_over_splits([noisy]) == pytest.approx(0.51) and not clearly_wider([noisy], [users])


def test_each_width_has_to_gain_over_the_best_of_the_narrower_ones() -> None:
    values = {width: [np.full(50, value)] for width, value in ((4, 0.2), (8, 0.201), (16, 0.22), (32, 0.21))}
    assert gains_of_wider(values) == [(16, pytest.approx(0.1))]
    assert gains_of_wider(values | {64: [np.full(50, 0.24)]})[1] == (64, pytest.approx(0.2))
    assert gains_of_wider({4: values[4], 8: values[8]}) == [] and gains_of_wider({4: values[4]}) == []


def test_behind_the_served_dimensions_is_the_best_of_each_rank_of_what_they_leave() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = tuple(torch.randn(rows, 6, generator=generator) for rows in (40, 30))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:, :2]
    served = tuple(table @ rotation for table in whole)
    users, items = widened(served, whole)
    assert users.shape == (40, 6) and items.shape == (30, 6)
    assert torch.equal(users[:, :2], served[0]) and torch.equal(items[:, :2], served[1])
    torch.testing.assert_close(users @ items.T, whole[0] @ whole[1].T, rtol=1e-3, atol=1e-4)
    rest = whole[0] @ whole[1].T - served[0] @ served[1].T
    left, singular, right = torch.linalg.svd(rest)
    for rank in (1, 3):
        expected = left[:, :rank] * singular[:rank] @ right[:rank]
        found = users[:, 2 : 2 + rank] @ items[:, 2 : 2 + rank].T
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
