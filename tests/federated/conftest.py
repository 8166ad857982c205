"""Small data with many kinds of clients, and settings for them."""

from __future__ import annotations

from typing import Any

import pytest

from mrl.config import TrainConfig
from mrl.data import Interactions, load_data
from mrl.federated import FederatedConfig

PLANTED = {"num_users": 90, "num_items": 64, "interactions": 1500}


@pytest.fixture(scope="session")
def data() -> Interactions:
    return load_data(TrainConfig(dataset="planted", planted=PLANTED))


@pytest.fixture
def config():
    def make(**settings: Any) -> FederatedConfig:
        usual = {
            "dataset": "planted",
            "data": {"planted": PLANTED},
            "widths": (2, 4, 8),
            "alpha0": 0.1,
            "block": 0,
            "start_rounds": 3,
        }
        return FederatedConfig(**(usual | settings))

    return make
