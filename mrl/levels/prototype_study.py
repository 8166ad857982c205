"""What prototypes depend on, and what they do to accuracy: sets of widths, numbers of prototypes, weights in training.

reports/prototypes.csv is made of these two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from mrl.config import TrainConfig
from mrl.data import Interactions, load_data, pick_device
from mrl.evaluation import Evaluation, evaluate
from mrl.hierarchy.runs import popularity_of
from mrl.least_squares import fit_least_squares, initial_model
from mrl.levels.prototypes import METHODS, compare_clusterings, user_halves
from mrl.runs import load
from mrl.train import fit
from mrl.trainer import Trainer


def study_clusterings(
    config: TrainConfig,
    width_sets: Sequence[Sequence[int]],
    per_dimensions: Sequence[float],
    folder: str | os.PathLike[str],
    *,
    data: Interactions | None = None,
    methods: Sequence[str] = METHODS,
    views: bool = False,
    seeds: Sequence[int] = (0, 1, 2),
) -> pl.DataFrame:
    """`compare_clusterings` on a run of every set of widths, for every number of prototypes a dimension.

    config: of the runs, but for their widths; they go to `folder`, and those that are finished there are read. views:
    also prototypes of two views of an item (`user_halves`). seeds: of the clusterings. Columns dataset, run_seed,
    widths, per_dimension, then as `compare_clusterings`.
    """
    parts = []
    for widths in width_sets:
        name = "-".join(map(str, widths))
        place = Path(folder) / f"{config.recipe}-{name}-{config.seed}"
        is_there = (place / "metrics.csv").is_file()
        settings = {"widths": tuple(widths), "run_dir": str(place)}
        run = load(place) if is_there else fit(config.with_settings(**settings), data, progress=False)
        halves = user_halves(run, config.seed) if views else None
        options = {"labels": run.labels, "popularity": popularity_of(run), "views": halves, "seeds": seeds}
        for number in per_dimensions:
            table = compare_clusterings(run.items.numpy(), widths, per_dimension=number, methods=methods, **options)
            key = {"dataset": run.environment["dataset"], "run_seed": config.seed, "widths": name}
            key |= {"per_dimension": float(number)}
            parts.append(table.select(*(pl.lit(value).alias(column) for column, value in key.items()), pl.all()))
    return pl.concat(parts)


def measure_term(config: TrainConfig, data: Interactions | None = None) -> pl.DataFrame:
    """What the term of a training (`nested_loss={"prototypes": λ}`) does at every width, on *validation* alone.

    Trained on train as `mrl.train.fit` does, but for the search of settings, which are given or usual; the epoch whose
    monitored metric is best over the widths counts. Test is not touched: nothing can be chosen on it.
    Columns as `compare_clusterings`, and epoch; metric: recall@20, ndcg@20; method: `<recipe>, λ=<weight>`, and
    `default, untrained` for the vectors that the recipe default begins with.
    """
    data = load_data(config) if data is None else data
    config, model = config.with_usual(), None
    if config.recipe == "default":
        model = initial_model(config, data.train, fit_least_squares(config, data.train))
    trainer, stopping = Trainer(config, data.train, pick_device(config.device), model), config.early_stopping
    name, rows = f"{config.recipe}, λ={config.nested_loss.prototypes:g}", []
    if model is not None:
        rows += _by_width(_validated(trainer, data), f"{config.recipe}, untrained", config, 0)
    best, epoch, found, waited = -1.0, 0, None, 0
    while trainer.epoch < config.epochs and waited < stopping.patience:
        trainer.run_epoch()
        if trainer.epoch % stopping.eval_every:
            continue
        result = _validated(trainer, data)
        value = float(np.mean([result.value(stopping.monitor, width) for width in config.widths]))
        waited += 1
        if value > best:
            best, epoch, found, waited = value, trainer.epoch, result, 0
    return pl.DataFrame(rows + _by_width(found, name, config, epoch))


def _validated(trainer: Trainer, data: Interactions) -> Evaluation:
    return evaluate(*trainer.vectors(), data, split="valid", widths=trainer.config.widths, ks=[10, 20])


def _by_width(result: Evaluation, method: str, config: TrainConfig, epoch: int) -> list[dict]:
    key = {"method": method, "seed": config.seed, "epoch": epoch}
    return [
        {**key, "width": width, "metric": metric, "value": result.value(metric, width)}
        for metric, width in product(("recall@20", "ndcg@20"), config.widths)
    ]
