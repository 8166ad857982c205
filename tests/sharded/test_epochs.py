"""Epochs on shards: the tables and losses of `mrl.trainer.Trainer`, over shard counts, empty shards included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings import train_config
from sharded.test_rows import cut, drawn

from mrl import TrainConfig
from mrl.errors import ConfigError, MRLError
from mrl.kernels import candidates
from mrl.sharded import rows
from mrl.sharded.epochs import ShardedTrainer, check_epochs
from mrl.sharded.group import Group
from mrl.trainer import Trainer

USERS, ITEMS, PAIRS = 40, 60, 500


def config(**changes) -> TrainConfig:
    base = {"recipe": "mrl4rec", "widths": (2, 3, 8), "batch_size": 64, "epochs": 5, "candidates": 4, "device": "cpu"}
    return train_config(**base | {"learning_rate": 0.05} | changes)


def trained(group: Group, config: TrainConfig, seed: int, edges: list[int], epochs: int, windows: bool) -> tuple:
    """Tables, moments and losses after some epochs, the users in shares between the edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "TILE", 100)
        if windows:
            patch.setattr(candidates, "LARGE", 16)
            patch.setattr(candidates, "WINDOW", 8)
        users, positives = cut(USERS, sorted(edges)[: group.size - 1], 4, group.rank), drawn(USERS, ITEMS, PAIRS, seed)
        own = positives.take(torch.arange(users.start, users.stop))
        try:
            trainer = ShardedTrainer(config, group, own, users)
            losses = [trainer.run_epoch() for _ in range(epochs)]
        except MRLError as error:
            return f"{type(error).__name__}: {error}"
        sides = [trainer.users, trainer.items] * 3 + trainer.learned
        return [group.gather(t, side.counts) for t, side in zip(trainer.state(), sides, strict=True)], losses


KINDS = [("parameter.", ""), ("optimiser.", ".exp_avg"), ("optimiser.", ".exp_avg_sq")]


def trained_alone(config: TrainConfig, epochs: int, windows: bool) -> tuple[Trainer, dict[str, torch.Tensor], list]:
    """In one process without shards, on what its seed draws: the trainer, tables and moments by name, and losses."""
    with pytest.MonkeyPatch.context() as patch:
        if windows:
            patch.setattr(candidates, "LARGE", 16)
            patch.setattr(candidates, "WINDOW", 8)
        trainer = Trainer(config, drawn(USERS, ITEMS, PAIRS, config.seed), torch.device("cpu"))
        losses = [trainer.run_epoch() for _ in range(epochs)]
    names, state = [f"{kind}model.{side}{end}" for kind, end in KINDS for side in ("users", "items")], trainer.state()
    return trainer, {name: state[name] for name in names}, losses


CASES = {
    "mns": {},
    "shared": {"nested_negatives": False},
    "levels": {"levels_per_step": 2, "level_weights": (0.5, 0.2, 0.3)},
    "rns": {"rule": "rns"},
    "dns_mn": {"rule": "dns_mn", "topk": 2},
    "cns": {"rule": "cns"},
    "ahns": {"rule": "ahns"},
    "distance": {"similarity": "distance"},
    "automatic": {"batch_size": 0},
}  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 99),
    edges=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    size=st.integers(1, 3),
    case=st.sampled_from(list(CASES)),
    windows=st.booleans(),
)
def test_tables_are_those_of_one_process_bit_for_bit(processes, seed, edges, size, case, windows):
    settings = config(**CASES[case], seed=seed)
    found = processes.run(size, trained, settings, seed, edges, 2, windows)
    _, expected_tables, losses = trained_alone(settings, 2, windows)
    for tables, told in found:
        assert told == found[0][1], "losses are the same in all processes"
        for (name, expected), table in zip(expected_tables.items(), tables, strict=True):
            assert torch.equal(table, expected), name
        for (loss, by_level), (expected, expected_levels) in zip(told, losses, strict=True):
            assert loss == pytest.approx(expected, rel=1e-5)
            np.testing.assert_allclose(by_level, expected_levels, rtol=1e-5)


def resumed(group: Group, config: TrainConfig, edges: list[int]) -> list[torch.Tensor]:
    """As `trained` for three epochs, of which another trainer begins with the last."""
    users, positives = cut(USERS, edges[: group.size - 1], 4, group.rank), drawn(USERS, ITEMS, PAIRS, 1)
    own, trainer = positives.take(torch.arange(users.start, users.stop)), None
    for epoch in (0, 2):
        later = ShardedTrainer(config, group, own, users)
        if trainer is not None:
            later.load_state(trainer.state(), epoch, trainer.generator.get_state())
        trainer = later
        for _ in range(2 if not epoch else 1):
            loss = trainer.run_epoch()
    sides = [trainer.users, trainer.items] * 3 + trainer.learned
    return [group.gather(t, side.counts) for t, side in zip(trainer.state(), sides, strict=True)], loss


def test_a_trainer_goes_on_where_another_one_was(processes):
    expected, losses = processes.run(1, trained, config(), 1, [], 3, False)[0]
    for tables, loss in processes.run(2, resumed, config(), [1]):
        assert all(map(torch.equal, tables, expected)) and loss == losses[-1]


def test_losses_are_the_same_whatever_the_number_of_processes(processes):
    found = [processes.run(size, trained, config(levels_per_step=1), 3, [1, 2], 2, False)[0][1] for size in (1, 2, 3)]
    assert found[0] == found[1] == found[2]


def test_keyed_orders_train_alike_whatever_the_number_of_processes(processes):
    found = [processes.run(size, keyed, 3)[0] for size in (1, 2, 3)]
    for tables, losses in found:
        assert losses == found[0][1] and all(map(torch.equal, tables, found[0][0]))
    assert not torch.equal(found[0][0][0], processes.run(1, trained, config(), 3, [], 2, False)[0][0][0])


def keyed(group: Group, seed: int) -> tuple:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrl.sharded.order.DRAWN", 0)
        return trained(group, config(), seed, [1, 3], 2, False)


def test_a_training_that_diverges_is_an_error_in_all(processes):
    said = processes.run(3, trained, config(learning_rate=1e30), 0, [1, 2], 4, False)
    assert len({*said}) == 1 and said[0].startswith("RunError: training diverged in epoch "), said


def untrainable(group: Group) -> str:
    users = cut(3, [1, 2][: group.size - 1], 3, group.rank)
    own = drawn(3, 2, 200, 0).take(torch.arange(users.start, users.stop))
    try:
        return str(ShardedTrainer(config(), group, own, users))
    except MRLError as error:
        return str(error)


def test_where_there_is_nothing_to_train_on_all_say_so(processes):
    said = processes.run(2, untrainable)
    assert all("there is nothing to train on" in each for each in said)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"backbone": "lightgcn"},
            r"backbone='lightgcn': each step takes the vectors of all rows, gathered once a hop",
        ),
        ({"loss": "cml"}, r"loss='cml': .*; take loss='bpr', or processes=1"),
        ({"prototypes": 3.0}, r"prototypes=3.0: look at all items at each step; take prototypes=0, or processes=1"),
        ({"device": "cuda:1"}, r"device='cuda:1': epochs on shards run on CPUs; take device='cpu', or processes=1"),
    ],
    ids=["lightgcn", "loss", "prototypes", "device"],
)
def test_what_is_not_sharded_is_refused_in_one_line(changes, said):
    with pytest.raises(ConfigError, match=said):
        check_epochs(config(**changes))
    check_epochs(config())
