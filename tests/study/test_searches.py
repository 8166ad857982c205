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
def experiments(tmp_path, monkeypatch):
    config = pretend(monkeypatch, tmp_path / "study")
    for name in ("best", "second", "wide"):
        keep(config, name, {2: 0.4, 4: 0.3})
    return config.experiments(all_models=True)


def fresh(experiments, tmp_path) -> list[study_folder.Experiment]:
    return [
        replace(experiment, path=tmp_path / "fresh" / experiment.dataset / experiment.path.name)
        for experiment in experiments
    ]


def test_what_was_searched_once_is_taken_over_as_it_is(experiments, tmp_path) -> None:
    table = searches(experiments)
    assert table.schema == pl.Schema(COLUMNS) and set(table["model"]) == {"best", "second", "wide"}
    table.write_csv(tmp_path / "searches.csv")
    others = fresh(experiments, tmp_path)
    assert take_over(others, tmp_path / "searches.csv") == 3
    assert [experiment.trials() for experiment in others] == [experiment.trials() for experiment in experiments]
    assert [experiment.best_settings() for experiment in others] == [
        experiment.best_settings() for experiment in experiments
    ]
    assert take_over(others, tmp_path / "searches.csv") == 0  # they have their own now


def test_searches_of_other_data_widths_or_ranges_are_left_alone(experiments, tmp_path) -> None:
    searches(experiments).with_columns(key=pl.lit("00000000")).write_csv(tmp_path / "searches.csv")
    assert take_over(fresh(experiments, tmp_path), tmp_path / "searches.csv") == 0


def test_searches_that_chose_a_setting_which_no_longer_exists_are_left_alone(experiments, tmp_path) -> None:
    old = pl.when(model="wide").then(pl.lit('{"narrow": 8}')).otherwise("refit_settings")
    searches(experiments).with_columns(refit_settings=old).write_csv(tmp_path / "searches.csv")
    others = fresh(experiments, tmp_path)
    assert take_over(others, tmp_path / "searches.csv") == 2
    assert [each.model.name for each in others if each.trials()] == ["best", "second"]


def test_a_file_that_is_no_table_of_searches_is_refused(experiments, tmp_path) -> None:
    (tmp_path / "other.csv").write_text("model,l2\nmf,0.1\n")
    for name in ("none.csv", "other.csv"):
        with pytest.raises(RunError, match=rf"searches='.*{name}': no table of searches"):
            take_over(experiments, tmp_path / name)
