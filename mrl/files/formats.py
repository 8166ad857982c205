"""What is in a file: its format, told by its content, with the reason in words.

    print(sniff("ratings.txt"))     # ratings.txt: a table without a header, …

Tables have a header line that names a user and an item column. Without one, only what the numbers settle is read: lists
of whole numbers apart by blanks, and tables in the order of MovieLens (user, item, rating, timestamp). What may be
either is refused, in one line that says what to write to settle it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from mrl.errors import DataError
from mrl.files.columns import ROLES, USUAL, is_header, usual
from mrl.files.content import PARQUET_START, content_of, open_content
from mrl.files.lists import clean, read_numbers
from mrl.files.tables import BLANK, ParquetTable, PartsTable, TextTable, check_parquet, split_line
from mrl.files.values import NUMBER, WHOLE, to_times

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", "::": "two colons", BLANK: "blanks"}
KINDS = {
    "parquet": "Parquet",
    "atomic": "a RecBole atomic file",
    "table": "a table with a header line",
    "ratings": "a table without a header line",
    "lists": "adjacency lists (a user and its items a line)",
    "counted": "lists that start with their length (the items of a user a line, users numbered by line)",
}
MOVIELENS = re.compile(r"u[0-9ab]?\.(data|base|test)|ratings\.dat")  # as its files are called
STARS, FIRST_TIME = 10, 100_000_000  # no rating is above the one, no time (in 1973, in seconds) below the other
ENOUGH = 20  # lines from which on the numbers of a column say what it is
_TYPED = re.compile(r"[^:]+:(token|float)(_seq)?")
HEAD = 1 << 16  # bytes that are looked at first


@dataclass(frozen=True)
class Format:
    """What is in a file, or in the parts of one table in a folder.

    kind: parquet, atomic, table, ratings (a table without a header), lists or counted. columns: by name, or the roles
    that they have. why: what tells so. parts: the files of a folder. rows: of each Parquet file, from which row, and
    how many; None for all. As text, all of it in one line.
    """

    path: Path
    kind: str
    why: str
    separator: str | None = None
    columns: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()
    rows: tuple[int, int] | None = None
    content: Path | bytes = field(default=b"", repr=False)
    numbers: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)

    @property
    def is_table(self) -> bool:
        return self.kind not in ("lists", "counted")

    def __str__(self) -> str:
        apart = f", apart by {SEPARATORS[self.separator]}" if self.separator else ""
        shown = ", ".join(self.columns[:12]) + (", …" if len(self.columns) > 12 else "")
        columns = f", columns {shown}" if self.columns else ""
        parts = f"{len(self.parts)} parts of " if self.parts else ""
        return f"{self.path.name}: {parts}{KINDS[self.kind]}{apart}{columns}; {self.why}"

    def open(self) -> TextTable | ParquetTable | PartsTable:
        """The table that it is."""
        if not self.parts:
            return self._table(self.path, self.content)
        tables = [self._table(part) for part in self.parts]
        return PartsTable(self.path, tables, [_folder_keys(self.path, part) for part in self.parts])

    def _table(self, path: Path, content: Path | bytes | None = None) -> TextTable | ParquetTable:
        if self.kind == "parquet":
            return ParquetTable(path, self.rows)
        content = content_of(path) if content is None else content
        columns = self.columns if self.kind == "ratings" else ()
        return TextTable(path, content, separator=self.separator, quoted=self.kind == "table", columns=columns)


def sniff(path: str | Path, given: Mapping[str, str | None] | None = None) -> Format:
    """What is in a file, or in a folder with the parts of one table.

    given: names of columns by role (user, item, rating, timestamp), where they are no usual ones.
    Raises DataError where it is no data, or its content does not settle what is meant.
    """
    path, given = Path(path).expanduser(), given or {}
    if path.is_dir():
        parts = find_parts(path)
        if not parts:
            raise DataError(f"{path}: a folder without parts of one table (part-0.csv, …); give a file in it")
        return sniff_parts(path, parts, given)
    content = content_of(path)
    with open_content(content) as file:
        head = file.read(HEAD)
    if head.startswith(PARQUET_START):
        check_parquet(path)
        columns = tuple(ParquetTable(path).columns)
        return Format(path, "parquet", "it starts with PAR1", columns=columns)
    return _sniff_text(path, content, head, given)


def _sniff_text(path: Path, content: Path | bytes, head: bytes, given: Mapping[str, str | None]) -> Format:
    lines = clean(head).decode("utf-8", "replace").split("\n")
    lines = [line for line in (lines if len(head) < HEAD else lines[:-1] or lines) if line.strip()]
    if not lines:
        raise DataError(f"{path}: there is no line with anything in it; fetch it again")
    first = lines[0].strip()
    if first.startswith(("{", "[{", "[[")) or first == "[":
        remedy = "save them as Parquet, with polars.read_ndjson(…).write_parquet(…)"
        raise DataError(f"{path}:1: these are JSON records; {remedy}")
    tokens = first.split()
    if all(re.fullmatch(WHOLE, token) for token in tokens):
        return _sniff_numbers(path, content, lines)
    separator = _separator(lines)
    fields = split_line(lines[0], separator, quoted=len(separator) == 1)
    if len(fields) > 1 and all(_TYPED.fullmatch(name) for name in fields):
        return Format(path, "atomic", "its header has typed names", separator, tuple(fields), content=content)
    named = [name for name in fields if name]
    counts_up = named == [str(number) for number in range(len(named))]  # as pandas names columns without a name
    values = [name for name in fields if re.fullmatch(NUMBER, name) or _is_date(name)]
    has_usual = is_header(fields, {})
    is_named = has_usual or (is_header(fields, given) and (not values or counts_up))
    later = [split_line(line, separator, quoted=len(separator) == 1) for line in lines[1:1000]]
    is_row = any(name in column for name, *column in zip(fields, *later, strict=False))  # no name recurs as a value
    is_one = len(fields) == 1 and bool(usual(fields, USUAL["user"]) or usual(fields, USUAL["item"]))
    if is_one or (len(fields) > 1 and (has_usual or not is_row) and (is_named or not values)):
        why = "line 1 names a user and an item column" if is_named else "line 1 is taken for its header"
        return Format(path, "table", why, separator, tuple(fields), content=content)
    if separator in ("::", "\t", BLANK):
        if len(fields) in (3, 4):
            return _sniff_headless(path, content, lines, separator)
        if all(re.fullmatch(NUMBER, token) for token in tokens):
            return Format(path, "lists", "every line has numbers", content=content)
    raise _no_header(path, first, separator, max(2, len(fields)))


def _no_header(path: Path, first: str, separator: str, width: int) -> DataError:
    return DataError(
        f"{path}:1: {first[:60]!r} is no header line, and values alone do not tell which column is which; put one "
        f"on top that names the columns in their order, such as {_example_header(separator, width)!r}"
    )


def _example_header(separator: str, width: int) -> str:
    return separator.replace(BLANK, " ").join([*ROLES, *(f"more{number}" for number in range(1, width))][:width])


def _separator(lines: list[str]) -> str:
    """What stands between the fields: the same number of times in the first lines, else most often in line 1."""
    if all("::" in line for line in lines[:5]):
        return "::"
    counts = {mark: [line.count(mark) for line in lines[:20]] for mark in "\t,;|"}
    same = {mark: count[0] for mark, count in counts.items() if count[0] and len(set(count)) == 1}
    best = max(counts, key=lambda mark: (same.get(mark, 0), counts[mark][0]))
    return best if counts[best][0] else BLANK


def _is_date(text: str) -> bool:
    if not re.search(r"\d", text):
        return False
    try:
        return to_times(pl.Series([text]))[0].dtype.is_temporal()
    except ValueError:
        return True


def _sniff_headless(path: Path, content: Path | bytes, lines: list[str], separator: str) -> Format:
    """Three or four fields of which not all are whole numbers: a table in MovieLens' order, where they settle it."""
    rows = [split_line(line, separator, False) for line in lines[:1000]]
    width = len(rows[0])
    roles = ROLES[:width]
    is_settled = bool(MOVIELENS.fullmatch(path.name)) or separator == "::"
    if not is_settled and all(len(row) == width for row in rows):
        columns = list(zip(*rows, strict=True))
        ids = all(re.fullmatch(WHOLE, token) for column in columns[:2] for token in column)
        numbers = [[float(token) for token in column if re.fullmatch(NUMBER, token)] for column in columns[2:]]
        rated = bool(numbers[0]) and max(map(abs, numbers[0])) <= STARS
        is_settled = ids and rated and (width == 3 or (bool(numbers[1]) and min(numbers[1]) >= FIRST_TIME))
    if is_settled:
        return Format(path, "ratings", "its columns are in MovieLens' order", separator, roles, content=content)
    if all(re.fullmatch(WHOLE, token) for token in rows[0]):
        return Format(path, "lists", "line 1 has whole numbers", content=content)
    raise _no_header(path, lines[0].strip(), separator, width)


def _sniff_numbers(path: Path, content: Path | bytes, lines: list[str]) -> Format:
    """Line 1 has whole numbers apart by blanks: lists, lists that start with their length, or a table."""
    separator = "\t" if "\t" in lines[0].strip() else BLANK
    if len(lines[0].split()) in (3, 4):
        later = {token for line in lines for token in line.split()[2:]}
        if any(re.fullmatch(NUMBER, token) and not re.fullmatch(WHOLE, token) for token in later):
            return _sniff_headless(path, content, lines, separator)
    values, sizes = numbers = read_numbers(path, content)
    first = values[np.cumsum(sizes) - sizes]
    is_counted = len(sizes) > 2 and bool((first == sizes - 1).all())
    if len(np.unique(sizes)) == 1 and sizes[0] > 2:
        return _sniff_columns(path, content, numbers, separator, is_counted)
    if is_counted and sizes.max() > 2:
        if len(np.unique(first)) == len(first):
            raise DataError(
                f"{path}: the first number of a line says how many follow, on every line, and no two are the same: "
                "they may be lengths or users; write one `user item` pair a line"
            )
        why = "the first number of every line says how many follow, so it is no user"
        return Format(path, "counted", why, content=content, numbers=numbers)
    return Format(path, "lists", "every line has whole numbers", content=content, numbers=numbers)


def _sniff_columns(
    path: Path, content: Path | bytes, numbers: tuple[np.ndarray, np.ndarray], separator: str, is_counted: bool
) -> Format:
    """Whole numbers, as many in each line and at least three: lists, or a table without a header."""
    values, sizes = numbers
    count, width = len(sizes), int(sizes[0])
    users, items, third, *_ = columns = values.reshape(count, width).T
    is_rating = third.max() <= STARS
    has_times = columns[-1].min() >= FIRST_TIME > items.max()
    roles = ()
    if width == 4 and (MOVIELENS.fullmatch(path.name) or (is_rating and has_times)):
        roles = ROLES
    elif width == 3 and has_times:
        roles = ("user", "item", "timestamp")
    elif width == 3 and is_rating and items.max() > 2 * STARS and count >= ENOUGH and not is_counted:
        roles = ROLES[:3]
    if roles:
        why = f"every line has {width} numbers, of which the {'third' if width == 3 else 'last'} can be no item"
        return Format(path, "ratings", why, separator, roles, content=content)
    if len(np.unique(users)) == count:  # each user once, as in lists
        is_list = count < ENOUGH or all(_alike(items, column, 20) for column in columns[2:])
    else:
        is_list = count >= ENOUGH and not is_rating and all(_alike(items, column, 4) for column in columns[2:])
    if is_list and not is_counted:
        return Format(path, "lists", "every line has whole numbers", content=content, numbers=numbers)
    header = _example_header(separator, width)
    raise DataError(
        f"{path}: every line has {width} numbers: a user and {width - 1} items, or columns such as user, item, rating? "
        f"Put a header line on top, such as {header!r}, or write lists as one `user item` pair a line"
    )


def _alike(first: np.ndarray, second: np.ndarray, factor: int) -> bool:
    """Whether two columns may be drawn from the same items: their values, and how many differ, are within a factor."""
    sizes = [len(np.unique(column)) for column in (first, second)]
    return max(sizes) <= factor * min(sizes) and max(first.max(), second.max()) <= factor * min(
        first.max(), second.max()
    )


# The names of the parts of one table, as Spark, dask, DuckDB, pyarrow and BigQuery write them; as Hugging Face does.
_PART = re.compile(r"((part|data|chunk|shard)[-_.]?)?\d+([-_.][\w.-]*)?|[0-9a-f]{32}[-_.]\d+", re.IGNORECASE)
_PART_OF = re.compile(r"(?P<stem>.+?)[-_.]\d+[-_]of[-_](?P<count>\d+)")
_SUFFIXES = re.compile(r"(\.(csv|tsv|txt|parquet|pq|snappy|lz4|gz|gzip|zst|zstd|bz2|xz|zip))+$", re.IGNORECASE)


def find_parts(folder: Path, stem: str = "") -> tuple[Path, ...]:
    """The parts of one table in a folder, in the order of their names; none where files are not named as such.

    stem: of names such as `train-00000-of-00002.parquet`. Folders named `key=value` are looked into. Files that are
    empty or hidden, and those that start with `_`, are none. DataError where some of a known number are missing.
    """
    found, counts = [], set()
    for path in sorted(folder.iterdir()):
        name = _SUFFIXES.sub("", path.name)
        if path.is_dir():
            found += find_parts(path, stem) if "=" in path.name else []
        elif path.name[0] in "._":
            continue
        elif of := _PART_OF.fullmatch(name):
            if of["stem"] == stem:
                found.append(path)
                counts.add(int(of["count"]))
        elif not stem and _PART.fullmatch(name):
            found.append(path)
    if counts and counts != {len(found)}:
        raise DataError(f"{folder}: {len(found)} of {max(counts)} parts of {stem} are here; fetch all of them")
    return tuple(path for path in found if path.stat().st_size)


def _folder_keys(folder: Path, part: Path) -> dict[str, str]:
    """The columns that the folders between `folder` and its part name."""
    steps = [step for step in part.relative_to(folder).parts[:-1] if "=" in step]
    return dict(step.split("=", 1) for step in steps)


def sniff_parts(
    folder: Path, parts: tuple[Path, ...], given: Mapping[str, str | None], *, check: bool = True
) -> Format:
    """The one table that the parts in a folder are, told by the first of them. check: whether Parquet is whole."""
    first = sniff(parts[0], given)
    if not first.is_table:
        raise DataError(f"{folder}: its parts are {KINDS[first.kind]}; write them into one file")
    if first.kind == "parquet" and check:
        check_parquet(*parts)
    columns = (*first.columns, *(name for name in _folder_keys(folder, parts[0]) if name not in first.columns))
    why = f"its files have the names of parts, and of {parts[0].name} {first.why}"
    return Format(folder, first.kind, why, first.separator, columns, parts)
