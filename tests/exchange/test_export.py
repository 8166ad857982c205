"""Exports: read back they are the vectors of the run to the precision of their bits, or refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl
from mrl.data.interactions import Positives
from mrl.errors import ConfigError, RunError
from mrl.exchange.export import export, load_export
from mrl.exchange.formats import FORMATS
from mrl.runs.manifest import _digest
from mrl.runs.run import Run
from mrl.serving.codes import BITS, Codes
from mrl.serving.index import Index

USERS, ITEMS, DIM = 7, 60, 20
EVERY = [(name, bits) for name in FORMATS for bits in BITS if (name, bits) != ("faiss", 1)]
each_format = pytest.mark.parametrize(("format", "bits"), EVERY)


def run_of(seed: int = 0, users: int = USERS, items: int = ITEMS, dim: int = DIM) -> Run:
    """A run in memory: lengths that differ as popularity does, an axis that is nothing, ids of both kinds."""
    rng = np.random.default_rng(seed)
    vectors = {
        "users": rng.normal(size=(users, dim)) / np.arange(1, dim + 1),
        "items": rng.normal(size=(items, dim)) * rng.exponential(size=(items, 1)),
    }
    vectors["items"][:, -1] = 0
    return Run(
        path=Path("nowhere"),
        config={"widths": [4, 8, dim], "recipe": "least_squares", "seed": seed},
        environment={"dataset": "drawn", "fingerprint": "f", "mrl": "0.1.0"},
        metrics=pl.DataFrame(),
        history=pl.DataFrame(),
        user_ids=np.array([f"u{user}" for user in range(users)], dtype=object),
        item_ids=np.arange(items) * 10,
        labels=pl.DataFrame({"title": [f"Film {i}" for i in range(items)], "id": [[i] for i in range(items)]}),
        seen=Positives.from_pairs(*np.nonzero(rng.random((users, items)) < 0.2), users, items),
        weights={name: torch.tensor(table, dtype=torch.float32) for name, table in vectors.items()},
        dropped=Positives.from_pairs(*np.nonzero(rng.random((users, items)) < 0.1), users, items),
    )


def needs(format: str) -> None:
    if format == "faiss":
        pytest.importorskip("faiss")


def furthest(items: np.ndarray, bits: int, format: str) -> np.ndarray | float:
    """By how much a number may be off, from the definition of the codes."""
    if bits == 8:
        codes = 255 if format == "faiss" else 254
        return np.ptp(items, axis=0) / codes / 2 * 1.001 + 1e-6 * np.abs(items).max(0)
    return {32: 0.0, 16: np.abs(items) * 2.0**-11 + 2.0**-25}[bits]


@each_format
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, DIM), mmap=st.booleans())
@settings(max_examples=8)
def test_what_was_exported_comes_back_to_the_precision_of_its_bits(tmp_path_factory, format, bits, seed, width, mmap):
    needs(format)
    run = run_of(seed, items=1 + seed % ITEMS)
    folder = export(run, tmp_path_factory.mktemp("export") / "it", width, bits, format, seen=seed % 2 == 0)
    read = load_export(folder, mmap=mmap)
    items = run.items[:, :width].numpy()
    assert np.array_equal(read.users, run.users[:, :width].numpy())
    if bits == 1:
        assert np.array_equal(read.items, Codes.encode(items, 1).decode())
    else:
        assert (np.abs(read.items - items) <= furthest(items, bits, format)).all()
    assert read.items.dtype == np.float32 and read.items.shape == items.shape and read.items.flags.writeable
    assert (read.width, read.bits) == (width, bits) and read.trained_widths == [w for w in (4, 8, DIM) if w <= width]
    assert read.user_ids.tolist() == run.user_ids.tolist() and read.item_ids.tolist() == run.item_ids.tolist()
    assert read.item_ids.dtype == np.int64 and read.labels.equals(run.labels)
    assert read.seen == (run.seen.union(run.dropped) if seed % 2 == 0 else None)
    assert (read.codes is None) == (format == "faiss")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("width", [3, 8, None])
def test_an_index_over_it_returns_the_lists_of_the_run(tmp_path, format, width):
    needs(format)
    run = run_of()
    read = load_export(export(run, tmp_path / "it", width, format=format, seen=True))
    ids = run.user_ids.tolist()
    assert Index(read).search(ids, k=12).equals(run.recommend(ids, k=12, width=width))
    unseen = run.recommend(ids, k=12, width=width, exclude_seen=False)
    found = Index(read.items).search(read.users, k=12)
    assert read.item_ids[found["item"].to_numpy()].tolist() == unseen["item"].to_list()
    assert found["score"].to_list() == unseen["score"].to_list()


def test_an_export_of_faiss_is_searched_by_faiss_alone(tmp_path):
    faiss = pytest.importorskip("faiss")
    run = run_of()
    folder = export(run, tmp_path / "it", format="faiss")
    scores, rows = faiss.read_index(str(folder / "items.faiss")).search(np.load(folder / "users.npy"), 5)
    wanted = run.recommend(run.user_ids.tolist(), k=5, exclude_seen=False)
    assert run.item_ids[rows.ravel()].tolist() == wanted["item"].to_list()
    np.testing.assert_allclose(scores.ravel(), wanted["score"].to_numpy(), rtol=1e-5)


def test_parquet_is_read_by_anyone(tmp_path):
    run = run_of()
    folder = export(run, tmp_path / "it", 6, 8, "parquet", seen=True)
    items, users, scales, seen = (
        pl.read_parquet(folder / f"{n}.parquet") for n in ("items", "users", "scales", "seen")
    )
    assert items.schema["vector"] == pl.Array(pl.Int8, 6) and users.schema["vector"] == pl.Array(pl.Float32, 6)
    assert items.columns == ["id", "vector", "title", "label_id"]  # a label that is called as a column of ours
    assert items["id"].to_list() == run.item_ids.tolist() and users["id"].to_list() == run.user_ids.tolist()
    decoded = items["vector"].to_numpy() * scales["scale"].to_numpy() + scales["offset"].to_numpy()
    assert np.array_equal(decoded, load_export(folder).items)
    pairs = run.seen.union(run.dropped)
    assert seen["user"].to_list() == [f"u{user}" for user in pairs.users.tolist()]
    assert seen["item"].to_list() == [10 * item for item in pairs.items.tolist()]


@pytest.mark.parametrize("format", ["npy", "safetensors", "faiss"])
def test_vectors_stay_in_their_file_until_they_are_looked_at(tmp_path, format):
    needs(format)
    if not sys.platform.startswith("linux"):
        pytest.skip("mapped files are listed on Linux only")
    folder = export(run_of(), tmp_path / "it", format=format)
    read = load_export(folder)
    assert str(folder) in Path("/proc/self/maps").read_text()
    read.items[0] = 9
    assert not (load_export(folder).items[0] == 9).any()  # not written through
    del read
    kept = load_export(folder, mmap=False)
    assert str(folder) not in Path("/proc/self/maps").read_text() and len(kept.items) == ITEMS


def test_the_manifest_says_what_it_is(tmp_path):
    manifest = json.loads((export(run_of(), tmp_path / "it", 8, 8) / "manifest.json").read_text())
    assert manifest["score"] == "inner product, do not normalise" and manifest["mrl_export"] == 1
    assert (manifest["width"], manifest["trained_widths"], manifest["bits"]) == (8, [4, 8, DIM], 8)
    assert manifest["shapes"] == {"users": [USERS, 8], "items": [ITEMS, 8]} and manifest["dataset"] == "drawn"
    assert manifest["dtypes"] == {"users": "float32", "items": "int8"} and manifest["recipe"] == "least_squares"


def test_the_same_run_makes_the_same_export(tmp_path):
    one, other = (export(run_of(), tmp_path / name, format="parquet", seen=True) for name in ("one", "other"))
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def refused(folder: Path, words: str, **options) -> None:
    with pytest.raises(RunError, match=words) as caught:
        load_export(folder, **options)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_anywhere_is_refused(tmp_path, format):
    needs(format)
    folder = export(run_of(), tmp_path / "it", bits=8, format=format, seen=True)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    rng = np.random.default_rng(0)
    for name, data in whole.items():
        for _ in range(3):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            (folder / name).write_bytes(damaged)
            refused(folder, "export|write it again")
        if name != "manifest.json":
            (folder / name).write_bytes(data[:-1])
            refused(folder, "bytes, it has", verify=False)
        (folder / name).unlink()
        refused(folder, "cannot be read" if name != "manifest.json" else "is no export", verify=False)
        (folder / name).write_bytes(data)
    assert len(load_export(folder).items) == ITEMS
    refused(tmp_path / "nothing", "is no export")


def rewritten(folder: Path, **changes) -> Path:
    """The manifest with other values, and the checksums of the files as they are now: what a careful forger makes."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    del manifest["sha256"]
    for name in manifest["files"]:
        manifest["files"][name] = {
            "bytes": (folder / name).stat().st_size,
            "sha256": mrl.runs.manifest._sha256(folder / name),
        }
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": _digest(manifest)}))
    return folder


def test_what_does_not_fit_together_is_refused(tmp_path):
    run = run_of()

    def made(**options) -> Path:
        return export(run, tmp_path / f"{len(list(tmp_path.iterdir()))}", **options)

    refused(rewritten(made(), mrl_export=2), "has format version 2, this mrl reads 1; use the mrl that wrote it")
    refused(rewritten(made(), width=8), r"users is \(7, 20, float32\), where ids and manifest say \(7, 8, float32\)")
    refused(rewritten(made(), bits=8), "items is .*float32.*int8")
    for format in ("npy", "parquet", "safetensors"):
        folder = made(format=format)
        fewer = export(replace(run_of(items=9), user_ids=run.user_ids), tmp_path / "other", format=format)
        shutil.copy(fewer / "ids.parquet", folder / "ids.parquet")
        refused(rewritten(folder), r"items is \(60, 20, float32\), where ids and manifest say \(9, 20, float32\)")
    folder = made(bits=8)
    np.save(folder / "items_scale.npy", np.ones(3, np.float32))
    refused(rewritten(folder), r"items_scale is \(3, float32\)")
    folder = made(seen=True)
    pl.read_parquet(folder / "seen.parquet").with_columns(item_row=pl.lit(ITEMS)).write_parquet(folder / "seen.parquet")
    refused(rewritten(folder), "seen.parquet is")


def test_pickles_are_refused_even_with_the_right_checksum(tmp_path):
    for mmap in (True, False):
        for name, format in (
            ("items.npy", "npy"),
            ("vectors.safetensors", "safetensors"),
            ("items.parquet", "parquet"),
        ):
            folder = export(run_of(), tmp_path / f"{format}-{mmap}", format=format)
            (folder / name).write_bytes(pickle.dumps(np.zeros((ITEMS, DIM), np.float32)))
            refused(rewritten(folder), "pickles never", mmap=mmap)
    folder = export(run_of(), tmp_path / "it")
    np.save(folder / "items.npy", np.full((ITEMS, DIM), "text", dtype=object))
    refused(rewritten(folder), "pickles never")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "csv"}, "format='csv': must be one of npy, safetensors, parquet, faiss"),
        ({"bits": 4}, "bits=4: must be one of 32, 16, 8, 1"),
        ({"width": DIM + 1}, str(DIM + 1)),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        export(run_of(), tmp_path / "it", **settings)
    assert list(tmp_path.iterdir()) == []


def test_faiss_has_no_signs_and_float16_no_large_numbers(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match="bits=1: faiss has no such codes"):
        export(run_of(), tmp_path / "it", bits=1, format="faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'mrl\[serve\]'"):
        export(run_of(), tmp_path / "it", format="faiss")
    run = run_of()
    run.items[3, 0] = 1e5
    with pytest.raises(ConfigError, match="past 65504"):
        export(run, tmp_path / "it", bits=16)


def test_what_the_run_lacks_is_said(tmp_path):
    with pytest.raises(RunError, match="no vectors"):
        export(replace(run_of(), weights={}), tmp_path / "it")
    with pytest.raises(RunError, match=r"no seen\.safetensors"):
        export(replace(run_of(), seen=None), tmp_path / "it", seen=True)


def test_it_is_on_the_face_of_the_package():
    assert mrl.export is export and mrl.load_export is load_export
