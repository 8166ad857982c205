"""Validation of settings: who judges, on which splits, and by what value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from settings import GIVEN, train_config

from mrl.data.holdout import as_paper
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares import validation
from mrl.least_squares.fit import fit_least_squares, initial_model, propagated
from mrl.least_squares.validation import (
    sample_users,
    sample_validation_users,
    validation_by_user,
    validation_splits,
    validation_value,
)
from mrl.train import fit

SETTINGS = {"dataset": "planted", "widths": (2, 4), "device": "cpu"}


@pytest.fixture(scope="module")
def factors(data) -> tuple[torch.Tensor, torch.Tensor]:
    return fit_least_squares(train_config(**SETTINGS | GIVEN).with_usual(), data.train)


def test_a_penalty_that_leaves_nothing_has_no_value(data, factors) -> None:
    config = train_config(**SETTINGS | GIVEN | {"alpha0": 1.0, "frequency_l2": 100.0}).with_usual()
    assert validation_value(fit_least_squares(config, data.train), data, config.widths) == 0.0
    value = validation_value(factors, data, config.widths)
    assert 0.2 < value < 1
    assert np.isfinite(validation_value(propagated(config, data.train, factors).vectors(), data, config.widths))


@pytest.mark.parametrize("monitor", ["ndcg@20", "recall@10"])
def test_the_value_is_the_mean_over_the_widths_and_that_of_the_users(data, factors, monitor) -> None:
    metric, k = monitor.split("@")
    result = evaluate(*factors, data, split="valid", widths=(2, 4), ks=(int(k),), per_user=True)
    value = validation_value(factors, data, (2, 4), monitor)
    assert value == pytest.approx(np.mean([result.value(monitor, width) for width in (2, 4)]))
    by_user = validation_by_user(factors, data, (2, 4), monitor).mean(0)
    judges = data.valid.counts.nonzero()[:, 0].tolist()
    assert by_user.shape == (len(judges),) and by_user.std() > 0 and by_user.mean() == pytest.approx(value)
    user = result.per_user.filter(user=judges[5], metric=metric)
    assert by_user[5] == pytest.approx(user["value"].mean())


def test_few_validation_interactions_are_drawn_several_times(data, monkeypatch) -> None:
    config = train_config(**SETTINGS, valid_fraction=0.2, seed=3)
    first, *others = validation_splits(config, data)
    assert first is data and len(others) == validation.MOST_SPLITS - 1
    everything = data.train.union(data.valid)
    for split in others:
        assert split.train.union(split.valid) == everything and split.test == data.test
        assert len(split.valid) == len(data.valid) and split.valid != data.valid
    assert others[0].valid != others[1].valid and validation_splits(config, data)[1].valid == others[0].valid
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", 2 * len(data.valid))
    assert len(validation_splits(config, data)) == 2
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", len(data.valid))
    assert validation_splits(config, data) == [data]
    (fewer,) = validation_splits(config, data, 40)
    assert int((fewer.valid.counts > 0).sum()) == 40 and fewer.train is data.train


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_of_data_on_a_gpu_are_the_same_and_stay_there(data) -> None:
    config = train_config(**SETTINGS, valid_fraction=0.2)
    on_device = replace(data, train=data.train.to("cuda"))
    for split, expected in zip(validation_splits(config, on_device), validation_splits(config, data), strict=True):
        assert split.train == expected.train and split.valid == expected.valid
        assert split.train.items.device.type == "cuda"


def test_the_paper_protocol_is_judged_by_the_test_set_alone(data) -> None:
    (only,) = validation_splits(train_config(**SETTINGS, protocol="paper"), as_paper(data))
    assert only.valid == data.test


def test_of_very_many_users_some_judge(data, factors) -> None:
    assert sample_validation_users(data, 0) is data
    sampled = sample_validation_users(data, 0, 40)
    some, chosen = sampled.valid, sampled.valid.counts > 0
    assert int(chosen.sum()) == 40 and torch.equal(some.counts[chosen], data.valid.counts[chosen])
    assert all(torch.equal(some.of(user), data.valid.of(user)) for user in chosen.nonzero()[:, 0].tolist())
    assert sample_validation_users(data, 0, 40).valid == some != sample_validation_users(data, 1, 40).valid
    value, everybody = (validation_value(factors, each, (2, 4)) for each in (sampled, data))
    assert value == pytest.approx(everybody, rel=0.3) and value != everybody


def test_epochs_are_judged_by_these_users_too(data, tmp_path, monkeypatch) -> None:
    some = sample_validation_users(data, 0, 40)
    monkeypatch.setattr("mrl.train.sample_validation_users", lambda data, seed: sample_validation_users(data, seed, 40))
    config = train_config(**SETTINGS | GIVEN, epochs=1, run_dir=str(tmp_path / "run"))
    run = fit(config, data, progress=False)
    usual = config.with_usual()
    start = initial_model(usual, data.train, fit_least_squares(usual, data.train)).vectors()
    first = run.history.filter(pl.col("epoch") == 0, pl.col("phase") == "search")
    by_some = evaluate(*start, some, split="valid", widths=(2, 4), ks=(20,))
    assert [first["ndcg@20_w2"][0], first["ndcg@20_w4"][0]] == [by_some.value("ndcg@20", width) for width in (2, 4)]


def test_of_very_many_interactions_those_of_some_users_are_searched(data) -> None:
    assert sample_users(data, 0, len(data.train)) is data
    most = len(data.train) // 2
    some = sample_users(data, 0, most)
    assert 0.8 * most < len(some.train) <= most
    rows = [data.user_ids.tolist().index(user) for user in some.user_ids.tolist()]
    assert rows == sorted(rows)
    for part in ("train", "valid", "test"):
        of, all_of = some.split(part), data.split(part)
        assert of.num_users == len(rows) and all(torch.equal(of.of(n), all_of.of(row)) for n, row in enumerate(rows))
    assert sample_users(data, 1, most).user_ids.tolist() != some.user_ids.tolist()
