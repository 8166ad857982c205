"""A Flower simulation from Python: the rounds of `mrl.federated.Simulation`, each client a node."""

from __future__ import annotations

import importlib.util
import os
import sys

import polars as pl

from mrl.data import load_data
from mrl.errors import ConfigError, RunError
from mrl.federated import FederatedConfig, make_clients

# Neither sends usage statistics home unless someone has said so.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
TRIES = 3  # Ray gives up where a process of its own takes more than 15 s to start, as on a busy machine


def run_flower(config: FederatedConfig, *, cpus_per_client: float = 1.0) -> pl.DataFrame:
    """Train in rounds by Flower's simulation engine; the validation metrics of the last round, by width.

    config: alpha0 given, every client in every round. cpus_per_client: so many clients run at once as there are CPUs
    for. For hundreds of clients: half a minute to start, and some 20 ms a client and step on two cores.
    Columns: width, metric, k, users, value. Every client measures its own users and tells the server sums.
    Raises ConfigError without Flower, or for settings that only the simulator has; RunError where Ray does not start.
    """
    for name, package in (("flwr", "Flower"), ("ray", "Ray")):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{package} is not installed; pip install 'mrl[federated]'")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from flwr.simulation import run_simulation

    from mrl.flower import app

    app.check_flower(config)
    clients = len(make_clients(config, load_data(config.training).train))
    results: list[pl.DataFrame] = []
    try:
        _start_ray(ray)
        run_simulation(
            app.make_server_app(config, clients, results.append),
            app.client,
            num_supernodes=clients,
            backend_config={"client_resources": {"num_cpus": cpus_per_client, "num_gpus": 0.0}},
        )
    finally:
        ray.shutdown()
    return results[0]


def _start_ray(ray) -> None:
    """Ray on this machine, its workers with the modules of this process."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(TRIES):
        try:
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": environment},
            )
            return
        except Exception as error:  # ray raises Exception itself
            ray.shutdown()
            why = error
    raise RunError(f"Ray does not start on this machine, in {TRIES} tries: {why}")
