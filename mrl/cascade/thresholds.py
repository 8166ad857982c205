"""When a cascade stops: a threshold of confidence for each level, at the least expected width for a target accuracy.

One pair of widths is fitted after the other (Kusupati et al., arXiv 2205.13147, section 4.2.1): the widest first, the
others as they are, again and again until none changes. On the way the loss of accuracy has a price, which falls from
so high that everybody goes on; at last what is left of the accuracy that may be lost is spent.

A user's shortfall is target · full − kept, of the accuracy of the full width and of where the user stops. Its sum has
to stay one standard error below zero (the one-standard-error rule, Breiman et al. 1984, section 3.4.3): the accuracy of
one user is mostly noise, and thresholds that just reach the target on it would miss it on other users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

PRICES = np.geomspace(100.0, 0.01, 17)  # of losing all accuracy of the average user, in full widths
_MOST_ROUNDS = 4
_ROUNDING = 1e-9


def stop_levels(confidence: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) int64: the first level whose confidence (n, L − 1) reaches its threshold (L − 1,), else the last, L − 1."""
    stops = confidence >= np.asarray(thresholds)
    last = stops.shape[1]
    return np.where(stops.any(1), stops.argmax(1), last) if last else np.zeros(len(confidence), np.int64)


def is_reached(shortfall: np.ndarray | float, squares: np.ndarray | float) -> np.ndarray | bool:
    """Whether the sum of shortfalls is one standard error below zero; squares: the sum of their squares."""
    return shortfall + np.sqrt(np.maximum(squares, 0.0)) <= _ROUNDING


def fit_thresholds(
    confidence: np.ndarray, accuracy: np.ndarray, widths: Sequence[int], target: float
) -> tuple[float, ...]:
    """L − 1 thresholds with which these users clearly keep `target` of the accuracy of the last width.

    confidence: (n, L − 1), accuracy: (n, L), not negative, of n ≥ 1 users; target: below 1. Infinity is a level at
    which nobody stops, −infinity one at which everybody does. Never worse than the best one of `widths` for all.
    """
    pairs = _Pairs(confidence, accuracy, widths, target)
    found = [np.full(len(widths) - 1, np.inf)]
    scale = widths[-1] / max(accuracy[:, -1].mean(), _ROUNDING)
    for price in PRICES * scale:
        found.append(pairs.fit(found[-1], lambda cost, shortfall, _, price=price: cost + price * shortfall))
    found += [np.where(np.arange(len(widths) - 1) == level, -np.inf, np.inf) for level in range(len(widths) - 1)]
    good = [each for each in found if is_reached(*pairs.totals(each)[1:])]
    spent = [pairs.fit(each, lambda cost, *sums: np.where(is_reached(*sums), cost, np.inf)) for each in good]
    return tuple(min(spent, key=lambda each: pairs.totals(each)[0]).tolist())


class _Pairs:
    """Users with their confidences (n, L − 1), and what stopping at each level costs and falls short by."""

    def __init__(self, confidence: np.ndarray, accuracy: np.ndarray, widths: Sequence[int], target: float) -> None:
        self.confidence = confidence
        shortfall = target * accuracy[:, -1:] - accuracy  # (n, L)
        cost = np.broadcast_to(np.asarray(widths, np.float64), shortfall.shape)
        self.terms = np.stack([cost, shortfall, shortfall**2])  # (3, n, L)
        self.order = np.argsort(-confidence, axis=0, kind="stable")
        self.rows = np.arange(len(confidence))

    def totals(self, thresholds: np.ndarray) -> np.ndarray:
        """(3,): sums over users of width, shortfall and its square."""
        return self.terms[:, self.rows, stop_levels(self.confidence, thresholds)].sum(1)

    def fit(self, thresholds: np.ndarray, value: Callable) -> np.ndarray:
        """Thresholds at which `value` of the totals is least, pair after pair from these on."""
        thresholds = thresholds.copy()
        for _ in range(_MOST_ROUNDS):
            before = thresholds.copy()
            for level in reversed(range(len(thresholds))):
                thresholds[level] = self._fit_pair(thresholds, level, value)
            if (thresholds == before).all():
                break
        return thresholds

    def _fit_pair(self, thresholds: np.ndarray, level: int, value: Callable) -> float:
        """The best threshold of one level, the others being what they are."""
        without = np.where(np.arange(len(thresholds)) == level, np.inf, thresholds)
        later = stop_levels(self.confidence, without)  # (n,) where users stop who do not stop here
        going = self.terms[:, self.rows, later]  # (3, n)
        order = self.order[:, level]
        sure = self.confidence[order, level]
        changes = np.where(later > level, self.terms[:, :, level] - going, 0.0)[:, order].cumsum(1)
        totals = going.sum(1, keepdims=True) + np.concatenate(
            [np.zeros((3, 1)), changes], axis=1
        )  # of the first so many
        parts_ties = np.append(True, np.append(sure[1:] < sure[:-1], True))
        first = int(np.where(parts_ties, value(*totals), np.inf).argmin())
        return np.inf if first == 0 else -np.inf if first == len(sure) else float(sure[first - 1])
