"""Many runs at once: all get done, finished ones are not trained again, changed ones are."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from mrl import sweep
from mrl.config import TrainConfig
from mrl.sweep import finished, fit_all

PLANTED = {"num_users": 80, "num_items": 32, "interactions": 900, "branching": [2, 2]}


def configs(folder: Path) -> list[TrainConfig]:
    base = TrainConfig(recipe="mrl4rec", dataset="planted", planted=PLANTED, widths=(2, 4), epochs=1, device="cpu")
    return [replace(base, seed=seed, run_dir=str(folder / str(seed))) for seed in range(3)]


@pytest.mark.timeout(300)
def test_runs_in_processes_equal_runs_one_by_one_and_are_not_made_twice(tmp_path, monkeypatch) -> None:
    wanted = configs(tmp_path / "many")
    runs = {run.config["seed"]: run for run in fit_all(wanted, processes=2, progress=False)}
    assert sorted(runs) == [0, 1, 2]
    alone = sweep.fit(replace(wanted[1], run_dir=str(tmp_path / "alone")), progress=False)
    assert alone.metrics.equals(runs[1].metrics)
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", None)  # nothing is left to do, so no pool is needed
    assert len(list(fit_all(wanted, progress=False))) == 3


def test_processes_take_turns_on_the_gpus(monkeypatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(sweep.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sweep.torch.cuda, "set_device", taken.append)
    begun = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(3):
        sweep._start_worker(begun, 1)
    assert taken == [0, 1, 0]


def test_a_run_counts_as_finished_only_with_its_very_settings(tmp_path) -> None:
    (config, *_) = configs(tmp_path)
    assert finished(config) is None
    sweep.fit(config, progress=False)
    assert finished(config).config["seed"] == 0
    assert finished(replace(config, resume=False)) is not None
    assert finished(replace(config, epochs=2)) is None
