from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch

from mrl.analysis.comparison import load_run_data
from mrl.errors import RunError
from mrl.evaluation import evaluate
from mrl.federated import METHODS, ClosedForm, FederatedConfig, client_table, fit_federated, make_clients, traffic
from mrl.hierarchy import HierarchyConfig, load_models, measure_models


def trained(config, tmp_path, name="run", **settings):
    return fit_federated(config(run_dir=str(tmp_path / name), **{"rounds": 6} | settings), progress=False)


def test_a_federated_run_is_a_run_like_any_other(data, config, tmp_path):
    run = trained(config, tmp_path, per_user=True)
    assert run.users.shape == (90, 8) and run.items.shape == (64, 8)
    assert len(run.recommend(run.user_ids[:3], k=5)) == 15
    assert set(run.metrics["split"]) == {"valid", "test"} and set(run.metrics["model"]) == {"federated-closed-form"}
    assert load_run_data(run).fingerprint == data.fingerprint
    (measured,) = measure_models(load_models([run.path]), HierarchyConfig(runs=[str(run.path)], clusters=4)).values()
    assert len(measured.numbers())
    result = evaluate(run.users, run.items, data.merge_valid(), split="test", widths=(2, 4, 8))
    assert result.value("recall@20", 4) == pytest.approx(run.by_width()["recall@20"][1])
    widths = make_clients(config(), data.merge_valid().train).widths
    for width in (2, 4):
        assert not run.users[widths == width, width:].any()
    assert FederatedConfig(**run.config["federated"]).rounds == 6


def test_the_best_round_is_of_validation_and_the_table_has_the_last_one_beside_it(config, tmp_path):
    run = trained(config, tmp_path, rounds=9, patience=2)
    table, rounds = client_table(run), traffic(run)
    best = int(rounds["value"].arg_max()) + 1
    assert run.environment["best_epoch"] == best
    assert run.environment["last_epoch"] == len(rounds) == min(9, best + 2)
    moments = dict(table.select("moment", "round").unique().iter_rows())
    assert moments == {"best": best, "last": len(rounds)}
    test = run.metrics.filter(split="test", metric="ndcg", k=20, width=8)["value"][0]
    mine = table.filter(pl.col("group").is_null(), moment="best", metric="ndcg", k=20, width=8)["value"][0]
    assert mine == pytest.approx(test)
    phases = run.history["phase"].value_counts().rows()
    assert dict(phases) == {"search": len(rounds), "refit": len(rounds)}
    assert rounds["megabytes"].is_sorted() and rounds["up"].min() > 0


@pytest.mark.robustness
@pytest.mark.parametrize("scenario", ["mixed", "central"])
def test_a_server_that_is_killed_in_a_round_loses_nothing(config, tmp_path, monkeypatch, scenario):
    settings = {"rounds": 8, "fraction": 0.6, "stragglers": 0.2, "late": "count", "scenario": scenario}
    whole = trained(config, tmp_path, "whole", **settings)

    class Killed(Exception):
        pass

    from mrl.federated import baselines, simulator

    kinds = {"mixed": simulator.Simulation, "central": baselines.Central}
    original, count = kinds[scenario].round, [0]

    def round(self):
        count[0] += 1
        if count[0] in (5, 7, 17, 19):
            if scenario == "mixed":  # in the middle of a round: clients have changed, the server has not
                self.population.users += 1
            raise Killed
        return original(self)

    monkeypatch.setattr(kinds[scenario], "round", round)
    kills = 0
    while True:
        try:
            run = trained(config, tmp_path, "killed", **settings)
            break
        except Killed:
            kills += 1
            assert (tmp_path / "killed" / "checkpoint.safetensors").is_file()
    assert kills >= 2
    seconds = pl.selectors.starts_with("seconds")
    assert run.history.drop(seconds).equals(whole.history.drop(seconds))
    assert torch.equal(run.users, whole.users) and torch.equal(run.items, whole.items)
    assert run.metrics.equals(whole.metrics) and client_table(run).equals(client_table(whole))


@pytest.mark.robustness
def test_a_checkpoint_of_other_settings_is_refused(config, tmp_path, monkeypatch):
    class Fails(ClosedForm):
        def aggregate(self, server, total):
            if server.round == 5:
                raise RunError("the server is gone")
            return super().aggregate(server, total)

    monkeypatch.setitem(METHODS, "closed_form", Fails)
    with pytest.raises(RunError, match="the server is gone"):
        trained(config, tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunError, match="made with l2"):
        trained(config, tmp_path, l2=0.02)
    assert trained(config, tmp_path, l2=0.02, resume=False).environment["last_epoch"] == 6


@pytest.mark.parametrize("groups", [0, 4])
def test_clients_alone_have_metrics_and_no_common_items(config, tmp_path, groups):
    run = trained(config, tmp_path, scenario="alone", groups=groups)
    assert not run.weights and set(run.metrics["model"]) == {"federated-alone"}
    table = client_table(run).filter(metric="recall", k=20, moment="best")
    assert table["value"].is_between(0.0, 1.0).all() and traffic(run)["megabytes"].to_list() == [0.0]


def test_alpha0_is_the_usual_one_of_the_density_and_the_paper_protocol_has_no_refit(config, tmp_path):
    settings = config(alpha0=None, data={"planted": config().data["planted"], "protocol": "paper"})
    run = fit_federated(replace(settings, run_dir=str(tmp_path / "run"), rounds=5), progress=False)
    assert run.environment["alpha0"] > 0
    assert set(run.history["phase"]) == {"search"} and set(run.metrics["split"]) == {"test"}
