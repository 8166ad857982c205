"""Text of whole numbers apart by blanks → arrays: adjacency lists `user item item …`, a line a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mrl.errors import DataError
from mrl.files.content import open_content

MAX_ID = 2**63 - 1


def clean(data: bytes) -> bytes:
    """Without a byte order mark, lines ending in \\n."""
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_numbers(path: Path, content: Path | bytes) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (T,) int64 of a text, line after line, and how many are in each line that is not blank (L,).

    DataError names the line and the token that is negative, not a whole number, or past 64 bits.
    """
    with open_content(content) as file:
        data = clean(file.read())
    text = np.frombuffer(data, dtype=np.uint8)
    digit = (text >= ord("0")) & (text <= ord("9"))
    blank = (text == ord(" ")) | (text == ord("\t")) | (text == ord("\n"))
    edges = np.diff(np.concatenate([[False], digit, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # (T,) one entry a token
    lengths = ends - starts
    if not (digit | blank).all() or (lengths >= len(str(MAX_ID))).any():
        _refuse_tokens(path, data)
    if not len(starts):
        raise DataError(f"{path}: no ids in it; expected a line a user, `user item item …`")
    values = np.zeros(len(starts), dtype=np.int64)
    for place in range(lengths.max()):  # digit by digit, over all tokens at once
        longer = lengths > place
        values[longer] = values[longer] * 10 + (text[starts[longer] + place] - ord("0"))
    lines = np.searchsorted(np.flatnonzero(text == ord("\n")), starts)
    first = np.concatenate([[True], lines[1:] != lines[:-1]])
    return values, np.diff(np.append(np.flatnonzero(first), len(values)))


def pairs_of(values: np.ndarray, sizes: np.ndarray, *, counted: bool = False) -> pl.DataFrame:
    """Columns user and item, Int64, of `read_numbers`. A user without items gives one row whose item is null.

    counted: the first number of a line says how many follow, and users are numbered by line.
    """
    first = np.cumsum(sizes) - sizes
    owners = np.arange(len(sizes)) if counted else values[first]
    pairs = pl.DataFrame({"user": np.repeat(owners, sizes - 1), "item": np.delete(values, first)})
    idle = pl.DataFrame({"user": owners[sizes == 1]}).with_columns(item=pl.lit(None, pl.Int64))
    return pl.concat([pairs, idle])


def _refuse_tokens(path: Path, data: bytes) -> None:
    """Raise DataError at the first token that is not an id; return where all are (long, but within 64 bits)."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        for token in line.split():
            digits = token.lstrip(b"0")  # Python reads no number of thousands of digits
            if not (token.isdigit() and len(digits) <= len(str(MAX_ID)) and int(digits or b"0") <= MAX_ID):
                shown = token[:40].decode("utf-8", "replace")
                raise DataError(f"{path}:{number}: {shown!r} is not an id; ids are whole numbers, 0 to {MAX_ID}")
