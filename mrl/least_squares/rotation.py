"""The initial model of training: factors under propagation, rotated so that every prefix ranks as the whole does.

The leading axes of a least-squares fit are those that say most of all scores, most of which nobody looks at. But axes
can be rotated at no cost to the whole: ⟨p R, q R⟩ = ⟨p, q⟩. So one rotation is learned by self-distillation: of the
items that a user has not seen, every prefix is to rank first what the whole vector ranks first. That asks no positives,
which a dense model knows by heart, and says of hundreds of items which is better: a few thousand numbers, learned in a
few hundred steps, which do not over-fit. Where a prefix is better than the whole, as it may be on dense data, only the
dimensions of that prefix are rotated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.least_squares.propagation import Propagation

Factors = tuple[Tensor, Tensor]

STEPS = 300
USERS = 256  # a step, all of them once before any twice
ITEMS = 2048  # to rank a step, of a large catalogue at least
ITEM_SHARE = 0.1  # of it, so that some of what is to be recommended is among them
TEMPERATURE = 0.35  # of the softmax, in standard deviations of a user's scores
LEARNING_RATE = 0.01  # falls to 0
NEVER = -1e9  # the score of an item that a user has seen


def propagated(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    chosen, hops = config.with_usual().least_squares, config.with_usual().hops
    user_share, item_share = chosen.propagation
    scaled = tuple(chosen.initial_scale * table for table in factors)
    model = Propagation(positives, scaled, user_share=user_share, item_share=item_share, hops=hops)
    return model.to(factors[0].device)


def initial_model(
    config: TrainConfig, positives: Positives, factors: Factors, on_row: Callable[[dict], None] | None = None
) -> Propagation:
    """The initial model of training: users (U, D) and items (I, D) of least squares, rotated and propagated.

    on_row: called after the rotation with a row of the history.
    """
    started = time.perf_counter()
    model = propagated(config, positives, factors)
    span = config.least_squares.rotation_width
    if not span:
        return model
    widths = [width for width in config.widths if width <= span]
    leading = (table[:, :span] for table in model.vectors())
    level_weights = config.nested_loss.level_weights[: len(widths)]
    rotation, loss = learn_rotation(*leading, positives, widths, level_weights=level_weights, seed=config.seed)
    if on_row is not None:
        on_row({"phase": "rotation", "loss": loss, "seconds": time.perf_counter() - started})
    # columns do not mix: as if rotated after propagation
    return propagated(config, positives, rotate_leading(factors, rotation))


def rotate_leading(factors: Factors, rotation: Tensor) -> Factors:
    """users (U, D) and items (I, D) with their leading dimensions rotated by R (d, d): the same scores from d on."""
    span = len(rotation)
    return tuple(torch.cat([table[:, :span] @ rotation, table[:, span:]], 1) for table in factors)


def learn_rotation(
    users: Tensor,
    items: Tensor,
    positives: Positives,
    widths: Sequence[int],
    *,
    level_weights: Sequence[float] = (),
    seed: int = 0,
) -> tuple[Tensor, float]:
    """R, such that every level of users (U, D) R and items (I, D) R ranks unseen items as the widest does.

    Least is Σ_k w_k KL(P ‖ P_k) over the levels but the widest, P the softmax of what the whole vectors score, in
    standard deviations of each user's scores, P_k that of a prefix, at a temperature of its own; of some users and over
    some items each step. R (D, D) is the Cayley transform of a skew-symmetric matrix, which is learned; it starts at 1,
    and stays there where factors score nothing. Returns the last loss, too: 0 is perfect.
    """
    *levels, dim = widths
    device, count = users.device, positives.num_items
    spread = ((users @ torch.cov(items.T, correction=0)) * users).sum(1).clamp_min(0).sqrt()
    usable = ((positives.counts > 0) & (positives.counts < count) & (spread > 0)).nonzero()[:, 0]
    if len(usable) == 0:
        return torch.eye(dim, dtype=users.dtype, device=device), 0.0
    users = users / spread[:, None]
    weights = level_weights[:-1] if any(level_weights[:-1]) else [1.0] * len(levels)
    weights = torch.tensor(weights, dtype=users.dtype, device=device)
    weights /= weights.sum()
    angles = torch.zeros(dim, dim, dtype=users.dtype, device=device, requires_grad=True)
    # of each level, its logarithm
    sharpness = torch.zeros(len(levels), dtype=users.dtype, device=device, requires_grad=True)
    groups = [{"params": [angles]}, {"params": [sharpness], "lr": 2 * LEARNING_RATE}]
    optimiser = torch.optim.Adam(groups, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    generator = torch.Generator(device).manual_seed(seed)
    batch_size = min(USERS, len(usable))
    passes = math.ceil(STEPS * batch_size / len(usable))
    order = torch.cat([torch.randperm(len(usable), generator=generator, device=device) for _ in range(passes)])
    for batch in order.split(batch_size)[:STEPS]:
        rows = usable[batch]
        sample = torch.randperm(count, generator=generator, device=device)[: max(ITEMS, int(ITEM_SHARE * count))]
        known = positives.take(rows)
        seen = torch.zeros(len(rows), count, dtype=torch.bool, device=device)
        seen[known.users.long(), known.items.long()] = True
        unseen = seen[:, sample].to(users.dtype) * NEVER  # is added to what is scored
        whole = users[rows] / TEMPERATURE
        sampled = items[sample]
        target = torch.addmm(unseen, whole, sampled.T).softmax(1)
        rotation = _rotation(angles)
        rotated_users, rotated_items = whole @ rotation, sampled @ rotation
        loss = torch.zeros((), dtype=users.dtype, device=device)
        for level, width in enumerate(levels):
            prefix = rotated_users[:, :width] * sharpness[level].exp()
            scores = torch.addmm(unseen, prefix, rotated_items[:, :width].T)
            loss = loss + weights[level] * cross_entropy(scores, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    entropy = torch.special.entr(target).sum(1).mean()
    return _rotation(angles).detach(), float(loss.detach() - entropy)


def _rotation(angles: Tensor) -> Tensor:
    """(D, D): near 0 the exponential of angles − anglesᵀ, at a sixth of the time with its gradient."""
    skew = (angles - angles.T) / 2
    one = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(one - skew, one + skew)
