"""The search of settings: what it tries and in which order, what it leaves alone, and that it takes the best it saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from settings import GIVEN, train_config

from mrl.config import TrainConfig
from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.data.synthetic import planted_interactions
from mrl.errors import DataError
from mrl.least_squares import gains, search, usual, validation
from mrl.least_squares.climb import grid_value
from mrl.least_squares.fit import fit_least_squares, go_on, initial_model, propagated
from mrl.least_squares.ials import spectral_start
from mrl.least_squares.search import choose_settings, open_settings
from mrl.least_squares.usual import fitted_widths, usual_point, usual_settings
from mrl.least_squares.validation import validation_splits, validation_value
from mrl.recipes import USUAL
from mrl.trainer import Trainer

SETTINGS = {"dataset": "planted", "widths": (2, 4), "device": "cpu"}
# of each step, at most: a climb, its finalists, sweeps of every width, nested or not, rotated or not
QUICK = search.TRIALS["quick"] + search.FINALISTS + len(usual.FITTED) * len(search.SWEEPS) + 1 + 2


@pytest.fixture(autouse=True)
def one_split(monkeypatch) -> None:
    """Settings are judged by the validation of the data alone, however small, unless a test asks for more."""
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", 0)


def searched(config: TrainConfig, data: Interactions):
    """What was chosen, the model that came with it, and the trials."""
    rows: list[dict] = []
    config, model, _ = choose_settings(config, data, rows.append)
    assert [row["trial"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["seconds"] >= 0 and 0 <= row["value"] <= 1 for row in rows)
    return config, model, rows


def tried(row: dict) -> set[str]:
    return set(row) - {"trial", "value", "seconds"}


def best(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["value"])


def test_the_climb_starts_at_the_usual_point_of_the_data(data) -> None:
    _, _, rows = searched(train_config(**SETTINGS), data)
    point = usual_point(data.train)
    assert (rows[0]["alpha0"], rows[0]["frequency_l2"]) == (grid_value(point[0]), grid_value(point[1]))


def test_each_step_takes_the_best_that_it_tried(data) -> None:
    config, _, rows = searched(train_config(**SETTINGS), data)
    chosen = config.least_squares
    kinds = ["alpha0", "fit_width", "nested_sweeps", "rotation"]
    order = [next(kind for kind in kinds if kind in row) for row in rows]
    assert order == sorted(order, key=kinds.index) and set(order) >= set(kinds) - {"nested_sweeps"}

    climbed = [row for row in rows if "propagation" in row]
    finals = [row for row in rows if tried(row) == {"alpha0", "frequency_l2", "rotation"}]
    assert len(climbed) <= search.TRIALS["quick"] and len(finals) <= search.FINALISTS
    decided = best(finals) if finals else best(climbed)
    assert (chosen.alpha0, chosen.frequency_l2) == (decided["alpha0"], decided["frequency_l2"])
    (same,) = (row for row in climbed if (row["alpha0"], row["frequency_l2"]) == (chosen.alpha0, chosen.frequency_l2))
    assert same["propagation"] == str(list(chosen.propagation))

    fitted = [row for row in rows if "fit_width" in row]
    decided = best(fitted)
    assert fitted[0]["fit_width"] == 16 and fitted[0]["sweeps"] == 2  # the widest first
    assert (chosen.fit_width, chosen.sweeps) == (decided["fit_width"], decided["sweeps"])
    nested = [row for row in rows if "nested_sweeps" in row]
    assert len(nested) == (chosen.sweeps == search.SWEEPS[0])  # else a quick search leaves them out
    assert chosen.nested_sweeps == any(row["value"] > decided["value"] for row in nested)
    rotated = [row for row in rows if tried(row) == {"rotation"}]
    assert [row["rotation"] for row in rotated] == [False, True] and chosen.rotation == best(rotated)["rotation"]
    assert len(rows) <= QUICK and open_settings(config) == []


def test_a_trial_is_worth_what_the_whole_of_its_fit_is_worth(data) -> None:
    """Under the propagation that suits it best; the trials of a climb are of a fit that is not wide."""
    _, _, rows = searched(train_config(**SETTINGS), data)
    usual = usual_settings(train_config(**SETTINGS), data.train)
    first = usual.with_settings(alpha0=rows[0]["alpha0"], frequency_l2=rows[0]["frequency_l2"])
    factors = go_on(first, data.train, spectral_start(data.train, 8), search.TRIAL_SWEEPS)  # of 48 items: 16 is wide

    def value(propagation) -> float:
        vectors = propagated(first.with_settings(propagation=propagation), data.train, factors).vectors()
        return validation_value(vectors, data, (8,))

    values = {str(list(propagation)): value(propagation) for propagation in search.PROPAGATIONS}
    assert len(set(values.values())) == 3
    assert rows[0]["value"] == max(values.values()) == values[rows[0]["propagation"]]


@pytest.mark.parametrize("given", [{}, {"rotation": False}, {"fit_width": 6, "nested_sweeps": 1}])
def test_the_initial_model_that_is_handed_on_is_that_of_the_settings(data, given) -> None:
    config, model, _ = searched(train_config(**SETTINGS, **given), data)
    expected = initial_model(config, data.train, fit_least_squares(config, data.train))
    for one, other in zip(model.vectors(), expected.vectors(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(model.users, expected.users) and torch.equal(model.items, expected.items)


def test_a_sample_of_very_many_interactions_is_searched_and_hands_on_no_model(data, monkeypatch) -> None:
    half = len(data.train) // 2
    monkeypatch.setattr(search, "MOST_INTERACTIONS", {"quick": half})
    config, model, rows = searched(train_config(**SETTINGS), data)
    assert model is None and config.least_squares.alpha0 > 0
    some = validation.sample_users(data, 0, half)
    _, _, expected = searched(train_config(**SETTINGS), some)
    # but for fit_width, which is open to as much as all data have room for
    assert [row["value"] for row in rows if "propagation" in row] == [
        row["value"] for row in expected if "propagation" in row
    ]


def test_a_sample_is_fitted_no_wider_than_all_data_have_room_for(data, monkeypatch) -> None:
    half, widest = len(data.train) // 2, train_config(**SETTINGS).widths[-1]
    monkeypatch.setattr(search, "MOST_INTERACTIONS", {"quick": half})
    config, _, _ = searched(train_config(**SETTINGS), data)
    assert config.least_squares.fit_width > widest
    monkeypatch.setattr(usual, "MOST_NUMBERS", 2 * widest * half)  # twice the widest for the sample, once for all
    config, _, _ = searched(train_config(**SETTINGS), data)
    assert config.least_squares.fit_width == widest


def test_where_validation_is_small_a_trial_is_the_mean_over_several_splits(data, monkeypatch) -> None:
    monkeypatch.setattr(validation, "ENOUGH_VALIDATION", 3 * len(data.valid))
    given = GIVEN | {"propagation": (0.0, 0.0), "fit_width": 4, "frequency_l2": None, "rotation": False}
    config = train_config(**SETTINGS | given, valid_fraction=0.2)
    found, model, rows = searched(config, data)
    splits = validation_splits(config, data)
    assert len(splits) == 3
    usual = usual_settings(config, data.train).with_settings(frequency_l2=rows[0]["frequency_l2"])
    values = []
    for split in splits:
        factors = go_on(usual, split.train, spectral_start(split.train, 4), search.TRIAL_SWEEPS)
        values.append(validation_value(factors, split, (4,)))
    assert len(set(values)) == 3 and rows[0]["value"] == pytest.approx(np.mean(values))
    expected = initial_model(found, data.train, fit_least_squares(found, data.train))  # of the data, not of a draw
    assert torch.equal(model.items, expected.items)


@pytest.mark.parametrize("name", search.BY_WHOLE)
def test_only_what_is_open_is_tried(data, name) -> None:
    config = train_config(**SETTINGS | GIVEN | {name: () if name == "propagation" else None})
    assert open_settings(config) == [name]
    found, _, rows = searched(config, data)
    values = {other: {row[other] for row in rows if other in row} for other in GIVEN}
    for other, value in GIVEN.items():
        value = tuple(value) if isinstance(value, list) else value
        if other != name:
            assert found.setting(other) == value
            assert values[other] <= {str(list(value)) if isinstance(value, tuple) else value}
    if name == "propagation":  # all of them are looked at in one trial, by the given penalty
        assert len(values[name]) == 1 and values[name] == {str(list(found.least_squares.propagation))}
    elif name == "fit_width":
        assert values[name] == {16}  # the widest, as nothing says that a narrower one is better
    elif name in ("alpha0", "frequency_l2"):
        assert 3 <= len(values[name]) <= search.TRIALS["quick"]
    else:
        assert values[name] == {"sweeps": {2, 4, 6}, "nested_sweeps": {1}, "rotation": {False, True}}[name]
    assert len(rows) <= QUICK


def test_what_is_given_is_left_alone_and_needs_no_validation(data) -> None:
    without = replace(data, valid=Positives.empty(150, 48))
    given = train_config(**SETTINGS | GIVEN)
    for each in (data, without):
        assert searched(given, each) == (given.with_usual(), None, [])
    with pytest.raises(DataError, match=r"no validation .* give alpha0, or take the usual ones with search='none'"):
        choose_settings(given.with_settings(alpha0=None), without)
    with pytest.raises(
        DataError, match="give alpha0, frequency_l2, fit_width, sweeps, nested_sweeps, propagation, rot"
    ):
        choose_settings(train_config(**SETTINGS), without)


def test_without_a_search_settings_are_the_usual_ones_and_validation_is_not_needed(data) -> None:
    without = replace(data, valid=Positives.empty(150, 48))
    config = train_config(**SETTINGS, search="none", sweeps=7)
    found, model, rows = searched(config, without)
    assert model is None and rows == [] and open_settings(config) == []
    usual = {**USUAL, "alpha0": grid_value(usual_point(data.train)[0]), "fit_width": 16, "sweeps": 7}
    assert found == config.with_settings(**usual)
    assert {name: found.setting(name) for name in usual} == usual


def test_what_a_search_leaves_open_depends_on_its_kind_and_on_what_the_config_has() -> None:
    by_whole, others = list(search.BY_WHOLE), ["nu", "l2_width_exponent", "level_weights"]
    training = ["hops", "l2", "initial_scale"]
    assert open_settings(train_config(**SETTINGS)) == by_whole
    assert open_settings(train_config(**SETTINGS, search="thorough")) == by_whole + others + training
    untrained = train_config(**SETTINGS, search="thorough", recipe="least_squares")
    assert open_settings(untrained) == by_whole + others
    one = train_config(**SETTINGS | {"widths": (4,)}, search="thorough", hops=2)
    assert open_settings(one) == [*by_whole, "nu", "l2_width_exponent", *training[1:]]
    assert open_settings(train_config(**SETTINGS | GIVEN)) == []
    assert open_settings(train_config(**SETTINGS | GIVEN | {"rotation": False}, nu=0.0, search="thorough")) == [
        *others[1:], *training,
    ]  # fmt: skip


def test_nested_sweeps_are_tried_where_the_fewest_sweeps_are_best_or_in_a_thorough_search(data, monkeypatch) -> None:
    monkeypatch.setattr(search, "DIRECTIONS", {})
    given = SETTINGS | GIVEN | {"nested_sweeps": None, "rotation": False}
    for sweeps, kind, is_tried in ((2, "quick", True), (4, "quick", False), (4, "thorough", True)):
        config, _, rows = searched(train_config(**given | {"sweeps": sweeps, "search": kind}), data)
        assert any("nested_sweeps" in row for row in rows) == is_tried
        assert is_tried or config.least_squares.nested_sweeps == 0


def test_narrower_fits_are_tried_where_a_narrow_one_was_better(data, monkeypatch) -> None:
    """The widest that there is room for is taken, unless a trial of the climb was clearly better."""
    worth = {4: 0.3, 8: 0.35, 16: 0.1}
    monkeypatch.setattr(
        search._Search, "whole_value", lambda self, config, factors: worth[factors[0][1].shape[1]]
    )  # fmt: skip
    settings = GIVEN | {"frequency_l2": None, "fit_width": None}
    found, _, rows = searched(train_config(**SETTINGS | settings), data)
    assert [row["fit_width"] for row in rows if "fit_width" in row] == [16, 8]
    assert found.least_squares.fit_width == 8
    worth |= {16: 0.349}  # within a hundredth
    found, _, rows = searched(train_config(**SETTINGS | settings), data)
    assert [row["fit_width"] for row in rows if "fit_width" in row] == [16]
    worth |= {16: 0.3, 8: 0.31, 4: 0.4}
    monkeypatch.setattr(search, "TRIAL_WIDTH", 4)
    found, _, rows = searched(train_config(**SETTINGS | settings), data)
    assert [row["fit_width"] for row in rows if "fit_width" in row] == [16, 8, 4] and found.least_squares.fit_width == 4


@pytest.fixture
def thorough(data, monkeypatch):
    """A thorough search of which the first steps are given, and users gain as a test says."""
    users = np.random.default_rng(0).uniform(size=len(data.valid.counts.nonzero()))
    gains: dict[tuple, float] = {}
    calls: list[bool] = []

    def by_user(self, config: TrainConfig, *, trained: bool) -> list[np.ndarray]:
        calls.append(trained)
        return [users * (1 + sum(gain for (name, value), gain in gains.items() if config.setting(name) == value))]

    monkeypatch.setattr(search._Search, "values_by_user", by_user)

    def found(**changes) -> tuple[dict, list[str]]:
        """What is not at its usual value, and the names of what was tried."""
        given = GIVEN | {"search": "thorough", "nested_sweeps": 1, "propagation": (0.5, 0.5)}
        config, _, rows = searched(train_config(**SETTINGS | given | changes), data)
        names = [name for row in rows for name in tried(row) if name in search.DIRECTIONS]
        usual = {**USUAL, "level_weights": ()}
        return {n: config.setting(n) for n in search.DIRECTIONS if config.setting(n) != usual[n]}, names

    return gains, found


def test_a_thorough_search_tries_what_a_quick_one_does_not_and_takes_clear_gains_only(thorough) -> None:
    gains, found = thorough
    both = {"nu": 1, "l2_width_exponent": 2, "level_weights": 2, "hops": 2, "l2": 2, "initial_scale": 2}

    def counted(**changes: int) -> list[str]:
        return [name for name, count in (both | changes).items() for _ in range(count)]

    assert found() == ({}, counted())  # the first value of each direction
    assert found(search="quick") == ({}, [])
    least_squares = {"recipe": "least_squares"}
    assert found(**least_squares) == ({}, counted(hops=0, l2=0, initial_scale=0))  # which is not trained
    gains[("hops", 4)] = 0.1
    assert found() == ({"hops": 4}, counted())
    gains |= {("l2_width_exponent", 0.6): 0.1, ("l2_width_exponent", 1.0): 0.05, ("l2", 1.5): 0.1, ("l2", 5.0): 0.2}
    chosen, names = found()  # a direction that gains is followed as far as it does, and the other is not tried
    assert chosen == {"hops": 4, "l2_width_exponent": 0.6, "l2": 5.0} and names == counted(l2=3)
    scales = [1.2 * times for times in (1.4, 2.0, 2.8)]  # tried as multiples of the usual value
    gains |= {("initial_scale", scale): gain for scale, gain in zip(scales, (0.1, 0.2, 0.2), strict=True)}
    assert found()[0]["initial_scale"] == 2.4
    gains |= {("level_weights", (1 / 3, 2 / 3)): -0.1, ("level_weights", (2 / 3, 1 / 3)): 0.2}
    assert found()[0]["level_weights"] == (2 / 3, 1 / 3)
    assert "initial_scale" not in found(initial_scale=1.0, hops=2)[1] and "hops" not in found(hops=2)[1]


def test_a_trial_says_the_value_that_it_tried_and_penalties_of_pairs_have_their_own(data, monkeypatch) -> None:
    monkeypatch.setattr(search._Search, "values_by_user", lambda self, config, *, trained: [np.ones(5)])
    given = GIVEN | {"search": "thorough", "nu": 1.0, "hops": 3, "initial_scale": 1.2}
    for loss, expected in (("softmax", [0.15, 1.5]), ("bpr", [0.003, 0.03])):
        _, _, rows = searched(train_config(**SETTINGS | given, loss=loss), data)
        assert [row["l2"] for row in rows if "l2" in row] == pytest.approx(expected)
        assert [row["level_weights"] for row in rows if "level_weights" in row] == ["rising", "falling"]


def test_what_changes_nothing_is_not_tried(thorough) -> None:
    _, found = thorough
    assert "l2_width_exponent" not in found(nested_sweeps=0)[1]
    assert "hops" in found(propagation=(0.0, 0.0))[1]  # which training goes, whatever the initial model does
    assert "level_weights" in found(rotation=False)[1]
    assert "level_weights" not in found(rotation=False, nested_sweeps=0)[1]


def test_other_settings_are_judged_by_models_that_are_made_anew(data) -> None:
    """Of the initial model, or after some epochs of training from it."""
    config = train_config(**SETTINGS | GIVEN, batch_size=256, l2=0.1).with_usual()
    maker = search._Search(config, [], data, None)
    model = initial_model(config, data.train, fit_least_squares(config, data.train))
    by_user = validation.validation_by_user
    (found,) = maker.values_by_user(config, trained=False)
    np.testing.assert_array_equal(found, by_user(model.vectors(), data, config.widths).mean(0))
    (found,) = maker.values_by_user(config, trained=True)
    trainer = Trainer(config, data.train, torch.device("cpu"), model)
    for _ in range(search.TRIAL_EPOCHS):
        trainer.run_epoch()
    np.testing.assert_allclose(found, by_user(trainer.vectors(), data, config.widths).mean(0))
    (other,) = maker.values_by_user(config.with_settings(l2=0.5, initial_scale=2.0), trained=True)
    assert not np.array_equal(other, found)


def planted(*branching: int) -> Interactions:
    """600 users, whose interests are of so many groups."""
    return hold_out(planted_interactions(600, 320, 12_000, branching=branching, noise=0.1, seed=0), 0.2, seed=0)


@pytest.mark.parametrize(("groups", "widest"), [((2, 2), 4), ((32,), 32)])
def test_as_many_widths_are_found_as_the_data_have_interests(groups, widest) -> None:
    config, _, rows = searched(train_config(**SETTINGS | {"widths": "auto"}, hops=2), planted(*groups))
    assert config.widths == tuple(width for width in (4, 8, 16, 32) if width <= widest)
    assert config.least_squares.fit_width in fitted_widths(config.widths, planted(*groups).train)
    tried_widths = [row["width"] for row in rows if "width" in row]
    assert tried_widths == [4, 8, 16, 32, 64]  # of 320 items
    penalties = [number for number, row in enumerate(rows) if "alpha0" in row]
    assert max(penalties) < next(number for number, row in enumerate(rows) if "width" in row)


def test_the_widths_that_were_found_can_be_given(data) -> None:
    """Which widths a penalty is tried for hardly matters, and everything after it is the same."""
    given = SETTINGS | GIVEN | {"rotation": None, "fit_width": None, "alpha0": 0.3}
    found, model, rows = searched(train_config(**given | {"widths": "auto"}), data)
    again, other, expected = searched(train_config(**given | {"widths": found.widths}), data)
    assert found == again and torch.equal(model.users, other.users)
    after = [row for row in rows if "width" not in row]
    assert [row["value"] for row in after] == [row["value"] for row in expected]
    assert [row["width"] for row in rows if "width" in row] == [4, 8]


def test_widths_are_judged_by_one_wide_fit_rotated_in_a_hurry(data) -> None:
    config, _, rows = searched(train_config(**SETTINGS | GIVEN | {"widths": "auto", "fit_width": 12}), data)
    assert config.least_squares.fit_width == 12
    fitted = train_config(**SETTINGS | GIVEN | {"widths": (4, 8), "fit_width": 12}).with_usual()
    factors = go_on(fitted, data.train, spectral_start(data.train, 12), search.TRIAL_SWEEPS)
    served = initial_model(fitted, data.train, factors, steps=search.HURRIED).vectors()
    expected = [validation_value(served, data, (width,)) for width in (4, 8)]
    assert [row["value"] for row in rows if "width" in row] == pytest.approx(expected)


def test_widths_are_not_found_without_validation(data) -> None:
    without = replace(data, valid=Positives.empty(150, 48))
    for given in ({}, GIVEN):
        with pytest.raises(DataError, match=r"no validation .* hold some out, or give widths such as \[4, 8, 16"):
            choose_settings(train_config(**SETTINGS | given | {"widths": "auto"}), without)


def test_what_wider_vectors_would_gain_is_measured_on_what_the_search_has_fitted(data, monkeypatch) -> None:
    """Never on a test set, nor where nothing wider was fitted or nothing searched."""
    monkeypatch.setattr(gains, "LEAST_GAIN", -1.0)  # whatever is measured is told
    monkeypatch.setattr(gains, "CLEAR_GAIN", -1e9)
    open_ = SETTINGS | GIVEN | {"rotation": None, "fit_width": 16}
    config, model, wider = choose_settings(train_config(**open_), data)
    factors = fit_least_squares(config, data.train)
    whole, served = propagated(config, data.train, factors).vectors(), model.vectors()
    rest = torch.linalg.svd((whole[0] @ whole[1].T - served[0] @ served[1].T).double())
    values = {4: validation_value(served, data, (4,))}
    for width in (8, 16):  # behind the served dimensions, the truncated SVD of what they leave
        scale = rest.S[: width - 4].sqrt()
        behind = [(side[:, : width - 4] * scale).float() for side in (rest.U, rest.Vh.T)]
        wide = [torch.cat(tables, 1) for tables in zip(served, behind, strict=True)]
        values[width] = validation_value(wide, data, (width,))
    assert [width for width, _ in wider] == [8, 16] and len(set(values.values())) == 3
    assert [gain for _, gain in wider] == pytest.approx([values[width] / values[4] - 1 for width in (8, 16)], abs=1e-3)
    for changes in ({"fit_width": 4}, {"protocol": "paper"}, {"rotation": True}, {"search": "none"}):
        assert choose_settings(train_config(**open_ | changes), data).wider is None


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 30), (4, 40), (60, 20)])
def test_the_smallest_data_are_searched(num_users, num_items) -> None:
    some = np.random.default_rng(0).random((num_users, num_items)) < 0.5
    pairs = Positives.from_pairs(*some.nonzero(), num_users, num_items)
    names = np.arange(num_users), np.arange(num_items)
    whole = Interactions(
        name="small", train=pairs, valid=Positives.empty(num_users, num_items), test=pairs, user_ids=names[0],
        item_ids=names[1],
    )  # fmt: skip
    data = hold_out(replace(whole, test=Positives.empty(num_users, num_items)), 0.2, seed=0)
    config, model, rows = searched(train_config(**SETTINGS | {"widths": (4, 64)}), data)
    assert all(table.isfinite().all() for table in model.vectors()) and model.items.shape == (num_items, 64)
    assert config.least_squares.fit_width == 64 and len(rows) <= QUICK
