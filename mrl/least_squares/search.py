"""Settings chosen on validation: of least squares, of the propagation and the turn of what it found, of the training.

A small deterministic search: climbs over a grid of α0 and λ, then a few values of each setting that is left.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from mrl.config import TrainConfig
from mrl.data.interactions import Interactions
from mrl.errors import DataError
from mrl.least_squares.validation import Fold, every_shares, folds, some_users

ALPHA0_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# along each axis, and along alpha0 · l2, of which rows with few positives feel little else
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
EMPHASES = (0.25, 0.5)  # beside 0
GROWTHS = (0.3, 0.6, 1.0)  # beside 0
POWER = 0.75  # of the counts in the penalty, beside 1
# beside the usual value: one way and the other, each as far as users gain
ELSE = {
    "sweeps": ((0,), (2,)),
    "hops": ((1,), (3,)),
    "l2": ((0.003, 0.001, 0.0003), (0.03, 0.1)),
    "scale": ((1.4, 2.0, 2.8, 4.0), (0.7, 0.5)),
}
TRAINED = ("l2", "scale")  # which only training depends on
OTHERS = ("train_width", "sweeps", "nu", "hops", "level_weights", *TRAINED)  # mostly best at their usual value
CHOSEN = ("alpha0", "frequency_l2", "emphasis", "growth", *OTHERS, "shares", "turn")  # all that is searched
CLEARLY = 2.25  # standard errors: of twelve values that are no better, one is taken in one of seven data sets; no harm
CLOSE = 0.97  # of the best value: shares that are so good untrained may still be the best once trained

ByUser = Callable[[Fold, TrainConfig], np.ndarray]  # the values of the users of a fold, by the settings of a config


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


def choose_least_squares(
    config: TrainConfig, data: Interactions, on_trial: Callable[[dict], None] | None = None
) -> list[TrainConfig]:
    """The config with all of `CHOSEN` that it leaves open chosen.

    data: on the device to compute on. Each is chosen by the config's monitor on validation, mean over the widths, and
    over several draws of validation where it is small.
    on_trial: called with each trial: the settings tried, value, seconds, trial. Returns the filled configs, best first:
    one for `least_squares`, which ends here; else one for all shares that are worth training.
    Raises DataError where there is nothing to validate on.
    """
    if config.turn is None and (config.recipe == "least_squares" or len(config.widths) == 1):
        config = replace(config, turn=0)
    left = left_open(config)
    config = config.closed()
    if not left:
        return [config]
    if len(data.valid) == 0:
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            f" or give {', '.join(left)}"
        )
    some = some_users(data, config.seed)
    search = _Search(folds(config, some), left, on_trial)
    if config.alpha0 is None or config.frequency_l2 is None:
        config = search.choose_penalty(config)
    config = search.choose("emphasis", EMPHASES, config)
    config = search.choose("growth", GROWTHS, config)
    config = search.choose_width(config)
    few = search.folds
    if some is not data:  # what neighbours give depends on how many there are
        search.folds = [Fold(draw) for draw in folds(config, data)]
    plans = [config] if config.shares else search.choose_shares(config)
    plans = [search.choose_turn(plan) for plan in plans]
    # after the turn, which makes other ones best
    first = search.move(plans[0], ("sweeps", "nu", "hops", "level_weights"), Fold.by_user)
    search.folds = few
    first = search.move(first, TRAINED, Fold.trained)
    # all plans are to start from the same factors
    return [replace(plan, **{name: getattr(first, name) for name in ("frequency_l2", *OTHERS)}) for plan in plans]


def left_open(config: TrainConfig) -> list[str]:
    """Those of `CHOSEN` that are to be chosen: not given, nor of what the config does without."""
    unneeded = set(OTHERS) if config.frequency_l2 is not None else set()
    if config.epochs == 0:
        unneeded |= set(TRAINED)
    if len(config.widths) == 1:
        unneeded.add("level_weights")
    return [name for name in CHOSEN if name not in unneeded and getattr(config, name) in (None, ())]


class _Search:
    """Trials of the settings that are left open, each judged by the mean over the folds."""

    def __init__(self, draws: Sequence[Interactions], left: Sequence[str], on_trial: Callable[[dict], None] | None):
        self.folds, self.left, self.on_trial = [Fold(data) for data in draws], left, on_trial
        self.trials = itertools.count(1)

    def said(self, started: float, value: float, **tried: float | str) -> None:
        if self.on_trial is not None:
            seconds = time.perf_counter() - started
            self.on_trial({"trial": next(self.trials), **tried, "value": value, "seconds": seconds})

    def by_shares(self, config: TrainConfig, *, keep: bool = False) -> dict[tuple[float, ...], float]:
        """The value of least squares under propagation by each of the shares that the config allows."""
        values = [fold.fitted(config, keep=keep).values for fold in self.folds]
        return {shares: float(np.mean([of[shares] for of in values])) for shares in every_shares(config)}

    def choose_penalty(self, config: TrainConfig) -> TrainConfig:
        """The config with the alpha0 and frequency_l2 that are best under some propagation.

        Each propagation has a climb of its own, as smoothing takes another penalty; all share their trials.
        """
        # no wider than what is kept: at half the cost or less, and what is best is as good at full width
        narrow = replace(config, train_width=config.widths[-1])
        found: dict[tuple[float, float], dict[tuple[float, ...], float]] = {}

        def values_of(alpha0: float, l2: float) -> dict[tuple[float, ...], float]:
            point = (config.alpha0 or alpha0, config.frequency_l2 or l2)
            if point not in found:
                started = time.perf_counter()
                tried = replace(narrow, alpha0=point[0], frequency_l2=point[1])
                found[point] = self.by_shares(tried)
                self.said(started, max(found[point].values()), alpha0=point[0], frequency_l2=point[1])
            return found[point]

        for shares in every_shares(config):
            climb(lambda alpha0, l2, of=shares: values_of(alpha0, l2)[of], config.trials)
        for fold in self.folds:
            fold.best = None  # of another width
        alpha0, l2 = max(found, key=lambda point: (max(found[point].values()), -point[0] * point[1]))
        return replace(config, alpha0=alpha0, frequency_l2=l2)

    def choose(self, name: str, values: Sequence[float], config: TrainConfig) -> TrainConfig:
        """The config with the setting `name` of least squares, if open, at 0 or the one of `values` that is best."""
        if name not in self.left:
            return config
        found = {}
        for value in (0.0, *values):
            started = time.perf_counter()
            found[value] = max(self.by_shares(replace(config, **{name: value})).values())
            self.said(started, found[value], **{name: value})
        return replace(config, **{name: max(found, key=found.get)})

    def choose_width(self, config: TrainConfig) -> TrainConfig:
        """The config with as many dimensions fitted as users gain from, under the propagation that is best."""
        if "train_width" not in self.left:
            return config
        values = self.by_shares(config, keep=True)
        found = self.move(replace(config, shares=max(values, key=values.get)), ("train_width",), Fold.by_user)
        return replace(config, train_width=found.train_width)

    def move(self, config: TrainConfig, names: Sequence[str], by_user: ByUser) -> TrainConfig:
        """The config with those of `names` that are open moved to other values wherever users gain clearly.

        names: of `OTHERS`. Most data gain nothing from another value, so that the best of several would be so by luck.
        """
        names = [name for name in names if name in self.left]
        if not names:
            return config
        self.by_shares(config, keep=True)
        best = [by_user(fold, config) for fold in self.folds]
        for name in names:
            for way in otherwise(config, name, self.folds[0].data):
                moved, best = self.along(way, name, best, by_user)
                if moved is not None:
                    config = moved
                    break
        return config

    def along(
        self, way: Sequence[TrainConfig], name: str, best: list[np.ndarray], by_user: ByUser
    ) -> tuple[TrainConfig | None, list[np.ndarray]]:
        """The last config of a way up to which each is clearly better than the one before, and the values of its users.

        best: those of users before it. None and `best` where already the first is no better. name: what differs.
        """
        reached = None
        for tried in way:
            started = time.perf_counter()
            found = [by_user(fold, tried) for fold in self.folds]
            value, setting = np.mean([users.mean() for users in found]), getattr(tried, name)
            shown = str([round(weight, 3) for weight in setting]) if name == "level_weights" else setting
            self.said(started, float(value), **{name: shown})
            if not clearly_better(found, best):
                break
            reached, best = tried, found
        return reached, best

    def choose_shares(self, config: TrainConfig) -> list[TrainConfig]:
        started = time.perf_counter()
        found = sorted(self.by_shares(config, keep=True).items(), key=lambda pair: -pair[1])
        for shares, value in found:
            self.said(started, value, shares=str(list(shares)))
        (first, best), *others = found
        plans = [first]
        if config.recipe != "least_squares":
            # none at all is worth a training of its own only where it is the best to start with
            plans += [shares for shares, value in others if value >= CLOSE * best and any(shares)]
        return [replace(config, shares=shares) for shares in plans]

    def choose_turn(self, plan: TrainConfig) -> TrainConfig:
        """The plan with its axes turned where all levels together gain from it: all of them, or fewer as long as
        that is better."""
        if plan.turn is not None:
            return plan
        (value,) = self.by_shares(plan, keep=True).values()
        best = replace(plan, turn=0)
        for width in reversed(plan.widths[1:]):
            started = time.perf_counter()
            turned = replace(plan, turn=width)
            found = float(np.mean([fold.started(turned) for fold in self.folds]))
            self.said(started, found, shares=str(list(plan.shares)), turn=width)
            if found <= value:
                break
            value, best = found, turned
        return best


def clearly_better(values: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Whether users gain by more than `CLEARLY` standard errors; values and others: of the same users, fold by fold."""
    gains = [value - other for value, other in zip(values, others, strict=True)]
    error = np.mean([gain.std() / len(gain) ** 0.5 for gain in gains])  # folds share users: no smaller for more of them
    return bool(np.mean([gain.mean() for gain in gains]) > CLEARLY * error)


def otherwise(config: TrainConfig, name: str, data: Interactions) -> list[list[TrainConfig]]:
    """The configs with other values of one of `OTHERS` than the usual one, by the way they lead away from it."""
    if name == "train_width":
        return [[replace(config, train_width=4 * config.widths[-1])]]  # twice the usual
    if name == "nu":  # with the penalty that users then have on average the same
        counts = data.train.counts.double() + config.alpha0 * data.num_items
        l2 = config.frequency_l2 * float(counts.mean() / (counts**POWER).mean())
        return [[replace(config, nu=POWER, frequency_l2=l2)]]
    if name == "level_weights":  # that rise or fall from level to level
        rising = [level / sum(range(len(config.widths) + 1)) for level in range(1, len(config.widths) + 1)]
        return [[replace(config, level_weights=tuple(weights))] for weights in (rising, rising[::-1])]
    if name == "hops" and not all(config.shares):
        return []  # what one side picks up of the other is the same after every hop
    return [[replace(config, **{name: value}) for value in way] for way in ELSE[name]]
