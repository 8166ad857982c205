"""The recipe mrl4rec on shards: epochs until validation stops getting better; then, on all of train, as many.

As `mrl.train` does it in one process, by `mrl.sharded.ShardedTrainer`. A checkpoint is kept after every validation, and
as often in the refit: own rows of both tables, their moments, and of the search the best vectors so far.
"""

from __future__ import annotations

import time

import torch

from mrl.distributed.data import ShardedData
from mrl.distributed.evaluation import evaluate
from mrl.distributed.training import Fit, Training
from mrl.least_squares.ials import Factors
from mrl.sharded import ShardedTrainer
from mrl.train import REFIT, SEARCH, describe_search, metrics_row, train_epoch

TABLES, BEST = 6, 2  # of the state of a trainer, and of the best epoch


def mrl4rec(training: Training, data: ShardedData) -> Fit:
    """Own vectors of the best epoch; where they are validated already, after as many epochs on these interactions."""
    is_search, done = training.validated is None, training.done
    trainer = ShardedTrainer(training.settings(), data.group, data.own.train, data.users)
    sides, best = [trainer.users, trainer.items], None
    if done:
        count = TABLES + (BEST if is_search else 0)
        kept = training.checkpoint.load(sides * (count // 2), trainer.config.widths[-1])
        generator = torch.frombuffer(bytearray.fromhex(training.generator), dtype=torch.uint8)
        trainer.load_state(kept[:TABLES], done, generator)
        best = kept[TABLES:]
    vectors = _search(training, data, trainer, best) if is_search else _refit(training, trainer)
    training.done, training.generator = 0, ""
    return Fit(vectors, trainer.items)


def _search(training: Training, data: ShardedData, trainer: ShardedTrainer, best: Factors | None) -> Factors:
    """The vectors of the best epoch. best: those so far."""
    stopping, epochs = trainer.config.early_stopping, trainer.config.epochs
    while trainer.epoch < epochs and training.waited < stopping.patience:
        row = train_epoch(trainer, SEARCH)
        training.rows.append(row)
        if trainer.epoch % stopping.eval_every == 0 or trainer.epoch == epochs:
            started, vectors = time.perf_counter(), trainer.vectors()
            ks = sorted({20, int(stopping.monitor.split("@")[1])})
            found = evaluate(data, vectors, trainer.items, split="valid", widths=trainer.config.widths, ks=ks)
            row |= metrics_row(found, trainer.config)
            value = sum(found.value(stopping.monitor, width) for width in trainer.config.widths)
            value /= len(trainer.config.widths)
            training.waited += 1
            if value > training.best_value:
                training.best_value, training.best_epoch, training.waited, best = value, trainer.epoch, 0, vectors
            row["seconds"] += time.perf_counter() - started
            _save(training, trainer, best)
        still = min(epochs - trainer.epoch, (stopping.patience - training.waited) * stopping.eval_every)
        told = describe_search(trainer, row["loss"], training.best_value, training.best_epoch)
        training.progress.say(SEARCH, told, row["seconds"] * (still + training.best_epoch))
    return best


def _refit(training: Training, trainer: ShardedTrainer) -> Factors:
    while trainer.epoch < training.best_epoch:
        row = train_epoch(trainer, REFIT)
        training.rows.append(row)
        if trainer.epoch % trainer.config.early_stopping.eval_every == 0:
            _save(training, trainer, ())
        left = (training.best_epoch - trainer.epoch) * row["seconds"]
        told = f"epoch {trainer.epoch} of {training.best_epoch}, loss {row['loss']:.4f}"
        training.progress.say(REFIT, told, left)
    return trainer.vectors()


def _save(training: Training, trainer: ShardedTrainer, best: Factors | tuple) -> None:
    tables = [*trainer.state(), *best]
    training.done, training.generator = trainer.epoch, trainer.generator.get_state().numpy().tobytes().hex()
    training.save([trainer.users, trainer.items] * (len(tables) // 2), tables)
