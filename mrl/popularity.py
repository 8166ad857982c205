"""Popularity projected out of nested vectors: on both sides, per block, so that every prefix is rid of it.

    found = find_popularity(items, counts, widths)
    project(items, found.directions, gamma=1)

x ← x − γ Σ_u ⟨x, u⟩ u, where the u of a block are orthonormal and found one after the other: the ridge regression of
y = log(1 + count) on the block, what it has found taken out, and again, until a linear probe of the prefix finds
nothing in items that the directions do not come from. After RASA (Franca, arXiv 2507.14137), which does so eight times
with the position of a patch, and iterated nullspace projection (Ravfogel et al., arXiv 2004.07667).

The ridge penalty is heavy. An orthogonal projection takes all that is linear at once where u is the covariance of the
block with y, which is the limit of heavy penalties; the least-squares direction leaves a part, needs more repeats, and
each costs a dimension (ml-100k at width 64, two of them in each block, found in one half of the items and probed in the
other: R² .05 with a penalty of .1, .015 with 10).

What few items say of others is not exact, and no repeat mends that: of D dimensions, R of them projected out, a perfect
probe of new items still reads R² ≈ (D − R) / items: .09 where 640 items have 64 dimensions, .006 for 10,000 items.

Projected on both sides, scores change by −(1 − (1 − γ)²) Σ_u ⟨x, u⟩⟨y, u⟩ and nothing else, at every width that ends a
block. To project queries alone by 1 − (1 − γ)² gives the same scores, so that an index of items stays as it is.
What is not linear stays: the lengths of what is left still rank the items of ml-100k by popularity (Spearman .96).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from torch import Tensor, from_numpy

from mrl.errors import ConfigError, DataError
from mrl.widths import blocks, check_widths

PENALTY = 10.0  # of the ridge that finds a direction, in mean variances of the block's columns
ENOUGH = 0.02  # R² of the probe that counts as nothing
MOST = 8  # repeats in a block, as in RASA; and never more than half of its dimensions
SPLITS, THIRDS, FOLDS = 12, 3, 5  # of the items, how often into thirds; folds of a probe in one third
PIECES = 3  # random ones that a fold is put together from, fewer where there are few items
FEWEST = 2 * THIRDS * FOLDS  # items
PROBES = (1e-3, 1e-2, 1e-1, 1.0)  # penalties of the probe, in variances of each column: the one that finds most counts


@dataclass(frozen=True)
class Popularity:
    """What was found.

    directions: (D, R) float64, orthonormal columns, each within one block. widths: where the blocks end, D the last.
    repeats: how many directions each block has. before, after: R² of the linear probe of each prefix, with nothing and
    with all of that projected out, on items that the directions of the measurement do not come from.
    """

    directions: np.ndarray
    widths: tuple[int, ...]
    repeats: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


def check_share(name: str, value: object, meaning: str) -> float:
    """A number from 0 to 1, or ConfigError. meaning: of its ends, for the message."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise ConfigError(f"{name}={value!r}: must be a number from 0 to 1; {meaning}")
    return float(value)


def check_popularity(value: object) -> float:
    """The `popularity` of recommendations: what is left of the popularity of each side, 1 − γ."""
    return check_share("popularity", value, "1 is as trained, 0 without it")


def project(vectors: Tensor | np.ndarray, directions: np.ndarray, gamma: float) -> Tensor | np.ndarray:
    """x − γ Σ_u ⟨x, u⟩ u for every row of `vectors` (N, D), a new table; at γ = 0 the very same table.

    directions: (D, R), orthonormal. A row's result does not depend on the rows beside it, bit by bit.
    """
    if check_share("gamma", gamma, "0 leaves vectors as they are") == 0:
        return vectors
    if isinstance(vectors, Tensor):
        return from_numpy(project(vectors.detach().cpu().numpy(), directions, gamma)).to(vectors.device)
    result = vectors.copy()
    for direction in directions.T.astype(vectors.dtype):
        here = direction.nonzero()[0]
        if len(here):
            block = slice(here[0], here[-1] + 1)
            along = (vectors[:, block] * direction[block]).sum(axis=1)  # not by BLAS: see the docstring
            result[:, block] -= vectors.dtype.type(gamma) * along[:, None] * direction[block]
    return result


def project_queries(vectors: Tensor | np.ndarray, directions: np.ndarray, popularity: float) -> Tensor | np.ndarray:
    """Queries (B, D) whose scores are those of both sides projected by γ = 1 − `popularity`; items stay as they are."""
    return project(vectors, directions, 1 - check_popularity(popularity) ** 2)


def find_popularity(
    items: Tensor | np.ndarray, counts: np.ndarray, widths: Sequence[int], *, seed: int = 0
) -> Popularity:
    """The directions of popularity in item vectors (I, D), by the interactions of each item, counts (I,).

    widths: where blocks end; what is behind the last one is a block, too. How often each block is repeated is decided
    by turns on thirds of the items: directions from two of them, a probe fitted and tested within the other, until its
    mean R² is below ENOUGH. The directions that are returned come from all items. With hundreds of items that mean is
    noisy: `after` says what was reached. seed: of the thirds. DataError for fewer items than that takes.
    """
    table = items.detach().cpu().numpy() if isinstance(items, Tensor) else np.asarray(items)
    if len(table) < FEWEST:
        raise DataError(f"popularity: {len(table)} items are too few to tell it from chance; {FEWEST} are needed")
    if np.shape(counts) != (len(table),):
        raise DataError(f"popularity: counts of shape {np.shape(counts)} for {len(table)} items; give one number each")
    dims = table.shape[1]
    edges = (*(width for width in check_widths(widths) if width < dims), dims)
    rng = np.random.default_rng(seed)
    from threadpoolctl import threadpool_limits  # rare, and would be part of every import

    with threadpool_limits(1):  # small systems; and the directions have to be the same bits every time
        parts = _moments(table, np.log1p(np.asarray(counts, np.float64)), rng)
        orders = [rng.permutation(len(parts)).reshape(THIRDS, FOLDS, -1) for _ in range(SPLITS)]
        thirds = np.concatenate(orders)  # (T, folds, pieces): which parts make up the folds of each third
        whole = parts.sum(0)
        sources = [whole - parts[third.ravel()].sum(0) for third in thirds]  # the other two thirds
        of_source = [np.zeros((dims, 0)) for _ in thirds]

        def probe(width: int) -> float:
            read = (
                _probe_r2(parts[third].sum(1), found, width) for third, found in zip(thirds, of_source, strict=True)
            )
            return float(np.mean(list(read)))

        before = [probe(width) for width in edges]
        directions, repeats, after = np.zeros((dims, 0)), [], []
        for block in blocks(edges):
            most = min(MOST, max(1, (block.stop - block.start) // 2))
            while (left := probe(block.stop)) >= ENOUGH and sum(repeats) + most > directions.shape[1]:
                of_source = [_with_next(*each, block) for each in zip(of_source, sources, strict=True)]
                directions = _with_next(directions, whole, block)
            repeats.append(directions.shape[1] - sum(repeats))
            after.append(left)
    return Popularity(directions, edges, tuple(repeats), tuple(before), tuple(after))


def _moments(items: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(P, D + 2, D + 2): Σ z zᵀ of z = (x, 1, y) over the items of each of P random parts."""
    parts = THIRDS * FOLDS * min(PIECES, len(items) // (THIRDS * FOLDS))
    tables = (
        np.column_stack([items[rows], np.ones(len(rows)), target[rows]]).astype(np.float64)
        for rows in np.array_split(rng.permutation(len(items)), parts)
    )
    return np.stack([table.T @ table for table in tables])


def _centred(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of x (…, d, d) and with y (…, d), means of x (…, d) and y (…), of moments (…, d + 2, d + 2)."""
    means = moments[..., -2, :] / moments[..., -2, -2, None]  # of x, 1 and y
    covariance = moments / moments[..., -2, -2, None, None] - means[..., :, None] * means[..., None, :]
    return covariance[..., :-2, :-2], covariance[..., :-2, -1], means[..., :-2], means[..., -1]


def _with_next(directions: np.ndarray, moments: np.ndarray, block: slice) -> np.ndarray:
    """(D, R + 1): the directions (D, R) and the ridge direction of y in a block, what they span taken out."""
    found = directions[block]
    rest = np.eye(len(found)) - found @ found.T
    covariance, with_target, *_ = _centred(moments)
    covariance, with_target = rest @ covariance[block, block] @ rest, rest @ with_target[block]
    penalty = PENALTY * np.trace(covariance) / len(covariance) or 1.0
    weights = rest @ np.linalg.solve(covariance + penalty * np.eye(len(covariance)), with_target)
    column = np.zeros((len(directions), 1))
    column[block, 0] = weights / (np.linalg.norm(weights) or 1.0)
    return np.hstack([directions, column])


def _probe_r2(folds: np.ndarray, directions: np.ndarray, width: int) -> float:
    """R² = 1 − SSE / SST, over folds, of the ridge probe of a prefix, by the penalty that finds most.

    folds: (F, D + 2, D + 2) moments; directions: (D, R), what is projected out.
    """
    kept = directions[:width]  # blocks of directions end where widths do
    projection = np.eye(width + 2)
    projection[:width, :width] -= kept @ kept.T
    columns = [*range(width), -2, -1]
    folds = projection @ folds[:, columns][:, :, columns] @ projection
    total = folds.sum(0)
    spread = total[-1, -1] - total[-1, -2] ** 2 / total[-2, -2]
    if spread <= 1e-9 * total[-1, -1]:  # counts are all the same: nothing to find
        return 0.0
    covariance, with_target, mean, target = _centred(total - folds)  # of the other folds
    variance = np.einsum("fdd->fd", covariance)
    largest = variance.max(axis=1, keepdims=True)
    variance = np.where(variance > 1e-9 * largest, variance, np.where(largest > 0, largest, 1.0))  # of what is gone
    errors = []
    for penalty in PROBES:
        system = covariance + penalty * variance[:, None] * np.eye(width)
        weights = np.linalg.solve(system, with_target[..., None])[..., 0]  # (F, width)
        intercept = target - (mean * weights).sum(1)
        residual = np.column_stack([-weights, -intercept, np.ones_like(intercept)])
        errors.append(float((residual[:, None] @ folds @ residual[..., None]).sum()))
    return float(1 - min(errors) / spread)
