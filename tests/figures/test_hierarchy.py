"""Figures of what the levels mean: what is drawn from tables with a known answer."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points, words

from mrl.errors import DataError
from mrl.figures.hierarchy import (
    axis_title,
    draw_block_probes,
    draw_class_probes,
    draw_cluster_quality,
    draw_pair_matrix,
)
from mrl.figures.style import GREY, SIZES
from mrl.words import model_looks

each_size = pytest.mark.parametrize("size", SIZES)


def similarity() -> pl.DataFrame:
    """Overlap of three widths: 1 on the diagonal, else 0.5 or 0.25; one value of CKA besides."""
    widths = (4, 8, 16)
    rows = [
        {"width": a, "other_width": b, "metric": "overlap", "value": 0.5 ** abs(i - j), "chance": 0.01}
        for i, a in enumerate(widths)
        for j, b in enumerate(widths)
    ]
    rows.append({"width": 4, "other_width": 8, "metric": "cka", "value": 0.9, "chance": 0.2})
    return pl.DataFrame(rows)


@each_size
def test_pair_matrix(size: str) -> None:
    figure = draw_pair_matrix(similarity(), size=size)
    ax, bar = figure.axes
    (mesh,) = ax.collections
    values = np.ma.filled(mesh.get_array(), np.nan)
    assert np.isnan(np.diag(values)).all()  # a width beside itself is the same by definition
    assert values[0, 1:].tolist() == [0.5, 0.25] and values[2, :2].tolist() == [0.25, 0.5]
    assert mesh.get_clim() == (0.25, 0.5) and mesh.get_cmap().name == "cividis"
    assert [text.get_text() for text in ax.texts].count("0.50") == 4
    across, down = ([label.get_text() for label in labels] for labels in (ax.get_xticklabels(), ax.get_yticklabels()))
    assert across == down == ["4", "8", "16"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the narrowest width on top
    assert ax.get_title("left") == "chance 0.01" and ax.get_xlabel() == ax.get_ylabel() == "width"
    assert bar.get_ylabel() == "nearest neighbours in common"
    check_readable(figure)


def test_pair_matrix_writes_dark_on_light_and_light_on_dark() -> None:
    table = similarity().with_columns(pl.col("value") ** 3)
    inks = {text.get_text(): text.get_color() for text in draw_pair_matrix(table).axes[0].texts}
    assert inks == {"0.12": "black", "0.02": "white"}


@each_size
def test_pair_matrix_of_nesting_for_two_models(size: str) -> None:
    """Only finer with coarser: the other cells stay blank. One scale for all."""
    one = pl.DataFrame({"width": [8, 16, 16], "other_width": [4, 4, 8], "metric": "entropy", "value": [0.5, 1.0, 0.0]})
    one = one.with_columns(chance=pl.Series([2.0, 2.0, 2.8]))
    table = pl.concat(
        [one.with_columns(model=pl.lit("nested")), one.with_columns(pl.col("value") * 1.5, model=pl.lit("x"))]
    )
    figure = draw_pair_matrix(table, metric="entropy", size=size)
    first, second, bar = figure.axes
    assert [ax.get_title("left") for ax in (first, second)] == ["nested\nchance 2 to 2.8", "x\nchance 2 to 2.8"]
    assert np.ma.filled(first.collections[0].get_array(), np.nan).tolist()[1] == [1.0, 0.0]
    assert [text.get_text() for text in second.texts] == ["0.75", "1.50", "0.00"]
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == (0, 1.5)
    assert first.get_ylabel() == "fine width" and first.get_xlabel() == "coarse width"
    assert bar.get_ylabel() == "H(coarse | fine), bits"
    check_readable(figure)


def test_pair_matrix_of_more_models_than_fit_a_row() -> None:
    models = [similarity().with_columns(pl.lit(name).alias("model")) for name in "abcd"]
    assert len(draw_pair_matrix(pl.concat(models), size="page").axes) == 4 + 1  # and the colour bar


def test_a_heat_map_has_the_scale_of_its_values_and_a_bar_as_high_as_one_row() -> None:
    small = similarity().with_columns(value=pl.col("value") * 0.35, chance=pl.lit(0.01))
    models = [small.with_columns(pl.lit(name).alias("model")) for name in "abcdefg"]
    figure = draw_pair_matrix(pl.concat(models), size="page")
    first, bar = figure.axes[0], figure.axes[-1]
    assert first.collections[0].get_clim() == (0.35 / 4, 0.35 / 2)
    assert bar.get_position().height * figure.get_figheight() < 3  # inches, however many rows


def test_pair_matrix_refuses_what_it_cannot_show() -> None:
    with pytest.raises(DataError, match="no metric share; it has overlap, cka"):
        draw_pair_matrix(similarity(), metric="share")
    with pytest.raises(DataError, match="filter it to one clustering"):
        draw_pair_matrix(pl.concat([similarity(), similarity()]))


def agreement() -> pl.DataFrame:
    rows = [
        (model, clustering, width, "genres", metric, value + width / 100, chance)
        for model, value in (("nested", 0.2), ("shuffled", 0.1))
        for clustering in ("fixed", "by_width")
        for width in (4, 16)
        for metric, chance in (("ami", 0.0), ("purity", 0.05))
    ]
    schema = ["model", "clustering", "width", "label", "metric", "value", "chance"]
    return pl.DataFrame(rows, schema=schema, orient="row")


@each_size
def test_cluster_quality(size: str) -> None:
    figure = draw_cluster_quality(agreement(), metric="ami", size=size)
    fixed, by_width = figure.axes
    assert fixed.get_title("left") == "the same number of clusters"
    assert by_width.get_title("left") == "more clusters when wider"
    assert words(figure).count("AMI with genres") == (1 if size == "page" else 2)
    line, chance, other, _ = fixed.lines
    assert [y for _, y in points(line)] == [0.24, 0.36] and [y for _, y in points(other)] == [0.14, 0.26]
    low, high = fixed.get_xlim()
    assert low < line.get_xdata()[0] / 1.1 and high > other.get_xdata()[1] * 1.1  # away from the ends of the axis
    assert all(line.get_xdata() < [4, 16]) and all(other.get_xdata() > [4, 16])  # side by side: none hides another
    assert points(chance) == [(4, 0), (16, 0)] and chance.get_linestyle() == ":"
    looks = model_looks(["nested", "shuffled"])
    assert colour(line) == looks["nested"].colour and colour(other) == looks["shuffled"].colour
    assert all(colour(level) == GREY.upper() for level in fixed.lines[1::2])  # as in the legend, whatever the model
    assert fixed.get_ylim() == by_width.get_ylim()
    assert fixed.get_ylim()[0] < 0 < 0.36 < fixed.get_ylim()[1]  # the chance level is above the axis, not on it
    assert legend_names(figure) == ["nested", "shuffled", "chance"]
    check_readable(figure)


def test_cluster_quality_over_seeds() -> None:
    table = agreement().filter(pl.col("clustering") == "fixed", pl.col("model") == "nested", pl.col("metric") == "ami")
    seeds = [table.with_columns(pl.col("value") + shift, seed=pl.lit(n)) for n, shift in enumerate((0.0, 0.1, 0.05))]
    figure = draw_cluster_quality(pl.concat(seeds))
    (ax,) = figure.axes
    assert [y for _, y in points(ax.lines[0])] == pytest.approx([0.29, 0.41])
    (bars,) = ax.collections
    assert np.array(bars.get_segments()) == pytest.approx(np.array([[[4, 0.24], [4, 0.34]], [[16, 0.36], [16, 0.46]]]))
    assert legend_names(figure) == ["nested", "chance", "range of 3 seeds"]
    check_readable(figure)
    with pytest.raises(DataError, match="several values"):
        draw_cluster_quality(pl.concat(seeds).drop("seed"))


def test_cluster_quality_of_one_model_and_several_labels() -> None:
    """As in `recovery`: a panel a true depth, no clustering."""
    table = agreement().filter(pl.col("model") == "nested", pl.col("clustering") == "fixed").drop("model", "clustering")
    table = pl.concat([table.with_columns(label=pl.lit(name)) for name in ("depth_1", "depth_2")])
    figure = draw_cluster_quality(table, metric="purity")
    assert [ax.get_ylabel() for ax in figure.axes] == ["purity in true depth 1", "purity in true depth 2"]
    assert all(ax.get_ylim()[0] == 0 for ax in figure.axes)
    assert legend_names(figure) == ["chance"]
    check_readable(figure)


def blocks() -> pl.DataFrame:
    """One model: popularity in the first block, genres (two of them) in the second; shape without chance."""
    rows = []
    for start, width, r2, auc, rank in ((0, 4, 0.8, 0.6, 3.5), (4, 8, 0.1, 0.9, 3.9)):
        key = {"part": "block", "start": start, "width": width}
        rows.append({**key, "metric": "effective_rank", "value": rank})
        rows.append({**key, "label": "popularity", "metric": "r2", "value": r2, "chance": -0.01})
        for name, shift in (("Comedy", -0.1), ("Horror", 0.1), (None, 0.0)):
            rows.append({**key, "label": "genres", "class": name, "metric": "auc", "value": auc + shift, "chance": 0.5})
    rows.append({"part": "prefix", "start": 0, "width": 8, "metric": "effective_rank", "value": 7.0})
    return pl.DataFrame(rows, infer_schema_length=None)


@each_size
def test_block_probes(size: str) -> None:
    table = pl.concat([blocks().with_columns(model=pl.lit("nested")), blocks().with_columns(model=pl.lit("rotated"))])
    figure = draw_block_probes(table, size=size)
    assert [ax.get_ylabel() for ax in figure.axes] == ["R²", "AUC", "effective rank"]
    titles = ["popularity (log), predicted", "genres, predicted", "shape of the block"]
    assert [ax.get_title("left") for ax in figure.axes] == titles
    for ax, values in zip(figure.axes, ([0.8, 0.1], [0.6, 0.9], [3.5, 3.9]), strict=True):
        nested, rotated = ax.lines
        assert list(nested.get_ydata()) == list(rotated.get_ydata()) == values
        assert all(nested.get_xdata() < rotated.get_xdata())  # side by side
        assert [label.get_text() for label in ax.get_xticklabels()] == ["1–4", "5–8"]
        assert ax.get_xlabel() == "dimensions" and nested.get_linestyle() == "None"
    bars = [[segment[0, 1] for c in ax.collections for segment in c.get_segments()] for ax in figure.axes]
    assert bars == [[-0.01] * 4, [0.5] * 4, []]
    assert legend_names(figure) == ["nested", "rotated", "chance"]
    check_readable(figure)


def test_block_probes_of_prefixes() -> None:
    figure = draw_block_probes(blocks(), part="prefix")
    (ax,) = figure.axes
    assert points(ax.lines[0]) == [(0, 7)] and not figure.legends
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1–8"]


@each_size
def test_class_probes(size: str) -> None:
    figure = draw_class_probes(blocks(), size=size)
    (ax,) = figure.axes
    chance, first, second = ax.lines
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Comedy", "Horror"]  # the best on top
    assert points(first) == [(0.5, 0), (0.7, 1)] and points(second) == [(0.8, 0), (1.0, 1)]
    assert set(chance.get_xdata()) == {0.5} and colour(chance) == GREY
    assert ax.get_xlabel() == "AUC of a linear probe"
    assert legend_names(figure) == ["dims 1–4", "5–8", "chance"]
    check_readable(figure)
    with pytest.raises(DataError, match="filter it to one model"):
        draw_class_probes(pl.concat([blocks(), blocks()]))


def test_axis_titles() -> None:
    assert axis_title("r2", "year") == "R² of release year" and axis_title("ami", "depth_3") == "AMI with true depth 3"
    assert axis_title("some_metric") == "some metric"
