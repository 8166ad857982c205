"""The writer of a run directory: one at a time, each file whole at any moment.

A file is written beside its place, flushed to the disk and renamed: whatever happens, it is old and whole or new and
whole. `mrl.runs` lists the files.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import SECTION_OF, TrainConfig, differing
from mrl.data import DATA_SETTINGS, Interactions, Positives, dataset_name, resolve_dataset
from mrl.errors import MRLError, RunError
from mrl.kernels import fast_paths
from mrl.runs import tensorfile
from mrl.runs.card import CARD, PICTURE
from mrl.runs.files import BACKBONE, DROPPED, ids_frame, read_ids, read_weights
from mrl.runs.tensorfile import Pieces

GONE = ("popularity_exponent", "rotation_width", "trials")  # settings of least_squares before 2026-11-28


def default_path(dataset: str, name: str, seed: int) -> Path:
    """runs/<dataset>-<name>-<seed>, under the working directory."""
    return Path("runs") / re.sub(r"[^\w.-]+", "_", f"{dataset}-{name}-{seed}")


def run_path(config: TrainConfig) -> Path:
    """Where the run of a config goes; from data sets of one name to one place, see `RunDirectory.check_data`."""
    if config.run_dir:
        return Path(config.run_dir).expanduser()
    return default_path(dataset_name(config.dataset), config.run_name, config.seed)


class RunDirectory:
    """The one writer of a run directory, whose `path` is absolute. Use it in a `with` statement, or call `close`.

    Makes the directory where it is missing and clears away what a killed writer left half-written. Raises RunError
    where another process is writing to it, or it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
            self._lock.acquire()
            for unfinished in self.path.glob(".*.tmp"):
                unfinished.unlink()
        except filelock.Timeout:
            raise RunError(
                f"{self.path}: another process is writing this run; wait for it or give another run_dir"
            ) from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); give another run_dir") from None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write. Doing so twice is harmless."""
        self._lock.release()

    def _write(self, name: str, data: bytes | Callable[[BinaryIO], object]) -> None:
        """data: what is written, or what writes it to the file."""
        path, temporary = self.path / name, self.path / f".{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(data) if isinstance(data, bytes) else data(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise RunError(
                f"{path}: could not be saved ({error.strerror}); what was there is whole; make room and resume"
            ) from None
        with suppress(OSError):  # the rename itself reaches the disk; not every system lets a folder be flushed
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(dict(values), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.path / name}: cannot be written as JSON ({error})") from None
        self._write(name, text.encode() + b"\n")

    def _write_parquet(self, name: str, frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        self._write(name, buffer.getvalue())

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._write_json("config.json", config)

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        self._write_json("environment.json", facts)

    def write_history(self, history: pl.DataFrame) -> None:
        self.write_table("history.csv", history)

    def write_metrics(self, metrics: pl.DataFrame) -> None:
        """The tidy table. Write it last: a run with metrics is a finished one."""
        self.write_table("metrics.csv", metrics)

    def write_table(self, name: str, table: pl.DataFrame) -> None:
        """A further table, as CSV."""
        self._write(name, table.write_csv().encode())

    def write_card(self, card: str, picture: str = "") -> None:
        """The README.md of the run, and its picture (SVG) where there is one."""
        self._write(CARD, card.encode())
        if picture:
            self._write(PICTURE, picture.encode())

    def write_per_user(self, table: pl.DataFrame) -> None:
        """`Evaluation.per_user`, with the raw ids of the users added where `write_ids` came first."""
        ids = self.path / "ids.parquet"
        if ids.exists():
            raw = pl.Series("user_id", read_ids(ids)[0].tolist())
            table = table.with_columns(raw.gather(table["user"]))
        self._write_parquet("per_user.parquet", table)

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor | Pieces], meta: Mapping[str, Any]) -> None:
        if any(isinstance(table, Pieces) for table in tensors.values()):
            self._write(name, lambda file: tensorfile.stream(file, tensors, meta))
        else:
            self._write(name, tensorfile.dump(tensors, meta))

    def write_weights(
        self, users: Tensor | Pieces, items: Tensor | Pieces, backbone: Mapping[str, Tensor | Pieces] | None = None
    ) -> None:
        """users (U, D) and items (I, D) as they score, and what the backbone needs to go on training.

        All as tensors, or all in pieces, which whoever gives them has looked at for NaN.

        Written after the ids, whose checksum goes with them: the rows of another run's ids would be quietly wrong.
        """
        tables = [table for table in (users, items) if isinstance(table, Tensor)]
        if not all(table.isfinite().all() for table in tables):
            raise RunError(f"{self.path}: the vectors have NaN or Inf and are not saved; lower learning_rate")
        tensors = {"users": users, "items": items}
        tensors |= {f"{BACKBONE}{name}": tensor for name, tensor in (backbone or {}).items()}
        self._write_weights(tensors)

    def _write_weights(self, tensors: Mapping[str, Tensor]) -> None:
        ids = self.path / "ids.parquet"
        meta = {"ids_sha256": sha256(ids.read_bytes()).hexdigest()} if ids.exists() else {}
        self._write_tensors("weights.safetensors", tensors, meta)

    def write_ids(self, data: Interactions) -> None:
        """Raw id by row of users and items, and the item labels."""
        self._write_parquet("ids.parquet", ids_frame(data.user_ids, data.item_ids, data.labels))

    def replace_labels(self, labels: pl.DataFrame) -> None:
        """Other labels (I rows) for the items of a finished run, whose ids stay."""
        user_ids, item_ids, _ = read_ids(self.path / "ids.parquet")
        weights = read_weights(self.path)
        # Between the two files the weights are of no ids in particular: whoever reads them then must not be refused.
        self._write("weights.safetensors", tensorfile.dump(weights, {}))
        self._write_parquet("ids.parquet", ids_frame(user_ids, item_ids, labels))
        self._write_weights(weights)

    def write_seen(self, positives: Positives, dropped: Positives | None = None) -> None:
        """What users are known to have met, left out when recommending: the positives of training, and beside them
        `Interactions.dropped`."""
        tensors = {"offsets": positives.offsets, "items": positives.items}
        if dropped is not None:
            tensors |= {f"{DROPPED}offsets": dropped.offsets, f"{DROPPED}items": dropped.items}
        self._write_tensors("seen.safetensors", tensors, {"num_items": positives.num_items})

    def save_checkpoint(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Everything needed to go on: tensors by name, and `meta` (JSON), which must tell fingerprint and widths."""
        if missing := {"fingerprint", "widths"} - set(meta):
            raise RunError(f"checkpoint: its meta lacks {sorted(missing)}, by which a resume knows what it belongs to")
        self._write("checkpoint.safetensors", tensorfile.dump(tensors, meta))

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None. Raises RunError where it is damaged or of another format."""
        path = self.path / "checkpoint.safetensors"
        return tensorfile.read(path) if path.exists() else None

    def check_data(self, config: TrainConfig, data: Interactions) -> list[str]:
        """Raise RunError where a finished run of other data is here: it is not written over.

        Data with the fingerprint of the run are the same, wherever they lie. Others are of the same data set, and the
        run may be trained anew in its place, where the file or folder (links followed), the name or the settings of
        `planted` are the same: then a setting was changed, or the data themselves, which the returned notes say.
        Data at hand for which no `dataset` stands are told by their fingerprint alone.
        """
        if not (self.path / "metrics.csv").is_file():
            return []
        try:
            made, facts = (json.loads((self.path / name).read_text()) for name in ("config.json", "environment.json"))
            fingerprint, made_name = facts.get("fingerprint"), facts.get("dataset")
        except (OSError, ValueError, AttributeError):  # a damaged run is to be trained again
            return []
        if fingerprint == data.fingerprint:
            return []
        settings = json.loads(json.dumps(config.to_dict()))
        then, now = _source(made), _source(settings)
        marks = f"(fingerprints {str(fingerprint)[:12]} and {data.fingerprint[:12]})"
        if then != now or made_name != data.name or _is_at_hand(config, data):
            if made_name != data.name or then == now:
                then, now = made_name, data.name
            raise RunError(
                f"{self.path}: holds a finished run of {then}, not of {now} {marks}; give another run_dir or name, or "
                "remove it"
            )
        if {*DATA_SETTINGS} & {*differing(made, settings)}:
            return []
        return [f"trained again, in place of a run of these settings: the data have changed since {marks}"]

    def clear_results(self) -> None:
        """Before a finished run is trained anew: what is left of the old one must not be taken for the new."""
        # metrics first: without them the run counts as unfinished
        names = ("metrics.csv", "per_user.parquet", "weights.safetensors", "seen.safetensors", "ids.parquet")
        for name in (*names, CARD, PICTURE):
            (self.path / name).unlink(missing_ok=True)

    def drop_checkpoint(self) -> None:
        """Remove the checkpoint of a run that is finished, or that is to start over."""
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)


def _source(settings: Mapping[str, Any]) -> str:
    """Which data set settings are of, in words: where it lies, its name, or which planted one."""
    dataset = str(settings.get("dataset"))
    if dataset != "planted":
        return resolve_dataset(dataset)
    return f"planted {json.dumps(settings.get('planted'), sort_keys=True)}, seed {settings.get('seed')}"


def _is_at_hand(config: TrainConfig, data: Interactions) -> bool:
    """Whether data were given to a training whose `dataset` is not where they come from."""
    try:
        return dataset_name(config.dataset) != data.name
    except MRLError:
        return True


def check_compatible(meta: Mapping[str, Any], **expected: Any) -> None:
    """Raise RunError where a checkpoint is not of the run that would go on from it, naming both values.

    expected: what `meta` must hold: fingerprint, widths, and whatever else was saved with it.
    """
    remedy = "give another run_dir, or resume=False to start over"
    if is_earlier(meta.get("settings")):
        raise RunError(f"the checkpoint was made by an earlier version of mrl, with which it can be resumed; {remedy}")
    for name, value in expected.items():
        value, saved = json.loads(json.dumps(value)), meta.get(name)
        if saved == value:
            continue
        while isinstance(saved, dict) and isinstance(value, dict):
            name = next(key for key in sorted({*saved, *value}) if saved.get(key) != value.get(key))
            saved, value = saved.get(name), value.get(name)
        what = "was made with another data set: fingerprint" if name == "fingerprint" else f"was made with {name}"
        raise RunError(f"the checkpoint {what} {saved}, not {value}; {remedy}")


def is_earlier(settings: Any) -> bool:
    """Whether an earlier version of mrl wrote these settings: none in sections, or some that are gone since."""
    if not isinstance(settings, dict):
        return False
    least_squares = settings.get("least_squares")
    names = least_squares if isinstance(least_squares, dict) else ()
    return any(name in SECTION_OF for name in settings) or any(name in GONE for name in names)


def environment(data: Interactions, device: torch.device | str) -> dict[str, Any]:
    """Where and on what a run was made, for environment.json.

    fast_paths: `used` or `off: <why>` for what a GPU does faster (`mrl.kernels.fast_paths`); empty on a CPU.
    """
    device = torch.device(device)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "mrl": next((found.version for found in distributions(name="mrl")), None),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "fast_paths": fast_paths.verdicts() if device.type == "cuda" else {},
        "threads": torch.get_num_threads(),
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
        "git_commit": _git_commit(),
    } | ({} if (memory := peak_memory_mib()) is None else {"peak_memory_mib": round(memory)})


def peak_memory_mib() -> float | None:
    """The most memory this process has held so far, MiB; None where it is not told (Windows).

    On Linux not what its parent held when it was started.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(peak[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, else KiB


def _git_commit() -> str | None:
    """The commit of the checkout that this package is run from; None where it is installed from elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
