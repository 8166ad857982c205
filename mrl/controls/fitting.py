"""How a model is fitted in a search of its settings and in the refit: data and settings in, vectors or scores out.

A fit on data with a validation part is one trial of a search: it may choose on validation what it learns on the way,
such as the epoch. A fit on data without one is the refit on all of train, with those choices among its settings.
`mrl.study.models` says which models there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mrl.config import TrainConfig, in_sections
from mrl.controls.models import Model, Vectors, ease, ease_scores, evaluate_model, popularity_scores
from mrl.data import Interactions
from mrl.evaluation import Evaluation
from mrl.least_squares import fit_least_squares, initial_model, rotate
from mrl.least_squares.ials import ials, spectral_start
from mrl.least_squares.validation import sample_users, sample_validation_users
from mrl.train import fit
from mrl.trainer import Trainer

K = 20  # length of the lists that everything in the study is judged by
METRICS = ("recall", "ndcg")
SEARCHED_INTERACTIONS = 150_000  # of users drawn at random, on which settings are searched
SEARCHED_USERS = 3_000  # whose validation a search looks at
# Sweeps of iALS from its spectral start, by least dimensions: as good on validation as 24 from random factors
SWEEPS = {1: 16, 512: 8}


@dataclass(frozen=True)
class Task:
    """What there is to fit on, and how long a fit may take.

    data: with a validation part in a search, without one in the refit. widths: those that are judged, empty for a model
    that has none. epochs, patience, eval_every: as in TrainConfig. deadline: on the clock `now`; a fit that can stop
    early does so then.
    """

    data: Interactions
    widths: tuple[int, ...]
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    epochs: int = 300
    patience: int = 10
    eval_every: int = 5
    deadline: float = math.inf

    @property
    def is_search(self) -> bool:
        """Whether there is a validation part to choose on."""
        return len(self.data.valid) > 0

    def now(self) -> float:
        """Seconds of CPU of this process, so that other processes do not count; on a GPU seconds on the wall."""
        return time.process_time() if self.device.type == "cpu" else time.monotonic()


@dataclass(frozen=True)
class FitResult:
    """A model, and what a search has learned.

    refit_settings: chosen on validation, such as epochs. value: of the objective, where the fit has it already.
    timed_out: whether the deadline ended it.
    """

    model: Model
    refit_settings: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    timed_out: bool = False


FitFunction = Callable[[Task, Mapping[str, Any]], FitResult]


def rank(task: Task, model: Model, split: str, *, per_user: bool = False) -> Evaluation:
    """Full ranking at the widths of the task, lists of K."""
    options = {"widths": task.widths, "device": task.device, "ks": (K,), "per_user": per_user}
    return evaluate_model(model, task.data, split=split, **options)


def objective(task: Task, model: Model) -> float:
    """What a search maximises: NDCG@20 on validation, mean over the widths."""
    return rank(task, model, "valid").table.filter(metric="ndcg")["value"].mean()


def sample_for_search(data: Interactions, seed: int, *, whole: bool = False) -> Interactions:
    """What a search looks at: users drawn at random where data are many, and a part of the validation users.

    whole: of the validation users only.
    """
    sample = data if whole else sample_users(data, seed, SEARCHED_INTERACTIONS)
    return sample_validation_users(sample, seed, SEARCHED_USERS)


def fit_ials(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """iALS of `dim` dimensions, rotated to its principal axes and truncated to the widest width. Also: alpha0, l2."""
    positives = task.data.train.to(task.device)
    start = spectral_start(positives, settings["dim"], seed=task.seed)
    users, items = rotate(*ials(positives, **{"sweeps": sweeps_of(settings["dim"]), **settings}, start=start))
    widest = task.widths[-1]
    return FitResult((users[:, :widest].contiguous(), items[:, :widest].contiguous()))


def sweeps_of(dim: int) -> int:
    """Of iALS of so many dimensions."""
    return max((least, sweeps) for least, sweeps in SWEEPS.items() if least <= dim)[1]


def fit_ease(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """EASE. Settings: l2."""
    positives = task.data.train.to(task.device)
    return FitResult(ease_scores(positives, ease(positives, settings["l2"])))


def fit_popularity(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """The same list for everybody."""
    return FitResult(popularity_scores(task.data.train.to(task.device)))


def fit_mrl4rec(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """MRL4Rec, by settings of TrainConfig; in a search with early stopping on validation, which chooses `epochs`."""
    return _train(task, settings, task.widths, lambda *vectors: vectors)


def fit_bpr_rotated(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """The same training at the widest width alone, its vectors rotated to their principal axes, truncated."""
    return _train(task, settings, task.widths[-1:], rotate)


def _train(
    task: Task, settings: Mapping[str, Any], widths: tuple[int, ...], transform: Callable[[Tensor, Tensor], Vectors]
) -> FitResult:
    settings = {"epochs": task.epochs, **settings, "widths": widths, "seed": task.seed}
    config = TrainConfig(dataset=task.data.name, **in_sections(settings))
    trainer = Trainer(config, task.data.train, task.device)
    if not task.is_search:
        for _ in range(config.epochs):
            trainer.run_epoch()
        return FitResult(transform(*trainer.vectors()))
    best, waited, timed_out = FitResult(transform(*trainer.vectors()), {"epochs": 1}, -1.0), 0, False
    while trainer.epoch < task.epochs and waited < task.patience and not timed_out:
        trainer.run_epoch()
        timed_out = task.now() > task.deadline
        if timed_out or trainer.epoch % task.eval_every == 0 or trainer.epoch == task.epochs:
            model = transform(*trainer.vectors())
            value = objective(task, model)
            waited += 1
            if value > best.value:
                best, waited = FitResult(model, {"epochs": trainer.epoch}, value), 0
    return replace(best, timed_out=timed_out)


def fit_recipe(task: Task, settings: Mapping[str, Any]) -> FitResult:
    """A recipe that starts from least squares: `mrl.fit`, its own search included, chooses the settings of the refits.

    Settings are those of TrainConfig. The refit is that of `mrl.fit`, bit for bit.
    """
    config = recipe_config(task, settings)
    if not task.is_search:
        positives = task.data.train.to(task.device)
        model = initial_model(config, positives, fit_least_squares(config, positives))
        trainer = Trainer(config, positives, task.device, model)
        for _ in range(config.epochs):
            trainer.run_epoch()
        return FitResult(trainer.vectors())
    with TemporaryDirectory() as folder:
        run = fit(replace(config, run_dir=folder), task.data, progress=False)
        refit_settings = run.environment["chosen"] | {"epochs": run.environment["best_epoch"]}
        value = run.metrics.filter(split="valid", metric="ndcg", k=K)["value"].mean()
        users, items = (table.to(task.device, copy=True) for table in (run.users, run.items))
        return FitResult((users, items), refit_settings, value)


def recipe_config(task: Task, settings: Mapping[str, Any]) -> TrainConfig:
    """The config of a recipe on a task."""
    settings = {"widths": task.widths, "seed": task.seed, "device": str(task.device), **settings}
    return TrainConfig(dataset=task.data.name, **in_sections(settings))
