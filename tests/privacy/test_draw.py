"""Figures of privacy show the numbers of their tables."""

from __future__ import annotations

from math import inf

import polars as pl
import pytest
from drawn import check_readable, colour, points, words

from mrl.errors import DataError
from mrl.privacy.draw import draw_attack, draw_epsilon
from mrl.words import BLUE

ATTACK = pl.DataFrame(
    {
        "summed": [1, 2, 8, 64, 1],
        "masked": [False, False, False, False, True],
        "cosine": [1.0, 0.8, 0.7, 0.68, 0.25],
        "guess": [0.67] * 5,
        "right": [1.0, 0.5, 0.2, 0.08, 0.05],
    }
)


def test_attack():
    figure = draw_attack(ATTACK)
    check_readable(figure)
    (ax,) = figure.axes
    lines = [points(line) for line in ax.lines if colour(line) == BLUE]
    assert lines == [[(1, 1.0), (2, 0.8), (8, 0.7), (64, 0.68)], [(1, 0.25)]]
    assert "clients summed" in words(figure) and "one upload under masks" in words(figure)


def test_epsilon():
    rows = [
        {"epsilon": epsilon, "seed": seed, "width": width, "metric": "recall", "k": 20, "value": value + seed / 100}
        for epsilon, value in ((1.0, 0.1), (8.0, 0.2), (inf, 0.3))
        for seed in (0, 1)
        for width in (4, 8)
    ]
    figure = draw_epsilon(pl.DataFrame(rows), floor=0.15)
    check_readable(figure)
    (ax,) = figure.axes
    assert points(ax.lines[0]) == [(0, 0.105), (1, 0.205), (2, 0.305)]
    assert {"1", "8", "∞", "width 4", "Recall@20"} <= set(words(figure))


def test_a_table_of_something_else_is_refused():
    with pytest.raises(DataError, match="summed"):
        draw_attack(pl.DataFrame({"width": [1]}))
