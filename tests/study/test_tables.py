"""The tables of a study, from numbers that are given: means, intervals, baselines, tests and costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from studied import WIDTHS, keep, pretend

from mrl.analysis.comparison import sign_flip
from mrl.errors import RunError
from mrl.study.tables import study_tables


@pytest.fixture
def config(tmp_path, monkeypatch):
    return pretend(monkeypatch, tmp_path / "study")


def test_means_have_the_interval_of_students_t_over_seeds(config) -> None:
    people = keep(config, "wide", {2: 0.3, 4: 0.4})
    found = study_tables(config).means.filter(model="wide", metric="recall")
    assert found["width"].to_list() == list(WIDTHS) and set(found["seeds"]) == {3}
    for row in found.iter_rows(named=True):
        values = [people[row["width"], seed].mean() for seed in range(3)]
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_no_interval(config) -> None:
    keep(config, "flat", {None: 0.2}, seeds=(0,))
    row = study_tables(config).means.row(0, named=True)
    assert (row["width"], row["seeds"], row["low"], row["high"]) == (None, 1, None, None)


def test_ours_is_paired_by_user_with_the_best_that_is_not_ours(config) -> None:
    mine = keep(config, "best", {2: 0.42, 4: 0.42})
    keep(config, "second", {2: 0.9, 4: 0.1})
    wide = keep(config, "wide", {2: 0.30, 4: 0.10})
    keep(config, "parts-2", {2: 0.2})
    parts = keep(config, "parts-4", {4: 0.41})
    keep(config, "flat", {None: 0.05}, seeds=(0,))
    tests = study_tables(config).tests
    assert len(tests) == 4 and set(tests["model"]) == {"best"}
    recall = tests.filter(metric="recall").sort("width")
    assert recall["best_baseline"].to_list() == ["wide", "parts"]
    assert recall["best_other"].to_list() == ["second", "parts"] and recall["is_below"].to_list() == [True, False]
    for row, others in zip(recall.iter_rows(named=True), (wide, parts), strict=True):
        width = row["width"]
        difference = np.array(
            [
                np.mean([mine[width, seed][user] for seed in range(3)])
                - np.mean([others[width, seed][user] for seed in range(3)])
                for user in range(60)
            ]
        )
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-5)  # kept in whole numbers of 2⁻¹⁶
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        p = sign_flip(difference, resamples=400, rng=np.random.default_rng([0, 1]))
        assert row["p"] == pytest.approx(p) and row["p_holm"] >= row["p"]
    assert recall["verdict"].to_list()[0] == "ahead"
    order = tests.sort("p")["p"].to_numpy()
    steps = np.minimum(1, np.maximum.accumulate(order * np.arange(4, 0, -1)))  # Holm, over widths and metrics
    assert tests.sort("p")["p_holm"].to_numpy() == pytest.approx(steps)


def test_a_model_without_widths_is_compared_with_the_widest(config) -> None:
    keep(config, "best", {2: 0.4, 4: 0.4})
    keep(config, "wide", {2: 0.2, 4: 0.2})
    keep(config, "flat", {None: 0.9}, seeds=(0,))
    tests = study_tables(config).tests.filter(metric="recall").sort("width")
    assert tests["best_baseline"].to_list() == ["wide", "flat"]
    assert tests["verdict"].to_list() == ["ahead", "behind"] and tests["is_below"].to_list() == [False, True]


def test_what_parts_have_spent_is_summed(config) -> None:
    keep(config, "parts-2", {2: 0.2})
    keep(config, "parts-4", {4: 0.4})
    keep(config, "best", {2: 0.4, 4: 0.4})
    costs = {row["model"]: row for row in study_tables(config).costs.iter_rows(named=True)}
    assert costs["parts"]["search_seconds"] == 4.0 and costs["parts"]["fit_seconds"] == 4.0
    assert (costs["parts"]["trials"], costs["parts"]["max_trials"], costs["parts"]["max_search_seconds"]) == (
        1,
        4,
        60.0,
    )
    assert costs["parts"]["settings"] == "parts-2: l2=0.125, epochs=3; parts-4: l2=0.125, epochs=3"
    assert costs["best"]["trials"] == 1 and costs["best"]["max_trials"] is None


def test_the_tidy_table_has_one_row_a_figure(config) -> None:
    keep(config, "best", {2: 0.4, 4: 0.4})
    keep(config, "wide", {2: 0.2, 4: 0.2})
    keep(config, "flat", {None: 0.3}, seeds=(0,))
    tidy = study_tables(config).tidy
    keys = ["dataset", "model", "width", "metric", "k"]
    assert len(tidy) == len(tidy.unique(keys)) == 4 + 4 + 2
    assert tidy.filter(model="best")["p_holm"].null_count() == 0
    assert tidy.filter(model="wide")["p_holm"].null_count() == 4
    assert set(tidy["protocol"]) == {"honest"} and tidy["settings"].null_count() == 0


def test_ours_may_be_named(config) -> None:
    keep(config, "second", {2: 0.4, 4: 0.4})
    keep(config, "wide", {2: 0.2, 4: 0.2})
    assert study_tables(config).main == "second"  # best is not there yet
    keep(config, "parts-2", {2: 0.1})
    tests = study_tables(replace(config, main="wide")).tests
    assert set(tests["model"]) == {"wide"}
    assert (set(tests["width"]), set(tests["best_other"]), set(tests["best_baseline"])) == ({2}, {"second"}, {"parts"})


def test_where_nothing_is_the_remedy_is_told(config) -> None:
    with pytest.raises(RunError, match="no finished fit of planted there; run the study first"):
        study_tables(config)
