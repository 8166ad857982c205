"""The page: what is in it, what is folded away, and that it asks nobody for anything; and how it looks in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mrl.figures.plots import draw_accuracy
from mrl.report.page import write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)

MARKDOWN = "**words**\n\n<details><summary>more</summary>\n\n- one\n\n</details>"


def figure():
    metrics = pl.DataFrame({"width": [4, 8], "metric": "recall", "k": 20, "value": [0.1, 0.2]})
    return draw_accuracy(metrics, size="page")


@pytest.fixture
def page(tmp_path) -> Path:
    picture, sizes = figure()._repr_mimebundle_()
    table = pl.DataFrame({"title": ["<b>Fargo</b>", None], "value": [0.5, 1.5]})._repr_html_()
    settings = new_code_cell("width = 4", metadata={"tags": ["parameters"]})
    outputs = [
        new_output("stream", name="stdout", text="first\rlast 4\n"),
        new_output("stream", name="stderr", text="a bar"),
        new_output("display_data", data=picture, metadata=sizes),
        new_output("display_data", data={"text/html": table, "text/plain": "plain"}),
        new_output("display_data", data={"text/markdown": MARKDOWN}),
        new_output("execute_result", data={"text/plain": "<repr>"}),
    ]  # fmt: skip
    cells = [new_markdown_cell("# Title of it\n\n## A part"), settings, new_code_cell("print(1 < 2)", outputs=outputs)]
    executed = tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=cells), executed)
    summary = ["In short.", "## Headline", figure(), pl.DataFrame({"a": [1]})]
    return write_page(tmp_path / "new" / "page.html", "A & B", summary, [executed])


def test_page_holds_everything_and_asks_for_nothing(page):
    text = page.read_text()
    assert text.startswith("<!doctype html>") and "<title>A &amp; B</title>" in text
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert all(source.startswith("data:image/png") for source in re.findall(r'src="(.*?)"', text))
    assert text.count("<img ") == 2
    assert text.index("In short.") < text.index("<nav>") < text.index("Title of it</h2>")


def test_contents_link_to_headings_one_level_deeper(page):
    text = page.read_text()
    entries = re.findall(r'<li>.*?<a href="#(.*?)">(.*?)</a>', text)
    assert [words for _, words in entries] == ["Title of it", "A part"]
    assert [re.search(rf'<h(\d) id="{name}">{words}<', text)[1] for name, words in entries] == ["2", "3"]


def test_code_is_folded_away_and_outputs_are_not(page):
    text = page.read_text().partition("<body>")[2]
    shown = re.sub(r'<details class="code">.*?</details>', "", text, flags=re.S)
    assert "<summary>settings</summary>" in text and "<summary>code</summary>" in text
    assert "print" in text and "print" not in shown
    assert "last 4" in shown and "first" not in shown and "a bar" not in shown
    assert "<strong>words</strong>" in shown and "<li>one</li>" in shown
    assert "&lt;repr&gt;" in shown


def test_tables_of_polars_lose_their_types_and_quotes_but_not_their_escapes(page):
    body = page.read_text().partition("<body>")[2]
    assert "<td>&lt;b&gt;Fargo&lt;/b&gt;</td>" in body and "<td></td>" in body
    assert not re.search(r"f64|shape:|null|<style", body)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
@pytest.mark.timeout(180)
def test_page_looks_right_in_a_browser(page, tmp_path):
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    run = [CHROMIUM, *QUIET, profile]
    taken, printed = tmp_path / "page.png", tmp_path / "page.pdf"
    options = {"check": True, "capture_output": True, "timeout": 150}
    subprocess.run([*run, "--window-size=1000,1400", f"--screenshot={taken}", page.as_uri()], **options)
    picture = imread(taken)[..., :3]
    assert picture.shape == (1400, 1000, 3)
    ink = (picture < 0.9).any(axis=2)
    assert not ink[:, :16].any() and not ink[:, -16:].any()  # nothing runs out of the page
    assert 0.005 < ink.mean() < 0.5
    curve = np.abs(picture - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=2) < 0.04
    assert curve.sum() > 500  # the figure is there
    subprocess.run([*run, f"--print-to-pdf={printed}", page.as_uri()], **options)
    assert printed.read_bytes().startswith(b"%PDF") and printed.stat().st_size > 20_000
