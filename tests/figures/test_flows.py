"""The alluvial diagram and the tree: what is drawn from clusters with a known answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from drawn import check_readable, texts, words
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch, Rectangle

from mrl.errors import ConfigError, DataError
from mrl.figures.flows import (
    box_lines,
    cluster_caption,
    count_crossings,
    draw_alluvial,
    draw_tree,
    inherit_colours,
    spread_names,
    untangle,
)
from mrl.figures.style import GREY, PALETTE, SIZES
from mrl.hierarchy.tree import build_tree, count_flows, name_clusters

each_size = pytest.mark.parametrize("size", SIZES)
WIDTHS = (4, 8)
CLUSTERS = np.array([[0] * 6 + [1] * 4, [0] * 4 + [1] * 2 + [2] * 4])  # the first splits 4 : 2, the second stays
HAS_LABEL = np.array([[1, 0, 0]] * 4 + [[0, 1, 0]] * 2 + [[0, 0, 1]] * 4, dtype=bool)
TITLES = pl.DataFrame({"title": [f"Film {n}" for n in range(10)]})


def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    names = name_clusters(CLUSTERS, WIDTHS, has_label=HAS_LABEL, names=["Crime", "War", "Horror"], labels=TITLES)
    return count_flows(CLUSTERS, WIDTHS), names


@each_size
def test_alluvial(size: str) -> None:
    figure = draw_alluvial(*tables(), size=size)
    (ax,) = figure.axes
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    ribbons = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    assert sorted(box.get_height() for box in boxes) == [2, 4, 4, 4, 6]  # heights are numbers of items
    thick = sorted(patch.get_path().vertices[7, 1] - patch.get_path().vertices[0, 1] for patch in ribbons)
    assert thick == pytest.approx([2, 4, 4])
    columns = sorted({round(box.get_x(), 6) for box in boxes})
    assert len(columns) == 2
    for column in columns:  # boxes of a column do not touch
        spans = sorted(
            (box.get_y(), box.get_y() + box.get_height()) for box in boxes if round(box.get_x(), 6) == column
        )
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
    colours = [to_hex(box.get_facecolor()).upper() for box in boxes]
    # a cluster has its origin's colour, but one of most items hands it to its largest part only
    assert sorted(colours) == sorted([PALETTE[0]] * 2 + [PALETTE[1]] * 2 + [PALETTE[2]])
    assert {"width 4", "width 8", "60 % of items", "Horror\n100 % (×2.5)"} <= set(words(figure))
    assert "Horror 100 % (×2.5): Film 6; Film 7" in words(figure) or size == "column"
    assert any(text.startswith("War") and "Film 4" in text for text in words(figure))
    check_readable(figure)


@each_size
def test_no_name_lies_on_a_ribbon(size: str) -> None:
    """A name is within its box, or to the right of the last ones."""
    figure = draw_alluvial(*tables(), size=size)
    (ax,) = figure.axes
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    end = max(box.x1 for box in boxes)
    for text, extent, _ in texts(figure):
        within = any(
            box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1 for box in boxes
        )
        assert within or extent.x0 >= end or text.startswith("width"), text


def test_ribbons_meet_the_boxes() -> None:
    """What leaves a box fills it, and so does what enters."""
    (ax,) = draw_alluvial(*tables()).axes
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    ends = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    for x, sides in (
        (min(box.get_x() for box in boxes), [(v[0, 1], v[7, 1]) for v in ends]),
        (max(box.get_x() for box in boxes), [(v[3, 1], v[4, 1]) for v in ends]),
    ):
        for box in (box for box in boxes if box.get_x() == x):
            inside = [
                (a, b) for a, b in sides if a >= box.get_y() - 1e-9 and b <= box.get_y() + box.get_height() + 1e-9
            ]
            assert sum(b - a for a, b in inside) == pytest.approx(box.get_height())


@each_size
def test_alluvial_of_many_clusters_stays_readable(size: str) -> None:
    """Three widths, up to 64 clusters: all of the last width are named, and no name lies on another."""
    rng = np.random.default_rng(0)
    clusters = np.stack([rng.integers(0, number, 600) for number in (4, 16, 64)])
    has_label = rng.random((600, 5)) < 0.3
    genres = ["Children's", "Documentary", "Film-Noir", "Science fiction", "$ and $"]
    names = name_clusters(
        clusters, (4, 16, 64), has_label=has_label, names=genres, labels=pl.DataFrame({"title": ["A $5 film"] * 600})
    )
    figure = draw_alluvial(count_flows(clusters, (4, 16, 64)), names, size=size)
    assert sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches) == 84
    assert figure.get_size_inches()[1] <= 9
    check_readable(figure)
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    edge = max(box.x1 for box in boxes)
    beside = [extent for _, extent, _ in texts(figure) if extent.x0 >= edge]
    assert len(beside) == 64
    tops = sorted(box.y1 for box in boxes if box.x1 == edge)
    leaders = figure.axes[0].lines  # each from the middle of its box to its name, none across another
    ends = np.array(sorted(line.get_ydata().tolist() for line in leaders))
    assert len(leaders) == len(tops) and (np.diff(ends[:, 1]) > 0).all()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 30))
def test_names_are_a_line_apart_and_beside_their_boxes_where_they_can_be(items: list[int], line: int) -> None:
    column = [(8, cluster) for cluster in range(len(items))]
    sizes = dict(zip(column, items, strict=True))
    centres = dict(zip(column, np.cumsum(items) - np.array(items) / 2, strict=True))
    height = max(sum(items), line)
    places = spread_names(column, centres, sizes, line, height)
    assert len(places) == min(len(items), height // line)
    assert min(sizes[node] for node in places) >= max([sizes[n] for n in column if n not in places], default=0)
    at = list(places.values())
    assert list(places) == sorted(places) and all(low + line <= high + 1e-9 for low, high in pairwise(at))
    assert at[0] >= line / 2 - 1e-9 and at[-1] <= height - line / 2 + 1e-9
    if min(items) >= line:
        assert places == pytest.approx(centres)


def test_a_cluster_has_the_colour_of_its_main_source() -> None:
    order = {4: [(4, 0), (4, 1)], 8: [(8, 0), (8, 1), (8, 2)], 16: [(16, 0)]}
    sizes = {(4, 0): 5, (4, 1): 5, (8, 0): 4, (8, 1): 3, (8, 2): 3, (16, 0): 7}
    links = {((4, 0), (8, 0)): 4, ((4, 0), (8, 1)): 1, ((4, 1), (8, 1)): 2, ((4, 1), (8, 2)): 3, ((8, 1), (16, 0)): 3}
    blue, orange = PALETTE[:2]
    halves = {(4, 0): blue, (4, 1): orange, (8, 0): blue, (8, 1): orange, (8, 2): orange, (16, 0): orange}
    assert inherit_colours(order, links, sizes) == halves  # none has more than half of the items
    most = inherit_colours(order, links, sizes | {(4, 1): 6})
    assert (most[8, 1], most[8, 2]) == (orange, PALETTE[2])
    assert inherit_colours(order, {}, sizes)[16, 0] == GREY


def test_captions_fit_their_room() -> None:
    row = {"typical": "Crime / War", "titles": "Fargo; Alien", "share": 0.3}
    assert cluster_caption(row, False, 2.0) == "Crime / War" and cluster_caption(row, False, 0.35) == "Crime"
    assert cluster_caption(row, True, 2.0) == "Crime: Fargo; Alien"
    assert cluster_caption(row, True, 0.8) == "Crime: Fargo"
    most = row | {"share": 0.81}
    assert cluster_caption(most, False, 2.0) == "81 % of items" and cluster_caption(most, False, 0.35) == "81 %"


def test_captions_say_the_share_of_the_label_and_its_lift() -> None:
    row = {"typical": "War / Drama", "label_share": 0.38, "lift": 8.2, "titles": "Platoon; Glory", "share": 0.3}
    assert cluster_caption(row, False, 2.0) == "War 38 % (×8) / Drama"
    assert cluster_caption(row, False, 0.8) == "War 38 % (×8)" and cluster_caption(row, False, 0.3) == "War"
    assert cluster_caption(row, True, 2.0) == "War 38 % (×8): Platoon; Glory"
    assert cluster_caption(row, True, 0.8) == "War: Platoon"
    assert cluster_caption(row | {"lift": 1.42}, False, 0.9) == "War 38 % (×1.4)"
    assert cluster_caption({"typical": None, "titles": "Fargo; Alien"}, True, 0.4) == "Fargo"
    assert box_lines(row, 1.0, 2) == ["War", "38 % (×8)"] and box_lines(row, 1.0, 1) == ["War 38 % (×8)"]
    assert box_lines(row, 1.0, 0) == [] and box_lines(row | {"share": 0.6}, 1.0, 3) == ["60 % of items"]


def test_alluvial_takes_one_clustering() -> None:
    flows, names = tables()
    other = [frame.with_columns(clustering=pl.lit("tree")) for frame in (flows.head(1), names)]
    figure = draw_alluvial(pl.concat([flows, other[0]]), pl.concat([names, other[1]]), clustering="fixed")
    assert sum(isinstance(patch, PathPatch) for patch in figure.axes[0].patches) == 3
    with pytest.raises(DataError, match="no row for cluster 2 of width 8"):
        draw_alluvial(flows, names.filter(pl.col("cluster") != 2))
    with pytest.raises(DataError, match="no rows"):
        draw_alluvial(flows, names, clustering="by_width")


def slow_crossings(order: dict, links: dict) -> int:
    total = 0
    for (a, b), count in links.items():
        for (c, d), other in links.items():
            if (
                a[0] == c[0]
                and order[a[0]].index(a) < order[c[0]].index(c)
                and order[b[0]].index(b) > order[d[0]].index(d)
            ):
                total += count * other
    return total


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_untangling_never_adds_crossings(items: list) -> None:
    widths = [4, 8, 16]
    sizes: dict = {}
    links: dict = {}
    for path in items:
        nodes = list(zip(widths, path, strict=True))
        for node in nodes:
            sizes[node] = sizes.get(node, 0) + 1
        for link in pairwise(nodes):
            links[link] = links.get(link, 0) + 1
    before = {width: sorted((n for n in sizes if n[0] == width), key=lambda n: (-sizes[n], n)) for width in widths}
    order = untangle(sizes, links, widths)
    assert {width: set(column) for width, column in order.items()} == {
        width: set(column) for width, column in before.items()
    }
    assert count_crossings(order, links) == slow_crossings(order, links) <= count_crossings(before, links)


def test_untangling_finds_the_order_without_crossings() -> None:
    links = {((4, 0), (8, 2)): 5, ((4, 1), (8, 1)): 3, ((4, 2), (8, 0)): 2}
    sizes = {(4, 0): 5, (4, 1): 3, (4, 2): 2, (8, 0): 2, (8, 1): 3, (8, 2): 5}
    assert count_crossings(untangle(sizes, links, [4, 8]), links) == 0


def tree() -> pl.DataFrame:
    flows, names = tables()
    return build_tree(names, flows)


@each_size
def test_catalogue(size: str) -> None:
    figure = draw_tree(tree(), size=size)
    (ax,) = figure.axes
    assert sum(isinstance(patch, PathPatch) for patch in ax.patches) == 5  # a branch a cluster
    shown = words(figure)
    assert {"width 4", "width 8"} <= set(shown) and any(text.startswith("Horror") for text in shown)
    leaves = [text for text in shown if text.endswith((" (2)", " (4)"))]
    assert [text[-4:] for text in leaves] == [" (4)", " (2)", " (4)"]  # in the order of their parents, with their sizes
    assert leaves[0].startswith("Crime") and "Film 0" in leaves[0] and "Film 6" in leaves[2]
    thick = [patch.get_linewidth() for patch in ax.patches]
    assert thick[0] == max(thick) and thick[3] == min(thick)
    check_readable(figure)


def test_catalogue_is_cut_where_it_has_too_many_leaves() -> None:
    figure = draw_tree(tree(), max_leaves=2)
    assert len(figure.axes[0].patches) == 2 and "width 8" not in words(figure)
    with pytest.raises(ConfigError, match="max_leaves=1: the first level already has 2"):
        draw_tree(tree(), max_leaves=1)
