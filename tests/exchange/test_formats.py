"""Exports as other programs read them: the recipes of notebooks/databases.md, run as they stand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exported import DIM, write_served

from mrl.exchange.formats import read_arrays, write_faiss
from mrl.runs.run import Run
from mrl.serving.index import Index

DOCUMENT = (Path(__file__).resolve().parents[2] / "notebooks" / "databases.md").read_text()
# Section -> what has to be there for it to run
RUN = {"DuckDB": "duckdb", "LanceDB": "lancedb", "Qdrant": "qdrant_client", "Milvus": "milvus_lite"}
SHOWN = ("PostgreSQL with pgvector", "Vespa")


def blocks(section: str, language: str = "python") -> str:
    """The fenced blocks of a section, one after the other."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert found, section
    return "\n".join(found)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return write_served(tmp_path / "runs" / "ml-100k-default-0")


def executed(*sections: str) -> dict:
    namespace: dict = {}
    for section in sections:
        exec(compile(blocks(section), f"databases.md, {section}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(("section", "package"), RUN.items())
def test_a_database_returns_the_list_of_the_run(run, section, package):
    pytest.importorskip(package)
    best = executed("Export", section)["best"]
    wanted = run.recommend([196], k=10)
    assert best["id"].to_list() == wanted["item"].to_list()
    assert best["title"].to_list() == wanted["title"].to_list()
    np.testing.assert_allclose(best["score"].to_numpy(), wanted["score"].to_numpy(), rtol=1e-5)
    # 200 of 272 unseen items are no shortlist of everything: it is by the prefix, as that of an index is.
    assert wanted.equals(Index(run, widths=[16, 64], shortlist=[200]).search([196]))


def test_a_short_list_would_be_told_from_a_long_one(run):
    """The vectors of these tests are not so easy that a list by 16 dimensions would pass for one by 64."""
    ids = run.user_ids.tolist()
    narrow, whole = (run.recommend(ids, k=10, width=width)["item"].to_list() for width in (16, 64))
    assert narrow != whole
    assert run.recommend([196], width=16)["item"].to_list() != run.recommend([196])["item"].to_list()


def test_the_document_has_no_other_recipe():
    assert re.findall(r"^## (.+)$", DOCUMENT, re.M) == ["Export", *RUN, *SHOWN]


@pytest.mark.parametrize("section", SHOWN)
def test_recipes_that_need_a_server_fit_the_export(run, section):
    """Not run: their Python is Python, its names are bound, and every width is that of the prefix or of the whole."""
    namespace = executed("Export")
    tree = ast.parse(blocks(section))
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert read - stored - set(namespace) <= set(
        dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__
    )
    server = blocks(section, "sql" if "pgvector" in section else "text")
    widths = re.findall(r"vector\((\d+)\)|x\[(\d+)\]|1, (\d+)\)", server)
    assert {int(width) for found in widths for width in found if width} == {16, DIM}


def test_vespa_is_fed_and_asked_by_what_was_exported(run):
    fields = executed("Export", "Vespa")
    fed = pl.read_ndjson("films.jsonl").unnest("fields")
    assert fed["id"].to_list() == run.item_ids.tolist()
    narrow, whole = (np.array(fed[name].to_list(), np.float32) for name in ("narrow", "whole"))
    assert np.array_equal(whole, run.items.numpy()) and np.array_equal(narrow, whole[:, :16])
    wanted = run.recommend([196], k=10)
    scores = whole @ np.array(fields["ask"]["input.query(whole)"], np.float32)
    row = run.item_ids.tolist().index(wanted["item"][0])
    assert scores[row] == pytest.approx(wanted["score"][0], rel=1e-5)


def test_files_that_are_not_in_the_manifest_are_not_read(tmp_path):
    for name in ("users", "items", "notes"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3), np.float32))
    arrays, index = read_arrays(tmp_path, "npy", ["users.npy", "items.npy", "ids.parquet"], mmap=True)
    assert sorted(arrays) == ["items", "users"] and index is None


def test_an_index_of_faiss_has_the_bits_it_was_asked_for(tmp_path):
    faiss = pytest.importorskip("faiss")
    items = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    for bits in (32, 16, 8):
        write_faiss(tmp_path / "items.faiss", items, bits)
        index = faiss.read_index(str(tmp_path / "items.faiss"))
        assert index.code_size == 8 * bits // 8 and index.metric_type == faiss.METRIC_INNER_PRODUCT
        assert (index.ntotal, index.d) == (50, 8)
