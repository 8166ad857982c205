"""The summary of `mrl.levels.study` in sentences, computed by one rule each."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from mrl.levels.depths import NEIGHBOURS
from mrl.levels.study import SHOWN, UNNESTED
from mrl.words import listed, model_name, percent, readable

PLAIN = "svd"  # whose figures stand beside those of the first nested model
TOLD = 2  # nested models whose gains are told; the table has all
CONTROLS = tuple(model for model in UNNESTED if model != "bpr-shuffled")  # which nobody would use


def describe_levels(summary: pl.DataFrame) -> list[str]:
    """What is kept of each true depth, whether that takes nesting, what nesting adds, and what is known of users.

    summary: of `summarise_levels`. A sentence that the table has nothing for is left out. All are about an item's
    nearest neighbours, mean over the classes.
    """
    shown = summary.filter(**SHOWN)
    nested = [model for model in shown["model"].unique(maintain_order=True) if model not in UNNESTED]
    if not nested:
        return []
    sentences = [*_describe_kept(shown, nested[0]), *_describe_gain(shown, nested)]
    return [*sentences, *_describe_users(shown, nested[0])]


def _describe_kept(shown: pl.DataFrame, main: str) -> Iterator[str]:
    """Of data sets with several true depths: what the narrowest width keeps of each, by a nested model and without."""
    widths = shown["width"].unique().sort().to_list()
    rows = shown.filter(pl.col("label").str.starts_with("depth_"), side="items", width=widths[0]).drop_nulls("retained")
    rows = rows.filter(pl.col("label").n_unique().over("dataset", "model") > 1).sort("dataset", "label")
    if not len(of_main := rows.filter(model=main)):
        return
    falls = {
        model: all(_is_falling(part["retained"]) for _, part in rows.filter(model=model).group_by("dataset"))
        for model in rows["model"].unique(maintain_order=True)
    }
    yield (
        f"{'Coarse comes first' if falls[main] else 'Coarse does not come first everywhere'}: of what all {widths[-1]} "
        f"dimensions of {_named(main)} know above chance (does an item's class recur among its {NEIGHBOURS} "
        f"nearest neighbours? mean over the classes), the first {widths[0]} keep "
        f"{_kept_by_depth(of_main, with_classes=True)}."
    )
    others = [model for model in CONTROLS if model in falls]
    alike = [_named(model) for model in others if falls[model] == falls[main]]
    if others:
        text = (
            f"That {'takes no' if falls[main] and alike else 'is so with and without'} nesting: the same order"
            if alike
            else "Without nesting the order is another"
        )
        holds = f" holds for {listed(alike)}, no level of which was trained" if alike else ""
        plain = rows.filter(model=PLAIN)
        figures = f"; {_named(PLAIN)} keeps {_kept_by_depth(plain)}" if len(plain) else ""
        yield f"{text}{holds}{figures}."


def _named(model: str) -> str:
    """The name of a model within a sentence."""
    name, comma, how = model_name(model).partition(", ")
    name = f"{name} ({how})" if comma else name
    return f"the {name}" if name.islower() else name


def _is_falling(values: pl.Series) -> bool:
    """Whether the last share is below the first, and none is above the one before it as they are printed."""
    printed = (100 * values).round()
    return bool(printed[-1] < printed[0] and (printed.diff().drop_nulls() <= 0).all())


def _kept_by_depth(rows: pl.DataFrame, *, with_classes: bool = False) -> str:
    """`45 % and 20 % of depths 1 and 2 (4 and 16 classes) on completejourney; …`, of one model and width."""
    parts = []
    for (dataset,), part in rows.group_by("dataset", maintain_order=True):
        depths = listed([label.removeprefix("depth_") for label in part["label"]])
        classes = f" ({listed([str(number) for number in part['classes']])} classes)" if with_classes else ""
        parts.append(
            f"{listed([percent(share) for share in part['retained']])} of depths {depths}{classes} on {dataset}"
        )
    return "; ".join(parts)


def _describe_gain(shown: pl.DataFrame, nested: list[str]) -> Iterator[str]:
    """How often the first TOLD nested models are clearly ahead of the best one that is not, below the full width."""
    is_label = pl.col("label").str.starts_with("depth_") | (pl.col("label") == "genres")
    cells = shown.filter(is_label, pl.col("width") < shown["width"].max(), side="items").drop_nulls("difference_low")
    models = []
    for model in nested[:TOLD]:
        counts = []
        for (dataset,), rows in cells.filter(model=model).group_by("dataset", maintain_order=True):
            ahead = len(rows.filter(pl.col("difference_low") > 0))
            behind = len(rows.filter(pl.col("difference_high") < 0))
            counts.append(f"on {dataset} in {ahead} and {behind} of {len(rows)}")
        if counts:
            models.append(f"{_named(model)} {listed(counts)}")
    if models:
        yield (
            "What does nesting add? At each depth and width below the full, against the best model without it, clearly "
            f"ahead and clearly behind (95 % interval over seeds) are {'; '.join(models)}."
        )


def _describe_users(shown: pl.DataFrame, main: str) -> Iterator[str]:
    """What the narrowest and the full width know of users, beside chance, of the first nested model."""
    widths = shown["width"].unique().sort().to_list()
    rows = shown.filter(side="users", model=main)
    for (dataset,), part in rows.group_by("dataset", maintain_order=True):
        facts = []
        for (label,), values in part.sort("width").group_by("label", maintain_order=True):
            if len(values) > 1:
                first, last = values.row(0, named=True), values.row(-1, named=True)
                facts.append(
                    f"{readable(label)} {percent(first['value'])} and {percent(last['value'])} "
                    f"(chance {percent(last['chance'])})"
                )
        if facts:
            yield (
                f"On {dataset} a user's nearest neighbours at width {widths[0]} and at {widths[-1]} share its "
                f"{', '.join(facts)}."
            )
