"""Settings: what is refused, with which words, and what text from a command line becomes."""

from __future__ import annotations

import pytest

from mrl.config import TrainConfig, differing
from mrl.errors import ConfigError
from mrl.parameters import as_config


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"widths": [8, 4]}, "for example [4, 8]"),
        ({"widths": []}, "widths"),
        ({"level_weights": [1, 2]}, "2 weights for 5 widths"),
        ({"level_weights": [0, 0, 0, 0, 0]}, "not all zero"),
        ({"rule": "hard"}, "rule='hard'"),
        ({"rule": "dns_mn", "topk": 17}, "topk=17"),
        ({"levels_per_step": 6}, "there are 5 levels"),
        ({"eval_widths": [128]}, "128 is wider than the 64"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0"),
        ({"nested_negatives": "maybe"}, "nested_negatives='maybe'"),
        ({"lrr": 0.1}, "unknown parameter 'lrr'"),
        ({"name": "../up"}, "name='../up'"),
    ],
)
def test_impossible_settings_are_refused_in_one_line_that_names_them(values: dict, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        as_config(TrainConfig, values)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_text_from_a_command_line_becomes_the_right_type() -> None:
    text = {"widths": "[4, 8]", "nested_negatives": "false", "learning_rate": "1e-2", "min_rating": "4", "epochs": "7"}
    config = as_config(TrainConfig, text)
    assert config.widths == (4, 8) and config.nested_negatives is False
    assert (config.learning_rate, config.min_rating, config.epochs) == (0.01, 4.0, 7)


def test_the_name_of_a_run_says_what_sets_it_apart() -> None:
    assert TrainConfig().run_name == "mf-dns-mns"
    assert TrainConfig(backbone="lightgcn", hops=3, nested_negatives=False).run_name == "lightgcn3-dns-shared"
    assert TrainConfig(loss="bce", rule="ahns").run_name == "mf-bce-ahns-mns"
    assert TrainConfig(name="mine").run_name == "mine"


def test_report_widths_are_the_trained_and_the_further_ones_in_order() -> None:
    assert TrainConfig(eval_widths=[48, 6]).report_widths == (4, 6, 8, 16, 32, 48, 64)


def test_differing_names_what_two_runs_do_not_share() -> None:
    one, other = TrainConfig().to_dict(), TrainConfig(epochs=5, resume=False, device="cpu").to_dict()
    assert differing(one, other) == {"epochs": (300, 5)}
    assert differing(one, {**one, "widths": list(one["widths"])}) == {}
