"""The split rules on plain arrays; `test_interactions.py` has them at work on logs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.splits import (
    SplitSettings,
    check_fraction,
    check_whole,
    core_mask,
    distinct,
    last_mask,
    random_mask,
    temporal_mask,
)
from mrl.errors import ConfigError

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60, unique=True).map(sorted)


def columns(pairs) -> np.ndarray:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2).T


@given(st.lists(st.integers(-(2**62), 2**62)))
def test_distinct_is_a_sorted_set(keys):
    assert distinct(np.array(keys, dtype=np.int64)).tolist() == sorted(set(keys))


@given(PAIRS, st.integers(1, 4))
def test_core_is_the_largest_set_that_meets_the_count(pairs, core):
    users, items = columns(pairs)
    mask = core_mask(users, items, core)
    left = dict.fromkeys(pairs)
    while True:  # take away one offender at a time: the core does not depend on the order
        of_user, of_item = Counter(user for user, _ in left), Counter(item for _, item in left)
        offender = next((pair for pair in left if of_user[pair[0]] < core or of_item[pair[1]] < core), None)
        if offender is None:
            break
        del left[offender]
    assert [pair for pair, kept in zip(pairs, mask, strict=True) if kept] == list(left)


@settings(deadline=None)
@given(PAIRS, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_random_mask_takes_the_right_number_of_each_user(pairs, fraction, seed):
    users, _ = columns(pairs)
    mask = random_mask(users, fraction, np.random.default_rng(seed))
    for user, count in Counter(users.tolist()).items():
        expected = min(max(int(count * fraction + 0.5), 1), count - 1) if count >= 3 else 0
        assert mask[users == user].sum() == expected


@given(PAIRS, st.randoms(use_true_random=False))
def test_timed_masks_agree_with_a_sort(pairs, random):
    users, _ = columns(pairs)
    times = np.array([random.randint(0, 3) for _ in pairs], dtype=np.float64)
    ordered = sorted(range(len(pairs)), key=lambda row: (times[row], row))
    held = int(len(pairs) * 0.4 + 0.5)
    assert set(np.flatnonzero(temporal_mask(times, 0.4))) == set(ordered[len(pairs) - held :])
    owned = Counter(users.tolist())
    last = {users[row]: row for row in ordered if owned[users[row]] >= 2}
    assert set(np.flatnonzero(last_mask(users, times))) == set(last.values())


def test_settings_that_are_possible_pass():
    SplitSettings(split="temporal", test_fraction=np.float64(0.5), min_rating=3, core=np.int64(5), seed=7)
    assert check_fraction("valid_fraction", 0.1) == 0.1
    assert check_whole("core", np.int32(3), least=1) == 3


@pytest.mark.robustness
def test_settings_that_are_not_name_the_value_and_the_remedy():
    with pytest.raises(ConfigError, match=r"split='last': must be one of auto, given, random, leave_last, temporal$"):
        SplitSettings(split="last")
    with pytest.raises(ConfigError, match=r"test_fraction=0: must lie strictly between 0 and 1, such as 0\.2$"):
        SplitSettings(test_fraction=0)
    with pytest.raises(ConfigError, match=r"core=0: must be a whole number of at least 1$"):
        SplitSettings(core=0)
