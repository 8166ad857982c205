"""The default recipe stage by stage: the same settings, tested after each step. The only place that knows the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mrl.controls.models import Vectors
from mrl.least_squares import fit_least_squares, initial_model
from mrl.study.fitting import Task, recipe_config

TRAINED = "trained"  # the last stage is the row of the recipe itself
STAGES = {
    "ials": "iALS on its principal axes",
    "nested": "after nested least squares",
    "propagated": "propagated",
    "rotated": "rotated",
    TRAINED: "trained",
}


def refit_stages(task: Task, settings: Mapping[str, Any]) -> Iterator[tuple[str, Vectors]]:
    """The stages before the last with the vectors that the refit has then, by the settings that a finished run chose.

    users (U, D) and items (I, D), D the widest width of the task.
    """
    config, positives = recipe_config(task, settings), task.data.train.to(task.device)
    plain = config.with_settings(rotation=False, propagation=(0.0, 0.0))
    ials = fit_least_squares(config.with_settings(nested_sweeps=0), positives)
    yield "ials", initial_model(plain, positives, ials).vectors()
    factors = fit_least_squares(config, positives)
    yield "nested", initial_model(plain, positives, factors).vectors()
    yield "propagated", initial_model(config.with_settings(rotation=False), positives, factors).vectors()
    yield "rotated", initial_model(config, positives, factors).vectors()
