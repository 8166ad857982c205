"""Sampled epochs of nested BPR on sharded tables: MRL4Rec (Lai et al., arXiv 2406.07432) in several processes.

A user's and an item's row, and their moments in Adam, live with their owner. Each process takes the interactions of its
own users, in the places of a batch where the order of the epoch has them; the batch is that of all. A step:

    1. candidates are drawn for own interactions; those items, and own positives, are fetched, each once;
    2. each level picks its negative among its own candidates by its own prefix (`mrl.sampler`);
    3. positives and negatives are fetched, their gradients computed (`mrl.kernels.bpr`) and sent to the owners;
    4. these sum them up in the order of the batch, and take a step of Adam by rows (`mrl.kernels.row_adam`).

So 7 collectives a step, 4 with rule rns, 8 with dens, in all processes, those without an interaction of the batch
included. What is drawn depends on seed, epoch, step and the place in the batch alone, and every sum has its order:
tables, moments and losses are the same bit for bit in any number of processes, on one kind of machine. Tables are
those of one process without shards (`mrl.trainer.Trainer`), too, bit for bit where its compiled loops score alike, as
they do where tested; above `mrl.sharded.order.DRAWN` interactions the order is another one. Its losses are summed up in
float32: they differ in the sixth digit.

With the rule mix, too, tables are the same in any number of processes; one without shards takes Adam of torch there,
and differs by rounding. The rule dens learns gates beside the tables (`mrl.sharded.gates`): by sums that round, so that
tables are the same but for rounding, in any number of processes and without shards. Where rounding decides between two
candidates, a run goes another way from there, as with another seed.

Memory of a process: its interactions, 12 D bytes a row that it owns, 9 bytes an item of all, and the rows of a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.kernels import RowAdam, bpr_gradients
from mrl.loss import NestedLoss
from mrl.model import xavier_uniform
from mrl.sampler import NegativeSampler, Step
from mrl.sharded.asked import Asked
from mrl.sharded.gates import MOMENTS, Gates
from mrl.sharded.group import Group
from mrl.sharded.mixes import mixed_gradients
from mrl.sharded.order import own_places
from mrl.sharded.rows import Rows, share_rows
from mrl.trainer import diverged, draw_levels, levels_of_step, seeds_of, steps_of

LARGEST_LOSS, DIGITS = 2.0**14, 48  # a triplet's loss in the mean, beyond which it counts as that; binary, of sums


def check_epochs(config: TrainConfig) -> None:
    """Raise ConfigError, with the reason and the remedy, where a config has what these epochs have not."""
    graph = "each step takes the vectors of all rows, gathered once a hop, there and back"
    found = {
        "backbone": (config.backbone != "mf", graph, "take backbone='mf'"),
        "loss": (config.loss != "bpr", "of epochs on shards, bpr alone is there", "take loss='bpr'"),
        "prototypes": (config.nested_loss.prototypes > 0, "look at all items at each step", "take prototypes=0"),
        "device": (config.device.startswith("cuda"), "epochs on shards run on CPUs", "take device='cpu'"),
    }
    refuse(config, found)


def refuse(config: TrainConfig, found: Mapping[str, tuple[bool, str, str]]) -> None:
    """Raise ConfigError at the first setting that is there. found: by name whether it is, the reason, the remedy."""
    for name, (is_there, reason, remedy) in found.items():
        if is_there:
            raise ConfigError(f"{name}={config.setting(name)!r}: {reason}; {remedy}, or processes=1")


def check_trainable(interactions: int) -> None:
    """Raise RunError, in all processes, where together they have nothing to train on."""
    if not interactions:
        error = RunError("there is nothing to train on: no user has both a training item and an unobserved one")
        error.is_shared = True
        raise error


class ShardedTrainer:
    """Own rows of both tables in training, as `mrl.trainer.Trainer`: one call an epoch, by all processes.

    positives: of own users, over all items. users, items: whose are whose. tables: own users (U', D) and items (I', D).
    STATE, KEPT: how many tables of users and items in turn these give.
    """

    STATE, KEPT = 6, 2

    def __init__(self, config: TrainConfig, group: Group, positives: Positives, users: Rows) -> None:
        check_epochs(config)
        self.config, self.group, self.users = config.with_usual(), group, users
        self.items = share_rows(group.sum(positives.item_counts), group)
        init_seed, loop_seed, _ = seeds_of(config)
        init, self.generator = torch.Generator().manual_seed(init_seed), torch.Generator().manual_seed(loop_seed)
        self.tables = [self._initial(side, init) for side in (self.users, self.items)]
        nested = config.nested_loss
        self.loss = NestedLoss(config.widths, nested.level_weights, kind=config.loss)
        options = {"rule": config.rule, "nested": config.nested_negatives} | asdict(config.sampler)
        self.sampler = NegativeSampler(positives, config.widths, **options, generator=init)
        usable = self.sampler.trainable[positives.users.long()]
        self.pairs = positives.users.long()[usable], positives.items.long()[usable]
        counts = group.each(len(self.pairs[0]))
        self.before, self.total = sum(counts[: group.rank]), sum(counts)  # interactions of earlier processes; of all
        check_trainable(self.total)
        self.batch_size, rate = steps_of(self.config, self.total)
        self.optimiser, self.epoch = RowAdam(self.tables, rate), 0
        self.gates = Gates(group, self.sampler, rate) if config.rule == "dens" else None
        self.is_dense = config.rule in ("mix", "dens")  # in one process Adam moves all rows in each step, not compiled
        self.is_wanted = torch.zeros(self.items.total, dtype=torch.bool)
        self.place = torch.empty(self.items.total, dtype=torch.int32)  # of an item among those that are fetched

    def _initial(self, side: Rows, generator: torch.Generator) -> Tensor:
        width = self.config.widths[-1]
        return side.draw(lambda rows: xavier_uniform(rows, width, generator, of=side.total))

    def run_epoch(self) -> tuple[float, list[float]]:
        """One pass over all interactions in random order. Returns the mean loss and the mean of each level's term.

        Raises RunError, in all processes, where it diverges.
        """
        steps = -(-self.total // self.batch_size)
        places, which = own_places(self.total, self.before, self.before + len(self.pairs[0]), self.generator)
        edges = torch.searchsorted(places, torch.arange(steps + 1) * self.batch_size).tolist()
        self.unit = 2.0 ** (DIGITS - self.total.bit_length())
        self.sums = torch.zeros(2 + len(self.config.widths), dtype=torch.int64)  # of losses; not finite; of each level
        seen = torch.zeros(len(self.config.widths), dtype=torch.float64)
        self.optimiser.start_epoch(steps)
        for step, levels in enumerate(draw_levels(self.config, steps, self.generator)):
            own, first = slice(edges[step], edges[step + 1]), step * self.batch_size
            size = min(self.batch_size, self.total - first)
            users, items = (column[which[own]] for column in self.pairs)
            self._step(users, items, places[own] - first, size, levels)
            seen[slice(None) if levels is None else list(levels)] += size
        self.optimiser.finish_epoch()
        self.epoch += 1
        self.sums[1] += sum(int((~table.isfinite()).sum()) for table in self.tables)
        self.sums[1] += bool(self.gates) and not self.gates.is_finite()
        sums = self.group.sum(self.sums)
        loss = float(sums[0]) / self.unit / self.total if not sums[1] else math.nan
        if not math.isfinite(loss):
            error = diverged(self.epoch, loss)
            error.is_shared = True
            raise error
        return loss, (sums[2:].double() / self.unit / seen).tolist()

    @torch.no_grad()
    def _step(
        self, user_rows: Tensor, item_rows: Tensor, places: Tensor, size: int, levels: Sequence[int] | None
    ) -> None:
        """One of so many interactions, of which own users (B',) with items (B',), of all, stand at these places."""
        users, items = self.tables
        self.optimiser.next_step()
        self.optimiser.catch_up(users, user_rows.numpy())
        progress = self.epoch / self.config.epochs
        step = self.sampler.step(user_rows, levels, progress, self.generator, places, size)
        negatives, share, caught_up = self._pick(step, user_rows, item_rows)
        rows = torch.cat([item_rows[:, None], negatives], 1)  # (B', 1 + N)
        occurrences = torch.arange(rows.shape[1])
        asked = Asked(
            self.group, self.items, rows.flatten(), (places[:, None] * len(occurrences) + occurrences).flatten()
        )
        self.optimiser.catch_up(items, asked.rows.numpy())
        vectors, at = asked.fetch(items), np.arange(rows.numel()).reshape(rows.shape)
        widths, weights = levels_of_step(self.loss, levels)
        levels_and_penalty = widths, weights, self.config.l2
        if share is None:
            tables = users.numpy(), vectors.numpy(), user_rows.numpy(), at
            gradients = bpr_gradients(*tables, *levels_and_penalty, batch=size)
        else:
            gradients = mixed_gradients(
                users[user_rows], vectors.view(*rows.shape, vectors.shape[1]), share, *levels_and_penalty, size
            )
        losses = gradients.each @ weights + self.config.l2 / 2 * gradients.norms
        by_item = torch.from_numpy(gradients.items)
        if self.gates:
            loss, *parts = self.gates.step(step, users[user_rows], vectors.view(by_item.shape))
            losses += loss
            for whole, part in zip((gradients.users, gradients.items), parts, strict=True):
                whole += part.numpy()
        self.optimiser.update(users, user_rows.numpy(), gradients.users)
        given = asked.give(by_item.flatten(0, 1))
        order = asked.keys.argsort()  # of the batch: sums of the same rows are rounded alike
        touched, given = asked.rows[order], given[order]
        if self.is_dense:  # what has caught up has to step, too: the rest of it without a gradient
            touched, given = torch.cat([touched, caught_up]), torch.cat([given, torch.zeros_like(items[caught_up])])
        self.optimiser.update(items, touched.numpy(), given.numpy())
        self.sums[1] += int((~np.isfinite(losses)).sum())
        self.sums[0] += self._in_fixed_point(losses)
        self.sums[2:][slice(None) if levels is None else list(levels)] += self._in_fixed_point(gradients.each)

    def _pick(self, step: Step, user_rows: Tensor, item_rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(B', N) items: negatives; of mixes the positive's share (B', N, 1); own items that have caught up before.

        Positives do; candidates do where a step in one process is of whole tables.
        """
        candidates, (users, items) = self.sampler.draw_candidates(step), self.tables
        if self.config.rule == "rns":
            return candidates[..., 0], None, item_rows[:0]
        self.is_wanted[candidates.flatten()] = self.is_wanted[item_rows] = True
        wanted = self.is_wanted.nonzero()[:, 0]
        self.is_wanted[wanted] = False
        self.place[wanted] = torch.arange(len(wanted), dtype=torch.int32)
        positives = self.place[item_rows].long()
        asked = Asked(self.group, self.items, wanted, torch.zeros_like(wanted).index_fill_(0, positives, 1))
        caught_up = asked.rows if self.is_dense else asked.rows[asked.keys == 1]
        self.optimiser.catch_up(items, caught_up.numpy())
        vectors = asked.fetch(items)
        among = users[user_rows], vectors[positives], vectors, self.place[candidates].long()
        if self.config.rule == "mix":
            anchors, liked, vectors, at = among
            chosen, share = self.sampler.pick_mixes(step, candidates, anchors, liked[:, None], vectors[:, None], at)
            return chosen[..., 0], share, caught_up
        return self.sampler.pick_among(step, candidates, *among), None, caught_up

    def _in_fixed_point(self, losses: np.ndarray) -> Tensor:
        """The sums of losses (B', …), in whole units, which add up to the same in any order."""
        bounded = np.nan_to_num(losses, nan=0.0).clip(-LARGEST_LOSS, LARGEST_LOSS)
        return torch.from_numpy(np.asarray((bounded * self.unit).round().astype(np.int64).sum(0)))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Own users (U', D) and items (I', D) as they are now."""
        users, items = self.tables
        return users.clone(), items.clone()

    def kept(self) -> list[Tensor]:
        """What is kept of an epoch that is the best so far."""
        return list(self.vectors())

    def has_ego(self, epoch: int) -> bool:
        """Whether vectors after so many epochs are made of others, which are kept, too."""
        return False

    @property
    def learned(self) -> list[Rows]:
        """Whose rows the tables of its state are, behind those of users and items."""
        return [self.gates.rows] if self.gates else []

    def state(self) -> list[Tensor]:
        """Own users, own items, moments, gates: with `epoch` and the generator all that the next step depends on."""
        states = [self.optimiser.state[table] for table in self.tables]
        gates = [self.gates.table()] if self.gates else []
        return self.tables + [state[name] for name in MOMENTS for state in states] + gates

    def load_state(self, tensors: Sequence[Tensor], epoch: int, generator: Tensor) -> None:
        """Go on after so many epochs, from what `state` gave, of own rows, and the state of the generator."""
        self.epoch, steps = epoch, epoch * -(-self.total // self.batch_size)
        self.generator.set_state(generator)
        for side, table in enumerate(self.tables):
            table.copy_(tensors[side])
            moments = {name: tensors[2 + 2 * n + side].clone() for n, name in enumerate(MOMENTS)}
            self.optimiser.state[table] = {"step": torch.tensor(float(steps), dtype=torch.float32)} | moments
        if self.gates:
            self.gates.load(tensors[self.STATE])
