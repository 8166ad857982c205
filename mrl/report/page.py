"""Executed notebooks → one self-contained HTML page: a summary, and below it each notebook, folded away.

Contents stand at the side where the window is wide. The page asks the network for nothing and has no scripts. What came
on stderr (progress bars) is left out, and so is a part of a notebook that shows nothing but code. Printed are the
summary and what the reader has unfolded: of what stays folded not even the title.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, count, pairwise
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
PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.S)
ANCHOR = re.compile(r'<a class="anchor-link".*?</a>', re.S)
ALT = "figure"  # of a picture that is not described yet
LONGEST_ALT = 400  # characters
NOTE = (
    '<p class="note">The notebooks behind it follow, folded: a title opens one. Printed are the pages above, and what '
    "is unfolded.</p>"
)
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

    A notebook's first heading is its section's, the headings below it those of its parts. Pictures are described by
    the text below them.
    """
    number = count(1)
    summary_body, contents = _number_headings("".join(map(_render_part, summary)), number)
    sections = [f'<section class="story">{summary_body}</section>', NOTE * bool(notebooks)]
    for notebook in notebooks:
        body, entries = _number_headings(_render_notebook(notebook), number, deeper=True)
        sections.append(_fold(body))
        contents += entries
    css = CSS + HtmlFormatter().get_style_defs(".highlight")
    nav = f'<nav aria-label="Contents"><ul>{"".join(contents)}</ul></nav>'
    body = "\n".join([f'<h1 id="top">{html.escape(title)}</h1>', *(describe_pictures(part) for part in sections)])
    return write_whole(path, wrap_page(title, css, f"{nav}<main>{body}</main>").encode())


def _fold(body: str) -> str:
    """A section that is closed at first; its first heading is what opens it."""
    if not (first := HEADING.search(body)):
        return f"<section>{body}</section>"
    rest = body[: first.start()] + body[first.end() :]
    return f'<section><details class="part"><summary>{first[0]}</summary>{rest}</details></section>'


def describe_pictures(body: str) -> str:
    """The body with an alternative text for every picture: the first sentences below it, or else the heading above."""
    pieces = re.split(rf'alt="{ALT}"', body)
    described, heading = [pieces[0]], ""
    for before, after in pairwise(pieces):
        headings = [_plain(match[2]) for match in HEADING.finditer(before)]
        heading = headings[-1] if headings else heading
        text = next((words for match in PARAGRAPH.finditer(_until_next(after)) if (words := _plain(match[1]))), "")
        described.append(f'alt="{html.escape(_first_sentences(text) or heading or ALT, quote=True)}"{after}')
    return "".join(described)


def _until_next(text: str) -> str:
    """What stands between a picture and the next heading, without code."""
    text = re.sub(r'<details class="code">.*?</details>', "", text, flags=re.S)
    return re.split(r"<h[1-6]|<summary>", text, maxsplit=1)[0]


def _plain(markup: str) -> str:
    """The words of some HTML."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", markup))).strip()


def _first_sentences(text: str) -> str:
    """The first sentence, and those after it that leave the text below LONGEST_ALT characters."""
    sentences = re.split(r"(?<=\.) (?=[A-Z])", text)
    lengths = accumulate(len(sentence) + 1 for sentence in sentences)
    kept = [sentence for sentence, length in zip(sentences, lengths, strict=True) if length <= LONGEST_ALT]
    return " ".join(kept) or sentences[0]


def wrap_page(title: str, css: str, body: str) -> str:
    """The page around a body of HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{css}</style></head><body>{body}</body></html>\n"
    )


def _number_headings(body: str, number: count, deeper: bool = False) -> tuple[str, list[str]]:
    """The body with an id on every heading, one level deeper where asked, and its entries in the contents."""
    entries = []

    def heading(match: re.Match) -> str:
        level, words = int(match[1]) + deeper, re.sub(ANCHOR, "", match[2])
        name = f"part-{next(number)}"
        if level <= 3:
            entries.append(f'<li class="level-{level}"><a href="#{name}">{words}</a></li>')
        return f'<h{level} id="{name}">{words}</h{level}>'

    return HEADING.sub(heading, body), entries


def _render_part(part: str | Figure | pl.DataFrame) -> str:
    if isinstance(part, Figure):
        return _picture(*encode_png(part))
    return _markdown(part) if isinstance(part, str) else _table(part._repr_html_())


def _render_notebook(path: Path) -> str:
    """The cells of an executed notebook, without the parts that show nothing."""
    parts: list[tuple[list[str], bool]] = [([], True)]  # of each part its HTML, and whether it shows anything
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            if cell.source.lstrip().startswith("#"):
                parts.append(([], False))
            parts[-1][0].append(_markdown(cell.source))
        elif cell.cell_type == "code":
            code = highlight(cell.source, PythonLexer(), HtmlFormatter())
            is_settings = bool({"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())))
            name = "settings" if is_settings else "code"
            outputs = [_render_output(output) for output in cell.outputs]
            block = f'<details class="code"><summary>{name}</summary>{code}</details>'
            shows = parts[-1][1] or is_settings or any(outputs)
            parts[-1] = ([*parts[-1][0], block, *outputs], shows)
    return "\n".join("\n".join(lines) for lines, shows in parts if shows)


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
    image = f'<img alt="{ALT}"{size} src="data:image/png;base64,{png.strip()}">'
    # a telephone scrolls it, and so must the keyboard
    return f'<div class="{" ".join(kinds)}" tabindex="0">{image}</div>'


def _markdown(text: str) -> str:
    body = markdown2html(text)
    return re.sub(r"<table>.*?</table>", lambda match: _table(match[0]), body, flags=re.S)


def _table(table: str) -> str:
    """A table as readers want it: without polars' own style, shape, types, quotes and nulls."""
    for pattern, instead in POLARS_MARKUP:
        table = re.sub(pattern, instead, table, flags=re.S)
    return f'<div class="table" tabindex="0">{table}</div>'
