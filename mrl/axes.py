"""Axes of factors: turned so that the leading ones carry most of the scores, which stay what they are.

Any factors can be turned without changing a score; what changes is what their prefixes score.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mrl.widths import blocks


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


def principal_axes(users: Tensor, items: Tensor, widths: Sequence[int], item_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes block by block, where the first blocks attend to some items more than to others.

    Block b takes the leading axes of what the blocks before it have left, with the scores of item i weighted by
    item_weights[i] ** (2 ** −b), item_weights (I,) above 0. With weights of 1 this is `rotate`: the best of its rank by
    squared error over all items, most of which hardly anybody meets. Weights that grow with popularity give the
    narrow prefixes to the items that are met. Scores of the full width stay what they are.
    """
    turned_users, turned_items = [], []
    for level, span in enumerate(blocks(widths)):
        weights = (item_weights**0.5**level)[:, None]
        users, items = rotate(users, items * weights)
        items = items / weights
        count = span.stop - span.start
        turned_users.append(users[:, :count])
        turned_items.append(items[:, :count])
        users, items = users[:, count:], items[:, count:]
    return torch.cat(turned_users, 1), torch.cat(turned_items, 1)


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
