"""Nested prototypes: a table of prototypes a level, each seeing only its leading dimensions.

    L = Σ_j L_j,   L_j = −Σ_x w_x Σ_k q_jk(x) log p_jk(x)        (Venkataramanan et al., Franca, arXiv 2507.14137)
    p_j(x) = softmax(C_j z_s(x)[:m_j] / τ_s),   q_j = Sinkhorn(C'_j z_t(x)[:m_j] / τ_t) over all items x at once

for the tables C_j (K_j, m_j) of the student and C'_j of the teacher, which is their moving average; z_s, z_t two views
of an item; w_x its weight, which sums to 1. Prefixes and prototypes are scaled to length 1, as the temperatures want
it: τ_s = .1, τ_t from .04 to .07. The teacher keeps .992 of itself a step at first and all of it at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mrl.errors import ConfigError
from mrl.prototypes.sinkhorn import sinkhorn
from mrl.widths import check_widths

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURES = 0.04, 0.07  # at the beginning, and from WARM_UP on
WARM_UP = 0.3  # share of the training
KEPT = 0.992  # of the teacher at the first step
NOTHING = 1e-12  # squared length of a row that has no direction


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows scaled to length 1; rows of zeros stay zeros, with gradients that are finite."""
    return vectors * (vectors.square().sum(-1, keepdim=True) + NOTHING).rsqrt()


def teacher_temperature(progress: float) -> float:
    """τ_t after a share of the training, from 0 to 1: linear up to WARM_UP."""
    first, last = TEACHER_TEMPERATURES
    return first + (last - first) * min(progress / WARM_UP, 1.0)


def teacher_kept(progress: float, first: float = KEPT) -> float:
    """How much of the teacher a step keeps: 1 at the end, by a cosine (Grill et al., BYOL, arXiv 2006.07733)."""
    return 1 - (1 - first) * (math.cos(math.pi * progress) + 1) / 2


def prototype_counts(widths: Sequence[int], per_dimension: float, items: int) -> list[int]:
    """K_j in proportion to the width, at least 2 and at most as many as there are items."""
    return [min(max(2, round(per_dimension * width)), items) for width in widths]


def far_apart(vectors: Tensor, number: int, seed: int) -> Tensor:
    """(K, m) of the vectors (I, m), at length 1 and a little moved: those that coincided would stay together.

    By the seeding of k-means++ (Arthur and Vassilvitskii, 2007).
    """
    from sklearn.cluster import kmeans_plusplus  # rare, and would be half of every import
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    points = unit_rows(vectors).cpu().numpy()
    with threadpool_limits(1):  # threads add up in any order
        drawn, _ = kmeans_plusplus(points, number, random_state=int(rng.integers(2**31)))
    moved = torch.from_numpy(drawn + 0.01 * rng.normal(size=drawn.shape).astype(drawn.dtype))
    return unit_rows(moved.to(vectors))


class PrototypeLoss(nn.Module):
    """The sum over levels of the loss above. `tables`: C_j, parameters; `teachers`: C'_j, which `follow` moves.

    widths, counts: m_j and K_j. start: (I, D) items. Prototypes begin at the prefixes of items that are far from each
    other (`far_apart`), seeded by `seed`.
    """

    def __init__(self, widths: Sequence[int], counts: Sequence[int], start: Tensor, seed: int = 0):
        super().__init__()
        self.widths = check_widths(widths, start.shape[1])
        if len(counts) != len(self.widths) or not all(1 <= count <= len(start) for count in counts):
            raise ConfigError(
                f"counts={list(counts)}: must be one a width, {list(self.widths)}, from 1 to the {len(start)} items"
            )
        begin = start.detach()
        tables = [far_apart(begin[:, :width], count, seed) for width, count in zip(self.widths, counts, strict=True)]
        self.tables = nn.ParameterList([nn.Parameter(table) for table in tables])
        self.teachers = nn.ParameterList([nn.Parameter(table.clone(), requires_grad=False) for table in tables])

    def forward(
        self, students: Tensor, teachers: Tensor, weights: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the total (scalar) and the term of each level (W,), detached.

        students, teachers: (B, D) two views of the same items; gradients go to students and `tables`. weights: (B,) of
        items, by default equal. progress: share of the training that is done.
        """
        shares = torch.full_like(students[:, 0], 1 / len(students)) if weights is None else weights / weights.sum()
        temperature, terms = teacher_temperature(progress), []
        for width, table, teacher in zip(self.widths, self.tables, self.teachers, strict=True):
            with torch.no_grad():
                wanted, _ = sinkhorn(similarity(teachers[:, :width], teacher) / temperature, shares)  # (B, K)
            logits = similarity(students[:, :width], table) / STUDENT_TEMPERATURE
            terms.append(-(shares @ (wanted * logits.log_softmax(1)).sum(1)))
        terms = torch.stack(terms)
        return terms.sum(), terms.detach()

    @torch.no_grad()
    def follow(self, progress: float, first: float = KEPT) -> None:
        """Move the teachers towards the tables: once a step of the optimiser."""
        for table, teacher in zip(self.tables, self.teachers, strict=True):
            teacher.lerp_(table, 1 - teacher_kept(progress, first))


def similarity(vectors: Tensor, table: Tensor) -> Tensor:
    """(B, K): cosines of vectors (B, m) and prototypes (K, m)."""
    return unit_rows(vectors) @ unit_rows(table).T
