"""The order of an epoch: one permutation whatever the shares, that of one process up to a size, uniform above."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mrl.sharded import order
from mrl.sharded.order import own_places


def whole(total: int, edges: list[int], seed: int) -> torch.Tensor:
    """(total,): who is at each place, put together from shares between the edges."""
    found = torch.full((total,), -1)
    bounds = [0, *sorted(min(edge, total) for edge in edges), total]
    for start, stop in pairwise(bounds):
        places, which = own_places(total, start, stop, torch.Generator().manual_seed(seed))
        assert (places.diff() > 0).all() and len(places) == stop - start
        assert (found[places] == -1).all()
        found[places] = which + start
    return found


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 300),
    edges=st.lists(st.integers(0, 300), max_size=3),
    seed=st.integers(0, 99),
    is_drawn=st.booleans(),
)
def test_shares_put_together_are_a_permutation_that_does_not_depend_on_them(total, edges, seed, is_drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "DRAWN", 300 if is_drawn else 0)
        found = whole(total, edges, seed)
        assert sorted(found.tolist()) == list(range(total))
        assert torch.equal(found, whole(total, [], seed))
    if is_drawn:
        assert torch.equal(found, torch.randperm(total, generator=torch.Generator().manual_seed(seed)))


def test_keyed_orders_are_uniform_and_others_each_time(monkeypatch):
    monkeypatch.setattr(order, "DRAWN", 0)
    generator = torch.Generator().manual_seed(0)
    places = torch.stack([own_places(30, 0, 30, generator)[1] for _ in range(3000)])  # (3000, 30), who is where
    for who in range(0, 30, 7):
        counts = np.bincount((places == who).nonzero()[:, 1], minlength=30)
        assert chisquare(counts).pvalue > 1e-4
    both = np.bincount(places[:, 0] * 30 + places[:, 1], minlength=900).reshape(30, 30)
    assert (both.diagonal() == 0).all() and chisquare(both[~np.eye(30, dtype=bool)]).pvalue > 1e-4
