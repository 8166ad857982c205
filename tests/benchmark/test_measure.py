"""The benchmark on small data: what is measured, what its table says, and what is claimed of it."""

from __future__ import annotations

import polars as pl
import pytest

from mrl.benchmark.measure import (
    BPR,
    COPIED,
    PROJECT,
    BenchmarkConfig,
    _grow,
    measure_growth,
    measure_memory,
    measure_speed,
    peak_mib,
)
from mrl.benchmark.report import check_claims, draw_speed, summarise
from mrl.errors import ConfigError
from mrl.parameters import as_config

SMALL = {"num_users": 60, "num_items": 64, "interactions": 1500}


def small(**changes) -> BenchmarkConfig:
    base = {
        "dataset": "planted", "planted": SMALL, "rules": ("ahns",), "widths": (2, 8), "candidates": 4,
        "batch_size": 256, "threads": (1,), "gpu": False, "repeats": 2, "slice_batches": 2, "slice_users": 5,
        "sizes": (2000, 8000), "num_users": 100, "num_items": 256,
    }  # fmt: skip
    return BenchmarkConfig(**(base | changes))


@pytest.fixture(scope="module")
def measured() -> pl.DataFrame:
    return pl.concat(measure_speed(small()))


@pytest.fixture(scope="module")
def grown() -> pl.DataFrame:
    config = small()
    return pl.concat(pl.DataFrame(_grow(config, size)) for size in config.sizes)


@pytest.fixture(scope="module")
def peaks() -> pl.DataFrame:
    cases = [("dns", "published"), ("dns", "plain"), (BPR, "plain"), ("dns", PROJECT), (BPR, PROJECT)]
    return pl.DataFrame([{"model": "mf", "rule": rule, "code": code, "peak_memory_mib": 100.0} for rule, code in cases])


def test_everything_is_measured_as_often_as_was_said(measured) -> None:
    keys = ["stage", "model", "rule", "code"]
    assert set(measured.group_by(keys).len()["len"]) == {2}
    assert (measured["seconds"] > 0).all()
    trained = set(measured.filter(stage="train", model="mf").select("rule", "code").unique().rows())
    assert trained == {
        ("dns", "published"), ("dns", "plain"), (BPR, "plain"), ("dns", PROJECT), ("ahns", PROJECT), (BPR, PROJECT)
    }  # fmt: skip
    assert set(measured.filter(stage="train")["model"]) == {"mf", "lightgcn"}
    assert len(measured.filter(stage="evaluate")) == 2 * 5
    assert len(measured.filter(stage="copy")) == 2


def test_the_table_holds_medians_and_the_ratios_of_each_repeat(measured, grown, peaks) -> None:
    table = summarise(measured, grown, peaks, pl.DataFrame())
    own = measured.filter(stage="train", model="mf", code=PROJECT, rule="ahns").sort("repeat")["seconds"]
    plain = measured.filter(stage="train", model="mf", code="plain", rule="dns").sort("repeat")["seconds"]
    row = table.filter(stage="train", model="mf", rule="ahns").row(0, named=True)
    assert row["repeats"] == 2 and row["seconds"] == pytest.approx(own.median(), rel=1e-3)
    assert row["speedup_low"] == pytest.approx((plain / own).min(), rel=1e-3)
    assert row["interactions_per_second"] == pytest.approx(row["interactions"] / own.median(), rel=1e-3)
    assert table.filter(stage="train", model="mf", rule=BPR, code="plain")["speedup"][0] == 1
    assert table.filter(stage="train", model="mf", rule=BPR)["peak_memory_mib"].to_list() == [100, 100]
    assert table.filter(stage="grown train")["interactions"].to_list() == [1599, 6393]  # four fifths
    assert set(table.filter(stage="evaluate")["speedup"].is_null()) == {False}


def test_the_table_holds_whole_fits_with_their_accuracy(measured, grown, peaks) -> None:
    rows = [
        measured.filter(stage="train", model="mf", rule=BPR, code=PROJECT)
        .drop("bytes")
        .with_columns(
            stage=pl.lit("fit"), model=pl.lit(model), rule=pl.lit(""), code=pl.lit(code), seconds=pl.Series([2.0, 4.0])
        )
        .with_columns(**{name: pl.Series([value, value]) for name, value in accuracy.items()})
        for model, code, accuracy in (
            ("default", PROJECT, {"ndcg@20_w2": 0.25, "ndcg@20_w8": 0.5}),
            ("ALS", "implicit", {"ndcg@20_w8": 0.375}),
        )
    ]
    table = summarise(measured, grown, peaks, pl.concat(rows, how="diagonal"))
    found = table.filter(stage="fit").select("model", "^seconds.*$", "^ndcg.*$")
    assert found.rows() == [("default", 3.0, 2.0, 4.0, 0.25, 0.5), ("ALS", 3.0, 2.0, 4.0, None, 0.375)]
    other = table.filter(stage="fit").select("speedup", "bandwidth_share", "interactions_per_second", "peak_memory_mib")
    assert other.null_count().row(0) == (2, 2, 2, 2)
    assert table.filter(pl.col("stage") != "fit").equals(
        summarise(measured, grown, peaks, pl.DataFrame())
        .with_columns(pl.lit(None, pl.Float64).alias("ndcg@20_w2"), pl.lit(None, pl.Float64).alias("ndcg@20_w8"))
        .select(table.columns)
    )
    assert draw_speed(table)


def test_the_share_of_bandwidth_is_that_of_the_bytes_an_epoch_has_to_move(measured, grown, peaks) -> None:
    config = small()
    # 4 candidates of 2 + 8 numbers are scored; vectors and moments of user, positive and a negative a level are renewed
    assert config.least_bytes(("mf", "dns", PROJECT), 100) == 100 * 4 * (4 * (2 + 8) + 2 * 3 * 4 * 8)
    assert config.least_bytes(("mf", BPR, PROJECT), 100) == 100 * 4 * 2 * 3 * 3 * 8
    assert config.least_bytes(("lightgcn", "dns", PROJECT), 100) is None
    known = measured.with_columns(seconds=pl.when(pl.col("stage") == "copy").then(COPIED / 2**30).otherwise(0.5))
    table = summarise(known, grown, peaks, pl.DataFrame())  # memory moves 2 GiB a second
    row = table.filter(stage="train", model="mf", rule="dns", code=PROJECT)
    bytes_ = config.least_bytes(("mf", "dns", PROJECT), row["interactions"][0])
    assert row["bandwidth_share"][0] == pytest.approx(bytes_ / 0.5 / 2**31, rel=1e-3)
    assert table.filter(pl.col("bandwidth_share").is_not_null())["rule"].to_list() == ["dns", BPR]
    assert "copy" not in table["stage"]


def test_what_is_claimed_is_measured_against_its_limit(measured, grown) -> None:
    # made-up seconds of which every ratio is known
    seconds = {
        "train/mf/dns/plain": 2.0, f"train/mf/dns/{PROJECT}": 0.5, f"train/mf/{BPR}/{PROJECT}": 0.1,
        "evaluate/one width//published": 30.0, f"evaluate/one width//{PROJECT}": 0.5,
        f"evaluate/all widths//{PROJECT}": 1.0,
    }  # fmt: skip
    case = pl.concat_str("stage", "model", "rule", "code", separator="/")
    known = measured.with_columns(seconds=case.replace_strict(seconds, default=1.0))
    found = check_claims(known, grown, 2)
    assert found["value"].to_list()[:4] == [4.0, 5.0, 60.0, 2.0]
    assert found["holds"].to_list()[:4] == [True, False, True, True]
    assert found["limit"].to_list()[:2] == ["at least 1.8", "at most 2.5"]
    assert found["claim"].str.starts_with("growth").to_list()[4:] == [True, True]
    assert found["value"][5] == pytest.approx(grown["peak_memory_mib"].max(), rel=1e-3) and found["holds"][5]


def test_on_a_gpu_it_is_seconds_that_are_claimed(measured, grown) -> None:
    def twice(table: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([table, table.with_columns(device=pl.lit("cuda"))])

    found = check_claims(twice(measured), twice(grown), 2).filter(device="cuda")
    own = measured.filter(stage="train", model="mf", rule="dns", code=PROJECT)["seconds"]
    assert found["claim"].to_list()[4:] == [
        "growth: seconds an epoch of the largest",
        "growth: seconds to evaluate the largest",
        "training, nested negatives: milliseconds an epoch",
    ]
    assert found["limit"].to_list()[4:] == ["at most 3.0", "at most 10.0", "at most 60.0"]
    assert found["value"][6] == pytest.approx(1000 * own.median(), rel=1e-3) and found["low"][6] <= found["value"][6]
    largest = grown.filter(interactions=grown["interactions"].max())
    assert found["value"][5] == pytest.approx(largest.filter(stage="evaluate")["seconds"][0], rel=1e-3)


def test_the_figure_needs_the_table_and_nothing_else(measured, grown, peaks) -> None:
    table = summarise(measured, grown, peaks, pl.DataFrame())
    figure = draw_speed(table)
    assert figure.axes[0].get_xlabel() == "times as fast as plain PyTorch"
    assert draw_speed(table.filter(~pl.col("stage").str.starts_with("grown")))


def test_memory_and_growth_are_measured_in_processes_of_their_own() -> None:
    held = bytearray(200 * 2**20)  # not seen by the children
    config = small(backbones=("mf",), sizes=(2000,), repeats=1, threads=())
    (grown,) = measure_growth(config)
    assert grown["stage"].to_list() == ["train", "evaluate"]
    assert 0 < grown["peak_memory_mib"][0] < peak_mib()
    assert len(held) and set(measure_memory.__annotations__) == {"config", "return"}


def test_widths_that_do_not_nest_are_refused() -> None:
    with pytest.raises(ConfigError, match="must increase"):
        as_config(BenchmarkConfig, {"widths": [8, 4]})
