"""Prototypes of item vectors as they are: tables learned after the fact, assignments, and the tree they make.

    found = fit_prototypes(run.items.numpy(), widths=[4, 8, 16])
    found.clusters, found.nodes, found.codes        # (W, I) each

Every level is fitted on its own, on nothing but its prefixes, with the items in an order that their vectors say: later
dimensions change nothing, and items that are numbered otherwise get what they got before, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrl.errors import ConfigError, DataError
from mrl.prototypes.loss import TEACHER_TEMPERATURES, PrototypeLoss, prototype_counts, similarity
from mrl.prototypes.sinkhorn import sinkhorn
from mrl.prototypes.tree import grow_tree, semantic_codes, step_down
from mrl.widths import check_widths

STEPS = 100
LEARNING_RATE = 0.05  # of Adam, on prototypes of length 1
KEPT = 0.0  # of the teacher a step: the items stand still, so that it need not lag behind
ROUNDS = 100  # of the last Sinkhorn, which says what an item is


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What `fit_prototypes` returns, for I items at W widths.

    tables: (K_j, m_j) of each level, rows of length 1. offsets: (K_j,) what each adds to its score, so that prototypes
    are used equally. clusters: (W, I) the prototype of each item, at every level by itself. nodes: (W, I) its node in
    the tree, parents: of the nodes (see `mrl.prototypes.tree.grow_tree`). codes: (W, I) its semantic id, one a level.
    losses: (W,) at the last step.
    """

    widths: tuple[int, ...]
    tables: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    clusters: np.ndarray
    nodes: np.ndarray
    parents: tuple[np.ndarray, ...]
    codes: np.ndarray
    losses: np.ndarray

    def logits(self, items: np.ndarray) -> list[np.ndarray]:
        """Of any items (N, D): (N, K_j) a level."""
        prefixes = [torch.from_numpy(np.ascontiguousarray(items[:, :width], np.float32)) for width in self.widths]
        return [
            _logits(prefix, torch.from_numpy(table), torch.from_numpy(offset)).numpy()
            for prefix, table, offset in zip(prefixes, self.tables, self.offsets, strict=True)
        ]

    def descend(self, items: np.ndarray) -> np.ndarray:
        """(W, N): the nodes of any items (N, D), new ones too; the tree stays what it is."""
        nodes: list[np.ndarray] = []
        for scores, parents in zip(self.logits(items), self.parents, strict=True):
            nodes.append(step_down(nodes[-1], scores, parents) if nodes else scores.argmax(1))
        return np.stack(nodes)


def fit_prototypes(
    items: np.ndarray,
    widths: Sequence[int],
    counts: Sequence[int] | None = None,
    *,
    per_dimension: float = 4.0,
    views: tuple[np.ndarray, np.ndarray] | None = None,
    popularity: np.ndarray | None = None,
    exponent: float = 0.0,
    tables: Sequence[np.ndarray] | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Prototypes:
    """Learn a table of prototypes at every width (the loss of `mrl.prototypes.loss`, all items a step), and assign.

    items: (I, D). counts: K_j of each level; None for `per_dimension` times its width. views: two of each item (I, D),
    such as fold-ins from two halves of its users, each the teacher of the other; None for the items themselves.
    popularity: (I,) interactions; exponent: the weight of an item is popularity^exponent: with 0 prototypes have as
    many items, with 1 as much traffic. tables: (K_j, m_j) a level, as a training has learned them: nothing is learned.
    Raises DataError for values that are not finite and popularity that does not fit, ConfigError for counts.
    """
    vectors = [np.ascontiguousarray(each, np.float32) for each in (items, *(views or ()))]
    widths = check_widths(widths, vectors[0].shape[1])
    if not all(np.isfinite(each).all() and each.shape == vectors[0].shape for each in vectors):
        raise DataError(f"items and views must be finite and alike in shape, {vectors[0].shape}; train again")
    if exponent and (popularity is None or len(popularity) != len(items)):
        raise DataError(f"exponent={exponent}: needs the popularity of each of the {len(items)} items")
    weights = np.ones(len(items)) if not exponent else np.asarray(popularity, dtype=np.float64) ** exponent
    if not weights.sum() > 0:
        raise DataError("popularity: is 0 for every item; give exponent=0")
    if tables is not None:
        counts = [len(table) for table in tables]
    elif counts is None:
        counts = prototype_counts(widths, per_dimension, len(items))
    if len(counts) != len(widths):
        raise ConfigError(f"counts={list(counts)}: must be one a width, {list(widths)}")
    seeds = np.random.SeedSequence(seed).generate_state(len(widths)).tolist()
    levels = [
        _fit_level(
            [each[:, :width] for each in vectors], weights, count, steps, level_seed, None if tables is None else table
        )
        for width, count, level_seed, table in zip(widths, counts, seeds, tables or [None] * len(widths), strict=True)
    ]
    learned, offsets, logits, losses = zip(*levels, strict=True)
    nodes, parents = grow_tree(logits)
    return Prototypes(
        widths=widths,
        tables=learned,
        offsets=offsets,
        clusters=np.stack([scores.argmax(1) for scores in logits]),
        nodes=nodes,
        parents=tuple(parents),
        codes=semantic_codes(nodes),
        losses=np.array(losses),
    )


def _fit_level(
    prefixes: Sequence[np.ndarray], weights: np.ndarray, count: int, steps: int, seed: int, table: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The table (K, m), the offsets (K,) and the logits (I, K) of one level, and its last loss.

    prefixes: (I, m) of the items, and of both views where there are.
    """
    keys = np.hstack([*prefixes, weights[:, None]])
    order = np.lexsort(keys.T[::-1])
    items, *views = (torch.from_numpy(prefix[order]) for prefix in prefixes)
    shares = torch.from_numpy(weights[order] / weights.sum()).float()
    loss = float("nan")
    if table is None:
        learned, loss = _learn(items, views or [items], shares, count, steps, seed)
    else:
        learned = torch.from_numpy(np.ascontiguousarray(table, np.float32))
    learned = learned / learned.norm(dim=1, keepdim=True).clamp_min(1e-12)
    _, offsets = sinkhorn(_logits(items, learned), shares, ROUNDS)
    logits = np.empty((len(order), count), dtype=np.float32)
    logits[order] = _logits(items, learned, offsets).numpy()
    return learned.numpy(), offsets.numpy(), logits, loss


def _learn(
    items: Tensor, views: Sequence[Tensor], weights: Tensor, count: int, steps: int, seed: int
) -> tuple[Tensor, float]:
    """The teacher's table after so many steps of Adam, and the last loss."""
    loss = PrototypeLoss([items.shape[1]], [count], items, seed)
    optimiser = torch.optim.Adam(loss.tables.parameters(), lr=LEARNING_RATE)
    value = torch.tensor(float("nan"))
    for step in range(steps):
        progress = step / steps
        pairs = zip(views, views[::-1], strict=True)
        value = sum(loss(student, teacher, weights, progress)[0] for student, teacher in pairs) / len(views)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        loss.follow(progress, KEPT)
    return loss.teachers[0].detach(), float(value.detach())


def _logits(prefix: Tensor, table: Tensor, offsets: Tensor | float = 0.0) -> Tensor:
    return similarity(prefix, table) / TEACHER_TEMPERATURES[0] + offsets
