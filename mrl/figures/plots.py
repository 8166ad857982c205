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
from mrl.figures.style import GREY
from mrl.words import BLACK, BLUE, MARKERS, Look, metric_title

BEST = 7  # points of the star of the best epoch
DASHED = {"linestyle": (0, (3, 1.5))}  # the refit


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
    ax.plot(np.arange(1, len(seen) + 1), seen, color=BLUE, marker=".", markersize=2.5, linewidth=0.8)
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
    """The columns of a validation metric (or of the loss) in a history, by width: {4: "ndcg@20_w4", …}."""
    columns = [name for name in history.columns if name.startswith(f"{metric}_w")]
    return {int(name.rpartition("_w")[2]): name for name in columns}


def monitored(history: pl.DataFrame, monitor: str) -> pl.DataFrame:
    """What early stopping looks at: columns epoch, and value, the validation metric averaged over the widths."""
    columns = list(columns_by_width(history, monitor).values())
    if not columns:
        return pl.DataFrame(schema={"epoch": pl.Int64, "value": pl.Float64})
    return history.select("epoch", value=pl.mean_horizontal(columns, ignore_nulls=False)).drop_nulls().sort("epoch")


def best_epoch(history: pl.DataFrame, monitor: str = "ndcg@20") -> int | None:
    """The first epoch with the highest validation metric, mean over the widths; None where none was validated."""
    mean = monitored(history, monitor)
    return int(mean["epoch"][int(mean["value"].arg_max())]) if len(mean) else None


@style.styled
def draw_learning_curves(history: pl.DataFrame, *, monitor: str = "ndcg@20", size: str = "page") -> Figure:
    """Loss of each level, and the validation metric of each width, by epoch; the best epoch is marked.

    history: columns phase (`search`, `refit`), epoch, loss_w4, … and `<monitor>_w4`, … at validated epochs; epoch 0 is
    the initial model. The refit runs without validation; its loss is dashed. monitor: the metric that chooses the best
    epoch, by its mean over the widths, the black line; that of a run is `run.config["early_stopping"]["monitor"]`.
    """
    style.check_table(history, "phase", "epoch")
    history = history.filter(pl.col("phase").is_in(["search", "refit"]))  # not the search of settings before that
    losses, values = columns_by_width(history, "loss"), columns_by_width(history, monitor)
    if not losses and not values:
        raise DataError(f"history has no column loss_w… or {monitor}_w…; it has {', '.join(history.columns)}")
    phases = style.in_order(history["phase"])
    widths = list(losses or values)
    colours = dict(zip(widths, style.shades(len(widths)), strict=True))
    legend = {f"width {width}": style.key(colour) for width, colour in colours.items()}
    figure, panels = style.panel_grid(
        size, bool(losses) + bool(values), 2.3 if size == "page" else 1.9, most=2, margin=0
    )
    if losses:
        _draw_losses(panels[0], history, losses, colours, phases)
    if len(phases) > 1:
        legend[phases[1]] = style.key(GREY, **DASHED)
    best = best_epoch(history, monitor)
    if best is not None:
        _draw_validation(panels[-1], history, monitor, best, colours)
        if len(values) > 1:
            legend["their mean, which chooses"] = style.key(BLACK)
        legend[f"best epoch, {best}"] = style.key(BLACK, linestyle=":", marker="*", markersize=BEST)
    last = history["epoch"].max() or 1
    for ax in panels:
        ax.set_xlim(-0.03 * last, 1.03 * last)  # epoch 0 beside the axis, not on it
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        if best is not None:
            ax.axvline(best, color=BLACK, linewidth=0.8, linestyle=":", zorder=1)
    style.legend_above(figure, list(legend.values()), list(legend))
    return figure


def _draw_losses(ax: Axes, history: pl.DataFrame, losses: dict, colours: dict, phases: Sequence[str]) -> None:
    """A line a width and phase."""
    for width, column in losses.items():
        for phase in phases:
            part = history.filter(pl.col("phase") == phase).select("epoch", column).drop_nulls()
            look = {} if phase == phases[0] else DASHED
            marker = "o" if len(part) == 1 else None  # one epoch is no line
            ax.plot(part["epoch"], part[column], color=colours[width], marker=marker, markersize=2.5, **look)
    ax.set_ylabel("training loss of the level")


def _draw_validation(ax: Axes, history: pl.DataFrame, monitor: str, best: int, colours: dict) -> None:
    """A line a width, and their mean with a star at the best epoch."""
    values = columns_by_width(history, monitor)
    for width, column in values.items():
        part = history.select("epoch", column).drop_nulls()
        ax.plot(part["epoch"], part[column], color=colours.get(width, GREY), marker="o", markersize=2.5)
    mean = monitored(history, monitor)
    if len(values) > 1:
        ax.plot(mean["epoch"], mean["value"], color=BLACK, linewidth=1.6)
    ax.plot([best], mean.filter(epoch=best)["value"], color=BLACK, marker="*", markersize=BEST, zorder=3)
    ax.set_ylabel(f"validation {metric_title(monitor)}")


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
        for model, look in models.items():
            _draw_model(ax, part.filter(pl.col("model") == model), look, trained)
        style.width_axis(ax, widths or [1])
        ax.set_ylabel(metric_title(metric, k))
        if len(datasets) > 1:
            ax.set_title(dataset)
    hollow = style.key(GREY, marker="o", markerfacecolor="white", linestyle="none")
    between = [] if trained is None or set(trained) >= set(widths) else [(hollow, "not a trained width")]
    flat = [model for model in models if table.filter(pl.col("model") == model)["width"].is_null().all()]
    style.model_legend(figure, models, *between, without_width=flat if "" not in models else (), seeds=seeds)
    return figure


def _draw_model(ax: Axes, table: pl.DataFrame, look: Look, trained: Sequence[int] | None) -> None:
    """One model: a line over its widths, or across the panel where it has none."""
    colour = look.colour
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
        marks = {"marker": look.marker, "markerfacecolor": face, "markeredgecolor": colour}
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
    figure, axes = style.canvas(size, 1.95 * rows + 0.25, rows, columns)
    for first, *others in axes.reshape(len(groupings), len(models)):  # one scale a grouping, also down a column
        for ax in others:
            ax.sharey(first)
    for ax, (grouping, model) in zip(axes.ravel(), product(groupings, models), strict=True):
        part = table.filter(pl.col("grouping") == grouping, pl.col("model") == model)
        groups = style.in_order(table.filter(pl.col("grouping") == grouping)["group"])
        for number, (colour, group) in enumerate(zip(style.shades(len(groups)), groups, strict=True)):
            line = part.filter(pl.col("group") == group).sort("width")
            look = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "label": str(group)}
            ax.plot(style.dodge(line["width"], number, len(groups)), line["value"], **look)
        style.width_axis(ax, table["width"], len(groups))
        ax.set_title("\n".join(filter(None, (model, grouping))))
        ax.set_ylabel(ylabel)
        if len(groupings) > 1 and model == list(models)[0 if columns == 1 else -1]:  # one legend a grouping
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    if len(groupings) == 1:
        style.legend_above(figure, *axes[0, 0].get_legend_handles_labels())
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
    for number, (model, look) in enumerate(models.items()):
        part = table.filter(pl.col("model") == model)
        users = [part.filter(pl.col("width") == width)["users"].sum() for width in widths]
        share = np.array(users) / max(sum(users), 1)
        x = np.arange(len(widths)) + (number - (len(models) - 1) / 2) * bar_width
        bars = ax.bar(x, share, width=bar_width * 0.94, color=look.colour, label=model)
        if len(models) == 1:
            ax.bar_label(bars, [f"{count:,}" for count in users], padding=1.5, fontsize=style.SMALL, color=GREY)
    ax.set_xticks(range(len(widths)), [str(width) for width in widths])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="best width for the user", ylabel="share of users")
    ax.margins(y=0.12)
    if "" not in models:
        style.legend_above(figure, *ax.get_legend_handles_labels())
    return figure
