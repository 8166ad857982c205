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


def fit_least_squares(config: TrainConfig, positives: Positives, on_sweep: Log = None) -> Factors:
    """Users (U, F) and items (I, F) on their principal axes, by the settings of a config, all of which are given.

    on_sweep: called after each sweep with `stage` (ials or nested), `sweep` (from 1), `loss` (which takes time to
    compute) and `seconds`.
    """
    chosen = config.least_squares
    start = spectral_start(positives, chosen.fit_width, seed=config.seed)
    factors = go_on(config, positives, start, chosen.sweeps, on_sweep)
    return nest(config, positives, factors, on_sweep)


def go_on(config: TrainConfig, positives: Positives, factors: Factors, sweeps: int, on_sweep: Log = None) -> Factors:
    """Factors after so many more sweeps of iALS by the settings of the config."""
    chosen = config.least_squares
    scale = {"alpha0": chosen.alpha0, "l2": chosen.frequency_l2, "nu": chosen.nu}
    dim = factors[1].shape[1]
    return ials(positives, dim, **scale, sweeps=sweeps, start=factors, on_sweep=_stage(on_sweep, "ials"))


def nest(config: TrainConfig, positives: Positives, factors: Factors, on_sweep: Log = None) -> Factors:
    """Factors on their principal axes, after the nested sweeps of the config, if it has any."""
    chosen, dim = config.least_squares, factors[1].shape[1]
    if not chosen.nested_sweeps:
        return rotate(*factors)
    widths, weights = fitted_levels(config, dim)
    return nested_least_squares(
        positives,
        widths,
        factors,
        level_weights=weights,
        alpha0=chosen.alpha0,
        l2=chosen.frequency_l2,
        nu=chosen.nu,
        l2_width_exponent=chosen.l2_width_exponent,
        sweeps=chosen.nested_sweeps,
        on_sweep=_stage(on_sweep, "nested"),
    )


def fitted_levels(config: TrainConfig, dim: int) -> tuple[list[int], list[float]]:
    """Widths and level weights of the nested sweeps of a fit of so many dimensions."""
    widths, weights = list(config.widths), list(config.nested_loss.level_weights)
    if dim > widths[-1]:  # what is cut later is a level, too
        widths, weights = [*widths, dim], [*weights, *weights[-1:]]
    return widths, weights


def _stage(on_sweep: Log, name: str) -> Log:
    return None if on_sweep is None else lambda row: on_sweep({"stage": name} | row)


def propagated(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    chosen = config.least_squares
    user_share, item_share = chosen.propagation
    model = Propagation(positives, factors, user_share=user_share, item_share=item_share, hops=config.hops)
    return model.to(factors[0].device)


def initial_model(
    config: TrainConfig,
    positives: Positives,
    factors: Factors,
    *,
    steps: int = STEPS,
    on_row: Log = None,
) -> Propagation:
    """The model that is served, or training starts from: factors (F wide) propagated, rotated and cut to the widest.

    The whole of them is its teacher in a training.

    steps: of the rotation. on_row: called after the rotation with a row of the history.
    """
    started, is_rotated = time.perf_counter(), config.least_squares.rotation
    if is_rotated or config.epochs:
        whole = propagated(config, positives, factors).vectors()
    if is_rotated:
        rotation, loss = learn_rotation(
            *whole,
            positives,
            config.widths,
            level_weights=config.nested_loss.level_weights,
            steps=steps,
            seed=config.seed,
        )
        if on_row is not None:
            on_row({"phase": "rotation", "loss": loss, "seconds": time.perf_counter() - started})
        cut = tuple(table @ rotation for table in factors)
    else:
        cut = tuple(table[:, : config.widths[-1]].contiguous() for table in factors)
    model = propagated(config, positives, cut)  # columns do not mix: as if rotated after propagation
    if config.epochs:
        model.teacher = teacher(*whole, positives)
    return model
