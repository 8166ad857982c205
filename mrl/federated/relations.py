"""What HeteFedRec asks of a table of items beyond the ranking loss: columns that do not collapse, widths that agree.

    decorrelation   ‖corr(V) − 1‖_F / d, of the d columns of V over items: columns that say the same count twice
    distillation    mean over levels and pairs of (cos_k(i, j) − mean_k cos_k(i, j))², the mean held fixed: the
                    relations between items are alike at all widths

Yuan et al., *HeteFedRec*, ICDE 2024, arXiv 2307.12810. Neither needs anything of a client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

TINY = 1e-8


def decorrelation(items: Tensor) -> Tensor:
    """Scalar, of items (I, d): 0 where no two columns correlate. A column that is constant correlates with none."""
    centred = items - items.mean(0)
    unit = centred / (centred.norm(dim=0) + TINY)
    others = 1 - torch.eye(items.shape[1], dtype=items.dtype)
    return ((unit.T @ unit * others).square().sum() + TINY**2).sqrt() / items.shape[1]


def distillation(items: Tensor, widths: Sequence[int]) -> Tensor:
    """Scalar, of items (n, D): how far the cosines of each width are from their mean over widths."""
    units = [normalize(items[:, :width], dim=1) for width in widths]
    cosines = torch.stack([unit @ unit.T for unit in units])  # (L, n, n)
    return (cosines - cosines.mean(0).detach()).square().mean()


def gradient(function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """Of a scalar function of items (I, d)."""
    leaf = items.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(leaf), leaf)[0]
