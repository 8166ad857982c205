"""Means over seeds, intervals, what is kept and what nesting adds: of a table made by hand, and of runs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from settings import GIVEN, train_config

from mrl import fit
from mrl.errors import RunError
from mrl.levels.study import MEASURED, SUMMARY, measure_run, summarise_levels


def measured(values: dict[str, dict[int, tuple[float, ...]]], **facts: object) -> pl.DataFrame:
    """Values by model, width and seed, of one cell with chance .1."""
    cell = {
        "dataset": "d",
        "side": "items",
        "label": "depth_1",
        "classes": 4,
        "metric": "neighbours",
        "average": "macro",
    }
    rows = [
        {**cell, **facts, "model": model, "seed": seed, "width": width, "value": value, "chance": 0.1}
        for model, by_width in values.items()
        for width, of_seeds in by_width.items()
        for seed, value in enumerate(of_seeds)
    ]
    return pl.DataFrame(rows).select(pl.col(name).cast(kind) for name, kind in MEASURED.items())


VALUES = {
    "default": {4: (0.5, 0.6, 0.55), 8: (0.9, 0.9, 0.9)},
    "svd": {4: (0.2, 0.3, 0.2), 8: (0.5, 0.5, 0.5)},
    "ials": {4: (0.3, 0.4, 0.35), 8: (0.4, 0.4, 0.4)},
}


def test_a_row_is_a_mean_with_its_interval_and_what_is_kept() -> None:
    summary = summarise_levels(measured(VALUES))
    assert summary.schema == pl.Schema(SUMMARY) and len(summary) == 6
    row = summary.row(0, named=True)
    of_seeds = np.array([0.5, 0.6, 0.55])
    half = stats.t.ppf(0.975, 2) * of_seeds.std(ddof=1) / 3**0.5
    assert (row["model"], row["width"], row["seeds"], row["chance"]) == ("default", 4, 3, 0.1)
    assert [row["value"], row["low"], row["high"]] == pytest.approx([0.55, 0.55 - half, 0.55 + half], abs=1e-4)
    kept = (of_seeds - 0.1) / 0.8
    half = stats.t.ppf(0.975, 2) * kept.std(ddof=1) / 3**0.5
    found = [row["retained"], row["retained_low"], row["retained_high"]]
    assert found == pytest.approx([kept.mean(), kept.mean() - half, kept.mean() + half], abs=1e-4)


def test_a_nested_model_is_compared_with_the_best_one_that_is_not_seed_by_seed() -> None:
    summary = summarise_levels(measured(VALUES))
    narrow, wide = (summary.filter(model="default", width=width).row(0, named=True) for width in (4, 8))
    assert (narrow["other"], wide["other"]) == ("ials", "svd")
    ends = [narrow["difference"], narrow["difference_low"], narrow["difference_high"]]
    assert ends == pytest.approx([0.2, 0.2, 0.2])  # the same in every seed
    assert wide["difference"] == pytest.approx(0.4)
    assert summary.filter(model="svd")["other"].null_count() == 2


def test_one_seed_has_no_interval_and_a_model_that_knows_nothing_keeps_nothing() -> None:
    one = summarise_levels(measured({"default": {4: (0.5,), 8: (0.105,)}}))
    assert one["value"].to_list() == [0.5, 0.105] and one["low"].null_count() == 2
    assert one["retained"].null_count() == 2 and one["other"].null_count() == 2
    assert summarise_levels(pl.DataFrame(schema=MEASURED)).is_empty()
    with pytest.raises(RunError, match="default: is there twice with seed 0 on d; give it once"):
        summarise_levels(pl.concat([measured({"default": {4: (0.5,)}})] * 2))


def test_a_run_is_measured_on_both_sides(tmp_path) -> None:
    planted = {"num_users": 150, "num_items": 64, "interactions": 2500, "branching": [4, 4]}
    config = {"dataset": "planted", "planted": planted, "widths": (2, 4), "recipe": "least_squares"}
    run = fit(train_config(**config, **GIVEN, run_dir=str(tmp_path / "run")), progress=False)
    table = measure_run(run)
    assert table.schema == pl.Schema(MEASURED)
    labels = {side: set(table.filter(side=side)["label"]) for side in ("items", "users")}
    assert labels["items"] == {"depth_1", "popularity"}  # the 16 branches of depth 2 have 4 items each
    assert labels["users"] == {"activity", "breadth", "home_1", "home_2"} - ({"home_2"} - labels["users"])
    assert table["width"].unique().sort().to_list() == [2, 4] and set(table["model"]) == {"least-squares"}
    known = table.filter(label="depth_1", metric="neighbours", width=4)
    assert (known["value"] > 2 * known["chance"]).all()
    assert measure_run(run, widths=(3,))["width"].unique().to_list() == [3]
