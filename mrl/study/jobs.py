"""The pieces of work of the study: a trial, a fit that is tested, the timing of a fit; locked by whoever does it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import polars as pl
import torch

from mrl.errors import MRLError
from mrl.study.fitting import measure, objective
from mrl.study.folder import Entry, Job, entry, write_json, write_people
from mrl.study.models import Choice, Space, select

if TYPE_CHECKING:
    import optuna

    from mrl.study.config import StudyConfig

METRICS = ("recall", "ndcg")
STARTUP = 5  # trials drawn at random before the search learns from them


def advance(config: StudyConfig, job: Job) -> str | None:
    """Do one piece of work, unless it is done by now. Returns what came out; None where another process is at it."""
    (contender,) = (each for each in select((), config.widths) if each.name == job.contender)
    fingerprint = config.data(job.dataset).fingerprint
    at = entry(Path(config.folder), job.dataset, fingerprint, contender, any_code=config.any_code)
    at.path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(at.path / f".{job.kind}-{job.number}.lock", timeout=0):
            if job not in at.jobs(trials=config.trials, seconds=config.seconds, seeds=config.seeds):
                return "done by another process"
            return _trial(config, at, job.number) if job.kind == "trial" else _final(config, at, job.number)
    except filelock.Timeout:
        return None


def _trial(config: StudyConfig, at: Entry, number: int) -> str:
    """One trial, into the storage; what fails with an error of ours counts as a trial of value 0."""
    with filelock.FileLock(at.path / ".search.lock"):  # two processes that make the tables at once would both fail
        study, trial = _asked(config, at, number)
    left = config.seconds - sum(done["seconds"] for done in at.trials())
    task = config.task(at, config.seed)
    started = task.now()
    task = replace(task, deadline=started + left)
    facts: dict[str, Any] = {"found": {}, "cut": False, "error": None}
    facts |= {"granted": config.trials, "budget": config.seconds, "epochs": config.epochs, "patience": config.patience}
    try:
        fitted = at.contender.fit(task, {**at.contender.fixed, **trial.params})
        value = objective(task, fitted.model) if fitted.value is None else fitted.value
        facts |= {"found": dict(fitted.found), "cut": fitted.cut}
    except MRLError as error:
        value, facts["error"] = 0.0, str(error)
    facts["seconds"] = round(task.now() - started, 3)
    for name, fact in facts.items():
        trial.set_user_attr(name, fact)
    with filelock.FileLock(at.path / ".search.lock"):
        study.tell(trial, value)
        whole = [done for done in study.get_trials(deepcopy=False) if done.state.name == "COMPLETE"]
        rows = [{"settings": done.params, "value": done.value, **done.user_attrs} for done in whole]
        write_json(at.path / "search.json", {"trials": sorted(rows, key=lambda row: row["number"])})
    return f"{value:.4f}"


def _asked(config: StudyConfig, at: Entry, number: int) -> tuple[optuna.Study, optuna.Trial]:
    """The search in its storage, and the settings that it wants tried next; for trial 0 the contender's usual ones."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # of its own for each trial, so that it does not matter which process makes it
    seed = zlib.crc32(f"{config.seed}/{at.dataset}/{at.contender.name}/{number}".encode())
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{at.path / 'trials.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    study = optuna.create_study(
        study_name=at.path.name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed),
        direction="maximize",
        load_if_exists=True,
    )
    for left in study.get_trials(deepcopy=False):
        if left.state.name == "RUNNING" and left.user_attrs.get("number") == number:  # its process was killed
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    if number == 0 and at.contender.start:
        study.enqueue_trial(dict(at.contender.start))
    trial = study.ask(_distributions(at.contender.space))
    trial.set_user_attr("number", number)
    return study, trial


def _distributions(space: Space) -> Mapping[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(range_.values)
        if isinstance(range_, Choice)
        else FloatDistribution(range_.low, range_.high, log=True)
        for name, range_ in space.items()
    }


def _final(config: StudyConfig, at: Entry, seed: int) -> str:
    """Refit with the best settings and test."""
    settings = at.best()
    task = config.refit_task(at, seed)
    started = task.now()
    model = at.contender.fit(task, settings).model
    seconds = task.now() - started
    found = measure(task, model, "test", per_user=True)
    table = found.table.filter(pl.col("metric").is_in(METRICS)).select("width", "metric", "k", "value")
    path = at.result_path(seed, settings)
    write_people(path.with_suffix(".parquet"), found.per_user.filter(pl.col("metric").is_in(METRICS)))
    facts = {
        "dataset": at.dataset,
        "contender": at.contender.name,
        "seed": seed,
        "settings": settings,
        "users": found.users,
        "fingerprint": config.data(at.dataset).fingerprint,
        "figures": table.to_dicts(),
    }
    write_json(path, facts | _spent(seconds, task.device))  # last: with it the fit counts as done
    return f"{table['value'].mean():.4f}"


def time_fit(config: StudyConfig, at: Entry) -> None:
    """Fit once more, on as many threads as there are now, and note seconds on the wall; those of its own search too."""
    settings = at.best()
    task = config.refit_task(at, config.seeds[0])
    started = time.monotonic()
    at.contender.fit(task, settings)
    facts = _spent(time.monotonic() - started, task.device) | {"search_seconds": None}
    if at.contender.searches:
        started = time.monotonic()
        at.contender.fit(config.task(at, config.seed), dict(at.contender.fixed))
        facts["search_seconds"] = round(time.monotonic() - started, 3)
    write_json(at.timing_path(settings), facts)


def _spent(seconds: float, device: torch.device) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "threads": torch.get_num_threads(), "device": str(device)}
