"""Nearest neighbours as the width grows: do they share genres, do they stay the same, which are they?

Arrays in, tidy tables out; `mrl.hierarchy.measure` documents the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from mrl.errors import ConfigError
from mrl.hierarchy.clusters import check_items, normalise_rows, with_chance

SCORES = 2**23  # similarities that are held at once
DISTINCT_SETS = 2**10  # of labels, up to which a table has the similarity of every two


def top_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """(B, k) int64: columns of the k largest of each row of `scores` (B, I), best first, ties by column."""
    threshold = np.partition(scores, -k, axis=1)[:, -k, None]
    kept = scores >= threshold
    crowded = np.flatnonzero(kept.sum(axis=1) > k)  # rows with ties at the last place
    above, tied = scores[crowded] > threshold[crowded], scores[crowded] == threshold[crowded]
    kept[crowded] = above | (tied & (tied.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(kept)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _similarities(prefix: np.ndarray, rows: np.ndarray, normalise: bool) -> np.ndarray:
    """(B, I): cosine, or the negative Euclidean distance; -inf for an item with itself."""
    if normalise:
        points = normalise_rows(prefix)
        scores = points[rows] @ points.T
    else:
        scores = -cdist(prefix[rows], prefix)
    scores[np.arange(len(rows)), rows] = -np.inf
    return scores


def find_nearest(
    items: np.ndarray,
    widths: Sequence[int],
    k: int = 10,
    *,
    rows: np.ndarray | None = None,
    normalise: bool = True,
    chunk: int = 1024,
) -> np.ndarray:
    """(W, Q, k) int64: the k nearest other items of each item of `rows` (Q,) at every width, nearest first.

    rows: None for every item; the time grows with Q x I. normalise: by cosine; else by Euclidean distance, the geometry
    of k-means with the same setting. chunk: rows at once, fewer where there are very many items.
    """
    items, widths = check_items(items, widths)
    if not 1 <= k < len(items):
        raise ConfigError(f"k={k}: must be at least 1 and below the {len(items)} items there are")
    rows = np.arange(len(items)) if rows is None else np.asarray(rows, dtype=np.int64)
    chunk = min(chunk, max(SCORES // len(items), 1))
    parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    return np.stack(
        [
            np.concatenate([top_columns(_similarities(items[:, :d], part, normalise), k) for part in parts])
            for d in widths
        ]
    )


def neighbour_jaccard(
    neighbours: np.ndarray,
    widths: Sequence[int],
    has_label: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    label: str = "genres",
    permutations: int = 100,
    seed: int = 0,
) -> pl.DataFrame:
    """Mean Jaccard index |A & B| / |A | B| of the label sets of items and their neighbours, at every width.

    neighbours: (W, Q, k) from `find_nearest` of the items `rows` (Q,), None for every item; has_label: (I, G) bool;
    pairs with an unlabelled item are left out. Chance: label sets shuffled between the labelled items. For single
    labels it is the share of equal labels.
    """
    labelled = has_label.any(axis=1)
    rows = np.arange(len(has_label)) if rows is None else np.asarray(rows, dtype=np.int64)
    _, first, set_of = np.unique(np.packbits(has_label, axis=1), axis=0, return_index=True, return_inverse=True)
    jaccard = _jaccard_of(has_label[first])
    rng = np.random.default_rng(seed)
    shuffles = np.tile(set_of, (permutations, 1))
    for shuffled in shuffles:
        shuffled[labelled] = rng.permutation(set_of[labelled])
    table = []
    for width, neighbours_of in zip(widths, neighbours, strict=True):
        pairs = np.stack([np.repeat(rows, neighbours_of.shape[1]), neighbours_of.ravel()])
        item, neighbour = pairs[:, labelled[pairs].all(axis=0)]
        value, *chance = (
            jaccard(sets_of[item], sets_of[neighbour]).mean() if len(item) else 0.0 for sets_of in (set_of, *shuffles)
        )
        key = {"width": width, "neighbours": neighbours_of.shape[1], "label": label, "metric": "jaccard"}
        table.append({**key, **with_chance(value, chance)})
    return pl.DataFrame(table)


def _jaccard_of(sets: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The Jaccard index (P,) of pairs of rows (P,), (P,) of `sets` (S, G) bool; 0 for two empty ones.

    Few sets: a table serves all. Many: pair by pair, since a table grows with their square.
    """
    size, sparse = sets.sum(axis=1, dtype=np.float64), csr_array(sets, dtype=np.float64)
    if len(sets) <= DISTINCT_SETS:
        shared = (sparse @ sparse.T).toarray()
        table = shared / np.maximum(size[:, None] + size - shared, 1)
        return lambda one, other: table[one, other]

    def by_pair(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        shared = sparse[one].multiply(sparse[other]).sum(axis=1)
        return shared / np.maximum(size[one] + size[other] - shared, 1)

    return by_pair


def neighbour_overlap(neighbours: np.ndarray, widths: Sequence[int], num_items: int | None = None) -> pl.DataFrame:
    """Share of an item's k neighbours at one width that are among its k at another, mean over items; every pair.

    neighbours: (W, Q, k); num_items: I, how many items they were sought among; None for Q. Chance is exact: k random
    others of I - 1 meet k given ones with the share k / (I - 1).
    """
    queries, k = neighbours.shape[1:]
    num_items = num_items or queries
    rows = []
    for (width, at_width), (other_width, at_other) in product(zip(widths, neighbours, strict=True), repeat=2):
        shared = sum((at_width == at_other[:, [rank]]).any(axis=1).sum() for rank in range(k))
        key = {"width": width, "other_width": other_width, "neighbours": k, "metric": "overlap"}
        rows.append({**key, "value": shared / (queries * k), "chance": k / (num_items - 1)})
    return pl.DataFrame(rows)


def item_titles(num_items: int, labels: pl.DataFrame | None, item_ids: np.ndarray | None = None) -> list[str]:
    """One text an item: its title where `labels` has one, else its raw id, else its row."""
    ids = np.arange(num_items) if item_ids is None else item_ids
    titles = labels["title"].to_list() if labels is not None and "title" in labels.columns else [None] * num_items
    return [str(title or raw) for title, raw in zip(titles, ids, strict=True)]


def list_neighbours(
    items: np.ndarray,
    widths: Sequence[int],
    row: int,
    k: int = 10,
    *,
    labels: pl.DataFrame | None = None,
    item_ids: np.ndarray | None = None,
    normalise: bool = True,
) -> pl.DataFrame:
    """One item's k nearest at every width.

    Columns: query (title), width, rank (from 1), item (raw id or row), title, score (similarity), new (not in the list
    of the width before; null at the first width).
    """
    items, widths = check_items(items, widths)
    if not 0 <= row < len(items):
        raise ConfigError(f"row={row}: must be an item row from 0 to {len(items) - 1}")
    scores = [_similarities(items[:, :d], np.array([row]), normalise)[0] for d in widths]
    titles = item_titles(len(items), labels, item_ids)
    return _rank_at_widths(scores, widths, k, titles, item_ids, titles[row])


def list_top_k(
    user: np.ndarray,
    items: np.ndarray,
    widths: Sequence[int],
    k: int = 10,
    *,
    exclude: Sequence[int] | np.ndarray = (),
    labels: pl.DataFrame | None = None,
    item_ids: np.ndarray | None = None,
    query: str = "user",
) -> pl.DataFrame:
    """One user's k highest inner products at every width; columns as in `list_neighbours`.

    user: (D,); items: (I, D); exclude: item rows never listed (what the user already has). Fewer than k if few remain.
    """
    items, widths = check_items(items, widths)
    scores = [items[:, :d] @ np.asarray(user, dtype=np.float64)[:d] for d in widths]
    for score in scores:
        score[np.asarray(exclude, dtype=np.int64)] = -np.inf
    return _rank_at_widths(scores, widths, k, item_titles(len(items), labels, item_ids), item_ids, query)


def _rank_at_widths(
    scores: list[np.ndarray], widths: Sequence[int], k: int, titles: list[str], item_ids: np.ndarray | None, query: str
) -> pl.DataFrame:
    if k < 1:
        raise ConfigError(f"k={k}: must be at least 1")
    ids = np.arange(len(titles)) if item_ids is None else item_ids
    rows, before = [], None
    for width, score in zip(widths, scores, strict=True):
        best = top_columns(score[None], min(k, len(score)))[0]
        best = best[np.isfinite(score[best])]
        for rank, item in enumerate(best, 1):
            new = None if before is None else item not in before
            facts = {"item": ids[item], "title": titles[item], "score": float(score[item]), "new": new}
            rows.append({"query": query, "width": width, "rank": rank, **facts})
        before = set(best.tolist())
    return pl.DataFrame(rows, schema_overrides={"new": pl.Boolean}, infer_schema_length=None)
