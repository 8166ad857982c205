from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mrl.federated import Message, Simulation


def ran(simulation: Simulation, rounds: int = 6) -> list[dict]:
    return [simulation.round() for _ in range(rounds)]


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


SOME = {"fraction": 0.5, "dropout": 0.2, "stragglers": 0.3, "activity": 1.0, "rounds": 20}


def test_the_same_seed_makes_the_same_rounds_and_another_makes_others(data, config):
    first, second, other = (Simulation(config(**SOME, seed=seed), data.train) for seed in (1, 1, 2))
    rows = ran(first)
    assert without_seconds(rows) == without_seconds(ran(second)) != without_seconds(ran(other))
    assert torch.equal(first.server.items, second.server.items)


@pytest.mark.parametrize("late", ["discard", "count"])
@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_a_simulation_goes_on_from_its_state_to_the_last_bit(data, config, late, memory):
    settings = config(**SOME, late=late, memory=memory)
    whole, begun, resumed = (Simulation(settings, data.train) for _ in range(3))
    rows = ran(whole, 8)
    ran(begun, 5)
    assert (late == "count") == bool(begun.late)
    resumed.load_state(*begun.state())
    assert without_seconds(ran(resumed, 3)) == without_seconds(rows[5:])
    assert torch.equal(resumed.server.items, whole.server.items)
    assert torch.equal(resumed.population.users, whole.population.users)


def test_the_clients_of_a_round_are_drawn_some_drop_out_and_some_are_late(data, config):
    simulation = Simulation(config(**SOME, late="count"), data.train)
    rows = ran(simulation, 12)
    assert all(row["drawn"] == 45 or row["drawn"] == 90 - before["late"] for before, row in pairwise(rows))
    dropped, late = (sum(row[name] for row in rows) / sum(row["drawn"] for row in rows) for name in ("dropped", "late"))
    assert 0.1 < dropped < 0.3 and 0.14 < late < 0.34
    assert rows[0]["bytes_down"] > rows[0]["bytes_up"] * 0.5 > 0


def test_active_clients_are_drawn_more_often(data, config):
    counts = torch.zeros(data.num_users)
    simulation = Simulation(config(fraction=0.2, activity=2.0, rounds=20), data.train)
    for _ in range(40):
        counts[torch.from_numpy(simulation._draw()[0])] += 1
    order = data.train.counts.argsort()
    assert counts[order[:30]].mean() < 0.5 * counts[order[-30:]].mean()


def test_a_late_message_is_counted_in_the_next_round_or_discarded(data, config):
    """Where everybody is late, the first round changes nothing; the next one has their messages, if they count."""
    simulation = Simulation(config(late="count"), data.train)
    on_time = Simulation(config(), data.train)
    on_time.round()
    start = simulation.server.items.clone()
    everybody = torch.arange(90).numpy()
    nobody = everybody < 0
    simulation._draw = lambda: (everybody, nobody, ~nobody)
    row = simulation.round()
    assert row["late"] == 90 and row["bytes_up"] > 0 and torch.equal(simulation.server.items, start)
    assert simulation.busy.all()
    simulation._draw = lambda: (everybody[:0], nobody[:0], nobody[:0])
    simulation.round()
    torch.testing.assert_close(simulation.server.items, on_time.server.items, rtol=1e-4, atol=1e-5)
    discarding = Simulation(config(), data.train)
    discarding._draw = lambda: (everybody, nobody, ~nobody)
    ran(discarding, 3)
    assert torch.equal(discarding.server.items, start)


def nan(client: int, message: Message) -> Message:
    tensors = {name: tensor.clone() for name, tensor in message.tensors.items()}
    next(iter(tensors.values()))[0, 0] = torch.nan
    return replace(message, tensors=tensors)


FAULTS = {
    "not finite": nan,
    "shape": lambda client, message: replace(message, tensors={name: t[:-1] for name, t in message.tensors.items()}),
    "round": lambda client, message: replace(message, round=message.round - 1),
    "norm": lambda client, message: replace(message, tensors={name: 1e6 * t for name, t in message.tensors.items()}),
    "nothing": lambda client, message: None,
}


@pytest.mark.robustness
@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_client_is_refused_by_name_and_the_round_goes_on_without_it(data, config, reason):
    bad = [3, 80]
    settings = config(max_norm=1e4)
    simulation = Simulation(settings, data.train, bad=bad, tamper=FAULTS[reason])
    rows = ran(simulation, 5)
    assert [row["refused"] for row in rows] == [2] * 5
    assert rows[-1]["why"] == f"{reason} 2 (clients 3, 80)"
    without = Simulation(settings, data.train)
    everybody = torch.arange(90)
    kept = everybody[~torch.isin(everybody, torch.tensor(bad))].numpy()
    without._draw = lambda: (kept, kept < 0, kept < 0)
    assert all(row["refused"] == 0 for row in ran(without, 5))
    torch.testing.assert_close(simulation.server.items, without.server.items, rtol=1e-3, atol=1e-4)


@pytest.mark.robustness
def test_a_huge_norm_is_told_without_making_the_message_apart(data, config):
    free = Simulation(config(), data.train)
    ran(free, 4)
    strict = Simulation(config(max_norm=6.0), data.train)
    rows = ran(strict, 4)
    assert rows[-1]["refused"] > 5 and rows[-1]["why"].startswith("norm ") and ", …)" in rows[-1]["why"]
    assert torch.isfinite(strict.server.items).all() and not torch.equal(strict.server.items, free.server.items)


@pytest.mark.robustness
def test_an_infinite_message_is_refused_without_a_limit_of_norms(data, config):
    simulation = Simulation(config(method="hetefedrec"), data.train)
    simulation.population.users[3, :2] = 1e38
    row = simulation.round()
    assert row["why"] == "not finite 1 (client 3)" and torch.isfinite(simulation.server.items).all()


@pytest.mark.robustness
def test_a_round_in_which_all_drop_out_changes_nothing(data, config):
    simulation = Simulation(config(), data.train)
    ran(simulation, 4)
    before = simulation.server.items.clone()
    everybody = torch.arange(90).numpy()
    simulation._draw = lambda: (everybody, everybody >= 0, everybody < 0)
    row = simulation.round()
    assert row["dropped"] == 90 and row["bytes_up"] == 0 < row["bytes_down"] and row["round"] == 5
    assert torch.equal(simulation.server.items, before)


def test_only_wide_clients_take_part_in_the_scenario_wide(data, config):
    simulation = Simulation(config(scenario="wide"), data.train)
    rows = ran(simulation, 4)
    assert {row["drawn"] for row in rows} == {18}
    users, items = simulation.vectors()
    assert items.shape == (64, 8) and users[simulation.population.widths == 2, :2].abs().min(1).values.max() > 0
    narrow = Simulation(config(scenario="narrow"), data.train)
    ran(narrow, 4)
    assert narrow.population.widths.unique().tolist() == [2] and not narrow.server.items[:, 2:].any()
