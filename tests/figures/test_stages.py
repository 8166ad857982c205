"""The stages of the default recipe, drawn: a line each, and the gain over the stage before as bars."""

from __future__ import annotations

import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, words

from mrl.errors import DataError
from mrl.figures.stages import draw_stages
from mrl.figures.style import SIZES
from mrl.words import STAGES

VALUES = {"ials": (0.1, 0.2), "nested": (None, None), "propagated": (0.11, 0.19), "rotated": (0.22, 0.19)}
GAINS = {"ials": (None, None), "nested": (None, None), "propagated": (0.1, -0.05), "rotated": (1.0, 0.0)}
TABLE = pl.DataFrame(
    {"stage": stage, "width": width, "metric": "ndcg", "k": 20, "value": value, "gain": gain}
    for stage in VALUES
    for width, value, gain in zip((4, 64), VALUES[stage], GAINS[stage], strict=True)
)


@pytest.mark.parametrize("size", SIZES)
def test_each_stage_is_a_line_and_what_it_gives_a_bar(size: str) -> None:
    figure = draw_stages(TABLE, size=size)
    lines, bars = figure.axes
    used = ["ials", "propagated", "rotated"]
    assert [colour(line) for line in lines.lines] == [STAGES[stage].colour for stage in used]
    assert [line.get_ydata().tolist() for line in lines.lines] == [list(VALUES[stage]) for stage in used]
    left, right = lines.get_xlim()
    assert all(left < x < right for line in lines.lines for x in line.get_xdata())
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights == [list(GAINS[stage]) for stage in used[1:]]
    assert legend_names(figure) == [STAGES[stage].name for stage in used]  # what was not used is no part of it
    assert lines.get_ylabel() == "NDCG@20" and {"0 %", "100 %"} <= set(words(figure))
    check_readable(figure)


def test_the_bars_of_a_width_stand_around_it_in_the_order_of_the_stages() -> None:
    propagated, rotated = draw_stages(TABLE).axes[1].containers
    places = [[bar.get_x() + bar.get_width() / 2 for bar in group] for group in (propagated, rotated)]
    assert places[0] == pytest.approx([-0.2, 0.8]) and places[1] == pytest.approx([0.2, 1.2])


@pytest.mark.parametrize("size", SIZES)
def test_one_stage_alone_has_no_gains(size: str) -> None:
    figure = draw_stages(TABLE.filter(stage="ials"), size=size)
    assert len(figure.axes) == 1 and legend_names(figure) == ["iALS on its principal axes"]
    check_readable(figure)


@pytest.mark.robustness
def test_what_is_no_table_of_stages_is_refused() -> None:
    with pytest.raises(DataError, match="no rows to draw"):
        draw_stages(TABLE.filter(stage="nested"))
    with pytest.raises(DataError, match="table has no column gain"):
        draw_stages(TABLE.drop("gain"))
    with pytest.raises(DataError, match="'fried'"):
        draw_stages(TABLE.with_columns(stage=pl.lit("fried")))
