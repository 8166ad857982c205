"""The gates of `dens` on shards: tables, gates and losses of `mrl.trainer.Trainer` but for rounding."""

from __future__ import annotations

import pytest
import torch
from sharded.test_epochs import config, resumed, trained, trained_alone
from sharded.test_rows import drawn

from mrl.sampler import NegativeSampler
from mrl.sharded.gates import Gates
from mrl.sharded.group import Group

NEAR = 1e-4  # of the largest entry; found: 5e-6
CASES = {
    "mns": {},
    "shared": {"nested_negatives": False},
    "levels": {"levels_per_step": 2, "level_weights": (0.5, 0.2, 0.3)},
    "cosine": {"similarity": "cosine"},
}


def whole_gates(state: dict[str, torch.Tensor], sampler: NegativeSampler) -> torch.Tensor:
    """What `Gates.table` has, of the state of a trainer in one process."""
    parts = []
    for name, _ in sampler.named_parameters():
        parts.append(state[f"parameter.sampler.{name}"])
        parts += [state[f"optimiser.sampler.{name}.{end}"] for end in ("exp_avg", "exp_avg_sq", "step")]
    return torch.cat([part.flatten() for part in parts])


# the second of three processes has no user, or the last two have none
@pytest.mark.parametrize("size, edges", [(1, []), (2, [1]), (3, [2, 2]), (3, [4, 4])], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("windows", [False, True], ids=["all", "windows"])
def test_dens_is_that_of_one_process_but_for_rounding(processes, size, edges, case, windows):
    settings = config(**CASES[case], rule="dens", seed=1)
    found = processes.run(size, trained, settings, 1, edges, 3, windows)
    alone, expected, losses = trained_alone(settings, 3, windows)
    for tables, told in found:
        assert told == found[0][1] and all(map(torch.equal, tables, found[0][0])), "the same in all processes"
        for table, other in zip(tables[:-1], expected.values(), strict=True):
            assert (table - other).abs().max() < NEAR * other.abs().max()
        gates, other = tables[-1].flatten(), whole_gates(alone.state(), alone.sampler)
        assert not gates[len(other) :].any() and (gates[: len(other)] - other).abs().max() < NEAR
        for (loss, by_level), (one, one_by_level) in zip(told, losses, strict=True):
            assert loss == pytest.approx(one, rel=1e-5) and by_level == pytest.approx(one_by_level, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"levels_per_step": 1}], ids=["all", "some"])
def test_a_trainer_goes_on_where_another_one_was(processes, changes):
    settings = config(rule="dens", **changes)
    for size in (1, 2):
        expected, losses = processes.run(size, trained, settings, 1, [1], 3, False)[0]
        for tables, loss in processes.run(size, resumed, settings, [1]):
            assert all(map(torch.equal, tables, expected)) and loss == losses[-1]


def test_a_training_that_diverges_is_an_error_in_all(processes):
    said = processes.run(3, trained, config(rule="dens", learning_rate=1e30), 0, [1, 2], 4, False)
    assert len({*said}) == 1 and said[0].startswith("RunError: training diverged in epoch "), said


def test_gates_that_have_not_been_taught_are_handed_on_as_they_are():
    positives = drawn(5, 9, 20, 0)
    generators = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    samplers = (NegativeSampler(positives, (2, 4), rule="dens", generator=each) for each in generators)
    first, other = (Gates(Group(), sampler, 0.1) for sampler in samplers)
    table = first.table()
    assert table.shape == (first.rows.total, 4) and first.is_finite()
    other.load(table)
    assert torch.equal(other.table(), table) and all(not other.optimiser.state[each] for each in other.parameters)
    step = first.sampler.step(torch.tensor([0, 3]), [1], 0.0, None)
    users, items = torch.randn(2, 4), torch.randn(2, 2, 4)
    for each in (first, other):
        loss, by_user, by_item = each.step(step, users, items)
        assert loss > 0 and by_user.shape == users.shape and by_item.shape == items.shape
    assert torch.equal(first.table(), other.table()) and not torch.equal(first.table(), table)
    first.parameters[0].data.fill_(float("nan"))
    assert not first.is_finite()
