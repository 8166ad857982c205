"""HeteFedRec: a client's round against a loop by autograd; all clients at once against the central step."""

from __future__ import annotations

import pytest
import torch
from crowd import ITEMS, bpr, changed, drawn_positives, listed, simulation

from mrl.data import Positives
from mrl.federated import Simulation
from mrl.federated.hetefedrec import HeteFedRec, _gradient
from mrl.federated.local_steps import draw_triplets
from mrl.loss import decorrelation, relation_distillation


def work(sim: Simulation, client: int, round: int = 1):
    """A client after its work, as it is by itself, and its message."""
    clients = sim.population.take(torch.tensor([client]), int(sim.population.widths[client]))
    broadcast = sim.method.broadcast(sim.server, clients.width, 0)
    after, uploads = sim.method.work(clients, broadcast.__class__(round, 0, broadcast.tensors))
    return clients, after, uploads.alone(0)


@pytest.mark.parametrize("client", [0, 4, 6])
def test_a_client_takes_the_steps_of_a_slow_loop(client):
    sim = simulation(local_steps=2, negatives=3, learning_rate=0.7)
    clients, after, message = work(sim, client)
    triplets = draw_triplets(clients, 1, steps=2, negatives=3, seed=0)
    user, items, n = clients.users[0].clone(), sim.server.items[:, : clients.width].clone(), len(clients.positives)
    for step in range(2):
        user.requires_grad_(), items.requires_grad_()
        loss = torch.zeros(())
        for _, _, liked, other in listed(triplets, step):
            widths = [width for width in (2, 4, 8) if width <= clients.width]
            loss = loss + sum(bpr(user, items[liked], items[other], width) for width in widths) / 3
            loss = loss + 0.1 / 2 * sum(vector.square().sum() for vector in (user, items[liked], items[other])) / 3
        loss.backward()
        user, items = (user - 0.7 / n * user.grad).detach(), (items - 0.7 * items.grad).detach()
    torch.testing.assert_close(after.users[0], user, rtol=1e-4, atol=1e-6)
    expected = items - sim.server.items[:, : clients.width]
    torch.testing.assert_close(message.tensors["items"], expected, rtol=1e-4, atol=1e-6)
    assert message.tensors["weight"].tolist() == [1.0] * clients.width
    assert message.bytes == 4 * (ITEMS + 1) * clients.width


def test_all_clients_at_full_width_take_the_central_full_batch_step():
    sim = simulation(shares=[0, 0, 1], negatives=2, learning_rate=2.0, server_learning_rate=3.0)
    triplets = draw_triplets(sim.population.groups()[0], 1, steps=1, negatives=2, seed=0)
    users, items = sim.population.users.clone().requires_grad_(), sim.server.items.clone().requires_grad_()
    rows = torch.tensor(listed(triplets, 0))
    p, q, other = users[rows[:, 1]], items[rows[:, 2]], items[rows[:, 3]]
    losses = sum(torch.nn.functional.softplus((p * (other - q))[:, :width].sum(1)) for width in (2, 4, 8))
    penalty = 0.1 / 2 * (p.square() + q.square() + other.square()).sum(1)
    total = (losses + penalty).sum() / 2  # a mean over negatives
    total.backward()
    sim.round()
    central = items - 3.0 * items.grad / len(sim.population)
    torch.testing.assert_close(sim.server.items, central.detach(), rtol=1e-5, atol=1e-6)
    counts = sim.population.positives.counts[:, None]
    torch.testing.assert_close(sim.population.users, (users - 2.0 / counts * users.grad).detach(), rtol=1e-5, atol=1e-6)


def test_a_message_does_not_depend_on_what_others_have_met():
    positives = drawn_positives()
    for user in range(positives.num_users):
        first, second = (simulation(data, shares=[0, 0, 1]) for data in (positives, changed(positives, user)))
        messages = [work(sim, user, round=3)[2].tensors["items"] for sim in (first, second)]
        assert torch.equal(*messages) and messages[0].abs().sum() > 0


def test_narrow_clients_neither_read_nor_change_wide_columns():
    sim = simulation()
    before = sim.server.items.clone()
    narrow = sim.population.widths == 2
    alone = simulation(drawn_positives(), shares=[1, 0, 0])
    alone.server = sim.server
    alone.round()
    assert torch.equal(alone.server.items[:, 2:], before[:, 2:]) and (alone.server.items[:, :2] != before[:, :2]).any()
    sim.round()
    assert (sim.population.users[narrow][:, 2:] == 0).all()
    assert (sim.server.items[:, 4:] != before[:, 4:]).any()


def test_the_server_decorrelates_as_clients_would_in_one_step():
    sim, plain = (simulation(decorrelation=weight, server_learning_rate=1.0) for weight in (5.0, 0.0))
    items, widths = sim.server.items.clone(), sim.population.widths.tolist()
    sim.round(), plain.round()
    expected = torch.zeros(ITEMS, 8)
    for width in widths:
        expected[:, :width] += 5.0 * _gradient(decorrelation, items[:, :width])
    held = torch.tensor([sum(width > column for width in widths) for column in range(8)])
    torch.testing.assert_close(plain.server.items - sim.server.items, expected / held, rtol=1e-3, atol=1e-5)


def test_the_server_distils_the_relations_between_sampled_items(monkeypatch):
    monkeypatch.setattr("mrl.federated.hetefedrec.SAMPLED", 6)
    sim, plain = (simulation(distillation=weight, server_learning_rate=1.0) for weight in (5.0, 0.0))
    items = sim.server.items.clone()
    sim.round(), plain.round()
    moved = plain.server.items - sim.server.items
    rows = (moved.abs().sum(1) > 1e-5).nonzero()[:, 0]
    assert len(rows) == 6
    expected = 5.0 * _gradient(lambda table: relation_distillation(table, (2, 4, 8)), items[rows])
    torch.testing.assert_close(moved[rows], expected, rtol=1e-2, atol=1e-4)


def test_clients_that_take_no_part_fit_their_users_to_the_first_columns():
    sim = simulation(scenario="wide", vector_l2=0.0, server_optimiser="adam", server_learning_rate=0.1)
    for _ in range(10):
        sim.round()
    users, items = sim.vectors()
    narrow = sim.population.widths < 8
    assert torch.equal(users[~narrow], sim.population.users[~narrow])
    for user in narrow.nonzero()[:, 0].tolist():
        width, met = int(sim.population.widths[user]), sim.population.positives.of(user).long()
        assert (users[user, width:] == 0).all()

        def margin(vector: torch.Tensor, width=width, met=met) -> float:
            scores = items[:, :width] @ vector[:width]
            return float(scores[met].mean() - scores.mean())

        assert margin(users[user]) > max(margin(sim.population.users[user]), 0)


def test_a_checkerboard_is_learned():
    users, items = [], []
    for user in range(40):
        met = [item for item in range(20) if (item + user) % 2 == 0 and item != user % 20]
        users, items = users + [user] * len(met), items + met
    train = Positives.from_pairs(users, items, 40, 20)
    sim = simulation(train, server_optimiser="adam", server_learning_rate=0.05, vector_l2=0.01)
    for _ in range(60):
        sim.round()
    users, items = sim.vectors()
    for user in range(40):
        left = [item for item in range(20) if item not in train.of(user).tolist()]
        best = max(left, key=lambda item: float(users[user] @ items[item]))
        assert best == user % 20, "the one that is left of its colour"


def test_the_method_is_made_by_its_name():
    assert isinstance(simulation().method, HeteFedRec)
