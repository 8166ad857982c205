"""Saved figures: size, fonts, the same bytes on a rerun; texts that fit; nothing left behind in matplotlib."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from drawn import check_readable, words
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from PIL import Image

from mrl.errors import ConfigError, DataError
from mrl.figures.hierarchy import draw_block_probes, draw_cluster_quality, draw_pair_matrix
from mrl.figures.panels import draw_costs, draw_differences, draw_lists
from mrl.figures.plots import draw_accuracy, draw_groups, draw_oracle_widths
from mrl.figures.style import (
    FONT,
    PALETTE,
    SIZES,
    SMALL,
    canvas,
    check_table,
    from_zero,
    key,
    legend_above,
    paper_style,
    rendered,
    save,
    shades,
    shorten,
    text_inches,
    width_axis,
)

TABLE = pl.DataFrame({"width": [4, 8], "users": [3, 1]})
DRAW = """
import sys
import polars as pl
import mrl.report.explore, mrl.figures.flows, mrl.figures.hierarchy, mrl.figures.maps
from mrl.figures.plots import draw_oracle_widths
from mrl.figures.style import save
save(draw_oracle_widths(pl.DataFrame({"width": [4, 8], "users": [3, 1]})), sys.argv[1])
assert not {"umap", "jscatter", "ipywidgets", "matplotlib.pyplot"} & set(sys.modules)
"""


@pytest.mark.parametrize("size", SIZES)
def test_files_have_the_size_of_the_paper(tmp_path: Path, size: str) -> None:
    pdf, png = save(draw_oracle_widths(TABLE, size=size), tmp_path / "new" / "ml-100k-0.5")
    assert [pdf.name, png.name] == ["ml-100k-0.5.pdf", "ml-100k-0.5.png"]
    assert sorted(path.name for path in pdf.parent.iterdir()) == [pdf.name, png.name]  # no temporary file is left
    box = re.search(rb"/MediaBox \[ *0 0 ([\d.]+) ([\d.]+) *\]", pdf.read_bytes())
    assert float(box[1]) == pytest.approx(72 * SIZES[size])
    with Image.open(png) as picture:
        assert picture.width == pytest.approx(300 * SIZES[size], abs=1)
        assert picture.info["dpi"][0] == pytest.approx(300, abs=1)


def test_pdf_is_vector_with_type_42_fonts_and_no_dates(tmp_path: Path) -> None:
    data = save(draw_oracle_widths(TABLE), tmp_path / "a")[0].read_bytes()
    streams = b"".join(zlib.decompress(s) for s in re.findall(rb"stream\r?\n(x\x9c.*?)\r?\nendstream", data, re.S))
    contents = data + streams
    assert b"/FontFile2" in contents and b"/Type3" not in contents and b"/Subtype /Image" not in contents
    assert b"CreationDate" not in contents and b"Matplotlib" not in contents


def test_same_bytes_in_another_process_on_another_day(tmp_path: Path) -> None:
    """And drawing opens no pyplot window, nor does it wait for what only the maps need."""
    paths = save(draw_oracle_widths(TABLE), tmp_path / "first")
    environment = os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1000000000"}
    command = [sys.executable, "-c", DRAW, str(tmp_path / "second")]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    assert [path.read_bytes() for path in paths] == [
        (tmp_path / f"second.{kind}").read_bytes() for kind in ("pdf", "png")
    ]


def test_same_bytes_when_a_figure_is_saved_again(tmp_path: Path) -> None:
    figure = draw_oracle_widths(TABLE)
    first, second = ([path.read_bytes() for path in save(figure, tmp_path / name)] for name in "ab")
    assert first == second


def test_a_png_is_small_and_looks_as_it_was_drawn() -> None:
    figure, unreduced = draw_oracle_widths(TABLE), BytesIO()
    png = rendered(figure, "png", dpi=150)
    with paper_style():
        figure.savefig(unreduced, format="png", dpi=150)
    with Image.open(BytesIO(png)) as picture, Image.open(unreduced) as drawn:
        assert picture.mode == "P" and drawn.getchannel("A").getextrema() == (255, 255)  # nothing shines through
        off = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(drawn.convert("RGB"), int))
    assert off.mean() < 0.2 and (off.max(-1) > 30).mean() < 1e-4
    assert len(png) < 0.5 * len(unreduced.getvalue())


def test_the_users_own_settings_neither_matter_nor_change() -> None:
    expected = rendered(draw_oracle_widths(TABLE), "png", dpi=50)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.bbox": "tight", "pdf.fonttype": 3}):
        before = dict(mpl.rcParams)
        assert rendered(draw_oracle_widths(TABLE), "png", dpi=50) == expected
        assert dict(mpl.rcParams) == before


def test_a_notebook_shows_it_large_enough() -> None:
    bundle, metadata = draw_oracle_widths(TABLE, size="page")._repr_mimebundle_()
    with Image.open(BytesIO(b64decode(bundle["image/png"]))) as picture:
        assert picture.width == 2 * metadata["image/png"]["width"] == 1750  # twice as sharp as it is large


def test_colours_can_be_told_apart_and_seen_on_white() -> None:
    assert PALETTE[:7] == ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(to_rgb, shades(5))]
    assert light == sorted(light) and light[-1] < 0.75  # ordered in print without colour too


def test_shorten_fits_and_keeps_what_fits() -> None:
    assert shorten("Drama", 2.0) == "Drama"
    cut = shorten("Eternal Sunshine of the Spotless Mind", 1.0)
    assert cut.endswith("…") and cut[:-1] and "Eternal Sunshine of the Spotless Mind".startswith(cut[:-1])
    assert 0.8 < text_inches(cut) <= 1.0
    assert shorten("Drama", 0.05) == ""
    assert shorten("GROCERY > SOFT DRINKS > COLA", text_inches("SOFT DRINKS > COLA")) == "SOFT DRINKS > COLA"
    assert shorten("GROCERY > SOFT DRINKS", text_inches("SOFT DRI…")) == "SOFT DRI…"
    assert text_inches("$5 and $6") > text_inches("$5")  # dollars are text, not formulas


@pytest.mark.parametrize("text", ["Æon & “½ of $5” – ÄÖÜß@ß", "SOFT DRINKS > COLA", "Łódź, j", "…", "1·10⁻³"])
def test_a_text_is_as_wide_as_its_curves(text: str) -> None:
    for size in (5.0, SMALL):
        path = TextPath((0, 0), text.replace("$", r"\$"), prop=FontProperties(family=FONT, size=size))
        assert text_inches(text, size) == path.get_extents().x1 / 72


def test_width_axis_has_the_widths_as_ticks() -> None:
    with paper_style():
        _, ((ax,),) = canvas("column", 2)
        width_axis(ax, [64, 4, 12, 4])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "12", "64"]
    assert list(ax.get_xticks()) == [4, 12, 64] and ax.get_xscale() == "log"
    low, high = ax.get_xlim()
    assert low < 4 and high > 64


def test_from_zero_sees_all_axes_that_share() -> None:
    with paper_style():
        _, ((one, other),) = canvas("column", 2, 1, 2, sharey=True)
    one.plot([0, 1], [1, 5])
    other.plot([0, 1], [2, 3])
    from_zero(other)
    assert one.get_ylim() == other.get_ylim() == pytest.approx((0, 5.3))
    one.plot([0], [-1])
    from_zero(one)
    assert one.get_ylim()[0] < -1


def test_legend_takes_as_many_rows_as_it_needs() -> None:
    with paper_style():
        figure, _ = canvas("column", 2)
        legend_above(figure, [key("red")] * 6, [f"a rather long name {n}" for n in range(6)])
    (legend,) = figure.legends
    assert legend._ncols == 2 and legend.get_window_extent().width < figure.bbox.width


def test_layout_has_settled() -> None:
    """Making room for the legend changes the ticks, longer ticks need more room: seen on these very values."""
    names = ["nested, MNS", "shared negatives", "trained alone", "iALS, rotated"]
    rows = [(name, width, value) for name in names for width, value in ((4, 0.25), (6, 0.26), (64, 0.35))]
    rows += [("EASE", None, 0.366), ("popularity", None, 0.17)]
    table = pl.DataFrame(rows, schema=["model", "width", "value"], orient="row").with_columns(metric=pl.lit("recall"))
    shifted = pl.col("value") + pl.when(pl.col("width") == 4).then(0.001).otherwise(0)
    table = pl.concat([table.with_columns(seed=pl.lit(0)), table.with_columns(shifted.alias("value"), seed=pl.lit(1))])
    figure = draw_accuracy(table, trained=[4, 64], size="page")
    with paper_style():
        check_readable(figure)
    before = figure.axes[0].get_position().bounds
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().bounds == before


@pytest.mark.parametrize("size", SIZES)
def test_display_names_fit_legends_and_titles(size: str) -> None:
    """Eight models with the longest names there are, in every figure that names models."""
    ids = ["default", "mrl4rec", "bpr-rotated", "shared", "ials", "alone", "ease", "bpr-shuffled"]
    rows = [
        (model, width, 0.1 * number + width / 100) for number, model in enumerate(ids) for width in (4, 8, 16, 32, 64)
    ]
    table = pl.DataFrame(rows, schema=["model", "width", "value"], orient="row")
    table = table.with_columns(
        metric=pl.lit("recall"), k=20, kept=pl.col("value"), users=pl.lit(3), bytes_per_item=4 * pl.col("width"),
        multiply_adds=1682 * pl.col("width"), group=pl.lit("Q1 (1–20 items)"), grouping=pl.lit("user activity"),
        clustering=pl.lit("fixed"), label=pl.lit("genres"), chance=0.1, part=pl.lit("block"), start=0,
    )  # fmt: skip
    pairs = table.join(table.select("model", other_width="width"), on="model").unique(["model", "width", "other_width"])
    gaps = table.filter(pl.col("model") != ids[0]).rename({"model": "other", "value": "difference"})
    gaps = gaps.with_columns(model=pl.lit(ids[0]), low=0.0, high=1.0, p_holm=0.5)
    figures = [
        draw_accuracy(table, trained=[4, 64], size=size),
        draw_oracle_widths(table, size=size),
        draw_groups(table.filter(pl.col("model").is_in(["shared", "alone"])), size=size),
        draw_lists(table, size=size),
        draw_costs(table, size=size),
        draw_differences(gaps, size=size),
        draw_pair_matrix(pairs, metric="recall", size=size),
        draw_cluster_quality(table, metric="recall", size=size),
        draw_block_probes(table.with_columns(metric=pl.lit("auc")), size=size),
    ]
    for figure in figures:
        assert any("MRL4Rec, shared negatives" in text for text in words(figure))
        with paper_style():
            check_readable(figure)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="size='poster': must be one of column, page"):
        draw_oracle_widths(TABLE, size="poster")
    with pytest.raises(DataError, match="table has no column users; it has width"):
        draw_oracle_widths(TABLE.drop("users"))
    with pytest.raises(DataError, match="table has no rows"):
        check_table(TABLE.clear(), "width")
    many = pl.concat(TABLE.with_columns(model=pl.lit(f"m{n}")) for n in range(13))
    with pytest.raises(DataError, match="table has 13 models; at most 12"):
        draw_oracle_widths(many)
