from __future__ import annotations

import pytest

from mrl.errors import ConfigError
from mrl.federated import FederatedConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (8, 4)}, "must increase"),
        ({"shares": (1, 2)}, "give one for each of the widths"),
        ({"shares": (0, 0, 0)}, "give one for each"),
        ({"rounds": 6}, "the first start_rounds=6 only begin"),
        ({"level_weights": (1, 1, 0)}, "a width that clients hold weighs nothing"),
        ({"data": {"recipe": "mrl4rec"}}, "is no setting of data"),
        ({"data": {"planted": {}, "seed": 3}}, "is no setting of data"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"method": "fedavg"}, "method='fedavg'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(ConfigError, match=words):
        FederatedConfig(**settings)


def test_three_widths_are_held_as_in_hetefedrec_and_others_by_all():
    assert FederatedConfig().client_shares == (5.0, 3.0, 2.0)
    assert FederatedConfig(widths=(4, 8)).client_shares == (0.0, 1.0)
    assert FederatedConfig(scenario="narrow").client_shares == (1.0, 0.0, 0.0)
    assert FederatedConfig(scenario="narrow", shares=(0, 1, 1)).client_shares == (0.0, 1.0, 0.0)


def test_the_run_is_named_after_what_sets_it_apart():
    assert FederatedConfig().run_name == "federated-closed-form"
    assert FederatedConfig(scenario="wide").run_name == "federated-closed-form-wide"
    assert FederatedConfig(scenario="central").run_name == "federated-central"
    training = FederatedConfig(data={"min_rating": 4.0, "valid_fraction": 0.2}, seed=5).training
    assert (training.min_rating, training.holdout.valid_fraction, training.seed) == (4.0, 0.2, 5)
