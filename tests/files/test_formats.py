"""What is in a file, told by its content: what settles it is read, and what does not is refused in one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import TIME, lines, pairs, ratings, refusal, write

from mrl.data import load_dataset, sniff
from mrl.errors import DataError
from mrl.files.parsers import read_log


@pytest.mark.parametrize("name", ["u1.base", "u.data", "ua.test", "m.test.rating", "ratings.txt", "log", "ratings.dat"])
@pytest.mark.parametrize("separator", ["\t", " "])
def test_a_table_of_ratings_is_not_taken_for_adjacency_lists(tmp_path, name, separator):
    rows = ratings()
    path = write(tmp_path / name, lines(rows, separator))
    data = load_dataset(path, split="leave_last")
    assert pairs(data) == {row[:2] for row in rows} and data.num_users == 30
    assert any("without a header line" in note and "timestamp" in note for note in data.notes)
    latest = {user: item for user, item, *_ in rows}
    users = data.test.users.tolist()
    assert {data.user_ids[u]: data.item_ids[i] for u, i in zip(users, data.test.items.tolist(), strict=True)} == latest


@pytest.mark.parametrize("columns", [(0, 1, 2), (0, 1, 3)], ids=["rating", "time"])
def test_three_numbers_a_line_are_read_as_what_they_are(tmp_path, columns):
    rows = [tuple(row[place] for place in columns) for row in ratings()]
    data = load_dataset(write(tmp_path / "ratings.txt", lines(rows, " ")), min_rating=None)
    assert pairs(data) == {row[:2] for row in rows}
    if columns[-1] == 2:
        data = load_dataset(tmp_path / "ratings.txt", min_rating=4)
        assert pairs(data) == {row[:2] for row in rows if row[2] >= 4}


@pytest.mark.parametrize("rating", [0.5, 4.5])
def test_half_stars_are_no_ids_either(tmp_path, rating):
    rows = [(user, item, stars - rating + int(rating), time) for user, item, stars, time in ratings()]
    assert pairs(load_dataset(write(tmp_path / "ratings.txt", lines(rows)))) == {row[:2] for row in rows}


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 10, 5), (1, 20, 3), (2, 10, 4)],  # too few to tell
        [(user, item, item % 7 * 15) for user, item, *_ in ratings()],  # a third column of other values than the second
        [(user, item, 1000 + stars, 3, 4) for user, item, stars, _ in ratings()],
        [(user, stars, stars) for user, _, stars, _ in ratings()],
        [(user, item, 1, 2, 3) for user, item, *_ in ratings()],
    ],
    ids=["few", "per cent", "five", "small catalogue", "constant"],
)
def test_what_may_be_lists_or_columns_is_refused_with_the_remedy(tmp_path, rows):
    path = write(tmp_path / "log.txt", lines(rows, " "))
    message = refusal(path)
    assert "may" in message or "user and" in message
    assert "header line" in message and "one `user item` pair a line" in message
    header = message.split("such as '")[1].split("'")[0]
    data = load_dataset(write(tmp_path / "log.txt", f"{header}\n{lines(rows, ' ')}"))
    assert pairs(data) == {row[:2] for row in rows}, "the remedy works"
    as_lists = [(row[0], item) for row in rows for item in row[1:]]
    assert pairs(load_dataset(write(tmp_path / "log.txt", lines(as_lists, " ")))) == set(as_lists)


@pytest.mark.parametrize(
    "body",
    [
        "0 5\n0 7\n1 5\n1 9\n0 5\n",  # one item a line, users repeated, as SASRec's sets have it
        "0 5 7\n1 5\n0 9 11 12\n",  # users repeated
        "0 1 2\n1 2 3\n2 1 3\n",  # all of one length
        lines([(user, *np.random.default_rng(user).choice(300, 3, replace=False)) for user in range(100)], " "),
        lines([(user, *sorted(np.random.default_rng(user).choice(9000, 2))) for user in range(2000)], " "),
        lines([(user % 9, *np.random.default_rng(user).choice(40, 2, replace=False)) for user in range(100)], " "),
        "1 5\n2 3 4\n3 1\n",
    ],
    ids=["pairs", "repeated", "few", "one length", "sorted", "windows", "nearly counted"],
)
def test_true_lists_load_as_before(tmp_path, body):
    expected = {(int(user), int(item)) for user, *items in map(str.split, body.splitlines()) for item in items}
    data = load_dataset(write(tmp_path / "lists.txt", body))
    assert pairs(data) == expected and "adjacency lists" in data.notes[0]


def test_lists_that_start_with_their_length_are_read_by_line(tmp_path):
    dice = random.Random(0)
    lists = [dice.sample(range(500), dice.randint(0, 9)) for _ in range(200)]
    path = write(tmp_path / "users.dat", "".join(" ".join(map(str, (len(items), *items))) + "\n" for items in lists))
    data = load_dataset(path)
    assert pairs(data) == {(user, item) for user, items in enumerate(lists) for item in items}
    assert data.num_users == 200 and "start with their length" in data.notes[0]
    message = refusal(write(tmp_path / "few.txt", "1 5\n2 3 4\n3 1 2 5\n"))
    assert "lengths or users" in message and "pair a line" in message


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("196,242,3,881250949\n186,302,3,891717742\n", "user,item,rating,timestamp"),
        ("196;242\n186;302\n", "user;item"),
        ("A1YJ,B003,5.0,1378857600\nA2,B4,3.0,1378857601\n", "user,item,rating,timestamp"),
        ("u1\ti9\t5\t2020-01-02\nu2\ti8\t4\t2020-01-03\n", "user\\titem\\trating\\ttimestamp"),
        ("1|24|M|technician|85711\n", "user|item|rating"),
        ("1::F::1::10::48067\n", "user::item"),
        ("x 1 2\n3 4 5\n", "user item rating"),
        ("ann\tmatrix\nann\talien\nbob\tmatrix\n", "user\\titem"),
    ],
    ids=["commas", "semicolons", "amazon", "text", "u.user", "users.dat", "words", "text pairs"],
)
def test_a_table_without_a_header_is_told_what_to_put_on_top(tmp_path, body, shown):
    for name in ("log.csv", "log.txt"):
        path = write(tmp_path / name, body)
        first = body.split("\n")[0].split("," if "," in body else "\t")[0]
        for settings in ({}, {"user_column": first}):
            message = refusal(path, **settings)
            assert f"{path}:1: " in message and "no header line" in message and shown in message, message


@pytest.mark.parametrize("name", ["clicks.csv", "clicks.txt", "user_ratedmovies.dat", "clicks", "clicks.tsv"])
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::", "  "])
def test_a_headed_table_is_read_whatever_it_is_called(tmp_path, name, separator):
    rows = [(f"u{user}", item, stars) for user, item, stars, _ in ratings()]
    path = write(tmp_path / name, lines([("userID", "movieID", "rating"), *rows], separator))
    data = load_dataset(path, min_rating=3)
    assert pairs(data) == {row[:2] for row in rows if row[2] >= 3}
    note = "columns found by their usual names: user = userID, item = movieID; set user_column, item_column if"
    assert any(note in text for text in data.notes)


COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize(
    "body", [lines(ratings()), "user,item\na,1\nb,2\n", "0 1 2\n5 2\n"], ids=["ratings", "csv", "lists"]
)
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip", "zst"])
def test_compressed_text_is_read(tmp_path, kind, body):
    plain = load_dataset(write(tmp_path / "plain" / "log.csv", body))
    path = tmp_path / f"log.csv.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("in/log.csv", body)
            archive.writestr("__MACOSX/._log.csv", b"\0")
    elif kind == "zst":
        pl.DataFrame({"line": body.splitlines()}).write_csv(
            path, include_header=False, quote_style="never", compression="zstd"
        )
    else:
        path.write_bytes(COMPRESS[kind](body.encode()))
    data = load_dataset(path)
    assert data.fingerprint == plain.fingerprint and data.name == "log"
    (tmp_path / "whole").mkdir()
    path.rename(tmp_path / "whole" / path.name)
    if not body.startswith("0"):
        assert load_dataset(tmp_path / "whole").fingerprint == plain.fingerprint


def test_archives_that_leave_it_open_or_grow_beyond_bounds_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "user,item\n1,2\n")
        archive.writestr("b.csv", "user,item\n1,2\n")
    assert "2 files (a.csv, b.csv)" in refusal(path)
    assert "truncated" in refusal(write(tmp_path / "half.csv.gz", gzip.compress(b"user,item\n1,2\n" * 99)[:-20]))
    monkeypatch.setattr("mrl.files.content.MOST_UNPACKED", 1000)
    bomb = write(tmp_path / "bomb.csv.gz", gzip.compress(b"user,item\n" + b"1,2\n" * 200_000))
    assert "unpacks to more than" in refusal(bomb)
    pl.DataFrame({"line": ["1,2"] * 500_000}).write_csv(tmp_path / "bomb.zst", include_header=False, compression="zstd")
    assert "unpacks to more than" in refusal(tmp_path / "bomb.zst")


FRAME = pl.DataFrame(
    [(f"u{user}", item, stars, time) for user, item, stars, time in ratings()],
    schema=["user", "item", "rating", "timestamp"],
    orient="row",
)


@pytest.mark.parametrize(
    "names",
    [
        ("part-00000-1f0c.c000.csv", "part-00001-1f0c.c000.csv", "part-00002-1f0c.c000.csv"),  # Spark
        ("part-00000-1f0c.snappy.parquet", "part-00001-1f0c.snappy.parquet", "part-00002-1f0c.snappy.parquet"),
        ("part.0.parquet", "part.1.parquet", "part.2.parquet"),  # dask
        ("data_0.parquet", "data_1.parquet", "data_2.parquet"),  # DuckDB
        ("000000000000.csv", "000000000001.csv", "000000000002.csv"),  # BigQuery
        ("year=2023/part-0.parquet", "year=2024/part-0.parquet", "year=2025/part-0.parquet"),  # hive
        ("part-0.csv.gz", "part-1.csv.gz", "part-2.csv.gz"),
        tuple(f"train-0000{number}-of-00003.parquet" for number in range(3)),  # Hugging Face
    ],
    ids=["spark csv", "spark", "dask", "duckdb", "bigquery", "hive", "gz", "hugging face"],
)
def test_the_parts_of_one_table_are_read_together(tmp_path, names):
    folder = tmp_path / "clicks.parquet"
    for name, start in zip(names, range(0, 180, 60), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = FRAME[start : start + 60]
        if "parquet" in name:
            part.write_parquet(path)
        else:
            write(path, gzip.compress(part.write_csv().encode()) if name.endswith("gz") else part.write_csv())
    write(folder / "_SUCCESS", "")
    write(folder / f".{Path(names[0]).name}.crc", b"crc\0")
    write(folder / "items.csv", "item,title\n" + "".join(f"{item},Film {item}\n" for item in range(200)))
    data = load_dataset(folder, min_rating=3, split="leave_last")
    assert pairs(data) == set(FRAME.filter(pl.col("rating") >= 3).select("user", "item").rows())
    assert data.labels["title"][3] == f"Film {data.item_ids[3]}" and data.name == "clicks.parquet"
    assert "3 parts of" in data.notes[0]
    if "-of-" in names[0]:
        return
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.rename(outside / "train.parquet")  # a folder that is called as a file, as Spark leaves it
    assert pairs(load_dataset(outside)) == set(FRAME.select("user", "item").rows())


def test_faults_of_parts_are_named_where_they_are(tmp_path):
    for number in range(2):
        write(tmp_path / f"part-{number}.csv", FRAME[number * 60 : number * 60 + 60].write_csv())
    write(tmp_path / "part-3.csv", "user,item,rating,timestamp\n1,2,3,4\n5,,3,4\n")
    write(tmp_path / "part-2.csv", "")  # Spark leaves empty ones
    assert refusal(tmp_path).startswith(f"{tmp_path / 'part-3.csv'}:3: item is missing")
    write(tmp_path / "part-3.csv", "user,item,score\n1,2,3\n")
    assert "parts of one table have the same columns" in refusal(tmp_path)
    for number in (0, 2):
        FRAME.write_parquet(write(tmp_path / "hf" / f"train-{number:05}-of-00003.parquet", ""))
    assert "2 of 3 parts of train are here" in refusal(tmp_path / "hf")
    for name in ("a.csv", "b.csv"):
        write(tmp_path / "two" / name, "user,item\n1,2\n")
    assert "which file? There is a.csv, b.csv" in refusal(tmp_path / "two"), "not every folder is one table"


def test_folders_that_name_a_column_give_it(tmp_path):
    for user in ("ann", "bob"):
        write(tmp_path / f"user={user}" / "part-0.csv", "item\n1\n2\n")
    assert pairs(load_dataset(tmp_path, user_column="user", item_column="item")) == {
        (user, item) for user in ("ann", "bob") for item in (1, 2)
    }


def test_train_and_test_as_they_lie_about(tmp_path):
    rows = ratings()
    write(tmp_path / "ncf" / "m.train.rating", lines(rows))
    write(tmp_path / "ncf" / "m.test.rating", lines([(user, 500 + user, 4, TIME + 10**6) for user in range(1, 31)]))
    write(tmp_path / "ncf" / "m.test.negative", "(0,25)\t1064\t174\n")
    data = load_dataset(tmp_path / "ncf")
    assert len(data.train) == len(rows) and len(data.test) == 30
    for part in ("train", "test"):
        part_rows = rows if part == "train" else [(user, 500 + user, 4, TIME) for user in range(1, 31)]
        frame = pl.DataFrame(part_rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
        for number, half in enumerate((frame[: len(frame) // 2], frame[len(frame) // 2 :])):
            half.write_parquet(write(tmp_path / "hf" / f"{part}-{number:05}-of-00002.parquet", ""))
            write(tmp_path / "spark" / part / f"part-{number}.csv", half.write_csv())
    for folder in ("hf", "spark"):
        data = load_dataset(tmp_path / folder)
        assert (len(data.train), len(data.test)) == (len(rows), 30), folder


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"user": 1, "item": 2}\n', "JSON records"),
        (b'[{"user": 1}]', "JSON records"),
        (b"ARROW1\0\0", "Arrow"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"SQLite format 3\0", "SQLite"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x89HDF\r\n", "HDF5"),
        (gzip.compress(b"PAR1", mtime=0), "compressed Parquet"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, body, words):
    for name in ("log.csv", "log"):
        assert words in refusal(write(tmp_path / name, body))


def test_sniff_explains_itself(tmp_path):
    body = lines([("userId", "movieId", "rating"), (1, 2, 3)], ",")
    assert str(sniff(write(tmp_path / "a.csv", body))) == (
        "a.csv: a table with a header line, apart by commas, columns userId, movieId, rating; line 1 names a user and "
        "an item column"
    )
    found = sniff(write(tmp_path / "b.csv", lines(ratings())))
    assert (found.kind, found.separator, found.columns) == ("ratings", "\t", ("user", "item", "rating", "timestamp"))
    assert "without a header line, apart by tabs, columns user, item, rating, timestamp; every line has 4" in str(found)
    assert sniff(write(tmp_path / "c.csv", "0 1 2\n1 3\n")).kind == "lists"
    FRAME.write_parquet(tmp_path / "d.csv")
    assert sniff(tmp_path / "d.csv").kind == "parquet", "its content tells, not its name"
    command = "from mrl.data import sniff; print(sniff('a.csv'))"
    told = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(sniff(tmp_path / "a.csv")) == load_dataset(tmp_path / "a.csv").notes[0][5:]
    with pytest.raises(DataError, match="cannot be read"):
        sniff(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="without parts of one table"):
        sniff(tmp_path)


def test_the_real_layouts_load_as_they_lie(tmp_path, real_data):
    """ml-100k in the layouts of other projects, with the counts that their files have."""
    log = read_log(real_data / "ml-100k" / "ml-100k.inter")
    rows = log.with_columns(pl.col("rating").cast(pl.Int64)).rows()
    fold = [row for number, row in enumerate(rows) if number % 5]  # as u1.base: four fifths, of all users
    data = load_dataset(write(tmp_path / "u1.base", lines(fold)))
    assert (data.num_users, len(data.train) + len(data.test)) == (943, 80_000)
    sasrec = sorted(rows, key=lambda row: (row[0], row[3]))
    data = load_dataset(write(tmp_path / "ml-100k.txt", lines([row[:2] for row in sasrec], " ")))
    assert (data.num_users, data.num_items, len(data.train) + len(data.test)) == (943, 1682, 100_000)
    hetrec = [("userID", "movieID", "rating", "date_day"), *((*row[:3], 9) for row in rows)]
    data = load_dataset(write(tmp_path / "user_ratedmovies.dat", lines(hetrec)))
    assert (data.num_users, data.num_items, len(data.train) + len(data.test)) == (943, 1682, 100_000)
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    frame.with_columns(pl.col("user_id").cast(pl.Float64), pl.col("item_id").cast(pl.Decimal(38, 0))).write_parquet(
        tmp_path / "log.parquet"
    )
    data = load_dataset(tmp_path / "log.parquet")
    assert (data.num_users, data.num_items, data.item_ids.dtype) == (943, 1682, np.int64)
    lists: dict[int, list[int]] = {}
    for user, item, *_ in rows:
        lists.setdefault(user, []).append(item)
    path = write(tmp_path / "users.dat", lines([(len(items), *items) for items in lists.values()], " "))
    assert (load_dataset(path).num_users, load_dataset(path).num_items) == (943, 1682)
