"""Figures of what the levels mean: similarity of widths, clusters against chance, what each block of dimensions adds.

Tidy table → matplotlib Figure, one function a figure. The tables are those that `mrl.hierarchy.measure` documents,
stacked with a column `model` where several models are drawn together.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mrl.errors import DataError
from mrl.figures.style import (
    GREY,
    MARKERS,
    PALETTE,
    SMALL,
    canvas,
    check_table,
    from_zero,
    in_order,
    key,
    legend_above,
    models_of,
    shades,
    styled,
    width_axis,
)

# What an axis calls a metric of `mrl.hierarchy.measure`; and a label.
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
LABELS = {"popularity": "popularity (log)", "year": "release year"}
CLUSTERINGS = {"same": "as many clusters at every width", "growing": "more clusters when wider", "tree": "nested tree"}


def axis_title(metric: str, label: str | None = None) -> str:
    """A metric, and what it is held against, as an axis names it."""
    label = LABELS.get(label or "", (label or "labels").replace("depth_", "true depth "))
    return METRICS.get(metric, metric.replace("_", " ")).format(label=label)


def _one_metric(table: pl.DataFrame, metric: str, *columns: str) -> tuple[pl.DataFrame, list[str]]:
    """The rows of one metric, with a `chance` column, and the models in order."""
    check_table(table, "metric", "value", *columns)
    found = table.filter(pl.col("metric") == metric)
    if not len(found):
        raise DataError(f"table has no metric {metric}; it has {', '.join(in_order(table['metric']))}")
    if "chance" not in found.columns:
        found = found.with_columns(pl.lit(None, dtype=pl.Float64).alias("chance"))
    return models_of(found)


@styled
def pair_matrix(table: pl.DataFrame, *, metric: str = "overlap", size: str = "column") -> Figure:
    """A heat map of a metric of every two widths, with its values and its mean chance level; one panel a model.

    table: columns width, other_width, metric, value, chance: `similarity` (overlap, cka, correlation) or one clustering
    of `nesting` (share, entropy). Pairs that the table has not stay blank.
    """
    table, models = _one_metric(table, metric, "width", "other_width")
    if table.select("model", "width", "other_width").is_duplicated().any():
        raise DataError("table has several values for a pair of widths; filter it to one clustering")
    columns = 1 if size == "column" else min(len(models), 3)
    rows = -(-len(models) // columns)
    figure, axes = canvas(size, 2.75 * rows if columns < 3 else 2.55 * rows, rows, columns)
    colours, top = colormaps["cividis"], 1.0
    if metric == "entropy":  # in bits, with its chance level as the upper end
        top = float(table.select(pl.max_horizontal("value", "chance").max()).item()) or 1.0
    mesh = None
    for ax, model in zip(axes.ravel(), models, strict=False):
        part = table.filter(pl.col("model") == model)
        down, across = (part[name].unique().sort().to_list() for name in ("width", "other_width"))
        values = np.full((len(down), len(across)), np.nan)
        for width, other, value in part.select("width", "other_width", "value").iter_rows():
            values[down.index(width), across.index(other)] = value
        mesh = ax.pcolormesh(values, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=0.8)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if value / top < 0.55 else "black"
                ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=SMALL)
        ax.set_xticks(np.arange(len(across)) + 0.5, [str(width) for width in across])
        ax.set_yticks(np.arange(len(down)) + 0.5, [str(width) for width in down])
        ax.tick_params(length=0)
        ax.invert_yaxis()
        ax.set_aspect("equal")
        ax.grid(False)
        ax.spines[:].set_visible(False)
        chance = part["chance"].mean()
        told = [model, "" if chance is None else f"chance {chance:.2g}"]
        ax.set_title(", ".join(filter(None, told)))
        directed = metric in ("share", "entropy")
        ax.set(xlabel="coarse width" if directed else "width", ylabel="fine width" if directed else "width")
    for ax in axes.ravel()[len(models) :]:
        ax.remove()
    bar = figure.colorbar(mesh, ax=figure.axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label(axis_title(metric))
    bar.outline.set_visible(False)
    return figure


@styled
def cluster_quality(table: pl.DataFrame, *, metric: str = "ami", size: str = "page") -> Figure:
    """A metric of clusters or neighbours against the width, each model beside its chance level.

    table: columns width, metric, value, chance, and clustering, label, model where there are such: `agreement` (ami,
    nmi, purity, dendrogram_purity), `neighbours` (jaccard), `recovery`. A panel for every label and clustering. With a
    column seed: the mean over the seeds, with a bar from the lowest to the highest.
    """
    table, models = _one_metric(table, metric, "width")
    facets = [name for name in ("label", "clustering") if name in table.columns]
    panels = table.select(facets).unique(maintain_order=True).rows(named=True) if facets else [{}]
    columns = min(len(panels), 3 if size == "page" else 1)
    rows = -(-len(panels) // columns)
    seeds = table["seed"].n_unique() if "seed" in table.columns else 1
    if table.select("model", "width", *facets, *(["seed"] if seeds > 1 else [])).is_duplicated().any():
        raise DataError(
            "table has several values for a model and a width; filter it to one metric, label and clustering"
        )
    alike = len({panel.get("label") for panel in panels}) == 1  # then one scale, to be read across the panels
    height = 2.6 if len(panels) == 1 else 1.95 * rows + 0.25
    figure, axes = canvas(size, height, rows, columns, sharey=alike)
    for ax, panel in zip(axes.ravel(), panels, strict=False):
        part = table.filter(*(pl.col(name) == value for name, value in panel.items()))
        for number, model in enumerate(models):
            over = (
                part.filter(pl.col("model") == model)
                .group_by("width")
                .agg(pl.col("value", "chance").mean(), low=pl.col("value").min(), high=pl.col("value").max())
            )
            line = over.sort("width")
            ax.plot(line["width"], line["value"], color=PALETTE[number], marker=MARKERS[number], label=model)
            if seeds > 1:
                ax.vlines(line["width"], line["low"], line["high"], color=PALETTE[number], linewidth=1)
            if line["chance"].is_not_null().any():
                ax.plot(line["width"], line["chance"], color=PALETTE[number], linestyle=":", linewidth=1)
        width_axis(ax, part["width"])
        ax.set_ylabel(axis_title(metric, panel.get("label")))
        told = CLUSTERINGS.get(panel.get("clustering"), panel.get("clustering"))
        if told:
            ax.set_title(told)
        if alike and ax not in axes[:, 0]:
            ax.set_ylabel("")
    for ax in axes.ravel()[len(panels) :]:
        ax.remove()
    for ax in figure.axes:
        from_zero(ax)
    _model_legend(figure, models, "-", {"linestyle": ":"} if table["chance"].is_not_null().any() else None, seeds)
    return figure


def _model_legend(figure: Figure, models: list[str], line: str, chance: dict | None, seeds: int = 1) -> None:
    """chance: how its level is drawn, None where there is none."""
    handles = [key(PALETTE[n], marker=MARKERS[n], linestyle=line) for n, model in enumerate(models) if model]
    names = [model for model in models if model]
    if chance is not None:
        handles, names = [*handles, key(GREY, **chance)], [*names, "chance"]
    if seeds > 1:
        handles.append(key(GREY, marker="|", linestyle="none", markersize=7))
        names.append(f"range of {seeds} seeds")
    legend_above(figure, handles, names)


@styled
def block_probes(table: pl.DataFrame, *, part: str = "block", size: str = "page") -> Figure:
    """What each block (or prefix) of dimensions knows: one panel a measure, one dot a model, a bar at its chance level.

    table: `blocks`: columns part, width, start, metric, value, chance, label, class. Of labels with classes the mean
    over them is drawn; for the classes see `class_probes`.
    """
    check_table(table, "part", "width", "start", "metric", "value")
    table = table.filter(pl.col("part") == part)
    for name in ("label", "class", "chance"):
        if name not in table.columns:
            table = table.with_columns(pl.lit(None, dtype=pl.Float64 if name == "chance" else pl.String).alias(name))
    table, models = models_of(check_table(table.filter(pl.col("class").is_null()), "start"))
    panels = table.select("label", "metric").unique(maintain_order=True).rows()
    panels.sort(key=lambda panel: panel[0] is None)  # what can be read from the block first, its shape after
    columns = min(len(panels), 3 if size == "page" else 1)
    rows = -(-len(panels) // columns)
    figure, axes = canvas(size, 1.9 * rows + 0.25, rows, columns)
    spans = table.select("start", "width").unique().sort("width").rows()
    names = [f"{start + 1}–{width}" for start, width in spans]
    step = min(0.8 / len(models), 0.18)
    for ax, (label, metric) in zip(axes.ravel(), panels, strict=False):
        chosen = table.filter(pl.col("label").eq_missing(label), pl.col("metric") == metric)
        for number, model in enumerate(models):
            found = {row["width"]: row for row in chosen.filter(pl.col("model") == model).iter_rows(named=True)}
            at = np.arange(len(spans)) + (number - (len(models) - 1) / 2) * step
            rows_ = [found.get(width) for _, width in spans]
            values = [np.nan if row is None else row["value"] for row in rows_]
            chance = [np.nan if row is None or row["chance"] is None else row["chance"] for row in rows_]
            if np.isfinite(chance).any():
                ax.hlines(chance, at - step * 0.45, at + step * 0.45, color=GREY, linewidth=1.2)
            ax.plot(at, values, color=PALETTE[number], marker=MARKERS[number], linestyle="none")
        _block_axis(ax, names, axis_title(metric, label))
        if metric == "auc":
            ax.margins(y=0.1)
        else:
            from_zero(ax)
    for ax in axes.ravel()[len(panels) :]:
        ax.remove()
    bar = {"marker": "_", "linestyle": "none"} if table["chance"].is_not_null().any() else None
    _model_legend(figure, models, "none", bar)
    return figure


def _block_axis(ax: Axes, names: list[str], ylabel: str) -> None:
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set(xlabel="dimensions", ylabel=ylabel)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


@styled
def class_probes(table: pl.DataFrame, *, label: str = "genres", part: str = "block", size: str = "column") -> Figure:
    """How well each block tells the items of each class (genre) from the rest: a row a class, a dot a block.

    table: `blocks` of one model, the rows with a `class`. Classes that the blocks tell best come first.
    """
    check_table(table, "part", "width", "start", "label", "class", "metric", "value", "chance")
    table = table.filter(
        pl.col("part") == part, pl.col("label") == label, pl.col("metric") == "auc", pl.col("class").is_not_null()
    )
    check_table(table)
    if table.select("class", "width").is_duplicated().any():
        raise DataError("table has several values for a class and a block; filter it to one model")
    classes = table.group_by("class").agg(pl.col("value").max()).sort("value", "class")["class"].to_list()
    spans = table.select("start", "width").unique().sort("width").rows()
    figure, ((ax,),) = canvas(size, 0.7 + 0.17 * len(classes))
    chance = table["chance"].mean()
    ax.axvline(chance, color=GREY, linewidth=1, linestyle=":")
    for number, (start, width) in enumerate(spans):
        dots = table.filter(pl.col("width") == width)
        rows = [classes.index(name) for name in dots["class"]]
        look = {"color": shades(len(spans))[number], "marker": MARKERS[number % len(MARKERS)], "linestyle": "none"}
        ax.plot(dots["value"], rows, label=f"{start + 1}–{width}", **look)
    ax.set_yticks(range(len(classes)), classes)
    ax.set_ylim(-0.6, len(classes) - 0.4)
    ax.set_xlabel(f"AUC of a linear probe (chance {chance:.2f}, dotted)")
    ax.grid(axis="x")
    handles, names = ax.get_legend_handles_labels()
    legend_above(figure, handles, [f"dims {names[0]}", *names[1:]])
    return figure
