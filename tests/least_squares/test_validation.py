"""Draws of validation: who judges, what is fitted on each, and that nothing is made twice or mistaken for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from mrl.config import TrainConfig
from mrl.data.interactions import Interactions, as_paper, hold_out
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares import validation as folds
from mrl.least_squares.rotation import smoothed, start_model
from mrl.least_squares.validation import fit_least_squares, validation_value
from mrl.train import fit
from mrl.trainer import Trainer

SETTINGS = {"dataset": "planted", "widths": (2, 4), "trials": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=150, num_items=48, interactions=2500, branching=(3, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


def test_factors_are_those_of_the_settings_even_where_others_were_better(data) -> None:
    fold = folds.Fold(data)
    better = TrainConfig(**SETTINGS, alpha0=0.1, frequency_l2=0.01, emphasis=0.0, growth=0.0)
    worse = replace(better, frequency_l2=100.0)
    best = fold.fitted(better)
    expected = fit_least_squares(worse, data.train, ials_sweeps=folds.SEARCH_SWEEPS)
    assert torch.equal(fold.fitted(worse).factors[1], expected[1]) and fold.fitted(better) is best
    kept = fold.fitted(worse, keep=True)
    assert torch.equal(kept.factors[1], expected[1]) and fold.fitted(worse) is kept


def test_a_penalty_that_leaves_nothing_has_no_value(data) -> None:
    config = TrainConfig(**SETTINGS, alpha0=1.0, frequency_l2=100.0, emphasis=0.0, growth=0.0, shares=(1.0, 1.0))
    factors = fit_least_squares(config, data.train)
    assert validation_value(factors, data, config.widths) == 0.0
    better = fit_least_squares(replace(config, frequency_l2=0.01), data.train)
    value = validation_value(better, data, config.widths)
    assert 0.2 < value < 1
    assert np.isfinite(validation_value(smoothed(config, data.train, better).vectors(), data, config.widths))


def test_what_only_the_axes_depend_on_is_tried_on_the_same_ials(data) -> None:
    settings = SETTINGS | {"widths": (4, 32), "emphasis": 0.0, "growth": 0.0}
    config = TrainConfig(**settings, alpha0=0.1, frequency_l2=0.01)
    fold = folds.Fold(data)
    first = fold.fitted(config)
    for name in ("emphasis", "growth"):
        other = replace(config, **{name: 0.5})
        assert fold.fitted_plainly(other) is first.plain and fold.fitted(other).values != first.values
    assert fold.fitted_plainly(replace(config, train_width=32))[1].shape == (48, 32) != first.plain[1].shape


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_of_data_on_a_gpu_are_the_same_and_stay_there(data) -> None:
    config = TrainConfig(**SETTINGS, valid_fraction=0.2)
    on_device = replace(data, train=data.train.to("cuda"))
    for fold, expected in zip(folds.folds(config, on_device), folds.folds(config, data), strict=True):
        assert fold.train == expected.train and fold.valid == expected.valid
        assert fold.train.items.device.type == "cuda"


def test_the_paper_protocol_is_judged_by_the_test_set_alone(data) -> None:
    (only,) = folds.folds(TrainConfig(**SETTINGS, protocol="paper"), as_paper(data))
    assert only.valid == data.test


def test_of_very_many_users_some_judge(data, monkeypatch) -> None:
    config = TrainConfig(**SETTINGS)
    factors = fit_least_squares(replace(config, alpha0=0.1, frequency_l2=0.01, emphasis=0.0, growth=0.0), data.train)
    everybody = validation_value(factors, data, config.widths)
    assert folds.judges(data, 0) is data
    monkeypatch.setattr(folds, "JUDGES", 40)
    some = folds.judges(data, 0).valid
    chosen = some.counts > 0
    assert int(chosen.sum()) == 40 and torch.equal(some.counts[chosen], data.valid.counts[chosen])
    assert all(torch.equal(some.of(user), data.valid.of(user)) for user in chosen.nonzero()[:, 0].tolist())
    assert folds.judges(data, 0).valid == some != folds.judges(data, 1).valid
    value = validation_value(factors, folds.judges(data, 0), config.widths)
    assert value == pytest.approx(everybody, rel=0.3) and value != everybody


def test_epochs_are_judged_by_these_users_too(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(folds, "JUDGES", 40)
    given = {"alpha0": 0.1, "frequency_l2": 0.01, "emphasis": 0.0, "growth": 0.0, "shares": (0.5, 0.0), "turn": 0}
    config = TrainConfig(**SETTINGS, **given, epochs=1, run_dir=str(tmp_path / "run"))
    run = fit(config, data, progress=False)
    start = smoothed(config, data.train, fit_least_squares(config, data.train)).vectors()
    first = run.history.filter(pl.col("epoch") == 0, pl.col("phase") == "search")
    by_some = evaluate(*start, folds.judges(data, config.seed), split="valid", widths=(2, 4), ks=(20,))
    assert [first["ndcg@20_w2"][0], first["ndcg@20_w4"][0]] == [by_some.value("ndcg@20", width) for width in (2, 4)]


def test_the_values_of_users_are_those_whose_mean_judges(data) -> None:
    config = TrainConfig(**SETTINGS, alpha0=0.1, frequency_l2=0.01, shares=(0.5, 0.0), monitor="recall@10")
    fold = folds.Fold(data)
    by_user = fold.by_user(config)
    assert by_user.shape == (int((data.valid.counts > 0).sum()),) and by_user.std() > 0
    assert by_user.mean() == pytest.approx(fold.fitted(config).values[config.shares])
    vectors = smoothed(config, data.train, fold.made(config).factors).vectors()
    table = evaluate(*vectors, data, split="valid", widths=(2, 4), ks=(10,), per_user=True).per_user
    user = int(data.valid.counts.nonzero()[5])
    expected = table.filter(user=user, metric="recall")["value"].mean()
    assert by_user[5] == pytest.approx(expected)


def test_training_is_tried_from_the_same_start(data) -> None:
    settings = {"alpha0": 0.1, "frequency_l2": 0.01, "shares": (0.5, 0.0), "turn": 4, "batch_size": 256}
    config = TrainConfig(**SETTINGS, **settings, l2=0.1, scale=2.0)
    fold = folds.Fold(data)
    found = fold.trained(config)
    start = start_model(config, data.train, fold.made(config).factors)
    before = start.items.detach().clone()
    trainer = Trainer(config, data.train, torch.device("cpu"), start)
    for _ in range(folds.TRIED_EPOCHS):
        trainer.run_epoch()
    expected = folds.validation_by_user(trainer.vectors(), data, config.widths)
    assert np.allclose(found, expected) and not torch.equal(before, start.items)
    for other in (replace(config, l2=0.5), replace(config, scale=1.0), replace(config, shares=(1.0, 1.0))):
        assert not np.array_equal(fold.trained(other), found)
    assert np.array_equal(fold.trained(config), found)


def test_what_is_open_is_fitted_at_its_usual_value(data) -> None:
    config = TrainConfig(**SETTINGS, alpha0=0.1, frequency_l2=0.01)
    training = {"hops": 2, "l2": 0.01, "scale": 1.0}
    usual = replace(config, emphasis=0.0, growth=0.0, sweeps=1, nu=1.0, train_width=0, **training)
    assert config.closed() == usual == usual.closed()
    given = replace(config, emphasis=0.5, growth=0.3, sweeps=0, nu=0.75, train_width=16, hops=1, l2=0.1, scale=2.0)
    assert given.closed() == given
    assert torch.equal(fit_least_squares(config, data.train)[0], fit_least_squares(usual, data.train)[0])
    for name in ("sweeps", "nu", "train_width"):
        other = replace(usual, **{name: getattr(given, name)})
        assert not torch.equal(fit_least_squares(other, data.train)[0], fit_least_squares(usual, data.train)[0])
