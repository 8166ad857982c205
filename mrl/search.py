"""Settings chosen on validation: of iALS, of nested least squares, and of the propagation of what they found.

A small deterministic search: one climb over a grid of α0 and λ, then a few values of each setting that is left.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.errors import DataError
from mrl.evaluate import evaluate
from mrl.interactions import Interactions, Positives
from mrl.least_squares import nested_least_squares
from mrl.propagation import Propagation

Factors = tuple[Tensor, Tensor]

ALPHA0_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# along each axis, and along alpha0 · l2, of which rows with few positives feel little else
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them
SEARCH_SWEEPS = 8  # of iALS in a trial: the order of the settings is settled by then
EMPHASES = (0.25, 0.5)  # beside 0
SHARES = ((0.5, 0.0), (1.0, 1.0))  # beside none: users alone where there is much data a user, else both
JUDGES = 20_000  # users at most by whom settings are judged: enough to tell them apart
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


def choose_least_squares(
    config: TrainConfig, data: Interactions, on_trial: Callable[[dict], None] | None = None
) -> list[TrainConfig]:
    """The config with `alpha0`, `frequency_l2`, `emphasis` and `shares` filled in where they are left open.

    data: on the device to compute on. Each is chosen by the config's monitor on validation, mean over the widths.
    on_trial: called with each trial: the settings tried, value, seconds, trial. Returns the filled configs, best first:
    one for `least_squares`, which ends here, else one for all shares that are worth training.
    Raises DataError where there is nothing to validate on.
    """
    open_settings = [config.alpha0, config.frequency_l2, config.emphasis, config.shares or None]
    if None in open_settings and len(data.valid) == 0:
        raise DataError(
            f"{data.name}: no validation interactions to choose the settings of least squares on; hold some out,"
            " or give alpha0, frequency_l2, emphasis and shares"
        )
    data = _judges(data, config.seed)
    trials = itertools.count(1)

    def said(row: dict) -> None:
        if on_trial is not None:
            on_trial(row | {"trial": next(trials)})

    def fitted(chosen: TrainConfig) -> Factors:
        return fit_least_squares(chosen, data.train, ials_sweeps=SEARCH_SWEEPS)

    def judged(factors: Factors) -> float:
        return validation_value(factors, data, config.widths, config.monitor)

    if config.alpha0 is None or config.frequency_l2 is None:

        def value_of(alpha0: float, l2: float) -> float:
            return judged(fitted(replace(config, alpha0=alpha0, frequency_l2=l2, emphasis=0.0)))

        found, _ = climb(value_of, config.trials, said)
        config = replace(
            config,
            alpha0=found["alpha0"] if config.alpha0 is None else config.alpha0,
            frequency_l2=found["l2"] if config.frequency_l2 is None else config.frequency_l2,
        )
    factors = None
    if config.emphasis is None:
        best = None
        for emphasis in (0.0, *EMPHASES):
            started = time.perf_counter()
            tried = fitted(replace(config, emphasis=emphasis))
            value = judged(tried)
            said({"emphasis": emphasis, "value": value, "seconds": time.perf_counter() - started})
            if best is None or value > best[0]:
                best, factors = (value, emphasis), tried
        config = replace(config, emphasis=best[1])
    if config.shares:
        return [config]
    factors = fitted(config) if factors is None else factors
    found = []
    for shares in ((0.0, 0.0), *SHARES):
        started = time.perf_counter()
        filled = replace(config, shares=shares)
        value = judged(smoothed(filled, data.train, factors).vectors())
        said({"shares": str(list(shares)), "value": value, "seconds": time.perf_counter() - started})
        found.append((value, filled))
    found.sort(key=lambda pair: -pair[0])
    if config.recipe == "least_squares":
        return [found[0][1]]
    # none at all is worth a training of its own only where it is the best to start with
    worth = [filled for value, filled in found if value >= CLOSE * found[0][0] and any(filled.shares)]
    return [found[0][1], *(filled for filled in worth if filled is not found[0][1])]


def _judges(data: Interactions, seed: int) -> Interactions:
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
        sweeps=config.sweeps,
        train_width=config.train_width,
        generator=torch.Generator().manual_seed(config.seed),
        **more,
    )


def smoothed(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    user_share, item_share = config.shares
    model = Propagation(positives, factors, user_share=user_share, item_share=item_share, hops=config.hops)
    return model.to(factors[0].device)
