"""Marginals of balanced assignments, against the scaling of a table written out row by row and column by column."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.prototypes import sinkhorn


def scaled_slowly(logits: np.ndarray, weights: np.ndarray, rounds: int) -> np.ndarray:
    """Exp, then in turn every column to 1/K and every row to its weight; at the end rows that sum to 1."""
    table = np.exp(logits) * (weights / weights.sum())[:, None]
    for _ in range(rounds):
        for column in range(table.shape[1]):
            table[:, column] *= 1 / table.shape[1] / table[:, column].sum()
        for row in range(table.shape[0]):
            table[row] *= weights[row] / weights.sum() / table[row].sum()
    return table / table.sum(1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_it_is_exp_then_columns_and_rows_in_turn(items, number, rounds, weighted, seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(items, number))
    weights = rng.uniform(0.1, 2, items) if weighted else np.ones(items)
    found, offsets = sinkhorn(torch.tensor(logits), torch.tensor(weights) if weighted else None, rounds)
    np.testing.assert_allclose(found.numpy(), scaled_slowly(logits, weights, rounds), atol=1e-10)
    again = torch.softmax(torch.tensor(logits) + offsets, 1)
    np.testing.assert_allclose(again.numpy(), found.numpy(), atol=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_every_prototype_gets_as_much_of_the_weight(exponent):
    rng = np.random.default_rng(0)
    popularity = rng.integers(1, 200, 60)
    weights = torch.tensor(popularity, dtype=torch.float64) ** exponent
    found, _ = sinkhorn(torch.tensor(4 * rng.normal(size=(60, 5))), weights, 500)
    assert found.sum(1).numpy() == pytest.approx(np.ones(60))
    assert (weights @ found / weights.sum()).numpy() == pytest.approx(np.full(5, 0.2), abs=1e-6)


def test_large_scores_and_items_without_weight_are_no_trouble():
    logits = torch.tensor([[1e4, 0.0], [1e4, -1e4], [3.0, 5.0]])
    found, offsets = sinkhorn(logits, torch.tensor([1.0, 1.0, 0.0]), 10)
    assert found.isfinite().all() and offsets.isfinite().all()
    assert found.sum(1).numpy() == pytest.approx(np.ones(3))
