"""Processes started by torchrun: from Python, from the command line, and when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from settings import train_config

import mrl
from mrl import TrainConfig, load_data
from mrl.distributed import __main__, launch
from mrl.errors import ConfigError, RunError
from mrl.parameters import as_config

PLANTED = {"num_users": 200, "num_items": 60, "interactions": 4000, "branching": (3, 3)}
GIVEN = {
    "alpha0": 0.1, "frequency_l2": 0.01, "fit_width": 8, "sweeps": 1, "nested_sweeps": 0, "propagation": (0.5, 0.0),
    "rotation": False,
}  # fmt: skip


def config(folder, **changes) -> TrainConfig:
    base = {"dataset": "planted", "planted": PLANTED, "recipe": "least_squares", "widths": (2, 4), "device": "cpu"}
    return train_config(**base, **GIVEN, run_dir=str(folder), **changes)


def test_two_processes_from_python_and_one_by_hand_write_the_same_run(tmp_path, capfd):
    run = mrl.fit(config(tmp_path / "two"), processes=2)
    said = capfd.readouterr().err
    assert "done in" in said and "refit" in said, "what the first process tells is shown"
    assert run.environment["processes"] == 2 and run.config["processes"] == 2
    words = launch.arguments(config(tmp_path / "one"))
    command = [sys.executable, "-m", "mrl.distributed", *words]
    clean = {name: value for name, value in os.environ.items() if name not in (launch.MESSAGES, "WORLD_SIZE", "RANK")}
    made = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0 and made.stdout.strip() == str((tmp_path / "one").resolve()), made.stderr
    alone = mrl.load(tmp_path / "one")
    assert alone.metrics.equals(run.metrics) and torch.equal(alone.users, run.users)


def test_settings_go_through_the_command_line_as_they_are(tmp_path):
    given = config(tmp_path, eval_widths=(3,), user_column=None, rating_column="", name="mine-1", hops=2)
    words = launch.arguments(given)
    assert as_config(TrainConfig, dict(zip(words[::2], words[1::2], strict=True))) == given


def test_an_error_of_a_process_is_raised_here(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be written"):
        mrl.fit(config(tmp_path / "file"), processes=2, progress=False)


@pytest.mark.parametrize(
    "words, said",
    [
        (["dataset"], "ConfigError: dataset: has no value; give parameters as name value"),
        (["epoch", "3"], "ConfigError: unknown parameter 'epoch'; did you mean 'epochs'?"),
        (["backbone", "lightgcn"], "ConfigError: backbone='lightgcn': each step takes the vectors of all rows"),
    ],
    ids=["odd", "unknown", "recipe"],
)
def test_what_is_wrong_is_one_line(capsys, words, said):
    assert launch.run(words, {}) == 1
    assert capsys.readouterr().err.startswith(said)
    assert launch.run(words, {"RANK": "1", launch.MESSAGES: "1"}) == 1
    assert capsys.readouterr().out.startswith('{"mrl": {"fault": ["ConfigError", ')


def test_one_process_is_trained_as_ever(tmp_path):
    settings = config(tmp_path / "run")
    run = mrl.fit(settings, load_data(settings), progress=False)
    assert "processes" not in run.environment
    with pytest.raises(ConfigError, match="data: 2 processes read the data of the config; leave data out"):
        mrl.fit(settings, load_data(settings), processes=2)
    with pytest.raises(ConfigError, match="backbone='lightgcn': each step"):
        mrl.fit(TrainConfig(backbone="lightgcn"), processes=2)
    with pytest.raises(ConfigError, match="processes=0"):
        replace(settings, processes=0)


def test_processes_that_end_without_a_result_are_an_error(tmp_path, monkeypatch):
    """In place of torchrun a program that tells something, and ends as torchrun does where a process was killed."""
    program = tmp_path / "program"
    lines = ('{"mrl": {"note": "begun"}}', "RuntimeError: killed", "the last line")
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + "exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(program))
    notes = []
    monkeypatch.setattr(launch.Progress, "note", lambda self, line: notes.append(line))
    with pytest.raises(RunError, match=r"of 2 ended without a result \(RuntimeError: killed\); see its machine"):
        launch.start(config(tmp_path / "run", processes=2), launch.Progress(shown=False))
    assert notes == ["begun"]


def test_the_module_is_what_torchrun_runs():
    assert __main__.run is launch.run
