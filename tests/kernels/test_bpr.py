"""The compiled pass against autograd through `NestedLoss`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrl.kernels.bpr import bpr_gradients
from mrl.loss import NestedLoss, l2_penalty

WIDTHS = (2, 3, 9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 20), shared=st.booleans(), scale=st.sampled_from([0.1, 1, 20]))
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

    p, q = users[user_rows].requires_grad_(), items[item_rows].requires_grad_()
    loss, terms = NestedLoss(WIDTHS, weights)(p, q[:, 0], q[:, 1:])
    total = loss + l2_penalty(0.3, p, q)
    total.backward()
    assert gradients.loss == pytest.approx(total.item(), rel=1e-4)
    np.testing.assert_allclose(gradients.terms, terms.numpy(), rtol=1e-4, atol=1e-5)
    size = float(q.grad.abs().max())
    np.testing.assert_allclose(gradients.users, p.grad.numpy(), rtol=1e-3, atol=1e-4 * size)
    np.testing.assert_allclose(gradients.items, q.grad.numpy(), rtol=1e-3, atol=1e-4 * size)


def test_scores_past_what_exp_can_hold_give_finite_losses() -> None:
    users, items = np.array([[1e4]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    rows = np.zeros(1, np.int64), np.array([[1, 0]])
    gradients = bpr_gradients(users, items, *rows, np.array([1]), np.ones(1, np.float32), 0.0)
    assert gradients.loss == pytest.approx(2e4) and np.isfinite(gradients.users).all()
