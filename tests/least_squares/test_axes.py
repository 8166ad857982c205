"""Axes: scores stay, prefixes are the best of their rank, and both sides are as long."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.least_squares.axes import balance, rotate, score_spread


def factors(num_users: int, num_items: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, dim, generator=generator, dtype=torch.float64) for rows in (num_users, num_items))


@settings(max_examples=30, deadline=None)
@given(num_users=st.integers(1, 12), num_items=st.integers(1, 12), dim=st.integers(1, 8), seed=st.integers(0, 99))
def test_scores_of_the_full_width_stay(num_users, num_items, dim, seed) -> None:
    users, items = factors(num_users, num_items, dim, seed)
    rotated = rotate(users, items)
    assert rotated[0].shape == users.shape and rotated[1].shape == items.shape
    torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T)
    scaled = balance(*rotated, torch.ones(num_users), torch.ones(num_items))
    torch.testing.assert_close(scaled[0] @ scaled[1].T, users @ items.T)


def test_every_prefix_is_the_best_of_its_rank_and_its_axes_are_split_evenly() -> None:
    users, items = factors(30, 20, 5, 1)
    rotated_users, rotated_items = rotate(users, items)
    u, s, v = np.linalg.svd((users @ items.T).numpy())
    for width in range(1, 6):
        best = (u[:, :width] * s[:width]) @ v[:width]
        np.testing.assert_allclose((rotated_users[:, :width] @ rotated_items[:, :width].T).numpy(), best, atol=1e-8)
    for table in (rotated_users, rotated_items):
        np.testing.assert_allclose((table.T @ table).numpy(), np.diag(s[:5]), atol=1e-8)
    assert (rotated_items.gather(0, rotated_items.abs().argmax(0, keepdim=True)) > 0).all()


def test_balanced_columns_are_penalised_alike_on_both_sides() -> None:
    users, items = factors(9, 7, 4, 2)
    items[:, 3] = 0
    user_l2, item_l2 = torch.rand(9) + 0.1, torch.rand(7) + 0.1
    scaled_users, scaled_items = balance(users, items, user_l2, item_l2)
    left = (user_l2.double()[:, None] * scaled_users**2).sum(0)
    right = (item_l2.double()[:, None] * scaled_items**2).sum(0)
    torch.testing.assert_close(left[:3], right[:3])
    assert torch.equal(scaled_users[:, 3], users[:, 3])
    before = (user_l2.double()[:, None] * users**2).sum() + (item_l2.double()[:, None] * items**2).sum()
    assert left.sum() + right.sum() <= before


def test_axes_that_are_only_rounding_are_zero() -> None:
    """Else their products are subnormal numbers, with which training takes many times as long."""
    users, items = (table.float() for table in factors(60, 10, 32, 4))
    rotated = rotate(users, items)
    assert not rotated[0][:, 10:].any() and not rotated[1][:, 10:].any()
    assert (rotated[0][:, :10].norm(dim=0) > 0.1).all()
    torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 5])
def test_more_dimensions_than_rows_leave_zeros(dim) -> None:
    users, items = factors(2, 3, dim, 3)
    rotated = rotate(users, items)
    torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T)
    assert not rotated[0][:, 2:].any()


def test_the_spread_is_the_standard_deviation_of_the_scores_of_each_user() -> None:
    users, items = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(score_spread(users, items), (users @ items.T).std(1, correction=0))
