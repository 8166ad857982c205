"""The sentences follow from the table, whichever way it falls."""

from __future__ import annotations

import polars as pl
from levels_tables import kept_table

from mrl.levels.sentences import describe_levels

COARSE = {"depth_1": 0.8, "depth_2": 0.4, "depth_3": 0.2}
FLAT = dict.fromkeys(COARSE, 0.5)


def test_coarse_first_with_and_without_nesting() -> None:
    kept, without, adds, *rest = describe_levels(kept_table({"default": COARSE, "svd": COARSE, "ials": FLAT}))
    assert kept.startswith("Coarse comes first: of what all 64 dimensions of the default recipe know above chance")
    assert kept.endswith("the first 4 keep 80 %, 40 % and 20 % of depths 1, 2 and 3 (5, 5 and 5 classes) on d.")
    assert without.startswith("That takes no nesting: the same order holds for SVD (truncated), no level of which was")
    assert "SVD (truncated) keeps 80 %, 40 % and 20 % of depths 1, 2 and 3 on d." in without
    assert adds.endswith("the default recipe on d in 0 and 0 of 3.") and not rest


def test_where_it_is_not_so_that_is_said() -> None:
    kept, without, *_ = describe_levels(kept_table({"default": FLAT, "svd": COARSE}))
    assert kept.startswith("Coarse does not come first everywhere: ")
    assert without.startswith("Without nesting the order is another; SVD (truncated) keeps 80 %, 40 %")
    kept, without, *_ = describe_levels(kept_table({"default": COARSE, "svd": FLAT}))
    assert kept.startswith("Coarse comes first") and without.startswith("Without nesting the order is another")


def test_what_nesting_adds_is_counted_by_intervals() -> None:
    table = kept_table({"default": COARSE, "mrl4rec": COARSE, "svd": COARSE})
    ahead = {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.15}
    behind = {"difference": -0.1, "difference_low": -0.15, "difference_high": -0.05}
    columns = [
        pl.when(model="default", label="depth_1")
        .then(ahead[name])
        .when(model="mrl4rec")
        .then(behind[name])
        .otherwise(pl.col(name))
        .alias(name)
        for name in ahead
    ]
    adds = next(
        text for text in describe_levels(table.with_columns(columns)) if text.startswith("What does nesting add")
    )
    assert adds.endswith("the default recipe on d in 1 and 0 of 3; MRL4Rec (MNS) on d in 0 and 3 of 3.")


def test_what_is_known_of_users() -> None:
    users = kept_table({"default": {"activity": 0.5}}).with_columns(side=pl.lit("users"))
    assert describe_levels(users) == [
        "On d a user's nearest neighbours at width 4 and at 64 share its activity 30 % and 50 % (chance 10 %)."
    ]


def test_nothing_to_say_is_no_sentence() -> None:
    assert describe_levels(kept_table({"svd": COARSE})) == []
    assert describe_levels(kept_table({"default": COARSE}).clear()) == []
