"""What a figure shows a reader: its texts as they are drawn, and whether they can be read."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text


def texts(figure: Figure) -> list[tuple[str, object, float]]:
    """(text, extent in pixels, size in points) of every text that is drawn; ticks out of view are not."""
    drawn = []
    original = Text.draw

    def draw(self, renderer):
        original(self, renderer)
        if self.get_visible() and self.get_text().strip():
            drawn.append((self.get_text(), self.get_window_extent(renderer), self.get_fontsize()))

    with patch.object(Text, "draw", draw):
        FigureCanvasAgg(figure).draw()
    return drawn


def words(figure: Figure) -> list[str]:
    """The texts alone."""
    return [text for text, _, _ in texts(figure)]


def check_readable(figure: Figure) -> None:
    """At least 7 points, nothing beyond the edge, no text on another text, no legend on data."""
    drawn = texts(figure)
    assert drawn
    for text, extent, size in drawn:
        assert size >= 7, f"{text!r} has {size} points"
        inside = figure.bbox.padded(1.5)
        assert inside.x0 <= extent.x0 and extent.x1 <= inside.x1, f"{text!r} leaves the figure sideways"
        assert inside.y0 <= extent.y0 and extent.y1 <= inside.y1, f"{text!r} leaves the figure upwards or downwards"
    for (text, extent, _), (other, other_extent, _) in combinations(drawn, 2):
        across = min(extent.x1, other_extent.x1) - max(extent.x0, other_extent.x0)
        up = min(extent.y1, other_extent.y1) - max(extent.y0, other_extent.y0)
        assert across <= 2 or up <= 3, f"{text!r} lies on {other!r}"
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend() and ax.axison)]
    for legend in legends:
        box = legend.get_window_extent().padded(-2)
        assert not any(box.overlaps(ax.bbox) for ax in figure.axes), "a legend covers data"


def points(line: Line2D) -> list[tuple[float, float]]:
    """The points of a line, to six digits."""
    return [(round(float(x), 6), round(float(y), 6)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def colour(artist: Line2D) -> str:
    """The colour of a line as #RRGGBB."""
    return to_hex(artist.get_color()).upper()


def legend_names(figure: Figure) -> list[str]:
    """The names in the one legend of the figure."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]
