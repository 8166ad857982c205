"""Shared fixtures: where the real data is, if it is anywhere."""

from __future__ import annotations

import compileall
import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each wait for one another on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from compiled import compile_loops
from forked_kernels import kernel_server
from hypothesis import settings
from training_server import TrainingServer

import mrl  # before anything imports torch, whose threads it tells how to wait

pytest_plugins = ["fault_report", "mirror"]

# The first example of a test pays for imports and allocations: a deadline would only measure the machine.
settings.register_profile("mrl", deadline=None)
settings.load_profile("mrl")

# Where two processes share the files, these go first: a long one at the end would run beside nothing.
LONG = (
    *("test_notebooks.py", "distributed", "robustness", "report/test_stages.py", "test_readme.py", "least_squares"),
    *("sharded", "benchmark", "runs", "test_train.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, otherwise the order of the files stays."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(folder)
        found = [LONG.index(name) for name in (path.as_posix(), path.parts[0]) if name in LONG]
        return min(found, default=len(LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay: a collection of garbage need not look through them


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:  # before there are any
        compileall.compile_dir(Path(mrl.__file__).parent, quiet=2)  # once, also where no process may keep bytecode
        compile_loops()
        if hasattr(os, "fork"):  # one for all of them, which starts while they collect
            started = ExitStack()
            os.environ["MRL_TEST_KERNELS"] = str(started.enter_context(kernel_server()))
            config.add_cleanup(started.close)


@pytest.fixture(scope="session")
def training_server() -> Iterator[TrainingServer]:
    """A process that forks trainings which may be killed."""
    with TrainingServer() as server:
        yield server


@pytest.fixture(scope="session")
def started_kernels() -> Iterator[Path | None]:
    if "MRL_TEST_KERNELS" in os.environ:
        yield Path(os.environ["MRL_TEST_KERNELS"])
    elif not hasattr(os, "fork"):
        yield None
    else:
        with kernel_server() as folder:
            yield folder


@pytest.fixture
def forked_kernels(started_kernels: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks of this test have kernels that are forks."""
    if started_kernels:
        monkeypatch.setenv("JUPYTER_PATH", str(started_kernels), prepend=os.pathsep)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets: `$MRL_DATA`, or `shared/data` beside the project."""
    folder = Path(os.environ.get("MRL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "ml100k" / "train.txt").is_file():
        pytest.skip(f"no real data in {folder}; set MRL_DATA")
    return folder
