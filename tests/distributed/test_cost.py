"""The cost model: its terms by hand, what is sent against the formula of a sweep, and factors found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrl.distributed.cost import EVALUATION, EVALUATION_MEMORY, MEMORY, SWEEP, Load, Machine, fit_factors
from mrl.distributed.least_squares import bytes_of_sweep
from mrl.errors import ConfigError
from mrl.sharded import rows
from mrl.sharded.cost import EPOCH, EpochLoad

MACHINE = Machine(flops=1e9, memory_bandwidth=1e8, bandwidth=1e7, latency=1e-3)
LOAD = Load(users=1000, items=400, interactions=500_000, width=16, processes=4, long=9000, machines=2)
KINDS = [SWEEP, EVALUATION, MEMORY, EVALUATION_MEMORY]


def test_terms_are_those_of_the_formulas():
    moved = 88 * 16 * 125_000 / 1e8
    sweep = [(8 * 1400 + 2 * 9000) * 256 / 4 / 1e9, moved, 2 * 500_000 / 2**14 / 4, 2 * 11 * 2 * 1e-3, moved / 2]
    assert LOAD.terms(SWEEP, MACHINE) == pytest.approx(sweep)
    assert LOAD.sending(SWEEP, MACHINE) == pytest.approx(3 * (4 * 1400 * 16 + 48 * 16**2) / 4 / 1e7)
    scores = 2 * 16 * 1000 * 400 / 4 / 1e9
    assert LOAD.terms(EVALUATION, MACHINE) == pytest.approx([scores, 250, 1, scores / 2])
    assert LOAD.sending(EVALUATION, MACHINE) == pytest.approx(4 * 16 * 400 * 3 / 4 / 1e7)
    assert LOAD.terms(MEMORY, MACHINE).tolist() == LOAD.terms(EVALUATION_MEMORY, MACHINE).tolist() == [1]
    tables = 64 * (2 * 1000 + 400) / 4
    assert LOAD.sending(MEMORY, MACHINE) == pytest.approx(8 * 1400 + 17 * 125_000), "pairs are shared out"
    evaluated = 8 * 1400 + 5 * 125_000 + tables + 2 * 64 * 400
    assert LOAD.sending(EVALUATION_MEMORY, MACHINE) == pytest.approx(evaluated)
    assert LOAD.predict(MEMORY, MACHINE, [300]) == 300 + LOAD.sending(MEMORY, MACHINE)
    wide = replace(LOAD, width=1600)
    assert wide.sending(MEMORY, MACHINE) == pytest.approx(8 * 1400 + 9 * 125_000 + 100 * tables + 6400 * 1000), "tables"
    assert LOAD.predict(SWEEP, MACHINE, np.ones(5)) == pytest.approx(sum(sweep) + LOAD.sending(SWEEP, MACHINE))


def test_one_process_sends_nothing():
    alone = replace(LOAD, processes=1)
    assert alone.sent_by_sweep() == alone.sent_by_evaluation() == 0
    alone = replace(alone, machines=1)
    assert alone.terms(SWEEP, MACHINE)[3:].tolist() == [0, 0] and alone.terms(EVALUATION, MACHINE)[3] == 0


def test_sides_are_fetched_whole_or_in_parts_by_the_rule_of_links(monkeypatch):
    assert LOAD.fetched(1000) == (1000, 1000)
    assert LOAD.sent_by_sweep() * 4 == bytes_of_sweep(1000, 400, 16, 4)
    sparse = replace(LOAD, interactions=2000)  # 500 draws of 1000 rows
    found, moved = sparse.fetched(1000)
    drawn = np.random.default_rng(0).integers(0, 1000, (2000, 500))
    expected = np.mean([len(np.unique(each)) for each in drawn])
    assert found == pytest.approx(expected, abs=2) and moved == pytest.approx(expected, rel=0.01)
    assert sparse.sent_by_sweep() < LOAD.sent_by_sweep()
    monkeypatch.setattr(rows, "FETCHED", 16 * 300)  # 300 rows at a time
    held, moved = sparse.fetched(1000)
    assert 0 < held <= 300 and moved > found, "in parts, a row is fetched more than once"


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_found_again(kind):
    grid = [(size, width, count) for size in (1, 2, 4) for width in (8, 32, 64) for count in (1, 2, 3)]
    loads = [Load(900 * s, 2000, 300_000 * s**2, w, p, long=10_000 * s * w) for s, w, p in grid]
    true = np.array([3.0, 2.0, 0.5, 4.0, 6.0])[: len(loads[0].terms(kind, MACHINE))]
    measured = [load.predict(kind, MACHINE, true) for load in loads]
    assert fit_factors(kind, loads, measured, MACHINE) == pytest.approx(true, rel=1e-6)
    assert (fit_factors(kind, loads, measured[::-1], MACHINE) >= 0).all()


def test_factors_of_epochs_are_found_again():
    grid = [(size, processes, batch) for size in (1, 2, 4) for processes in (1, 2, 4) for batch in (256, 2048)]
    loads = [EpochLoad(900, 2000, 300_000 * n, (8, 32), batch_size=batch, processes=p) for n, p, batch in grid]
    true = np.array([3.0, 2.0, 0.5])
    measured = [load.predict(EPOCH, MACHINE, true) for load in loads]
    assert fit_factors(EPOCH, loads, measured, MACHINE) == pytest.approx(true, rel=1e-6)


def test_a_machine_without_speed_is_refused():
    with pytest.raises(ConfigError, match="bandwidth=0: of a machine, must be above 0"):
        Machine(1e9, 1e9, 0, 1e-3)
