"""The learned rotation: axes such that every prefix ranks as the whole does.

The leading axes of a least-squares fit are those that say most of all scores, most of which nobody looks at. But axes
can be rotated at no cost to the whole: ⟨p R, q R⟩ = ⟨p, q⟩. So one rotation is learned by self-distillation: of the
items that a user has not seen, every prefix is to rank first what the whole vector ranks first. That asks no positives,
which a dense model knows by heart, and says of hundreds of items which is better: some thousand numbers, learned in a
few hundred steps, which do not over-fit. Of the rotation only the columns that are served are learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.data import Positives
from mrl.distillation import Teacher, adam_step, distillation_gradients
from mrl.kernels import fast_products
from mrl.least_squares.axes import score_spread

STEPS = 300
HURRIED = 100  # steps that tell settings apart
USERS = 256  # a step, all of them once before any twice
PASSES = 50  # over the users at most: of few users, fewer steps do
ITEMS = 2048  # to rank a step, of a large catalogue at least
ITEM_SHARE = 0.1  # of it, so that some of what is to be recommended is among them
PAIRS = 5 * 2**18  # of users and items a step, at most: of 100,000 items half of the users teach as much
FEWEST = 32  # users a step, whatever the catalogue
TEMPERATURE = 0.35  # of the softmax, in standard deviations of a user's scores
LEARNING_RATE = 0.01  # falls to 0
FIRST = 64  # items of a user that a teacher speaks of: nearly all of P
SCORES = 2**24  # at a time, in finding them
TINY = 1e-9  # in place of a spread of nothing


@fast_products()
def learn_rotation(
    users: Tensor,
    items: Tensor,
    positives: Positives | None,
    widths: Sequence[int],
    *,
    steps: int = STEPS,
    seed: int = 0,
    **options: Any,
) -> tuple[Tensor, float]:
    """R (F, D), D = widths[-1], such that every level of users (U, F) R and items (I, F) R ranks as the whole does.

    Least is Σ_k w_k KL(P ‖ P_k) over the levels narrower than F, P the softmax of what the whole vectors score, in
    standard deviations of each user's scores, P_k that of a prefix, at a temperature of its own; of unseen items, some
    users and some items each step. R is the first D columns of the Cayley transform of a skew-symmetric matrix, which
    is learned; it starts at 1, and stays there where factors score nothing. positives: what each user has seen; None
    where nothing is known. options: of `learn_from`. Returns the last loss, too: 0 is perfect.
    """
    spread = score_spread(users, items)
    is_usable = spread > 0
    if positives is not None:
        is_usable &= (positives.counts > 0) & (positives.counts < len(items))
    generator = torch.Generator(users.device).manual_seed(seed)
    batches = draw_users(is_usable, len(items), steps, generator)
    return learn_from(users, items, positives, widths, spread, batches, generator=generator, **options)


def teacher(users: Tensor, items: Tensor, positives: Positives) -> Teacher:
    """For `mrl.softmax` the P of `learn_rotation`, by users (U, F) and items (I, F), of each user's first items."""
    return first_items(sharpened(users, score_spread(users, items)), items, positives)


def first_items(users: Tensor, items: Tensor, positives: Positives) -> Teacher:
    """Of each of these users (U, F) the FIRST items (U, N) that score highest of those not seen, and P of these (U, N).

    P is 0 for what is seen, where a user has seen too much.
    """
    count, found = min(FIRST, len(items)), []
    for rows in torch.arange(len(users), device=users.device).split(max(1, SCORES // len(items))):
        scores, known = users[rows] @ items.T, positives.take(rows)
        scores[known.users.long(), known.items.long()] = -math.inf
        best = scores.topk(count)
        found.append((best.indices.to(torch.int32), best.values.softmax(1).nan_to_num(0.0)))
    return tuple(torch.cat(tables) for tables in zip(*found, strict=True))


def sharpened(users: Tensor, spread: Tensor) -> Tensor:
    """The users (U, F) of a teacher by the spread (U,) of their scores."""
    return users / (TEMPERATURE * spread.clamp_min(TINY))[:, None]


def items_a_step(count: int) -> int:
    """How many of so many items are ranked in a step."""
    return min(count, max(ITEMS, int(ITEM_SHARE * count)))


def draw_users(is_usable: Tensor, num_items: int, steps: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Rows of the users of each step, at most `steps` of them: of those that are usable (U,); none where nobody is."""
    usable = is_usable.nonzero()[:, 0]
    if len(usable) == 0:
        return []
    batch_size = min(USERS, max(FEWEST, PAIRS // items_a_step(num_items)), len(usable))
    passes = min(PASSES, math.ceil(steps * batch_size / len(usable)))
    steps = min(steps, math.ceil(passes * len(usable) / batch_size))
    order = [torch.randperm(len(usable), generator=generator, device=usable.device) for _ in range(passes)]
    return [usable[batch] for batch in torch.cat(order).split(batch_size)[:steps]]


@fast_products()
def learn_from(
    users: Tensor,
    items: Tensor,
    positives: Positives | None,
    widths: Sequence[int],
    spread: Tensor,
    batches: Sequence[Tensor],
    *,
    generator: torch.Generator,
    level_weights: Sequence[float] = (),
    temperature: float = TEMPERATURE,
    learning_rate: float = LEARNING_RATE,
) -> tuple[Tensor, float]:
    """`learn_rotation` by the users of each step, their rows in `users`; spread (U,): of their scores.

    generator: draws the items of each step. temperature: in standard deviations. learning_rate: at first.
    """
    dim, served = users.shape[1], widths[-1]
    levels = [width for width in widths if width < dim]
    device, count = users.device, len(items)
    if len(batches) == 0 or not levels:
        return torch.eye(dim, served, dtype=users.dtype, device=device), 0.0
    weights = level_weights[: len(levels)] if any(level_weights[: len(levels)]) else [1.0] * len(levels)
    weights = torch.tensor(weights, dtype=users.dtype, device=device)
    angles = torch.zeros(dim, served, dtype=users.dtype, device=device, requires_grad=True)
    sharpness = torch.zeros(len(levels), dtype=users.dtype, device=device)  # of each level, its logarithm
    moments = [torch.zeros(2, *table.shape, dtype=table.dtype, device=device) for table in (angles, sharpness)]
    drawn = items_a_step(count)
    room = torch.empty(3, len(batches[0]), drawn, dtype=users.dtype, device=device)
    sampled, place = items, torch.arange(count, device=device)
    for step, rows in enumerate(batches):
        if drawn < count:
            sample = torch.randperm(count, generator=generator, device=device)[:drawn]
            place = torch.full((count,), -1, device=device)
            place[sample] = torch.arange(drawn, device=device)
            sampled = items[sample]
        seen = torch.zeros(2, 0, dtype=torch.int64, device=device)
        if positives is not None:
            known = positives.take(rows)
            seen = torch.stack([known.users.long(), place[known.items.long()]])
            seen = seen[:, seen[1] >= 0]
        whole, rotation = users[rows] / spread[rows, None] / temperature, _rotation(angles)
        tables = room[:, : len(rows)].unbind()
        gradients = distillation_gradients(whole, sampled, seen, rotation.detach(), sharpness, levels, weights, tables)
        of_rotation, of_sharpness, losses = gradients
        (of_angles,) = torch.autograd.grad(rotation, angles, of_rotation)
        rate = learning_rate * (1 - step / len(batches))
        with torch.no_grad():
            adam_step(angles, of_angles, moments[0], step + 1, rate)
            adam_step(sharpness, of_sharpness, moments[1], step + 1, 2 * rate)
    entropy = torch.special.entr(tables[0]).sum(1).mean()
    return _rotation(angles).detach(), float(weights @ losses / weights.sum() - entropy)


def _rotation(angles: Tensor) -> Tensor:
    """(F, D): of angles (F, D), the first D columns of a rotation, near 0 the exponential of angles − anglesᵀ.

    The Cayley transform (1 − S)⁻¹ (1 + S) of S = [[A, −Bᵀ], [B, 0]], of which a D × D system gives these columns.
    """
    served = angles.shape[1]
    square, below = angles[:served], angles[served:] / 2
    skew = (square - square.T) / 2
    one = torch.eye(served, dtype=angles.dtype, device=angles.device)
    inner = below.T @ below
    top = torch.linalg.solve(one - skew + inner, one + skew - inner)
    return torch.cat([top, below @ (one + top)])
