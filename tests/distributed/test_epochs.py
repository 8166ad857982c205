"""mrl4rec on shards: the run of one process, bit for bit, in any number of them; stopped, and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from distributed.test_checkpoint import check_equal, stopped
from distributed.test_train import PLANTED, sharded
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


def test_processes_are_started_and_a_gpu_is_not_taken(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(launch, "join", lambda device: taken.append(device) or Group(device))
    settings = config(tmp_path, device="auto", epochs=2)
    assert launch.run(launch.arguments(settings), {}) == 0
    assert taken == ["cpu"] and load(tmp_path).environment["processes"] == 1
