"""The parameters of privacy.ipynb."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.errors import ConfigError
from mrl.privacy.accuracy import WEIGHTS
from mrl.privacy.config import PrivacyConfig


def test_what_the_parameters_say():
    config = PrivacyConfig(dataset="planted", widths=[2, 4], seeds=3, folder="drawn")
    assert config.federation.client_shares == (0, 1) and config.federation.rounds == 2
    assert config.noise == {"delta": 1e-4, "clip": 1.0, "weights": WEIGHTS, "seeds": (0, 1, 2)}
    assert config.stem == Path("drawn/planted-privacy") and config.target.parts[-2:] == ("reports", "privacy.csv")
    assert config.attacked.widths == (16,) and config.attacked.start_rounds < config.attacked.rounds


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delta": 1.0}, "delta"),
        ({"clip": 0}, "clip"),
        ({"epsilons": [-1.0]}, "epsilons"),
        ({"rounds": 1}, "rounds=1"),
        ({"widths": [8, 4]}, "widths"),
        ({"summed": [2, 4]}, "begin with 1"),
        ({"weights": {"count": 0.0}}, "weights"),
    ],
)
def test_impossible_parameters_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        PrivacyConfig(**given)
