"""Nested losses on plain tensors: one term a level, each seeing only its leading dimensions.

    L = Σ_k w_k · mean ℓ_k        (Lai et al., arXiv 2406.07432)

with the level's term ℓ_k one of

    bpr   softplus(s_k(u,j) − s_k(u,i))                                   Rendle et al., UAI 2009
    bce   softplus(−s_k(u,i)) + softplus(s_k(u,j))                        pointwise cross-entropy
    cml   max(0, margin + ‖p−q_i‖²_k − ‖p−q_j‖²_k)                        Hsieh et al., WWW 2017
    dau   ‖p̂−q̂_i‖²_k + γ · uniformity_k, on normalised prefixes           Wang et al., KDD 2022
    uib   softplus(b_k − s_k(u,i)) + softplus(s_k(u,j) − b_k), b_k = ⟨v_k, p[:d_k]⟩ learned   Zhuo et al., 2022

One width gives the plain loss. Nothing here knows where the vectors come from, so any backbone can be trained:

    >>> loss = NestedLoss(widths=[4, 8, 16])
    >>> sampler = NegativeSampler(positives, widths=[4, 8, 16], candidates=8)   # from mrl.sampler
    >>> for user_rows, item_rows in batches:                                   # your own training loop
    ...     users, items = user_tower(user_rows), item_tower(all_item_features)
    ...     negatives = sampler(user_rows, users, items[item_rows], items)
    ...     total, by_level = loss(users, items[item_rows], negatives.vectors)
    ...     optimiser.zero_grad(); total.backward(); optimiser.step()
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from mrl.errors import ConfigError
from mrl.widths import check_level_weights, check_widths, level_mask

TINY = 1e-8
LOSSES = ("bpr", "bce", "cml", "dau", "uib")


class NestedLoss(nn.Module):
    """The weighted sum over levels of a recommendation loss.

    widths, level_weights: K of each; weights default to 1/K.
    margin: of `cml`. uniformity: γ of `dau`. `uib` learns one boundary vector a level, so its parameters
    belong into the optimiser with the model's.
    """

    def __init__(
        self,
        widths: Sequence[int],
        level_weights: Sequence[float] | None = None,
        *,
        kind: str = "bpr",
        margin: float = 0.5,
        uniformity: float = 1.0,
    ):
        super().__init__()
        if kind not in LOSSES:
            raise ConfigError(f"loss={kind!r}: must be one of {', '.join(LOSSES)}")
        self.widths = check_widths(widths)
        self.kind, self.margin, self.uniformity = kind, margin, uniformity
        weights = torch.tensor(check_level_weights(level_weights, self.widths), dtype=torch.float32)
        self.register_buffer("level_weights", weights, persistent=False)
        self.register_buffer("mask", level_mask(self.widths, self.widths[-1]), persistent=False)
        if kind == "uib":
            self.boundary = nn.Parameter(torch.zeros(len(self.widths), self.widths[-1], dtype=torch.float32))

    @property
    def needs_negatives(self) -> bool:
        return self.kind != "dau"

    def forward(
        self, users: Tensor, positives: Tensor, negatives: Tensor | None = None, levels: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the total (scalar) and the term of each level (K,), detached.

        users, positives: (B, D), D the widest width. negatives: (B, K, D), one a level, or (B, 1, D) or (B, D),
        shared by all; not used by `dau`. levels: which levels count in this step, all if None; their
        negatives come in that order. A subset is scaled by K/n, so that its expectation is the whole loss.
        """
        mask, weights = self.mask, self.level_weights
        if users.shape[-1] != mask.shape[1] or positives.shape != users.shape:
            raise ConfigError(
                f"widths={list(self.widths)}: users {tuple(users.shape)} and positives {tuple(positives.shape)}"
                f" must both be (batch, {mask.shape[1]})"
            )
        if levels is not None:
            # row by row: a list as index would make a GPU wait for it
            mask = torch.stack([mask[level] for level in levels])
            weights = torch.stack([weights[level] for level in levels]) * (len(self.widths) / len(levels))
        if self.kind == "dau":
            terms = torch.stack([self._align_and_spread(users * row, positives * row) for row in mask])
        else:
            terms = self._contrast(users, positives, self._check_negatives(negatives, len(mask)), mask, levels)  # (K,)
        return weights @ terms, terms.detach()

    def _check_negatives(self, negatives: Tensor | None, levels: int) -> Tensor:
        if negatives is None:
            raise ConfigError(f"loss={self.kind!r}: needs negatives")
        if negatives.dim() == 2:
            negatives = negatives.unsqueeze(1)
        if negatives.shape[1] not in (1, levels):
            raise ConfigError(f"negatives {tuple(negatives.shape)}: must be one a level ({levels}) or one for all")
        return negatives

    def _contrast(
        self, users: Tensor, positives: Tensor, negatives: Tensor, mask: Tensor, levels: Sequence[int] | None
    ) -> Tensor:
        if self.kind == "cml":
            near, far = (users - positives).square(), (users.unsqueeze(1) - negatives).square()
        else:
            near, far = users * positives, users.unsqueeze(1) * negatives
        positive = near @ mask.T  # (B, D) -> (B, K)
        # One negative for all levels is a matrix product; one a level, a masked sum of its own row.
        negative = far.squeeze(1) @ mask.T if far.shape[1] == 1 else (far * mask).sum(-1)  # (B, K)
        if self.kind == "bpr":
            terms = softplus(negative - positive)
        elif self.kind == "bce":
            terms = softplus(-positive) + softplus(negative)
        elif self.kind == "cml":
            terms = (self.margin + positive - negative).clamp_min(0)
        else:
            boundary = self.boundary if levels is None else torch.stack([self.boundary[level] for level in levels])
            bounds = users @ (boundary * mask).T  # (B, K)
            terms = softplus(bounds - positive) + softplus(negative - bounds)
        return terms.mean(0)

    def _align_and_spread(self, users: Tensor, positives: Tensor) -> Tensor:
        users, positives = normalize(users, dim=-1), normalize(positives, dim=-1)
        alignment = (users - positives).square().sum(-1).mean()
        spread = (_log_mean_potential(users) + _log_mean_potential(positives)) / 2
        return alignment + self.uniformity * spread


def _log_mean_potential(x: Tensor) -> Tensor:
    """log mean exp(−2 ‖x_a − x_b‖²) over pairs a < b of unit rows (B, D): Wang & Isola, ICML 2020."""
    if len(x) < 2:
        return x.new_zeros(())
    rows, columns = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    potentials = (4 * (x @ x.T) - 4)[rows, columns]  # −2 · (2 − 2⟨a, b⟩)
    return torch.logsumexp(potentials, 0) - torch.log(potentials.new_tensor(float(len(potentials))))


def l2_penalty(l2: float, *vectors: Tensor) -> Tensor:
    """λ/(2B) · Σ‖·‖² over the ego vectors of a batch; every tensor has the batch, B, first."""
    return l2 / (2 * len(vectors[0])) * sum(block.square().sum() for block in vectors)


def decorrelation(items: Tensor) -> Tensor:
    """‖corr(V) − 1‖_F / d of the d columns of items V (I, d), a scalar: 0 where no two of them correlate.

    Against prefixes that collapse (Yuan et al., HeteFedRec, ICDE 2024, arXiv 2307.12810). A constant column correlates
    with none.
    """
    centred = items - items.mean(0)
    unit = centred / (centred.norm(dim=0) + TINY)
    others = 1 - torch.eye(items.shape[1], dtype=items.dtype)
    return ((unit.T @ unit * others).square().sum() + TINY**2).sqrt() / items.shape[1]


def relation_distillation(items: Tensor, widths: Sequence[int]) -> Tensor:
    """mean_k,i,j (cos_k(i, j) − mean_k cos_k(i, j))² of items (n, D), a scalar: 0 where all widths relate them alike.

    The mean over widths is what each is drawn towards, and held fixed. Source as of `decorrelation`.
    """
    units = [normalize(items[:, :width], dim=1) for width in widths]
    cosines = torch.stack([unit @ unit.T for unit in units])  # (L, n, n)
    return (cosines - cosines.mean(0).detach()).square().mean()
