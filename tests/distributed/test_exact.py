"""Sums and products that are the same bit for bit in any number of processes."""

from __future__ import annotations

import numpy as np
import torch

from mrl.distributed.exact import exact_sum, summed_gram, times
from mrl.sharded.group import Group
from mrl.sharded.rows import Rows


def test_sums_are_the_same_in_any_order():
    generator = torch.Generator().manual_seed(0)
    parts = list(torch.randn(50, 4, generator=generator, dtype=torch.float64) * 1e5)
    side, bound = Rows(tuple(range(51)), (0, 50), 0), max(float(part.abs().max()) for part in parts)
    found = exact_sum(Group(), side, parts, bound, [4])
    assert torch.equal(found, exact_sum(Group(), side, parts[::-1], bound, [4]))
    assert torch.allclose(found, torch.stack(parts).sum(0), rtol=1e-14, atol=1e-9)


def test_nothing_sums_to_nothing():
    assert exact_sum(Group(), Rows((0,), (0, 0), 0), [], 0.0, [2, 2]).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def computed(group: Group, table: np.ndarray, bounds: tuple[int, ...]) -> tuple:
    rows = Rows((0, 5, 9, 30, 40), bounds, group.rank)
    own = torch.from_numpy(table)[rows.start : rows.stop]
    gram = summed_gram(group, rows, own)
    return gram.numpy(), group.gather(times(rows, own, gram), rows.counts).numpy()


def test_grams_and_products_are_those_of_one_process(processes):
    table = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32) * np.float32([1, 1, 1, 1e3, 1e-3, 0])
    one = processes.run(1, computed, table, (0, 40))[0]
    for bounds in ((0, 9, 40), (0, 0, 40), (0, 5, 9, 40), (0, 30, 30, 40), (0, 40, 40, 40)):
        for found in processes.run(len(bounds) - 1, computed, table, bounds):
            assert all(np.array_equal(*pair) for pair in zip(found, one, strict=True))
    exact = table.astype(np.float64)
    assert np.abs(one[0] - exact.T @ exact).max() < 1e-14 * np.abs(exact.T @ exact).max()
