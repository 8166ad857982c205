"""Figures of training and accuracy: what is drawn from tables with a known answer."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from drawn import check_readable, colour, legend_names, points, texts, words

from mrl.errors import DataError
from mrl.figures.plots import (
    best_epoch,
    draw_accuracy,
    draw_groups,
    draw_learning_curves,
    draw_long_tail,
    draw_oracle_widths,
    metric_title,
)
from mrl.figures.style import SIZES
from mrl.words import BLACK, model_looks

each_size = pytest.mark.parametrize("size", SIZES)


def test_metric_titles() -> None:
    assert metric_title("recall", 20) == metric_title("recall@20") == "Recall@20"
    assert metric_title("ndcg@10") == "NDCG@10" and metric_title("mean_popularity") == "Mean popularity"


@each_size
def test_long_tail(size: str) -> None:
    figure = draw_long_tail([1, 60, 10, 0, 5, 4, 10, 5, 4, 1], size=size)  # two of ten items have 70 of 100
    (ax,) = figure.axes
    assert points(ax.lines[0]) == list(enumerate([60, 10, 10, 5, 5, 4, 4, 1, 1], 1))
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_title("left") == "20% of items (shaded) hold 70% of interactions"
    assert ax.get_xlabel() == "item rank (1 of 10 have no interactions)" and ax.get_ylabel() == "interactions"
    (shaded,) = ax.patches
    assert shaded.get_x() + shaded.get_width() == 2
    assert {"1", "10"} <= set(words(figure))
    check_readable(figure)


def test_long_tail_without_interactions() -> None:
    with pytest.raises(DataError, match="no interactions"):
        draw_long_tail([0, 0])


def history() -> pl.DataFrame:
    """Six epochs of two widths, validated at 2, 4, 6; NDCG@20 is best at 4 (mean .25, .35, .3), Recall@20 at 6; then a
    refit of four."""
    valid = {2: (0.2, 0.3), 4: (0.3, 0.4), 6: (0.32, 0.28)}
    rows = []
    for phase, epochs in (("search", 6), ("refit", 4)):
        for epoch in range(1, epochs + 1):
            row = {
                "phase": phase,
                "epoch": epoch,
                "seconds": 1.0,
                "loss": 0.5,
                "loss_w4": 1 / epoch,
                "loss_w16": 0.5 / epoch,
            }
            if phase == "search" and epoch in valid:
                for width, value in zip((4, 16), valid[epoch], strict=True):
                    row |= {f"recall@20_w{width}": epoch * value, f"ndcg@20_w{width}": value}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


@each_size
def test_learning_curves(size: str) -> None:
    figure = draw_learning_curves(history(), size=size)
    loss, valid = figure.axes
    assert loss.get_ylabel() == "training loss of the level" and valid.get_ylabel() == "validation NDCG@20"
    assert loss.get_xlabel() == valid.get_xlabel() == "epoch"
    search4, refit4, search16, refit16, _ = loss.lines
    assert points(search4) == [(epoch, round(1 / epoch, 6)) for epoch in range(1, 7)]
    assert points(refit16) == [(epoch, round(0.5 / epoch, 6)) for epoch in range(1, 5)]
    assert search4.get_linestyle() == "-" and refit4.get_linestyle() == "--"
    assert colour(search4) == colour(refit4) != colour(search16)
    first, second, mean, star, best = valid.lines
    assert points(first) == [(2, 0.2), (4, 0.3), (6, 0.32)] and points(second) == [(2, 0.3), (4, 0.4), (6, 0.28)]
    assert colour(first) == colour(search4)
    assert points(mean) == [(2, 0.25), (4, 0.35), (6, 0.3)] and points(star) == [(4, 0.35)]
    assert star.get_marker() == "*" and list(best.get_xdata()) == [4, 4]
    assert legend_names(figure) == ["width 4", "width 16", "refit", "their mean, which chooses", "best epoch, 4"]
    assert all(float(tick).is_integer() for ax in figure.axes for tick in ax.get_xticks())
    check_readable(figure)


@each_size
def test_learning_curves_show_the_metric_that_chooses(size: str) -> None:
    _, valid = draw_learning_curves(history(), monitor="recall@20", size=size).axes
    assert valid.get_ylabel() == "validation Recall@20"
    assert points(valid.lines[0]) == [(2, 0.4), (4, 1.2), (6, 1.92)] and points(valid.lines[3]) == [(6, 1.8)]


@each_size
def test_learning_curves_show_the_initial_model_beside_the_axis(size: str) -> None:
    """Least squares were best: nothing trained is kept, and there is no refit."""
    initial = pl.DataFrame({"phase": ["search"], "epoch": [0], "ndcg@20_w4": [0.5], "ndcg@20_w16": [0.6]})
    table = pl.concat([initial, history().filter(phase="search")], how="diagonal")
    figure = draw_learning_curves(table, size=size)
    loss, valid = figure.axes
    assert points(valid.lines[0])[0] == (0, 0.5) and points(valid.lines[3]) == [(0, 0.55)]
    assert all(ax.get_xlim()[0] < 0 and list(ax.lines[-1].get_xdata()) == [0, 0] for ax in figure.axes)
    assert points(loss.lines[0])[0] == (1, 1) and legend_names(figure)[-1] == "best epoch, 0"
    check_readable(figure)


def test_learning_curves_of_a_run_that_was_not_trained_or_has_one_width() -> None:
    initial = pl.DataFrame({"phase": ["search"], "epoch": [0], "ndcg@20_w4": [0.5]})
    figure = draw_learning_curves(initial)
    (valid,) = figure.axes
    assert [points(line) for line in valid.lines[:2]] == [[(0, 0.5)]] * 2
    assert legend_names(figure) == ["width 4", "best epoch, 0"]  # no mean of one width
    check_readable(figure)


def test_the_search_of_settings_and_the_initial_model_are_not_drawn_as_epochs() -> None:
    settings = pl.DataFrame(
        {"phase": ["settings", "rotation"], "propagation": ["[0.5, 0.0]", None], "loss": [None, 0.1]}
    )
    searched = pl.concat([settings, history()], how="diagonal")
    assert [points(line) for ax in draw_learning_curves(searched).axes for line in ax.lines] == [
        points(line) for ax in draw_learning_curves(history()).axes for line in ax.lines
    ]


def test_learning_curves_before_the_first_validation() -> None:
    early = history().head(1).select("phase", "epoch", "loss_w4", "loss_w16")
    figure = draw_learning_curves(early)
    assert len(figure.axes) == 1 and legend_names(figure) == ["width 4", "width 16"]
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "o"]  # a line of one epoch would not be seen
    assert best_epoch(early) is None
    with pytest.raises(DataError, match="no column loss_w"):
        draw_learning_curves(early.select("phase", "epoch"))


def test_best_epoch_is_the_first_of_equals() -> None:
    table = pl.DataFrame({"epoch": [5, 10, 15, 16], "ndcg@20_w4": [0.1, 0.3, 0.3, None]})
    assert best_epoch(table) == 10


def metrics() -> pl.DataFrame:
    """Two seeds of a nested model at 4, 6 and 8, one EASE without width, and rows that must not be drawn."""
    rows = [
        ("nested", seed, "test", w, "recall", 20, v + 0.02 * seed)
        for seed in (0, 1)
        for w, v in ((4, 0.1), (6, 0.2), (8, 0.3))
    ]
    rows += [("ease", 0, "test", None, "recall", 20, 0.35), ("alone", 0, "test", 8, "recall", 20, 0.25)]
    rows += [("nested", 0, "valid", 4, "recall", 20, 0.9), ("nested", 0, "test", 4, "recall", 50, 0.9)]
    rows += [("nested", 0, "test", 4, "ndcg", 20, 0.9)]
    schema = ["model", "seed", "split", "width", "metric", "k", "value"]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(dataset=pl.lit("ml-100k"))


@each_size
def test_accuracy_by_width(size: str) -> None:
    figure = draw_accuracy(metrics(), trained=[4, 8], size=size)
    (ax,) = figure.axes
    assert ax.get_xlabel() == "width (leading dimensions)" and ax.get_ylabel() == "Recall@20"
    assert ax.get_xscale() == "log" and list(ax.get_xticks()) == [4, 6, 8]
    nested = model_looks(["nested", "ease", "alone"])["nested"].colour
    line, filled, hollow, flat, alone, mark = ax.lines
    assert points(line) == [(4, 0.11), (6, 0.21), (8, 0.31)] and colour(line) == nested
    assert points(filled) == [(4, 0.11), (8, 0.31)] and filled.get_markerfacecolor() == nested
    assert points(hollow) == [(6, 0.21)] and hollow.get_markerfacecolor() == "white"
    assert set(flat.get_ydata()) == {0.35} and flat.get_linestyle() == "--" and colour(flat) == BLACK  # EASE's own
    assert points(alone) == points(mark) == [(8, 0.25)]
    (bars,) = ax.collections  # only the model with two seeds has a range
    assert [segment[:, 1].round(6).tolist() for segment in bars.get_segments()] == [
        [0.1, 0.12],
        [0.2, 0.22],
        [0.3, 0.32],
    ]
    names = ["nested", "EASE (no width)", "BPR at each width alone", "not a trained width", "range of 2 seeds"]
    assert legend_names(figure) == names
    check_readable(figure)


def test_accuracy_by_width_of_one_run_has_no_legend() -> None:
    one = metrics().filter(pl.col("model") == "nested", pl.col("seed") == 0).drop("model", "dataset", "seed", "split")
    figure = draw_accuracy(one, metric="recall", k=50)
    assert not figure.legends and points(figure.axes[0].lines[0]) == [(4, 0.9)]
    assert figure.axes[0].get_ylabel() == "Recall@50"
    with pytest.raises(DataError, match="no rows"):
        draw_accuracy(one, metric="map")


def test_accuracy_by_width_of_two_data_sets() -> None:
    two = pl.concat([metrics(), metrics().with_columns(dataset=pl.lit("tool"), value=pl.col("value") / 10)])
    figure = draw_accuracy(two, size="page")
    assert [ax.get_title("left") for ax in figure.axes] == ["ml-100k", "tool"]
    assert points(figure.axes[1].lines[0]) == [(4, 0.011), (6, 0.021), (8, 0.031)]
    check_readable(figure)


def groups() -> pl.DataFrame:
    kinds = {"user activity": ["least", "most"], "item popularity": ["head", "middle", "tail"]}
    rows = [
        (model, grouping, group, width, round(0.1 * (n + 1) + width / 100 + shift, 6))
        for model, shift in (("nested", 0.0), ("rotated", 0.5))
        for grouping, members in kinds.items()
        for n, group in enumerate(members)
        for width in (4, 16)
    ]
    return pl.DataFrame(rows, schema=["model", "grouping", "group", "width", "value"], orient="row")


def test_accuracy_by_group() -> None:
    figure = draw_groups(groups())
    assert [ax.get_title("left") for ax in figure.axes] == [
        "nested\nuser activity", "rotated\nuser activity", "nested\nitem popularity", "rotated\nitem popularity",
    ]  # fmt: skip
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 3, 3]
    assert [y for _, y in points(figure.axes[0].lines[1])] == [0.24, 0.36]
    assert [y for _, y in points(figure.axes[3].lines[0])] == [0.64, 0.76]
    least, most = figure.axes[0].lines
    assert all(least.get_xdata() < most.get_xdata())  # side by side
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes if ax.get_legend()]
    assert legends == [["least", "most"], ["head", "middle", "tail"]]
    for left, right in (figure.axes[:2], figure.axes[2:]):  # one scale a row, and all of it in view
        assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] == 0 and left.get_ylim()[1] > 0.86
    assert [text for text, _, _ in texts(figure)].count("Recall@20") == 2
    check_readable(figure)


def test_groups_of_two_models_in_a_column_share_scale_and_legend() -> None:
    figure = draw_groups(groups().filter(pl.col("grouping") == "user activity"), size="column")
    one, other = figure.axes
    assert one.get_ylim() == other.get_ylim()
    assert one.get_legend() is None and other.get_legend() is None and len(figure.legends) == 1  # above, once
    assert one.get_position().width > 0.8  # nothing beside the panels
    check_readable(figure)


def test_accuracy_by_group_in_a_column() -> None:
    figure = draw_groups(groups().filter(pl.col("model") == "nested").drop("model"), ylabel="share", size="column")
    assert [ax.get_title("left") for ax in figure.axes] == ["user activity", "item popularity"]
    assert figure.axes[0].get_ylabel() == "share"
    check_readable(figure)


@each_size
def test_oracle_widths(size: str) -> None:
    table = pl.DataFrame({"width": [16, 4, 8], "users": [1000, 3000, 1000]})
    figure = draw_oracle_widths(table, size=size)
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.6, 0.2, 0.2])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "8", "16"]
    assert ax.get_xlabel() == "best width for the user" and ax.get_ylabel() == "share of users"
    assert words(figure).count("1,000") == 2 and "3,000" in words(figure) and "60%" in words(figure)
    check_readable(figure)


def test_oracle_widths_of_two_models() -> None:
    table = pl.DataFrame({"width": [4, 8, 8], "users": [3, 1, 5], "model": ["nested", "nested", "rotated"]})
    figure = draw_oracle_widths(table)
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == [0.75, 0.25, 0.0, 1.0]  # each model's shares add up to 1
    nested, rotated = ax.patches[:2], ax.patches[2:]
    assert np.allclose([bar.get_x() + bar.get_width() for bar in nested], [bar.get_x() for bar in rotated], atol=0.03)
    assert legend_names(figure) == ["nested", "rotated"]
    check_readable(figure)
