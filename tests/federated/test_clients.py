from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.errors import ConfigError
from mrl.federated import assign_widths, make_clients


def test_clients_with_the_least_data_are_the_narrow_ones():
    counts = np.random.default_rng(0).permutation(100)
    widths = assign_widths(counts, (8, 16, 32), (5, 3, 2)).numpy()
    assert [int((widths == width).sum()) for width in (8, 16, 32)] == [50, 30, 20]
    assert counts[widths == 8].max() < counts[widths == 16].min() < counts[widths == 32].min()
    assert assign_widths(counts, (8, 16), (0, 1)).unique().tolist() == [16]


def test_every_user_is_a_client_or_dealt_to_one(data, config):
    assert make_clients(config(), data.train).owner.tolist() == list(range(90))
    dealt = make_clients(config(groups=7, seed=1), data.train)
    sizes = torch.bincount(dealt.owner)
    assert len(dealt) == 7 and sizes.min() >= 12 and sizes.sum() == 90
    assert not torch.equal(dealt.owner, make_clients(config(groups=7, seed=2), data.train).owner)
    with pytest.raises(ConfigError, match="groups=91: there are 90 users"):
        make_clients(config(groups=91), data.train)


@pytest.mark.parametrize("groups", [0, 9])
def test_clients_are_taken_out_with_what_is_theirs_and_put_back(data, config, groups):
    population = make_clients(config(groups=groups), data.train)
    population.users = torch.rand(90, 8)
    population.own["bias"] = torch.rand(len(population), 3)
    before = population.users.clone()
    seen = 0
    for clients in population.groups():
        rows = population.rows_of(clients.ids)
        assert population.owner[rows].tolist() == clients.ids[clients.owner].tolist()
        for place in (0, len(rows) - 1):
            assert torch.equal(clients.positives.of(place), data.train.of(int(rows[place])))
        assert clients.users.shape == (len(rows), clients.width)
        population.put(clients.updated(users=clients.users + 1, own={"bias": clients.own["bias"] * 0}))
        assert torch.equal(population.users[rows, : clients.width], before[rows, : clients.width] + 1)
        assert torch.equal(population.users[rows, clients.width :], before[rows, clients.width :])
        seen += len(rows)
    assert seen == 90 and not population.own["bias"].any()
