"""The tables of the study, a row a model and a column a width, and those tables in LaTeX.

One table a data set and metric. Ours stands in bold where another row has a higher mean; it is starred where it is
significantly above the best row that is not ours, daggered where below.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mrl.figures.plots import metric_title
from mrl.report.paper import _escaped
from mrl.study.config import StudyConfig
from mrl.study.fitting import K
from mrl.study.jobs import METRICS
from mrl.study.tables import StudyTables
from mrl.study.words import counted, figure, seconds, short_of_seeds

MARKS = {"ahead": r"$^{*}$", "behind": r"$^{\dagger}$", "level": ""}
CAPTION = (
    r"%s on %s by width, protocol honest: mean over %d seeds, $\pm$ half the 95\,\%% interval in units of the last "
    r"digit; highest of a column underlined."
)
COMPARED = (
    r" %s: bold where another row has a higher mean; $^{*}$ significantly above, $^{\dagger}$ below the best row that "
    r"is not ours (paired by user, Holm)."
)


@dataclass(frozen=True)
class Cell:
    """One mean with half its interval (None where there is one seed), and what it is in its column."""

    mean: float
    half: float | None
    top: bool
    loss: bool
    verdict: str


@dataclass(frozen=True)
class Row:
    """One model: a cell a width, None where it is narrower; seconds of search and of a fit, None where unknown.

    label: its name, with the number of seeds where that is lower than it should be.
    """

    model: str
    role: str
    label: str
    cells: tuple[Cell | None, ...]
    search: float | None
    fit: float | None


def grid(found: StudyTables, config: StudyConfig, dataset: str, metric: str) -> list[Row]:
    """The table of one data set and metric. A model without widths stands in the widest column."""
    chosen = (pl.col("dataset") == dataset) & (pl.col("metric") == metric)
    widest = config.widths[-1]
    part = found.figures.filter(chosen).with_columns(pl.col("width").fill_null(widest))
    tests = {row["width"]: row for row in found.tests.filter(chosen).iter_rows(named=True)}
    costs = {row["model"]: row for row in found.costs.filter(pl.col("dataset") == dataset).iter_rows(named=True)}
    tops = dict(part.group_by("width").agg(pl.col("mean").max()).iter_rows())
    timed = all(row["timed_seconds"] is not None for row in costs.values())
    few = short_of_seeds(part, config)
    rows = []
    for (model, role), own in part.group_by("model", "role", maintain_order=True):
        by_width = {row["width"]: row for row in own.iter_rows(named=True)}
        cells: list[Cell | None] = []
        for width in config.widths:
            if (row := by_width.get(width)) is None:
                cells.append(None)
                continue
            test = tests.get(width) if model == found.ours else None
            half = None if row["high"] is None else row["high"] - row["mean"]
            loss, verdict = (test["loss"], test["verdict"]) if test else (False, "level")
            cells.append(Cell(row["mean"], half, row["mean"] == tops[width], loss, verdict))
        cost = costs[model]
        spent = cost["search_seconds"], cost["timed_seconds" if timed else "fit_seconds"]
        label = f"{model} ({counted(few[model], 'seed')})" if model in few else model
        rows.append(Row(model, role, label, tuple(cells), *spent))
    return rows


def latex(found: StudyTables, config: StudyConfig) -> str:
    """A table environment a data set and metric; needs \\usepackage{booktabs} and nothing else."""
    return "\n".join(
        _latex_table(found, config, dataset, metric)
        for dataset in found.figures["dataset"].unique(maintain_order=True)
        for metric in METRICS
    )


def _latex_table(found: StudyTables, config: StudyConfig, dataset: str, metric: str) -> str:
    rows = grid(found, config, dataset, metric)
    widths = " & ".join(map(str, config.widths))
    lines, before = [], rows[0].role
    for row in rows:
        if row.role != before:
            lines.append(r"\midrule")
        before = row.role
        cells = [_latex_cell(cell) for cell in row.cells]
        spent = ["--" if each is None else seconds(each) for each in (row.search, row.fit)]
        lines.append(" & ".join([_escaped(row.label), *cells, *spent]) + r" \\")
    caption = CAPTION % (metric_title(metric, K), _escaped(dataset), len(config.seeds))
    caption += COMPARED % _escaped(found.ours) if found.ours else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:study-{dataset}-{metric}}}",
            r"\small",
            f"\\begin{{tabular}}{{l{'r' * len(config.widths)}rr}}",
            r"\toprule",
            f"& \\multicolumn{{{len(config.widths)}}}{{c}}{{width}} & \\multicolumn{{2}}{{c}}{{seconds}} \\\\",
            f"\\cmidrule(lr){{2-{len(config.widths) + 1}}} "
            f"\\cmidrule(lr){{{len(config.widths) + 2}-{len(config.widths) + 3}}}",
            f"model & {widths} & search & fit \\\\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = figure(cell.mean)
    text = f"\\textbf{{{text}}}" if cell.loss else text
    text = f"\\underline{{{text}}}" if cell.top else text
    half = "" if cell.half is None else f"{{\\tiny$\\pm${1e4 * cell.half:.0f}}}"
    return text + half + MARKS[cell.verdict]
