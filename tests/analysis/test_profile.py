"""What is recommended, to whom it is of use and what it costs: constructed cases with a known answer."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mrl.analysis.profile import (
    ACTIVITY,
    CLASSES,
    POPULARITY,
    accuracy_by_activity,
    add_share_kept,
    classify_popularity,
    describe_accuracy,
    describe_cost,
    describe_groups,
    describe_lists,
    describe_oracle,
    find_oracle_widths,
    group_by_activity,
    known_positives,
    measure_exposure,
    profile_lists,
    vector_costs,
)
from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.errors import RunError
from mrl.evaluation.evaluate import evaluate


def interactions(train: list[list[int]], test: list[list[int]], num_items: int) -> Interactions:
    """A data set from the items of each user."""
    parts = []
    for split in (train, test):
        pairs = [(user, item) for user, items in enumerate(split) for item in items]
        users, items = zip(*pairs, strict=True) if pairs else ((), ())
        parts.append(Positives.from_pairs(users, items, len(train), num_items))
    ids = (np.arange(len(train)), np.arange(num_items))
    return Interactions("made", parts[0], Positives.empty(len(train), num_items), parts[1], *ids)


def random_data(seed: int = 0, users: int = 23, items: int = 30) -> Interactions:
    part = np.random.default_rng(seed).choice(3, size=(users, items), p=[0.6, 0.25, 0.15])
    part[0] = 1  # has every item: not in test
    part[1, 2:] = 1
    part[1, :2] = 2  # two items are left to recommend
    train, test = (Positives.from_pairs(*np.nonzero(part == value), users, items) for value in (1, 2))
    ids = (np.arange(users), np.arange(items))
    return Interactions("random", train, Positives.empty(users, items), test, *ids)


def test_known_is_train_and_valid_but_never_test() -> None:
    data = random_data()
    assert known_positives(data) == data.train == known_positives(as_paper(data))
    held = hold_out(data, 0.3, seed=0)
    assert len(held.train) < len(data.train) and known_positives(held) == data.train


def test_activity_quartiles_of_one_to_eight_items() -> None:
    data = interactions([list(range(count)) for count in range(1, 9)], [[9]] * 8, 10)
    table = group_by_activity(data)
    assert table["group"].unique(maintain_order=True).to_list() == [
        "Q1 (1–2 items)",
        "Q2 (3–4 items)",
        "Q3 (5–6 items)",
        "Q4 (7–8 items)",
    ]
    assert table["user"].to_list() == list(range(8))


def test_users_with_equally_many_items_share_a_group_and_users_without_test_items_have_none() -> None:
    data = interactions([[0], [0], [0], [0, 1, 2], [0]], [[5], [5], [5], [5], []], 6)
    assert group_by_activity(data).rows() == [
        (0, "Q1 (1 items)"),
        (1, "Q1 (1 items)"),
        (2, "Q1 (1 items)"),
        (3, "Q4 (3 items)"),
    ]


def test_accuracy_by_activity_is_the_mean_of_each_group() -> None:
    data = interactions([[0], [0], [0, 1, 2, 3], [0, 1, 2, 3]], [[5]] * 4, 6)
    rows = [(user, width, "recall", 2, user / 4 * width) for width in (1, 2) for user in range(4)]
    per_user = pl.DataFrame(rows, schema=["user", "width", "metric", "k", "value"], orient="row")
    table = accuracy_by_activity(per_user.cast({"user": pl.Int32}), data)
    assert table.rows() == [
        (ACTIVITY, "Q1 (1 items)", 1, "recall", 2, 2, 0.125),
        (ACTIVITY, "Q1 (1 items)", 2, "recall", 2, 2, 0.25),
        (ACTIVITY, "Q3 (4 items)", 1, "recall", 2, 2, 0.625),
        (ACTIVITY, "Q3 (4 items)", 2, "recall", 2, 2, 1.25),
    ]


def test_popularity_classes_take_a_fifth_then_three_tenths() -> None:
    counts = [3, 9, 1, 2, 2, 8, 0, 2, 1, 5]
    train = [[item for item in range(10) if counts[item] > user] for user in range(9)]
    classes = classify_popularity(known_positives(interactions(train, [[6]] * 9, 10)).item_counts.numpy())
    assert [CLASSES[kind] for kind in classes] == [
        *("middle", "head", "tail", "middle", "tail", "head", "tail", "tail", "tail", "middle")
    ]


def test_popularity_classes_are_cut_at_a_fifth_and_a_half() -> None:
    classes = classify_popularity(np.arange(10)[::-1])
    assert [CLASSES[kind] for kind in classes] == ["head"] * 2 + ["middle"] * 3 + ["tail"] * 5


def test_profile_agrees_with_a_slow_loop() -> None:
    data, k, widths = random_data(), 4, (1, 2, 5)
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 5, generator=generator) for n in (data.num_users, data.num_items))
    table, groups = profile_lists(users, items, data, widths=widths, k=k)

    counts = data.train.item_counts.numpy()
    classes = classify_popularity(counts)
    for width in widths:
        shown, recalls = np.zeros(data.num_items), {kind: [] for kind in range(3)}
        for user in range(data.num_users):
            wanted = set(data.test.of(user).tolist())
            if not wanted:
                continue
            scores = (users[user, :width].double() @ items[:, :width].double().T).numpy()
            left = [item for item in np.argsort(-scores) if item not in set(data.train.of(user).tolist())]
            shown[left[:k]] += 1
            for kind in range(3):
                if relevant := {item for item in wanted if classes[item] == kind}:
                    recalls[kind].append(len(relevant & set(left[:k])) / len(relevant))
        rows = table.filter(pl.col("width") == width)
        expected = measure_exposure(shown, counts, data.num_users)
        assert dict(rows.select("metric", "value").iter_rows()) == pytest.approx(expected)
        part = groups.filter(pl.col("width") == width)
        assert part["group"].to_list() == list(CLASSES) and set(part["grouping"]) == {POPULARITY}
        assert part["users"].to_list() == [len(recalls[kind]) for kind in range(3)]
        assert part["value"].to_list() == pytest.approx([np.mean(recalls[kind]) for kind in range(3)])


def test_profile_of_a_class_nobody_wants_has_no_row_for_it() -> None:
    data = interactions([[0], [0, 1], [0]], [[1], [2], [1]], 10)
    _, groups = profile_lists(torch.ones(3, 1), torch.ones(10, 1), data, widths=(1,), k=2)
    assert groups["group"].to_list() == ["head", "middle"]


def test_profile_refuses_vectors_of_other_data() -> None:
    with pytest.raises(RunError, match="vectors of 3 users and 10 items do not fit random"):
        profile_lists(torch.ones(3, 1), torch.ones(10, 1), random_data(), widths=(1,), k=2)


def test_exposure_of_all_items_alike() -> None:
    metrics = measure_exposure(np.full(8, 5), np.full(8, 4), 16)
    assert metrics == {"coverage": 1.0, "gini": 0.0, "novelty": 2.0, "popularity": 4.0}


def test_exposure_of_one_item_and_by_hand() -> None:
    metrics = measure_exposure(np.array([0, 6, 0, 0]), np.array([1, 8, 1, 0]), 8)
    assert metrics == {"coverage": 0.25, "gini": 0.75, "novelty": 0.0, "popularity": 8.0}
    # sorted 1, 3: mean absolute difference 1 over twice the mean 2
    assert measure_exposure(np.array([3, 1]), np.array([1, 1]), 4)["gini"] == pytest.approx(0.25)
    # an item that nobody has counts as if one of the 4 users had it
    assert measure_exposure(np.array([1, 1]), np.array([0, 2]), 4)["novelty"] == pytest.approx((2 + 1) / 2)


def accuracy(values: dict[int, float], trained: tuple[int, ...] = ()) -> pl.DataFrame:
    rows = [(width, width in (trained or values), "recall", 20, value) for width, value in values.items()]
    return add_share_kept(pl.DataFrame(rows, schema=["width", "trained", "metric", "k", "value"], orient="row"))


def test_share_kept_is_that_of_the_widest() -> None:
    assert accuracy({4: 0.1, 64: 0.4, 8: 0.3})["kept"].to_list() == pytest.approx([0.25, 1, 0.75])
    assert accuracy({4: 0.1, 8: 0.0})["kept"].to_list() == [None, None]


def by_user(values: list[list[float]], widths: tuple[int, ...] = (2, 4, 8)) -> pl.DataFrame:
    rows = [
        (user, width, "recall", 20, value)
        for user, figures in enumerate(values)
        for width, value in zip(widths, figures, strict=True)
    ]
    return pl.DataFrame(rows, schema=["user", "width", "metric", "k", "value"], orient="row")


def test_oracle_takes_the_narrowest_of_the_best_widths() -> None:
    per_user = by_user([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.3]])
    for table in (find_oracle_widths(per_user), find_oracle_widths(per_user.reverse())):
        assert table.columns == ["width", "users", "share", "value", "full"]
        assert table.rows() == [
            (2, 1, 0.25, 0.5, 0.0),
            (4, 0, 0.0, None, None),
            (8, 2, 0.5, 0.9, 0.9),
            (None, 1, 0.25, 0.3, 0.3),
        ]


def test_oracle_on_planted_tastes() -> None:
    """Users whose taste is in the second column are misled by it missing; the others by its being there."""
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.5]])
    users = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    data = interactions([[], []], [[0], [1]], 3)
    result = evaluate(users, items, data, widths=(1, 2), ks=(1,), per_user=True)
    assert find_oracle_widths(result.per_user).select("width", "users").rows() == [(1, 0), (2, 1), (None, 1)]


def test_cost_of_float32_vectors() -> None:
    assert vector_costs((4, 64), 2**18).rows() == [(4, 16, 4.0, 2**20), (64, 256, 64.0, 2**24)]


def test_accuracy_in_words() -> None:
    text = describe_accuracy(accuracy({4: 0.1, 8: 0.19, 16: 0.2}))
    assert text == "The first 4 of 16 dimensions keep 50 % of recall@20 (0.1000 of 0.2000); 95 % is reached at width 8."
    text = describe_accuracy(accuracy({4: 0.1, 8: 0.27, 16: 0.3, 64: 0.25}, trained=(4, 16, 64)))
    assert "The highest is at width 16 (0.3000), not at the full one." in text
    assert text.endswith("(8) are at most 35 % off the line through their neighbours (width 8, above it).")
    assert describe_accuracy(accuracy({4: 0.1})) == ""


def test_groups_in_words() -> None:
    rows = [("head", 2, 0.2), ("head", 8, 0.4), ("tail", 2, 0.0), ("tail", 8, 0.0)]
    table = pl.DataFrame(rows, schema=["group", "width", "value"], orient="row")
    table = table.with_columns(grouping=pl.lit(POPULARITY), metric=pl.lit("recall"), k=pl.lit(20))
    assert describe_groups(table, POPULARITY) == (
        "Recall@20 by item popularity at width 8, and how much of it width 2 has: head 0.4000 (50 %) and tail 0.0000."
    )
    assert describe_groups(table, ACTIVITY) == ""


def test_lists_in_words() -> None:
    figures = {"coverage": (0.25, 0.5), "gini": (0.9, 0.8), "novelty": (2.0, 3.0), "popularity": (2000.0, 1500.0)}
    rows = [(w, metric, v) for metric, pair in figures.items() for w, v in zip((4, 64), pair, strict=True)]
    table = pl.DataFrame(rows, schema=["width", "metric", "value"], orient="row")
    assert describe_lists(table) == (
        "From width 4 to width 64: 25 % and 50 % of the items are recommended to anybody, the Gini index of exposure "
        "is 0.90 and 0.80, a recommended item has 2,000 and 1,500 interactions on average and a novelty of 2.00 and "
        "3.00 bits. The wide lists are less popular by 25 %."
    )
    level = table.with_columns(value=pl.when(pl.col("metric") == "popularity").then(1.0).otherwise("value"))
    assert describe_lists(level).endswith("Wider lists are as popular as narrow ones.")


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("narrow", "wide", "words"),
    [(0.0, 0.0, "Wider lists are as popular as narrow ones."), (0.0, 2.0, "The wide lists are more popular.")],
)
def test_lists_of_items_that_nobody_has_in_words(narrow: float, wide: float, words: str) -> None:
    rows = [(width, metric, 0.5) for width in (2, 4) for metric in ("coverage", "gini", "novelty")]
    rows += [(2, "popularity", narrow), (4, "popularity", wide)]  # one user: who has met the listed items is nobody
    table = pl.DataFrame(rows, schema=["width", "metric", "value"], orient="row")
    assert describe_lists(table).endswith(words)


def test_oracle_in_words_is_called_an_upper_bound() -> None:
    per_user = by_user([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.3]])
    assert describe_oracle(find_oracle_widths(per_user)) == (
        "25 % of users get the same recall@20 at every width. Of the other 3, the largest group, 67 %, is best served "
        "by width 8. Were each user's best width known beforehand, recall@20 would be 0.6500 instead of 0.5250 at "
        "width 8: an upper bound, picked with the test items known, and partly luck."
    )
    narrow = describe_oracle(find_oracle_widths(by_user([[0.5, 0.5, 0.0], [0.5, 0.1, 0.1], [0.0, 0.0, 1.0]])))
    assert "the largest group, 67 %, is best served by width 2 already; 33 % need the full width 8. Were" in narrow
    assert describe_oracle(find_oracle_widths(by_user([[1, 1, 1]]))) == (
        "Every width gives each of the 1 users the same recall@20."
    )


def test_cost_in_words() -> None:
    table = accuracy({4: 0.1, 8: 0.19, 16: 0.2}).join(vector_costs((4, 8, 16), 1000), on="width")
    assert describe_cost(table) == (
        "At full width a vector takes 64 bytes (all items: 0.06 MiB) and a query 16,000 multiply-adds; width 4 takes "
        "16 bytes an item and 4,000 multiply-adds a query for 50 % of the accuracy and width 8 takes 32 bytes an item "
        "and 8,000 multiply-adds a query for 95 % of the accuracy."
    )
