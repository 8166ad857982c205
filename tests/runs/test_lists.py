"""Recommendations as a table: raw ids and titles by row, unknown ids named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mrl.data.ids import rows_by_text
from mrl.errors import DataError, RunError
from mrl.runs.lists import as_lists, find_rows


def test_rows_become_ids_and_titles() -> None:
    labels = pl.DataFrame({"title": ["a", "b", "c"]})
    item, rank = np.array([2, 0]), np.array([1, 2])
    table = as_lists(np.array(["u", "u"], dtype=object), np.array([7, 8, 9]), labels, item, rank, np.array([0.5, 0.25]))
    assert table.rows() == [("u", 9, 1, 0.5, "c"), ("u", 7, 2, 0.25, "a")]
    assert table.columns == ["user", "item", "rank", "score", "title"]
    assert "title" not in as_lists(np.arange(2), np.array([7, 8, 9]), None, item, rank, np.zeros(2)).columns


def test_rows_are_found_by_how_ids_are_written() -> None:
    rows = rows_by_text(np.array([10, 20]))
    assert find_rows(["20", 10.0], rows, "item", "here", [10, 20]) == [1, 0]
    with pytest.raises(RunError, match=r"^item 30 is not in here; its ids are like \[10, 20\]$"):
        find_rows([10, 30], rows, "item", "here", (10, 20))
    with pytest.raises(DataError, match="no whole number"):
        find_rows([1.5], rows, "item", "here", [])
