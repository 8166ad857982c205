"""The default recipe after each of its stages: accuracy by width, and what each stage gives."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mrl.errors import DataError
from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import STAGES, metric_title

BARS = 0.8  # of the room of a width that the bars take


@style.styled
def draw_stages(table: pl.DataFrame, *, size: str = "page") -> Figure:
    """A line a stage by width; beside it, or below in a column, the gain over the stage before, a bar a stage.

    table: columns stage, width, metric, k, value and gain (a share; null at the first stage), of one metric at one k;
    code, where there is one, is noted in the corner (`mrl.report.code`). Stages are those of `mrl.words.STAGES`; one
    without a value is left out.
    """
    table = style.check_table(table, "stage", "width", "metric", "k", "value", "gain").drop_nulls("value")
    if unknown := sorted(set(table["stage"]) - set(STAGES)):
        raise DataError(f"table has no stage of the recipe in {unknown[0]!r}; known are {', '.join(STAGES)}")
    table = style.check_table(table)
    stages = [stage for stage in STAGES if stage in table["stage"]]
    widths = table["width"].unique().sort().to_list()
    gaining = stages[1:]
    figure, panels = style.panel_grid(size, 1 + bool(gaining), 2.3 if size == "page" else 1.9, most=2, margin=0.1)
    for number, stage in enumerate(stages):
        line, look = table.filter(stage=stage).sort("width"), STAGES[stage]
        panels[0].plot(
            style.dodge(line["width"], number, len(stages)), line["value"], color=look.colour, marker=look.marker
        )
    style.width_axis(panels[0], widths, len(stages))
    panels[0].set_ylabel(metric_title(table["metric"][0], table["k"][0]))
    for ax in panels[1:]:
        ax.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        for number, stage in enumerate(gaining):
            part = table.filter(stage=stage).drop_nulls("gain").sort("width")
            places = np.searchsorted(widths, part["width"]) + (number - (len(gaining) - 1) / 2) * BARS / len(gaining)
            ax.bar(places, part["gain"], width=BARS / len(gaining) * 0.92, color=STAGES[stage].colour, zorder=2)
        ax.set_xticks(range(len(widths)), [str(width) for width in widths])
        ax.set_xlim(-0.6, len(widths) - 0.4)
        ax.set_xlabel("width (leading dimensions)")
        ax.set_ylabel("gain over the stage before")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %".replace("-", "−")))
    handles = [style.key(STAGES[stage].colour, marker=STAGES[stage].marker) for stage in stages]
    if "code" in table.columns and (code := table["code"][0]):
        figure.text(0.995, 0.005, f"code {code}", ha="right", va="bottom", fontsize=5, color=GREY)
    style.legend_above(figure, handles, [STAGES[stage].name for stage in stages])
    return figure
