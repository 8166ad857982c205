"""Random bytes and mutated files for everything that reads one: data comes out, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import io
import random
import resource
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.data import datasets
from mrl.data.downloads import extract
from mrl.data.interactions import Interactions, Positives
from mrl.errors import DataError, MRLError, RunError
from mrl.evaluation.evaluate import evaluate
from mrl.files import formats, labels, parsers
from mrl.runs import RunDirectory, environment, load

SECONDS, MEBIBYTES = 10, 512  # that one case may take, and that all together may add
TOKENS = (
    b"\0", b"\xff", b"\r", b"\n", b",", b"\t", b'"', b"::", b"|", b" ", b"-1", b"0x1", b"1_0", b"1e400", b"nan", b"inf",
    b"9" * 19, b"9" * 25, b"9" * 5000, b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xd9\xa3", b"\xc2\xb2", b"item_id:token",
    b"user", b"item", b"(9999)", b"1960-02-30", b"<html>", b"{", b"]", b"null", b"01/02/2023", b"1,234", b";", b"NaN",
    b"5.0", b"9007199254740993",
)  # fmt: skip


def mutated(dice: random.Random, content: bytes) -> bytes:
    """A few changes: bits and bytes flipped, stretches cut, doubled, replaced by awkward tokens; or cut off short."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.choice([1, 1, 2, 5, 20, 200]))
        change = dice.randrange(7)
        if change == 0 and data:
            data[start % len(data)] ^= 1 << dice.randrange(8)
        elif change == 1 and data:
            data[start % len(data)] = dice.randrange(256)
        elif change == 2:
            del data[start:end]
        elif change == 3:
            data[start:start] = data[start:end]
        elif change == 4:
            data[start:start] = dice.choice(TOKENS)
        elif change == 5:
            data[start:end] = dice.choice(TOKENS)
        elif dice.random() < 0.5:
            del data[start:]
    return bytes(data)


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def archive(name: str = "", content: bytes = b"") -> bytes:
    """A zip with one file, or with two in a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        members = {name: content} if name else {"in/train.txt": b"0 1 2\n1 0\n" * 5, "in/other.txt": b"x"}
        for member, inside in members.items():
            file.writestr(member, inside)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    buffer = io.BytesIO()
    lines = pl.DataFrame({"line": content.decode().splitlines()})
    lines.write_csv(buffer, include_header=False, quote_style="never", compression="zstd")
    return buffer.getvalue()


def unpack(path: Path) -> None:
    out = path.parent / "out"
    out.mkdir(exist_ok=True)
    extract(path, {"in/train.txt": "train.txt"}, out)
    assert {file.name for file in out.iterdir()} == {"train.txt"}


ADJACENCY = b"0 3 5\n1 3\n7 4 3 2\n12\n"
CSV = b'user,item,rating,timestamp,more\na,1,5,2020-01-02,x\nb,2,3.5,2020-01-01,\n"c ""d",3,,,y\n'
INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t881250949\n2\t20\t4.5\t881250950\n"
ITEM = (
    b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\n10\tA B\t1999\tx y\t2\n"
)
FLAGS = (
    b"1|Toy Story (1995)|01-Jan-1995||http://x" + b"|0" * 18 + b"|1\n2|Golden (1995)|01-Jan-1995||" + b"|1" * 19 + b"\n"
)
TABLE = pl.DataFrame({"user": ["a", "b", "c"], "item": [1, 2, 3], "rating": [1.0, 2.0, None]})
RATINGS = b"".join(
    b"%d\t%d\t%d\t%d\n" % (row % 5 + 1, row * 7 % 90 + 20, row % 5 + 1, 881250949 + row) for row in range(25)
)
COUNTED = b"2 5 7\n1 9\n3 4 5 6\n2 1 9\n"
DATES = b"userId;movieId;rating;date\n1;10;4,5;31/01/2023 10:00\n2;20;3;01/02/2023\n3;30;;13.12.2022\n"
HEADED = b"userID\tmovieID\trating\n75\t3\t1\n78\t32\t4.5\n"
FLOATS = pl.DataFrame({"uid": [1.0, 2.0, 3.0], "sku": [b"a", b"b", b"c"], "label": [0, 1, 1], "ts": [2**60, 1, 2]})


def everything(path: Path) -> pl.DataFrame:
    """A log of which every column counts."""
    return parsers.read_log(path)


def timed(path: Path) -> Interactions:
    return datasets.load_dataset(path, split="leave_last", min_rating=1)


def part(path: Path) -> Interactions:
    """The folder of a file, which is one of the parts of a table there."""
    (path.parent / "part-1.csv").write_bytes(b"user,item,rating\na,5,2\nq,6,\n")
    return datasets.load_dataset(path.parent)


def labelled(path: Path) -> Interactions:
    """The log beside a table of items."""
    (path.parent / "log.csv").write_bytes(b"user,item\n1,01\n2,02\n3,01\n")
    return datasets.load_dataset(path.parent / "log.csv")


# Name and reader of a file, its content, and how many cases of a thousand: Parquet is decoded in a process of its own.
KINDS: tuple[tuple[str, Callable[[Path], object], bytes, int], ...] = (
    ("train.txt", everything, ADJACENCY, 140),
    ("folder/train.txt", datasets.load_dataset, ADJACENCY, 60),
    ("a.inter", everything, INTER, 140),
    ("b.inter", datasets.load_dataset, INTER, 60),
    ("a.item", labels.read_atomic_items, ITEM, 90),
    ("a.csv", everything, CSV, 140),
    ("b.csv", datasets.load_dataset, CSV, 60),
    ("a.tsv", everything, CSV.replace(b",", b"\t"), 50),
    ("u.data", everything, b"1\t1193\t5\t978300760\n2\t661\t3\t978302109\n", 60),
    ("ratings.dat", everything, b"1::1193::5::978300760\n2::661::3::978302109\n", 60),
    ("movies.dat", labels.read_movies, b"1::Toy Story (1995)::Animation|Comedy\n2::Jumanj\xe9 (1995)::Drama\n", 40),
    ("u.item", labels.read_movies, FLAGS, 40),
    ("items.csv", labels.read_item_table, b"item,title,genres,year\n1,A,x|y,1999\n2,B,,\n", 40),
    ("a.zip", unpack, archive(), 15),
    ("a.parquet", everything, parquet(TABLE), 3),
    ("items.parquet", labels.read_item_table, parquet(TABLE), 2),
    ("u1.base", everything, RATINGS, 110),
    ("m.test.rating", timed, RATINGS, 60),
    ("blanks.txt", formats.sniff, RATINGS.replace(b"\t", b" "), 110),
    ("users.dat", everything, COUNTED, 110),
    ("dates.csv", everything, DATES, 140),
    ("timed.csv", timed, DATES, 60),
    ("headed.dat", everything, HEADED, 110),
    ("colons.txt", datasets.load_dataset, HEADED.replace(b"\t", b"::"), 60),
    ("parts/part-0.csv", part, b"user,item,rating\na,1,5\nb,2,\n", 60),
    ("shop/items.csv", labelled, b"sku;name;price\n01;A;1,5\n02;B;2\n1;C;3\n", 60),
    ("a.csv.gz", everything, gzip.compress(CSV, mtime=0), 40),
    ("a.csv.zst", everything, zstandard(CSV), 40),
    ("one.zip", everything, archive("log.csv", CSV), 40),
    ("floats.parquet", timed, parquet(FLOATS), 2),
)


def attempt(read: Callable[[Path], object], path: Path, allowed: type[MRLError] = DataError) -> bool:
    """Whether `read` took the file. Anything but data or an allowed error in one line fails the test."""
    started = time.monotonic()
    try:
        read(path)
        accepted = True
    except allowed as error:
        accepted = False
        assert len(str(error).splitlines()) == 1 and len(str(error)) <= 1000
    assert time.monotonic() - started < SECONDS, "it hangs"
    return accepted


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_mutated_files_are_read_or_refused_in_one_line(kind, tmp_path, fuzz_cases, record_property):
    name, read, content, share = kind
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert attempt(read, path), "the intact file is read"
    dice, before, accepted = random.Random(f"{name} 1"), peak(), 0
    cases = max(3, fuzz_cases * share // 1000)
    for _ in range(cases):
        path.write_bytes(mutated(dice, content))
        accepted += attempt(read, path)
    assert accepted < cases, "no mutation was noticed"
    assert peak() - before < MEBIBYTES
    record_property("fuzz cases", cases)


READERS = [(name, read) for name, read, _, share in KINDS if share > 10]


@pytest.mark.timeout(300)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, full_run, record_property):
    cases = 0

    @settings(max_examples=2500 if full_run else 120, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(READERS), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def every(reader, content):
        nonlocal cases
        path = tmp_path / reader[0]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        attempt(reader[1], path)
        cases += 1

    every()
    record_property("fuzz cases", cases)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory) -> Path:
    """A small finished run."""
    pairs = [np.nonzero(np.random.default_rng(seed).random((6, 30)) < 0.3) for seed in (0, 1)]
    train, test = (Positives.from_pairs(*pair, 6, 30) for pair in pairs)
    data = Interactions("small", train, Positives.empty(6, 30), test, np.arange(6), np.arange(30))
    vectors = torch.linspace(-1, 1, 24).reshape(6, 4), torch.linspace(1, -1, 120).reshape(30, 4)
    evaluation = evaluate(*vectors, data, widths=(2, 4))
    path = tmp_path_factory.mktemp("run")
    with RunDirectory(path) as directory:
        directory.write_config({"seed": 0, "widths": [2, 4]})
        directory.write_ids(data)
        directory.write_seen(train)
        directory.write_weights(*vectors)
        directory.write_history(pl.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]}))
        directory.write_environment(environment(data, "cpu"))
        directory.write_metrics(evaluation.tidy(dataset="small", model="mf", protocol="honest", seed=0))
    return path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "guarded"),
    [("weights.safetensors", True), ("seen.safetensors", True), ("ids.parquet", True)]
    + [(f"{name}.json", False) for name in ("config", "environment")]
    + [(f"{name}.csv", False) for name in ("history", "metrics")],
)
def test_mutated_runs_are_read_or_refused_in_one_line(name, guarded, run_path, tmp_path, fuzz_cases, record_property):
    """guarded: the file is under a checksum, so that no change at all is taken."""
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    dice, original = random.Random(name), (path / name).read_bytes()
    cases = max(3, fuzz_cases // 100)
    for _ in range(cases):
        content = mutated(dice, original)
        (path / name).write_bytes(content)
        accepted = attempt(load, path, RunError)
        assert not (guarded and accepted and content != original), "a changed file is taken for intact"
    record_property("fuzz cases", cases)
