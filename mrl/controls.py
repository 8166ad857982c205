"""What nested training has to beat: popularity, EASE, iALS, and iALS or any model rotated to its principal axes.

Linear models that train in seconds and need no nested loss. Each gives either factors (users (U, D), items (I, D)),
which score as inner products and are truncated by slicing, or a `score_blocks` function for
`mrl.evaluate.evaluate_scores`, where there is no width.

iALS itself is `mrl.ials`. EASE: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import isfinite

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.errors import ConfigError, DataError
from mrl.evaluate import evaluate
from mrl.ials import CHUNK, SWEEPS, ials
from mrl.interactions import Interactions, Positives
from mrl.widths import DEFAULT_WIDTHS, check_widths

ScoreBlocks = Callable[[Tensor], Iterator[tuple[int | None, Tensor]]]

ALPHA0_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
L2_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# along each axis, and along alpha0 · l2, of which rows with few positives feel little else
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
COLLAPSED = 1e-6  # the largest singular value of the scores, below which the penalty has left nothing of them


def rotate(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Factors turned to their principal axes: the same scores, and every prefix the best of its rank.

    QR of users (U, D) and items (I, D), SVD of the small core, singular values split evenly: the leading d columns
    give the truncated SVD of the whole score matrix. The largest entry of each item column is positive.
    """
    dim = users.shape[1]
    user_basis, user_core = torch.linalg.qr(users)
    item_basis, item_core = torch.linalg.qr(items)
    left, singular, right = torch.linalg.svd(user_core.double() @ item_core.double().T, full_matrices=False)
    scale = singular.sqrt()
    turned_users = user_basis @ (left * scale).to(users.dtype)
    turned_items = item_basis @ (right.T * scale).to(items.dtype)
    largest = turned_items.abs().argmax(0, keepdim=True)
    signs = torch.where(turned_items.gather(0, largest) < 0, -1.0, 1.0).to(items.dtype)
    missing = (0, dim - len(singular))  # fewer rows than dimensions: the axes that are left are zero
    return F.pad(turned_users * signs, missing), F.pad(turned_items * signs, missing)


def shuffle_columns(users: Tensor, items: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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
    # the co-occurrences come from scipy, which is sparse, a few rows at a time
    values = np.ones(len(positives), dtype=np.float32)
    csr = (values, positives.items.cpu().numpy(), positives.offsets.cpu().numpy())
    matrix = sp.csr_matrix(csr, shape=(positives.num_users, size))
    by_item = matrix.T.tocsr()
    gram = torch.empty(size, size)
    step = max(1, chunk // max(1, size))
    for start in range(0, size, step):
        gram[start : start + step] = torch.from_numpy((by_item[start : start + step] @ matrix).toarray())
    gram = gram.to(positives.items.device)
    gram.diagonal().add_(l2)
    try:
        weights = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))
    except torch.linalg.LinAlgError:
        raise ConfigError(f"l2={l2!r}: too little for EASE in 32-bit numbers; 30 to 1000 is usual") from None
    weights /= -weights.diagonal().clone()
    weights.fill_diagonal_(0.0)
    return weights


def ease_scores(positives: Positives, weights: Tensor) -> ScoreBlocks:
    """The scores X · B of EASE, as `score_blocks` for `mrl.evaluate.evaluate_scores`; `weights` from `ease`."""

    def score_blocks(user_rows: Tensor) -> Iterator[tuple[int | None, Tensor]]:
        rows = user_rows.to(positives.offsets.device)
        counts = positives.counts[rows]
        first = counts.cumsum(0) - counts  # (B,): where each user's positives begin among those of the batch
        shift = torch.repeat_interleave(positives.offsets[rows] - first, counts)
        picked = positives.items[shift + torch.arange(len(shift), device=shift.device)]
        yield None, F.embedding_bag(picked.long(), weights, first, mode="sum")  # (B, I)

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

    Climbs ALPHA0_GRID × L2_GRID from its middle, neighbour by neighbour, until none is better or `trials` are spent.
    A penalty so strong that the optimum is all zero counts as value 0.
    Returns the best settings and a table of all trials: alpha0, l2, value, seconds.
    Raises DataError where there is nothing to validate on.
    """
    widths = check_widths(widths, dim)
    if len(data.valid) == 0:
        raise DataError(f"{data.name}: no validation interactions to choose alpha0 and l2 on; hold some out first")
    k = min(20, data.num_items)
    trial_rows: dict[tuple[int, int], dict] = {}

    def attempt(point: tuple[int, int]) -> None:
        started = time.perf_counter()
        settings = {"alpha0": ALPHA0_GRID[point[0]], "l2": L2_GRID[point[1]]}
        generator = torch.Generator().manual_seed(seed)  # every trial from the same start
        factors = rotate(*ials(data.train, dim, sweeps=sweeps, generator=generator, **settings))
        value = 0.0
        if factors[1][:, 0].square().sum() > COLLAPSED:
            result = evaluate(*factors, data, split="valid", widths=widths, ks=(k,))
            value = float(np.mean([result.value(f"ndcg@{k}", width=width) for width in widths]))
        trial_rows[point] = {**settings, "value": value, "seconds": time.perf_counter() - started}
        if on_trial is not None:
            on_trial({"trial": len(trial_rows), **trial_rows[point]})

    def rank(trial: dict) -> tuple[float, float]:  # where all have collapsed, the way out is down
        return trial["value"], -trial["alpha0"] * trial["l2"]

    best = (len(ALPHA0_GRID) // 2, len(L2_GRID) // 2)
    attempt(best)
    climbing = True
    while climbing:
        for point in [(best[0] + a, best[1] + b) for a, b in NEIGHBOURS]:
            inside = 0 <= point[0] < len(ALPHA0_GRID) and 0 <= point[1] < len(L2_GRID)
            if inside and point not in trial_rows and len(trial_rows) < trials:
                attempt(point)
        ahead = max(trial_rows, key=lambda point: rank(trial_rows[point]))
        climbing, best = ahead != best, ahead
    table = pl.DataFrame(list(trial_rows.values()))
    return {name: trial_rows[best][name] for name in ("alpha0", "l2")}, table
