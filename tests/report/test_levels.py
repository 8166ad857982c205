"""The parameters of the notebook about levels, and where its runs go. That it trains and measures: test_notebooks."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from levels_tables import kept_table

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
