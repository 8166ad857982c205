"""The aligned maps by hand, in JupyterLab: a slider for the widths, titles under the pointer, selected items listed.

Needs jupyter-scatter (Lekschas & Manz, "Jupyter Scatter: interactive exploration of large-scale datasets", 2024), the
extra `explore`. Without it, or where nobody is there to move a slider, it is the static figure.
"""

from __future__ import annotations

import html
import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import psutil
from matplotlib.figure import Figure

from mrl.errors import ConfigError
from mrl.figures.maps import draw_maps, group_by_label, group_colours
from mrl.figures.style import check_table

if TYPE_CHECKING:
    from ipywidgets import Widget

# Programs that execute notebooks with nobody watching, as they appear in the command that started the kernel. A kernel
# started by a kernel is a notebook executed by another one, as report.ipynb does.
RUNNERS = "papermill|nbconvert|nbclient|jupyter-execute|jupyter execute|jupyter-run|pytest|ipykernel"
HINT = (
    "Draw around items with the lasso to list them here: take its button beside a map, or keep the mouse button "
    "pressed until a circle closes, then draw."
)
MAX_LISTED = 100  # items of a selection that are listed
NARROWEST = 260  # pixels of a map beside another
FRAME, HEIGHT = (-1.05, 1.05), 360  # of both maps whatever their widths; pixels


def can_interact() -> bool:
    """Whether somebody can move a slider: a notebook kernel not started by papermill or its like, with the extra."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None or importlib.util.find_spec("jscatter") is None:
        return False
    try:
        started_by = " ".join(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return True
    return not re.search(RUNNERS, started_by)


def explore_maps(table: pl.DataFrame, *, top: int = 6, interactive: bool | None = None) -> Widget | Figure:
    """Two linked maps of the items, the widths of both on one slider; or the static figure.

    table: from `mrl.figures.maps.compute_maps`. Hover for the title and labels of an item; draw around items on
    either map with the lasso (its button, or keep the mouse button pressed until a circle closes) to see them on the
    other, and their list below; a double click on the background lets them go. interactive: None decides by
    `can_interact`; True raises ConfigError without the extra.
    """
    check_table(table, "item", "width", "x", "y", "label", "title")
    if interactive is None:
        interactive = can_interact()
    if not interactive:
        return draw_maps(table, top=top)
    if importlib.util.find_spec("jscatter") is None:
        raise ConfigError("interactive=True: jupyter-scatter is not installed; pip install 'mrl[explore]'")
    return _explorer(table, top)


def pivot_maps(table: pl.DataFrame, top: int) -> tuple[pl.DataFrame, list[str], list[int]]:
    """One row an item: item, title, labels, group, and x_4, y_4, x_8, … scaled to -1 … 1; the groups; the widths."""
    table, groups = group_by_label(table, top)
    widths = table["width"].unique().sort().to_list()
    spans = {axis: (table[axis].min(), table[axis].max()) for axis in "xy"}
    table = table.with_columns(
        **{axis: 2 * (pl.col(axis) - low) / ((high - low) or 1.0) - 1 for axis, (low, high) in spans.items()}
    )
    rows = table.filter(pl.col("width") == widths[0]).select(
        "item", "title", pl.col("label").str.replace_all("|", ", ", literal=True).alias("labels"), "group"
    )
    for width in widths:
        place = table.filter(pl.col("width") == width).select("item", pl.col("x", "y").name.suffix(f"_{width}"))
        rows = rows.join(place, on="item", how="left", maintain_order="left")
    return rows, groups, widths


def list_selected(rows: pl.DataFrame, selection: np.ndarray) -> str:
    """The selected rows as HTML: how many there are, then title and labels of the first `MAX_LISTED`."""
    if not len(selection):
        return f"<i>{HINT}</i>"
    chosen = rows[np.asarray(selection, dtype=np.int64)]
    lines = [
        f"<li>{html.escape(str(title))} <small>{html.escape(labels)}</small></li>"
        for title, labels in chosen.head(MAX_LISTED).select("title", "labels").iter_rows()
    ]
    rest = f"<p>and {len(chosen) - MAX_LISTED} more</p>" if len(chosen) > MAX_LISTED else ""
    columns = "columns:3 12em;margin:0;font-size:90%;line-height:1.4"
    return (
        f"<b>{len(chosen)} item{'s' * (len(chosen) > 1)} selected</b><ul style='{columns}'>{''.join(lines)}</ul>{rest}"
    )


def _explorer(table: pl.DataFrame, top: int) -> Widget:
    import ipywidgets
    import jscatter
    import pandas as pd

    rows, groups, widths = pivot_maps(table, top)
    frame = pd.DataFrame({name: rows[name].to_list() for name in rows.columns})
    frame["group"] = pd.Categorical(frame["group"], categories=groups)
    colours = {group: colour for group, colour in group_colours(groups).items() if group in groups}

    def scatter(width: int) -> jscatter.Scatter:
        plot = jscatter.Scatter(data=frame, x=f"x_{width}", y=f"y_{width}", x_scale=FRAME, y_scale=FRAME, height=HEIGHT)
        plot.color(by="group", map=colours)
        plot.size(default=5)
        plot.axes(False)
        plot.tooltip(True, properties=["title", "labels"])
        return plot

    slider = ipywidgets.SelectionRangeSlider(
        options=[(str(width), width) for width in widths],
        index=(0, len(widths) - 1),
        description="widths",
        continuous_update=False,
    )
    plots = [scatter(width) for width in slider.value]
    heads = [ipywidgets.HTML() for _ in plots]
    selected = ipywidgets.HTML(list_selected(rows, np.array([])))

    def name_widths() -> None:
        for head, width in zip(heads, slider.value, strict=True):
            head.value = f"<b>width {width}</b>"

    def change_widths(change: dict) -> None:
        name_widths()
        for plot, old, new in zip(plots, change["old"], change["new"], strict=True):
            if old != new:
                plot.xy(x=f"x_{new}", y=f"y_{new}", x_scale=FRAME, y_scale=FRAME, animate=True)

    def show_selection(change: dict) -> None:
        selected.value = list_selected(rows, np.asarray(change["new"]))

    slider.observe(change_widths, names="value")
    name_widths()
    scatters = jscatter.compose(plots, sync_selection=True, sync_hover=True, row_height=HEIGHT).children
    for plot in plots:
        plot.widget.observe(show_selection, names="selection")
    maps = [ipywidgets.VBox(pair) for pair in zip(heads, scatters, strict=True)]
    # side by side where there is room for both, else one below the other
    both = ipywidgets.GridBox(maps, layout={"grid_template_columns": f"repeat(auto-fit, minmax({NARROWEST}px, 1fr))"})
    return ipywidgets.VBox([slider, ipywidgets.HTML(_legend(colours)), both, selected])


def _legend(colours: dict[str, str]) -> str:
    """The groups as HTML, above the maps: the legend of jupyter-scatter lies upon the items."""
    dot = "display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.3em;background:"
    entries = [
        f'<span><span style="{dot}{colour}"></span>{html.escape(name)}</span>' for name, colour in colours.items()
    ]
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 1em;line-height:1.5">{"".join(entries)}</div>'
