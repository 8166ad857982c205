"""Run directories → the tables of `mrl.hierarchy.measure`: a model to explain, and the controls beside it.

What `notebooks/hierarchy.ipynb` calls. Every control is measured in the same way, on the same items.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import NonNegativeInt, PositiveInt, model_validator

from mrl.analysis.profile import CLASSES, popularity_classes
from mrl.errors import ConfigError, RunError
from mrl.hierarchy.measure import Hierarchy, depth_columns, measure
from mrl.hierarchy.neighbours import item_neighbours, user_top_k
from mrl.parameters import settings
from mrl.runs.run import Run, load
from mrl.words import listed

TABLES = ("names", "flows", "tree")
POPULARITY = "popularity class"


@settings
class HierarchyConfig:
    """Parameters of `notebooks/hierarchy.ipynb`.

    runs: run directories with vectors; the first is explained, the others are set beside it. sample: items at most.
    same: number of clusters where it is the same at every width. item, user: raw ids; empty for the item with the most
    interactions and the user with the median number. out_dir: for the tables; empty for `<first run>/hierarchy`.
    """

    runs: tuple[str, ...]
    sample: PositiveInt = 2000
    seed: NonNegativeInt = 0
    same: PositiveInt = 16
    item: str | int = ""
    user: str | int = ""
    out_dir: str = ""

    @model_validator(mode="after")
    def _some_run(self) -> HierarchyConfig:
        if not self.runs:
            raise ConfigError("runs=[]: give run directories, the one to explain first")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.out_dir) if self.out_dir else Path(self.runs[0]) / "hierarchy"


def load_models(paths: Sequence[str | Path]) -> dict[str, Run]:
    """The runs by model name, in order; by name and seed where a name comes twice.

    Raises RunError for runs without vectors, of other items than the first, or narrower than its widths.
    """
    runs = [load(path) for path in paths]
    names = [run.metrics["model"][0] for run in runs]
    names = [
        name if names.count(name) == 1 else f"{name} ({run.path.name})" for name, run in zip(names, runs, strict=True)
    ]
    first = runs[0]
    for run in runs:
        if not np.array_equal(run.item_ids, first.item_ids):
            raise RunError(f"{run.path}: has other items than {first.path}; give runs of one data set")
        if run.items.shape[1] < widths_of(first)[-1]:
            raise RunError(
                f"{run.path}: has {run.items.shape[1]} dimensions, {first.path} has width {widths_of(first)[-1]}; "
                "leave it out"
            )
    return dict(zip(names, runs, strict=True))


def widths_of(run: Run) -> tuple[int, ...]:
    """The widths that were trained; those that were measured, where the settings do not say."""
    return tuple(run.config.get("widths") or run.metrics["width"].drop_nulls().unique().sort())


def popularity_of(run: Run) -> np.ndarray | None:
    """(I,) number of training interactions, None where the run does not say."""
    return None if run.seen is None else run.seen.item_counts.numpy()


def measure_models(models: Mapping[str, Run], config: HierarchyConfig) -> dict[str, Hierarchy]:
    """`mrl.hierarchy.measure.measure` of every model, at the widths and with the labels of the first one."""
    first = next(iter(models.values()))
    shared = {
        "labels": first.labels,
        "popularity": popularity_of(first),
        "item_ids": first.item_ids,
        "same": config.same,
        "sample": config.sample,
        "seed": config.seed,
    }
    return {name: measure(run.items.numpy(), widths_of(first), **shared) for name, run in models.items()}


def stacked(measured: Mapping[str, Hierarchy], table: str, **where: object) -> pl.DataFrame:
    """One table of every model, with a column `model`, filtered to column=value of `where`; empty where none has it."""
    parts = [
        getattr(found, table).select(pl.lit(model).alias("model"), pl.all())
        for model, found in measured.items()
        if len(getattr(found, table))
    ]
    return pl.concat(parts, how="diagonal_relaxed").filter(**where) if parts else pl.DataFrame()


def in_words(describe: Callable[..., str], table: pl.DataFrame, **options: object) -> str:
    """Markdown: the sentences of `describe` on the first model's rows, those on the others' folded away below."""
    told = {}
    for (model,), part in table.group_by("model", maintain_order=True) if len(table) else ():
        told[model] = describe(part.drop("model"), **options)
    told = {model: text for model, text in told.items() if text}
    if not told:
        return ""
    first, *others = told
    lines = [f"**{first}**: {told[first]}"]
    if others:
        items = "\n".join(f"- **{model}**: {told[model]}" for model in others)
        lines += ["<details><summary>The same of the controls</summary>", items, "</details>"]
    return "\n\n".join(lines)


def beside(table: pl.DataFrame, what: str) -> str:
    """Markdown: the models in order of their values, at the narrowest width and at the widest.

    table: one metric of several models, one row a model and width; of pairs of widths, those with one `other_width`.
    """
    if not len(table) or table["model"].n_unique() < 2:
        return ""
    said = []
    for width in dict.fromkeys((table["width"].min(), table["width"].max())):
        rows = table.filter(pl.col("width") == width).sort("value", descending=True, maintain_order=True)
        values = listed([f"{row['model']} {row['value']:.2f}" for row in rows.iter_rows(named=True)])
        chance = rows["chance"].mean() if "chance" in rows.columns else None
        said.append(f"at width {width}: {values}" + ("" if chance is None else f" (chance {abs(chance):.2f})"))
    return f"{what}, highest first, {'; '.join(said)}."


def in_order_of(table: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """The rows of these models, in this order: figures that share an order share their colours."""
    return pl.concat([table.filter(model=model) for model in models])


def label_of(run: Run) -> str | None:
    """What the items are best told apart by: genres, else the first true depth, else nothing is known of them."""
    labels = run.labels
    if labels is None:
        return None
    if "genres" in labels.columns and labels["genres"].drop_nulls().len():
        return "genres"
    return next(iter(depth_columns(labels)), None)


def map_labels(run: Run) -> tuple[pl.DataFrame | None, str]:
    """Labels with a column to colour maps by, and its name: `label_of`, else how popular an item is."""
    label = label_of(run)
    if label is not None:
        return run.labels, label
    counts = popularity_of(run)
    if counts is None:
        return run.labels, ""
    classes = pl.DataFrame({POPULARITY: [CLASSES[index] for index in popularity_classes(counts)]})
    known = [] if run.labels is None else [run.labels]
    return pl.concat([*known, classes], how="horizontal"), POPULARITY


def neighbours_of(run: Run, item: str | int = "", k: int = 10) -> pl.DataFrame:
    """`mrl.hierarchy.neighbours.item_neighbours` of an item by raw id, by default the one with the most
    interactions."""
    counts = popularity_of(run)
    row = _row(run, "item", item, 0 if counts is None else int(counts.argmax()))
    return item_neighbours(
        run.items.numpy(), widths_of(run), row, min(k, len(run.items) - 1), labels=run.labels, item_ids=run.item_ids
    )


def top_k_of(run: Run, user: str | int = "", k: int = 10) -> pl.DataFrame:
    """`mrl.hierarchy.neighbours.user_top_k` of a user by raw id, by default the one with the median number of
    interactions."""
    default = 0 if run.seen is None else int(run.seen.counts.argsort(stable=True)[len(run.users) // 2])
    row = _row(run, "user", user, default)
    return user_top_k(
        run.users[row].numpy(),
        run.items.numpy(),
        widths_of(run),
        k,
        exclude=[] if run.seen is None else run.seen.of(row).numpy(),
        labels=run.labels,
        item_ids=run.item_ids,
        query=f"user {run.user_ids[row]}",
    )


def _row(run: Run, side: str, raw: str | int, default: int) -> int:
    """The row of a raw id, however it was typed."""
    if raw == "":
        return default
    ids = [str(known) for known in (run.item_ids if side == "item" else run.user_ids).tolist()]
    if str(raw) not in ids:
        raise RunError(f"{side}={raw!r}: is not in {run.path}; its ids are like {ids[:3]}")
    return ids.index(str(raw))


def side_by_side(table: pl.DataFrame) -> str:
    """Markdown: a list of `neighbours_of` or `top_k_of`, one column a width; bold where the width before had it not."""
    widths = table["width"].unique().sort().to_list()
    cells = {
        (row["width"], row["rank"]): f"**{_plain(row['title'])}**" if row["new"] else _plain(row["title"])
        for row in table.iter_rows(named=True)
    }
    lines = [["", *(f"width {width}" for width in widths)], ["---"] * (len(widths) + 1)]
    for rank in range(1, table["rank"].max() + 1):
        lines.append([str(rank), *(cells.get((width, rank), "") for width in widths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A title in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|$~])", r"\\\1", text)


def write_tables(measured: Mapping[str, Hierarchy], folder: Path, **more: pl.DataFrame) -> list[Path]:
    """numbers.csv, names.csv, flows.csv, tree.csv, with a column `model`, and `more` by name; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = pl.concat(
        [found.numbers().select(pl.lit(model).alias("model"), pl.all()) for model, found in measured.items()],
        how="diagonal_relaxed",
    )
    written = []
    for name, table in {"numbers": numbers, **{name: stacked(measured, name) for name in TABLES}, **more}.items():
        if len(table):
            table.write_csv(folder / f"{name}.csv")
            written.append(folder / f"{name}.csv")
    return written
