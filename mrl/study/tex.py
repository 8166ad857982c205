"""The tables of the study, a row a model and a column a width, and those tables in LaTeX.

One table a data set and metric. The best of a column is bold. The main model has a triangle where another row has a
higher mean, a star where it is significantly above the best baseline, a dagger where below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Template

from mrl.figures import metric_title
from mrl.report.paper import escape_latex
from mrl.study.fitting import METRICS, K
from mrl.study.tables import StudyTables
from mrl.study.words import counted, format_metric, format_seconds, short_of_seeds
from mrl.words import model_name


@dataclass(frozen=True)
class Row:
    """One model. label: its display name, with the number of seeds where that is lower than it should be. cells: one a
    width (mean, half of its interval, is_best, is_below, verdict), None where it is narrower. seconds: of search and of
    a fit, None where unknown.
    """

    model: str
    role: str
    label: str
    cells: list[dict[str, Any] | None]
    seconds: tuple[float | None, float | None]


@dataclass(frozen=True)
class CellFormat:
    """How a language writes what a row says: formats of bold text and of half an interval, marks, and escaping."""

    escape: Callable[[str], str]
    bold: str
    half: str
    below: str
    verdicts: dict[str, str]
    missing: str

    def write(self, row: Row) -> list[str]:
        """The texts of a row: label, a cell a width, seconds of search and fit."""
        seconds = [self.missing if value is None else format_seconds(value) for value in row.seconds]
        return [self.escape(row.label), *map(self._write_cell, row.cells), *seconds]

    def _write_cell(self, cell: dict[str, Any] | None) -> str:
        if cell is None:
            return self.missing
        text = (self.bold if cell["is_best"] else "%s") % format_metric(cell["mean"])
        half = "" if cell["half"] is None else self.half % (1e4 * cell["half"])
        return text + (self.below if cell["is_below"] else "") + self.verdicts.get(cell["verdict"], "") + half


LATEX = CellFormat(
    escape=escape_latex,
    bold=r"\textbf{%s}",
    half=r"{\tiny$\pm$%.0f}",
    below=r"$^{\bigtriangledown}$",
    verdicts={"ahead": r"$^{*}$", "behind": r"$^{\dagger}$"},
    missing="--",
)


def grid(tables: StudyTables, dataset: str, metric: str) -> list[Row]:
    """The table of one data set and metric. A model without widths stands in the widest column."""
    means = tables.tidy.filter(dataset=dataset, metric=metric).with_columns(
        pl.col("width").fill_null(tables.widths[-1])
    )
    means = means.with_columns(
        half=(pl.col("high") - pl.col("low")) / 2, is_best=pl.col("mean") == pl.col("mean").max().over("width")
    )
    timed = means["wall_seconds"].null_count() == 0
    few_seeds = short_of_seeds(tables, means)
    rows = []
    for (model, role), part in means.group_by("model", "role", maintain_order=True):
        by_width = {cell["width"]: cell for cell in part.iter_rows(named=True)}
        label = model_name(model) + (f" ({counted(few_seeds[model], 'seed')})" if model in few_seeds else "")
        seconds = part["search_seconds"][0], part["wall_seconds" if timed else "fit_seconds"][0]
        rows.append(Row(model, role, label, [by_width.get(width) for width in tables.widths], seconds))
    return rows


def render_latex(tables: StudyTables) -> str:
    """A table environment a data set and metric; needs \\usepackage{booktabs} and nothing else."""
    found = []
    for dataset in tables.means["dataset"].unique(maintain_order=True):
        for metric in METRICS:
            by_role = groupby(grid(tables, dataset, metric), key=lambda row: row.role)
            roles = [[LATEX.write(row) for row in rows] for _, rows in by_role]
            title, name = metric_title(metric, K), f"{dataset}-{metric}"
            found.append({"title": title, "dataset": escape_latex(dataset), "name": name, "roles": roles})
    main = escape_latex(model_name(tables.main)) if tables.main else ""
    options = {"variable_start_string": "<<", "variable_end_string": ">>", "trim_blocks": True, "lstrip_blocks": True}
    text = Path(__file__).with_name("tables.tex").read_text(encoding="utf-8")
    template = Template(text, block_start_string="<%", block_end_string="%>", comment_start_string="<#", **options)
    return template.render(tables=found, widths=tables.widths, seeds=tables.seeds, main=main)
