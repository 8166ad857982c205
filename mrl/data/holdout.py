"""Validation: split off from train under the protocol `honest`, the test set itself under `paper`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mrl.data.interactions import Interactions, Positives
from mrl.data.splits import check_fraction, check_whole, random_mask


def hold_out(data: Interactions, fraction: float = 0.1, *, seed: int = 0) -> Interactions:
    """The `honest` protocol: a seeded part of each user's training items becomes validation.

    A user with n ≥ 3 training items gives round(n · fraction), at least 1; users with fewer give none.
    """
    check_fraction("valid_fraction", fraction)
    check_whole("seed", seed, least=0)
    train = _all_training(data).train
    users, items = train.users.cpu().numpy(), train.items.cpu().numpy()
    mask = random_mask(users, fraction, np.random.default_rng([seed, 1]))  # not the stream that drew the test items
    size = (data.num_users, data.num_items)
    return replace(
        data,
        train=Positives.from_pairs(users[~mask], items[~mask], *size),
        valid=Positives.from_pairs(users[mask], items[mask], *size),
    )


def as_paper(data: Interactions) -> Interactions:
    """The `paper` protocol: validation *is* the test set. Only for comparison with published numbers."""
    return replace(_all_training(data), valid=data.test)


def _all_training(data: Interactions) -> Interactions:
    if data.valid == data.test:  # as `as_paper` left it, or nothing was ever held out
        return replace(data, valid=Positives.empty(data.num_users, data.num_items))
    return data.merge_valid()
