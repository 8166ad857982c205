from __future__ import annotations

import torch

from mrl.federated import Simulation, make_clients
from mrl.federated.baselines import Central, alone_scores
from mrl.least_squares.ials import frequency_l2, transpose
from mrl.least_squares.nested import solve_blocks


def test_the_central_model_is_the_simulation_with_everybody_at_full_width(data, config):
    central, simulation = Central(config(), data.train), Simulation(config(shares=(0, 0, 1)), data.train)
    for _ in range(3):  # the start
        simulation.round()
    for _ in range(3):
        row = central.round()
        simulation.round()
    assert row["round"] == 3 and row["bytes_up"] == 0
    for found, expected in zip(central.vectors(), simulation.vectors(), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_the_central_model_goes_on_from_its_state(data, config):
    whole, begun, resumed = (Central(config(), data.train) for _ in range(3))
    for _ in range(6):
        whole.round()
    for _ in range(4):
        begun.round()
    resumed.load_state(*begun.state())
    for _ in range(2):
        resumed.round()
    assert torch.equal(resumed.vectors()[1], whole.vectors()[1])


def test_a_user_alone_has_nothing_to_tell_items_apart_by(data, config):
    """What `alone_scores` says without a fit is what the fit of one user's items comes to: zero for all others."""
    population = make_clients(config(), data.train)
    rows = torch.tensor([0, 50])
    scores = dict(alone_scores(config(), population)(rows))
    assert list(scores) == [2, 4, 8] and not any(table.any() for table in scores.values())
    own = data.train.take(torch.tensor([50]))
    scale = {"alpha0": 0.1, "l2": 0.01, "nu": 1.0}
    by_item = transpose(own)
    users = torch.ones(1, 8)
    options = {"widths": (2, 4, 8), "level_weights": (1, 1, 1), "alpha0": 0.1}
    items = solve_blocks(torch.zeros(64, 8), users, by_item, frequency_l2(by_item.counts, 1, **scale), **options)
    unmet = torch.ones(64, dtype=torch.bool)
    unmet[own.items.long()] = False
    assert not items[unmet].any() and items[~unmet].any()


def test_a_group_alone_is_recommended_from_its_own_model(data, config):
    settings = config(groups=3, rounds=5)
    population = make_clients(settings, data.train)
    scores = dict(alone_scores(settings, population)(torch.arange(90)))
    for client in range(3):
        members = (population.owner == client).nonzero()[:, 0]
        width = int(population.widths[client])
        held = [each for each in (2, 4, 8) if each <= width]
        model = Central(config(widths=held, rounds=5), data.train.take(members))
        for _ in range(5):
            model.round()
        users, items = model.vectors()
        torch.testing.assert_close(scores[width][members], users @ items.T, rtol=1e-4, atol=1e-5)
        assert torch.equal(scores[8][members], scores[width][members])
