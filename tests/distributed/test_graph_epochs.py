"""Epochs through the graph on shards: those of `mrl.trainer.Trainer` to rounding, over shard counts, empty included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings import train_config
from sharded.test_rows import cut, drawn

from mrl import TrainConfig
from mrl.distributed.graph_epochs import GraphTrainer, check_graph_epochs
from mrl.errors import ConfigError, MRLError
from mrl.least_squares import Propagation
from mrl.least_squares.rotation import first_items
from mrl.sharded import rows
from mrl.sharded.group import Group
from mrl.sharded.rows import shard
from mrl.trainer import Trainer

USERS, ITEMS, PAIRS = 40, 60, 500
GIVEN = {"alpha0": 0.1, "frequency_l2": 0.01, "fit_width": 8, "sweeps": 1, "nested_sweeps": 0, "rotation": False}
SOFTMAX = {"ITEMS": 10, "ITEM_SHARE": 0.3}  # so that items are sampled, of so few, too


def config(**changes) -> TrainConfig:
    base = {"recipe": "default", "widths": (2, 3, 8), "batch_size": 100, "epochs": 5, "device": "cpu", "hops": 2}
    return train_config(**GIVEN | base | {"propagation": (0.5, 0.0), "learning_rate": 0.01} | changes)


def start(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 8, generator=generator) / 3 for count in (USERS, ITEMS)]


def teacher(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    wide = (torch.randn(count, 12, generator=generator) for count in (USERS, ITEMS))
    return first_items(*wide, drawn(USERS, ITEMS, PAIRS, seed))


def trained(group: Group, config: TrainConfig, seed: int, edges: list[int], epochs: int, resumed: bool = False):
    """Vectors before and after some epochs, and losses, by users in shares between the edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "TILE", 100)
        for name, value in SOFTMAX.items():
            patch.setattr(f"mrl.softmax.{name}", value)
        users, positives = cut(USERS, sorted(edges)[: group.size - 1], 4, group.rank), drawn(USERS, ITEMS, PAIRS, seed)
        made = shard(group, positives.take(torch.arange(users.start, users.stop)), users, width=8)
        tables = [table[side.start : side.stop] for table, side in zip(start(seed), (users, made.items), strict=True)]
        try:
            taught = tuple(table[users.start : users.stop] for table in teacher(seed))
            trainer, losses = GraphTrainer(config, made, tables, taught), []
            found = [trainer.kept()]
            for _ in range(epochs):
                losses.append(trainer.run_epoch())
                if resumed:
                    later = GraphTrainer(config, made, [torch.zeros_like(table) for table in tables], taught)
                    later.load_state(trainer.state(), trainer.epoch, trainer.generator.get_state())
                    trainer = later
        except MRLError as error:
            return f"{type(error).__name__}: {error}"
        sides = [users, made.items] * 2
        found.append(trainer.kept())
        return [[group.gather(t, side.counts) for t, side in zip(each, sides, strict=True)] for each in found], losses


def flat(losses: list[tuple[float, list[float]]]) -> list[list[float]]:
    """Of each epoch the loss, and the term of each level: NaN where no step had it."""
    return [[loss, *by_level] for loss, by_level in losses]


CASES = {
    "all levels": {},
    "some": {"levels_per_step": 1, "level_weights": (0.5, 0.2, 0.3)},
    "both shares": {"propagation": (0.7, 0.4), "hops": 3},
    "automatic": {"batch_size": 0, "l2": 0.1},
}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 99),
    edges=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    size=st.integers(1, 3),
    case=st.sampled_from(list(CASES)),
)
def test_vectors_are_those_of_one_process(processes, seed, edges, size, case):
    settings = config(**CASES[case], seed=seed)
    found = processes.run(size, trained, settings, seed, edges, 2)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SOFTMAX.items():
            patch.setattr(f"mrl.softmax.{name}", value)
        shares = dict(zip(("user_share", "item_share"), settings.least_squares.propagation, strict=True))
        positives = drawn(USERS, ITEMS, PAIRS, seed)
        model = Propagation(positives, start(seed), hops=settings.hops, **shares)
        model.teacher = teacher(seed)
        alone = Trainer(settings, positives, torch.device("cpu"), model)
        before = alone.vectors()
        losses = [alone.run_epoch() for _ in range(2)]
    after = [*alone.vectors(), *(alone.averages[name] for name in ("users", "items"))]
    for (begun, ended), told in found:
        for table, expected in zip([*begun[:2], *ended], [*before, *after], strict=True):
            np.testing.assert_allclose(table.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(flat(told), flat(found[0][1]), "losses are the same in all processes")
        np.testing.assert_allclose(flat(told), flat(losses), rtol=1e-4)


def test_a_trainer_goes_on_where_another_one_was(processes):
    (_, expected), losses = processes.run(2, trained, config(), 1, [1], 3)[0]
    (_, tables), again = processes.run(2, trained, config(), 1, [1], 3, True)[0]
    assert again == losses and all(map(torch.equal, tables, expected))


def test_a_training_that_diverges_is_an_error_in_all(processes):
    said = processes.run(3, trained, config(learning_rate=1e30), 0, [1, 2], 4)
    assert len({*said}) == 1 and said[0].startswith("RunError: training diverged in epoch "), said


def untrainable(group: Group) -> str:
    users = cut(3, [1, 2][: group.size - 1], 3, group.rank)
    made = shard(group, drawn(3, 2, 200, 0).take(torch.arange(users.start, users.stop)), users, width=8)
    try:
        return str(
            GraphTrainer(config(), made, [torch.zeros(side.stop - side.start, 8) for side in (users, made.items)])
        )
    except MRLError as error:
        return str(error)


def test_where_there_is_nothing_to_train_on_all_say_so(processes):
    assert all("there is nothing to train on" in each for each in processes.run(2, untrainable))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"loss": "bpr"}, "loss='bpr': .*; take loss='softmax', or processes=1"),
        ({"prototypes": 3.0}, "prototypes=3.0: look at all items at each step; take prototypes=0, or processes=1"),
        ({"edge_dropout": 0.1}, "edge_dropout=0.1: .*; take edge_dropout=0, or processes=1"),
        ({"message_dropout": 0.1}, "message_dropout=0.1: .*; take message_dropout=0, or processes=1"),
    ],
    ids=["loss", "prototypes", "edges", "messages"],
)
def test_what_is_not_sharded_is_refused_in_one_line(changes, said):
    with pytest.raises(ConfigError, match=said):
        check_graph_epochs(config(**changes))
    check_graph_epochs(config())
