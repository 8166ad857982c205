"""Backbones: initial values, and propagation against a dense loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data.interactions import Positives
from mrl.errors import ConfigError
from mrl.model import LightGCN, MatrixFactorization


def small() -> tuple[Positives, torch.Tensor]:
    met = np.random.default_rng(0).random((7, 11)) < 0.3
    met[2], met[:, 5] = False, False  # a user and an item without interactions
    return Positives.from_pairs(*np.nonzero(met), 7, 11), torch.from_numpy(met).double()


def dense_adjacency(met: torch.Tensor) -> torch.Tensor:
    users, items = met.shape
    adjacency = torch.zeros(users + items, users + items, dtype=torch.float64)
    adjacency[:users, users:], adjacency[users:, :users] = met, met.T
    scale = adjacency.sum(1).clamp_min(1e-300).rsqrt()
    scale[adjacency.sum(1) == 0] = 0
    return scale[:, None] * adjacency * scale


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_lightgcn_is_the_mean_over_hops_of_dense_propagation_with_its_gradient(hops: int) -> None:
    positives, met = small()
    model = LightGCN(positives, 5, hops=hops, generator=torch.Generator().manual_seed(0)).double()
    ego = torch.cat([model.users, model.items]).detach().requires_grad_()
    layers = [ego]
    for _ in range(hops):
        layers.append(dense_adjacency(met) @ layers[-1])
    expected = sum(layers) / len(layers)
    users, items = model()
    torch.testing.assert_close(torch.cat([users, items]), expected, rtol=1e-6, atol=1e-6)
    by_hop = model.by_hop()
    assert by_hop[0].shape == (7, hops + 1, 5) and by_hop[1].shape == (11, hops + 1, 5)
    torch.testing.assert_close(by_hop[1].mean(1), items)
    weights = torch.randn(18, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (torch.cat([users, items]) * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(torch.cat([model.users.grad, model.items.grad]), ego.grad, rtol=1e-6, atol=1e-6)


def test_xavier_bounds_and_equal_start_for_a_seed() -> None:
    one, two = (MatrixFactorization(40, 60, 8, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.users, two.users) and torch.equal(one.items, two.items)
    for table in (one.users, one.items):
        bound = (6 / (len(table) + 8)) ** 0.5
        assert table.abs().max() <= bound
        assert table.abs().max() > 0.9 * bound


@pytest.mark.parametrize("option", ["edge_dropout", "message_dropout"])
def test_dropout_keeps_the_mean_acts_only_in_training_and_follows_its_generator(option: str) -> None:
    positives, _ = small()
    model = LightGCN(positives, 4, hops=1, generator=torch.Generator().manual_seed(0), **{option: 0.4})
    model.eval()
    calm = model()[0].detach()
    model.train()
    repeats = [model(torch.Generator().manual_seed(9))[0] for _ in range(2)]
    assert torch.equal(*repeats) and not torch.equal(repeats[0], calm)
    generator = torch.Generator().manual_seed(1)
    mean = torch.stack([model(generator)[0].detach() for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, calm, rtol=0, atol=0.03)


@pytest.mark.parametrize("options", [{"hops": -1}, {"edge_dropout": 1.0}, {"message_dropout": -0.1}])
def test_impossible_settings_are_named(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LightGCN(small()[0], 4, **options)
