"""Settings chosen on validation: the whole first, then its prefixes.

`choose_settings` is the search. α0, λ, the fitted width and the sweeps are judged by the whole vectors, which every
prefix is then rotated to rank like; the rotation and what is tried after it by all widths that are served.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from mrl.config import USUAL, TrainConfig
from mrl.data import Interactions, Positives
from mrl.errors import DataError
from mrl.least_squares.axes import rotate
from mrl.least_squares.climb import NEIGHBOURS, OnTrial, climb, grid_value
from mrl.least_squares.fit import fit_least_squares, go_on, initial_model, nest, propagated
from mrl.least_squares.ials import Factors, spectral_start
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import HURRIED
from mrl.least_squares.validation import (
    MOST_INTERACTIONS,
    sample_users,
    validation_by_user,
    validation_splits,
    validation_value,
)
from mrl.trainer import Trainer

POSITIVES_SHARE = 5  # the usual alpha0 · users · items, by the positives: within threefold of the best on all sets
TRIALS = {"quick": 7, "thorough": 20}  # of alpha0 and l2, at most
TRIAL_SWEEPS = 2
FINALISTS = 2  # settings that go on to more sweeps and are rotated
CLOSE = 0.95  # of the best, so that a finalist may still be better after that
TRIAL_WIDTH = 256  # dimensions of a trial, at most: its best alpha0 and l2 are those of wider fits, too
TRIAL_USERS = 3_000  # whose validation a trial looks at
FITTED = (1, 2, 4, 8)  # times the widest width
MOST_FITTED = 1024
MOST_NUMBERS = 2 * 10**9  # interactions times dimensions: a sweep over more takes minutes
SWEEPS = (2, 4, 6)  # few are better on dense data, more on sparse data
BETTER_NARROW = 1.01  # times the value of the widest fit, from which on half of it is tried
PROPAGATIONS = ((0.0, 0.0), USUAL["propagation"], (1.0, 1.0))  # users alone where there is much data a user, else both
BY_WHOLE = ("alpha0", "frequency_l2", "fit_width", "sweeps", "nested_sweeps", "propagation", "rotation")
# what a thorough search tries beside the usual value: one direction, then the other, each as far as users gain
DIRECTIONS = {
    "nu": ((0.75,),),
    "l2_width_exponent": ((0.6, 1.0), (0.0,)),
    "hops": ((1,), (3,)),
    "level_weights": (("rising",), ("falling",)),
    "l2": ((0.003, 0.001, 0.0003), (0.03, 0.1)),
    "initial_scale": ((1.4, 2.0, 2.8, 4.0), (0.7, 0.5)),
}
OF_TRAINING = ("l2", "initial_scale")
SEARCHED = (*BY_WHOLE, *DIRECTIONS)
TRIAL_EPOCHS = 2  # of training, by which its own settings are told apart
CLEAR_GAIN = 2.25  # standard errors: of twelve values that are no better, one is taken in one of seven data sets


def choose_settings(
    config: TrainConfig, data: Interactions, on_trial: OnTrial = None
) -> tuple[TrainConfig, Propagation | None]:
    """The config with all of `SEARCHED` given, and the initial model by them on these data where the search made it.

    data: on the device to compute on. What is open is chosen by the config's monitor on validation, over several splits
    where validation is small; what the search leaves alone gets its usual value.
    on_trial: called with each trial: the settings tried, value, seconds, trial.
    Raises DataError where there is nothing to validate on.
    """
    left = open_settings(config)
    config = usual_settings(config, data.train)
    if not left:
        return config, None
    if len(data.valid) == 0:
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            f" give {', '.join(left)}, or take the usual ones with search='none'"
        )
    search = _Search(config, left, data, on_trial)
    config = search.choose_penalty(config)
    config = search.choose_width(config)
    config = search.choose_nested(config)
    config = search.choose_rotation(config)
    config = search.try_others(config)
    return config, search.model if search.model_config == config else None


def open_settings(config: TrainConfig) -> list[str]:
    """Those of `SEARCHED` that the search is to choose: not given, nor of what the config does without."""
    kind = config.least_squares.search
    names = {"none": (), "quick": BY_WHOLE, "thorough": SEARCHED}[kind]
    unneeded = set(OF_TRAINING) if config.epochs == 0 else set()
    if len(config.widths) == 1:
        unneeded.add("level_weights")
    return [name for name in names if name not in unneeded and config.setting(name) in (None, ())]


def expected_trials(config: TrainConfig) -> int:
    """About how many trials the search makes."""
    names = open_settings(config)
    trials = TRIALS[config.least_squares.search] + FINALISTS if "alpha0" in names or "frequency_l2" in names else 0
    values = {"sweeps": len(SWEEPS), "nested_sweeps": 1, "rotation": 2}
    return trials + sum(values.get(name, len(DIRECTIONS.get(name, ()))) for name in names)


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
    room = min(MOST_FITTED, min(positives.num_users, positives.num_items) // 2, MOST_NUMBERS // max(len(positives), 1))
    return [widths[-1], *(times * widths[-1] for times in FITTED[1:] if times * widths[-1] <= room)]


class _Search:
    """The steps of the search. Each gives the config with more of its open settings chosen, mean over the splits."""

    def __init__(self, config: TrainConfig, names: Sequence[str], data: Interactions, on_trial: OnTrial):
        self.names, self.on_trial, self.kind = names, on_trial, config.least_squares.search
        sample = sample_users(data, config.seed, MOST_INTERACTIONS[self.kind])
        self.splits = validation_splits(config, sample, TRIAL_USERS)
        self.is_whole = sample is data
        self.trials = itertools.count(1)
        self.narrow_value = 0.0  # of the whole in a trial by the penalty that is chosen
        self.factors: list[Factors] = []  # of the best fit so far, by split
        self.model, self.model_config = None, None

    def log(self, started: float, value: float, **tried: object) -> None:
        if self.on_trial is not None:
            tried = {name: tried[name] if isinstance(tried[name], int | float) else str(tried[name]) for name in tried}
            seconds = time.perf_counter() - started
            self.on_trial({"trial": next(self.trials), **tried, "value": value, "seconds": seconds})

    def whole_value(self, config: TrainConfig, factors: Sequence[Factors]) -> float:
        """The value of the whole vectors."""
        monitor, pairs = config.early_stopping.monitor, zip(self.splits, factors, strict=True)
        return float(
            np.mean([
                validation_value(propagated(config, split.train, each).vectors(), split, (each[1].shape[1],), monitor)
                for split, each in pairs
            ])
        )  # fmt: skip

    def choose_penalty(self, config: TrainConfig) -> TrainConfig:
        """alpha0, frequency_l2 and propagation: a climb by the whole of a fit that is not too wide, then a final.

        The finalists are settings that are close to the best. They go on to more sweeps and are rotated in a hurry;
        the best mean over the widths wins.
        """
        is_open = [name in self.names for name in ("alpha0", "frequency_l2")]
        given, found = config.least_squares, {}
        train = self.splits[0].train
        most = min(TRIAL_WIDTH, min(train.num_users, train.num_items) // 4)
        allowed = [width for width in fitted_widths(config.widths, train) if width <= most]
        width = min(given.fit_width, max(allowed, default=config.widths[-1]))
        starts = [spectral_start(split.train, width, seed=config.seed) for split in self.splits]

        def value_of(alpha0: float, l2: float) -> float:
            started = time.perf_counter()
            settings = {"alpha0": alpha0 if is_open[0] else given.alpha0}
            settings |= {"frequency_l2": l2 if is_open[1] else given.frequency_l2}
            tried = config.with_settings(**settings)
            pairs = zip(self.splits, starts, strict=True)
            factors = [go_on(tried, split.train, start, TRIAL_SWEEPS) for split, start in pairs]
            options = PROPAGATIONS if "propagation" in self.names else (given.propagation,)
            propagations = [tried.with_settings(propagation=option) for option in options]
            value, tried = max(((self.whole_value(each, factors), each) for each in propagations), key=itemgetter(0))
            self.log(started, value, **settings, propagation=list(tried.least_squares.propagation))
            found[value, -alpha0 * l2] = tried, factors
            for worst in sorted(found)[:-FINALISTS]:
                del found[worst]
            return value

        if any(is_open) or "propagation" in self.names:  # then the given penalty is the one trial
            moves = [move for move in NEIGHBOURS if all(is_open[axis] or not move[axis] for axis in (0, 1))]
            climb(value_of, usual_point(train), TRIALS[self.kind], moves=moves)
        finalists = [found[key] for key in sorted(found, reverse=True) if key[0] >= CLOSE * max(found)[0]]
        self.narrow_value = max(found)[0] if found else 0.0
        best = -1.0, finalists[0][0] if finalists else config
        for tried, factors in finalists if len(finalists) > 1 else ():
            started, pairs = time.perf_counter(), zip(self.splits, factors, strict=True)
            factors = [rotate(*go_on(tried, split.train, each, TRIAL_SWEEPS)) for split, each in pairs]
            whole = self.whole_value(tried, factors)
            value = self.rotated_value(tried, factors, steps=HURRIED)[0]
            chosen = tried.least_squares
            self.log(started, value, alpha0=chosen.alpha0, frequency_l2=chosen.frequency_l2, rotation=True)
            if value > best[0]:
                self.narrow_value, best = whole, (value, tried)
        return best[1]

    def choose_width(self, config: TrainConfig) -> TrainConfig:
        """fit_width and sweeps, by the whole: the widest that is allowed unless narrower is clearly better."""
        widest = config.least_squares.fit_width  # that was given, or that all data have room for
        allowed = fitted_widths(config.widths, self.splits[0].train) if "fit_width" in self.names else [widest]
        widths = [width for width in allowed if width <= widest]
        best = self.try_width(config, widths.pop())
        while widths and self.narrow_value > BETTER_NARROW * best[0]:
            tried = self.try_width(config, widths.pop())
            if tried[0] <= best[0]:
                break
            best = tried
        self.whole, config, self.factors = best
        return config

    def try_width(self, config: TrainConfig, width: int) -> tuple[float, TrainConfig, list[Factors]]:
        """The best value of the whole of so many dimensions, the config with its sweeps, its factors."""
        lengths = SWEEPS if "sweeps" in self.names else (config.least_squares.sweeps,)
        factors = [spectral_start(split.train, width, seed=config.seed) for split in self.splits]
        best, done = (-1.0, config, factors), 0
        for sweeps in lengths:
            started = time.perf_counter()
            pairs = zip(self.splits, factors, strict=True)
            factors = [go_on(config, split.train, each, sweeps - done) for split, each in pairs]
            value = self.whole_value(config, factors)
            self.log(started, value, fit_width=width, sweeps=sweeps)
            if value <= best[0]:
                break
            best, done = (value, config.with_settings(fit_width=width, sweeps=sweeps), factors), sweeps
        return best

    def choose_nested(self, config: TrainConfig) -> TrainConfig:
        """nested_sweeps, by the whole; and factors on their axes.

        Their growing penalty is for data that over-fit, on which the fewest sweeps are best.
        """
        if "nested_sweeps" in self.names and (config.least_squares.sweeps == SWEEPS[0] or self.kind == "thorough"):
            started, tried = time.perf_counter(), config.with_settings(nested_sweeps=1)
            factors = self.nest(tried)
            value = self.whole_value(tried, factors)
            self.log(started, value, nested_sweeps=1)
            if value > self.whole:
                self.factors = factors
                return tried
        self.factors = self.nest(config)
        return config

    def nest(self, config: TrainConfig) -> list[Factors]:
        pairs = zip(self.splits, self.factors, strict=True)
        return [nest(config, split.train, each) for split, each in pairs]

    def choose_rotation(self, config: TrainConfig) -> TrainConfig:
        """Whether axes are rotated, by the mean over all widths that are served."""
        found = {}
        for rotation in (False, True) if "rotation" in self.names else (config.least_squares.rotation,):
            started, tried = time.perf_counter(), config.with_settings(rotation=rotation)
            value, model = self.rotated_value(tried, self.factors)
            self.log(started, value, rotation=rotation)
            found[value, rotation] = tried, model
        config, model = found[max(found)]
        if self.is_whole:
            self.model_config, self.model = config, model
        return config

    def rotated_value(
        self, config: TrainConfig, factors: Sequence[Factors], **options: Any
    ) -> tuple[float, Propagation]:
        """The mean over the widths of the initial model from factors, and that of the first split."""
        pairs = zip(self.splits, factors, strict=True)
        models = [initial_model(config, split.train, each, **options) for split, each in pairs]
        return float(np.mean([users.mean() for users in self.by_user(config, models)])), models[0]

    def by_user(self, config: TrainConfig, models: Sequence[Propagation | Trainer]) -> list[np.ndarray]:
        """The value of each validation user, mean over the widths, split by split."""
        pairs = zip(models, self.splits, strict=True)
        monitor = config.early_stopping.monitor
        return [validation_by_user(model.vectors(), split, config.widths, monitor) for model, split in pairs]

    def values_by_user(self, config: TrainConfig, *, trained: bool) -> list[np.ndarray]:
        """The same by the settings of the config, all made anew; trained: after some epochs."""
        models = []
        for split in self.splits:
            model = initial_model(config, split.train, fit_least_squares(config, split.train))
            if trained:
                model = Trainer(config, split.train, split.train.items.device, model)
                for _ in range(min(TRIAL_EPOCHS, config.epochs)):
                    model.run_epoch()
            models.append(model)
        return self.by_user(config, models)

    def try_others(self, config: TrainConfig) -> TrainConfig:
        """Each other setting moved to other values wherever users gain clearly; most data gain from none."""
        best, was_trained = None, False  # the values by user of the config so far
        for name in DIRECTIONS:
            if name not in self.names or changes_nothing(config, name):
                continue
            trained = name in OF_TRAINING
            if best is None or trained != was_trained:
                best, was_trained = self.values_by_user(config, trained=trained), trained
            for direction in DIRECTIONS[name]:
                reached = None
                for value in direction:
                    started, tried = time.perf_counter(), moved(config, name, value, self.splits[0].train)
                    values = self.values_by_user(tried, trained=trained)
                    self.log(started, float(np.mean([users.mean() for users in values])), **{name: value})
                    if not clearly_better(values, best):
                        break
                    reached, best = tried, values
                if reached is not None:
                    config = reached
                    break
        return config


def changes_nothing(config: TrainConfig, name: str) -> bool:
    """Whether a setting of `DIRECTIONS` has no effect on the initial model, by what was chosen before it."""
    chosen = config.least_squares
    if name == "hops":  # with one side alone, every hop gives the same
        return not all(chosen.propagation)
    if name == "level_weights":
        return not (chosen.rotation or chosen.nested_sweeps)
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
    return config.with_settings(**{name: value})


def clearly_better(values: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Whether users gain by more than CLEAR_GAIN standard errors.

    values and others: of the same users, split by split.
    """
    gains = [value - other for value, other in zip(values, others, strict=True)]
    # splits share users: no smaller for more of them
    error = np.mean([gain.std() / len(gain) ** 0.5 for gain in gains])
    return bool(np.mean([gain.mean() for gain in gains]) > CLEAR_GAIN * error)
