"""How long a study will take: by what was measured, else by the rule, and less for what is done."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from studied import keep, pretend

from mrl.study.config import StudyConfig
from mrl.study.page import write_study
from mrl.study.plan import POWER, RULE, describe_plan, plan_study
from mrl.study.run import run_study
from mrl.study.tables import study_tables

pytest.importorskip("optuna")

SMALL = {"num_users": 120, "num_items": 64, "interactions": 2000}


@pytest.fixture
def config(tmp_path) -> StudyConfig:
    return StudyConfig(
        datasets=("planted",), planted=SMALL, widths=(2, 4), trials=2, seconds=100, seeds=(0, 1, 2, 3), processes=1,
        device="cpu", models=("ials-4", "mf-dns-mns", "popularity", "default"), folder=str(tmp_path / "study"),
    )  # fmt: skip


def test_without_anything_measured_the_rule_says(config, tmp_path) -> None:
    plan = {row["model"]: row for row in plan_study(config, tmp_path / "none.csv").iter_rows(named=True)}
    unit = 1e-6 * len(config.data("planted").train) * 4**POWER
    assert [plan[name]["trials"] for name in config.models] == [2, 2, 1, 1]
    assert [plan[name]["fits"] for name in config.models] == [4, 3, 1, 8]  # three seeds of a training; stages, too
    fit, trial = RULE["mf"]
    assert plan["mf-dns-mns"]["seconds"] == pytest.approx(unit * (2 * trial + 3 * fit))
    fit, trial = RULE["default"]
    assert plan["default"]["seconds"] == pytest.approx(unit * (trial + 8 * fit))
    assert plan["default"]["timing"] == pytest.approx(unit * (trial + fit))
    tight = plan_study(replace(config, seconds=1e-9, timing=False), tmp_path / "none.csv")
    assert tight.filter(model="mf-dns-mns")["seconds"].item() == pytest.approx(unit * 3 * RULE["mf"][0], rel=1e-6)
    assert tight["timing"].sum() == 0


def test_what_was_measured_goes_before_the_rule(tmp_path, monkeypatch) -> None:
    config = pretend(monkeypatch, tmp_path / "study")
    keep(config, "wide", {2: 0.3, 4: 0.1})  # a fit of 2 s; a search of 2 s that ended after one of four trials
    table, *_ = write_study(study_tables(config), config)
    fresh = replace(config, folder=str(tmp_path / "fresh"), trials=5, seconds=1000.0, timing=False)
    plan = plan_study(fresh, table).filter(model="wide").row(0, named=True)
    assert (plan["trials"], plan["fits"]) == (5, 3)
    assert plan["seconds"] == pytest.approx(5 * 4.0 + 3 * 2.0)


def test_what_is_done_takes_no_time(config) -> None:
    config = replace(config, models=("popularity", "ials-4"), timing=False)
    assert plan_study(config)["fits"].sum() == 5
    run_study(config, progress=False)
    assert plan_study(config).select(pl.col("trials", "fits", "seconds", "timing").sum()).row(0) == (0, 0, 0.0, 0.0)


def test_it_is_told_by_data_set_and_in_all(config) -> None:
    config = replace(
        config, widths=(2, 64, 128), models=("popularity", "default"), datasets=("planted", "planted-flat")
    )
    first, second, last = describe_plan(config)
    assert first.startswith("planted (120 users, 64 items): 2 trials and 9 fits, 0.0 h of CPU, 0.0 h of timing; ")
    assert first.endswith(" h on 1 core; default alone 0.0 h; without width 128, above its smaller side")
    assert second.startswith("planted-flat (4,000 users, 4,096 items): ") and "without" not in second
    assert last.startswith("In all: ")
