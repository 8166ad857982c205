"""What the reader of train.ipynb is told: a plan in words, and tables as people read them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from runs.test_directory import small, write_clicks

from mrl import TrainConfig, fit
from mrl.data import load_data
from mrl.runs.progress import LINE_WIDTH
from mrl.runs.tables import (
    Table,
    accuracy_table,
    changed_settings,
    data_table,
    describe_plan,
    files_table,
    readable_size,
    top_lists,
    trials_table,
)

CPU = torch.device("cpu")


def test_a_table_is_aligned_text_on_a_console_and_markdown_in_a_notebook() -> None:
    table = Table({"width": ["4", "16"], "title": ["a|b", "*c* <d>"]}, caption="Two $:", best=frozenset({("width", 1)}))
    assert repr(table) == "Two $:\nwidth  title\n    4  a|b\n   16  *c* <d>"
    assert table._repr_markdown_() == (
        "Two \\$:\n\n| width | title |\n| ---: | :--- |\n| 4 | a\\|b |\n| **16** | \\*c\\* &lt;d> |"
    )


def test_the_plan_says_what_the_recipe_does_and_only_what_is_not_the_default() -> None:
    plan = describe_plan(TrainConfig(), CPU)
    assert plan.startswith("Data set ml-100k, recipe default, widths 4, 8, 16, 32 and 64, on cpu:\n  1. choose")
    assert "softmax" in plan and "All other settings are the default." in plan and "=" not in plan
    config = TrainConfig(recipe="mrl4rec", seed=3, sampler={"similarity": "cosine"}, widths=[8], protocol="paper")
    plan = describe_plan(config, CPU)
    told = " ".join(plan.split())
    assert "Not the default of this recipe: protocol = paper, widths = [8], similarity = cosine, seed = 3" in told
    assert "softmax" not in plan and "picked on test" in told and "width 8," in plan
    assert max(map(len, plan.splitlines())) <= LINE_WIDTH
    for config in (TrainConfig(recipe="least_squares"), TrainConfig(epochs=0)):
        assert "softmax" not in describe_plan(config, CPU)
    assert "choose" not in describe_plan(TrainConfig(least_squares={"search": "none"}), CPU)
    assert "the widths that it finds" in describe_plan(TrainConfig(widths="auto"), CPU)


@pytest.mark.parametrize("recipe", ["default", "least_squares", "mrl4rec"])
def test_no_setting_of_a_recipe_by_itself_differs_from_its_default(recipe: str) -> None:
    assert changed_settings(TrainConfig(recipe=recipe, dataset="tool")) == {}
    assert changed_settings(TrainConfig(recipe=recipe, device="cpu", resume=False)) == {
        "device": "cpu",
        "resume": False,
    }


def test_a_small_run_in_tables(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = small(write_clicks("clicks.csv"))
    data = load_data(config)
    run = fit(config, data, progress=False)
    assert repr(data_table(data)).splitlines()[0].split()[:2] == ["split", "interactions"]
    assert trials_table(run) is None  # all settings are given
    accuracy = accuracy_table(run)
    widths = list(map(str, run.config["widths"]))
    assert accuracy.columns["width"] == widths
    # no more than a narrow window shows without scrolling
    assert list(accuracy.columns) == ["width", "Recall@20", "NDCG@20", f"Recall, of width {widths[-1]}"]
    recall = list(map(float, accuracy.columns["Recall@20"]))
    assert {row for title, row in accuracy.best if title == "Recall@20"} >= {int(np.argmax(recall))}
    shown = accuracy_table(run, ["ndcg@20"])
    assert list(shown.columns)[:2] == ["width", "NDCG@20"]
    user = run.user_ids[0]
    lists = top_lists(run, user, (run.config["widths"][0], run.config["widths"][-1]), k=3)
    assert list(lists.columns) == ["rank", *(f"width {width}" for width in (widths[0], widths[-1]))]
    expected = run.recommend([user], k=3, width=run.config["widths"][-1])["item"].cast(pl.String).to_list()
    assert lists.columns[f"width {widths[-1]}"] == expected and f"User {user}, who has " in repr(lists)
    files = files_table(run.path).columns
    assert ".lock" not in files["file"] and "weights.safetensors" in files["file"]
    assert all(files["what it holds"]) and all(size.endswith((" kB", " MB")) for size in files["size"])


def test_sizes_have_units() -> None:
    assert [readable_size(count) for count in (3, 39_400, 1_313_000)] == ["1 kB", "39 kB", "1.3 MB"]
