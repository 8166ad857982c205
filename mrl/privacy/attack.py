"""What a curious server reads from one upload, and from a sum of several.

A user's statistics of least squares are p pᵀ for every item it has met, and zero elsewhere. So the rows that are not
zero are the items it has met, and the leading eigenvector of any of them is its vector up to sign. Of a sum the same
reading gives the union of their items and a mean direction, which is what all users have in common: a guess that needs
no upload. The attack has succeeded where it is better than that guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

COLUMNS = ("summed", "masked", "cosine", "guess", "items_found", "items_right")


def recover_vector(outer: np.ndarray) -> np.ndarray:
    """(D,): the vector whose outer product is nearest to a matrix (D, D), or to the sum of many (…, D, D); up to sign.

    The leading eigenvector times the root of its eigenvalue. A sum is that of all but its last two axes, so that where
    one user has sent p pᵀ for n items the vector comes out √n times as long.
    """
    outer = np.asarray(outer, dtype=np.float64)
    matrix = outer.reshape(-1, *outer.shape[-2:]).sum(0)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors[:, -1] * np.sqrt(max(values[-1], 0.0))


def recover_items(statistics: np.ndarray) -> np.ndarray:
    """The rows of (I, …) that are not zero: the items that the senders have met."""
    return np.flatnonzero(np.abs(np.asarray(statistics)).reshape(len(statistics), -1).any(1))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The absolute cosine of two vectors; 0 where one is zero."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(abs(one @ other) / norms) if norms else 0.0
