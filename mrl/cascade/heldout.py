"""Vectors that have not seen validation, made again by the settings that a run chose.

The honest protocol ends with a refit on all of train, validation included: what is chosen afterwards, such as when a
cascade stops, would be chosen on positives that the vectors have been fitted to. The same settings, fitted without
them, are what the epoch was chosen on, too.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives
from mrl.errors import ConfigError, RunError
from mrl.least_squares import fit_least_squares, initial_model, most_epochs
from mrl.runs import Run
from mrl.trainer import Trainer


def has_seen(run: Run, positives: Positives) -> bool:
    """Whether any of these pairs were trained on; RunError where the run does not tell."""
    if run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors, so it is not known what its vectors saw; train again")
    return bool(torch.isin(positives.keys(), run.seen.keys()).any())


def check_validation(run: Run, data: Interactions) -> None:
    """Raise ConfigError where validation is empty, or the test set itself (protocol `paper`)."""
    if not len(data.valid):
        raise ConfigError(f"{data.name}: has no validation part; choose by metric='overlap', which needs no labels")
    if data.valid == data.test:
        raise ConfigError(
            f"{run.path}: validation is the test set (protocol paper), on which nothing is chosen; take a run of "
            "protocol honest, or choose by metric='overlap', which needs no labels"
        )


def vectors_without_validation(run: Run, data: Interactions) -> tuple[Tensor, Tensor]:
    """Users (U, D) and items (I, D), float32 on the CPU, as they were when the run chose its epoch.

    data: those that the run was trained on (`mrl.analysis.comparison.load_run_data`). Takes as long as the refit did.
    The run's own vectors where they have not seen validation. Raises ConfigError where there is nothing to choose on,
    or the run was made by no recipe.
    """
    check_validation(run, data)
    if not has_seen(run, data.valid):
        return run.users.cpu(), run.items.cpu()
    names = {field.name for field in fields(TrainConfig)}
    if set(run.config) != names:
        raise ConfigError(
            f"{run.path}: was made by no recipe, so it cannot be fitted again without validation; choose by "
            "metric='overlap', which needs no labels"
        )
    config, device = TrainConfig(**run.config), torch.device("cpu")
    config = config.with_settings(**run.environment.get("chosen", {}))
    if config.recipe == "default":
        config = config.with_settings(epochs=most_epochs(config, data.train))
    model = None
    if config.recipe != "mrl4rec":
        model = initial_model(config, data.train, fit_least_squares(config, data.train))
    trainer = Trainer(config, data.train, device, model)
    while trainer.epoch < run.environment["best_epoch"]:
        trainer.run_epoch()
    users, items = trainer.vectors()
    return users.detach(), items.detach()
