"""What training starts from: factors under propagation, turned so that their narrow prefixes rank well.

The leading axes of a least-squares fit are those that say most of all scores, most of which nobody looks at. But axes
can be turned at no cost to wider levels: with a rotation R, ⟨p R, q R⟩ = ⟨p, q⟩. So one rotation of the dimensions of
the first level that is not narrow is learned by matryoshka negative sampling on the narrow levels alone: a hundred
numbers, which fit in a few hundred steps and do not over-fit, while every wider level scores what it did. Levels of at
most `NARROW` dimensions are then held, and the wider ones trained around them. Where tastes are many and as strong as
each other, wider levels gain from a turn, too: which count as narrow is a setting (`narrow`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mrl.config import TrainConfig
from mrl.ials import mean_score
from mrl.interactions import Positives
from mrl.loss import NestedLoss
from mrl.propagation import Propagation
from mrl.sampler import NegativeSampler

Factors = tuple[Tensor, Tensor]

NARROW = 8  # levels of at most so many dimensions: the leading axes mostly serve wider ones well as they are
STEPS = 300
BATCH = 8192
LEARNING_RATE = 0.01  # falls to 0
POSITIVE = 3.0  # what positives are to score on average: where the loss tells hard negatives from easy ones


def smoothed(config: TrainConfig, positives: Positives, factors: Factors, *, held: int = 0) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained but for `held` leading columns."""
    config = config.closed()
    user_share, item_share = config.shares
    shares = {"user_share": user_share, "item_share": item_share, "hops": config.hops}
    scaled = tuple(config.scale * table for table in factors)
    return Propagation(positives, scaled, **shares, held=held).to(factors[0].device)


def start_model(
    config: TrainConfig, positives: Positives, factors: Factors, on_row: Callable[[dict], None] | None = None
) -> Propagation:
    """The model that training starts from: users (U, D) and items (I, D) of least squares, turned and propagated.

    on_row: called after the turn with a row of the history.
    """
    started = time.perf_counter()
    model = smoothed(config, positives, factors)
    count = narrow_levels(config.widths, config.narrow)
    if not config.turn or not count:
        return model
    rotation, loss = learn_turn(
        *model.vectors(), positives, config.widths[: count + 1],
        level_weights=config.level_weights[:count], candidates=config.turn, seed=config.seed,
    )  # fmt: skip
    if on_row is not None:
        on_row({"phase": "turn", "loss": loss, "seconds": time.perf_counter() - started})
    # as if turned after propagation; training for all levels would only undo what the narrowest have gained
    held = max((width for width in config.widths[:count] if width <= NARROW), default=0)
    return smoothed(config, positives, turned(factors, rotation), held=held)


def narrow_levels(widths: Sequence[int], narrow: int | None = None) -> int:
    """How many levels have at most `narrow` dimensions (None: NARROW) and a wider one above, whose axes are turned."""
    return sum(width <= (narrow or NARROW) for width in widths[:-1])


def turned(factors: Factors, rotation: Tensor) -> Factors:
    """users (U, D) and items (I, D) with their leading dimensions turned by R (d, d): the same scores from d on."""
    span = len(rotation)
    return tuple(torch.cat([table[:, :span] @ rotation, table[:, span:]], 1) for table in factors)


def learn_turn(
    users: Tensor,
    items: Tensor,
    positives: Positives,
    widths: Sequence[int],
    *,
    level_weights: Sequence[float] = (),
    candidates: int = 8,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """R, such that all but the last of the levels of users (U, D) and items (I, D) rank well; and the last loss.

    Nested BPR over those levels with the hardest of `candidates` for each. R (d, d), d the last width, is the
    exponential of a skew-symmetric matrix, which is learned; it starts at 1, and stays there where factors score
    nothing.
    """
    levels, span = tuple(widths[:-1]), widths[-1]
    users, items = users[:, :span].detach(), items[:, :span].detach()
    device = users.device
    score = mean_score(users, items, positives)
    sampler = NegativeSampler(positives, levels, rule="dns", candidates=candidates).to(device)
    usable = sampler.trainable[positives.users.long()].nonzero()[:, 0]
    if not score > 0 or len(usable) == 0:
        return torch.eye(span, device=device), 0.0
    users = users * (POSITIVE / score)
    loss_of = NestedLoss(levels, level_weights if any(level_weights) else ()).to(device)
    angles = torch.zeros(span, span, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([angles], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    generator = torch.Generator(device).manual_seed(seed)
    for _ in range(STEPS):
        drawn = torch.randint(len(usable), (min(BATCH, len(usable)),), generator=generator, device=device)
        pairs = usable[drawn]
        rows, liked = positives.users[pairs].long(), positives.items[pairs].long()
        axes = torch.matrix_exp(angles - angles.T)[:, : levels[-1]]
        anchors, table = embedding(rows, users) @ axes, items @ axes
        liked = embedding(liked, table)
        negatives = sampler(rows, anchors, liked, table, generator=generator).vectors
        loss, _ = loss_of(anchors, liked, negatives)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return torch.matrix_exp(angles - angles.T).detach(), float(loss.detach())
