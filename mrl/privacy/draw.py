"""Figures of privacy: what is read of a client by how many are summed, and accuracy by ε."""

from __future__ import annotations

from math import isinf

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from mrl.figures import style
from mrl.figures.style import GREY
from mrl.words import BLUE, GREEN, VERMILION, metric_title

READ = {"cosine": ("cosine with the user's vector", BLUE, "o"), "right": ("of the items read, the user's", GREEN, "s")}


@style.styled
def draw_attack(table: pl.DataFrame, *, size: str = "column") -> Figure:
    """What is read of one client against the number of clients whose uploads are summed.

    table: of `mrl.privacy.attack.attack_sums`. Filled: read from the sum. Hollow, at the left: from one upload under
    masks. Grey: the cosine of a guess that needs no upload.
    """
    style.check_table(table, "summed", "masked", "guess", *READ)
    figure, ((ax,),) = style.canvas(size, 2.3)
    plain, masked = (table.filter(masked=flag).sort("summed") for flag in (False, True))
    ax.axhline(plain["guess"].mean(), color=GREY, linewidth=0.9, zorder=1)
    for column, (_, colour, marker) in READ.items():
        ax.plot(plain["summed"], plain[column], color=colour, marker=marker)
        ax.plot(
            masked["summed"], masked[column], marker, color=colour, markerfacecolor="white", clip_on=False, zorder=4
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(plain["summed"].to_list())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="clients summed", ylim=(0, 1.05))
    entries = [(style.key(colour, marker=marker), name) for name, colour, marker in READ.values()]
    entries.append((style.key(GREY), "cosine of a guess without uploads"))
    entries.append((style.key(GREY, marker="o", markerfacecolor="white", linestyle="none"), "one upload under masks"))
    style.legend_above(figure, *zip(*entries, strict=True))
    return figure


@style.styled
def draw_epsilon(
    table: pl.DataFrame, *, metric: str = "recall", floor: float | None = None, size: str = "column"
) -> Figure:
    """Accuracy against ε, a line a width; dots are seeds. floor: of popularity, say, as a grey line.

    table: of `mrl.privacy.accuracy.accuracy_by_epsilon`.
    """
    style.check_table(table, "epsilon", "seed", "width", "metric", "k", "value")
    figure, ((ax,),) = style.canvas(size, 2.3)
    table = table.filter(metric=metric)
    epsilons = table["epsilon"].unique().sort().to_list()
    places = {epsilon: place for place, epsilon in enumerate(epsilons)}
    handles, names = [], []
    for width, colour, marker in zip(table["width"].unique().sort(), (VERMILION, BLUE, GREEN), "oDs", strict=False):
        rows = table.filter(width=width)
        means = rows.group_by("epsilon").agg(pl.col("value").mean()).sort("epsilon")
        ax.plot(range(len(means)), means["value"], color=colour, marker=marker)
        at = [places[epsilon] for epsilon in rows["epsilon"]]
        ax.plot(at, rows["value"], ".", color=colour, alpha=0.5, markersize=3)
        handles.append(style.key(colour, marker=marker))
        names.append(f"width {width}")
    if floor is not None:
        handles.append(ax.axhline(floor, color=GREY, linewidth=0.9, zorder=1))
        names.append("popularity, not private")
    ax.set_xticks(range(len(epsilons)), ["∞" if isinf(epsilon) else f"{epsilon:g}" for epsilon in epsilons])
    style.from_zero(ax)
    ax.set(xlabel="ε of a user's whole data", ylabel=metric_title(metric, table["k"][0]))
    style.legend_above(figure, handles, names)
    return figure
