"""Figures of what a width does beyond accuracy: lists, costs, popularity projected out, differences between models.

Sisters of `mrl.figures.plots`: tidy table → matplotlib Figure, one function a figure; `size` is `column` or `page`.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import MARKERS, metric_title

TITLES = {
    "coverage": "share of items recommended",
    "gini": "Gini index of exposure",
    "novelty": "novelty (bits)",
    "popularity": "popularity (interactions)",
}


@style.styled
def draw_lists(table: pl.DataFrame, *, size: str = "page") -> Figure:
    """What is recommended against the width: a panel a metric, a line a model.

    table: columns width, metric, value, as the first table of `mrl.analysis.profile.profile_lists`; `model` where there
    are several.
    """
    table, models = style.models_of(style.check_table(table, "width", "metric", "value"))
    metrics = style.in_order(table["metric"])
    figure, axes = style.panel_grid(size, len(metrics), 1.85, most=2)
    for ax, metric in zip(axes, metrics, strict=True):
        for model, look in models.items():
            line = table.filter(pl.col("metric") == metric, pl.col("model") == model).sort("width")
            ax.plot(line["width"], line["value"], color=look.colour, marker=look.marker)
        style.width_axis(ax, table["width"])
        ax.set_ylabel(TITLES.get(metric, metric_title(metric)))
        if metric == "coverage":
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    style.model_legend(figure, models)
    return figure


@style.styled
def draw_popularity(table: pl.DataFrame, *, size: str = "page") -> Figure:
    """Accuracy and what is recommended against γ, the share of popularity projected out: a panel a metric, a line a
    width, wider ones lighter.

    table: columns gamma, width, metric, k, value, as `mrl.analysis.popularity.measure_popularity`.
    """
    style.check_table(table, "gamma", "width", "metric", "k", "value")
    metrics, widths = style.in_order(table["metric"]), table["width"].unique().sort().to_list()
    figure, panels = style.panel_grid(size, len(metrics), 2.0)
    looks = {w: (c, m) for w, c, m in zip(widths, style.shades(len(widths)), cycle(MARKERS), strict=False)}
    for ax, metric in zip(panels, metrics, strict=True):
        for width, (colour, marker) in looks.items():
            line = table.filter(metric=metric, width=width).sort("gamma")
            ax.plot(line["gamma"], line["value"], color=colour, marker=marker)
        ax.set_xticks(table["gamma"].unique().sort())
        ax.set_xlabel("γ (1: no popularity)")
        ax.set_ylabel(TITLES.get(metric, metric_title(metric, table["k"][0])))
        if metric == "coverage":
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles = [style.key(colour, marker=marker) for colour, marker in looks.values()]
    style.legend_above(figure, handles, [f"width {width}" for width in widths])
    return figure


@style.styled
def draw_costs(table: pl.DataFrame, *, size: str = "column") -> Figure:
    """Accuracy against what it costs: bytes of an item's vector below, multiply-adds of a query above.

    table: columns width, metric, k, value, kept (the share of the full width's), bytes_per_item, multiply_adds;
    `model` where there are several. One metric at one k.
    """
    needed = ("width", "metric", "k", "value", "kept", "bytes_per_item", "multiply_adds")
    table, models = style.models_of(style.check_table(table, *needed))
    columns = ("kept",) if size == "column" else ("kept", "value")
    figure, axes = style.panel_grid(size, len(columns), 2.5 if size == "column" else 2.3, margin=0)
    costs = table.unique("width").sort("width")
    labels = [f"{count / 1000:,.0f}k" if count >= 10_000 else f"{count:,}" for count in costs["multiply_adds"]]
    for ax, column in zip(axes, columns, strict=True):
        for model, look in models.items():
            line = table.filter(pl.col("model") == model).sort("width")
            ax.plot(line["bytes_per_item"], line[column], color=look.colour, marker=look.marker)
        style.width_axis(ax, costs["bytes_per_item"])
        ax.set_xlabel("bytes of an item's vector")
        above = ax.secondary_xaxis("top")
        labelled = slice(None, None, -(-len(costs) // 5))
        above.xaxis.set_major_locator(FixedLocator(costs["bytes_per_item"].to_list()[labelled]))
        above.xaxis.set_major_formatter(FixedFormatter(labels[labelled]))
        above.xaxis.set_minor_locator(NullLocator())
        above.set_xlabel("multiply-adds of a query")
    name = metric_title(table["metric"][0], table["k"][0])
    axes[0].set_ylabel(f"share of full {name}")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if size == "page":
        axes[1].set_ylabel(name)
    style.model_legend(figure, models)
    return figure


@style.styled
def draw_differences(table: pl.DataFrame, *, level: float = 0.05, size: str = "page") -> Figure:
    """How far the first model is ahead of each other one, by width, with 95 % intervals: a panel a metric.

    table: columns model, other, width, metric, k, difference, low, high, p_holm, as
    `mrl.analysis.comparison.compare_all`. Filled marks are those with p_holm below `level`.
    """
    needed = ("model", "other", "width", "metric", "k", "difference", "low", "high", "p_holm")
    style.check_table(table, *needed)
    table, looks = style.models_of(table)
    main, others, metrics = table["model"][0], style.in_order(table["other"]), style.in_order(table["metric"])
    row_height = 2.4 if size == "page" else 2.1 + 0.3 / len(metrics)
    figure, axes = style.panel_grid(size, len(metrics), row_height, most=len(metrics), margin=0)
    widths = table["width"].unique().sort().to_list()
    for ax, metric in zip(axes, metrics, strict=True):
        ax.axhline(0, color=GREY, linewidth=0.8)
        for number, other in enumerate(others):
            _, colour, marker = looks[other]
            part = table.filter(pl.col("metric") == metric, pl.col("other") == other).sort("width")
            x = np.searchsorted(widths, part["width"]) + (number - (len(others) - 1) / 2) * 0.7 / len(others)
            ax.vlines(x, part["low"], part["high"], color=colour, linewidth=1.2)
            significant = (part["p_holm"] < level).to_numpy()
            for chosen, face in ((significant, colour), (~significant, "white")):
                marks = {"marker": marker, "markersize": 3.2, "markerfacecolor": face, "markeredgecolor": colour}
                ax.plot(x[chosen], part["difference"].to_numpy()[chosen], linestyle="none", zorder=3, **marks)
        ax.set_xticks(range(len(widths)), [str(width) for width in widths])
        ax.set(xlabel="width (leading dimensions)")
        ax.set_ylabel(f"difference in {metric_title(metric, table['k'][0])}")
    handles = [style.key(looks[other].colour, marker=looks[other].marker) for other in others]
    names = [f"{main} minus {other}" for other in others]
    if (table["p_holm"] >= level).any():
        handles.append(style.key(GREY, marker="o", markerfacecolor="white", linestyle="none"))
        names.append(f"p ≥ {level:g} after Holm")
    style.legend_above(figure, handles, names)
    return figure
