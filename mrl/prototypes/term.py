"""The loss of prototypes as a term of training: λ Σ_j L_j on the items as the model gives them in a step.

The student's view of an item is its vector in this step, with whatever dropout the model has; the teacher's is the
moving average of its vectors. Backbones are linear in their embeddings, so this average of vectors is what averaged
embeddings would give. Of large catalogues some items are drawn in every step.

With two views, halves of the users are drawn once. With d_i what item i picks up from the one half, as they score, less
what from the other, its views are x_i + d_i and x_i − d_i: as if it had the one half of its users twice and the other
not at all. Each is the student of the other's moving average. (A fold-in by least squares, as `user_halves` of
`mrl.levels` has it, has no gradient to the items.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrl.data import Positives
from mrl.prototypes.loss import PrototypeLoss, prototype_counts, teacher_kept

ITEMS = 4096  # a step, at most


class PrototypeTerm(nn.Module):
    """λ · `PrototypeLoss` of the items that `positives` know, mean over the views.

    start: (I, D) items before any training. weight: λ. per_dimension: K_j over the width. popularity: β; an item weighs
    its number of positives to that power. views: whether items come in two, by `signs` (U,) of the users, else None.
    """

    def __init__(
        self,
        positives: Positives,
        widths: Sequence[int],
        start: Tensor,
        *,
        weight: float,
        per_dimension: float,
        popularity: float,
        views: bool = False,
        seed: int,
    ):
        super().__init__()
        self.weight = weight
        counts = positives.item_counts
        known = counts.nonzero()[:, 0]
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("weights", counts[known].float() ** popularity, persistent=False)
        numbers = prototype_counts(widths, per_dimension, min(len(known), ITEMS))
        self.loss = PrototypeLoss(widths, numbers, start[known], seed)
        self.register_buffer("average", start.detach()[known].repeat(1 + views, 1, 1))  # (V, I, D)
        signs = torch.randint(2, (positives.num_users,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
        self.register_buffer("signs", signs.to(start.device) if views else None, persistent=False)

    @torch.no_grad()
    def start(self, *views: Tensor) -> None:
        """Before the first step: the teacher sees the views (I, D) of the items as they are then."""
        self.average.copy_(torch.stack(views)[:, self.known])

    def forward(self, *views: Tensor, progress: float, generator: torch.Generator | None = None) -> Tensor:
        """The term (scalar) for items (I, D), one or two views of them, after the teacher has followed the last step.

        A view has the other one as its teacher, a single one itself.
        """
        self.loss.follow(progress)
        students, weights = [view[self.known] for view in views], self.weights
        self.average.lerp_(torch.stack(students).detach(), 1 - teacher_kept(progress))
        pairs = list(zip(students, self.average.flip(0), strict=True))
        if len(self.known) > ITEMS:
            drawn = torch.randperm(len(self.known), device=weights.device, generator=generator)[:ITEMS]
            pairs, weights = [(student[drawn], teacher[drawn]) for student, teacher in pairs], weights[drawn]
        terms = [self.loss(student, teacher, weights, progress)[0] for student, teacher in pairs]
        return self.weight * sum(terms) / len(terms)

    def teacher(self) -> dict[str, Tensor]:
        """What changes in a step and is no parameter of the optimiser: by name, in place."""
        return {"average": self.average} | dict(self.loss.teachers.named_parameters())
