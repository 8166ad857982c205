"""Tables from Python: every kind that people hold becomes the same log, and the rest is named in one line."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mrl.data import build
from mrl.data.frames import COLUMNS, as_frame
from mrl.errors import DataError

Row, Swapped = namedtuple("Row", "user item"), namedtuple("Swapped", "item user")
PAIRS = [(1, 10), (2, 20)]


@pytest.mark.robustness
@pytest.mark.parametrize(
    "table",
    [
        pl.DataFrame({"user": [1, 2], "item": [10, 20], "other": [object(), None]}),
        pl.LazyFrame({"user": [1, 2], "item": [10, 20]}),
        {"user": [1, 2], "item": (10, 20), "other": [{1}, b"x"]},
        {"user": torch.tensor([1, 2]), "item": pl.Series([10.0, 20.0])},
        PAIRS,
        iter(PAIRS),
        [list(pair) for pair in PAIRS],
        [Row(*pair) for pair in PAIRS],
        [Swapped(item, user) for user, item in PAIRS],
        [{"user": user, "item": item} for user, item in PAIRS],
        np.array(PAIRS),
        np.array(PAIRS, dtype=[("user", "i4"), ("item", "u2")]),
        np.rec.array(PAIRS, dtype=[("user", "i8"), ("item", "i8")]),
        torch.tensor(PAIRS),
    ],
    ids=lambda table: type(table).__name__,
)
def test_a_log_is_read_from_whatever_holds_it(table) -> None:
    assert as_frame(table, "log", COLUMNS).select("user", "item").rows() == PAIRS


@pytest.mark.robustness
def test_logs_of_pandas_and_arrow_are_read() -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"user": [1, 2, None], "item": ["a", "b", "c"], "extra": pd.to_datetime(["2020-01-01"] * 3)})
    frame["rating"] = pd.array([1, None, 3], dtype="Int64")
    expected = [(1, "a", 1), (2, "b", None), (None, "c", 3)]
    for table in (frame, frame.convert_dtypes(), frame.convert_dtypes(dtype_backend="pyarrow")):
        assert as_frame(table, "log", COLUMNS).rows() == expected
    assert as_frame(frame, "labels")["extra"].dtype.is_temporal()
    arrow = pa.table({"user": [1, 2], "item": [10, 20]})
    for table in (arrow, arrow.to_batches()[0], arrow.to_reader()):
        assert as_frame(table, "log", COLUMNS).rows() == PAIRS
    with pytest.raises(DataError, match="two columns of one name"):
        as_frame(pd.concat([frame, frame[["user"]]], axis=1), "log", COLUMNS)
    with pytest.raises(DataError, match="no column user in the log; it has item, extra, rating"):
        as_frame(frame.set_index("user"), "log", COLUMNS)


def test_usual_names_of_columns_are_found_and_noted() -> None:
    for table in (pl.DataFrame({"userId": [1, 2], "movieId": [5, 6]}), {"userId": [1, 2], "movieId": [5, 6]}):
        data = build(table, name="mine")
        assert data.item_ids.tolist() == [5, 6]
        assert "columns found by their usual names: user = userId, item = movieId" in data.notes[0]
    with pytest.raises(DataError, match="no column item in the log; it has user, song_id, artist_id"):
        build({"user": [1], "song_id": [1], "artist_id": [2]}, name="mine")


def test_dates_in_text_are_read_as_those_of_files() -> None:
    log = {"user": [1, 1, 1], "item": [5, 6, 7], "timestamp": ["31/01/2023", "02/02/2023", "01/02/2023"]}
    data = build(log, name="mine", split="leave_last")
    assert [data.item_ids[item] for item in data.test.items.tolist()] == [6]
    for time, words in (("01/02/2023", "no day is beyond 12"), ("soon", "timestamp 'soon' is not a finite number")):
        with pytest.raises(DataError, match=words):
            build(log | {"timestamp": time}, name="mine", split="leave_last")


def test_one_value_stands_for_a_column_and_ids_may_be_text_beside_numbers() -> None:
    log = as_frame({"user": "a new user", "item": [5, "6"], "rating": [1, 2.5]}, "log", COLUMNS)
    assert log.rows() == [("a new user", "5", 1.0), ("a new user", "6", 2.5)]
    assert as_frame([(1, 2, 3, 4.5)], "log", COLUMNS).columns == ["user", "item", "rating", "timestamp"]
    assert as_frame([], "log", COLUMNS).is_empty()


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("clicks.csv", "a str is no log; load_dataset reads files"),
        (Path("clicks.csv"), "load_dataset reads files"),
        (None, "a NoneType is no log; give a polars, pandas or Arrow table"),
        ([1, 2], "row 1 is not"),
        (["ab"], "row 'ab' is not"),
        ([(1, 2), (1, 2, 3)], r"row \(1, 2, 3\) is not"),
        (np.array([1, 2]), r"array of shape \(2,\)"),
        (np.zeros((1, 5)), r"array of shape \(1, 5\)"),
        ({"shop": [1], "item": [2]}, "no column user in the log; it has shop, item"),
        ({"user": [1, 2], "item": [1]}, r"columns of \[1, 2\] values"),
        ({"user": [1, 2], "item": [1, 2], "rating": [1, "good"]}, "column 'rating' is not all of one kind"),
        ({"user": [5000.7], "item": [1]}, r"log: user id 5000\.7 is no whole number"),
        ({"user": [b"a"], "item": [1]}, "log: user id b'a'"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_log_is_named_in_one_line(table, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        as_frame(table, "log", COLUMNS)
    assert "\n" not in str(caught.value)


def test_a_data_set_is_built_of_any_of_them() -> None:
    pairs = [(user, item) for user in range(4) for item in range(user, 6)]
    users, items = (list(side) for side in zip(*pairs, strict=True))
    expected = build(pl.DataFrame({"user": users, "item": items}), name="toy").fingerprint
    for log in (pairs, {"user": users, "item": items}, np.array(pairs)):
        assert build(log, name="toy", labels={"item": [0, 1], "title": ["a", "b"]}).fingerprint == expected
