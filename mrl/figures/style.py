"""One look for every figure: sizes, colours, fonts, legends, and how a figure is saved.

Sizes are those of a two-column paper. Colours are told apart with any colour vision: models and labels take those of
`mrl.words`, ordered things (widths, quartiles) take viridis, heat maps take cividis. Models also differ by marker.
DejaVu Sans comes with matplotlib, so a figure looks the same, byte for byte, on every machine.
"""

from __future__ import annotations

import os
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from PIL import Image

from mrl.errors import ConfigError, DataError
from mrl.words import BLUE, COLOURS, PATH, Look, model_looks, model_names

MAX_PIXELS = 3_200_000  # of a saved PNG: more makes megabytes of a tall figure, and print has the PDF
SIZES = {"column": 3.35, "page": 7.0}  # inches
PALETTE = COLOURS[:8]  # of what has no colour of its own
GREY, PALE = "#6E6E6E", "#C4C4C4"  # text and chance levels; whatever stays in the background
SMALL, NORMAL = 7.0, 7.5  # points
FONT = "DejaVu Sans"
LEGEND_ROW = 0.14  # inches
DODGE, MOST_DODGED = 0.12, 0.36  # between two lines on a width axis, and between the outermost ones, in octaves
PIXELS_PER_INCH = 125  # CSS pixels in a notebook: a page figure fills the width of a JupyterLab cell


class Drawing(Figure):
    """A matplotlib Figure that a notebook shows sharply and at a readable size, whatever its backend."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        picture, width, height = encode_png(self)
        metadata = {"image/png": {"width": width, "height": height}}
        return {"image/png": picture, "text/plain": repr(self)}, metadata


def paper_style() -> AbstractContextManager:
    """Context manager (and decorator) within which the one style holds; a user's own settings are left as they are."""
    return mpl.style.context("mrl.figures.paper", after_reset=True)


def styled(function: Callable) -> Callable:
    """Decorator: the function draws in the one style; the layout of its figure is settled and then left alone."""

    @wraps(function)
    def draw(*args, **kwargs):
        with paper_style():
            figure = function(*args, **kwargs)
            _settle_layout(figure)
            return figure

    return draw


def _settle_layout(figure: Figure) -> None:
    """Lay the figure out for good.

    Automatic ticks depend on the height, which depends on the legend, and the room for their labels on the ticks: the
    layout engine alone gets this wrong now and then. So the ticks of the first layout are fixed for the second.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if isinstance(axis.get_major_locator(), MaxNLocator):
            axis.set_major_locator(FixedLocator(axis.get_majorticklocs()))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def canvas(size: str, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Drawing, np.ndarray]:
    """An empty figure and its axes (rows, columns). size: `column` or `page`; height: inches."""
    figure = Drawing(figsize=(check_size(size), height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_grid(
    size: str, number: int, row_height: float, *, most: int = 3, margin: float = 0.25, **options
) -> tuple[Drawing, list[Axes]]:
    """An empty figure and its `number` panels: at most `most` a row on a page, one below the other in a column.

    row_height, margin (of the whole figure): inches.
    """
    columns = min(number, most if size == "page" else 1)
    rows = -(-number // columns)
    figure, axes = canvas(size, row_height * rows + margin, rows, columns, **options)
    panels = axes.ravel().tolist()
    for ax in panels[number:]:
        ax.remove()
    return figure, panels[:number]


def check_size(size: str) -> float:
    """The width of a figure in inches, or ConfigError."""
    if size not in SIZES:
        raise ConfigError(f"size={size!r}: must be one of {', '.join(SIZES)}")
    return SIZES[size]


def check_table(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return `table`, or raise DataError where it is empty or lacks one of `columns`."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"table has no column {', '.join(missing)}; it has {', '.join(table.columns) or 'none'}")
    if not len(table):
        raise DataError("table has no rows to draw; check what it was filtered by")
    return table


def save(figure: Figure, stem: str | Path) -> list[Path]:
    """Write `<stem>.pdf` (vectors, Type 42 fonts) and `<stem>.png` (300 dpi, fewer for tall ones); return both paths.

    The same figure gives the same bytes: no dates, no versions. Each file is complete or not there.
    """
    stem = Path(stem)
    width, height = figure.get_size_inches()
    dpi = int(min(300, (MAX_PIXELS / (width * height)) ** 0.5))
    return [
        write_whole(stem.with_name(f"{stem.name}.{kind}"), rendered(figure, kind, dpi=dpi)) for kind in ("pdf", "png")
    ]


def write_whole(path: Path, contents: bytes) -> Path:
    """Write a file that is complete or not there, and its folder; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(contents)
    os.replace(part, path)
    return path


def rendered(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """The figure as the bytes of a `pdf` or `png` file without dates or versions.

    A png has a palette of 256 colours: a third of the bytes, its colours off by less than 1 in 255 on average.
    """
    changing = {"pdf": ("Creator", "Producer", "CreationDate"), "png": ("Software",)}[kind]
    buffer = BytesIO()
    with paper_style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(changing))
    if kind == "png":
        picture, buffer = Image.open(buffer).convert("RGB"), BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", dpi=(dpi, dpi), optimize=True)
    return buffer.getvalue()


def encode_png(figure: Figure) -> tuple[str, int, int]:
    """The figure as a web page shows it: PNG in base64, twice as sharp as it is large; width, height in CSS pixels."""
    picture = b64encode(rendered(figure, "png", dpi=2 * PIXELS_PER_INCH)).decode("ascii")
    width, height = (round(inches * PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return picture, width, height


def in_order(column: pl.Series) -> list:
    """The values of a column, each once, in the order in which they appear: the order of legends and panels."""
    return column.unique(maintain_order=True).to_list()


def name_models(table: pl.DataFrame) -> pl.DataFrame:
    """The table with the display names of models (`mrl.words.model_names`) in its columns `model` and `other`."""
    columns = [name for name in ("model", "other") if name in table.columns]
    names = model_names(dict.fromkeys(model for name in columns for model in table[name].drop_nulls()))
    return table.with_columns(pl.col(columns).replace(names)) if names else table


def select_models(table: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """The rows of these models, in this order."""
    return pl.concat([table.filter(model=model) for model in models])


def models_of(table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Look]]:
    """The table with display names in its `model` column (empty text where it had none); their looks by name, in order.

    In a table of differences, the models of the column `other` are among them.
    """
    if "model" not in table.columns:
        return table.with_columns(model=pl.lit("")), {"": Look("", BLUE, "o")}
    columns = [name for name in ("model", "other") if name in table.columns]
    looks = model_looks(model for name in columns for model in table[name].drop_nulls())
    if len(looks) > len(COLOURS):
        raise DataError(f"table has {len(looks)} models; at most {len(COLOURS)} can be told apart, so filter it")
    return name_models(table), {look.name: look for look in looks.values()}


def dodge(widths: Iterable[float], number: int, count: int) -> np.ndarray:
    """The places on a width axis of line `number` of `count`: side by side, so that equal values hide no line.

    Give `width_axis` the count, too.
    """
    places = np.asarray(list(widths), dtype=np.float64)
    return places * 2 ** (_dodged(count) * (number / max(count - 1, 1) - 0.5))


def _dodged(count: int) -> float:
    """Between the outermost of `count` lines, in octaves: farther apart, a line further left would seem to be ahead."""
    return min(DODGE * (count - 1), MOST_DODGED)


def ink(background: object) -> str:
    """Black, or white where it stands out more from the background (by the relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)]
    return "white" if linear @ np.array([0.2126, 0.7152, 0.0722]) < 0.179 else "black"


def shades(number: int) -> list[tuple]:
    """Colours of ordered things, dark to light, from viridis without its yellow end, which is faint on white."""
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.0, 0.82, number))]


def width_axis(ax: Axes, widths: Iterable[int], count: int = 1) -> None:
    """A log2 axis with exactly the given widths as ticks, and room for `count` lines side by side (see `dodge`)."""
    widths = sorted(set(widths))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(FixedFormatter([str(width) for width in widths]))
    ax.xaxis.set_minor_locator(NullLocator())
    beyond = 1.15 * 2 ** (_dodged(count) / 2)
    ax.set_xlim(widths[0] / beyond, widths[-1] * beyond)
    ax.set_xlabel("width (leading dimensions)")


def from_zero(ax: Axes) -> None:
    """Let the y axis begin at zero (or below, where values are), with room for the marks at its ends.

    Call it when everything is drawn: axes that share y are given the range of all of them.
    """
    ranges = [other.dataLim.intervaly for other in ax.get_shared_y_axes().get_siblings(ax)]
    lowest, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    low = min(0.0, lowest)
    margin = 0.06 * (high - low or 1.0)
    ax.set_ylim(low - margin * (lowest <= 0), high + margin)


def legend_above(figure: Figure, handles: Sequence, labels: Sequence[str], *, place: str = "upper") -> None:
    """A legend outside the axes, `upper` or `lower`, in as many columns as fit; the figure grows with its third row."""
    if not handles:
        return
    for rows in range(1, len(handles) + 1):
        legend = figure.legend(handles, labels, loc=f"outside {place} center", ncols=-(-len(handles) // rows))
        if rows == len(handles) or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(rows - 2, 0))
            return
        legend.remove()


def key(colour: object, **options) -> Line2D:
    """A handle for a legend."""
    return Line2D([], [], color=colour, **options)


def model_legend(
    figure: Figure,
    models: Mapping[str, Look],
    *others: tuple[Line2D, str],
    linestyle: str = "-",
    without_width: Sequence[str] = (),
    seeds: int = 1,
) -> None:
    """Models by colour and marker, then `others` (handle, name), then the range where there are several seeds.

    A model without a name (of a table without a column `model`) is left out; those `without_width` are dashed lines.
    """
    entries = []
    for model, look in models.items():
        if model in without_width:
            entries.append((key(look.colour, linestyle="--"), f"{model} (no width)"))
        else:
            entries.append((key(look.colour, marker=look.marker, linestyle=linestyle), model))
    entries += others
    if seeds > 1:
        entries.append((key(GREY, marker="|", linestyle="none", markersize=7), f"range of {seeds} seeds"))
    entries = [entry for entry in entries if entry[1]]
    legend_above(figure, [handle for handle, _ in entries], [name for _, name in entries])


def text_inches(text: str, size: float = SMALL) -> float:
    """How wide a text is in print."""
    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", r"\$"), prop=FontProperties(family=FONT, size=size))
    # A font has points where its curves go farthest: as far as `get_extents`, which solves for that, curve by curve.
    return float(path.vertices[path.codes != path.CLOSEPOLY, 0].max(initial=0.0)) / 72


def shorten(text: str, inches: float, size: float = SMALL) -> str:
    """The text, cut to fit with an ellipsis; empty where not even three letters fit. Of a path its end is kept."""
    while text_inches(text, size) > inches and PATH in text:
        text = text.partition(PATH)[2]
    if text_inches(text, size) <= inches:
        return text
    cut = [text[:end].rstrip(" ,;:") + "…" for end in range(len(text))]
    fitting = bisect_right(cut, inches, key=lambda shorter: text_inches(shorter, size)) - 1
    return cut[fitting] if fitting >= 3 else ""
