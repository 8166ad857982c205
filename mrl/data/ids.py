"""Raw ids from Python: what holds them and what they are, checked as those of files are.

An id is a whole number of 64 bits or text. Two ids are the same where they are written the same: "196" from a web
request is user 196 where ids are numbers, and 196 is user "196" where they are text. A whole float such as 196.0 is
the number, as pandas makes floats of a column with gaps. Anything else is refused, never rounded or cut to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
import polars as pl
import torch

from mrl.errors import DataError

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_KIND = ": ids are whole numbers or text"


def id_column(values: Any, what: str) -> pl.Series:
    """Raw ids as a column, Int64 or String; numbers beside text become text, what is missing is null.

    values: one id, or many in a list or another iterable, a NumPy, torch or Arrow array, or a polars or pandas series.
    what: how a message calls them, such as `user`. Raises DataError that names the first value which is no id.
    """
    if isinstance(values, Mapping | pl.Expr) or hasattr(values, "columns"):
        raise DataError(f"{what}: a {type(values).__name__} is no list of ids; give one of its columns")
    if isinstance(values, torch.Tensor):
        values = _from_torch(values)
    elif hasattr(values, "to_numpy") and hasattr(values, "dtype") and not isinstance(values, pl.Series):  # pandas
        values = from_pandas(values)
    elif not isinstance(values, pl.Series) and _is_arrow(values):
        values = pl.Series(what, values)
    if isinstance(values, np.ndarray):
        values = _from_numpy(values, what)
    if not isinstance(values, pl.Series):
        is_one = isinstance(values, str | bytes | bytearray | memoryview) or not isinstance(values, Iterable)
        values = _from_objects([values] if is_one else values, what)
    return _checked(values, what).alias(what.rpartition(" ")[2])


def from_pandas(column: Any) -> np.ndarray:
    """What a pandas series or index holds; of its own dtypes as objects, since it rounds numbers beside gaps."""
    return column.to_numpy(**({} if isinstance(column.dtype, np.dtype) else {"dtype": object}))


def texts(column: pl.Series, what: str) -> list[str]:
    """The ids as they are written; DataError where one is missing."""
    if column.null_count():
        row = int(column.is_null().arg_max())
        raise DataError(f"{what} id at position {row} of {len(column)} is missing; leave it out")
    return column.cast(pl.String).to_list()


def rows_by_text(ids: np.ndarray) -> dict[str, int]:
    """The row of each raw id, by how it is written."""
    return {str(raw): row for row, raw in enumerate(ids.tolist())}


def append(ids: np.ndarray, new: list[str]) -> np.ndarray:
    """Ids (N,) with new ones behind them, by how these are written: numbers where ids are numbers, else text.

    Where new text comes to numbers the array holds both, as objects.
    """
    has_numbers = ids.dtype != object or not all(isinstance(raw, str) for raw in ids)
    added = [_as_number(text) if has_numbers else text for text in new]
    if ids.dtype != object and all(isinstance(raw, int) for raw in added):
        return np.concatenate([ids, np.array(added, dtype=ids.dtype)])
    return np.array([*ids.tolist(), *added], dtype=object)


def as_series(ids: np.ndarray) -> pl.Series:
    """Raw ids as a column: Int64 where all are numbers, else text."""
    return pl.Series(ids) if ids.dtype != object else pl.Series([str(raw) for raw in ids], dtype=pl.String)


def _as_number(text: str) -> int | str:
    is_number = re.fullmatch(r"0|-?[1-9]\d{0,18}", text, re.ASCII) and _SMALLEST <= int(text) <= _LARGEST
    return int(text) if is_number else text


def _is_arrow(values: Any) -> bool:
    return hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__")


def _from_torch(tensor: torch.Tensor) -> np.ndarray | pl.Series:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point() or tensor.dtype in (torch.float64, torch.float32, torch.float16):
        return tensor.numpy()
    return tensor.to(torch.float16).numpy()  # bfloat16, which NumPy lacks: what it rounds is refused all the more


def _from_numpy(array: np.ndarray, what: str) -> pl.Series | list:
    if array.ndim > 1:
        raise DataError(f"{what} ids have shape {array.shape}; give one dimension, such as ids[:, 0]")
    array = array.reshape(-1)
    if isinstance(array, np.ma.MaskedArray) or array.dtype.kind not in "iufU":
        if array.dtype.kind in "Mm" and len(array):
            _refuse(array[0], what, _KIND)
        return array.tolist()
    return pl.Series(what, array.astype(array.dtype.newbyteorder("="), copy=False))


def _from_objects(values: Iterable[Any], what: str) -> pl.Series:
    ids = [_from_object(value, what) for value in values]
    if not any(isinstance(raw, str) for raw in ids):
        return pl.Series(what, ids, dtype=pl.Int64)
    try:
        return pl.Series(what, [None if raw is None else str(raw) for raw in ids], dtype=pl.String)
    except UnicodeEncodeError:
        _refuse(next(raw for raw in ids if re.search("[\ud800-\udfff]", str(raw))), what, " is not valid Unicode")


def _from_object(value: Any, what: str) -> int | str | None:
    """One id as Python has it, None where it is missing."""
    eps = np.finfo(type(value)).eps if isinstance(value, np.floating) else 2.0**-52
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and not value.shape:
        value = value if isinstance(value, np.datetime64 | np.timedelta64) else value.item()
    elif hasattr(value, "as_py"):  # of Arrow
        value = value.as_py()
    if isinstance(value, str):
        return str(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' words for it
        return None
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        remedy = ": decode it, as in value.decode()" if isinstance(value, bytes | bytearray) else _KIND
        _refuse(value, what, remedy)
    if not isinstance(value, Integral):
        if value != value:
            return None
        if abs(value) > 2 / eps:
            _refuse(value, what, ": a float of that size is rounded; give whole numbers or text")
        if value != int(value):
            _refuse(value, what, " is no whole number")
    if not _SMALLEST <= value <= _LARGEST:
        _refuse(value, what, " is past 64 bits; make ids text")
    return int(value)


def _checked(column: pl.Series, what: str) -> pl.Series:
    """The column as Int64 or String, whatever its type."""
    kind = column.dtype
    if kind in (pl.Int64, pl.String):
        return column
    if kind in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if kind == pl.Null:
        return column.cast(pl.Int64)
    if kind.is_integer():
        for end in (column.max(), column.min()):
            if end is not None and not _SMALLEST <= end <= _LARGEST:
                _refuse(end, what, " is past 64 bits; make ids text")
        return column.cast(pl.Int64)
    if kind.is_float():
        return _from_floats(column, what)
    if kind.is_decimal() or kind == pl.Object:
        return _from_objects(column.to_list(), what)
    first = column.drop_nulls()
    such = f", such as {first[0]!r}" if len(first) else ""
    raise DataError(f"{what} ids are {kind}{such}; they must be whole numbers or text")


def _from_floats(column: pl.Series, what: str) -> pl.Series:
    numbers = column.to_numpy()
    missing = np.isnan(numbers)
    wrong = ~missing & ((np.abs(numbers) > 2 / np.finfo(numbers.dtype).eps) | (numbers != np.floor(numbers)))
    if wrong.any():
        _from_object(numbers[wrong][0], what)  # says why
    return pl.Series(np.where(missing, 0, numbers).astype(np.int64)).set(pl.Series(missing), None)


def _refuse(value: Any, what: str, why: str) -> NoReturn:
    text = repr(value)
    raise DataError(f"{what} id {text if len(text) <= 80 else text[:77] + '...'}{why}")
