"""How long a study will take: by a model of what pieces of work cost, and less for what is done."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mrl.controls.fitting import SEARCHED_INTERACTIONS
from mrl.study import plan as study_plan
from mrl.study.config import StudyConfig
from mrl.study.models import select_models
from mrl.study.plan import describe_plan, expected_seconds, machine_pace, plan_study
from mrl.study.run import run_study

pytest.importorskip("optuna")

SMALL = {"num_users": 120, "num_items": 64, "interactions": 2000}


@pytest.fixture
def config(tmp_path) -> StudyConfig:
    return StudyConfig(
        datasets=("planted",), planted=SMALL, widths=(2, 4), trials=5, seconds=100, seeds=(0, 1, 2, 3), processes=1,
        device="cpu", models=("ials-4", "mf-dns-mns", "popularity", "default"), folder=str(tmp_path / "study"),
        report=str(tmp_path / "report"),
    )  # fmt: skip


def test_trials_and_fits_are_counted_and_take_as_long_as_expected(config) -> None:
    plan = {row["model"]: row for row in plan_study(config, 2.0).iter_rows(named=True)}
    assert [plan[name]["trials"] for name in config.models] == [5, 4, 1, 1]  # fewer of a training
    assert [plan[name]["fits"] for name in config.models] == [4, 3, 1, 8]  # three seeds of a training; stages, too
    for model in config.models_on("planted"):
        each, row = expected_seconds(config, config.data("planted"), model), plan[model.name]
        seeds = len(model.seeds(config.seeds))
        fits = seeds * each["seed"] + (row["fits"] - seeds) * each["stages"]
        assert row["seconds"] == pytest.approx(2.0 * (row["trials"] * each["trial"] + fits))
        assert row["fits"] == seeds * (1 + model.has_stages) and each["epochs"] == 0


def test_a_training_takes_no_longer_than_its_share_and_large_data_one_more(config, monkeypatch) -> None:
    (model,) = (one for one in config.models_on("planted") if one.name == "mf-dns-mns")
    data = config.data("planted")
    assert expected_seconds(replace(config, seconds=1e-3), data, model)["trial"] == 1e-3 / 4
    whole = expected_seconds(config, data, model)
    monkeypatch.setattr(study_plan, "SEARCHED_INTERACTIONS", len(data.train) // 10)
    sampled = expected_seconds(config, data, model)
    assert sampled["trial"] < whole["trial"] and sampled["seed"] == whole["seed"]
    assert sampled["epochs"] == pytest.approx(whole["trial"])


def test_epochs_of_the_default_recipe_are_tried_and_on_large_data_kept(config, monkeypatch) -> None:
    default, least_squares = select_models(["default", "least_squares"], (2, 4))
    data = config.data("planted")
    small, without = (expected_seconds(config, data, model) for model in (default, least_squares))
    assert small["trial"] > without["trial"] and small["seed"] == without["seed"] < small["stages"]
    monkeypatch.setattr(study_plan, "SEARCHED_INTERACTIONS", len(data.train) // 10)
    large = expected_seconds(config, data, default)
    assert large["trial"] > small["trial"] and large["seed"] > small["seed"] and large["stages"] == small["stages"]


def test_steps_on_a_graph_are_fewer_on_large_data(config) -> None:
    (model,) = select_models(["lightgcn-dns-mns"], (4, 8))
    assert "batch_size" not in model.fixed and model.on_large_data().fixed["batch_size"] == 0
    pairs = 5 * SEARCHED_INTERACTIONS
    assert study_plan._epoch(model.on_large_data(), pairs, 10_000) < study_plan._epoch(model, pairs, 10_000) / 3
    default, least_squares = (one.on_large_data() for one in select_models(["default", "least_squares"], (4, 128, 256)))
    assert (default.widths, default.max_seeds) == ((4, 128), 3)
    assert (least_squares.widths, least_squares.max_seeds) == ((4, 128, 256), None)
    (mf,) = select_models(["mf-dns-mns"], (4, 8))
    assert mf.on_large_data() is mf


def test_what_is_done_takes_no_time(config) -> None:
    config = replace(config, models=("popularity", "ials-4"))
    assert plan_study(config, 1.0)["fits"].sum() == 5
    run_study(config, progress=False)
    assert plan_study(config, 1.0).select(pl.col("trials", "fits", "seconds").sum()).row(0) == (0, 0, 0.0)


def test_it_is_told_by_data_set_and_in_all(config) -> None:
    config = replace(
        config, widths=(2, 64, 128), models=("popularity", "default"), datasets=("planted", "planted-flat")
    )
    first, second, last = describe_plan(config)
    assert first.startswith("planted (120 users, 64 items): 2 trials and 9 fits, 0.0 h of CPU, 0.0 h on 1 core; ")
    assert first.endswith("; default alone 0.0 h; without width 128, above its smaller side")
    assert second.startswith("planted-flat (4,000 users, 4,096 items): ") and "without" not in second
    assert last.startswith("In all: ")
    assert machine_pace() > 0
