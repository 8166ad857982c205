"""Items by the users in common: the compiled loop and torch's products against dense matrices, for any threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl.data import Positives
from mrl.graph_filter import Neighbours, additions


def drawn(users: int, items: int, share: float) -> Positives:
    met = np.random.default_rng([users, items]).random((users, items)) < share
    return Positives.from_pairs(*met.nonzero(), users, items)


def dense(positives: Positives) -> torch.Tensor:
    matrix = torch.zeros(positives.num_users, positives.num_items, dtype=torch.float64)
    matrix[positives.users.long(), positives.items.long()] = 1
    return matrix


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 30))
def test_scores_are_those_of_dense_matrices(users, items, share, asked) -> None:
    positives, rng = drawn(users, items, share), np.random.default_rng(asked)
    rows = torch.from_numpy(rng.integers(0, users, asked))
    matrix = dense(positives)
    graph = matrix / (matrix.sum(1, keepdim=True) * matrix.sum(0)).sqrt().clamp_min(1)
    found = Neighbours(positives)
    found.scale = 3.0
    expected = 3 * (matrix @ graph.T @ graph)[rows].float()
    torch.testing.assert_close(found(rows), expected)
    if asked:
        by_products = 3 * found.weights * found._products(rows)
        torch.testing.assert_close(by_products, expected)


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_no_more_additions_than_are_told(share: float) -> None:
    positives = drawn(30, 40, share)
    matrix = dense(positives)
    meets = (matrix @ matrix.T > 0).double()
    made = float((meets @ matrix.sum(1)).sum())
    assert made <= additions(positives) <= 30 * len(positives)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    found, rows = Neighbours(drawn(300, 80, 0.1)), torch.arange(300)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = found(rows)
        torch.set_num_threads(threads)
        assert torch.equal(found(rows), alone)
    finally:
        torch.set_num_threads(before)
