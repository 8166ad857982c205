"""The study as people read it: `study.csv` (tidy), `study.tex` (booktabs), `study.html` (one self-contained page).

Beside them is what another call goes on from (`mrl.study.kept`). The page and the LaTeX are written from the tidy table
alone, so a study.csv gives them again: tables by `mrl.study.tex`, sentences by `mrl.study.words`.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Template
from markupsafe import Markup

from mrl.controls.fitting import METRICS, K
from mrl.figures import draw_accuracy, encode_png, metric_title, write_whole
from mrl.report.page import CSS, wrap_page
from mrl.study.config import StudyConfig
from mrl.study.tables import StudyTables
from mrl.study.tex import CellFormat, grid, render_latex, stage_rows
from mrl.study.words import counted, describe_protocol, describe_widths, format_difference, format_metric, summarise
from mrl.words import model_name

MODELS_DRAWN = 6
BELOW = "▼"
HTML = CellFormat(
    escape=html.escape, bold="<b>%s</b>", half=' <span class="half">±%.0f</span>', below=BELOW,
    verdicts={"ahead": "*", "behind": "†"}, cut="§", fewer="°", sampled="♯",
    missing="–",
)  # fmt: skip
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


def write_study(tables: StudyTables, config: StudyConfig) -> list[Path]:
    """Write the files and return their paths; of `config.table` only what is made of it, the LaTeX and the page."""
    stem = config.stem
    contents = {".tex": render_latex(tables), ".html": render_page(tables)}
    if not config.table:
        contents = {".csv": tables.tidy.write_csv()} | contents
    paths = [stem.with_name(stem.name + end) for end in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        write_whole(path, text.encode())
    return paths


def render_page(tables: StudyTables) -> str:
    """The whole page: the summary, how it was made, and for each data set figures, tables, tests and settings."""
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"), autoescape=True)
    body = template.render(
        summary=summarise(tables) | {"How it was made": describe_protocol(tables)},
        sets=[_describe_set(tables, dataset) for dataset in tables.means["dataset"].unique(maintain_order=True)],
        main=model_name(tables.main), below=BELOW, drawn=MODELS_DRAWN,
    )  # fmt: skip
    return wrap_page("Study", CSS + STYLE, body)


def _describe_set(tables: StudyTables, dataset: str) -> dict[str, Any]:
    """What the page shows of one data set."""
    metrics = []
    for metric in METRICS:
        rows = grid(tables, dataset, metric)
        main_rows = [number for number, row in enumerate(rows) if row.model == tables.main]
        cells = [[Markup(cell) for cell in HTML.write(row)] for row in rows]
        metrics.append({"rows": cells, "main_rows": main_rows} | _draw(tables, dataset, metric))
    legend = [*map(Markup, HTML.write_legend(rows))]  # the same marks in the tables of both metrics
    settings = []
    for row in tables.costs.filter(dataset=dataset).iter_rows(named=True):
        chosen, trials = row["settings"] or "nothing to choose", counted(row["trials"], "trial")
        settings.append(f"{model_name(row['model'])}: {chosen} ({trials}, {row['device']})")
    tests = [_test_row(row) for row in tables.tests.filter(dataset=dataset).iter_rows(named=True)]
    stages = [[*map(Markup, row)] for row in stage_rows(tables, dataset, HTML.bold)]
    facts = {"legend": legend, "stages": stages, "widths": tables.widths_on(dataset)}
    return {"name": dataset, "metrics": metrics, "tests": tests, "settings": settings} | facts


def _test_row(row: dict) -> list[str]:
    ends = [format_difference(row[name]) for name in ("difference_low", "difference_high")]
    return [
        metric_title(row["metric"], K),
        str(row["width"]),
        format_metric(row["mean"]) + BELOW * row["is_below"],
        f"{model_name(row['best_baseline'])} {format_metric(row['best_baseline_mean'])}",
        format_difference(row["difference"]),
        " to ".join(ends),
        f"{row['p_holm']:.2g}",
        row["verdict"],
    ]


def _draw(tables: StudyTables, dataset: str, metric: str) -> dict[str, Any]:
    """The main model and those that are highest over the widths, others left out: no figure can tell all apart."""
    means = tables.means.filter(dataset=dataset, metric=metric)
    # beside the best of each width, as not all models are made at all of them
    at = pl.col("width").fill_null(tables.widths_on(dataset)[-1])
    share = pl.col("mean") / pl.col("mean").max().over(at)
    by_model = means.with_columns(share=share).group_by("model", maintain_order=True)
    highest = by_model.agg(pl.col("share").mean()).sort("share", descending=True, maintain_order=True)
    main_first = highest.sort(pl.col("model") != tables.main, maintain_order=True)
    models = main_first["model"].head(MODELS_DRAWN).to_list()
    means = means.filter(pl.col("model").is_in(models)).sort(pl.col("model").cast(pl.Enum(models)), maintain_order=True)
    # the mean of the three is the mean again, and the bar goes from the lowest to the highest
    points = means.unpivot(("low", "mean", "high"), index=("model", "width", "metric", "k")).drop_nulls("value")
    picture, width, height = encode_png(draw_accuracy(points, metric=metric, k=K))
    title, tests = metric_title(metric, K), tables.tests.filter(dataset=dataset, metric=metric)
    alt = describe_widths(tests) if len(tests) else f"{title} by width: {', '.join(map(model_name, models))}"
    return {"title": title, "alt": alt, "picture": picture, "width": width, "height": height}
