"""Axes of factors: rotated so that the leading ones carry most of the scores, which stay what they are.

Any factors can be rotated without changing a score; what changes is what their prefixes score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.kernels import fast_products

ROWS = 2**16  # at a time, in float64
NOTHING = 1e-13  # of the largest square, below which there is only rounding


@fast_products()
def rotate(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Factors rotated to their principal axes: the same scores, and every prefix the best of its rank.

    users (U, D), items (I, D); singular values split evenly: the leading d columns give the truncated SVD of the whole
    score matrix. Where that has fewer than D axes the last columns are zero. The largest entry of each item column is
    positive.
    """
    user_axes, item_axes = principal_axes(gram(users), gram(items), users.dtype)
    users, items = users @ user_axes.to(users), items @ item_axes.to(items)
    signs = torch.where(largest_entries(items) < 0, -1.0, 1.0).to(items)
    return users * signs, items * signs


def principal_axes(user_gram: Tensor, item_gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What turns users and items of `dtype` to their principal axes, by their Gram matrices: (D, D) each, float64."""
    (user_root, user_inverse), (item_root, item_inverse) = _root(user_gram), _root(item_gram)
    left, singular, right = torch.linalg.svd(user_root @ item_root.T)
    # axes that are rounding are set to 0: products of such numbers are subnormal, which slows all that comes after
    least = max(NOTHING, torch.finfo(dtype).eps)
    scale = torch.where(singular > least * singular[0], singular, 0).sqrt()
    return user_inverse @ left * scale, item_inverse @ right.T * scale


def largest_entries(table: Tensor) -> Tensor:
    """(1, D): of each column the entry that is farthest from 0."""
    return table.gather(0, table.abs().argmax(0, keepdim=True))


def gram(table: Tensor) -> Tensor:
    """(D, D) float64: tableᵀ table, some rows at a time."""
    gram = torch.zeros(2 * table.shape[1:], dtype=torch.float64, device=table.device)
    for rows in table.split(ROWS):
        rows = rows.double()
        gram.addmm_(rows.T, rows)
    return gram


def _root(gram: Tensor) -> tuple[Tensor, Tensor]:
    """R with RᵀR = gram, and its pseudo-inverse."""
    squares, basis = torch.linalg.eigh(gram)
    root = torch.where(squares > NOTHING * squares[-1], squares, 0).sqrt()
    return root[:, None] * basis.T, basis * torch.where(root > 0, 1 / root, 0)


def score_spread(users: Tensor, items: Tensor) -> Tensor:
    """The standard deviation of each user's scores over all items (U,), of users (U, D) and items (I, D)."""
    covariance = torch.cov(items.T, correction=0).reshape(2 * items.shape[1:])  # of one column it is a number
    return spread_by(users, covariance)


def spread_by(users: Tensor, covariance: Tensor) -> Tensor:
    """`score_spread` by the covariance (D, D) of the items."""
    return ((users @ covariance) * users).sum(1).clamp_min(0).sqrt()


def balance(users: Tensor, items: Tensor, user_l2: Tensor, item_l2: Tensor) -> tuple[Tensor, Tensor]:
    """Columns scaled against each other so that both sides are penalised alike; scores stay what they are.

    Σ_u r_u p² + Σ_i r_i q² of each column is least where both terms are equal, as they are at every optimum of iALS.
    user_l2 (U,), item_l2 (I,): r. Columns that are zero on a side stay as they are.
    """
    scale = balanced_scale(penalty_by_column(users, user_l2), penalty_by_column(items, item_l2))
    return users * scale, items / scale


def penalty_by_column(table: Tensor, row_l2: Tensor) -> Tensor:
    """(D,): Σ r p² of each column of a table (R, D), r = row_l2 (R,)."""
    return (row_l2.to(table)[:, None] * table.square()).sum(0)


def balanced_scale(user_penalty: Tensor, item_penalty: Tensor) -> Tensor:
    """(D,): by what columns of users are multiplied and those of items divided, so that both penalties are equal."""
    scale = (item_penalty / user_penalty) ** 0.25
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
