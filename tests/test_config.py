"""Settings: what is refused, with which words, and what text from a command line becomes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mrl.analysis.comparison import EvaluateConfig
from mrl.config import SECTION_OF, TrainConfig, differing, flat, in_sections
from mrl.controls.runs import ControlsConfig
from mrl.errors import ConfigError
from mrl.hierarchy.runs import HierarchyConfig
from mrl.parameters import as_config
from mrl.recipes import OF_PAIRS, USUAL
from mrl.report.stages import ReportConfig
from mrl.study.config import StudyConfig


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"widths": [8, 4]}, "for example [4, 8]"),
        ({"widths": []}, "widths"),
        ({"nested_loss": {"level_weights": [1, 2]}}, "2 weights for 5 widths"),
        ({"nested_loss": {"level_weights": [0, 0, 0, 0, 0]}}, "not all zero"),
        ({"rule": "hard"}, "rule='hard'"),
        ({"rule": "dns_mn", "loss": "bpr", "sampler": {"topk": 17}}, "topk=17"),
        ({"rule": "ahns"}, "rule='ahns': loss='softmax' weighs all items that it draws; loss='bpr' picks negatives"),
        ({"recipe": "mrl4rec", "loss": "softmax", "sampler": {"candidates": 4}}, "candidates=4: loss='softmax'"),
        ({"nested_negatives": False}, "nested_negatives=False: loss='softmax'"),
        ({"loss": "hinge"}, "loss='hinge': must be 'softmax', 'bpr'"),
        ({"nested_loss": {"levels_per_step": 6}}, "there are 5 levels"),
        ({"eval_widths": [128]}, "128 is wider than the 64"),
        (
            {"widths": "auto", "recipe": "mrl4rec"},
            "widths='auto': recipe='mrl4rec' has no search; give",
        ),
        ({"widths": "auto", "backbone": "mf"}, "or recipe='default'"),
        ({"widths": "auto", "least_squares": {"search": "none"}}, "give widths such as [4, 8, 16, 32, 64], or search="),
        ({"widths": "auto", "least_squares": {"fit_width": 3}}, "fit_width=3: must be at least the widest width, 4"),
        (
            {"widths": "auto", "eval_widths": [6]},
            "eval_widths=[6]: how many widths 'auto' finds is not known",
        ),
        ({"widths": "auto", "nested_loss": {"level_weights": [1, 2]}}, "level_weights=[1.0, 2.0]: how many"),
        ({"widths": "auto", "nested_loss": {"levels_per_step": 1}}, "levels_per_step=1: how many"),
        ({"widths": "wide"}, "widths='wide': must be a list such as [4, 8]"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"holdout": {"valid_fraction": 1.0}}, "holdout.valid_fraction=1.0"),
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
    text |= {"loss": "bpr"}
    assert as_config(TrainConfig, {"widths": "auto"}).widths == TrainConfig(widths="auto").widths == "auto"
    config = as_config(TrainConfig, text)
    assert config.widths == (4, 8) and config.nested_negatives is False
    assert (config.learning_rate, config.min_rating, config.epochs) == (0.01, 4.0, 7)


def test_the_name_of_a_run_says_what_sets_it_apart() -> None:
    assert TrainConfig().run_name == "default"
    assert TrainConfig(loss="bpr").run_name == "default-dns-mns"
    assert TrainConfig(loss="bpr", rule="ahns", nested_negatives=False).run_name == "default-ahns-shared"
    assert TrainConfig(loss="bce").run_name == "default-bce-dns-mns"
    assert TrainConfig(recipe="least_squares").run_name == "least-squares"
    assert TrainConfig(epochs=0, loss="bpr").run_name == "default"
    assert TrainConfig(backbone="mf", loss="softmax").run_name == "mf-softmax"
    assert TrainConfig(recipe="mrl4rec").run_name == "mf-dns-mns"
    assert TrainConfig(backbone="lightgcn", hops=3, nested_negatives=False).run_name == "lightgcn3-dns-shared"
    assert TrainConfig(backbone="mf", loss="bce", rule="ahns").run_name == "mf-bce-ahns-mns"
    assert TrainConfig(name="mine").run_name == "mine"


def test_settings_left_out_are_those_of_the_recipe() -> None:
    published = TrainConfig(recipe="mrl4rec")
    assert (published.backbone, published.epochs, published.l2) == ("mf", 300, 1e-4)
    assert TrainConfig(recipe="mrl4rec", epochs=5, l2=0).epochs == 5
    assert TrainConfig(backbone="lightgcn").recipe == "mrl4rec"  # only there is it a choice
    assert TrainConfig(epochs=None, backbone="").epochs == TrainConfig().epochs
    assert TrainConfig(recipe="least_squares").epochs == 0
    losses = {recipe: TrainConfig(recipe=recipe).loss for recipe in ("default", "least_squares", "mrl4rec")}
    assert losses == {"default": "softmax", "least_squares": "softmax", "mrl4rec": "bpr"}
    assert TrainConfig(loss="").loss == "softmax" and TrainConfig(loss="bpr").loss == "bpr"
    again = as_config(TrainConfig, json.loads(json.dumps(published.to_dict())))
    assert again == published


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "best"}, "recipe='best': must be 'default', 'least_squares' or 'mrl4rec'"),
        ({"recipe": "default", "backbone": "lightgcn"}, "recipe='mrl4rec' has mf and lightgcn"),
        ({"recipe": "mrl4rec", "backbone": "propagation"}, "the other recipes have propagation"),
        ({"recipe": "mrl4rec", "epochs": 0}, "epochs=0: recipe='mrl4rec' needs at least 1"),
        ({"recipe": "least_squares", "epochs": 3}, "epochs=3: recipe='least_squares' has none"),
        ({"least_squares": {"propagation": [1.0]}}, "give two, of users and of items, or none"),
        (
            {"least_squares": {"nested_sweeps": -1}},
            "least_squares.nested_sweeps=-1: must be greater than or equal to 0",
        ),
        ({"least_squares": {"sweeps": 0}}, "least_squares.sweeps=0: must be greater than 0"),
        ({"least_squares": {"rotation": 1}}, "least_squares.rotation=1: must be true or false"),
        ({"least_squares": {"search": "slow"}}, "least_squares.search='slow': must be 'quick', 'thorough' or 'none'"),
        *(
            ({"least_squares": {name: value}}, f"least_squares: unknown setting '{name}'")
            for name, value in (("popularity_exponent", 0.5), ("rotation_width", 8), ("trials", 12))
        ),
        ({"least_squares": {"fit_width": 32}}, "fit_width=32: must be at least the widest width, 64"),
        ({"least_squares": {"alpha0": 0}}, "least_squares.alpha0=0: must be greater than 0"),
    ],
)
def test_settings_that_no_recipe_has_are_refused_in_one_line(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        as_config(TrainConfig, settings)
    assert "\n" not in str(error.value)


def test_report_widths_are_the_trained_and_the_further_ones_in_order() -> None:
    assert TrainConfig(eval_widths=[48, 6]).report_widths == (4, 6, 8, 16, 32, 48, 64)


def test_differing_names_what_two_runs_do_not_share() -> None:
    one, other = TrainConfig().to_dict(), TrainConfig(epochs=5, resume=False, device="cpu").to_dict()
    assert differing(one, other) == {"epochs": (300, 5)}
    assert differing(one, {**one, "widths": list(one["widths"])}) == {}
    assert differing(one, in_sections({"topk": 2}, one)) == {"topk": (4, 2)}


def test_settings_are_found_and_changed_by_name_whatever_their_section() -> None:
    config = TrainConfig(least_squares={"alpha0": 0.1}, nested_loss={"level_weights": (1, 2, 3, 4, 5)})
    changed = config.with_settings(nu=0.5, epochs=3, topk=2)
    assert (changed.least_squares.nu, changed.epochs, changed.sampler.topk) == (0.5, 3, 2)
    assert changed.setting("alpha0") == 0.1 and changed.setting("dataset") == "ml-100k"
    assert changed.with_settings(nu=None, epochs=None, topk=4) == config
    names = flat(config.to_dict())
    assert set(SECTION_OF) < set(names) and names["level_weights"] == (1, 2, 3, 4, 5)
    assert TrainConfig(**in_sections(names)) == config
    usual = TrainConfig().with_usual()  # alpha0 and fit_width depend on the data
    assert {name: usual.setting(name) for name in USUAL} == USUAL and usual.with_usual() == usual
    pairs = TrainConfig(loss="bpr").with_usual()
    assert {name: pairs.setting(name) for name in USUAL | OF_PAIRS} == USUAL | OF_PAIRS
    assert usual.least_squares.alpha0 is usual.least_squares.fit_width is None
    given = {"sweeps": 3, "nested_sweeps": 0, "rotation": False, "propagation": (0.0, 0.0), "hops": 0, "l2": 0.0}
    assert {name: TrainConfig(**in_sections(given)).with_usual().setting(name) for name in given} == given
    with pytest.raises(ConfigError, match=re.escape("did you mean least_squares={'alpha0': …}?")):
        TrainConfig(alpha0=0.1)


@pytest.mark.robustness
def test_settings_are_taken_from_what_python_programs_hold(tmp_path, monkeypatch) -> None:
    """Paths, NumPy numbers, ranges, arrays and series are what they mean; `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    config = TrainConfig(
        dataset=tmp_path / "clicks.csv",
        run_dir=Path("~/runs/one"),
        epochs=np.int64(3),
        learning_rate=np.float64(0.01),
        l2=torch.tensor(0.5),
        widths=np.array([2, 4]),
        eval_widths=range(3, 4),
        nested_loss={"level_weights": pl.Series([1.0, 2.0])},
        nested_negatives=np.bool_(False),
        loss="bpr",
    )
    assert config.dataset == str(tmp_path / "clicks.csv") and config.run_dir == str(tmp_path / "runs/one")
    assert (config.epochs, config.learning_rate, config.l2, config.widths) == (3, 0.01, 0.5, (2, 4))
    assert type(config.epochs) is int and config.nested_negatives is False and config.eval_widths == (3,)
    assert config.nested_loss.level_weights == (1.0, 2.0)
    json.dumps(config.to_dict())
    assert TrainConfig(dataset="~/a").dataset == str(tmp_path / "a")
    for paths in ([tmp_path], (str(tmp_path),)):
        assert HierarchyConfig(runs=paths, out_dir=Path("x")).runs == (str(tmp_path),)
    assert EvaluateConfig(runs=tmp_path, dataset=tmp_path).runs == (str(tmp_path),)
    assert ControlsConfig(run=Path("~/run")).run == str(tmp_path / "run")
    assert ReportConfig(folder=tmp_path, page=tmp_path / "p.html").page == str(tmp_path / "p.html")
    assert StudyConfig(folder=tmp_path).folder == str(tmp_path)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": True}, "epochs=True: must be a whole number"),
        ({"epochs": 3.5}, "epochs=3.5: must be a whole number"),
        ({"epochs": np.float64(3.5)}, "must be a whole number"),
        ({"widths": [4, 8.5]}, r"widths=\[4, 8.5\]"),
        ({"widths": 8}, "widths=8: must be a list"),
        ({"dataset": b"ml-100k"}, "dataset=b'ml-100k': must be text"),
        ({"dataset": 5}, "dataset=5: must be text"),
        ({"dataset": pl.DataFrame({"user": [1]})}, "dataset=.*: must be text"),
        ({"nested_negatives": 1}, "nested_negatives=1: must be true or false"),
        ({"learning_rate": np.nan}, "learning_rate=nan: must be a finite number"),
        ({"holdout": 0.2}, "holdout=0.2: must be a mapping"),
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"epoch": 3, "widths": [True]}, "'epochs'.*; widths="),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_settings_from_python_are_checked_as_those_of_notebooks(settings, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(**settings)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)
