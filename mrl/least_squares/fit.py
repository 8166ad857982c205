"""The fit of a config: iALS wider than what is served, then its axes rotated and cut, so that every prefix ranks well.

What is fitted wide and cut by the rotation is better at the served width than a fit of that width.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import Factors, ials, spectral_start
from mrl.least_squares.nested import nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import STEPS, learn_rotation, teacher

Log = Callable[[dict], None] | None


def fit_least_squares(config: TrainConfig, positives: Positives) -> Factors:
    """Users (U, F) and items (I, F) on their principal axes, by the settings of a config, all of which are given."""
    chosen = config.least_squares
    start = spectral_start(positives, chosen.fit_width, seed=config.seed)
    return nest(config, positives, go_on(config, positives, start, chosen.sweeps))


def objective(config: TrainConfig) -> dict[str, float]:
    """What iALS and nested least squares minimise: the weight of all pairs, and the penalty."""
    chosen = config.least_squares
    return {"alpha0": chosen.alpha0, "l2": chosen.frequency_l2, "nu": chosen.nu}


def go_on(config: TrainConfig, positives: Positives, factors: Factors, sweeps: int) -> Factors:
    """Factors after so many more sweeps of iALS by the settings of the config."""
    return ials(positives, factors[1].shape[1], **objective(config), sweeps=sweeps, start=factors)


def nest(config: TrainConfig, positives: Positives, factors: Factors) -> Factors:
    """Factors on their principal axes, after the nested sweeps of the config, if it has any."""
    chosen = config.least_squares
    if not chosen.nested_sweeps:
        return rotate(*factors)
    widths, weights = fitted_levels(config, factors[1].shape[1])
    levels = {"level_weights": weights, "l2_width_exponent": chosen.l2_width_exponent}
    return nested_least_squares(positives, widths, factors, **levels, **objective(config), sweeps=chosen.nested_sweeps)


def fitted_levels(config: TrainConfig, dim: int) -> tuple[list[int], list[float]]:
    """Widths and level weights of the nested sweeps of a fit of so many dimensions."""
    widths, weights = list(config.widths), list(config.nested_loss.level_weights)
    if dim > widths[-1]:  # what is cut later is a level, too
        widths, weights = [*widths, dim], [*weights, *weights[-1:]]
    return widths, weights


def propagated(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    user_share, item_share = config.least_squares.propagation
    model = Propagation(positives, factors, user_share=user_share, item_share=item_share, hops=config.hops)
    return model.to(factors[0].device)


def initial_model(
    config: TrainConfig, positives: Positives, factors: Factors, *, steps: int = STEPS, on_row: Log = None
) -> Propagation:
    """The model that is served, or training starts from: factors (F wide) propagated, rotated and cut to the widest.

    The whole of them is its teacher in a training. steps: of the rotation. on_row: called after the rotation with a row
    of the history.
    """
    started, is_rotated = time.perf_counter(), config.least_squares.rotation
    if is_rotated or config.epochs:
        whole = propagated(config, positives, factors).vectors()
    if is_rotated:
        options = {"level_weights": config.nested_loss.level_weights, "steps": steps, "seed": config.seed}
        rotation, loss = learn_rotation(*whole, positives, config.widths, **options)
        if on_row is not None:
            on_row({"phase": "rotation", "loss": loss, "seconds": time.perf_counter() - started})
        cut = tuple(table @ rotation for table in factors)
    else:
        cut = tuple(table[:, : config.widths[-1]].contiguous() for table in factors)
    model = propagated(config, positives, cut)  # columns do not mix: as if rotated after propagation
    if config.epochs:
        model.teacher = teacher(*whole, positives)
    return model
