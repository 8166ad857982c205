"""Controls as run directories: each is what it says, is measured as the nested run is, and is not made twice."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pytest
import torch
from settings import train_config

from mrl.config import TrainConfig, flat
from mrl.controls import computed as computed_controls
from mrl.controls import models as control_models
from mrl.controls import runs as control_runs
from mrl.controls.computed import compute_control
from mrl.controls.models import ease, ease_scores, popularity_scores, search_ials
from mrl.controls.runs import CONTROLS, ControlsConfig, metrics_on_test, pivot_by_width, plan_controls, run_controls
from mrl.data.interactions import Interactions
from mrl.data.load import load_data
from mrl.errors import ConfigError, RunError
from mrl.evaluation.evaluate import evaluate, evaluate_scores
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import ials
from mrl.parameters import as_config
from mrl.runs.run import Run, load
from mrl.sweep import finished
from mrl.train import fit

PLANTED = {"num_users": 120, "num_items": 40, "interactions": 1800, "branching": [2, 2]}
SETTINGS = {"ials_trials": 4, "ease_l2": (10.0, 100.0)}


def nested(folder: Path, **changes) -> TrainConfig:
    base = {
        "dataset": "planted", "planted": PLANTED, "widths": (2, 4), "eval_widths": (3,), "epochs": 3, "eval_every": 1,
        "level_weights": (0.3, 0.7), "candidates": 4, "recipe": "mrl4rec", "device": "cpu", "per_user": True,
        "run_dir": str(folder / "mine"),
    }  # fmt: skip
    return train_config(**(base | changes))


def in_turn(configs, *, processes=None, progress=True):
    """`fit_all` without processes, which take seconds to start."""
    for config in configs:
        yield finished(config) or fit(config, progress=False)


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    monkeypatch.setattr(control_runs, "fit_all", in_turn)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[ControlsConfig, list[Run], Interactions]:
    folder = tmp_path_factory.mktemp("runs")
    config = nested(folder)
    fit(config, progress=False)
    controls = ControlsConfig(run=config.run_dir, **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_runs, "fit_all", in_turn)
        return controls, run_controls(controls, progress=False), load_data(config)


def named(runs: list[Run], name: str) -> Run:
    return next(run for run in runs if run.path.name == f"planted-{name}-0")


def recall(run: Run, split: str = "test") -> dict[int | None, float]:
    return dict(run.by_width(split).select("width", "recall@20").iter_rows())


def test_every_control_leaves_a_run_directory_beside_the_nested_one(made) -> None:
    config, runs, data = made
    names = [run.path.name for run in runs]
    wanted = ["bpr", "bpr-rotated", "bpr-shuffled", "alone-2", "alone-4", "shared", "svd", "ials", "ease", "popularity"]
    assert names == ["mine", *(f"planted-{name}-0" for name in wanted)]
    for run in runs:
        assert run.path.parent == Path(config.run).parent
        assert run.metrics.columns == runs[0].metrics.columns
        assert run.metrics["model"].unique().to_list() == [run.config["name"] or "mf-dns-mns"]
        assert run.metrics["protocol"].unique().to_list() == ["honest"]
        assert run.environment["fingerprint"] == data.fingerprint
        assert run.seen == runs[0].seen and len(run.seen) == len(data.train) + len(data.valid)
        assert run.per_user["user_id"].len() == len(run.per_user)
        assert run.environment["seconds"] > 0 and run.environment["peak_memory_mib"] > 0
    for name in ("ease", "popularity"):
        assert not named(runs, name).weights
        assert named(runs, name).metrics["width"].is_null().all()
    for name, widths in {
        "bpr": [2, 3, 4],
        "alone-2": [2],
        "alone-4": [4],
        "shared": [2, 3, 4],
        "svd": [2, 3, 4],
        "ials": [2, 3, 4],
    }.items():
        assert list(recall(named(runs, name))) == widths, name


def test_trained_controls_differ_from_the_nested_run_in_what_they_are_about(made) -> None:
    _, runs, _ = made
    base = flat(runs[0].config)
    changed = {
        name: {key for key, value in flat(named(runs, name).config).items() if value != base[key]}
        for name in ("bpr", "alone-2", "shared")
    }
    elsewhere = {"name", "run_dir"}
    assert changed["shared"] == {"nested_negatives"} | elsewhere
    assert changed["bpr"] == changed["alone-2"] == {"widths", "eval_widths", "level_weights"} | elsewhere


def test_what_is_made_of_bpr_keeps_its_scores_at_full_width(made) -> None:
    _, runs, data = made
    bpr, rotated, shuffled, alone = (named(runs, n) for n in ("bpr", "bpr-rotated", "bpr-shuffled", "alone-4"))
    scores = bpr.users @ bpr.items.T
    for run in (rotated, shuffled, alone):
        assert torch.allclose(run.users @ run.items.T, scores, atol=1e-6)
        assert recall(run)[4] == pytest.approx(recall(bpr)[4], abs=0.01)
        assert (run.environment["from"], run.environment["best_epoch"]) == (
            bpr.path.name,
            bpr.environment["best_epoch"],
        )
        assert run.metrics["split"].unique().to_list() == ["test"]  # they were trained on validation already
    lengths = (rotated.users * rotated.users).sum(0)
    assert torch.equal(lengths.sort(descending=True).values, lengths)
    order = [int((bpr.items.T == column[:, None].T).all(1).nonzero()[0, 0]) for column in shuffled.items.T]
    assert sorted(order) == [0, 1, 2, 3] and torch.equal(bpr.users[:, order], shuffled.users)
    # a model trained at the widest width alone is the same training again
    folder = bpr.path.parent
    lone = nested(folder, widths=(4,), eval_widths=(), level_weights=(), name="x", run_dir=str(folder / "x"))
    assert torch.equal(fit(lone, data, progress=False).items, alone.items)


def test_ials_is_searched_on_validation_and_refitted_for_test(made) -> None:
    _, runs, data = made
    run = named(runs, "ials")
    chosen, trials = search_ials(data, 4, widths=(2, 4), trials=4)
    assert {name: run.environment[name] for name in chosen} == chosen
    assert run.history["value"].to_list() == pytest.approx(trials["value"].to_list())
    searched = rotate(*ials(data.train, 4, **chosen))
    valid = evaluate(*searched, data, split="valid", widths=(2, 3, 4))
    assert recall(run, "valid") == {width: pytest.approx(valid.value("recall@20", width)) for width in (2, 3, 4)}
    final = rotate(*ials(data.merge_valid().train, 4, **chosen))
    assert torch.allclose(run.items, final[1], atol=1e-5)
    test = evaluate(*final, data, split="test", widths=(2, 3, 4))
    assert recall(run) == {width: pytest.approx(test.value("recall@20", width)) for width in (2, 3, 4)}


def test_ease_and_popularity_are_those_of_all_of_train(made) -> None:
    _, runs, data = made
    whole = data.merge_valid().train
    values = {
        l2: evaluate_scores(ease_scores(data.train, ease(data.train, l2)), data, split="valid") for l2 in (10.0, 100.0)
    }
    best = max(values, key=lambda l2: values[l2].value("ndcg@20"))
    run = named(runs, "ease")
    assert run.environment["l2"] == best and run.history["l2"].to_list() == [10.0, 100.0]
    assert recall(run, "valid") == {None: pytest.approx(values[best].value("recall@20"))}
    for name, scores in {"ease": ease_scores(whole, ease(whole, best)), "popularity": popularity_scores(whole)}.items():
        expected = evaluate_scores(scores, data).value("recall@20")
        assert recall(named(runs, name)) == {None: pytest.approx(expected)}


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_test_is_touched_once_and_under_paper_only_test_is_measured(tmp_path, monkeypatch, protocol: str) -> None:
    config = nested(tmp_path, protocol=protocol, epochs=1)
    fit(config, progress=False)
    splits: list[str] = []
    for name in ("evaluate", "evaluate_scores"):
        real = getattr(control_models, name)
        monkeypatch.setattr(
            control_models,
            name,
            lambda *a, real=real, split, **k: splits.append(split) or real(*a, split=split, **k),
        )
    only = {
        "controls": ("svd", "ials", "ease", "popularity"),
        "ease_l2": (50.0,),
        "ials_settings": {"alpha0": 0.1, "l2": 0.01},
    }
    runs = run_controls(ControlsConfig(run=config.run_dir, **only), progress=False)
    assert splits == (["valid", "test"] * 4 if protocol == "honest" else ["test"] * 4)
    for run in runs[1:]:
        assert run.metrics["protocol"].unique().to_list() == [protocol]
        assert run.metrics["split"].unique(maintain_order=True).to_list() == splits[: len(splits) // 4]
        assert len(run.history) == 0  # nothing was searched
    assert runs[2].environment["alpha0"] == 0.1 and runs[3].environment["l2"] == 50.0


def test_what_is_there_is_not_made_again_unless_its_settings_changed(made, monkeypatch) -> None:
    config, runs, _ = made
    again: list[str] = []
    monkeypatch.setattr(
        control_runs, "compute_control", lambda each, *a, **k: again.append(each.name) or compute_control(each, *a, **k)
    )
    monkeypatch.setitem(globals(), "fit", None)  # what `in_turn` would train with
    assert [run.path for run in run_controls(config, progress=False)] == [run.path for run in runs]
    assert again == []
    run_controls(replace(config, ease_l2=(10.0, 101.0)), progress=False)
    assert again == ["ease"]
    run_controls(config, progress=False)  # as it was, for the other tests
    (computed,) = [each for each in plan_controls(config)[1] if each.name == "bpr-rotated"]
    assert finished(computed) is not None
    assert finished(replace(computed, learning_rate=0.5)) is None  # made of a training, so its settings count
    (computed,) = [each for each in plan_controls(config)[1] if each.name == "ials"]
    assert finished(replace(computed, learning_rate=0.5)) is not None  # has nothing to do with it
    assert "learning_rate" not in load(computed.run_dir).config


def test_a_control_that_was_killed_half_way_counts_as_unfinished(made, monkeypatch) -> None:
    config, _, data = made
    (computed,) = [each for each in plan_controls(config)[1] if each.name == "popularity"]
    monkeypatch.setattr(computed_controls, "write_run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compute_control(computed, data)
    assert finished(computed) is None
    monkeypatch.undo()
    assert compute_control(computed, data).path == finished(computed).path


def test_further_seeds_bring_their_nested_runs_along(made) -> None:
    config, *_ = made
    few = replace(config, seeds=(0, 1), controls=("popularity", "shared"))
    runs = run_controls(few, progress=False)
    names = ["mine", "planted-mf-dns-mns-1", "planted-shared-0", "planted-shared-1", "planted-popularity-0"]
    assert [run.path.name for run in runs] == [*names, "planted-popularity-1"]
    table = pivot_by_width(metrics_on_test(runs))
    assert table["seeds"].to_list() == [2] * 6
    mean = (recall(runs[0])[2] + recall(runs[1])[2]) / 2
    assert table.filter(model="mf-dns-mns", metric="recall@20")["2"].item() == pytest.approx(mean)
    assert [run.path.name for run in run_controls(replace(few, seeds=(1,)), progress=False)] == [
        name for name in (*names, "planted-popularity-1") if name.endswith("1")
    ]


def test_the_table_has_a_row_a_model_and_a_column_a_width(made) -> None:
    _, runs, _ = made
    table = pivot_by_width(metrics_on_test(runs))
    assert table.columns == ["dataset", "protocol", "metric", "model", "seeds", "2", "3", "4", "no width"]
    models = ["mf-dns-mns", *CONTROLS[1:]]  # the nested run is mrl4rec itself
    assert table["model"].to_list() == models * 2 and table["metric"].unique(maintain_order=True).to_list() == [
        "recall@20",
        "ndcg@20",
    ]
    alone = table.filter(model="alone", metric="recall@20").row(0, named=True)
    assert alone["2"] == pytest.approx(recall(named(runs, "alone-2"))[2])
    assert alone["4"] == pytest.approx(recall(named(runs, "alone-4"))[4]) and alone["3"] is None
    assert table.filter(pl.col("no width").is_not_null())["model"].unique().sort().to_list() == ["ease", "popularity"]


def test_a_control_is_not_taken_for_a_nested_run(made) -> None:
    config, *_ = made
    for name in ("ials", "bpr", "alone-2"):
        path = Path(config.run).with_name(f"planted-{name}-0")
        with pytest.raises(ConfigError, match=r"is itself a control \(\w+\); give the nested run"):
            plan_controls(replace(config, run=str(path)))
    with pytest.raises(RunError, match="is not a run directory"):
        plan_controls(replace(config, run=str(path.with_name("nowhere"))))


@pytest.mark.robustness
def test_runs_of_other_data_are_not_set_side_by_side(tmp_path) -> None:
    config = nested(tmp_path, epochs=1)
    now = fit(config, progress=False).environment["fingerprint"]
    only = ControlsConfig(run=config.run_dir, controls=("popularity",))
    run_controls(only, progress=False)

    def make_outdated(name: str) -> Path:
        file = tmp_path / name / "environment.json"
        file.write_text(file.read_text().replace(now, "0" * 64))
        return file.parent

    control = make_outdated("planted-popularity-0")
    assert [run.environment["fingerprint"] for run in run_controls(only, progress=False)] == [now, now]  # made again
    main = make_outdated("mine")
    before = (control / "environment.json").read_bytes()
    with pytest.raises(
        RunError, match=f"mine: was trained on other data than planted .*{'0' * 12} and {now[:12]}.*again"
    ):
        run_controls(only, progress=False)
    assert (control / "environment.json").read_bytes() == before
    shutil.copytree(main, tmp_path / "planted-bpr-0")
    rotated = plan_controls(replace(only, controls=("bpr-rotated",)))[1][0]
    with pytest.raises(RunError, match="planted-bpr-0: was trained on other data than planted is now"):
        compute_control(rotated)


@pytest.mark.robustness
def test_controls_beside_those_of_other_data_are_refused_before_anything_is_trained(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"dataset": "planted", "epochs": 1}
    fit(nested(tmp_path, **changes), progress=False)
    run_controls(ControlsConfig(run="mine/", controls=("popularity",)), progress=False)
    fit(nested(tmp_path, **changes, planted=PLANTED | {"noise": 0.3}, run_dir="other"), progress=False)
    monkeypatch.chdir("other")
    with pytest.raises(RunError, match="planted-popularity-0: holds a finished run of planted"):
        run_controls(ControlsConfig(run=".", controls=("popularity", "bpr")), progress=False)
    assert not (tmp_path / "planted-bpr-0").exists()


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ["bpr", "magic"]}, "controls=.*must be 'mrl4rec', 'bpr'"),
        ({"ials_settings": {"alpha0": 0.1}}, "ials_settings=.*give alpha0 and l2, or nothing"),
        ({"ials_settings": {"alpha0": 0.1, "l2": -1}}, "ials_settings=.*greater than 0"),
        ({"ease_l2": []}, "ease_l2="),
        ({"ease_l2": [0]}, "ease_l2=.*greater than 0"),
        ({"ials_trials": 0}, "ials_trials=0"),
        ({"seeds": [-1]}, "seeds="),
    ],
)
def test_impossible_settings_are_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        as_config(ControlsConfig, {"run": "runs/x", **changes})
    assert "\n" not in str(error.value)


def test_settings_of_a_run_survive_the_way_through_its_config(made) -> None:
    config, *_ = made
    trained, computed = plan_controls(config)
    fixed = ("dataset", "planted", "protocol", "sampler", "rule", "seed", "per_user")
    for each in (*trained, *computed):
        assert {name: asdict(each)[name] for name in fixed} == {
            name: asdict(nested(Path(config.run).parent))[name] for name in fixed
        }
