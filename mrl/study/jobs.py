"""The pieces of work of the study: a trial, a fit that is tested, the timing of a fit; locked by whoever does it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import filelock
import polars as pl
import torch

from mrl.errors import MRLError
from mrl.study.fitting import METRICS, objective, rank
from mrl.study.folder import Experiment, Job, write_json, write_per_user
from mrl.study.models import Choice, Space, select_models

if TYPE_CHECKING:
    import optuna

    from mrl.study.config import StudyConfig

STARTUP_TRIALS = 5  # drawn at random before the search learns from them


def do_job(config: StudyConfig, job: Job) -> str | None:
    """Do one piece of work, unless it is done by now. Returns what came out; None where another process is at it."""
    (model,) = (model for model in select_models((), config.widths) if model.name == job.model)
    experiment = config.experiment(job.dataset, model)
    experiment.path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(experiment.path / f".{job.kind}-{job.number}.lock", timeout=0):
            if job not in experiment.jobs(trials=config.trials, seconds=config.seconds, seeds=config.seeds):
                return "done by another process"
            do = _run_trial if job.kind == "trial" else _refit_and_test
            return do(config, experiment, job.number)
    except filelock.Timeout:
        return None


def _run_trial(config: StudyConfig, experiment: Experiment, number: int) -> str:
    """One trial, into the storage; what fails with an error of ours counts as a trial of value 0."""
    lock = filelock.FileLock(experiment.path / ".search.lock")
    with lock:  # two processes that make the tables at once would both fail
        search, trial = _ask_for_trial(config, experiment, number)
    seconds_left = config.seconds - sum(done["seconds"] for done in experiment.trials())
    task = config.search_task(experiment, config.seed)
    started = task.now()
    task = replace(task, deadline=started + seconds_left)
    facts: dict[str, Any] = {"refit_settings": {}, "timed_out": False, "error": None}
    facts |= {"max_trials": config.trials, "max_seconds": config.seconds}
    facts |= {"epochs": config.epochs, "patience": config.patience}
    try:
        result = experiment.model.fit(task, {**experiment.model.fixed, **trial.params})
        value = objective(task, result.model) if result.value is None else result.value
        facts |= {"refit_settings": dict(result.refit_settings), "timed_out": result.timed_out}
    except MRLError as error:
        value, facts["error"] = 0.0, str(error)
    facts["seconds"] = round(task.now() - started, 3)
    for name, fact in facts.items():
        trial.set_user_attr(name, fact)
    with lock:
        search.tell(trial, value)
        complete = [done for done in search.get_trials(deepcopy=False) if done.state.name == "COMPLETE"]
        rows = [{"settings": done.params, "value": done.value, **done.user_attrs} for done in complete]
        write_json(experiment.path / "search.json", {"trials": sorted(rows, key=lambda row: row["number"])})
    return f"{value:.4f}"


def _ask_for_trial(config: StudyConfig, experiment: Experiment, number: int) -> tuple[optuna.Study, optuna.Trial]:
    """The search in its storage, and the trial that it wants next; trial 0 has the model's usual settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # of its own for each trial, so that it does not matter which process makes it
    seed = zlib.crc32(f"{config.seed}/{experiment.dataset}/{experiment.model.name}/{number}".encode())
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{experiment.path / 'trials.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    search = optuna.create_study(
        study_name=experiment.path.name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed),
        direction="maximize",
        load_if_exists=True,
    )
    for other in search.get_trials(deepcopy=False):
        if other.state.name == "RUNNING" and other.user_attrs.get("number") == number:  # its process was killed
            search.tell(other.number, state=optuna.trial.TrialState.FAIL)
    if number == 0 and experiment.model.first_trial:
        search.enqueue_trial(dict(experiment.model.first_trial))
    trial = search.ask(_distributions(experiment.model.space))
    trial.set_user_attr("number", number)
    return search, trial


def _distributions(space: Space) -> Mapping[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(values.values)
        if isinstance(values, Choice)
        else FloatDistribution(values.low, values.high, log=True)
        for name, values in space.items()
    }


def _refit_and_test(config: StudyConfig, experiment: Experiment, seed: int) -> str:
    """Refit with the best settings and test."""
    settings = experiment.best_settings()
    task = config.refit_task(experiment, seed)
    started = task.now()
    model = experiment.model.fit(task, settings).model
    seconds = task.now() - started
    evaluation = rank(task, model, "test", per_user=True)
    table = evaluation.table.filter(pl.col("metric").is_in(METRICS)).select("width", "metric", "k", "value")
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


def time_fit(config: StudyConfig, experiment: Experiment) -> None:
    """Fit once more, on as many threads as there are now, and note seconds on the wall; those of its own search too."""
    settings = experiment.best_settings()
    task = config.refit_task(experiment, config.seeds[0])
    started = time.monotonic()
    experiment.model.fit(task, settings)
    facts = _cost(time.monotonic() - started, task.device) | {"search_seconds": None}
    if experiment.model.searches_by_itself:
        started = time.monotonic()
        experiment.model.fit(config.search_task(experiment, config.seed), dict(experiment.model.fixed))
        facts["search_seconds"] = round(time.monotonic() - started, 3)
    write_json(experiment.timing_path(settings), facts)


def _cost(seconds: float, device: torch.device) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "threads": torch.get_num_threads(), "device": str(device)}
