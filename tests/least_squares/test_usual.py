"""Usual settings by the data, how wide these can be fitted, and what a thorough search moves."""

from __future__ import annotations

import pytest
import torch
from settings import GIVEN, train_config

from mrl.data.interactions import Positives
from mrl.least_squares import usual
from mrl.least_squares.climb import grid_value
from mrl.least_squares.usual import (
    changes_nothing,
    fitted_widths,
    most_epochs,
    moved,
    possible_widths,
    usual_point,
    usual_settings,
    widest_fit,
)
from mrl.recipes import USUAL

SETTINGS = {"dataset": "planted", "widths": (2, 4), "device": "cpu"}


def test_the_usual_point_is_where_alpha0_weighs_all_pairs_five_times_the_positives() -> None:
    def of(users: int, items: int, positives: int) -> tuple[int, int]:
        counts = torch.full((users,), positives // users)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return usual_point(Positives(offsets, torch.zeros(int(offsets[-1]), dtype=torch.int32), items))

    for density, alpha0 in ((0.06, 0.3), (0.006, 0.03), (0.002, 0.01), (0.0002, 0.001)):
        point = of(100, 10_000, round(density * 1e6))
        assert grid_value(point[0]) == alpha0 and grid_value(point[1]) == USUAL["frequency_l2"]
    assert of(10, 10, 100)[0] == 0 and of(1, 10**9, 1)[0] == -8  # no further from 1 than that


def test_widths_that_are_fitted_are_multiples_that_the_data_have_room_for(data) -> None:
    assert fitted_widths((2, 4), data.train) == [4, 8, 16]  # 48 items
    assert fitted_widths((2, 64), data.train) == [64]
    large = Positives(torch.zeros(10_001, dtype=torch.long), torch.zeros(0, dtype=torch.int32), 10_000)
    assert fitted_widths((64,), large) == [64, 128, 256, 512] and fitted_widths((256,), large) == [256, 512, 1024]
    assert usual_settings(train_config(**SETTINGS), data.train).least_squares.fit_width == 16
    assert usual_settings(train_config(**SETTINGS, fit_width=5), data.train).least_squares.fit_width == 5


def test_widths_that_may_be_found_are_powers_of_two_up_to_a_quarter_of_the_smaller_side(data) -> None:
    auto = train_config(**SETTINGS | {"widths": "auto"})
    assert possible_widths(auto, data.train) == (4, 8) and widest_fit(data.train) == 16  # 48 items
    large = Positives(torch.zeros(10_001, dtype=torch.long), torch.zeros(0, dtype=torch.int32), 10_000)
    assert possible_widths(auto, large) == (4, 8, 16, 32, 64, 128, 256, 512, 1024) and widest_fit(large) == 1024
    assert possible_widths(auto.with_settings(fit_width=100), large) == (4, 8, 16, 32, 64)
    small = Positives(torch.zeros(11, dtype=torch.long), torch.zeros(0, dtype=torch.int32), 20)
    assert possible_widths(auto, small) == (4,)


def test_another_exponent_of_frequency_has_the_same_penalty_on_average(data) -> None:
    config = usual_settings(train_config(**SETTINGS | GIVEN), data.train)
    found = moved(config, "nu", 0.75, data.train)
    counts = (data.train.counts + 0.1 * data.num_items).double()
    before, after = ((each.least_squares, counts**each.least_squares.nu) for each in (config, found))
    assert found.least_squares.nu == 0.75
    assert before[0].frequency_l2 * float(before[1].mean()) == pytest.approx(
        after[0].frequency_l2 * float(after[1].mean())
    )


def test_a_quick_search_leaves_very_large_data_few_epochs_or_none(data, monkeypatch) -> None:
    assert most_epochs(train_config(**SETTINGS), data.train) == 300
    for epochs, expected in ((8, 8), (7, 0)):
        monkeypatch.setattr(usual, "MOST_VISITS", epochs * len(data.train))
        assert most_epochs(train_config(**SETTINGS), data.train) == expected
        assert most_epochs(train_config(**SETTINGS, epochs=2), data.train) == min(2, expected)
        for search in ("thorough", "none"):
            assert most_epochs(train_config(**SETTINGS, search=search), data.train) == 300


def test_settings_of_the_training_are_moved_by_multiples_of_the_usual_value(data) -> None:
    config = usual_settings(train_config(**SETTINGS), data.train)
    assert moved(config, "l2", 0.3, data.train).l2 == pytest.approx(0.15)
    assert moved(config, "initial_scale", 2.0, data.train).least_squares.initial_scale == 2.4
    assert moved(config, "hops", 4, data.train).hops == 4
    pairs = usual_settings(train_config(**SETTINGS, loss="bpr"), data.train)
    assert pairs.l2 == 0.01 and moved(pairs, "l2", 0.3, data.train).l2 == pytest.approx(0.003)
    one_side = config.with_settings(propagation=(0.5, 0.0))
    assert not any(changes_nothing(one_side, name) for name in ("hops", "l2", "initial_scale"))
