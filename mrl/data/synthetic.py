"""Implicit feedback with a planted taxonomy: the ground truth about levels that no real data set has.

Items are the leaves' contents of a tree with given branching. Every user has a home leaf and, of its own, a mix of
depths: a draw at depth d is an item of the home branch at depth d, by popularity. Coarse draws tell coarse branches
apart, deep draws fine ones, so each depth is there to be learned, and how well it was can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from mrl.data.interactions import Interactions, Positives, build
from mrl.data.splits import check_number, check_whole
from mrl.errors import ConfigError

CHUNK = 1_000_000  # draws at a time: bounds the memory beside the result
ACTIVITY_SPREAD = 0.6  # sigma of the log-normal number of items of a user
LOYALTY_CONCENTRATION = 3.0  # of the Dirichlet around `loyalty`: low enough that users clearly differ
TRIES = 4  # draws of an item that its user has already, before the next is made one branch further out


@dataclass(frozen=True, eq=False)
class Planted:
    """What `planted` returns.

    positives: U users' items, exactly as many as asked for.
    clusters: (I, D) int32, the true branch of each item at depth 1 … D, numbered from 0 within a depth.
    homes: (U, D) int32, the home branch of each user at each depth, numbered alike.
    loyalty: (U, D) float64, the share of each depth in a user's draws; noise is the rest of the rows' sums to 1.
    """

    positives: Positives
    clusters: np.ndarray
    homes: np.ndarray
    loyalty: np.ndarray

    @property
    def log(self) -> pl.DataFrame:
        """Columns user and item, for `mrl.data.interactions.build`."""
        return pl.DataFrame({"user": self.positives.users.numpy(), "item": self.positives.items.numpy()})

    @property
    def labels(self) -> pl.DataFrame:
        """Columns item, title, depth_1, …, depth_D. Items are called by their deepest branch: `branch 3·28 #500`."""
        depths = {f"depth_{depth}": column for depth, column in enumerate(self.clusters.T, start=1)}
        titles = [f"branch {len(depths)}·{branch} #{item}" for item, branch in enumerate(self.clusters[:, -1])]
        return pl.DataFrame({"item": np.arange(len(self.clusters), dtype=np.int32), "title": titles, **depths})


def planted(
    num_users: int = 2000,
    num_items: int = 640,
    interactions: int = 60_000,
    branching: Sequence[int] = (4, 4, 4),
    *,
    noise: float = 0.1,
    popularity: float = 0.8,
    loyalty: Sequence[float] | None = None,
    seed: int = 0,
    part: int = 0,
) -> Planted:
    """Draw `interactions` distinct pairs from a taxonomy.

    branching: children of a node at each depth; the leaves share the items evenly, whatever their popularity.
    noise: probability that a draw comes from the whole catalogue instead of a home branch.
    popularity: exponent a of the weight rank⁻ᵃ of an item among all; 0 makes all alike.
    loyalty: weight of each depth in the mean user's draws, in proportion; None for equal weights.
    part: other users of the same taxonomy, which is drawn by the seed alone.

    A draw that its user has already is made again, and after TRIES of them one branch further out, as far as depth 1:
    where branches are so small that they are used up, the true shares lie below `loyalty`. What is missing in the end
    is drawn uniformly from the catalogue, or where noise is 0 from depth 1; nobody has more than half of that. Time and
    memory are in proportion to `interactions`, 4 bytes each and a bounded rest. ConfigError for impossible settings.
    """
    check_whole("num_users", num_users, least=1)
    check_whole("interactions", interactions, least=num_users)
    check_whole("seed", seed, least=0)
    check_whole("part", part, least=0)
    branching = _check_branching(branching)
    leaves = math.prod(branching)
    check_whole("num_items", num_items, least=leaves)
    check_number("noise", noise, most=1)
    check_number("popularity", popularity)
    loyalty = _check_loyalty(loyalty, branching)
    outermost = 0 if noise else 1
    widths = [math.prod(branching[depth:]) for depth in range(len(branching) + 1)]  # leaves in a branch, by depth
    most = num_items // (leaves // widths[outermost]) // 2
    if interactions > num_users * most:
        raise ConfigError(
            f"interactions={interactions}: {num_users} users have room for {num_users * most}, half of what each can "
            "reach; lower it, or raise num_users or num_items"
        )

    rng = np.random.default_rng([seed, 2])  # not the stream that splits the data
    item_at = rng.permutation(num_items)  # place in the order of leaves → item, so that ids tell nothing
    weight = (rng.permutation(num_items) + 1.0) ** -popularity  # of each place
    rng = np.random.default_rng([seed, 2, part]) if part else rng
    leaf_starts = np.ceil(np.arange(leaves + 1) * num_items / leaves).astype(np.int64)  # (leaves + 1,) places
    tree = _Tree([leaf_starts[::width] for width in widths], widths, np.r_[0.0, np.cumsum(weight)], item_at)

    leaf_of = np.empty(num_items, dtype=np.int64)
    leaf_of[item_at] = np.repeat(np.arange(leaves), np.diff(leaf_starts))
    homes = rng.integers(0, leaves, size=num_users)
    mixes = _draw_mixes(loyalty, num_users, rng) * (1 - noise)  # (U, D)
    counts = _draw_counts(num_users, interactions, most, rng)
    offsets = np.r_[0, np.cumsum(counts)]

    items, start = np.empty(interactions, dtype=np.int32), 0
    while start < num_users:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + CHUNK, side="right")) - 1)
        chunk = slice(start, stop)
        items[offsets[start] : offsets[stop]] = _draw(counts[chunk], homes[chunk], mixes[chunk], tree, outermost, rng)
        start = stop
    branches = np.array(widths[1:])
    return Planted(
        Positives(torch.from_numpy(offsets), torch.from_numpy(items), num_items),
        clusters=(leaf_of[:, None] // branches).astype(np.int32),
        homes=(homes[:, None] // branches).astype(np.int32),
        loyalty=mixes,
    )


def planted_interactions(
    *sizes: Any, test_fraction: float = 0.2, core: int = 1, seed: int = 0, name: str = "planted", **taxonomy: Any
) -> Interactions:
    """`planted` with the same settings, split at random per user; labels: title and true clusters, depth_1, ….

    Items that nobody met have no row; raw ids are those of `planted`.
    """
    data = planted(*sizes, seed=seed, **taxonomy)
    settings = {"split": "random", "test_fraction": test_fraction, "core": core, "seed": seed}
    return build(data.log, name=name, labels=data.labels, **settings)


@dataclass(frozen=True)
class _Tree:
    starts: list[np.ndarray]  # by depth, the first place of every branch, and the end
    widths: list[int]  # by depth, how many leaves a branch has
    mass: np.ndarray  # (I + 1,) cumulated weight of the places
    item_at: np.ndarray  # (I,)

    def items(self, leaf: np.ndarray, depth: np.ndarray, rng: np.random.Generator, *, uniform: bool) -> np.ndarray:
        """An item for each draw, of the branch at `depth` above `leaf`."""
        low, high = np.empty_like(leaf), np.empty_like(leaf)
        for level, (starts, width) in enumerate(zip(self.starts, self.widths, strict=True)):
            at_level = depth == level
            branch = leaf[at_level] // width
            low[at_level], high[at_level] = starts[branch], starts[branch + 1]
        chance = rng.random(len(leaf))
        if uniform:
            place = low + (chance * (high - low)).astype(np.int64)
        else:
            target = self.mass[low] + chance * (self.mass[high] - self.mass[low])
            place = np.searchsorted(self.mass, target, side="right") - 1
        return self.item_at[np.clip(place, low, high - 1)]  # rounding may step over an edge


def _draw(
    counts: np.ndarray, homes: np.ndarray, mixes: np.ndarray, tree: _Tree, outermost: int, rng: np.random.Generator
) -> np.ndarray:
    """The items of a chunk of users, sorted within each user, without repeats."""
    num_items = len(tree.item_at)
    users = np.repeat(np.arange(len(counts)), counts)  # of each draw still to be made
    edges = np.cumsum(mixes[:, ::-1], axis=1)  # deepest first, what is left is noise
    chance = rng.random(len(users))
    depth = mixes.shape[1] - (chance[:, None] >= edges[users]).sum(axis=1)
    depth = np.maximum(depth, outermost)  # without noise, rounding must not let one out
    kept, rounds = np.empty(0, dtype=np.int64), 0
    while len(users):
        uniform = rounds >= TRIES * (mixes.shape[1] + 1)  # the last way to find what is missing
        if uniform:
            depth = np.full_like(depth, outermost)
        keys = users * num_items + tree.items(homes[users], depth, rng, uniform=uniform)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_new = np.r_[True, keys[1:] != keys[:-1]]
        if len(kept):
            is_new &= kept[np.minimum(np.searchsorted(kept, keys), len(kept) - 1)] != keys
        kept = np.sort(np.concatenate([kept, keys[is_new]]), kind="stable")  # two sorted runs: merged in linear time
        again = order[~is_new]
        users, depth = users[again], depth[again]
        rounds += 1
        if rounds % TRIES == 0:
            depth = np.maximum(depth - 1, np.minimum(depth, 1))
    return kept % num_items


def _draw_counts(num_users: int, interactions: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """(U,) int64: log-normal numbers of items, each in 1 … most, that sum to `interactions` exactly."""
    spread = rng.lognormal(0.0, ACTIVITY_SPREAD, num_users)
    low, high = 0.0, interactions / spread.min()
    for _ in range(60):  # bisection for the largest scale that is not too many
        scale = (low + high) / 2
        low, high = (scale, high) if np.clip(np.floor(spread * scale), 1, most).sum() <= interactions else (low, scale)
    counts = np.clip(np.floor(spread * low), 1, most).astype(np.int64)
    while short := interactions - int(counts.sum()):
        room = np.flatnonzero(counts < most)
        counts[rng.permutation(room)[:short]] += 1
    return counts


def _draw_mixes(loyalty: np.ndarray, num_users: int, rng: np.random.Generator) -> np.ndarray:
    """(U, D): each user's own mix of depths, on average `loyalty`."""
    mixes = np.zeros((num_users, len(loyalty)))
    positive = loyalty > 0
    mixes[:, positive] = rng.dirichlet(LOYALTY_CONCENTRATION * loyalty[positive], size=num_users)
    return mixes


def _check_branching(branching: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(branching, (Sequence, np.ndarray)) or isinstance(branching, str) or len(branching) == 0:
        raise ConfigError(f"branching={branching!r}: give the children at each depth, such as [4, 4, 4]")
    return tuple(check_whole("branching", children, least=2) for children in branching)


def _check_loyalty(loyalty: Sequence[float] | None, branching: tuple[int, ...]) -> np.ndarray:
    """(D,) shares that sum to 1."""
    if loyalty is None:
        return np.full(len(branching), 1 / len(branching))
    if not isinstance(loyalty, (Sequence, np.ndarray)) or isinstance(loyalty, str) or len(loyalty) != len(branching):
        raise ConfigError(f"loyalty={loyalty!r}: give one weight for each of the {len(branching)} depths, or None")
    for weight in loyalty:
        check_number("loyalty", weight)
    shares = np.array(loyalty, dtype=np.float64)
    if not shares.sum() > 0:
        raise ConfigError(f"loyalty={loyalty!r}: one weight at least must be above zero")
    return shares / shares.sum()
