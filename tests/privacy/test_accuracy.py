"""Accuracy by ε: what noise costs, and that without it nothing is lost but by clipping."""

from __future__ import annotations

from math import inf

import pytest

from mrl.data import hold_out, planted_interactions
from mrl.errors import ConfigError
from mrl.federated import FederatedConfig
from mrl.privacy.accuracy import accuracy_by_epsilon
from mrl.privacy.noise import noise_multiplier

CONFIG = FederatedConfig(widths=[2, 4], alpha0=2.0, l2=0.003, start_rounds=1, rounds=2)


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (extra federated)")
    return hold_out(planted_interactions(600, 64, 12_000, (4, 4), seed=0))


def test_accuracy_falls_with_epsilon(data):
    table = accuracy_by_epsilon(CONFIG, data, [0.05, 20.0, inf], delta=1e-4, seeds=[0, 1])
    assert table["messages"].unique().to_list() == [3] and len(table.filter(width=4, metric="recall")) == 6
    assert table["noise_multiplier"].max() == pytest.approx(noise_multiplier(0.05, delta=1e-4, messages=3))
    means = [table.filter(epsilon=each, width=4, metric="recall")["value"].mean() for each in (0.05, 20.0, inf)]
    assert means[0] < means[1] - 0.02 and means[0] < means[2] - 0.05


def test_settings_that_look_at_the_data_are_refused(data):
    with pytest.raises(ConfigError, match="alpha0 given"):
        accuracy_by_epsilon(FederatedConfig(widths=[2, 4]), data, delta=1e-4)
