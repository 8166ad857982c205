"""A run under way: what its checkpoints keep of it is what JSON holds, and comes back as it was."""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace

from mrl import TrainConfig
from mrl.distributed.training import STATE, Training
from mrl.runs import Progress
from mrl.sharded import Group


def training(checkpoint: object = None) -> Training:
    return Training(TrainConfig(recipe="least_squares"), Group(), Progress(shown=False), checkpoint)


def test_all_but_where_it_runs_is_kept():
    kept, begun = [], training()
    assert {each.name for each in fields(Training)} - {*STATE} == {"config", "group", "progress", "checkpoint"}
    checkpoint = SimpleNamespace(is_kept=True, save=lambda *saved: kept.append(saved))
    begun = training(checkpoint)
    begun.rows, begun.done, begun.best_value, begun.generator = [{"epoch": 1, "loss": 0.1}], 3, 0.25, "00ff"
    begun.save(["side"], ["table"])
    ((state, sides, tables),) = kept
    again = training()
    vars(again).update(json.loads(json.dumps(state)))
    assert all(getattr(again, name) == getattr(begun, name) for name in STATE)
    assert (sides, tables) == (["side"], ["table"])
    checkpoint.is_kept = False
    begun.save()
    assert len(kept) == 1


def test_settings_are_those_chosen():
    begun = training()
    begun.chosen = {"alpha0": 0.7, "widths": [4, 8]}
    assert begun.settings().least_squares.alpha0 == 0.7 and begun.settings().widths == (4, 8)
    assert begun.config.least_squares.alpha0 is None
