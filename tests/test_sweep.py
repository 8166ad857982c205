"""Many runs at once: all get done, finished ones are not trained again, changed ones are."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from settings import GIVEN, train_config

from mrl import sweep
from mrl.config import TrainConfig
from mrl.errors import ConfigError
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


def test_a_run_whose_widths_were_found_is_finished_for_whoever_asks_for_them_to_be_found(tmp_path) -> None:
    config = train_config(
        **GIVEN, recipe="least_squares", dataset="planted", planted=PLANTED, widths="auto", device="cpu",
        run_dir=str(tmp_path),
    )  # fmt: skip
    run = sweep.fit(config, progress=False)
    assert finished(config).config["widths"] == run.config["widths"] != "auto"
    assert finished(replace(config, widths=tuple(run.config["widths"]))) is None


def write_log(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = [f"{user},{item}" for user in range(30) for item in rng.permutation(24)[:8]]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["user,item", *lines]) + "\n")
    return path


@pytest.fixture
def in_this_process(monkeypatch) -> list[str]:
    """Fits are made here, one by one; the data sets that were loaded."""

    class Pool:
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

        def submit(self, function, *args):
            done = function(*args)
            return type("Done", (), {"result": lambda self: done})()

    loaded: list[str] = []
    real = sweep.load_data
    monkeypatch.setattr(sweep, "load_data", lambda config: loaded.append(config.dataset) or real(config))
    monkeypatch.setattr(sweep, "worker_pool", lambda *_, **__: Pool())
    monkeypatch.setattr(sweep, "as_completed", list)
    return loaded


@pytest.mark.robustness
def test_a_sweep_trains_again_what_was_made_of_data_that_changed(tmp_path, in_this_process) -> None:
    path = write_log(tmp_path / "clicks.csv", seed=0)
    wanted = [
        replace(config, dataset=str(path), planted={}, seed=0, learning_rate=0.01 * (1 + number))
        for number, config in enumerate(configs(tmp_path))
    ]

    def prints() -> set[str]:
        return {run.environment["fingerprint"] for run in fit_all(wanted, progress=False)}

    (old,) = prints()
    assert prints() == {old} and in_this_process == [str(path)]  # once for the three, and nothing was trained
    write_log(path, seed=1)
    (new,) = prints()
    assert new != old and prints() == {new}


@pytest.mark.robustness
def test_configs_of_a_sweep_do_not_share_a_directory(tmp_path, in_this_process, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = replace(configs(tmp_path)[0], planted={}, run_dir="")
    first, second = (replace(base, dataset=str(write_log(tmp_path / name / "clicks.csv", 0))) for name in "ab")
    for other, differing in ((second, "dataset"), (replace(first, epochs=2), "epochs")):
        with pytest.raises(
            ConfigError, match=f"configs that differ in {differing} go to {tmp_path}/runs/clicks-.*run_dir"
        ):
            list(fit_all([first, other], progress=False))
    assert not (tmp_path / "runs").exists()
    (run,) = fit_all([first, replace(first, dataset="a/clicks.csv", resume=False)], progress=False)
    assert run.path.is_absolute()
