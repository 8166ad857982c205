"""What is held out of small data: where nobody has enough, that is said with what helps."""

from __future__ import annotations

import re

import polars as pl
import pytest

from mrl.data import as_paper, build, check_held_out, hold_out
from mrl.data.interactions import Interactions
from mrl.errors import DataError

RANDOM, LAST, TEMPORAL = ({"split": split} for split in ("random", "leave_last", "temporal"))


def users_with(count: int, *, split: str = "random", protocol: str = "honest", **settings) -> Interactions:
    """30 users with so many of 25 items each, in the order of time."""
    pairs = [(user, (user + step * 7) % 25, user * 10 + step) for user in range(30) for step in range(count)]
    log = pl.DataFrame(pairs, schema=["user", "item", "timestamp"], orient="row")
    data = build(log, name="toy", split=split, **settings)
    return as_paper(data) if protocol == "paper" else hold_out(data)


@pytest.mark.robustness
@pytest.mark.parametrize("settings", [RANDOM, LAST, TEMPORAL])
@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_users_with_one_item_each_are_the_reason_and_no_setting_helps(settings: dict, protocol: str) -> None:
    data = users_with(1, **settings, protocol=protocol)
    if settings is TEMPORAL and protocol == "paper":  # all that are tested are new, which is possible
        check_held_out(data, "temporal", protocol)
        return
    with pytest.raises(
        DataError, match=r"^toy: every user has one item, so nothing can be held out for .*user ids are of"
    ):
        check_held_out(data, settings["split"], protocol)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (2, RANDOM, "no user has more than 2 items, where 4 are needed .*split='leave_last'.* and protocol='paper'"),
        (2, LAST, "no user has more than 2 items, where 4 are needed .*give data with more, or protocol='paper'"),
        (2, TEMPORAL, "no user has more than 2 items, where 4 are needed .*or protocol='paper'"),
        (
            2,
            RANDOM | {"protocol": "paper"},
            "where 3 are needed .one for test, two to train on.*or with .*'leave_last'",
        ),
        (3, RANDOM, "no user has more than 3 items, where 4 are needed .*or protocol='paper'"),
        (3, LAST, "no user has more than 3 items, where 4 are needed .*or protocol='paper'"),
        (
            4,
            RANDOM | {"test_fraction": 0.9},
            "'random' leaves no item for validation; split='random' .*test_fraction=0.2",
        ),
        (
            6,
            TEMPORAL | {"test_fraction": 0.001},
            "'temporal' leaves no item for test; split='random' .*test_fraction=0.2",
        ),
    ],
)
def test_the_remedy_for_users_with_few_items_helps(count: int, settings: dict, message: str) -> None:
    protocol = settings.get("protocol", "honest")
    with pytest.raises(DataError, match=message) as caught:
        check_held_out(users_with(count, **settings), settings["split"], protocol)
    assert "\n" not in str(caught.value)
    advised = str(caught.value).split(";")[1]
    found = dict(re.findall(r"(split|protocol)='(\w+)'", advised))
    fraction = {"test_fraction": 0.2} if "test_fraction=0.2" in advised else {}
    followed = settings | found | fraction
    check_held_out(users_with(count, **followed), followed["split"], followed.get("protocol", "honest"))


@pytest.mark.robustness
def test_a_single_user_with_enough_items_is_enough(tmp_path) -> None:
    for count in (4, 25):
        pairs = [(0, step) for step in range(count)] + [(user, user) for user in range(1, 9)]
        data = hold_out(build(pl.DataFrame(pairs, schema=["user", "item"], orient="row"), name="toy"))
        check_held_out(data, "auto", "honest")
        assert (data.valid.counts > 0).sum() == 1


@pytest.mark.robustness
def test_data_at_hand_without_a_validation_part_say_how_to_make_one() -> None:
    data = build(pl.DataFrame({"user": [0] * 9 + [1] * 9, "item": [*range(9)] * 2}), name="toy")
    for protocol, function in (("honest", hold_out), ("paper", as_paper)):
        with pytest.raises(DataError, match=f"validation part is empty; make one by mrl.data.{function.__name__}"):
            check_held_out(data, "auto", protocol)
        check_held_out(function(data), "auto", protocol)
