"""Figures of what the levels mean: similarity of widths, clusters against chance, what each block of dimensions adds.

Tidy table → matplotlib Figure, one function a figure. The tables are those that `mrl.hierarchy.measure` documents,
stacked with a column `model` where several models are drawn together.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mrl.errors import DataError
from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import MARKERS, Look, readable

# What an axis calls a metric of `mrl.hierarchy.measure`.
METRICS = {
    "ami": "AMI with {label}",
    "nmi": "NMI with {label}",
    "purity": "purity in {label}",
    "dendrogram_purity": "dendrogram purity in {label}",
    "jaccard": "Jaccard index of neighbours' {label}",
    "overlap": "nearest neighbours in common",
    "cka": "linear CKA",
    "correlation": "correlation of blocks (root mean square)",
    "share": "share of a fine cluster in one coarse cluster",
    "entropy": "H(coarse | fine), bits",
    "r2": "R² of {label}",
    "auc": "AUC of {label}",
    "effective_rank": "effective rank",
    "variance_share": "share of the variance",
}
PROBES = {"r2": "R²", "auc": "AUC"}  # beside a title that says of what
CLUSTERINGS = {
    "fixed": "the same number of clusters",
    "by_width": "more clusters when wider",
    "tree": "nested tree",
}


def axis_title(metric: str, label: str | None = None) -> str:
    """A metric, and what it is held against, as an axis names it."""
    return METRICS.get(metric, metric.replace("_", " ")).format(label=readable(label or "labels"))


def _select_metric(table: pl.DataFrame, metric: str, *columns: str) -> tuple[pl.DataFrame, dict[str, Look]]:
    """The rows of one metric, with a `chance` column, and the looks of the models in order."""
    style.check_table(table, "metric", "value", *columns)
    rows = table.filter(pl.col("metric") == metric)
    if not len(rows):
        raise DataError(f"table has no metric {metric}; it has {', '.join(style.in_order(table['metric']))}")
    return style.models_of(_with_columns(rows, "chance"))


def _with_columns(table: pl.DataFrame, *names: str) -> pl.DataFrame:
    """The table with these columns, empty where it had none: chance is a number, the others are text."""
    missing = [name for name in names if name not in table.columns]
    types = {name: pl.Float64 if name == "chance" else pl.String for name in missing}
    return table.with_columns(pl.lit(None, dtype=types[name]).alias(name) for name in missing)


@style.styled
def draw_pair_matrix(table: pl.DataFrame, *, metric: str = "overlap", size: str = "column") -> Figure:
    """A heat map of a metric of every two widths, with its values; one panel a model, with the range of chance levels.

    table: columns width, other_width, metric, value, chance: `similarity` (overlap, cka, correlation) or one clustering
    of `nesting` (share, entropy). Blank are a width beside itself, which is the same by definition (not where it is a
    correlation within one block), and pairs that the table has not. Colours go from the lowest value to the highest.
    """
    table, models = _select_metric(table, metric, "width", "other_width")
    if table.select("model", "width", "other_width").is_duplicated().any():
        raise DataError("table has several values for a pair of widths; filter it to one clustering")
    row_height = 2.55 if size == "page" and len(models) > 2 else 2.75
    figure, axes = style.panel_grid(size, len(models), row_height, margin=0)
    colours = colormaps["cividis"]
    if metric in ("overlap", "cka"):
        table = table.with_columns(
            pl.when(pl.col("width") != pl.col("other_width")).then(pl.col("value", "chance")).name.keep()
        )
    low, high = (level or 0.0 for level in (table["value"].min(), table["value"].max()))
    high = high if high > low else low + 1.0
    mesh = None
    for ax, model in zip(axes, models, strict=True):
        part = table.filter(pl.col("model") == model)
        down, across = (part[name].unique().sort().to_list() for name in ("width", "other_width"))
        values = np.full((len(down), len(across)), np.nan)
        for width, other, value in part.select("width", "other_width", "value").drop_nulls().iter_rows():
            values[down.index(width), across.index(other)] = value
        mesh = ax.pcolormesh(values, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=0.8)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                look = {
                    "color": style.ink(mesh.to_rgba(value)),
                    "fontsize": style.SMALL,
                    "ha": "center",
                    "va": "center",
                }
                ax.text(column + 0.5, row + 0.5, f"{value:.2f}", **look)
        ax.set_xticks(np.arange(len(across)) + 0.5, [str(width) for width in across])
        ax.set_yticks(np.arange(len(down)) + 0.5, [str(width) for width in down])
        ax.tick_params(length=0)
        ax.invert_yaxis()
        ax.set_aspect("equal")
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_title("\n".join(filter(None, [model, _chance_range(part["chance"].drop_nulls())])))
        directed = metric in ("share", "entropy")
        ax.set(xlabel="coarse width" if directed else "width", ylabel="fine width" if directed else "width")
    rows = axes[0].get_gridspec().nrows
    bar = figure.colorbar(mesh, ax=figure.axes, shrink=0.8 / rows, aspect=25, pad=0.02)  # as high as one row
    bar.set_label(axis_title(metric))
    bar.outline.set_visible(False)
    return figure


def _chance_range(levels: pl.Series) -> str:
    """`chance 0.01`, `chance 0.01 to 0.25`: of the pairs of a heat map; empty where none is known."""
    if not len(levels):
        return ""
    lowest, highest = (f"{level:.2g}" for level in (levels.min(), levels.max()))
    return f"chance {lowest}" if lowest == highest else f"chance {lowest} to {highest}"


@style.styled
def draw_cluster_quality(table: pl.DataFrame, *, metric: str = "ami", size: str = "page") -> Figure:
    """A metric of clusters or neighbours against the width, each model beside its chance level (grey).

    table: columns width, metric, value, chance, and clustering, label, model where there are such: `agreement` (ami,
    nmi, purity, dendrogram_purity), `neighbours` (jaccard), `recovery`. A panel for every label and clustering. With a
    column seed: the mean over the seeds, with a bar from the lowest to the highest.
    """
    table, models = _select_metric(table, metric, "width")
    facets = [name for name in ("label", "clustering") if name in table.columns]
    panels = table.select(facets).unique(maintain_order=True).rows(named=True) if facets else [{}]
    seeds = table["seed"].n_unique() if "seed" in table.columns else 1
    if table.select("model", "width", *facets, *(["seed"] if seeds > 1 else [])).is_duplicated().any():
        raise DataError("table has several values for a model and a width; filter it to one label and clustering")
    one_label = len({panel.get("label") for panel in panels}) == 1  # then one scale, to be read across the panels
    row_height = 2.35 if len(panels) == 1 else 1.95
    figure, axes = style.panel_grid(size, len(panels), row_height, sharey=one_label)
    for ax, panel in zip(axes, panels, strict=True):
        part = table.filter(*(pl.col(name) == value for name, value in panel.items()))
        for number, (model, look) in enumerate(models.items()):
            line = (
                part.filter(pl.col("model") == model)
                .group_by("width")
                .agg(pl.col("value", "chance").mean(), low=pl.col("value").min(), high=pl.col("value").max())
                .sort("width")
            )
            places = style.dodge(line["width"], number, len(models))
            ax.plot(places, line["value"], color=look.colour, marker=look.marker, label=model)
            if seeds > 1:
                ax.vlines(places, line["low"], line["high"], color=look.colour, linewidth=1)
            if line["chance"].is_not_null().any():
                ax.plot(line["width"], line["chance"], color=GREY, linestyle=":", linewidth=1)
        style.width_axis(ax, part["width"], len(models))
        ax.set_ylabel(axis_title(metric, panel.get("label")))
        ax.set_title(CLUSTERINGS.get(panel.get("clustering"), panel.get("clustering") or ""))
        if one_label and not ax.get_subplotspec().is_first_col():
            ax.set_ylabel("")
    for ax in axes:
        style.from_zero(ax)
    style.model_legend(figure, models, *_chance_entry(table, linestyle=":"), seeds=seeds)
    return figure


def _chance_entry(table: pl.DataFrame, **look) -> list[tuple[Line2D, str]]:
    """The entry of the legend for the chance level, where the table has one."""
    return [(style.key(GREY, **look), "chance")] if table["chance"].is_not_null().any() else []


@style.styled
def draw_block_probes(table: pl.DataFrame, *, part: str = "block", size: str = "page") -> Figure:
    """What each block (or prefix) of dimensions knows: one panel a measure, one dot a model, a bar at its chance level.

    The title of a panel says what a linear model predicts from the block alone, or that it shows the block's shape.

    table: `blocks`: columns part, width, start, metric, value, chance, label, class. Of labels with classes the mean
    over them is drawn; for the classes see `draw_class_probes`.
    """
    style.check_table(table, "part", "width", "start", "metric", "value")
    table = _with_columns(table.filter(pl.col("part") == part), "label", "class", "chance")
    table, models = style.models_of(style.check_table(table.filter(pl.col("class").is_null()), "start"))
    panels = table.select("label", "metric").unique(maintain_order=True).rows()
    panels.sort(key=lambda panel: panel[0] is None)  # what can be read from the block first, its shape after
    figure, axes = style.panel_grid(size, len(panels), 1.9)
    spans = table.select("start", "width").unique().sort("width").rows()
    names = [f"{start + 1}–{width}" for start, width in spans]
    step = min(0.8 / len(models), 0.18)
    for ax, (label, metric) in zip(axes, panels, strict=True):
        chosen = table.filter(pl.col("label").eq_missing(label), pl.col("metric") == metric)
        for number, (model, look) in enumerate(models.items()):
            rows = {row["width"]: row for row in chosen.filter(pl.col("model") == model).iter_rows(named=True)}
            x = np.arange(len(spans)) + (number - (len(models) - 1) / 2) * step
            values, chance = (
                np.array([rows.get(width, {}).get(name) for _, width in spans], dtype=np.float64)
                for name in ("value", "chance")
            )
            if np.isfinite(chance).any():
                ax.hlines(chance, x - step * 0.45, x + step * 0.45, color=GREY, linewidth=1.2)
            ax.plot(x, values, color=look.colour, marker=look.marker, linestyle="none")
        ax.set_xticks(range(len(names)), names)
        ax.set(xlim=(-0.5, len(names) - 0.5), xlabel="dimensions", ylabel=PROBES.get(metric, axis_title(metric)))
        ax.set_title(f"{readable(label)}, predicted" if label else "shape of the block")
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if metric == "auc":
            ax.margins(y=0.1)
        else:
            style.from_zero(ax)
    style.model_legend(figure, models, *_chance_entry(table, marker="_", linestyle="none"), linestyle="none")
    return figure


@style.styled
def draw_class_probes(
    table: pl.DataFrame, *, label: str = "genres", part: str = "block", size: str = "column"
) -> Figure:
    """How well each block tells the items of each class (genre) from the rest: a row a class, a dot a block.

    table: `blocks` of one model, the rows with a `class`. Classes that the blocks tell best come first.
    """
    style.check_table(table, "part", "width", "start", "label", "class", "metric", "value", "chance")
    table = table.filter(
        pl.col("part") == part, pl.col("label") == label, pl.col("metric") == "auc", pl.col("class").is_not_null()
    )
    style.check_table(table)
    if table.select("class", "width").is_duplicated().any():
        raise DataError("table has several values for a class and a block; filter it to one model")
    classes = table.group_by("class").agg(pl.col("value").max()).sort("value", "class")["class"].to_list()
    spans = table.select("start", "width").unique().sort("width").rows()
    figure, ((ax,),) = style.canvas(size, 0.7 + 0.17 * len(classes))
    chance = {"color": GREY, "linewidth": 1, "linestyle": ":"}
    ax.axvline(table["chance"].mean(), **chance)
    for number, (start, width) in enumerate(spans):
        dots = table.filter(pl.col("width") == width)
        rows = [classes.index(name) for name in dots["class"]]
        look = {
            "color": style.shades(len(spans))[number],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "none",
        }
        ax.plot(dots["value"], rows, label=f"{start + 1}–{width}", **look)
    ax.set_yticks(range(len(classes)), classes)
    ax.set_ylim(-0.6, len(classes) - 0.4)
    ax.set_xlabel("AUC of a linear probe")
    ax.grid(axis="x")
    handles, names = ax.get_legend_handles_labels()
    style.legend_above(figure, [*handles, Line2D([], [], **chance)], [f"dims {names[0]}", *names[1:], "chance"])
    return figure
