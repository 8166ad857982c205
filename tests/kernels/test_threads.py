"""Compiled loops: they work where nothing can be cached, and slices in threads cover every row once."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from mrl.kernels.threads import compiled, fetch, in_threads


def test_a_loop_is_compiled_where_nothing_can_be_cached(monkeypatch) -> None:
    njit = numba.njit

    def no_cache(*function, **options):  # numba decorates functions of its own with it, too
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*function, **options)

    monkeypatch.setattr(numba, "njit", no_cache)
    assert compiled(lambda a: a + 1)(1) == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 7, 100])
def test_slices_cover_every_row_once_and_errors_come_through(threads: int, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    visits = np.zeros(rows, int)

    def work(part: slice) -> None:
        visits[part] += 1

    in_threads(work, rows, each=5)
    assert (visits == 1).all()
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda part: 1 // 0, rows, each=5)


def test_fetching_reads_nothing_and_changes_nothing() -> None:
    table = np.arange(12.0, dtype=np.float32).reshape(3, 4)

    @compiled
    def total(table):
        result = 0.0
        for row in range(len(table)):
            fetch(table, (row + 1) * 4, (row + 2) * 4)  # past the end after the last row: a hint, not an access
            result += table[row].sum()
        return result

    assert total(table) == 66
    assert np.array_equal(table, np.arange(12).reshape(3, 4))


def test_importing_the_package_takes_little_more_than_torch_and_polars() -> None:
    """About a seventh more. Numba alone would be half a second, and whoever only looks at a run has no use for it."""
    checks = ["annotated_types", "filelock", "pydantic", "pydantic_core", "safetensors", "typing_inspection"]
    source = (
        "import sys, torch, polars; before = set(sys.modules); import mrl\n"
        "loaded = {name.partition('.')[0] for name in sys.modules.keys() - before}\n"
        f"print(*sorted(loaded - sys.stdlib_module_names - set({checks}) - {{'mrl'}}))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", ""), "imported too early"


@compiled
def double(value):
    return 2 * value


@compiled
def quadruple(value):
    return double(double(value))


def test_a_loop_calls_another_and_is_compiled_once() -> None:
    assert quadruple(3) == 12 and quadruple(5) == 20
    assert quadruple.dispatcher is quadruple.dispatcher and len(quadruple.dispatcher.signatures) == 1
