"""The ablation: values are those of the run, and every sentence is of the table that the figure draws."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from settings import GIVEN, train_config

from mrl import Run, fit
from mrl.errors import RunError
from mrl.report.ablation import (
    SCHEMA,
    AblationConfig,
    add_gains,
    describe_stages,
    measure_stages,
    summarise_stages,
    write_stages,
)
from mrl.runs import load
from mrl.words import STAGES

SMALL = {"dataset": "planted", "planted": {"num_users": 150, "num_items": 64, "interactions": 2500}, "device": "cpu"}
WIDE = {**GIVEN, "fit_width": 16, "widths": (2, 4, 8)}


def table(
    *, dataset: str = "tool", epochs: int = 0, tried: int = 0, gain: float | None = None, **values
) -> pl.DataFrame:
    """NDCG at widths 4 and 64 after each stage that is given."""
    facts = {"dataset": dataset, "recipe": "default", "protocol": "honest", "seed": 0, "metric": "ndcg", "k": 20}
    facts |= {"epochs": epochs, "epochs_tried": tried, "gain_on_validation": gain}
    rows = [
        facts | {"stage": stage, "width": width, "value": value}
        for stage in STAGES
        for width, value in zip((4, 64), values.get(stage, (None, None)), strict=True)
    ]
    return add_gains(pl.DataFrame(rows, schema={name: SCHEMA[name] for name in SCHEMA if name != "gain"})).select(
        *SCHEMA
    )


def train(folder: Path, **settings) -> Run:
    return fit(train_config(**SMALL | WIDE | {"run_dir": str(folder)} | settings), progress=False)


def of_run(run: Run, metric: str) -> list[float]:
    return run.metrics.filter(split="test", metric=metric, k=20).sort("width")["value"].to_list()


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_the_last_stage_before_training_is_what_an_untrained_run_serves(tmp_path, protocol) -> None:
    run = train(tmp_path / "run", recipe="least_squares", nested_sweeps=1, protocol=protocol)
    measured = measure_stages(run)
    assert dict(measured.schema) == SCHEMA and len(measured) == len(STAGES) * 3 * 2
    for metric in ("recall", "ndcg"):
        by_stage = measured.filter(metric=metric)
        assert by_stage.filter(stage="rotated")["value"].to_list() == pytest.approx(of_run(run, metric), abs=2e-6)
        assert by_stage.filter(stage="trained")["value"].null_count() == 3
        assert by_stage.filter(stage="ials")["gain"].null_count() == 3
        first, second = (by_stage.filter(stage=stage)["value"] for stage in ("ials", "nested"))
        assert by_stage.filter(stage="nested")["gain"].to_list() == pytest.approx(
            (second / first - 1).to_list(), abs=1e-4
        )
    assert "No training was tried." in describe_stages(measured.filter(metric="ndcg"))


def test_the_training_is_the_run_itself(tmp_path) -> None:
    run = train(tmp_path / "run", protocol="paper", epochs=2, batch_size=256)
    kept = run.environment["best_epoch"]
    run.environment["best_epoch"] = 1  # its vectors, whichever epoch they are of
    measured = measure_stages(run).filter(metric="recall")
    assert measured.filter(stage="trained")["value"].to_list() == pytest.approx(of_run(run, "recall"), abs=2e-6)
    assert measured.filter(stage="nested")["value"].null_count() == 3  # GIVEN has none
    run.environment["best_epoch"] = 0
    untrained = measure_stages(run).filter(metric="recall")
    assert untrained["epochs_tried"][0] == 2 and kept <= 2
    means = run.history.filter(phase="search").select(pl.mean_horizontal([f"ndcg@20_w{width}" for width in (2, 4, 8)]))
    start, *later = means.to_series().to_list()
    assert untrained["gain_on_validation"][0] == pytest.approx(max(later) / start - 1, abs=1e-6)
    assert "The training was not used" in describe_stages(untrained)


@pytest.mark.robustness
def test_a_run_without_stages_is_refused(tmp_path) -> None:
    run = fit(train_config(**SMALL, recipe="mrl4rec", widths=(2, 4), epochs=1, run_dir=str(tmp_path / "run")))
    with pytest.raises(RunError, match=r"run: has no stages; give a run of the recipe default or least_squares$"):
        measure_stages(load(run.path))


def test_the_stage_that_gives_most_is_named_at_the_narrowest_and_the_widest_width() -> None:
    full = {"ials": (0.1, 0.2), "nested": (0.1, 0.21), "propagated": (0.102, 0.208), "rotated": (0.15, 0.21)}
    assert describe_stages(table(**full, trained=(0.153, 0.2121), epochs=7, tried=12, gain=0.02)) == (
        "At width 4 NDCG@20 on test goes from .1000 to .1530: the rotation gives most (+47.1 %). At width 64 it goes "
        "from .2000 to .2121: nested least squares gives most (+5.0 %). Propagation loses 1.0 %, at width 64. The "
        "training (7 epochs) gives +1.0 % at width 64 and +2.0 % at width 4."
    )
    trained_most = describe_stages(table(**full, trained=(0.4, 0.5), epochs=1, tried=2, gain=0.5))
    assert trained_most.count("the training gives most") == 2 and "(1 epoch)" in trained_most


def test_what_was_not_used_is_said() -> None:
    text = describe_stages(table(ials=(0.1, 0.2), rotated=(0.15, 0.21), tried=3, gain=-0.0123))
    assert text.endswith(
        "The training was not used: on validation users did not gain clearly (−1.2 % at best, in 3 epochs). Nested "
        "least squares and propagation were not used."
    )
    assert describe_stages(table(ials=(0.1, 0.2))) == (
        "At width 4 NDCG@20 on test is .1000. At width 64 it is .2000. No training was tried. Nested least squares, "
        "propagation and the rotation were not used."
    )


def test_a_stage_that_gives_nothing_is_not_said_to_give_most() -> None:
    text = describe_stages(table(ials=(0.2, 0.2), propagated=(0.2, 0.19), rotated=(0.1, 0.18)))
    assert text.startswith(
        "At width 4 NDCG@20 on test goes from .2000 to .1000: no stage gains. At width 64 it goes from .2000 to .1800: "
        "no stage gains. Propagation loses 5.0 %, at width 64. The rotation loses up to 50.0 %, at width 4."
    )
    one = describe_stages(table(ials=(0.1, 0.2), rotated=(0.15, 0.2)).filter(width=4))
    assert one.startswith("At width 4 NDCG@20 on test goes from .1000 to .1500: the rotation gives most (+50.0 %). No")


def test_a_gain_is_over_the_last_stage_that_was_used() -> None:
    gains = table(ials=(0.1, 0.2), rotated=(0.15, 0.0), trained=(0.3, 0.1))
    assert gains.filter(stage="rotated")["gain"].to_list() == pytest.approx([0.5, -1.0])
    assert gains.filter(stage="trained")["gain"].to_list() == [pytest.approx(1.0), None]  # of nothing, no share
    assert gains.filter(stage="propagated")["gain"].null_count() == 2


def test_rows_of_other_data_sets_stay_in_the_table(tmp_path) -> None:
    path = tmp_path / "new" / "stages.csv"
    tool, phone = table(ials=(0.1, 0.2)), table(dataset="phone", ials=(0.3, 0.4), rotated=(0.4, 0.5))
    assert write_stages(tool, path) == path and pl.read_csv(path, schema=SCHEMA).equals(tool)
    write_stages(phone, path)
    write_stages(newer := table(ials=(0.2, 0.3)), path)
    assert pl.read_csv(path, schema=SCHEMA).equals(pl.concat([phone, newer]))
    path.write_text("model,value\nx,1\n")
    with pytest.raises(RunError, match=r"stages\.csv: is no table of stages .*; remove it, or name another$"):
        write_stages(tool, path)


def test_the_part_of_a_report_draws_what_it_says() -> None:
    heading, figure, text = summarise_stages(table(ials=(0.1, 0.2), rotated=(0.15, 0.21)), "ndcg")
    assert heading.startswith("## ") and text.startswith("At width 4 NDCG@20")
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx([0.5, 0.05])
    assert summarise_stages(pl.DataFrame()) == []


def test_files_go_into_the_project_unless_a_place_is_given(tmp_path) -> None:
    assert AblationConfig().target.parts[-2:] == ("reports", "stages.csv")
    assert AblationConfig(table=str(tmp_path / "x.csv")).target == tmp_path / "x.csv"
    assert AblationConfig(dataset="tool", seed=3).training.seed == 3
