"""A Flower simulation from Python: the rounds of `mrl.federated.Simulation`, each client a node."""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager

import polars as pl

from mrl.data import load_data
from mrl.errors import ConfigError
from mrl.federated import FederatedConfig, make_clients

# Neither sends usage statistics home unless someone has said so.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def run_flower(config: FederatedConfig, *, cpus_per_client: float = 1.0) -> pl.DataFrame:
    """Train in rounds by Flower's simulation engine; the validation metrics of the last round, by width.

    config: alpha0 given, every client in every round. cpus_per_client: so many clients run at once as there are CPUs
    for. Half a minute to start, then some 20 ms a client and step on two cores: for hundreds of clients.
    Columns: width, metric, k, users, value. Every client measures its own users and tells the server sums.
    Raises ConfigError without Flower, or for settings that only the simulator has.
    """
    for name, package in (("flwr", "Flower"), ("ray", "Ray")):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{package} is not installed; pip install 'mrl[federated]'")
    check_flower(config)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation

    from mrl.flower import app

    clients = len(make_clients(config, load_data(config.training).train))
    results: list[pl.DataFrame] = []
    with _workers_find_this_package():
        run_simulation(
            app.make_server_app(config, results.append),
            app.client,
            num_supernodes=clients,
            backend_config={"client_resources": {"num_cpus": cpus_per_client, "num_gpus": 0.0}},
        )
    return results[0]


def check_flower(config: FederatedConfig) -> None:
    """ConfigError where Flower's own engine decides what a setting says, or the server would have to see the data."""
    if config.scenario not in ("mixed", "narrow"):
        raise ConfigError(f"scenario={config.scenario!r}: the Flower app runs mixed and narrow; take the simulator")
    plain = FederatedConfig()
    for name in ("fraction", "dropout", "stragglers"):
        if getattr(config, name) != getattr(plain, name):
            raise ConfigError(f"{name}={getattr(config, name)}: in the Flower app all clients take part in all rounds")
    if config.alpha0 is None:
        raise ConfigError("alpha0=None: the server knows no density of the data; give a number such as 0.1")


@contextmanager
def _workers_find_this_package():
    """Workers begin with the module path of PYTHONPATH, not of this process."""
    before = os.environ.get("PYTHONPATH")
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
