"""Measured in one and two processes that torchrun starts, fitted, predicted; and what fails there, in one line."""

from __future__ import annotations

import signal

import numpy as np
import polars as pl
import pytest

from mrl.benchmark.scale import (
    KINDS,
    ScaleConfig,
    draw_scale,
    fit_scale,
    in_processes,
    measure_sizes,
    predict_scale,
    scale_errors,
)
from mrl.distributed.cost import EVALUATION, SWEEP, Load, Machine
from mrl.errors import ConfigError, RunError
from mrl.sharded import EpochLoad, Group
from mrl.sharded.cost import EPOCH

SMALL = ScaleConfig(
    sizes=(20_000,), held_out=30_000, processes=(2,), widths=(4, 8), repeats=1, users=4000, items=600, large=(10**9,)
)
MACHINE = Machine(2e10, 1e10, 1e9, 1e-4)
TRUE = [np.array([2.0, 3.0, 1e-3, 1.5, 4.0]), np.array([5.0, 1e-6, 0.1, 2.0]), np.array([2.0, 3e-4, 2.0])]
TRUE += [np.array([3e8]), np.array([5e8])]


def made() -> pl.DataFrame:
    """As `measure_scale` would give it on a machine that the formulas hold of."""
    rows = []
    for size in (1, 2, 3, 5):
        for width in (16, 64):
            for processes in (1, 2):
                load = Load(9000 * size, 800 * size, 200_000 * size**2, width, processes, size * width * 1000)
                levels = (width // 4, width // 2, width)
                epoch = EpochLoad(load.users, load.items, load.interactions, levels, processes=processes)
                row = vars(load) | {"held_out": size == 5, "sweep sent": load.sent_by_sweep()}
                row |= {"evaluation sent": load.sent_by_evaluation(), "epoch sent": epoch.sent()}
                for kind, factors in zip(KINDS, TRUE, strict=True):
                    row[kind] = (epoch if kind == EPOCH else load).predict(kind, MACHINE, factors)
                rows.append(row)
    return pl.DataFrame(rows)


def test_sizes_are_measured():
    rows, speed = measure_sizes(Group(), SMALL)
    measured = pl.DataFrame(rows)
    assert measured.select("width", "processes", "held_out").rows() == [
        (4, 1, False), (8, 1, False), (4, 1, True), (8, 1, True),
    ]  # fmt: skip
    assert measured["interactions"][0] == pytest.approx(16_000, rel=0.01), "a fifth is for test"
    assert all((measured[name] > 0).all() for name in (SWEEP, EVALUATION, EPOCH))
    assert measured["sweep sent"].to_list() == [0] * 4
    assert speed["flops"] > 1e8 and speed["memory_bandwidth"] > 1e7 and speed["bandwidth"] is speed["latency"] is None


def test_what_is_fitted_predicts_what_is_held_out():
    table, factors = fit_scale(made(), made(), MACHINE)
    assert len(table) == 5 * 16 + 3 * 8 and table["error"].abs().max() < 1e-4
    errors = scale_errors(table)
    assert set(errors["quantity"]) == {*KINDS, "sweep sent", "evaluation sent", "epoch sent"} and len(errors) == 16
    small = predict_scale(SMALL, factors)
    assert small["processes"].to_list() == [8 * 16, 64 * 16]
    assert small["sweep, seconds"][1] < small["sweep, seconds"][0]
    assert (small["epoch, seconds"] > 0).all() and small["epoch sent, GiB"][1] < small["epoch sent, GiB"][0]
    assert len(draw_scale(table).axes) == len(KINDS)


def test_what_is_held_out_is_not_fitted():
    slow = made().with_columns(pl.when("held_out").then(pl.col("sweep") * 2).otherwise("sweep").alias("sweep"))
    errors = scale_errors(fit_scale(slow, made(), MACHINE)[0]).filter(quantity="sweep")
    assert dict(errors.select("held_out", "largest_error").rows()) == pytest.approx({False: 0, True: 0.5}, abs=1e-4)
    with pytest.raises(ConfigError, match="held_out=5: is one of sizes"):
        ScaleConfig(sizes=(5, 6), held_out=5)
    with pytest.raises(ConfigError, match="memory_held_out=5: is one of memory_sizes"):
        ScaleConfig(memory_sizes=(5, 6), memory_held_out=5)


@pytest.mark.timeout(120)
def test_a_process_that_fails_is_one_line():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunError, match=r"^process 0 of 1: .*measured"):
        in_processes(1, fail)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before, "Ctrl-C works as ever"


def fail(group) -> None:
    raise ValueError("nothing is measured")
