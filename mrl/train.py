"""From settings to a run directory: search the settings and the epoch, refit, test once, write.

    from mrl import TrainConfig, fit
    run = fit(TrainConfig(dataset="ml-100k", epochs=50))

Under `honest` the epoch with the best validation metric (averaged over the widths) is looked for first, then a
fresh model is trained on all of train for that many epochs and tested once; under `paper` test is validation, as
in the published code (Lai et al., arXiv 2406.07432), and every table says so. The recipes that start from least
squares look for its settings before that; their epoch 0 is the initial model: propagated, rotated, not trained.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import ELSEWHERE, TrainConfig
from mrl.data import Interactions, Positives, check_held_out, load_data, pick_device, resolve_dataset
from mrl.errors import DataError
from mrl.evaluation import Evaluation, evaluate
from mrl.kernels.fast_paths import check_anew
from mrl.least_squares import (
    SEARCHED,
    Propagation,
    choose_settings,
    clearly_better,
    expected_trials,
    fit_least_squares,
    initial_model,
    most_epochs,
    sample_validation_users,
    values_by_user,
)
from mrl.runs import (
    REFIT_SHARE,
    Progress,
    Run,
    RunDirectory,
    check_compatible,
    load,
    log_trial,
    run_path,
    tell_end,
    write_run,
)
from mrl.trainer import Trainer
from mrl.widths import AUTO
from mrl.words import describe_widths

SEARCH, REFIT = "search", "refit"
SETTINGS, LEAST_SQUARES = "settings", "least_squares"
EGO, START = "best.ego.", "best.start"  # the ego embeddings; the validation of each user before any training
FALLEN = 2  # validations after the best one, at which a training that is worse than none ends, whatever the patience
LONGEST_LIST = 20  # of the metrics that every validation looks at


def fit(config: TrainConfig, data: Interactions | None = None, *, progress: bool = True) -> Run:
    """Train, evaluate and write the run directory; return it, loaded.

    data: as from `load_data`, if it is at hand. progress: a line on stderr: phase, trial or epoch, best value,
    time left.
    A run that was interrupted goes on from its last checkpoint where its settings are the same (`config.resume`).
    A finished one is trained anew where settings or data have changed. Raises DataError where nothing can be held out,
    RunError where training diverges or the directory cannot be used, as when it holds a finished run of other data
    (`mrl.runs.RunDirectory.check_data`).
    """
    device = pick_device(config.device)
    config = replace(config, dataset=resolve_dataset(config.dataset))
    data = load_data(config) if data is None else data
    if not isinstance(data, Interactions):
        raise DataError(f"data: a {type(data).__name__} is no data set; give hold_out(build(data, name='mine'))")
    if data.num_items < LONGEST_LIST:
        raise DataError(
            f"{data.name}: {data.num_items} items, where validation by lists of 20 needs at least 20; give a larger "
            "catalogue, or lower core and min_rating"
        )
    check_held_out(data, config.split, config.protocol)
    started = time.perf_counter()
    with RunDirectory(run_path(config)) as directory, check_anew():
        notes = directory.check_data(config, data)
        training = _Training(config, data, device, directory, progress)
        for note in notes:
            training.progress.note(note)
        directory.clear_results()  # first: the metrics of other settings are not those of this config
        directory.write_config(config.to_dict())
        state = training.state
        if state.phase == SEARCH:
            training.search()
        if "widths" in state.chosen:  # they were found; whoever reads the run wants to know which
            config = replace(config, widths=state.chosen["widths"])
            directory.write_config(config.to_dict())
        users, items, backbone = state.best_tables(device)
        results, advice = [], ""
        if config.protocol == "honest":
            results.append(evaluate(users, items, data, split="valid", widths=config.report_widths))
            monitor = config.early_stopping.monitor
            values = {width: results[0].value(monitor, width) for width in config.widths}
            advice = describe_widths(monitor, state.wider, values)
            trainer = training.refit()
            users, items, backbone = *trainer.vectors(), trainer.backbone()
        results.append(
            evaluate(users, items, data, split="test", widths=config.report_widths, per_user=config.per_user)
        )
        costs = {
            "best_epoch": state.best_epoch,
            "seconds": round(state.seconds, 3),
            "wall_seconds": round(time.perf_counter() - started, 3),
            "users_with_every_item": training.idle_users,
            "notes": [*data.notes, *notes],
        } | {name: fact for name, fact in {"chosen": state.chosen, "advice": advice}.items() if fact}
        write_run(
            directory, config, data, results, device, history=state.history, vectors=(users, items), backbone=backbone,
            facts=costs,
        )  # fmt: skip
        directory.drop_checkpoint()
        tell_end(training.progress, config, state.rows, state.chosen, costs["wall_seconds"], state.best_epoch, advice)
    return load(directory.path)


@dataclass
class _State:
    """Where a run stands: the phase, the history so far, and the best epoch with its vectors."""

    phase: str = SEARCH
    rows: list[dict] = field(default_factory=list)
    chosen: dict = field(default_factory=dict)
    wider: list | None = None  # widths and gains of vectors that would be wider
    best_epoch: int = 0
    best_value: float = -1.0
    waited: int = 0
    has_fallen: bool = False  # under epoch 0, `FALLEN` validations or more after the best one
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], meta: dict) -> _State:
        best = {name: tensor for name, tensor in tensors.items() if name.startswith("best.")}
        return cls(**{each.name: meta[each.name] for each in fields(cls) if each.name in meta}, best=best)

    def meta(self) -> dict:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "best"}

    @property
    def history(self) -> pl.DataFrame:
        return pl.DataFrame(self.rows, infer_schema_length=None)

    @property
    def seconds(self) -> float:
        """Spent in training and validation, over all sittings."""
        return sum(row["seconds"] for row in self.rows)

    def keep_if_best(
        self, trainer: Trainer, vectors: tuple[Tensor, Tensor], value: float, by_user: np.ndarray | None
    ) -> None:
        """Count the validations without a better one, and keep the vectors if they are the best so far.

        Where there is an epoch 0, the users must gain clearly over it: a training is no lottery. by_user: then needed.
        """
        self.waited += 1
        if value <= self.best_value:
            is_under = START in self.best and value < float(self.best[START].mean())
            self.has_fallen = is_under and self.waited >= FALLEN
            return
        self.best_value, self.waited, start = value, 0, self.best.get(START)
        if start is None or clearly_better([by_user], [start.numpy()]):
            start = torch.tensor(by_user) if trainer.epoch == 0 else start
            self.best_epoch, self.best = trainer.epoch, {} if start is None else {START: start}
            self.best |= {"best.users": vectors[0].cpu(), "best.items": vectors[1].cpu()}
            self.best |= {f"{EGO}{name}": table.cpu() for name, table in trainer.backbone().items()}

    def best_tables(self, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Users, items and the backbone's state of the best epoch."""
        backbone = {name.removeprefix(EGO): table for name, table in self.best.items() if name.startswith(EGO)}
        return self.best["best.users"].to(device), self.best["best.items"].to(device), backbone


class _Training:
    """A run under way: its state, and the steps that change it. A checkpoint is where its first trainer goes on."""

    def __init__(
        self, config: TrainConfig, data: Interactions, device: torch.device, directory: RunDirectory, progress: bool
    ):
        self.config, self.data, self.device, self.directory = config, data, device, directory
        self.progress, self.started, self.refit_seconds = Progress(shown=progress), time.perf_counter(), 0.0
        self.checkpoint = directory.load_checkpoint() if config.resume else None
        if self.checkpoint is not None:
            check_compatible(self.checkpoint[1], **identity(config, data))
        self.state = _State() if self.checkpoint is None else _State.restore(*self.checkpoint)
        self.idle_users = 0

    def search(self) -> None:
        """Choose the settings that are open, then look for the best epoch."""
        config = self.config
        resumed, model, watched = self.checkpoint is not None, None, self.data
        if config.recipe != "mrl4rec":
            watched = sample_validation_users(self.data, config.seed)
            if not resumed:
                model = self._choose_settings()
        trainer = self._begin(self.data.train, model)
        if not resumed and config.recipe != "mrl4rec":  # there, epoch 0 is random
            self._validate(trainer, watched, _row(trainer, SEARCH, 0.0))
        self._search_epoch(trainer, watched)

    def refit(self) -> Trainer:
        """Train on all of train for as many epochs as the search found best."""
        state, state.phase = self.state, REFIT
        self.progress.say(REFIT, "on all of train", self.refit_seconds or None)
        trainer = self._begin(self.data.merge_valid().train)
        while trainer.epoch < state.best_epoch:
            row = train_epoch(trainer, REFIT)
            state.rows.append(row)
            if trainer.epoch % trainer.config.early_stopping.eval_every == 0:
                self._save(trainer)
            left = (state.best_epoch - trainer.epoch) * row["seconds"]
            self.progress.say(REFIT, f"epoch {trainer.epoch} of {state.best_epoch}, loss {row['loss']:.4f}", left)
        return trainer

    def _choose_settings(self) -> Propagation | None:
        """Choose what the config leaves open; the initial model by it, where the search has made it."""
        on_device = replace(self.data, train=self.data.train.to(self.device))
        config, model, self.state.wider = choose_settings(self.config, on_device, self._log_trial)
        self.state.chosen = {name: config.setting(name) for name in SEARCHED}
        if self.config.widths == AUTO:
            self.state.chosen = {"widths": config.widths} | self.state.chosen
        return model

    def _log_trial(self, row: dict) -> None:
        """Keep a trial of the search, and say where the run stands."""
        about = max(row["trial"], expected_trials(self.config))
        self.refit_seconds = (
            log_trial(self.progress, self.config, self.state.rows, row, self.started, about) * REFIT_SHARE
        )

    def _begin(self, positives: Positives, model: Propagation | None = None) -> Trainer:
        """A trainer at its start, or where the checkpoint left it. model: the initial one, if it is at hand."""
        checkpoint, self.checkpoint = self.checkpoint, None
        config = self.config.with_settings(**self.state.chosen)
        if config.recipe == "default":
            config = config.with_settings(epochs=most_epochs(config, self.data.train))
        if config.recipe != "mrl4rec" and model is None:
            model = self._initial_model(config, positives.to(self.device), log=checkpoint is None)
        trainer = Trainer(config, positives, self.device, model)
        if checkpoint is not None:
            trainer.load_state(checkpoint[0])
        self.idle_users = trainer.idle_users
        return trainer

    def _initial_model(self, config: TrainConfig, positives: Positives, *, log: bool) -> Propagation:
        """Least squares on these positives, rotated. log: whether its rows are new to the history."""
        rows, started = [], time.perf_counter()
        factors = fit_least_squares(config, positives)
        rows.append({"phase": LEAST_SQUARES, "seconds": time.perf_counter() - started})
        model = initial_model(config, positives, factors, on_row=rows.append)
        self.state.rows += rows if log else []
        return model

    def _search_epoch(self, trainer: Trainer, data: Interactions) -> None:
        """Train with validation every few epochs until it stops getting better."""
        stopping, state, epochs = trainer.config.early_stopping, self.state, trainer.config.epochs
        while trainer.epoch < epochs and state.waited < stopping.patience and not state.has_fallen:
            row = train_epoch(trainer, SEARCH)
            if trainer.epoch % stopping.eval_every == 0 or trainer.epoch == epochs:
                self._validate(trainer, data, row)
            else:
                state.rows.append(row)
            still = min(epochs - trainer.epoch, (stopping.patience - state.waited) * stopping.eval_every)
            left = row["seconds"] * (still + state.best_epoch) + self.refit_seconds
            self.progress.say(SEARCH, describe_search(trainer, row["loss"], state.best_value, state.best_epoch), left)
        if trainer.epoch == epochs < self.config.epochs:
            self.progress.note(describe_limit(epochs))

    def _validate(self, trainer: Trainer, data: Interactions, row: dict) -> None:
        """Measure the trainer's vectors on validation, log it, keep them if they are the best so far, and save all."""
        started = time.perf_counter()
        widths, monitor = trainer.config.widths, trainer.config.early_stopping.monitor
        vectors = trainer.vectors()
        ks = sorted({20, int(monitor.split("@")[1])})
        per_user = trainer.config.recipe != "mrl4rec"  # which has no epoch 0 to be compared with
        result = evaluate(*vectors, data, split="valid", widths=widths, ks=ks, per_user=per_user)
        row |= metrics_row(result, trainer.config)
        value = sum(result.value(monitor, width) for width in widths) / len(widths)
        self.state.keep_if_best(trainer, vectors, value, values_by_user(result, monitor).mean(0) if per_user else None)
        row["seconds"] += time.perf_counter() - started
        self.state.rows.append(row)
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        meta = identity(self.config, self.data) | self.state.meta()
        self.directory.save_checkpoint(trainer.state() | self.state.best, meta)
        self.directory.write_history(self.state.history)


def train_epoch(trainer: Trainer, phase: str) -> dict:
    """Train for an epoch; its row of the history. trainer: one on shards, too."""
    started = time.perf_counter()
    loss, by_level = trainer.run_epoch()
    levels = {f"loss_w{width}": value for width, value in zip(trainer.config.widths, by_level, strict=True)}
    return _row(trainer, phase, time.perf_counter() - started) | {"loss": loss} | levels


def metrics_row(result: Evaluation, config: TrainConfig) -> dict:
    """What the row of an epoch has of its validation: each metric that one looks at, by width."""
    names = dict.fromkeys(("recall@20", "ndcg@20", config.early_stopping.monitor))
    return {f"{name}_w{width}": result.value(name, width) for name in names for width in config.widths}


def describe_search(trainer: Trainer, loss: float, best_value: float, best_epoch: int) -> str:
    """Where the search of the best epoch stands, for the line of progress. trainer: one on shards, too."""
    best = f"best {trainer.config.early_stopping.monitor} {max(best_value, 0):.4f}, epoch {best_epoch} kept"
    return f"epoch {trainer.epoch}, loss {loss:.4f}, {best}"


def describe_limit(epochs: int) -> str:
    """Why there were no more epochs than `most_epochs` allows."""
    return f"{epochs} epochs are the limit of a quick search on so large data; thorough has none"


def _row(trainer: Trainer, phase: str, seconds: float) -> dict:
    return {"phase": phase, "epoch": trainer.epoch, "seconds": seconds}


def identity(config: TrainConfig, data: Interactions) -> dict:
    """What a checkpoint must share with the run that wants to go on from it."""
    settings = {name: value for name, value in config.to_dict().items() if name not in ELSEWHERE}
    return {"fingerprint": data.fingerprint, "widths": config.widths, "settings": settings}
