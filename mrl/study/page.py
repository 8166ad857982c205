"""The study as people read it: `study.csv` (tidy), `study.tex` (booktabs), `study.html` (one self-contained page).

Beside them `study-searches.csv`, all trials, from which another study can go on.

`mrl.study.tex` has the tables, `mrl.study.words` the sentences.
"""

from __future__ import annotations

import html
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import polars.selectors as cs

from mrl.figures.plots import metric_title, recall_by_width
from mrl.figures.style import SHOWN, rendered
from mrl.report.page import CSS
from mrl.report.stages import ROOT
from mrl.study.config import StudyConfig
from mrl.study.fitting import K
from mrl.study.jobs import METRICS
from mrl.study.searches import searches
from mrl.study.tables import StudyTables
from mrl.study.tex import Row, grid, latex
from mrl.study.words import figure, gap, protocol, seconds, summary

DRAWN = 6  # models in a figure
MARKS = {"ahead": "*", "behind": "†", "level": ""}
STYLE = """
.study td, .study th { text-align: right; padding: .15rem .5rem }
.study td:first-child, .study th:first-child { text-align: left }
.study .half { color: #6e6e6e; font-size: .72rem } .study .ours td { background: #eaf3fa }
.study .top { text-decoration: underline }
.study { max-height: none }
"""


def write(found: StudyTables, config: StudyConfig) -> list[Path]:
    """Write the files and return their paths. Numbers in the CSV are rounded to 6 digits."""
    stem = Path(config.report) if config.report else ROOT / "reports" / "study"
    contents = {
        ".csv": found.tidy().with_columns(cs.float().round(6)).write_csv(),
        "-searches.csv": searches(config.entries(chosen=False)).write_csv(),
        ".tex": latex(found, config),
        ".html": page(found, config),
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for end, text in contents.items():
        path = stem.with_name(stem.name + end)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
        paths.append(path)
    return paths


def page(found: StudyTables, config: StudyConfig) -> str:
    """The whole page: the summary, how it was made, and for each data set a figure, both tables, tests and settings."""
    body = ["<h1>The study: every model at every width</h1>"]
    for heading, sentences in summary(found, config).items():
        body.append(f"<h2>{heading}</h2>{_list(sentences)}")
    body.append(f"<h2>How it was made</h2>{_list(protocol(found, config))}")
    datasets = list(_datasets(found))
    links = "".join(f'<li><a href="#{html.escape(name)}">{html.escape(name)}</a></li>' for name in datasets)
    body.insert(1, f"<nav><ul>{links}</ul></nav>")
    for dataset in datasets:
        body.append("".join(_section(found, config, dataset)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Study</title><style>{CSS}{STYLE}</style></head><body>" + "\n".join(body) + "</body></html>\n"
    )


def _section(found: StudyTables, config: StudyConfig, dataset: str) -> Iterator[str]:
    yield f'<h2 id="{html.escape(dataset)}">{html.escape(dataset)}</h2>'
    for metric in METRICS:
        title = metric_title(metric, K)
        yield f"<h3>{title}</h3>{_picture(found, dataset, metric)}"
        rows = [_html_row(row, row.model == found.ours) for row in grid(found, config, dataset, metric)]
        yield _html_table(("model", *map(str, config.widths), "search, s", "fit, s"), "".join(rows))
    if found.ours:
        yield "<p>± is half the 95 % interval over seeds, in units of the last digit. Underlined: the highest of a "
        yield f"column. Bold: {html.escape(found.ours)} is below another row. * significantly above, † significantly "
        yield "below the best row that is not ours.</p>"
    tests = found.tests.filter(pl.col("dataset") == dataset)
    if len(tests):
        names = ("metric", "width", found.ours, "best that is not ours", "difference", "95 %", "p (Holm)", "verdict")
        yield "<h3>Compared user by user</h3>"
        yield _html_table(names, "".join(_html_test(row) for row in tests.iter_rows(named=True)))
    yield "<details><summary>Settings that were chosen</summary><ul>"
    for row in found.costs.filter(pl.col("dataset") == dataset).iter_rows(named=True):
        trials = "its own search" if row["trials"] is None else f"{row['trials']} trials"
        told = f"{row['model']}: {row['settings'] or 'nothing to choose'} ({trials}, {row['device']})"
        yield f"<li>{html.escape(told)}</li>"
    yield "</ul></details>"


def _html_table(names: Sequence[str], rows: str) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f'<div class="table study"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _html_row(row: Row, ours: bool) -> str:
    cells = [html.escape(row.label)]
    for cell in row.cells:
        if cell is None:
            cells.append("–")
            continue
        text = figure(cell.mean)
        text = f'<span class="top">{text}</span>' if cell.top else text
        text = f"<b>{text}</b>" if cell.loss else text
        half = "" if cell.half is None else f' <span class="half">±{1e4 * cell.half:.0f}</span>'
        cells.append(f"{text}{MARKS[cell.verdict]}{half}")
    cells += ["–" if each is None else seconds(each) for each in (row.search, row.fit)]
    return ('<tr class="ours">' if ours else "<tr>") + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _html_test(row: dict) -> str:
    mean = f"<b>{figure(row['mean'])}</b>" if row["loss"] else figure(row["mean"])
    cells = [
        metric_title(row["metric"], K),
        row["width"],
        mean,
        f"{html.escape(row['rival'])} {figure(row['rival_mean'])}",
        gap(row["difference"]),
        f"{gap(row['difference_low'])} to {gap(row['difference_high'])}",
        f"{row['p_holm']:.2g}",
        row["verdict"],
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _picture(found: StudyTables, dataset: str, metric: str) -> str:
    """Ours and the rows that are highest over the widths, others left out: no figure can tell all apart."""
    part = found.by_seed.filter(pl.col("dataset") == dataset, pl.col("metric") == metric)
    means = part.group_by("model", "role", maintain_order=True).agg(pl.col("value").mean())
    first = [found.ours] if found.ours in set(means["model"]) else []
    others = means.filter(~pl.col("model").is_in(first)).sort("value", descending=True)["model"].to_list()
    shown = [*first, *others][:DRAWN]
    part = part.filter(pl.col("model").is_in(shown)).sort(pl.col("model").cast(pl.Enum(shown)), maintain_order=True)
    figure_ = recall_by_width(part, metric=metric, k=K)
    width, height = (round(inches * SHOWN) for inches in figure_.get_size_inches())
    png = b64encode(rendered(figure_, "png", dpi=2 * SHOWN)).decode("ascii")
    alt = html.escape(f"{metric_title(metric, K)} by width on {dataset}: {', '.join(shown)}")
    return f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/png;base64,{png}">'


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _datasets(found: StudyTables) -> list[str]:
    return found.figures["dataset"].unique(maintain_order=True).to_list()
