"""Settings chosen on validation: of least squares, of the propagation and rotation of its factors, of the training.

A small deterministic search: it climbs over a grid of α0 and λ, then tries a few values of each setting that is left.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from mrl.config import TrainConfig
from mrl.data import Interactions
from mrl.errors import DataError
from mrl.least_squares.validation import ValidationSplit, propagation_options, sample_users, validation_splits

ALPHA0_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# along each axis, and along alpha0 · l2, of which rows with few positives feel little else
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
POPULARITY_EXPONENTS = (0.25, 0.5)  # beside 0
L2_WIDTH_EXPONENTS = (0.3, 0.6, 1.0)  # beside 0
NU = 0.75  # beside 1
# beside the usual value: one direction and the other, each as far as users gain
DIRECTIONS = {
    "sweeps": ((0,), (2,)),
    "hops": ((1,), (3,)),
    "l2": ((0.003, 0.001, 0.0003), (0.03, 0.1)),
    "initial_scale": ((1.4, 2.0, 2.8, 4.0), (0.7, 0.5)),
}
OF_TRAINING = ("l2", "initial_scale")  # which only training depends on
RARELY_MOVED = ("fit_width", "sweeps", "nu", "hops", "level_weights", *OF_TRAINING)  # mostly best at their usual value
SEARCHED = (
    *("alpha0", "frequency_l2", "popularity_exponent", "l2_width_exponent"),
    *RARELY_MOVED,
    *("propagation", "rotation_width"),
)
CLEAR_GAIN = 2.25  # standard errors: of twelve values that are no better, one is taken in one of seven data sets
CLOSE_TO_BEST = 0.97  # a propagation that is so good untrained may still be the best once trained

ByUser = Callable[[ValidationSplit, TrainConfig], np.ndarray]  # the values of the users of a split


def climb(value_of: Callable[[float, float], float], trials: int, on_trial: Callable[[dict], None] | None = None):
    """The best alpha0 and l2 of ALPHA0_GRID × L2_GRID, climbing from its middle, neighbour by neighbour.

    Stops where no neighbour is better or `trials` are spent. Returns the settings and a table of all trials: alpha0,
    l2, value, seconds.
    """
    rows: dict[tuple[int, int], dict] = {}

    def attempt(point: tuple[int, int]) -> None:
        started = time.perf_counter()
        settings = {"alpha0": ALPHA0_GRID[point[0]], "l2": L2_GRID[point[1]]}
        rows[point] = {**settings, "value": value_of(**settings), "seconds": time.perf_counter() - started}
        if on_trial is not None:
            on_trial({"trial": len(rows), **rows[point]})

    def rank(trial: dict) -> tuple[float, float]:  # where all have collapsed, the way out is down
        return trial["value"], -trial["alpha0"] * trial["l2"]

    best = (len(ALPHA0_GRID) // 2, len(L2_GRID) // 2)
    attempt(best)
    climbing = True
    while climbing:
        for point in [(best[0] + a, best[1] + b) for a, b in NEIGHBOURS]:
            inside = 0 <= point[0] < len(ALPHA0_GRID) and 0 <= point[1] < len(L2_GRID)
            if inside and point not in rows and len(rows) < trials:
                attempt(point)
        ahead = max(rows, key=lambda point: rank(rows[point]))
        climbing, best = ahead != best, ahead
    return {name: rows[best][name] for name in ("alpha0", "l2")}, pl.DataFrame(list(rows.values()))


def choose_settings(
    config: TrainConfig, data: Interactions, on_trial: Callable[[dict], None] | None = None
) -> list[TrainConfig]:
    """The config with all of `SEARCHED` that it leaves open chosen.

    data: on the device to compute on. Each is chosen by the config's monitor on validation, mean over the widths, and
    over several splits where validation is small.
    on_trial: called with each trial: the settings tried, value, seconds, trial. Returns the filled configs, best first:
    one for `least_squares`, which ends here; else one for each propagation that is worth training.
    Raises DataError where there is nothing to validate on.
    """
    if config.least_squares.rotation_width is None and (config.recipe == "least_squares" or len(config.widths) == 1):
        config = config.with_settings(rotation_width=0)
    names = open_settings(config)
    config = config.with_usual()
    if not names:
        return [config]
    if len(data.valid) == 0:
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            f" or give {', '.join(names)}"
        )
    sample = sample_users(data, config.seed)
    search = _Search(validation_splits(config, sample), names, on_trial)
    config = search.choose_penalty(config)
    config = search.choose("popularity_exponent", POPULARITY_EXPONENTS, config)
    config = search.choose("l2_width_exponent", L2_WIDTH_EXPONENTS, config)
    config = search.choose_fit_width(config)
    sampled = search.splits
    if sample is not data:  # what neighbours give depends on how many there are
        search.splits = [ValidationSplit(split) for split in validation_splits(config, data)]
    plans = [search.choose_rotation(plan) for plan in search.choose_propagation(config)]
    # after the rotation, which makes other ones best
    first = search.coordinate_search(
        plans[0], ("sweeps", "nu", "hops", "level_weights"), ValidationSplit.initial_by_user
    )
    search.splits = sampled
    first = search.coordinate_search(first, OF_TRAINING, ValidationSplit.trained_by_user)
    # all plans are to have the same initial factors
    shared = {name: first.setting(name) for name in ("frequency_l2", *RARELY_MOVED)}
    return [plan.with_settings(**shared) for plan in plans]


def open_settings(config: TrainConfig) -> list[str]:
    """Those of `SEARCHED` that are to be chosen: not given, nor of what the config does without."""
    unneeded = set(RARELY_MOVED) if config.least_squares.frequency_l2 is not None else set()
    if config.epochs == 0:
        unneeded |= set(OF_TRAINING)
    if len(config.widths) == 1:
        unneeded.add("level_weights")
    return [name for name in SEARCHED if name not in unneeded and config.setting(name) in (None, ())]


class _Search:
    """Trials of the open settings, each judged by the mean over the validation splits."""

    def __init__(self, splits: Sequence[Interactions], names: Sequence[str], on_trial: Callable[[dict], None] | None):
        self.splits, self.names, self.on_trial = [ValidationSplit(data) for data in splits], names, on_trial
        self.trials = itertools.count(1)

    def log(self, started: float, value: float, **tried: float | str) -> None:
        if self.on_trial is not None:
            seconds = time.perf_counter() - started
            self.on_trial({"trial": next(self.trials), **tried, "value": value, "seconds": seconds})

    def by_propagation(self, config: TrainConfig, *, keep: bool = False) -> dict[tuple[float, ...], float]:
        """The value of least squares under each propagation that the config allows."""
        values = [split.evaluate_fit(config, keep=keep).values for split in self.splits]
        return {option: float(np.mean([of[option] for of in values])) for option in propagation_options(config)}

    def choose_penalty(self, config: TrainConfig) -> TrainConfig:
        """The config with the alpha0 and frequency_l2 that are best under some propagation.

        Each propagation has a climb of its own, as smoothing takes another penalty; all share their trials.
        """
        given = config.least_squares
        if given.alpha0 is not None and given.frequency_l2 is not None:
            return config
        # no wider than what is kept: at half the cost or less, and what is best is as good at full width
        narrow = config.with_settings(fit_width=config.widths[-1])
        values: dict[tuple[float, float], dict[tuple[float, ...], float]] = {}

        def values_of(alpha0: float, l2: float) -> dict[tuple[float, ...], float]:
            point = (given.alpha0 or alpha0, given.frequency_l2 or l2)
            if point not in values:
                started = time.perf_counter()
                values[point] = self.by_propagation(narrow.with_settings(alpha0=point[0], frequency_l2=point[1]))
                self.log(started, max(values[point].values()), alpha0=point[0], frequency_l2=point[1])
            return values[point]

        for option in propagation_options(config):
            climb(lambda alpha0, l2, option=option: values_of(alpha0, l2)[option], given.trials)
        for split in self.splits:
            split.kept = None  # of another width
        alpha0, l2 = max(values, key=lambda point: (max(values[point].values()), -point[0] * point[1]))
        return config.with_settings(alpha0=alpha0, frequency_l2=l2)

    def choose(self, name: str, values: Sequence[float], config: TrainConfig) -> TrainConfig:
        """The config with the setting `name` of least squares, if open, at 0 or the one of `values` that is best."""
        if name not in self.names:
            return config
        by_value = {}
        for value in (0.0, *values):
            started = time.perf_counter()
            by_value[value] = max(self.by_propagation(config.with_settings(**{name: value})).values())
            self.log(started, by_value[value], **{name: value})
        return config.with_settings(**{name: max(by_value, key=by_value.get)})

    def choose_fit_width(self, config: TrainConfig) -> TrainConfig:
        """The config with as many dimensions fitted as users gain from, under the propagation that is best."""
        if "fit_width" not in self.names:
            return config
        values = self.by_propagation(config, keep=True)
        best = config.with_settings(propagation=max(values, key=values.get))
        best = self.coordinate_search(best, ("fit_width",), ValidationSplit.initial_by_user)
        return config.with_settings(fit_width=best.least_squares.fit_width)

    def choose_propagation(self, config: TrainConfig) -> list[TrainConfig]:
        """The config with the propagation that is best, and for a recipe that trains with each that comes close."""
        if config.least_squares.propagation:
            return [config]
        started = time.perf_counter()
        ranked = sorted(self.by_propagation(config, keep=True).items(), key=lambda pair: -pair[1])
        for option, value in ranked:
            self.log(started, value, propagation=str(list(option)))
        (first, best), *others = ranked
        worth = [first]
        if config.recipe != "least_squares":
            # none at all is worth a training of its own only where it is the best to start with
            worth += [option for option, value in others if value >= CLOSE_TO_BEST * best and any(option)]
        return [config.with_settings(propagation=option) for option in worth]

    def choose_rotation(self, plan: TrainConfig) -> TrainConfig:
        """The plan with its axes rotated where all levels together gain from it: all of them, or fewer as long as
        that is better."""
        if plan.least_squares.rotation_width is not None:
            return plan
        (best,) = self.by_propagation(plan, keep=True).values()
        chosen = plan.with_settings(rotation_width=0)
        for width in reversed(plan.widths[1:]):
            started = time.perf_counter()
            rotated = plan.with_settings(rotation_width=width)
            value = float(np.mean([split.initial_value(rotated) for split in self.splits]))
            self.log(started, value, propagation=str(list(plan.least_squares.propagation)), rotation_width=width)
            if value <= best:
                break
            best, chosen = value, rotated
        return chosen

    def coordinate_search(self, config: TrainConfig, names: Sequence[str], by_user: ByUser) -> TrainConfig:
        """The config with those of `names` that are open moved to other values wherever users gain clearly.

        names: of `RARELY_MOVED`. Most data gain nothing from another value, so that the best of several would be so by
        luck.
        """
        names = [name for name in names if name in self.names]
        if not names:
            return config
        self.by_propagation(config, keep=True)
        best = [by_user(split, config) for split in self.splits]
        for name in names:
            for direction in alternatives(config, name, self.splits[0].data):
                moved, best = self.line_search(direction, name, best, by_user)
                if moved is not None:
                    config = moved
                    break
        return config

    def line_search(
        self, direction: Sequence[TrainConfig], name: str, best: list[np.ndarray], by_user: ByUser
    ) -> tuple[TrainConfig | None, list[np.ndarray]]:
        """The last config of a direction up to which each is clearly better than the one before, and its users' values.

        best: those of users before it. None and `best` where already the first is no better. name: what differs.
        """
        reached = None
        for tried in direction:
            started = time.perf_counter()
            values = [by_user(split, tried) for split in self.splits]
            mean, setting = np.mean([users.mean() for users in values]), tried.setting(name)
            shown = str([round(weight, 3) for weight in setting]) if name == "level_weights" else setting
            self.log(started, float(mean), **{name: shown})
            if not clearly_better(values, best):
                break
            reached, best = tried, values
        return reached, best


def clearly_better(values: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Whether users gain by more than CLEAR_GAIN standard errors.

    values and others: of the same users, split by split.
    """
    gains = [value - other for value, other in zip(values, others, strict=True)]
    error = np.mean(
        [gain.std() / len(gain) ** 0.5 for gain in gains]
    )  # splits share users: no smaller for more of them
    return bool(np.mean([gain.mean() for gain in gains]) > CLEAR_GAIN * error)


def alternatives(config: TrainConfig, name: str, data: Interactions) -> list[list[TrainConfig]]:
    """The configs with other values of one of `RARELY_MOVED` than the usual one, by the direction they lead in."""
    if name == "fit_width":
        return [[config.with_settings(fit_width=4 * config.widths[-1])]]  # twice the usual
    if name == "nu":  # with the penalty that users then have on average the same
        counts = data.train.counts.double() + config.least_squares.alpha0 * data.num_items
        l2 = config.least_squares.frequency_l2 * float(counts.mean() / (counts**NU).mean())
        return [[config.with_settings(nu=NU, frequency_l2=l2)]]
    if name == "level_weights":  # that rise or fall from level to level
        rising = [level / sum(range(len(config.widths) + 1)) for level in range(1, len(config.widths) + 1)]
        return [[config.with_settings(level_weights=tuple(weights))] for weights in (rising, rising[::-1])]
    if name == "hops" and not all(config.least_squares.propagation):
        return []  # what one side picks up of the other is the same after every hop
    return [[config.with_settings(**{name: value}) for value in direction] for direction in DIRECTIONS[name]]
