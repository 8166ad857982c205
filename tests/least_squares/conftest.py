"""The planted data that the choice of settings is tested on."""

from __future__ import annotations

import pytest

from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions
from mrl.data.synthetic import planted_interactions


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=150, num_items=48, interactions=2500, branching=(3, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)
