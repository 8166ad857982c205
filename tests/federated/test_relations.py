"""Decorrelation and distillation against NumPy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.federated.relations import decorrelation, distillation, gradient


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_decorrelation_is_the_distance_of_the_correlations_from_none():
    items = drawn(30, 6) @ drawn(6, 6)
    expected = np.linalg.norm(np.corrcoef(items.numpy().T) - np.eye(6)) / 6
    assert float(decorrelation(items)) == pytest.approx(expected, rel=1e-6)


def test_columns_that_say_the_same_count_and_orthogonal_ones_do_not():
    alike = drawn(20, 1).repeat(1, 4) * torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)
    assert float(decorrelation(alike)) == pytest.approx(12**0.5 / 4, rel=1e-6)
    apart = torch.linalg.qr(torch.cat([torch.ones(20, 1, dtype=torch.float64), drawn(20, 4)], 1))[0][:, 1:]
    assert float(decorrelation(apart)) < 1e-6
    assert torch.isfinite(gradient(decorrelation, apart)).all()


def test_a_constant_column_has_a_finite_gradient():
    assert torch.isfinite(gradient(decorrelation, torch.zeros(9, 3))).all()


def test_following_the_gradient_decorrelates():
    items = drawn(40, 5) @ drawn(5, 5)
    before = float(decorrelation(items))
    for _ in range(200):
        items = items - 30 * gradient(decorrelation, items)
    assert float(decorrelation(items)) < before / 10


def test_distillation_is_how_far_cosines_of_the_widths_are_from_their_mean():
    items, widths = drawn(7, 8), (2, 4, 8)
    cosines = np.zeros((3, 7, 7))
    for level, width in enumerate(widths):
        for i in range(7):
            for j in range(7):
                p, q = items[i, :width].numpy(), items[j, :width].numpy()
                cosines[level, i, j] = p @ q / np.linalg.norm(p) / np.linalg.norm(q)
    expected = ((cosines - cosines.mean(0)) ** 2).mean()
    assert float(distillation(items, widths)) == pytest.approx(expected, rel=1e-6)


def test_the_mean_of_the_cosines_is_held_fixed():
    items, widths = drawn(7, 8), (2, 8)
    leaves = [items.clone().requires_grad_() for _ in range(2)]
    # the gradient with the mean given as a constant
    units = [torch.nn.functional.normalize(leaves[0][:, :width], dim=1) for width in widths]
    cosines = torch.stack([unit @ unit.T for unit in units])
    constant = cosines.mean(0).detach()
    (cosines - constant).square().mean().backward()
    torch.testing.assert_close(gradient(lambda table: distillation(table, widths), items), leaves[0].grad)
    assert float(distillation(torch.cat([drawn(5, 2), torch.zeros(5, 2, dtype=torch.float64)], 1), (2, 4))) < 1e-12
