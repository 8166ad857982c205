"""Validation splits: who judges, what is fitted on each, and that nothing is fitted twice or mistaken for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from settings import GIVEN, train_config

from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares import validation
from mrl.least_squares.rotation import initial_model, propagated
from mrl.least_squares.validation import fit_least_squares, validation_value
from mrl.train import fit
from mrl.trainer import Trainer

SETTINGS = {"dataset": "planted", "widths": (2, 4), "trials": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=150, num_items=48, interactions=2500, branching=(3, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


def test_factors_are_those_of_the_settings_even_where_others_were_better(data) -> None:
    split = validation.ValidationSplit(data)
    better = train_config(**SETTINGS, alpha0=0.1, frequency_l2=0.01, popularity_exponent=0.0, l2_width_exponent=0.0)
    worse = better.with_settings(frequency_l2=100.0)
    best = split.evaluate_fit(better)
    expected = fit_least_squares(worse, data.train, ials_sweeps=validation.TRIAL_SWEEPS)
    assert torch.equal(split.evaluate_fit(worse).factors[1], expected[1]) and split.evaluate_fit(better) is best
    kept = split.evaluate_fit(worse, keep=True)
    assert torch.equal(kept.factors[1], expected[1]) and split.evaluate_fit(worse) is kept


def test_a_penalty_that_leaves_nothing_has_no_value(data) -> None:
    config = train_config(
        **SETTINGS,
        alpha0=1.0,
        frequency_l2=100.0,
        popularity_exponent=0.0,
        l2_width_exponent=0.0,
        propagation=(1.0, 1.0),
    )
    factors = fit_least_squares(config, data.train)
    assert validation_value(factors, data, config.widths) == 0.0
    better = fit_least_squares(config.with_settings(frequency_l2=0.01), data.train)
    value = validation_value(better, data, config.widths)
    assert 0.2 < value < 1
    assert np.isfinite(validation_value(propagated(config, data.train, better).vectors(), data, config.widths))


def test_what_only_the_axes_depend_on_is_tried_on_the_same_ials(data) -> None:
    settings = SETTINGS | {"widths": (4, 32), "popularity_exponent": 0.0, "l2_width_exponent": 0.0}
    config = train_config(**settings, alpha0=0.1, frequency_l2=0.01)
    split = validation.ValidationSplit(data)
    first = split.evaluate_fit(config)
    for name in ("popularity_exponent", "l2_width_exponent"):
        other = config.with_settings(**{name: 0.5})
        assert split.fit_ials(other) is first.ials and split.evaluate_fit(other).values != first.values
    assert split.fit_ials(config.with_settings(fit_width=32))[1].shape == (48, 32) != first.ials[1].shape


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_of_data_on_a_gpu_are_the_same_and_stay_there(data) -> None:
    config = train_config(**SETTINGS, valid_fraction=0.2)
    on_device = replace(data, train=data.train.to("cuda"))
    for split, expected in zip(
        validation.validation_splits(config, on_device), validation.validation_splits(config, data), strict=True
    ):
        assert split.train == expected.train and split.valid == expected.valid
        assert split.train.items.device.type == "cuda"


def test_the_paper_protocol_is_judged_by_the_test_set_alone(data) -> None:
    (only,) = validation.validation_splits(train_config(**SETTINGS, protocol="paper"), as_paper(data))
    assert only.valid == data.test


def test_of_very_many_users_some_judge(data, monkeypatch) -> None:
    config = train_config(**SETTINGS)
    factors = fit_least_squares(
        config.with_settings(alpha0=0.1, frequency_l2=0.01, popularity_exponent=0.0, l2_width_exponent=0.0), data.train
    )
    everybody = validation_value(factors, data, config.widths)
    assert validation.sample_validation_users(data, 0) is data
    monkeypatch.setattr(validation, "MOST_USERS", 40)
    some = validation.sample_validation_users(data, 0).valid
    chosen = some.counts > 0
    assert int(chosen.sum()) == 40 and torch.equal(some.counts[chosen], data.valid.counts[chosen])
    assert all(torch.equal(some.of(user), data.valid.of(user)) for user in chosen.nonzero()[:, 0].tolist())
    assert (
        validation.sample_validation_users(data, 0).valid == some != validation.sample_validation_users(data, 1).valid
    )
    value = validation_value(factors, validation.sample_validation_users(data, 0), config.widths)
    assert value == pytest.approx(everybody, rel=0.3) and value != everybody


def test_epochs_are_judged_by_these_users_too(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(validation, "MOST_USERS", 40)
    given = GIVEN | {
        "rotation_width": 0,
    }
    config = train_config(**SETTINGS, **given, epochs=1, run_dir=str(tmp_path / "run"))
    run = fit(config, data, progress=False)
    start = propagated(config, data.train, fit_least_squares(config, data.train)).vectors()
    first = run.history.filter(pl.col("epoch") == 0, pl.col("phase") == "search")
    by_some = evaluate(
        *start, validation.sample_validation_users(data, config.seed), split="valid", widths=(2, 4), ks=(20,)
    )
    assert [first["ndcg@20_w2"][0], first["ndcg@20_w4"][0]] == [by_some.value("ndcg@20", width) for width in (2, 4)]


def test_the_values_of_users_are_those_whose_mean_judges(data) -> None:
    config = train_config(**SETTINGS, alpha0=0.1, frequency_l2=0.01, propagation=(0.5, 0.0), monitor="recall@10")
    split = validation.ValidationSplit(data)
    by_user = split.initial_by_user(config)
    assert by_user.shape == (int((data.valid.counts > 0).sum()),) and by_user.std() > 0
    assert by_user.mean() == pytest.approx(split.evaluate_fit(config).values[config.least_squares.propagation])
    vectors = propagated(config, data.train, split.fit(config).factors).vectors()
    table = evaluate(*vectors, data, split="valid", widths=(2, 4), ks=(10,), per_user=True).per_user
    user = int(data.valid.counts.nonzero()[5])
    expected = table.filter(user=user, metric="recall")["value"].mean()
    assert by_user[5] == pytest.approx(expected)


def test_training_is_tried_from_the_same_start(data) -> None:
    settings = {"alpha0": 0.1, "frequency_l2": 0.01, "propagation": (0.5, 0.0), "rotation_width": 4, "batch_size": 256}
    config = train_config(**SETTINGS, **settings, l2=0.1, initial_scale=2.0)
    split = validation.ValidationSplit(data)
    found = split.trained_by_user(config)
    start = initial_model(config, data.train, split.fit(config).factors)
    before = start.items.detach().clone()
    trainer = Trainer(config, data.train, torch.device("cpu"), start)
    for _ in range(validation.TRIAL_EPOCHS):
        trainer.run_epoch()
    expected = validation.validation_by_user(trainer.vectors(), data, config.widths)
    assert np.allclose(found, expected) and not torch.equal(before, start.items)
    for other in (
        replace(config, l2=0.5),
        config.with_settings(initial_scale=1.0),
        config.with_settings(propagation=(1.0, 1.0)),
    ):
        assert not np.array_equal(split.trained_by_user(other), found)
    assert np.array_equal(split.trained_by_user(config), found)


def test_what_is_open_is_fitted_at_its_usual_value(data) -> None:
    config = train_config(**SETTINGS, alpha0=0.1, frequency_l2=0.01)
    training = {"hops": 2, "l2": 0.01, "initial_scale": 1.0}
    usual = config.with_settings(
        popularity_exponent=0.0, l2_width_exponent=0.0, sweeps=1, nu=1.0, fit_width=0, **training
    )
    assert config.with_usual() == usual == usual.with_usual()
    given = config.with_settings(
        popularity_exponent=0.5,
        l2_width_exponent=0.3,
        sweeps=0,
        nu=0.75,
        fit_width=16,
        hops=1,
        l2=0.1,
        initial_scale=2.0,
    )
    assert given.with_usual() == given
    assert torch.equal(fit_least_squares(config, data.train)[0], fit_least_squares(usual, data.train)[0])
    for name in ("sweeps", "nu", "fit_width"):
        other = usual.with_settings(**{name: given.setting(name)})
        assert not torch.equal(fit_least_squares(other, data.train)[0], fit_least_squares(usual, data.train)[0])
