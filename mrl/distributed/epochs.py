"""Epochs on shards: until validation stops getting better; then, on all of train, as many.

As `mrl.train` does it in one process, for the recipes mrl4rec and default. A checkpoint is kept after every validation,
and as often in the refit: what the trainer goes on from, and of the search what is kept of the best epoch so far.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrl.distributed.data import ShardedData
from mrl.distributed.evaluation import evaluate
from mrl.distributed.graph_epochs import GraphTrainer
from mrl.distributed.training import Fit, Training
from mrl.least_squares import clearly_better, values_by_user
from mrl.least_squares.validation import users_left_out, without_validation
from mrl.sharded import Rows, ShardedTrainer
from mrl.train import FALLEN, REFIT, SEARCH, describe_limit, describe_search, metrics_row, train_epoch

Trainer = ShardedTrainer | GraphTrainer


def fit_epochs(training: Training, data: ShardedData, trainer: Trainer) -> Fit:
    """Own vectors of the best epoch; where they are validated already, after as many epochs on these interactions."""
    is_search, best = training.validated is None, []
    if training.generator:
        saved = training.checkpoint.load(_sides(trainer, trainer.KEPT * is_search), trainer.config.widths[-1])
        generator, tables = torch.frombuffer(bytearray.fromhex(training.generator), dtype=torch.uint8), _sides(trainer)
        trainer.load_state(saved[: len(tables)], training.done, generator)
        best = saved[len(tables) :]
    best = _search(training, data, trainer, best) if is_search else _refit(training, trainer)
    training.done, training.generator = 0, ""
    users, items, *ego = best
    return Fit((users, items), trainer.items, tuple(ego) if trainer.has_ego(training.best_epoch) else None)


def _search(training: Training, data: ShardedData, trainer: Trainer, best: list[Tensor]) -> list[Tensor]:
    """What is kept of the best epoch. best: so far."""
    stopping, epochs = trainer.config.early_stopping, trainer.config.epochs
    if trainer.config.recipe != "mrl4rec":  # there, epoch 0 is random, and all users are looked at
        data = _watched(data, trainer.config.seed)
        if not trainer.epoch:
            row = {"phase": SEARCH, "epoch": 0, "seconds": 0.0}
            best = _validate(training, data, trainer, row, best)
            training.rows.append(row)
    while trainer.epoch < epochs and training.waited < stopping.patience and not training.has_fallen:
        row = train_epoch(trainer, SEARCH)
        training.rows.append(row)
        if trainer.epoch % stopping.eval_every == 0 or trainer.epoch == epochs:
            best = _validate(training, data, trainer, row, best)
            _save(training, trainer, best)
        still = min(epochs - trainer.epoch, (stopping.patience - training.waited) * stopping.eval_every)
        told = describe_search(trainer, row["loss"], training.best_value, training.best_epoch)
        training.progress.say(SEARCH, told, row["seconds"] * (still + training.best_epoch))
    if trainer.epoch == epochs < training.config.epochs:
        training.progress.note(describe_limit(epochs))
    return best


def _watched(data: ShardedData, seed: int) -> ShardedData:
    """The same data with the validation of the users by whom epochs are judged."""
    counts = data.group.gather(data.own.valid.counts.to(data.group.device), data.users.counts).cpu()
    rows = users_left_out(counts, seed) - data.users.start
    own = rows[(rows >= 0) & (rows < data.own.num_users)]
    return replace(data, own=without_validation(data.own, own))


def _validate(training: Training, data: ShardedData, trainer: Trainer, row: dict, best: list[Tensor]) -> list[Tensor]:
    """Measure the trainer's vectors on validation; what is kept of the best epoch so far. row: of the history."""
    started, stopping, widths = time.perf_counter(), trainer.config.early_stopping, trainer.config.widths
    now, per_user = trainer.kept(), trainer.config.recipe != "mrl4rec"
    ks = sorted({20, int(stopping.monitor.split("@")[1])})
    found = evaluate(data, now[:2], trainer.items, split="valid", widths=widths, ks=ks, per_user=per_user)
    row |= metrics_row(found, trainer.config)
    value = sum(found.value(stopping.monitor, width) for width in widths) / len(widths)
    training.waited += 1
    if value > training.best_value:
        training.best_value, training.waited = value, 0

        def clear() -> bool:
            by_user = values_by_user(found, stopping.monitor).mean(0)
            return clearly_better([by_user], [np.array(training.start)])

        if per_user and trainer.epoch == 0:
            training.start = data.group.tell(lambda: values_by_user(found, stopping.monitor).mean(0).tolist())
        if training.start is None or trainer.epoch == 0 or data.group.tell(clear):
            training.best_epoch, best = trainer.epoch, now
    elif training.start is not None:
        training.has_fallen = value < float(np.mean(training.start)) and training.waited >= FALLEN
    row["seconds"] += time.perf_counter() - started
    return best


def _refit(training: Training, trainer: Trainer) -> list[Tensor]:
    while trainer.epoch < training.best_epoch:
        row = train_epoch(trainer, REFIT)
        training.rows.append(row)
        if trainer.epoch % trainer.config.early_stopping.eval_every == 0:
            _save(training, trainer, [])
        left = (training.best_epoch - trainer.epoch) * row["seconds"]
        told = f"epoch {trainer.epoch} of {training.best_epoch}, loss {row['loss']:.4f}"
        training.progress.say(REFIT, told, left)
    return trainer.kept()


def _sides(trainer: Trainer, kept: int = 0) -> list[Rows]:
    """Whose rows the tables of a trainer's state are, and then so many of an epoch that is kept."""
    sides = [trainer.users, trainer.items]
    learned = trainer.learned if isinstance(trainer, ShardedTrainer) else []
    return sides * (trainer.STATE // 2) + learned + sides * (kept // 2)


def _save(training: Training, trainer: Trainer, best: list[Tensor]) -> None:
    training.done, training.generator = trainer.epoch, trainer.generator.get_state().numpy().tobytes().hex()
    training.save(_sides(trainer, len(best)), [*trainer.state(), *best])
