"""The figure of a cascade: what is drawn from a table with a known answer."""

from __future__ import annotations

import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points

from mrl.errors import DataError
from mrl.figures.cascade import draw_cascade
from mrl.figures.style import SIZES
from mrl.words import BLUE, GREEN, VERMILION

each_size = pytest.mark.parametrize("size", SIZES)


def table(metric: str = "ndcg@20") -> pl.DataFrame:
    columns = ["kind", "target", "is_asked", "width", "expected_width", "share", "served_width", "test_overlap"]
    rows = [
        *(("fixed", None, False, width, float(width), share, float(width), share - 0.1)
          for width, share in ((4, 0.8), (8, 0.9), (16, 1.0), (32, 1.1))),
        ("best_fixed", 0.95, True, 16, 16.0, 1.0, 16.0, 0.9),
        ("mixed", 0.95, True, None, 12.0, 0.95, 12.0, 0.85),
        ("cascade", 0.95, True, None, 10.0, 0.96, 11.0, 0.85),
        ("cascade", 0.9, False, None, 6.0, 0.91, 6.5, 0.8),
        ("oracle", 0.95, True, None, 5.0, 1.2, None, None),
    ]  # fmt: skip
    made = pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
    return made.with_columns(metric=pl.lit(metric), share_error=pl.lit(0.01))


@each_size
def test_what_is_kept_by_expected_width(size: str) -> None:
    figure = draw_cascade(table(), size=size)
    ax, *more = figure.axes
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    fixed, asked, others, oracle = marks
    assert points(fixed) == [(4, 0.8), (8, 0.9), (16, 1.0), (32, 1.1)] and colour(fixed) == BLUE
    assert points(asked) == [(10, 0.96)] and colour(asked) == VERMILION
    assert points(others) == [(6, 0.91)] and others.get_markerfacecolor() == "white"
    assert points(oracle) == [(5, 1.2)] and colour(oracle) == GREEN
    assert ax.get_ylabel() == "share of full NDCG@20" and ax.get_xlabel() == "expected width"
    mixes = next(line for line in ax.lines if len(line.get_xdata()) > 90)
    assert (6.0, 0.85) in points(mixes) and (12.0, 0.95) in points(mixes)  # halfway, in dimensions
    level = next(line for line in ax.lines if line.get_linestyle() == ":")
    assert set(level.get_ydata()) == {0.95}
    assert len(more) == (size == "page")
    if more:
        assert more[0].get_ylabel() == "overlap with the full width's 20 best"
        drawn = [points(line) for line in more[0].lines]
        assert [(11, 0.85)] in drawn and [(4, 0.7), (8, 0.8), (16, 0.9), (32, 1.0)] in drawn
    assert legend_names(figure) == ["fixed width, and mixes of two", "cascade", "oracle", "asked for"]
    check_readable(figure)


@each_size
def test_of_overlap(size: str) -> None:
    figure = draw_cascade(table("overlap@20"), size=size)
    assert figure.axes[0].get_ylabel() == "overlap with the full width's 20 best"
    check_readable(figure)


def test_without_rows_or_columns() -> None:
    with pytest.raises(DataError, match="no column share_error"):
        draw_cascade(table().drop("share_error"))
    with pytest.raises(DataError, match="no rows"):
        draw_cascade(table().clear())
