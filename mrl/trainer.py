"""One model in training: its loss, its sampler, its optimiser and its random state; one call an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding

from mrl.config import TrainConfig
from mrl.data import Positives
from mrl.errors import RunError
from mrl.kernels import GraphStep, RowAdam, bpr_gradients, fast_paths, fast_products, has_short_floats
from mrl.loss import NestedLoss, l2_penalty
from mrl.model import LightGCN, MatrixFactorization
from mrl.prototypes import PrototypeTerm
from mrl.sampler import NegativeSampler
from mrl.softmax import NestedSoftmax

BATCH = 8192  # positives a step, where nothing is said
LONGEST_STEP, HIGHEST_RATE = 2.5, 5e-3  # of larger batches: times the learning rate, as far as to this one
NEWEST = 0.02  # share of the last step in the mean that is served where items are sampled: of some 50 steps


class Trainer:
    """A model, its loss, sampler, optimiser and random state; one call an epoch.

    positives: what to train on. Everything lives on `device`; no step over pairs waits for the host on a GPU.
    model: to go on from, over the same users and items; None for a new one as the config says.
    """

    def __init__(
        self, config: TrainConfig, positives: Positives, device: torch.device, model: MatrixFactorization | None = None
    ):
        self.config, self.device = config.with_usual(), device
        init_seed, loop_seed, prototype_seed = seeds_of(config)
        init = torch.Generator().manual_seed(init_seed)
        self.generator = torch.Generator(device).manual_seed(loop_seed)
        dim = config.widths[-1]
        if model is None and config.backbone == "lightgcn":
            model = LightGCN(positives, dim, hops=config.hops, generator=init, **asdict(config.graph))
        elif model is None:
            model = MatrixFactorization(positives.num_users, positives.num_items, dim, generator=init)
        self.model = model.to(device)
        positives = positives.to(device)
        nested = config.nested_loss
        self.by_user = config.loss == "softmax"  # a step is some users with all that they like, not some pairs
        if self.by_user:
            self.loss = NestedSoftmax(positives, config.widths, nested.level_weights, teacher=self.model.teacher)
            self.loss = self.loss.to(device)
        else:
            options = {"margin": nested.margin, "uniformity": nested.uniformity}
            self.loss = NestedLoss(config.widths, nested.level_weights, kind=config.loss, **options).to(device)
        self.sampler = NegativeSampler(
            positives,
            config.widths,
            rule=config.rule,
            nested=config.nested_negatives,
            **asdict(config.sampler),
            score_dtype=torch.bfloat16 if has_short_floats(device) else torch.float32,
            generator=init,
        ).to(device)
        modules = nn.ModuleDict({"model": self.model, "loss": self.loss, "sampler": self.sampler})
        self.prototypes: PrototypeTerm | None = None
        if nested.prototypes:
            modules["prototypes"] = self.prototypes = PrototypeTerm(
                positives,
                config.widths,
                self.model.eval()()[1],
                weight=nested.prototypes,
                per_dimension=nested.prototypes_per_dimension,
                popularity=nested.prototypes_popularity,
                views=nested.prototypes_views,
                seed=prototype_seed,
            )
        self.parameters = {name: each for name, each in modules.named_parameters() if each.requires_grad}
        # Where nothing but the batch's own rows has a gradient: all of it compiled, and Adam row by row.
        self.compiled = (
            self.device.type == "cpu"
            and type(self.model) is MatrixFactorization
            and config.loss == "bpr"
            and config.rule not in ("mix", "dens")
            and self.prototypes is None
        )
        self.idle_users = int((~self.sampler.trainable).sum())  # they have every item: no negative, so no triplet
        usable = self.sampler.trainable[positives.users.long()]
        self.users, self.items = positives.users.long()[usable], positives.items.long()[usable]
        if len(self.users) == 0:
            raise RunError("there is nothing to train on: no user has both a training item and an unobserved one")
        self.batch_size, self.learning_rate = steps_of(config, len(self.users))
        self.active = self.users.unique() if self.by_user else None
        self.epoch = 0
        # the mean over steps of what is trained, where their noise is large
        self.averages = {name: table.detach().clone() for name, table in self.model.named_parameters() if self.by_user}
        self.graph = self._graph()

    @cached_property
    def optimiser(self) -> RowAdam | torch.optim.Adam:
        """Made when it is wanted: that of torch imports torch's compiler, a second of a run that trains nothing."""
        parameters, rate = list(self.parameters.values()), self.learning_rate
        if self.compiled:
            return RowAdam(parameters, rate)
        return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=self.device.type == "cuda")

    def _graph(self) -> GraphStep | None:
        """The step as one CUDA graph, where it is the same work each time: no rule or levels that change on the way."""
        all_levels = self.config.nested_loss.levels_per_step in (0, len(self.config.widths))
        steady = self.config.rule not in ("cns", "dens") and all_levels and not self.by_user
        steady = steady and self.prototypes is None
        if self.device.type != "cuda" or not steady or fast_paths.is_off(fast_paths.CUDA_GRAPH):
            return None

        def set_generator(generator: torch.Generator) -> None:
            self.generator = generator

        size = min(self.batch_size, len(self.users))
        return GraphStep(partial(self._step, levels=None), size, self.generator, set_generator, self._tensors)

    @fast_products()
    def run_epoch(self) -> tuple[float, list[float]]:
        """One pass over all interactions in random order. Returns the mean loss and the mean of each level's term."""
        if self.epoch == 0:
            self.model.start_training(self.config.hops, self.config.least_squares.initial_scale)
            if self.prototypes is not None:
                self.model.eval()
                self.prototypes.start(*self._item_views(*self.model()))
        self.model.train()
        count = len(self.active if self.by_user else self.users)
        order = torch.randperm(count, device=self.device, generator=self.generator)
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        by_level = torch.zeros(len(self.config.widths), dtype=torch.float32, device=self.device)
        seen = torch.zeros(len(self.config.widths), dtype=torch.float64)  # on the host: counting makes no GPU work
        if self.compiled:
            self.optimiser.start_epoch(-(-len(order) // self.batch_size))
        batches = order.split(-(-self.batch_size * len(order) // len(self.users)))
        step = self._step if self.graph is None else lambda users, items, _: self.graph(users, items)
        levels_of_steps = draw_levels(self.config, len(batches), self.generator)
        for number, (batch, levels) in enumerate(zip(batches, levels_of_steps, strict=True)):
            if self.by_user:
                loss, terms = self._user_step(self.active[batch], levels)
                self._average(max(NEWEST, 1 / (self.epoch * len(batches) + number + 1)))
            else:
                loss, terms = step(self.users[batch], self.items[batch], levels)
            total += loss * len(batch)
            if levels is None:
                by_level += terms * len(batch)
                seen += len(batch)
            else:
                for level, term in zip(levels, terms, strict=True):
                    by_level[level] += term * len(batch)
                    seen[level] += len(batch)
        if self.compiled:
            self.optimiser.finish_epoch()
        self.epoch += 1
        loss = total.item() / len(order)
        if not math.isfinite(loss) or not all(p.isfinite().all() for p in self.parameters.values()):
            raise diverged(self.epoch, loss)
        return loss, (by_level.cpu() / seen).tolist()

    def _step(self, user_rows: Tensor, item_rows: Tensor, levels: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        progress = self.epoch / self.config.epochs
        if self.compiled:
            return self._compiled_step(user_rows, item_rows, levels, progress)
        mix = self.config.rule == "mix"
        users, items = self.model.by_hop(self.generator) if mix else self.model(self.generator)
        anchors = embedding(user_rows, users.mean(1) if mix else users)  # (B, D)
        by_hop = items[item_rows] if mix else embedding(item_rows, items)  # (B, H, D) or (B, D)
        positives = by_hop.mean(1) if mix else by_hop
        negatives, auxiliary, rows = None, 0.0, item_rows[:, None]
        if self.loss.needs_negatives:
            drawn = self.sampler(
                user_rows, anchors, by_hop, items, levels=levels, progress=progress, generator=self.generator
            )
            negatives, auxiliary = drawn.vectors, drawn.auxiliary
            rows = torch.cat([rows, drawn.items.flatten(1)], 1)
        loss, terms = self.loss(anchors, positives, negatives, levels)
        if self.model.hops == 0 and not mix:  # the vectors at hand are the ego vectors
            ego = (anchors, positives) if negatives is None else (anchors, positives, negatives)
        else:
            ego = (embedding(user_rows, self.model.users), embedding(rows, self.model.items))
        auxiliary = auxiliary + self._prototype_term(*((users.mean(1), items.mean(1)) if mix else (users, items)))
        return self._descend(loss + auxiliary + l2_penalty(self.config.l2, *ego)), terms

    def _user_step(self, user_rows: Tensor, levels: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        users, items = self.model(self.generator)
        loss, terms = self.loss(user_rows, embedding(user_rows, users), items, levels, self.generator)
        penalty = self.loss.penalty(self.config.l2, self.model.users, self.model.items)
        return self._descend(loss + self._prototype_term(users, items) + penalty), terms

    def _prototype_term(self, users: Tensor, items: Tensor) -> Tensor | float:
        """λ Σ_j L_j of `mrl.prototypes` for items (I, D) as they are in this step; 0 where it is off."""
        if self.prototypes is None:
            return 0.0
        views = self._item_views(users, items)
        return self.prototypes(*views, progress=self.epoch / self.config.epochs, generator=self.generator)

    def _item_views(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Items (I, D) as the term sees them: as they are, or by the one half of their users and by the other."""
        if self.prototypes.signs is None:
            return (items,)
        lean = self.model.item_lean(users, self.prototypes.signs, self.generator)
        return items + lean, items - lean

    def _descend(self, total: Tensor) -> Tensor:
        if self.device.type == "cpu" and not math.isfinite(total.item()):  # on a GPU the epoch's end tells
            raise diverged(self.epoch + 1, total.item())
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        return total.detach()

    @torch.no_grad()
    def _average(self, newest: float) -> None:
        """Let the means have so much of what the parameters are now."""
        for name, average in self.averages.items():
            average.lerp_(self.parameters[f"model.{name}"], newest)

    @torch.no_grad()
    def _compiled_step(
        self, user_rows: Tensor, item_rows: Tensor, levels: Sequence[int] | None, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The same step, where only the rows of the batch are touched. Candidates that are not of the batch are scored
        as they were when last touched; whatever gets a gradient is up to date."""
        users, items = self.model.users, self.model.items
        self.optimiser.next_step()
        self.optimiser.catch_up(users, user_rows.numpy())
        self.optimiser.catch_up(items, item_rows.numpy())
        negatives = self.sampler.pick(
            user_rows, item_rows, users, items, levels=levels, progress=progress, generator=self.generator
        )
        self.optimiser.catch_up(items, negatives.flatten().numpy())
        rows = torch.cat([item_rows[:, None], negatives], 1)
        scale = levels_of_step(self.loss, levels)
        gradients = bpr_gradients(users.numpy(), items.numpy(), user_rows.numpy(), rows.numpy(), *scale, self.config.l2)
        if not math.isfinite(gradients.loss):
            raise diverged(self.epoch + 1, gradients.loss)
        self.optimiser.update(users, user_rows.numpy(), gradients.users)
        self.optimiser.update(items, rows.flatten().numpy(), gradients.items.reshape(-1, items.shape[1]))
        return torch.tensor(gradients.loss, dtype=torch.float32), torch.from_numpy(gradients.terms).float()

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users (U, D) and items (I, D) as they score now, without dropout."""
        self.model.eval()
        return tuple(table.detach().clone() for table in functional_call(self.model, self.averages, ()))

    def backbone(self) -> dict[str, Tensor]:
        """What the vectors do not tell of the model and training on would need: the ego embeddings of a graph model."""
        tables = self.model.state_dict() | self.averages if self.model.hops else {}
        tables |= {f"prototypes.{name}": table for name, table in self._teacher().items() if name != "average"}
        return {name: table.detach().clone() for name, table in tables.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, as named tensors."""
        return self._tensors() | {"generator": self.generator.get_state(), "epoch": torch.tensor(self.epoch)}

    def _tensors(self) -> dict[str, Tensor]:
        """What a step changes, in place: the parameters, and the moments of the optimiser."""
        tensors = {f"parameter.{name}": value.detach() for name, value in self.parameters.items()}
        if self.compiled or "optimiser" in vars(self):  # else there is none yet
            for name, value in self.parameters.items():
                for key, moment in self.optimiser.state[value].items():
                    tensors[f"optimiser.{name}.{key}"] = moment
        tensors |= {f"average.{name}": table for name, table in self.averages.items()}
        return tensors | {f"prototypes.{name}": table for name, table in self._teacher().items()}

    def _teacher(self) -> dict[str, Tensor]:
        return {} if self.prototypes is None else self.prototypes.teacher()

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self.parameters.items():
            value.copy_(tensors[f"parameter.{name}"])
            prefix = f"optimiser.{name}."
            moments = {key.removeprefix(prefix): moment for key, moment in tensors.items() if key.startswith(prefix)}
            if moments:
                self.optimiser.state[value] = {
                    key: moment.to(self.device, copy=True) for key, moment in moments.items()
                }
        for name, table in self.averages.items():
            table.copy_(tensors[f"average.{name}"])
        for name, table in self._teacher().items():
            table.copy_(tensors[f"prototypes.{name}"])
        self.generator.set_state(tensors["generator"].cpu())
        self.graph = self._graph()  # a graph knows the moments by where they lie
        self.epoch = int(tensors["epoch"])
        if self.epoch:
            self.model.start_training(self.config.hops)


def seeds_of(config: TrainConfig) -> list[int]:
    """Seeds of the initial values, of the epochs, and of prototypes."""
    return np.random.SeedSequence(config.seed).generate_state(3).tolist()


def steps_of(config: TrainConfig, pairs: int) -> tuple[int, float]:
    """Positives a step, and the learning rate, where there are so many in all."""
    # steps on a graph cost the same whatever they hold, so large data is not cut into more of them
    batch_size = config.batch_size or max(BATCH, -(-pairs // 32))
    # steps that are fewer for their data are longer
    rate = config.learning_rate * (1.0 if config.batch_size else min(LONGEST_STEP, batch_size / BATCH))
    return batch_size, max(config.learning_rate, min(rate, HIGHEST_RATE))


def draw_levels(config: TrainConfig, steps: int, generator: torch.Generator) -> Iterable[tuple[int, ...] | None]:
    """The levels of each step: None for all, or a random subset of them in order.

    Drawn for a whole epoch at once, so that no step waits for the device.
    """
    count, levels = config.nested_loss.levels_per_step, len(config.widths)
    if count in (0, levels):
        return [None] * steps
    drawn = torch.rand(steps, levels, dtype=torch.float32, generator=generator, device=generator.device)
    return [tuple(sorted(row)) for row in drawn.argsort(1)[:, :count].tolist()]


def levels_of_step(loss: NestedLoss, levels: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Widths and weights of the levels of a step, all if None, as the loss weighs them; on the CPU."""
    widths, weights = np.array(loss.widths), loss.level_weights.numpy()
    if levels is None:
        return widths, weights
    rows = list(levels)
    return widths[rows], weights[rows] * np.float32(len(widths) / len(rows))


def diverged(epoch: int, loss: float) -> RunError:
    return RunError(
        f"training diverged in epoch {epoch} (loss {loss}); the last checkpoint is whole;"
        " lower learning_rate or raise l2"
    )
