"""How each contender of the study is fitted: data and settings in, a model out, the same for a search and for the end.

A fit that is given a validation part is one trial of a search and may look at validation for what is found on the way,
such as the epoch; without one it is the refit on all of train, with what was found among its settings.
`mrl.study.models` says which contenders there are.
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
from mrl.controls.models import ScoreBlocks, ease, ease_scores, popularity_scores
from mrl.data.interactions import Interactions
from mrl.evaluation.evaluate import Evaluation, evaluate, evaluate_scores
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import SWEEPS, ials
from mrl.least_squares.rotation import initial_model
from mrl.least_squares.validation import fit_least_squares
from mrl.train import fit
from mrl.trainer import Trainer

K = 20  # length of the lists that everything in the study is judged by

Model = tuple[Tensor, Tensor] | ScoreBlocks  # users (U, D) and items (I, D), or scores that have no width


@dataclass(frozen=True)
class Task:
    """What there is to fit on, and how far a fit may go.

    data: with a validation part in a search, without one in the end. widths: those that are judged, empty for a model
    that has none. epochs, patience, eval_every: as in TrainConfig. deadline: on the clock `now`, past which a fit that
    can stop early does.
    """

    data: Interactions
    widths: tuple[int, ...]
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    epochs: int = 300
    patience: int = 10
    eval_every: int = 5
    deadline: float = math.inf

    def generator(self) -> torch.Generator:
        """A CPU generator that starts from the seed."""
        return torch.Generator().manual_seed(self.seed)

    def now(self) -> float:
        """Seconds of CPU of this process, so that it does not matter who else is busy; on a GPU of the wall."""
        return time.process_time() if self.device.type == "cpu" else time.monotonic()


@dataclass(frozen=True)
class Fitted:
    """A model, and in a search what was found on the way.

    found: settings for the refit, such as epochs. value: the objective, where the fit has it already. cut: whether the
    deadline ended it.
    """

    model: Model
    found: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    cut: bool = False


Fit = Callable[[Task, Mapping[str, Any]], Fitted]


def measure(task: Task, model: Model, split: str, *, per_user: bool = False) -> Evaluation:
    """Full ranking at the widths of the task, lists of K."""
    if isinstance(model, tuple):
        return evaluate(*model, task.data, split=split, widths=task.widths, ks=(K,), per_user=per_user)
    return evaluate_scores(model, task.data, split=split, ks=(K,), per_user=per_user, device=task.device)


def objective(task: Task, model: Model) -> float:
    """What a search maximises: NDCG@20 on validation, mean over the widths."""
    return measure(task, model, "valid").table.filter(metric="ndcg")["value"].mean()


def fit_ials(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """iALS of `dim` dimensions, rotated to its principal axes and truncated to the widest width. Also: alpha0, l2."""
    settings = {"sweeps": SWEEPS, **settings}
    users, items = rotate(*ials(task.data.train.to(task.device), **settings, generator=task.generator()))
    widest = task.widths[-1]
    return Fitted((users[:, :widest].contiguous(), items[:, :widest].contiguous()))


def fit_ease(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """EASE. Settings: l2."""
    positives = task.data.train.to(task.device)
    return Fitted(ease_scores(positives, ease(positives, settings["l2"])))


def fit_popularity(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """The same list for everybody."""
    return Fitted(popularity_scores(task.data.train.to(task.device)))


def fit_nested(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """mrl4rec, by settings of TrainConfig; in a search with early stopping on validation, which finds `epochs`."""
    return _trained(task, settings, task.widths, lambda *vectors: vectors)


def fit_bpr_rotated(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """The same training at the widest width alone, its vectors rotated to their principal axes, truncated."""
    return _trained(task, settings, task.widths[-1:], rotate)


def _trained(
    task: Task,
    settings: Mapping[str, Any],
    widths: tuple[int, ...],
    turned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Fitted:
    searching = len(task.data.valid) > 0
    own = {"epochs": task.epochs} | dict(settings) | {"widths": widths, "seed": task.seed}
    trainer = Trainer(TrainConfig(dataset=task.data.name, **in_sections(own)), task.data.train, task.device)
    if not searching:
        for _ in range(settings["epochs"]):
            trainer.run_epoch()
        return Fitted(turned(*trainer.vectors()))
    best, waited, late = Fitted(turned(*trainer.vectors()), {"epochs": 1}, -1.0), 0, False
    while trainer.epoch < task.epochs and waited < task.patience and not late:
        trainer.run_epoch()
        late = task.now() > task.deadline
        if late or trainer.epoch % task.eval_every == 0 or trainer.epoch == task.epochs:
            model = turned(*trainer.vectors())
            value = objective(task, model)
            waited += 1
            if value > best.value:
                best, waited = Fitted(model, {"epochs": trainer.epoch}, value), 0
    return Fitted(best.model, best.found, best.value, late)


def fit_recipe(task: Task, settings: Mapping[str, Any]) -> Fitted:
    """A recipe that starts from least squares: `mrl.fit`, its own search included, finds the settings of the refits.

    Settings are those of TrainConfig. What was found, with the same seed, refits to the very vectors of `mrl.fit`.
    """
    own = {"widths": task.widths, "seed": task.seed, "device": str(task.device)} | dict(settings)
    config = TrainConfig(dataset=task.data.name, **in_sections(own))
    if len(task.data.valid) == 0:
        positives = task.data.train.to(task.device)
        start = initial_model(config, positives, fit_least_squares(config, positives))
        trainer = Trainer(config, positives, task.device, start)
        for _ in range(config.epochs):
            trainer.run_epoch()
        return Fitted(trainer.vectors())
    with TemporaryDirectory() as folder:
        run = fit(replace(config, run_dir=folder), task.data, progress=False)
        found = run.environment["chosen"] | {"epochs": run.environment["best_epoch"]}
        value = run.metrics.filter(split="valid", metric="ndcg", k=K)["value"].mean()
        return Fitted((run.users.to(task.device, copy=True), run.items.to(task.device, copy=True)), found, value)
