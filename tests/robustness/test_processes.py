"""The caller's process: served from forked workers and threads, with any default dtype, without POSIX."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import GIVEN, train_config

from mrl import fit, load
from mrl.evaluation.evaluate import evaluate
from mrl.runs import Run
from mrl.serving.fold_in import fold_in_items, fold_in_users
from mrl.train import load_data

ROOT = Path(__file__).parents[2]
PLANTED = {"num_users": 300, "num_items": 400, "interactions": 6000, "branching": [3, 4]}
BASE = {"dataset": "planted", "planted": PLANTED, "widths": (2, 4, 8), "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("served") / "run"
    config = train_config(**BASE | GIVEN, recipe="least_squares", run_dir=str(path))
    return fit(config, progress=False)


def python(source: str, *arguments: object, seconds: float = 120) -> str:
    """What a program prints; a program that hangs fails, and none of its processes is left."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", source, *map(str, arguments)], env=environment, **options) as program:
        try:
            out, errors = program.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            pytest.fail(f"hangs: {program.communicate()[0][-300:]}")
    assert program.returncode == 0, errors
    return out


# As a server does that loads the model before it forks: many threads are in use, and one is in the middle of a product.
FORKS = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import torch
from mrl import load
from mrl.serving import fold_in_items, fold_in_users

torch.set_num_threads(2)
parent, run = os.getpid(), load(sys.argv[1])
users = run.user_ids[:200]

def serve(number=0):
    later = fold_in_users(run, {"user": "a new user", "item": run.item_ids[:9]})
    later = fold_in_items(later, {"item": "a new item", "user": run.user_ids[:9]})
    large = torch.ones(600, 600)
    (large @ large).sum()  # what the caller computes with torch works, too
    again = load(sys.argv[1]) if os.getpid() != parent else run
    assert again.by_width().rows() == run.by_width().rows() and again.recommend(0).rows() == run.recommend(0).rows()
    return [*run.recommend(users, k=20, width=4).rows(), *later.recommend(["a new user", 0], k=400).rows()]

def nested():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(serve).result()

def in_a_thread():
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(serve, range(2))
    assert first == second
    return first

def forked(work):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, b"1" if work() == expected else b"0")
        finally:
            os._exit(0)
    os.close(writer)
    return os.read(reader, 1) == b"1"

expected = serve()
large = torch.ones(1000, 1000)
(large @ large).sum()
for how in sys.argv[2:]:
    if how == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert all(found == expected for found in pool.map(serve, range(4)))
    elif how == "executor":
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            assert all(found == expected for found in pool.map(serve, range(4)))
    elif how == "joblib":
        import joblib
        tasks = [joblib.delayed(serve)(number) for number in range(4)]
        assert all(found == expected for found in joblib.Parallel(2, backend="multiprocessing")(tasks))
    elif how == "fork":
        assert forked(serve) and forked(serve)
    elif how == "nested":
        assert forked(nested)
    elif how == "threads of a fork":
        assert forked(in_a_thread)
    elif how == "lock held":
        from mrl.kernels import threads
        with threads._BUILDING:
            assert forked(serve)
    assert serve() == expected and torch.get_num_threads() == 2
    print("served:", how, flush=True)
"""
HOWS = ("pool", "executor", "fork", "nested", "threads of a fork", "lock held", "joblib")


@pytest.mark.robustness
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_workers_serve_what_their_parent_serves(run) -> None:
    """Every way in turn from one program, since importing is what takes long; what it prints says how far it came."""
    assert python(FORKS, run.path, *HOWS, seconds=200).splitlines() == [f"served: {how}" for how in HOWS]


@pytest.mark.robustness
def test_threads_at_once_get_the_same_lists(run) -> None:
    users = run.user_ids
    expected = run.recommend(users, k=20, width=4)
    fresh = load(run.path)  # nothing cached yet
    with ThreadPoolExecutor(8) as pool:
        lists = list(pool.map(lambda _: fresh.recommend(users, k=20, width=4), range(24)))
    assert all(found.equals(expected) for found in lists)


@pytest.fixture
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


DTYPES = (torch.float64, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, indirect=True, ids=str)


def served(run: Run) -> list:
    rows = run.recommend(run.user_ids[:50], k=20, width=4).rows()
    with_user = fold_in_users(run, {"user": "x", "item": run.item_ids[:9]})
    with_item = fold_in_items(run, {"item": "x", "user": run.user_ids[:9]})
    metrics = evaluate(run.users, run.items, load_data(train_config(**BASE)), widths=(2, 8), per_user=True)
    return [rows, with_user.users.tolist(), with_item.items.tolist(), metrics.table.rows(), metrics.per_user.rows()]


@pytest.mark.robustness
@each_dtype
def test_serving_is_the_same_with_any_default_dtype(run, dtype) -> None:
    found = served(load(run.path))
    torch.set_default_dtype(torch.float32)
    assert found == served(run)


@pytest.mark.robustness
@pytest.mark.parametrize(
    "changes",
    [
        GIVEN | {"epochs": 1},
        {"recipe": "mrl4rec", "loss": "bce", "rule": "dens", "levels_per_step": 2},
        {"recipe": "mrl4rec", "backbone": "lightgcn", "edge_dropout": 0.1, "message_dropout": 0.1, "loss": "dau"},
    ],
    ids=["default", "mf", "lightgcn"],
)
def test_training_is_the_same_with_any_default_dtype(changes, tmp_path) -> None:
    smaller = {"planted": {"num_users": 120, "num_items": 90, "interactions": 2000, "branching": [3, 4]}}
    config = {**BASE, **smaller, "epochs": 1, "eval_every": 1} | changes
    expected = fit(train_config(**config, run_dir=str(tmp_path / "float32")), progress=False)
    try:
        for dtype in DTYPES:
            torch.set_default_dtype(dtype)
            found = fit(train_config(**config, run_dir=str(tmp_path / str(dtype))), progress=False)
            torch.set_default_dtype(torch.float32)
            assert found.users.dtype == torch.float32 and np.array_equal(found.users, expected.users), dtype
            assert np.array_equal(found.items, expected.items) and found.metrics.equals(expected.metrics), dtype
    finally:
        torch.set_default_dtype(torch.float32)


# What is missing on Windows is taken away, once the packages of others have looked for it.
WITHOUT_POSIX = """
import importlib, os, pkgutil, sys

for name in ("torch", "polars", "pydantic", "filelock", "tqdm", "numba", "scipy.sparse", "sklearn.cluster",
             "multiprocessing.sharedctypes", "concurrent.futures.process", "matplotlib.pyplot", "optuna", "papermill"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # of an extra
absent = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "readline", "syslog"}

class Windows:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ImportError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Windows())
for name in absent & set(sys.modules):
    del sys.modules[name]
for name in ("fork", "forkpty", "register_at_fork", "sched_getaffinity", "getuid", "sysconf", "O_DIRECTORY"):
    vars(os).pop(name, None)

import mrl
from mrl.errors import MRLError

for module in pkgutil.walk_packages(mrl.__path__, "mrl."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert error.name not in absent, error
from mrl.runs import peak_memory_mib
from pathlib import Path
print(mrl.load(sys.argv[1]).recommend(0, k=3).height)
Path.exists = lambda self: False  # no /proc either
assert peak_memory_mib() is None
"""


@pytest.mark.robustness
def test_every_module_is_imported_where_there_is_no_posix(run) -> None:
    assert python(WITHOUT_POSIX, run.path).strip() == "3"


def test_threads_wait_without_spinning_unless_the_caller_says_otherwise() -> None:
    source = "import mrl, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("WAIT_POLICY", "SPINCOUNT"))}
    for given, expected in (({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None")):
        options = {"env": environment | {"PYTHONPATH": str(ROOT)} | given, "capture_output": True, "text": True}
        assert subprocess.run([sys.executable, "-c", source], check=True, **options).stdout.strip() == expected
    assert "OMP_WAIT_POLICY" in os.environ, "so do the tests"
