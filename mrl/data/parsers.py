"""Files → a log: one row an interaction, with columns user, item and, where known, rating and timestamp.

Ids come out as Int64 where every one is a whole number, else as String. Every fault of a file is a DataError that
names the path, the line and the token. Which files make up a data set is decided in `mrl.data.datasets`.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mrl.errors import DataError

MAX_ID = 2**63 - 1
WHOLE, NUMBER = r"^\d+$", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# A panic of polars is no PolarsError.
BROKEN_TABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
DECODE = "import sys, polars; polars.scan_parquet(sys.argv[1], glob=False).null_count().collect()"
EXPECTED = {
    "user": "an id; ids are text, or whole numbers from 0 to 2^63 - 1",
    "item": "an id; ids are text, or whole numbers from 0 to 2^63 - 1",
    "rating": "a finite number",
    "timestamp": "a finite number or a date",
}
ROLES = ("user", "item", "rating", "timestamp")
PARQUET = (".parquet", ".pq")


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


def check_readable(path: Path) -> None:
    """Raise DataError where `path` is missing, empty, or a web page, Git-LFS pointer or archive instead of data."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if fault := describe_non_data(head):
        raise DataError(f"{path}: {fault}")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise DataError(f"{path}: this is a compressed archive; unpack it and give the file inside")
    if b"\0" in head and not head.startswith(b"PAR1"):
        raise DataError(f"{path}: this is binary or UTF-16, not plain text; save it as UTF-8 text")


def check_parquet(path: Path) -> None:
    """Raise DataError where `path` is not a whole Parquet file.

    At some damaged ones polars asks for exabytes and takes the whole process down, so a process of its own decodes
    every column first. That costs half a second and one more pass over the file.
    """
    decoder = subprocess.run([sys.executable, "-c", DECODE, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if decoder.returncode:
        lines = decoder.stderr.decode(errors="replace").strip().splitlines()
        raise _not_parquet(path, lines[-1][:200] if decoder.returncode > 0 and lines else "its pages are damaged")


def _not_parquet(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a whole Parquet file ({reason}); probably a truncated copy, fetch it again")


def read_adjacency(path: str | Path) -> pl.DataFrame:
    """Read adjacency lists, a line a user: `user item item …`, whole numbers apart by spaces or tabs.

    Returns columns user and item, Int64. A user without items gives one row whose item is null. DataError names the
    line and the token that is negative, not a whole number, or past 64 bits.
    """
    path = Path(path)
    check_readable(path)
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
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
    first = np.concatenate([[True], lines[1:] != lines[:-1]])  # the first token of a line is its user
    owners = values[first]
    sizes = np.diff(np.append(np.flatnonzero(first), len(values))) - 1
    pairs = pl.DataFrame({"user": np.repeat(owners, sizes), "item": values[~first]})
    idle = pl.DataFrame({"user": owners[sizes == 0]}).with_columns(item=pl.lit(None, pl.Int64))
    return pl.concat([pairs, idle])


def _refuse_tokens(path: Path, data: bytes) -> None:
    """Raise DataError at the first token that is not an id; return where all are (long, but within 64 bits)."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        for token in line.split():
            digits = token.lstrip(b"0")  # Python reads no number of thousands of digits
            if not (token.isdigit() and len(digits) <= len(str(MAX_ID)) and int(digits or b"0") <= MAX_ID):
                shown = token[:40].decode("utf-8", "replace")
                hint = "; a table with named columns must be called .csv, .tsv or .inter" if number == 1 else ""
                raise DataError(f"{path}:{number}: {shown!r} is not an id; ids are whole numbers, 0 to {MAX_ID}{hint}")


def read_table(
    path: str | Path,
    *,
    user_column: str = "user",
    item_column: str = "item",
    rating_column: str | None = None,
    timestamp_column: str | None = None,
) -> pl.DataFrame:
    """Read a CSV, TSV or Parquet file with named columns, of which only those that are needed are held in memory.

    rating_column, timestamp_column: None means `rating` and `timestamp` where there are such columns. Timestamps may
    be numbers (seconds) or dates. Ids may be whole numbers or text; ids that are all numbers but for a negative,
    fractional or over-long one are refused. The separator of a text table (comma, tab, semicolon, bar) is read off its
    header line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    separator = "\t" if suffix == ".tsv" else None
    table = ParquetTable(path) if suffix in PARQUET else TextTable(path, separator=separator)
    columns = {"user": user_column, "item": item_column}
    for role, column in (("rating", rating_column), ("timestamp", timestamp_column)):
        if column is not None or role in table.columns:
            columns[role] = column or role
    for role, column in columns.items():
        if column not in table.columns:
            names = ", ".join(table.columns[:20])
            raise DataError(f"{path}: no column {column!r}; its columns are {names}; set {role}_column to one of them")
    return _read_log(table, columns)


def read_atomic(path: str | Path) -> pl.DataFrame:
    """Read a RecBole atomic `.inter` file: tab-separated, with typed headers such as `user_id:token`.

    Columns are found by RecBole's names, `user_id`, `item_id`, `rating` and `timestamp`, else by the first name that
    holds `user`, `item`, `rating` or `timestamp`.
    """
    table = TextTable(Path(path), separator="\t", quoted=False)
    if not all(":" in column for column in table.columns):
        header = " ".join(table.columns)[:80]
        raise DataError(f"{path}:1: header {header!r} is not typed; RecBole's read `user_id:token`, tab-separated")
    columns = {}
    for role in ROLES:
        names = [column for column in table.columns if role in column.split(":")[0]]
        if names:
            columns[role] = next((name for name in names if name.split(":")[0] in (role, f"{role}_id")), names[0])
        elif role in ("user", "item"):
            raise DataError(f"{path}:1: no {role} column; its columns are {', '.join(table.columns)}")
    return _read_log(table, columns)


def read_movielens(path: str | Path) -> pl.DataFrame:
    """Read MovieLens' own `u.data` (tabs) or `ratings.dat` (`::`): user, item, rating, timestamp, in file order."""
    path = Path(path)
    separator = "::" if path.suffix == ".dat" else "\t"
    return _read_log(TextTable(path, separator=separator, quoted=False, columns=ROLES), {role: role for role in ROLES})


class TextTable:
    """A separated text file: `columns` by name, `read` for some of them as text, `place` for the line of a row."""

    def __init__(self, path: Path, *, separator: str | None = None, quoted: bool = True, columns=None):
        check_readable(path)
        self.path, self.quoted, self.header = path, quoted, columns is None
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = file.readline().rstrip("\r\n")
        self.separator = separator or max(",\t;|", key=first.count)
        self.columns = list(columns or (name.strip() for name in self._split(first)))

    def read(self, columns: list[str]) -> pl.DataFrame:
        """The named columns as text, a row a record; blank lines are rows of nulls. DataError at a ragged row."""
        # One column more than there are: whatever lands in it is a row that is too long. A row that is too short has
        # a null in the last column, but so has one whose last field is empty; only then are fields counted.
        width = len(self.columns)
        schema = {str(position): pl.String for position in range(width + 1)}
        names = {column: str(self.columns.index(column)) for column in columns}
        source, separator = self.path, self.separator
        if len(separator) > 1:  # polars knows separators of one byte only
            source, separator = self.path.read_bytes().replace(separator.encode(), b"\t"), "\t"
        scan = pl.scan_csv(
            source, has_header=False, skip_lines=int(self.header), schema=schema, missing_columns="insert",
            separator=separator, quote_char='"' if self.quoted else None, glob=False,
        )  # fmt: skip
        chosen = {column: pl.col(name).str.strip_chars() for column, name in names.items()}
        chosen |= {"_last": pl.col(str(width - 1)).is_null(), "_extra": pl.col(str(width)).is_not_null()}
        try:
            frame = scan.select(**chosen).collect()
        except pl.exceptions.NoDataError:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        except pl.exceptions.PolarsError as error:
            self._refuse_ragged()
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.path}: not a well-formed UTF-8 table ({reason}); check its quotes") from None
        if frame["_extra"].any() or frame.filter(pl.any_horizontal(pl.col(columns).is_not_null()))["_last"].any():
            self._refuse_ragged()
        return frame.select(columns)

    def place(self, row: int) -> str:
        """`path:line` of a row of `read`."""
        for number, (line, _) in enumerate(self._records()):
            if number == row:
                return f"{self.path}:{line}"
        return f"{self.path}:{row + 1 + self.header}"

    def _refuse_ragged(self) -> None:
        for line, fields in self._records():
            if fields and len(fields) != len(self.columns):
                shown = self.separator.join(fields)[:60]
                counts = f"{len(fields)} fields where there are {len(self.columns)} columns"
                raise DataError(f"{self.path}:{line}: {shown!r} has {counts}")

    def _split(self, line: str) -> list[str]:
        if not self.quoted:
            return line.split(self.separator) if line else []
        return next(csv.reader([line], delimiter=self.separator), [])

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The line on which each record starts, and its fields: slow, only to say where a fault is."""
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="" if self.quoted else None) as file:
            quoted = csv.reader(file, delimiter=self.separator) if self.quoted else None
            line = 1
            try:
                for fields in quoted or (self._split(text.rstrip("\n")) for text in file):
                    if line > self.header:
                        yield line, fields
                    line = quoted.line_num + 1 if quoted else line + 1
            except csv.Error as error:
                raise DataError(f"{self.path}:{line}: {error}; check its quotes") from None


class ParquetTable:
    """A Parquet file, read in the same way as `TextTable`."""

    def __init__(self, path: Path):
        check_readable(path)
        check_parquet(path)
        self.path = path
        self.columns = list(self._collect(pl.LazyFrame.collect_schema))

    def read(self, columns: list[str]) -> pl.DataFrame:
        return self._collect(lambda scan: scan.select(columns).collect())

    def place(self, row: int) -> str:
        return f"{self.path}: row {row + 1}"

    def _collect(self, read: Callable[[pl.LazyFrame], Any]) -> Any:
        try:
            return read(pl.scan_parquet(self.path, glob=False))
        except BROKEN_TABLE as error:
            raise _not_parquet(self.path, str(error).splitlines()[0]) from None


def _read_log(table: TextTable | ParquetTable, columns: dict[str, str]) -> pl.DataFrame:
    """The columns of a table under their roles (role → column), ids and numbers checked."""
    raw = table.read(list(dict.fromkeys(columns.values())))
    raw = raw.select(pl.col(column).alias(role) for role, column in columns.items()).with_row_index("row")
    raw = raw.filter(pl.any_horizontal(pl.col(list(columns)).is_not_null()))  # blank lines
    if raw.is_empty():
        raise DataError(f"{table.path}: a header and no rows, probably an interrupted copy; fetch it again")
    convert = {"user": _ids, "item": _ids, "rating": _numbers, "timestamp": _times}
    log = {}
    for role in columns:
        log[role], is_bad = convert[role](raw[role])
        if len(bad_rows := is_bad.arg_true()):
            row, column = bad_rows[0], raw[role]
            # Of dates only the type is shown: polars panics at one beyond its calendar.
            value = str(column.dtype) if column.dtype.is_temporal() else column[row]
            missing = value is None or (isinstance(value, str) and not value)
            problem = "is missing" if missing else f"{str(value)[:40]!r} is not {EXPECTED[role]}"
            raise DataError(f"{table.place(raw['row'][row])}: {role} {problem} (column {columns[role]!r})")
    return pl.DataFrame(log)


def _ids(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Ids as Int64 or String, and which of them are bad."""
    if column.dtype.is_integer():
        numbers = column.cast(pl.Int64, strict=False)
        return numbers, numbers.is_null() | (numbers < 0)
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return column, pl.Series([True]).extend_constant(False, len(column) - 1)
    missing = column.is_null() | (column == "")
    if not column.str.contains(NUMBER).fill_null(True).all():
        return column, missing
    is_whole = column.str.contains(WHOLE)
    if not is_whole.all():
        return column, missing | ~is_whole
    if column.str.contains(r"^0\d").any():  # leading zeros belong to the id: 007 is not 7
        return column, missing
    numbers = column.cast(pl.Int64, strict=False)
    return numbers, numbers.is_null()


def _numbers(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Float64, null where empty, and which are not finite numbers."""
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean, pl.Null)):
        return column, column.is_not_null()  # lists, dates, bytes
    numbers = column.cast(pl.Float64, strict=False)
    given = column.is_not_null() if column.dtype != pl.String else column.fill_null("") != ""
    return numbers, given & ~numbers.is_finite().fill_null(False)


def _times(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Seconds as Float64: numbers as they are, dates since 1970 (UTC where no zone is given)."""
    if column.dtype == pl.String:
        numbers, bad = _numbers(column)
        if not bad.any():
            return numbers, bad
        try:
            dates = column.str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
        except pl.exceptions.PolarsError:
            return numbers, bad
        unread = dates.is_null() & (column.fill_null("") != "")
        if unread.all():
            return numbers, bad
        return dates.dt.epoch("us") / 1e6, unread
    if column.dtype in (pl.Date, pl.Datetime):  # counted by hand: polars panics at dates beyond its calendar
        unit = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}[column.dtype.time_unit] if column.dtype == pl.Datetime else 86_400.0
        return column.to_physical() * unit, pl.repeat(False, len(column), eager=True)
    return _numbers(column)
