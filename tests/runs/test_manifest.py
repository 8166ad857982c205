"""A folder that is written at once: whole or not there, and never in place of anything else."""

from __future__ import annotations

from pathlib import Path

import filelock
import pytest

from mrl.errors import RunError
from mrl.runs.manifest import check_files, read_manifest, write_manifest, written_whole


def write(path: Path, text: str = "one") -> Path:
    with written_whole(path, "export") as beside:
        (beside / "a.txt").write_text(text)
        write_manifest(beside, "export", {"text": text})
    return path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_comes_back_and_is_replaced(tmp_path):
    path = write(tmp_path / "a" / "it")
    assert read_manifest(path, "export")["text"] == "one"
    write(path, "two")
    assert (path / "a.txt").read_text() == "two" and left(path.parent) == ["it"]
    check_files(path, read_manifest(path, "export"), by_content=True)
    (tmp_path / "empty").mkdir()
    assert read_manifest(write(tmp_path / "empty"), "export")["text"] == "one"


def test_nothing_half_written_is_ever_there(tmp_path):
    path = tmp_path / "it"
    for before in ([], ["it"]):
        with pytest.raises(ZeroDivisionError), written_whole(path, "export") as beside:
            (beside / "a.txt").write_text("two")
            assert left(tmp_path) == sorted([".it.tmp", *before])
            raise ZeroDivisionError
        assert left(tmp_path) == before
        if not before:
            write(path)
    assert (path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_leaves_the_old_one(tmp_path, monkeypatch, fails):
    path, calls = write(tmp_path / "it"), []
    rename = Path.rename

    def renamed(self, target):
        calls.append(target)
        if len(calls) == fails:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(RunError, match=r"it: cannot be written \(No space left on device\); give another folder"):
        write(path, "two")
    assert (path / "a.txt").read_text() == "one" and left(tmp_path) == ["it"]


def test_what_a_killed_writer_left_is_put_right(tmp_path):
    """Killed while it wrote, or between the two renames: then the old one is what there is."""
    path = write(tmp_path / "it")
    (tmp_path / ".it.tmp").mkdir()
    (tmp_path / ".it.tmp" / "a.txt").write_text("half")
    path.rename(tmp_path / ".it.old")
    with pytest.raises(ZeroDivisionError), written_whole(path, "export"):
        assert (path / "a.txt").read_text() == "one"
        raise ZeroDivisionError
    assert left(tmp_path) == ["it"]


def test_nothing_but_an_export_is_written_over(tmp_path):
    def refused(path: Path, words: str) -> None:
        with pytest.raises(RunError, match=words):
            write(path)

    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "no export, so it is not written over; give another folder, or remove it")
    refused(tmp_path / "file" / "below", "cannot be written")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    refused(tmp_path / "folder", "no export")
    path = write(tmp_path / "it")
    (path / "notes.txt").write_text("mine")
    refused(path, r"holds notes\.txt, which no export has")
    assert (path / "notes.txt").read_text() == "mine"
    (path / "notes.txt").unlink()
    (path / "manifest.json").write_text("{}")
    refused(path, "is not of this mrl, so it is not written over; give another folder, or remove it")


def test_two_do_not_write_at_once(tmp_path):
    with (
        filelock.FileLock(tmp_path / ".it.lock"),
        pytest.raises(RunError, match="another process is writing it; wait for it or give another folder"),
    ):
        write(tmp_path / "it")
    write(tmp_path / "it")
