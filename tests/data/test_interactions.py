"""Logs become data sets: merging, k-core, ids, splits, labels and protocols, against slow loops."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions, Positives, build
from mrl.errors import ConfigError, DataError

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(-3, 6)), min_size=1, max_size=40)


def log_of(pairs, **columns) -> pl.DataFrame:
    users, items = zip(*pairs, strict=True)
    return pl.DataFrame({"user": users, "item": items, **columns})


def pairs_of(data: Interactions, positives: Positives) -> set:
    users, items = positives.users.tolist(), positives.items.tolist()
    return {(data.user_ids[user], data.item_ids[item]) for user, item in zip(users, items, strict=True)}


def everything(data: Interactions) -> set:
    return pairs_of(data, data.train) | pairs_of(data, data.valid) | pairs_of(data, data.test)


def slow_core(pairs: set, core: int) -> set:
    while True:
        users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
        kept = {(user, item) for user, item in pairs if users[user] >= core and items[item] >= core}
        if kept == pairs:
            return kept
        pairs = kept


# Positives


@given(PAIRS)
def test_positives_hold_each_pair_once_in_order(pairs):
    rows = [(user, item + 3) for user, item in pairs]
    positives = Positives.from_pairs(*zip(*rows, strict=True), 8, 10)
    for user in range(8):
        assert positives.of(user).tolist() == sorted({item for owner, item in rows if owner == user})
    assert positives.keys().tolist() == sorted({user * 10 + item for user, item in rows})
    assert positives.item_counts.tolist() == [sum(item == i for _, item in set(rows)) for i in range(10)]
    assert len(positives) == positives.counts.sum() == len(set(rows))


def test_positives_union_equality_and_empty():
    one, two = Positives.from_pairs([0, 1], [2, 0], 2, 3), Positives.from_pairs([0, 1], [1, 0], 2, 3)
    assert one.union(two) == Positives.from_pairs([0, 0, 1], [1, 2, 0], 2, 3)
    assert one != two
    assert one.union(Positives.empty(2, 3)) == one
    assert one.to("cpu") is one
    assert Positives.from_pairs([], [], 2, 3) == Positives.empty(2, 3)


def test_rows_are_taken_in_the_order_asked_for():
    positives = Positives.from_pairs([0, 0, 1, 3, 3, 3], [1, 4, 2, 0, 2, 4], 4, 5)
    part = positives.take(torch.tensor([3, 2, 0]))
    assert part.num_users == 3 and part.num_items == 5
    assert [part.of(row).tolist() for row in range(3)] == [[0, 2, 4], [], [1, 4]]
    assert len(positives.take(torch.tensor([], dtype=torch.int64))) == 0


# build


@settings(deadline=None)
@given(PAIRS, st.integers(1, 3), st.booleans())
def test_build_agrees_with_a_slow_loop(pairs, core, text):
    expected = slow_core(set(pairs), core)
    if text:
        pairs = [(f"u{user}", f"i{item}") for user, item in pairs]
        expected = {(f"u{user}", f"i{item}") for user, item in expected}
    if not expected:
        with pytest.raises(DataError, match=f"no interactions left .*core={core}"):
            build(log_of(pairs), name="toy", core=core)
        return
    data = build(log_of(pairs), name="toy", core=core)
    assert everything(data) == expected
    assert data.user_ids.tolist() == sorted({user for user, _ in expected})
    assert data.item_ids.tolist() == sorted({item for _, item in expected})
    assert not pairs_of(data, data.train) & pairs_of(data, data.test)
    merged = len(pairs) - len(set(pairs))
    assert (f"{merged} duplicate interactions merged" in data.notes) == (merged > 0)


@settings(deadline=None)
@given(PAIRS, st.randoms(use_true_random=False), st.sampled_from(["random", "leave_last", "temporal"]))
def test_the_order_of_the_log_changes_nothing(pairs, random, split):
    rows = [(user, item, random.randint(0, 3)) for user, item in pairs]
    shuffled = random.sample(rows, len(rows))

    def build_toy(rows):
        return build(log_of([row[:2] for row in rows], timestamp=[row[2] for row in rows]), name="toy", split=split)

    assert build_toy(rows).fingerprint == build_toy(shuffled).fingerprint


@pytest.mark.robustness
def test_dense_ids_are_their_own_rows_and_an_absurd_id_costs_nothing():
    data = build(log_of([(2, 1), (0, 0), (1, 2)]), name="toy")
    assert data.user_ids.tolist() == data.item_ids.tolist() == [0, 1, 2]
    tracemalloc.start()
    data = build(log_of([(0, 10**12), (10**18, 5), (-7, 5)]), name="toy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (data.num_users, data.num_items) == (3, 2)
    assert data.user_ids.tolist() == [-7, 0, 10**18]
    assert peak < 10_000_000


def test_ids_may_be_any_whole_numbers_or_text():
    for dtype in (pl.Int32, pl.UInt8, pl.UInt64):
        assert build(log_of([(3, 1)]).cast(dtype), name="toy").user_ids.tolist() == [3]
    text = build(log_of([("ä", "x"), ("a", "10"), ("b", "9")]).cast(pl.Categorical), name="toy")
    assert text.user_ids.tolist() == ["a", "b", "ä"]
    assert text.item_ids.tolist() == ["10", "9", "x"]


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("log", "message"),
    [
        (pl.DataFrame({"user": [1], "thing": [1]}), "no column item in the log; it has user, thing"),
        (pl.DataFrame({"user": [1.5], "item": [1]}), "user id 1.5 is no whole number"),
        (pl.DataFrame({"user": [True], "item": [1]}), "user ids are Boolean, such as True; they must be whole numbers"),
        (pl.DataFrame({"user": [1], "item": pl.Series([2**64 - 1], dtype=pl.UInt64)}), "18446744073709551615 is past"),
        (pl.DataFrame({"user": [1, None], "item": [1, 2]}), "1 rows have no user id"),
        (pl.DataFrame({"user": [], "item": []}), "no interactions left"),
        (log_of([(1, 1)], part=["valid"]), "part='valid' in 1 rows; it must be train or test"),
        (log_of([(1, 1)], part=[None]), "part=None in 1 rows"),
        (log_of([(1, 1)], part=["test"]), "every interaction is in the test part"),
    ],
)
def test_a_bad_log_is_named(log, message):
    with pytest.raises(DataError, match=message) as caught:
        build(log, name="toy.csv")
    assert str(caught.value).startswith("toy.csv: ")
    assert "\n" not in str(caught.value)


@pytest.mark.robustness
@pytest.mark.parametrize(
    "setting",
    [
        {"split": "half"},
        {"test_fraction": 0},
        {"test_fraction": 1.0},
        {"test_fraction": float("nan")},
        {"test_fraction": "0.2"},
        {"min_rating": float("inf")},
        {"min_rating": True},
        {"core": 0},
        {"core": 2.5},
        {"seed": -1},
        {"seed": True},
        {"overlap": "ignore"},
    ],
)
def test_impossible_settings_fail_before_the_log_is_looked_at(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(ConfigError) as caught:
        build(None, name="toy", **setting)
    assert str(caught.value).startswith(f"{name}={value!r}: must ")


def test_threshold_drops_low_and_missing_ratings_before_duplicates_are_merged():
    log = log_of([(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)], rating=[1.0, 4.0, None, float("nan"), 3.5])
    data = build(log, name="toy", min_rating=3.5)
    assert everything(data) == {(0, 0), (1, 1)}
    assert data.notes[0] == "3 ratings below min_rating=3.5 or missing dropped"
    assert not any("duplicate" in note for note in data.notes)
    with pytest.raises(DataError, match="min_rating=3 needs numeric ratings"):
        build(log.drop("rating"), name="toy", min_rating=3)
    with pytest.raises(DataError, match="no interactions left with min_rating=9"):
        build(log, name="toy", min_rating=9)


@pytest.mark.robustness
def test_what_leaves_nothing_says_what_leaves_something():
    log = log_of(
        [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)], rating=[1.0, 2.0, float("nan"), None, 4.5], timestamp=[1] * 5
    )
    with pytest.raises(DataError, match=r"no interactions left with .*core=3; the largest core with any is 2$"):
        build(log, name="toy", core=3)
    assert build(log, name="toy", core=2).num_users == 2
    with pytest.raises(DataError, match=r"no interactions left with min_rating=5; the highest rating is 4\.5$"):
        build(log, name="toy", min_rating=5)
    assert build(log, name="toy", min_rating=4.5).num_users == 1
    with pytest.raises(DataError, match="no interactions left with min_rating=0; every rating is missing"):
        build(log.with_columns(rating=pl.lit(None, dtype=pl.Float64)), name="toy", min_rating=0)
    with pytest.raises(DataError, match=r"every interaction is in the test part.*; lower test_fraction=0\.99$"):
        build(log, name="toy", split="temporal", test_fraction=0.99)
    assert len(build(log, name="toy", split="temporal", test_fraction=0.2).test) == 1


# splits


@pytest.mark.robustness
def test_given_parts_are_kept_and_odd_users_and_items_counted():
    rows = [(0, 0, "train"), (0, 1, "train"), (0, 2, "train"), (1, 0, "train"), (2, 0, "test"), (1, 3, "test")]
    rows += [(3, None, "train"), (0, 0, "train")]
    data = build(pl.DataFrame(rows, schema=["user", "item", "part"], orient="row"), name="toy")
    assert pairs_of(data, data.train) == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert pairs_of(data, data.test) == {(2, 0), (1, 3)}
    assert data.user_ids.tolist() == [0, 1, 2, 3]
    assert data.notes == (
        "1 duplicate interactions merged",
        "1 users have no items",
        "1 users are only in test",
        "1 items are only in test",
    )
    assert build(log_of([(0, 0), (0, 1), (1, 1)]), name="toy").notes[0].startswith("1 users have every item in train")


@pytest.mark.robustness
def test_a_pair_in_both_parts_is_an_error_unless_dropped_from_test():
    log = log_of(
        [(0, 0), (0, 1), (0, 0), (0, 2), (1, 1), (1, 1)], part=["train"] * 2 + ["test"] * 2 + ["train", "test"]
    )
    with pytest.raises(DataError, match="2 pairs are in train and in test; remove them, or overlap='drop_test'"):
        build(log, name="toy")
    data = build(log, name="toy", overlap="drop_test")
    assert pairs_of(data, data.test) == {(0, 2)}
    assert "2 pairs that are also in train dropped from test" in data.notes
    assert everything(build(log, name="toy", split="random")) == {(0, 0), (0, 1), (0, 2), (1, 1)}


@settings(deadline=None)
@given(PAIRS, st.lists(st.booleans(), min_size=40, max_size=40))
def test_given_split_with_core_agrees_with_a_slow_loop(pairs, flags):
    train = {pair for pair, flag in zip(pairs, flags, strict=False) if not flag}
    test = {pair for pair, flag in zip(pairs, flags, strict=False) if flag} - train
    core = slow_core(train | test, 2)
    parts = ["test" if flag else "train" for flag in flags[: len(pairs)]]
    if not train & core or not test:
        return
    data = build(log_of(pairs, part=parts), name="toy", split="auto", core=2, overlap="drop_test")
    assert pairs_of(data, data.train) == train & core
    assert pairs_of(data, data.test) == test & core


def test_given_split_needs_a_test_part():
    with pytest.raises(DataError, match="split='given' needs a test part, and there is none; use split='random'"):
        build(log_of([(0, 0)]), name="toy", split="given")
    with pytest.raises(DataError, match="no row is in the test part"):
        build(log_of([(0, 0)], part=["train"]), name="toy", split="given")
    assert len(build(log_of([(0, i) for i in range(5)], part=["train"] * 5), name="toy").test) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_random_split_takes_the_fraction_of_each_user(sizes, fraction):
    pairs = [(user, item) for user, size in enumerate(sizes) for item in range(size)]
    data = build(log_of(pairs), name="toy", test_fraction=fraction)
    for size, held in zip(sizes, data.test.counts.tolist(), strict=True):
        expected = min(max(int(size * fraction + 0.5), 1), size - 1) if size >= 3 else 0
        assert held == expected
    assert any("test part is empty" in note for note in data.notes) == (max(sizes) < 3)


def test_random_split_is_seeded_and_even():
    log = log_of([(user, item) for user in range(2000) for item in range(10)])
    data = build(log, name="toy", seed=3)
    assert data.fingerprint == build(log, name="toy", seed=3).fingerprint
    assert data.fingerprint != build(log, name="toy", seed=4).fingerprint
    assert data.test.counts.unique().tolist() == [2]
    assert (data.test.item_counts - 400).abs().max() < 6 * (2000 * 0.2 * 0.8) ** 0.5  # no place is preferred


@pytest.mark.robustness
def test_timed_splits_take_the_latest_and_break_ties_by_user_then_item():
    rows = [(5, 9, 7.0), (5, 1, 7.0), (5, 4, 2.0), (3, 1, 7.0), (3, 4, 9.0), (4, 1, 9.0)]
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    last = build(log, name="toy", split="leave_last")
    assert pairs_of(last, last.test) == {(5, 9), (3, 4)}  # user 4 has a single item
    data = build(log, name="toy", split="temporal", test_fraction=0.5)
    assert pairs_of(data, data.test) == {(4, 1), (3, 4), (5, 9)}  # of the three at 7.0: the last user, its last item
    days = log.with_columns(timestamp=pl.lit(date(2024, 1, 1)) + pl.duration(days=pl.col("timestamp")))
    assert build(days, name="toy", split="leave_last").fingerprint == last.fingerprint


def test_a_repeated_pair_counts_from_its_earliest_time():
    log = log_of([(0, 0), (0, 1), (0, 0)], timestamp=[1, 5, 9])
    data = build(log, name="toy", split="leave_last")
    assert pairs_of(data, data.test) == {(0, 1)}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=30))
@settings(deadline=None)
def test_timed_splits_agree_with_a_slow_loop(rows):
    earliest = {}
    for user, item, time in rows:
        earliest[user, item] = min(time, earliest.get((user, item), 9))
    ordered = sorted((time, user, item) for (user, item), time in earliest.items())
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    data = build(log, name="toy", split="leave_last")
    owned = Counter(user for user, _ in earliest)
    expected = {user: item for _, user, item in ordered if owned[user] >= 2}  # the last one wins
    assert pairs_of(data, data.test) == set(expected.items())
    data = build(log, name="toy", split="temporal", test_fraction=0.3)
    held = int(len(ordered) * 0.3 + 0.5)
    assert pairs_of(data, data.test) == {row[1:] for row in ordered[len(ordered) - held :]}


@pytest.mark.robustness
@pytest.mark.parametrize("split", ["leave_last", "temporal"])
def test_timed_splits_need_every_timestamp(split):
    log = log_of([(0, 0), (0, 1), (0, 2)])
    with pytest.raises(DataError, match=f"split='{split}' needs timestamps, and the data has none"):
        build(log, name="toy", split=split)
    for gap in (None, float("nan"), float("inf")):
        with pytest.raises(DataError, match="1 rows have no timestamp"):
            build(log.with_columns(timestamp=pl.Series([1.0, gap, 2.0])), name="toy", split=split)
    with pytest.raises(DataError, match="timestamp 'monday' is not a finite number"):
        build(log.with_columns(timestamp=pl.lit("monday")), name="toy", split=split)
    assert build(log.with_columns(timestamp=pl.lit(None)), name="toy").notes  # no other split asks for them


# labels


def test_labels_are_joined_to_row_order():
    labels = pl.DataFrame({"item": [7, 3, 99, 3], "title": ["seven", "three", "nobody's", "again"]})
    data = build(log_of([(0, 3), (0, 5), (1, 7)]), name="toy", labels=labels)
    assert data.labels.columns == ["title"]
    assert data.labels["title"].to_list() == ["three", None, "seven"]
    assert "1 items without labels" in data.notes
    text = labels.with_columns(pl.col("item").cast(pl.String))
    assert build(log_of([(0, 3), (0, 5), (1, 7)]), name="toy", labels=text).labels.equals(data.labels)
    with pytest.raises(DataError, match="labels have no column item"):
        build(log_of([(0, 3)]), name="toy", labels=labels.rename({"item": "id"}))


# protocols


def grid(users: int = 50, items: int = 12) -> Interactions:
    return build(log_of([(u, i) for u in range(users) for i in range(items) if (u + i) % 3 or u % 2]), name="grid")


def test_hold_out_takes_a_part_of_train_and_merge_valid_returns_it():
    data = grid()
    held = hold_out(data, 0.1, seed=1)
    assert held.test == data.test
    assert held.valid.counts.min() >= 1
    assert held.merge_valid().fingerprint == data.fingerprint
    assert not set(held.valid.keys().tolist()) & set(held.train.keys().tolist())
    assert held.fingerprint == hold_out(data, 0.1, seed=1).fingerprint != hold_out(data, 0.1, seed=2).fingerprint
    assert hold_out(held, 0.1, seed=1).fingerprint == held.fingerprint  # starts from all of train each time
    few = build(log_of([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)], part=["train"] * 5), name="few")
    few = replace(few, train=few.train.union(few.test), test=Positives.empty(2, 3))
    assert hold_out(few).valid.counts.tolist() == [0, 1]  # users with fewer than 3 give none


@pytest.mark.robustness
def test_hold_out_settings_are_checked():
    with pytest.raises(ConfigError, match=r"valid_fraction=1\.5: must lie strictly between 0 and 1"):
        hold_out(grid(), 1.5)
    with pytest.raises(ConfigError, match="seed=-1"):
        hold_out(grid(), seed=-1)


def test_paper_protocol_validates_on_test_and_never_trains_on_it():
    data = grid()
    paper = as_paper(hold_out(data))
    assert paper.valid == paper.test == data.test
    assert paper.train == data.train
    with pytest.raises(DataError, match="validation is the test set"):
        paper.merge_valid()
    assert hold_out(paper).test == data.test
    assert not set(hold_out(paper).valid.keys().tolist()) & set(data.test.keys().tolist())


def test_fingerprint_tells_data_apart_and_splits_have_names():
    data = grid()
    assert data.fingerprint == grid().fingerprint
    assert data.fingerprint != replace(data, user_ids=data.user_ids + 1).fingerprint
    assert data.fingerprint != replace(data, train=data.test).fingerprint
    assert data.split("test") is data.test
    with pytest.raises(DataError, match="split='all'"):
        data.split("all")


def test_real_ml_100k_splits(real_data: Path):
    path = real_data / "ml-100k" / "ml-100k.inter"
    log = pl.read_csv(path, separator="\t", new_columns=["user", "item", "rating", "timestamp"])
    data = build(log, name="ml-100k", split="leave_last")
    assert (data.num_users, data.num_items, len(data.train), len(data.test)) == (943, 1682, 99_057, 943)
    liked = build(log, name="ml-100k", min_rating=4, core=5)
    total = liked.train.union(liked.test)
    assert total.counts.min() >= 5
    assert total.item_counts.min() >= 5
    late = build(log, name="ml-100k", split="temporal")
    time = {(user, item): time for user, item, _, time in log.iter_rows()}
    assert len(late.test) == 20_000
    assert max(map(time.get, pairs_of(late, late.train))) <= min(map(time.get, pairs_of(late, late.test)))


# What `min_rating` drops


def rated(rows, **settings) -> Interactions:
    log = pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")
    return build(log, name="rated", **settings)


@pytest.mark.robustness
def test_pairs_below_min_rating_are_kept_as_met() -> None:
    rows = [(user, item, 5) for user in range(4) for item in range(4) if user != item]
    rows += [(0, 0, 2), (1, 1, None), (2, 2, 3), (2, 2, 5)]  # the last pair was liked the second time
    rows += [(0, 9, 1), (8, 0, 1), (0, 0, 1)]  # an item, and a user, that nobody likes or that likes nothing; a repeat
    data = rated(rows, min_rating=4, split="random")
    assert pairs_of(data, data.dropped) == {(0, 0), (1, 1)}
    assert not pairs_of(data, data.dropped) & everything(data)
    assert "2 pairs below min_rating=4 kept as met: never recommended" in data.notes
    kept = hold_out(data, 0.3, seed=1)
    assert kept.dropped == data.dropped and kept.merge_valid().dropped == data.dropped
    assert as_paper(data).dropped == data.dropped
    assert data.fingerprint != replace(data, dropped=None).fingerprint


@pytest.mark.robustness
def test_data_that_lose_nothing_have_the_fingerprint_they_had() -> None:
    rows = [(user, item, 5) for user in range(4) for item in range(4)]
    data = rated(rows, min_rating=4, split="random")
    assert data.dropped is None
    assert data.fingerprint == "8dd7ae5ea91f74c621d6422cc53f31d707cee2b12661fe0775059217c3b4c963"


@pytest.mark.robustness
def test_what_a_given_test_part_drops_stays_unknown() -> None:
    log = log_of([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)], rating=[5, 5, 1, 5, 5, 5, 1]).with_columns(
        part=pl.Series(["train", "test", "test", "train", "train", "train", "train"])
    )
    log = pl.concat([log, log_of([(0, 3)], rating=[5], part=["train"])], how="diagonal_relaxed")
    data = build(log, name="parts", min_rating=4)
    assert pairs_of(data, data.dropped) == {(1, 3)}  # not (0, 2), which happens later
    mixed = build(log, name="parts", min_rating=4, split="random")
    assert pairs_of(mixed, mixed.dropped) == {(0, 2), (1, 3)}


@pytest.mark.robustness
def test_an_unknown_setting_of_build_is_named() -> None:
    with pytest.raises(ConfigError, match="min_ratin: no such setting of build; they are split, "):
        rated([(1, 1, 5)], min_ratin=4)
