"""The best k items of every user, with ties broken by item id: the inner loop of evaluation and recommendation.

Nested scores are a running sum over blocks of dimensions, so one pass over the score matrix serves every width.
The matrix product is float32 and its rounding depends on the chunk, the library and the device. It therefore only
draws up a shortlist, everything within its own error bound of the k-th best; the shortlist is scored again in
float64, in the order of the dimensions. What comes out is the same for every chunk size, on CPU and on CUDA.

On the CPU a compiled kernel finds the threshold: the k-th largest of the maxima of disjoint groups of items is a lower
bound of the k-th largest score, and few items pass it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from mrl.errors import RunError
from mrl.interactions import Positives
from mrl.widths import blocks, check_widths

_KERNEL_LIMIT = 256  # the kernel compares shortlisted items pairwise; a longer list is sorted instead
_GROUP = 16  # items a group at most: larger groups make fewer maxima but more items to look through
_SLACK = 32  # how much further than k torch.topk looks at first


def _compiled(function):
    """Compile to machine code, kept on disk where the disk can be written."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no folder to cache in, as in a read-only installation
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def _group_maxima(row, maxima):
    """Fill maxima (G,): entry g is the largest of row[g], row[g + G], row[g + 2G], …"""
    groups = len(maxima)
    maxima[:] = row[:groups]
    start = groups
    while start + 3 * groups <= len(row):  # three at a time: a third of the trips to `maxima`
        first, second = row[start : start + groups], row[start + groups : start + 2 * groups]
        third = row[start + 2 * groups : start + 3 * groups]
        for g in range(groups):
            left = first[g] if first[g] > second[g] else second[g]
            right = third[g] if third[g] > maxima[g] else maxima[g]
            maxima[g] = left if left > right else right
        start += 3 * groups
    while start < len(row):
        rest = row[start : start + groups]
        for g in range(len(rest)):
            maxima[g] = rest[g] if rest[g] > maxima[g] else maxima[g]
        start += groups


@_compiled
def _threshold(maxima, k, keys):
    """A bound that at least k of the maxima reach, hardly more where they differ; -Inf where there are fewer than k.

    Bisection over int32 keys in the order of the floats: counting integers is what compiles to vector code.
    """
    if len(maxima) < k:
        return np.float32(-np.inf)
    bits = maxima.view(np.int32)
    low, high = np.int32(2**31 - 1), np.int32(-(2**31))
    for g in range(len(maxima)):
        key = bits[g] ^ ((bits[g] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        keys[g] = key
        low, high = min(low, key), max(high, key)
    above = np.int64(high) + 1
    bound = np.int64(low)
    while above - bound > 1:
        middle = np.int32((bound + above) // 2)
        reached = np.int32(0)
        for g in range(len(maxima)):
            reached += np.int32(keys[g] >= middle)
        if reached >= k:
            bound = np.int64(middle)
            if reached <= k + 4:
                break
        else:
            above = np.int64(middle)
    key = np.int32(bound)
    keys[0] = key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return keys[:1].view(np.float32)[0]


@_compiled
def _keep_best(candidates, values, count, k, ids, best):
    """Put the best k of `count` candidates into ids and best, in order; returns how many there are."""
    for i in range(count):
        place = 0
        for j in range(count):
            place += (values[j] > values[i]) | ((values[j] == values[i]) & (candidates[j] < candidates[i]))
        if place < k:
            ids[place], best[place] = candidates[i], values[i]
    return min(count, k)


@_compiled
def _score(candidates, values, start, stop, row, user, items):
    """Fill values[start:stop]: in float64, term by term, or from `row` where `user` has no columns."""
    for c in range(start, stop):
        item = candidates[c]
        if len(user) == 0:
            values[c] = row[item]
        else:
            value = 0.0
            for d in range(len(user)):  # a product of two float32 is exact in float64, and the order is fixed
                value += user[d] * np.float64(items[item, d])
            values[c] = value


@_compiled
def _best_rows(scores, margins, users, items, k, ids, best):
    """Fill ids and best (B, k) from scores (B, I); with users of no columns the scores stand as they are."""
    num_items = scores.shape[1]
    size = min(_GROUP, max(1, num_items // (4 * k)))
    groups = -(-num_items // size)
    maxima, keys, chosen = np.empty(groups, np.float32), np.empty(groups, np.int32), np.empty(groups, np.int64)
    room = 4 * k + 2 * _GROUP
    candidates, values = np.empty(room, np.int64), np.empty(room, np.float64)
    user = np.empty(users.shape[1], np.float64)
    lowest = np.float32(-3.4028235e38)  # the smallest finite number: what is masked stays below the bound
    for r in range(scores.shape[0]):
        row = scores[r]
        user[:] = users[r]
        _group_maxima(row, maxima)
        bound = max(np.float32(_threshold(maxima, k, keys) - margins[r]), lowest)
        many = 0
        for g in range(groups):  # append always, count if wanted: no branch to mispredict
            chosen[many] = g
            many += maxima[g] >= bound
        scored = found = 0
        for c in range(many):
            for item in range(chosen[c], num_items, groups):
                candidates[found] = item
                found += row[item] >= bound
            if found > room - 2 * _GROUP:
                _score(candidates, values, scored, found, row, user, items)
                found = scored = _keep_best(candidates, values, found, k, ids[r], best[r])
                candidates[:found], values[:found] = ids[r, :found], best[r, :found]
        _score(candidates, values, scored, found, row, user, items)
        found = _keep_best(candidates, values, found, k, ids[r], best[r])
        ids[r, found:] = -1
        best[r, found:] = -np.inf


def _best_compiled(scores: Tensor, margins: Tensor, users: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ids = torch.empty(len(scores), k, dtype=torch.int64)
    best = torch.empty(len(scores), k, dtype=torch.float64)
    arrays = [tensor.numpy() for tensor in (scores, margins, users, ids, best)]
    table = items.numpy()

    def work(rows: slice) -> None:
        part = [array[rows] for array in arrays]
        _best_rows(part[0], part[1], part[2], table, k, part[3], part[4])

    # Threads of our own, not numba's: its pools neither survive a fork nor take calls from two threads.
    threads = min(torch.get_num_threads(), 1 + scores.numel() // 500_000)
    if threads == 1:
        work(slice(None))
        return ids, best
    edges = np.linspace(0, len(scores), threads + 1).astype(int)
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, slice(edges[t], edges[t + 1])) for t in range(1, threads)]
        work(slice(edges[0], edges[1]))
        for other in others:
            other.result()
    return ids, best


def _best_torch(
    scores: Tensor, margins: Tensor, users: Tensor, items: Tensor, k: int, look: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same by torch operations, on any device."""
    num_items = scores.shape[1]
    reach = min(k, num_items)
    look = min(look or k + _SLACK, num_items)
    values, candidates = torch.topk(scores, look)  # (B, look)
    bound = values[:, reach - 1].double() - margins
    inside = (values >= bound[:, None]) & (values > -math.inf)
    candidates, order = torch.where(inside, candidates, num_items).sort(dim=1)  # by id, so that ties fall by id
    inside = inside.gather(1, order)
    values = values.gather(1, order).double()
    if users.shape[1]:
        near = items[candidates.clamp(max=num_items - 1)]  # (B, look, d)
        values = torch.zeros_like(values)
        for d in range(users.shape[1]):
            values += users[:, d, None].double() * near[:, :, d].double()
    values, order = values.masked_fill(~inside, -math.inf).sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    ids = torch.where(values > -math.inf, candidates, -1)[:, :k]
    best = values[:, :k]
    if reach < k:
        ids = torch.nn.functional.pad(ids, (0, k - reach), value=-1)
        best = torch.nn.functional.pad(best, (0, k - reach), value=-math.inf)
    if look < num_items:
        # where the whole list lies within the bound there may be more behind it: look further for those users
        open_rows = inside.all(dim=1).nonzero()[:, 0]
        if len(open_rows):
            again = (scores[open_rows], margins[open_rows], users[open_rows])
            ids[open_rows], best[open_rows] = _best_torch(*again, items, k, look=4 * look)
    return ids, best


def _best(scores: Tensor, margins: Tensor, users: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    kernel = scores.device.type == "cpu" and scores.dtype == torch.float32 and k <= _KERNEL_LIMIT
    return (_best_compiled if kernel else _best_torch)(scores, margins, users, items, k)


def check_scores(scores: Tensor, what: str = "scores") -> None:
    """Raise RunError where a score is NaN or +Inf, which have no place in a ranking; -Inf means masked."""
    if scores.numel() and not bool(scores.amax() < math.inf):
        raise RunError(f"{what}: NaN or Inf among them, not ranked; resume with a lower learning_rate")


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, the smaller item id first among equal scores.

    scores: (B, I) float32 or float64; -Inf marks an item that must not appear.
    Returns items (B, k) int64, -1 where nothing is left, and their scores (B, k), -Inf there.
    Raises RunError on NaN or +Inf.
    """
    check_scores(scores)
    scores = scores.contiguous()
    if scores.shape[1] == 0:
        empty = torch.full((len(scores), k), -math.inf, dtype=scores.dtype, device=scores.device)
        return torch.full_like(empty, -1, dtype=torch.int64), empty
    nothing = scores.new_empty(len(scores), 0, dtype=torch.float32)
    margins = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    ids, best = _best(scores, margins, nothing, nothing, k)
    return ids, best.to(scores.dtype)


def hide(scores: Tensor, rows: Tensor, positives: Positives) -> None:
    """Set scores (B, I) of the positives of users `rows` (B,) to -Inf, in place."""
    starts = positives.offsets[rows]
    counts = positives.offsets[rows + 1] - starts
    line = torch.repeat_interleave(counts)  # (n,) position in rows of each positive
    place = torch.arange(len(line), device=line.device) + (starts - counts.cumsum(0) + counts)[line]
    scores[line, positives.items[place].long()] = -math.inf


class VectorRanking:
    """Ranks all items for users by ⟨p[:d], q[:d]⟩ at every width d in one pass.

    users: (U, D), items: (I, D), on one device, used as float32. Any increasing widths up to D.
    Raises RunError where the vectors, or scores made of them, are not finite.
    """

    def __init__(self, users: Tensor, items: Tensor, widths: Sequence[int]) -> None:
        self.users, self.items = users.detach().float(), items.detach().float().contiguous()
        self.widths = check_widths(widths, users.shape[1])
        lengths = self.items.norm(dim=1)
        longest = lengths.max() if len(lengths) else lengths.new_zeros(())
        # Rounding of a float32 sum in any order (Higham 2002, section 3.1); twice: either of two items may be off.
        exact = torch.get_float32_matmul_precision() == "highest"
        unit = (users.shape[1] + len(self.widths) + 2) * 2.0**-24 if exact else 2.0**-7
        bounds = self.users.norm(dim=1).double() * longest.double()
        if not bool((bounds < 1e38).all()):
            raise RunError("users, items: NaN, Inf or numbers too large to score; lower learning_rate and train again")
        self.margins = 2 * unit * bounds + 1e-36  # (U,); the last term covers what underflows

    def __call__(self, rows: Tensor, k: int, hidden: Sequence[Positives] = ()) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (width, items (B, k), scores (B, k) float64) for users `rows` (B,), narrowest width first.

        Positives in `hidden` are never returned; -1 and -Inf stand where fewer than k items are left.
        """
        users, margins = self.users[rows], self.margins[rows]
        scores = users.new_zeros(len(rows), len(self.items))  # (B, I)
        for level, (width, block) in enumerate(zip(self.widths, blocks(self.widths), strict=True)):
            torch.addmm(scores, users[:, block], self.items[:, block].T, beta=float(level > 0), out=scores)
            if level == 0:
                for positives in hidden:  # once: whatever is added to -Inf, it stays
                    hide(scores, rows, positives)
            yield width, *_best(scores, margins, users[:, :width].contiguous(), self.items, k)


def rows_at_once(num_items: int, device: torch.device | str, budget: int | None = None) -> int:
    """How many users to score together so that the score matrix stays within `budget` bytes.

    By default little on a CPU, where a matrix that fits the cache is fastest, and an eighth of what is free on a GPU.
    """
    cuda = torch.device(device).type == "cuda"
    if budget is None:
        budget = torch.cuda.mem_get_info(device)[0] // 8 if cuda else 12 * 2**20
    return min(max(budget // (4 * max(num_items, 1)), 64), 2**16)
