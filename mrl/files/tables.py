"""Tables with named columns, read column by column: separated text, Parquet, and the parts of one table.

Each has `columns`, `read` for some of them, and `place`, which names the line or row of a fault.
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mrl.errors import DataError
from mrl.files.content import BROKEN_TABLE, open_content

DECODE = "import sys, polars\nfor path in sys.argv[1:]: polars.scan_parquet(path, glob=False).null_count().collect()"
BLANK = " "  # as a separator: any number of blanks and tabs


def check_parquet(*paths: Path) -> None:
    """Raise DataError where one of them is not a whole Parquet file.

    At some damaged ones polars asks for exabytes and takes the whole process down, so a process of its own decodes
    every column first. That costs half a second and one more pass over the files.
    """
    decoder = subprocess.run([sys.executable, "-c", DECODE, *paths], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if decoder.returncode:
        if len(paths) > 1:  # which one?
            for path in paths:
                check_parquet(path)
        lines = decoder.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:200] if decoder.returncode > 0 and lines else "its pages are damaged"
        raise _not_parquet(paths[0], reason)


def _not_parquet(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a whole Parquet file ({reason}); probably a truncated copy, fetch it again")


def split_line(line: str, separator: str, quoted: bool) -> list[str]:
    """The fields of a line, stripped."""
    if separator == BLANK:
        return line.split()
    if not quoted:
        return [field.strip() for field in line.split(separator)] if line else []
    return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]


class TextTable:
    """A separated text file.

    content: the path, or the text where it was compressed. columns: their names where there is no header line.
    """

    def __init__(
        self, path: Path, content: Path | bytes, *, separator: str, quoted: bool = True, columns: Sequence[str] = ()
    ) -> None:
        self.path, self.content, self.separator = path, content, separator
        self.quoted = quoted and len(separator) == 1 and separator != BLANK
        self.header = not columns
        self.columns = list(columns)
        if self.header:
            with self._lines() as file:
                self.columns = split_line(file.readline().rstrip("\r\n"), separator, self.quoted)

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """The named columns as text, a row a record; blank lines are rows of nulls. DataError at a ragged row."""
        # One column more than there are: whatever lands in it is a row that is too long. A row that is too short has
        # a null in the last column, but so has one whose last field is empty; only then are fields counted.
        width = len(self.columns)
        schema = {str(position): pl.String for position in range(width + 1)}
        names = {column: str(self.columns.index(column)) for column in columns}
        source, separator = self.content, self.separator
        if len(separator) > 1 or separator == BLANK:  # polars knows separators of one byte only, that do not repeat
            source, separator = self._with_tabs(), "\t"
        scan = pl.scan_csv(
            source, has_header=False, skip_lines=int(self.header), schema=schema, missing_columns="insert",
            separator=separator, quote_char='"' if self.quoted else None, glob=False,
        )  # fmt: skip
        chosen = {column: pl.col(name).str.strip_chars() for column, name in names.items()}
        chosen |= {"\0last": pl.col(str(width - 1)).is_null(), "\0extra": pl.col(str(width)).is_not_null()}
        try:
            frame = scan.select(**chosen).collect()
        except pl.exceptions.NoDataError:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        except pl.exceptions.PolarsError as error:
            self._refuse_ragged()
            reason = str(error).splitlines()[0]
            remedy = "save it as UTF-8" if "utf" in reason.lower() else "check its quotes"
            raise DataError(f"{self.path}: not a well-formed UTF-8 table ({reason}); {remedy}") from None
        is_row = pl.any_horizontal(pl.col(list(columns)).is_not_null())
        if frame["\0extra"].any() or frame.filter(is_row)["\0last"].any():
            self._refuse_ragged()
        return frame.select(columns)

    def place(self, row: int) -> str:
        """`path:line` of a row of `read`."""
        for number, (line, _) in enumerate(self._records()):
            if number == row:
                return f"{self.path}:{line}"
        return f"{self.path}:{row + 1 + self.header}"

    def _with_tabs(self) -> bytes:
        with open_content(self.content) as file:
            data = file.read().removeprefix(b"\xef\xbb\xbf")
        if self.separator != BLANK:
            return data.replace(self.separator.encode(), b"\t")
        return re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)", b"", data))

    def _refuse_ragged(self) -> None:
        for line, fields in self._records():
            if fields and len(fields) != len(self.columns):
                shown = self.separator.join(fields)[:60]
                counts = f"{len(fields)} fields where there are {len(self.columns)} columns"
                raise DataError(f"{self.path}:{line}: {shown!r} has {counts}")

    def _lines(self, newline: str | None = None) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_content(self.content), encoding="utf-8-sig", errors="replace", newline=newline)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The line on which each record starts, and its fields: slow, only to say where a fault is."""
        with self._lines(newline="" if self.quoted else None) as file:
            reader = csv.reader(file, delimiter=self.separator) if self.quoted else None
            rest = (split_line(text.rstrip("\n"), self.separator, False) for text in file)
            line = 1
            try:
                for fields in reader or rest:
                    if line > self.header:
                        yield line, fields
                    line = reader.line_num + 1 if reader else line + 1
            except csv.Error as error:
                raise DataError(f"{self.path}:{line}: {error}; check its quotes") from None


class ParquetTable:
    """A Parquet file, which `check_parquet` has looked at. rows: from which row, and how many; None for all."""

    def __init__(self, path: Path, rows: tuple[int, int] | None = None) -> None:
        self.path, self.rows = path, rows
        self.columns = list(self._collect(pl.LazyFrame.collect_schema))

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        return self._collect(lambda scan: scan.select(columns).slice(*self.rows or (0, None)).collect())

    def count(self) -> int:
        """How many rows the file has, as it says itself."""
        return self._collect(lambda scan: scan.select(pl.len()).collect().item())

    def place(self, row: int) -> str:
        return f"{self.path}: row {row + 1 + (self.rows or (0,))[0]}"

    def _collect(self, read: Callable[[pl.LazyFrame], Any]) -> Any:
        try:
            return read(pl.scan_parquet(self.path, glob=False))
        except BROKEN_TABLE as error:
            raise _not_parquet(self.path, str(error).splitlines()[0]) from None


class PartsTable:
    """Several files that are one table: those that Spark, dask or DuckDB wrote into a folder.

    keys: of each part the columns that its folders name, such as `year=2024`. Parts must have the same columns.
    """

    def __init__(self, path: Path, tables: Sequence[TextTable | ParquetTable], keys: Sequence[dict[str, str]]) -> None:
        self.path, self.tables, self.keys = path, tables, keys
        first, own = tables[0], sorted(tables[0].columns)
        for table, key in zip(tables, keys, strict=True):
            if sorted(table.columns) != own or key.keys() != keys[0].keys():
                other = ", ".join([*table.columns, *key][:10])
                raise DataError(
                    f"{table.path}: has columns {other}, where {first.path.name} has {', '.join(first.columns[:10])}; "
                    "parts of one table have the same columns, so take out what is not of it"
                )
        self.columns = [*first.columns, *(name for name in keys[0] if name not in first.columns)]
        self._starts: list[int] = []

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        frames, rows, self._starts = [], 0, []
        for table, key in zip(self.tables, self.keys, strict=True):
            inside = [column for column in columns if column in table.columns] or table.columns[:1]
            frame = table.read(inside).with_columns(
                pl.lit(value).alias(name) for name, value in key.items() if name not in table.columns
            )
            frames.append(frame.select(columns))
            self._starts.append(rows)
            rows += len(frame)
        try:
            return pl.concat(frames, how="vertical_relaxed")
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{self.path}: its parts have columns of other types ({reason}); write them alike"
            ) from None

    def place(self, row: int) -> str:
        part = max(number for number, start in enumerate(self._starts) if start <= row)
        return self.tables[part].place(row - self._starts[part])
