"""Balanced assignment: Sinkhorn and Knopp's scaling of a table of items and prototypes to given marginals.

    P = diag(a) exp(S) diag(b)      with row sums w (the weights of items) and column sums 1/K (every prototype alike)

Cuturi, *Sinkhorn Distances*, NeurIPS 2013; for prototypes Caron et al. (SwAV), NeurIPS 2020, arXiv 2006.09882.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(logits: Tensor, weights: Tensor | None = None, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """Soft assignment of items to prototypes such that prototypes are used equally.

    logits: (B, K) scores over their temperature. weights: (B,) of items, not negative, by default equal: with them each
    prototype gets 1/K of the weight instead of 1/K of the items. rounds: of columns, then rows.
    Returns q (B, K), whose rows sum to 1, and offsets (K,) with q = softmax(logits + offsets): what a prototype adds to
    the score of any item, one that is not here, too. All in logarithms, so that no score is too large.
    """
    count, number = logits.shape
    weights = logits.new_ones(count) if weights is None else weights.to(logits)
    log_weights = (weights / weights.sum()).log()[:, None]  # (B, 1)
    rows, offsets = log_weights, logits.new_zeros(number)
    for _ in range(rounds):
        offsets = -torch.logsumexp(logits + rows, 0) - torch.log(logits.new_tensor(float(number)))
        rows = log_weights - torch.logsumexp(logits + offsets, 1, keepdim=True)
    return torch.softmax(logits + offsets, 1), offsets
