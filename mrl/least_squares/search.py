"""Settings chosen on validation: the whole first, then its prefixes.

`choose_settings` is the search. α0, λ, the fitted width and the sweeps are judged by the whole vectors, which every
prefix is then rotated to rank like; the rotation and what is tried after it by all widths that are served.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from mrl.config import TrainConfig
from mrl.data import Interactions
from mrl.errors import DataError
from mrl.least_squares.axes import rotate
from mrl.least_squares.climb import NEIGHBOURS, OnTrial, climb
from mrl.least_squares.fit import fit_least_squares, go_on, initial_model, nest, propagated
from mrl.least_squares.gains import clearly_better, gains_of_wider, mean_over_splits, widened_values
from mrl.least_squares.ials import Factors, spectral_start
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import HURRIED
from mrl.least_squares.usual import (
    DIRECTIONS,
    FITTED,
    changes_nothing,
    fitted_widths,
    moved,
    possible_widths,
    usual_point,
    usual_settings,
    widest_fit,
)
from mrl.least_squares.validation import (
    MOST_INTERACTIONS,
    sample_users,
    sample_validation_users,
    validation_by_user,
    validation_splits,
    validation_value,
)
from mrl.recipes import USUAL
from mrl.trainer import Trainer
from mrl.widths import AUTO, DEFAULT_WIDTHS, powers_of_two

TRIALS = {"quick": 7, "thorough": 20}  # of alpha0 and l2, at most
TRIAL_SWEEPS = 2
FINALISTS = 3  # settings that go on to more sweeps and are rotated
CLOSE = 0.9  # of the best, so that a finalist may still be better once rotated
TRIAL_WIDTH = 256  # dimensions of a trial, at most: its best alpha0 and l2 are those of wider fits, too
TRIAL_USERS = 3_000  # whose validation a trial by the whole looks at
SWEEPS = (2, 4, 6)  # few are better on dense data, more on sparse data
BETTER_NARROW = 1.01  # times the value of the widest fit, from which on half of it is tried
PROPAGATIONS = ((0.0, 0.0), USUAL["propagation"], (1.0, 1.0))  # users alone where there is much data a user, else both
BY_WHOLE = ("alpha0", "frequency_l2", "fit_width", "sweeps", "nested_sweeps", "propagation", "rotation")
OF_TRAINING = ("hops", "l2", "initial_scale")
SEARCHED = (*BY_WHOLE, *DIRECTIONS)
TRIAL_EPOCHS = 2  # of training, by which its own settings are told apart


class Chosen(NamedTuple):
    """config: with all of `SEARCHED` given, and its widths. model: the initial one by it, where the search made it.

    wider: width and gain of wider vectors than are served (`mrl.least_squares.gains`); None where not measured.
    """

    config: TrainConfig
    model: Propagation | None = None
    wider: list[tuple[int, float]] | None = None


def choose_settings(config: TrainConfig, data: Interactions, on_trial: OnTrial = None, whole: Any = None) -> Chosen:
    """What the config leaves open, chosen on validation.

    data: on the device to compute on. What is open is chosen by the config's monitor on validation, over several splits
    where validation is small; the rest is as usual. on_trial: called with each trial: the settings tried, value,
    seconds, trial. whole: where `data` are of some users, num_users, num_items and len() of the training set of all.
    Raises DataError where there is nothing to validate on.
    """
    left, is_auto, train = open_settings(config), config.widths == AUTO, data.train if whole is None else whole
    if left and len(data.valid) == 0:
        remedy = f"give {', '.join(left)}, or take the usual ones with search='none'"
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            f" {f'or give widths such as {list(DEFAULT_WIDTHS)}' if is_auto else remedy}"
        )
    if is_auto:  # until they are found
        possible = possible_widths(config, train)
        config = replace(config, widths=tuple(width for width in possible if width <= DEFAULT_WIDTHS[-1]))
    config = usual_settings(config, train)
    if not left:
        return Chosen(config)
    search = _Search(config, left, data, on_trial)
    config = search.choose_penalty(config)  # and the propagation: by the whole of a fit that is not too wide
    if is_auto:
        config = usual_settings(search.choose_widths(config, possible), train)  # by a wide fit, rotated in a hurry
    config = search.choose_width(config)  # that is fitted, and the sweeps: by the whole
    config = search.choose_nested(config)  # a nested sweep or none: by the whole
    config = search.choose_rotation(config)  # axes rotated or not: by all widths that are served
    config = search.try_others(config)  # where a thorough search has them open
    return Chosen(config, search.model if search.model_config == config else None, search.wider)


def open_settings(config: TrainConfig) -> list[str]:
    """Those of `SEARCHED`, and the widths, that are to be chosen: not given, nor of what the config does without."""
    kind = config.least_squares.search
    names = {"none": (), "quick": BY_WHOLE, "thorough": SEARCHED}[kind]
    unneeded = set(OF_TRAINING) if config.epochs == 0 else set()
    if len(config.widths) == 1:
        unneeded.add("level_weights")
    found = ["widths"] if config.widths == AUTO else []
    return found + [name for name in names if name not in unneeded and config.setting(name) in (None, ())]


def expected_trials(config: TrainConfig) -> int:
    """About how many trials the search makes."""
    names = open_settings(config)
    trials = TRIALS[config.least_squares.search] + FINALISTS if "alpha0" in names or "frequency_l2" in names else 0
    values = {"widths": 7, "sweeps": len(SWEEPS), "nested_sweeps": 1, "rotation": 2}
    return trials + sum(values.get(name, len(DIRECTIONS.get(name, ()))) for name in names)


class _Search:
    """The steps of the search: each gives the config with more of its open settings chosen, mean over the splits."""

    def __init__(self, config: TrainConfig, names: Sequence[str], data: Interactions, on_trial: OnTrial):
        self.names, self.on_trial, self.kind = names, on_trial, config.least_squares.search
        sample = sample_users(data, config.seed, MOST_INTERACTIONS[self.kind])
        self.splits = validation_splits(config, sample)
        self.few = [sample_validation_users(split, config.seed, TRIAL_USERS) for split in self.splits]
        self.is_whole = sample is data
        self.trials, self.logged = itertools.count(1), time.perf_counter()
        self.narrow_value = 0.0  # of the whole in a trial by the penalty that is chosen
        self.factors: list[Factors] = []  # of the best fit so far, by split
        self.model, self.model_config = None, None
        self.wider: list[tuple[int, float]] | None = None

    def choose_penalty(self, config: TrainConfig) -> TrainConfig:
        """alpha0, frequency_l2 and propagation: a climb by the whole of a fit that is not too wide, then a final.

        The finalists are settings that are close to the best. They go on to more sweeps and are rotated in a hurry;
        the best mean over the widths wins.
        """
        given, train, found = config.least_squares, self.splits[0].train, {}
        is_open = [name in self.names for name in ("alpha0", "frequency_l2")]
        propagations = PROPAGATIONS if "propagation" in self.names else (given.propagation,)
        if not any(is_open) and len(propagations) == 1:
            return config
        most = min(TRIAL_WIDTH, min(train.num_users, train.num_items) // 4)
        allowed = [width for width in fitted_widths(config.widths, train) if width <= most]
        starts = self.start(config, min(given.fit_width, max(allowed, default=config.widths[-1])))

        def value_of(alpha0: float, l2: float) -> float:
            settings = {"alpha0": alpha0 if is_open[0] else given.alpha0}
            settings |= {"frequency_l2": l2 if is_open[1] else given.frequency_l2}
            factors = self.go_on(config.with_settings(**settings), starts, TRIAL_SWEEPS)
            options = [config.with_settings(**settings, propagation=each) for each in propagations]
            value, tried = max(((self.whole_value(each, factors), each) for each in options), key=itemgetter(0))
            self.log(value, **settings, propagation=list(tried.least_squares.propagation))
            found[value, -alpha0 * l2] = tried, factors
            for worst in sorted(found)[:-FINALISTS]:
                del found[worst]
            return value

        moves = [move for move in NEIGHBOURS if all(is_open[axis] or not move[axis] for axis in (0, 1))]
        climb(value_of, usual_point(train), TRIALS[self.kind], moves=moves)  # of a given penalty it is one trial
        self.narrow_value = max(found)[0]
        finalists = [found[key] for key in sorted(found, reverse=True) if key[0] >= CLOSE * self.narrow_value]
        best = -1.0, finalists[0][0]
        for tried, factors in finalists if len(finalists) > 1 else ():
            factors = [rotate(*each) for each in self.go_on(tried, factors, TRIAL_SWEEPS)]
            whole, (value, _) = self.whole_value(tried, factors), self.rotated(tried, factors, steps=HURRIED)
            chosen = tried.least_squares
            self.log(value, alpha0=chosen.alpha0, frequency_l2=chosen.frequency_l2, rotation=True)
            if value > best[0]:
                self.narrow_value, best = whole, (value, tried)
        return best[1]

    def choose_widths(self, config: TrainConfig, possible: Sequence[int]) -> TrainConfig:
        """widths, up to the widest that gains clearly, by one wide fit that is rotated in a hurry; fit_width anew."""
        is_open = "fit_width" in self.names
        fitted = widest_fit(self.splits[0].train) if is_open else config.least_squares.fit_width
        factors = self.go_on(config, self.start(config, fitted), TRIAL_SWEEPS)
        models = self.rotated(config, factors, steps=HURRIED)[1]
        values = self.values_by_width(config, [width for width in possible if width <= fitted], factors, models)
        for width, by_user in values.items():
            self.log(mean_over_splits(by_user), width=width)
        widest = max([possible[0], *(width for width, _ in gains_of_wider(values))])
        return config.with_settings(widths=powers_of_two(widest), fit_width=None if is_open else fitted)

    def choose_width(self, config: TrainConfig) -> TrainConfig:
        """fit_width and sweeps, by the whole: the widest that is allowed unless narrower is clearly better."""
        widest = config.least_squares.fit_width  # that was given, or that all data have room for
        allowed = fitted_widths(config.widths, self.splits[0].train) if "fit_width" in self.names else [widest]
        self.whole = -1.0
        for width in reversed([width for width in allowed if width <= widest]):
            value, tried, factors = self.try_width(config, width)
            if value <= self.whole:
                break
            self.whole, chosen, self.factors = value, tried, factors
            if self.narrow_value <= BETTER_NARROW * value:
                break
        return chosen

    def try_width(self, config: TrainConfig, width: int) -> tuple[float, TrainConfig, list[Factors]]:
        """The best value of the whole of so many dimensions, the config with its sweeps, its factors."""
        factors = self.start(config, width)
        best, done = (-1.0, config, factors), 0
        for sweeps in SWEEPS if "sweeps" in self.names else (config.least_squares.sweeps,):
            factors = self.go_on(config, factors, sweeps - done)
            value = self.whole_value(config, factors)
            self.log(value, fit_width=width, sweeps=sweeps)
            if value <= best[0]:
                break
            best, done = (value, config.with_settings(fit_width=width, sweeps=sweeps), factors), sweeps
        return best

    def choose_nested(self, config: TrainConfig) -> TrainConfig:
        """nested_sweeps, by the whole; and factors on their axes.

        Their growing penalty is for data that over-fit, on which the fewest sweeps are best.
        """
        if "nested_sweeps" in self.names and (config.least_squares.sweeps == SWEEPS[0] or self.kind == "thorough"):
            tried = config.with_settings(nested_sweeps=1)
            factors = self.nest(tried)
            value = self.whole_value(tried, factors)
            self.log(value, nested_sweeps=1)
            if value > self.whole:
                self.factors = factors
                return tried
        self.factors = self.nest(config)
        return config

    def choose_rotation(self, config: TrainConfig) -> TrainConfig:
        """Whether axes are rotated, by the mean over all widths that are served; and what wider vectors would gain."""
        found = {}
        for rotation in (False, True) if "rotation" in self.names else (config.least_squares.rotation,):
            tried = config.with_settings(rotation=rotation)
            value, models = self.rotated(tried, self.factors)
            self.log(value, rotation=rotation)
            found[value, rotation] = tried, models
        config, models = found[max(found)]
        if self.is_whole:
            self.model_config, self.model = config, models[0]
        fitted = self.factors[0][1].shape[1]
        widths = [width for width in (times * config.widths[-1] for times in FITTED) if width <= fitted]
        if config.protocol == "honest" and len(widths) > 1:  # never on a test set
            self.wider = gains_of_wider(self.values_by_width(config, widths, self.factors, models))
        return config

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
                    tried = moved(config, name, value, self.splits[0].train)
                    values = self.values_by_user(tried, trained=trained)
                    self.log(
                        mean_over_splits(values), **{name: value if isinstance(value, str) else tried.setting(name)}
                    )
                    if not clearly_better(values, best):
                        break
                    reached, best = tried, values
                if reached is not None:
                    config = reached
                    break
        return config

    def each(self, make: Callable, *by_split: Sequence[Any]) -> list[Any]:
        """make(a split, and what belongs to it) of every split."""
        return [make(*parts) for parts in zip(self.splits, *by_split, strict=True)]

    def start(self, config: TrainConfig, width: int) -> list[Factors]:
        return self.each(lambda split: spectral_start(split.train, width, seed=config.seed))

    def go_on(self, config: TrainConfig, factors: Sequence[Factors], sweeps: int) -> list[Factors]:
        return self.each(lambda split, each: go_on(config, split.train, each, sweeps), factors)

    def nest(self, config: TrainConfig) -> list[Factors]:
        return self.each(lambda split, each: nest(config, split.train, each), self.factors)

    def rotated(
        self, config: TrainConfig, factors: Sequence[Factors], **options: Any
    ) -> tuple[float, list[Propagation]]:
        """The mean over the widths of the initial models from factors, and those."""
        models = self.each(lambda split, each: initial_model(config, split.train, each, **options), factors)
        return mean_over_splits(self.by_user(config, models)), models

    def whole_value(self, config: TrainConfig, factors: Sequence[Factors]) -> float:
        """The value of the whole vectors, for few users: wide ones take long to rank."""
        widths, monitor = (factors[0][1].shape[1],), config.early_stopping.monitor
        vectors = self.each(lambda split, each: propagated(config, split.train, each).vectors(), factors)
        pairs = zip(vectors, self.few, strict=True)
        return float(np.mean([validation_value(each, few, widths, monitor) for each, few in pairs]))

    def by_user(self, config: TrainConfig, models: Sequence[Propagation | Trainer]) -> list[np.ndarray]:
        """The value of each validation user, mean over the widths, split by split."""
        widths, monitor = config.widths, config.early_stopping.monitor
        values = self.each(lambda split, model: validation_by_user(model.vectors(), split, widths, monitor), models)
        return [each.mean(0) for each in values]

    def values_by_user(self, config: TrainConfig, *, trained: bool) -> list[np.ndarray]:
        """The same by the settings of the config, all made anew; trained: after some epochs."""

        def made(split: Interactions) -> Propagation | Trainer:
            model = initial_model(config, split.train, fit_least_squares(config, split.train))
            if trained:
                model = Trainer(config, split.train, split.train.items.device, model)
                for _ in range(min(TRIAL_EPOCHS, config.epochs)):
                    model.run_epoch()
            return model

        return self.by_user(config, self.each(made))

    def values_by_width(
        self, config: TrainConfig, widths: Sequence[int], factors: Sequence[Factors], models: Sequence[Propagation]
    ) -> dict[int, Sequence[np.ndarray]]:
        """The values of each width of models, widened by what they are cut from."""
        by_split = self.each(lambda *parts: widened_values(config, widths, *parts), factors, models)
        return dict(zip(widths, zip(*by_split, strict=True), strict=True))

    def log(self, value: float, **tried: object) -> None:
        """Hand on a trial; it began when the one before it ended."""
        started, self.logged = self.logged, time.perf_counter()
        if self.on_trial is not None:
            tried = {name: tried[name] if isinstance(tried[name], int | float) else str(tried[name]) for name in tried}
            self.on_trial({"trial": next(self.trials), **tried, "value": value, "seconds": self.logged - started})
