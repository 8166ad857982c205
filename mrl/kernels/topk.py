"""Compiled for the CPU: scores of nested vectors and the best k of a row, without a score matrix.

The threshold of a row: the k-th largest of the maxima of disjoint groups of items is a lower bound of the k-th
largest score, and few items pass it. Callers share the rows among threads; nothing here starts one. Equal scores are
ordered as `mrl.evaluation.ranking` says.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mrl.kernels.threads import compiled

_GROUP = 16  # items a group at most: larger groups make fewer maxima but more items to look through
_TILE = 1024  # items whose columns are kept in the cache while a block of dimensions is added for all rows

_kernel = partial(compiled, fastmath={"contract"})


@_kernel
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


@_kernel
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


@_kernel
def _select_best(candidates, values, count, k):
    """Move the best k of `count` candidates to the front, in any order: quickselect, linear also where all are tied."""
    low, high = 0, count - 1
    while low < high:
        pivot, at = values[(low + high) // 2], candidates[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while (values[left] > pivot) | ((values[left] == pivot) & (candidates[left] < at)):
                left += 1
            while (values[right] < pivot) | ((values[right] == pivot) & (candidates[right] > at)):
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                candidates[left], candidates[right] = candidates[right], candidates[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            return


@_kernel
def _keep_best(candidates, values, count, k, ids, best):
    """Put the best k of `count` candidates into ids and best, in order; returns how many there are."""
    if count > 2 * k + _GROUP:
        _select_best(candidates, values, count, k)
        count = k
    for i in range(count):
        place = 0
        for j in range(count):
            place += (values[j] > values[i]) | ((values[j] == values[i]) & (candidates[j] < candidates[i]))
        if place < k:
            ids[place], best[place] = candidates[i], values[i]
    return min(count, k)


@_kernel
def _score(candidates, values, start, stop, row, user, width, items):
    """Fill values[start:stop]: from `row`, or, where there is a width, in float64 term by term."""
    for c in range(start, stop):
        item = candidates[c]
        if width == 0:
            values[c] = row[item]
        else:
            value = 0.0
            for d in range(width):  # a product of two float32 is exact in float64, and the order is fixed
                value += np.float64(user[d]) * np.float64(items[item, d])
            values[c] = value


@_kernel
def _workspace(num_items, k):
    groups = -(-num_items // min(_GROUP, max(1, num_items // (4 * k))))
    room = 4 * k + 2 * _GROUP
    floats, numbers = np.empty(groups, np.float32), np.empty(groups, np.int32)
    return floats, numbers, np.empty(groups, np.int64), np.empty(room, np.int64), np.empty(room, np.float64)


@_kernel
def _gather(row, margin, user, width, items, k, workspace):
    """Put everything of row (I,) that may be among the k best into the workspace; returns how many those are."""
    maxima, keys, chosen, candidates, values = workspace
    groups, room = len(maxima), len(candidates)
    _group_maxima(row, maxima)
    lowest = np.float32(-3.4028235e38)  # the smallest finite number: what is masked stays below the bound
    bound = max(np.float32(_threshold(maxima, k, keys) - margin), lowest)
    num_chosen = 0
    for g in range(groups):  # append always, count where the bound is reached: no branch to mispredict
        chosen[num_chosen] = g
        num_chosen += maxima[g] >= bound
    scored = count = 0
    for c in range(num_chosen):
        for item in range(chosen[c], len(row), groups):
            candidates[count] = item
            count += row[item] >= bound
        if count > room - 2 * _GROUP:
            _score(candidates, values, scored, count, row, user, width, items)
            _select_best(candidates, values, count, k)
            count = scored = min(k, count)
    _score(candidates, values, scored, count, row, user, width, items)
    return count


@_kernel
def _best_of_row(row, margin, user, width, items, k, workspace, ids, best):
    """Fill ids and best (k,) from row (I,): the k best, -1 and -Inf where there are fewer above -Inf."""
    count = _gather(row, margin, user, width, items, k, workspace)
    candidates, values = workspace[3], workspace[4]
    count = _keep_best(candidates, values, count, k, ids, best)
    ids[count:] = -1
    best[count:] = -np.inf


@_kernel
def shortlist(row, k, items, ids):
    """Fill ids (k,), in any order, with the k best of row (I,); returns how many there are above -Inf. items: any."""
    workspace = _workspace(len(row), k)
    count = _gather(row, 0.0, row, 0, items, k, workspace)
    if count > k:
        _select_best(workspace[3], workspace[4], count, k)
    count = min(count, k)
    ids[:count] = workspace[3][:count]
    return count


@_kernel
def best_of_vector(row, margin, user, width, items, k, ids, best):
    """Fill ids and best (k,) from row (I,), scores within `margin` / 2 of ⟨user, item⟩ at `width`; 0 for row itself."""
    _best_of_row(row, margin, user, width, items, k, _workspace(len(row), k), ids, best)


@_kernel
def rerank(candidates, user, width, items, k, ids, best):
    """Fill ids and best (k,) with the k best of candidates (n,) by ⟨user, item⟩ at `width`, in order; n at most.

    Candidates are put into another order.
    """
    values = np.empty(len(candidates), np.float64)
    _score(candidates, values, 0, len(candidates), user, user, width, items)
    _keep_best(candidates, values, len(candidates), k, ids, best)


@_kernel
def best_of_scores(scores, k, ids, best):
    """Fill ids and best (B, k) from scores (B, I) float32 as they stand."""
    workspace = _workspace(scores.shape[1], k)
    for r in range(len(scores)):
        _best_of_row(scores[r], 0.0, scores[r], 0, scores, k, workspace, ids[r], best[r])


@_kernel
def best_of_products(scores, margins, users, width, items, k, ids, best):
    """Fill ids and best (B, k) from scores (B, I) within half of margins (B,) of ⟨user, item⟩ at `width`."""
    workspace = _workspace(scores.shape[1], k)
    for r in range(len(scores)):
        _best_of_row(scores[r], margins[r], users[r], width, items, k, workspace, ids[r], best[r])


@_kernel
def _add_block(scores, users, columns, start, stop):
    """scores (R, I) += users (R, D) · columns (D, I) over dimensions start to stop; R is a multiple of four."""
    for left in range(0, scores.shape[1], _TILE):
        right = min(left + _TILE, scores.shape[1])
        for r in range(0, len(scores), 4):  # four rows by four dimensions: what the registers hold
            w, x = scores[r, left:right], scores[r + 1, left:right]
            y, z = scores[r + 2, left:right], scores[r + 3, left:right]
            d = start
            while d + 4 <= stop:
                p, q = columns[d, left:right], columns[d + 1, left:right]
                s, t = columns[d + 2, left:right], columns[d + 3, left:right]
                w0, w1, w2, w3 = users[r, d], users[r, d + 1], users[r, d + 2], users[r, d + 3]
                x0, x1, x2, x3 = users[r + 1, d], users[r + 1, d + 1], users[r + 1, d + 2], users[r + 1, d + 3]
                y0, y1, y2, y3 = users[r + 2, d], users[r + 2, d + 1], users[r + 2, d + 2], users[r + 2, d + 3]
                z0, z1, z2, z3 = users[r + 3, d], users[r + 3, d + 1], users[r + 3, d + 2], users[r + 3, d + 3]
                for i in range(right - left):
                    w[i] += w0 * p[i] + w1 * q[i] + w2 * s[i] + w3 * t[i]
                    x[i] += x0 * p[i] + x1 * q[i] + x2 * s[i] + x3 * t[i]
                    y[i] += y0 * p[i] + y1 * q[i] + y2 * s[i] + y3 * t[i]
                    z[i] += z0 * p[i] + z1 * q[i] + z2 * s[i] + z3 * t[i]
                d += 4
            while d < stop:
                p = columns[d, left:right]
                for i in range(right - left):
                    w[i] += users[r, d] * p[i]
                    x[i] += users[r + 1, d] * p[i]
                    y[i] += users[r + 2, d] * p[i]
                    z[i] += users[r + 3, d] * p[i]
                d += 1


@_kernel
def best_of_vectors(users, margins, items, columns, widths, offsets, hidden, first, k, ids, best):
    """Fill ids and best (L, B, k) for users (B, D) at each of widths (L,).

    columns (D, I): items (I, D) transposed. Items hidden[offsets[first + b]:offsets[first + b + 1]] are left out.
    """
    num_items, dim = items.shape
    size = max(4, min(32, 2**18 // max(num_items, 1) // 4 * 4))  # rows that fit the cache together
    workspace = _workspace(num_items, k)
    scores, group = np.empty((size, num_items), np.float32), np.empty((size, dim), np.float32)
    for top in range(0, len(users), size):
        rows = min(size, len(users) - top)
        group[:rows], group[rows:] = users[top : top + rows], 0.0
        scores[:] = 0.0
        for level in range(len(widths)):
            _add_block(scores, group, columns, 0 if level == 0 else widths[level - 1], widths[level])
            for r in range(rows):
                b = top + r
                if level == 0:  # once: whatever is added to -Inf, it stays
                    for n in range(offsets[first + b], offsets[first + b + 1]):
                        scores[r, hidden[n]] = -np.inf
                place, value = ids[level, b], best[level, b]
                _best_of_row(scores[r], margins[b], group[r], widths[level], items, k, workspace, place, value)


@_kernel
def mark_hits(ids, positives, offsets, rows, hits):
    """Fill hits (L, B, k): which of ids (L, B, k) are among positives[offsets[u] : offsets[u + 1]], u = rows[b]."""
    for b in range(len(rows)):
        relevant = positives[offsets[rows[b]] : offsets[rows[b] + 1]]
        for level in range(len(ids)):
            ranked, is_hit = ids[level, b], hits[level, b]
            is_hit[:] = False
            for item in relevant:
                for n in range(len(ranked)):
                    is_hit[n] |= ranked[n] == item
