"""Trainings that meet a full disk, a rival, Ctrl-C or a number that is none, and repeat to the last bit."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from settings import train_config
from training_server import PLANTED

from mrl import TrainConfig, fit, load, load_data
from mrl.errors import RunError
from mrl.kernels.bpr import bpr_gradients
from mrl.runs import RunDirectory, differences
from mrl.trainer import Trainer

ROOT = Path(__file__).parents[2]


def settings(path: Path, **changes) -> TrainConfig:
    base = {
        "dataset": "planted", "planted": PLANTED, "widths": (2, 4, 8), "epochs": 6, "eval_every": 1, "batch_size": 128,
        "candidates": 4, "learning_rate": 0.02, "recipe": "mrl4rec", "device": "cpu", "run_dir": str(path),
    }  # fmt: skip
    return train_config(**(base | changes))


@pytest.fixture(scope="module")
def data():
    return load_data(settings(Path("nowhere")))


def check_same(path: Path, data, tmp_path: Path, **changes) -> None:
    """Resume the run at `path` and compare it with an undisturbed one, bit for bit."""
    resumed = fit(settings(path, **changes), data, progress=False)
    undisturbed = fit(settings(tmp_path / "undisturbed", **changes), data, progress=False)
    assert torch.equal(resumed.users, undisturbed.users) and torch.equal(resumed.items, undisturbed.items)
    assert resumed.metrics.equals(undisturbed.metrics)
    assert resumed.history.drop("seconds").equals(undisturbed.history.drop("seconds"))
    assert not list(path.glob(".*.tmp")) and not (path / "checkpoint.safetensors").exists()


# --- no room ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; where none can be mounted, a folder whose files may not grow (the next test's way)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system; the limit on the size of a file is tested beside this")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_stops_training_which_resumes_where_there_is_room(small_disk, data, tmp_path):
    path, ballast = small_disk / "run", small_disk / "ballast"

    def fill(self, tensors, meta, save=RunDirectory.save_checkpoint):
        if meta["rows"][-1]["epoch"] == 4:  # somebody else writes until nothing is left
            with open(ballast, "wb") as file:
                while True:
                    try:
                        os.write(file.fileno(), b"0" * 1024)
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        break
        save(self, tensors, meta)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError) as caught:
        patch.setattr(RunDirectory, "save_checkpoint", fill)
        fit(settings(path), data, progress=False)
    assert "No space left on device" in str(caught.value) and "what was there is whole" in str(caught.value)
    with pytest.raises(RunError, match="was interrupted"):
        load(path)
    with RunDirectory(path) as directory:
        assert directory.load_checkpoint()[0]["epoch"] == 3
    ballast.unlink()
    check_same(path, data, tmp_path)


def test_a_file_that_may_grow_no_further_leaves_the_previous_checkpoint(tmp_path, data):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "run"

    def limit(self, tensors, meta, save=RunDirectory.save_checkpoint):
        if len(meta["rows"]) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        save(self, tensors, meta)

    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="could not be saved"):
            patch.setattr(RunDirectory, "save_checkpoint", limit)
            fit(settings(path), data, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(path.glob(".*.tmp"))
    with RunDirectory(path) as directory:
        assert directory.load_checkpoint()[0]["epoch"] == 2
    check_same(path, data, tmp_path)


# --- numbers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "autograd"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_training_and_loses_nothing(tmp_path, data, bad, compiled):
    path, calls = tmp_path / "run", []

    def poisoned(self, *arguments, step=Trainer._step):
        calls.append(self)
        if self.epoch == 3 and not compiled:  # the loss is finite, the gradient is not
            self.model.users.register_hook(lambda gradient: gradient.fill_(bad))
        return step(self, *arguments)

    def poisoned_pass(*arguments, compute=bpr_gradients):
        gradients = compute(*arguments)
        if calls[-1].epoch == 3:
            gradients.users[:] = bad
        return gradients

    changes = {} if compiled else {"backbone": "lightgcn", "hops": 1}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="diverged in epoch 4 "):
        patch.setattr(Trainer, "_step", poisoned)
        patch.setattr("mrl.trainer.bpr_gradients", poisoned_pass)
        fit(settings(path, **changes), data, progress=False)
    with RunDirectory(path) as directory:
        tensors, _ = directory.load_checkpoint()
        assert tensors["epoch"] == 3
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    check_same(path, data, tmp_path, **changes)


def test_divergence_ends_the_process_with_an_error(tmp_path, training_server):
    fate = training_server.train(settings(tmp_path / "run", learning_rate=1e30).to_dict())
    assert fate["status"] != 0 and fate["died"] == 0
    assert fate["error"].startswith("RunError: training diverged in epoch 1 (loss ")
    assert fate["error"].endswith("; the last checkpoint is whole; lower learning_rate or raise l2")


# --- others, and Ctrl-C ----------------------------------------------------------------------------------------------


PATIENT = """
import json, sys, time
from mrl import TrainConfig, fit
from mrl.runs.directory import RunDirectory
save = RunDirectory.save_checkpoint
RunDirectory.save_checkpoint = lambda *arguments: (save(*arguments), time.sleep(100))
fit(TrainConfig(**json.loads(sys.argv[1])), progress=False)
"""


def test_a_second_training_in_the_same_directory_is_refused(tmp_path, data):
    path = tmp_path / "run"
    command = [sys.executable, "-c", PATIENT, json.dumps(settings(path).to_dict())]
    first = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        checkpoint = path / "checkpoint.safetensors"
        while not checkpoint.exists():
            assert first.poll() is None
            time.sleep(0.02)
        before = checkpoint.read_bytes()
        with pytest.raises(RunError, match="another process is writing this run; wait for it or give another run_dir"):
            fit(settings(path), data, progress=False)
        assert checkpoint.read_bytes() == before
    finally:
        first.kill()
        first.wait()
    check_same(path, data, tmp_path)


def test_ctrl_c_leaves_a_directory_that_resumes_to_the_same_bits(tmp_path, data, training_server):
    path = tmp_path / "run"
    fate = training_server.train(settings(path).to_dict(), at=20, by=signal.SIGINT)
    assert fate["status"] != 0 and fate["error"].startswith("KeyboardInterrupt")
    with pytest.raises(RunError, match="was interrupted; train with the same settings to resume it"):
        load(path)
    check_same(path, data, tmp_path)


# --- the same again --------------------------------------------------------------------------------------------------


LARGER = {"num_users": 300, "num_items": 200, "interactions": 5000}  # enough for torch to share out between threads


@pytest.mark.parametrize(
    ("kind", "counts"),
    [({}, (1, 2, 3)), ({"backbone": "lightgcn"}, (1, 2, 3)), ({"rule": "dens"}, (1, 1, 2, 2))],
    ids=["mf", "lightgcn", "dens"],
)
def test_a_seed_gives_the_same_bits_in_any_process_and_with_the_threads_it_says(
    tmp_path, training_server, kind, counts
):
    """With any number of threads; for DENS, whose gates are summed over the batch by each thread, with the same."""

    def config(name: str) -> TrainConfig:
        larger = {"planted": LARGER, "batch_size": 2048, "widths": (4, 64), "epochs": 2}
        return settings(tmp_path / name, **larger, **kind)

    fate = training_server.train(config("0").to_dict())
    assert fate["status"] == 0, fate
    runs, threads = [load(tmp_path / "0")], torch.get_num_threads()
    try:
        for place, count in enumerate(counts, start=1):
            torch.set_num_threads(count)
            runs.append(fit(config(str(place)), progress=False))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        if "rule" in kind:
            first = next(other for other in runs if other.environment["threads"] == run.environment["threads"])
        else:
            first = runs[0]
        assert torch.equal(run.users, first.users) and torch.equal(run.items, first.items)
        assert run.metrics.equals(first.metrics)
    changed = dict(differences(runs[0], runs[-1]).select("name", "second").iter_rows())
    assert changed["environment.threads"] == str(counts[-1])
    assert changed["config.run_dir"] == json.dumps(str(tmp_path / str(len(counts))))
    assert not {"environment.fingerprint", "config.seed", "environment.torch"} & set(changed)
