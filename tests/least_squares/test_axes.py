"""Axes: scores stay, prefixes are the best of their rank, and a rotation that was there is found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.least_squares.axes import aligned, balance, rotate


def factors(num_users: int, num_items: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, dim, generator=generator, dtype=torch.float64) for rows in (num_users, num_items))


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


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


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
def test_a_rotation_that_was_applied_is_found_whatever_the_scale(scale) -> None:
    _, items = factors(1, 40, 7, 5)
    whole, cut = orthonormal(7, 7, 6), orthonormal(7, 3, 6)
    torch.testing.assert_close(aligned(items, scale * items @ whole), whole)
    even = orthonormal(40, 7, 7)  # as long in every direction: only so is what was cut to fewer columns exact
    torch.testing.assert_close(aligned(even, scale * even @ cut), cut)
    assert aligned(items, scale * items @ cut).shape == (7, 3)


def test_the_nearest_rotation_has_orthonormal_columns_even_where_axes_are_missing() -> None:
    _, items = factors(1, 40, 7, 8)
    items[:, 4:] = 0  # rank 4
    like = items @ orthonormal(7, 3, 9)
    like[:, 2] = 0  # an axis without length can lie anywhere
    for one in (aligned(items, like), aligned(items, torch.zeros(40, 3, dtype=torch.float64))):
        torch.testing.assert_close(one.T @ one, torch.eye(3, dtype=torch.float64))


def test_no_other_rotation_is_nearer() -> None:
    _, items = factors(1, 40, 6, 10)
    like = items @ orthonormal(6, 6, 11) + 0.5 * factors(1, 40, 6, 12)[1]
    best = (items @ aligned(items, like) - like).square().sum()
    others = [(items @ orthonormal(6, 6, seed) - like).square().sum() for seed in range(20)]
    assert best < min(others)
