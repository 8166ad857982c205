"""What is kept of the study: keys that change with what makes the figures, and what is still to do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mrl.data.synthetic import planted_interactions
from mrl.errors import RunError
from mrl.evaluation.evaluate import evaluate
from mrl.study import folder as study_folder
from mrl.study.folder import Entry, code_version, digest, entry, read_json, write_json, write_people
from mrl.study.models import LogRange, select

ALL = {"trials": 2, "seconds": 10.0, "seeds": (0, 1)}


@pytest.fixture
def ials():
    return select(["ials-8"], (2, 4, 8))[0]


def trial(number: int, value: float, *, seconds: float = 1.0, error: str | None = None, l2: float = 0.01) -> dict:
    settings = {"alpha0": 0.1, "l2": l2}
    facts = {"number": number, "settings": settings, "found": {}, "value": value}
    return facts | {"seconds": seconds, "cut": False, "error": error}


def with_trials(at: Entry, *trials: dict) -> Entry:
    write_json(at.path / "search.json", {"trials": list(trials)})
    return at


def test_a_change_of_data_widths_settings_or_space_makes_another_folder(tmp_path, ials) -> None:
    paths = [
        entry(tmp_path, "tool", "aa", ials).path,
        entry(tmp_path, "tool", "ab", ials).path,
        entry(tmp_path, "tool", "aa", replace(ials, widths=(2, 4))).path,
        entry(tmp_path, "tool", "aa", replace(ials, fixed={"dim": 9})).path,
        entry(tmp_path, "tool", "aa", replace(ials, space={"alpha0": LogRange(1e-3, 2.0)})).path,
        entry(tmp_path, "tool", "aa", replace(ials, modules=("ials",))).path,
    ]
    assert len(set(paths)) == len(paths)
    assert entry(tmp_path, "tool", "aa", replace(ials, start={}, role="ours")).path == paths[0]


def test_what_is_kept_of_data_given_by_its_path_lies_in_the_folder_of_the_study(tmp_path, ials) -> None:
    (tmp_path / "shop").mkdir()
    assert entry(tmp_path / "study", str(tmp_path / "shop"), "aa", ials).path.parent == tmp_path / "study" / "shop"


def test_the_code_version_follows_what_code_does_and_not_how_it_reads(monkeypatch, ials) -> None:
    plain = study_folder._meaning("def f(x):\n    return x + 1\n")
    told = study_folder._meaning('def f(x):\n    """Add one."""\n    return (x\n        + 1)  # why\n')
    assert plain == told != study_folder._meaning("def f(x):\n    return x + 2\n")
    before = code_version(ials)
    sources = {module: study_folder._source(module) for module in study_folder._imported(ials.modules)}
    assert {"ials", "kernels", "ranking", "compiled"} <= set(sources) and not {"config", "errors"} & set(sources)
    monkeypatch.setattr(study_folder, "_source", lambda module: sources[module] + "x" * (module == "kernels"))
    assert code_version(ials) != before


def test_imported_modules_are_followed_and_what_is_in_the_keys_is_not() -> None:
    found = study_folder._imported(("train",))
    assert {"train", "trainer", "evaluate", "kernels"} <= set(found)
    assert not {"datasets", "config", "run", "parsers", "interactions"} & set(found)


def test_the_code_of_a_fit_is_that_of_what_it_calls_too() -> None:
    nested = study_folder._called(select(["mf-dns-mns"], (2, 4))[0].fit)
    assert [function.__name__ for function in nested] == ["fit_nested", "_trained", "objective", "measure"]


def test_figures_of_earlier_code_are_taken_only_on_demand(tmp_path, ials, monkeypatch) -> None:
    old = entry(tmp_path, "tool", "aa", ials).path
    old.mkdir(parents=True)
    monkeypatch.setattr(study_folder, "code_version", lambda contender: "later")
    assert entry(tmp_path, "tool", "aa", ials).path != old
    assert entry(tmp_path, "tool", "aa", ials, any_code=True).path == old
    older = old.with_name(f"{old.name[:-8]}earliest")
    older.mkdir()
    os.utime(older, (0, 0))
    assert entry(tmp_path, "tool", "aa", ials, any_code=True).path == old
    assert entry(tmp_path, "tool", "bb", ials, any_code=True).path.name.endswith("-later")


def test_trials_come_first_then_the_fit_of_each_seed(tmp_path, ials) -> None:
    at = entry(tmp_path, "tool", "aa", ials)
    assert [job[2:] for job in at.jobs(**ALL)] == [("trial", 0), ("trial", 1)]
    with_trials(at, trial(1, 0.2))
    assert [job[2:] for job in at.jobs(**ALL)] == [("trial", 0)]
    with_trials(at, trial(0, 0.1), trial(1, 0.2))
    assert [job[2:] for job in at.jobs(**ALL)] == [("seed", 0), ("seed", 1)]
    write_json(at.result_path(0, at.best()), {})
    assert [job[2:] for job in at.jobs(**ALL)] == [("seed", 1)]
    assert [result for result, _ in at.results((0, 1))] == [{}]
    assert len(at.jobs(**ALL | {"trials": 4})) == 2  # more trials are more to do
    alone = replace(at, contender=replace(ials, deterministic=True))
    assert alone.jobs(**ALL) == []


def test_a_spent_budget_ends_the_search_but_not_before_its_first_trial(tmp_path, ials) -> None:
    at = entry(tmp_path, "tool", "aa", ials)
    assert len(at.jobs(trials=2, seconds=1e-9, seeds=(0,))) == 2
    with_trials(at, trial(0, 0.1, seconds=11.0))
    assert [job.kind for job in at.jobs(**ALL)] == ["seed", "seed"]


def test_the_best_is_the_earliest_of_equals_that_did_not_fail(tmp_path, ials) -> None:
    at = entry(tmp_path, "tool", "aa", ials)
    assert at.best() is None
    with_trials(at, trial(0, 0.0, error="too little"))
    assert at.best() is None and at.jobs(trials=1, seconds=10, seeds=(0,)) == []
    failed = trial(0, 0.9, error="too little")
    with_trials(at, failed, trial(1, 0.2, l2=0.1), trial(2, 0.3, l2=0.2), trial(3, 0.3, l2=0.3))
    assert at.best() == {"dim": 8, "alpha0": 0.1, "l2": 0.2}


def test_what_a_trial_found_is_among_the_settings_of_the_refit(tmp_path, ials) -> None:
    at = with_trials(entry(tmp_path, "tool", "aa", ials), trial(0, 0.1) | {"found": {"epochs": 7}})
    assert at.best()["epochs"] == 7


def test_a_contender_that_searches_by_itself_has_no_trials(tmp_path, ials) -> None:
    at = entry(tmp_path, "tool", "aa", ials.with_settings(trials=0, space={}))
    assert at.best() == {"dim": 8}
    assert [job.kind for job in at.jobs(**ALL)] == ["seed", "seed"]


def test_digests_do_not_depend_on_the_order_of_names() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_figures_by_user_have_a_row_a_user(tmp_path) -> None:
    data = planted_interactions(num_users=40, num_items=64, interactions=600)
    vectors = pl.Series(range(40)), pl.Series(range(64))
    users, items = (column.to_torch().float()[:, None].repeat(1, 4).sin() for column in vectors)
    found = evaluate(users, items, data, widths=(2, 4), ks=(20,), per_user=True)
    write_people(tmp_path / "people.parquet", found.per_user)
    table = pl.read_parquet(tmp_path / "people.parquet")
    assert table["user"].is_sorted() and len(table) == found.users
    assert table["recall@20_w4"].mean() == pytest.approx(found.value("recall@20", 4), abs=1e-6)


def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(RunError, match=r"search\.json: cannot be read .*; remove it to have it made again"):
        read_json(tmp_path / "search.json")
