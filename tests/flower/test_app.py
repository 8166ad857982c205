"""The Flower app, its nodes called in this process: the same figures as the simulator's, and nodes that fail."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="Flower is not installed (extra federated)")

from flwr.app import ArrayRecord, Context, RecordDict
from in_process import InProcess

from mrl.data import load_data
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate
from mrl.federated import METHODS, FederatedConfig, Simulation
from mrl.flower import app

SMALL = {"num_users": 90, "num_items": 60, "interactions": 2000, "branching": [4, 4]}


def settings(**changes) -> FederatedConfig:
    given = {"widths": [2, 4, 8], "groups": 9, "alpha0": 0.1, "start_rounds": 1, "rounds": 3}
    return FederatedConfig(dataset="planted", data={"planted": SMALL}, **{**given, **changes})


def simulated(config: FederatedConfig) -> dict[tuple[str, int], float]:
    data = load_data(config.training)
    simulation = Simulation(config, data.train)
    for _ in range(config.rounds):
        simulation.round()
    result = evaluate(*simulation.vectors(), data, split="valid", widths=config.widths, ks=(20,))
    return {(row["metric"], row["width"]): row["value"] for row in result.table.iter_rows(named=True)}


METHOD_CHANGES = [{"method": name} for name in METHODS]


@pytest.mark.parametrize(
    "changes", [*METHOD_CHANGES, {"block": 2, "level_weights": [1, 0.5, 2]}, {"groups": 0, "rounds": 2}]
)
def test_the_app_gives_the_figures_of_the_simulator(changes):
    config = settings(**changes)
    table = app.serve(InProcess(config.groups or 90), config, config.groups or 90)
    got = {(row["metric"], row["width"]): row["value"] for row in table.iter_rows(named=True)}
    assert got == pytest.approx(simulated(config), abs=1e-6) and len(got) == 18
    assert table["users"].unique().to_list() == [90]


def test_a_round_goes_on_without_nodes_that_fail():
    def other_shape(reply):
        arrays = reply.content["tensors"]
        reply.content["tensors"] = ArrayRecord({name: array for name, array in arrays.items() if name != "outer"})
        return reply

    grid = InProcess(9, broken={103: lambda reply: None, 107: other_shape})
    table = app.serve(grid, settings(), 9)
    whole = app.serve(InProcess(9), settings(), 9)
    assert len(table) == len(whole) and not table.equals(whole)


def test_a_node_keeps_what_is_its_own_and_nothing_else():
    grid = InProcess(9)
    app.serve(grid, settings(), 9)
    for context in grid.contexts.values():
        users = context.state["users"]["users"].numpy()
        assert users.shape[0] == 10 and users.shape[1] in (2, 4, 8)
        assert set(context.state) == {"users", *app.TABLES}


def test_the_server_app_reads_the_settings_of_a_run(monkeypatch):
    seen = []
    monkeypatch.setattr(app, "serve", lambda grid, config, clients: seen.append((config, clients)))
    server = app.make_server_app(None, 0, lambda table: None)
    run_config = {"clients": 7, "dataset": "phone", "widths": "[4, 8]", "alpha0": 0.1, "groups": 7}
    server(None, Context(1, 0, {}, RecordDict(), run_config))
    config, clients = seen[0]
    assert clients == 7 and config == FederatedConfig(dataset="phone", widths=[4, 8], alpha0=0.1, groups=7)


@pytest.mark.robustness
def test_nodes_that_do_not_come_end_the_run(monkeypatch):
    monkeypatch.setattr(app, "PATIENCE", 0)
    with pytest.raises(RunError, match="3 of 9 clients have come"):
        app.serve(InProcess(3), settings(), 9)
    with pytest.raises(ConfigError, match="alpha0=None"):
        app.serve(InProcess(9), settings(alpha0=None), 9)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": "central"}, "scenario='central': the Flower app runs mixed and narrow"),
        ({"dropout": 0.1}, r"dropout=0\.1: in the Flower app all clients take part"),
        ({"fraction": 0.5}, r"fraction=0\.5"),
        ({"alpha0": None}, "alpha0=None: the server knows no density"),
    ],
)
def test_what_only_the_simulator_does_is_refused(changes, message):
    settings = {"dataset": "planted", "widths": [2, 4], "alpha0": 0.1, "groups": 8, **changes}
    with pytest.raises(ConfigError, match=message):
        app.check_flower(FederatedConfig(**settings))
