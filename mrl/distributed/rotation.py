"""The learned rotation on shards: the users of its steps are sent to the first process, which learns it for all.

A rotation is some thousand numbers, learned from at most 300 · 256 users and all items: the work of one process. What
else it needs of everyone, which users can be drawn and how their scores spread, comes from where they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.distillation import Teacher
from mrl.distributed.exact import exact_sum, summed_gram, times
from mrl.distributed.propagation import propagated
from mrl.least_squares.axes import spread_by
from mrl.least_squares.ials import Factors
from mrl.least_squares.rotation import STEPS, draw_users, first_items, learn_from, sharpened
from mrl.sharded.rows import Shard


def learn_rotation(config: TrainConfig, shard: Shard, vectors: Factors, steps: int = STEPS) -> tuple[Tensor, float]:
    """R (F, D) by own users and items (F wide), as `mrl.least_squares.learn_rotation` makes it, and the last loss."""
    group, (users, items), links = shard.group, vectors, shard.by_user
    spread = spread_of_scores(shard, users, items)
    is_usable = (spread > 0) & (links.counts > 0) & (links.counts < shard.items.total)
    generator = torch.Generator(group.device).manual_seed(config.seed)
    drawable = group.to_first(is_usable.to(torch.uint8)).bool()
    batches = draw_users(drawable, shard.items.total, steps, generator) if group.is_first else []
    drawn = (
        torch.cat(list(batches)).unique() if len(batches) else torch.zeros(0, dtype=torch.int64, device=group.device)
    )
    count = len(drawn)
    drawn = group.gather(drawn, group.each(count))
    own = drawn[(drawn >= shard.users.start) & (drawn < shard.users.stop)] - shard.users.start
    taken = shard.positives.take(own)
    tables = [group.to_first(table) for table in (users[own], spread[own], taken.counts, taken.items, items)]
    shapes = [[users.shape[1], config.widths[-1]], [1]]

    def learn() -> list[Tensor]:
        vectors, spreads, counts, seen, catalogue = tables
        positives = Positives(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), seen, shard.items.total)
        steps = [torch.searchsorted(drawn, batch) for batch in batches]
        weights = config.nested_loss.level_weights
        options = {"level_weights": weights, "generator": generator}
        rotation, loss = learn_from(vectors, catalogue, positives, config.widths, spreads, steps, **options)
        return [rotation, torch.tensor([loss])]

    rotation, loss = group.from_first(learn, shapes)
    return rotation.to(users), float(loss)


def spread_of_scores(shard: Shard, users: Tensor, items: Tensor) -> Tensor:
    """The standard deviation of each own user's scores over all items, by their covariance."""
    group, rows, count = shard.group, shard.items, shard.items.total
    sums = [items[tile].double().sum(0) for tile in rows.own_tiles]
    bound = group.largest(max((float(part.abs().max()) for part in sums), default=0.0))
    mean = exact_sum(group, rows, sums, bound, items.shape[1:]) / count
    covariance = summed_gram(group, rows, items) / count - mean[:, None] * mean
    spread = users.new_empty(len(users))
    for tile in shard.users.own_tiles:
        spread[tile] = spread_by(users[tile], covariance.to(users))
    return spread


def teacher(config: TrainConfig, shard: Shard, factors: Factors) -> Teacher:
    """Items (U', N) and P (U', N) of own users as `mrl.least_squares.rotation.teacher` makes them, of own factors."""
    users, items = propagated(config, shard, factors)
    users = sharpened(users, spread_of_scores(shard, users, items))
    return first_items(users, shard.group.gather(items, shard.items.counts), shard.positives)


def initial_vectors(config: TrainConfig, shard: Shard, factors: Factors) -> tuple[Factors, Factors, float]:
    """Own vectors as they are served, what they are before propagation, and the loss of the rotation (0 without).

    As `mrl.least_squares.initial_model` makes them from own factors (F wide).
    """
    widest, loss = config.widths[-1], 0.0
    if config.least_squares.rotation:
        rotation, loss = learn_rotation(config, shard, propagated(config, shard, factors))
        users, items = (
            times(side, table, rotation) for side, table in zip((shard.users, shard.items), factors, strict=True)
        )
    else:
        users, items = (table[:, :widest].contiguous() for table in factors)
    return propagated(config, shard, (users, items)), (users, items), loss
