"""The climb to the best weight of all pairs and the best penalty, on an endless grid of half decades."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import polars as pl

# of (alpha0, l2), in half decades: along each axis, and along alpha0 · l2, of which rows with few positives feel most
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1))

OnTrial = Callable[[dict], None] | None


def grid_value(half_decades: int) -> float:
    """1, 3, 10, 30, …: of 0, 1, 2, 3, …"""
    return float(f"{3 if half_decades % 2 else 1}e{half_decades // 2}")


def climb(
    value_of: Callable[[float, float], float],
    start: tuple[int, int],
    trials: int,
    *,
    moves: Sequence[tuple[int, int]] = NEIGHBOURS,
    on_trial: OnTrial = None,
) -> tuple[dict[str, float], pl.DataFrame]:
    """The best alpha0 and l2 of an endless grid of half decades, climbing from `start`, neighbour by neighbour.

    A direction is followed as long as it is better. Ends where no neighbour is, or after so many trials. Returns the
    settings and a table of all trials: alpha0, l2, value, seconds.
    """
    rows: dict[tuple[int, int], dict] = {}

    def is_better(point: tuple[int, int], than: tuple[int, int] | None) -> bool:
        if point in rows or len(rows) == trials:
            return False
        started = time.perf_counter()
        settings = {"alpha0": grid_value(point[0]), "l2": grid_value(point[1])}
        rows[point] = {**settings, "value": value_of(**settings), "seconds": time.perf_counter() - started}
        if on_trial is not None:
            on_trial({"trial": len(rows), **rows[point]})
        return than is None or rank(point) > rank(than)

    def rank(point: tuple[int, int]) -> tuple[float, float]:  # where all have collapsed, the way out is down
        return rows[point]["value"], -sum(point)

    best, before = start, None
    is_better(start, None)
    while best != before:
        before = best
        for move in moves:
            while is_better(ahead := (best[0] + move[0], best[1] + move[1]), best):
                best = ahead
    return {name: rows[best][name] for name in ("alpha0", "l2")}, pl.DataFrame(list(rows.values()))
