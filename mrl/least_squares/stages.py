"""The default recipe stage by stage: the same settings, ranked after each step. The only place that knows the steps.

`mrl.words.STAGES` has their display names. The last one, the training, is the row of the recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.least_squares.fit import fit_least_squares, initial_model

TRAINED = "trained"


def refit_stages(config: TrainConfig, positives: Positives) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """The stages before the last with the vectors that a refit has then, by settings of which none is open.

    users (U, D) and items (I, D), D the widest width of the config.
    """
    plain = config.with_settings(rotation=False, propagation=(0.0, 0.0))
    ials = fit_least_squares(config.with_settings(nested_sweeps=0), positives)
    yield "ials", initial_model(plain, positives, ials).vectors()
    factors = fit_least_squares(config, positives) if config.least_squares.nested_sweeps else ials
    yield "nested", initial_model(plain, positives, factors).vectors()
    yield "propagated", initial_model(config.with_settings(rotation=False), positives, factors).vectors()
    yield "rotated", initial_model(config, positives, factors).vectors()


def used_stages(config: TrainConfig) -> list[str]:
    """The stages before the last that these settings take: the others leave the vectors as they are."""
    chosen = config.least_squares
    takes = {"ials": True, "nested": chosen.nested_sweeps, "propagated": any(chosen.propagation)}
    takes |= {"rotated": chosen.rotation}
    return [stage for stage, is_taken in takes.items() if is_taken]
