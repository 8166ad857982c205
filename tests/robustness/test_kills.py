"""Trainings killed by the operating system at random moments, and what they come to in the end."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch
from training_server import PLANTED

from mrl.config import in_sections
from mrl.runs import tensorfile
from mrl.runs.run import Run, load

KINDS = (
    {"alpha0": 0.1, "frequency_l2": 0.01, "candidates": 16},  # a search, least squares and its rotation, then training
    {"recipe": "mrl4rec"},
    {"backbone": "lightgcn", "hops": 1, "edge_dropout": 0.1, "message_dropout": 0.1, "rule": "dens"},
    {"recipe": "mrl4rec", "protocol": "paper", "loss": "uib", "levels_per_step": 1},
    {"recipe": "mrl4rec", "rule": "dns_mn", "nested_negatives": False, "patience": 2, "per_user": True},
)


def config(path: Path, kind: dict, seed: int) -> dict:
    base = {
        "dataset": "planted", "planted": PLANTED, "widths": (2, 4, 8), "epochs": 12, "eval_every": 1,
        "batch_size": 128, "candidates": 4, "learning_rate": 0.02, "device": "cpu", "run_dir": str(path), "seed": seed,
    }  # fmt: skip
    return in_sections(base | kind)


def progress_of(path: Path) -> tuple[int, int]:
    """Phase and epoch of the checkpoint, which must be intact: zeros where there is none, 2 if finished."""
    file = path / "checkpoint.safetensors"
    if not file.exists():
        return (2, 0) if (path / "metrics.csv").exists() else (0, 0)
    tensors, meta = tensorfile.read(file)
    return (meta["phase"] == "refit", int(tensors["epoch"]))


def check_equal(expected: Run, run: Run) -> None:
    assert expected.weights.keys() == run.weights.keys()
    for name, tensor in expected.weights.items():
        assert torch.equal(tensor, run.weights[name]), name
    assert run.metrics.equals(expected.metrics)
    assert run.history.drop("seconds").equals(expected.history.drop("seconds"))
    assert run.seen == expected.seen
    assert (run.user_ids == expected.user_ids).all() and (run.item_ids == expected.item_ids).all()
    assert run.environment["best_epoch"] == expected.environment["best_epoch"]
    assert (expected.per_user is None) == (run.per_user is None)
    if run.per_user is not None:
        assert run.per_user.equals(expected.per_user)
    assert {file.name for file in run.path.iterdir()} == {file.name for file in expected.path.iterdir()}


@pytest.mark.timeout(900)
def test_a_training_killed_again_and_again_ends_in_the_same_bits(training_server, tmp_path, kills, record_property):
    """SIGKILL after random times and before random file operations; now and then death in the middle of a write."""
    dice = random.Random(0)
    done, runs = 0, 0
    while done < kills:
        kind = KINDS[runs % len(KINDS)]
        undisturbed_path, path = tmp_path / f"undisturbed-{runs}", tmp_path / f"killed-{runs}"
        undisturbed = training_server.train(config(undisturbed_path, kind, runs))
        assert undisturbed["status"] == 0
        expected = load(undisturbed_path)
        reached, sitting = (0, 0), 0
        while True:
            # What remains is shorter with every sitting, so that times and places fall all over the run.
            moment = [
                {"after": dice.uniform(0, undisturbed["seconds"])},
                {"at": dice.randint(1, undisturbed["operations"] // 3)},
                {"within": dice.randint(1, undisturbed["operations"] // 3)},
            ][sitting % 3]
            sitting += 1
            fate = training_server.train(config(path, kind, runs), **(moment if done < kills else {}))
            now = progress_of(path)
            assert now >= reached, "a checkpoint that was there is lost"
            reached = now
            assert fate["status"] in (0, signal.SIGKILL, signal.SIGXFSZ), fate
            done += fate["died"] == signal.SIGKILL
            if reached == (2, 0):
                break
        check_equal(expected, load(path))
        runs += 1
    record_property("kills", done)
