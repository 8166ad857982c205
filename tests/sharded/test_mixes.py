"""The rule mix on shards: the same bits in any number of processes; `mrl.trainer.Trainer` but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sharded.test_epochs import config, resumed, trained, trained_alone
from sharded.test_gates import CASES

from mrl.loss import NestedLoss, l2_penalty
from mrl.sampler import mix_hops
from mrl.sharded.mixes import mixed_gradients


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("windows", [False, True], ids=["all", "windows"])
def test_mix_is_the_same_in_any_number_of_processes(processes, case, windows):
    settings = config(**CASES[case], rule="mix", seed=1)
    shares = ((1, []), (2, [1]), (3, [2, 2]), (3, [4, 4]))  # where they end; some have no user
    found = [each for size, edges in shares for each in processes.run(size, trained, settings, 1, edges, 3, windows)]
    _, alone, losses = trained_alone(settings, 3, windows)
    for tables, told in found:
        assert told == found[0][1] and all(map(torch.equal, tables, found[0][0]))
    for table, (name, other) in zip(found[0][0], alone.items(), strict=True):
        assert (table - other).abs().max() < 1e-4 * other.abs().max(), name
    for (loss, by_level), (expected, expected_levels) in zip(found[0][1], losses, strict=True):
        assert loss == pytest.approx(expected, rel=1e-5) and by_level == pytest.approx(expected_levels, rel=1e-5)


def test_a_trainer_goes_on_where_another_one_was(processes):
    expected, losses = processes.run(1, trained, config(rule="mix"), 1, [], 3, False)[0]
    for tables, loss in processes.run(2, resumed, config(rule="mix"), [1]):
        assert all(map(torch.equal, tables, expected)) and loss == losses[-1]


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_of_autograd(shared):
    generator = torch.Generator().manual_seed(0)
    picks, widths, l2, batch = 1 if shared else 2, (2, 4), 0.1, 8
    users, items = torch.randn(5, 4, generator=generator), torch.randn(5, 1 + picks, 4, generator=generator)
    share = torch.rand(5, picks, 1, generator=generator)
    loss = NestedLoss(widths)
    weights = loss.level_weights.numpy()
    found = mixed_gradients(users, items, share, np.array(widths), weights, l2, batch)
    users.requires_grad_(), items.requires_grad_()
    positives, negatives = items[:, 0], mix_hops(share, items[:, :1], items[:, 1:, None])
    whole = (loss(users, positives, negatives)[0] + l2_penalty(l2, users, items)) * (5 / batch)
    whole.backward()
    assert found.loss == pytest.approx(float(whole.detach()), rel=1e-6)
    np.testing.assert_allclose(found.users, users.grad, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.items, items.grad, rtol=1e-5, atol=1e-7)
    each = found.each @ weights + l2 / 2 * found.norms
    assert float(each.sum()) / batch == pytest.approx(found.loss, rel=1e-6)
