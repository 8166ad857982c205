"""Settings for tests: all of them by name, whatever section of TrainConfig they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mrl.config import TrainConfig, in_sections
from mrl.least_squares import validation

# of least squares: nothing is left for the quick search, where the search is not what is tested
GIVEN = {
    "alpha0": 0.1,
    "frequency_l2": 0.01,
    "fit_width": 8,  # where the widest width is at most that
    "sweeps": 2,
    "nested_sweeps": 0,
    "propagation": [0.5, 0.0],  # a list, as papermill passes it
    "rotation": True,
}


def train_config(**settings: Any) -> TrainConfig:
    return TrainConfig(**in_sections(settings))


@contextmanager
def one_validation_split() -> Iterator[None]:
    """Settings are chosen by the validation of the data alone, however small: a fifth of the time on small data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "ENOUGH_VALIDATION", 0)
        yield
