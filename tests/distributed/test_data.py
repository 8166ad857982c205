"""The data of a run on shards: of a data set that every process reads whole."""

from __future__ import annotations

import numpy as np
import torch

from mrl import TrainConfig, load_data
from mrl.distributed.data import load_sharded, sample_of_users
from mrl.sharded import rows
from mrl.sharded.group import Group

PLANTED = {"num_users": 200, "num_items": 60, "interactions": 3000, "branching": (3, 3)}
CONFIG = TrainConfig(dataset="planted", planted=PLANTED, recipe="least_squares")


def sharded(group: Group) -> tuple:
    rows.TILE = 300
    data = load_sharded(CONFIG, group)
    sample = sample_of_users(data, torch.tensor([0, 3, 50, 199]))
    told = None if sample is None else (sample.train.items.tolist(), sample.test.counts.tolist(), sample.user_ids)
    own = [part.items.tolist() for part in (data.own.train, data.own.valid, data.own.test)]
    return data.fingerprint, data.merge_valid().fingerprint, own, told, (data.num_users, data.num_items, data.name)


def test_shards_are_the_data_set(processes):
    whole = load_data(CONFIG)
    for size in (1, 2, 3):
        found = processes.run(size, sharded)
        assert {each[0] for each in found} == {whole.fingerprint}
        assert {each[1] for each in found} == {whole.merge_valid().fingerprint}
        for part, positives in enumerate((whole.train, whole.valid, whole.test)):
            assert [item for each in found for item in each[2][part]] == positives.items.tolist()
        taken = torch.tensor([0, 3, 50, 199])
        train, test, ids = found[0][3]
        assert train == whole.train.take(taken).items.tolist() and test == whole.test.counts[taken].tolist()
        assert np.array_equal(ids, whole.user_ids[taken.numpy()])
        assert all(each[3] is None for each in found[1:])
        assert found[0][4] == (whole.num_users, whole.num_items, "planted")
