"""Who is held out: settings, threshold, given parts, k-core and the split rules, on plain arrays.

The masks are over pairs that are sorted by user and then item, without repeats. Ties in time are therefore
broken by user and then item, in the order of their raw ids, whatever the order of the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import polars as pl

from mrl.errors import ConfigError, DataError
from mrl.files import EXPECTED, OpenDates, to_times

SPLITS = ("auto", "given", "random", "leave_last", "temporal")
TIMED_SPLITS = ("leave_last", "temporal")
OVERLAPS = ("error", "drop_test")


def check_number(name: str, value: float, *, most: float = math.inf) -> float:
    """Return `value` where it is a finite number from 0 to `most`, else raise ConfigError."""
    if not _is_finite(value) or not 0 <= value <= most:
        limit = "not negative" if math.isinf(most) else f"between 0 and {most}"
        raise ConfigError(f"{name}={value!r}: must be a finite number, {limit}")
    return value


def check_fraction(name: str, value: float) -> float:
    """Return `value` where it lies strictly between 0 and 1, else raise ConfigError."""
    if not _is_finite(value) or not 0 < value < 1:
        raise ConfigError(f"{name}={value!r}: must lie strictly between 0 and 1, such as 0.2")
    return float(value)


def check_whole(name: str, value: int, *, least: int) -> int:
    """Return `value` where it is a whole number of at least `least`, else raise ConfigError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name}={value!r}: must be a whole number of at least {least}")
    return int(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """What of a log is kept and how it is split. Impossible values raise ConfigError.

    split: `given` by the column `part`; `random` per user; `leave_last` of each user; `temporal`, the last
        `test_fraction` of all interactions; `auto` is `given` where there are test rows, else `random`.
    min_rating: keep rows whose rating is at least this. core: keep users and items with at least this many pairs.
    overlap: of pairs in both given parts, raise (`error`) or take them from the test part (`drop_test`).
    """

    split: str = "auto"
    test_fraction: float = 0.2
    min_rating: float | None = None
    core: int = 1
    seed: int = 0
    overlap: str = "error"

    def __post_init__(self) -> None:
        for name, choices in (("split", SPLITS), ("overlap", OVERLAPS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(choices)}")
        check_fraction("test_fraction", self.test_fraction)
        check_whole("core", self.core, least=1)
        check_whole("seed", self.seed, least=0)
        if self.min_rating is not None and not _is_finite(self.min_rating):
            raise ConfigError(f"min_rating={self.min_rating!r}: must be a finite number, or None to keep every rating")


def distinct(keys: np.ndarray) -> np.ndarray:
    """The sorted distinct keys, by one sort: numpy's own `unique` hashes, fifty times slower on 2e7 keys."""
    keys = np.sort(keys)
    return keys[np.r_[True, keys[1:] != keys[:-1]]] if len(keys) else keys


def rated_at_least(
    log: pl.DataFrame, min_rating: float, name: str, notes: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows rated at least `min_rating`, and the others; a missing rating is not."""
    if "rating" not in log.columns or not log["rating"].dtype.is_numeric():
        raise DataError(f"{name}: min_rating={min_rating} needs numeric ratings, and there are none; leave it out")
    rating = pl.col("rating")
    is_kept = (rating >= min_rating) & rating.cast(pl.Float64).is_not_nan()  # polars ranks NaN above all
    kept, dropped = log.filter(is_kept), log.filter(~is_kept.fill_null(False))
    if len(log) and not len(kept):
        highest = log.select(rating.cast(pl.Float64).fill_nan(None).max()).item()
        remedy = "every rating is missing" if highest is None else f"the highest rating is {highest:g}"
        raise DataError(f"{name}: no interactions left with min_rating={min_rating}; {remedy}")
    if len(dropped):
        notes.append(f"{len(dropped)} ratings below min_rating={min_rating} or missing dropped")
    return kept, dropped


def note_not_positive(log: pl.DataFrame, notes: list[str]) -> None:
    """Note how many rows are rated 0 or less, which is seldom meant as a positive, and how to leave them out."""
    if "rating" not in log.columns or not log["rating"].dtype.is_numeric():
        return
    ratings = log["rating"].cast(pl.Float64).drop_nulls().drop_nans()
    positive = ratings.filter(ratings > 0)
    if rows := len(ratings) - len(positive):
        remedy = f"min_rating={positive.min():g} leaves them out" if len(positive) else "no row is rated above 0"
        notes.append(f"{rows} of {len(log)} rows are rated 0 or less and count as positives; {remedy}")


def given_parts(log: pl.DataFrame, split: str, name: str) -> tuple[str, np.ndarray | None]:
    """The split that `auto` stands for here, and (N,) bool, which rows are in the given test part."""
    if "part" not in log.columns:
        if split == "given":
            raise DataError(f"{name}: split='given' needs a test part, and there is none; use split='random'")
        return "random" if split == "auto" else split, None
    others = log.filter(~pl.col("part").is_in(["train", "test"]).fill_null(False))["part"]
    if len(others):
        raise DataError(f"{name}: part={others[0]!r} in {len(others)} rows; it must be train or test")
    in_test = (log["part"] == "test").to_numpy()
    if split == "given" and not in_test.any():
        raise DataError(f"{name}: split='given', but no row is in the test part; use split='random'")
    auto = "given" if in_test.any() else "random"
    return auto if split == "auto" else split, in_test


def finite_times(log: pl.DataFrame, split: str, name: str) -> np.ndarray:
    """(N,) numbers: the timestamps, or DataError with the count where some are missing."""
    if "timestamp" not in log.columns:
        raise DataError(f"{name}: split={split!r} needs timestamps, and the data has none; use split='random'")
    times = log["timestamp"]
    if times.dtype == pl.String:
        try:
            times, is_bad = to_times(times)
        except OpenDates as error:
            raise DataError(f"{name}: timestamp {error}") from None
        if (bad := log["timestamp"].filter(is_bad)).len():
            raise DataError(f"{name}: timestamp {bad[0][:40]!r} is not {EXPECTED['timestamp']}")
    if times.dtype.is_temporal():
        times = times.to_physical()
    if not times.dtype.is_numeric():
        raise DataError(f"{name}: timestamps are {times.dtype}; split={split!r} needs numbers or dates")
    missing = len(times) - int((times.is_not_null() & times.is_finite()).sum())
    if missing:
        raise DataError(f"{name}: {missing} rows have no timestamp; split={split!r} needs all, or use split='random'")
    return times.to_numpy()


def merge_pairs(keys: np.ndarray, times: np.ndarray | None, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """The keys sorted and without repeats, each with its earliest time."""
    if times is None:
        merged = distinct(keys)
    else:
        first = pl.DataFrame({"key": keys, "time": times}).group_by("key").agg(pl.col("time").min()).sort("key")
        merged, times = first["key"].to_numpy(), first["time"].to_numpy()
    if repeats := len(keys) - len(merged):
        notes.append(f"{repeats} duplicate interactions merged")
    return merged, times


def merge_parts(
    keys: np.ndarray, in_test: np.ndarray, overlap: str, name: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The keys sorted and without repeats, and which of them are in test."""
    train, test = distinct(keys[~in_test]), distinct(keys[in_test])
    if repeats := len(keys) - len(train) - len(test):
        notes.append(f"{repeats} duplicate interactions merged")
    both = np.append(train, -1)[np.searchsorted(train, test)] == test
    if both.any():
        if overlap == "error":
            raise DataError(f"{name}: {both.sum()} pairs are in train and in test; remove them, or overlap='drop_test'")
        notes.append(f"{both.sum()} pairs that are also in train dropped from test")
        test = test[~both]
    merged = np.concatenate([train, test])
    order = np.argsort(merged, kind="stable")
    return merged[order], order >= len(train)


def core_mask(users: np.ndarray, items: np.ndarray, core: int) -> np.ndarray:
    """(N,) bool: the pairs of the largest set in which every user and every item occurs at least `core` times."""
    kept = np.arange(len(users))
    while len(kept):
        often = (np.bincount(users[kept])[users[kept]] >= core) & (np.bincount(items[kept])[items[kept]] >= core)
        if often.all():
            break
        kept = kept[often]
    mask = np.zeros(len(users), dtype=bool)
    mask[kept] = True
    return mask


def largest_core(users: np.ndarray, items: np.ndarray) -> int:
    """The largest `core` that leaves any of the pairs, by bisection: 1 where there are any."""
    low, high = 1, int(min(np.bincount(users).max(), np.bincount(items).max())) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if core_mask(users, items, middle).any() else (low, middle)
    return low


def random_mask(users: np.ndarray, fraction: float, rng: np.random.Generator | np.ndarray) -> np.ndarray:
    """(N,) bool: about `fraction` of each user's pairs, drawn at random: those of the least noise (N,) uint32 of `rng`.

    A user with n ≥ 3 pairs gives round(n · fraction) of them, at least 1 and at most n - 1; others give none.
    """
    counts = np.bincount(users) if len(users) else np.zeros(0, dtype=np.int64)
    held = np.where(counts >= 3, np.clip(np.floor(counts * fraction + 0.5), 1, np.maximum(counts - 1, 1)), 0)
    # A stable sort by (user, noise) shuffles each user's pairs in place; the first `held` of them go.
    noise = rng if isinstance(rng, np.ndarray) else rng.integers(0, 2**32, size=len(users), dtype=np.uint32)
    order = np.argsort(users.astype(np.int64) << 32 | noise, kind="stable")
    first = np.cumsum(counts) - counts
    mask = np.zeros(len(users), dtype=bool)
    mask[order] = np.arange(len(users)) < (first + held.astype(np.int64))[users]
    return mask


def last_mask(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(N,) bool: the latest pair of every user who has at least two; of equal times the last item."""
    order = np.lexsort((times, users))  # stable: equal times stay in item order
    sorted_users = users[order]
    first = np.r_[True, sorted_users[1:] != sorted_users[:-1]][: len(users)]
    last = np.r_[sorted_users[1:] != sorted_users[:-1], True][: len(users)]
    mask = np.zeros(len(users), dtype=bool)
    mask[order] = last & ~first
    return mask


def temporal_mask(times: np.ndarray, fraction: float) -> np.ndarray:
    """(N,) bool: the latest round(N · fraction) pairs of all; equal times in the order of user, then item."""
    held = int(np.floor(len(times) * fraction + 0.5))
    mask = np.zeros(len(times), dtype=bool)
    mask[np.argsort(times, kind="stable")[len(times) - held :]] = True
    return mask
