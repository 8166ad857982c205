"""Settings chosen on validation: of iALS, of nested least squares, of the propagation and the turn of what they found.

A small deterministic search: climbs over a grid of α0 and λ, then a few values of each setting that is left.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from mrl.config import TrainConfig
from mrl.errors import DataError
from mrl.evaluate import evaluate
from mrl.ials import ials
from mrl.interactions import Interactions, Positives, hold_out
from mrl.least_squares import fitted_width, nested_least_squares
from mrl.propagation import Propagation
from mrl.start import NARROW, Factors, narrow_levels, smoothed, start_model

ALPHA0_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# along each axis, and along alpha0 · l2, of which rows with few positives feel little else
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them
SEARCH_SWEEPS = 8  # of iALS in a trial: the order of the settings is settled by then
EMPHASES = (0.25, 0.5)  # beside 0
GROWTHS = (0.3, 0.6, 1.0)  # beside 0
SHARES = ((0.5, 0.0), (1.0, 1.0))  # beside none: users alone where there is much data a user, else both
SEARCHED = 3_000_000  # training interactions at most, of users drawn at random: a search on more takes hours
JUDGES = 20_000  # users at most by whom settings and epochs are judged: enough to tell them apart
TURNS = (4, 8, 16)  # candidates for each negative, beside no turn at all
ENOUGH = 10_000  # validation interactions; fewer are drawn several times, or settings are chosen by luck
FOLDS = 5  # draws at most
PLAIN = ("alpha0", "frequency_l2", "train_width")  # what iALS depends on of what differs between trials
FITTED = (*PLAIN, "emphasis", "growth")  # and least squares
CHOSEN = ("alpha0", "frequency_l2", "emphasis", "growth", "shares", "turn", "narrow")  # all that is searched
CLOSE = 0.97  # of the best value: shares that are so good untrained may still be the best once trained


def validation_value(factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20") -> float:
    """The validation metric, mean over the widths; 0 where a strong penalty has left nothing of the factors."""
    if not factors[1][:, 0].square().sum() > COLLAPSED:
        return 0.0
    metric, k = monitor.split("@")
    k = min(int(k), data.num_items)
    result = evaluate(*factors, data, split="valid", widths=widths, ks=(k,))
    return float(np.mean([result.value(f"{metric}@{k}", width=width) for width in widths]))


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


def judges(data: Interactions, seed: int) -> Interactions:
    """The same data with the validation of JUDGES users, drawn at random where there are more."""
    counts = data.valid.counts.numpy().copy()
    users = np.flatnonzero(counts)
    left_out = np.random.default_rng(seed).permutation(users)[JUDGES:]
    if len(left_out) == 0:
        return data
    counts[left_out] = 0
    keep = torch.from_numpy(np.repeat(counts > 0, data.valid.counts.numpy()))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return replace(data, valid=Positives(offsets, data.valid.items[keep], data.num_items))


def folds(config: TrainConfig, data: Interactions) -> list[Interactions]:
    """The data and, where they have few validation interactions to judge by, as much validation drawn anew.

    Under `paper` validation is the test set, of which there is one.
    """
    some = [judges(data, config.seed)]
    if config.protocol == "honest" and 0 < len(data.valid) < ENOUGH:
        device = data.train.items.device
        for draw in range(1, min(FOLDS, math.ceil(ENOUGH / len(data.valid)))):
            drawn = hold_out(data, config.valid_fraction, seed=config.seed + draw)
            some.append(replace(drawn, train=drawn.train.to(device)))
    return some


def choose_least_squares(
    config: TrainConfig, data: Interactions, on_trial: Callable[[dict], None] | None = None
) -> list[TrainConfig]:
    """The config with `alpha0`, `frequency_l2`, `emphasis`, `growth`, `shares`, `turn` and `narrow` chosen where open.

    data: on the device to compute on. Each is chosen by the config's monitor on validation, mean over the widths, and
    over several draws of validation where it is small.
    on_trial: called with each trial: the settings tried, value, seconds, trial. Returns the filled configs, best first:
    one for `least_squares`, which ends here; else one for all shares that are worth training.
    Raises DataError where there is nothing to validate on.
    """
    if config.turn is None and (config.recipe == "least_squares" or not narrow_levels(config.widths, config.narrow)):
        config = replace(config, turn=0)
    if config.turn == 0:  # nothing to choose
        config = replace(config, narrow=config.narrow or NARROW)
    if all(getattr(config, name) not in (None, ()) for name in CHOSEN):
        return [config]
    if len(data.valid) == 0:
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            f" or give {', '.join(CHOSEN[:-1])} and {CHOSEN[-1]}"
        )
    some = _some_users(data, config.seed)
    search = _Search(folds(config, some), on_trial)
    if config.alpha0 is None or config.frequency_l2 is None:
        config = search.choose_penalty(config)
    if config.emphasis is None:
        config = search.choose("emphasis", EMPHASES, config)
    if config.growth is None:
        config = search.choose("growth", GROWTHS, config)
    if some is not data:  # what neighbours give depends on how many there are
        search.folds = [_Fold(draw) for draw in folds(config, data)]
    plans = [config] if config.shares else search.choose_shares(config)
    return [search.choose_turn(plan) for plan in plans]


class _Fit(NamedTuple):
    """Factors by the settings of a config, those of iALS alone that they are made of, and their value by shares."""

    config: TrainConfig
    factors: Factors
    plain: Factors
    values: dict[tuple[float, ...], float]


class _Fold:
    """What is computed on one draw of validation, and what of it is needed again: the best of it so far."""

    def __init__(self, data: Interactions):
        self.data = data
        self.best: _Fit | None = None

    def judged(self, config: TrainConfig, model: Propagation) -> float:
        """The validation metric, mean over the widths of the config."""
        return validation_value(model.vectors(), self.data, config.widths, config.monitor)

    def fitted(self, config: TrainConfig, *, keep: bool = False) -> _Fit:
        """By the settings of the config, under propagation by each of its shares; what is at hand is not made again.

        keep: for the next call, even where others were better.
        """
        if self.at_hand(config, FITTED):
            found = self.best
        else:
            plain = self.fitted_plainly(config)
            found = _Fit(config, fit_least_squares(config, self.data.train, factors=plain), plain, {})
        for shares in every_shares(config):
            if shares not in found.values:
                model = smoothed(replace(config, shares=shares), self.data.train, found.factors)
                found.values[shares] = self.judged(config, model)
        if keep or self.best is None or max(found.values.values()) > max(self.best.values.values()):
            self.best = found
        return found

    def at_hand(self, config: TrainConfig, names: Sequence[str]) -> bool:
        """Whether the settings `names` of the best so far are those of the config."""
        return self.best is not None and all(getattr(self.best.config, name) == getattr(config, name) for name in names)

    def fitted_plainly(self, config: TrainConfig) -> Factors:
        """By the settings of the config, of iALS alone, which does not know of `emphasis` and `growth`."""
        if self.at_hand(config, PLAIN):
            return self.best.plain
        return ials(
            self.data.train,
            fitted_width(config.widths[-1], config.train_width),
            alpha0=config.alpha0,
            l2=config.frequency_l2,
            nu=config.nu,
            sweeps=SEARCH_SWEEPS,
            generator=torch.Generator().manual_seed(config.seed),
        )

    def started(self, config: TrainConfig) -> float:
        """The value of what training starts from."""
        factors = self.fitted(config, keep=True).factors
        return self.judged(config, start_model(config, self.data.train, factors))


class _Search:
    """Trials of settings, each judged by the mean over the folds."""

    def __init__(self, draws: Sequence[Interactions], on_trial: Callable[[dict], None] | None):
        self.folds, self.on_trial = [_Fold(data) for data in draws], on_trial
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
                found[point] = self.by_shares(_closed(tried))
                self.said(started, max(found[point].values()), alpha0=point[0], l2=point[1])
            return found[point]

        for shares in every_shares(config):
            climb(lambda alpha0, l2, of=shares: values_of(alpha0, l2)[of], config.trials)
        for fold in self.folds:
            fold.best = None  # of another width
        alpha0, l2 = max(found, key=lambda point: (max(found[point].values()), -point[0] * point[1]))
        return replace(config, alpha0=alpha0, frequency_l2=l2)

    def choose(self, name: str, values: Sequence[float], config: TrainConfig) -> TrainConfig:
        """The config with the setting `name` of least squares at 0 or the one of `values` that is best."""
        found = {}
        for value in (0.0, *values):
            started = time.perf_counter()
            found[value] = max(self.by_shares(_closed(replace(config, **{name: value}))).values())
            self.said(started, found[value], **{name: value})
        return replace(config, **{name: max(found, key=found.get)})

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
        """The plan with the turn by which all levels are best, none where it gains nothing.

        Of how many candidates first, then for which levels: for wider ones as long as each makes all of them better.
        """
        if plan.turn is not None and plan.narrow is not None:
            return plan

        def attempt(turn: int, narrow: int) -> tuple[float, TrainConfig]:
            started = time.perf_counter()
            tried = replace(plan, turn=turn, narrow=narrow)
            value = float(np.mean([fold.started(tried) for fold in self.folds]))
            self.said(started, value, shares=str(list(plan.shares)), turn=turn, narrow=narrow)
            return value, tried

        narrow = plan.narrow or NARROW
        found = [attempt(turn, narrow) for turn in (TURNS if plan.turn is None else (plan.turn,))]
        if plan.turn is None:
            found.insert(0, (*self.by_shares(plan).values(), replace(plan, turn=0, narrow=narrow)))
        value, best = max(found, key=lambda pair: pair[0])
        if best.turn == 0 or plan.narrow is not None:
            return best
        for wider in [width for width in plan.widths[:-1] if width > narrow]:
            wider_value, wider_plan = attempt(best.turn, wider)
            if wider_value <= value:
                break
            value, best = wider_value, wider_plan
        return best


def every_shares(config: TrainConfig) -> tuple[tuple[float, ...], ...]:
    """Those of a config, or all that are tried where it has none."""
    return (config.shares,) if config.shares else ((0.0, 0.0), *SHARES)


def _closed(config: TrainConfig) -> TrainConfig:
    """The config with what is still open of least squares, but for the penalty, at 0."""
    return replace(config, emphasis=config.emphasis or 0.0, growth=config.growth or 0.0)


def _some_users(data: Interactions, seed: int) -> Interactions:
    """The same data with users drawn at random, where there are more than SEARCHED training interactions.

    All terms of the objective grow alike with the users (ν = 1), so that α0 and λ mean the same; on less data a little
    more of a penalty is best.
    """
    if len(data.train) <= SEARCHED:
        return data
    order = torch.from_numpy(np.random.default_rng(seed).permutation(data.num_users))
    fits = data.train.counts.cpu()[order].cumsum(0) <= SEARCHED
    rows = order[fits].sort().values
    train, valid, test = (part.take(rows.to(part.items.device)) for part in (data.train, data.valid, data.test))
    return replace(data, train=train, valid=valid, test=test, user_ids=data.user_ids[rows.numpy()])


def fit_least_squares(config: TrainConfig, positives: Positives, **more) -> Factors:
    """Nested least squares by the settings of a config that has them all."""
    return nested_least_squares(
        positives,
        config.widths,
        level_weights=config.level_weights,
        alpha0=config.alpha0,
        l2=config.frequency_l2,
        nu=config.nu,
        emphasis=config.emphasis,
        growth=config.growth,
        sweeps=config.sweeps,
        train_width=config.train_width,
        generator=torch.Generator().manual_seed(config.seed),
        **more,
    )
