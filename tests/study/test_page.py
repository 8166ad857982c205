"""The study as people read it: sentences, LaTeX and the page, from numbers that are given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
from studied import keep, pretend

from mrl.errors import RunError
from mrl.report.code import code_version
from mrl.report.stages import PROJECT
from mrl.study import models as study_models
from mrl.study.page import render_page, write_study
from mrl.study.tables import read_tables, study_tables
from mrl.study.tex import grid, render_latex
from mrl.study.words import caveats, describe_protocol, losses, summarise

CODE = code_version(())  # of models that are pretended
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
    """`best` wins at 2, loses at 4 to `flat`, which has no width."""
    config = pretend(monkeypatch, tmp_path / "study")
    keep(config, "best", {2: 0.42, 4: 0.42})
    keep(config, "wide", {2: 0.30, 4: 0.10}, seeds=(0, 1))
    keep(config, "parts-2", {2: 0.2})
    keep(config, "flat", {None: 0.6}, seeds=(0,))
    return config


def test_the_summary_names_where_the_main_model_wins_and_loses(config) -> None:
    sentences = summarise(study_tables(config))
    assert sentences["What it shows"][0].startswith(
        "Over 1 data set, 2 widths and 2 metrics (4 cells), best is significantly ahead of the best baseline in 2, "
        "significantly behind it in 2, and not told apart from it in 0"
    )
    assert sentences["What it shows"][1] == (
        "planted: best is below another row in 2 of 4 cells; significantly above the best baseline at 1 of 2 "
        "widths by Recall@20 and 1 of 2 widths by NDCG@20."
    )
    assert re.fullmatch(
        r"planted, Recall@20, 60 users: significantly ahead at 2 \(\+\.1\d+ against wide\) and significantly behind at "
        r"4 \(−\.1\d+ against flat\)\.",
        sentences["By data set"][0],
    )
    assert re.fullmatch(
        r"planted, Recall@20 at 4: \.4\d+ against \.[56]\d+ of flat \(significantly behind, p = [\d.]+ after Holm\)\.",
        sentences["Where it loses"][0],
    )
    assert len(sentences["Where it loses"]) == 2
    assert "reports/log.md" in losses(replace(study_tables(config), main="default"))[-1]
    assert "best 2.0, wide 1.5 and flat 1.0" in sentences["Seconds"][0]


def test_the_summary_says_what_is_missing_or_short(config) -> None:
    sentences = summarise(study_tables(config))["To be known"]
    assert sentences == [
        "planted: without numbers: second.",
        "planted: the budget ended the search of wide (1 of 4 trials) and parts (1 of 4 trials). More might serve "
        "them better.",
        "planted: fewer than 3 seeds: wide (2).",
        f"Digests of the code that has made the rows and written this: {CODE} of best, wide, parts and flat.",
    ]
    keep(config, "flat", {None: 0.6}, seeds=(0,), spent=61.0)
    sentences = summarise(study_tables(config))["To be known"]
    assert "planted: a search of its own took more than the 60 s that others were granted: flat (61.0 s)." in sentences


def test_without_a_recipe_there_are_tables_and_no_comparison(config, tmp_path) -> None:
    other = replace(config, folder=str(tmp_path / "other"))
    keep(other, "wide", {2: 0.3, 4: 0.1})
    tables = study_tables(other)
    assert summarise(tables)["What it shows"] == ["There is nothing to compare: no recipe is among the rows."]
    assert r"\bigtriangledown" not in render_latex(tables)
    assert len(write_study(tables, other)) == 3


def test_a_win_everywhere_is_said_as_such(config) -> None:
    keep(config, "flat", {None: 0.1}, seeds=(0,))
    sentences = summarise(study_tables(config))
    assert sentences["Where it loses"] == ["In no cell."]
    assert "planted: best is at or above every other row in every cell" in sentences["What it shows"][1]


def test_the_grid_puts_numbers_where_they_belong(config) -> None:
    rows = {row.model: row for row in grid(study_tables(config), "planted", "recall")}
    assert list(rows) == ["best", "wide", "parts", "flat"]
    assert [row.label for row in rows.values()] == ["best", "wide (2 seeds)", "parts", "flat"]
    assert [cell is None for cell in rows["flat"].cells] == [True, False]
    assert [cell is None for cell in rows["parts"].cells] == [False, True]
    assert [(cell["is_below"], cell["is_best"], cell["verdict"]) for cell in rows["best"].cells] == [
        (False, True, "ahead"),
        (True, False, "behind"),
    ]
    assert rows["flat"].cells[1]["is_best"] and rows["flat"].cells[1]["half"] is None
    assert not any(cell and cell["is_below"] for name in ("wide", "parts", "flat") for cell in rows[name].cells)


def test_latex_is_whole_and_the_best_of_a_column_is_bold(config) -> None:
    text = render_latex(study_tables(config))
    opened, closed = re.findall(r"\\begin{(\w+)}", text), re.findall(r"\\end{(\w+)}", text)
    assert sorted(opened) == sorted(closed) == ["table"] * 2 + ["tabular"] * 2
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    for tabular in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.S):
        columns, body = tabular
        lines = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in lines} == {len(columns) - 1}
        assert [body.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
    best = study_tables(config).means.with_columns(pl.col("width").fill_null(4))
    best = best.filter(pl.col("mean") == pl.col("mean").max().over("metric", "width")).sort("metric", "width")
    bold = re.findall(r"\\textbf{(\.\d{4})}", text)
    assert sorted(bold) == sorted(f"{mean:.4f}"[1:] for mean in best["mean"])
    below = re.findall(r"(\.\d{4})\$\^{\\bigtriangledown}\$", text)
    assert below == [f"{mean:.4f}"[1:] for mean in study_tables(config).tests.filter("is_below")["mean"]]


def test_the_files_are_written_and_the_page_needs_nothing_else(config) -> None:
    tables = study_tables(config)
    csv, tex, page = write_study(tables, config)
    assert [path.name for path in (csv, tex, page)] == ["study.csv", "study.tex", "study.html"]
    assert len(pl.read_csv(csv)) == len(tables.tidy) and tex.read_text() == render_latex(tables)
    reader = Balanced()
    reader.feed(page.read_text())
    assert reader.open == [] and all(link.startswith(("#", "data:")) for link in reader.links)
    text = page.read_text()
    alt = re.findall('alt="(.*?)"', text)
    assert len(alt) == 2 and alt[0].startswith("planted, Recall@20, 60 users: significantly ahead at 2")
    assert "significantly behind" in text and "<script" not in text
    assert len(re.findall(r"<b>\.\d{4}</b>", text)) == 2 * 2  # the best of each column
    assert len(re.findall(r"\.\d{4}▼", text)) == 2 * 2  # in the tables, and compared user by user
    before = csv.read_bytes(), tex.read_bytes()
    write_study(tables, config)
    assert (csv.read_bytes(), tex.read_bytes()) == before


def test_the_protocol_tells_trials_and_budget(config) -> None:
    text = " ".join(describe_protocol(study_tables(config)))
    assert "by 4 trials (fewer of models that are trained), within 60 s" in text and "over 3 seeds" in text
    assert "By its own search on the same validation part, not by Optuna: best." in text


def test_a_loss_to_another_recipe_is_said_to_be_one(config) -> None:
    keep(config, "second", {2: 0.5, 4: 0.3})
    tables = study_tables(config)
    assert any(
        told.endswith(" of second (also a recipe of this project).") for told in summarise(tables)["Where it loses"]
    )


def test_settings_that_no_longer_exist_are_said_to_be_of_earlier_code(config) -> None:
    tables = study_tables(config)
    old = pl.when(model="wide").then(pl.lit("l2=0.1, narrow=8")).otherwise("settings")
    sentences = caveats(replace(tables, tidy=tables.tidy.with_columns(settings=old)))
    assert sentences[-1] == "wide was measured with earlier code: it has a setting that no longer exists (narrow)."
    assert not any("earlier code" in sentence for sentence in caveats(tables))


def test_rows_of_earlier_code_are_said_to_be_of_it(config) -> None:
    tables = study_tables(config)
    of_wide = pl.when(model="wide").then(pl.lit("0badc0de")).otherwise("code")
    sentences = caveats(replace(tables, tidy=tables.tidy.with_columns(code=of_wide)))
    assert "planted: by earlier code than that which has written this: wide." in sentences
    assert sentences[-1].startswith("Digests of the code that has made the other rows") and "wide" not in sentences[-1]
    none = replace(tables, tidy=tables.tidy.with_columns(code=pl.lit(None, pl.String)))
    text = "Every row was made by earlier code than that which has written this (digest: not noted)."
    assert caveats(none)[-1] == text and text in render_page(none)


def test_a_search_on_a_sample_is_marked(config) -> None:
    tables = study_tables(config)
    sampled = tables.tidy.with_columns(sampled=pl.col("model") == "wide")
    page, text = render_page(replace(tables, tidy=sampled)), render_latex(replace(tables, tidy=sampled))
    assert page.count("wide (2 seeds)♯") == 2 and "♯ searched on a sample of the users" in page
    assert text.count(r"wide (2 seeds)$^{\sharp}$") == 2 and "♯" not in render_page(tables)


def test_from_its_table_a_study_is_written_again_to_the_same_bytes(config, tmp_path) -> None:
    csv, tex, page = write_study(study_tables(config), config)
    again = replace(config, table=str(csv), report=str(tmp_path / "again"), folder="nowhere", datasets=("tool",))
    paths = write_study(study_tables(again), again)
    assert [path.name for path in paths] == ["again.tex", "again.html"]
    assert [path.read_bytes() for path in paths] == [tex.read_bytes(), page.read_bytes()]


def test_a_file_that_is_no_table_of_a_study_is_refused(config, tmp_path) -> None:
    (tmp_path / "other.csv").write_text("model,l2\nmf,0.1\n")
    for name in ("none.csv", "other.csv"):
        with pytest.raises(RunError, match=rf"table='.*{name}': no table of a study"):
            study_tables(replace(config, table=str(tmp_path / name)))


def marked(config, tmp_path, monkeypatch):
    """`wide` is a training, made at 2 alone with two seeds; of `parts` only the search of width 4 was cut."""
    models = [
        replace(model, widths=(2,), max_seeds=2) if model.name == "wide" else model
        for model in study_models.study_models((2, 4))
    ]
    monkeypatch.setattr(study_models, "study_models", lambda widths: models)
    config = replace(config, folder=str(tmp_path / "marked"))
    keep(config, "best", {2: 0.42, 4: 0.42})
    keep(config, "wide", {2: 0.30}, seeds=(0, 1), trials=4)
    keep(config, "parts-2", {2: 0.2}, trials=4)
    keep(config, "parts-4", {4: 0.2}, trials=1)
    return config


def test_fewer_widths_and_seeds_and_searches_that_were_cut_are_marked(config, tmp_path, monkeypatch) -> None:
    tables = study_tables(marked(config, tmp_path, monkeypatch))
    rows = {row.model: row for row in grid(tables, "planted", "recall")}
    assert [name for name, row in rows.items() if row.has_fewer] == ["wide"]
    assert rows["wide"].label == "wide" and rows["wide"].cells[1] is None
    cut = {name: [bool(cell and cell["is_cut"]) for cell in row.cells] for name, row in rows.items()}
    assert cut == {"best": [False, False], "wide": [False, False], "parts": [False, True]}
    assert set(tables.tests["width"]) == {2, 4}
    page, text = render_page(tables), render_latex(tables)
    assert len(re.findall(r"<td>wide°</td>", page)) == 2 and len(re.findall(r"\.\d{4}§", page)) == 2
    assert page.count("§ the budget ended its search.") == page.count("° trained, so made up to width 128") == 1
    assert text.count(r"wide$^{\circ}$ &") == 2 and len(re.findall(r"\.\d{4}\$\^{\\S}\$", text)) == 2
    assert text.count(r"$^{\S}$ the budget ended its search.") == 2  # in the captions
    assert not any("fewer than" in sentence for sentence in caveats(tables))


def test_where_nothing_is_to_be_marked_no_mark_is_explained(config, tmp_path) -> None:
    other = replace(config, folder=str(tmp_path / "other"))
    keep(other, "best", {2: 0.3, 4: 0.1})
    assert "§" not in render_page(study_tables(other)) and "°" not in render_page(study_tables(other))


def test_a_width_above_the_smaller_side_is_left_out(config) -> None:
    tables = replace(study_tables(config), widths=(2, 4, 8))
    assert "planted: above its smaller side, and left out: width 8." in caveats(tables)
    assert all(len(row.cells) == 2 for row in grid(tables, "planted", "recall"))


def test_published_figures_stand_below_those_of_their_split(config) -> None:
    tables = study_tables(config)
    named = tables.tidy.with_columns(dataset=pl.lit("gowalla"), width=pl.col("width").replace({4: 64}))
    gowalla = replace(tables, tidy=named, datasets=("gowalla",), widths=(2, 64))
    *_, light, ultra = grid(gowalla, "gowalla", "recall")
    assert (light.label, light.cells) == ("LightGCN, published", [None, {"mean": 0.183}])
    assert (ultra.label, ultra.cells) == ("UltraGCN, published", [None, {"mean": 0.1862}])
    page, text = render_page(gowalla), render_latex(gowalla)
    assert ".1554" in page and "UltraGCN: Mao et al., CIKM 2021, arXiv 2110.15114." in page
    assert r"LightGCN, published & -- & .1830 & -- & -- \\" in text and "arXiv 2002.02126" in text
    assert "published" not in render_page(tables).replace("published method", "")


def test_the_committed_table_can_be_read_and_shown() -> None:
    tables = read_tables(PROJECT / "reports" / "study.csv")
    assert tables.main == "default" and '<h2 id="phone">' in render_page(tables)
