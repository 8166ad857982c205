"""Which width knows which depth, of nested models and of others: the picture of `coarse first`."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import readable

AXES = {
    "retained": "kept of what the full width knows",
    "value": "neighbours of the same class",
}
CLIPPED = 1.25  # of the share that is kept: a ratio of small numbers may be any


@style.styled
def draw_levels(table: pl.DataFrame, *, value: str = "retained", size: str = "page") -> Figure:
    """A row of panels a data set, a panel a label, a line a model by width, with its interval where there is one.

    table: columns dataset, label, width, `value` (retained or value), and with it low and high (retained_low,
    retained_high); `model` where there are several; of one side, metric and average, as `mrl.levels.summarise_levels`.
    Where chance is a column and values are drawn, it is dotted. Shares above CLIPPED are out of the picture.
    """
    low, high = ("retained_low", "retained_high") if value == "retained" else ("low", "high")
    table = style.check_table(table, "dataset", "label", "width", value, low, high).drop_nulls(value)
    table = table.drop("other", strict=False)  # of which there is no line
    table, models = style.models_of(style.check_table(table))
    datasets = style.in_order(table["dataset"])
    labels = {  # depths first, so that they stand above one another
        dataset: sorted(style.in_order(table.filter(dataset=dataset)["label"]), key=lambda name: "depth" not in name)
        for dataset in datasets
    }
    columns = max(map(len, labels.values()))
    height = 1.75 if size == "page" else 1.4
    figure, axes = style.canvas(size, height * len(datasets) + 0.35, len(datasets), columns, sharey=value == "retained")
    widths = table["width"].unique().sort().to_list()
    for row, dataset in zip(axes, datasets, strict=True):
        is_last = dataset == datasets[-1]
        for ax in row[len(labels[dataset]) :]:
            ax.remove()
        for ax, label in zip(row, labels[dataset], strict=False):
            part = table.filter(dataset=dataset, label=label)
            for number, (model, look) in enumerate(models.items()):
                line = part.filter(model=model).sort("width")
                places = style.dodge(line["width"], number, len(models))
                marks = {"marker": look.marker, "markersize": 3 if size == "page" else 2}
                ax.plot(places, line[value], color=look.colour, linewidth=1, **marks)
                ranges = line.with_columns(place=pl.Series(places)).drop_nulls([low, high])
                ax.vlines(ranges["place"], ranges[low], ranges[high], color=look.colour, linewidth=0.6, alpha=0.6)
            if value == "value" and "chance" in part.columns:
                chance = part.group_by("width").agg(pl.col("chance").mean()).sort("width")
                ax.plot(chance["width"], chance["chance"], color=GREY, linestyle=":", linewidth=1)
            style.width_axis(ax, widths, len(models))
            if size == "column":
                shown = widths[:: max(len(widths) // 2, 1)]
                ax.xaxis.set_major_locator(FixedLocator(shown))
                ax.xaxis.set_major_formatter(FixedFormatter([str(width) for width in shown]))
            ax.set_xlabel("width" if is_last else "")
            ax.set_title(_title(part, label, is_roomy=size == "page" and columns <= 3))
            if value == "retained":
                ax.set_ylim(-0.08, CLIPPED)
                ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        row[0].set_ylabel(dataset)
    if value == "value":
        for ax in figure.axes:
            style.from_zero(ax)
    figure.supylabel(AXES.get(value, value), fontsize=style.NORMAL)
    style.model_legend(figure, models)
    return figure


def _title(part: pl.DataFrame, label: str, *, is_roomy: bool) -> str:
    """The label, and where there is room how many classes it has."""
    if not is_roomy:
        return label.replace("_", " ")
    return f"{readable(label)} ({part['classes'][0]} classes)" if "classes" in part.columns else readable(label)
