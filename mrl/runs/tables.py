"""What `notebooks/train.ipynb` tells its reader: what a run will do, and tables as people read them.

A `Table` is Markdown in a notebook and aligned text on a console: no shapes, types, quotes or nulls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrl.config import TrainConfig, flat
from mrl.data import Interactions
from mrl.runs.directory import run_path
from mrl.runs.progress import describe_tried, folded
from mrl.runs.run import Run
from mrl.widths import AUTO
from mrl.words import listed, metric_title, percent

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
FILES = {
    "README.md": "the model card: what this is, how good, how to use it, what its data allow",
    "accuracy.svg": "the picture of the card: accuracy by width",
    "config.json": "every setting",
    "weights.safetensors": "vectors of users and items",
    "ids.parquet": "raw ids and titles by row",
    "seen.safetensors": "what each user has met, left out of recommendations",
    "history.csv": "trials and epochs",
    "metrics.csv": "accuracy by width",
    "per_user.parquet": "accuracy by user",
    "environment.json": "versions, device, seconds, what was chosen",
}
INITIAL = "fit iALS, smooth it over the graph, rotate it so that prefixes rank as the full vector"
STEPS = {
    "default": (
        INITIAL,
        "nested softmax with early stopping; an epoch is kept only where users clearly gain",
    ),
    "least_squares": (INITIAL,),
    "mrl4rec": ("train from random vectors with early stopping on validation",),
}
NUMBER = re.compile(r"[-–]?[\d.,]*( ?%| s| kB| MB)?")


@dataclass(frozen=True)
class Table:
    """Columns of text by their titles. caption: a line above. best: (title, row) of cells that are bold in Markdown."""

    columns: dict[str, list[str]]
    caption: str = ""
    best: frozenset[tuple[str, int]] = frozenset()

    def __repr__(self) -> str:
        lines = [self.caption] * bool(self.caption)
        widths = {title: max(map(len, [title, *cells])) for title, cells in self.columns.items()}
        for cells in zip(*([title, *cells] for title, cells in self.columns.items()), strict=True):
            aligned = zip(cells, self.columns.items(), widths.values(), strict=True)
            texts = [f"{cell:>{width}}" if _is_number(row) else f"{cell:<{width}}" for cell, (_, row), width in aligned]
            lines.append("  ".join(texts).rstrip())
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        lines = [f"{_escaped(self.caption)}\n"] * bool(self.caption)
        rules = ["---:" if _is_number(cells) else ":---" for cells in self.columns.values()]
        shown = [
            [f"**{_escaped(cell)}**" if (title, row) in self.best else _escaped(cell) for row, cell in enumerate(cells)]
            for title, cells in self.columns.items()
        ]
        rows = [list(map(_escaped, self.columns)), rules, *map(list, zip(*shown, strict=True))]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def describe_plan(config: TrainConfig, device: torch.device) -> str:
    """What a training by these settings will do, and which of them are not the default, in a few lines."""
    widths = "the widths that it finds" if config.widths == AUTO else _widths(config.widths)
    steps = list(STEPS[config.recipe])
    if config.recipe != "mrl4rec" and config.least_squares.search != "none":
        steps.insert(0, "choose the hyperparameters that are left open on validation")
    if config.recipe == "default" and config.epochs == 0:
        steps.pop()
    paper = "test each width; the epoch is picked on test, so only compare with published numbers"
    honest = "fit anew on train and validation together, and measure each width on test, once"
    steps.append(paper if config.protocol == "paper" else honest)
    lines = [f"Data set {config.dataset}, recipe {config.recipe}, {widths}, on {device}:"]
    lines += [folded(f"  {number}. {step}", indent="     ") for number, step in enumerate(steps, 1)]
    changed = changed_settings(config)
    others = ", ".join(f"{name} = {value}" for name, value in changed.items())
    lines.append(
        folded(f"Not the default of this recipe: {others}") if changed else "All other settings are the default."
    )
    return "\n".join([*lines, f"The run goes to {run_path(config)}."])


def changed_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the default of their recipe, by name; data set and recipe apart."""
    default, given = flat(TrainConfig(recipe=config.recipe).to_dict()), flat(config.to_dict())
    changed = {name: value for name, value in given.items() if name != "dataset" and value != default[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def data_table(data: Interactions) -> Table:
    """How much there is in each split."""
    splits = [data.split(split) for split in SPLITS]
    return Table(
        {
            "split": list(SPLITS.values()),
            "interactions": [f"{len(positives):,}" for positives in splits],
            "users": [f"{int((positives.counts > 0).sum()):,}" for positives in splits],
            "items": [f"{int((positives.item_counts > 0).sum()):,}" for positives in splits],
            "per user (median)": [f"{float(positives.counts.float().median()):g}" for positives in splits],
        }
    )


def trials_table(run: Run) -> Table | None:
    """The trials of the search in their order: what was tried, its validation metric, seconds; None without any."""
    trials, monitor = run.trials, metric_title(run.config["early_stopping"]["monitor"])
    if not len(trials):
        return None
    rows = trials.sort("trial").to_dicts()
    return Table(
        {
            "trial": [str(row["trial"]) for row in rows],
            "tried": [describe_tried(row) for row in rows],
            f"validation {monitor}": [f"{row['value']:.4f}" for row in rows],
            "time": [f"{row['seconds']:.1f} s" for row in rows],
        }
    )


def accuracy_table(run: Run, metrics: Sequence[str] = ("recall@20", "ndcg@20")) -> Table:
    """Metrics on test, a row a width, the best bold; and what share of the widest one's Recall@20 is kept."""
    table = run.by_width()
    columns = {"width": [str(width) for width in table["width"]]}
    best = set()
    for name in metrics:
        values = table[name].to_list()
        columns[metric_title(name)] = [f"{value:.4f}" for value in values]
        best |= {(metric_title(name), row) for row, value in enumerate(values) if value == max(values)}
    recall = table["recall@20"].to_list()
    if recall[-1] > 0:
        columns[f"Recall, of width {columns['width'][-1]}"] = [percent(value / recall[-1]) for value in recall]
    return Table(columns, best=frozenset(best))


def top_lists(run: Run, user: Any, widths: Sequence[int], k: int = 10) -> Table:
    """The k best items of a user at several widths, side by side: titles, or ids where items have none."""
    columns: dict[str, list[str]] = {}
    for width in dict.fromkeys(widths):
        found = run.recommend([user], k=k, width=width)
        items = found["title" if "title" in found.columns else "item"].to_list()
        columns[f"width {width}"] = [str(item) for item in items]
    ranks = [str(rank) for rank in range(1, len(next(iter(columns.values()))) + 1)]
    seen = "" if run.seen is None else f", who has {int(run.seen.counts[run.user_rows[str(user)]])} items already"
    return Table({"rank": ranks} | columns, caption=f"User {user}{seen}:")


def files_table(path: Path) -> Table:
    """What lies in a run directory, with its size."""
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    return Table(
        {
            "file": [file.name for file in files],
            "size": [readable_size(file.stat().st_size) for file in files],
            "what it holds": [FILES.get(file.name, "") for file in files],
        }
    )


def readable_size(count: int) -> str:
    """Bytes as 1 kB, 39 kB, 1.3 MB."""
    return f"{max(1, round(count / 1e3)):,} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def _widths(widths: Sequence[int]) -> str:
    return f"{'width' if len(widths) == 1 else 'widths'} {listed([str(width) for width in widths])}"


def _is_number(cells: Sequence[str]) -> bool:
    return all(NUMBER.fullmatch(cell) for cell in cells)


def _escaped(text: str) -> str:
    """Text whose marks of Markdown, HTML and TeX show as they are."""
    return re.sub(r"([\\|*_`$\[\]~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
