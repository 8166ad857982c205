"""Executed notebooks → one self-contained HTML page: a summary, contents, code folded away, pictures inside.

The page asks the network for nothing and has no scripts. What came on stderr (progress bars) is left out.
"""

from __future__ import annotations

import html
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import nbformat
import polars as pl
from matplotlib.figure import Figure
from nbconvert.filters import ansi2html, markdown2html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from mrl.figures.style import SHOWN, rendered

HEADING = re.compile(r"<h([1-6])[^>]*>(.*?)</h\1>", re.S)
POLARS = (
    (r"<style.*?</style>", ""),
    (r"<small>shape: .*?</small>", ""),
    (r"<tr>(?:<td>[^<]*</td>)+</tr>(?=</thead>)", ""),
    (r"<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>"),
    (r"<td>null</td>", "<td></td>"),
)
WIDE = 500  # CSS pixels: a figure of a page's width, which a telephone scrolls: shrunk it could not be read
PROSE = 160  # characters: printed lines longer than that are sentences, not columns
CSS = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.5rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 2px solid #0072B2 }
h3 { font-size: 1.15rem; margin: 2rem 0 .6rem }
a { color: #0059a0 }
nav { background: #f4f6f8; padding: .8rem 1.2rem; margin: 1.5rem 0; border-radius: 4px; columns: 2; font-size: .9rem }
nav ul { margin: 0 0 .4rem; padding-left: 1rem; list-style: none }
nav li { break-inside: avoid }
nav > ul { padding: 0 }
.figure { margin: 1rem 0 .5rem }
img { display: block; max-width: 100%; height: auto }
.table { overflow-x: auto; max-height: 32rem; margin: .8rem 0 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .7rem; border: 0; border-bottom: 1px solid #e2e2e2; text-align: left; white-space: nowrap }
thead th { border-bottom: 1.5px solid #333; background: #fff; position: sticky; top: 0 }
pre { font: .8rem/1.45 "DejaVu Sans Mono", monospace; white-space: pre-wrap; margin: .6rem 0; overflow-x: auto }
details { margin: .5rem 0; font-size: .92rem }
summary { cursor: pointer; color: #6e6e6e }
details.code { font-size: .8rem }
details.code pre { background: #f7f7f7; padding: .6rem .8rem }
@media (max-width: 44rem) {
  body { padding: 1rem }
  nav { columns: 1 }
  .figure { overflow-x: auto }
  .wide img { max-width: none; width: 44rem }
}
@media print {
  @page { margin: 16mm 14mm }
  body { font-size: 10pt; max-width: none; padding: 0 }
  h1, h2, h3, :is(p, pre):has(+ details.code + .figure, + details.code + .table, + .figure, + .table) {
    break-after: avoid }
  tr, .figure, .table:not(:has(tr:nth-child(14))) { break-inside: avoid }
  img { max-height: 112mm; object-fit: contain; object-position: left top }
  .tall img { max-height: 205mm }
  .table { max-height: none; overflow: visible }
  table { font-size: 8pt }
  th, td { padding: .1rem .4rem }
  table:not(.dataframe) td { white-space: normal }
  thead th { position: static }
  details:not([open]) { display: none }
  a { color: inherit; text-decoration: none }
}
"""


def write_page(
    path: Path, title: str, summary: Iterable[str | Figure | pl.DataFrame], notebooks: Sequence[Path]
) -> Path:
    """Write the page: the summary (Markdown, figures, tables), then each executed notebook as a section; the path.

    A notebook's first heading is its section's, the headings below it those of its parts.
    """
    parts = [('<h1 id="top">', html.escape(title), "</h1>")]
    number = count(1)
    sections, contents = [], []
    for body in ("".join(_part(part) for part in summary), *(_body(notebook) for notebook in notebooks)):
        body, entries = _numbered(body, number, deeper=bool(sections))
        sections.append(f"<section>{body}</section>")
        contents += entries
    css = CSS + HtmlFormatter().get_style_defs(".highlight")
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{css}</style></head><body>",
        *("".join(part) for part in parts),
        sections[0],
        f"<nav><ul>{''.join(contents)}</ul></nav>",
        *sections[1:],
        "</body></html>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text("\n".join(page), encoding="utf-8")
    os.replace(part, path)
    return path


def _numbered(body: str, number: count, deeper: bool) -> tuple[str, list[str]]:
    """The body with an id on every heading, one level deeper where asked, and its entries in the contents."""
    entries = []

    def heading(match: re.Match) -> str:
        level, words = int(match[1]) + deeper, re.sub(r'<a class="anchor-link".*?</a>', "", match[2])
        name = f"part-{next(number)}"
        if deeper and level <= 3:
            link = f'<a href="#{name}">{words}</a>'
            entries.append(f"<li><b>{link}</b></li>" if level == 2 else f"<li>&ensp;{link}</li>")
        return f'<h{level} id="{name}">{words}</h{level}>'

    return HEADING.sub(heading, body), entries


def _part(part: str | Figure | pl.DataFrame) -> str:
    if isinstance(part, Figure):
        width, height = (round(inches * SHOWN) for inches in part.get_size_inches())
        return _picture(b64encode(rendered(part, "png", dpi=2 * SHOWN)).decode("ascii"), width, height)
    return _markdown(part) if isinstance(part, str) else _table(part._repr_html_())


def _body(path: Path) -> str:
    """The cells of an executed notebook."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(_markdown(cell.source))
        elif cell.cell_type == "code":
            code = highlight(cell.source, PythonLexer(), HtmlFormatter())
            name = "settings" if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())) else "code"
            parts.append(f'<details class="code"><summary>{name}</summary>{code}</details>')
            parts += [_output(output) for output in cell.outputs]
    return "\n".join(parts)


def _output(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        text = output.text.rsplit("\r", 1)[-1].strip("\n")
        if output.name == "stderr" or not text:
            return ""
        if max(map(len, text.splitlines())) > PROSE:
            return "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines())
        return f"<pre>{ansi2html(text)}</pre>"
    if output.output_type == "error":
        return f"<pre>{html.escape(f'{output.ename}: {output.evalue}')}</pre>"
    data = output.data
    if "image/png" in data:
        size = output.metadata.get("image/png", {})
        return _picture(data["image/png"], size.get("width"), size.get("height"))
    if "text/markdown" in data:
        return _markdown(data["text/markdown"])
    if "text/html" in data:
        return _table(data["text/html"])
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def _picture(png: str, width: int | None, height: int | None) -> str:
    size, kinds = "", ["figure"]
    if width and height:
        size = f' width="{width}" height="{height}"'
        kinds += ["wide"] * (width > WIDE) + ["tall"] * (height > 0.9 * width)
    image = f'<img alt="figure"{size} src="data:image/png;base64,{png.strip()}">'
    return f'<div class="{" ".join(kinds)}">{image}</div>'


def _markdown(text: str) -> str:
    body = markdown2html(text)
    return re.sub(r"<table>.*?</table>", lambda match: _table(match[0]), body, flags=re.S)


def _table(table: str) -> str:
    """A table as readers want it: without polars' own style, shape, types, quotes and nulls."""
    for pattern, instead in POLARS:
        table = re.sub(pattern, instead, table, flags=re.S)
    return f'<div class="table">{table}</div>'
