"""Figures of data, training and accuracy: tidy table → matplotlib Figure, one function a figure.

The sisters: `mrl.figures.hierarchy` (what the levels mean), `mrl.figures.maps` (aligned maps), `mrl.figures.flows`
(alluvial diagram, tree). `mrl.figures.style` has what they share, `save` among it. `size` is `column` (3.35 inches)
or `page` (7).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from mrl.errors import DataError
from mrl.figures import style
from mrl.figures.style import GREY, MARKERS, PALETTE
from mrl.words import metric_title


@style.styled
def draw_long_tail(item_counts: Sequence[int] | np.ndarray, *, head: float = 0.2, size: str = "column") -> Figure:
    """Interactions of each item by its rank, on two log scales.

    item_counts: (I,) interactions an item. The title says what share of them the `head` (a share of the items) holds.
    Items without interactions count as items and are named, but have no place on a log scale.
    """
    counts = np.sort(np.asarray(item_counts, dtype=np.float64))[::-1]
    if not counts.sum() > 0:
        raise DataError("item_counts: no interactions to draw")
    num_head = max(int(np.ceil(head * len(counts))), 1)
    share, seen = counts[:num_head].sum() / counts.sum(), counts[counts > 0]
    figure, ((ax,),) = style.canvas(size, 2.2)
    ax.set(xscale="log", yscale="log", xlabel="item rank, most popular first", ylabel="interactions")
    ax.axvspan(0.8, num_head, color=style.PALE, alpha=0.35, linewidth=0)
    ax.plot(np.arange(1, len(seen) + 1), seen, color=PALETTE[0], marker=".", markersize=2.5, linewidth=0.8)
    ax.set_xlim(0.8, len(counts) * 1.25)
    ax.set_ylim(min(seen[-1], 1) * 0.8, seen[0] * 1.6)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(10))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", "\u2009")))
    ax.set_title(f"{head:.0%} of items (shaded) hold {share:.0%} of interactions")
    if len(seen) < len(counts):
        ax.set_xlabel(f"item rank ({len(counts) - len(seen):,} of {len(counts):,} have no interactions)")
    return figure


def columns_by_width(history: pl.DataFrame, metric: str) -> dict[int, str]:
    """The columns of a validation metric (or of the loss) in a history, by width: {4: "recall@20_w4", …}."""
    columns = [name for name in history.columns if name.startswith(f"{metric}_w")]
    return {int(name.rpartition("_w")[2]): name for name in columns}


def best_epoch(history: pl.DataFrame, monitor: str = "ndcg@20") -> int | None:
    """The first epoch with the highest validation metric, mean over the widths; None where none was validated."""
    columns = list(columns_by_width(history, monitor).values())
    if not columns:
        return None
    mean = history.select("epoch", value=pl.mean_horizontal(columns)).drop_nulls().sort("epoch")
    return int(mean["epoch"][int(mean["value"].arg_max())]) if len(mean) else None


@style.styled
def draw_learning_curves(
    history: pl.DataFrame, *, metric: str = "recall@20", monitor: str = "ndcg@20", size: str = "page"
) -> Figure:
    """Loss of each level, and the validation metric of each width, by epoch; the best epoch is marked.

    history: columns phase (`search`, `refit`), epoch, loss_w4, … and `<metric>_w4`, … at validated epochs. The refit
    runs without validation; its loss is dashed.
    """
    style.check_table(history, "phase", "epoch")
    history = history.filter(pl.col("phase").is_in(["search", "refit"]))  # not the search of settings before that
    losses, values = columns_by_width(history, "loss"), columns_by_width(history, metric)
    if not losses:
        raise DataError(f"history has no column loss_w…; it has {', '.join(history.columns)}")
    figure, axes = style.panel_grid(size, 1 + bool(values), 2.3 if size == "page" else 1.9, most=2, margin=0)
    phases = style.in_order(history["phase"])
    colours = dict(zip(losses, style.shades(len(losses)), strict=True))
    dashed = {"linestyle": (0, (3, 1.5))}
    for width, column in losses.items():
        for phase in phases:
            part = history.filter(pl.col("phase") == phase).select("epoch", column).drop_nulls()
            look = {} if phase == phases[0] else dashed
            marker = "o" if len(part) == 1 else None  # one epoch is no line
            axes[0].plot(part["epoch"], part[column], color=colours[width], marker=marker, markersize=2.5, **look)
    axes[0].set(ylabel="training loss of the level", xlabel="epoch")
    for width, column in values.items():
        part = history.select("epoch", column).drop_nulls()
        axes[1].plot(part["epoch"], part[column], color=colours.get(width, GREY), marker="o", markersize=2.5)
    if values:
        axes[1].set(ylabel=f"validation {metric_title(metric)}", xlabel="epoch")
    best = best_epoch(history, monitor)
    for ax in axes:
        ax.set_xlim(0, history["epoch"].max() * 1.02)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if best is not None:
            ax.axvline(best, color=GREY, linewidth=0.8, linestyle=":")
    legend = {f"width {width}": style.key(colours[width]) for width in losses}
    if len(phases) > 1:
        legend[phases[1]] = style.key(GREY, **dashed)
    if best is not None:
        legend[f"best epoch, {best}"] = style.key(GREY, linestyle=":")
    style.legend_above(figure, list(legend.values()), list(legend))
    return figure


@style.styled
def draw_accuracy(
    metrics: pl.DataFrame,
    *,
    metric: str = "recall",
    k: int | None = 20,
    split: str = "test",
    trained: Sequence[int] | None = None,
    size: str = "column",
) -> Figure:
    """A metric against the width: one line a model, one panel a data set.

    metrics: columns width, metric, k, value; dataset, model, seed, split where there are such. Over several seeds: the
    mean, with a bar from the lowest to the highest. A model without a width (EASE) is a dashed line across.
    trained: widths that were trained, filled; the ones between them are hollow.
    """
    table = style.check_table(metrics, "width", "metric", "value").filter(pl.col("metric") == metric)
    if k is not None and "k" in table.columns:
        table = table.filter(pl.col("k") == k)
    if "split" in table.columns:
        table = table.filter(pl.col("split") == split)
    table, models = style.models_of(style.check_table(table))
    datasets = style.in_order(table["dataset"]) if "dataset" in table.columns else [None]
    seeds = table["seed"].n_unique() if "seed" in table.columns else 1
    row_height = 2.4 if size == "page" and len(datasets) > 1 else 2.6
    figure, axes = style.panel_grid(size, len(datasets), row_height, margin=0)
    widths = table["width"].drop_nulls().unique().sort().to_list()
    for ax, dataset in zip(axes, datasets, strict=True):
        part = table if dataset is None else table.filter(pl.col("dataset") == dataset)
        for number, model in enumerate(models):
            _draw_model(ax, part.filter(pl.col("model") == model), number, trained)
        style.width_axis(ax, widths or [1])
        ax.set_ylabel(metric_title(metric, k))
        if len(datasets) > 1:
            ax.set_title(dataset)
    hollow = style.key(GREY, marker="o", markerfacecolor="white", linestyle="none")
    between = [] if trained is None or set(trained) >= set(widths) else [(hollow, "not a trained width")]
    flat = [model for model in models if table.filter(pl.col("model") == model)["width"].is_null().all()]
    style.model_legend(figure, models, *between, without_width=flat if models != [""] else (), seeds=seeds)
    return figure


def _draw_model(ax: Axes, table: pl.DataFrame, number: int, trained: Sequence[int] | None) -> None:
    """One model: a line over its widths, or across the panel where it has none."""
    colour = PALETTE[number]
    flat = table.filter(pl.col("width").is_null())["value"].mean()
    if flat is not None:
        ax.axhline(flat, color=colour, linestyle="--", linewidth=1)
    means = (
        table.drop_nulls("width")
        .group_by("width")
        .agg(mean=pl.col("value").mean(), low=pl.col("value").min(), high=pl.col("value").max())
        .sort("width")
    )
    if not len(means):
        return
    width, mean = means["width"].to_numpy(), means["mean"].to_numpy()
    ax.plot(width, mean, color=colour, zorder=2)
    if (means["high"] > means["low"]).any():
        ax.vlines(width, means["low"], means["high"], color=colour, linewidth=1, zorder=2)
    filled = np.isin(width, width if trained is None else list(trained))
    for chosen, face in ((filled, colour), (~filled, "white")):
        marks = {"marker": MARKERS[number], "markerfacecolor": face, "markeredgecolor": colour}
        if chosen.any():
            ax.plot(width[chosen], mean[chosen], linestyle="none", zorder=3, **marks)


@style.styled
def draw_groups(table: pl.DataFrame, *, ylabel: str = "Recall@20", size: str = "page") -> Figure:
    """Accuracy against the width for groups of users or items: activity quartiles; head, middle and tail.

    table: columns group, width, value; `grouping` (one row of panels each) and `model` (one column each) where there
    are such. Groups are drawn in the order in which they appear, dark to light.
    """
    table, models = style.models_of(style.check_table(table, "group", "width", "value"))
    if "grouping" not in table.columns:
        table = table.with_columns(pl.lit("").alias("grouping"))
    groupings = style.in_order(table["grouping"])
    rows, columns = len(groupings), len(models)
    if size == "column" and columns > 1:
        rows, columns = rows * columns, 1
    figure, axes = style.canvas(size, 1.95 * rows + 0.25, rows, columns, sharey="row")
    for ax, (grouping, model) in zip(axes.ravel(), product(groupings, models), strict=True):
        part = table.filter(pl.col("grouping") == grouping, pl.col("model") == model)
        groups = style.in_order(table.filter(pl.col("grouping") == grouping)["group"])
        for colour, marker, group in zip(style.shades(len(groups)), MARKERS, groups, strict=False):
            line = part.filter(pl.col("group") == group).sort("width")
            ax.plot(line["width"], line["value"], color=colour, marker=marker, label=str(group))
        style.width_axis(ax, table["width"])
        ax.set_title("\n".join(filter(None, (model, grouping))))
        ax.set_ylabel(ylabel)
        if model == models[-1] or columns == 1:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    for ax in axes.ravel():
        style.from_zero(ax)
        ax.label_outer()
    return figure


@style.styled
def draw_oracle_widths(table: pl.DataFrame, *, size: str = "column") -> Figure:
    """For how many users each width is the best one (the narrowest of equals, say): a bar a width.

    table: columns width, users (a number of users); `model` where there are several.
    """
    table, models = style.models_of(style.check_table(table, "width", "users"))
    widths = table["width"].unique().sort().to_list()
    figure, ((ax,),) = style.canvas(size, 2.2)
    bar_width = 0.8 / len(models)
    for number, model in enumerate(models):
        part = table.filter(pl.col("model") == model)
        users = [part.filter(pl.col("width") == width)["users"].sum() for width in widths]
        share = np.array(users) / max(sum(users), 1)
        x = np.arange(len(widths)) + (number - (len(models) - 1) / 2) * bar_width
        bars = ax.bar(x, share, width=bar_width * 0.94, color=PALETTE[number], label=model)
        if len(models) == 1:
            ax.bar_label(bars, [f"{count:,}" for count in users], padding=1.5, fontsize=style.SMALL, color=GREY)
    ax.set_xticks(range(len(widths)), [str(width) for width in widths])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="best width for the user", ylabel="share of users")
    ax.margins(y=0.12)
    if models != [""]:
        style.legend_above(figure, *ax.get_legend_handles_labels())
    return figure
