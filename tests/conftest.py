"""Shared fixtures: where the real data is, if it is anywhere."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each wait for one another on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from training_server import TrainingServer

import mrl  # noqa: F401  (before anything imports torch, whose threads it tells how to wait)

pytest_plugins = ["fault_report", "mirror"]

# The first example of a test pays for imports and allocations: a deadline would only measure the machine.
settings.register_profile("mrl", deadline=None)
settings.load_profile("mrl")


@pytest.fixture(scope="session")
def training_server() -> Iterator[TrainingServer]:
    """A process that forks trainings which may be killed."""
    with TrainingServer() as server:
        yield server


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets: `$MRL_DATA`, or `shared/data` beside the project."""
    folder = Path(os.environ.get("MRL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "ml100k" / "train.txt").is_file():
        pytest.skip(f"no real data in {folder}; set MRL_DATA")
    return folder
