"""Federations compared: the runs that are made, and the table and sentences computed from them."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.errors import ConfigError, RunError
from mrl.federated import FederatedConfig, client_table, traffic
from mrl.report.federated import (
    SCHEMA,
    ComparisonConfig,
    compare_runs,
    cost_to_reach,
    curves_of,
    describe_comparison,
    study,
    write_comparison,
)
from mrl.runs import load

PLANTED = {"num_users": 90, "num_items": 64, "interactions": 1500}
SETTINGS = {"data": {"planted": PLANTED}, "widths": (2, 4, 8), "rounds": 5, "start_rounds": 3}


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrl.least_squares.validation.ENOUGH_VALIDATION", 0)
        options = {"folder": folder, "progress": False, "scenarios": ("mixed", "alone", "central"), "exponents": (0.0,)}
        first = study(["planted"], [0, 1], **SETTINGS, **options)
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
        again = study(["planted"], [0, 1], **SETTINGS, **options)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")} == times
    assert again[0].equals(first[0])
    return folder / "planted", *first


def test_the_study_has_every_model_group_and_width_over_the_seeds(studied):
    folder, table, curves = studied
    assert table.schema == SCHEMA
    models = {"closed form", "each client alone", "central", "least squares, central"}
    assert set(table["model"]) == models and set(table["seeds"]) == {2}
    assert len(table) == (3 * 2 + 1) * 4 * 3 * 2  # models and moments, groups, widths, metrics
    row = table.filter(pl.col("group").is_null(), model="closed form", moment="last", width=8, metric="recall").row(
        0, named=True
    )
    seeds = [load(folder / f"federated-closed-form-0-{seed}") for seed in (0, 1)]
    values = [
        client_table(run).filter(pl.col("group").is_null(), moment="last", width=8, metric="recall", k=20)["value"][0]
        for run in seeds
    ]
    assert row["mean"] == pytest.approx(sum(values) / 2, rel=1e-4) and row["low"] == pytest.approx(
        min(values), rel=1e-4
    )
    costs = [cost_to_reach(traffic(run)) for run in seeds]
    assert row["rounds_to_95"] == pytest.approx(sum(cost["rounds"] for cost in costs) / 2)
    assert row["megabytes_to_95"] == pytest.approx(sum(cost["megabytes"] for cost in costs) / 2, rel=1e-4)
    central = table.filter(pl.col("group").is_null(), model="central", moment="best", width=8, metric="recall")
    assert row["of_central"] == pytest.approx(row["mean"] / central["mean"][0], rel=1e-4)
    assert set(central["of_central"]) == {1.0}
    assert set(curves["model"]) == {"closed form", "central"} and set(curves["seed"]) == {0, 1}


def test_the_loss_against_the_central_model_is_told(studied):
    text = describe_comparison(studied[1])
    assert "- closed form: NDCG@20 " in text and "% of the central model's" in text and "MB a client" in text
    assert "- each client alone" in text and "nan" not in text.lower() and "\n- central" not in text


def test_rows_of_other_data_sets_stay_in_the_file(studied, tmp_path):
    table = studied[1]
    path = write_comparison(table, tmp_path / "reports" / "federated.csv")
    write_comparison(table.with_columns(dataset=pl.lit("another")), path)
    assert pl.read_csv(path)["dataset"].unique().sort().to_list() == ["another", "planted"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="is no table of federations"):
        write_comparison(table, tmp_path / "other.csv")


def test_what_stands_beside_a_federation_has_its_settings_and_a_place_of_its_own():
    config = ComparisonConfig(**SETTINGS, run_dir="runs/mine", seed=3, beside=("mixed", "narrow", "central"))
    own, *others = config.federations()
    assert type(own) is FederatedConfig and own.run_dir == "runs/mine"
    assert [(each.scenario, each.seed, each.run_dir) for each in others] == [("narrow", 3, ""), ("central", 3, "")]
    with pytest.raises(ConfigError, match="beside"):
        ComparisonConfig(beside=("everything",))


def test_curves_leave_out_what_has_no_rounds(studied):
    assert "each client alone" not in set(curves_of_folder(studied[0])["model"])


def curves_of_folder(folder) -> pl.DataFrame:
    return curves_of([load(folder / f"federated-{name}-0-0") for name in ("alone", "closed-form")])


def test_a_comparison_without_the_central_model_has_no_share_of_it(studied):
    table = compare_runs([load(studied[0] / "federated-closed-form-0-0")])
    assert table["of_central"].null_count() == len(table)
    assert "central model" not in describe_comparison(table)


def test_what_it_took_to_reach_a_share_of_the_best():
    table = pl.DataFrame({"epoch": [1, 2, 3, 4], "value": [None, 0.5, 0.96, 1.0], "megabytes": [1.0, 2.0, 4.0, 8.0]})
    assert cost_to_reach(table) == {"rounds": 3, "megabytes": 4.0}
    assert cost_to_reach(table, 0.5) == {"rounds": 2, "megabytes": 2.0}
    assert cost_to_reach(table.with_columns(value=pl.lit(None, pl.Float64))) == {"rounds": None, "megabytes": None}
