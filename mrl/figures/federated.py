"""Figures of federated training: accuracy against what clients send and receive."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import BLUE, COLOURS, GREEN, VERMILION, metric_title

METHODS = {"closed form": BLUE, "HeteFedRec": VERMILION, "FedMRL": GREEN}
SCENARIOS = {"": ("-", "o"), "narrow": (":", "v"), "wide": ("--", "s")}  # after the comma of a model's name
SHARE = 0.95


@style.styled
def draw_traffic(curves: pl.DataFrame, *, size: str = "page") -> Figure:
    """Validation by the megabytes that a client has sent and received so far, a panel a data set, a line a model.

    curves: columns dataset, model, metric, seed, epoch, value, megabytes, as `mrl.report.federated.curves_of` has them.
    Means over seeds, of the rounds that all seeds have. What sends nothing, the central model, is a grey line at its
    best. A filled mark: the first round with 95 % of a model's own best.
    """
    style.check_table(curves, "dataset", "model", "metric", "seed", "epoch", "value", "megabytes")
    datasets = style.in_order(curves["dataset"])
    figure, axes = style.panel_grid(size, len(datasets), 2.3, most=2)
    handles: dict[str, object] = {}
    for ax, dataset in zip(axes, datasets, strict=True):
        table = curves.filter(dataset=dataset).drop_nulls("value")
        for model in style.in_order(table["model"]):
            line = _mean(table.filter(model=model))
            if not line["megabytes"].max():
                handles[model] = ax.axhline(line["value"].max(), color=GREY, linewidth=1, zorder=1)
                continue
            method, _, scenario = model.partition(", ")
            colour = METHODS.get(method) or COLOURS[len(method) % len(COLOURS)]
            dashes, marker = SCENARIOS.get(scenario, ("-.", "D"))
            ax.plot(line["megabytes"], line["value"], color=colour, linestyle=dashes, zorder=2)
            reached = line.filter(pl.col("value") >= SHARE * pl.col("value").max())[0]
            ax.plot(reached["megabytes"], reached["value"], marker, color=colour, markersize=5, zorder=3)
            handles[model] = style.key(colour, linestyle=dashes, marker=marker)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("megabytes a client, up and down")
        ax.set_title(dataset)
    for ax in axes:
        style.from_zero(ax)
    axes[0].set_ylabel(f"{metric_title(curves['metric'][0])}, validation")
    handles = dict(sorted(handles.items(), key=lambda entry: entry[0] == "central"))
    style.legend_above(figure, list(handles.values()), list(handles))
    return figure


def _mean(table: pl.DataFrame) -> pl.DataFrame:
    """By round: mean value and megabytes over seeds, of the rounds that all seeds have."""
    seeds = table["seed"].n_unique()
    rounds = table.group_by("epoch").agg(pl.col("value", "megabytes").mean(), seeds=pl.len()).sort("epoch")
    return rounds.filter(seeds=seeds)
