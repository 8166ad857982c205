"""Run directories side by side: which models go together, what is written, how lists and sentences read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mrl import load
from mrl.data.synthetic import planted_interactions
from mrl.errors import ConfigError, RunError
from mrl.hierarchy.runs import (
    HierarchyConfig,
    format_lists,
    load_models,
    map_labels,
    measure_models,
    neighbours_of,
    stack_tables,
    top_k_of,
    write_tables,
)
from mrl.parameters import as_config
from mrl.runs.directory import RunDirectory, environment

WIDTHS = (2, 4)


@pytest.fixture(scope="module")
def data():
    return planted_interactions(num_users=80, num_items=48, interactions=1500, branching=(2, 2, 2), seed=0)


def write_run(path: Path, data, name: str, dim: int = 4, labels: bool = True) -> Path:
    if not labels:
        data.__dict__["labels"] = None
    generator = torch.Generator().manual_seed(len(name))
    with RunDirectory(path) as directory:
        directory.write_config({"widths": list(WIDTHS), "seed": 0})
        directory.write_environment(environment(data, "cpu"))
        directory.write_ids(data)
        directory.write_seen(data.train)
        directory.write_weights(*(torch.randn(size, dim, generator=generator) for size in (80, 48)))
        row = {"dataset": "planted", "model": name, "protocol": "honest", "seed": 0, "split": "test"}
        directory.write_metrics(pl.DataFrame([row | {"width": 4, "metric": "recall", "k": 20, "value": 0.5}]))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    return [str(write_run(folder / name, data, name)) for name in ("nested", "control")]


def test_models_are_measured_alike_and_stack_tables(runs, tmp_path):
    config = HierarchyConfig(runs=tuple(runs), clusters=4)
    models = load_models(config.runs)
    hierarchies = measure_models(models, config)
    assert list(hierarchies) == ["nested", "control"]
    assert np.array_equal(hierarchies["nested"].rows, hierarchies["control"].rows)
    ami = stack_tables(hierarchies, "recovery", metric="ami", label="depth_1")
    assert ami["model"].to_list() == ["nested"] * 2 + ["control"] * 2
    assert len(stack_tables(hierarchies, "recovery", metric="nothing")) == 0
    written = write_tables(hierarchies, tmp_path / "deep" / "folder", more=pl.DataFrame({"a": [1]}))
    assert [path.name for path in written] == ["numbers.csv", "names.csv", "flows.csv", "tree.csv", "more.csv"]
    numbers = pl.read_csv(written[0], infer_schema_length=None)
    assert numbers["model"].unique().sort().to_list() == ["control", "nested"]
    assert set(numbers["table"]) == {"agreement", "neighbours", "nesting", "similarity", "blocks", "recovery"}


def test_maps_are_coloured_by_the_first_depth_or_by_popularity(runs, tmp_path, data):
    assert map_labels(load(runs[0]))[1] == "depth_1"
    bare = planted_interactions(num_users=80, num_items=48, interactions=1500, branching=(2, 2, 2), seed=0)
    labels, name = map_labels(load(write_run(tmp_path / "bare", bare, "bare", labels=False)))
    assert name == "popularity class" and set(labels[name]) == {"head", "middle", "tail"}


def test_an_item_and_a_user_by_raw_id(runs):
    run = load(runs[0])
    titles = dict(zip(run.item_ids.tolist(), run.labels["title"], strict=True))
    assert neighbours_of(run, "7")["query"][0] == neighbours_of(run, 7)["query"][0] == titles[7]
    assert neighbours_of(run)["query"][0] == titles[int(run.item_ids[run.seen.item_counts.argmax()])]
    top = top_k_of(run, k=3)
    assert top["query"][0].startswith("user ")
    row = run.user_ids.tolist().index(int(top["query"][0].removeprefix("user ")))
    assert not set(top["item"]) & set(run.item_ids[run.seen.of(row).numpy()])
    with pytest.raises(RunError, match=r"item='nope': is not in .*; its ids are like"):
        neighbours_of(run, "nope")


def test_lists_side_by_side_show_what_is_new_and_no_markup_of_a_title():
    rows = [(2, 1, "A|B*", None), (2, 2, "C", None), (4, 1, "D", True), (4, 2, "C", False)]
    table = pl.DataFrame(rows, schema=["width", "rank", "title", "new"], orient="row")
    assert format_lists(table).splitlines() == [
        "| rank | width 2 | width 4 |", "| --- | --- | --- |", r"| 1 | A\|B\* | **D** |", "| 2 | C | C |",
    ]  # fmt: skip


@pytest.mark.robustness
def test_runs_that_do_not_go_together_are_refused(runs, tmp_path, data):
    with pytest.raises(RunError, match=r"narrow: has 2 dimensions, .*nested has width 4; leave it out"):
        load_models([runs[0], write_run(tmp_path / "narrow", data, "narrow", dim=2)])
    fewer = planted_interactions(num_users=80, num_items=40, interactions=1400, branching=(2, 2), seed=0)
    path = tmp_path / "fewer"
    with RunDirectory(path) as directory:
        directory.write_config({"widths": [2, 4]})
        directory.write_environment({})
        directory.write_ids(fewer)
        directory.write_weights(torch.randn(80, 4), torch.randn(40, 4))
        directory.write_metrics(pl.DataFrame({"model": ["fewer"], "width": [4]}))
    with pytest.raises(RunError, match="fewer: has other items than"):
        load_models([runs[0], path])
    with pytest.raises(ConfigError, match="runs=\\[\\]: give run directories"):
        as_config(HierarchyConfig, {"runs": []})


def test_maps_are_coloured_by_branches_where_prototypes_stand_in_for_kmeans(runs):
    config = HierarchyConfig(runs=tuple(runs[:1]), clusters=4, clustering="prototypes")
    models = load_models(config.runs)
    main = measure_models(models, config)["nested"]
    labels, colour = map_labels(models["nested"], main)
    assert colour == "branch" and labels.columns[-1] == "branch"
    branches = labels["branch"].gather(main.rows)
    assert branches.n_unique() == len(set(main.clusters["tree"][0])) > 1
    pairs = set(zip(branches, main.clusters["tree"][0], strict=True))
    assert len(pairs) == branches.n_unique() and all(text.startswith(f"{node}: ") for text, node in pairs)
    with pytest.raises(ConfigError, match="clustering='means'"):
        HierarchyConfig(runs=tuple(runs), clustering="means")
