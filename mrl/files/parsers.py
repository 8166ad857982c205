"""A file → a log: one row an interaction, with columns user, item and, where known, rating and timestamp.

`mrl.data.datasets` decides which files make up a data set, `mrl.files.formats` what is in them. Every fault of a file
is a DataError that names the path, the line and the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from mrl.errors import ConfigError, DataError
from mrl.files.columns import ROLES, find_columns
from mrl.files.formats import Format, sniff
from mrl.files.lists import pairs_of, read_numbers
from mrl.files.tables import ParquetTable, PartsTable, TextTable
from mrl.files.values import EXPECTED, MISSING, OpenDates, is_missing, to_ids, to_numbers, to_times

CONVERT = {"user": to_ids, "item": to_ids, "rating": to_numbers, "timestamp": to_times}


def read_log(
    source: str | Path | Format,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    needed: Sequence[str] = ROLES,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """Read a log from a file, or from a folder with the parts of one table.

    The columns: None for one with a usual name (`mrl.files.columns`), "" to leave rating or timestamp alone. Adjacency
    lists have none (ConfigError). needed: roles whose every value must be one; of others (rating and timestamp only)
    what is none becomes null, and no column is asked for. notes: where what was decided is added.

    Returns ids as Int64 where all are whole numbers, else String; rating Float64; timestamp Int64, Float64 or Datetime.
    A user without items gives a row whose item is null.
    """
    notes = [] if notes is None else notes
    given = {"user": user_column, "item": item_column, "rating": rating_column, "timestamp": timestamp_column}
    found = source if isinstance(source, Format) else sniff(source, given)
    if found.is_table:
        table = found.open()
        place = str(found.path) if isinstance(table, ParquetTable | PartsTable) else f"{found.path}:1"
        columns = find_columns(place, table.columns, given, ("user", "item", *needed), notes)
        return _read_columns(table, columns, ("user", "item", *needed), notes)
    if columns := [f"{role}_column" for role, name in given.items() if name]:
        raise ConfigError(f"{columns[0]}: {found.path} has no named columns; leave it out")
    values, sizes = found.numbers or read_numbers(found.path, found.content)
    return pairs_of(values, sizes, counted=found.kind == "counted")


def _read_columns(
    table: TextTable | ParquetTable | PartsTable, columns: Mapping[str, str], needed: Sequence[str], notes: list[str]
) -> pl.DataFrame:
    """The columns of a table under their roles (role → column), ids and numbers checked."""
    raw = table.read(list(dict.fromkeys(columns.values())))
    raw = raw.select(pl.col(column).alias(role) for role, column in columns.items()).with_row_index("row")
    raw = raw.filter(pl.any_horizontal(pl.col(list(columns)).is_not_null()))  # blank lines
    if raw.is_empty():
        raise DataError(f"{table.path}: a header and no rows, probably an interrupted copy; fetch it again")
    log = {}
    for role, name in columns.items():
        values = _convert(table, raw, role, name, is_needed=role in needed)
        if values is not None:
            log[role] = values
        if role in ("user", "item"):
            notes += _odd_ids(raw[role], log[role], role)
    return pl.DataFrame(log)


def _convert(
    table: TextTable | ParquetTable | PartsTable, raw: pl.DataFrame, role: str, name: str, *, is_needed: bool
) -> pl.Series | None:
    """A column as what its role needs; None where it is not needed and is no such thing."""
    column, convert = raw[role], CONVERT[role]
    try:
        values, is_bad = convert(column)
    except OpenDates as error:
        if not is_needed:
            return None
        raise DataError(f"{table.path}: {role} {error} (column {name!r})") from None
    if not (bad_rows := is_bad.arg_true()).len():
        return values
    if not is_needed:
        is_usable = values.dtype.is_numeric() or values.dtype.is_temporal()
        return pl.select(pl.when(~is_bad).then(values)).to_series() if is_usable else None
    row = bad_rows[0]
    # Of dates only the type is shown: polars panics at one beyond its calendar.
    value = str(column.dtype) if column.dtype.is_temporal() else column[row]
    if role in ("user", "item") and is_missing(value):
        shown = f" ({value!r})" if value else ""
        more = f", here and in {len(bad_rows) - 1} more rows" if len(bad_rows) > 1 else ""
        problem = f"is missing{shown}{more}; remove these rows, or fill them in"
    else:
        kind = "" if column.dtype in (pl.String, pl.Date, pl.Datetime) else f" (of type {column.dtype})"
        problem = f"{str(value)[:40]!r}{kind} is not {EXPECTED[role]}"
    raise DataError(f"{table.place(raw['row'][row])}: {role} {problem} (column {name!r})")


def _odd_ids(raw: pl.Series, ids: pl.Series, role: str) -> list[str]:
    """Notes on ids that were read as what they need not be."""
    if ids.dtype == pl.Int64 and raw.dtype in (pl.String, pl.Float32, pl.Float64) and not _is_plain(raw):
        return [f"{role} ids are written as decimals ({raw[0]}) and read as whole numbers ({ids[0]})"]
    if ids.dtype != pl.String:
        return []
    words = ids.filter(ids.str.to_lowercase().is_in(MISSING))
    if not len(words):
        return []
    shown = words.mode()[0]
    return [f"{role} {shown!r}, in {int((words == shown).sum())} rows, counts as an id; remove them if it means none"]


def _is_plain(raw: pl.Series) -> bool:
    return raw.dtype == pl.String and not raw.str.contains(".", literal=True).any()
