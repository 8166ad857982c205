"""Axes: scores stay, prefixes are the best of their rank, and weights say for which items."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.least_squares.axes import balance, principal_axes, rotate


def factors(num_users: int, num_items: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, dim, generator=generator, dtype=torch.float64) for rows in (num_users, num_items))


@settings(max_examples=30, deadline=None)
@given(num_users=st.integers(1, 12), num_items=st.integers(1, 12), dim=st.integers(2, 8), seed=st.integers(0, 99))
def test_scores_of_the_full_width_stay(num_users, num_items, dim, seed) -> None:
    users, items = factors(num_users, num_items, dim, seed)
    weights = torch.rand(num_items, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    rotated = principal_axes(users, items, (1, dim), weights)
    assert rotated[0].shape == users.shape and rotated[1].shape == items.shape
    torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T)
    scaled = balance(*rotated, torch.ones(num_users), torch.ones(num_items))
    torch.testing.assert_close(scaled[0] @ scaled[1].T, users @ items.T)


def test_equal_weights_are_the_principal_axes() -> None:
    users, items = factors(20, 15, 6, 0)
    expected = rotate(users, items)
    for one, other in zip(principal_axes(users, items, (2, 3, 6), torch.ones(15)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_first_block_is_the_best_of_its_rank_by_the_weights() -> None:
    """Truncated SVD of the weighted scores, and of what that leaves with weaker weights, in numpy."""
    users, items = factors(30, 20, 5, 1)
    weights = torch.linspace(0.2, 4.0, 20, dtype=torch.float64)
    rotated_users, rotated_items = principal_axes(users, items, (2, 5), weights)
    scores, left = (users @ items.T).numpy(), None
    for span, power in ((slice(0, 2), 1.0), (slice(2, 5), 0.5)):
        scores = scores if left is None else left
        scale = weights.numpy() ** power
        u, s, v = np.linalg.svd(scores * scale)
        count = span.stop - span.start
        best = (u[:, :count] * s[:count]) @ v[:count] / scale
        np.testing.assert_allclose((rotated_users[:, span] @ rotated_items[:, span].T).numpy(), best, atol=1e-8)
        left = scores - best


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
    for weights in (torch.ones(10), torch.linspace(0.2, 4.0, 10)):
        rotated = principal_axes(users, items, (4, 32), weights)
        assert not rotated[0][:, 10:].any() and not rotated[1][:, 10:].any()
        assert (rotated[0][:, :10].norm(dim=0) > 0.1).all()
        torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 5])
def test_more_dimensions_than_rows_leave_zeros(dim) -> None:
    users, items = factors(2, 3, dim, 3)
    rotated = principal_axes(users, items, (1, dim) if dim > 1 else (1,), torch.ones(3))
    torch.testing.assert_close(rotated[0] @ rotated[1].T, users @ items.T)
    assert not rotated[0][:, 2:].any()
