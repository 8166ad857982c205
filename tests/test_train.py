"""Training end to end on small data: it learns, repeats bit for bit, resumes, and writes what it says."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from settings import GIVEN, one_validation_split, train_config

from mrl import train as train_module
from mrl.config import TrainConfig
from mrl.data.holdout import as_paper, hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.data.load import pick_device
from mrl.data.synthetic import planted_interactions
from mrl.errors import ConfigError, DataError, RunError
from mrl.least_squares import usual
from mrl.least_squares.fit import fit_least_squares, initial_model, propagated
from mrl.model import LightGCN
from mrl.recipes import USUAL
from mrl.runs.run import Run, load
from mrl.train import fit
from mrl.trainer import Trainer, steps_of
from mrl.words import percent


def checkerboard(num_users: int = 60, num_items: int = 40) -> Interactions:
    """Even users like even items, odd ones odd items; a fifth of each taste is the test set."""
    rng = np.random.default_rng(0)
    users, items = np.nonzero(np.add.outer(np.arange(num_users), np.arange(num_items)) % 2 == 0)
    part = rng.random(len(users))
    size = (num_users, num_items)
    return Interactions(
        name="checkerboard",
        train=Positives.from_pairs(users[part < 0.8], items[part < 0.8], *size),
        valid=Positives.empty(*size),
        test=Positives.from_pairs(users[part >= 0.8], items[part >= 0.8], *size),
        user_ids=np.arange(num_users),
        item_ids=np.arange(num_items),
    )


@pytest.fixture(scope="module")
def data() -> Interactions:
    return hold_out(checkerboard(), 0.1, seed=0)


SOFTMAX = {"loss": "softmax", "candidates": 16}  # which it has no use for


def settings(tmp_path: Path, **changes) -> TrainConfig:
    base = {
        "dataset": "checkerboard",
        "recipe": "mrl4rec",
        "widths": (2, 4, 8),
        "epochs": 40,
        "batch_size": 128,
        "learning_rate": 0.02,
        "candidates": 4,
        "eval_every": 2,
        "patience": 4,
        "device": "cpu",
        "run_dir": str(tmp_path / "run"),
    }
    return train_config(**(base | changes))


def value(run: Run, metric: str, width: int) -> float:
    return run.by_width(k=int(metric.split("@")[1])).filter(width=width)[metric].item()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nested_negatives": False},
        {"backbone": "lightgcn", "hops": 1, "edge_dropout": 0.1, "message_dropout": 0.1},
        {"rule": "rns"},
        {"rule": "dns_mn", "topk": 2},
        {"rule": "ahns"},
        {"rule": "cns"},
        {"rule": "dens"},
        {"rule": "mix", "backbone": "lightgcn", "hops": 1},
        {"loss": "bce"},
        {"loss": "cml", "similarity": "distance"},
        {"loss": "dau"},
        {"loss": "uib"},
        {"levels_per_step": 1},
        {"widths": (8,)},
        SOFTMAX,
        SOFTMAX | {"backbone": "lightgcn", "hops": 1, "edge_dropout": 0.1},
        SOFTMAX | {"levels_per_step": 1},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()) or "default",
)
def test_every_kind_of_training_solves_the_checkerboard_at_every_width(tmp_path, data, changes) -> None:
    config = settings(tmp_path, **changes)
    run = fit(config, data, progress=False)
    for width in config.widths:
        assert value(run, "ndcg@10", width) > 0.8, (width, changes)  # a guess gets less than half of that


def test_the_run_directory_holds_what_the_readme_says(tmp_path, data) -> None:
    config = settings(tmp_path, eval_widths=(3, 6), per_user=True)
    run = fit(config, data, progress=False)
    assert {file.name for file in run.path.iterdir()} >= {
        "config.json", "weights.safetensors", "ids.parquet", "seen.safetensors", "history.csv", "metrics.csv",
        "environment.json",
    }  # fmt: skip
    assert not list(run.path.glob("checkpoint*"))
    assert json.loads((run.path / "config.json").read_text())["widths"] == [2, 4, 8]
    assert run.users.shape == (60, 8) and run.items.shape == (40, 8)
    assert run.metrics.columns == ["dataset", "model", "protocol", "seed", "split", "width", "metric", "k", "value"]
    assert run.metrics["width"].unique().sort().to_list() == [2, 3, 4, 6, 8]
    assert set(run.metrics["split"]) == {"valid", "test"} and set(run.metrics["protocol"]) == {"honest"}
    search, refit = (run.history.filter(phase=phase) for phase in ("search", "refit"))
    assert search["epoch"].to_list() == list(range(1, len(search) + 1))
    assert len(refit) == run.environment["best_epoch"]
    assert {"loss", "loss_w2", "loss_w4", "loss_w8", "recall@20_w2", "seconds"} <= set(run.history.columns)
    assert run.environment["fingerprint"] == data.fingerprint
    assert run.environment["fast_paths"] == {}  # on a CPU
    assert len(run.seen) == len(data.train) + len(data.valid)


def test_the_best_epoch_is_the_one_with_the_best_mean_over_widths_and_is_refitted(tmp_path, data) -> None:
    run = fit(settings(tmp_path), data, progress=False)
    validated = run.history.filter(phase="search").drop_nulls("ndcg@20_w2")
    means = validated.select("ndcg@20_w2", "ndcg@20_w4", "ndcg@20_w8").mean_horizontal()
    assert run.environment["best_epoch"] == validated["epoch"][means.arg_max()]
    trainer = Trainer(settings(tmp_path), data.merge_valid().train, torch.device("cpu"))
    for _ in range(run.environment["best_epoch"]):
        trainer.run_epoch()
    assert torch.equal(trainer.vectors()[0], run.users)


def test_the_paper_protocol_keeps_the_best_vectors_and_says_so_in_every_row(tmp_path) -> None:
    data = as_paper(checkerboard())
    run = fit(settings(tmp_path, protocol="paper"), data, progress=False)
    assert set(run.metrics["protocol"]) == {"paper"} and set(run.metrics["split"]) == {"test"}
    assert set(run.history["phase"]) == {"search"}
    assert run.backbone == {}  # of MF the vectors are the model
    best = run.history.filter(epoch=run.environment["best_epoch"])
    assert value(run, "ndcg@20", 8) == pytest.approx(best["ndcg@20_w8"][0])


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_the_backbone_of_a_graph_model_propagates_to_the_vectors_of_the_run(tmp_path, data, protocol: str) -> None:
    data = as_paper(data) if protocol == "paper" else data
    run = fit(settings(tmp_path, protocol=protocol, backbone="lightgcn", hops=1, epochs=8), data, progress=False)
    model = LightGCN(run.seen, 8, hops=1)
    model.load_state_dict(run.backbone)
    torch.testing.assert_close(model()[0], run.users)


def test_a_seed_repeats_bit_for_bit_and_another_does_not(tmp_path, data) -> None:
    runs = [
        fit(settings(tmp_path, epochs=4, seed=seed, run_dir=str(tmp_path / str(n))), data, progress=False)
        for n, seed in enumerate((7, 7, 8))
    ]
    assert torch.equal(runs[0].users, runs[1].users) and torch.equal(runs[0].items, runs[1].items)
    assert runs[0].metrics.equals(runs[1].metrics)
    assert not torch.equal(runs[0].users, runs[2].users)


@pytest.fixture
def every_epoch_is_the_best(monkeypatch) -> None:
    """So that there are epochs in the refit: this board is solved before the first."""
    keep = train_module._State.keep_if_best

    def keep_always(self, *arguments) -> None:
        self.best_value, _ = -1.0, self.best.pop(train_module.START, None)
        keep(self, *arguments)

    monkeypatch.setattr(train_module._State, "keep_if_best", keep_always)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def check_resumed(
    config: TrainConfig, data: Interactions, whole: Run, monkeypatch, method: str, calls: int, of: type = Trainer
) -> None:
    """Killed after so many calls of a method, a run goes on to what `whole` came to undisturbed."""
    called, done = getattr(of, method), 0

    def killing(self, *arguments):
        nonlocal done
        done += 1
        if done > calls:
            raise Killed
        return called(self, *arguments)

    monkeypatch.setattr(of, method, killing)
    with pytest.raises(Killed):
        fit(config, data, progress=False)
    monkeypatch.setattr(of, method, called)
    resumed = fit(config, data, progress=False)
    assert torch.equal(whole.users, resumed.users) and torch.equal(whole.items, resumed.items)
    assert whole.metrics.equals(resumed.metrics)
    assert whole.history.drop("seconds").equals(resumed.history.drop("seconds"))
    for fact in ("best_epoch", "chosen"):
        assert whole.environment.get(fact) == resumed.environment.get(fact)


@pytest.mark.robustness
@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
@pytest.mark.parametrize("steps", [3, 25, 47, 55])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, data, monkeypatch, steps: int, backbone: str) -> None:
    changes = {"epochs": 8, "patience": 2, "backbone": backbone, "edge_dropout": 0.1, "rule": "dens"}
    whole = fit(settings(tmp_path, run_dir=str(tmp_path / "whole"), **changes), data, progress=False)
    check_resumed(settings(tmp_path, **changes), data, whole, monkeypatch, "_step", steps)


@pytest.mark.robustness
@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
@pytest.mark.parametrize("steps", [3, 22, 34])
def test_a_killed_run_with_a_softmax_resumes_to_the_same_bits(tmp_path, data, monkeypatch, steps, backbone) -> None:
    """In the first epoch, later in the search, in the refit; the means over steps go on, too."""
    changes = SOFTMAX | {"epochs": 6, "eval_every": 1, "backbone": backbone, "edge_dropout": 0.1}
    whole = fit(settings(tmp_path, run_dir=str(tmp_path / "whole"), **changes), data, progress=False)
    assert whole.history.filter(phase="refit").height > 1
    check_resumed(settings(tmp_path, **changes), data, whole, monkeypatch, "_user_step", steps)


@pytest.mark.robustness
def test_a_checkpoint_of_other_settings_or_data_is_not_taken_up(tmp_path, data, monkeypatch) -> None:
    config = settings(tmp_path, epochs=6)
    monkeypatch.setattr(train_module._Training, "refit", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        fit(config, data, progress=False)
    monkeypatch.undo()
    with pytest.raises(RunError, match="learning_rate"):
        fit(replace(config, learning_rate=0.5), data, progress=False)
    other = hold_out(checkerboard(), 0.2, seed=1)
    with pytest.raises(RunError, match=f"{data.fingerprint[:8]}.*{other.fingerprint[:8]}|fingerprint"):
        fit(config, other, progress=False)
    assert fit(replace(config, learning_rate=0.5, resume=False), data, progress=False).config["learning_rate"] == 0.5


@pytest.mark.robustness
def test_training_that_diverges_stops_there_and_leaves_the_last_checkpoint(tmp_path, data, monkeypatch) -> None:
    step, taken = Trainer._step, 0

    def poisoned(self, *arguments):
        nonlocal taken
        taken += 1
        if taken == 30:
            with torch.no_grad():
                self.model.users[0, 0] = math.nan
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", poisoned)
    config = settings(tmp_path, epochs=20)
    with pytest.raises(RunError, match="diverged in epoch"):
        fit(config, data, progress=False)
    monkeypatch.undo()
    assert fit(config, data, progress=False).users.isfinite().all()


@pytest.mark.robustness
def test_users_who_have_every_item_yield_no_triplet(tmp_path) -> None:
    users, items = np.nonzero(np.ones((3, 5), bool))
    kept = ~((users > 0) & (items == 4))
    train = Positives.from_pairs(users[kept], items[kept], 3, 5)
    trainer = Trainer(settings(tmp_path, widths=(2,)), train, torch.device("cpu"))
    assert set(trainer.users.tolist()) == {1, 2}
    assert trainer.idle_users == 1
    trainer.run_epoch()
    full = Positives.from_pairs(users, items, 3, 5)
    with pytest.raises(RunError, match="nothing to train on"):
        Trainer(settings(tmp_path, widths=(2,)), full, torch.device("cpu"))


@pytest.mark.parametrize("backbone", ["mf", "propagation"])
def test_a_softmax_does_no_harm_to_users_with_every_item_or_none(tmp_path, backbone) -> None:
    likes = np.random.default_rng(0).random((6, 30)) < 0.3
    likes[0], likes[1] = True, False
    train = Positives.from_pairs(*np.nonzero(likes), 6, 30)
    config, model = settings(tmp_path, **SOFTMAX), None
    if backbone == "propagation":
        config = closed_form(tmp_path, **GIVEN, widths=(2, 4, 8))
        model = initial_model(config.with_usual(), train, fit_least_squares(config.with_usual(), train))
    trainer = Trainer(config, train, torch.device("cpu"), model)
    assert trainer.active.tolist() == [2, 3, 4, 5] and trainer.idle_users == 1
    for _ in range(3):
        loss, by_level = trainer.run_epoch()
    assert math.isfinite(loss) and np.isfinite(by_level).all()
    assert all(table.isfinite().all() for table in trainer.vectors())


def test_every_user_is_in_one_step_of_a_softmax_with_all_that_they_like(tmp_path, data, monkeypatch) -> None:
    used, step = [], Trainer._user_step
    monkeypatch.setattr(Trainer, "_user_step", lambda self, rows, levels: used.append(rows) or step(self, rows, levels))
    trainer = Trainer(settings(tmp_path, **SOFTMAX, batch_size=100), data.train, torch.device("cpu"))
    trainer.run_epoch()
    assert torch.cat(used).sort().values.tolist() == list(range(60))
    assert {len(rows) for rows in used[:-1]} == {math.ceil(100 * 60 / len(data.train))}  # who like about 100


def test_what_is_served_of_a_softmax_is_the_mean_over_its_steps(tmp_path, data) -> None:
    """Of all of them while they are few, then of the last 50 or so; a loss of pairs serves its last step."""
    trainer = Trainer(settings(tmp_path, **SOFTMAX), data.train, torch.device("cpu"))
    seen, descend = [], trainer._descend
    trainer._descend = lambda total: (descend(total), seen.append(trainer.model.items.detach().clone()))[0]
    for _ in range(3):
        trainer.run_epoch()
    assert len(seen) < 50
    torch.testing.assert_close(trainer.vectors()[1], torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)
    while len(seen) < 100:
        trainer.run_epoch()
    mean = torch.zeros_like(seen[0])
    for number, table in enumerate(seen, 1):
        mean.lerp_(table, max(0.02, 1 / number))
    torch.testing.assert_close(trainer.vectors()[1], mean, rtol=1e-4, atol=1e-5)
    pairs = Trainer(settings(tmp_path), data.train, torch.device("cpu"))
    pairs.run_epoch()
    assert torch.equal(pairs.vectors()[1], pairs.model.items) and not pairs.averages


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_the_vectors_of_epoch_0_are_those_of_the_initial_model_and_training_takes_the_whole_graph(
    tmp_path, data, loss
) -> None:
    config = closed_form(tmp_path, **GIVEN, loss=loss, learning_rate=1e-12, initial_scale=0.7, hops=2).with_usual()
    model = initial_model(config, data.train, fit_least_squares(config, data.train))
    expected = [table.clone() for table in model.vectors()]
    trainer = Trainer(config, data.train, torch.device("cpu"), model)
    assert all(map(torch.equal, trainer.vectors(), expected))
    trainer.run_epoch()
    assert (model.user_share, model.item_share, model.hops) == (1.0, 1.0, 2)
    users, items = trainer.vectors()
    scores = users @ items.T
    assert scores.std(1, correction=0).mean().item() == pytest.approx(0.7, rel=1e-3)
    trainer.run_epoch()  # once only
    users, items = trainer.vectors()
    torch.testing.assert_close(users @ items.T, scores, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("every_epoch_is_the_best")
@pytest.mark.parametrize(("affordable", "epochs"), [(9, 9), (7, 0)])
def test_very_large_data_are_trained_for_as_long_as_minutes_allow(
    tmp_path, data, monkeypatch, affordable, epochs
) -> None:
    monkeypatch.setattr(usual, "MOST_VISITS", affordable * len(data.train))
    run = fit(closed_form(tmp_path, **GIVEN, epochs=12), data, progress=False)
    assert run.history.filter(phase="search")["epoch"].max() == run.environment["best_epoch"] == epochs
    assert run.config["epochs"] == 12


@pytest.mark.usefixtures("every_epoch_is_the_best")
@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_the_backbone_of_the_default_recipe_propagates_to_the_vectors_of_the_run(tmp_path, data, protocol) -> None:
    config = closed_form(tmp_path, **GIVEN, epochs=2, protocol=protocol)
    run = fit(config, as_paper(data) if protocol == "paper" else data, progress=False)
    model = propagated(config.with_usual(), run.seen, (run.backbone["users"], run.backbone["items"]))
    model.start_training(config.with_usual().hops)
    torch.testing.assert_close(model.vectors()[0], run.users)


def test_every_interaction_is_used_once_an_epoch(tmp_path, data, monkeypatch) -> None:
    used = []
    step = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, u, i, levels: used.append(u * 40 + i) or step(self, u, i, levels)
    )
    trainer = Trainer(settings(tmp_path, batch_size=100), data.train, torch.device("cpu"))
    trainer.run_epoch()
    assert torch.equal(torch.cat(used).sort().values, data.train.keys())
    assert len(used[-1]) == len(data.train) % 100 != 0


@pytest.mark.parametrize("changes", [{}, {"nested_negatives": False}, {"levels_per_step": 2}], ids=str)
def test_the_compiled_steps_are_those_of_autograd_and_adam_over_the_whole_tables(tmp_path, data, changes) -> None:
    config = settings(tmp_path, rule="rns", learning_rate=0.01, **changes)
    compiled, plain = (Trainer(config, data.train, torch.device("cpu")) for _ in range(2))
    assert compiled.compiled
    plain.compiled = False
    plain.optimiser = torch.optim.Adam(plain.parameters.values(), lr=config.learning_rate)
    for _ in range(8):
        one, other = compiled.run_epoch(), plain.run_epoch()
        assert one[0] == pytest.approx(other[0], rel=1e-4) and one[1] == pytest.approx(other[1], rel=1e-4)
    for table, expected in zip(compiled.vectors(), plain.vectors(), strict=True):
        torch.testing.assert_close(table, expected, rtol=0, atol=1e-3)


def test_the_loaded_run_equals_the_returned_one(tmp_path, data) -> None:
    run = fit(settings(tmp_path, epochs=2), data, progress=False)
    again = load(run.path)
    assert torch.equal(run.users, again.users) and again.metrics.equals(run.metrics)
    assert again.config == json.loads(json.dumps(asdict(settings(tmp_path, epochs=2))))


def test_a_gpu_that_is_not_there_is_refused_in_words() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert pick_device("auto").type == "cuda"
    else:
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="sees no CUDA device"):
            pick_device("cuda:1")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
@pytest.mark.parametrize("changes", [{}, SOFTMAX], ids=["bpr", "softmax"])
def test_cuda_learns_what_the_cpu_learns(tmp_path, data, backbone: str, changes: dict) -> None:
    run = fit(settings(tmp_path, device="cuda", backbone=backbone, **changes), data, progress=False)
    assert value(run, "ndcg@10", 2) > 0.8
    assert changes or set(run.environment["fast_paths"].values()) == {"used"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backbone", ["mf", "lightgcn", "propagation"])
def test_no_step_on_a_gpu_waits_for_the_host(tmp_path, data, backbone: str) -> None:
    graph = {"recipe": "default", "loss": "bpr", "propagation": (1.0, 1.0)} if backbone == "propagation" else {}
    config, model = settings(tmp_path, device="cuda", backbone=backbone, **graph), None
    if graph:
        start = torch.randn(data.num_users, config.widths[-1]), torch.randn(data.num_items, config.widths[-1])
        model = propagated(config, data.train, start)
    trainer = Trainer(config, data.train, torch.device("cuda"), model)
    trainer.run_epoch()
    batch = torch.arange(64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step(trainer.users[batch], trainer.items[batch], None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def closed_form(tmp_path: Path, **changes) -> TrainConfig:
    base = {"dataset": "checkerboard", "widths": (2, 4), "batch_size": 256, "epochs": 4}
    return train_config(**base | {"device": "cpu", "run_dir": str(tmp_path / "run")} | changes)


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory) -> Run:
    """A run of the default recipe that has chosen all of its settings and was not interrupted."""
    with one_validation_split():
        return fit(closed_form(tmp_path_factory.mktemp("searched")), data, progress=False)


def test_the_default_recipe_searches_refines_and_tells_of_it(data, searched) -> None:
    run = searched
    phases = run.history["phase"].unique(maintain_order=True).to_list()
    # the search hands on the initial model that it has made; only the refit makes it anew
    refit = ["refit"] if run.environment["best_epoch"] else []
    assert phases == ["settings", "search", "least_squares", "rotation", *refit]
    settings = run.history.filter(phase="settings")
    assert settings["trial"].to_list() == list(range(1, settings.height + 1))
    chosen = run.environment["chosen"]
    assert set(chosen) == {
        "alpha0", "frequency_l2", "fit_width", "sweeps", "nested_sweeps", "propagation", "rotation", "nu",
        "l2_width_exponent", "hops", "level_weights", "l2", "initial_scale",
    }  # fmt: skip
    assert all(chosen[name] is not None for name in chosen) and chosen["fit_width"] >= 4
    assert chosen["nu"] == USUAL["nu"]  # which a quick search leaves alone
    assert run.environment["best_epoch"] <= 4 and run.config["least_squares"]["alpha0"] is None
    start = run.history.filter(phase="search", epoch=0)
    assert start.height == 1 and start["loss"].null_count() == 1  # epoch 0 is least squares itself
    assert run.by_width()["recall@20"].min() > 0.9  # all of one's own half of the board
    assert run.backbone["users"].shape == run.users.shape


def test_what_was_chosen_can_be_given_again(tmp_path, data, searched) -> None:
    given = closed_form(tmp_path, **searched.environment["chosen"])
    other = fit(given, data, progress=False)
    assert torch.equal(searched.users, other.users) and torch.equal(searched.items, other.items)
    assert other.environment["chosen"] == searched.environment["chosen"]
    phases = other.history["phase"].unique(maintain_order=True).to_list()
    assert phases[:3] == ["least_squares", "rotation", "search"]  # there is nothing to search


def test_the_refit_is_the_initial_model_of_all_of_train(tmp_path, data) -> None:
    config = closed_form(tmp_path, **GIVEN, recipe="least_squares", epochs=0)
    run = fit(config, data, progress=False)
    config, everything = config.with_usual(), data.merge_valid().train
    model = initial_model(config, everything, fit_least_squares(config, everything))
    assert torch.equal(run.users, model.vectors()[0]) and torch.equal(run.items, model.vectors()[1])
    assert run.history.filter(phase="rotation").height == 2  # before the search and before the refit


def test_least_squares_has_no_epochs_and_does_not_depend_on_them(tmp_path, data) -> None:
    with one_validation_split():
        one = fit(closed_form(tmp_path, recipe="least_squares", epochs=None), data, progress=False)
    assert one.environment["best_epoch"] == 0 and one.history.filter(phase="refit").is_empty()
    chosen = one.environment["chosen"]
    given = closed_form(tmp_path, recipe="least_squares", epochs=None, run_dir=str(tmp_path / "given"), **chosen)
    other = fit(given, data, progress=False)
    assert torch.equal(one.users, other.users) and torch.equal(one.items, other.items)
    assert other.history.filter(phase="settings").is_empty()
    paper = fit(replace(given, protocol="paper", run_dir=str(tmp_path / "paper")), as_paper(data), progress=False)
    assert set(paper.metrics["split"]) == {"test"}


def test_without_a_search_the_usual_settings_are_taken(tmp_path, data) -> None:
    run = fit(closed_form(tmp_path, search="none", epochs=1), data, progress=False)
    assert run.history.filter(phase="settings").is_empty()
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in USUAL.items()}
    assert run.environment["chosen"].items() >= expected.items()


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("method", "calls"), [("_log_trial", 3), ("_begin", 0), ("_save", 1), ("refit", 0), ("_begin", 1)]
)
def test_a_killed_search_of_settings_resumes_to_the_same_bits(
    tmp_path, data, searched, monkeypatch, method: str, calls: int
) -> None:
    """After three trials, after all of them, after the first validation, and before the refit."""
    with one_validation_split():
        check_resumed(closed_form(tmp_path), data, searched, monkeypatch, method, calls, train_module._Training)


@pytest.mark.robustness
@pytest.mark.usefixtures("every_epoch_is_the_best")
@pytest.mark.parametrize("epochs", [0, 2, 3, 5])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_a_killed_refinement_resumes_to_the_same_bits(tmp_path, data, monkeypatch, loss: str, epochs: int) -> None:
    """Before the first epoch, between two, before those of the refit, between two of those."""
    changes = GIVEN | {"epochs": 3, "eval_every": 1, "learning_rate": 0.02, "rotation": loss == "bpr", "loss": loss}
    whole = fit(closed_form(tmp_path, run_dir=str(tmp_path / "whole"), **changes), data, progress=False)
    assert whole.environment["best_epoch"] == 3 and whole.history.filter(phase="refit").height == 3
    check_resumed(closed_form(tmp_path, **changes), data, whole, monkeypatch, "run_epoch", epochs)


@pytest.fixture(scope="module")
def groups() -> Interactions:
    """600 users with interests of 32 groups, which take as many dimensions."""
    return hold_out(planted_interactions(600, 320, 12_000, branching=(32,), noise=0.1, seed=0), 0.1, seed=0)


def auto(folder: Path, **changes) -> TrainConfig:
    """Widths to be found, by a penalty that is given, and so little else that there is something wider to fit."""
    given = GIVEN | {"fit_width": None, "frequency_l2": 0.03, "alpha0": 0.3, "epochs": 2}
    return closed_form(folder, **given | {"dataset": "planted", "widths": "auto", "batch_size": 2048} | changes)


@pytest.fixture(scope="module")
def found(groups, tmp_path_factory) -> Run:
    with one_validation_split():
        return fit(auto(tmp_path_factory.mktemp("auto")), groups, progress=False)


def test_widths_that_were_found_are_those_of_the_run(groups, found) -> None:
    widths = found.config["widths"]
    assert widths == [2**power for power in range(2, len(widths) + 2)] and len(widths) > 1
    assert found.environment["chosen"]["widths"] == widths and found.asked == found.config | {"widths": "auto"}
    assert found.users.shape == (600, widths[-1]) and found.items.shape == (320, widths[-1])
    assert found.metrics["width"].unique().sort().to_list() == widths
    assert found.recommend([int(found.user_ids[0])], k=3, width=widths[0]).height == 3
    tried = found.history.filter(phase="settings").drop_nulls("width")
    assert tried["width"].to_list() == [4, 8, 16, 32, 64]
    start = found.history.filter(phase="search", epoch=0)
    assert {f"ndcg@20_w{width}" for width in widths} <= set(start.columns)


def test_widths_that_were_found_train_to_the_same_as_if_they_were_given(tmp_path, groups, found) -> None:
    other = fit(auto(tmp_path, **found.environment["chosen"]), groups, progress=False)
    assert torch.equal(found.users, other.users) and found.metrics.equals(other.metrics)
    assert other.asked == other.config and "widths" not in other.environment["chosen"]


@pytest.mark.robustness
@pytest.mark.parametrize(("method", "calls", "searches"), [("_begin", 0, 2), ("_save", 1, 1), ("refit", 0, 1)])
def test_a_killed_run_that_has_found_its_widths_does_not_search_again(
    tmp_path, groups, found, monkeypatch, method: str, calls: int, searches: int
) -> None:
    searched, choose = [], train_module.choose_settings
    monkeypatch.setattr(train_module, "choose_settings", lambda *given: searched.append(given) or choose(*given))
    with one_validation_split():
        check_resumed(auto(tmp_path), groups, found, monkeypatch, method, calls, train_module._Training)
    resumed = load(tmp_path / "run")
    assert len(searched) == searches and resumed.config["widths"] == found.config["widths"]
    assert resumed.advice == found.advice


def test_the_last_line_says_what_wider_vectors_would_gain_and_narrower_ones_keep(
    tmp_path, groups, found, capsys
) -> None:
    narrow = {"widths": (4, 8), "frequency_l2": None}
    with one_validation_split():
        run = fit(auto(tmp_path, **narrow), groups)
    line = run.advice
    assert line == run.environment["advice"] and " ".join(capsys.readouterr().err.split()).endswith(line)
    assert re.fullmatch(r"on validation, (\d+ dimensions would gain \d+ % in NDCG@20(, \d+ \d+ %)*)(; .*)?", line)
    gain = int(re.search(r"32 (?:dimensions would gain )?(\d+) %", line)[1]) / 100
    wider = found.by_width("valid").filter(width=32)["ndcg@20"].item()
    assert gain == pytest.approx(wider / run.by_width("valid").filter(width=8)["ndcg@20"].item() - 1, abs=0.1)
    values = dict(run.by_width("valid").select("width", "ndcg@20").rows())
    assert ("keep" in line) == (values[4] >= 0.9 * values[8])


@pytest.mark.parametrize("changes", [{"search": "none"}, {"recipe": "mrl4rec"}, {"protocol": "paper"}], ids=str)
def test_what_was_not_measured_is_not_said(tmp_path, data, changes) -> None:
    config = closed_form(tmp_path, epochs=1, **changes)
    run = fit(config, as_paper(data) if "protocol" in changes else data, progress=False)
    if "protocol" in changes:
        assert run.advice == ""
    else:
        values = dict(run.by_width("valid").select("width", "ndcg@20").rows())
        assert values[2] >= 0.9 * values[4]  # two dimensions tell the two tastes apart
        share = percent(values[2] / values[4])
        assert run.advice == f"on validation, 2 dimensions keep {share} of the NDCG@20 of 4"


def test_settings_are_searched_where_a_catalogue_has_fewer_items_than_dimensions(tmp_path, data) -> None:
    with one_validation_split():
        run = fit(closed_form(tmp_path, widths=(4, 64), epochs=1), data, progress=False)
    assert run.users.shape == (60, 64) and run.users.isfinite().all() and run.items.isfinite().all()


def test_batches_grow_with_the_data_where_nothing_is_said(tmp_path, data) -> None:
    trainer = Trainer(settings(tmp_path, batch_size=0), data.train, torch.device("cpu"))
    assert trainer.batch_size == 8192
    users, items = np.divmod(np.arange(600 * 500), 500)
    much = Positives.from_pairs(users, items, 600, 501)
    assert Trainer(settings(tmp_path, batch_size=0), much, torch.device("cpu")).batch_size == 9375


@pytest.mark.parametrize(
    ("given", "pairs", "expected"),
    [
        ({}, 10_000, 4e-3),
        ({}, 10**7, 5e-3),
        ({"loss": "bpr"}, 10_000, 2e-3),
        ({"loss": "bpr"}, 10**7, 5e-3),
        ({"learning_rate": 1e-3}, 10**7, 2.5e-3),
        ({"learning_rate": 1e-2}, 10**7, 1e-2),
        ({"batch_size": 512}, 10**7, 4e-3),
    ],
)
def test_larger_batches_take_longer_steps_up_to_a_rate(given, pairs, expected) -> None:
    assert steps_of(train_config(**{"recipe": "default"} | given), pairs)[1] == pytest.approx(expected)


@pytest.mark.robustness
@pytest.mark.parametrize("recipe", ["default", "least_squares", "mrl4rec"])
def test_what_cannot_be_held_out_is_said_before_anything_is_made(tmp_path, recipe) -> None:
    lone = tmp_path / "lone.csv"
    lone.write_text("user,item\n" + "".join(f"{user},{user % 30}\n" for user in range(60)))
    with pytest.raises(DataError, match=r"^lone: every user has one item, so nothing can be held out for test"):
        fit(TrainConfig(dataset=str(lone), recipe=recipe, run_dir=str(tmp_path / "run")), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.robustness
@pytest.mark.parametrize("recipe", ["default", "least_squares", "mrl4rec"])
@pytest.mark.parametrize("pairs", ["one user", "20 items", "4 items each", "everybody has everything"])
def test_the_smallest_data_that_can_be_held_out_train(tmp_path, recipe, pairs) -> None:
    table = {
        "one user": [(0, item) for item in range(25)],
        "20 items": [(user, (user + step) % 20) for user in range(20) for step in range(8)],
        "4 items each": [(user, (user * 3 + step) % 24) for user in range(24) for step in range(4)],
        "everybody has everything": [(user, item) for user in range(5) for item in range(20)],
    }[pairs]
    path = tmp_path / "small.csv"
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in table))
    given = GIVEN | {"fit_width": 64} if recipe != "mrl4rec" else {}
    epochs = 0 if recipe == "least_squares" else 1
    place = {"dataset": str(path), "run_dir": str(tmp_path / "run")}
    config = train_config(**place, recipe=recipe, epochs=epochs, widths=(4, 64), **given)  # wider than there are items
    run = fit(config, progress=False)
    assert run.by_width()["recall@20"].is_between(0, 1).all()
    assert 1 <= len(run.recommend([0], k=5)) <= 5 or pairs == "everybody has everything"


def test_an_epoch_is_kept_where_users_gain_clearly_over_the_initial_model() -> None:
    state = train_module._State()
    trainer = SimpleNamespace(epoch=0, backbone=dict)
    vectors = torch.zeros(3, 2), torch.zeros(4, 2)
    start = np.full(400, 0.5)
    noise = np.random.default_rng(0).normal(0, 0.2, 400)

    def validated(epoch: int, by_user: np.ndarray) -> int:
        trainer.epoch = epoch
        state.keep_if_best(trainer, vectors, by_user.mean(), by_user)
        return state.best_epoch

    assert validated(0, start) == 0
    assert validated(1, start + 0.01 + noise - noise.mean()) == 0 and state.waited == 0  # better, but by chance
    assert validated(2, start + 0.03 + noise - noise.mean()) == 2  # three standard errors
    assert validated(3, start + 0.02) == 2 and state.waited == 1
    assert validated(4, start + 0.031) == 4
    saved = train_module._State.restore(state.best, state.meta())
    assert torch.equal(saved.best[train_module.START], torch.from_numpy(start))
    fresh = train_module._State()  # a recipe without an epoch 0 keeps whatever is better
    trainer.epoch = 5
    fresh.keep_if_best(trainer, vectors, 0.1, start)
    assert fresh.best_epoch == 5 and train_module.START not in fresh.best


@pytest.mark.parametrize(
    "values, ended",
    [((0.4, 0.4), 2), ((0.4, 0.6, 0.4), None), ((0.55, 0.52, 0.51), None), ((0.55, 0.52, 0.49), 3), ((0.49, 0.4), 2)],
)
def test_a_training_ends_when_it_has_stayed_under_the_initial_model(
    values: tuple[float, ...], ended: int | None
) -> None:
    state = train_module._State()
    vectors, trainer = (torch.zeros(3, 2), torch.zeros(4, 2)), SimpleNamespace(epoch=0, backbone=dict)
    state.keep_if_best(trainer, vectors, 0.5, np.full(9, 0.5))
    fallen = []
    for trainer.epoch, value in enumerate(values, 1):
        state.keep_if_best(trainer, vectors, value, np.full(9, value))
        fallen += [trainer.epoch] if state.has_fallen else []
    assert fallen[:1] == ([] if ended is None else [ended])
