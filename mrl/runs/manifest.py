"""A folder of files with a manifest that has their checksums: complete or absent, and read back as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from mrl.errors import RunError

VERSION = 1  # raised when an older reader would go wrong
MANIFEST = "manifest.json"


@contextmanager
def written_whole(path: Path, kind: str) -> Iterator[Path]:
    """An empty folder beside `path` that takes its place at the end; after an error what was there still is.

    kind: what it holds, such as `export`. Raises RunError where something else is there, or nothing can be written.
    """
    beside, before = (path.with_name(f".{path.name}.{end}") for end in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            if before.exists() and not path.exists():  # killed between the two renames
                before.rename(path)
            _check_free(path, kind)
            for left in (beside, before):
                shutil.rmtree(left, ignore_errors=True)
            beside.mkdir()
            try:
                yield beside
                for file in beside.iterdir():
                    with file.open("r+b") as opened:
                        os.fsync(opened.fileno())
                if path.exists():
                    path.rename(before)
                beside.rename(path)
            finally:
                if before.exists() and not path.exists():
                    before.rename(path)
                for left in (beside, before):
                    shutil.rmtree(left, ignore_errors=True)
    except filelock.Timeout:
        raise RunError(f"{path}: another process is writing it; wait for it or give another folder") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); give another folder") from None


def write_manifest(folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """`facts` (JSON), and size and sha256 of every file that is in the folder; to be written last."""
    files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(folder.iterdir())}
    manifest = {f"mrl_{kind}": VERSION} | dict(facts) | {"files": files}
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_free(path: Path, kind: str) -> None:
    """RunError where something is at `path` that is none of its kind."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    remedy = "give another folder, or remove it"
    if not path.is_dir() or not (path / MANIFEST).is_file():
        raise RunError(f"{path}: is there already and no {kind}, so it is not written over; {remedy}")
    try:
        own = {MANIFEST, *read_manifest(path, kind)["files"]}
    except RunError:
        raise RunError(f"{path}: its {MANIFEST} is not of this mrl, so it is not written over; {remedy}") from None
    if others := sorted(file.name for file in path.iterdir() if file.name not in own):
        raise RunError(f"{path}: holds {others[0]}, which no {kind} has, so it is not written over; {remedy}")


def read_manifest(path: Path, kind: str) -> dict[str, Any]:
    """manifest.json as it was written, without its own checksum; or RunError."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, digest = manifest[f"mrl_{kind}"], manifest.pop("sha256")
    except OSError:
        raise RunError(f"{path}: is no {kind} (no {MANIFEST}); give a folder that mrl wrote") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise RunError(f"{path / MANIFEST}: is not that of an {kind}; write it again") from None
    if version != VERSION:
        raise RunError(f"{path}: has format version {version}, this mrl reads {VERSION}; use the mrl that wrote it")
    if digest != _digest(manifest):
        raise RunError(f"{path / MANIFEST}: does not match its checksum, so it was changed; write it again")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], by_content: bool) -> None:
    """RunError where a file is missing, or has not the size that the manifest says or, by content, not the checksum."""
    for name, wanted in manifest["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            is_same = size == wanted["bytes"] and (not by_content or _sha256(path) == wanted["sha256"])
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); restore a copy or write it again") from None
        if not is_same:
            what = "its checksum" if size == wanted["bytes"] else f"its {wanted['bytes']} bytes, it has {size}"
            raise RunError(f"{path}: does not match {what}; restore a copy or write it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
