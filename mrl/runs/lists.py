"""Recommendations as a table: what `Run.recommend` and an index return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from mrl.data.ids import as_series, id_column, texts
from mrl.errors import RunError


def as_lists(
    users: np.ndarray, item_ids: np.ndarray, labels: pl.DataFrame | None, item: np.ndarray, rank: np.ndarray, score
) -> pl.DataFrame:
    """Columns user, item, rank (from 1), score (float32), and title where items have one.

    users (n,): raw ids or row numbers; item (n,): rows of `item_ids` and `labels`.
    Built column by column: the threads of polars' queries do not survive a fork, and a server may have forked.
    """
    table = {
        "user": as_series(users),
        "item": as_series(item_ids[item]),
        "rank": rank,
        "score": score.astype(np.float32),
    }
    if labels is not None and "title" in labels.columns:
        table["title"] = labels["title"].gather(item)
    return pl.DataFrame(table)


def find_rows(ids: Any, rows: dict[str, int], what: str, where: object, like: Sequence) -> list[int]:
    """The row of each raw id. what: `user` or `item`; where: whose ids they are; like: some of them, for the message.

    Raises RunError on an unknown id, DataError on what is no id.
    """
    asked = id_column(ids, what)
    found = [rows.get(text, -1) for text in texts(asked, what)]
    if -1 in found:
        raise RunError(f"{what} {asked[found.index(-1)]!r} is not in {where}; its ids are like {list(like)}")
    return found
