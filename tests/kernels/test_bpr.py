"""The compiled pass against autograd through `NestedLoss`."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrl.kernels.bpr import bpr_gradients, bpr_sums
from mrl.loss import NestedLoss, l2_penalty

WIDTHS = (2, 3, 9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 20), shared=st.booleans(), scale=st.sampled_from([0.1, 1, 20]))
@example(seed=45122, batch=2, shared=False, scale=20)
@example(seed=566, batch=1, shared=False, scale=20)  # a negative that is the positive itself, with scores of thousands
def test_loss_and_gradients_are_those_of_autograd(seed: int, batch: int, shared: bool, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(rows, 9, generator=generator) * scale for rows in (7, 11))
    user_rows = torch.randint(7, (batch,), generator=generator)
    item_rows = torch.randint(11, (batch, 2 if shared else 4), generator=generator)
    weights = (0.5, 0.1, 0.4)
    gradients = bpr_gradients(
        users.numpy(), items.numpy(), user_rows.numpy(), item_rows.numpy(), np.array(WIDTHS),
        np.array(weights, np.float32), 0.3,
    )  # fmt: skip

    # in float64, as scores of thousands have few digits after the point in float32
    p, q = users[user_rows].double().requires_grad_(), items[item_rows].double().requires_grad_()
    loss, terms = NestedLoss(WIDTHS, weights).double()(p, q[:, 0], q[:, 1:])
    total = loss + l2_penalty(0.3, p, q)
    total.backward()
    assert gradients.loss == pytest.approx(total.item(), rel=1e-4)
    np.testing.assert_allclose(gradients.terms, terms.numpy(), rtol=1e-4, atol=1e-5)
    size = float(q.grad.abs().max())
    np.testing.assert_allclose(gradients.users, p.grad.numpy(), rtol=1e-3, atol=1e-4 * size)
    np.testing.assert_allclose(gradients.items, q.grad.numpy(), rtol=1e-3, atol=1e-4 * size)


def test_parts_of_a_batch_make_their_share_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(rows, 9, generator=generator).numpy() for rows in (7, 11)]
    rows = [
        torch.randint(7, (10,), generator=generator).numpy(),
        torch.randint(11, (10, 4), generator=generator).numpy(),
    ]
    options = np.array(WIDTHS), np.array((0.5, 0.1, 0.4), np.float32), 0.3
    whole = bpr_gradients(*tables, *rows, *options)
    parts = [bpr_gradients(*tables, *(each[part] for each in rows), *options, batch=10) for part in PARTS]
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss)
    for name in ("users", "items", "each", "norms"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    np.testing.assert_allclose(sum(part.terms for part in parts), whole.terms)
    np.testing.assert_allclose(whole.each.mean(0), whole.terms)


PARTS = (slice(0, 3), slice(3, 3), slice(3, 10))


def test_scores_past_what_exp_can_hold_give_finite_losses() -> None:
    users, items = np.array([[1e4]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    rows = np.zeros(1, np.int64), np.array([[1, 0]])
    gradients = bpr_gradients(users, items, *rows, np.array([1]), np.ones(1, np.float32), 0.0)
    assert gradients.loss == pytest.approx(2e4) and np.isfinite(gradients.users).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), negatives=st.integers(1, 4), threads=st.sampled_from([1, 2]))
def test_sums_by_row_are_those_of_the_gradients_of_each_triplet(seed: int, negatives: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts, each = 5, 4  # parts of so many users and items, which share no row
    users, items = (torch.randn(parts * each, 9, generator=generator).numpy() for _ in range(2))
    part = torch.randint(parts, (30,), generator=generator).sort().values
    user_rows = (part * each + torch.randint(each, (30,), generator=generator)).numpy()
    item_rows = (part[:, None] * each + torch.randint(each, (30, 1 + negatives), generator=generator)).numpy()
    starts = torch.searchsorted(part, torch.arange(parts + 1)).numpy()
    levels = np.array(WIDTHS), np.array([0.5, 0.1, 0.4], np.float32)
    with mock.patch("mrl.kernels.bpr.LEAST", 1), mock.patch("torch.get_num_threads", return_value=threads):
        by_user, by_item = bpr_sums(users, items, user_rows, item_rows, starts, *levels, 0.3)

    expected_user, expected_item = np.zeros_like(users), np.zeros_like(items)
    for m in range(1, 1 + negatives):
        one = bpr_gradients(users, items, user_rows, item_rows[:, [0, m]], *levels, 0.3)
        np.add.at(expected_user, user_rows, one.users * 30 / negatives)
        np.add.at(expected_item, item_rows[:, [0, m]], one.items * 30 / negatives)
    np.testing.assert_allclose(by_user, expected_user, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_item, expected_item, rtol=1e-3, atol=1e-4)
