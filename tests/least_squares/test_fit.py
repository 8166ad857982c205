"""The fit of a config: each step with its settings, and the initial model that is cut from it."""

from __future__ import annotations

import pytest
import torch
from settings import GIVEN, train_config

from mrl.config import TrainConfig
from mrl.least_squares.axes import rotate
from mrl.least_squares.fit import fit_least_squares, go_on, initial_model, nest, propagated
from mrl.least_squares.ials import ials, spectral_start
from mrl.least_squares.nested import nested_least_squares
from mrl.least_squares.rotation import learn_rotation, teacher
from mrl.trainer import Trainer

SCALE = {"alpha0": 0.3, "l2": 0.03, "nu": 0.8}
STEPS = 20


def given(**changes) -> TrainConfig:
    settings = GIVEN | {"dataset": "planted", "widths": (2, 4), "alpha0": 0.3, "frequency_l2": 0.03, "nu": 0.8}
    return train_config(**settings | {"device": "cpu", "propagation": (0.5, 0.3)} | changes).with_usual()


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_it_is_ials_from_the_spectral_start_on_its_principal_axes(data) -> None:
    found = fit_least_squares(given(sweeps=3, fit_width=12), data.train)
    expected = ials(data.train, 12, sweeps=3, start=spectral_start(data.train, 12), **SCALE)
    assert equal(found, rotate(*expected)) and found[1].shape == (48, 12)
    other = fit_least_squares(given(sweeps=3, fit_width=12, seed=1), data.train)
    assert not equal(found, other)


@pytest.mark.parametrize("fit_width", [4, 12])
def test_nested_sweeps_go_over_the_levels_and_over_what_is_cut_later(data, fit_width) -> None:
    config = given(nested_sweeps=2, fit_width=fit_width, l2_width_exponent=0.6)
    found = fit_least_squares(config, data.train)
    plain = ials(data.train, fit_width, sweeps=2, start=spectral_start(data.train, fit_width), **SCALE)
    widths = (2, 4) if fit_width == 4 else (2, 4, 12)
    assert equal(found, nested_least_squares(data.train, widths, plain, sweeps=2, l2_width_exponent=0.6, **SCALE))
    weighted = fit_least_squares(config.with_settings(level_weights=(3, 1)), data.train)
    weights = (3, 1) if fit_width == 4 else (3, 1, 1)  # what is cut counts as much as the widest level
    options = {"sweeps": 2, "l2_width_exponent": 0.6, "level_weights": weights}
    assert equal(weighted, nested_least_squares(data.train, widths, plain, **options, **SCALE))


def test_steps_taken_one_by_one_are_the_fit(data) -> None:
    config = given(sweeps=3, nested_sweeps=1)
    start = spectral_start(data.train, 8)
    by_steps = nest(config, data.train, go_on(config, data.train, go_on(config, data.train, start, 1), 2))
    assert equal(by_steps, fit_least_squares(config, data.train))


def test_without_a_rotation_the_initial_model_is_the_leading_axes_propagated(data) -> None:
    config = given(rotation=False)
    factors = fit_least_squares(config, data.train)
    rows: list[dict] = []
    model = initial_model(config, data.train, factors, on_row=rows.append)
    assert not rows and equal((model.users, model.items), [table[:, :4] for table in factors])
    cut = [table[:, :4] for table in factors]
    assert equal(model.vectors(), propagated(config, data.train, cut).vectors())
    assert model.users.is_contiguous() and (model.user_share, model.item_share, model.hops) == (0.5, 0.3, 3)


def test_the_rotation_is_learned_of_what_is_served_and_cuts_the_factors(data) -> None:
    config = given(level_weights=(3, 1))
    factors = fit_least_squares(config, data.train)
    rows: list[dict] = []
    model = initial_model(config, data.train, factors, steps=STEPS, on_row=rows.append)
    served = propagated(config, data.train, factors).vectors()
    options = {"level_weights": (3, 1), "steps": STEPS, "seed": config.seed}
    rotation, loss = learn_rotation(*served, data.train, (2, 4), **options)
    assert rotation.shape == (8, 4)
    assert equal((model.users, model.items), [table @ rotation for table in factors])
    for found, whole in zip(model.vectors(), served, strict=True):  # as if rotated after propagation
        torch.testing.assert_close(found, whole @ rotation, atol=1e-5, rtol=1e-4)
    (row,) = rows
    assert row.keys() == {"phase", "loss", "seconds"} and (row["phase"], row["loss"]) == ("rotation", loss)


@pytest.mark.parametrize("rotation", [False, True])
def test_the_whole_teaches_a_training_and_is_not_kept_without_one(data, rotation) -> None:
    config = given(rotation=rotation)
    factors = fit_least_squares(config, data.train)
    model = initial_model(config, data.train, factors, steps=STEPS)
    expected = teacher(*propagated(config, data.train, factors).vectors(), data.train)
    assert equal(model.teacher, expected)
    trainer = Trainer(config, data.train, torch.device("cpu"), model)
    assert trainer.loss.teacher is model.teacher
    untrained = given(rotation=rotation, recipe="least_squares", epochs=0)
    assert initial_model(untrained, data.train, factors, steps=STEPS).teacher is None


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("nested_sweeps", [0, 1])
def test_fewer_users_than_dimensions_leave_zeros_and_nothing_that_is_not_finite(data, rotation, nested_sweeps) -> None:
    few = data.train.take(torch.arange(3))
    config = given(fit_width=32, widths=(2, 8), rotation=rotation, nested_sweeps=nested_sweeps)
    factors = fit_least_squares(config, few)
    assert not factors[1][:, 3:].any()
    vectors = initial_model(config, few, factors, steps=STEPS).vectors()
    assert vectors[0].shape == (3, 8) and all(table.isfinite().all() and table.any() for table in vectors)
