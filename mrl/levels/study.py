"""What the levels know, of several models, data sets and seeds: one table, the controls beside the nested models.

A row of the summary is a mean over seeds with its 95 % interval (Student's t; of three seeds it is wide, and it speaks
of other splits and initial values, since the seed draws both). Columns:

    dataset, side (items, users), label, classes, metric, average: see `mrl.levels.depths`
    model, width, seeds, value, low, high, chance
    retained    relative retention: value above chance over that at full width, mean over seeds; null where the full
                width knows next to nothing (NOTHING); retained_low, retained_high: its interval
    other       of nested models: the best of the UNNESTED ones in this cell, picked by its value, which favours it
    difference  value minus that of `other`, paired by seed; difference_low, difference_high: its interval
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import polars.selectors as cs
from scipy import stats

from mrl.errors import RunError
from mrl.hierarchy.measure import SAMPLE, depth_columns
from mrl.hierarchy.runs import popularity_of, widths_of
from mrl.levels.depths import SCHEMA, in_fifths, measure_depths
from mrl.levels.users import user_classes
from mrl.runs import Run

UNNESTED = ("svd", "ials", "bpr", "bpr-rotated", "bpr-shuffled")  # models no level of which was trained
NOTHING = 0.01  # of the way from chance to 1: what the full width must know, to ask how much of it is kept
CELL = ["dataset", "side", "label", "classes", "metric", "average"]
MEASURED = {"dataset": pl.String, "seed": pl.Int64, "model": pl.String, "side": pl.String, **SCHEMA}
SUMMARY = {
    "dataset": pl.String, "side": pl.String, "label": pl.String, "classes": pl.Int64, "metric": pl.String,
    "average": pl.String, "model": pl.String, "width": pl.Int64, "seeds": pl.Int64, "value": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "chance": pl.Float64, "retained": pl.Float64, "retained_low": pl.Float64,
    "retained_high": pl.Float64, "other": pl.String, "difference": pl.Float64, "difference_low": pl.Float64,
    "difference_high": pl.Float64,
}  # fmt: skip
SHOWN = {"metric": "neighbours", "average": "macro"}  # what figures and sentences are about


def measure_run(run: Run, *, widths: Iterable[int] = (), sample: int = SAMPLE, seed: int = 0) -> pl.DataFrame:
    """What the vectors of a run know of its items and users: columns as in MEASURED.

    widths: its own where none are given. Items and users without training interactions are left out. sample: of items
    and of users, drawn by seed.
    """
    widths = tuple(widths) or widths_of(run)
    sides = {"items": (run.items, popularity_of(run), item_classes(run))}
    sides["users"] = run.users, None if run.seen is None else run.seen.counts.numpy(), user_classes(run)
    tables = []
    for side, (vectors, counts, classes) in sides.items():
        rows = np.arange(len(vectors)) if counts is None else np.flatnonzero(counts > 0)
        classes = {name: column.gather(rows) for name, column in classes.items()}
        table = measure_depths(vectors.numpy()[rows], widths, classes, sample=sample, seed=seed)
        tables.append(table.select(pl.lit(side).alias("side"), pl.all()))
    first = run.metrics.row(0, named=True)
    facts = {"dataset": first["dataset"], "seed": run.config["seed"], "model": first["model"]}
    keyed = pl.concat(tables).with_columns(pl.lit(value).alias(name) for name, value in facts.items())
    return keyed.select(pl.col(name).cast(kind) for name, kind in MEASURED.items())


def item_classes(run: Run) -> dict[str, pl.Series]:
    """What is known of the items, (I,) each: genres, true depths and brand as they are; fifths by year, popularity."""
    labels, classes = run.labels, {}
    if labels is not None:
        names = ("genres", *depth_columns(labels), "brand")
        classes = {name: labels[name] for name in names if name in labels.columns}
        if "year" in labels.columns:
            classes["year"] = in_fifths(labels["year"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy())
    counts = popularity_of(run)
    return classes if counts is None else classes | {"popularity": in_fifths(counts)}


def summarise_levels(measured: pl.DataFrame) -> pl.DataFrame:
    """The summary of the module docstring, of `measure_run` tables of any number of models, seeds and data sets.

    Models keep their order. Raises RunError where a model is measured twice with one seed.
    """
    key = [*CELL, "model", "seed"]
    if len(twice := measured.filter(measured.select(*key, "width").is_duplicated())):
        row = twice.row(0, named=True)
        raise RunError(f"{row['model']}: is there twice with seed {row['seed']} on {row['dataset']}; give it once")
    if not len(measured):
        return pl.DataFrame(schema=SUMMARY)
    full = pl.col("value", "chance").sort_by("width").last().over(key).name.suffix("_full")
    known = pl.col("value_full") - pl.col("chance_full")
    is_much = known > NOTHING * (1 - pl.col("chance_full"))
    by_seed = measured.with_columns(full).with_columns(
        retained=pl.when(is_much).then((pl.col("value") - pl.col("chance")) / known)
    )
    cells = [*CELL, "model", "width"]
    # the number of classes may differ from seed to seed, as the items do
    by_seed = by_seed.with_columns(pl.col("classes").median().over([name for name in CELL if name != "classes"]))
    by_seed = by_seed.with_columns(pl.col("classes").cast(pl.Int64))
    means = by_seed.group_by(cells, maintain_order=True).agg(
        seeds=pl.len(), chance=pl.col("chance").mean(), **_mean("value"), **_mean("retained")
    )
    means = _with_interval(_with_interval(means, "value", ""), "retained", "retained_")
    summary = means.join(_compare_with_unnested(by_seed), on=cells, how="left", maintain_order="left")
    return summary.select(pl.col(name).cast(kind) for name, kind in SUMMARY.items()).with_columns(cs.float().round(4))


def _mean(column: str) -> dict[str, pl.Expr]:
    value = pl.col(column)
    return {column: value.mean(), f"{column}_error": value.std() / value.count().sqrt(), f"{column}_n": value.count()}


def _with_interval(table: pl.DataFrame, column: str, prefix: str) -> pl.DataFrame:
    """The table with the ends of the 95 % t-interval of a mean; null where it is of one seed."""
    number = table[f"{column}_n"].to_numpy()
    quantile = np.where(number > 1, stats.t.ppf(0.975, np.maximum(number - 1, 1)), np.nan)
    half = pl.Series(quantile).fill_nan(None) * table[f"{column}_error"]
    ends = {f"{prefix}low": table[column] - half, f"{prefix}high": table[column] + half}
    return table.drop(f"{column}_n", f"{column}_error").with_columns(**ends)


def _compare_with_unnested(by_seed: pl.DataFrame) -> pl.DataFrame:
    """cells, other, difference and its interval, of nested models in cells that have a model which is not."""
    cell = [*CELL, "width"]
    is_unnested = pl.col("model").is_in(UNNESTED)
    plain = by_seed.filter(is_unnested)
    means = plain.group_by([*cell, "model"], maintain_order=True).agg(pl.col("value").mean())
    best = means.sort("value", descending=True, nulls_last=True, maintain_order=True).unique(
        cell, keep="first", maintain_order=True
    )
    other = plain.join(best.select(*cell, "model"), on=[*cell, "model"])
    other = other.select(*cell, "seed", other="model", value_of_other="value")
    paired = by_seed.filter(~is_unnested).join(other, on=[*cell, "seed"])
    paired = paired.with_columns(difference=pl.col("value") - pl.col("value_of_other"))
    table = paired.group_by([*CELL, "model", "width"], maintain_order=True).agg(
        pl.col("other").first(), **_mean("difference")
    )
    return _with_interval(table, "difference", "difference_")
