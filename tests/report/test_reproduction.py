"""The reproduction's list of runs and its table beside the anchors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from mrl.report.reproduction import ReproductionConfig, compare_with_anchors, published_figures

ANCHORS = Path(__file__).resolve().parents[2] / "reports" / "anchors.csv"


def test_the_runs_are_those_of_the_paper() -> None:
    configs = ReproductionConfig().configs()
    assert len(configs) == 9 + 6 + 9 + 30
    assert {config.protocol for config in configs} == {"paper"}
    first = configs[0]
    assert (first.dataset, first.sampler.candidates, first.batch_size, first.l2, first.rule) == (
        "ml100k",
        8,
        2048,
        1e-4,
        "dns",
    )
    assert {c.sampler.candidates for c in configs if c.dataset != "ml100k"} == {16}
    graphs = [config for config in configs if config.backbone == "lightgcn"]
    assert len(graphs) == 6 and all(config.hops == 2 and config.nested_negatives for config in graphs)
    alone = [config for config in configs if "alone" in config.name]
    assert all(len(config.widths) == 1 and config.name.endswith(str(config.widths[0])) for config in alone)
    assert len({config.run_dir for config in configs}) == len(configs)


def run(seed: int, recall: float, model: str = "mf-dns-mns", width: int = 64) -> SimpleNamespace:
    row = {
        "dataset": "tool", "model": model, "protocol": "paper", "seed": seed, "split": "test", "width": width,
        "metric": "recall", "k": 20, "value": recall,
    }  # fmt: skip
    return SimpleNamespace(metrics=pl.DataFrame([row, row | {"k": 10}]), environment={"best_epoch": 30 + seed})


def test_the_table_sets_mean_and_range_over_seeds_beside_the_anchor() -> None:
    runs = [run(0, 0.070), run(1, 0.072), run(0, 0.066, "mf-dns-alone64"), run(0, 0.03, "mf-dns-alone4", 4)]
    table = compare_with_anchors(runs, pl.read_csv(ANCHORS))
    assert table["width"].to_list() == [4, 64, 64]
    method = table.filter(model="mf-dns-mns").row(0, named=True)
    assert (method["seeds"], method["mean"], method["low"], method["high"]) == (2, 0.071, 0.070, 0.072)
    assert (method["anchor_value"], method["ratio"]) == (0.0717, pytest.approx(0.071 / 0.0717, abs=1e-3))
    assert (method["epoch_low"], method["epoch_high"]) == (30, 31)
    alone = table.filter(model="mf-dns-alone")
    assert alone["width"].to_list() == [4, 64]
    assert alone["anchor_value"].to_list() == [None, 0.0671]


def test_the_committed_anchors_are_whole() -> None:
    anchors = pl.read_csv(ANCHORS)
    assert anchors.select("dataset", "model", "width", "metric").is_unique().all()
    assert anchors["value"].is_between(0, 1).all()


def test_published_figures_are_those_of_their_split_with_a_source() -> None:
    figures = {(row["model"], row["metric"]): row["value"] for row in published_figures("gowalla")}
    assert figures == {
        ("LightGCN", "recall"): 0.183,
        ("LightGCN", "ndcg"): 0.1554,
        ("UltraGCN", "recall"): 0.1862,
        ("UltraGCN", "ndcg"): 0.158,
    }
    assert all(row["width"] == 64 and "arXiv" in row["source"] for row in published_figures("gowalla"))
    assert published_figures("planted") == []
