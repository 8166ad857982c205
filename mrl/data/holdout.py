"""Validation: split off from train under the protocol `honest`, the test set itself under `paper`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mrl.data.interactions import Interactions, Positives
from mrl.data.splits import check_fraction, check_whole, random_mask
from mrl.errors import DataError


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


def check_held_out(data: Interactions, split: str, protocol: str) -> None:
    """Raise DataError where nobody has an item in test, or in validation, with the reason and what helps.

    split, protocol: as in `TrainConfig`, by which the parts were made.
    """
    missing = next((part for part in ("test", "valid") if not len(data.split(part))), None)
    if missing is None:
        return
    in_train = data.train.counts + (data.valid.counts if protocol == "honest" else 0)
    most = int((in_train + data.test.counts).max())
    part = "test" if missing == "test" else "validation"
    if most == 1:
        raise DataError(
            f"{data.name}: every user has one item, so nothing can be held out for {part} and no item says anything of "
            "another; check that the user ids are of people, not of orders, or give data where users have several items"
        )
    if missing == "valid" and int(data.train.counts.max()) >= 3:  # given without
        how = "hold_out" if protocol == "honest" else "as_paper"
        raise DataError(f"{data.name}: the validation part is empty; make one by mrl.data.{how}")
    least = {"honest": 4, "paper": 3}[protocol]
    if most >= least:
        raise DataError(
            f"{data.name}: split={split!r} leaves no item for {part}; split='random' with test_fraction=0.2 holds some "
            f"out of users with at least {least}"
        )
    needed = f"{least} are needed (one for test, {'one for validation, ' if least == 4 else ''}two to train on)"
    last = "with timestamps split='leave_last' holds one of two items out"
    if protocol == "honest":
        also = "protocol='paper' takes the test part for validation"
        last = also if missing == "valid" and len(data.test) else f"{last}, and {also}"
    raise DataError(f"{data.name}: no user has more than {most} items, where {needed}; give data with more, or {last}")
