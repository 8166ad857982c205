"""Arrays on disk, as other programs read them: npy, safetensors, Parquet, and an index of faiss.

Arrays by name: users (U, width) and items, of codes also items_scale, items_offset, items_lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import safe_open

from mrl.data.ids import as_series
from mrl.runs import Run, tensorfile
from mrl.runs.files import LABEL, read_frame
from mrl.serving.scans import FaissSettings, empty_index, load_faiss

FORMATS = ("npy", "safetensors", "parquet", "faiss")


def write_arrays(folder: Path, format: str, arrays: Mapping[str, np.ndarray], run: Run) -> None:
    """Files of npy, safetensors or parquet. Those of Parquet have a row a user and a row an item, ids and labels."""
    if format == "npy":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return
    if format == "safetensors":
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        (folder / "vectors.safetensors").write_bytes(tensorfile.dump(tensors))
        return
    for side, ids in (("users", run.user_ids), ("items", run.item_ids)):
        table = {"id": as_series(ids), "vector": pl.Series(arrays[side])}  # (N, width): a list of fixed size a row
        if side == "items" and "items_lengths" in arrays:
            table["length"] = pl.Series(arrays["items_lengths"])
        if side == "items" and run.labels is not None:
            table |= {LABEL * (label.name in table) + label.name: label for label in run.labels}
        pl.DataFrame(table).write_parquet(folder / f"{side}.parquet")
    scales = {name: arrays[f"items_{name}"] for name in ("scale", "offset") if f"items_{name}" in arrays}
    if scales:
        pl.DataFrame({"dimension": np.arange(len(scales["scale"]))} | scales).write_parquet(folder / "scales.parquet")


def write_faiss(path: Path, items: np.ndarray, bits: int) -> None:
    """A flat index by inner product of 32, 16 or 8 bits, whose ids are row numbers."""
    index = empty_index(items, bits, FaissSettings())
    index.train(items)
    index.add(items)
    path.write_bytes(load_faiss().serialize_index(index).tobytes())  # not by faiss: a full disk is then an OSError


def read_arrays(folder: Path, format: str, names: Iterable[str], mmap: bool) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays by name, and the index of faiss, or None. Mapped arrays may be written to, which the files do not see.

    names: of the files. Raises what the libraries do where a file is none of theirs; none of them unpickles.
    """
    if format == "safetensors":
        with safe_open(folder / "vectors.safetensors", "pt") as file:
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        return arrays if mmap else {name: array.copy() for name, array in arrays.items()}, None
    if format == "parquet":
        frames = {side: read_frame(folder / f"{side}.parquet") for side in ("users", "items")}
        items = frames["items"]
        arrays = {side: frame["vector"].to_numpy() for side, frame in frames.items()}
        arrays |= {"items_lengths": items["length"].to_numpy()} if "length" in items.columns else {}
        if "scales.parquet" in names:
            scales = read_frame(folder / "scales.parquet")
            arrays |= {f"items_{name}": scales[name].to_numpy() for name in scales.columns if name != "dimension"}
        return {name: np.require(array, requirements=["C", "W"]) for name, array in arrays.items()}, None
    arrays = {
        name.removesuffix(".npy"): np.load(folder / name, mmap_mode="c" if mmap else None)
        for name in names
        if name.endswith(".npy")
    }
    if format == "npy":
        return arrays, None
    faiss = load_faiss()
    return arrays, faiss.read_index(str(folder / "items.faiss"), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
