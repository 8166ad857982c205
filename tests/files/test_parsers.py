"""Parsers: clean files, dirty files that must read the same, and broken files that must say where."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.errors import DataError
from mrl.files.lists import pairs_of, read_numbers
from mrl.files.parsers import read_log

CLEAN = b"0 3 5\n1 3\n7 4 3 2\n"


def write(folder: Path, name: str, body: bytes) -> Path:
    (folder / name).write_bytes(body)
    return folder / name


def fault(read, path: Path, **columns) -> str:
    """The message of the DataError, which must be one line."""
    with pytest.raises(DataError) as caught:
        read(path, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def slow_adjacency(body: bytes) -> list[tuple[int, int | None]]:
    pairs, idle = [], []
    for line in body.decode("utf-8-sig").split("\n"):
        tokens = [int(token) for token in line.split()]
        pairs += [(tokens[0], item) for item in tokens[1:]]
        idle += [(tokens[0], None)] if len(tokens) == 1 else []
    return pairs + idle


@pytest.mark.parametrize(
    "dirty",
    [
        CLEAN.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + CLEAN,
        CLEAN.replace(b" ", b"\t"),
        CLEAN.rstrip(b"\n"),
        CLEAN.replace(b"\n", b"  \n"),
        CLEAN.replace(b"\n", b"\n\n"),
        CLEAN.replace(b"\n", b"\r"),
        b"  " + CLEAN.replace(b" ", b"   "),
        CLEAN.replace(b"5", b"0000000000000000000000005"),
    ],
    ids=["crlf", "bom", "tabs", "no final newline", "trailing", "blank lines", "cr", "wide", "leading zeros"],
)
def test_a_dirty_adjacency_list_reads_as_the_clean_one(tmp_path, dirty):
    clean = read_log(write(tmp_path, "clean.txt", CLEAN))
    assert clean.rows() == [(0, 3), (0, 5), (1, 3), (7, 4), (7, 3), (7, 2)]
    assert clean.schema == {"user": pl.Int64, "item": pl.Int64}
    assert read_log(write(tmp_path, "dirty.txt", dirty)).equals(clean)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 20), min_size=1, max_size=5), min_size=1))
def test_adjacency_against_a_slow_loop(tmp_path, lines):
    body = "\n".join(" ".join(map(str, line)) for line in lines).encode()
    path = write(tmp_path, "a.txt", body)
    assert pairs_of(*read_numbers(path, path)).rows() == slow_adjacency(body)


def test_a_user_without_items_gives_a_row_without_item(tmp_path):
    assert read_log(write(tmp_path, "a.txt", b"4\n5 1\n6 \n")).rows() == [(5, 1), (4, None), (6, None)]


@pytest.mark.parametrize("token", ["-3", "3.5", "x", "1e3", "9223372036854775808", "3,4", "nan", "²"])
def test_a_bad_id_is_named_with_its_line(tmp_path, token):
    path = write(tmp_path, "a.txt", f"0 1 2\r\n\r\n1 2 {token} 4\n".encode())
    message = fault(read_log, path)
    assert message.startswith(f"{path}:3: {token!r}")


def test_one_absurd_id_costs_no_memory(tmp_path):
    assert read_log(write(tmp_path, "a.txt", b"0 1000000000000\n")).rows() == [(0, 10**12)]


@pytest.mark.parametrize("read", [read_log, read_log, read_log, read_log])
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
        (b"PK\x03\x04rest", "unpack"),
        (b"\xff\xfe0\x00 \x001\x00", "UTF-16"),
    ],
)
def test_what_is_not_data_names_the_likely_cause(tmp_path, read, body, cause):
    path = write(tmp_path, "a.txt", body)
    message = fault(read, path)
    assert cause in message and str(path) in message


def test_a_missing_file_is_named(tmp_path):
    assert "gone.txt" in fault(read_log, tmp_path / "gone.txt")


def test_a_million_and_a_half_interactions_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    items = rng.integers(0, 38_000, (30_000, 50))
    body = "\n".join(f"{user} " + " ".join(map(str, row)) for user, row in enumerate(items.tolist()))
    path = write(tmp_path, "big.txt", body.encode())
    start = time.perf_counter()
    log = read_log(path)
    assert time.perf_counter() - start < 10  # about 1 s on one free core
    np.testing.assert_array_equal(log["item"].to_numpy(), items.ravel())


TABLE = b"user,item,rating,timestamp,more\na,1,5,100,x\nb,2,3.5,200,\n"
ROWS = [("a", 1, 5.0, 100.0), ("b", 2, 3.5, 200.0)]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.csv", TABLE),
        ("a.csv", TABLE.replace(b"\n", b"\r\n")),
        ("a.csv", b"\xef\xbb\xbf" + TABLE),
        ("a.csv", TABLE.rstrip(b"\n")),
        ("a.csv", TABLE.replace(b",1,", b", 1 ,").replace(b"user,", b"user ,")),
        ("a.csv", TABLE.replace(b"\n", b"\n\n")),
        ("a.tsv", TABLE.replace(b",", b"\t")),
        ("a.csv", TABLE.replace(b",", b";")),
        ("a.csv", TABLE.replace(b"a,1", b'"a","1"')),
        ("[a]*.csv", TABLE),
    ],
)
def test_a_table_by_named_columns(tmp_path, name, body):
    log = read_log(write(tmp_path, name, body))
    assert log.columns == ["user", "item", "rating", "timestamp"]
    assert log.rows() == ROWS
    assert log.dtypes == [pl.String, pl.Int64, pl.Float64, pl.Int64]


def test_columns_of_other_names(tmp_path):
    path = write(tmp_path, "a.csv", b"userId,movieId,stars,when\n1,10,4,2020-01-01\n2,20,,2020-01-02\n")
    log = read_log(path, user_column="userId", item_column="movieId", rating_column="stars", timestamp_column="when")
    assert log.rows() == [(1, 10, 4.0, datetime(2020, 1, 1)), (2, 20, None, datetime(2020, 1, 2))]
    assert read_log(path, rating_column="", timestamp_column="").columns == ["user", "item"]
    message = fault(read_log, path, user_column="who")
    assert "no column 'who'" in message and "userId, movieId" in message and "user_column" in message


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "20"], [1, 20]),
        (["007", "8"], ["007", "8"]),  # leading zeros belong to the id
        (["0439893577", "B00X"], ["0439893577", "B00X"]),
        (["x", "-5"], ["x", "-5"]),
    ],
)
def test_ids_are_whole_numbers_or_text(tmp_path, ids, expected):
    body = "user,item\n" + "".join(f"{token},1\n" for token in ids)
    assert read_log(write(tmp_path, "a.csv", body.encode()))["user"].to_list() == expected


@pytest.mark.parametrize(
    ("body", "line", "token"),
    [
        (b"user,item\n1,2\n3,-4\n", 3, "'-4'"),
        (b"user,item\n1,2\n3,4.0\n", 3, "'4.0'"),
        (b"user,item\n1,2\n\n3,99999999999999999999\n", 4, "'99999999999999999999'"),
        (b"user,item\n1,2\n3,\n", 3, "missing"),
        (b"user,item\n1,2\n,4\n", 3, "missing"),
        (b"user,item\n1,2\n3,4,5\n", 3, "'3,4,5' has 3 fields"),
        (b"user,item,rating\n1,2,3\n3,4\n", 3, "'3,4' has 2 fields"),
        (b"user,item,rating,more\n1,2,3,\n1,2,3,4,5\n", 3, "'1,2,3,4,5' has 5 fields"),
        (b"user,item,rating\n1,2,3\n3,4,good\n", 3, "'good'"),
        (b"user,item,rating\n1,2,3\n3,4,nan\n", 3, "'nan'"),
        (b"user,item,timestamp\n1,2,3\n3,4,soon\n", 3, "'soon'"),
        (b'user,item\n"a\nb",1\n"c",\n', 4, "missing"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path, body, line, token):
    path = write(tmp_path, "a.csv", body)
    message = fault(read_log, path)
    assert message.startswith(f"{path}:{line}: ") and token in message


@pytest.mark.parametrize("body", [b'user,item\n"a"b",2\nc,3\n', b"user,item\n\xe9,2\n", b"user,item\n"])
def test_other_broken_tables_name_the_file(tmp_path, body):
    path = write(tmp_path, "a.csv", body)
    assert fault(read_log, path).startswith(str(path))


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [5, 3], "timestamp": ["2020-01-01"] * 2})
    frame.with_columns(pl.col("timestamp").str.to_date(), pl.col("user").cast(pl.Categorical)).write_parquet(path)
    assert read_log(path).rows() == [("a", 1, 5.0, datetime(2020, 1, 1)), ("b", 2, 3.0, datetime(2020, 1, 1))]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in fault(read_log, path)


@pytest.mark.parametrize(
    ("ids", "token"),
    [
        ([1, -2], "'-2'"),
        ([1.0, 2.5], "2.5"),
        ([1, None], "missing"),
        (pl.Series([1, 2**63], dtype=pl.UInt64), "'9223"),
    ],
)
def test_parquet_ids_that_are_none(tmp_path, ids, token):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": ids, "item": [1, 2]}).write_parquet(path)
    message = fault(read_log, path)
    assert message.startswith(f"{path}: row ") and token in message


ATOMIC = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t881250949\n2\t20\t4.5\t881250950\n"


@pytest.mark.parametrize("body", [ATOMIC, ATOMIC.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + ATOMIC, ATOMIC.rstrip()])
def test_atomic(tmp_path, body):
    log = read_log(write(tmp_path, "a.inter", body))
    assert log.rows() == [(1, 10, 3.0, 881250949.0), (2, 20, 4.5, 881250950.0)]


def test_atomic_columns_in_any_order_and_with_quotes_as_text(tmp_path):
    body = b'item_id:token\thistory:token_seq\tuser_id:token\n"x\t1 2\tu\ny\t\tv\n'
    assert read_log(write(tmp_path, "a.inter", body)).rows() == [("u", '"x'), ("v", "y")]


@pytest.mark.parametrize(
    ("body", "line", "token"),
    [
        (ATOMIC + b"3\t30\t1\n", 4, "'3\\t30\\t1' has 3 fields"),
        (ATOMIC + b"3\t30\t1\t2\t3\n", 4, "has 5 fields"),
        (ATOMIC + b"3\t-30\t1\t2\n", 4, "'-30'"),
        (ATOMIC + b"3\t30\tgood\t2\n", 4, "'good'"),
        (b"user_id:token\trating:float\n1\t2\n", 1, "no item column"),
    ],
)
def test_a_broken_atomic_file_is_named_with_its_line(tmp_path, body, line, token):
    path = write(tmp_path, "a.inter", body)
    message = fault(read_log, path)
    assert message.startswith(f"{path}:{line}: ") and token in message


def test_movielens(tmp_path):
    rows = [(1, 1193, 5.0, 978300760.0), (2, 661, 3.0, 978302109.0)]
    assert read_log(write(tmp_path, "u.data", b"1\t1193\t5\t978300760\n2\t661\t3\t978302109\n")).rows() == rows
    path = write(tmp_path, "ratings.dat", b"1::1193::5::978300760\n2::661::3::978302109\n")
    assert read_log(path).rows() == rows
    path = write(tmp_path, "ratings.dat", b"1::1193::5::978300760\n2::661::3\n")
    assert fault(read_log, path).startswith(f"{path}:2: '2::661::3' has 3 fields")
    path = write(tmp_path, "ratings.dat", b"1::1193::5::978300760\n2::x y::3::-\n")
    assert fault(read_log, path).startswith(f"{path}:2: timestamp '-'")


def test_the_real_files(real_data):
    log = read_log(real_data / "ml-100k" / "ml-100k.inter")
    assert (len(log), log["user"].n_unique(), log["item"].n_unique()) == (100_000, 943, 1682)
    assert log.row(0) == (196, 242, 3.0, 881250949.0)
    body = (real_data / "ml100k" / "test.txt").read_bytes()
    assert read_log(real_data / "ml100k" / "test.txt").rows() == slow_adjacency(body)
