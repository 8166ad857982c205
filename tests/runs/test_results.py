"""What a finished run leaves in its directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from runs.test_directory import small, write_clicks

from mrl.data import load_data
from mrl.evaluation import evaluate
from mrl.runs import Run, RunDirectory, load, run_path, write_run


def written_run(has_vectors: bool = True, **changes: object) -> Run:
    """A run of random vectors, by `write_run`, under the working directory."""
    config = replace(small(write_clicks("clicks.csv")), **changes)
    data = load_data(config)
    generator = torch.Generator().manual_seed(0)
    tables = [torch.rand(count, 4, generator=generator) for count in (data.num_users, data.num_items)]
    results = [evaluate(*tables, data, split=split, widths=(2, 4)) for split in ("valid", "test")]
    with RunDirectory(run_path(config)) as directory:
        directory.write_config(config.to_dict())
        vectors = tuple(tables) if has_vectors else None
        history = pl.DataFrame({"epoch": [1], "loss": [0.5]})
        write_run(directory, config, data, results, torch.device("cpu"), history=history, vectors=vectors)
    return load(directory.path)


@pytest.mark.parametrize("has_vectors", [True, False])
def test_a_run_that_was_written_is_read_back_and_counts_as_finished_last(tmp_path, monkeypatch, has_vectors) -> None:
    monkeypatch.chdir(tmp_path)
    config = small(write_clicks("clicks.csv"))
    data = load_data(config)
    users, items = torch.rand(data.num_users, 4), torch.rand(data.num_items, 4)
    results = [evaluate(users, items, data, split=split, widths=(2, 4)) for split in ("valid", "test")]
    history = pl.DataFrame({"epoch": [1], "loss": [0.5]})
    written = []
    keep = RunDirectory.write_metrics
    monkeypatch.setattr(
        RunDirectory,
        "write_metrics",
        lambda self, table: (written.extend(path.name for path in self.path.iterdir()), keep(self, table)),
    )
    with RunDirectory(run_path(config)) as directory:
        directory.write_config(config.to_dict())
        vectors = (users, items) if has_vectors else None
        options = {"history": history, "vectors": vectors, "facts": {"best_epoch": 1}}
        write_run(directory, config, data, results, torch.device("cpu"), **options)
    assert {"history.csv", "ids.parquet", "seen.safetensors", "environment.json", "README.md"} <= set(written)
    assert ("weights.safetensors" in written) == has_vectors and "metrics.csv" not in written
    assert "per_user.parquet" not in written
    run = load(Path(directory.path))
    assert run.environment["best_epoch"] == 1 and run.history.equals(history)
    assert set(run.metrics["split"]) == {"valid", "test"}
    if has_vectors:
        assert torch.equal(run.users, users) and torch.equal(run.items, items)
    # under `honest` validation was trained on, too
    assert len(run.seen) == len(data.train) + len(data.valid)
