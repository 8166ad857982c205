"""The search of settings: what it fills in, what it leaves alone, and that it takes the best it has seen."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from settings import GIVEN, train_config

from mrl.config import TrainConfig
from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.data.synthetic import planted_interactions
from mrl.errors import DataError
from mrl.least_squares import search, validation
from mrl.least_squares.rotation import initial_model, propagated
from mrl.least_squares.search import choose_settings
from mrl.least_squares.validation import fit_least_squares, validation_value

SETTINGS = {"dataset": "planted", "widths": (2, 4), "trials": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=150, num_items=48, interactions=2500, branching=(3, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


@pytest.fixture
def one_split(monkeypatch) -> None:
    """Settings are judged by the validation of the data alone, however small."""
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", 0)


def test_what_is_left_open_is_filled_with_the_best_that_was_tried(data, one_split) -> None:
    rows: list[dict] = []
    found = choose_settings(train_config(**SETTINGS, rotation_width=0), data, rows.append)
    assert [row["trial"] for row in rows] == list(range(1, len(rows) + 1))
    climbed = [row for row in rows if "alpha0" in row]
    best = max(climbed, key=lambda row: row["value"])
    assert len(climbed) <= 3 * 4  # a climb for each of the propagation
    assert len({(row["alpha0"], row["frequency_l2"]) for row in climbed}) == len(climbed)
    assert (found[0].least_squares.alpha0, found[0].least_squares.frequency_l2) == (
        best["alpha0"],
        best["frequency_l2"],
    )
    by_popularity = {row["popularity_exponent"]: row["value"] for row in rows if "popularity_exponent" in row}
    assert set(by_popularity) == {0.0, 0.25, 0.5} and found[0].least_squares.popularity_exponent == max(
        by_popularity, key=by_popularity.get
    )
    by_width_exponent = {row["l2_width_exponent"]: row["value"] for row in rows if "l2_width_exponent" in row}
    assert set(by_width_exponent) == {0.0, *search.L2_WIDTH_EXPONENTS} and found[
        0
    ].least_squares.l2_width_exponent == max(by_width_exponent, key=by_width_exponent.get)
    by_propagation = {row["propagation"]: row["value"] for row in rows if "propagation" in row}
    assert len(by_propagation) == 3 and by_propagation[str(list(found[0].least_squares.propagation))] == max(
        by_propagation.values()
    )
    close = {
        propagation
        for propagation, value in by_propagation.items()
        if value >= search.CLOSE_TO_BEST * max(by_propagation.values())
    }
    best = str(list(found[0].least_squares.propagation))
    assert {str(list(one.least_squares.propagation)) for one in found} == close - {"[0.0, 0.0]"} | {best}
    (only,) = choose_settings(train_config(**SETTINGS, recipe="least_squares"), data)
    assert only.least_squares.rotation_width == 0


def test_axes_are_rotated_where_all_levels_together_gain_from_it(monkeypatch, one_split) -> None:
    planted = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    data = hold_out(planted, 0.2, seed=0)
    given = GIVEN | {
        "frequency_l2": 0.03,
        "propagation": (1.0, 1.0),
    }
    config = train_config(**SETTINGS | {"widths": (2, 4, 12, 24)}, **given)
    rows: list[dict] = []
    (found,) = choose_settings(config, data, rows.append)
    assert [(row["trial"], row["rotation_width"], row["propagation"]) for row in rows] == [
        (trial, width, "[1.0, 1.0]") for trial, width in enumerate((24, 12, 4)[: len(rows)], 1)
    ]
    values = [row["value"] for row in rows]
    assert all(before < after for before, after in pairwise(values[:-1]))  # fewer are rotated as long as that is better
    best = max(rows, key=lambda row: row["value"])
    factors = fit_least_squares(config, data.train, ials_sweeps=validation.TRIAL_SWEEPS)
    plain = validation_value(propagated(config, data.train, factors).vectors(), data, config.widths)
    assert best["value"] > plain and found == config.with_settings(rotation_width=best["rotation_width"]).with_usual()
    value = validation_value(initial_model(found, data.train, factors).vectors(), data, config.widths)
    assert value == pytest.approx(best["value"])
    for width in (12, 0):
        assert choose_settings(config.with_settings(rotation_width=width), data) == [
            config.with_settings(rotation_width=width).with_usual()
        ]
    monkeypatch.setattr(validation, "initial_model", propagated)
    assert choose_settings(config, data) == [config.with_settings(rotation_width=0).with_usual()]  # no better than none
    every = choose_settings(config.with_settings(propagation=()), data)
    assert all(one.least_squares.propagation and one.least_squares.rotation_width == 0 for one in every)
    (single,) = choose_settings(replace(config, widths=(4,)), data)
    assert single.least_squares.rotation_width == 0


def test_unusual_settings_are_taken_where_users_gain_clearly(data, monkeypatch, one_split) -> None:
    users = np.random.default_rng(0).uniform(size=len(data.valid.counts.nonzero()))
    usual = {"fit_width": 0, "sweeps": 1, "nu": 1.0, "hops": 2, "level_weights": (), "l2": 0.01, "initial_scale": 1.0}
    gains = {}

    def by_user(split, config: TrainConfig) -> np.ndarray:
        assert config.least_squares.propagation
        return users * (1 + sum(gain for (name, value), gain in gains.items() if config.setting(name) == value))

    monkeypatch.setattr(validation.ValidationSplit, "initial_by_user", by_user)
    monkeypatch.setattr(validation.ValidationSplit, "trained_by_user", by_user)
    plans = [(1.0, 1.0), (0.5, 0.0)]
    monkeypatch.setattr(
        search._Search,
        "choose_propagation",
        lambda _, config: [config.with_settings(propagation=propagation) for propagation in plans],
    )
    config = train_config(**SETTINGS, rotation_width=0)
    fitted = {"fit_width": 1, "sweeps": 2, "nu": 1, "hops": 2, "level_weights": 2}
    whole = fitted | {"l2": 2, "initial_scale": 2}

    def taken(config: TrainConfig = config, **trials: int) -> dict:
        """What is not at its usual value; trials: how many of a setting, where not as many as when nothing gains."""
        rows: list[dict] = []
        found, other = choose_settings(config, data, rows.append)
        assert other == found.with_settings(propagation=plans[1])  # of the same factors, trained alike
        others = [row for row in rows if set(usual) & set(row)]
        tried = [next(iter(set(row) - {"trial", "value", "seconds"})) for row in others]
        assert tried == [name for name, count in (whole | trials).items() for _ in range(count)]
        climbed = max((row for row in rows if "alpha0" in row), key=lambda row: row["value"])
        counts = data.train.counts + found.least_squares.alpha0 * data.num_items
        penalty = found.least_squares.frequency_l2 * (counts**found.least_squares.nu).mean()
        assert float(penalty) == pytest.approx(float(climbed["frequency_l2"] * counts.mean()))  # the same on average
        return {name: found.setting(name) for name, value in usual.items() if found.setting(name) != value}

    assert taken() == {}
    least_squares = train_config(**SETTINGS, recipe="least_squares")
    assert taken(least_squares, l2=0, initial_scale=0) == {}  # which is not trained
    gains[("sweeps", 2)] = 0.1
    assert taken() == {"sweeps": 2}
    gains |= {("sweeps", 0): 0.1, ("nu", 0.75): 0.1, ("fit_width", 16): -0.1, ("l2", 0.03): 0.1}
    found = {"sweeps": 0, "nu": 0.75, "l2": 0.03}  # where one way gains, the other is not tried
    assert taken(sweeps=1, l2=3) == found
    gains |= {
        ("fit_width", 16): 0.1,
        ("hops", 3): 0.1,
        ("initial_scale", 1.4): 0.1,
        ("initial_scale", 2.0): 0.2,
        ("initial_scale", 2.8): 0.2,
    }
    assert taken(sweeps=1, l2=3, initial_scale=3) == found | {"fit_width": 16, "hops": 3, "initial_scale": 2.0}
    gains |= {("level_weights", (1 / 3, 2 / 3)): -0.1, ("level_weights", (2 / 3, 1 / 3)): 0.2, ("sweeps", 0): 0.0}
    assert taken(l2=3, initial_scale=3)["level_weights"] == (2 / 3, 1 / 3)
    assert "initial_scale" not in taken(config.with_settings(hops=2, initial_scale=1.0), hops=0, initial_scale=0, l2=3)
    plans.reverse()  # with one side alone, every hop gives the same
    assert "hops" not in taken(hops=0, initial_scale=3, l2=3)


def test_a_gain_is_clear_by_its_standard_error() -> None:
    users = np.random.default_rng(0).normal(size=400)
    noise = np.random.default_rng(1).normal(size=400)
    noise -= noise.mean()
    error = noise.std() / 20
    for several in (1, 3):  # splits share users, so more of them are no surer
        clear, unclear = ([users + noise + gain * error] * several for gain in (2.3, 2.2))
        assert search.clearly_better(clear, [users] * several)
        assert not search.clearly_better(unclear, [users] * several)
    assert not search.clearly_better([users], [users])


def test_what_is_given_is_left_alone(data) -> None:
    fitted = {"alpha0": 0.1, "frequency_l2": 0.01, "popularity_exponent": 0.3, "l2_width_exponent": 0.2}
    given = train_config(**SETTINGS, **fitted, propagation=(0.2, 0.1), rotation_width=0)
    rows: list[dict] = []
    assert choose_settings(given, data, rows.append) == [given.with_usual()] and not rows
    without = replace(data, valid=Positives.empty(150, 48))
    assert choose_settings(given, without) == [given.with_usual()]  # what is chosen with the penalty is not missing
    with pytest.raises(DataError, match="no validation interactions to choose the settings of least squares on"):
        choose_settings(given.with_settings(alpha0=None), without)
    others = {
        "nu": 0.5,
        "sweeps": 3,
        "fit_width": 12,
        "hops": 4,
        "level_weights": (1, 2),
        "l2": 0.2,
        "initial_scale": 3.0,
    }
    assert choose_settings(given.with_settings(**others), without) == [given.with_settings(**others)]
    half = choose_settings(given.with_settings(frequency_l2=None), data)[0]
    assert half.least_squares.alpha0 == 0.1 and half.least_squares.frequency_l2 in search.L2_GRID


def test_of_very_many_interactions_some_are_searched(data, monkeypatch, one_split) -> None:
    assert validation.sample_users(data, 0) is data
    whole = choose_settings(train_config(**SETTINGS), data)
    monkeypatch.setattr(validation, "MOST_INTERACTIONS", len(data.train) // 2)
    some = validation.sample_users(data, 0)
    assert 0.8 * validation.MOST_INTERACTIONS < len(some.train) <= validation.MOST_INTERACTIONS
    rows = [data.user_ids.tolist().index(user) for user in some.user_ids.tolist()]
    for part in ("train", "valid", "test"):
        of, all_of = some.split(part), data.split(part)
        assert of.num_users == len(rows) and all(torch.equal(of.of(n), all_of.of(row)) for n, row in enumerate(rows))
    tried: list[dict] = []
    found = choose_settings(train_config(**SETTINGS), data, tried.append)
    assert [row["trial"] for row in tried] == list(range(1, len(tried) + 1))
    assert 0.2 < found[0].least_squares.alpha0 / whole[0].least_squares.alpha0 < 5
    # what is chosen last is chosen on all data
    factors = fit_least_squares(found[0], data.train, ials_sweeps=validation.TRIAL_SWEEPS)
    value = validation_value(propagated(found[0], data.train, factors).vectors(), data, found[0].widths)
    assert value == pytest.approx(
        max(row["value"] for row in tried if "propagation" in row and "rotation_width" not in row)
    )


def test_the_penalty_is_judged_under_the_propagation_that_suits_it_best(data, one_split) -> None:
    rows: list[dict] = []
    config = train_config(**SETTINGS | {"trials": 1}, popularity_exponent=0.0, l2_width_exponent=0.0, rotation_width=0)
    choose_settings(config, data, rows.append)
    filled = config.with_settings(alpha0=rows[0]["alpha0"], frequency_l2=rows[0]["frequency_l2"], fit_width=4)
    factors = fit_least_squares(filled, data.train, ials_sweeps=validation.TRIAL_SWEEPS)
    by_propagation = {}
    for propagation in validation.propagation_options(filled):
        model = propagated(filled.with_settings(propagation=propagation), data.train, factors)
        by_propagation[propagation] = validation_value(model.vectors(), data, filled.widths)
    assert len(set(by_propagation.values())) == 3 and rows[0]["value"] == pytest.approx(max(by_propagation.values()))


def test_few_validation_interactions_are_drawn_several_times(data, monkeypatch) -> None:
    config = train_config(**SETTINGS, valid_fraction=0.2, rotation_width=0, seed=3)
    first, *others = validation.validation_splits(config, data)
    assert first is data and len(others) == validation.MOST_SPLITS - 1
    everything = data.train.union(data.valid)
    for split in others:
        assert split.train.union(split.valid) == everything and split.test == data.test
        assert len(split.valid) == len(data.valid) and split.valid != data.valid
    assert others[0].valid != others[1].valid and validation.validation_splits(config, data)[1].valid == others[0].valid
    # each trial is judged by all of them
    rows: list[dict] = []
    given = config.with_settings(popularity_exponent=0.0, l2_width_exponent=0.0, propagation=(0.0, 0.0), trials=1)
    choose_settings(given, data, rows.append)
    tried = given.with_settings(alpha0=rows[0]["alpha0"], frequency_l2=rows[0]["frequency_l2"], fit_width=4)
    fits = [fit_least_squares(tried, split.train, ials_sweeps=validation.TRIAL_SWEEPS) for split in [data, *others]]
    values = [validation_value(fit, split, (2, 4)) for fit, split in zip(fits, [data, *others], strict=True)]
    assert len(set(values)) == validation.MOST_SPLITS and rows[0]["value"] == pytest.approx(np.mean(values))

    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", 2 * len(data.valid))
    assert len(validation.validation_splits(config, data)) == 2
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", len(data.valid))
    assert validation.validation_splits(config, data) == [data]
