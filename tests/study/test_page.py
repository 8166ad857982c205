"""The study as people read it: sentences, LaTeX and the page, from figures that are given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
from studied import keep, pretend

from mrl.study.page import write
from mrl.study.tables import tables
from mrl.study.tex import grid, latex
from mrl.study.words import losses, protocol, summary

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Counts tags, and fails where one closes that was not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def config(tmp_path, monkeypatch):
    """ours wins at 2, loses at 4 to `flat`, which has no width."""
    config = pretend(monkeypatch, tmp_path / "study")
    keep(config, "best", {2: 0.42, 4: 0.42})
    keep(config, "wide", {2: 0.30, 4: 0.10}, seeds=(0, 1))
    keep(config, "parts-2", {2: 0.2})
    keep(config, "flat", {None: 0.6}, seeds=(0,))
    return config


def test_the_summary_names_where_ours_wins_and_loses(config) -> None:
    said = summary(tables(config), config)
    assert said["What it shows"][0].startswith(
        "Over 1 data set, 2 widths and 2 metrics (4 cells), best is significantly ahead of the best row that is not "
        "ours in 2, significantly behind it in 2, and not told apart from it in 0"
    )
    assert said["What it shows"][1] == (
        "planted: best is below another row in 2 of 4 cells; significantly above the best that is not ours at 1 of 2 "
        "widths by Recall@20 and 1 of 2 widths by NDCG@20."
    )
    assert re.fullmatch(
        r"planted, Recall@20, 60 users: significantly ahead at 2 \(\+\.1\d+ against wide\) and significantly behind at "
        r"4 \(−\.1\d+ against flat\)\.",
        said["By data set"][0],
    )
    assert re.fullmatch(
        r"planted, Recall@20 at 4: \.4\d+ against \.[56]\d+ of flat \(significantly behind, p = [\d.]+ after Holm\)\.",
        said["Where it loses"][0],
    )
    assert len(said["Where it loses"]) == 2
    assert "reports/log.md" in losses(replace(tables(config), ours="default"))[-1]
    assert "best 2.0, wide 1.5 and flat 1.0" in said["Seconds"][0]


def test_the_summary_says_what_is_missing_or_short(config) -> None:
    said = summary(tables(config), config)["To be known"]
    assert said == [
        "planted: not there yet: second.",
        "planted: the budget ended the search of wide (1 of 4 trials) and parts (1 of 4 trials); more might serve "
        "them better.",
        "planted: fewer than 3 seeds: wide (2).",
    ]
    keep(config, "flat", {None: 0.6}, seeds=(0,), spent=61.0)
    said = summary(tables(config), config)["To be known"]
    assert "planted: a search of its own took more than the 60 s that others were granted: flat (61.0 s)." in said


def test_without_a_model_of_ours_there_are_tables_and_no_comparison(config, tmp_path) -> None:
    other = replace(config, folder=str(tmp_path / "other"))
    keep(other, "wide", {2: 0.3, 4: 0.1})
    found = tables(other)
    assert summary(found, other)["What it shows"] == [
        "There is nothing to compare: no model of ours is among the rows."
    ]
    assert r"\textbf" not in latex(found, other)
    assert len(write(found, other)) == 4


def test_a_win_everywhere_is_said_as_such(config) -> None:
    keep(config, "flat", {None: 0.1}, seeds=(0,))
    said = summary(tables(config), config)
    assert said["Where it loses"] == ["In no cell."]
    assert "planted: best is at or above every other row in every cell" in said["What it shows"][1]


def test_the_grid_puts_figures_where_they_belong(config) -> None:
    rows = {row.model: row for row in grid(tables(config), config, "planted", "recall")}
    assert list(rows) == ["best", "wide", "parts", "flat"]
    assert [row.label for row in rows.values()] == ["best", "wide (2 seeds)", "parts", "flat"]
    assert [cell is None for cell in rows["flat"].cells] == [True, False]
    assert [cell is None for cell in rows["parts"].cells] == [False, True]
    assert [(cell.loss, cell.top, cell.verdict) for cell in rows["best"].cells] == [
        (False, True, "ahead"),
        (True, False, "behind"),
    ]
    assert rows["flat"].cells[1].top and rows["flat"].cells[1].half is None
    assert not any(cell and cell.loss for name in ("wide", "parts", "flat") for cell in rows[name].cells)


def test_latex_is_whole_and_losses_are_bold(config) -> None:
    text = latex(tables(config), config)
    opened, closed = re.findall(r"\\begin{(\w+)}", text), re.findall(r"\\end{(\w+)}", text)
    assert sorted(opened) == sorted(closed) == ["table"] * 2 + ["tabular"] * 2
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    for tabular in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.S):
        columns, body = tabular
        lines = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in lines} == {len(columns) - 1}
        assert [body.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
    bold = re.findall(r"\\textbf{(\.\d{4})}", text)
    assert bold == [f"{mean:.4f}"[1:] for mean in tables(config).tests.filter(pl.col("loss"))["mean"]]


def test_the_files_are_written_and_the_page_needs_nothing_else(config) -> None:
    found = tables(config)
    csv, trials, tex, page = write(found, config)
    names = ["study.csv", "study-searches.csv", "study.tex", "study.html"]
    assert [path.name for path in (csv, trials, tex, page)] == names
    assert set(pl.read_csv(trials)["contender"]) == {"wide", "parts-2", "flat"}
    assert len(pl.read_csv(csv)) == len(found.tidy()) and tex.read_text() == latex(found, config)
    reader = Balanced()
    reader.feed(page.read_text())
    assert reader.open == [] and all(link.startswith(("#", "data:")) for link in reader.links)
    text = page.read_text()
    assert "significantly behind" in text and "<script" not in text
    assert len(re.findall(r"<b>\.\d{4}</b>", text)) == 2 * 2  # in the tables, and compared user by user
    before = csv.read_bytes(), tex.read_bytes()
    write(found, config)
    assert (csv.read_bytes(), tex.read_bytes()) == before


def test_the_protocol_tells_trials_and_budget(config) -> None:
    told = " ".join(protocol(tables(config), config))
    assert "by 4 trials at most" in told and "within 60 s" in told and "over 3 seeds" in told
    assert "By its own search on the same validation part, not by Optuna: best." in told


def test_a_loss_to_another_of_ours_is_said_to_be_one(config) -> None:
    keep(config, "second", {2: 0.5, 4: 0.3})
    found = tables(config)
    assert any(told.endswith(" of second (also ours).") for told in summary(found, config)["Where it loses"])
