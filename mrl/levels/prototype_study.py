"""What prototypes depend on, and what they do to accuracy: sets of widths, numbers of prototypes, weights in training.

reports/prototypes.csv is made of these: `summarise_clusterings` of `study_clusterings`, and `study_term`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from mrl.config import TrainConfig, differing
from mrl.data import Interactions, load_data, pick_device
from mrl.errors import ConfigError
from mrl.evaluation import Evaluation, evaluate
from mrl.hierarchy.runs import popularity_of
from mrl.least_squares import Propagation, fit_least_squares, initial_model
from mrl.levels.prototypes import METHODS, compare_clusterings, user_halves
from mrl.runs import load
from mrl.train import fit
from mrl.trainer import Trainer

TABLE = {
    "part": pl.String, "dataset": pl.String, "seed": pl.Int64, "widths": pl.String, "per_dimension": pl.Float64,
    "method": pl.String, "width": pl.Int64, "other_width": pl.Int64, "label": pl.String, "metric": pl.String,
    "epoch": pl.Int64, "clusterings": pl.Int64, "clusters": pl.Float64, "value": pl.Float64, "chance": pl.Float64,
}  # fmt: skip
VALUES = ["clusters", "value", "chance"]
JUDGED = "ndcg@20"  # what a weight is chosen by, mean over the widths


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

    config: of the runs, but for their widths; they go to `folder`, and those that are finished there with the same
    settings are read. views: also prototypes of two views of an item (`user_halves`). seeds: of the clusterings.
    Columns dataset, run_seed, widths, per_dimension, then as `compare_clusterings`.
    """
    parts = []
    for widths in width_sets:
        name = _name(widths)
        place = Path(folder) / f"{config.recipe}-{name}-{config.seed}"
        wanted = config.with_settings(widths=tuple(widths), run_dir=str(place))
        run = load(place) if (place / "metrics.csv").is_file() else None
        if run is None or differing(run.asked, wanted.to_dict()):
            run = fit(wanted, data, progress=False)
        halves = user_halves(run, config.seed) if views else None
        options = {"labels": run.labels, "popularity": popularity_of(run), "views": halves, "seeds": seeds}
        for number in per_dimensions:
            table = compare_clusterings(run.items.numpy(), widths, per_dimension=number, methods=methods, **options)
            key = {"dataset": run.environment["dataset"], "run_seed": config.seed, "widths": name}
            key |= {"per_dimension": float(number)}
            parts.append(table.select(*(pl.lit(value).alias(column) for column, value in key.items()), pl.all()))
    return pl.concat(parts)


def summarise_clusterings(table: pl.DataFrame, part: str) -> pl.DataFrame:
    """Rows as in TABLE: means over the seeds of the clustering (`clusterings`: how many) of `study_clusterings`."""
    keys = ["dataset", "run_seed", "widths", "per_dimension", "method", "width", "other_width", "label", "metric"]
    means = table.group_by(keys, maintain_order=True).agg(
        clusterings=pl.col("seed").drop_nulls().n_unique(), **{name: pl.col(name).mean() for name in VALUES}
    )
    return _as_table(means.rename({"run_seed": "seed"}).with_columns(part=pl.lit(part)))


def study_term(config: TrainConfig, weights: Sequence[float], seeds: Sequence[int]) -> pl.DataFrame:
    """What the term of a training (`nested_loss={"prototypes": λ}`) does at every width: rows as in TABLE.

    None (0) and `weights` on validation of the first seed. None and the best of them, by JUDGED, on test of every seed,
    trained anew on train and validation for as many epochs as the first seed found.
    """
    tried = list(dict.fromkeys([0.0, *map(float, weights)]))
    valid = measure_term(config.with_settings(seed=seeds[0]), tried)
    epochs = {weight: _epoch(config, weight, valid) for weight in (0.0, best_weight(config, tried, valid))}
    return pl.concat([valid, *(refit_term(config.with_settings(seed=seed), epochs) for seed in seeds)])


def best_weight(config: TrainConfig, weights: Sequence[float], table: pl.DataFrame) -> float:
    """Which of the weights above 0 has the highest JUDGED on validation, mean over the widths."""
    means = table.filter(label="valid", metric=JUDGED).group_by("method").agg(pl.col("value").mean())
    values = dict(means.iter_rows())
    return max((weight for weight in weights if weight > 0), key=lambda weight: values[_method(config, weight)])


def measure_term(config: TrainConfig, weights: Sequence[float], data: Interactions | None = None) -> pl.DataFrame:
    """The term at every weight on *validation* alone: rows as in TABLE.

    Trained on train as `mrl.train.fit` does, but for the search of settings, which are given or usual, and for its
    refusal of a training that is worse than none: of the epochs from 1 on the one whose monitored metric is best over
    the widths counts. Test is not touched: nothing can be chosen on it. metric: recall@20, ndcg@20; method: `<recipe>,
    λ=<weight>`, and `default, untrained` for the vectors that the recipe default begins with.
    """
    data = load_data(config) if data is None else data
    config, model, rows = _begun(config, data, "valid")
    for weight in weights:
        trainer, stopping = _trainer(config, weight, data, model), config.early_stopping
        best, epoch, found, waited = -1.0, 0, None, 0
        while trainer.epoch < config.epochs and waited < stopping.patience:
            trainer.run_epoch()
            if trainer.epoch % stopping.eval_every:
                continue
            result = evaluate(*trainer.vectors(), data, split="valid", widths=config.widths, ks=[10, 20])
            value = float(np.mean([result.value(stopping.monitor, width) for width in config.widths]))
            waited += 1
            if value > best:
                best, epoch, found, waited = value, trainer.epoch, result, 0
        rows += _by_width(found, _method(config, weight), config, epoch, "valid")
    return _of_training(rows, config, data)


def refit_term(config: TrainConfig, epochs: Mapping[float, int], data: Interactions | None = None) -> pl.DataFrame:
    """As `measure_term`, on test: trained on train and validation together, by weight for so many epochs."""
    data = load_data(config) if data is None else data
    data = data.merge_valid()
    config, model, rows = _begun(config, data, "test")
    for weight, number in epochs.items():
        trainer = _trainer(config, weight, data, model)
        while trainer.epoch < number:
            trainer.run_epoch()
        result = evaluate(*trainer.vectors(), data, split="test", widths=config.widths, ks=[20])
        rows += _by_width(result, _method(config, weight), config, number, "test")
    return _of_training(rows, config, data)


def _begun(config: TrainConfig, data: Interactions, split: str) -> tuple[TrainConfig, Propagation | None, list[dict]]:
    """The config with usual values, the model that trainings of the recipe default start from, and its rows."""
    config, rows = config.with_usual(), []
    if config.recipe != "default":
        return config, None, rows
    if None in (config.least_squares.alpha0, config.least_squares.fit_width):
        remedy = "least_squares={'alpha0': 0.1, 'fit_width': 256}"
        raise ConfigError(f"alpha0, fit_width: have no usual value, and nothing is searched here; give {remedy}")
    model = initial_model(config, data.train, fit_least_squares(config, data.train))
    result = evaluate(*model.vectors(), data, split=split, widths=config.widths, ks=[20])
    return config, model, _by_width(result, f"{config.recipe}, untrained", config, 0, split)


def _trainer(config: TrainConfig, weight: float, data: Interactions, model: Propagation | None) -> Trainer:
    config = config.with_settings(prototypes=weight)
    return Trainer(config, data.train, pick_device(config.device), copy.deepcopy(model))


def _method(config: TrainConfig, weight: float) -> str:
    views = ", views" if config.nested_loss.prototypes_views and weight else ""
    return f"{config.recipe}{views}, λ={weight:g}"


def _epoch(config: TrainConfig, weight: float, table: pl.DataFrame) -> int:
    return table.filter(method=_method(config, weight))["epoch"][0]


def _by_width(result: Evaluation, method: str, config: TrainConfig, epoch: int, split: str) -> list[dict]:
    key = {"method": method, "label": split, "epoch": epoch}
    return [
        {**key, "width": width, "metric": metric, "value": result.value(metric, width)}
        for metric, width in product(("recall@20", "ndcg@20"), config.widths)
    ]


def _of_training(rows: list[dict], config: TrainConfig, data: Interactions) -> pl.DataFrame:
    facts = {"part": "training", "dataset": data.name, "seed": config.seed, "clusterings": 0}
    facts |= {"widths": _name(config.widths), "per_dimension": config.nested_loss.prototypes_per_dimension}
    return _as_table(pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in facts.items()))


def _name(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))


def _as_table(table: pl.DataFrame) -> pl.DataFrame:
    missing = [pl.lit(None).alias(name) for name in TABLE.keys() - set(table.columns)]
    columns = (pl.col(name).cast(kind) for name, kind in TABLE.items())
    return table.with_columns(missing).select(columns).with_columns(pl.col(VALUES).round(5))
