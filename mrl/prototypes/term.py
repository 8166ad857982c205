"""The loss of prototypes as a term of training: λ Σ_j L_j on the items as the model gives them in a step.

The student's view of an item is its vector in this step, with whatever dropout the model has; the teacher's is the
moving average of its vectors. Backbones are linear in their embeddings, so this average of vectors is what averaged
embeddings would give. Of large catalogues some items are drawn in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrl.data import Positives
from mrl.prototypes.loss import PrototypeLoss, prototype_counts, teacher_kept

ITEMS = 4096  # a step, at most


class PrototypeTerm(nn.Module):
    """λ · `PrototypeLoss` of the items that `positives` know.

    start: (I, D) items before any training. weight: λ. per_dimension: K_j over the width. popularity: β; an item weighs
    its number of positives to that power.
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
        self.register_buffer("average", start.detach()[known].clone())

    @torch.no_grad()
    def start(self, items: Tensor) -> None:
        """Before the first step: the teacher sees the items (I, D) as they are then."""
        self.average.copy_(items[self.known])

    def forward(self, items: Tensor, progress: float, generator: torch.Generator | None = None) -> Tensor:
        """The term (scalar) for items (I, D), after the teacher has followed what the last step did."""
        self.loss.follow(progress)
        students, teachers, weights = items[self.known], self.average, self.weights
        self.average.lerp_(students.detach(), 1 - teacher_kept(progress))
        if len(self.known) > ITEMS:
            drawn = torch.randperm(len(self.known), device=items.device, generator=generator)[:ITEMS]
            students, teachers, weights = students[drawn], teachers[drawn], weights[drawn]
        return self.weight * self.loss(students, teachers, weights, progress)[0]

    def teacher(self) -> dict[str, Tensor]:
        """What changes in a step and is no parameter of the optimiser: by name, in place."""
        return {"average": self.average} | dict(self.loss.teachers.named_parameters())
