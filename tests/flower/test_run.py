"""Rounds by Flower's own engine, and what is refused before it starts."""

from __future__ import annotations

import importlib.util

import pytest

from mrl.data import load_data
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate
from mrl.federated import FederatedConfig, Simulation
from mrl.flower import run
from mrl.flower.run import run_flower

CONFIG = FederatedConfig(dataset="planted", widths=[2, 4], alpha0=0.1, groups=8)


@pytest.mark.slow
def test_a_hundred_clients_by_flower_give_the_figures_of_the_simulator(real_data, monkeypatch):
    for name in ("flwr", "ray"):
        pytest.importorskip(name, reason="Flower and Ray are not installed (extra federated)")
    monkeypatch.setenv("MRL_DATA", str(real_data))
    config = FederatedConfig(
        dataset="ml-100k", widths=[4, 8, 16], groups=100, alpha0=0.1, block=0, start_rounds=1, rounds=2
    )
    table = run_flower(config)
    data = load_data(config.training)
    simulation = Simulation(config, data.train)
    for _ in range(2):
        simulation.round()
    result = evaluate(*simulation.vectors(), data, split="valid", widths=config.widths, ks=(20,))
    for row in table.iter_rows(named=True):
        expected = result.value(f"{row['metric']}@{row['k']}", width=row["width"])
        assert row["value"] == pytest.approx(expected, abs=1e-4) and row["users"] == 943


def test_without_flower_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Flower is not installed; pip install 'mrl\[federated\]'"):
        run_flower(CONFIG)


class Broken:
    """Ray on a machine that is too busy, so many times."""

    def __init__(self, failures: int):
        self.failures, self.shut = failures, 0

    def init(self, **options):
        self.failures -= 1
        if self.failures >= 0:
            raise Exception("The current node timed out")

    def shutdown(self):
        self.shut += 1


def test_ray_is_started_again_where_it_gave_up():
    ray = Broken(run.TRIES - 1)
    run._start_ray(ray)
    assert ray.shut == run.TRIES - 1
    with pytest.raises(RunError, match="Ray does not start on this machine, in 3 tries: The current node timed out"):
        run._start_ray(Broken(run.TRIES))
