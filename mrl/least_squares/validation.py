"""Draws of validation by which settings are judged, and what is fitted on each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from mrl.config import TrainConfig
from mrl.data.interactions import Interactions, Positives, hold_out
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares.ials import ials
from mrl.least_squares.nested import fitted_width, nested_least_squares
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.rotation import Factors, smoothed, start_model
from mrl.trainer import Trainer

COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them
SEARCH_SWEEPS = 8  # of iALS in a trial: the order of the settings is settled by then
SHARES = ((0.5, 0.0), (1.0, 1.0))  # beside none: users alone where there is much data a user, else both
SEARCHED = 3_000_000  # training interactions at most, of users drawn at random: a search on more takes hours
JUDGES = 20_000  # users at most by whom settings and epochs are judged: enough to tell them apart
ENOUGH = 10_000  # validation interactions; fewer are drawn several times, or settings are chosen by luck
FOLDS = 5  # draws at most
TRIED_EPOCHS = 2  # of training, by which its own settings are told apart
PLAIN = ("alpha0", "frequency_l2", "nu", "train_width")  # what iALS depends on of what differs between trials
FITTED = (*PLAIN, "emphasis", "growth", "sweeps", "level_weights", "hops")  # and least squares, and its values


def validation_value(factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20") -> float:
    """The validation metric, mean over the widths; 0 where a strong penalty has left nothing of the factors."""
    if not factors[1][:, 0].square().sum() > COLLAPSED:
        return 0.0
    metric, k = _on(data, monitor)
    result = evaluate(*factors, data, split="valid", widths=widths, ks=(k,))
    return float(np.mean([result.value(f"{metric}@{k}", width=width) for width in widths]))


def validation_by_user(
    factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20"
) -> np.ndarray:
    """The validation metric, mean over the widths, of each user who has any, in their order."""
    metric, k = _on(data, monitor)
    table = evaluate(*factors, data, split="valid", widths=widths, ks=(k,), per_user=True).per_user
    return table.filter(metric=metric).group_by("user").agg(pl.col("value").mean()).sort("user")["value"].to_numpy()


def _on(data: Interactions, monitor: str) -> tuple[str, int]:
    """Metric and list length of a monitor, the length at most the whole catalogue."""
    metric, k = monitor.split("@")
    return metric, min(int(k), data.num_items)


def judges(data: Interactions, seed: int) -> Interactions:
    """The same data with the validation of JUDGES users, drawn at random where there are more."""
    counts = data.valid.counts.numpy().copy()
    users = np.flatnonzero(counts)
    left_out = np.random.default_rng(seed).permutation(users)[JUDGES:]
    if len(left_out) == 0:
        return data
    counts[left_out] = 0
    keep = torch.from_numpy(np.repeat(counts > 0, data.valid.counts.numpy()))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return replace(data, valid=Positives(offsets, data.valid.items[keep], data.num_items))


def folds(config: TrainConfig, data: Interactions) -> list[Interactions]:
    """The data and, where they have few validation interactions to judge by, as much validation drawn anew.

    Under `paper` validation is the test set, of which there is one.
    """
    some = [judges(data, config.seed)]
    if config.protocol == "honest" and 0 < len(data.valid) < ENOUGH:
        device = data.train.items.device
        for draw in range(1, min(FOLDS, math.ceil(ENOUGH / len(data.valid)))):
            drawn = hold_out(data, config.valid_fraction, seed=config.seed + draw)
            some.append(replace(drawn, train=drawn.train.to(device)))
    return some


def some_users(data: Interactions, seed: int) -> Interactions:
    """The same data with users drawn at random, where there are more than SEARCHED training interactions.

    All terms of the objective grow alike with the users (ν = 1), so that α0 and λ mean the same; on less data a little
    more of a penalty is best.
    """
    if len(data.train) <= SEARCHED:
        return data
    order = torch.from_numpy(np.random.default_rng(seed).permutation(data.num_users))
    fits = data.train.counts.cpu()[order].cumsum(0) <= SEARCHED
    rows = order[fits].sort().values
    train, valid, test = (part.take(rows.to(part.items.device)) for part in (data.train, data.valid, data.test))
    return replace(data, train=train, valid=valid, test=test, user_ids=data.user_ids[rows.numpy()])


class Fit(NamedTuple):
    """Factors by the settings of a config, those of iALS alone that they are made of, and their value by shares."""

    config: TrainConfig
    factors: Factors
    plain: Factors
    values: dict[tuple[float, ...], float]


class Fold:
    """What is computed on one draw of validation, and what of it is needed again: the best of it so far."""

    def __init__(self, data: Interactions):
        self.data = data
        self.best: Fit | None = None
        self.begun: tuple[TrainConfig, Propagation, Factors] | None = None

    def judged(self, config: TrainConfig, model: Propagation) -> float:
        """The validation metric, mean over the widths of the config."""
        return validation_value(model.vectors(), self.data, config.widths, config.monitor)

    def fitted(self, config: TrainConfig, *, keep: bool = False) -> Fit:
        """By the settings of the config, under propagation by each of its shares; what is at hand is not made again.

        keep: for the next call, even where others were better.
        """
        found = self.made(config)
        for shares in every_shares(config):
            if shares not in found.values:
                model = smoothed(replace(config, shares=shares), self.data.train, found.factors)
                found.values[shares] = self.judged(config, model)
        if keep or self.best is None or max(found.values.values()) > max(self.best.values.values()):
            self.best = found
        return found

    def made(self, config: TrainConfig) -> Fit:
        """By the settings of the config, not judged yet; or what is at hand."""
        config = config.closed()
        if self.at_hand(config, FITTED):
            return self.best
        plain = self.fitted_plainly(config)
        return Fit(config, fit_least_squares(config, self.data.train, factors=plain), plain, {})

    def start(self, config: TrainConfig) -> Propagation:
        """What training starts from; config: with all settings, shares too."""
        return start_model(config, self.data.train, self.made(config).factors)

    def started(self, config: TrainConfig) -> float:
        """The value of what training starts from."""
        return self.judged(config, self.start(config))

    def by_user(self, config: TrainConfig) -> np.ndarray:
        """The validation metric of each user, of what training starts from."""
        return validation_by_user(self.start(config).vectors(), self.data, config.widths, config.monitor)

    def trained(self, config: TrainConfig) -> np.ndarray:
        """The validation metric of each user after some epochs of training; what that starts from is made once."""
        alike = replace(config, l2=None, scale=None).closed()
        if self.begun is None or self.begun[0] != alike:
            model = self.start(alike)
            self.begun = alike, model, tuple(table.detach().clone() for table in (model.users, model.items))
        _, model, tables = self.begun
        with torch.no_grad():
            for parameter, table in zip((model.users, model.items), tables, strict=True):
                parameter.copy_(config.scale * table)
        trainer = Trainer(config, self.data.train, tables[0].device, model)
        for _ in range(min(TRIED_EPOCHS, config.epochs)):
            trainer.run_epoch()
        return validation_by_user(trainer.vectors(), self.data, config.widths, config.monitor)

    def at_hand(self, config: TrainConfig, names: Sequence[str]) -> bool:
        """Whether the settings `names` of the best so far are those of the config."""
        return self.best is not None and all(getattr(self.best.config, name) == getattr(config, name) for name in names)

    def fitted_plainly(self, config: TrainConfig) -> Factors:
        """By the settings of the config, of iALS alone, which knows no `emphasis`, `growth` and `sweeps`."""
        config = config.closed()
        if self.at_hand(config, PLAIN):
            return self.best.plain
        return ials(
            self.data.train,
            fitted_width(config.widths[-1], config.train_width),
            alpha0=config.alpha0,
            l2=config.frequency_l2,
            nu=config.nu,
            sweeps=SEARCH_SWEEPS,
            generator=torch.Generator().manual_seed(config.seed),
        )


def every_shares(config: TrainConfig) -> tuple[tuple[float, ...], ...]:
    """Those of a config, or all that are tried where it has none."""
    return (config.shares,) if config.shares else ((0.0, 0.0), *SHARES)


def fit_least_squares(config: TrainConfig, positives: Positives, **more) -> Factors:
    """Nested least squares by the settings of a config, what it leaves open at its usual value."""
    config = config.closed()
    return nested_least_squares(
        positives,
        config.widths,
        level_weights=config.level_weights,
        alpha0=config.alpha0,
        l2=config.frequency_l2,
        nu=config.nu,
        emphasis=config.emphasis,
        growth=config.growth,
        sweeps=config.sweeps,
        train_width=config.train_width,
        generator=torch.Generator().manual_seed(config.seed),
        **more,
    )
