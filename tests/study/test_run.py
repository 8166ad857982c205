"""The study in small: searched, refit, kept; gone on with, shared by processes, and never made twice."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from pydantic import ValidationError

from mrl.controls import fitting
from mrl.errors import ConfigError, DataError, RunError
from mrl.study import jobs as study_jobs
from mrl.study import models as study_models
from mrl.study import run as study
from mrl.study.config import StudyConfig
from mrl.study.folder import Job
from mrl.study.run import run_study

pytest.importorskip("optuna")

SMALL = {"num_users": 120, "num_items": 64, "interactions": 2000}


@pytest.fixture
def config(tmp_path) -> StudyConfig:
    return StudyConfig(
        datasets=("planted",), planted=SMALL, widths=(2, 4), trials=2, seconds=100, seeds=(0, 1), epochs=2,
        eval_every=1, processes=1, device="cpu", models=("ials-4", "ease"),
        folder=str(tmp_path / "study"), report=str(tmp_path / "report"),
    )  # fmt: skip


def kept(config: StudyConfig) -> dict[str, dict]:
    """Everything that was found, without what it took."""
    found = {}
    for experiment in config.experiments():
        trials = [
            {name: trial[name] for name in ("number", "settings", "refit_settings", "value")}
            for trial in experiment.trials()
        ]
        results = [{**result, "seconds": 0} for result, _ in experiment.results(config.seeds)]
        found[experiment.model.name] = {"trials": trials, "results": results}
    return found


@pytest.mark.robustness
def test_data_that_changed_are_another_experiment(config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def write(folder: str, shift: int) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        pairs = [(user, (user * 7 + step * (2 + shift)) % 41) for user in range(40) for step in range(12)]
        path = tmp_path / folder / "clicks.csv"
        path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
        return str(path)

    def folders(dataset: str) -> set[str]:
        return {experiment.path.name for experiment in replace(config, datasets=(dataset,)).experiments()}

    first = folders(write("a", 0))
    assert folders("a/clicks.csv") == folders("a/../a/clicks.csv") == first
    assert not folders(write("b", 1)) & first
    write("a", 1)
    assert folders("a/clicks.csv") == folders("b/clicks.csv")
    monkeypatch.chdir("b")
    write("b", 2)
    assert folders("clicks.csv") == folders(str(tmp_path / "b")) != folders("../a/clicks.csv")


def test_a_study_searches_then_fits_each_seed_and_makes_nothing_twice(config, monkeypatch) -> None:
    before = torch.get_num_threads()
    ials, ease = run_study(config, progress=False)
    assert torch.get_num_threads() == before
    assert [trial["number"] for trial in ials.trials()] == [0, 1]
    assert ials.trials()[0]["settings"] == ials.model.first_trial
    results = list(ials.results(config.seeds))
    assert [result["seed"] for result, _ in results] == [0, 1] and all(path.exists() for _, path in results)
    assert {(row["width"], row["metric"], row["k"]) for row in results[0][0]["metrics"]} == {
        (width, metric, 20) for width in (2, 4) for metric in ("recall", "ndcg")
    }
    assert len(list(ease.results(config.seeds))) == 1  # its seed changes nothing
    best = max(ials.trials(), key=lambda trial: trial["value"])
    assert ials.best_settings() == {**ials.model.fixed, **best["settings"], **best["refit_settings"]}
    monkeypatch.setattr(study_jobs, "do_job", None)
    run_study(config, progress=False)


def test_a_search_goes_on_as_if_it_had_not_been_interrupted(config, tmp_path) -> None:
    config = replace(config, models=("ials-4",), seeds=(0,))
    for trials in (1, 3):
        run_study(replace(config, trials=trials), progress=False)
    other = replace(config, trials=3, folder=str(tmp_path / "whole"), report=str(tmp_path / "whole-report"))
    run_study(other, progress=False)
    assert kept(config) == kept(other) and len(kept(config)["ials-4"]["trials"]) == 3


def test_two_studies_at_once_share_the_work(config, tmp_path, monkeypatch) -> None:
    made: Counter[Job] = Counter()
    trial, test = study_jobs._run_trial, study_jobs._refit_and_test
    monkeypatch.setattr(study_jobs, "_run_trial", lambda c, e, n: made.update([(e.path, n)]) or trial(c, e, n))
    monkeypatch.setattr(study_jobs, "_refit_and_test", lambda c, e, n: made.update([(e.path, "s", n)]) or test(c, e, n))
    monkeypatch.setattr(study, "RETRY_SECONDS", 0.05)
    config = replace(config, models=("ials-2", "ials-4", "ease", "popularity"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: run_study(config, progress=False), range(2)))
    assert len(made) == 7 + 6 and set(made.values()) == {1}


@pytest.mark.slow
def test_several_processes_find_what_one_finds(config, tmp_path) -> None:
    config = replace(config, models=("ials-4", "popularity"), trials=1)
    run_study(replace(config, processes=2), progress=False)
    alone = replace(config, folder=str(tmp_path / "alone"), report=str(tmp_path / "alone-report"))
    run_study(alone, progress=False)
    assert kept(config) == kept(alone)


def test_what_another_process_is_at_is_left_to_it(config) -> None:
    experiment = config.experiments()[0]
    experiment.path.mkdir(parents=True)
    job = Job("planted", "ials-4", "trial", 0)
    with filelock.FileLock(experiment.path / ".trial-0.lock"):
        assert study_jobs.do_job(config, job) is None
    assert study_jobs.do_job(config, job) is not None
    assert study_jobs.do_job(config, job) == "done by another process"


def test_a_trial_whose_process_was_killed_is_made_again(config, tmp_path, monkeypatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study_jobs, "objective", killed)
        with pytest.raises(KeyboardInterrupt):
            run_study(config, progress=False)
    ials, _ = run_study(config, progress=False)
    assert [trial["number"] for trial in ials.trials()] == [0, 1]
    assert ials.trials()[0]["settings"] == ials.model.first_trial
    undisturbed = replace(config, folder=str(tmp_path / "undisturbed"), report=str(tmp_path / "undisturbed-report"))
    run_study(undisturbed, progress=False)
    assert kept(config) == kept(undisturbed)


def test_a_trial_that_fails_counts_and_says_why(config, monkeypatch) -> None:
    def failing(*_: object) -> None:
        raise RunError("diverged")

    monkeypatch.setattr(study_jobs, "objective", failing)
    ials, _ = run_study(config, progress=False)
    assert [(trial["value"], trial["error"]) for trial in ials.trials()] == [(0.0, "diverged")] * 2
    assert list(ials.results(config.seeds)) == []  # nothing to test, and no endless loop


def test_a_training_stops_when_its_share_of_the_budget_is_spent(config) -> None:
    config = replace(config, models=("mf-dns-mns",), seconds=1e-9, epochs=50, seeds=(0,))
    (experiment,) = run_study(config, progress=False)
    assert [trial["refit_settings"] for trial in experiment.trials()] == [{"epochs": 1}] * 2  # the next is made, too
    assert experiment.timed_out() == 2
    assert len(list(experiment.results(config.seeds))) == 1


def test_a_search_of_its_own_is_made_once(config, monkeypatch) -> None:
    seen = []

    def fit(task, settings):
        seen.append((len(task.data.valid) > 0, task.seed, settings))
        return fitting.FitResult(fitting.fit_ials(task, {"dim": 4, "alpha0": 0.1, "l2": 0.01}).model, {"l2": 0.5})

    own = study_models.StudyModel(
        "own", "recipe", fit, (2, 4), ("least_squares.ials",), fixed={"depth": 1}, max_trials=1
    )
    monkeypatch.setattr(study_models, "study_models", lambda widths: [own])
    (experiment,) = run_study(replace(config, models=("own",)), progress=False)
    chosen = {"depth": 1, "l2": 0.5}
    search, refits = (True, 0, {"depth": 1}), [(False, seed, chosen) for seed in (0, 1)]
    assert seen == [search, *refits] and len(list(experiment.results(config.seeds))) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": ("eas",)}, "models='eas': unknown; choose of"),
        ({"main": "mine"}, "main='mine': is no row of the study"),
        ({"widths": (8, 4)}, "widths=.*must increase"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(wrong: dict, message: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        StudyConfig(**wrong)


def test_without_optuna_the_remedy_is_told(config, monkeypatch) -> None:
    monkeypatch.setattr(study.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"optuna, which is not installed; pip install 'mrl\[study\]'"):
        run_study(config, progress=False)


def test_a_catalogue_shorter_than_the_lists_is_refused(config, tmp_path: Path) -> None:
    tiny = {"num_users": 30, "num_items": 16, "interactions": 200, "branching": [2, 2]}
    with pytest.raises(DataError, match="16 items, where the study ranks lists of 20"):
        run_study(replace(config, planted=tiny), progress=False)
