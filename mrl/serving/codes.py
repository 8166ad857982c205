"""Item vectors in fewer bits: what a scan reads.

32 bits are float32 and 16 are float16. 8 are int8, c = (x − offset) / scale, with a scale and an offset a dimension
that spread its range over the 255 codes. One is the sign: x ≈ length · scale ∘ sign(x), with a scale a dimension and
the length of each item that fits best, since lengths mean popularity and a sign has none.
⟨q, offset⟩ is the same for all items, so that offsets cost a scan nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrl.errors import ConfigError
from mrl.kernels import scan_bits, scan_halves, scan_numbers

BITS = (32, 16, 8, 1)
_SIGNS = 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) - 1  # (256, 8)


def check_bits(bits: int) -> int:
    """Return it, or raise ConfigError."""
    if bits not in BITS:
        raise ConfigError(f"bits={bits!r}: must be one of {', '.join(map(str, BITS))}")
    return int(bits)


@dataclass(eq=False)
class Codes:
    """Vectors of `width` dimensions in codes. Made by `encode`.

    columns: dimension by dimension, (width, C) float32, float16 or int8, or (⌈width / 8⌉, C) uint8 of signs; C ≥ count,
    so that items can be added. scale, offset: (width,) float32; ones and zeros for floats.
    lengths: (C,) float32 beside signs, else empty.
    """

    bits: int
    width: int
    count: int
    columns: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    lengths: np.ndarray

    @classmethod
    def encode(cls, vectors: np.ndarray, bits: int = 32) -> Codes:
        """Codes of vectors (I, width) float32; the scales are theirs. ConfigError on bits."""
        check_bits(bits)
        count, width = vectors.shape
        scale, offset = np.ones(width, np.float32), np.zeros(width, np.float32)
        if bits == 8 and count:
            low, high = vectors.min(0), vectors.max(0)
            offset = ((low + high) / 2).astype(np.float32)
            scale = np.maximum((high - low) / 254, np.finfo(np.float32).tiny).astype(np.float32)
        if bits == 1 and count:
            lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
            scale = np.abs(vectors / lengths).mean(0).astype(np.float32)
        rows = -(-width // 8) if bits == 1 else width
        kind = {32: np.float32, 16: np.float16, 8: np.int8, 1: np.uint8}[bits]
        columns = np.empty((rows, count), kind)
        codes = cls(bits, width, 0, columns, scale, offset, np.empty(count if bits == 1 else 0, np.float32))
        codes.put(np.arange(count), vectors)
        return codes

    @property
    def bytes_per_item(self) -> float:
        return self.columns.itemsize * len(self.columns) + (4 if self.bits == 1 else 0)

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Overwrite items `rows`, or add them where a row is `count` or above; in the scales of `encode`.

        rows: (n,) of which new ones go on from `count`; vectors: (n, width). What lies outside the range of 8 bits is
        coded by its end.
        """
        self.count = max(self.count, int(rows.max()) + 1) if len(rows) else self.count
        if self.count > self.columns.shape[1]:
            room = max(self.count, 2 * self.columns.shape[1])
            self.columns = grown(self.columns, room, axis=1)
            self.lengths = grown(self.lengths, room) if self.bits == 1 else self.lengths
        if self.bits == 1:
            signs = vectors >= 0
            self.columns[:, rows] = np.packbits(signs, axis=1).T
            fitted = np.where(signs, self.scale, -self.scale)
            lengths = (vectors * fitted).sum(1) / max(float((self.scale**2).sum()), np.finfo(np.float32).tiny)
            self.lengths[rows] = lengths
        elif self.bits == 8:
            self.columns[:, rows] = np.rint((vectors - self.offset) / self.scale).clip(-127, 127).T
        else:
            self.columns[:, rows] = vectors.T

    def scan(self, query: np.ndarray, scores: np.ndarray) -> float:
        """Fill scores (I,) float32 for query (width,) float32; returns what is to be added for the inner product."""
        if self.bits == 1:
            signed = np.zeros(8 * len(self.columns), np.float32)
            signed[: self.width] = query * self.scale
            scan_bits(self.columns, signed.reshape(-1, 8) @ _SIGNS.T, self.lengths, scores)
        elif self.bits == 16:
            bits = np.empty(2048, np.uint32)
            scan_halves(self.columns.view(np.uint16), query * np.float32(2.0**112), scores, bits, bits.view(np.float32))
        else:
            scan_numbers(self.columns, query * self.scale, scores)
        return float(query @ self.offset)

    def decode(self) -> np.ndarray:
        """(I, width) float32: the vectors that the codes stand for."""
        columns = self.columns[:, : self.count]
        if self.bits == 1:
            signs = 2.0 * np.unpackbits(columns.T, axis=1)[:, : self.width].astype(np.float32) - 1
            return self.lengths[: self.count, None] * self.scale * signs
        return columns.T.astype(np.float32) * self.scale + self.offset


def grown(array: np.ndarray, room: int, axis: int = 0) -> np.ndarray:
    """A copy with `room` entries along an axis; the new ones are not set."""
    shape = list(array.shape)
    shape[axis] = room
    larger = np.empty(shape, array.dtype)
    larger[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return larger
