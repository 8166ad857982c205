"""The cost of an epoch: its terms by hand, and what is sent against what processes send."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from settings import train_config

from mrl import TrainConfig
from mrl.data import Positives, planted_interactions
from mrl.errors import ConfigError
from mrl.kernels import candidates
from mrl.sharded import cost, rows
from mrl.sharded.cost import EPOCH, EpochLoad, Machine
from mrl.sharded.epochs import ShardedTrainer
from mrl.sharded.group import Group
from mrl.sharded.rows import take_own

MACHINE = Machine(flops=1e9, memory_bandwidth=1e8, bandwidth=1e7, latency=1e-3)
LOAD = EpochLoad(
    users=500, items=1000, interactions=10_000, widths=(4, 16), candidates=8, batch_size=100, processes=4
)  # fmt: skip


def test_terms_are_those_of_the_formula():
    fetched = 1000 * (1 - np.exp(-25 * 17 / 1000))
    assert LOAD.fetched() == pytest.approx(fetched)
    sent = 3 / 4 * (100 * fetched * (8 + 64) + 2500 * 3 * (8 + 128)) + 100 * 16 * 3
    assert LOAD.sent() == pytest.approx(sent)
    moved = 2500 * (4 * 8 * 20 + 40 * 16 * 3) / 1e8
    assert LOAD.terms(EPOCH, MACHINE) == pytest.approx([moved, 100, 7 * 100 * 3 * 1e-3])
    assert LOAD.predict(EPOCH, MACHINE, np.array([2, 0.5, 1])) == pytest.approx(2 * moved + 50 + 2.1 + sent / 1e7)


def test_one_process_sends_nothing_and_one_negative_for_all_less():
    assert replace(LOAD, processes=1).sent() == 0
    assert replace(LOAD, nested=False).sent() < LOAD.sent()


def test_a_step_on_a_large_catalogue_draws_from_few_windows():
    large = replace(LOAD, items=10**6, batch_size=candidates.STRETCH, processes=1)
    window, positives = candidates.WINDOW, candidates.STRETCH
    assert large.fetched() == pytest.approx(window + positives, rel=0.01), "all of one window, and positives"
    assert replace(large, batch_size=2 * positives).fetched() == pytest.approx(2 * (window + positives), rel=0.01)


def test_a_machine_without_speed_is_refused():
    with pytest.raises(ConfigError, match="bandwidth=0: of a machine, must be above 0"):
        Machine(1e9, 1e9, 0, 1e-3)


PLANTED = {"num_users": 400, "num_items": 300, "interactions": 8000, "branching": (3, 3)}


def sent(group: Group, config: TrainConfig, positives: Positives, windows: bool) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "TILE", 200)
        if windows:
            for room in (candidates, cost):
                patch.setattr(room, "LARGE", 128)
                patch.setattr(room, "WINDOW", 64)
        trainer = ShardedTrainer(config, group, *take_own(group, positives))
        before = group.sent
        trainer.run_epoch()
        return group.sent - before


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("windows", [False, True], ids=["all", "windows"])
@pytest.mark.parametrize("changes", [{}, {"batch_size": 200, "nested_negatives": False}], ids=["mns", "shared"])
def test_what_is_sent_is_what_the_formula_says(processes, monkeypatch, size, windows, changes):
    base = {"recipe": "mrl4rec", "widths": (2, 4, 16), "batch_size": 600, "device": "cpu", "dataset": "planted"}
    config = train_config(**base | changes)
    positives = planted_interactions(**PLANTED, seed=0).train
    measured = np.mean(processes.run(size, sent, config, positives, windows))
    if windows:
        monkeypatch.setattr(cost, "LARGE", 128)
        monkeypatch.setattr(cost, "WINDOW", 64)
    load = EpochLoad(
        positives.num_users, positives.num_items, len(positives), config.widths, nested=config.nested_negatives,
        batch_size=config.batch_size, processes=size,
    )  # fmt: skip
    assert load.sent() == pytest.approx(measured, rel=0.05)
