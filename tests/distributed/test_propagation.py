"""Propagation on shards against `mrl.least_squares.Propagation`, which has everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl import TrainConfig
from mrl.data.synthetic import planted
from mrl.distributed.propagation import propagated
from mrl.least_squares.fit import propagated as whole
from mrl.sharded import rows
from mrl.sharded.group import Group
from mrl.sharded.rows import shard, take_own

POSITIVES = planted(100, 60, 2000, (3, 3), seed=1).positives
TABLES = [torch.randn(size, 6, generator=torch.Generator().manual_seed(size)) for size in (100, 60)]


def config(shares: tuple[float, float], hops: int) -> TrainConfig:
    return TrainConfig(recipe="least_squares", hops=hops, least_squares={"propagation": shares})


def sharded(group: Group, settings: TrainConfig, fetched: int) -> list[np.ndarray]:
    rows.TILE = 300
    own, users = take_own(group, POSITIVES)
    made = shard(group, own, users, width=6, fetched=fetched)
    sides = made.users, made.items
    vectors = propagated(settings, made, tuple(TABLES[n][side.start : side.stop] for n, side in enumerate(sides)))
    return [group.gather(table, side.counts).numpy() for table, side in zip(vectors, sides, strict=True)]


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("hops", [0, 2])
def test_vectors_are_those_of_one_process(processes, shares, hops):
    settings = config(shares, hops)
    (alone,) = processes.run(1, sharded, settings, 2**20)
    for table, right in zip(alone, whole(settings, POSITIVES, tuple(TABLES)).vectors(), strict=True):
        np.testing.assert_allclose(table, right.numpy(), rtol=1e-5, atol=1e-6)  # other products, added up likewise
    for size, fetched in ((2, 2**20), (3, 60)):
        for found in processes.run(size, sharded, settings, fetched):
            assert all(np.array_equal(table, right) for table, right in zip(found, alone, strict=True)), size
