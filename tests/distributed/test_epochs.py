"""Epochs on shards: the run of one process in any number of them; stopped, and gone on with. mrl4rec bit for bit."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from distributed.test_checkpoint import check_equal, stopped, torchrun
from distributed.test_train import GIVEN, PLANTED, sharded
from settings import train_config

from mrl import TrainConfig, fit, load
from mrl.distributed import launch
from mrl.sharded import Group

QUICK = {
    "dataset": "planted", "planted": PLANTED, "recipe": "mrl4rec", "widths": (2, 4, 8), "device": "cpu", "epochs": 8,
    "batch_size": 500, "learning_rate": 0.02, "eval_every": 2, "patience": 2, "candidates": 4,
}  # fmt: skip


def config(folder: Path, **changes) -> TrainConfig:
    return train_config(**QUICK | changes, run_dir=str(folder))


CASES = {
    "honest": {"per_user": True},
    "paper": {"protocol": "paper", "rule": "cns", "nested_negatives": False, "eval_widths": (3,)},
    "early": {"patience": 1, "learning_rate": 0.5, "monitor": "recall@10"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_any_number_of_processes_writes_the_run_of_one_without_shards(processes, tmp_path, changes):
    alone = fit(config(tmp_path / "alone", **changes), progress=False)
    runs = {}
    for size in (1, 2, 3):
        settings = config(tmp_path / str(size), **changes)
        assert processes.run(size, sharded, settings) == [str(tmp_path / str(size))] * size
        runs[size] = load(tmp_path / str(size))
    for size, run in runs.items():
        check_equal(runs[1], run)
        assert torch.equal(run.users, alone.users) and torch.equal(run.items, alone.items)
        assert run.metrics.equals(alone.metrics) and run.seen == alone.seen
        assert run.environment["best_epoch"] == alone.environment["best_epoch"]
        assert run.environment.get("advice") == alone.environment.get("advice")
        assert run.environment["processes"] == size and (run.environment["bytes_sent"] > 0) == (size > 1)
        kept = [name for name in alone.history.columns if name != "seconds"]
        assert run.history.columns == alone.history.columns
        for name in kept:
            ours, theirs = run.history[name], alone.history[name]
            if name.startswith("loss"):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5)
            else:
                assert ours.equals(theirs), name
        assert {file.name for file in run.path.iterdir()} == {file.name for file in alone.path.iterdir()}


# validations after 2, 4, … epochs of the search; then what the refit begins with, and every second of its epochs
@pytest.mark.parametrize("saves, sizes", [(1, (2, 3)), (3, (3, 1)), (4, (1, 2)), (6, (2, 3))])
def test_a_run_that_was_stopped_goes_on_with_more_or_fewer(processes, tmp_path, saves, sizes):
    undisturbed, settings = config(tmp_path / "undisturbed"), config(tmp_path / "stopped")
    assert processes.run(sizes[0], stopped, settings, saves) == ["RunError: stopped"] * sizes[0]
    for each in (undisturbed, settings):
        processes.run(sizes[1], sharded, each)
    check_equal(load(tmp_path / "undisturbed"), load(tmp_path / "stopped"))
    assert len(load(tmp_path / "stopped").history.filter(phase="refit")) > 4, "or the last case stops nothing"


@pytest.mark.parametrize("rule", ["dens", "mix"])
def test_what_adam_of_torch_trains_alone_is_the_same_but_for_rounding(processes, tmp_path, rule):
    """Stopped, too, and gone on with by more or fewer processes."""
    runs = [fit(config(tmp_path / "alone", rule=rule), progress=False)]
    for sizes, saves in (((3,), 0), ((3, 2), 2), ((2, 1), 6)):
        *before, size = sizes
        settings = config(tmp_path / f"{sizes}", rule=rule)
        for other in before:
            assert processes.run(other, stopped, settings, saves) == ["RunError: stopped"] * other
        assert processes.run(size, sharded, settings) == [str(settings.run_dir)] * size
        runs.append(load(settings.run_dir))
    expected = runs[0]
    for run in runs[1:]:
        for ours, theirs in ((run.users, expected.users), (run.items, expected.items)):
            assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()
        assert run.environment["best_epoch"] == expected.environment["best_epoch"]
        assert run.history["loss"].to_list() == pytest.approx(expected.history["loss"].to_list(), rel=1e-4)
        assert run.metrics["value"].to_list() == pytest.approx(expected.metrics["value"].to_list(), abs=2e-3)


DEFAULT = GIVEN | {
    "recipe": "default", "fit_width": 8, "sweeps": 1, "rotation": False, "batch_size": 1000, "learning_rate": 0.02,
    "eval_every": 1, "patience": 2, "epochs": 4, "candidates": 16,
}  # fmt: skip
POOR = {"alpha0": 1.0, "frequency_l2": 0.3, "propagation": (0.0, 0.0)}  # initial vectors, which epochs improve


@pytest.mark.parametrize("changes, best", [(POOR, 4), ({"initial_scale": 3.0}, 0)], ids=["kept", "fallen"])
def test_the_default_recipe_is_that_of_one_process_but_for_rounding(processes, tmp_path, changes, best):
    """Where epochs gain, and where they fall under the initial model and none is kept."""
    settings = DEFAULT | changes
    alone = fit(config(tmp_path / "alone", **settings), progress=False)
    for size in (1, 3):
        processes.run(size, sharded, config(tmp_path / str(size), **settings))
        run = load(tmp_path / str(size))
        assert run.environment["best_epoch"] == alone.environment["best_epoch"] == best
        assert run.history.columns == alone.history.columns
        assert run.history["phase"].to_list() == alone.history["phase"].to_list()
        for name in set(run.history.columns) - {"phase", "seconds"}:
            ours, theirs = (each[name].fill_null(-1).cast(float) for each in (run.history, alone.history))
            np.testing.assert_allclose(ours, theirs, rtol=0.02, err_msg=name)
        near = np.abs(run.metrics["value"].to_numpy() - alone.metrics["value"].to_numpy())
        assert near.max() < 0.01
        assert run.weights.keys() == alone.weights.keys()


# its settings, a sweep, four epochs; the refit, a sweep, four epochs
@pytest.mark.parametrize("saves, sizes", [(4, (2, 3)), (10, (1, 2))])
def test_a_default_run_that_was_stopped_goes_on_with_more_or_fewer(processes, tmp_path, saves, sizes):
    undisturbed, settings = (config(tmp_path / name, **DEFAULT | POOR) for name in ("undisturbed", "stopped"))
    assert processes.run(sizes[0], stopped, settings, saves) == ["RunError: stopped"] * sizes[0]
    for each in (undisturbed, settings):
        processes.run(sizes[1], sharded, each)
    expected, run = load(tmp_path / "undisturbed"), load(tmp_path / "stopped")
    assert run.history["epoch"].equals(expected.history["epoch"]) and run.environment["best_epoch"] == 4
    assert run.weights.keys() == expected.weights.keys()
    for name, table in expected.weights.items():
        torch.testing.assert_close(run.weights[name], table, rtol=0.01, atol=0.01, msg=name)


def test_processes_are_started_and_a_gpu_is_not_taken(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(launch, "join", lambda device: taken.append(device) or Group(device))
    settings = config(tmp_path, device="auto", epochs=2)
    assert launch.run(launch.arguments(settings), {}) == 0
    assert taken == ["cpu"] and load(tmp_path).environment["processes"] == 1


def test_processes_that_are_killed_leave_what_another_number_goes_on_from(tmp_path):
    undisturbed, settings = (config(tmp_path / name, epochs=40) for name in ("undisturbed", "killed"))
    process, checkpoint = torchrun(settings, 2), tmp_path / "killed" / "checkpoint.safetensors"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    workers = process.children()
    for each in (process, *workers):
        each.kill()
    psutil.wait_procs(workers)
    assert process.wait() == -9 and checkpoint.exists()
    threads = torch.get_num_threads()
    try:
        for each in (undisturbed, settings):
            assert launch.run(launch.arguments(each), {"OMP_NUM_THREADS": "1"}) == 0
    finally:
        torch.set_num_threads(threads)
    check_equal(load(tmp_path / "undisturbed"), load(tmp_path / "killed"))
