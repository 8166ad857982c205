"""When to train again: folded in anew, users and items keep most of their accuracy; the loss grows with their share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from settings import one_validation_split, train_config

from mrl import fit, load_data
from mrl.data.interactions import Interactions
from mrl.errors import ConfigError, RunError
from mrl.runs.run import Run
from mrl.serving import fold_in_items, fold_in_users, measure_drift

PLANTED = {"num_users": 300, "num_items": 60, "interactions": 6000, "branching": [3, 4], "noise": 0.05}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Run, Interactions]:
    path = tmp_path_factory.mktemp("drift") / "run"
    settings = {"dataset": "planted", "planted": PLANTED, "widths": (2, 4, 8), "device": "cpu", "epochs": 0}
    config = train_config(**settings, run_dir=str(path))
    data = load_data(config)
    with one_validation_split():
        return fit(config, data, progress=False), data


def with_new(run: Run, users: int, items: int) -> Run:
    log = {"user": np.repeat([f"new {n}" for n in range(users)], 3), "item": np.tile(run.item_ids[:3], users)}
    made = fold_in_users(run, log)
    return fold_in_items(
        made, {"user": np.repeat(run.user_ids[:5], items), "item": [f"i{n}" for n in range(items)] * 5}
    )


def test_nothing_is_lost_where_nobody_is_new(trained) -> None:
    run, data = trained
    drift = measure_drift(run, run, data)
    assert drift.table["side"].to_list() == ["user", "item"]
    assert drift.table["share"].to_list() == [0, 0]
    assert (drift.table["kept"] > 0.8).all()
    assert (drift.table["kept"] < 1.1).all()
    assert drift.loss == 0
    assert not drift.retrain


def test_the_loss_is_what_fold_in_loses_times_how_many_came_by_it(trained) -> None:
    run, data = trained
    now = with_new(run, 100, 20)
    drift = measure_drift(run, now, data)
    assert drift.table["share"].to_list() == [100 / 400, 20 / 80]
    lost = [share * (1 - kept) for share, kept in drift.table.select("share", "kept").iter_rows()]
    assert drift.loss == pytest.approx(sum(lost))
    assert drift.retrain == (drift.loss > 0.02)
    assert "25 % of users and 25 % of items came by fold-in" in drift.why


def test_where_fold_in_fails_it_is_time_to_train(trained, monkeypatch) -> None:
    run, data = trained
    now = with_new(run, 300, 1)

    def backwards(run: Run, log: object, **options) -> Run:
        made = fold_in_users(run, log, **options)
        return replace(made, weights=made.weights | {"users": -made.users})

    monkeypatch.setattr("mrl.serving.fold_in.fold_in_users", backwards)
    drift = measure_drift(run, now, data)
    assert drift.table["kept"][0] < 0.7
    assert drift.retrain
    assert ": train again (tolerated: 2 %)" in drift.why


def test_what_does_not_fit_is_refused(trained) -> None:
    run, data = trained
    with pytest.raises(RunError, match="measure the drift of the run as it was trained"):
        measure_drift(with_new(run, 3, 1), run, data)
    with pytest.raises(ConfigError, match=r"^tolerance=2: must be between 0 and 1$"):
        measure_drift(run, run, data, tolerance=2)
    assert torch.isfinite(run.users).all()
