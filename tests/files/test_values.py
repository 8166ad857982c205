"""Ids, numbers and times: read where they are certain, and named with their row where they are not."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mrl.data import load_dataset
from mrl.errors import DataError
from mrl.files.parsers import read_log
from mrl.files.values import MISSING, OpenDates, to_ids, to_numbers, to_times


def table(folder: Path, **columns) -> Path:
    """A CSV of these columns; user and item are numbers where they are not given."""
    length = len(next(iter(columns.values())))
    frame = pl.DataFrame({"user": range(length), "item": range(length)} | columns, strict=False)
    frame.write_csv(folder / "log.csv")
    return folder / "log.csv"


def refusal(path: Path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WORDS = "nan NaN NULL null None NA N/A \\N <NA> #N/A undefined"


@pytest.mark.parametrize("word", [*WORDS.split(), ""])
@pytest.mark.parametrize("side", ["user", "item"])
def test_among_numbers_the_words_for_nothing_are_missing_ids(tmp_path, word, side):
    ids = [str(number) for number in range(40)]
    ids[3] = ids[7] = word
    message = refusal(table(tmp_path, **{side: ids}))
    assert message.startswith(f"{tmp_path / 'log.csv'}:5: {side} is missing")
    assert "here and in 1 more rows" in message and (repr(word) in message or not word)


def test_among_text_they_count_as_ids_with_a_note(tmp_path):
    assert "nan" in MISSING
    data = load_dataset(table(tmp_path, user=["ann", "nan", "bob", "nan"]))
    assert data.user_ids.tolist() == ["ann", "bob", "nan"]
    assert "user 'nan', in 2 rows, counts as an id; remove them if it means none" in data.notes


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([5, 7]).cast(pl.Decimal(38, 0)), [5, 7]),
        (pl.Series([Decimal("5.00"), Decimal("7.00")]), [5, 7]),
        (pl.Series([5.0, 7.0]), [5, 7]),
        (pl.Series([5.0, 7.0], dtype=pl.Float32), [5, 7]),
        (pl.Series(["5.0", "7.0"]), [5, 7]),
        (pl.Series([b"a", b"b"]), ["a", "b"]),
        (pl.Series([b"5", b"7"]), [5, 7]),
        (pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])), ["x", "y"]),
        (pl.Series([2**53 + 1, 2**63 - 1]), [2**53 + 1, 2**63 - 1]),
    ],
    ids=["DECIMAL(38,0)", "decimals", "floats", "float32", "text of floats", "bytes", "digits", "enum", "past 2^53"],
)
def test_ids_of_any_type_that_holds_them_exactly(tmp_path, ids, expected):
    read, is_bad = to_ids(ids)
    assert read.to_list() == expected and not is_bad.any()
    pl.DataFrame({"user": ids, "item": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet")["user"].to_list() == expected


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (pl.Series([5.0, None, 7.0]), "row 2: user is missing"),
        (pl.Series([5.0, float("nan"), 7.0]), "row 2: user is missing (nan)"),
        (pl.Series([5.0, 7.5, 8.0]), "row 2: user '7.5' (of type Float64) is not an id"),
        (pl.Series([5.0, 2.0**53, 8.0]), "row 2: user '9007199254740992.0' (of type Float64) is not an id"),
        (pl.Series([Decimal(1), Decimal(10**30), Decimal(2)]), f"row 2: user '{10**30}' (of type Decimal"),
        (pl.Series([1, 2**63, 2], dtype=pl.UInt64), "row 2: user '9223372036854775808' (of type UInt64) is not an id"),
        (pl.Series([True, False, True]), "row 1: user 'True' (of type Boolean) is not an id"),
        (pl.Series(["1", "2.5", "3"]), "row 2: user '2.5' is not an id"),
    ],
)
def test_ids_that_are_none_are_named_with_type_and_row(tmp_path, ids, words):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": ids, "item": [1, 2, 3]}).write_parquet(path)
    assert f"{path}: {words}" in refusal(path)


def order(path: Path) -> list[int]:
    """Which item of the one user counts as the last, and which before."""
    data = load_dataset(path, split="leave_last")
    return [int(data.item_ids[int(data.test.items[0])])]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["31/01/2023", "01/02/2023"], [(2023, 1, 31), (2023, 2, 1)]),
        (["01/31/2023", "02/01/2023"], [(2023, 1, 31), (2023, 2, 1)]),
        (["31.1.2023 23:10", "1.2.2023 04:05:06"], [(2023, 1, 31, 23, 10), (2023, 2, 1, 4, 5, 6)]),
        (["1/31/2023 1:05 PM", "2/1/2023 12:05 AM"], [(2023, 1, 31, 13, 5), (2023, 2, 1, 0, 5)]),
        (["31-01-2023", "01-02-2023"], [(2023, 1, 31), (2023, 2, 1)]),
        (["2023/01/31", "2023/02/01"], [(2023, 1, 31), (2023, 2, 1)]),
        (["2023.01.31", "2023.2.1"], [(2023, 1, 31), (2023, 2, 1)]),
        (["2023-01-31T10:00:00+02:00", "2023-01-31T10:00:00Z"], [(2023, 1, 31, 8), (2023, 1, 31, 10)]),
        (["2023-01-31 10:00:00.25", "2023-01-31 10:00"], [(2023, 1, 31, 10, 0, 0, 250000), (2023, 1, 31, 10)]),
        (["09 13, 2014", "01 2, 2015"], [(2014, 9, 13), (2015, 1, 2)]),
        (["31-Jan-2023", "1 February 2023"], [(2023, 1, 31), (2023, 2, 1)]),
        (["Jan 31, 2023", "Feb 1, 2023 10:00"], [(2023, 1, 31), (2023, 2, 1, 10)]),
        (
            ["Tue Apr 03 18:00:09 +0000 2012", "Wed Apr 04 18:00:00 +0100 2012"],
            [(2012, 4, 3, 18, 0, 9), (2012, 4, 4, 17)],
        ),
        (["Mon, 02 Jan 2006 15:04:05 GMT", "Tue, 03 Jan 2006 00:00:00 GMT"], [(2006, 1, 2, 15, 4, 5), (2006, 1, 3)]),
        (["05/05/2023", "06/06/2023"], [(2023, 5, 5), (2023, 6, 6)]),  # either way the same
    ],
)
def test_dates_that_settle_their_order_are_read(texts, expected):
    times, is_bad = to_times(pl.Series(texts))
    assert times.to_list() == [datetime(*moment) for moment in expected] and not is_bad.any()


@pytest.mark.parametrize("separator", ["/", "-", "."])
@pytest.mark.parametrize("clock", ["", " 10:00"])
def test_dates_that_leave_day_and_month_open_are_refused(tmp_path, separator, clock):
    days = "01 02", "02 01", "03 12", "12 03"
    dates = [f"{day} 2023".replace(" ", separator) + clock for day in days]
    path = table(tmp_path, user=[1] * 4, item=range(4), timestamp=dates)
    for split in ("leave_last", "temporal"):
        message = refusal(path, split=split)
        assert f"{dates[0]!r} may be 2023-02-01 or 2023-01-02, since no day is beyond 12" in message
        assert "write dates as 2023-01-31" in message
    assert len(load_dataset(path, split="random").train) > 0, "nobody asked for the times"
    with pytest.raises(OpenDates, match="some days come first, some second"):
        to_times(pl.Series(["31/01/2023", "01/31/2023"]))
    with pytest.raises(OpenDates, match="a year of two digits"):
        to_times(pl.Series(["31/01/23", "01/02/23"]))


@pytest.mark.parametrize(
    "times",
    [
        [638_000_000_000_000_002, 638_000_000_000_000_001, 638_000_000_000_000_003, 638_000_000_000_000_000],  # .NET
        [1_700_000_000_000_000_002, 1_700_000_000_000_000_001, 1_700_000_000_000_000_003, 1_700_000_000_000_000_000],
        [*(f"2023-01-31 10:00:00.00000000{nano}" for nano in (2, 1, 3)), "2023-01-31"],
        pl.Series(["02", "01", "03", "00"]).cast(pl.Categorical),
        pl.Series(["2023-01-02", "2023-01-01", "2023-01-03", "2022-01-01"]).cast(pl.Categorical),
        pl.Series([2, 1, 3, 0], dtype=pl.Int64).cast(pl.Datetime("ns")),
        pl.Series([2, 1, 3, 0], dtype=pl.Int64).cast(pl.Datetime("us", "Europe/Berlin")),
        pl.Series([Decimal(f"638000000000000{n}") for n in (502, 501, 503, 500)]),
    ],
    ids=["ticks", "nanoseconds", "text", "numbers as categories", "categories", "ns", "zone", "decimals"],
)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_times_keep_their_order(tmp_path, times, suffix):
    frame = pl.DataFrame({"user": [1] * 4, "item": [10, 11, 12, 13], "timestamp": times})
    path = tmp_path / f"log.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
    assert order(path) == [12]


def test_dates_in_one_part_and_numbers_in_the_other_are_refused(tmp_path):
    (tmp_path / "train.csv").write_text("user,item,timestamp\n1,2,2023-01-31\n1,3,2023-01-30\n")
    (tmp_path / "test.csv").write_text("user,item,timestamp\n1,4,1700000000\n")
    assert "write them alike" in refusal(tmp_path, split="leave_last")
    assert len(load_dataset(tmp_path).test) == 1


def test_columns_that_nobody_needs_need_not_parse(tmp_path):
    path = table(tmp_path, user=[1, 1, 2], item=[1, 2, 1], rating=["4,5", "like", "?"], timestamp=["soon", "", "x"])
    data = load_dataset(path)
    assert len(data.train) + len(data.test) == 3
    assert refusal(path, min_rating=1).startswith(f"{path}:3: rating 'like' is not a finite number")
    assert refusal(path, split="leave_last").startswith(f"{path}:2: timestamp 'soon' is not a finite number or a date")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["4,5", "3", "0,5"], [4.5, 3, 0.5]),
        (["-1,25", "1,234"], [-1.25, 1.234]),
        (["4.5", "3"], [4.5, 3]),
    ],
)
def test_decimal_commas_of_spreadsheets(tmp_path, texts, expected):
    assert to_numbers(pl.Series(texts))[0].to_list() == expected
    rows = "".join(f"{user};{user};{text}\n" for user, text in enumerate(texts))
    (tmp_path / "log.csv").write_text(f"Kunde;Artikel;Sterne\n{rows}")
    columns = {"user_column": "Kunde", "item_column": "Artikel", "rating_column": "Sterne"}
    assert read_log(tmp_path / "log.csv", **columns)["rating"].to_list() == expected


@pytest.mark.parametrize("texts", [["1,234", "2"], ["4,5", "4.5"], ["1.234,5", "2"]])
def test_commas_that_may_mean_thousands_are_refused(tmp_path, texts):
    assert "rating" in refusal(table(tmp_path, rating=texts), min_rating=1)


def test_parquet_as_spark_pandas_and_duckdb_write_it(tmp_path):
    """Their types: text as bytes, ids as floats beside a missing rating, nanoseconds, dictionaries, decimals."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 600), rng.integers(0, 80, 600)
    moments = pl.Series(np.arange(600) * 10**9 + 1_700_000_000 * 10**9).cast(pl.Datetime("ns"))
    texts = [b"u%d" % user for user in users]
    codes = pl.Series(items).cast(pl.String).cast(pl.Categorical)
    whole = pl.Series(users).cast(pl.Decimal(38, 0))
    stars = pl.Series([4] * 600).cast(pl.Decimal(3, 1))
    frames = {
        "spark": pl.DataFrame({"user_id": texts, "item_id": items.astype(np.int32), "rating": stars}),
        "pandas": pl.DataFrame({"userId": users.astype(float), "movieId": items, "rating": stars, "time": moments}),
        "duckdb": pl.DataFrame({"customer": whole, "sku": codes, "rating": stars}),
    }
    for name, frame in frames.items():
        path = tmp_path / f"{name}.parquet"
        frame.write_parquet(path)
        data = load_dataset(path, min_rating=1, **({"split": "leave_last"} if name == "pandas" else {}))
        assert (data.num_users, data.num_items) == (50, 80), name
