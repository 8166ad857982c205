"""Vectors for other people's machines: a folder with ids, scales, the score function and checksums, read back checked.

    export(run, "exports/films", width=16, bits=8)
    index = Index(load_export("exports/films"))

    manifest.json       the version of this format, the score, width, bits, types, shapes, where the vectors come from,
                        and the sha256 of every other file
    ids.parquet         side, row, raw id, item labels, as in a run directory
    seen.parquet        what each user is known to have met, where asked for: user, item; user_row, item_row
    npy                 users.npy, items.npy, and of codes items_scale, items_offset, items_lengths
    safetensors         the same tensors in vectors.safetensors
    parquet             users.parquet and items.parquet: id, vector, and the labels; of codes scales.parquet
    faiss               items.faiss, an index by inner product whose ids are row numbers; users.npy

A folder is complete or absent: written beside its place and renamed. Checksums find damage and careless editing; they
are no signature.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError

from mrl.data import Positives
from mrl.data.ids import as_series
from mrl.errors import ConfigError, RunError
from mrl.exchange.formats import FORMATS, read_arrays, write_arrays, write_faiss
from mrl.runs import Run
from mrl.runs.files import ids_frame, read_frame, read_ids
from mrl.runs.manifest import check_files, read_manifest, write_manifest, written_whole
from mrl.serving.codes import Codes, check_bits
from mrl.serving.scans import load_faiss
from mrl.widths import check_widths

KIND = "export"
SCORE = "inner product, do not normalise"
IDS, SEEN = "ids.parquet", "seen.parquet"
_DTYPES = {32: "float32", 16: "float16", 8: "int8", 1: "uint8"}
_DECODE = {8: "code * scale + offset", 1: "length * scale * (1 where the bit is set, else -1)"}


@dataclass(frozen=True, eq=False)
class Export:
    """What `load_export` reads. `mrl.serving.Index` takes it as it takes a run.

    users: (U, width) float32. codes: of the items by row, (I, width) float32, float16 or int8, or (I, ⌈width / 8⌉)
    uint8, eight signs a byte, the highest bit first; None of faiss, whose `index` has them. scale, offset: (width,) and
    lengths: (I,), float32, empty where these bits have none. user_ids (U,), item_ids (I,), labels: as `mrl.Run` has
    them. seen: what users are known to have met, or None. manifest: what manifest.json says.
    """

    path: Path
    manifest: dict[str, Any]
    users: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    labels: pl.DataFrame | None
    seen: Positives | None
    codes: np.ndarray | None
    scale: np.ndarray
    offset: np.ndarray
    lengths: np.ndarray
    index: Any = None

    @property
    def width(self) -> int:
        return self.manifest["width"]

    @property
    def trained_widths(self) -> list[int]:
        """The widths that the training knew, up to `width`: where a prefix is best cut."""
        return [width for width in self.manifest["trained_widths"] if width <= self.width]

    @property
    def bits(self) -> int:
        return self.manifest["bits"]

    @property
    def met(self) -> list[Positives]:
        """What is left out of lists."""
        return [] if self.seen is None else [self.seen]

    @cached_property
    def items(self) -> np.ndarray:
        """(I, width) float32, decoded when first asked for; of 32 bits the file itself."""
        if self.codes is None:
            return self.index.reconstruct_n(0, self.index.ntotal)
        if self.bits == 32:
            return self.codes
        if self.bits == 16:
            return self.codes.astype(np.float32)
        parts = (self.codes.T, self.scale, self.offset, self.lengths)
        return Codes(self.bits, self.width, len(self.codes), *parts).decode()


def export(
    run: Run,
    folder: str | os.PathLike[str],
    width: int | None = None,
    bits: int = 32,
    format: str = "npy",
    *,
    seen: bool = False,
) -> Path:
    """Write the vectors of a run for other programs to read; returns the folder, absolute.

    width: the first so many dimensions, by default all. bits: of the items, 32, 16, 8 or 1, as `mrl.serving.Index` has
    them; users stay float32, since a query is not scanned. format: npy, safetensors, parquet, or faiss (extra `serve`;
    not with 1 bit). seen: also what each user is known to have met. An export that is there is replaced.
    Raises ConfigError on a setting or a missing faiss; RunError where the run has no vectors or nothing that was seen,
    where the folder holds anything but an export, or cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
    check_bits(bits)
    if format == "faiss" and load_faiss() and bits == 1:
        raise ConfigError("bits=1: faiss has no such codes by inner product; take bits=8 or another format")
    (width,) = check_widths([run.items.shape[1] if width is None else width], run.items.shape[1])
    if seen and run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors; train again, or export with seen=False")
    users, items = (np.ascontiguousarray(side[:, :width].numpy(), np.float32) for side in (run.users, run.items))
    if bits == 16 and np.abs(items).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError("bits=16: some numbers are past 65504, the largest float16; take bits=32 or bits=8")
    trained = run.config.get("widths")
    facts = {
        "format": format,
        "score": SCORE,
        "width": width,
        "trained_widths": list(trained) if isinstance(trained, list | tuple) else [run.items.shape[1]],
        "bits": bits,
        "dtypes": {"users": "float32", "items": _DTYPES[bits]},
        "shapes": {"users": list(users.shape), "items": list(items.shape)},
        "decode": "none" if format == "faiss" else _DECODE.get(bits, "none"),
        "dataset": run.environment.get("dataset"),
        "fingerprint": run.environment.get("fingerprint"),
        "recipe": run.config.get("recipe"),
        "seed": run.config.get("seed"),
        "mrl": run.environment.get("mrl"),
    }
    path = Path(folder).expanduser().resolve()
    with written_whole(path, KIND) as beside:
        ids_frame(run.user_ids, run.item_ids, run.labels).write_parquet(beside / IDS)
        if seen:
            _seen_frame(run).write_parquet(beside / SEEN)
        if format == "faiss":
            np.save(beside / "users.npy", users)
            write_faiss(beside / "items.faiss", items, bits)
        else:
            codes = Codes.encode(items, bits)
            arrays = {"users": users, "items": np.ascontiguousarray(codes.columns.T)}
            arrays |= {"items_scale": codes.scale} if bits in (8, 1) else {}
            arrays |= {"items_offset": codes.offset} if bits == 8 else {}
            arrays |= {"items_lengths": codes.lengths} if bits == 1 else {}
            write_arrays(beside, format, arrays, run)
        write_manifest(beside, KIND, facts)
    return path


def load_export(folder: str | os.PathLike[str], *, mmap: bool = True, verify: bool = True) -> Export:
    """Read what `export` wrote.

    mmap: vectors stay in their file until they are looked at, except of Parquet; what is changed stays in memory.
    verify: compare the checksum of every file, which reads it once; sizes and shapes are compared in any case.
    Raises RunError in one line where something is missing, damaged, changed, a pickle, or of another format version.
    """
    path = Path(folder).expanduser().resolve()
    manifest = read_manifest(path, KIND)
    check_files(path, manifest, by_content=verify)
    try:
        arrays, index = read_arrays(path, manifest["format"], manifest["files"], mmap)
    except (OSError, ValueError, SafetensorError, RuntimeError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: its vectors cannot be read, pickles never ({reason}); export it again") from None
    user_ids, item_ids, labels = read_ids(path / IDS)
    bits, width, (num_users, num_items) = manifest["bits"], manifest["width"], (len(user_ids), len(item_ids))
    expected = {"users": ((num_users, width), "float32")}
    if index is None:
        expected |= {
            "items": ((num_items, -(-width // 8) if bits == 1 else width), _DTYPES[bits]),
            "items_scale": ((width if bits in (8, 1) else 0,), "float32"),
            "items_offset": ((width if bits == 8 else 0,), "float32"),
            "items_lengths": ((num_items if bits == 1 else 0,), "float32"),
        }
    elif (index.ntotal, index.d) != (num_items, width):
        raise _mismatch(path, "items.faiss", (index.ntotal, index.d), (num_items, width))
    arrays = dict.fromkeys(("items_scale", "items_offset", "items_lengths"), np.empty(0, np.float32)) | arrays
    for name, (shape, dtype) in expected.items():
        if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (shape, dtype):
            found = (*arrays[name].shape, arrays[name].dtype) if name in arrays else ("missing",)
            raise _mismatch(path, name, found, (*shape, dtype))
    return Export(
        path=path,
        manifest=manifest,
        users=arrays["users"],
        user_ids=user_ids,
        item_ids=item_ids,
        labels=labels,
        seen=_read_seen(path / SEEN, num_users, num_items) if SEEN in manifest["files"] else None,
        codes=arrays.get("items"),
        scale=arrays["items_scale"],
        offset=arrays["items_offset"],
        lengths=arrays["items_lengths"],
        index=index,
    )


def _mismatch(path: Path, name: str, found: tuple, wanted: tuple) -> RunError:
    found, wanted = ("(" + ", ".join(map(str, each)) + ")" for each in (found, wanted))
    return RunError(f"{path}: {name} is {found}, where ids and manifest say {wanted}; export the run again")


def _seen_frame(run: Run) -> pl.DataFrame:
    """Columns user, item (raw ids), user_row, item_row: a row a pair, by user."""
    met = run.met[0] if len(run.met) == 1 else run.met[0].union(run.met[1])
    users, items = met.users.numpy(), met.items.numpy()
    ids = {"user": as_series(run.user_ids).gather(users), "item": as_series(run.item_ids).gather(items)}
    return pl.DataFrame(ids | {"user_row": users, "item_row": items})


def _read_seen(path: Path, num_users: int, num_items: int) -> Positives:
    frame = read_frame(path)
    users, items = frame["user_row"].to_numpy(), frame["item_row"].to_numpy()
    rows = (int(users.max(initial=-1)), int(items.max(initial=-1)))
    if rows[0] >= num_users or rows[1] >= num_items or min(users.min(initial=0), items.min(initial=0)) < 0:
        raise _mismatch(path.parent, path.name, rows, (f"below {num_users}", f"below {num_items}"))
    return Positives.from_pairs(users, items, num_users, num_items)
