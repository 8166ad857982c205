"""Nested BPR and its gradients in one compiled pass over a batch: what autograd makes of `NestedLoss(kind="bpr")`.

For a triplet (p, q, one negative q_k a level), with x_k = ⟨p, q_k − q⟩ over the first d_k dimensions:

    L = Σ_k w_k · softplus(x_k) / B  +  λ/(2B) · (‖p‖² + ‖q‖² + Σ_k ‖q_k‖²)

Vectors are read where they are, in the tables, and gradients are written a row an occurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mrl.kernels.threads import compiled, fetch, in_threads

LEAST = 512  # triplets a thread at least


@dataclass(frozen=True, eq=False)
class Gradients:
    """terms: (K,) float64, the mean term of each level. loss: the whole, penalty included.

    users: (B, D); items: (B, 1 + N, D), of the positive and of N negatives, one a level or one for all.
    each: (B, K) float64, the terms of each triplet; norms: (B,) float64, its ‖p‖² + ‖q‖² + Σ_k ‖q_k‖².
    """

    loss: float
    terms: np.ndarray
    users: np.ndarray
    items: np.ndarray
    each: np.ndarray
    norms: np.ndarray


def bpr_gradients(
    users: np.ndarray,
    items: np.ndarray,
    user_rows: np.ndarray,
    item_rows: np.ndarray,
    widths: np.ndarray,
    weights: np.ndarray,
    l2: float,
    batch: int | None = None,
) -> Gradients:
    """users (U, D) and items (I, D) float32; user_rows (B,); item_rows (B, 1 + N), the positive first, N 1 or K.

    widths: (K,) int64. weights: (K,) float32. batch: triplets that the means are over, where these are some of them.
    The same for any number of threads.
    """
    count, dim = len(user_rows), users.shape[1]
    batch = count if batch is None else batch
    user_out = np.empty((count, dim), np.float32)
    item_out = np.empty((*item_rows.shape, dim), np.float32)
    terms, norms = np.empty((count, len(widths))), np.empty(count)
    rates = (weights / batch).astype(np.float32)

    def work(part: slice) -> None:
        rows = user_rows[part], item_rows[part]
        out = user_out[part], item_out[part], terms[part], norms[part]
        _gradients(users, items, *rows, widths, rates, np.float32(l2 / batch), *out)

    in_threads(work, count, each=LEAST)
    means = terms.sum(0) / batch
    loss = float(weights @ means + l2 / (2 * batch) * norms.sum())
    return Gradients(loss, means, user_out, item_out, terms, norms)


def bpr_sums(
    users: np.ndarray,
    items: np.ndarray,
    user_rows: np.ndarray,
    item_rows: np.ndarray,
    starts: np.ndarray,
    widths: np.ndarray,
    weights: np.ndarray,
    l2: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of Σ_n 1/M Σ_m [ Σ_k w_k · softplus(x_k) + λ/2 (‖p‖² + ‖q‖² + ‖q_m‖²) ] by users and by items.

    users (U, D) and items (T, D) float32; user_rows (N,); item_rows (N, 1 + M), the positive first, all levels share
    its negatives. starts: (C + 1,) int64: those from starts[c] to starts[c + 1] have no row in common with others.
    """
    by_user, by_item = np.zeros_like(users), np.zeros_like(items)
    share = 1 / (item_rows.shape[1] - 1)
    rates, decay = (weights * share).astype(np.float32), np.float32(l2 * share)

    def work(part: slice) -> None:
        edges = starts[part.start], starts[part.stop]
        _add_up(users, items, user_rows, item_rows, *edges, widths, rates, decay, by_user, by_item)

    in_threads(work, len(starts) - 1, each=max(LEAST * (len(starts) - 1) // max(len(user_rows), 1), 1))
    return by_user, by_item


@partial(compiled, fastmath=True)
def _dot(p, q, start, stop):
    total = np.float32(0)
    for d in range(start, stop):
        total += p[d] * q[d]
    return total


@partial(compiled, fastmath=True)
def _difference(p, j, q, start, stop):
    """⟨p, j − q⟩ by one sum: nothing at all where j is q, however large its scores."""
    total = np.float32(0)
    for d in range(start, stop):
        total += p[d] * (j[d] - q[d])
    return total


@partial(compiled, fastmath={"contract", "reassoc"})
def _gradients(users, items, user_rows, item_rows, widths, rates, decay, user_out, item_out, terms, norms):
    levels, shared, dim = len(widths), item_rows.shape[1] == 2, users.shape[1]
    for b in range(len(user_rows)):
        following = min(b + 1, len(user_rows) - 1)
        fetch(users, user_rows[following] * dim, (user_rows[following] + 1) * dim)
        for n in range(item_rows.shape[1]):
            fetch(items, item_rows[following, n] * dim, (item_rows[following, n] + 1) * dim)
        p, q, push, pull = users[user_rows[b]], items[item_rows[b, 0]], user_out[b], item_out[b, 0]
        norm = _dot(p, p, 0, dim) + _dot(q, q, 0, dim)
        for d in range(dim):
            push[d], pull[d] = decay * p[d], decay * q[d]
        difference = np.float32(0)  # ⟨p, q_k − q⟩
        start = 0
        for level in range(levels):
            stop = widths[level]
            place = 1 if shared else 1 + level
            j, away = items[item_rows[b, place]], item_out[b, place]
            if level == 0 or not shared:
                norm += _dot(j, j, 0, dim)
                for d in range(dim):
                    away[d] = decay * j[d]
            difference = difference + _difference(p, j, q, start, stop) if shared else _difference(p, j, q, 0, stop)
            x = np.float64(difference)
            small = np.exp(-abs(x))
            terms[b, level] = max(x, 0.0) + np.log1p(small)
            rate = rates[level] * np.float32((1.0 if x >= 0 else small) / (1.0 + small))  # w_k · σ(x) / B
            for d in range(stop):
                push[d] += rate * (j[d] - q[d])
                pull[d] -= rate * p[d]
                away[d] += rate * p[d]
            start = stop
        norms[b] = norm


@partial(compiled, fastmath={"contract", "reassoc"})
def _add_up(users, items, user_rows, item_rows, first, last, widths, rates, decay, by_user, by_item):
    levels, dim = len(widths), users.shape[1]
    pulls = np.empty(levels, np.float32)  # w_k · σ(x_k), then the sum from level k on
    for n in range(first, last):
        p, push = users[user_rows[n]], by_user[user_rows[n]]
        q, pull = items[item_rows[n, 0]], by_item[item_rows[n, 0]]
        for m in range(1, item_rows.shape[1]):
            j, away = items[item_rows[n, m]], by_item[item_rows[n, m]]
            difference = np.float32(0)
            start = 0
            for level in range(levels):
                difference += _difference(p, j, q, start, widths[level])
                start = widths[level]
                x = np.float64(difference)
                small = np.exp(-abs(x))
                pulls[level] = rates[level] * np.float32((1.0 if x >= 0 else small) / (1.0 + small))
            for level in range(levels - 2, -1, -1):
                pulls[level] += pulls[level + 1]
            start = 0
            for level in range(levels):
                rate = pulls[level]
                for d in range(start, widths[level]):
                    push[d] += rate * (j[d] - q[d])
                    pull[d] -= rate * p[d]
                    away[d] += rate * p[d]
                start = widths[level]
            for d in range(dim):
                push[d] += decay * p[d]
                pull[d] += decay * q[d]
                away[d] += decay * j[d]
