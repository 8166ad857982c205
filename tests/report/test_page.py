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
from mrl.report.page import CSS, describe_pictures, write_page

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
    assert text.index("<nav ") < text.index("In short.") < text.index("Title of it</h2>")


def test_contents_link_to_headings_and_those_of_notebooks_are_one_level_deeper(page):
    text = page.read_text()
    entries = re.findall(r'<li.*?<a href="#(.*?)">(.*?)</a>', text)
    assert [words for _, words in entries] == ["Headline", "Title of it", "A part"]
    assert [re.search(rf'<h(\d) id="{name}">{words}<', text)[1] for name, words in entries] == ["2", "2", "3"]


def test_a_notebook_is_folded_under_its_title_and_the_summary_is_not(page):
    text = page.read_text().partition("<main>")[2]
    story, _, folded = text.partition('<details class="part">')
    assert "In short." in story and "Headline" in story and "<details" not in story
    assert folded.startswith('<summary><h2 id="part-2">Title of it</h2></summary>') and folded.count("Title of it") == 1


def test_a_part_that_shows_nothing_is_left_out_with_its_heading(tmp_path):
    silent = new_code_cell("a = 1", outputs=[new_output("stream", name="stderr", text="a bar")])
    spoken = new_code_cell("print(1)", outputs=[new_output("stream", name="stdout", text="1")])
    cells = [new_markdown_cell("# Title"), new_markdown_cell("## Measured\n\nWords."), silent]
    nbformat.write(new_notebook(cells=[*cells, new_markdown_cell("## Shown"), spoken]), tmp_path / "a.ipynb")
    text = write_page(tmp_path / "page.html", "A", ["In short."], [tmp_path / "a.ipynb"]).read_text()
    assert "Measured" not in text and "Shown" in text


def test_a_picture_is_described_by_the_sentences_below_it_or_by_the_heading_above():
    picture = '<div class="figure" tabindex="0"><img alt="figure" src=""></div>'
    code = '<details class="code"><summary>code</summary><p>no</p></details>'
    body = f"<h3>By width</h3>{picture}{picture}{code}<p><b>It</b> rises to 5 &lt; 6. So &amp; so.</p>"
    assert re.findall('alt="(.*?)"', describe_pictures(body)) == ["By width", "It rises to 5 &lt; 6. So &amp; so."]
    long = f"<h3>By width</h3>{picture}<p>{'A long one. ' * 99}</p>"
    assert len(re.search('alt="(.*?)"', describe_pictures(long))[1]) < 400


def test_nothing_on_the_page_scrolls_within_it_and_what_is_folded_is_not_printed():
    assert "max-height: 32rem" not in CSS and not re.search(r"\.table[^{]*{[^}]*max-height", CSS)
    printed = CSS.partition("@media print")[2]
    assert re.search(r"nav, \.note, details:not\(\[open\]\) { display: none }", printed)


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
