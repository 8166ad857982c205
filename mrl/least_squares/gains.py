"""Gains by width: whether they are clear, and what wider vectors would gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mrl.config import TrainConfig
from mrl.data import Interactions
from mrl.least_squares.axes import rotate
from mrl.least_squares.fit import propagated
from mrl.least_squares.ials import Factors
from mrl.least_squares.propagation import Propagation
from mrl.least_squares.validation import validation_by_user

CLEAR_GAIN = 2.25  # standard errors: of twelve values that are no better, one is taken in one of seven data sets
LEAST_GAIN = 0.01  # of twice the dimensions, below which they are not worth it

ByUser = Sequence[np.ndarray]  # values of the same users, split by split


def mean_over_splits(values: ByUser) -> float:
    return float(np.mean([users.mean() for users in values]))


def clearly_better(values: ByUser, others: ByUser) -> bool:
    """Whether users gain by more than CLEAR_GAIN standard errors."""
    gains = [value - other for value, other in zip(values, others, strict=True)]
    # splits share users: no smaller for more of them
    error = np.mean([gain.std() / len(gain) ** 0.5 for gain in gains])
    return bool(np.mean([gain.mean() for gain in gains]) > CLEAR_GAIN * error)


def clearly_wider(values: ByUser, narrower: ByUser) -> bool:
    """Whether wider vectors are worth it: clearly better, and by at least LEAST_GAIN."""
    gain = mean_over_splits(values) - mean_over_splits(narrower)
    return gain >= LEAST_GAIN * mean_over_splits(narrower) and clearly_better(values, narrower)


def widened(served: Factors, whole: Factors) -> Factors:
    """The served vectors (D), and behind them the principal axes of what they leave of the scores of the whole (F).

    Users (U, F) and items (I, F) that score as the whole does, while their first D dimensions are served.
    """
    users, items = (torch.cat(tables, 1) for tables in zip(whole, served, strict=True))
    users[:, whole[0].shape[1] :].neg_()
    rest = rotate(users, items)  # of whole − served
    return tuple(torch.cat(tables, 1)[:, : whole[0].shape[1]] for tables in zip(served, rest, strict=True))


def widened_values(
    config: TrainConfig, widths: Sequence[int], split: Interactions, factors: Factors, model: Propagation
) -> np.ndarray:
    """(W, n): the value by user of each width of the model that is served, widened by the factors it is cut from."""
    wide = widened(model.vectors(), propagated(config, split.train, factors).vectors())
    return validation_by_user(wide, split, widths, config.early_stopping.monitor)


def gains_of_wider(values: Mapping[int, ByUser]) -> list[tuple[int, float]]:
    """Each width that is clearly better than the narrower ones before it, and what it gains over the narrowest.

    values: by width, narrowest first, the one that is served.
    """
    served, *wider = values
    best, gains = served, []
    for width in wider:
        if clearly_wider(values[width], values[best]):
            best = width
            gains.append((width, mean_over_splits(values[width]) / mean_over_splits(values[served]) - 1))
    return gains
