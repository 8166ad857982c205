"""Nested prototypes beside k-means, after a training and in it, on several data sets: reports/prototypes.csv.

What `notebooks/levels.ipynb` calls where it is asked for prototypes, too; `mrl.levels.prototype_study` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field, NonNegativeInt, model_validator

from mrl.config import NotNegative, Positive, TrainConfig
from mrl.errors import ConfigError
from mrl.levels.prototype_study import TABLE, study_clusterings, study_term, summarise_clusterings
from mrl.parameters import as_config, settings
from mrl.report.paper import write_beside

LIMITS = {"epochs": 20, "early_stopping": {"patience": 3}}  # of trainings, where nothing is said


@settings
class TermConfig:
    """A training with the term. weights: λ, from which the best on validation is taken. settings: of train.ipynb."""

    weights: Annotated[tuple[NotNegative, ...], Field(min_length=1)]
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some_weight(self) -> TermConfig:
        if not any(self.weights):
            raise ConfigError(f"weights={list(self.weights)}: none is above 0, so there is no term to measure")
        return self


@settings
class PrototypesConfig:
    """How prototypes of a data set are studied.

    settings: further parameters of `train.ipynb` for what follows. views: whether clusters of two views of an item are
    compared, too. clusterings: their seeds; those of the runs are the notebook's. trainings: see `TermConfig`; a list
    of mappings. width_sets, per_dimensions: compared with each other on runs of the first seed; empty for nothing.
    """

    settings: dict[str, Any] = Field(default_factory=dict)
    views: bool = True
    clusterings: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1)
    trainings: tuple[dict[str, Any], ...] = ()
    width_sets: tuple[tuple[int, ...], ...] = ()
    per_dimensions: tuple[Positive, ...] = ()


def measure_prototypes(
    asked: PrototypesConfig, given: Mapping[str, Any], seeds: Sequence[int], folder: Path
) -> pl.DataFrame:
    """Rows of `mrl.levels.prototype_study.TABLE` of one data set.

    given: its parameters of `train.ipynb`, of all runs. seeds: of the runs; their directories go to `folder`. Clusters
    are of runs by the recipe least_squares.
    """
    given = {**given, **asked.settings}
    untrained = {**given, "recipe": "least_squares", "epochs": 0}
    runs = [as_config(TrainConfig, {**untrained, "seed": seed}) for seed in seeds]
    parts = []
    if asked.width_sets:
        trees = {"methods": ("prototypes", "prototypes_tree")}
        found = study_clusterings(runs[0], asked.width_sets, asked.per_dimensions, folder, **trees)
        parts.append(summarise_clusterings(found, "ablation"))
    for config in runs:
        options = {"views": asked.views, "seeds": asked.clusterings}
        per_dimension = [config.nested_loss.prototypes_per_dimension]
        found = study_clusterings(config, [config.widths], per_dimension, folder, **options)
        parts.append(summarise_clusterings(found, "comparison"))
    for training in asked.trainings:
        training = as_config(TermConfig, training)
        config = as_config(TrainConfig, {**LIMITS, **given, **training.settings})
        parts.append(study_term(config, training.weights, seeds))
    return pl.concat(parts)


def write_prototypes(table: pl.DataFrame, path: Path) -> Path:
    """Write the rows as CSV, beside those of other data sets that the file has; its path."""
    return write_beside(table, path, TABLE, "prototypes")
