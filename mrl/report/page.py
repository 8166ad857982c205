"""Executed notebooks → one self-contained HTML page: a summary, contents, code folded away, pictures inside.

The page asks the network for nothing and has no scripts. What came on stderr (progress bars) is left out.
"""

from __future__ import annotations

import html
import re
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

from mrl.figures import encode_png, write_whole

HEADING = re.compile(r"<h([1-6])[^>]*>(.*?)</h\1>", re.S)
POLARS_MARKUP = (
    (r"<style.*?</style>", ""),
    (r"<small>shape: .*?</small>", ""),
    (r"<tr>(?:<td>[^<]*</td>)+</tr>(?=</thead>)", ""),
    (r"<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>"),
    (r"<td>null</td>", "<td></td>"),
)
WIDE_PIXELS = 500  # CSS pixels: a figure of a page's width, which a telephone scrolls: shrunk it could not be read
LONGEST_COLUMNS = 160  # characters: printed lines longer than that are sentences, not columns
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_page(
    path: Path, title: str, summary: Iterable[str | Figure | pl.DataFrame], notebooks: Sequence[Path]
) -> Path:
    """Write the page: the summary (Markdown, figures, tables), then each executed notebook as a section; the path.

    A notebook's first heading is its section's, the headings below it those of its parts.
    """
    number = count(1)
    sections, contents = [], []
    for body in (
        "".join(_render_part(part) for part in summary),
        *(_render_notebook(notebook) for notebook in notebooks),
    ):
        body, entries = _number_headings(body, number, deeper=bool(sections))
        sections.append(f"<section>{body}</section>")
        contents += entries
    css = CSS + HtmlFormatter().get_style_defs(".highlight")
    nav = f"<nav><ul>{''.join(contents)}</ul></nav>"
    body = [f'<h1 id="top">{html.escape(title)}</h1>', sections[0], nav, *sections[1:]]
    return write_whole(path, wrap_page(title, css, "\n".join(body)).encode())


def wrap_page(title: str, css: str, body: str) -> str:
    """The page around a body of HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{css}</style></head><body>{body}</body></html>\n"
    )


def _number_headings(body: str, number: count, deeper: bool) -> tuple[str, list[str]]:
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


def _render_part(part: str | Figure | pl.DataFrame) -> str:
    if isinstance(part, Figure):
        return _picture(*encode_png(part))
    return _markdown(part) if isinstance(part, str) else _table(part._repr_html_())


def _render_notebook(path: Path) -> str:
    """The cells of an executed notebook."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(_markdown(cell.source))
        elif cell.cell_type == "code":
            code = highlight(cell.source, PythonLexer(), HtmlFormatter())
            name = "settings" if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())) else "code"
            parts.append(f'<details class="code"><summary>{name}</summary>{code}</details>')
            parts += [_render_output(output) for output in cell.outputs]
    return "\n".join(parts)


def _render_output(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        text = output.text.rsplit("\r", 1)[-1].strip("\n")
        if output.name == "stderr" or not text:
            return ""
        if max(map(len, text.splitlines())) > LONGEST_COLUMNS:
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
        kinds += ["wide"] * (width > WIDE_PIXELS) + ["tall"] * (height > 0.9 * width)
    image = f'<img alt="figure"{size} src="data:image/png;base64,{png.strip()}">'
    return f'<div class="{" ".join(kinds)}">{image}</div>'


def _markdown(text: str) -> str:
    body = markdown2html(text)
    return re.sub(r"<table>.*?</table>", lambda match: _table(match[0]), body, flags=re.S)


def _table(table: str) -> str:
    """A table as readers want it: without polars' own style, shape, types, quotes and nulls."""
    for pattern, instead in POLARS_MARKUP:
        table = re.sub(pattern, instead, table, flags=re.S)
    return f'<div class="table">{table}</div>'
