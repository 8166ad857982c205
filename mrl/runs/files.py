"""The files of a run directory, read back: in any process, a forked one too, and refused where they are damaged."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from mrl.errors import RunError
from mrl.kernels import is_forked
from mrl.runs import tensorfile

# What the names of backbone tensors, of label columns and of the tensors of dropped pairs start with.
BACKBONE, LABEL, DROPPED = "backbone.", "label_", "dropped_"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of weights.safetensors, none where there is no such file. RunError where it is of other ids."""
    path, ids = folder / "weights.safetensors", folder / "ids.parquet"
    if not path.exists():
        return {}
    weights, meta = tensorfile.read(path)
    if ids.exists() and meta.get("ids_sha256") not in (None, sha256(ids.read_bytes()).hexdigest()):
        raise RunError(f"{ids}: was damaged or changed since {path.name} was saved; restore a copy or train again")
    return weights


def ids_frame(user_ids: np.ndarray, item_ids: np.ndarray, labels: pl.DataFrame | None) -> pl.DataFrame:
    """What `read_ids` reads: a row a user, then a row an item, with side, row, id, integer and the labels of items."""
    sides = []
    for side, ids in (("user", user_ids), ("item", item_ids)):
        frame = pl.DataFrame({"row": np.arange(len(ids)), "id": pl.Series(map(str, ids.tolist()), dtype=pl.String)})
        is_integer = np.issubdtype(ids.dtype, np.integer)
        sides.append(frame.select(pl.lit(side).alias("side"), pl.all(), pl.lit(is_integer).alias("integer")))
    if labels is not None:
        sides[1] = pl.concat([sides[1], labels.rename(lambda name: LABEL + name)], how="horizontal")
    return pl.concat(sides, how="diagonal")


def read_ids(path: Path) -> tuple[np.ndarray, np.ndarray, pl.DataFrame | None]:
    """User ids, item ids and item labels of an ids.parquet, by row. Raises RunError where it is damaged."""
    frame = parse_file(path, read_frame)
    try:
        # the users come first; cut and not filtered, which polars does in threads that a forked process lacks
        count = int((frame["side"] == "user").sum())
        users, items = frame[:count], frame[count:]
        if (users["side"] != "user").any() or (items["side"] != "item").any():
            raise ValueError("rows are missing or out of order")
        ids = [_raw_ids(side) for side in (users, items)]
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise RunError(f"{path}: is not a table of ids ({_first_line(error)}); restore a copy or train again") from None
    names = [name for name in frame.columns if name.startswith(LABEL)]
    labels = pl.DataFrame({name.removeprefix(LABEL): items[name] for name in names}) if names else None
    return ids[0], ids[1], labels


def _raw_ids(side: pl.DataFrame) -> np.ndarray:
    if side["row"].to_list() != list(range(len(side))):
        raise ValueError("rows are missing or out of order")
    if len(side) and side["integer"].all():
        return side["id"].cast(pl.Int64).to_numpy()
    return np.array(side["id"].to_list(), dtype=object)


def read_frame(path: Path) -> pl.DataFrame:
    """A CSV or Parquet file as a frame. In a forked process, where polars would wait for its threads for ever, a fresh
    one reads the file."""
    if not is_forked():
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    path.stat()  # FileNotFoundError, where it is not there
    read = "read_parquet(path)" if path.suffix == ".parquet" else "read_csv(path, infer_schema_length=None)"
    source = f"import sys, polars; path = sys.argv[1]; sys.stdout.buffer.write(polars.{read}.serialize())"
    reader = subprocess.run([sys.executable, "-c", source, path], capture_output=True)
    if reader.returncode:
        raise ValueError(reader.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return pl.DataFrame.deserialize(io.BytesIO(reader.stdout))


def parse_file(path: Path, parse: Callable[[Path], Any]) -> Any:
    """What `parse` makes of a file; RunError where it is missing or cannot be parsed."""
    try:
        return parse(path)
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file; the run is not whole, train it again") from None
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RunError(f"{path}: cannot be read ({_first_line(error)}); restore a copy or train again") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
