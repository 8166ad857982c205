"""The parameters of the notebook about levels, and where its runs go. That it trains and measures: test_notebooks."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from levels_tables import kept_table

from mrl.controls import ControlsConfig
from mrl.errors import ConfigError, RunError
from mrl.levels.study import SUMMARY
from mrl.parameters import as_config
from mrl.report.levels import LevelsConfig, write_levels


def test_settings_are_of_a_data_set_and_runs_lie_in_one_folder(tmp_path) -> None:
    values = {"datasets": ["planted", "tool"], "seeds": [3, 4], "settings": {"planted": {"widths": [2, 4]}}}
    config = as_config(LevelsConfig, values | {"runs": str(tmp_path), "folder": str(tmp_path)})
    training = config.training("planted")
    assert training.widths == (2, 4) and training.seed == 3
    assert Path(training.run_dir) == tmp_path / "planted-default-3"
    assert config.training("tool").widths == (4, 8, 16, 32, 64)
    assert config.stem == tmp_path / "levels" and config.target.parts[-2:] == ("reports", "levels.csv")


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"settings: 'phone' is not among datasets=\['planted'\]"):
        as_config(LevelsConfig, {"datasets": ["planted"], "settings": {"phone": {}}})
    with pytest.raises(ConfigError, match="models: 'ease' has no widths to compare; leave it out"):
        as_config(LevelsConfig, {"models": ["svd", "ease"]})


def test_the_table_keeps_rows_of_other_data_sets(tmp_path) -> None:
    path = tmp_path / "reports" / "levels.csv"
    table = kept_table({"default": {"depth_1": 0.5}})
    for dataset, model in (("d", "default"), ("e", "default"), ("d", "mrl4rec")):
        write_levels(table.with_columns(dataset=pl.lit(dataset), model=pl.lit(model)), path)
    found = pl.read_csv(path, schema=SUMMARY)
    assert found.select("dataset", "model").unique(maintain_order=True).rows() == [("d", "mrl4rec"), ("e", "default")]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match=r"is no table of levels \(.*\); remove it, or name another"):
        write_levels(table, path)


def test_what_is_recorded_of_a_data_set_counts_where_nothing_is_given(tmp_path) -> None:
    path = tmp_path / "recorded.json"
    recorded = {"settings": {"widths": [2, 8]}, "controls": {"ials_trials": 3}, "prototypes": {"views": False}}
    path.write_text(json.dumps({"planted": recorded}))
    values = {"datasets": ["planted", "tool"], "recorded": str(path)}
    config = as_config(LevelsConfig, values)
    assert config.training("planted").widths == (2, 8) and config.of("planted").controls == {"ials_trials": 3}
    assert not config.of("planted").prototypes.views and config.of("tool").prototypes.views
    config = as_config(LevelsConfig, values | {"settings": {"planted": {"core": 2}}})
    assert config.training("planted").core == 2 and config.training("planted").widths == (4, 8, 16, 32, 64)
    assert config.of("planted").controls == {"ials_trials": 3}


def test_the_settings_of_the_committed_tables_are_settings() -> None:
    config = as_config(LevelsConfig, {})
    for dataset in config.datasets:
        found = config.of(dataset)
        assert config.training(dataset).dataset == dataset and found.prototypes.trainings
        as_config(ControlsConfig, {"run": "runs/x", **found.controls})
    assert config.training("completejourney").least_squares.search == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read .*; give a JSON file"),
        (None, "cannot be read .*; give a JSON file"),
        ("[]", r"is no mapping by data set; write \{'planted': \{…\}\}"),
        ('{"planted": {"setings": {}}}', "unknown parameter 'setings'; did you mean 'settings'?"),
    ],
)
def test_a_file_of_settings_that_is_none_is_refused(tmp_path, text, message) -> None:
    path = tmp_path / "recorded.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        as_config(LevelsConfig, {"recorded": str(path)}).of("planted")
