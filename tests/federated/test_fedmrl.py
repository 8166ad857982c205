"""FedMRL: a client's round against a loop by autograd; what travels, and what the vectors score."""

from __future__ import annotations

import pytest
import torch
from crowd import ITEMS, bpr, changed, drawn_positives, listed, simulation
from torch.nn.functional import pad

from mrl.errors import ConfigError
from mrl.federated import Message, Simulation
from mrl.federated.local_steps import draw_triplets


def crowd(positives=None, **settings) -> Simulation:
    """Clients in the middle of it: projectors and private columns are what nobody would guess."""
    sim = simulation(positives, method="fedmrl", **settings)
    generator = torch.Generator().manual_seed(1)
    for name, table in {**sim.population.own, **sim.population.by_pair}.items():
        tables = sim.population.own if name in sim.population.own else sim.population.by_pair
        tables[name] = table + 0.3 * torch.randn(table.shape, generator=generator)
    return sim


def work(sim: Simulation, client: int):
    clients = sim.population.take(torch.tensor([client]), int(sim.population.widths[client]))
    after, uploads = sim.method.work(clients, Message(1, 0, {"items": sim.server.items}))
    return clients, after, uploads.alone(0)


@pytest.mark.parametrize("client", [0, 4, 6])
def test_a_client_takes_the_steps_of_a_slow_loop(client):
    sim = crowd(local_steps=2, negatives=3, learning_rate=0.7)
    clients, after, message = work(sim, client)
    a, n, heads = clients.width, len(clients.positives), sorted({2, clients.width})
    triplets = draw_triplets(clients, 1, steps=2, negatives=3, seed=0)
    user, shared = clients.users[0].clone(), sim.server.items.clone()
    projector, private = clients.own["projector"][0, :a, :a].clone(), torch.zeros(ITEMS, a - 2)
    private[clients.positives.items.long()] = clients.by_pair["private"][:, : a - 2]
    for step in range(2):
        leaves = [each.detach().requires_grad_() for each in (user, shared, projector, private)]
        user, shared, projector, private = leaves
        loss = torch.zeros(())
        for _, _, liked, other in listed(triplets, step):
            x, y = (torch.cat([shared[item], private[item]]) for item in (liked, other))
            for head in heads:
                loss = loss + bpr(user, projector @ x, projector @ y, head) / 3
                vector = projector[:head].T @ user[:head]
                loss = loss + 0.1 / len(heads) / 2 * sum(each.square().sum() for each in (vector, x, y)) / 3
        loss.backward()
        rates = (0.7 / n, 0.7, 0.7 / n, 0.7 / n)
        user, shared, projector, private = (
            (leaf - rate * leaf.grad).detach() if leaf.numel() else leaf.detach()
            for leaf, rate in zip(leaves, rates, strict=True)
        )
    torch.testing.assert_close(after.users[0], user, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after.own["projector"][0, :a, :a], projector, rtol=1e-4, atol=1e-6)
    kept = private[clients.positives.items.long()]
    torch.testing.assert_close(after.by_pair["private"][:, : a - 2], kept, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(message.tensors["items"], shared - sim.server.items, rtol=1e-4, atol=1e-6)
    assert message.tensors["weight"].tolist() == [n, n]


def test_only_the_shared_columns_travel():
    sim = crowd()
    row = sim.round()
    assert row["bytes_up"] == len(sim.population) * 4 * (ITEMS + 1) * 2
    assert row["bytes_down"] == len(sim.population) * 4 * ITEMS * 2
    for clients in sim.population.groups():
        assert {name: tuple(each.shape) for name, each in work(sim, int(clients.ids[0]))[2].tensors.items()} == {
            "items": (ITEMS, 2),
            "weight": (2,),
        }


def test_shared_columns_are_averaged_by_interactions():
    sim = crowd(server_learning_rate=1.0, learning_rate=1.0)
    before, total = sim.server.items.clone(), torch.zeros(ITEMS, 2)
    for client in range(len(sim.population)):
        total += work(sim, client)[2].tensors["items"]  # n_c times the mean over its interactions
    sim.round()
    torch.testing.assert_close(sim.server.items, before + total / len(sim.population.positives), rtol=1e-4, atol=1e-6)


def test_a_message_does_not_depend_on_what_others_have_met():
    positives = drawn_positives()
    for user in range(positives.num_users):
        sims = [simulation(data, method="fedmrl", shares=[0, 0, 1]) for data in (positives, changed(positives, user))]
        messages = [work(sim, user)[2].tensors["items"] for sim in sims]
        assert torch.equal(*messages) and messages[0].abs().sum() > 0


def test_vectors_score_unseen_items_as_both_heads_do():
    sim = crowd()
    users, items = sim.vectors()
    for client, width in enumerate(sim.population.widths.tolist()):
        vector, projector = sim.population.users[client], sim.population.own["projector"][client]
        unseen = torch.cat([sim.server.items, torch.zeros(ITEMS, width - 2)], 1) @ projector[:width, :width].T
        prefix, whole = unseen[:, :2] @ vector[:2], unseen @ vector[:width]
        torch.testing.assert_close(items[:, :2] @ users[client, :2], prefix, rtol=1e-4, atol=1e-6)
        for served in (width, 8):
            torch.testing.assert_close(items[:, :served] @ users[client, :served], whole, rtol=1e-4, atol=1e-6)
        assert (users[client, width:] == 0).all()


def test_clients_of_the_first_width_have_one_head_and_nothing_private():
    sim = simulation(method="fedmrl", shares=[1, 0, 0])
    sim.round()
    assert sim.population.by_pair["private"].abs().sum() == 0
    projector = sim.population.own["projector"]
    assert torch.equal(
        projector - pad(projector[:, :2, :2], (0, 6, 0, 6)), pad(torch.eye(6), (2, 0, 2, 0)).expand(7, 8, 8)
    )


def test_a_resumed_simulation_goes_on_as_if_nothing_had_happened():
    sim, other = simulation(method="fedmrl"), simulation(method="fedmrl")
    sim.round()
    tensors, meta = sim.state()
    other.load_state({name: tensor.clone() for name, tensor in tensors.items()}, meta)
    sim.round(), other.round()
    first, second = sim.state()[0], other.state()[0]
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert first["by_pair.private"].abs().sum() > 0


def test_a_second_width_that_leaves_no_room_for_both_heads_is_refused():
    with pytest.raises(ConfigError, match=r"widths=\[4, 6\]: fedmrl needs a second width of at least 8"):
        simulation(method="fedmrl", widths=(4, 6))


def test_wide_clients_alone_is_no_scenario_of_it():
    with pytest.raises(ConfigError, match=r"scenario='wide': all clients can hold .* take mixed or narrow"):
        simulation(method="fedmrl", scenario="wide")
