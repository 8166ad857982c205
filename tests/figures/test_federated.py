"""The figure of federated training: what is drawn from curves with a known answer."""

from __future__ import annotations

import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points

from mrl.errors import DataError
from mrl.figures.federated import draw_traffic
from mrl.figures.style import SIZES
from mrl.words import BLUE, VERMILION

each_size = pytest.mark.parametrize("size", SIZES)


def curves(*datasets: str) -> pl.DataFrame:
    rows = []
    for dataset in datasets:
        for seed, more in ((0, 0.0), (1, 0.02)):
            for epoch, value in ((1, 0.1), (2, 0.29), (3, 0.3)):
                rows.append((dataset, "closed form", "ndcg@20", seed, epoch, value + more, 2.0**epoch))
                rows.append((dataset, "HeteFedRec, narrow", "ndcg@20", seed, epoch, value / 2, epoch / 10))
                rows.append((dataset, "central", "ndcg@20", seed, epoch, value + 0.1, 0.0))
        rows.append((dataset, "closed form", "ndcg@20", 0, 4, 0.9, 16.0))  # a round that the other seed has not
    columns = ["dataset", "model", "metric", "seed", "epoch", "value", "megabytes"]
    return pl.DataFrame(rows, schema=columns, orient="row")


@each_size
def test_accuracy_against_megabytes(size: str) -> None:
    figure = draw_traffic(curves("ml-100k", "phone"), size=size)
    assert [ax.get_title("left") for ax in figure.axes] == ["ml-100k", "phone"]
    closed, reached, other, *_ = figure.axes[0].lines
    assert points(closed) == [(2, 0.11), (4, 0.3), (8, 0.31)] and colour(closed) == BLUE
    assert points(reached) == [(4, 0.3)]
    assert points(other)[0] == (0.1, 0.05) and colour(other) == VERMILION and other.get_linestyle() == ":"
    assert list(figure.axes[0].lines[-1].get_ydata()) == [0.4, 0.4]  # the central model, at its best
    assert legend_names(figure) == ["closed form", "HeteFedRec, narrow", "central"]
    check_readable(figure)


def test_curves_without_their_columns_are_refused() -> None:
    with pytest.raises(DataError, match="no column megabytes"):
        draw_traffic(curves("ml-100k").drop("megabytes"))
