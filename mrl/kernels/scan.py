"""Scores of one query for all items, from codes of 32, 16, 8 bits a number or of one.

Codes lie dimension by dimension, (d, C) for room of C items, so that a prefix is a block of memory and a loop over
items is vector code. The first len(scores) items are scored. A tile of scores stays in the cache for all dimensions.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mrl.kernels.threads import compiled

_TILE = 2048  # items: 8 KiB of scores beside the four rows of codes that are read

_kernel = partial(compiled, fastmath={"contract"})


@_kernel
def scan_numbers(columns, query, scores):
    """Fill scores (I,) float32 with Σ query[d] · columns[d]. columns: (d, C) float32 or int8; query: (d,) float32."""
    dim = len(query)
    for left in range(0, len(scores), _TILE):
        right = min(left + _TILE, len(scores))
        tile = scores[left:right]
        tile[:] = 0.0
        d = 0
        while d + 4 <= dim:  # four dimensions at a time: a quarter of the trips to the tile
            w, x = columns[d, left:right], columns[d + 1, left:right]
            y, z = columns[d + 2, left:right], columns[d + 3, left:right]
            p, q, r, s = query[d], query[d + 1], query[d + 2], query[d + 3]
            for i in range(len(tile)):
                tile[i] += p * np.float32(w[i]) + q * np.float32(x[i]) + r * np.float32(y[i]) + s * np.float32(z[i])
            d += 4
        while d < dim:
            w = columns[d, left:right]
            for i in range(len(tile)):
                tile[i] += query[d] * np.float32(w[i])
            d += 1


@_kernel
def scan_halves(columns, query, scores, bits, numbers):
    """Likewise for float16 seen as uint16, with a query times 2¹¹².

    The bits of a half, moved to where a float32 has them, are the number times 2⁻¹¹², zero and subnormals included.
    bits: room, (T,) uint32; numbers: the same memory as float32.
    """
    for left in range(0, len(scores), len(bits)):
        right = min(left + len(bits), len(scores))
        tile = scores[left:right]
        tile[:] = 0.0
        for d in range(len(query)):
            column, weight = columns[d, left:right], query[d]
            for i in range(len(tile)):
                half = column[i]
                bits[i] = ((half & 0x8000) << 16) | ((half & 0x7FFF) << 13)
            for i in range(len(tile)):
                tile[i] += weight * numbers[i]


@_kernel
def scan_bits(columns, sums, lengths, scores):
    """Fill scores (I,) with lengths[i] · Σ sums[b, columns[b, i]].

    columns: (B, C) uint8, eight signs a byte; sums: (B, 256) float32, what a query gives for each byte.
    """
    for left in range(0, len(scores), _TILE):
        right = min(left + _TILE, len(scores))
        tile = scores[left:right]
        tile[:] = 0.0
        for b in range(len(sums)):
            column, known = columns[b, left:right], sums[b]
            for i in range(len(tile)):
                tile[i] += known[column[i]]
        for i in range(len(tile)):
            tile[i] *= lengths[left + i]
