"""Bad and odd files, from the bytes on the disk to the numbers at the end."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest
import torch
from mirror import TEST, TRAIN, body, in_cache, refusal
from settings import train_config

from mrl import evaluate, fit
from mrl.data import datasets, downloads
from mrl.data.downloads import fetch
from mrl.data.holdout import as_paper
from mrl.errors import LONGEST, ConfigError, DataError, MRLError, RunError
from mrl.files.labels import read_movies
from mrl.files.parsers import read_log
from mrl.files.tables import check_parquet

SMALL = {"recipe": "mrl4rec", "widths": (2,), "epochs": 2, "eval_every": 1, "protocol": "paper", "device": "cpu"}
WIDE = b"0 " + b" ".join(b"%d" % item for item in range(30)) + b"\n"  # validation looks at lists of 20
LINES = b"0 1 2 3\n1 0 2\n2 3\n", b"0 0\n1 1 3\n2 0\n"


def folder(path, train: bytes, test: bytes | None = None):
    path.mkdir()
    (path / "train.txt").write_bytes(train)
    if test is not None:
        (path / "test.txt").write_bytes(test)
    return path


@pytest.mark.parametrize(
    "dirt",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b" ", b"\t"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"\n", b" \t \n\n"),
    ],
    ids=["crlf", "bom", "tabs", "no final newline", "trailing spaces"],
)
def test_a_dirty_folder_loads_as_the_clean_one(tmp_path, dirt):
    clean = datasets.load_dataset(folder(tmp_path / "clean", *LINES))
    dirty = datasets.load_dataset(folder(tmp_path / "dirty", *map(dirt, LINES)))
    assert dirty.fingerprint == clean.fingerprint and dirty.notes == clean.notes


def test_the_cold_are_counted_and_scored_alike_at_every_width(tmp_path):
    train, test = b"0 0 1 2\n1 1 2\n2\n3 0\n", b"0 4\n1 0\n2 1 4\n4 2\n"
    data = datasets.load_dataset(folder(tmp_path / "cold", train, test))
    assert {"2 users are only in test", "1 items are only in test"} <= set(data.notes)
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(data.num_users, 4, generator=generator),
        torch.randn(data.num_items, 4, generator=generator),
    )
    result = evaluate(users, items, data, widths=(1, 2, 4), ks=(1, data.num_items), per_user=True)
    asked = (data.test.counts > 0).nonzero().flatten().tolist()
    for width in (1, 2, 4):  # the same users at every width, the cold among them and those without test items not
        assert sorted(result.per_user.filter(width=width)["user"].unique().to_list()) == asked
        assert result.value(f"recall@{data.num_items}", width) == 1.0  # a cold item is ranked like any other


def test_a_number_of_thousands_of_digits_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"0 1\n0 " + b"9" * 5000 + b"\n")
    with pytest.raises(DataError, match=rf"{path}:2: '9+' is not an id") as caught:
        read_log(path)
    assert len(str(caught.value)) < 300
    path.write_bytes(b"0 " + b"0" * 5000 + b"7\n")
    assert read_log(path).rows() == [(0, 7)]
    movies = tmp_path / "movies.dat"
    movies.write_bytes(b"99999999999999999999::Film (1999)::Drama\n")
    with pytest.raises(DataError, match=rf"{movies}:1: "):
        read_movies(movies)


MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
COLUMNS = {
    "int8": (pl.Series([1, 2], dtype=pl.Int8), "user item rating timestamp"),
    "int16": (pl.Series([1, 2], dtype=pl.Int16), "user item rating timestamp"),
    "int32": (pl.Series([1, 2], dtype=pl.Int32), "user item rating timestamp"),
    "uint8": (pl.Series([1, 2], dtype=pl.UInt8), "user item rating timestamp"),
    "uint64": (pl.Series([1, 2**64 - 1], dtype=pl.UInt64), "rating timestamp"),
    "int128": (pl.Series([1, 2], dtype=pl.Int128), "user item rating timestamp"),
    "negative": ([1, -1], "rating timestamp"),
    "text": (["x", "y"], "user item"),
    "categories": (pl.Series(["1", "2"], dtype=pl.Categorical), "user item rating timestamp"),
    "decimals": ([Decimal("1.5"), Decimal(2)], "rating timestamp"),
    "floats": ([1.0, 2.0], "user item rating timestamp"),
    "nan": ([1.0, float("nan")], ""),
    "inf": ([1.0, float("inf")], ""),
    "null": ([None, None], "rating timestamp"),
    "booleans": ([True, False], "rating timestamp"),
    "dates": ([date(2020, 1, 1)] * 2, "timestamp"),
    "a far date": (pl.Series([2**31 - 1] * 2, dtype=pl.Int32).cast(pl.Date), "timestamp"),
    "moments": ([MOMENT] * 2, "timestamp"),
    "milliseconds": (pl.Series([MOMENT] * 2, dtype=pl.Datetime("ms", "UTC")), "timestamp"),
    "hours": ([time(1)] * 2, ""),
    "durations": ([timedelta(1)] * 2, ""),
    "bytes of text": ([b"1", b"2"], "user item rating timestamp"),
    "bytes": ([b"\xff", b"\xfe"], ""),
    "lists": ([[1], [2]], ""),
    "arrays": (pl.Series([[1], [2]], dtype=pl.Array(pl.Int64, 1)), ""),
    "structs": ([{"a": 1}] * 2, ""),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_parquet_columns_of_any_type_are_read_or_named(tmp_path, kind, monkeypatch, record_property):
    monkeypatch.setattr("mrl.files.formats.check_parquet", lambda *paths: None)  # they are whole, and it takes time
    values, fits = COLUMNS[kind]
    path = tmp_path / "a.parquet"
    for role in ("user", "item", "rating", "timestamp"):
        pl.DataFrame(
            {"user": [1, 2], "item": [1, 2], "rating": [1, 2], "timestamp": [1, 2]} | {role: values}
        ).write_parquet(path)
        if role in fits.split():
            assert len(datasets.load_dataset(path, split="random").train) == 2
        else:
            with pytest.raises(DataError, match=rf"{path}: row [12]: {role} .*\(column '{role}'\)$"):
                read_log(path)
    if kind in ("dates", "moments", "milliseconds"):
        assert read_log(path)["timestamp"].to_list() == [MOMENT.replace(tzinfo=None)] * 2
    record_property("bad inputs", 4)


def test_a_damaged_parquet_file_never_takes_the_process_down(tmp_path):
    buffer = io.BytesIO()
    pl.DataFrame({"user": range(50), "item": range(50)}).write_parquet(buffer)
    content = buffer.getvalue()
    for name, damaged in (
        ("half", content[: len(content) // 2]),
        ("middle", content[:100] + b"\xff" * 60 + content[160:]),
    ):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path}: not a whole Parquet file \(.+\); probably a truncated copy"):
            read_log(path)
    path.write_bytes(content)
    check_parquet(path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="its pages are damaged"):
        patch.setattr("mrl.files.tables.sys.executable", "/bin/sh")  # sh -c 'import …' dies as polars does: by a signal
        patch.setattr("mrl.files.tables.DECODE", "kill -6 $$")
        check_parquet(path)


def test_one_absurd_id_costs_nothing_from_file_to_recommendation(tmp_path):
    data = datasets.load_dataset(folder(tmp_path / "absurd", WIDE + b"1000000000000 2 1000000000000\n7 1\n", b"7 2\n"))
    assert (data.num_users, data.num_items) == (3, 31)
    run = fit(train_config(run_dir=str(tmp_path / "run"), **SMALL), as_paper(data), progress=False)
    assert 10**12 in run.recommend([7], k=31)["item"].to_list()


def test_a_catalogue_shorter_than_the_lists_is_refused_before_anything_is_written(tmp_path):
    data = as_paper(datasets.load_dataset(folder(tmp_path / "short", b"0 1 2\n1 2 3\n", b"0 3\n")))
    with pytest.raises(DataError, match="short: 3 items, where validation by lists of 20 needs at least 20"):
        fit(train_config(run_dir=str(tmp_path / "run"), **SMALL), data, progress=False)
    assert not (tmp_path / "run").exists()


def test_duplicates_are_merged_and_counted(tmp_path):
    data = datasets.load_dataset(folder(tmp_path / "twice", b"0 1 1 2\n0 2 3\n1 1 1 1\n", b"1 2 2\n"))
    assert [len(data.train), len(data.test)] == [4, 1]
    assert any("5" in note and ("merged" in note or "duplicate" in note) for note in data.notes), data.notes


def test_a_user_who_has_everything_is_reported_and_training_ends(tmp_path):
    data = datasets.load_dataset(folder(tmp_path / "full", WIDE + b"1 0 1\n2 2 3\n3 1 3\n", b"1 2\n2 0\n3 0\n"))
    assert "1 users have every item in train and give no training triplet" in data.notes
    run = fit(train_config(run_dir=str(tmp_path / "run"), **SMALL), as_paper(data), progress=False)
    assert run.users.isfinite().all() and run.recommend([0], k=30).is_empty()


def test_redirects_are_followed_checked_and_not_for_ever(server):
    def redirect(target: str):
        def answer(handler):
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer

    server.answers["/moved"] = [body(b"<!DOCTYPE html><title>Log in</title>")]
    server.answers["/tool/train.txt"] = [redirect("/moved")]
    assert "web page" in refusal()
    server.answers["/tool/train.txt"] = [redirect("/tool/train.txt")]
    assert "TooManyRedirects" in refusal()
    server.answers["/moved"] = [body(TRAIN)]
    server.answers["/tool/train.txt"] = [redirect("/moved")]
    fetch("tool")
    assert in_cache() == {"train.txt": TRAIN, "test.txt": TEST}


def test_what_is_cached_loads_offline(server, monkeypatch):
    fetch("tool")
    server.http.shutdown()
    server.http.server_close()
    assert len(datasets.load_dataset("tool").train) == 3
    (downloads.cache_folder() / "tool" / "train.txt").unlink()
    with pytest.raises(DataError, match="put train"):
        datasets.load_dataset("tool")


def test_every_error_is_one_line_of_bounded_length():
    for kind in (DataError, ConfigError, RunError):
        assert issubclass(kind, MRLError) and str(kind("a\r\nb\u2028c")) == "a b c"
        assert len(str(kind("x" * 10**6))) == LONGEST
        assert kind("what")._render_traceback_() == [f"{kind.__name__}: what"]
