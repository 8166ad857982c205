"""Local steps of many clients at once against one client after the other, by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowd import ITEMS, bpr, changed, drawn_positives, listed, simulation

from mrl.data import Positives
from mrl.federated.local_steps import draw_triplets
from mrl.federated.messages import Message


@pytest.mark.parametrize("groups", [0, 3])
def test_gradients_are_those_of_a_slow_loop(groups):
    clients = simulation(groups=groups, shares=[0, 0, 1]).population.groups()[0]
    triplets = draw_triplets(clients, 1, steps=2, negatives=3, seed=0)
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(len(clients.users), 8, generator=generator, requires_grad=True)
    rows = torch.randn(len(triplets.items), 8, generator=generator, requires_grad=True)
    place = {(c, i): n for n, (c, i) in enumerate(zip(triplets.owner.tolist(), triplets.items.tolist(), strict=True))}

    total = torch.zeros(())
    for _, user, item, negative in listed(triplets, 1):
        owner = int(clients.owner[user])
        liked, other = rows[place[owner, item]], rows[place[owner, negative]]
        total = total + sum(w * bpr(users[user], liked, other, width) for width, w in ((2, 1.0), (8, 0.5))) / 3
        total = total + 0.2 / 2 * sum(vector.square().sum() for vector in (users[user], liked, other)) / 3
    total.backward()
    by_user, by_row = triplets.gradients(1, users.detach(), rows.detach(), [2, 8], [1.0, 0.5], 0.2)
    torch.testing.assert_close(by_user, users.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_row, rows.grad, rtol=1e-4, atol=1e-5)


def test_negatives_are_unmet_and_differ_by_step_round_client_and_seed():
    clients = simulation(shares=[0, 0, 1]).population.groups()[0]
    pairs = set(zip(clients.positives.users.tolist(), clients.positives.items.tolist(), strict=True))
    drawn = {}
    for round, seed in ((1, 0), (2, 0), (1, 1)):
        triplets = draw_triplets(clients, round, steps=2, negatives=4, seed=seed)
        assert len(triplets.pairs) == len(clients.positives)
        for step in range(2):
            rows = listed(triplets, step)
            assert {(user, item) for _, user, item, _ in rows} == pairs
            assert not pairs & {(user, negative) for _, user, _, negative in rows}
            drawn[round, seed, step] = tuple(negative for *_, negative in rows)
    assert len(set(drawn.values())) == len(drawn)


def test_a_negative_is_the_hardest_of_its_candidates():
    clients = simulation(shares=[0, 0, 1]).population.groups()[0]
    items = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(2))
    settings = {"steps": 2, "seed": 0, "by": (clients.users, items)}
    every, hard = (draw_triplets(clients, 1, negatives=m, best=n, **settings) for m, n in ((6, 1), (2, 3)))
    scores = clients.users @ items.T
    for step in range(2):
        drawn, chosen = listed(every, step), listed(hard, step)
        expected = [
            max(drawn[n : n + 3], key=lambda row: float(scores[row[1], row[3]])) for n in range(0, len(drawn), 3)
        ]
        assert chosen == expected


@pytest.mark.parametrize("method", ["hetefedrec", "fedmrl"])
def test_clients_choose_negatives_by_what_they_have_downloaded(method):
    losses = []
    for candidates in (1, 8):
        sim = simulation(method=method, shares=[0, 0, 1], candidates=candidates, initial_scale=1.0)
        clients = sim.population.groups()[0]
        broadcast = sim.method.broadcast(sim.server, 8, 0)
        _, uploads = sim.method.work(clients, broadcast)
        losses.append(float(uploads.norms.square().sum()))
    assert losses[1] > losses[0], "harder negatives have larger gradients"


def test_every_unmet_item_is_drawn_alike():
    clients = simulation(shares=[0, 0, 1]).population.groups()[0]
    triplets = draw_triplets(clients, 1, steps=1, negatives=6000, seed=3)
    rows = np.array(listed(triplets, 0))
    user = int(clients.positives.counts.argmax())
    counts = np.bincount(rows[rows[:, 1] == user, 3], minlength=ITEMS)
    unmet = np.setdiff1d(np.arange(ITEMS), clients.positives.of(user).numpy())
    expected = counts.sum() / len(unmet)
    assert (counts > 0).sum() == len(unmet)
    assert abs(counts[unmet] - expected).max() < 5 * expected**0.5


def test_what_others_have_met_changes_nothing_of_a_client():
    positives = drawn_positives()
    for user in range(positives.num_users):
        found = []
        for data in (positives, changed(positives, user)):
            clients = simulation(data, shares=[0, 0, 1]).population.groups()[0]
            triplets = draw_triplets(clients, 2, steps=2, negatives=2, seed=5)
            found.append([row[2:] for step in range(2) for row in listed(triplets, step) if row[1] == user])
        assert found[0] == found[1]


def test_a_client_alone_draws_what_it_draws_among_all():
    population = simulation(shares=[0, 0, 1]).population
    together = draw_triplets(population.groups()[0], 1, steps=1, negatives=2, seed=0)
    for client in range(len(population)):
        alone = draw_triplets(population.take(torch.tensor([client]), 8), 1, steps=1, negatives=2, seed=0)
        assert [row[2:] for row in listed(alone, 0)] == [row[2:] for row in listed(together, 0) if row[1] == client]


def test_who_has_met_everything_has_no_triplet():
    positives = Positives.from_pairs([0, 0, 0, 1], [0, 1, 2, 1], 2, 3)
    clients = simulation(positives, shares=[0, 0, 1]).population.groups()[0]
    triplets = draw_triplets(clients, 1, steps=1, negatives=4, seed=0)
    assert triplets.users.unique().tolist() == [1]
    by_user, _ = triplets.gradients(0, clients.users, torch.ones(len(triplets.items), 8), [8], [1.0], 0.1)
    assert by_user[0].abs().sum() == 0


def test_uploads_are_dense_and_a_sum_is_that_of_each_alone():
    clients = simulation(shares=[0, 0, 1]).population.groups()[0]
    triplets = draw_triplets(clients, 1, steps=1, negatives=2, seed=0)
    changes = torch.randn(len(triplets.items), 8, generator=torch.Generator().manual_seed(0))
    weights = torch.arange(1.0, len(clients) + 1)
    uploads = triplets.uploads(Message(1, 0, {"items": torch.zeros(ITEMS, 8)}), changes, weights)
    scale = torch.linspace(0, 2, len(clients))
    items, weight = torch.zeros(ITEMS, 8), torch.zeros(8)
    for client in range(len(clients)):
        message = uploads.alone(client)
        table = torch.zeros(ITEMS, 8)
        for row in (triplets.owner == client).nonzero()[:, 0]:
            table[triplets.items[row]] = changes[row]
        torch.testing.assert_close(message.tensors["items"], table)
        assert message.tensors["weight"].tolist() == [client + 1.0] * 8
        assert message.bytes == 4 * (ITEMS * 8 + 8)
        assert message.norm == pytest.approx(float(uploads.norms[client]), rel=1e-5)
        items, weight = items + scale[client] * table, weight + scale[client] * weights[client]
    total = uploads.total(scale)
    torch.testing.assert_close(total.tensors["items"], items)
    torch.testing.assert_close(total.tensors["weight"], weight)
    assert total.clients == len(clients) - 1
