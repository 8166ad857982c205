"""Known answers for the tests of the hierarchy: a small taxonomy, the same with nothing left of it, and two readers."""

from __future__ import annotations

import numpy as np
import polars as pl

WIDTHS = (4, 16)


def taxonomy(copies: int = 8, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    """4 × 4 branches: columns 0–3 hold the branch at depth 1 (long), 4–15 the one at depth 2 within it (shorter)."""
    rng = np.random.default_rng(seed)
    depth_1, depth_2 = np.repeat(np.arange(4), 4 * copies), np.repeat(np.arange(16), copies)
    sides = 0.6 * rng.normal(size=(16, 12))
    items = np.hstack([3 * np.eye(4)[depth_1], sides[depth_2]])
    labels = pl.DataFrame({"depth_1": depth_1, "depth_2": depth_2})
    return items + noise * rng.normal(size=items.shape), labels


def shuffled_within_columns(items: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every column in an order of its own: the same values, nothing left of the items."""
    return np.random.default_rng(seed).permuted(items, axis=0)


def value(table: pl.DataFrame, column: str = "value", **where) -> float:
    rows = table.filter(**where)
    assert len(rows) == 1, rows
    return rows[column][0]


def at_chance(row: dict, deviations: float = 5.0) -> bool:
    return abs(row["value"] - row["chance"]) <= deviations * row["chance_std"] + 1e-9
