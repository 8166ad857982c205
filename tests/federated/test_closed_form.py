from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrl.data import Positives
from mrl.federated import Server, Simulation, make_clients, make_method, upload_bytes
from mrl.federated.closed_form import block_spans
from mrl.least_squares import ials, nested_least_squares, rotate
from mrl.least_squares.axes import balance
from mrl.least_squares.ials import frequency_l2, transpose
from mrl.least_squares.nested import solve_blocks

SCALE = {"alpha0": 0.1, "l2": 0.01, "nu": 0.7}


def after_start(config, positives, items=None) -> Simulation:
    """A simulation whose next round is the first sweep."""
    simulation = Simulation(config, positives)
    while simulation.server.round < config.start_rounds:
        simulation.round()
    if items is not None:
        simulation.server = simulation.server.with_tensors(items=items)
    return simulation


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("groups", [0, 6])
def test_all_clients_at_full_width_make_the_central_sweep(data, config, block, groups):
    """Users and items of two sweeps, from the same start, within 1e-5."""
    widths, weights = (2, 4, 8), (0.2, 0.5, 0.3)
    positives = data.train
    settings = config(
        widths=widths, level_weights=weights, shares=(0, 0, 1), block=block, groups=groups, l2=0.01, nu=0.7
    )
    factors = ials(positives, 8, **SCALE, sweeps=2)
    user_l2 = frequency_l2(positives.counts, positives.num_items, **SCALE)
    item_l2 = frequency_l2(transpose(positives).counts, positives.num_users, **SCALE)
    users, items = balance(*rotate(*factors), user_l2, item_l2)  # what the central sweeps begin with
    simulation = after_start(settings, positives, items)
    simulation.population.users = users.clone()
    levels = {"level_weights": weights}
    if block:  # the sweep of the items goes by single columns, of which those between the widths weigh nothing
        spread = [weights[widths.index(width)] if width in widths else 0.0 for width in range(1, 9)]
        for _ in range(2):
            users = solve_blocks(users, items, positives, user_l2, widths=widths, alpha0=0.1, **levels)
            items = solve_blocks(
                items, users, transpose(positives), item_l2, widths=range(1, 9), alpha0=0.1, level_weights=spread
            )
    else:
        users, items = nested_least_squares(positives, widths, factors, **levels, **SCALE, sweeps=2)
    for _ in range(2):
        simulation.round()
    assert relative(simulation.population.users, users) < 1e-5
    assert relative(simulation.server.items, items) < 1e-5


def test_clients_of_different_width_minimise_the_sum_of_what_each_fits(data, config):
    """The gradient of the objective, written out client by client, is zero in the block that was solved last."""
    settings = config(nu=1.0, l2=0.02, l2_width_exponent=0.5, level_weights=(0.5, 0.2, 0.3))
    simulation = after_start(settings, data.train)
    for _ in range(2):
        simulation.round()
    users, widths = simulation.population.users.double(), simulation.population.widths.tolist()
    items = simulation.server.items.double().requires_grad_()
    loss, mass = 0.0, torch.zeros(3, data.num_items, dtype=torch.float64)
    for user, held in enumerate(widths):
        met = torch.zeros(data.num_items, dtype=torch.float64)
        met[data.train.of(user).long()] = 1
        for level, (width, weight) in enumerate(zip((2, 4, 8), settings.weights, strict=True)):
            if width > held:
                continue
            scores = items[:, :width] @ users[user, :width]
            loss = loss + weight * ((met * (1 - scores) ** 2).sum() + 0.1 * (scores**2).sum())
            mass[: level + 1] += weight * (met + 0.1)
    penalty = mass.repeat_interleave(torch.tensor([2, 2, 4]), 0).T * 0.02  # (I, D); c is 1 up to 16 dimensions
    (gradient,) = torch.autograd.grad(loss + (penalty * items**2).sum(), items)
    assert gradient[:, 4:].abs().max() < 1e-4 < gradient[:, :4].abs().max()
    assert not users[torch.tensor(widths) == 2, 2:].any()


def cohort(simulation: Simulation, step: int = 0):
    """Each group with what it uploads in a step of the next round."""
    method, server = simulation.method, replace(simulation.server, round=simulation.server.round + 1)
    for clients in simulation.population.groups():
        for at in range(step + 1):
            broadcast = method.broadcast(server, clients.width, at)
            if broadcast is not None:
                clients, uploads = method.work(clients, broadcast)
        if broadcast is not None:
            yield clients, uploads


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("rounds", [0, 4])
def test_what_a_client_sends_depends_on_its_own_data_alone(data, config, rounds, step):
    """The messages of client u, where all others have other items and vectors: the same, but for rounding."""
    simulation = Simulation(config(), data.train)
    for _ in range(rounds):
        simulation.round()
    changed = Simulation(config(), data.train)
    changed.server = simulation.server
    for clients, uploads in cohort(simulation, step):
        u = len(clients) // 2
        client = int(clients.ids[u])
        generator = torch.Generator().manual_seed(client)
        pairs = torch.rand(data.num_users, data.num_items, generator=generator) < 0.3
        pairs[client] = False
        pairs[client, data.train.of(client).long()] = True
        others = Positives.from_pairs(*pairs.nonzero().T.numpy(), data.num_users, data.num_items)
        population = make_clients(config(), others, data.train.counts)  # of the same widths
        population.users = torch.rand(data.num_users, 8, generator=generator)
        population.users[client] = simulation.population.users[client]
        changed.population = population
        again = next(each for each in cohort(changed, step) if client in each[0].ids)
        message, repeated = uploads.alone(u), again[1].alone(again[0].ids.tolist().index(client))
        for name, tensor in message.tensors.items():
            torch.testing.assert_close(repeated.tensors[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_the_server_has_nothing_of_a_single_client(data, config, memory):
    """No tensor of the server has a row for a client, and it is the same whoever of two clients is which."""
    settings = config(memory=memory)
    first = Simulation(settings, data.train)
    order = torch.arange(data.num_users)
    same = torch.arange(data.num_users)[first.population.widths == 2][:2]
    order[same] = same.flip(0)
    second = Simulation(settings, data.train.take(order), sizes=data.train.counts[order])
    second.population.widths = first.population.widths[order]
    for _ in range(5):
        first.round(), second.round()
    for name, tensor in first.server.tensors.items():
        assert data.num_users not in tensor.shape, name
        torch.testing.assert_close(second.server.tensors[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [0, 8])
@pytest.mark.parametrize("rounds", [1, 4])
def test_norms_and_sums_are_those_of_the_messages_one_by_one(data, config, rounds, groups):
    simulation = Simulation(config(block=1, groups=groups), data.train)
    for _ in range(rounds):
        simulation.round()
    for step in (0, 1):
        for clients, uploads in cohort(simulation, step):
            lone = [uploads.alone(place) for place in range(len(clients))]
            torch.testing.assert_close(uploads.norms, torch.tensor([each.norm for each in lone]), rtol=1e-4, atol=1e-5)
            total = uploads.total(torch.ones(len(clients)))
            for name, tensor in total.tensors.items():
                summed = torch.stack([each.tensors[name] for each in lone]).sum(0)
                torch.testing.assert_close(summed, tensor, rtol=1e-4, atol=1e-4)
            assert total.clients == len(clients) and {each.bytes for each in lone} == {total.bytes}


def test_an_upload_is_as_large_as_the_formula_says(data, config):
    """Of a sweep on phone, 64 dimensions, in megabytes: at once, by levels, by blocks of 4, and of 8 dimensions."""
    widths = (4, 8, 16, 32, 64)
    sizes = {
        "at once": upload_bytes(10_429, (64,), 64),
        "levels": upload_bytes(10_429, widths, 64),
        "blocks": upload_bytes(10_429, widths, 64, 4),
        "narrow": upload_bytes(10_429, widths, 8, 4),
    }
    # 1 to 2 % more than the sums of item statistics alone: 89.4, 32.7, 9.3 and 1.2
    assert {name: round(size / 1e6, 1) for name, size in sizes.items()} == {
        "at once": 89.5, "levels": 32.9, "blocks": 9.6, "narrow": 1.3,
    }  # fmt: skip
    for block in (0, 1, 3):
        simulation = after_start(config(block=block), data.train)
        held = [upload_bytes(64, (2, 4, 8), int(width), block) for width in simulation.population.widths]
        assert simulation.round()["bytes_up"] == sum(held)


def test_blocks_divide_levels_and_never_cross_them():
    spans = [(span.start, span.stop) for span in block_spans((3, 8), 4)]
    assert spans == [(0, 3), (3, 7), (7, 8)]
    assert [(span.start, span.stop) for span in block_spans((3, 8), 0)] == [(0, 3), (3, 8)]


def test_items_that_nobody_of_a_round_has_met_stay_and_those_that_nobody_ever_met_are_zero(data, config):
    pairs = data.train.items != 5
    offsets = torch.nn.functional.pad(torch.bincount(data.train.users[pairs], minlength=90).cumsum(0), (1, 0))
    without = Positives(offsets, data.train.items[pairs], 64)
    simulation = after_start(config(), without)
    simulation.round()
    assert not simulation.server.items[5].any()
    method, before = simulation.method, simulation.server.items.clone()
    clients = simulation.population.take(torch.tensor([0]), int(simulation.population.widths[0]))
    server = replace(simulation.server, round=9)
    clients, uploads = method.work(clients, method.broadcast(server, clients.width, 0))
    after = method.aggregate(server, uploads.total(torch.ones(1))).items
    unmet = torch.ones(64, dtype=torch.bool)
    unmet[without.of(0).long()] = False
    assert torch.equal(after[unmet], before[unmet]) and not torch.equal(after[~unmet], before[~unmet])


def test_the_start_finds_the_axes_of_the_interactions_in_their_order(data, config):
    simulation = after_start(config(start_rounds=12, rounds=20, shares=(0, 0, 1)), data.train)
    dense = torch.zeros(data.num_users, data.num_items)
    dense[data.train.users.long(), data.train.items.long()] = 1
    scaled = dense / dense.sum(1, keepdim=True).sqrt().clamp_min(1) / dense.sum(0).sqrt().clamp_min(1)
    best = torch.linalg.svdvals(scaled).square().cumsum(0)[:8]
    basis = torch.linalg.qr(simulation.server.items)[0]
    kept = (scaled @ basis).square().sum(0).cumsum(0) / best
    assert kept[0] > 0.999 and kept.min() > 0.95
    assert isinstance(simulation.server, Server)


def test_the_same_settings_make_the_same_method(config):
    assert make_method(config(), 64).spans == make_method(config(), 64).spans
