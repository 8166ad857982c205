"""The explorer: what the slider and a selection do, and when it is the static figure instead."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import polars as pl
import psutil
import pytest
from matplotlib.figure import Figure

from mrl.errors import ConfigError, DataError
from mrl.report import explore as explorer
from mrl.report.explore import can_interact, explore_maps, list_selected, pivot_maps

needs_scatter = pytest.mark.skipif(
    importlib.util.find_spec("jscatter") is None, reason="jupyter-scatter is not installed (extra `explore`)"
)


def placed() -> pl.DataFrame:
    """Three items on three maps; x of item 2 is twice the width."""
    rows = [
        (item, width, float(item * width), float(-item), label, title)
        for width in (4, 8, 16)
        for item, label, title in ((0, "A", "Alien"), (1, "A|B", "<Brazil> & more"), (2, "", "Clue"))
    ]
    return pl.DataFrame(rows, schema=["item", "width", "x", "y", "label", "title"], orient="row")


def test_wide_has_a_row_an_item_and_one_scale_for_all_maps() -> None:
    rows, groups, widths = pivot_maps(placed(), top=2)
    assert groups == ["A", "B", "other"] and widths == [4, 8, 16]
    assert rows.columns == ["item", "title", "labels", "group", "x_4", "y_4", "x_8", "y_8", "x_16", "y_16"]
    assert rows["group"].to_list() == ["A", "B", "other"] and rows["labels"].to_list() == ["A", "A, B", ""]
    assert rows["x_16"].to_list() == [-1, 0, 1] and rows["x_4"].to_list() == [-1, -0.75, -0.5]
    assert rows["y_8"].to_list() == [1, 0, -1]


def test_listed_escapes_titles_and_counts() -> None:
    rows, _, _ = pivot_maps(placed(), top=2)
    text = list_selected(rows, np.array([1]))
    assert "<b>1 item selected</b>" in text
    assert "&lt;Brazil&gt; &amp; more <small>A, B</small>" in text and "Alien" not in text
    assert "lasso" in list_selected(rows, np.array([]))
    many = list_selected(pl.concat([rows] * 50), np.arange(150))
    assert many.count("<li>") == 100 and "150 items selected" in many and "and 50 more" in many


@needs_scatter
def test_slider_moves_the_maps_and_a_selection_is_listed_and_linked() -> None:
    slider, legend, both, below = explore_maps(placed(), interactive=True).children
    assert slider.value == (4, 16)
    heads, (left, right) = zip(*(box.children for box in both.children), strict=True)
    assert all(f"{group}</span>" in legend.value for group in ("A", "B", "other")) and not left.legend
    assert "auto-fit" in both.layout.grid_template_columns  # one below the other in a narrow window
    x = {width: pivot_maps(placed(), 2)[0][f"x_{width}"].to_numpy() for width in (4, 8, 16)}
    assert [head.value for head in heads] == ["<b>width 4</b>", "<b>width 16</b>"]
    assert np.allclose(left.points[:, 0], x[4] / 1.05) and np.allclose(right.points[:, 0], x[16] / 1.05)
    slider.index = (1, 2)
    assert [head.value for head in heads] == ["<b>width 8</b>", "<b>width 16</b>"]
    assert np.allclose(left.points[:, 0], x[8] / 1.05) and np.allclose(right.points[:, 0], x[16] / 1.05)
    left.selection = np.array([0, 2], dtype=np.uint32)
    assert list(right.selection) == [0, 2]
    assert "2 items selected" in below.value and "Alien" in below.value and "Clue" in below.value
    right.selection = np.array([1], dtype=np.uint32)
    assert list(left.selection) == [1] and "Brazil" in below.value and "Clue" not in below.value
    assert {"title", "labels"} <= set(left.tooltip_properties)


def test_static_where_nobody_can_move_a_slider() -> None:
    assert isinstance(explore_maps(placed()), Figure)  # pytest is no notebook
    figure = explore_maps(placed(), interactive=False)
    assert [ax.get_title("left") for ax in figure.axes[:3]] == ["width 4", "width 8", "width 16"]
    with pytest.raises(DataError, match="no column title"):
        explore_maps(placed().drop("title"))


@pytest.mark.parametrize(
    ("started_by", "expected"),
    [
        (["/usr/bin/python3", "/opt/bin/jupyter-lab", "notebooks"], True),
        (["python", "-m", "papermill", "in.ipynb", "out.ipynb"], False),
        (["/opt/bin/papermill", "in.ipynb", "out.ipynb"], False),
        (["jupyter", "nbconvert", "--execute", "in.ipynb"], False),
        (["python", "-m", "ipykernel_launcher", "-f", "kernel.json"], False),  # report.ipynb executes hierarchy.ipynb
    ],
)
@needs_scatter
def test_a_kernel_started_by_papermill_is_not_interactive(monkeypatch, started_by: list[str], expected: bool) -> None:
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(psutil, "Process", lambda pid: types.SimpleNamespace(cmdline=lambda: started_by))
    assert can_interact() is expected
    shell.kernel = None
    assert can_interact() is False


def test_without_the_extra(monkeypatch) -> None:
    monkeypatch.setattr(explorer.importlib.util, "find_spec", lambda name: None)
    assert can_interact() is False
    assert isinstance(explore_maps(placed()), Figure)
    with pytest.raises(ConfigError, match="jupyter-scatter is not installed"):
        explore_maps(placed(), interactive=True)
