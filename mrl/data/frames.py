"""Tables that people hold in Python → polars: frames of polars, pandas and Arrow, columns, rows, NumPy arrays.

pandas and Arrow are known by what they can do, not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import polars as pl
import torch

from mrl.data.ids import from_pandas, id_column
from mrl.errors import DataError
from mrl.files import USUAL, usual

COLUMNS = ("user", "item", "rating", "timestamp", "part")  # of a log
_POSITIONS = COLUMNS[:4]  # what rows without names hold
_KNOWN = "give a polars, pandas or Arrow table, a dict of columns, a list of rows, or a NumPy array"


def as_frame(
    table: Any, where: str, columns: Sequence[str] | None = None, notes: list[str] | None = None
) -> pl.DataFrame:
    """A table as polars has it, with `user` and `item` as Int64 or String columns.

    table: a frame of polars or pandas, an Arrow table, a structured NumPy array, a dict of columns (where one value
        stands for a column of it) or a list of dicts; or rows of user, item, and where there are any rating and
        timestamp: tuples, or a NumPy or torch array (N, 2 to 4).
    where: what a message begins with. columns: of a log, those to keep where they are there, by these names or usual
        ones such as `userId`, which `notes` is told; None for any table.
    Raises DataError for anything else, and for ids and columns that are not all of a kind.
    """
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    if not isinstance(table, pl.DataFrame):
        held = _columns(table, where)
        if isinstance(held, dict):
            renamed = _usual_names(held, columns, notes)
            held = {renamed.get(name, name): values for name, values in held.items()}
            _check_sides(held, where, columns)
            held = {str(name): values for name, values in held.items() if columns is None or name in columns}
            length = max((len(values) for values in held.values() if not _is_one(values)), default=1)
            held = {name: [values] * length if _is_one(values) else values for name, values in held.items()}
            made = [_column(name, values, where) for name, values in held.items()]
            if len(lengths := {len(column) for column in made}) > 1:
                raise DataError(f"{where}: columns of {sorted(lengths)} values; give one a row in each")
            held = pl.DataFrame(made)
        table = held
    if columns is not None:
        table = table.rename(_usual_names(table.columns, columns, notes))
        _check_sides(table.columns, where, columns)
    # Column by column: the threads in which polars runs queries do not survive a fork, and a server may have forked.
    kept = [column for column in table.get_columns() if columns is None or column.name in columns]
    sides = ("user", "item")
    return pl.DataFrame(
        [id_column(each, f"{where}: {each.name}").alias(each.name) if each.name in sides else each for each in kept]
    )


def _usual_names(names: Iterable[Any], columns: Sequence[str] | None, notes: list[str] | None) -> dict[Any, str]:
    """The columns of a log that have usual names instead of those of their roles; none where two may be meant."""
    names, renamed = list(names), {}
    for role in USUAL if columns is not None else ():
        found = usual([name for name in names if isinstance(name, str)], USUAL[role]) if role in columns else []
        if role not in names and len(found) == 1:
            renamed[found[0]] = role
    if renamed and notes is not None:
        words = ", ".join(f"{role} = {name}" for name, role in renamed.items())
        notes.append(f"columns found by their usual names: {words}; rename them if others are meant")
    return renamed


def _check_sides(names: Iterable[Any], where: str, columns: Sequence[str] | None) -> None:
    if missing := {"user", "item"} - set(names) if columns is not None else set():
        there = ", ".join(map(str, names)) or "none"
        raise DataError(f"{where}: no column {' or '.join(sorted(missing))} in the log; it has {there}")


def _columns(table: Any, where: str) -> dict[Any, Any] | pl.DataFrame:
    """The columns of a table by name, or the table itself where it comes from Arrow."""
    if isinstance(table, Mapping):
        return dict(table)
    if isinstance(table, torch.Tensor):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray) and table.dtype.names:
        return {name: table[name].reshape(-1) for name in table.dtype.names}
    if isinstance(table, np.ndarray):
        if table.ndim != 2 or not 2 <= table.shape[1] <= len(_POSITIONS):
            raise DataError(
                f"{where}: an array of shape {table.shape} is no log; give (N, 2): a user and an item a row"
            )
        return dict(zip(_POSITIONS, table.T, strict=False))
    if hasattr(table, "iloc") and hasattr(table, "columns"):  # pandas, which speaks Arrow only where pyarrow is
        if not table.columns.is_unique:
            raise DataError(f"{where}: two columns of one name; they are {', '.join(map(str, table.columns))}")
        return {name: from_pandas(table[name]) for name in table.columns}
    if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
        try:
            return pl.DataFrame(table)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{where}: this {type(table).__name__} is no table ({reason}); {_KNOWN}") from None
    if isinstance(table, Iterable) and not isinstance(table, str | bytes | pl.Series):
        return _from_rows(list(table), where)
    remedy = "load_dataset reads files" if isinstance(table, str) or hasattr(table, "__fspath__") else _KNOWN
    raise DataError(f"{where}: a {type(table).__name__} is no log; {remedy}")


def _from_rows(rows: list[Any], where: str) -> dict[str, list]:
    if not rows:
        return {"user": [], "item": []}
    if all(isinstance(row, Mapping) for row in rows):
        return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    names = getattr(rows[0], "_fields", _POSITIONS)
    size = len(rows[0]) if isinstance(rows[0], Sequence) else 0
    for row in rows:
        is_row = isinstance(row, Sequence) and not isinstance(row, str | bytes)
        if not is_row or len(row) != size or not 2 <= size <= len(names):
            raise DataError(f"{where}: row {row!r} is not (user, item), with a rating and a time or without, as others")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=False))


def _is_one(values: Any) -> bool:
    return isinstance(values, str | bytes) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0


def _column(name: str, values: Any, where: str) -> pl.Series:
    if name in ("user", "item"):
        return id_column(values, f"{where}: {name}").alias(name)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    elif hasattr(values, "iloc"):
        values = from_pandas(values)
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, list):
        values = [None if type(value).__name__ in ("NAType", "NaTType") else value for value in values]
        if all(value is None or (isinstance(value, Real) and not isinstance(value, bool)) for value in values):
            kinds = {isinstance(value, int | np.integer) for value in values if value is not None}
            values = values if len(kinds) < 2 else [None if value is None else float(value) for value in values]
    try:
        return pl.Series(name, values)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{where}: column {name!r} is not all of one kind ({reason})") from None
