"""The figure of search by prefix: every setting is drawn, by its way, with the front and the advised one."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.errors import DataError
from mrl.figures.retrieval import draw_nest, draw_retrieval, way_of

ROWS = [
    ([4], [], 32, "plain", "", 0.5, 0.1, 32.0),
    ([8], [], 32, "plain", "", 1.0, 0.9, 64.0),
    ([8], [], 8, "plain", "", 0.99, 0.3, 8.0),
    ([4, 8], [50], 8, "plain", "", 0.98, 0.2, 36.0),
    ([8], [], 32, "faiss", "flat", 1.0, 1.2, 72.0),
    ([8], [], 32, "faiss", "hnsw", 0.97, 0.25, 200.0),
]
NAMES = ["widths", "shortlist", "bits", "backend", "kind", "overlap_reported", "p50_ms", "bytes_per_item"]
TABLE = pl.DataFrame(ROWS, schema=NAMES, orient="row")


def test_a_setting_has_its_way() -> None:
    ways = [way_of(row) for row in TABLE.iter_rows(named=True)]
    assert ways == ["exact", "exact", "codes", "ladder", "graph", "parts"]


@pytest.mark.parametrize("size", ["column", "page"])
def test_every_setting_is_drawn_and_the_front_is_what_nothing_beats(size: str) -> None:
    figure = draw_retrieval(TABLE, advised=3, size=size)
    left, right = figure.axes
    for ax, cost in ((left, "p50_ms"), (right, "bytes_per_item")):
        front, *marks = ax.lines
        points = {tuple(point) for line in marks for point in zip(*line.get_data(), strict=True)}
        assert points == set(TABLE.select(cost, "overlap_reported").rows())
        assert list(front.get_ydata()) == sorted(front.get_ydata())
    assert list(left.lines[0].get_xdata()) == [0.1, 0.2, 0.3, 0.9]
    assert list(left.lines[-1].get_xdata()) == [0.2]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-1] == "advised"
    assert len(names) == 6
    assert len(draw_retrieval(TABLE.head(2), size=size).legends[0].get_texts()) == 1


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(DataError):
        draw_retrieval(TABLE.drop("p50_ms"))


def test_prefixes_before_and_after_are_two_lines() -> None:
    table = pl.DataFrame({"width": [4, 8], "before": [0.2, 0.4], "after": [0.6, 0.7]})
    (ax,) = draw_nest(table).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.2, 0.4], [0.6, 0.7]]
    with pytest.raises(DataError):
        draw_nest(table.drop("after"))
