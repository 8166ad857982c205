"""Least squares on shards: iALS, nested least squares and principal axes, the same whatever the number of processes.

Given the other side rows are independent, and a row runs through all of its levels where it lies. So half a sweep takes
one Gram matrix, summed in float64, and one fetch of the other side (`mrl.sharded.rows`), however many levels there
are: `bytes_of_sweep`. Rows are solved tile by tile by `mrl.least_squares`. ALX (Mehta et al., arXiv 2112.02194) shards
iALS likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mrl.config import TrainConfig
from mrl.distributed.exact import exact_sum, summed_gram, times
from mrl.distributed.propagation import Graph
from mrl.least_squares.axes import balanced_scale, largest_entries, penalty_by_column, principal_axes
from mrl.least_squares.fit import fitted_levels, objective
from mrl.least_squares.ials import RANK, Factors, eigenbasis, frequency_l2, solve_in_eigenbasis
from mrl.least_squares.nested import BlockSystems, block_eigenbasis
from mrl.sharded.group import Group, give_back
from mrl.sharded.rows import Links, Rows, Shard
from mrl.widths import check_level_weights

Keep = Callable[[int, Factors], None]  # told after each sweep of iALS how many are done, and own factors


def spectral_start(shard: Shard, width: int, *, seed: int = 0) -> Factors:
    """Own users and items to go on from, as `mrl.least_squares.ials.spectral_start` makes them."""
    group, users, items = shard.group, shard.users, shard.items
    user_graph, item_graph = Graph(group, shard.by_user, shard.by_item), Graph(group, shard.by_item, shard.by_user)
    generator = torch.Generator().manual_seed(seed)
    table = items.draw(lambda rows: torch.randn(rows, width, dtype=torch.float32, generator=generator))
    table = table.to(group.device)
    table = _orthonormal(group, users, user_graph.times(table))
    table = _orthonormal(group, items, item_graph.times(table))
    table = _orthonormal(group, users, user_graph.times(table))
    table = item_graph.times(table)
    squares, basis = _eigh(group, summed_gram(group, items, table))
    squares, basis = squares.flip(0).clamp_min(0), basis.flip(1)
    scale = torch.where(squares > RANK * squares[0], squares**-0.25, 0)  # from singular values to their roots
    own_users = torch.zeros(users.stop - users.start, width, device=group.device)
    return own_users, times(items, table, basis * scale, table)


def _eigh(group: Group, gram: Tensor) -> list[Tensor]:
    return group.from_first(lambda: torch.linalg.eigh(gram), [gram.shape[:1], gram.shape])


def _orthonormal(group: Group, rows: Rows, table: Tensor) -> Tensor:
    squares, basis = _eigh(group, summed_gram(group, rows, table))
    return times(rows, table, basis * torch.where(squares > RANK * squares[-1], squares**-0.5, 0), table)


def ials(shard: Shard, factors: Factors, *, alpha0: float, l2: float, nu: float, sweeps: int) -> Factors:
    """Own users and items after so many sweeps from `factors`, in their place, as `mrl.least_squares.ials.ials`."""
    (users, items), scale = factors, {"alpha0": alpha0, "l2": l2, "nu": nu}
    user_l2 = frequency_l2(shard.by_user.counts, shard.items.total, **scale)
    item_l2 = frequency_l2(shard.by_item.counts, shard.users.total, **scale)
    for _ in range(sweeps):
        _half_sweep(shard.group, shard.by_user, users, items, user_l2, alpha0)
        _half_sweep(shard.group, shard.by_item, items, users, item_l2, alpha0)
    return users, items


def bytes_of_sweep(users: int, items: int, width: int, processes: int) -> int:
    """What a sweep of iALS makes all processes send together, where both sides are gathered whole.

    Of each half: the other side to all who lack it, 4 · N · D (P − 1); its Gram matrix, summed in a ring, and the basis
    that the first process makes of it, 24 · D² (P − 1).
    """
    return (processes - 1) * (4 * (users + items) * width + 2 * 24 * width**2)


def _half_sweep(group: Group, links: Links, own: Tensor, other: Tensor, row_l2: Tensor, alpha0: float) -> None:
    """Solve own rows given the other side, which is rotated alike, both in place."""
    shared = summed_gram(group, links.other, other)
    made = group.from_first(lambda: eigenbasis(shared, alpha0, row_l2), [shared.shape[:1], shared.shape])
    spectrum, basis = (table.to(other) for table in made)
    for rows, positives, (fetched,) in links.blocks(times(links.other, other, basis, other)):
        own[rows] = solve_in_eigenbasis(fetched, positives, row_l2[rows], spectrum, basis, start=own[rows])
    give_back()


def rotate(shard: Shard, factors: Factors) -> Factors:
    """Own users and items, in place, on the principal axes of all, as `mrl.least_squares.axes.rotate` turns them."""
    group, users, items = shard.group, *factors
    grams = summed_gram(group, shard.users, users), summed_gram(group, shard.items, items)
    shapes = [gram.shape for gram in grams]
    user_axes, item_axes = group.from_first(lambda: principal_axes(*grams, users.dtype), shapes)
    users, items = times(shard.users, users, user_axes, users), times(shard.items, items, item_axes, items)
    largest = largest_entries(items) if len(items) else items.new_zeros(1, items.shape[1])
    largest = largest_entries(group.gather(largest, [1] * group.size))
    signs = torch.where(largest < 0, -1.0, 1.0).to(items)
    return users.mul_(signs), items.mul_(signs)


def nested_least_squares(
    shard: Shard,
    widths: Sequence[int],
    factors: Factors,
    *,
    level_weights: Sequence[float],
    alpha0: float,
    l2: float,
    nu: float,
    l2_width_exponent: float,
    sweeps: int,
) -> Factors:
    """Own users and items, as of `mrl.least_squares.nested.nested_least_squares`."""
    group, scale = shard.group, {"alpha0": alpha0, "l2": l2, "nu": nu}
    level_weights = check_level_weights(level_weights, widths)
    user_l2 = frequency_l2(shard.by_user.counts, shard.items.total, **scale)
    item_l2 = frequency_l2(shard.by_item.counts, shard.users.total, **scale)
    users, items = rotate(shard, factors)
    penalties = _summed_penalty(group, shard.users, users, user_l2), _summed_penalty(group, shard.items, items, item_l2)
    by_column = balanced_scale(*penalties).to(users)
    users, items = users * by_column, items / by_column

    def half_sweep(links: Links, own: Tensor, other: Tensor, row_l2: Tensor) -> Tensor:
        shared = summed_gram(group, links.other, other)
        (basis,) = group.from_first(lambda: [block_eigenbasis(shared, widths)], [shared.shape])
        systems = BlockSystems(shared, basis, widths, level_weights, alpha0, l2_width_exponent)
        basis, solution = basis.to(own), torch.empty_like(own)
        for rows, positives, (fetched,) in links.blocks(times(links.other, other, basis)):
            solution[rows] = systems.solve(own[rows] @ basis, fetched, positives, row_l2[rows]) @ basis.T
        return solution

    for _ in range(sweeps):
        users = half_sweep(shard.by_user, users, items, user_l2)
        items = half_sweep(shard.by_item, items, users, item_l2)
    return users, items


def _summed_penalty(group: Group, rows: Rows, table: Tensor, row_l2: Tensor) -> Tensor:
    """(D,) float64: `penalty_by_column` of the rows of all processes."""
    parts = [penalty_by_column(table[tile].double(), row_l2[tile]) for tile in rows.own_tiles]
    bound = group.largest(max((float(part.max()) for part in parts), default=0.0))
    return exact_sum(group, rows, parts, bound, table.shape[1:])


def fit_least_squares(
    config: TrainConfig, shard: Shard, keep: Keep = lambda *_: None, done: int = 0, factors: Factors | None = None
) -> Factors:
    """Own users and items on their principal axes, by the settings of a config, all of which are given."""
    chosen, scale = config.least_squares, objective(config)
    factors = factors or spectral_start(shard, chosen.fit_width, seed=config.seed)
    for sweep in range(done, chosen.sweeps):
        factors = ials(shard, factors, **scale, sweeps=1)
        keep(sweep + 1, factors)
    if not chosen.nested_sweeps:
        return rotate(shard, factors)
    widths, weights = fitted_levels(config, chosen.fit_width)
    levels = {"level_weights": weights, "l2_width_exponent": chosen.l2_width_exponent}
    return nested_least_squares(shard, widths, factors, **levels, **scale, sweeps=chosen.nested_sweeps)
