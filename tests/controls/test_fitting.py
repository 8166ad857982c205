"""The fits of the study: what a search finds on the way, what the refit makes of it, and where a deadline ends it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import one_validation_split, train_config

from mrl import fit
from mrl.controls import fitting
from mrl.controls.fitting import (
    Task,
    fit_bpr_rotated,
    fit_ease,
    fit_ials,
    fit_mrl4rec,
    fit_popularity,
    fit_recipe,
    objective,
    rank,
    sample_for_search,
    sweeps_of,
)
from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import ials, spectral_start
from mrl.trainer import Trainer

WIDTHS = (2, 4, 8)
NESTED = {"backbone": "mf", "rule": "dns", "candidates": 4}


@pytest.fixture(scope="module")
def data() -> Interactions:
    return hold_out(planted_interactions(num_users=120, num_items=64, interactions=2000), seed=0)


@pytest.fixture
def task(data) -> Task:
    return Task(data, WIDTHS, epochs=4, patience=2, eval_every=1)


def test_the_objective_is_the_mean_of_validation_ndcg_over_the_widths(task, data) -> None:
    model = ials(data.train, 8)
    by_width = [evaluate(*model, data, split="valid", widths=WIDTHS).value("ndcg@20", width) for width in WIDTHS]
    assert objective(task, model) == pytest.approx(sum(by_width) / 3, abs=1e-12)


def test_a_model_without_widths_is_judged_by_its_one_number(task) -> None:
    for model in (fit_ease(task, {"l2": 50.0}).model, fit_popularity(task, {}).model):
        table = rank(task, model, "valid").table
        assert table["width"].is_null().all() and set(table["k"]) == {20}
        assert objective(task, model) == table.filter(metric="ndcg")["value"].item()


def test_wider_ials_is_rotated_then_truncated(task, data) -> None:
    users, items = fit_ials(task, {"dim": 12, "alpha0": 0.1, "l2": 0.01}).model
    start = spectral_start(data.train, 12)
    whole = rotate(*ials(data.train, 12, alpha0=0.1, l2=0.01, sweeps=sweeps_of(12), start=start))
    assert torch.equal(users, whole[0][:, :8]) and torch.equal(items, whole[1][:, :8])


def test_a_search_of_large_data_has_a_sample_of_users_and_of_those_it_looks_at(data, monkeypatch) -> None:
    assert sample_for_search(data, 0) is data
    monkeypatch.setattr(fitting, "SEARCHED_INTERACTIONS", len(data.train) // 2)
    monkeypatch.setattr(fitting, "SEARCHED_USERS", 10)
    sample, whole = sample_for_search(data, 0), sample_for_search(data, 0, whole=True)
    assert len(sample.train) <= len(data.train) // 2 and sample.num_items == data.num_items
    assert whole.train is data.train
    assert {int((each.valid.counts > 0).sum()) for each in (sample, whole)} == {10}


@pytest.mark.parametrize("fit_one", [fit_mrl4rec, fit_bpr_rotated])
def test_a_search_finds_the_epoch_and_the_refit_trains_for_it(task, data, fit_one) -> None:
    searched = fit_one(task, NESTED)
    assert 1 <= searched.refit_settings["epochs"] <= 4 and not searched.timed_out
    assert searched.value == objective(task, searched.model)
    again = fit_one(replace(task, data=data.merge_valid()), {**NESTED, **searched.refit_settings})
    widths = WIDTHS if fit_one is fit_mrl4rec else WIDTHS[-1:]
    config = train_config(dataset="planted", widths=widths, epochs=searched.refit_settings["epochs"], **NESTED)
    trainer = Trainer(config, data.merge_valid().train, task.device)
    for _ in range(config.epochs):
        trainer.run_epoch()
    vectors = trainer.vectors()
    expected = vectors if fit_one is fit_mrl4rec else rotate(*vectors)
    assert all(torch.equal(a, b) for a, b in zip(again.model, expected, strict=True))


def test_patience_ends_a_search(task) -> None:
    searched = fit_mrl4rec(replace(task, epochs=50, patience=1), NESTED | {"learning_rate": 1e-9})
    assert searched.refit_settings["epochs"] < 50


def test_past_the_deadline_a_search_ends_with_the_best_so_far(task) -> None:
    cut = fit_mrl4rec(replace(task, deadline=0.0, eval_every=3), NESTED)
    assert cut.timed_out and cut.refit_settings == {"epochs": 1}
    assert cut.value == objective(task, cut.model)


@pytest.mark.parametrize("recipe", ["default", "least_squares"])
def test_what_a_recipe_found_by_itself_refits_to_what_fit_gives(task, data, tmp_path, recipe) -> None:
    settings = {"recipe": recipe, "batch_size": 256, "learning_rate": 1e-2}
    task = replace(task, seed=3)
    with one_validation_split():
        searched = fit_recipe(task, settings)
        run = fit(train_config(dataset="planted", seed=3, widths=WIDTHS, run_dir=str(tmp_path), **settings), data)
    assert searched.refit_settings == run.environment["chosen"] | {"epochs": run.environment["best_epoch"]}
    assert searched.value == run.metrics.filter(split="valid", metric="ndcg", k=20)["value"].mean()
    refit = fit_recipe(replace(task, data=data.merge_valid()), settings | searched.refit_settings)
    assert torch.equal(refit.model[0], run.users) and torch.equal(refit.model[1], run.items)
