"""Aligned maps: coordinates that keep neighbours together and stay put, colours, small multiples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points, words

from mrl.errors import ConfigError, DataError
from mrl.figures.maps import OTHER, compute_maps, draw_maps, group_by_label
from mrl.figures.style import PALE, SIZES
from mrl.words import label_colours

each_size = pytest.mark.parametrize("size", SIZES)


def two_islands() -> tuple[np.ndarray, pl.DataFrame]:
    """41 items: 20 in each of two directions of the first two dimensions, and one of which nothing is known."""
    rng = np.random.default_rng(0)
    items = 0.1 * rng.normal(size=(41, 4))
    items[:20, 0] += 1
    items[20:40, 1] += 1
    items[40] = 0
    genres = [["Crime"]] * 20 + [["War", "Crime"]] * 20 + [[]]
    return items, pl.DataFrame({"title": [f"Film {n}" for n in range(41)], "genres": genres})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_aligned_maps() -> None:
    """One test, since compiling UMAP is what takes long."""
    items, labels = two_islands()
    options = {"item_ids": np.arange(41) + 100, "num_neighbours": 6, "epochs": 30, "seed": 3}
    table = compute_maps(items, (2, 4), labels, **options)
    assert table.columns == ["item", "width", "x", "y", "label", "title"]
    assert table["width"].to_list() == [2] * 40 + [4] * 40  # the item of zeros is left out
    assert table["item"].to_list() == [*range(100, 140)] * 2
    assert table.row(25)[4:] == ("Crime|War", "Film 25")
    for width in (2, 4):
        place = table.filter(pl.col("width") == width).select("x", "y").to_numpy()
        near = np.argsort(((place[:, None] - place) ** 2).sum(-1), axis=1)[:, 1:6]
        assert ((near < 20) == (np.arange(40) < 20)[:, None]).mean() > 0.95
    both = table.select("x", "y").to_numpy().reshape(2, 40, 2)
    moved, spread = np.linalg.norm(both[0] - both[1], axis=1).mean(), both.std()
    assert moved < spread  # tied: an item is near its own place on the next map
    assert compute_maps(items, (2, 4), labels, **options).equals(table)
    few = compute_maps(items, (4,), labels=None, sample=20, **(options | {"item_ids": None}))
    assert len(few) == 20 and few["label"].unique().to_list() == [""]
    assert few["title"].to_list() == [str(item) for item in few["item"]]


def test_aligned_maps_checks_first() -> None:
    items, labels = two_islands()
    with pytest.raises(ConfigError, match="num_neighbours=50: must be at least 2 and well below the 40 items"):
        compute_maps(items, (2, 4), num_neighbours=50)
    with pytest.raises(DataError, match="labels has 40 rows for 41 items"):
        compute_maps(items, (2, 4), labels.head(40))
    with pytest.raises(ConfigError, match="widths"):
        compute_maps(items, (2, 8))


def placed(widths: tuple[int, ...] = (4, 8)) -> pl.DataFrame:
    """Five items: two of A, one of A and B, one of C, one without a label."""
    rows = [
        (item, width, float(item), float(item * width), label, f"Film {item}")
        for width in widths
        for item, label in enumerate(["A", "A", "A|B", "C", ""])
    ]
    return pl.DataFrame(rows, schema=["item", "width", "x", "y", "label", "title"], orient="row")


def test_an_item_takes_the_rarest_of_its_top_labels() -> None:
    table, groups = group_by_label(placed(), top=2)
    assert groups == ["A", "B", OTHER]
    assert table["group"].to_list() == ["A", "A", "B", OTHER, OTHER] * 2
    assert table.select(placed().columns).equals(placed())
    assert group_by_label(placed(), top=1)[1] == ["A", OTHER]
    branches = placed().with_columns(label=pl.Series(["2: x", "2: x", "0: y", "1: z", ""] * 2))
    assert group_by_label(branches)[1] == ["0: y", "1: z", "2: x", OTHER]
    with pytest.raises(ConfigError, match="top=13"):
        group_by_label(placed(), top=13)


@each_size
@pytest.mark.parametrize("widths", [(4, 8), (4, 8, 16, 32, 64)])
def test_maps(size: str, widths: tuple[int, ...]) -> None:
    figure = draw_maps(placed(widths), top=3, size=size)
    shown = figure.axes[: len(widths)]
    assert [ax.get_title("left") for ax in shown] == [f"width {width}" for width in widths]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in shown}) == 1  # one frame for all
    for ax in shown:
        assert {line.get_label(): len(line.get_xdata()) for line in ax.lines} == {OTHER: 1, "A": 2, "B": 1, "C": 1}
        assert ax.lines[0].get_label() == OTHER and colour(ax.lines[0]) == PALE  # grey, and behind the others
        assert [colour(line) for line in ax.lines[1:]] == list(label_colours("ABC").values())
    names = ["A (2)", "B (1)", "C (1)", "other (1)"]
    if len(widths) == 2:
        assert legend_names(figure) == names
        assert points(shown[0].lines[1]) == [(0, 0), (1, 4)]
    else:
        assert [text.get_text() for text in figure.axes[5].get_legend().get_texts()] == names
    check_readable(figure)


def test_islands_far_off_are_drawn_on_the_edge() -> None:
    far = placed((4,)).with_columns(item=pl.int_range(pl.len()))
    table = pl.concat([far.with_columns(item=pl.col("item") + 5 * n) for n in range(20)])
    table = table.with_columns(x=pl.when(pl.col("item") == 0).then(1e6).otherwise("x"))
    (ax, *_) = draw_maps(table, top=1).axes
    right = ax.get_xlim()[1]
    assert 4 < right < 6
    assert max(max(line.get_xdata()) for line in ax.lines) == right


def test_maps_without_labels_have_no_legend() -> None:
    figure = draw_maps(placed().with_columns(label=pl.lit("")))
    assert not figure.legends and words(figure) == ["width 4", "width 8"]
