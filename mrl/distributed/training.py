"""A run on shards under way: what it knows, what its checkpoints keep of that, and what a recipe makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mrl.config import TrainConfig
from mrl.distributed.checkpoint import Checkpoint
from mrl.least_squares.ials import Factors
from mrl.runs import Progress
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows

STATE = (
    "rows", "chosen", "wider", "validated", "done", "seconds", "best_epoch", "best_value", "waited", "has_fallen",
    "start", "generator",
)  # fmt: skip


@dataclass
class Fit:
    """Vectors of own users (U', D) and items (I', D) as they score, whose items are whose, and ego embeddings."""

    vectors: Factors
    items: Rows
    ego: Factors | None = None


@dataclass
class Training:
    """A run under way: the config as it was given, its settings so far, and the history, which the first one writes.

    done: sweeps or epochs of the fit under way; seconds: that its sweeps took. best_value: on validation, of the best
    epoch, and how often it was `waited` for a better one; start: by user, before any training; has_fallen: as of
    `mrl.train`. generator: state of the epochs', in hexadecimal digits, empty before them. validated: means before the
    refit, and of how many users.
    """

    config: TrainConfig
    group: Group
    progress: Progress
    checkpoint: Checkpoint
    rows: list[dict] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    wider: list | None = None
    validated: list | None = None
    done: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -1.0
    waited: int = 0
    has_fallen: bool = False
    start: list[float] | None = None
    generator: str = ""

    def save(self, sides: Sequence[Rows] = (), factors: Sequence[Tensor] = ()) -> None:
        if self.checkpoint.is_kept:
            self.checkpoint.save({name: getattr(self, name) for name in STATE}, sides, factors)

    def settings(self) -> TrainConfig:
        """The config with what was chosen."""
        return self.config.with_settings(**self.chosen)
