"""What nested training has to beat: popularity, EASE, SVD, iALS, and any model rotated to its principal axes.

Linear models that train in seconds and need no nested loss. Each gives either factors (users (U, D), items (I, D)),
which score as inner products and are truncated by slicing, or a `score_blocks` function for
`mrl.evaluation.evaluate.evaluate_scores`, where there is no width.

iALS itself is `mrl.least_squares.ials`. EASE: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
SVD: of the matrix that Dhillon, "Co-clustering documents and words using bipartite spectral graph partitioning", KDD
2001, takes apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor
from torch.nn import functional as F

from mrl.data import Interactions, Positives
from mrl.errors import ConfigError, DataError
from mrl.evaluation import Evaluation, evaluate, evaluate_scores
from mrl.least_squares import climb, rotate, validation_value
from mrl.least_squares.ials import CHUNK, SWEEPS, ials
from mrl.widths import DEFAULT_WIDTHS, check_widths

Vectors = tuple[Tensor, Tensor]  # users (U, D) and items (I, D)
ScoreBlocks = Callable[[Tensor], Iterator[tuple[int | None, Tensor]]]
Model = Vectors | ScoreBlocks  # scores have no width


def evaluate_model(
    model: Model, data: Interactions, *, split: str, widths: Sequence[int], device: torch.device, **options
) -> Evaluation:
    """Full ranking at `widths` where the model has vectors, once where it has none. options: as of `evaluate`."""
    if isinstance(model, tuple):
        return evaluate(*model, data, split=split, widths=widths, **options)
    return evaluate_scores(model, data, split=split, device=device, **options)


def shuffle_columns(users: Tensor, items: Tensor, generator: torch.Generator) -> Vectors:
    """The same permutation of the columns of both: full-width scores stay, what the prefixes mean is lost."""
    order = torch.randperm(users.shape[1], generator=generator).to(users.device)
    return users[:, order], items[:, order]


def ease(positives: Positives, l2: float = 300.0, *, memory_limit: float = 8e9, chunk: int = CHUNK) -> Tensor:
    """The item-item weights of EASE: B = 1 − P · diag(P)⁻¹ with P = (XᵀX + l2 · 1)⁻¹, diagonal zero.

    memory_limit: bytes that its three dense (I, I) float32 matrices may take together.
    Returns (I, I) float32 on the device of `positives`. Raises ConfigError for a catalogue that is too large.
    """
    if not (isfinite(l2) and l2 > 0):
        raise ConfigError(f"l2={l2!r}: must be finite and above 0; 30 to 1000 is usual for EASE")
    size = positives.num_items
    needed = 3 * 4 * size**2
    if needed > memory_limit:
        raise ConfigError(
            f"EASE: {size:,} items need {needed / 1e9:.3g} GB of dense {size:,} × {size:,} matrices, above "
            f"memory_limit={memory_limit / 1e9:.3g} GB; raise it, leave out rare items (core), or compare with iALS"
        )
    # products come from scipy, which is sparse, a few rows at a time
    matrix = _as_matrix(positives, np.float32)
    by_item, weights = matrix.T.tocsr(), torch.empty(size, size, dtype=torch.float32)
    step = max(1, chunk // max(1, size))
    spans = [slice(start, start + step) for start in range(0, size, step)]
    if few_users := 2 * positives.num_users < size:
        # P · l2 = 1 − Xᵀ (XXᵀ + l2 · 1)⁻¹ X (Woodbury): a system of as many rows as there are users
        gram = torch.from_numpy((matrix @ matrix.T).toarray()).double()
    else:
        gram = weights
        for rows in spans:
            gram[rows] = torch.from_numpy((by_item[rows] @ matrix).toarray())
    gram = gram.to(positives.items.device)
    gram.diagonal().add_(l2)
    try:
        factor = torch.linalg.cholesky(gram, out=gram)
    except torch.linalg.LinAlgError:
        raise ConfigError(f"l2={l2!r}: too little for EASE in 32-bit numbers; 30 to 1000 is usual") from None
    if few_users:
        solved = torch.cholesky_solve(torch.from_numpy(matrix.toarray()).to(factor), factor).float().cpu().numpy()
        for rows in spans:
            weights[rows] = torch.from_numpy(-(by_item[rows] @ solved))
        weights = weights.to(factor.device)
        weights.diagonal().add_(1.0)
    else:
        weights = torch.cholesky_inverse(factor)
    weights /= -weights.diagonal().clone()
    weights.fill_diagonal_(0.0)
    return weights


def truncated_svd(positives: Positives, dim: int, *, seed: int = 0) -> Vectors:
    """The `dim` leading singular vectors of the normalised matrix D_U^-½ X D_I^-½, scaled back, on the CPU.

    The first d columns score D_U^½ (its best approximation of rank d) D_I^½: directions are those of the singular
    vectors, lengths mean popularity. No level is trained. Users (U, dim), items (I, dim), float32; columns that the
    data have no rank for are zero; the largest entry of each item column is positive. seed: of the vector that the
    iterations of Lanczos begin with; the answer does not depend on it.
    """
    matrix = _as_matrix(positives, np.float64)
    roots = [np.sqrt(matrix.sum(axis)) for axis in (1, 0)]
    by_user, by_item = (sp.diags_array(1 / np.maximum(root, 1)) for root in roots)
    matrix = (by_user @ matrix @ by_item).tocsr()
    rank = min(dim, min(matrix.shape) - 1)
    if rank < 1:
        raise DataError(f"svd: {matrix.shape[0]} users and {matrix.shape[1]} items; give at least two of each")
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape))
    left, singular, right = svds(matrix, k=rank, v0=start)
    order = np.argsort(-singular)
    left, singular, right = left[:, order], np.maximum(singular[order], 0), right[order].T
    signs = np.sign(np.take_along_axis(right, np.abs(right).argmax(axis=0)[None], axis=0))
    users, items = (
        torch.from_numpy(side * (np.sqrt(singular) * signs) * root[:, None]).float()
        for side, root in zip((left, right), roots, strict=True)
    )
    padding = (0, dim - rank)
    return F.pad(users, padding), F.pad(items, padding)


def _as_matrix(positives: Positives, dtype: type) -> sp.csr_array:
    """(U, I) sparse: 1 for every pair."""
    csr = (np.ones(len(positives), dtype=dtype), positives.items.cpu().numpy(), positives.offsets.cpu().numpy())
    return sp.csr_array(csr, shape=(positives.num_users, positives.num_items))


def ease_scores(positives: Positives, weights: Tensor) -> ScoreBlocks:
    """The scores X · B of EASE as `score_blocks`; `weights` from `ease`."""

    def score_blocks(user_rows: Tensor) -> Iterator[tuple[int | None, Tensor]]:
        batch = positives.take(user_rows.to(positives.offsets.device))
        yield None, F.embedding_bag(batch.items.long(), weights, batch.offsets[:-1], mode="sum")  # (B, I)

    return score_blocks


def popularity_scores(positives: Positives) -> ScoreBlocks:
    """Each item's number of positives, the same for every user, as `score_blocks`."""
    popularity = positives.item_counts.float()

    def score_blocks(user_rows: Tensor) -> Iterator[tuple[int | None, Tensor]]:
        yield None, popularity.expand(len(user_rows), -1)  # (B, I)

    return score_blocks


def search_ials(
    data: Interactions,
    dim: int = 64,
    *,
    widths: Sequence[int] = DEFAULT_WIDTHS,
    sweeps: int = SWEEPS,
    seed: int = 0,
    trials: int = 20,
    on_trial: Callable[[dict], None] | None = None,
) -> tuple[dict[str, float], pl.DataFrame]:
    """`alpha0` and `l2` for `ials` on these data, by validation NDCG@20 of the rotated factors, mean over `widths`.

    Climbs a grid of half decades from .03 and .01, neighbour by neighbour, until none is better or `trials` are spent.
    A penalty so strong that the optimum is all zero counts as value 0.
    Returns the best settings and a table of all trials: alpha0, l2, value, seconds.
    Raises DataError where there is nothing to validate on.
    """
    widths = check_widths(widths, dim)
    if len(data.valid) == 0:
        raise DataError(f"{data.name}: no validation interactions to choose alpha0 and l2 on; hold some out first")

    def value_of(alpha0: float, l2: float) -> float:
        generator = torch.Generator().manual_seed(seed)  # every trial from the same start
        factors = rotate(*ials(data.train, dim, sweeps=sweeps, generator=generator, alpha0=alpha0, l2=l2))
        return validation_value(factors, data, widths)

    return climb(value_of, (-3, -4), trials, on_trial=on_trial)
