"""Propagation against the formula in dense matrices; its gradient; what it does with nothing to pick up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data.interactions import Positives
from mrl.least_squares.propagation import Propagation


def made(seed: int = 0):
    rng = np.random.default_rng(seed)
    dense = rng.random((7, 9)) < 0.4
    dense[0] = dense[:, 1] = False  # a user and an item without neighbours
    positives = Positives.from_pairs(*np.nonzero(dense), 7, 9)
    start = tuple(torch.from_numpy(rng.normal(size=(rows, 3))).float() for rows in (7, 9))
    degrees = np.maximum(dense.sum(1), 1)[:, None] * np.maximum(dense.sum(0), 1)
    return positives, start, torch.from_numpy(dense / np.sqrt(degrees)).float()


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("propagation", [(0.5, 0.0), (1.0, 1.0), (0.0, 0.7), (0.0, 0.0)])
def test_vectors_pick_up_their_share_of_their_neighbours(hops, propagation) -> None:
    positives, start, graph = made()
    users, items = start
    for _ in range(hops):
        users, items = start[0] + propagation[0] * graph @ items, start[1] + propagation[1] * graph.T @ users
    model = Propagation(positives, start, user_share=propagation[0], item_share=propagation[1], hops=hops)
    for found, expected in zip(model.vectors(), (users, items), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(model.users, start[0]) and torch.equal(model.items, start[1])
    assert [table.shape for table in model.by_hop()] == [(7, 1, 3), (9, 1, 3)]
    # what one side alone picks up of the other is the same after every hop
    assert model.hops == (hops if all(propagation) else int(any(propagation)))


@pytest.mark.parametrize("propagation", [(0.5, 1.0), (0.5, 0.0), (0.0, 0.7)])
def test_gradients_go_back_to_the_neighbours(propagation) -> None:
    positives, start, graph = made()
    model = Propagation(positives, start, user_share=propagation[0], item_share=propagation[1], hops=2)
    users, items = model()
    (users.square().sum() + items.sum()).backward()
    own = [table.clone().requires_grad_() for table in start]
    dense_users, dense_items = own
    for _ in range(2):
        dense_users, dense_items = (
            own[0] + propagation[0] * graph @ dense_items,
            own[1] + propagation[1] * graph.T @ dense_users,
        )
    (dense_users.square().sum() + dense_items.sum()).backward()
    torch.testing.assert_close(model.users.grad, own[0].grad)
    torch.testing.assert_close(model.items.grad, own[1].grad)


@pytest.mark.parametrize("spread", [None, 1.2])
def test_training_starts_with_all_of_the_neighbours_and_scores_of_a_given_spread(spread) -> None:
    positives, start, graph = made()
    model = Propagation(positives, start, user_share=0.5, item_share=0.0, hops=3)
    assert model.hops == 1
    model.start_training(2, spread)
    scale = model.users[0, 0] / start[0][0, 0]
    users, items = own = [scale * table for table in start]  # both sides alike, so that their balance is kept
    for _ in range(2):
        users, items = own[0] + graph @ items, own[1] + graph.T @ users
    for found, expected in zip(model.vectors(), (users, items), strict=True):
        torch.testing.assert_close(found, expected)
    if spread is None:
        assert scale == 1
    else:
        assert (users @ items.T).std(1, correction=0).mean().item() == pytest.approx(spread, rel=1e-5)


def test_vectors_of_nothing_start_training_as_nothing() -> None:
    positives, start, _ = made()
    model = Propagation(positives, [0 * table for table in start], user_share=0.5, item_share=0.0)
    model.start_training(3, 1.2)
    assert all(table.eq(0).all() for table in model.vectors())
