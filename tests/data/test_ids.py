"""Raw ids from Python: what is meant works, whatever holds it, and the rest is named in one line."""

from __future__ import annotations

import datetime
import decimal
import re

import numpy as np
import polars as pl
import pytest
import torch

from mrl.data.ids import append, as_series, id_column, rows_by_text, texts
from mrl.errors import DataError


def named(value: object) -> str:
    """What it looks like, without where it lies in memory: the same in every process."""
    return re.sub("0x[0-9A-Fa-f]+", "", repr(value))


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (5, [5]),
        ("a", ["a"]),
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        ((number for number in (3, 4)), [3, 4]),
        ({"a": 1}.keys(), ["a"]),
        ([], []),
        ([7, "a new user"], ["7", "a new user"]),
        ([196.0, 5], [196, 5]),
        ([2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        (decimal.Decimal(7), [7]),
        ([None, 1, float("nan")], [None, 1, None]),
        (np.int64(3), [3]),
        (np.array(7), [7]),
        (np.array([1, 2], dtype=">u8"), [1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1, None, "b"], dtype=object), ["1", None, "b"]),
        (np.ma.array([1, 2], mask=[False, True]), [1, None]),
        (np.array([1.0, np.nan]), [1, None]),
        (torch.tensor(3), [3]),
        (torch.tensor([1, 2], dtype=torch.int32), [1, 2]),
        ([torch.tensor(1), torch.tensor(2)], [1, 2]),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), [1, 2]),
        (pl.Series([1, 2], dtype=pl.UInt8), [1, 2]),
        (pl.Series([1.0, None]), [1, None]),
        (pl.Series(["a"], dtype=pl.Categorical), ["a"]),
        (pl.Series([decimal.Decimal(5)]), [5]),
    ],
    ids=named,
)
def test_ids_are_read_from_whatever_holds_them(values, expected) -> None:
    column = id_column(values, "user")
    assert column.to_list() == expected
    assert column.dtype == (pl.String if any(isinstance(raw, str) for raw in expected) else pl.Int64)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"196", r"user id b'196': decode it"),
        ([bytearray(b"1")], "decode it"),
        (np.array([b"1"]), r"user id b'1': decode it"),
        (pl.Series([b"1"]), "Binary, such as b'1'"),
        (True, "user id True: ids are whole numbers or text"),
        ([1, True], "user id True"),
        (np.array([True]), "user id True"),
        (pl.Series([True]), "Boolean, such as True"),
        (5000.7, r"user id 5000\.7 is no whole number"),
        (np.array([1, 5000.7]), r"5000\.7 is no whole number"),
        (torch.tensor([1.5]), r"1\.5 is no whole number"),
        (pl.Series([1.5]), r"1\.5 is no whole number"),
        (decimal.Decimal("5.5"), r"5\.5'\) is no whole number"),
        (float("inf"), "user id inf"),
        (2**63 + 5, "9223372036854775813 is past 64 bits; make ids text"),
        (np.array([2**63], dtype="u8"), "is past 64 bits"),
        (pl.Series([1, -(2**70)], dtype=pl.Int128), "-1180591620717411303424 is past 64 bits"),
        (2.0**53 + 2, "a float of that size is rounded"),
        (np.array([2**24 + 2], dtype="f4"), "a float of that size is rounded"),
        (torch.tensor([2.0**24 + 2]), "a float of that size is rounded"),
        ([[1, 2]], r"user id \[1, 2\]"),
        (np.array([[1], [2]]), r"shape \(2, 1\); give one dimension"),
        (torch.tensor([[1]]), r"shape \(1, 1\)"),
        ({"a": 1}, "a dict is no list of ids"),
        (pl.DataFrame({"a": [1]}), "a DataFrame is no list of ids; give one of its columns"),
        (pl.col("a"), "a Expr is no list"),
        (datetime.date(2020, 1, 1), "user id datetime.date"),
        (np.array(["2020-01-01"], dtype="M8[ns]"), "datetime64"),
        (["a", "\ud800"], "is not valid Unicode"),
        (object(), "user id <object"),
    ],
    ids=lambda value: named(value)[:40],
)
def test_what_is_no_id_is_named_in_one_line(values, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        id_column(values, "user")
    assert "\n" not in str(caught.value)


@pytest.mark.robustness
def test_ids_of_pandas_and_arrow_are_read() -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for values, expected in (
        (pd.Series([1, None]), [1, None]),
        (pd.Series([2**53 + 1, None], dtype="Int64"), [2**53 + 1, None]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.Index(["a"]), ["a"]),
        ([pd.NA, 1], [None, 1]),
        (pa.array([2**53 + 1, None]), [2**53 + 1, None]),
        (pa.chunked_array([["a"], ["b"]]), ["a", "b"]),
        (pa.scalar(5), [5]),
    ):
        assert id_column(values, "user").to_list() == expected
    for values in (pd.DataFrame({"a": [1]}), pa.table({"a": [1]}), pd.Timestamp("2020-01-01"), pd.Series([1.5])):
        with pytest.raises(DataError, match="user"):
            id_column(values, "user")


def test_a_missing_id_is_named_by_its_place() -> None:
    with pytest.raises(DataError, match="user id at position 1 of 2 is missing"):
        texts(id_column([1, None], "user"), "user")


def test_new_ids_are_numbers_beside_numbers_and_text_beside_text() -> None:
    numbers, words = np.array([1, 2]), np.array(["a", "2"], dtype=object)
    assert append(numbers, ["5", "-7"]).dtype == np.int64 and append(numbers, []).tolist() == [1, 2]
    both = append(numbers, ["5", "a new user", "007", str(2**63)])
    assert both.tolist() == [1, 2, 5, "a new user", "007", str(2**63)]
    assert append(both, ["8"]).tolist()[-1] == 8
    assert append(words, ["5"]).tolist() == ["a", "2", "5"]
    assert rows_by_text(both) == {"1": 0, "2": 1, "5": 2, "a new user": 3, "007": 4, str(2**63): 5}
    assert as_series(numbers).dtype == pl.Int64
    assert as_series(both).to_list() == ["1", "2", "5", "a new user", "007", str(2**63)]
