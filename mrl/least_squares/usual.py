"""Usual settings: predicted from the data, how wide these can be fitted, and what a thorough search tries beside."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.least_squares.climb import grid_value
from mrl.widths import powers_of_two

POSITIVES_SHARE = 5  # the usual alpha0 · users · items, by the positives: within threefold of the best on all sets
FITTED = (1, 2, 4, 8)  # times the widest width
SHARE_FITTED, SHARE_SERVED = 2, 4  # one dimension in so many users or items, at most
MOST_FITTED = 1024
MOST_NUMBERS = 2 * 10**9  # interactions times dimensions: a sweep over more takes minutes
MOST_VISITS = 5 * 10**7  # interactions times epochs of training after a quick search: minutes, and as many of the refit
FEWEST_EPOCHS = 8  # fewer are not begun: sparse data begin to gain clearly after some
# what a thorough search tries beside the usual value: one direction, then the other, each as far as users gain
DIRECTIONS = {
    "nu": ((0.75,),),
    "l2_width_exponent": ((0.6, 1.0), (0.0,)),
    "level_weights": (("rising",), ("falling",)),
    "hops": ((2,), (4,)),
    "l2": ((0.3, 0.1, 0.03), (3.0, 10.0)),  # times the usual value
    "initial_scale": ((1.4, 2.0, 2.8, 4.0), (0.7, 0.5)),  # likewise
}


def usual_settings(config: TrainConfig, positives: Positives) -> TrainConfig:
    """The config with what it leaves open at its usual value: α0 by the density of the data, the widest fit."""
    usual = {"alpha0": grid_value(usual_point(positives)[0]), "fit_width": fitted_widths(config.widths, positives)[-1]}
    return config.with_settings(**{name: usual[name] for name in usual if config.setting(name) is None}).with_usual()


def usual_point(positives: Positives) -> tuple[int, int]:
    """The usual alpha0 and l2, in half decades."""
    density = len(positives) / (positives.num_users * positives.num_items)
    return max(-8, min(0, round(2 * math.log10(POSITIVES_SHARE * max(density, 1e-9))))), -4


def fitted_widths(widths: Sequence[int], positives: Positives) -> list[int]:
    """How many dimensions may be fitted: multiples of the widest width that the data have room for."""
    most = room(positives, SHARE_FITTED)
    return [widths[-1], *(times * widths[-1] for times in FITTED[1:] if times * widths[-1] <= most)]


def possible_widths(config: TrainConfig, positives: Positives) -> tuple[int, ...]:
    """The widths that 'auto' may find: what the data have room for, as far as they are fitted."""
    most = room(positives, SHARE_SERVED)
    return powers_of_two(min(most, config.least_squares.fit_width or most))


def most_epochs(config: TrainConfig, positives: Positives) -> int:
    """How many epochs of training at most: those of the config, fewer on large data after a quick search."""
    if config.least_squares.search != "quick":
        return config.epochs
    affordable = MOST_VISITS // max(len(positives), 1)
    return min(config.epochs, affordable) if affordable >= FEWEST_EPOCHS else 0


def widest_fit(positives: Positives) -> int:
    """The largest power of two that may be fitted."""
    return powers_of_two(room(positives, SHARE_FITTED))[-1]


def room(positives: Positives, share: int) -> int:
    """How many dimensions the data have room for: one in so many of their smaller side, and no fit of minutes."""
    smaller = min(positives.num_users, positives.num_items)
    return min(MOST_FITTED, smaller // share, MOST_NUMBERS // max(len(positives), 1))


def changes_nothing(config: TrainConfig, name: str) -> bool:
    """Whether a setting of `DIRECTIONS` has no effect on the initial model, by what was chosen before it."""
    chosen = config.least_squares
    if name == "level_weights":
        return len(config.widths) == 1 or not (chosen.rotation or chosen.nested_sweeps)
    return name == "l2_width_exponent" and not chosen.nested_sweeps


def moved(config: TrainConfig, name: str, value: float | str, positives: Positives) -> TrainConfig:
    """The config with another value of one of `DIRECTIONS`."""
    if name == "nu":  # with the penalty that users then have on average the same
        counts = positives.counts.double() + config.least_squares.alpha0 * positives.num_items
        before = counts**config.least_squares.nu
        l2 = config.least_squares.frequency_l2 * float(before.mean() / (counts**value).mean())
        return config.with_settings(nu=value, frequency_l2=l2)
    if name == "level_weights":  # that rise or fall from level to level
        levels = len(config.widths)
        rising = [level / sum(range(levels + 1)) for level in range(1, levels + 1)]
        return config.with_settings(level_weights=tuple(rising if value == "rising" else rising[::-1]))
    return config.with_settings(**{name: value * config.usual()[name] if name in ("l2", "initial_scale") else value})
