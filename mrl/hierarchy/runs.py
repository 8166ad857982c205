"""Run directories → the tables of `mrl.hierarchy.measure`: a model to explain, and the controls beside it.

What `notebooks/hierarchy.ipynb` calls. Every control is measured in the same way, on the same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import NonNegativeInt, PositiveInt, model_validator

from mrl.analysis.comparison import name_runs
from mrl.analysis.profile import CLASSES, classify_popularity
from mrl.errors import ConfigError, RunError
from mrl.hierarchy.measure import SAMPLE, Hierarchy, depth_columns, measure_hierarchy
from mrl.hierarchy.neighbours import list_neighbours, list_top_k
from mrl.parameters import PathText, settings
from mrl.runs import Run, load

TABLES = ("names", "flows", "tree")
POPULARITY, BRANCH = "popularity class", "branch"


@settings
class HierarchyConfig:
    """Parameters of `notebooks/hierarchy.ipynb`.

    runs: run directories with vectors; the first is explained, the others are compared with it. sample: items at most.
    clusters: at every width, in the clustering `fixed`; clustering: kmeans or prototypes. item, user: raw ids; empty
    for the item with the most interactions and the user with the median number. out_dir: for the tables; empty for
    `<first run>/hierarchy`.
    """

    runs: tuple[PathText, ...]
    sample: PositiveInt = SAMPLE
    seed: NonNegativeInt = 0
    clusters: PositiveInt = 16
    clustering: Literal["kmeans", "prototypes"] = "kmeans"
    item: str | int = ""
    user: str | int = ""
    out_dir: PathText = ""

    @model_validator(mode="after")
    def _check_runs(self) -> HierarchyConfig:
        if not self.runs:
            raise ConfigError("runs=[]: give run directories, the one to explain first")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.out_dir) if self.out_dir else Path(self.runs[0]).expanduser() / "hierarchy"


def load_models(paths: Sequence[str | Path]) -> dict[str, Run]:
    """The runs by the name they have in tables (see `mrl.analysis.comparison.name_runs`), in order.

    Raises RunError for runs without vectors, of other items than the first, or narrower than its widths.
    """
    first, *others = runs = [load(path) for path in paths]
    widest = widths_of(first)[-1]
    for run in others:
        if not np.array_equal(run.item_ids, first.item_ids):
            raise RunError(f"{run.path}: has other items than {first.path}; give runs of one data set")
        if (dims := run.items.shape[1]) < widest:
            raise RunError(f"{run.path}: has {dims} dimensions, {first.path} has width {widest}; leave it out")
    return name_runs(runs)


def widths_of(run: Run) -> tuple[int, ...]:
    """The widths that were trained; those that were measured, where the settings do not say."""
    return tuple(run.config.get("widths") or run.metrics["width"].drop_nulls().unique().sort())


def popularity_of(run: Run) -> np.ndarray | None:
    """(I,) number of training interactions, None where the run does not say."""
    return None if run.seen is None else run.seen.item_counts.numpy()


def measure_models(models: Mapping[str, Run], config: HierarchyConfig) -> dict[str, Hierarchy]:
    """`mrl.hierarchy.measure.measure_hierarchy` of every model, at the widths and with the labels of the first one."""
    first = next(iter(models.values()))
    shared = {
        "labels": first.labels,
        "popularity": popularity_of(first),
        "item_ids": first.item_ids,
        "clusters": config.clusters,
        "clustering": config.clustering,
        "sample": config.sample,
        "seed": config.seed,
    }
    return {name: measure_hierarchy(run.items.numpy(), widths_of(first), **shared) for name, run in models.items()}


def stack_tables(hierarchies: Mapping[str, Hierarchy], table: str, **where: object) -> pl.DataFrame:
    """One table of every model, with a column `model`, filtered to column=value of `where`; empty where none has it."""
    parts = [
        getattr(hierarchy, table).select(pl.lit(model).alias("model"), pl.all())
        for model, hierarchy in hierarchies.items()
        if len(getattr(hierarchy, table))
    ]
    return pl.concat(parts, how="diagonal_relaxed").filter(**where) if parts else pl.DataFrame()


def label_of(run: Run) -> str | None:
    """What the items are best told apart by: genres, else the first true depth, else nothing is known of them."""
    labels = run.labels
    if labels is None:
        return None
    if "genres" in labels.columns and labels["genres"].drop_nulls().len():
        return "genres"
    return next(iter(depth_columns(labels)), None)


def map_labels(run: Run, tree: Hierarchy | None = None) -> tuple[pl.DataFrame | None, str]:
    """Labels with a column to colour maps by, and its name: `label_of`, else how popular an item is.

    tree: instead the first branches of its tree, by what is typical of them.
    """
    if tree is not None:
        return _branch_labels(run, tree), BRANCH
    label = label_of(run)
    if label is not None:
        return run.labels, label
    counts = popularity_of(run)
    if counts is None:
        return run.labels, ""
    classes = pl.DataFrame({POPULARITY: [CLASSES[index] for index in classify_popularity(counts)]})
    tables = [classes] if run.labels is None else [run.labels, classes]
    return pl.concat(tables, how="horizontal"), POPULARITY


def _branch_labels(run: Run, tree: Hierarchy) -> pl.DataFrame:
    """The labels with a column BRANCH: the node of each measured item at the narrowest width, null for the others."""
    names = tree.names.filter(clustering="tree", width=tree.widths[0]).sort("cluster")
    texts = [f"{row['cluster']}: {row['typical'] or row['titles']}" for row in names.iter_rows(named=True)]
    branches = np.full(len(run.item_ids), None, dtype=object)
    branches[tree.rows] = np.array(texts, dtype=object)[tree.clusters["tree"][0]]
    column = pl.Series(BRANCH, branches.tolist(), dtype=pl.String).str.replace_all("|", "/", literal=True)
    return column.to_frame() if run.labels is None else run.labels.with_columns(column)


def neighbours_of(run: Run, item: str | int = "", k: int = 10) -> pl.DataFrame:
    """`mrl.hierarchy.neighbours.list_neighbours` of an item by raw id, by default that with the most interactions."""
    counts = popularity_of(run)
    row = _row(run, "item", item, 0 if counts is None else int(counts.argmax()))
    return list_neighbours(
        run.items.numpy(), widths_of(run), row, min(k, len(run.items) - 1), labels=run.labels, item_ids=run.item_ids
    )


def top_k_of(run: Run, user: str | int = "", k: int = 10) -> pl.DataFrame:
    """`mrl.hierarchy.neighbours.list_top_k` of a user by raw id, by default with the median number of interactions."""
    default = 0 if run.seen is None else int(run.seen.counts.argsort(stable=True)[len(run.users) // 2])
    row = _row(run, "user", user, default)
    return list_top_k(
        run.users[row].numpy(),
        run.items.numpy(),
        widths_of(run),
        k,
        exclude=np.concatenate([[], *(part.of(row).numpy() for part in run.met)]).astype(np.int64),
        labels=run.labels,
        item_ids=run.item_ids,
        query=f"user {run.user_ids[row]}",
    )


def _row(run: Run, side: str, raw: str | int, default: int) -> int:
    """The row of a raw id, however it was typed."""
    if raw == "":
        return default
    ids = [str(raw_id) for raw_id in (run.item_ids if side == "item" else run.user_ids).tolist()]
    if str(raw) not in ids:
        raise RunError(f"{side}={raw!r}: is not in {run.path}; its ids are like {ids[:3]}")
    return ids.index(str(raw))


def format_lists(table: pl.DataFrame) -> str:
    """Markdown: a list of `neighbours_of` or `top_k_of`, one column a width; bold where the width before had it not."""
    title = pl.col("title").str.replace_all(r"([\\`*_{}\[\]<>|$~])", r"\$1")  # nothing in a title is Markdown
    cells = table.with_columns(cell=pl.when("new").then(pl.format("**{}**", title)).otherwise(title))
    cells = cells.pivot("width", index="rank", values="cell").sort("rank").cast(pl.String).fill_null("")
    head = ["rank", *(f"width {width}" for width in cells.columns[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells.rows()))


def write_tables(hierarchies: Mapping[str, Hierarchy], folder: Path, **others: pl.DataFrame) -> list[Path]:
    """numbers.csv, names.csv, flows.csv, tree.csv, with a column `model`, and `others` by name; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = pl.concat(
        [hierarchy.numbers().with_columns(model=pl.lit(model)) for model, hierarchy in hierarchies.items()],
        how="diagonal_relaxed",
    ).select("model", pl.exclude("model"))
    tables = {"numbers": numbers, **{name: stack_tables(hierarchies, name) for name in TABLES}, **others}
    paths = {folder / f"{name}.csv": table for name, table in tables.items() if len(table)}
    for path, table in paths.items():
        table.write_csv(path)
    return list(paths)
