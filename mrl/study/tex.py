"""The tables of the study, a row a model and a column a width, and those tables in LaTeX.

One table a data set and metric. The best of a column is bold. The main model has a triangle where another row has a
higher mean, a star where it is significantly above the best baseline, a dagger where below. Marked are a cell whose
search the budget has ended, a model that is made at fewer widths, with fewer trials or seeds than others, and one that
was searched on a sample of the users. Published numbers of other models stand below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Template

from mrl.controls.fitting import METRICS, SEARCHED_INTERACTIONS, K
from mrl.figures import metric_title
from mrl.report.paper import escape_latex
from mrl.report.reproduction import published_figures
from mrl.study.models import TRAINED_SEEDS, TRAINED_TRIALS, TRAINED_WIDEST, select_models
from mrl.study.tables import IS_CUT, StudyTables
from mrl.study.words import counted, format_metric, format_seconds, short_of_seeds
from mrl.words import STAGES, model_name


@dataclass(frozen=True)
class Row:
    """One model. label: its display name, with the number of seeds where that is lower than it should be. cells: one a
    width (mean and, where known, half of its interval, is_best, is_below, is_cut, verdict), or None. seconds: of search
    and of a fit, None where unknown. has_fewer: whether it is made at fewer widths or with fewer seeds. is_sampled:
    whether its search had a sample of the users. source: of a published number.
    """

    model: str
    role: str
    label: str
    cells: list[dict[str, Any] | None]
    seconds: tuple[float | None, float | None] = (None, None)
    has_fewer: bool = False
    is_sampled: bool = False
    source: str = ""


@dataclass(frozen=True)
class CellFormat:
    """How a language writes what a row says: formats of bold text and of half an interval, marks, and escaping."""

    escape: Callable[[str], str]
    bold: str
    half: str
    below: str
    verdicts: dict[str, str]
    cut: str
    fewer: str
    sampled: str
    missing: str

    def write(self, row: Row) -> list[str]:
        """The texts of a row: label, a cell a width, seconds of search and fit."""
        seconds = [self.missing if value is None else format_seconds(value) for value in row.seconds]
        label = self.escape(row.label) + self.fewer * row.has_fewer + self.sampled * row.is_sampled
        return [label, *map(self._write_cell, row.cells), *seconds]

    def _write_cell(self, cell: dict[str, Any] | None) -> str:
        if cell is None:
            return self.missing
        text = (self.bold if cell.get("is_best") else "%s") % format_metric(cell["mean"])
        half = "" if cell.get("half") is None else self.half % (1e4 * cell["half"])
        marks = self.below * bool(cell.get("is_below")) + self.verdicts.get(cell.get("verdict"), "")
        return text + marks + self.cut * bool(cell.get("is_cut")) + half

    def write_legend(self, rows: Sequence[Row]) -> list[str]:
        """What the marks mean that are in a table, and where published numbers are from."""
        cut = any(cell and cell.get("is_cut") for row in rows for cell in row.cells)
        fewer = any(row.has_fewer for row in rows)
        lines = [f"{self.cut} the budget ended its search."] * cut
        limits = f"up to width {TRAINED_WIDEST}, with {TRAINED_TRIALS} trials and {TRAINED_SEEDS} seeds at most"
        lines += [f"{self.fewer} trained, so made {limits}."] * fewer
        sample = f"{self.sampled} searched on a sample of the users, of {SEARCHED_INTERACTIONS:,} interactions."
        lines += [sample] * any(row.is_sampled for row in rows)
        sources = [self.escape(f"{row.model}: {row.source}") for row in rows if row.source]
        return lines + [f"Published numbers, by a protocol of their own. {'; '.join(sources)}."] * bool(sources)


LATEX = CellFormat(
    escape=escape_latex, bold=r"\textbf{%s}", half=r"{\tiny$\pm$%.0f}", below=r"$^{\bigtriangledown}$",
    verdicts={"ahead": r"$^{*}$", "behind": r"$^{\dagger}$"}, cut=r"$^{\S}$", fewer=r"$^{\circ}$",
    sampled=r"$^{\sharp}$", missing="--",
)  # fmt: skip


def grid(tables: StudyTables, dataset: str, metric: str) -> list[Row]:
    """The table of one data set and metric, a column for each of its widths; a model without widths stands in the
    widest. Published numbers are last."""
    widths = tables.widths_on(dataset)
    means = tables.results.filter(dataset=dataset, metric=metric).with_columns(pl.col("width").fill_null(widths[-1]))
    is_best = pl.col("mean") == pl.col("mean").max().over("width")
    means = means.with_columns(half=(pl.col("high") - pl.col("low")) / 2, is_best=is_best, is_cut=IS_CUT)
    models = {model.model: model for model in select_models((), widths)}
    few_seeds = short_of_seeds(tables, means)
    rows = []
    for (model, role), part in means.group_by("model", "role", maintain_order=True):
        by_width = {cell["width"]: cell for cell in part.iter_rows(named=True)}
        label = model_name(model) + (f" ({counted(few_seeds[model], 'seed')})" if model in few_seeds else "")
        seconds = part["search_seconds"][0], part["fit_seconds"][0]
        cells = [by_width.get(width) for width in widths]
        limited = model in models and (models[model].max_seeds is not None or models[model].has_stages)
        has_fewer = limited and (None in cells or part["seeds"].max() < tables.seeds)
        rows.append(Row(model, role, label, cells, seconds, has_fewer, bool(part["sampled"].any())))
    for figure in published_figures(dataset):
        if (figure["metric"], figure["k"]) == (metric, K):
            cells = [{"mean": figure["value"]} if width == figure["width"] else None for width in widths]
            label = f"{figure['model']}, published"
            rows.append(Row(figure["model"], "published", label, cells, source=figure["source"]))
    return rows


def stage_rows(tables: StudyTables, dataset: str, bold: str) -> list[list[str]]:
    """Metric, stage of the default recipe, and a mean a width, the best in the format `bold`; recall first."""
    stages = tables.stages(dataset).sort("metric", descending=True, maintain_order=True)
    is_best = pl.col("mean") == pl.col("mean").max().over("metric", "width")
    stages = stages.with_columns(form=pl.when(is_best).then(pl.lit(bold)))
    return [
        [metric_title(metric, K), STAGES[stage].name]
        + [(form or "%s") % format_metric(mean) for form, mean in part.sort("width").select("form", "mean").iter_rows()]
        for (metric, stage), part in stages.group_by("metric", "model", maintain_order=True)
    ]


def render_latex(tables: StudyTables) -> str:
    """A table environment a data set and metric; needs \\usepackage{booktabs} and nothing else."""
    found, staged = [], []
    for dataset in tables.means["dataset"].unique(maintain_order=True):
        for metric in METRICS:
            rows = grid(tables, dataset, metric)
            roles = [[LATEX.write(row) for row in group] for _, group in groupby(rows, key=lambda row: row.role)]
            facts = {"title": metric_title(metric, K), "dataset": escape_latex(dataset), "name": f"{dataset}-{metric}"}
            facts |= {"legend": LATEX.write_legend(rows), "widths": tables.widths_on(dataset)}
            found.append(facts | {"roles": roles})
        if rows := stage_rows(tables, dataset, LATEX.bold):
            staged.append({"dataset": facts["dataset"], "name": dataset, "widths": facts["widths"], "rows": rows})
    main = escape_latex(model_name(tables.main)) if tables.main else ""
    options = {"variable_start_string": "<<", "variable_end_string": ">>", "trim_blocks": True, "lstrip_blocks": True}
    text = Path(__file__).with_name("tables.tex").read_text(encoding="utf-8")
    template = Template(text, block_start_string="<%", block_end_string="%>", comment_start_string="<#", **options)
    return template.render(tables=found, staged=staged, seeds=tables.seeds, main=main)
