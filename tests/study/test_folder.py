"""What is kept of the study: keys that change with what makes the numbers, and what is still to do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mrl.data.synthetic import planted_interactions
from mrl.errors import RunError
from mrl.evaluation.evaluate import evaluate
from mrl.study import code_version as version
from mrl.study import folder as study_folder
from mrl.study.code_version import code_version
from mrl.study.folder import Experiment, digest, find_experiment, read_json, write_json, write_per_user
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
        find_experiment(tmp_path, "tool", "aa", replace(ials, modules=("least_squares.ials",))).path,
    ]
    assert len(set(paths)) == len(paths)
    assert find_experiment(tmp_path, "tool", "aa", replace(ials, first_trial={}, role="recipe")).path == paths[0]


def test_what_is_kept_of_data_given_by_its_path_lies_in_the_folder_of_the_study(tmp_path, ials) -> None:
    (tmp_path / "shop").mkdir()
    assert (
        find_experiment(tmp_path / "study", str(tmp_path / "shop"), "aa", ials).path.parent
        == tmp_path / "study" / "shop"
    )


def test_the_code_version_follows_what_code_does_and_not_how_it_reads(monkeypatch, ials) -> None:
    plain = version._meaning("def f(x):\n    return x + 1\n")
    told = version._meaning('def f(x):\n    """Add one."""\n    return (x\n        + 1)  # why\n')
    assert plain == told != version._meaning("def f(x):\n    return x + 2\n")
    before = code_version(ials)
    sources = {module: version._source_meaning(module) for module in version._imported(ials.modules)}
    used = {"least_squares.ials", "kernels.topk", "evaluation.ranking", "kernels.threads"}
    assert used <= set(sources) and not {"config", "errors"} & set(sources)
    monkeypatch.setattr(version, "_source_meaning", lambda module: sources[module] + "x" * (module == "kernels.topk"))
    assert code_version(ials) != before


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        *((name, True) for name in ("kernels.bpr", "kernels.candidates", "kernels.sparse", "least_squares.rotation")),
        *((name, True) for name in ("least_squares.search", "evaluation.ranking", "loss", "sampler", "trainer")),
        *((name, False) for name in ("figures.plots", "hierarchy.measure", "study.words", "report.page", "config")),
    ],
)
def test_a_change_of_code_changes_the_version_of_the_models_that_it_makes(monkeypatch, module, counts) -> None:
    default = select_models(["default"], (2, 4))[0]
    before, source = code_version(default), version._source
    monkeypatch.setattr(
        version, "_source_meaning", lambda name: version._meaning(source(name) + "x = 1\n" * (name == module))
    )
    assert (code_version(default) != before) == counts


def test_a_name_that_a_package_hands_on_stands_for_its_face(monkeypatch) -> None:
    sources = {"a": "from mrl.kernels import draw\nfrom mrl.data import labels\nimport mrl.loss\nimport torch\n"}
    monkeypatch.setattr(version, "_source", sources.get)
    monkeypatch.setattr(version, "_imports", version._imports.__wrapped__)
    assert version._imports("a") == ["kernels", "data.labels", "loss"]


def test_imported_modules_are_followed_and_what_is_in_the_keys_is_not() -> None:
    found = version._imported(("train",))
    assert {"train", "trainer", "evaluation.evaluate", "kernels.topk"} <= set(found)
    assert not {"data.datasets", "config", "runs.run", "data.parsers", "data.interactions"} & set(found)


def test_the_code_of_a_fit_is_that_of_what_it_calls_too() -> None:
    nested = version._called(select_models(["mf-dns-mns"], (2, 4))[0].fit)
    assert [function.__name__ for function in nested] == ["fit_mrl4rec", "_train", "objective", "rank"]


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


def test_a_model_that_searches_by_itself_has_no_trials(tmp_path, ials) -> None:
    experiment = find_experiment(tmp_path, "tool", "aa", replace(ials, max_trials=0, space={}))
    assert experiment.best_settings() == {"dim": 8}
    assert [job.kind for job in experiment.jobs(**ALL)] == ["seed", "seed"]


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
