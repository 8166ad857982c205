"""What is committed of a study: with it another call goes on without the working files, and makes nothing twice."""

from __future__ import annotations

import shutil
from dataclasses import replace

import polars as pl
import pytest
from studied import keep as pretend_to_keep
from studied import pretend

from mrl.errors import RunError
from mrl.study import folder as study_folder
from mrl.study.kept import keep, restore
from mrl.study.tables import keep_all, lost_values, study_tables


@pytest.fixture
def config(tmp_path, monkeypatch):
    config = pretend(monkeypatch, tmp_path / "study")
    config = replace(config, report=str(tmp_path / "reports" / "study"))
    pretend_to_keep(config, "best", {2: 0.42, 4: 0.42})
    pretend_to_keep(config, "wide", {2: 0.40, 4: 0.35})
    pretend_to_keep(config, "parts-2", {2: 0.41})
    pretend_to_keep(config, "flat", {None: 0.3}, seeds=(0,))
    return config


def test_without_its_folder_the_tables_are_the_same_and_nothing_is_to_do(config) -> None:
    before, jobs = study_tables(config).tidy, [config.jobs(each) for each in config.experiments()]
    keep_all(config)
    shutil.rmtree(config.folder)
    assert restore(config) == 4 + 3 * 3 + 1 and restore(config) == 0
    assert study_tables(config).tidy.equals(before)
    assert [config.jobs(each) for each in config.experiments()] == jobs
    keep_all(config)  # what was restored is kept again, metrics by user included
    shutil.rmtree(config.folder)
    restore(config)
    assert study_tables(config).tidy.equals(before)


def test_metrics_by_user_are_kept_of_what_the_tests_compare(config) -> None:
    keep_all(config)
    (path,) = config.stem.with_name("study-users").iterdir()
    table = pl.read_parquet(path)
    assert path.name == "planted.parquet" and table.dtypes[1:] == [pl.UInt16] * 8  # two models, widths and metrics
    assert {name.partition("-")[0] for name in table.columns} == {"user", "best", "wide", "parts"}


def test_a_row_that_has_become_the_best_without_values_by_user_is_fitted_again(config) -> None:
    keep_all(config)
    shutil.rmtree(config.folder)
    restore(config)
    pretend_to_keep(config, "parts-2", {2: 0.1})  # of other code, say: now `wide` is the best there, too
    assert [each.model.name for each in lost_values(config)] == ["wide"]
    tests = study_tables(config).tests
    assert set(tests["width"]) == {4}  # what cannot be compared is left out
    (wide,) = lost_values(config)
    wide.forget_fits()
    assert not any(wide.results(config.seeds)) and wide.trials()


def test_what_is_kept_of_earlier_code_stays_until_its_row_is_made_again(config, monkeypatch) -> None:
    keep(config)
    monkeypatch.setattr(study_folder, "code_version", lambda code: "later")
    assert not any(each.trials() for each in config.experiments())
    shutil.rmtree(config.folder)
    restore(config)
    table = keep(config).read_text()
    assert table.count('"search.json"') == 4 and "later" not in table
    pretend_to_keep(config, "wide", {2: 0.40, 4: 0.35})
    table = keep(config).read_text()
    assert table.count('"search.json"') == 4 and table.count("later") == 1 + 3


def test_a_damaged_table_is_named(config) -> None:
    keep(config).write_text('{"folder": 1}\n')
    with pytest.raises(RunError, match=r"study-kept\.jsonl: is no table of what a study has kept"):
        restore(config)
