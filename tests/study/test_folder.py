"""What is kept of the study: keys that change with what makes the numbers, and what is still to do."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from settings import GIVEN

import mrl
from mrl.controls.fitting import Task, rank, sample_for_search
from mrl.data.holdout import hold_out
from mrl.data.synthetic import planted_interactions
from mrl.errors import RunError
from mrl.evaluation.evaluate import evaluate
from mrl.report.code import code_files, code_version
from mrl.study import folder as study_folder
from mrl.study.folder import Experiment, find_experiment, read_json, write_json, write_per_user
from mrl.study.models import AUTHORS_SETTINGS, LogRange, select_models

ALL = {"trials": 2, "seeds": (0, 1)}


@pytest.fixture
def ials():
    return select_models(["ials-8"], (2, 4, 8))[0]


def trial(number: int, value: float, *, seconds: float = 1.0, error: str | None = None, l2: float = 0.01) -> dict:
    settings = {"alpha0": 0.1, "l2": l2}
    facts = {"number": number, "settings": settings, "refit_settings": {}, "value": value}
    return facts | {"seconds": seconds, "timed_out": False, "error": error}


def with_trials(experiment: Experiment, *trials: dict) -> Experiment:
    write_json(experiment.path / "search.json", {"trials": list(trials)})
    return experiment


def test_a_change_of_data_widths_settings_or_space_makes_another_folder(tmp_path, ials) -> None:
    paths = [
        find_experiment(tmp_path, "tool", "aa", ials).path,
        find_experiment(tmp_path, "tool", "ab", ials).path,
        find_experiment(tmp_path, "tool", "aa", replace(ials, widths=(2, 4))).path,
        find_experiment(tmp_path, "tool", "aa", replace(ials, fixed={"dim": 9})).path,
        find_experiment(tmp_path, "tool", "aa", replace(ials, space={"alpha0": LogRange(1e-3, 2.0)})).path,
        find_experiment(tmp_path, "tool", "aa", replace(ials, code=("least_squares/ials.py",))).path,
    ]
    assert len(set(paths)) == len(paths)
    assert find_experiment(tmp_path, "tool", "aa", replace(ials, first_trial={}, role="recipe")).path == paths[0]


def test_what_is_kept_of_data_given_by_its_path_lies_in_the_folder_of_the_study(tmp_path, ials) -> None:
    (tmp_path / "shop").mkdir()
    assert (
        find_experiment(tmp_path / "study", str(tmp_path / "shop"), "aa", ials).path.parent
        == tmp_path / "study" / "shop"
    )


@pytest.mark.parametrize(
    ("model", "module", "counts"),
    [
        *(("default", f"kernels/{name}", True) for name in ("bpr.py", "candidates.py", "sparse.py")),
        *(("default", f"kernels/{name}", False) for name in ("scan.py", "threads.py")),
        *(("default", f"least_squares/{name}", True) for name in ("rotation.py", "search.py")),
        *(("default", name, True) for name in ("evaluation/ranking.py", "loss.py", "sampler.py", "trainer.py")),
        *(("default", name, True) for name in ("recipes.py", "softmax.py")),
        ("default", "least_squares/stages.py", False),  # it fits nothing that the recipe does not
        *(("default", name, False) for name in ("figures/plots.py", "study/words.py", "report/page.py", "config.py")),
        *(("ials-4", name, True) for name in ("least_squares/ials.py", "kernels/topk.py", "controls/fitting.py")),
        *(("ials-4", name, False) for name in ("sampler.py", "train.py", "least_squares/search.py")),
        *(("mf-dns-mns", name, False) for name in ("least_squares/search.py", "report/code.py", "softmax.py")),
    ],
)
def test_a_change_of_code_changes_the_version_of_the_models_that_it_makes(monkeypatch, model, module, counts) -> None:
    (chosen,) = select_models([model], (2, 4, 8))
    before, read_text = code_version(chosen.code), Path.read_text
    changed = Path(mrl.__file__).parent / module
    monkeypatch.setattr(Path, "read_text", lambda path, **more: read_text(path, **more) + "x = 1\n" * (path == changed))
    assert (code_version.__wrapped__(chosen.code) != before) == counts


# settings, data and what gives the same numbers by other means
APART = {
    "config.py", "data", "errors.py", "files", "parameters.py", "runs", "words.py", "kernels/cuda_graph.py",
    "kernels/fast_paths.py", "kernels/products.py", "kernels/threads.py",
}  # fmt: skip
CHOSEN = GIVEN | {
    "fit_width": 8, "nested_sweeps": 1, "rotation": True, "propagation": (0.5, 0.5), "epochs": 1, "nu": 1.0,
    "l2_width_exponent": 0.3, "hops": 2, "l2": 0.01, "initial_scale": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("default", CHOSEN),
        *((name, AUTHORS_SETTINGS | {"epochs": 1}) for name in ("mf-dns-mns", "mf-ahns-mns", "bpr-rotated")),
        ("lightgcn-dns-shared", AUTHORS_SETTINGS | {"epochs": 1, "hops": 2}),
        ("ials-4", {"alpha0": 0.1, "l2": 0.01}),
        ("ease", {"l2": 10.0}),
        ("popularity", {}),
    ],
)
def test_all_code_that_a_fit_runs_through_counts(model, settings) -> None:
    """Every file of the package with a function that is called in a fit and its test is code of the model."""
    (chosen,) = select_models([model], (2, 4, 8))
    data = sample_for_search(hold_out(planted_interactions(num_users=60, num_items=64, interactions=900)), 0)
    task, package, called = Task(data.merge_valid(), chosen.widths), Path(mrl.__file__).parent, set()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        rank(task, chosen.fit(task, {**chosen.fixed, **settings}).model, "test", per_user=True)
    finally:
        sys.setprofile(None)
    ours = {Path(name).relative_to(package).as_posix() for name in called if Path(name).is_relative_to(package)}
    ours = {name for name in ours if not {name, name.partition("/")[0]} & APART}
    counted = {path.relative_to(package).as_posix() for path in code_files(chosen.code)}
    assert ours and ours <= counted


def test_numbers_of_earlier_code_are_taken_only_on_demand(tmp_path, ials, monkeypatch) -> None:
    old = find_experiment(tmp_path, "tool", "aa", ials).path
    old.mkdir(parents=True)
    monkeypatch.setattr(study_folder, "code_version", lambda model: "later")
    assert find_experiment(tmp_path, "tool", "aa", ials).path != old
    assert find_experiment(tmp_path, "tool", "aa", ials, any_code=True).path == old
    older = old.with_name(f"{old.name[:-8]}earliest")
    older.mkdir()
    os.utime(older, (0, 0))
    assert find_experiment(tmp_path, "tool", "aa", ials, any_code=True).path == old
    assert find_experiment(tmp_path, "tool", "bb", ials, any_code=True).path.name.endswith("-later")


def test_trials_come_first_then_the_fit_of_each_seed(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", ials)
    assert [job[2:] for job in experiment.jobs(**ALL)] == [("trial", 0), ("trial", 1)]
    with_trials(experiment, trial(1, 0.2))
    assert [job[2:] for job in experiment.jobs(**ALL)] == [("trial", 0)]
    with_trials(experiment, trial(0, 0.1), trial(1, 0.2))
    assert [job[2:] for job in experiment.jobs(**ALL)] == [("seed", 0), ("seed", 1)]
    write_json(experiment.result_path(0, experiment.best_settings()), {})
    assert [job[2:] for job in experiment.jobs(**ALL)] == [("seed", 1)]
    assert [result for result, _ in experiment.results((0, 1))] == [{}]
    assert len(experiment.jobs(**ALL | {"trials": 4})) == 2  # more trials are more to do
    alone = replace(experiment, model=replace(ials, deterministic=True))
    assert alone.jobs(**ALL) == []


def test_after_a_search_on_a_sample_the_epochs_are_those_of_all(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", ials)
    found = trial(0, 0.1) | {"sampled": True}
    with_trials(experiment, found, trial(1, 0.0))
    assert {job.kind for job in experiment.jobs(**ALL)} == {"seed"}  # nothing that depends on it was found
    with_trials(experiment, found | {"refit_settings": {"epochs": 7}}, trial(1, 0.0))
    assert [job.kind for job in experiment.jobs(**ALL)] == ["epochs"]
    write_json(experiment.epochs_path(), {"refit_settings": {"epochs": 9}, "timed_out": True, "seconds": 1.0})
    assert experiment.best_settings()["epochs"] == 9 and experiment.timed_out() == 1
    assert {job.kind for job in experiment.jobs(**ALL)} == {"seed"}


def test_the_best_is_the_earliest_of_equals_that_did_not_fail(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", ials)
    assert experiment.best_settings() is None
    with_trials(experiment, trial(0, 0.0, error="too little"))
    assert experiment.best_settings() is None and experiment.jobs(trials=1, seeds=(0,)) == []
    failed = trial(0, 0.9, error="too little")
    with_trials(experiment, failed, trial(1, 0.2, l2=0.1), trial(2, 0.3, l2=0.2), trial(3, 0.3, l2=0.3))
    assert experiment.best_settings() == {"dim": 8, "alpha0": 0.1, "l2": 0.2}


def test_what_a_trial_found_is_among_the_settings_of_the_refit(tmp_path, ials) -> None:
    experiment = with_trials(
        find_experiment(tmp_path, "tool", "aa", ials), trial(0, 0.1) | {"refit_settings": {"epochs": 7}}
    )
    assert experiment.best_settings()["epochs"] == 7


def test_metrics_by_user_have_a_row_a_user(tmp_path) -> None:
    data = planted_interactions(num_users=40, num_items=64, interactions=600)
    vectors = pl.Series(range(40)), pl.Series(range(64))
    users, items = (column.to_torch().float()[:, None].repeat(1, 4).sin() for column in vectors)
    found = evaluate(users, items, data, widths=(2, 4), ks=(20,), per_user=True)
    write_per_user(tmp_path / "per_user.parquet", found.per_user)
    table = pl.read_parquet(tmp_path / "per_user.parquet")
    assert table["user"].is_sorted() and len(table) == found.users
    assert table["recall@20_w4"].mean() == pytest.approx(found.value("recall@20", 4), abs=1e-6)


def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(RunError, match=r"search\.json: cannot be read .*; remove it to have it made again"):
        read_json(tmp_path / "search.json")
