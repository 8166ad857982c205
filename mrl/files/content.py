"""A file as bytes: what is in it instead of data, and the text inside a compressed one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import polars as pl

from mrl.errors import DataError

# A panic of polars is no PolarsError.
BROKEN_TABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
COMPRESSED = (".gz", ".gzip", ".zst", ".zip", ".bz2", ".xz")
MOST_UNPACKED = 1 << 30  # bytes; a file that unpacks to more must not unpack to more than MOST_RATIO times its size
MOST_RATIO = 200
PARQUET_START = b"PAR1"
ZSTANDARD, ZIP = b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# What other programs write, by its first bytes, with what to do instead.
OTHERS = {
    b"ARROW1": "an Arrow (Feather) file; save it as Parquet, with polars.read_ipc(…).write_parquet(…)",
    b"\x93NUMPY": "a NumPy array; save its columns as CSV or Parquet",
    b"\x89HDF": "an HDF5 file; save the table as CSV or Parquet",
    b"SQLite": "an SQLite database; save the table as CSV or Parquet",
    b"Obj\x01": "an Avro file; save it as Parquet",
    b"ORC": "an ORC file; save it as Parquet",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the sheet as CSV",
    b"\x80\x04": "a pickle, which can run code when read; save the table as CSV or Parquet",
    b"\x80\x05": "a pickle, which can run code when read; save the table as CSV or Parquet",
}


def describe_non_data(head: bytes) -> str | None:
    """What a file that starts with `head` is instead of data, and what to do; None where it may be data."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "the file is empty, probably an interrupted copy or download; fetch it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "this is a web page, probably an error or log-in page; fetch the data itself"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git-LFS pointer, not the data; run `git lfs pull` where it came from"
    return None


def content_of(path: Path) -> Path | bytes:
    """The path itself where it is plain text or Parquet, the text inside where it is compressed.

    Compressed is by gzip, Zstandard, bzip2 or xz, or in a zip with one file.

    Raises DataError where it is missing, empty, or a web page, Git-LFS pointer, archive or binary file instead of data.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    content = _unpacked(path, head)
    if isinstance(content, bytes):
        head = content[:4096]
        if head.startswith(PARQUET_START):
            raise DataError(f"{path}: this is a compressed Parquet file; unpack it and give the file inside")
        if head[257:262] == b"ustar":
            raise DataError(f"{path}: this is an archive; unpack it and give the file inside")
    if fault := describe_non_data(head):
        raise DataError(f"{path}: {fault}")
    if kind := next((kind for start, kind in OTHERS.items() if head.startswith(start)), None):
        raise DataError(f"{path}: this is {kind}")
    if b"\0" in head and not head.startswith(PARQUET_START):
        raise DataError(f"{path}: this is binary or UTF-16, not plain text; save it as UTF-8 text")
    return content


def open_content(content: Path | bytes) -> BinaryIO:
    """What `content_of` gave, as a file to read from."""
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def _unpacked(path: Path, head: bytes) -> Path | bytes:
    opener = next((opener for start, opener in OPENERS.items() if head.startswith(start)), None)
    limit = max(MOST_UNPACKED, MOST_RATIO * path.stat().st_size)
    try:
        if opener:
            with opener(path, "rb") as file:
                data = file.read(limit + 1)
        elif head.startswith(ZSTANDARD):
            lines = pl.scan_lines(path, glob=False)
            size = lines.select(pl.col("line").str.len_bytes().cast(pl.Int64).sum()).collect(engine="streaming").item()
            data = b"\n" * (limit + 1) if size > limit else "\n".join(lines.collect()["line"]).encode()
        elif head.startswith(ZIP):
            data = _only_member(path, limit)
        else:
            return path
    except (*BROKEN_TABLE, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: cannot be unpacked ({reason}); if it is a truncated copy fetch it again, else unpack it yourself"
        ) from None
    if len(data) > limit:
        raise DataError(f"{path}: unpacks to more than {limit:,} bytes; if that is right, unpack it and give the file")
    return data


def _only_member(path: Path, limit: int) -> bytes:
    """The one file of a zip; DataError that names them where there are several."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if "xl/workbook.xml" in names:
            raise DataError(f"{path}: this is an Excel workbook; save the sheet as CSV")
        if len(names) != 1:
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            holds = f"with {len(names)} files ({shown})" if names else "without a file"
            raise DataError(f"{path}: this is an archive {holds}; unpack it and give the file inside")
        with archive.open(names[0]) as file:
            return file.read(limit + 1)


def suffix_of(path: Path) -> str:
    """The suffix, in lower case, of what is inside where it is compressed: `.csv` of `clicks.csv.gz`."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def stem_of(path: Path) -> str:
    """The name without suffixes: `clicks` of `clicks.csv.gz`."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem
