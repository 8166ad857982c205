"""What is kept of the study: keys that change with what makes the numbers, and what is still to do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import mrl
from mrl.data.synthetic import planted_interactions
from mrl.errors import RunError
from mrl.evaluation.evaluate import evaluate
from mrl.study import folder as study_folder
from mrl.study import models
from mrl.study.folder import Experiment, code_version, digest, find_experiment, read_json, write_json, write_per_user
from mrl.study.models import LogRange, select_models

ALL = {"trials": 2, "seconds": 10.0, "seeds": (0, 1)}


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


def test_the_code_version_follows_what_code_does_and_not_how_it_reads() -> None:
    plain = study_folder._without_docstrings("def f(x):\n    return x + 1\n")
    retold = study_folder._without_docstrings('"""F."""\ndef f(x):\n    """Add one."""\n    return (x\n + 1)  # why\n')
    assert plain == retold != study_folder._without_docstrings("def f(x):\n    return x + 2\n")


@pytest.mark.parametrize(
    ("model", "module", "counts"),
    [
        *(("default", f"kernels/{name}", True) for name in ("bpr.py", "candidates.py", "sparse.py")),
        *(("default", f"least_squares/{name}", True) for name in ("rotation.py", "search.py")),
        *(("default", name, True) for name in ("evaluation/ranking.py", "loss.py", "sampler.py", "trainer.py")),
        *(("default", name, True) for name in ("recipes.py", "softmax.py")),
        ("default", "least_squares/stages.py", False),  # it fits nothing that the recipe does not
        *(("default", name, False) for name in ("figures/plots.py", "study/words.py", "report/page.py", "config.py")),
        *(("ials-4", name, True) for name in ("least_squares/ials.py", "kernels/topk.py", "study/fitting.py")),
        *(("ials-4", name, False) for name in ("sampler.py", "train.py")),
        *(("mf-dns-mns", name, False) for name in ("least_squares/search.py", "controls/models.py", "softmax.py")),
    ],
)
def test_a_change_of_code_changes_the_version_of_the_models_that_it_makes(monkeypatch, model, module, counts) -> None:
    (chosen,) = select_models([model], (2, 4, 8))
    before, read_text = code_version(chosen.code), Path.read_text
    changed = Path(mrl.__file__).parent / module
    monkeypatch.setattr(Path, "read_text", lambda path, **more: read_text(path, **more) + "x = 1\n" * (path == changed))
    assert (code_version.__wrapped__(chosen.code) != before) == counts


def test_all_code_that_makes_numbers_counts() -> None:
    """What fits import of the package is code of some model, but for settings, data, run directories and processes."""
    listing = "import mrl.controls, sys; print(*(name for name in sys.modules if name.startswith('mrl.')))"
    imported = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout
    apart = {"config", "data", "distributed", "errors", "files", "parameters", "popularity", "runs", "sweep", "words"}
    counted = {name.split("/")[0].removesuffix(".py") for name in models.RECIPE_CODE + models.COMPUTING_CODE}
    assert {name.split(".")[1] for name in imported.split()} - counted <= apart


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


def test_a_spent_budget_ends_the_search_but_not_before_its_first_trial(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", ials)
    assert len(experiment.jobs(trials=2, seconds=1e-9, seeds=(0,))) == 2
    with_trials(experiment, trial(0, 0.1, seconds=11.0))
    assert [job.kind for job in experiment.jobs(**ALL)] == ["seed", "seed"]


def test_the_best_is_the_earliest_of_equals_that_did_not_fail(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", ials)
    assert experiment.best_settings() is None
    with_trials(experiment, trial(0, 0.0, error="too little"))
    assert experiment.best_settings() is None and experiment.jobs(trials=1, seconds=10, seeds=(0,)) == []
    failed = trial(0, 0.9, error="too little")
    with_trials(experiment, failed, trial(1, 0.2, l2=0.1), trial(2, 0.3, l2=0.2), trial(3, 0.3, l2=0.3))
    assert experiment.best_settings() == {"dim": 8, "alpha0": 0.1, "l2": 0.2}


def test_what_a_trial_found_is_among_the_settings_of_the_refit(tmp_path, ials) -> None:
    experiment = with_trials(
        find_experiment(tmp_path, "tool", "aa", ials), trial(0, 0.1) | {"refit_settings": {"epochs": 7}}
    )
    assert experiment.best_settings()["epochs"] == 7


def test_digests_do_not_depend_on_the_order_of_names() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


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
