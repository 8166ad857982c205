"""Pieces of work of the study: a trial, a fit that is tested, its stages; locked by whoever does them."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import filelock
import polars as pl
import torch

from mrl.controls.fitting import METRICS, objective, rank, recipe_config
from mrl.errors import MRLError
from mrl.evaluation import Evaluation
from mrl.least_squares.stages import refit_stages
from mrl.study.config import StudyConfig
from mrl.study.folder import Experiment, Job, write_json, write_per_user
from mrl.study.models import Choice

STARTUP_TRIALS = 5  # drawn at random before the search learns from them


def do_job(config: StudyConfig, job: Job) -> str | None:
    """Do one piece of work, unless it is done by now. Returns what came out; None where another process is at it."""
    (model,) = (model for model in config.models_on(job.dataset, all_models=True) if model.name == job.model)
    experiment = config.experiment(job.dataset, model)
    experiment.path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(experiment.path / f".{job.kind}-{job.number}.lock", timeout=0):
            if job not in config.jobs(experiment):
                return "done by another process"
            do = {"trial": _run_trial, "epochs": _choose_epochs, "seed": _refit_and_test, "stages": _test_stages}
            return do[job.kind](config, experiment, job.number)
    except filelock.Timeout:
        return None


def _run_trial(config: StudyConfig, experiment: Experiment, number: int) -> str:
    """One trial, into search.json; what fails with an error of ours counts as a trial of value 0."""
    settings = _ask_for_settings(config, experiment, number)
    task = config.search_task(experiment)
    started = task.now()
    task = replace(task, deadline=started + config.seconds / config.max_trials(experiment.model))
    facts: dict[str, Any] = {"refit_settings": {}, "timed_out": False, "error": None}
    facts |= {"max_trials": config.max_trials(experiment.model), "max_seconds": config.seconds}
    facts |= {"sampled": len(task.data.train) < len(config.data(experiment.dataset).train)}
    facts |= {"epochs": config.epochs, "patience": config.patience}
    try:
        result = experiment.model.fit(task, {**experiment.model.fixed, **settings})
        value = objective(task, result.model) if result.value is None else result.value
        facts |= {"refit_settings": dict(result.refit_settings), "timed_out": result.timed_out}
    except MRLError as error:
        value, facts["error"] = 0.0, str(error)
    facts["seconds"] = round(task.now() - started, 3)
    with filelock.FileLock(experiment.path / ".search.lock"):
        trials = [*experiment.trials(), {"number": number, "settings": settings, "value": value} | facts]
        write_json(experiment.path / "search.json", {"trials": sorted(trials, key=lambda trial: trial["number"])})
    return f"{value:.4f}"


def _ask_for_settings(config: StudyConfig, experiment: Experiment, number: int) -> dict[str, Any]:
    """The settings that the search wants tried next, by the trials so far; trial 0 has the model's usual ones."""
    if number == 0 and experiment.model.first_trial:
        return dict(experiment.model.first_trial)
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {
        name: CategoricalDistribution(values.values)
        if isinstance(values, Choice)
        else FloatDistribution(values.low, values.high, log=True)
        for name, values in experiment.model.space.items()
    }
    # of its own for each trial, so that it does not matter which process makes it
    seed = zlib.crc32(f"{config.seed}/{experiment.dataset}/{experiment.model.name}/{number}".encode())
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
    search = optuna.create_study(sampler=sampler, direction="maximize")
    for trial in experiment.trials():
        search.add_trial(optuna.create_trial(params=trial["settings"], distributions=space, value=trial["value"]))
    return search.ask(space).params


def _choose_epochs(config: StudyConfig, experiment: Experiment, number: int) -> str:
    """One more training with the best settings, of all users, where the search had a sample of them: its epochs."""
    settings = experiment.best_settings()
    task = config.search_task(experiment, whole=True)
    started = task.now()
    task = replace(task, deadline=started + config.seconds / 2)
    result = experiment.model.fit(task, {name: settings[name] for name in settings if name != "epochs"})
    facts = {"refit_settings": dict(result.refit_settings), "timed_out": result.timed_out}
    write_json(experiment.epochs_path(), facts | {"seconds": round(task.now() - started, 3)})
    return f"{result.value:.4f}"


def _refit_and_test(config: StudyConfig, experiment: Experiment, seed: int) -> str:
    """Refit with the best settings and test."""
    settings = experiment.best_settings()
    task = config.refit_task(experiment, seed)
    started = task.now()
    model = experiment.model.fit(task, settings).model
    seconds = task.now() - started
    evaluation = rank(task, model, "test", per_user=True)
    table = _metrics(evaluation)
    path = experiment.result_path(seed, settings)
    write_per_user(path.with_suffix(".parquet"), evaluation.per_user.filter(pl.col("metric").is_in(METRICS)))
    facts = {
        "dataset": experiment.dataset,
        "model": experiment.model.name,
        "seed": seed,
        "settings": settings,
        "users": evaluation.users,
        "fingerprint": config.data(experiment.dataset).fingerprint,
        "metrics": table.to_dicts(),
    }
    write_json(path, facts | _cost(seconds, task.device))  # last: with it the fit counts as done
    return f"{table['value'].mean():.4f}"


def _test_stages(config: StudyConfig, experiment: Experiment, seed: int) -> str:
    """Refit with the best settings, and test after each stage."""
    settings, task = experiment.best_settings(), config.refit_task(experiment, seed)
    stages = refit_stages(recipe_config(task, settings), task.data.train.to(task.device))
    tables = {stage: _metrics(rank(task, model, "test")) for stage, model in stages}
    metrics = [{"stage": stage, **row} for stage, table in tables.items() for row in table.iter_rows(named=True)]
    write_json(experiment.stages_path(seed, settings), {"seed": seed, "settings": settings, "metrics": metrics})
    return ", ".join(f"{stage} {table['value'].mean():.4f}" for stage, table in tables.items())


def _metrics(evaluation: Evaluation) -> pl.DataFrame:
    return evaluation.table.filter(pl.col("metric").is_in(METRICS)).select("width", "metric", "k", "value")


def _cost(seconds: float, device: torch.device) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "threads": torch.get_num_threads(), "device": str(device)}
