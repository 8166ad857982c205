"""Settings for tests: all of them by name, whatever section of TrainConfig they stand in."""

from __future__ import annotations

from typing import Any

from mrl.config import TrainConfig, in_sections


def train_config(**settings: Any) -> TrainConfig:
    return TrainConfig(**in_sections(settings))
