"""A run on shards, from settings to a run directory: what `mrl.train.fit` does in one process.

Every process calls `train` with the same config. The first one reads and writes the run directory and searches the
settings, on users drawn at random where there are too many interactions to look at all; the others are told.
`FITS` says what each recipe does with the training interactions; a recipe that is not there is refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Positives, resolve_dataset
from mrl.distributed.checkpoint import Checkpoint
from mrl.distributed.data import ShardedData, load_sharded, offset_pieces, sample_of_users
from mrl.distributed.epochs import fit_epochs
from mrl.distributed.evaluation import evaluate
from mrl.distributed.graph_epochs import GraphTrainer, check_graph_epochs
from mrl.distributed.least_squares import fit_least_squares
from mrl.distributed.rotation import initial_vectors, teacher
from mrl.distributed.training import STATE, Fit, Training
from mrl.errors import DataError, RunError
from mrl.evaluation import Evaluation
from mrl.least_squares import SEARCHED, choose_settings, expected_trials, most_epochs
from mrl.least_squares.axes import ROWS
from mrl.least_squares.ials import Factors
from mrl.least_squares.validation import MOST_INTERACTIONS, draw_rows
from mrl.runs import Progress, RunDirectory, log_trial, peak_memory_mib, run_path, tell_end, write_run
from mrl.runs.tensorfile import Pieces
from mrl.sharded.epochs import ShardedTrainer, check_epochs
from mrl.sharded.group import Group, give_back
from mrl.sharded.rows import Shard, shard
from mrl.train import LEAST_SQUARES, LONGEST_LIST, SEARCH, metrics_row
from mrl.widths import AUTO
from mrl.words import describe_widths


def least_squares(training: Training, data: ShardedData) -> Fit:
    """The recipe least_squares: fitted, propagated and rotated."""
    made, _, vectors, ego = _initial(training, data)
    config = training.settings()
    return Fit(vectors, made.items, ego if any(config.least_squares.propagation) and config.hops else None)


def mrl4rec(training: Training, data: ShardedData) -> Fit:
    """The recipe mrl4rec: sampled epochs."""
    return fit_epochs(training, data, ShardedTrainer(training.settings(), data.group, data.own.train, data.users))


def default(training: Training, data: ShardedData) -> Fit:
    """The recipe default: least squares, then epochs through the graph, kept where users clearly gain."""
    made, factors, _, ego = _initial(training, data)
    config = training.settings()
    config = config.with_settings(epochs=most_epochs(config, size_of(data)))
    taught = teacher(config, made, factors)
    del factors
    return fit_epochs(training, data, GraphTrainer(config, made, ego, taught))


def _sharded(training: Training, data: ShardedData) -> Shard:
    return shard(data.group, data.own.train, data.users, width=training.settings().least_squares.fit_width)


def _initial(training: Training, data: ShardedData) -> tuple[Shard, Factors, Factors, Factors]:
    """The shard, own factors, own vectors as they are served untrained, and what they are before propagation.

    They are made anew where epochs have begun: no checkpoint keeps the factors, which teach.
    """
    if not training.chosen:
        _choose_settings(training, data)
        training.save()
    config, started = training.settings(), time.perf_counter() - training.seconds
    give_back()
    made = _sharded(training, data)
    give_back()
    has_begun = bool(training.generator)
    sides, done = (made.users, made.items), 0 if has_begun else training.done
    kept = training.checkpoint.load(sides, config.least_squares.fit_width) if done else None

    def keep(sweeps: int, factors: Factors) -> None:
        if has_begun:
            return
        training.done, training.seconds = sweeps, time.perf_counter() - started
        training.save(sides, factors)

    factors = fit_least_squares(config, made, keep, done, kept)
    fitted = time.perf_counter()
    vectors, ego, loss = initial_vectors(config, made, factors)
    if not has_begun:
        training.done, training.seconds = 0, 0.0
        training.rows.append({"phase": LEAST_SQUARES, "seconds": fitted - started})
        if config.least_squares.rotation:
            training.rows.append({"phase": "rotation", "loss": loss, "seconds": time.perf_counter() - fitted})
    return made, factors, vectors, ego


FITS: dict[str, Callable[[Training, ShardedData], Fit]] = {
    "least_squares": least_squares, "mrl4rec": mrl4rec, "default": default,
}  # fmt: skip


def check_sharded(config: TrainConfig) -> None:
    """Raise ConfigError, with the reason and the remedy, where a config has what is not sharded."""
    if config.recipe == "mrl4rec":
        check_epochs(config)
    elif config.epochs:
        check_graph_epochs(config)


def train(config: TrainConfig, group: Group, progress: Progress) -> Path:
    """Train, evaluate and write the run directory; returns where it is, in every process.

    progress: where the first process tells how far it is. Raises as `mrl.train.fit`.
    """
    started = time.perf_counter()
    check_sharded(config)
    config = replace(config, dataset=resolve_dataset(config.dataset))
    progress.say("data", "each process reads its part" if group.size > 1 else "")
    data = load_sharded(config, group)
    if data.num_items < LONGEST_LIST:
        raise DataError(f"{data.name}: {data.num_items} items, where lists of 20 need at least 20; lower min_rating")
    training, fingerprint = Training(config, group, progress, Checkpoint(config, data)), data.fingerprint
    with ExitStack() as stack:
        directory = None

        def begin() -> list:
            nonlocal directory
            directory = stack.enter_context(RunDirectory(run_path(config)))
            notes = directory.check_data(config, data)
            state = training.checkpoint.find(directory)
            directory.clear_results()
            directory.write_config(config.to_dict())
            return [notes, state]

        notes, state = group.tell(begin)
        for note in notes + training.checkpoint.begin(state):
            progress.note(note)
        vars(training).update({name: state[name] for name in STATE if state})
        results, advice = [], ""
        idle = sum(group.each(int((data.own.train.counts == data.num_items).sum())))
        if training.validated is None:
            fit, fitted = _fit(training, data)
            result = _validate(training, data, fit)
            training.validated = [result.table.to_dict(as_series=False), result.users]
        settings = training.settings()
        if "widths" in training.chosen and group.is_first:  # they were found; whoever reads the run wants to know which
            directory.write_config(replace(config, widths=settings.widths).to_dict())
        if config.protocol == "honest":
            if not training.done:  # of the refit
                training.save()
            results.append(Evaluation(pl.DataFrame(training.validated[0]), None, training.validated[1]))
            monitor = config.early_stopping.monitor
            values = {width: results[0].value(monitor, width) for width in settings.widths}
            advice = describe_widths(monitor, training.wider, values)
            progress.say("refit", "on all of train")
            fit = None  # its tables make room for those of the refit
            data = data.merge_valid()
            vars(data)["fingerprint"] = fingerprint  # of what came: others do not ask any more
            fit, fitted = _fit(training, data)
        if config.protocol == "paper" and not config.per_user:  # validation was the test set
            results.append(replace(result, table=result.table.with_columns(split=pl.lit("test"))))
        else:
            test = {"split": "test", "widths": settings.report_widths, "per_user": config.per_user}
            results.append(evaluate(data, fit.vectors, fit.items, **test))
        seconds = time.perf_counter() - started
        facts = {
            "best_epoch": training.best_epoch,
            "seconds": round(sum(row["seconds"] for row in training.rows), 3),
            "wall_seconds": round(seconds, 3),
            "users_with_every_item": idle,
            "notes": [*data.notes, *notes],
            "processes": group.size,
            "bytes_sent": sum(group.each(group.sent)),
            "fit_memory_mib_by_process": fitted,
            "peak_memory_mib_by_process": group.each(round(peak_memory_mib() or 0)),
            "fingerprint": fingerprint,
        } | {name: fact for name, fact in {"chosen": training.chosen, "advice": advice}.items() if fact}
        _write(training, directory, replace(config, widths=settings.widths), data, results, fit, facts)
    tell_end(progress, config, training.rows, training.chosen, seconds, training.best_epoch, advice)
    return run_path(config).resolve()


def _fit(training: Training, data: ShardedData) -> tuple[Fit, list[int]]:
    """What a recipe makes of the data, and the most memory of each process up to there, MiB."""
    fit = FITS[training.config.recipe](training, data)
    return fit, training.group.each(round(peak_memory_mib() or 0))


def _validate(training: Training, data: ShardedData, fit: Fit) -> Evaluation:
    """Measure the vectors before the refit on validation, at every width; of least_squares a row of the history."""
    started, settings = time.perf_counter(), training.settings()
    result = evaluate(data, fit.vectors, fit.items, split="valid", widths=settings.report_widths)
    if settings.recipe == "least_squares":
        row = {"phase": SEARCH, "epoch": 0} | metrics_row(result, settings)
        training.rows.append(row | {"seconds": time.perf_counter() - started})
    return result


def _choose_settings(training: Training, data: ShardedData) -> None:
    """Choose what the config leaves open, on the first process, and tell all."""
    config, group = training.config, training.group
    counts, started = group.to_first(data.own.train.counts.to(group.device)), time.perf_counter()
    most = MOST_INTERACTIONS[config.least_squares.search if config.least_squares.search != "none" else "quick"]
    rows = group.tell(lambda: draw_rows(counts.cpu(), config.seed, most).tolist())
    sample = sample_of_users(data, torch.tensor(rows, dtype=torch.int64))
    whole = size_of(data)

    def choose() -> list:
        def log(row: dict) -> None:
            about = max(row["trial"], expected_trials(config))
            log_trial(training.progress, config, training.rows, row, started, about)

        found, _, wider = choose_settings(config, sample, log, whole)
        chosen = {name: found.setting(name) for name in SEARCHED}
        return [chosen | ({"widths": found.widths} if config.widths == AUTO else {}), wider]

    training.chosen, training.wider = group.tell(choose)


@dataclass(frozen=True)
class Size:
    """How much there is to train on: what usual settings are predicted from."""

    num_users: int
    num_items: int
    interactions: int

    def __len__(self) -> int:
        return self.interactions


def size_of(data: ShardedData) -> Size:
    return Size(data.num_users, data.num_items, sum(data.group.each(len(data.own.train))))


def _write(
    training: Training,
    directory: RunDirectory | None,
    config: TrainConfig,
    data: ShardedData,
    results: list[Evaluation],
    fit: Fit,
    facts: dict[str, Any],
) -> None:
    """Write all of a finished run but its config; what the other processes have of it is sent in pieces.

    data: what was trained on in the end, whose fingerprint is known: the others do not ask here.
    """
    group = training.group
    parts = (piece for table in (*fit.vectors, *(fit.ego or ())) for piece in table.split(ROWS))
    if group.largest(float(not all(bool(piece.isfinite().all()) for piece in parts))):
        raise RunError(f"{run_path(config)}: the vectors have NaN or Inf and are not saved; raise l2 or alpha0")
    sizes = data.num_users, data.num_items
    weights = {name: (table, size) for name, table, size in zip(("users", "items"), fit.vectors, sizes, strict=True)}
    ego = {name: (table, size) for name, table, size in zip(("users", "items"), fit.ego or (), sizes, strict=False)}

    def pieces(table: Tensor, size: int) -> Pieces:
        return Pieces(table.dtype, (size, *table.shape[1:]), group.pieces(table))

    def positives(part: Positives | None) -> Positives | None:
        if part is None:
            return None
        offsets = Pieces(torch.int64, (data.num_users + 1,), offset_pieces(group, part))
        return Positives(offsets, pieces(part.items, sum(group.each(len(part)))), data.num_items)

    seen = positives(data.own.train), positives(data.own.dropped)
    vectors = {name: pieces(*table) for name, table in weights.items()}
    backbone = {name: pieces(*table) for name, table in ego.items()}
    if group.is_first:
        history = pl.DataFrame(training.rows, infer_schema_length=None)
        written = {"history": history, "vectors": (vectors["users"], vectors["items"]), "backbone": backbone}
        write_run(directory, config, data, results, group.device, **written, facts=facts, seen=seen)
        training.checkpoint.leave()
    else:  # in the order in which the first process writes: by file, and there by name
        order = [each for part in seen[::-1] if part is not None for each in (part.items, part.offsets)]
        order += [tables[name] for tables in (backbone, vectors) for name in sorted(tables)]
        for table in order:
            deque(table.pieces, maxlen=0)
