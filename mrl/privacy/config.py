"""The parameters of `notebooks/privacy.ipynb`: checked before any data loads."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mrl.config import Positive
from mrl.data.datasets import dataset_name
from mrl.errors import ConfigError
from mrl.federated import FederatedConfig
from mrl.parameters import PathText, settings
from mrl.privacy.accuracy import WEIGHTS

PROJECT = Path(__file__).parents[2]

ATTACKED = {"start_rounds": 2, "rounds": 3, "block": 0, "alpha0": 0.1}  # a usual federation, one sweep after its start


@settings
class PrivacyConfig:
    """Parameters of `notebooks/privacy.ipynb`. Impossible values raise ConfigError, one line each.

    dataset, data: as of `FederatedConfig`. widths, alpha0, l2, start_rounds, rounds, block: of the closed form with
    noise. clip, weights: of `NoisySum`, weights empty for `WEIGHTS`. epsilons: beside ∞, at this delta. seeds: of start
    and noise, from 0 on. summed: how many clients the attack finds summed; fewer where there are fewer. trials: users
    that are attacked. attacked_width: dimensions of their vectors. folder: of the figures; empty for the project's
    `figures/`. table: the CSV file; empty for the project's `reports/privacy.csv`.
    """

    dataset: Annotated[PathText, Field(min_length=1)] = "ml-100k"
    data: dict[str, Any] = field(default_factory=dict)
    widths: tuple[int, ...] = (4, 8)
    alpha0: Positive = 2.0
    l2: Positive = 0.003
    start_rounds: PositiveInt = 1
    rounds: PositiveInt = 2
    block: NonNegativeInt = 0
    clip: Positive = 1.0
    weights: dict[str, Positive] = field(default_factory=dict)
    epsilons: tuple[Positive, ...] = (1.0, 4.0, 8.0)
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    seeds: PositiveInt = 5
    summed: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    trials: PositiveInt = 50
    attacked_width: PositiveInt = 16
    folder: PathText = ""
    table: PathText = ""

    @model_validator(mode="after")
    def _together(self) -> PrivacyConfig:
        self.federation, self.attacked  # noqa: B018  (checks what they are made of)
        if not self.summed or self.summed[0] != 1:
            raise ConfigError(f"summed={list(self.summed)}: begin with 1, the upload alone")
        return self

    @property
    def federation(self) -> FederatedConfig:
        """The clients whose sums get noise: all of the same width."""
        names = ("dataset", "data", "widths", "alpha0", "l2", "start_rounds", "rounds", "block")
        shares = (0.0,) * (len(self.widths) - 1) + (1.0,)
        return FederatedConfig(shares=shares, **{name: getattr(self, name) for name in names})

    @property
    def attacked(self) -> FederatedConfig:
        """The clients that are attacked."""
        return FederatedConfig(dataset=self.dataset, data=self.data, widths=(self.attacked_width,), **ATTACKED)

    @property
    def noise(self) -> dict[str, Any]:
        """Arguments of `accuracy_by_epsilon`."""
        weights = self.weights or WEIGHTS
        return {"delta": self.delta, "clip": self.clip, "weights": weights, "seeds": tuple(range(self.seeds))}

    @property
    def target(self) -> Path:
        """The CSV file of accuracy by ε."""
        return Path(self.table) if self.table else PROJECT / "reports" / "privacy.csv"

    @property
    def stem(self) -> Path:
        """Where the figures go, without `-epsilon` and `-attack` and the ending."""
        folder = Path(self.folder) if self.folder else PROJECT / "figures"
        return folder / f"{dataset_name(self.dataset)}-privacy"
