"""What training starts from: factors under propagation, turned so that their prefixes rank as they do as a whole.

The leading axes of a least-squares fit are those that say most of all scores, most of which nobody looks at. But axes
can be turned at no cost to the whole: with a rotation R, ⟨p R, q R⟩ = ⟨p, q⟩. So one rotation is learned by
self-distillation: of the items that a user has not seen, every prefix is to rank first what the whole vector ranks
first. That asks no positives, which a dense model knows by heart, and says of hundreds of items which is better: a few
thousand numbers, learned in a few hundred steps, which do not over-fit. Where a prefix is better than the whole, as it
may be on dense data, only the dimensions of that prefix are turned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mrl.config import TrainConfig
from mrl.data.interactions import Positives
from mrl.least_squares.propagation import Propagation

Factors = tuple[Tensor, Tensor]

STEPS = 300
USERS = 256  # a step, all of them once before any twice
ITEMS = 2048  # to rank a step, of a large catalogue at least
PART = 0.1  # of it, so that some of what is to be recommended is among them
TEMPERATURE = 0.35  # of the softmax, in standard deviations of a user's scores
LEARNING_RATE = 0.01  # falls to 0
NEVER = -1e9  # the score of an item that a user has seen


def smoothed(config: TrainConfig, positives: Positives, factors: Factors) -> Propagation:
    """Factors under the propagation of the config, ready to be served or trained."""
    config = config.closed()
    user_share, item_share = config.shares
    scaled = tuple(config.scale * table for table in factors)
    model = Propagation(positives, scaled, user_share=user_share, item_share=item_share, hops=config.hops)
    return model.to(factors[0].device)


def start_model(
    config: TrainConfig, positives: Positives, factors: Factors, on_row: Callable[[dict], None] | None = None
) -> Propagation:
    """The model that training starts from: users (U, D) and items (I, D) of least squares, turned and propagated.

    on_row: called after the turn with a row of the history.
    """
    started = time.perf_counter()
    model = smoothed(config, positives, factors)
    if not config.turn:
        return model
    widths = [width for width in config.widths if width <= config.turn]
    leading = (table[:, : config.turn] for table in model.vectors())
    rotation, loss = learn_turn(
        *leading, positives, widths, level_weights=config.level_weights[: len(widths)], seed=config.seed
    )
    if on_row is not None:
        on_row({"phase": "turn", "loss": loss, "seconds": time.perf_counter() - started})
    # columns do not mix: as if turned after propagation
    return smoothed(config, positives, turned(factors, rotation))


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
        return torch.eye(dim, device=device), 0.0
    users = users / spread[:, None]
    weights = torch.tensor(level_weights[:-1] if any(level_weights[:-1]) else [1.0] * len(levels)).to(users)
    weights /= weights.sum()
    angles = torch.zeros(dim, dim, device=device, requires_grad=True)
    sharpness = torch.zeros(len(levels), device=device, requires_grad=True)  # of each level, its logarithm
    groups = [{"params": [angles]}, {"params": [sharpness], "lr": 2 * LEARNING_RATE}]
    optimiser = torch.optim.Adam(groups, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    generator = torch.Generator(device).manual_seed(seed)
    taken = min(USERS, len(usable))
    passes = math.ceil(STEPS * taken / len(usable))
    order = torch.cat([torch.randperm(len(usable), generator=generator, device=device) for _ in range(passes)])
    for drawn in order.split(taken)[:STEPS]:
        rows = usable[drawn]
        shown = torch.randperm(count, generator=generator, device=device)[: max(ITEMS, int(PART * count))]
        known = positives.take(rows)
        seen = torch.zeros(len(rows), count, dtype=torch.bool, device=device)
        seen[known.users.long(), known.items.long()] = True
        unseen = torch.where(seen[:, shown], NEVER, 0.0)  # is added to what is scored
        whole = users[rows] / TEMPERATURE
        table = items[shown]
        taught = torch.addmm(unseen, whole, table.T).softmax(1)
        axes = _rotation(angles)
        mine, theirs = whole @ axes, table @ axes
        loss = torch.zeros((), device=device)
        for level, width in enumerate(levels):
            learned = torch.addmm(unseen, mine[:, :width] * sharpness[level].exp(), theirs[:, :width].T)
            loss = loss + weights[level] * cross_entropy(learned, taught)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    entropy = torch.special.entr(taught).sum(1).mean()
    return _rotation(angles).detach(), float(loss.detach() - entropy)


def _rotation(angles: Tensor) -> Tensor:
    """(D, D): near 0 the exponential of angles − anglesᵀ, at a sixth of the time with its gradient."""
    skew = (angles - angles.T) / 2
    one = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(one - skew, one + skew)
