"""Searches that are kept as a table: another study takes them over, and none where they are of something else."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from studied import keep, pretend

from mrl.errors import RunError
from mrl.study import folder as study_folder
from mrl.study.searches import COLUMNS, searches, take_over


@pytest.fixture
def entries(tmp_path, monkeypatch):
    config = pretend(monkeypatch, tmp_path / "study")
    for name in ("best", "second", "wide"):
        keep(config, name, {2: 0.4, 4: 0.3})
    return config.entries(chosen=False)


def fresh(entries, tmp_path) -> list[study_folder.Entry]:
    return [replace(at, path=tmp_path / "fresh" / at.dataset / at.path.name) for at in entries]


def test_what_was_searched_once_is_taken_over_as_it_is(entries, tmp_path) -> None:
    table = searches(entries)
    assert table.schema == pl.Schema(COLUMNS) and set(table["contender"]) == {"second", "wide"}  # `best` has no search
    table.write_csv(tmp_path / "searches.csv")
    others = fresh(entries, tmp_path)
    assert take_over(others, tmp_path / "searches.csv") == 2
    assert [at.trials() for at in others] == [at.trials() for at in entries]
    assert [at.best() for at in others] == [at.best() for at in entries]
    assert take_over(others, tmp_path / "searches.csv") == 0  # they have their own now


def test_searches_of_other_data_widths_or_ranges_are_left_alone(entries, tmp_path) -> None:
    searches(entries).with_columns(key=pl.lit("00000000")).write_csv(tmp_path / "searches.csv")
    assert take_over(fresh(entries, tmp_path), tmp_path / "searches.csv") == 0


def test_a_file_that_is_no_table_of_searches_is_refused(entries, tmp_path) -> None:
    (tmp_path / "other.csv").write_text("model,l2\nmf,0.1\n")
    for name in ("none.csv", "other.csv"):
        with pytest.raises(RunError, match=rf"searches='.*{name}': no table of searches"):
            take_over(entries, tmp_path / name)
