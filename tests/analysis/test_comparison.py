"""Runs side by side: paired statistics against hand calculation and enumeration, and runs checked for their data."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from settings import train_config

from mrl.analysis.comparison import (
    EvaluateConfig,
    compare,
    compare_all,
    describe_comparison,
    interval,
    load_run_data,
    load_runs,
    measure_run,
    sign_flip,
)
from mrl.errors import ConfigError, RunError
from mrl.parameters import as_config
from mrl.runs.run import load
from mrl.train import fit

SMALL = {"num_users": 120, "num_items": 64, "interactions": 2500}
SETTINGS = {
    "recipe": "mrl4rec",
    "dataset": "planted",
    "planted": SMALL,
    "widths": (2, 4, 8),
    "epochs": 2,
    "device": "cpu",
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_user(values: dict[int | None, list[float]], metric: str = "recall") -> pl.DataFrame:
    rows = [(user, width, metric, 20, value) for width, row in values.items() for user, value in enumerate(row)]
    schema = {"user": pl.Int32, "width": pl.Int64, "metric": pl.String, "k": pl.Int64, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def enumerated(difference: list[float]) -> float:
    """Two-sided p over all ways to flip the signs: twice the smaller tail, at most 1."""
    ways = product((1, -1), repeat=len(difference))
    totals = [sum(sign * value for sign, value in zip(signs, difference, strict=True)) for signs in ways]
    seen = sum(difference)
    tails = [np.mean([t >= seen - 1e-9 for t in totals]), np.mean([t <= seen + 1e-9 for t in totals])]
    return min(1.0, 2 * min(tails))


@pytest.mark.parametrize(
    "difference", [[0.3, 0.1, -0.05, 0.2, 0.4], [1.0, 1.0, 1.0, -1.0], [-0.5, -0.25, -0.125], [0.2], [0.1, -0.1]]
)
def test_sign_flip_on_few_users_is_exact(difference: list[float]) -> None:
    assert sign_flip(np.array(difference), resamples=500, rng=rng()) == pytest.approx(enumerated(difference))
    padded = np.array([0.0, *difference, 0.0, 0.0])  # ties between the two models take no side
    assert sign_flip(padded, resamples=500, rng=rng()) == pytest.approx(enumerated(difference))


def test_sign_flip_on_more_users_is_near_and_repeats() -> None:
    difference = rng(1).normal(0.3, 1, 13)
    p = sign_flip(difference, resamples=8000, rng=rng())  # of 8192 ways: drawn, not enumerated
    assert p == pytest.approx(enumerated(difference.tolist()), abs=0.02)
    assert p == sign_flip(difference, resamples=8000, rng=rng())
    assert sign_flip(np.full(100, 0.1), resamples=999, rng=rng()) == pytest.approx(0.002)


def test_interval_is_that_of_the_normal_law_where_it_holds() -> None:
    values = rng(2).normal(5, 2, (2, 400))
    low, high = interval(values, resamples=4000, rng=rng())
    reach = 1.96 * values.std(axis=1) / 20
    assert low == pytest.approx(values.mean(1) - reach, abs=0.1 * reach.max())
    assert high == pytest.approx(values.mean(1) + reach, abs=0.1 * reach.max())


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    samples = rng(3).exponential(1, (300, 60))  # rows share the drawn users, and differ in their values
    low, high = interval(samples, resamples=500, rng=rng())
    assert 0.87 < np.mean((low <= 1) & (high >= 1)) < 0.98


def test_one_user_says_nothing() -> None:
    low, high = interval(np.array([[0.3]]), resamples=100, rng=rng())
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_a_model_compared_with_itself() -> None:
    values = by_user({2: [0.1, 0.2, 0.0], 4: [0.3, 0.1, 0.9]})
    table = compare(values, values, metrics=("recall",), resamples=100)
    assert table.columns == [
        *("width", "metric", "k", "users", "mean", "other_mean", "difference", "low", "high", "p", "p_holm")
    ]
    assert table["width"].to_list() == [2, 4] and set(table["users"]) == {3}
    for name, value in {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0}.items():
        assert table[name].to_list() == [value] * 2
    assert table["mean"].to_list() == table["other_mean"].to_list() == pytest.approx([0.1, 1.3 / 3])


def test_holm_by_hand() -> None:
    base = [0.0] * 6
    ahead = {2: [1, 1, 1, 1, 1, 1], 4: [1, 1, 1, 1, 1, 0], 8: [1, 1, -1, 1, 0, 0]}  # p: 2/64, 2/32, 10/16
    table = compare(by_user(ahead), by_user(dict.fromkeys(ahead, base)), metrics=("recall",), resamples=200)
    assert table["p"].to_list() == pytest.approx([2 / 64, 2 / 32, 10 / 16])
    assert table["p_holm"].to_list() == pytest.approx([3 * 2 / 64, 2 * 2 / 32, 10 / 16])
    # the largest step down so far holds: 2 · 0.03125 after 3 · 0.03125 stays 0.09375
    level = compare(by_user({2: ahead[2], 4: ahead[2]}), by_user({2: base, 4: base}), resamples=200)
    assert level["p_holm"].to_list() == pytest.approx([2 * 2 / 64] * 2)


def test_each_metric_has_its_own_correction_and_a_known_difference() -> None:
    first = pl.concat([by_user({2: [0.5, 0.7], 4: [1, 1]}), by_user({2: [0.5, 0.7]}, "ndcg")])
    second = pl.concat([by_user({4: [0.0, 0.5], 2: [0.25, 0.25]}), by_user({2: [0.5, 0.7]}, "ndcg")])
    table = compare(first, second, resamples=100)
    assert table.select("metric", "width").rows() == [("recall", 2), ("recall", 4), ("ndcg", 2)]
    assert table["difference"].to_list() == pytest.approx([0.35, 0.75, 0])
    assert table["p"].to_list() == pytest.approx([0.5, 0.5, 1]) and table["p_holm"].to_list() == pytest.approx([1] * 3)


def test_only_common_widths_count_and_a_model_without_widths_meets_every_one() -> None:
    first = by_user({2: [0.5, 0.7], 4: [1, 1]})
    assert compare(first, by_user({4: [0, 0], 8: [0, 0]}), resamples=100)["width"].to_list() == [4]
    table = compare(first, by_user({None: [0.5, 0.5]}), resamples=100)
    assert table.select("width", "other_mean").rows() == [(2, 0.5), (4, 0.5)]


def test_other_users_or_no_common_width_are_refused() -> None:
    first = by_user({2: [0.5, 0.7]})
    for second in (by_user({4: [0.5, 0.7]}), by_user({2: [0.5]}), by_user({2: [0.5, 0.7, 1]})):
        with pytest.raises(RunError, match="no width, metric and users in common"):
            compare(first, second, resamples=100)


def test_a_comparison_in_words() -> None:
    rows = [(4, 0.05, 0.04, 0.06, 0.01), (8, 0.02, 0.01, 0.03, 0.01), (16, 0.0, -0.1, 0.1, 0.9)]
    table = pl.DataFrame(rows, schema=["width", "difference", "low", "high", "p_holm"], orient="row")
    facts = {"model": "nested", "other": "shared", "metric": "recall"}
    table = table.with_columns(
        **{name: pl.lit(value) for name, value in facts.items()}, k=pl.lit(20), users=pl.lit(941)
    )
    end = "Both had the same 941 users; Holm's correction over 3 widths."
    assert describe_comparison(table) == (
        "Compared with *MRL4Rec, shared negatives*, *nested* has the higher recall@20 at widths 4 and 8 (by up to "
        "0.0500, at width 4; 95 % "
        f"interval 0.0400 to 0.0600) and cannot be told from it at width 16. {end}"
    )
    values = {"difference": -0.1, "low": -0.2, "high": -0.05, "p_holm": 0.01}
    behind = table.with_columns(**{name: pl.lit(value) for name, value in values.items()})
    assert describe_comparison(behind) == (
        "Compared with *MRL4Rec, shared negatives*, *nested* has the lower recall@20 at every width (by up to 0.1000, "
        "at width 4; 95 % "
        f"interval 0.0500 to 0.2000). {end}"
    )
    assert describe_comparison(table.clear()) == ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two small runs, the second with shared negatives, and the first without its vectors."""
    folder = tmp_path_factory.mktemp("runs")
    fit(train_config(**SETTINGS, per_user=True, run_dir=str(folder / "nested")), progress=False)
    fit(train_config(**SETTINGS, nested_negatives=False, run_dir=str(folder / "shared")), progress=False)
    shutil.copytree(folder / "nested", folder / "flat")
    (folder / "flat" / "weights.safetensors").unlink()
    rows = pl.read_csv(folder / "flat" / "metrics.csv").filter(pl.col("width") == 8)
    flat = rows.with_columns(width=pl.lit(None, dtype=pl.Int64), model=pl.lit("flat"))
    flat.write_csv(folder / "flat" / "metrics.csv")
    per_user = pl.read_parquet(folder / "flat" / "per_user.parquet").filter(pl.col("width") == 8)
    per_user.with_columns(width=pl.lit(None, dtype=pl.Int64)).write_parquet(folder / "flat" / "per_user.parquet")
    return folder


def edited(runs: Path, name: str, tmp_path: Path, file: str, **changes) -> Path:
    """A copy of a run with other values in one of its JSON files."""
    copy = shutil.copytree(runs / name, tmp_path / name)
    values = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps(values))
    return copy


def test_runs_come_with_their_data_and_are_tables_alike(runs: Path) -> None:
    runs_by_model, data = load_runs([runs / "nested", runs / "shared", runs / "flat"])
    assert list(runs_by_model) == ["mf-dns-mns", "mf-dns-shared", "flat"]
    assert data.fingerprint == runs_by_model["flat"].environment["fingerprint"]
    widths = (2, 3, 4, 6, 8, 12)
    tables = {name: measure_run(name, run, data, widths=widths, device="cpu") for name, run in runs_by_model.items()}

    nested = tables["mf-dns-mns"]
    assert nested.accuracy.filter(metric="recall").select("width", "trained").rows() == [
        *((2, True), (3, False), (4, True), (6, False), (8, True))
    ]
    written = runs_by_model["mf-dns-mns"].metrics.filter(split="test", k=20)
    same = nested.accuracy.filter("trained").join(written, on=["width", "metric"], suffix="_written")
    assert len(same) == 18 and same["value"].to_list() == pytest.approx(same["value_written"].to_list())
    assert set(nested.groups["grouping"]) == {"user activity", "item popularity"}
    assert nested.lists["metric"].n_unique() == 4 and nested.costs["width"].to_list() == [2, 3, 4, 6, 8]
    quartiles = nested.groups.filter(grouping="user activity", metric="recall", width=8)
    mean = (quartiles["users"] * quartiles["value"]).sum() / quartiles["users"].sum()
    assert mean == pytest.approx(nested.accuracy.filter(metric="recall", width=8)["value"][0])

    flat = tables["flat"]
    assert not len(flat.groups) and not len(flat.lists) and flat.accuracy["width"].null_count() == 6
    assert flat.accuracy.columns == nested.accuracy.columns and flat.accuracy.schema == nested.accuracy.schema
    table = compare_all(tables, metrics=("recall",), resamples=100)
    assert table.select("other", "width").rows() == [
        *(("mf-dns-shared", width) for width in (2, 3, 4, 6, 8)),
        *(("flat", width) for width in (2, 3, 4, 6, 8)),
    ]
    assert table.filter(other="flat", width=8)["difference"][0] == pytest.approx(0)  # its own full width


def test_runs_with_one_model_are_named_by_their_folder(runs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "nested", tmp_path / "again")
    assert list(load_runs([runs / "nested", copy])[0]) == ["nested", "again"]
    twin = shutil.copytree(runs / "nested", tmp_path / "other" / "nested")
    assert list(load_runs([runs / "nested", twin])[0]) == [str(runs / "nested"), str(twin)]


def test_settings_of_a_control_that_training_does_not_know_are_no_obstacle(runs: Path, tmp_path: Path) -> None:
    copy = edited(runs, "nested", tmp_path, "config.json", control="rotated", settings={"alpha0": 0.3})
    assert load_run_data(load(copy)).fingerprint == load(copy).environment["fingerprint"]


@pytest.mark.robustness
def test_runs_of_other_data_are_refused(runs: Path, tmp_path: Path) -> None:
    changed = edited(runs, "nested", tmp_path, "environment.json", fingerprint="0123456789abcdef")
    with pytest.raises(RunError, match=r"was trained on data with fingerprint 0123456789ab, planted now has \w{12}; "):
        load_runs([changed])
    other = fit(train_config(**SETTINGS, seed=1, run_dir=str(tmp_path / "other")), progress=False)
    with pytest.raises(RunError, match=r"other: was tested on other data .* compare runs of the same data set"):
        load_runs([runs / "nested", other.path])
    with pytest.raises(RunError, match="flat: has no vectors, so no widths to evaluate; put a run that has them first"):
        load_runs([runs / "flat", runs / "nested"])


def test_another_validation_part_is_no_other_test_set(runs: Path, tmp_path: Path) -> None:
    paper = fit(train_config(**SETTINGS, protocol="paper", run_dir=str(tmp_path / "paper")), progress=False)
    runs_by_model, data = load_runs([runs / "nested", paper.path])
    assert runs_by_model["paper"].environment["fingerprint"] != data.fingerprint


@pytest.mark.robustness
def test_damaged_settings_say_where(runs: Path, tmp_path: Path) -> None:
    changed = edited(runs, "nested", tmp_path, "config.json", holdout={"test_fraction": 2.0})
    with pytest.raises(RunError, match=r"config.json: holdout.test_fraction=2.0: .*; restore a copy or train again"):
        load_runs([changed])


@pytest.mark.robustness
def test_no_run_at_all_says_what_to_give() -> None:
    for value in ([], "[]"):
        with pytest.raises(ConfigError, match=r"^runs=\[\]: give at least one run directory, such as runs/"):
            as_config(EvaluateConfig, {"runs": value})


def test_parameters_take_one_run_or_many() -> None:
    assert as_config(EvaluateConfig, {"runs": "runs/a"}).runs == ("runs/a",)
    assert as_config(EvaluateConfig, {"runs": '["runs/a", "b"]'}).runs == ("runs/a", "b")
    assert as_config(EvaluateConfig, {"runs": ["runs/a", "b"], "between": "[3]"}).between == (3,)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("name", "value"), [("runs", [3]), ("resamples", 5), ("metric", "auc"), ("between", [0]), ("k", 0)]
)
def test_impossible_parameters_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=") as raised:
        as_config(EvaluateConfig, {"runs": ["a"]} | {name: value})
    assert "\n" not in str(raised.value)
