"""Which column is what: usual names, names that are given, and what is left open."""

from __future__ import annotations

import re

import polars as pl
import pytest
from logs import lines, pairs, ratings, refusal, write

from mrl.data import load_dataset
from mrl.errors import ConfigError
from mrl.files.parsers import read_log


def test_one_column_for_both_sides_is_refused(tmp_path):
    path = write(tmp_path / "log.csv", "user,item\n1,2\n")
    with pytest.raises(ConfigError, match=r"item_column='user': is user_column too"):
        load_dataset(path, user_column="user", item_column="user")
    assert "cannot be both user and item" in refusal(path, user_column="item")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("user_id,item_id", ("user_id", "item_id")),
        ("userId,movieId", ("userId", "movieId")),
        ("Customer ID,StockCode", ("Customer ID", "StockCode")),
        ("reviewerID,asin", ("reviewerID", "asin")),
        ("uid,iid", ("uid", "iid")),
        ("User-ID,ISBN", ("User-ID", "ISBN")),
        ("household_id,product_id", ("household_id", "product_id")),
        ("visitorid,itemid", ("visitorid", "itemid")),
        ("user,artist_id,item", ("user", "item")),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "inter"])
def test_usual_names_are_found_and_noted(tmp_path, header, found, suffix):
    names = header.split(",")
    frame = pl.DataFrame({name: [f"{name}{row}" for row in range(4)] for name in names})
    path = tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "csv":
        frame.write_csv(path)
    else:
        frame.rename(lambda name: f"{name}:token").write_csv(path, separator="\t")
    data = load_dataset(path)
    assert pairs(data) == set(frame.select(found).rows())
    plain = ("user", "item", *(("userid", "itemid") if suffix == "inter" else ()))
    decided = [name for name in found if re.sub(r"[^a-z]", "", name.lower()) not in plain]
    notes = " ".join(note for note in data.notes if "usual names" in note)
    assert all(f"= {name}" in notes for name in decided)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("user,song_id,artist_id", "item may be song_id or artist_id; set item_column"),
        ("who,what", "no user column; its columns are who, what; set user_column"),
        ("user,what", "no item column; its columns are user, what; set item_column"),
        ("user,item,user", "user may be user or user"),
    ],
)
def test_columns_that_are_left_open_are_refused(tmp_path, header, words):
    width = header.count(",") + 1
    assert words in refusal(write(tmp_path / "log.csv", f"{header}\n" + ",".join("abc"[:width]) + "\n"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "inter", "folder"])
def test_columns_are_named_in_every_format_that_has_names(tmp_path, kind):
    rows = [(user, item, stars, time) for user, item, stars, time in ratings()]
    frame = pl.DataFrame(rows, schema=["who", "what", "worth", "at"], orient="row")
    path = tmp_path / f"log.{kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "csv":
        frame.write_csv(path)
    elif kind == "inter":
        frame.rename(lambda name: f"{name}:{'token' if name.startswith('wh') else 'float'}").write_csv(
            path, separator="\t"
        )
    else:
        write(path / "part-0.csv", frame[:90].write_csv())
        write(path / "part-1.csv", frame[90:].write_csv())
    names = {"user_column": "who", "item_column": "what", "rating_column": "worth", "timestamp_column": "at"}
    data = load_dataset(path, min_rating=4, split="leave_last", **names)
    assert pairs(data) == {row[:2] for row in rows if row[2] >= 4}
    assert "no column 'nope'" in refusal(path, **names | {"rating_column": "nope"})


def test_a_column_that_is_left_alone_is_not_looked_at(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,rating,timestamp\n1,2,0,soon\n1,3,like,later\n")
    assert read_log(path, rating_column="", timestamp_column="").columns == ["user", "item"]
    assert not any("rated 0" in note for note in load_dataset(path, rating_column="").notes)
    assert "rated 0 or less" in " ".join(load_dataset(path).notes)
    assert "min_rating=1 needs numeric ratings" in refusal(path, min_rating=1, rating_column="")


@pytest.mark.parametrize(
    ("values", "remedy"), [((-1, 1), "min_rating=1"), ((0, 1), "min_rating=1"), ((0, 0.5), "min_rating=0.5")]
)
@pytest.mark.parametrize("kind", ["csv", "inter", "label"])
def test_rows_rated_nothing_or_less_are_counted_in_a_note(tmp_path, values, remedy, kind):
    rows = [(user, item, values[stars > 2], time) for user, item, stars, time in ratings()]
    header = (
        "user,item,rating,timestamp" if kind == "csv" else "user_id:token,item_id:token,rating:float,timestamp:float"
    )
    if kind == "label":
        header = header.replace("rating", "label")
    separator = "," if kind == "csv" else "\t"
    path = write(tmp_path / f"log.{kind}", header.replace(",", separator) + "\n" + lines(rows, separator))
    low = sum(row[2] <= 0 for row in rows)
    note = f"{low} of {len(rows)} rows are rated 0 or less and count as positives; {remedy} leaves them out"
    assert note in load_dataset(path).notes
    data = load_dataset(path, min_rating=values[1])
    assert pairs(data) == {row[:2] for row in rows if row[2] > 0}
    assert not any("rated 0" in text for text in data.notes)
