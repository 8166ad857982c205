"""An index on disk: opened in milliseconds from memory-mapped files, swapped for a newer one while readers go on.

    publish(index, "served")          # writes served/3 beside served/2, then names it in served/CURRENT
    index = open_index("served")      # the version that is named there

A version is complete before it is named, and the name is replaced in one step: a reader gets the old one or the new
one, also where the writer is killed in between. Who has a version open keeps its files, even when they are removed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch

from mrl.data import Positives
from mrl.data.ids import as_series
from mrl.errors import RunError
from mrl.runs.manifest import check_files, read_manifest, write_manifest, written_whole
from mrl.serving.codes import Codes
from mrl.serving.index import Index
from mrl.serving.scans import FaissScan, FaissSettings, PlainScan, load_faiss

KIND, _NAME = "index", "CURRENT"


def save_index(index: Index, folder: str | os.PathLike[str]) -> Path:
    """Write an index to a folder, complete or not at all; an index that is there is replaced.

    RunError where there is something else, or where it cannot be written.
    """
    folder = Path(folder).expanduser().resolve()
    with written_whole(folder, KIND) as beside:
        facts = _write(index, beside)
        write_manifest(beside, KIND, facts)
    return folder


def open_index(folder: str | os.PathLike[str], *, verify: bool = False) -> Index:
    """The index of a folder of `save_index`, or the current version of one of `publish`.

    Vectors and codes are memory-mapped: what is changed in them stays in this process. verify: read all of the files
    and compare their checksums; sizes are compared anyway. Raises RunError where a file is missing or damaged.
    """
    folder = Path(folder).expanduser().resolve()
    if (folder / _NAME).is_file():
        folder /= (folder / _NAME).read_text(encoding="utf-8").strip()
    made = read_manifest(folder, KIND)
    check_files(folder, made, by_content=verify)
    try:
        return _read(folder, made)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: is not a complete index ({error}); build it again") from None


def publish(index: Index, folder: str | os.PathLike[str], *, keep: int = 2) -> Path:
    """Write an index as the next version of a folder and make it the current one; returns where it lies.

    keep: how many versions stay, the new one included.
    """
    folder = Path(folder).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    path = save_index(index, folder / str(versions[-1] + 1 if versions else 1))
    beside = folder / f".{_NAME}.{os.getpid()}"
    beside.write_text(path.name, encoding="utf-8")
    os.replace(beside, folder / _NAME)
    for old in versions[: max(0, len(versions) + 1 - keep)]:
        shutil.rmtree(folder / str(old), ignore_errors=True)
    return path


def _write(index: Index, folder: Path) -> dict[str, Any]:
    """The files of an index; returns what else there is to know."""
    catalogue = index.catalogue
    arrays = {"items": catalogue.items[: catalogue.count], "users": catalogue.users, "alive": catalogue.alive}
    if index.directions is not None:
        arrays["directions"] = index.directions
    if catalogue.has_seen:
        met = [catalogue.met_by(user) for user in range(len(catalogue.user_ids))]
        arrays["met_offsets"] = np.cumsum([0, *map(len, met)])
        arrays["met_items"] = np.concatenate([np.empty(0, np.int32), *met]).astype(np.int32)
    if isinstance(index.scan, PlainScan):
        codes = index.scan.codes
        arrays |= {"columns": codes.columns[:, : codes.count], "scale": codes.scale, "offset": codes.offset}
        arrays["lengths"] = codes.lengths[: codes.count]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    if isinstance(index.scan, FaissScan):
        load_faiss().write_index(index.scan.index, str(folder / "faiss.index"))
    pl.DataFrame({"id": as_series(catalogue.user_ids)}).write_parquet(folder / "users.parquet")
    items = pl.DataFrame({"id": as_series(catalogue.item_ids)})
    labels = catalogue.labels
    if labels is not None:
        items = items.with_columns(column.alias(f"label.{column.name}") for column in labels)
    items.write_parquet(folder / "items.parquet")
    return {
        "score": "inner product of the vectors as they are, not normalised",
        "widths": index.widths,
        "shortlist": index.shortlist,
        "bits": index.bits,
        "backend": index.backend,
        "options": index.options,
        "threads": index.threads,
        "popularity": index.popularity,
        "from": catalogue.where,
        "longest": catalogue.longest,
        "has_labels": labels is not None,
        "has_seen": catalogue.has_seen,
    }


def _read(folder: Path, made: dict[str, Any]) -> Index:
    def array(name: str) -> np.ndarray:
        # Copied where it is written to: of arrays that are read-only the loops would have to be compiled anew.
        return np.load(folder / f"{name}.npy", mmap_mode="c")

    items, users = (pl.read_parquet(folder / f"{side}.parquet") for side in ("items", "users"))
    labels = items.drop("id").rename(lambda name: name.removeprefix("label.")) if made["has_labels"] else None
    table = array("items")
    seen = None
    if made["has_seen"]:
        offsets, met = (torch.from_numpy(array(f"met_{part}")) for part in ("offsets", "items"))
        seen = Positives(offsets, met, len(table))
    popularity = made.get("popularity", 1.0)
    found = SimpleNamespace(directions=np.array(array("directions"))) if popularity < 1 else None
    run = SimpleNamespace(
        path=made["from"], items=table, users=array("users"), item_ids=_ids(items), user_ids=_ids(users), labels=labels,
        met=[seen] if seen else [], seen=seen, longest=made["longest"], popularity=found,
    )  # fmt: skip
    if made["backend"] == "plain":
        parts = {name: np.asarray(array(name)) for name in ("columns", "scale", "offset", "lengths")}
        scan = PlainScan(Codes(made["bits"], made["widths"][0], len(table), **parts))
    else:
        stored = load_faiss().read_index(str(folder / "faiss.index"))
        scan = FaissScan(stored, len(table), made["bits"], FaissSettings(**made["options"]), made["threads"])
    settings = {name: made[name] for name in ("widths", "shortlist", "bits", "backend", "threads")}
    index = Index(run, **settings, **made["options"], popularity=popularity, scan=scan)
    index.catalogue.alive = np.array(array("alive"))
    return index


def _ids(table: pl.DataFrame) -> np.ndarray:
    ids = table["id"].to_numpy()
    return ids if ids.dtype != object else np.array(table["id"].to_list(), dtype=object)
