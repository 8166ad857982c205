"""Figures of lists, costs and differences: what is drawn from tables with a known answer."""

from __future__ import annotations

import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points

from mrl.errors import DataError
from mrl.figures.panels import draw_costs, draw_differences, draw_lists, draw_popularity
from mrl.figures.style import SIZES
from mrl.words import model_looks

each_size = pytest.mark.parametrize("size", SIZES)
LISTS = {"coverage": (0.2, 0.3), "gini": (0.9, 0.8), "novelty": (2.0, 2.5), "popularity": (250.0, 200.0)}


def table(columns: list[str], rows: list[tuple], **facts) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(**{n: pl.lit(v) for n, v in facts.items()})


@each_size
def test_lists_by_width(size: str) -> None:
    rows = [
        (model, width, metric, value + shift)
        for metric, values in LISTS.items()
        for model, shift in (("nested", 0.0), ("rotated", 0.05))
        for width, value in zip((4, 64), values, strict=True)
    ]
    figure = draw_lists(table(["model", "width", "metric", "value"], rows), size=size)
    assert [ax.get_ylabel() for ax in figure.axes] == [
        *("share of items recommended", "Gini index of exposure", "novelty (bits)", "popularity (interactions)")
    ]
    assert [points(line) for line in figure.axes[0].lines] == [[(4, 0.2), (64, 0.3)], [(4, 0.25), (64, 0.35)]]
    assert points(figure.axes[3].lines[1]) == [(4, 250.05), (64, 200.05)]
    assert [colour(line) for line in figure.axes[1].lines] == [
        look.colour for look in model_looks(["nested", "rotated"]).values()
    ]
    assert legend_names(figure) == ["nested", "rotated"]
    check_readable(figure)


@each_size
def test_popularity_projected_out(size: str) -> None:
    rows = [
        (gamma, width, metric, round(width / 100 - gamma * (metric == "recall") / 50, 6))
        for metric in ("recall", "tail_recall", "coverage")
        for width in (4, 8)
        for gamma in (1.0, 0.0, 0.5)
    ]
    figure = draw_popularity(table(["gamma", "width", "metric", "value"], rows, k=20), size=size)
    titles = ["Recall@20", "Tail recall@20", "share of items recommended"]
    assert [ax.get_ylabel() for ax in figure.axes] == titles
    assert [points(line) for line in figure.axes[0].lines] == [
        [(0, 0.04), (0.5, 0.03), (1, 0.02)],
        [(0, 0.08), (0.5, 0.07), (1, 0.06)],
    ]
    assert legend_names(figure) == ["width 4", "width 8"]
    check_readable(figure)


@each_size
def test_accuracy_by_cost(size: str) -> None:
    columns = ["width", "value", "kept", "bytes_per_item", "multiply_adds"]
    rows = [(width, 0.1 * n, n / 3, 4 * width, 1000 * width) for n, width in enumerate((4, 8, 64), 1)]
    figure = draw_costs(table(columns, rows, metric="recall", k=20), size=size)
    kept, *more = [ax for ax in figure.axes if ax.lines]
    assert points(kept.lines[0]) == [(16, 0.333333), (32, 0.666667), (256, 1)]
    assert kept.get_ylabel() == "share of full Recall@20" and kept.get_xlabel() == "bytes of an item's vector"
    (above,) = kept.child_axes
    assert above.get_xlabel() == "multiply-adds of a query"
    assert [text.get_text() for text in above.get_xticklabels()] == ["4,000", "8,000", "64k"]
    assert list(above.get_xticks()) == [16, 32, 256]
    if size == "page":
        assert points(more[0].lines[0]) == [(16, 0.1), (32, 0.2), (256, 0.3)] and more[0].get_ylabel() == "Recall@20"
    assert not figure.legends
    check_readable(figure)


@each_size
def test_paired_differences(size: str) -> None:
    columns = ["other", "width", "metric", "difference", "low", "high", "p_holm"]
    rows = [
        (other, width, metric, shift * n, shift * n - 0.01, shift * n + 0.01, p)
        for metric in ("recall", "ndcg")
        for other, shift in (("shared", 0.05), ("rotated", -0.03))
        for n, (width, p) in enumerate(((4, 0.001), (64, 0.2)), 1)
    ]
    figure = draw_differences(table(columns, rows, model="nested", k=20), size=size)
    assert [ax.get_ylabel() for ax in figure.axes] == ["difference in Recall@20", "difference in NDCG@20"]
    zero, *marks = figure.axes[0].lines
    assert zero.get_ydata() == [0, 0]
    assert [points(line) for line in marks] == [[(-0.175, 0.05)], [(0.825, 0.1)], [(0.175, -0.03)], [(1.175, -0.06)]]
    _, shared, rotated = model_looks(["nested", "shared", "rotated"]).values()
    assert [line.get_markerfacecolor() for line in marks] == [shared.colour, "white", rotated.colour, "white"]
    assert {line.get_marker() for line in marks} == {shared.marker, rotated.marker}
    (first, _) = figure.axes[0].collections
    assert [[tuple(round(float(x), 6) for x in end) for end in line] for line in first.get_segments()] == [
        [(-0.175, 0.04), (-0.175, 0.06)],
        [(0.825, 0.09), (0.825, 0.11)],
    ]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["4", "64"]
    assert legend_names(figure) == [
        "nested minus MRL4Rec, shared negatives",
        "nested minus rotated",
        "p ≥ 0.05 after Holm",
    ]
    check_readable(figure)


def test_all_told_apart_needs_no_hollow_mark() -> None:
    row = {"model": "a", "other": "b", "width": 4, "metric": "recall", "k": 20}
    row |= {"difference": 0.1, "low": 0.0, "high": 0.2, "p_holm": 0.01}
    assert legend_names(draw_differences(pl.DataFrame([row]))) == ["a minus b"]


def test_tables_without_what_is_drawn_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        draw_lists(pl.DataFrame(schema={"width": pl.Int64, "metric": pl.String, "value": pl.Float64}))
    with pytest.raises(DataError, match="no column kept"):
        draw_costs(table(["width", "value"], [(4, 0.1)], metric="recall", k=20, bytes_per_item=4, multiply_adds=1))
    with pytest.raises(DataError, match="no column p_holm"):
        draw_differences(
            table(["width"], [(4,)], model="a", other="b", metric="recall", k=20, difference=0, low=0, high=0)
        )
