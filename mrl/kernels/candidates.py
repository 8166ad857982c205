"""Candidates for negatives: drawn uniformly from what a user has not met, and scored at every level.

Both steps have two implementations: vectorised torch, for any device, and a compiled loop for the CPU (numba), which
searches only within a user's own positives, never copies a vector, and goes through a large catalogue in windows that
fit the cache. Scores are the same, and so is what any one draw is likely to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrl.data import Positives
from mrl.kernels.threads import compiled, fetch, in_threads

LEAST = 512  # users a slice at least: fewer take less time than a thread to start
LARGE = 2**14  # items above which the compiled loop draws from windows: the vectors of fewer stay in the cache
WINDOW = 2**11  # items of a window
STRETCH = 2**11  # rows of a batch that share a window
COUNTED = 8  # positives a draw up to which comparing all, in vector code, beats searching, which mispredicts
SIMILARITIES = ("inner", "cosine", "distance")


class UniformCandidates:
    """Items a user has not met, drawn uniformly with replacement, exactly and without rejection.

    The r-th unobserved item of a user is r + c, where c counts the positives with no more than r unobserved
    items before them: one binary search a draw. It terminates for users who have nearly everything;
    users who have everything have nothing to draw (`trainable` is False for them).

    On the CPU and with more than LARGE items, the rows of a batch that stand close together draw from one WINDOW of the
    shuffled catalogue, which begins anywhere; who draws a positive there draws again from all that is unobserved. Of I
    items and c positives, an unobserved one comes up with 1/I + c/I · 1/(I − c) = 1/(I − c), as it should; only the
    draws of neighbours are not independent of each other.
    """

    def __init__(self, positives: Positives):
        self.num_items = positives.num_items
        self.offsets = positives.offsets
        self.free = positives.num_items - positives.counts  # (U,) unobserved items of each user
        self.trainable = self.free > 0
        users, labels = positives.users.long(), positives.items
        self.compiled = labels.device.type == "cpu"
        self.window = WINDOW if self.compiled and self.num_items > LARGE else 0
        self._order = torch.arange(self.num_items, dtype=torch.int32)  # (I + window,), label to item
        if self.window:  # neighbours in the catalogue may be alike: labels say where an item stands in a shuffled one
            order = torch.randperm(self.num_items, generator=torch.Generator().manual_seed(0))
            keys = users * self.num_items + order.argsort()[labels]
            labels = keys.sort().values.remainder_(self.num_items).int()
            self._order = torch.cat([order, order[: self.window]]).int()
        rank = torch.arange(len(positives), device=users.device) - self.offsets[users]
        gaps = labels - rank  # unobserved items before each positive; never decreasing within a user
        # For one search over all users, a stride of I + 1 keeps the users apart.
        self._gaps = gaps.to(torch.int32) if self.compiled else users * (self.num_items + 1) + gaps

    def __call__(
        self,
        users: Tensor,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """users: (B,) int64 rows, each trainable. Returns (B, *shape) int64 item rows.

        places: (B,), on the CPU: where users stand in a larger batch, for which the same is drawn; None: as given.
        """
        if self.compiled:
            rows = np.empty((len(users), math.prod(shape)), np.int64)
            batch, tables, seed = users.numpy(), self.tables(), _seed(generator)
            where = np.arange(len(users)) if places is None else places.numpy()
            in_threads(lambda part: _draw(batch[part], where[part], *tables, seed, rows[part]), len(users), each=LEAST)
            return torch.from_numpy(rows).view(len(users), *shape)
        draw = torch.rand(len(users), *shape, dtype=torch.float64, device=users.device, generator=generator)
        wide = (...,) + (None,) * len(shape)
        free = self.free[users][wide]
        return self.unobserved(users, torch.minimum((draw * free).long(), free - 1))

    def from_streams(
        self, users: Tensor, streams: np.ndarray, count: int, best: int = 1, by: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """(B, count) for users (B,), on the CPU: each row draws from its own stream, of (B,) uint64, and no other.

        best: every one is the best of so many, by the inner products of vectors (B, d) and items (I, d), `by`.
        """
        ranks = np.empty((len(users), count * best), np.int32)
        _stream_ranks(streams, self.free[users].numpy(), ranks)
        drawn = self.unobserved(users, torch.from_numpy(ranks))
        if best == 1:
            return drawn
        scores = level_scores("inner", *by, drawn[:, None], by[1].shape[1:]).view(len(users), count, best)
        return drawn.view(scores.shape).gather(2, scores.argmax(2, keepdim=True))[..., 0]

    def unobserved(self, users: Tensor, ranks: Tensor) -> Tensor:
        """The unobserved items of users (B,) that have the given ranks (B, …) among theirs, counted from 0.

        Ranks are in the order of items, of the shuffled catalogue where there are windows.
        """
        wide = (...,) + (None,) * (ranks.dim() - 1)
        if self.compiled:
            rows = ranks.flatten(1).numpy().astype(np.int64)
            _unobserved(users.numpy(), *self.tables()[:3], rows)
            return torch.from_numpy(rows).view(ranks.shape)
        places = torch.searchsorted(self._gaps, ranks + (users * (self.num_items + 1))[wide], right=True)
        return ranks + places - self.offsets[users][wide]

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """What compiled loops need to draw: offsets (U + 1,), gaps (N,), order (I + window,), window."""
        return self.offsets.numpy(), self._gaps.numpy(), self._order.numpy(), self.window


def _seed(generator: torch.Generator | None) -> np.uint64:
    return np.uint64(torch.randint(2**63 - 1, (), generator=generator).item())


@compiled
def _ranks(seed, first, free, ranks):
    """Fill ranks (n,) with numbers from 0 to free - 1: draws first, first + 1, … of the sequence that `seed` begins.

    SplitMix64 (Steele et al., OOPSLA 2014): any draw can be made by itself, so slices in threads draw the same.
    """
    for n in range(len(ranks)):
        ranks[n] = _number(seed + np.uint64(first + n + 1) * np.uint64(0x9E3779B97F4A7C15), free)


@compiled
def mix(x):
    """Numbers uint64 that look as if they were drawn, of any others: the last step of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _stream_ranks(streams, free, ranks):
    """Fill ranks (B, n): row b with the first numbers of its stream, from 0 to free[b] - 1."""
    for b in range(len(streams)):
        _ranks(streams[b], 0, free[b], ranks[b])


@compiled
def _number(x, free):
    """A number from 0 to free - 1 of the state x."""
    return np.int32(np.float64(np.int64(mix(x) >> np.uint64(11))) * 2.0**-53 * free)


@compiled
def _skip(gaps, ranks, below):
    """Turn ranks (n,) among a user's unobserved items into items; gaps: those of the user. below: (n,) scratch."""
    if len(gaps) <= COUNTED * len(ranks):
        below[:] = 0
        for gap in gaps:
            for n in range(len(ranks)):
                below[n] += np.int32(gap <= ranks[n])
        for n in range(len(ranks)):
            ranks[n] += below[n]
        return
    for n in range(len(ranks)):
        low, high = 0, len(gaps)  # the first positive with more than this many unobserved items before it
        while low < high:
            middle = (low + high) // 2
            if gaps[middle] <= ranks[n]:
                low = middle + 1
            else:
                high = middle
        ranks[n] += np.int32(low)


@compiled
def _count_smaller(gaps, label):
    """How many positives of a user, whose gaps these are, have smaller labels."""
    low, high = 0, len(gaps)
    while low < high:
        middle = (low + high) // 2
        if gaps[middle] + middle < label:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _mark_positives(gaps, begin, window, places, is_positive):
    """Mark in is_positive (n,) which of places (n,) in the window that begins at label `begin` hold positives."""
    for number in range(_count_smaller(gaps, begin), _count_smaller(gaps, begin + window)):
        place = np.int32(gaps[number] + number - begin)
        for n in range(len(places)):
            is_positive[n] |= np.int32(places[n] == place)


@compiled
def _candidates(seed, row, gaps, order, window, drawn, scratch):
    """Fill drawn (n,) with unobserved items of the user at `row` of a batch; scratch (n,)."""
    count, num_items = len(drawn), len(order) - window
    free = num_items - len(gaps)
    if not window:  # here labels are items
        _ranks(seed, row * count, free, drawn)
        _skip(gaps, drawn, scratch)
        return
    begin = np.int64(_number(seed ^ np.uint64(row // STRETCH + 1), num_items))
    _ranks(seed, row * count, window, drawn)
    scratch[:] = 0
    _mark_positives(gaps, begin, window, drawn, scratch)
    if begin + window > num_items:  # it goes on at the beginning
        _mark_positives(gaps, begin - num_items, window, drawn, scratch)
    for n in range(count):
        drawn[n] = order[begin + drawn[n]]
    for n in range(count):
        if scratch[n]:
            _ranks(~seed, row * count + n, free, drawn[n : n + 1])
            _skip(gaps, drawn[n : n + 1], scratch[n : n + 1])
            drawn[n] = order[drawn[n]]


@compiled
def _unobserved(users, offsets, gaps, order, rows):
    ranks, scratch = np.empty(rows.shape[1], np.int32), np.empty(rows.shape[1], np.int32)
    for b in range(len(users)):
        ranks[:] = rows[b]
        _skip(gaps[offsets[users[b]] : offsets[users[b] + 1]], ranks, scratch)
        for n in range(len(ranks)):
            rows[b, n] = order[ranks[n]]


@compiled
def _draw(users, places, offsets, gaps, order, window, seed, rows):
    """Fill rows (B, n) for users (B,) that stand at these places of the batch."""
    drawn, scratch = np.empty(rows.shape[1], np.int32), np.empty(rows.shape[1], np.int32)
    for b in range(len(users)):
        _candidates(seed, places[b], gaps[offsets[users[b]] : offsets[users[b] + 1]], order, window, drawn, scratch)
        rows[b] = drawn


def similarity(kind: str, users: Tensor, vectors: Tensor) -> Tensor:
    """users (B, d), vectors (B, M, d) -> (B, M): inner product, cosine or negative squared distance."""
    if kind == "distance":
        return -(users.unsqueeze(1) - vectors).square().sum(-1)
    if kind == "cosine":
        users, vectors = normalize(users, dim=-1), normalize(vectors, dim=-1)
    return torch.bmm(vectors, users.unsqueeze(-1)).squeeze(-1)


def level_scores(kind: str, users: Tensor, items: Tensor, candidates: Tensor, widths: Sequence[int]) -> Tensor:
    """Similarity of users (B, D) to the candidates (B, K, M) of each level among items (I, D): (B, K, M).

    Level k sees the first widths[k] columns. No gradient flows.
    """
    users, items = users.detach(), items.detach()
    if kind == "inner" and users.device.type == "cpu" and users.dtype == torch.float32:
        scores = np.empty(candidates.shape, np.float32)
        anchors, table, rows = users.contiguous().numpy(), items.contiguous().numpy(), candidates.numpy()
        edges = np.asarray(widths, np.int64)
        in_threads(lambda part: _inner(anchors[part], table, rows[part], edges, scores[part]), len(users), each=LEAST)
        return torch.from_numpy(scores)
    levels = (
        similarity(kind, users[:, :width], items[:, :width][candidates[:, level]]) for level, width in enumerate(widths)
    )
    return torch.stack(list(levels), 1)


@partial(compiled, fastmath=True)
def _inner(users, items, candidates, widths, scores):
    for b in range(len(users)):
        for k in range(len(widths)):
            for m in range(candidates.shape[2]):
                row = candidates[b, k, m]
                total = np.float32(0.0)
                for d in range(widths[k]):
                    total += users[b, d] * items[row, d]
                scores[b, k, m] = total


def pick_hardest(
    draw: UniformCandidates,
    user_rows: Tensor,
    places: Tensor,
    users: Tensor,
    items: Tensor,
    widths: Sequence[int],
    candidates: int,
    active: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, K): the best scoring of the first `active` of each level's candidates, all in one compiled pass.

    The same as `draw`, `level_scores` by inner product and argmax. users[places] are the
    vectors (B, D) of user_rows (B,); items: (I, D); both float32.
    """
    rows = np.empty((len(user_rows), len(widths)), np.int64)
    batch, where, tables, seed = user_rows.numpy(), places.numpy(), draw.tables(), _seed(generator)
    anchors, table = users.detach().contiguous().numpy(), items.detach().contiguous().numpy()
    edges = np.asarray(widths, np.int64)

    def work(part: slice) -> None:
        _hardest(
            batch[part], where[part], part.start, *tables, seed, anchors, table, edges, candidates, active, rows[part]
        )

    in_threads(work, len(user_rows), each=LEAST // 2)
    return torch.from_numpy(rows)


@partial(compiled, fastmath=True)
def _hardest(batch, places, first, offsets, gaps, order, window, seed, users, items, widths, candidates, active, rows):
    levels, dim = len(widths), items.shape[1]
    count = levels * candidates
    drawn, scratch = np.empty(count, np.int32), np.empty(count, np.int32)
    last = len(batch) - 1
    for b in range(len(batch)):
        following, second = min(b + 1, last), min(b + 2, last)
        fetch(offsets, batch[second], batch[second] + 1)
        fetch(gaps, offsets[batch[following]], offsets[batch[following] + 1])
        fetch(users, places[following] * dim, (places[following] + 1) * dim)
        user_gaps = gaps[offsets[batch[b]] : offsets[batch[b] + 1]]
        _candidates(seed, first + b, user_gaps, order, window, drawn, scratch)
        user = users[places[b]]
        for k in range(levels):
            best, chosen = np.float32(-np.inf), drawn[k * candidates]
            for m in range(k * candidates, k * candidates + active):
                item = items[drawn[m]]
                total = np.float32(0.0)
                for d in range(widths[k]):
                    total += user[d] * item[d]
                if total > best:
                    best, chosen = total, drawn[m]
            rows[b, k] = chosen
