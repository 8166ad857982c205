"""How sure a list of a narrow width is: what a cascade decides by, for each user and level.

All grow with how little wider vectors are expected to change. Thresholds are fitted level by level, so that constants
of a level do not matter, and none needs labels.

    overlap          |A ∩ B| / k, the top k at this width and at the one before it
    rbo              rank-biased overlap of the two: Σ_r .9^r |A_r ∩ B_r| / r  ÷  Σ_r .9^r over ranks r ≤ k
    gap              (s_k − s_{k+1}) / (s_1 − s_{k+1}), of the scores s at this width
    energy           1 − ‖p[d:]‖ / ‖p‖, of the user's vector p at width d: known before any item is scored
    margin           (mean of s_1 … s_k − s_{k+1}) / ‖p[d:]‖: how far ahead the list is of what is still to be added
    overlap_energy   overlap · energy

Rank-biased overlap: Webber, Moffat and Zobel, ACM TOIS 2010, cut at k. Kusupati et al. (arXiv 2205.13147) take the
largest softmax of a classifier, which a ranking does not have.
"""

from __future__ import annotations

import numpy as np

CONFIDENCES = ("energy", "gap", "margin", "overlap", "rbo", "overlap_energy")
COMPARING = ("overlap", "rbo", "overlap_energy")  # with the list of the width before
LISTING = (*COMPARING, "gap", "margin")  # by a list of this width
PERSISTENCE = 0.9  # of rank-biased overlap: a reader goes on from rank to rank with this probability
_TINY = 1e-12


def widths_compared(widths: tuple[int, ...]) -> tuple[int, ...]:
    """The widths with the narrower neighbour of the first in front: half of it; without where it is 1."""
    return (widths[0] // 2, *widths) if widths[0] > 1 else widths


def confidence_at(
    kind: str,
    k: int,
    users: np.ndarray,
    width: int,
    items: np.ndarray | None,
    scores: np.ndarray | None,
    before: np.ndarray | None,
) -> np.ndarray:
    """(n,) float64: one of `CONFIDENCES` for users (n, D) at a width.

    items, scores: the best items at this width, (n, K) with K > k or all that there are, best first; -1 and -Inf where
    a list has ended; None for energy, which needs none. before: items of the width before, (n, K); None where there is
    none, which agrees with nothing.
    A list that has ended before k + 1 holds all that is left, whatever the width: its gap and margin are infinite.
    """
    if kind in ("energy", "overlap_energy"):
        energy = 1 - _beyond(users, width) / np.maximum(_beyond(users, 0), _TINY)
        if kind == "energy":
            return energy
    if kind in COMPARING:
        if before is None:
            return np.zeros(len(users))
        if kind == "rbo":
            return _rank_biased(items[:, :k], before[:, :k])
        shared = overlap(items[:, :k], before[:, :k])
        return shared * energy if kind == "overlap_energy" else shared
    if scores.shape[1] <= k:
        return np.full(len(users), np.inf)
    top, next_one = scores[:, :k], scores[:, k]
    has_ended = np.isneginf(next_one)
    top, next_one = np.where(has_ended[:, None], 0.0, top), np.where(has_ended, 0.0, next_one)
    if kind == "gap":
        sure = (top[:, -1] - next_one) / np.maximum(top[:, 0] - next_one, _TINY)
    else:
        sure = (top.mean(1) - next_one) / np.maximum(_beyond(users, width), _TINY)
    return np.where(has_ended, np.inf, sure)


def overlap(items: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) float64: the share of items (n, k) that are among others (n, k); -1 is none. 1 where there are no items."""
    listed = (items >= 0).sum(1)
    return np.where(listed > 0, _shared(items, others).any(2).sum(1) / np.maximum(listed, 1), 1.0)


def _rank_biased(items: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared = _shared(items, others)  # (n, k, k)
    places = np.arange(items.shape[1])
    last = np.maximum(places[:, None], places)  # a pair counts from the rank on at which both lists hold it
    counts = np.stack([(shared & (last == place)).sum((1, 2)) for place in places], axis=1).cumsum(1)  # (n, k)
    weights = PERSISTENCE**places
    return (counts / (places + 1)) @ weights / weights.sum()


def _shared(items: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, k, k) bool: whether the item at one rank is the other's at another."""
    return (items[:, :, None] == others[:, None, :]) & (items >= 0)[:, :, None]


def _beyond(users: np.ndarray, width: int) -> np.ndarray:
    """(n,) float64: the length of users (n, D) in the dimensions from `width` on."""
    return np.sqrt(np.square(users[:, width:], dtype=np.float64).sum(1))
