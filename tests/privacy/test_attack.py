"""The attack succeeds on one upload, and fails on sums and under masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data import Positives
from mrl.errors import ConfigError
from mrl.federated import FederatedConfig, Message, Simulation
from mrl.privacy.attack import attack_sums, recover_items, recover_vector

CONFIG = FederatedConfig(widths=[8], alpha0=0.1, l2=0.1, start_rounds=2, block=0)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """80 users of four tastes, after a sweep."""
    draws = np.random.default_rng(0)
    likes = draws.random((4, 120)) ** 3
    rows, columns = np.nonzero(draws.random((80, 120)) < likes[draws.integers(0, 4, 80)])
    simulation = Simulation(CONFIG, Positives.from_pairs(rows, columns, 80, 120))
    for _ in range(3):
        simulation.round()
    return simulation


def test_a_vector_and_items_are_read_from_their_statistics():
    vector = np.array([3.0, -1.0, 0.5])
    outer = np.zeros((6, 6))
    outer[[1, 4]] = np.outer(vector, vector)[np.triu_indices(3)]
    message = Message(1, 0, {"outer": torch.from_numpy(outer), "target": torch.zeros(6, 3)})
    read = recover_vector(message) / np.sqrt(2)  # of two items
    np.testing.assert_allclose(read * np.sign(read[0]), vector, atol=1e-12)
    assert recover_items(message).tolist() == [1, 4]
    nothing = Message(1, 0, {"outer": torch.zeros(6, 6), "target": torch.zeros(6, 3)})
    assert not recover_vector(nothing).any() and not len(recover_items(nothing))


def test_one_upload_tells_everything_and_a_sum_no_more_than_a_guess(simulation):
    before = simulation.vectors()
    table = attack_sums(simulation, [1, 2, 40, 80], np.random.default_rng(0), trials=12)
    one, two, _, everyone = table.filter(masked=False).iter_rows(named=True)
    assert one["cosine"] > 0.9999 and one["found"] == one["right"] == one["exposed"] == 1
    assert one["guess"] < 0.95 and two["cosine"] < 0.99 and two["right"] < 0.8
    assert everyone["cosine"] == pytest.approx(everyone["guess"])
    assert everyone["right"] < 0.35
    (masked,) = table.filter(masked=True).iter_rows(named=True)
    assert masked["cosine"] < 0.6 and masked["right"] < 0.35  # by chance: 1/√8, and the share of items of a user
    for old, new in zip(before, simulation.vectors(), strict=True):
        assert torch.equal(old, new)


def test_a_sum_exposes_whoever_has_an_item_alone(simulation):
    table = attack_sums(simulation, [2, 80], np.random.default_rng(1), trials=80).filter(masked=False)
    counts = simulation.population.positives.item_counts
    lone = {int(user) for user, item in zip(*pairs(simulation), strict=True) if counts[item] == 1}
    assert table.filter(summed=80)["exposed"][0] == pytest.approx(len(lone) / 80)
    assert table.filter(summed=2)["exposed"][0] > 0.9


def pairs(simulation):
    positives = simulation.population.positives
    return positives.users.tolist(), positives.items.tolist()


@pytest.mark.robustness
def test_what_cannot_be_attacked_is_refused(simulation):
    with pytest.raises(ConfigError, match=r"summed=\[81\]: give 1 to 80"):
        attack_sums(simulation, [81], np.random.default_rng(0))
    fresh = Simulation(CONFIG, simulation.population.positives)
    with pytest.raises(ConfigError, match="after the start"):
        attack_sums(fresh, [1], np.random.default_rng(0))
