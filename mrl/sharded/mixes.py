"""Negatives of the rule `mix` (`mrl.sampler`) on shards, each mixed with its positive: their loss and gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrl.kernels import bpr_gradients
from mrl.kernels.bpr import Gradients
from mrl.sampler import mix_hops


def mixed_gradients(
    users: Tensor, items: Tensor, share: Tensor, widths: np.ndarray, weights: np.ndarray, l2: float, batch: int
) -> Gradients:
    """As `mrl.kernels.bpr_gradients`, of triplets by themselves, whose negatives are mixed with their positives.

    users (B, D) and items (B, 1 + N, D), the positive first; share (B, N, 1) that it has in each mix. The penalty is on
    what is mixed. Every triplet is computed by itself: the same, whatever others there are.
    """
    positives, negatives = (part.detach().requires_grad_() for part in (items[:, :1], items[:, 1:, None]))
    with torch.enable_grad():
        mixed = mix_hops(share, positives, negatives)  # (B, N, D)
    table = torch.cat([positives, mixed], 1).detach()
    at = np.arange(len(table) * table.shape[1]).reshape(table.shape[:2])
    flat = table.flatten(0, 1).numpy()
    made = bpr_gradients(users.numpy(), flat, np.arange(len(users)), at, widths, weights, 0.0, batch=batch)
    pulled = torch.from_numpy(made.items)
    by_positive, by_negative = torch.autograd.grad(mixed, (positives, negatives), pulled[:, 1:])
    decay = l2 / batch
    by_item = torch.cat([pulled[:, :1] + by_positive, by_negative[:, :, 0]], 1) + decay * items
    norms = users.double().square().sum(1) + items.double().square().sum((1, 2))
    loss = made.loss + decay / 2 * float(norms.sum())
    by_user = made.users + decay * users.numpy()
    return Gradients(loss, made.terms, by_user.astype(np.float32), by_item.numpy(), made.each, norms.numpy())
