"""Axes of factors: rotated so that the leading ones carry most of the scores, which stay what they are.

Any factors can be rotated without changing a score; what changes is what their prefixes score.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrl.widths import blocks

ROWS = 2**16  # at a time, in float64
NOTHING = 1e-13  # of the largest square, below which there is only rounding


def rotate(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Factors rotated to their principal axes: the same scores, and every prefix the best of its rank.

    users (U, D), items (I, D); singular values split evenly: the leading d columns give the truncated SVD of the whole
    score matrix. Where that has fewer than D axes the last columns are zero. The largest entry of each item column is
    positive.
    """
    return principal_axes(users, items, (users.shape[1],), torch.ones_like(items[:, 0]))


def principal_axes(users: Tensor, items: Tensor, widths: Sequence[int], item_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes block by block, where the first blocks attend to some items more than to others.

    Block b takes the leading axes of what the blocks before it have left, with the scores of item i weighted by
    item_weights[i] ** (2 ** −b), item_weights (I,) above 0. With weights of 1 this is `rotate`: the best of its rank by
    squared error over all items, most of which hardly anybody meets. Weights that grow with popularity give the
    narrow prefixes to the items that are met. Scores of the full width stay what they are.
    """
    alike = not (item_weights != item_weights[:1]).any()
    user_gram, spans = _gram(users), [slice(0, users.shape[1])] if alike else blocks(widths)
    # axes that are rounding are set to 0: products of such numbers are subnormal, which slows all that comes after
    least = max(NOTHING, torch.finfo(users.dtype).eps)
    # what is left of each side for the blocks to come, as a D × D matrix that the side is to be multiplied with
    left_users = left_items = torch.eye(users.shape[1], dtype=torch.float64, device=users.device)
    rotated_users, rotated_items = [], []
    for level, span in enumerate(spans):
        item_gram = _gram(items if alike else items * (item_weights**0.5**level)[:, None])
        rotations = _rotations(left_users.T @ user_gram @ left_users, left_items.T @ item_gram @ left_items, least)
        left_users, left_items = left_users @ rotations[0], left_items @ rotations[1]
        count = span.stop - span.start
        rotated_users.append(left_users[:, :count])
        rotated_items.append(left_items[:, :count])
        left_users, left_items = left_users[:, count:], left_items[:, count:]
    users = users @ torch.cat(rotated_users, 1).to(users)
    items = items @ torch.cat(rotated_items, 1).to(items)
    largest = items.abs().argmax(0, keepdim=True)
    signs = torch.where(items.gather(0, largest) < 0, -1.0, 1.0).to(items)
    return users * signs, items * signs


def _gram(table: Tensor) -> Tensor:
    """(D, D) float64: tableᵀ table, some rows at a time."""
    gram = torch.zeros(2 * table.shape[1:], dtype=torch.float64, device=table.device)
    for rows in table.split(ROWS):
        rows = rows.double()
        gram.addmm_(rows.T, rows)
    return gram


def _rotations(user_gram: Tensor, item_gram: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """(D, D) each, for users and for items: what rotates factors with these Gram matrices to their principal axes.

    Axes whose share of the largest singular value is `least` or less are zero.
    """
    (user_root, user_inverse), (item_root, item_inverse) = _root(user_gram), _root(item_gram)
    left, singular, right = torch.linalg.svd(user_root @ item_root.T)
    scale = torch.where(singular > least * singular[0], singular, 0).sqrt()
    return user_inverse @ left * scale, item_inverse @ right.T * scale


def _root(gram: Tensor) -> tuple[Tensor, Tensor]:
    """R with RᵀR = gram, and its pseudo-inverse."""
    squares, basis = torch.linalg.eigh(gram)
    root = torch.where(squares > NOTHING * squares[-1], squares, 0).sqrt()
    return root[:, None] * basis.T, basis * torch.where(root > 0, 1 / root, 0)


def balance(users: Tensor, items: Tensor, user_l2: Tensor, item_l2: Tensor) -> tuple[Tensor, Tensor]:
    """Columns scaled against each other so that both sides are penalised alike; scores stay what they are.

    Σ_u r_u p² + Σ_i r_i q² of each column is least where both terms are equal, as they are at every optimum of iALS.
    user_l2 (U,), item_l2 (I,): r. Columns that are zero on a side stay as they are.
    """
    user_norm = (user_l2.to(users)[:, None] * users.square()).sum(0)
    item_norm = (item_l2.to(items)[:, None] * items.square()).sum(0)
    scale = (item_norm / user_norm) ** 0.25
    scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
    return users * scale, items / scale
