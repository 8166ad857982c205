"""Self-distillation of prefixes: its gradients in one pass, and the steps of Adam that follow them, on any device.

Of users (B, F) and items (S, F), rotated by R (F, D), with s_k what the first d_k dimensions score, times exp(a_k):

    L = Σ_k w_k KL(P ‖ P_k),   P = softmax(⟨p, q⟩),   P_k = softmax(exp(a_k) ⟨(p R)[:d_k], (q R)[:d_k]⟩)

mean over the users. The scores of a level go on from those of the one before, so that a product of its own dimensions
is enough, and so do the gradients, from wide to narrow. Autograd would take twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

NEVER = -1e9  # the score of a pair that does not count
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


def distillation_gradients(
    users: Tensor,
    items: Tensor,
    seen: Tensor,
    rotation: Tensor,
    sharpness: Tensor,
    levels: Sequence[int],
    weights: Tensor,
    room: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Gradients of L by the rotation (F, D) and by the sharpness a (K,).

    seen (2, P): rows of users and items of the pairs that do not count. levels: K widths, at most D. weights (K,): w.
    room: K + 3 tables (B, S) to be written over, so that no step takes memory anew.
    """
    (scores, prefix, target, *pushes), scales = room, sharpness.exp()
    torch.mm(users, items.T, out=scores)
    prefix.zero_()
    scores[*seen] = prefix[*seen] = NEVER  # and stays there, whatever is added
    torch.softmax(scores, 1, out=target)
    rotated_users, rotated_items = users @ rotation, items @ rotation
    of_users, of_items = torch.zeros_like(rotated_users), torch.zeros_like(rotated_items.T)
    of_sharpness = torch.empty_like(sharpness)
    # divided by B at the end: smaller numbers on the way would be subnormal, which is slow
    blocks, rates = [slice(*ends) for ends in pairwise([0, *levels])], weights / weights.sum()
    for level, columns in enumerate(blocks):
        prefix.addmm_(rotated_users[:, columns], rotated_items[:, columns].T)
        torch.mul(prefix, scales[level], out=scores)
        push = torch.softmax(scores, 1, out=pushes[level]).sub_(target)
        of_sharpness[level] = rates[level] * scores.mul_(push).sum()
        push.mul_(rates[level] * scales[level])
    for level in reversed(range(len(levels))):
        columns = blocks[level]
        if level + 1 < len(levels):
            pushes[level] += pushes[level + 1]
        of_users[:, columns] = pushes[level] @ rotated_items[:, columns]
        of_items[columns] = rotated_users[:, columns].T @ pushes[level]
    of_rotation = (users.T @ of_users).addmm_(items.T, of_items.T)
    return of_rotation / len(users), of_sharpness / len(users)


def distillation_loss(
    users: Tensor,
    items: Tensor,
    seen: Tensor,
    rotation: Tensor,
    sharpness: Tensor,
    levels: Sequence[int],
    weights: Tensor,
) -> Tensor:
    """L by plain formulas, slower: what the gradients are of."""
    hidden = torch.zeros(len(users), len(items), dtype=users.dtype, device=users.device)
    hidden[*seen] = NEVER
    target = (users @ items.T + hidden).softmax(1)
    loss = -torch.special.entr(target).sum(1).mean()
    rotated_users, rotated_items = users @ rotation, items @ rotation
    for width, weight, sharp in zip(levels, weights / weights.sum(), sharpness, strict=True):
        scores = sharp.exp() * (rotated_users[:, :width] @ rotated_items[:, :width].T) + hidden
        loss = loss + weight * cross_entropy(scores, target)
    return loss


def adam_step(table: Tensor, gradient: Tensor, moments: Tensor, step: int, rate: float) -> None:
    """The step-th step of Adam, in place; moments (2, …), zero at first. Kingma and Ba, ICLR 2015, arXiv 1412.6980.

    torch's own imports torch's compiler, a second that a run of some seconds can do without.
    """
    mean, square = moments
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient.square(), 1 - BETAS[1])
    spread = (square / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
    table.addcdiv_(mean, spread, value=-rate / (1 - BETAS[0] ** step))
