"""One look for every figure: sizes, colours, fonts, legends, and how a figure is saved.

Sizes are those of a two-column paper. Colours are told apart with any colour vision: models take Okabe & Ito's palette
("Color universal design", 2008), ordered things (widths, quartiles) take viridis, heat maps take cividis. Models also
differ by marker. DejaVu Sans comes with matplotlib, so a figure looks the same, byte for byte, on every machine.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from PIL import Image

from mrl.errors import ConfigError, DataError

MOST_PIXELS = 3_200_000  # of a saved PNG: more makes megabytes of a tall figure, and print has the PDF
SIZES = {"column": 3.35, "page": 7.0}  # inches
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
GREY, PALE = "#6E6E6E", "#C4C4C4"  # text and chance levels; whatever stays in the background
SMALL, NORMAL = 7.0, 7.5  # points
FONT = "DejaVu Sans"
RC = {
    "font.family": FONT,
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlesize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": NORMAL,
    "figure.dpi": 200,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "mrl",
    "text.parse_math": False,  # titles may hold dollar signs
}
SHOWN = 125  # CSS pixels an inch in a notebook: a page figure fills the width of a JupyterLab cell


class Drawing(Figure):
    """A matplotlib Figure that a notebook shows sharply and at a readable size, whatever its backend."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        picture = b64encode(rendered(self, "png", dpi=2 * SHOWN)).decode("ascii")
        width, height = (round(inches * SHOWN) for inches in self.get_size_inches())
        metadata = {"image/png": {"width": width, "height": height}}
        return {"image/png": picture, "text/plain": repr(self)}, metadata


def style() -> AbstractContextManager:
    """Context manager (and decorator) within which the one style holds; a user's own settings are left as they are."""
    return mpl.style.context([RC], after_reset=True)


def styled(function: Callable) -> Callable:
    """Decorator: the function draws in the one style; the layout of its figure is settled and then left alone."""

    @wraps(function)
    def inner(*args, **kwargs):
        with style():
            figure = function(*args, **kwargs)
            _settle(figure)
            return figure

    return inner


def _settle(figure: Figure) -> None:
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
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    width, height = figure.get_size_inches()
    dpi = int(min(300, (MOST_PIXELS / (width * height)) ** 0.5))
    for kind in ("pdf", "png"):
        path, part = stem.with_name(f"{stem.name}.{kind}"), stem.with_name(f".{stem.name}.{kind}.part")
        part.write_bytes(rendered(figure, kind, dpi=dpi))
        os.replace(part, path)
        paths.append(path)
    return paths


def rendered(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """The figure as the bytes of a `pdf` or `png` file without dates or versions.

    A png has a palette of 256 colours: a third of the bytes, its colours off by less than 1 in 255 on average.
    """
    dated = {"pdf": ("Creator", "Producer", "CreationDate"), "png": ("Software",)}[kind]
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(dated))
    if kind == "png":
        drawn, buffer = Image.open(buffer).convert("RGB"), BytesIO()
        drawn.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", dpi=(dpi, dpi), optimize=True)
    return buffer.getvalue()


def in_order(column: pl.Series) -> list:
    """The values of a column, each once, in the order in which they appear: the order of legends and panels."""
    return column.unique(maintain_order=True).to_list()


def models_of(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The table with a `model` column (empty text where it had none) and the models in order."""
    if "model" not in table.columns:
        table = table.with_columns(pl.lit("").alias("model"))
    models = in_order(table["model"])
    if len(models) > len(PALETTE):
        raise DataError(f"table has {len(models)} models; at most {len(PALETTE)} can be told apart, so filter it")
    return table, models


def shades(number: int) -> list[tuple]:
    """Colours of ordered things, dark to light, from viridis without its yellow end, which is faint on white."""
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.0, 0.82, number))]


def width_axis(ax: Axes, widths: Iterable[int]) -> None:
    """A log2 axis with exactly the given widths as ticks."""
    widths = sorted(set(widths))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(FixedFormatter([str(width) for width in widths]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(widths[0] / 1.15, widths[-1] * 1.15)
    ax.set_xlabel("width (leading dimensions)")


def from_zero(ax: Axes) -> None:
    """Let the y axis begin at zero (or below, where values are), with room for the marks at its ends.

    Call it when everything is drawn: axes that share y are given the range of all of them.
    """
    together = [other.dataLim.intervaly for other in ax.get_shared_y_axes().get_siblings(ax)]
    lowest, high = min(low for low, _ in together), max(high for _, high in together)
    low = min(0.0, lowest)
    room = 0.06 * (high - low or 1.0)
    ax.set_ylim(low - room * (lowest <= 0), high + room)


def legend_above(figure: Figure, handles: Sequence, labels: Sequence[str], *, place: str = "upper") -> None:
    """A legend outside the axes, `upper` or `lower`, in as many columns as fit the figure."""
    if not handles:
        return
    for rows in range(1, len(handles) + 1):
        legend = figure.legend(handles, labels, loc=f"outside {place} center", ncols=-(-len(handles) // rows))
        if rows == len(handles) or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        legend.remove()


def key(colour: object, **options) -> Line2D:
    """A handle for a legend."""
    return Line2D([], [], color=colour, **options)


def text_inches(text: str, size: float = SMALL) -> float:
    """How wide a text is in print."""
    if not text.strip():
        return 0.0
    return TextPath((0, 0), text.replace("$", r"\$"), prop=FontProperties(family=FONT, size=size)).get_extents().x1 / 72


def shorten(text: str, inches: float, size: float = SMALL) -> str:
    """The text, cut to fit with an ellipsis; empty where not even three letters fit."""
    if text_inches(text, size) <= inches:
        return text
    fitting, too_long = 0, len(text)
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        fits = text_inches(text[:middle].rstrip(" ,;:") + "…", size) <= inches
        fitting, too_long = (middle, too_long) if fits else (fitting, middle)
    return text[:fitting].rstrip(" ,;:") + "…" if fitting >= 3 else ""
