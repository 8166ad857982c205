"""Validation of settings: which users and splits they are judged by, and what is fitted on each split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, hold_out
from mrl.evaluation import evaluate
from mrl.least_squares.ials import ials
from mrl.least_squares.nested import fitted_width, nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import Factors, initial_model, propagated
from mrl.trainer import Trainer

COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them
TRIAL_SWEEPS = 8  # of iALS in a trial: the order of the settings is settled by then
PROPAGATIONS = ((0.5, 0.0), (1.0, 1.0))  # beside none: users alone where there is much data a user, else both
MOST_INTERACTIONS = 3_000_000  # of users drawn at random: a search on more takes hours
MOST_USERS = 20_000  # by whom settings and epochs are judged: enough to tell them apart
ENOUGH_VALIDATION = 10_000  # interactions; with fewer, several splits are averaged, or settings are chosen by luck
MOST_SPLITS = 5
TRIAL_EPOCHS = 2  # of training, by which its own settings are told apart
IALS_SETTINGS = ("alpha0", "frequency_l2", "nu", "fit_width")  # what iALS depends on of what differs between trials
# and least squares with its values
FIT_SETTINGS = (*IALS_SETTINGS, "popularity_exponent", "l2_width_exponent", "sweeps", "level_weights", "hops")


def validation_value(factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20") -> float:
    """The validation metric, mean over the widths; 0 where a strong penalty has left nothing of the factors."""
    if not factors[1][:, 0].square().sum() > COLLAPSED:
        return 0.0
    metric, k = _metric_of(monitor, data)
    result = evaluate(*factors, data, split="valid", widths=widths, ks=(k,))
    return float(np.mean([result.value(f"{metric}@{k}", width=width) for width in widths]))


def validation_by_user(
    factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20"
) -> np.ndarray:
    """The validation metric, mean over the widths, of each user who has any, in their order."""
    metric, k = _metric_of(monitor, data)
    table = evaluate(*factors, data, split="valid", widths=widths, ks=(k,), per_user=True).per_user
    return table.filter(metric=metric).group_by("user").agg(pl.col("value").mean()).sort("user")["value"].to_numpy()


def _metric_of(monitor: str, data: Interactions) -> tuple[str, int]:
    """Metric and list length of a monitor, the length at most the whole catalogue."""
    metric, k = monitor.split("@")
    return metric, min(int(k), data.num_items)


def sample_validation_users(data: Interactions, seed: int) -> Interactions:
    """The same data with the validation of MOST_USERS users, drawn at random where there are more."""
    counts = data.valid.counts.numpy().copy()
    users = np.flatnonzero(counts)
    left_out = np.random.default_rng(seed).permutation(users)[MOST_USERS:]
    if len(left_out) == 0:
        return data
    counts[left_out] = 0
    keep = torch.from_numpy(np.repeat(counts > 0, data.valid.counts.numpy()))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return replace(data, valid=Positives(offsets, data.valid.items[keep], data.num_items))


def validation_splits(config: TrainConfig, data: Interactions) -> list[Interactions]:
    """The data and, where they have few validation interactions, further splits with as many, drawn anew.

    Under `paper` validation is the test set, of which there is one.
    """
    splits = [sample_validation_users(data, config.seed)]
    if config.protocol == "honest" and 0 < len(data.valid) < ENOUGH_VALIDATION:
        device = data.train.items.device
        for number in range(1, min(MOST_SPLITS, math.ceil(ENOUGH_VALIDATION / len(data.valid)))):
            drawn = hold_out(data, config.holdout.valid_fraction, seed=config.seed + number)
            splits.append(replace(drawn, train=drawn.train.to(device)))
    return splits


def sample_users(data: Interactions, seed: int) -> Interactions:
    """The same data with users drawn at random, where there are more than MOST_INTERACTIONS training interactions.

    All terms of the objective grow alike with the users (ν = 1), so that α0 and λ mean the same; on less data a little
    more of a penalty is best.
    """
    if len(data.train) <= MOST_INTERACTIONS:
        return data
    order = torch.from_numpy(np.random.default_rng(seed).permutation(data.num_users))
    fits = data.train.counts.cpu()[order].cumsum(0) <= MOST_INTERACTIONS
    rows = order[fits].sort().values
    train, valid, test = (part.take(rows.to(part.items.device)) for part in (data.train, data.valid, data.test))
    ids = data.user_ids[rows.numpy()]
    return replace(data, train=train, valid=valid, test=test, user_ids=ids, dropped=None)


class Fit(NamedTuple):
    """Least squares by the settings of a config: its factors, those of iALS before it, its value by propagation."""

    config: TrainConfig
    factors: Factors
    ials: Factors
    values: dict[tuple[float, ...], float]


class ValidationSplit:
    """What is computed on one split. One fit is kept: the best so far, or the one that was asked to be kept."""

    def __init__(self, data: Interactions):
        self.data = data
        self.kept: Fit | None = None
        self.initial_tables: tuple[TrainConfig, Propagation, Factors] | None = None  # what training started from last

    def value_of(self, config: TrainConfig, model: Propagation) -> float:
        """The validation metric of a model, mean over the widths of the config."""
        return validation_value(model.vectors(), self.data, config.widths, config.early_stopping.monitor)

    def by_user_of(self, config: TrainConfig, model: Propagation | Trainer) -> np.ndarray:
        """The same of each user."""
        return validation_by_user(model.vectors(), self.data, config.widths, config.early_stopping.monitor)

    def fit(self, config: TrainConfig) -> Fit:
        """Least squares by the settings of the config, without values unless it is the fit that is kept."""
        config = config.with_usual()
        if self.is_kept(config, FIT_SETTINGS):
            return self.kept
        factors = self.fit_ials(config)
        return Fit(config, fit_least_squares(config, self.data.train, factors=factors), factors, {})

    def fit_ials(self, config: TrainConfig) -> Factors:
        """iALS by the settings of the config, before axes are chosen and levels nested."""
        config = config.with_usual()
        if self.is_kept(config, IALS_SETTINGS):
            return self.kept.ials
        chosen = config.least_squares
        return ials(
            self.data.train,
            fitted_width(config.widths[-1], chosen.fit_width),
            alpha0=chosen.alpha0,
            l2=chosen.frequency_l2,
            nu=chosen.nu,
            sweeps=TRIAL_SWEEPS,
            generator=torch.Generator().manual_seed(config.seed),
        )

    def is_kept(self, config: TrainConfig, names: Sequence[str]) -> bool:
        """Whether the fit that is kept was made by the config's settings of these names."""
        return self.kept is not None and all(self.kept.config.setting(name) == config.setting(name) for name in names)

    def evaluate_fit(self, config: TrainConfig, *, keep: bool = False) -> Fit:
        """Least squares by the settings of the config, with its value under each propagation that the config allows.

        keep: whether it is kept even where another was better.
        """
        fit = self.fit(config)
        for propagation in propagation_options(config):
            if propagation not in fit.values:
                model = propagated(config.with_settings(propagation=propagation), self.data.train, fit.factors)
                fit.values[propagation] = self.value_of(config, model)
        if keep or self.kept is None or max(fit.values.values()) > max(self.kept.values.values()):
            self.kept = fit
        return fit

    def initial(self, config: TrainConfig) -> Propagation:
        """The initial model of training: propagated and rotated. config: with all settings."""
        return initial_model(config, self.data.train, self.fit(config).factors)

    def initial_value(self, config: TrainConfig) -> float:
        """The validation metric of the initial model."""
        return self.value_of(config, self.initial(config))

    def initial_by_user(self, config: TrainConfig) -> np.ndarray:
        """The validation metric of each user, of the initial model."""
        return self.by_user_of(config, self.initial(config))

    def trained_by_user(self, config: TrainConfig) -> np.ndarray:
        """The validation metric of each user after some epochs of training; its initial model is made once."""
        untrained = config.with_settings(l2=None, initial_scale=None).with_usual()
        if self.initial_tables is None or self.initial_tables[0] != untrained:
            model = self.initial(untrained)
            self.initial_tables = (
                untrained,
                model,
                tuple(table.detach().clone() for table in (model.users, model.items)),
            )
        _, model, tables = self.initial_tables
        with torch.no_grad():
            for parameter, table in zip((model.users, model.items), tables, strict=True):
                parameter.copy_(config.least_squares.initial_scale * table)
        trainer = Trainer(config, self.data.train, tables[0].device, model)
        for _ in range(min(TRIAL_EPOCHS, config.epochs)):
            trainer.run_epoch()
        return self.by_user_of(config, trainer)


def propagation_options(config: TrainConfig) -> tuple[tuple[float, ...], ...]:
    """The propagation of a config, or all that are tried where it has none."""
    given = config.least_squares.propagation
    return (given,) if given else ((0.0, 0.0), *PROPAGATIONS)


def fit_least_squares(config: TrainConfig, positives: Positives, **options) -> Factors:
    """Nested least squares by the settings of a config, what it leaves open at its usual value."""
    config = config.with_usual()
    names = ("level_weights", "alpha0", "nu", "popularity_exponent", "l2_width_exponent", "sweeps", "fit_width")
    chosen = {name: config.setting(name) for name in names} | {"l2": config.least_squares.frequency_l2}
    generator = torch.Generator().manual_seed(config.seed)
    return nested_least_squares(positives, config.widths, **chosen, generator=generator, **options)
