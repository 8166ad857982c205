"""Figures of search by prefix: what an index finds against what it costs."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.serving.measure import pareto
from mrl.words import BLUE, GREEN, ORANGE, PINK, VERMILION

WAYS = {  # name, colour, marker
    "exact": ("all by one width", BLUE, "o"),
    "codes": ("all by codes of fewer bits", GREEN, "s"),
    "ladder": ("a prefix, then the best again", VERMILION, "D"),
    "graph": ("faiss, flat or Panorama", ORANGE, "^"),
    "parts": ("faiss, IVF or HNSW", PINK, "v"),
}
COSTS = {"p50_ms": "median of single queries, ms", "bytes_per_item": "bytes an item"}


def way_of(row: dict) -> str:
    """To which of WAYS a measured setting belongs."""
    if row["backend"] == "faiss":
        return "parts" if row["kind"] in ("ivf", "hnsw") else "graph"
    if len(row["shortlist"]):
        return "ladder"
    return "exact" if row["bits"] == 32 else "codes"


@style.styled
def draw_retrieval(table: pl.DataFrame, *, advised: int | None = None, size: str = "page") -> Figure:
    """The share of the exact list that is found against time and against memory, a mark a setting.

    table: of `mrl.serving.measure`. The grey line is the Pareto front of each panel. advised: the row that is circled.
    """
    style.check_table(table, "overlap_reported", *COSTS)
    figure, axes = style.panel_grid(size, len(COSTS), 2.3)
    ways = [way_of(row) for row in table.iter_rows(named=True)]
    values = table["overlap_reported"].to_list()
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        costs = table[cost].to_list()
        front = table.filter(pareto(table, cost)).sort(cost)
        ax.plot(front[cost], front["overlap_reported"], color=GREY, linewidth=0.8, zorder=1)
        for way, (_, colour, marker) in WAYS.items():
            rows = [n for n, other in enumerate(ways) if other == way]
            ax.plot([costs[n] for n in rows], [values[n] for n in rows], marker, color=colour, alpha=0.85)
        for number in [n for n, way in enumerate(ways) if way == "exact"]:
            ax.annotate(
                str(table["widths"][number][0]), (costs[number], values[number]), (0, -5), size=style.SMALL,
                textcoords="offset points", ha="center", va="top", color=BLUE,
            )  # fmt: skip
        if advised is not None:
            ax.plot(costs[advised], values[advised], "o", color="none", mec=GREY, markersize=11, mew=1.2)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set(xlabel=title, ylim=(min(0.3, min(values)) - 0.04, 1.03))
    axes[0].set_ylabel("of the exact list")
    entries = [(colour, marker, name) for way, (name, colour, marker) in WAYS.items() if way in ways]
    handles = [style.key(colour, marker=marker, linestyle="none") for colour, marker, _ in entries]
    names = [name for *_, name in entries]
    if advised is not None:
        handles.append(style.key("none", marker="o", mec=GREY, markersize=9, linestyle="none"))
        names.append("advised")
    style.legend_above(figure, handles, names)
    return figure


@style.styled
def draw_nest(table: pl.DataFrame, *, k: int = 20, size: str = "column") -> Figure:
    """What each prefix finds of the list by all dimensions, before and after vectors are made nested.

    table: columns width, before, after, as `mrl.exchange.prefix_recall` gives them.
    """
    style.check_table(table, "width", "before", "after")
    figure, ((ax,),) = style.canvas(size, 2.3)
    for name, colour, marker in (("before", ORANGE, "s"), ("after", BLUE, "o")):
        ax.plot(table["width"], table[name], color=colour, marker=marker)
    style.width_axis(ax, table["width"])
    style.from_zero(ax)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_ylabel(f"of the {k} best by all")
    style.legend_above(figure, ax.lines, ["as they are", "nested"])
    return figure
