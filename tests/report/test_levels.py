"""The parameters of the notebook about levels, and where its runs go. That it trains and measures: test_notebooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.errors import ConfigError
from mrl.parameters import as_config
from mrl.report.levels import LevelsConfig


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
