"""The study as people read it: `study.csv` (tidy), `study.tex` (booktabs), `study.html` (one self-contained page).

Beside them `study-searches.csv`, all trials, from which another study can go on. The page and the LaTeX are written
from the tidy table alone, so that they can be written again from a study.csv.

`mrl.study.tex` has the tables, `mrl.study.words` the sentences.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from mrl.figures import draw_accuracy, encode_png, metric_title, write_whole
from mrl.report.page import CSS
from mrl.report.stages import PROJECT
from mrl.study.config import StudyConfig
from mrl.study.fitting import METRICS, K
from mrl.study.searches import searches
from mrl.study.tables import StudyTables
from mrl.study.tex import Markup, grid, render_latex
from mrl.study.words import describe_protocol, format_difference, format_metric, summarise
from mrl.words import model_name

MODELS_DRAWN = 6
BELOW = "▼"
HTML = Markup(
    escape=html.escape,
    bold="<b>%s</b>",
    half=' <span class="half">±%.0f</span>',
    below=BELOW,
    verdicts={"ahead": "*", "behind": "†"},
    missing="–",
)
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


def write_study(tables: StudyTables, config: StudyConfig) -> list[Path]:
    """Write the files and return their paths; of `config.table` only what is made of it, the LaTeX and the page."""
    stem = Path(config.report) if config.report else PROJECT / "reports" / "study"
    contents = {".tex": render_latex(tables), ".html": render_page(tables)}
    if not config.table:
        trials = searches(config.experiments(all_models=True))
        contents = {".csv": tables.tidy.write_csv(), "-searches.csv": trials.write_csv()} | contents
    paths = [stem.with_name(stem.name + end) for end in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        write_whole(path, text.encode())
    return paths


def render_page(tables: StudyTables) -> str:
    """The whole page: the summary, how it was made, and for each data set figures, tables, tests and settings."""
    datasets = tables.means["dataset"].unique(maintain_order=True)
    links = "".join(f'<li><a href="#{html.escape(name)}">{html.escape(name)}</a></li>' for name in datasets)
    body = ["<h1>The study: every model at every width</h1>", f"<nav><ul>{links}</ul></nav>"]
    for heading, sentences in (summarise(tables) | {"How it was made": describe_protocol(tables)}).items():
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
        body.append(f"<h2>{heading}</h2><ul>{items}</ul>")
    body += ["".join(_section(tables, dataset)) for dataset in datasets]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Study</title><style>{CSS}{STYLE}</style></head><body>" + "\n".join(body) + "</body></html>\n"
    )


def _section(tables: StudyTables, dataset: str) -> Iterator[str]:
    main = html.escape(model_name(tables.main))
    yield f'<h2 id="{html.escape(dataset)}">{html.escape(dataset)}</h2>'
    for metric in METRICS:
        yield f"<h3>{metric_title(metric, K)}</h3>{_picture(tables, dataset, metric)}"
        rows = grid(tables, dataset, metric)
        names = ("model", *map(str, tables.widths), "search, s", "fit, s")
        yield _table(names, [HTML.write(row) for row in rows], [row.model == tables.main for row in rows])
    yield "<p>± is half the 95 % interval over seeds, in units of the last digit; in the figures, which show the "
    yield f"{MODELS_DRAWN} models that are highest over the widths, vertical bars are the whole interval. Bold: the "
    yield "best of a column."
    if tables.main:
        yield f" {BELOW} {main} is below another row. * significantly above, † significantly below the best baseline."
    yield "</p>"
    tests = tables.tests.filter(dataset=dataset)
    if len(tests):
        names = ("metric", "width", main, "best baseline", "difference", "95 %", "p (Holm)", "verdict")
        yield "<h3>Compared user by user</h3>"
        yield _table(names, [_test_row(row) for row in tests.iter_rows(named=True)])
    yield "<details><summary>Settings that were chosen</summary><ul>"
    for row in tables.costs.filter(dataset=dataset).iter_rows(named=True):
        trials = "its own search" if row["trials"] is None else f"{row['trials']} trials"
        text = f"{model_name(row['model'])}: {row['settings'] or 'nothing to choose'} ({trials}, {row['device']})"
        yield f"<li>{html.escape(text)}</li>"
    yield "</ul></details>"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], is_main: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    starts = ['<tr class="main">' if main else "<tr>" for main in is_main] or ["<tr>"] * len(rows)
    body = [start + "".join(f"<td>{cell}</td>" for cell in row) for start, row in zip(starts, rows, strict=True)]
    rows_ = "".join(f"{row}</tr>" for row in body)
    return f'<div class="table study"><table><thead><tr>{head}</tr></thead><tbody>{rows_}</tbody></table></div>'


def _test_row(row: dict) -> list[str]:
    ends = [format_difference(row[name]) for name in ("difference_low", "difference_high")]
    return [
        metric_title(row["metric"], K),
        str(row["width"]),
        format_metric(row["mean"]) + BELOW * row["is_below"],
        f"{html.escape(model_name(row['best_baseline']))} {format_metric(row['best_baseline_mean'])}",
        format_difference(row["difference"]),
        " to ".join(ends),
        f"{row['p_holm']:.2g}",
        row["verdict"],
    ]


def _picture(tables: StudyTables, dataset: str, metric: str) -> str:
    """The main model and those that are highest over the widths, others left out: no figure can tell all apart."""
    means = tables.means.filter(dataset=dataset, metric=metric)
    highest = means.group_by("model", maintain_order=True).agg(pl.col("mean").mean()).sort("mean", descending=True)
    main_first = highest.sort(pl.col("model") != tables.main, maintain_order=True)
    models = main_first["model"].head(MODELS_DRAWN).to_list()
    means = means.filter(pl.col("model").is_in(models)).sort(pl.col("model").cast(pl.Enum(models)), maintain_order=True)
    # the mean of the three is the mean again, and the bar goes from the lowest to the highest
    points = means.unpivot(("low", "mean", "high"), index=("model", "width", "metric", "k")).drop_nulls("value")
    picture, width, height = encode_png(draw_accuracy(points, metric=metric, k=K))
    names = ", ".join(map(model_name, models))
    alt = html.escape(f"{metric_title(metric, K)} by width on {dataset}: {names}")
    return f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/png;base64,{picture}">'
