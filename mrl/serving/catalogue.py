"""Whom and what an index knows: items and users with their ids, labels and vectors, kept up to date in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from mrl.data import Positives
from mrl.data.ids import append, rows_by_text
from mrl.errors import ConfigError, RunError
from mrl.kernels import is_forked
from mrl.runs import Run
from mrl.runs.lists import find_rows
from mrl.serving.codes import grown


class Catalogue:
    """Items and users of a run, or item vectors (I, D) alone, whose ids are then their row numbers.

    items: (C, D) float32 with room for C ≥ `count` items; users: (U, D) float32. alive: (count,) bool, False for items
    that were removed. longest: the length of the longest item.
    """

    def __init__(self, run: Run | Tensor | np.ndarray) -> None:
        has_run = hasattr(run, "item_ids")  # or what `mrl.serving.storage` read
        self.items = as_table(run.items if has_run else run, "items")
        self.count = len(self.items)
        self.where = str(run.path) if has_run else "the index"
        self.item_ids = np.asarray(run.item_ids) if has_run else np.arange(self.count)
        self.labels: pl.DataFrame | None = run.labels if has_run else None
        self.user_ids = np.asarray(run.user_ids) if has_run else np.empty(0, np.int64)
        self.users = as_table(run.users, "users") if has_run else np.empty((0, self.items.shape[1]), np.float32)
        self.met: list[Positives] = list(run.met) if has_run else []
        self.has_seen = has_run and run.seen is not None
        self.alive = np.ones(self.count, bool)
        self.own_met: dict[int, np.ndarray] = {}  # of users that came or changed after the run
        self.longest = getattr(run, "longest", None) or _longest(self.items)
        self._rows: dict[str, dict[str, int]] = {}

    def rows(self, side: str) -> dict[str, int]:
        """The row of each raw id of `user` or `item`, by how it is written; without what was removed."""
        if side not in self._rows:
            rows = rows_by_text(self.user_ids if side == "user" else self.item_ids)
            self._rows[side] = rows if side == "user" else {text: row for text, row in rows.items() if self.alive[row]}
        return self._rows[side]

    def find(self, side: str, ids: Any) -> list[int]:
        """Rows of raw ids. Raises RunError on an unknown one, DataError on what is no id."""
        known = self.user_ids if side == "user" else self.item_ids
        return find_rows(ids, self.rows(side), side, self.where, known[:3].tolist())

    def met_by(self, user: int) -> np.ndarray:
        """Rows of the items that a user is known to have met, (n,) int64."""
        if user in self.own_met:
            return self.own_met[user]
        parts = [positives.of(user).numpy() for positives in self.met if user < positives.num_users]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def allowed(self, only: Any) -> np.ndarray:
        """(I,) bool: which items an `only` of a search lets pass; to be made once where it is used often."""
        if isinstance(only, np.ndarray) and only.dtype == bool:
            if only.shape != (self.count,):
                raise ConfigError(f"only: a mask of shape {only.shape}, where there are {self.count} items")
            return only
        if isinstance(only, pl.Expr):
            if self.labels is None:
                raise ConfigError("only: an expression, but the items have no labels; give ids")
            if is_forked():  # without the threads in which polars runs queries
                raise ConfigError("only: a forked process evaluates no expression; make a mask by `allowed` before it")
            try:
                mask = self.labels.select(only.alias("only")).to_series()
            except pl.exceptions.PolarsError as error:
                raise ConfigError(f"only: {str(error).splitlines()[0]}; labels are {self.labels.columns}") from None
            if mask.dtype != pl.Boolean or len(mask) != self.count:
                raise ConfigError(f"only: the expression gives {mask.dtype} of {len(mask)} rows; make it true or false")
            return mask.fill_null(False).to_numpy()
        mask = np.zeros(self.count, bool)
        mask[self.find("item", only)] = True
        return mask

    def denied(self, exclude: Any, only: Any) -> np.ndarray | None:
        """(I,) bool of what a search may not return, or None where it may return everything."""
        if exclude is None and only is None and self.alive.all():
            return None
        denied = ~self.alive
        if only is not None:
            denied |= ~self.allowed(only)
        if exclude is not None:
            denied[self.find("item", exclude)] = True
        return denied

    def changed(self, run: Run) -> np.ndarray:
        """Rows of the items here that have other vectors in a run, (n,) int64."""
        known = self.rows("item")
        rows = np.array([known.get(str(raw), -1) for raw in run.item_ids.tolist()], np.int64)
        here = (rows >= 0).nonzero()[0]
        return rows[here][(self.items[rows[here]] != as_table(run.items, "items")[here]).any(axis=1)]

    def update(self, run: Run) -> np.ndarray:
        """Take over what a run has that is new or has other vectors; returns the rows of such items, new ones last.

        Users and items are known by their ids. Those that the run lacks stay.
        """
        if run.items.shape[1] != self.items.shape[1]:
            width = self.items.shape[1]
            raise RunError(f"update: the run has {run.items.shape[1]} dimensions, the index {width}; build a new one")
        vectors, users = as_table(run.items, "items"), as_table(run.users, "users")
        items_of, new_items = self._place("item", run.item_ids)
        added = len(new_items)
        if added:
            self.count += added
            self.item_ids = append(self.item_ids, [str(run.item_ids[row]) for row in new_items])
            self.alive = np.concatenate([self.alive, np.ones(added, bool)])
            if self.count > len(self.items):
                self.items = grown(self.items, max(self.count, 2 * len(self.items)))
            if self.labels is not None:
                self.labels = _with_labels(self.labels, run.labels, new_items)
        is_new = items_of >= self.count - added
        changed = (is_new | (self.items[items_of] != vectors).any(axis=1)).nonzero()[0]
        rows = items_of[changed]
        order = rows.argsort()
        rows, changed = rows[order], changed[order]
        self.items[rows] = vectors[changed]
        self.longest = max(self.longest, _longest(vectors[changed]))

        users_of, new_users = self._place("user", run.user_ids)
        if len(new_users):
            self.user_ids = append(self.user_ids, [str(run.user_ids[row]) for row in new_users])
            self.users = grown(self.users, len(self.user_ids))
        self.users[users_of] = users
        for positives in run.met:
            of_new = np.isin(positives.users.numpy(), new_users) | is_new[positives.items.numpy()]
            for user in np.unique(positives.users.numpy()[of_new]):
                met = items_of[positives.of(int(user)).numpy()]
                row = int(users_of[user])
                self.own_met[row] = np.union1d(self.met_by(row), met)
        self.has_seen |= run.seen is not None
        return rows

    def remove(self, item_ids: Any) -> np.ndarray:
        """Take items out of every list; returns their rows. An id that was removed can come back by `update`."""
        rows = np.unique(self.find("item", item_ids))
        self.alive[rows] = False
        self._rows.pop("item", None)
        return rows

    def _place(self, side: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows that raw ids have here, or get behind the last (N,); and which of them are new."""
        known, count = self.rows(side), self.count if side == "item" else len(self.user_ids)
        placed = np.array([known.get(str(raw), -1) for raw in ids.tolist()], np.int64)
        new = (placed < 0).nonzero()[0]
        placed[new] = np.arange(count, count + len(new))
        self._rows[side] = known | {str(ids[row]): int(placed[row]) for row in new}
        return placed, new


def as_table(vectors: Any, what: str) -> np.ndarray:
    """(N, D) float32 in rows, or ConfigError: what is no table of finite numbers has no inner products."""
    table = vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if table.ndim != 2 or table.dtype.kind != "f":
        raise ConfigError(f"{what}: shape {table.shape} of {table.dtype}; give a table of floats, one row each")
    table = np.ascontiguousarray(table, np.float32)
    if not isinstance(vectors, np.memmap) and not np.isfinite(table).all():  # what is on disk was checked before
        raise ConfigError(f"{what}: NaN or Inf among the vectors")
    return table


def _longest(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.einsum("id,id->i", vectors, vectors)).max(initial=0.0))


def _with_labels(labels: pl.DataFrame, of_run: pl.DataFrame | None, rows: np.ndarray) -> pl.DataFrame:
    """Labels with those of new items behind them, null where the run has none."""
    # Not by pl.concat: it waits for polars' threads, which a forked process does not have.
    columns = []
    for column in labels:
        has = of_run is not None and column.name in of_run.columns
        new = of_run[column.name].gather(rows) if has else pl.Series([None] * len(rows), dtype=column.dtype)
        columns.append(column.clone().append(new.cast(column.dtype)))
    return pl.DataFrame(columns)
