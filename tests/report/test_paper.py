"""Figures at both widths and tables in LaTeX: what is written, and that a rerun writes the same bytes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mrl.errors import ConfigError
from mrl.figures.plots import draw_accuracy
from mrl.figures.style import SIZES
from mrl.parameters import as_config
from mrl.report.paper import FiguresConfig, draw, latex, over_seeds, write_table

METRICS = pl.DataFrame(
    {
        "dataset": "d", "protocol": "honest", "model": "m", "seed": [0, 1] * 2, "width": [4, 4, 8, 8],
        "metric": "recall", "k": 20, "value": [0.1, 0.2, 0.3, 0.5],
    }
)  # fmt: skip


def test_figures_are_written_at_both_widths_and_the_same_again(tmp_path):
    figure = draw(tmp_path / "d-recall", draw_accuracy, METRICS)
    assert figure.get_size_inches()[0] == SIZES["page"]
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(files) == ["d-recall-column.pdf", "d-recall-column.png", "d-recall.pdf", "d-recall.png"]
    draw(tmp_path / "d-recall", draw_accuracy, METRICS)
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_over_seeds_has_the_mean_and_the_range():
    rows = over_seeds(METRICS).select("width", "metric", "seeds", "mean", "low", "high").rows()
    assert [(*row[:3], *(round(value, 6) for value in row[3:])) for row in rows] == [
        (4, "recall@20", 2, 0.15, 0.1, 0.2), (8, "recall@20", 2, 0.4, 0.3, 0.5),
    ]  # fmt: skip


def test_tables_are_booktabs(tmp_path):
    table = pl.DataFrame({"a_b": ["50 %"], "n": [3], "value": [0.12345]})
    assert latex(table, digits=3).splitlines() == [
        r"\begin{tabular}{lrr}", r"\toprule", r"a\_b & n & value \\", r"\midrule", r"50 \% & 3 & 0.123 \\",
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert r"x & -- \\" in latex(pl.DataFrame({"a": ["x"], "b": [None]}))
    csv, tex = write_table(table.with_columns(model=pl.lit("bpr-rotated")), tmp_path / "new" / "t")
    assert (csv.name, tex.name) == ("t.csv", "t.tex")
    assert "bpr-rotated" in csv.read_text() and "BPR, rotated" in tex.read_text()  # ids there, display names here


def test_settings():
    config = as_config(FiguresConfig, {"dataset": "planted", "seeds": [3, 4], "folder": "f"})
    assert config.training.seed == 3 and config.stem("maps") == Path("f/planted-maps")
    with pytest.raises(ConfigError, match="seeds"):
        as_config(FiguresConfig, {"seeds": []})
