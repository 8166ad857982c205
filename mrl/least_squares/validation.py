"""Validation of settings: by which users, on which splits, and by which value they are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Interactions, Positives, hold_out
from mrl.evaluation import Evaluation, evaluate
from mrl.least_squares.ials import Factors

COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them
MOST_INTERACTIONS = {"quick": 1_000_000, "thorough": 3_000_000}  # of users drawn at random, by search
MOST_USERS = 10_000  # by whom epochs are judged: enough to tell them apart
ENOUGH_VALIDATION = 5_000  # interactions; with fewer, several splits are averaged, or settings are chosen by luck
MOST_SPLITS = 5


def validation_value(factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20") -> float:
    """The validation metric, mean over the widths; 0 where a strong penalty has left nothing of the factors."""
    if not factors[1][:, 0].square().sum() > COLLAPSED:
        return 0.0
    return float(validation_by_user(factors, data, widths, monitor).mean())


def validation_by_user(
    factors: Factors, data: Interactions, widths: Sequence[int], monitor: str = "ndcg@20"
) -> np.ndarray:
    """(W, n): the validation metric at each width of each user who has any; lists are no longer than the catalogue."""
    metric, k = monitor.split("@")
    k = min(int(k), data.num_items)
    result = evaluate(*factors, data, split="valid", widths=widths, ks=(k,), per_user=True)
    return values_by_user(result, f"{metric}@{k}")


def values_by_user(result: Evaluation, monitor: str) -> np.ndarray:
    """(W, n): a metric such as ndcg@20 at each width of each user, in their order."""
    metric, k = monitor.split("@")
    table = result.per_user.filter(metric=metric, k=int(k)).sort("width", "user")
    return table["value"].to_numpy().reshape(table["width"].n_unique(), -1)


def sample_validation_users(data: Interactions, seed: int, most: int = MOST_USERS) -> Interactions:
    """The same data with the validation of `most` users, drawn at random where there are more."""
    left_out = users_left_out(data.valid.counts, seed, most)
    return data if len(left_out) == 0 else without_validation(data, left_out)


def users_left_out(counts: Tensor, seed: int, most: int = MOST_USERS) -> np.ndarray:
    """Rows of users, drawn at random, who have validation but are more than `most`; counts (U,): how much they have."""
    return np.random.default_rng(seed).permutation(np.flatnonzero(counts.numpy()))[most:]


def without_validation(data: Interactions, users: np.ndarray) -> Interactions:
    """The same data without the validation of some users, by row."""
    counts = data.valid.counts.numpy().copy()
    counts[users] = 0
    keep = torch.from_numpy(np.repeat(counts > 0, data.valid.counts.numpy()))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return replace(data, valid=Positives(offsets, data.valid.items[keep], data.num_items))


def validation_splits(config: TrainConfig, data: Interactions, most: int = MOST_USERS) -> list[Interactions]:
    """The data and, where they have few validation interactions, further splits with as many, drawn anew.

    most: users whose validation is looked at. Under `paper` validation is the test set, of which there is one.
    """
    splits = [sample_validation_users(data, config.seed, most)]
    if config.protocol == "honest" and 0 < len(data.valid) < ENOUGH_VALIDATION:
        device = data.train.items.device
        for number in range(1, min(MOST_SPLITS, math.ceil(ENOUGH_VALIDATION / len(data.valid)))):
            drawn = hold_out(data, config.holdout.valid_fraction, seed=config.seed + number)
            splits.append(replace(drawn, train=drawn.train.to(device)))
    return splits


def sample_users(data: Interactions, seed: int, most: int) -> Interactions:
    """The same data with users drawn at random, where there are more than `most` training interactions.

    All terms of the objective grow alike with the users (ν = 1), so that α0 and λ mean the same; on less data a little
    more of a penalty is best.
    """
    if len(data.train) <= most:
        return data
    rows = draw_rows(data.train.counts.cpu(), seed, most)
    train, valid, test = (part.take(rows.to(part.items.device)) for part in (data.train, data.valid, data.test))
    ids = data.user_ids[rows.numpy()]
    return replace(data, train=train, valid=valid, test=test, user_ids=ids, dropped=None)


def draw_rows(counts: Tensor, seed: int, most: int) -> Tensor:
    """Rows in increasing order of users drawn at random who have at most so many interactions together; counts (U,)."""
    if int(counts.sum()) <= most:
        return torch.arange(len(counts))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(counts)))
    return order[counts[order].cumsum(0) <= most].sort().values
