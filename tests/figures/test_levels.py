"""Which width knows which depth, drawn: a panel a label, a line a model."""

from __future__ import annotations

import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, words
from levels_tables import kept_table

from mrl.errors import DataError
from mrl.figures.levels import draw_levels
from mrl.figures.style import SIZES
from mrl.words import MODELS

KEPT = {"default": {"depth_1": 0.8, "depth_2": 0.3}, "svd": {"depth_1": 0.7, "depth_2": 0.2}}
TABLE = pl.concat([kept_table(KEPT), kept_table(KEPT).filter(label="depth_1").with_columns(dataset=pl.lit("e"))])


@pytest.mark.parametrize("size", SIZES)
def test_a_panel_a_label_and_a_row_a_data_set(size: str) -> None:
    figure = draw_levels(TABLE, size=size)
    assert len(figure.axes) == 3  # two of d, one of e
    first = figure.axes[0]
    assert [line.get_ydata().tolist() for line in first.lines] == [[0.8, 1.0], [0.7, 1.0]]
    assert [colour(line) for line in first.lines] == [MODELS[model].colour for model in KEPT]
    assert legend_names(figure) == [MODELS[model].name for model in KEPT]
    assert {"d", "e", "100 %", "kept of what the full width knows"} <= set(words(figure))
    assert len(first.collections) == 2  # the intervals of both
    check_readable(figure)


def test_values_stand_beside_chance() -> None:
    figure = draw_levels(TABLE, value="value")
    *models, chance = figure.axes[1].lines
    assert models[0].get_ydata() == pytest.approx([0.1 + 0.4 * 0.3, 0.5])
    assert chance.get_ydata().tolist() == [0.1, 0.1] and chance.get_linestyle() == ":"


def test_a_table_without_values_is_refused() -> None:
    with pytest.raises(DataError, match="no rows to draw"):
        draw_levels(TABLE.with_columns(retained=pl.lit(None, dtype=pl.Float64)))
    with pytest.raises(DataError, match="no column retained"):
        draw_levels(TABLE.drop("retained"))
