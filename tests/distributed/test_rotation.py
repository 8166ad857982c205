"""The learned rotation on shards: the same in any number of processes; as good as that of one which has everything."""

from __future__ import annotations

import numpy as np
import torch

from mrl import TrainConfig
from mrl.data.synthetic import planted
from mrl.distributed.rotation import initial_vectors, learn_rotation, teacher
from mrl.least_squares import learn_rotation as whole
from mrl.least_squares import rotation
from mrl.sharded import rows
from mrl.sharded.group import Group
from mrl.sharded.rows import shard, take_own

POSITIVES = planted(300, 60, 5000, (3, 3), seed=1).positives
TABLES = [torch.randn(size, 8, generator=torch.Generator().manual_seed(size)) for size in (300, 60)]
WIDTHS = (2, 4)


def config(rotation: bool) -> TrainConfig:
    chosen = {"rotation": rotation, "propagation": (0.0, 0.0)}
    return TrainConfig(recipe="least_squares", widths=WIDTHS, hops=1, least_squares=chosen, seed=3)


def sharded(group: Group, settings: TrainConfig) -> tuple:
    rows.TILE = 1000
    own, users = take_own(group, POSITIVES)
    made = shard(group, own, users, width=8)
    sides = made.users, made.items
    factors = tuple(TABLES[n][side.start : side.stop] for n, side in enumerate(sides))
    rotation, loss = learn_rotation(settings, made, factors, steps=20)
    vectors, ego, _ = initial_vectors(settings, made, factors)
    tables = [group.gather(table, side.counts).numpy() for table, side in zip(vectors, sides, strict=True)]
    return rotation.numpy(), loss, *tables, *(table.numpy() for table in ego)


def test_rotations_are_the_same_in_any_number_of_processes(processes):
    one = processes.run(1, sharded, config(True))[0]
    for size in (2, 3):
        for found in processes.run(size, sharded, config(True)):
            assert all(np.array_equal(*pair) for pair in zip(found[:4], one[:4], strict=True))
    _, loss = whole(*TABLES, POSITIVES, WIDTHS, steps=20, seed=3)
    assert abs(one[1] - loss) < 1e-4
    assert np.abs(one[0].T @ one[0] - np.eye(4)).max() < 1e-5, "columns of a rotation"


def taught(group: Group, settings: TrainConfig) -> list[np.ndarray]:
    own, users = take_own(group, POSITIVES)
    made = shard(group, own, users, width=8)
    factors = tuple(TABLES[n][side.start : side.stop] for n, side in enumerate((made.users, made.items)))
    return [group.gather(table, made.users.counts).numpy() for table in teacher(settings, made, factors)]


def test_what_teaches_is_what_teaches_in_one_process(processes):
    expected = rotation.teacher(*TABLES, POSITIVES)
    for found in processes.run(2, taught, config(False)):
        for wanted, table in zip(expected, found, strict=True):
            np.testing.assert_allclose(table, wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_without_a_rotation_the_leading_columns_are_served(processes):
    for found in processes.run(2, sharded, config(False)):
        assert np.array_equal(found[2], TABLES[0][:, :4].numpy()) and np.array_equal(found[3], TABLES[1][:, :4].numpy())
