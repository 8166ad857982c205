"""Pieces of work of the study: the default recipe tested after each of its stages, kept and shown."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from settings import GIVEN

from mrl.controls import fitting
from mrl.controls.fitting import Task, fit_recipe, recipe_config
from mrl.data.holdout import hold_out
from mrl.data.synthetic import planted_interactions
from mrl.least_squares.stages import TRAINED, refit_stages
from mrl.study import config as study_config
from mrl.study.config import StudyConfig
from mrl.study.folder import read_json, write_json
from mrl.study.page import write_study
from mrl.study.run import run_study
from mrl.study.tables import read_tables, study_tables
from mrl.words import STAGES

pytest.importorskip("optuna")

CHOSEN = {
    "recipe": "default", **GIVEN, "fit_width": 16, "nested_sweeps": 1, "rotation": True, "epochs": 0, "nu": 1.0,
    "l2_width_exponent": 0.3, "hops": 2, "l2": 0.01, "initial_scale": 1.0,
}  # fmt: skip


def test_what_is_trained_starts_from_the_last_stage() -> None:
    data = hold_out(planted_interactions(num_users=120, num_items=64, interactions=2000), seed=0)
    task = Task(data.merge_valid(), (2, 4, 8))
    *_, (_, (users, items)) = refit_stages(recipe_config(task, CHOSEN), task.data.train)
    trained = fit_recipe(task, CHOSEN).model
    assert torch.allclose(users @ items.T, trained[0] @ trained[1].T, atol=1e-6)


def test_the_study_keeps_and_shows_them(tmp_path) -> None:
    small = {"num_users": 120, "num_items": 64, "interactions": 2000}
    config = StudyConfig(
        datasets=("planted",), planted=small, widths=(2, 4), seeds=(0, 1), processes=1, device="cpu",
        models=("default",), folder=str(tmp_path / "study"), report=str(tmp_path / "report"), resamples=100,
    )  # fmt: skip
    (experiment,) = config.experiments()
    chosen = {name: value for name, value in CHOSEN.items() if name != "recipe"}
    trial = {"number": 0, "settings": {}, "refit_settings": chosen, "value": 0.5, "seconds": 1.0, "timed_out": False}
    trial |= {"error": None, "max_trials": 8, "max_seconds": 60.0, "epochs": 300, "patience": 10}
    write_json(experiment.path / "search.json", {"trials": [trial]})
    assert [job.kind for job in config.jobs(experiment)] == ["seed"] * 2 + ["stages"] * 2
    run_study(config, progress=False)
    assert config.jobs(experiment) == []
    path = experiment.stages_path(1, experiment.best_settings())
    assert len(read_json(path)["metrics"]) == 4 * 2 * 2  # stages, widths, metrics
    tables = study_tables(config)
    stages = tables.stages("planted")
    assert stages.filter(metric="recall", width=4)["model"].to_list() == list(STAGES)
    assert set(tables.means["model"]) == set(tables.costs["model"]) == {"default"}
    ends = [stages.filter(model=stage, metric="ndcg")["mean"].to_list() for stage in ("rotated", TRAINED)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)  # no epoch was chosen
    csv, tex, page = write_study(tables, config)
    assert "The default recipe stage by stage" in page.read_text() and "iALS on its principal axes" in tex.read_text()
    assert tex.read_text().count(r"\begin{table}") == 3
    staged = tex.read_text().partition("after each of its stages")[2]
    assert len(re.findall(r"\\textbf{\.\d{4}}", staged)) >= 2 * 2  # the best of each column; equal ones share it
    again = replace(config, table=str(csv), report=str(tmp_path / "again"))
    assert read_tables(csv).stages("planted").equals(stages)
    rewritten = [path.read_bytes() for path in write_study(study_tables(again), again)]
    assert rewritten == [tex.read_bytes(), page.read_bytes()]


def test_epochs_of_all_users_are_chosen_where_the_search_had_a_sample(tmp_path, monkeypatch) -> None:
    small = {"num_users": 120, "num_items": 64, "interactions": 2000}
    config = StudyConfig(
        datasets=("planted",), planted=small, widths=(2, 4), seeds=(0,), processes=1, device="cpu", trials=1, epochs=2,
        eval_every=1, models=("lightgcn-dns-shared",), folder=str(tmp_path / "study"), report=str(tmp_path / "report"),
    )  # fmt: skip
    for place in (fitting, study_config):
        monkeypatch.setattr(place, "SEARCHED_INTERACTIONS", 500)
    assert not any("shared" in each.name for each in replace(config, models=()).models_on("planted")[4:])  # not named
    (experiment,) = run_study(config, progress=False)
    (trial,) = experiment.trials()
    assert trial["sampled"] and experiment.best_settings()["batch_size"] == 0 and not config.jobs(experiment)
    assert read_json(experiment.epochs_path())["refit_settings"]["epochs"] in (1, 2)
    assert study_tables(config).results["sampled"].all()
