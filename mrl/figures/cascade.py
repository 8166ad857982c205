"""Figures of serving: what a cascade keeps at which expected width."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import BLUE, GREEN, VERMILION, metric_title

LOOKS = {"cascade": (VERMILION, "s"), "oracle": (GREEN, "*")}
_BETWEEN = np.linspace(0, 1, 33)[:, None]


@style.styled
def draw_cascade(table: pl.DataFrame, *, size: str = "column") -> Figure:
    """The share of the full width's accuracy against the expected width: fixed widths, the cascade at several targets,
    the oracle. On a page also the overlap with the lists of the full width, of the vectors that are served.

    table: that of `mrl.cascade.fit_cascade`. The line between fixed widths is what a random mix of the two gives; a
    cascade pays where it is above. Bars are one standard error. The filled mark is the target that was asked for.
    """
    needed = ("kind", "target", "is_asked", "width", "metric", "expected_width", "share", "share_error")
    style.check_table(table, *needed, "served_width", "test_overlap")
    figure, axes = style.panel_grid(size, 1 if size == "column" else 2, 2.35, most=2)
    metric = table["metric"][0]
    by_overlap = metric.startswith("overlap")
    k = metric.partition("@")[2]
    title = f"overlap with the full width's {k} best"
    _draw_choices(axes[0], table, "expected_width", "share")
    axes[0].set_ylabel(title if by_overlap else f"share of full {metric_title(metric)}")
    axes[0].axhline(table.filter("is_asked")["target"][0], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    if size != "column":
        _draw_choices(axes[1], table, "served_width", "test_overlap")
        axes[1].set_ylabel(title)
    handles = [
        (style.key(BLUE, marker="o"), "fixed width, and mixes of two"),
        (style.key(VERMILION, marker="s"), "cascade"),
        (style.key(GREEN, marker="*", linestyle="none", markersize=7), "oracle"),
        (style.key(GREY, linestyle=":", linewidth=0.8), "asked for"),
    ]
    style.legend_above(figure, *zip(*handles, strict=True))
    return figure


def _draw_choices(ax: Axes, table: pl.DataFrame, x: str, y: str) -> None:
    """Fixed widths as a line, cascades and the oracle as marks; without what has no value."""
    fixed = table.filter(kind="fixed").sort("width")
    widths = fixed["width"].to_list()
    points = fixed.select(x, y).to_numpy()  # (G, 2)
    mixes = [narrow + _BETWEEN * (wide - narrow) for narrow, wide in pairwise(points)]
    line = np.concatenate([points[:1], *mixes])
    ax.plot(line[:, 0], line[:, 1], color=BLUE, zorder=2)
    ax.plot(points[:, 0], points[:, 1], color=BLUE, marker="o", linestyle="none", zorder=2)
    for kind, (colour, marker) in LOOKS.items():
        part = table.filter(pl.col("kind") == kind).drop_nulls([x, y]).sort(x)
        if not len(part):
            continue
        size = 7 if marker == "*" else None
        if kind == "cascade":
            error = part["share_error"] if y == "share" else None
            ax.errorbar(part[x], part[y], error, color=colour, linewidth=1, elinewidth=0.8, zorder=3)
        for is_asked, face in ((True, colour), (False, "white")):
            marked = part.filter(pl.col("is_asked") == is_asked)
            marks = {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": size}
            if len(marked):
                ax.plot(marked[x], marked[y], linestyle="none", zorder=4, **marks)
    style.width_axis(ax, widths[:: -(-len(widths) // 10)])
    ax.set_xlabel("expected width")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
