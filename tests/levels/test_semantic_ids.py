"""Semantic ids are a label of the run, in lists, filters and exports, and the same however items are numbered."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from exported import ITEMS, write_served

from mrl import export, load, load_export
from mrl.data.interactions import Interactions, Positives
from mrl.errors import RunError
from mrl.levels import write_semantic_ids
from mrl.prototypes import fit_prototypes
from mrl.runs import RunDirectory
from mrl.serving import Index


def test_ids_are_written_and_carried_into_lists_filters_and_exports(tmp_path):
    run = write_served(tmp_path / "run")
    found = write_semantic_ids(run.path, per_dimension=1)
    again = load(run.path)
    ids = again.labels["semantic_id"]
    assert again.labels["title"].equals(run.labels["title"]) and again.user_ids.tolist() == run.user_ids.tolist()
    assert torch.equal(again.items, run.items) and torch.equal(again.users, run.users)
    known = run.seen.item_counts.numpy() > 0
    assert ids.is_null().to_list() == (~known).tolist()
    assert ids.drop_nulls().to_list() == ["-".join(map(str, codes)) for codes in found.codes.T]
    branch = pl.col("semantic_id").str.starts_with("0-")
    listed = Index(again, widths=[16]).search(again.user_ids[:3], k=5, only=branch)
    inside = set(again.item_ids[ids.fill_null("").str.starts_with("0-").to_numpy()].tolist())
    assert len(listed) and set(listed["item"]) <= inside
    exported = load_export(export(again, tmp_path / "export", width=16, bits=8))
    assert exported.labels["semantic_id"].equals(ids)
    assert write_semantic_ids(run.path, per_dimension=1).codes.tolist() == found.codes.tolist()
    assert load(run.path).labels.columns == ["title", "semantic_id"]


def renumbered(run, order: np.ndarray, path) -> None:
    """The same run with its items in another order."""
    shape = run.seen.num_users, run.seen.num_items
    seen, empty = (
        Positives.from_pairs(run.seen.users, np.argsort(order)[run.seen.items], *shape),
        Positives.empty(*shape),
    )
    labels = run.labels[order]
    data = Interactions("films", seen, empty, empty, run.user_ids, run.item_ids[order], labels)
    with RunDirectory(path) as directory:
        for name in ("config.json", "environment.json", "metrics.csv"):
            (path / name).write_bytes((run.path / name).read_bytes())
        directory.write_ids(data)
        directory.write_seen(seen)
        directory.write_weights(run.users, run.items[torch.from_numpy(order)])


def test_items_that_are_numbered_otherwise_keep_their_ids(tmp_path):
    run = write_served(tmp_path / "run")
    order = np.random.default_rng(5).permutation(ITEMS)
    (tmp_path / "other").mkdir()
    renumbered(run, order, tmp_path / "other")
    for path in (run.path, tmp_path / "other"):
        write_semantic_ids(path, per_dimension=1, seed=2)
    by_raw_id = [
        dict(zip(each.item_ids.tolist(), each.labels["semantic_id"].to_list(), strict=True))
        for each in (load(run.path), load(tmp_path / "other"))
    ]
    assert by_raw_id[0] == by_raw_id[1]


def test_tables_that_the_training_learned_are_taken(tmp_path):
    run = write_served(tmp_path / "run")
    known = run.seen.item_counts.numpy() > 0
    learned = fit_prototypes(run.items.numpy()[known], (4, 16, 64), [3, 5, 9], steps=10, seed=7)
    with RunDirectory(run.path) as directory:
        tables = {f"prototypes.{level}": torch.from_numpy(table) for level, table in enumerate(learned.tables)}
        directory.write_weights(run.users, run.items, tables)
    assert write_semantic_ids(run.path).codes.tolist() == learned.codes.tolist()
    assert load(run.path).backbone.keys() == tables.keys()


def test_a_run_whose_writing_was_cut_off_can_be_read_at_any_moment(tmp_path, monkeypatch):
    run = write_served(tmp_path / "run")
    write = RunDirectory._write
    for last in (1, 2):
        written = []

        def cut(self, name, content, written=written, last=last):
            if len(written) == last:
                raise RunError("disk full")
            written.append(name)
            write(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "_write", cut)
            with pytest.raises(RunError, match="disk full"):
                write_semantic_ids(run.path, per_dimension=0.5)
        assert torch.equal(load(run.path).items, run.items)
    write_semantic_ids(run.path, per_dimension=0.5)
    path = run.path / "ids.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="changed"):
        load(run.path)
