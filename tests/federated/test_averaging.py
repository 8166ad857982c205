"""Columns averaged over those that hold them, against a loop; the server's step."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from crowd import ITEMS, simulation

from mrl.errors import RunError
from mrl.federated import FederatedConfig, Message, Server, Simulation, add_up, fit_federated
from mrl.federated.averaging import descend, mean_change, start_server


def test_a_column_is_averaged_over_the_clients_that_hold_it():
    generator = torch.Generator().manual_seed(0)
    widths, weights = (2, 2, 4, 8, 4, 2), (1.0, 3.0, 2.0, 1.0, 5.0, 0.0)
    changes = [torch.randn(ITEMS, width, generator=generator) for width in widths]
    total = add_up(
        [
            Message(1, 0, {"items": weight * change, "weight": torch.full((width,), weight)})
            for width, weight, change in zip(widths, weights, changes, strict=True)
        ]
    )
    mean, weight = mean_change(total)
    for column in range(8):
        holders = [n for n, width in enumerate(widths) if width > column]
        expected = sum(weights[n] * changes[n][:, column] for n in holders) / sum(weights[n] for n in holders)
        torch.testing.assert_close(mean[:, column], expected)
        assert weight[column] == sum(weights[n] for n in holders)


def test_a_column_that_nobody_sends_does_not_change():
    mean, _ = mean_change(Message(1, 0, {"items": torch.zeros(ITEMS, 2), "weight": torch.zeros(2)}))
    assert mean.abs().sum() == 0


def test_steps_of_adam_are_those_of_torch():
    config = FederatedConfig(server_learning_rate=0.3)
    generator = torch.Generator().manual_seed(0)
    server = start_server(ITEMS, 4, generator)
    items = server.items.clone().requires_grad_()
    optimiser = torch.optim.Adam([items], lr=0.3, betas=(0.9, 0.99), eps=1e-8)
    for round in range(1, 6):
        slope = torch.randn(ITEMS, 4, generator=generator)
        server = descend(Server(round, server.tensors), slope, config)
        items.grad = slope
        optimiser.step()
    torch.testing.assert_close(server.items, items.detach(), rtol=1e-5, atol=1e-6)


def test_a_change_that_is_not_finite_stops_the_server():
    server = start_server(ITEMS, 4, torch.Generator())
    with pytest.raises(RunError, match=r"round 0: .*not finite; lower learning_rate"):
        descend(server, torch.full((ITEMS, 4), torch.nan), FederatedConfig())


@pytest.mark.parametrize("method", ["hetefedrec", "fedmrl"])
def test_the_initial_scale_is_that_of_users_and_items(method):
    usual, small = (simulation(method=method, **settings) for settings in ({}, {"initial_scale": 0.01}))
    torch.testing.assert_close(small.population.users * 10, usual.population.users)
    torch.testing.assert_close(small.server.items * 10, usual.server.items)


def test_users_are_drawn_within_the_width_of_their_client():
    population = simulation().population
    for user, width in enumerate(population.widths.tolist()):
        assert (population.users[user, :width] != 0).all() and (population.users[user, width:] == 0).all()


@pytest.mark.parametrize("method", ["hetefedrec", "fedmrl"])
def test_a_run_of_a_gradient_method_learns_and_is_the_same_when_resumed(method, data, config, tmp_path, monkeypatch):
    settings = {"method": method, "rounds": 40, "eval_every": 20, "server_learning_rate": 0.05, "fraction": 0.8}
    whole = fit_federated(config(**settings, run_dir=str(tmp_path / "whole")), data, progress=False)
    history = whole.history.filter(pl.col("phase") == "search")
    values = history.drop_nulls("ndcg@20_w8")["ndcg@20_w8"]
    assert len(values) == 2 and values[1] > values[0]
    if method == "fedmrl":  # whoever takes part, the shared columns travel
        assert history["bytes_up"].to_list() == [72 * 4 * (data.num_items + 1) * 2] * 40

    played = Simulation.round

    def dies(self):
        if self.server.round == 30:
            raise KeyboardInterrupt
        return played(self)

    monkeypatch.setattr(Simulation, "round", dies)
    resumed = config(**settings, run_dir=str(tmp_path / "resumed"))
    with pytest.raises(KeyboardInterrupt):
        fit_federated(resumed, data, progress=False)
    monkeypatch.setattr(Simulation, "round", played)
    again = fit_federated(resumed, data, progress=False)
    assert torch.equal(again.users, whole.users) and torch.equal(again.items, whole.items)
