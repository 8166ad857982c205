"""Epochs of the nested softmax through propagation, on shards: the last stage of the recipe default.

What `mrl.trainer.Trainer` does in one process, by the same draws. A step propagates the ego embeddings of all rows, z =
P e with P = Σ_h Aʰ, h up to `hops`, gathers the items, takes own users of the batch, sums the gradients by items up in
float64 and brings both back to the ego embeddings by the same P, which is symmetric; then Adam, row by row where it
lies. Vectors are those of one process, and of any number of them, but for the rounding of sums in float32.

A process sends (P − 1) / P · (2 hops · 4 D (U + I) + 20 D I) bytes in a step, with P processes, at most, in as few
steps as there are (`mrl.trainer.steps_of`); its memory is that of `mrl.sharded.rows.Links`, and 24 D I bytes. Before it
what is taught is found, in 4 F I bytes of a fit of F dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.distillation import Teacher
from mrl.distributed.propagation import propagated
from mrl.distributed.rotation import spread_of_scores
from mrl.least_squares.ials import Factors
from mrl.sharded.epochs import MOMENTS, check_trainable, refuse
from mrl.sharded.order import own_places
from mrl.sharded.rows import Shard
from mrl.softmax import NestedSoftmax
from mrl.trainer import NEWEST, diverged, draw_levels, seeds_of, steps_of


def check_graph_epochs(config: TrainConfig) -> None:
    """Raise ConfigError, with the reason and the remedy, where a config has what these epochs have not."""
    only = "of epochs through the graph, softmax alone is there"
    found = {
        "loss": (config.loss != "softmax", only, "take loss='softmax'"),
        "prototypes": (config.nested_loss.prototypes > 0, "look at all items at each step", "take prototypes=0"),
        "edge_dropout": (config.graph.edge_dropout > 0, "is drawn for all interactions at once", "take edge_dropout=0"),
        "message_dropout": (
            config.graph.message_dropout > 0,
            "is drawn for all rows at once",
            "take message_dropout=0",
        ),
    }
    refuse(config, found)


class GraphTrainer:
    """Own ego embeddings in training, as `mrl.trainer.Trainer`: one call an epoch, by all processes.

    start: own users (U', D) and items (I', D) to begin with. teacher: of `mrl.softmax`, of own users.
    STATE, KEPT: how many tables these give.
    """

    STATE, KEPT = 8, 4

    def __init__(self, config: TrainConfig, shard: Shard, start: Factors, teacher: Teacher | None = None) -> None:
        self.config, self.shard, self.group = config.with_usual(), shard, shard.group
        self.users, self.items = shard.users, shard.items
        self.trained = self.config.with_settings(propagation=(1.0, 1.0))  # as what is trained is propagated
        self.tables = [table.clone().requires_grad_() for table in start]
        self.averages = [table.clone() for table in start]
        group, device = self.group, self.group.device
        self.generator = torch.Generator(device).manual_seed(seeds_of(config)[1])
        counts, item_counts = shard.by_user.counts, group.gather(shard.by_item.counts, self.items.counts)
        weights = self.config.nested_loss.level_weights
        self.softmax = NestedSoftmax(shard.positives, config.widths, weights, item_counts, teacher).to(device)
        is_active = (counts > 0) & (counts < self.items.total)
        self.active = is_active.nonzero()[:, 0]
        users = group.each(len(self.active))
        self.before, self.total = sum(users[: group.rank]), sum(users)
        pairs = sum(group.each(int(counts[is_active].sum())))
        check_trainable(pairs)
        self.batch_size, rate = steps_of(self.config, pairs)
        self.per_step = -(-self.batch_size * self.total // pairs)  # users
        fast = {"fused": True, "capturable": device.type == "cuda"}
        self.optimiser, self.epoch = torch.optim.Adam(self.tables, lr=rate, **fast), 0
        known = sum(group.each(int(counts.sum())))
        of_user = counts.to(torch.float32) / known
        of_item = (shard.by_item.counts.to(torch.float32) / known + 1 / self.items.total) / 2
        shares = self.softmax.of_dimension(start[0])
        self.penalties = [self.config.l2 * of_row[:, None] * shares for of_row in (of_user, of_item)]

    def run_epoch(self) -> tuple[float, list[float]]:
        """One pass over all users in random order. Returns the mean loss and the mean of each level's term.

        Raises RunError, in all processes, where it diverges.
        """
        if self.epoch == 0:
            self._scale()
        places, which = own_places(self.total, self.before, self.before + len(self.active), self.generator)
        steps = -(-self.total // self.per_step)
        edges = torch.searchsorted(places, torch.arange(steps + 1, device=places.device) * self.per_step).tolist()
        total, levels = 0.0, len(self.config.widths)
        by_level, seen = torch.zeros(levels, dtype=torch.float64), torch.zeros(levels, dtype=torch.float64)
        for step, some in enumerate(draw_levels(self.config, steps, self.generator)):
            size = min(self.per_step, self.total - step * self.per_step)
            rows = self.active[which[edges[step] : edges[step + 1]]]
            loss, terms = self._step(rows, some)
            newest = max(NEWEST, 1 / (self.epoch * steps + step + 1))
            for average, table in zip(self.averages, self.tables, strict=True):
                average.lerp_(table.detach(), newest)
            total += loss * size
            counted = slice(None) if some is None else list(some)
            by_level[counted] += terms * size
            seen[counted] += size
        self.epoch += 1
        loss = total / self.total
        is_whole = all(bool(table.isfinite().all()) for table in self.tables)
        if not all(self.group.each(int(is_whole and math.isfinite(loss)))):
            error = diverged(self.epoch, loss)
            error.is_shared = True
            raise error
        return loss, (by_level / seen).tolist()

    @torch.no_grad()
    def _scale(self) -> None:
        """So that a user's scores have the standard deviation that training begins with, mean over the users."""
        spread = spread_of_scores(self.shard, *propagated(self.trained, self.shard, tuple(self.tables)))
        mean = float(self.group.sum(spread.sum())) / self.users.total
        for table in self.tables:
            table.mul_((self.config.least_squares.initial_scale / max(mean, 1e-9)) ** 0.5)

    def _step(self, rows: Tensor, levels: Sequence[int] | None) -> tuple[float, Tensor]:
        """One of all processes' users, of which own ones stand in these rows: the loss, and the terms of its levels."""
        group, egos = self.group, tuple(table.detach() for table in self.tables)
        users, items = propagated(self.trained, self.shard, egos)
        mine = users[rows].requires_grad_()
        whole = group.gather(items, self.items.counts).requires_grad_()
        loss, terms = self.softmax(rows, mine, whole, levels, self.generator)
        pairs = int(self.shard.by_user.counts[rows].sum())
        share = pairs / max(sum(group.each(pairs)), 1)
        of_users, of_items = torch.autograd.grad(loss, (mine, whole))
        of_items = group.sum(of_items * share)[self.items.start : self.items.stop].to(items)
        gradients = torch.zeros_like(users).index_copy_(0, rows, of_users * share), of_items
        gradients = propagated(self.trained, self.shard, gradients)
        penalty = 0.0
        for table, ego, gradient, by_entry in zip(self.tables, egos, gradients, self.penalties, strict=True):
            table.grad = gradient + by_entry * ego
            penalty += float((by_entry * ego.square()).sum(dtype=torch.float64)) / 2
        told = group.sum(torch.cat([loss.detach().double()[None] * share + penalty, terms.double() * share]))
        self.optimiser.step()
        return float(told[0]), told[1:].cpu()

    @torch.no_grad()
    def vectors(self) -> Factors:
        """Own users (U', D) and items (I', D) as they score now: before the first epoch as they were propagated."""
        return propagated(self.trained if self.epoch else self.config, self.shard, tuple(self.averages))

    def kept(self) -> list[Tensor]:
        """What is kept of an epoch that is the best so far: vectors, and the ego embeddings that they are made of."""
        return [table.clone() for table in (*self.vectors(), *self.averages)]

    def has_ego(self, epoch: int) -> bool:
        """Whether vectors after so many epochs are not the ego embeddings themselves."""
        return self.config.hops > 0 and (epoch > 0 or any(self.config.least_squares.propagation))

    def state(self) -> list[Tensor]:
        """Own users and items in turn: ego embeddings, their means, their moments."""
        states = [self.optimiser.state[table] for table in self.tables]
        moments = [state[name] for name in MOMENTS for state in states]
        return [table.detach() for table in self.tables] + self.averages + moments

    @torch.no_grad()
    def load_state(self, tensors: Sequence[Tensor], epoch: int, generator: Tensor) -> None:
        """Go on after so many epochs, at least one, from what `state` gave, of own rows."""
        self.epoch, steps = epoch, epoch * -(-self.total // self.per_step)
        self.generator.set_state(generator)
        for side, table in enumerate(self.tables):
            table.copy_(tensors[side])
            self.averages[side].copy_(tensors[2 + side])
            moments = {name: tensors[4 + 2 * n + side].clone() for n, name in enumerate(MOMENTS)}
            step = torch.tensor(float(steps), dtype=torch.float32, device=table.device)
            self.optimiser.state[table] = {"step": step} | moments
