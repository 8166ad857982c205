"""A finished run, read back: its settings, vectors and metrics, and recommendations from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.errors import ConfigError, RunError
from mrl.evaluation import VectorRanking, users_per_batch
from mrl.runs import tensorfile
from mrl.runs.directory import BACKBONE, is_earlier, parse_file, read_ids, read_weights
from mrl.widths import check_widths


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read back by `load`. path: absolute, so that it is found from any working directory.

    weights: tensors by name, empty for a model without vectors (popularity, EASE).
    user_ids (U,), item_ids (I,): raw ids by row. labels: one row an item, or None. seen: what users have, or None.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: pl.DataFrame
    history: pl.DataFrame
    user_ids: np.ndarray
    item_ids: np.ndarray
    labels: pl.DataFrame | None
    seen: Positives | None
    weights: dict[str, Tensor]

    @property
    def users(self) -> Tensor:
        """(U, D) float32, as they score. RunError where the model has no vectors."""
        return self._table("users")

    @property
    def items(self) -> Tensor:
        """(I, D) float32, as they score. RunError where the model has no vectors."""
        return self._table("items")

    @property
    def backbone(self) -> dict[str, Tensor]:
        """The state of the backbone, to go on training."""
        prefix = len(BACKBONE)
        return {name[prefix:]: tensor for name, tensor in self.weights.items() if name.startswith(BACKBONE)}

    @property
    def per_user(self) -> pl.DataFrame | None:
        """Columns user (row), width, metric, k, value, user_id; None where it was not written."""
        path = self.path / "per_user.parquet"
        return parse_file(path, pl.read_parquet) if path.exists() else None

    def _table(self, name: str) -> Tensor:
        if name not in self.weights:
            raise RunError(f"{self.path}: this run has metrics but no vectors; give one with weights.safetensors")
        return self.weights[name]

    def by_width(self, split: str = "test", k: int = 20) -> pl.DataFrame:
        """A row a width, a column a metric, such as `recall@20`."""
        rows = self.metrics.filter((pl.col("split") == split) & (pl.col("k") == k))
        names = pl.format("{}@{}", "metric", "k")
        return rows.with_columns(metric=names).pivot("metric", index="width", values="value").sort("width")

    def recommend(
        self, user_ids: Any, k: int = 10, width: int | None = None, exclude_seen: bool = True
    ) -> pl.DataFrame:
        """The k best items of users given by raw id (one, or many): columns user, item, rank (from 1), score, title.

        width: any number of leading dimensions, by default all. A user to whom fewer than k items are left gets
        fewer; title is there where items have one. Raises RunError on an unknown user, ConfigError on k or width.
        """
        rows = self._rows(user_ids)
        if k < 1 or k > len(self.item_ids):
            raise ConfigError(f"k={k}: must be from 1 to {len(self.item_ids)}, the number of items")
        (width,) = check_widths([self.users.shape[1] if width is None else width], self.users.shape[1])
        if exclude_seen and self.seen is None:
            raise RunError(f"{self.path}: has no seen.safetensors; train again, or recommend with exclude_seen=False")
        ranking = VectorRanking(self.users, self.items, (width,))
        hidden = [self.seen] if exclude_seen else []
        parts = []
        for part in rows.split(users_per_batch(len(self.item_ids), "cpu")):
            _, items, scores = next(ranking(part, k, hidden))
            user, rank = (items >= 0).nonzero(as_tuple=True)  # -1 where nothing is left
            item = items[user, rank].numpy()
            columns = {
                "user": self.user_ids[part[user].numpy()].tolist(),
                "item": self.item_ids[item].tolist(),
                "rank": (rank + 1).numpy(),
                "score": scores[user, rank].float().numpy(),
            }
            if self.labels is not None and "title" in self.labels.columns:
                columns["title"] = self.labels["title"].gather(item)
            parts.append(pl.DataFrame(columns))
        return pl.concat(parts)

    def _rows(self, user_ids: Any) -> Tensor:
        """Rows of raw ids, (B,) int64."""
        if isinstance(user_ids, str) or not isinstance(user_ids, Iterable):
            user_ids = [user_ids]
        row_of = {user: row for row, user in enumerate(self.user_ids.tolist())}
        try:
            return torch.tensor([row_of[user] for user in user_ids], dtype=torch.int64)
        except (KeyError, TypeError) as error:
            raise RunError(
                f"user {error.args[0]!r} is not in {self.path}; its ids are like {self.user_ids[:3].tolist()}"
            ) from None


def load(path: str | os.PathLike[str]) -> Run:
    """Read a finished run directory.

    Raises RunError, with the file and the remedy, where one is missing, damaged, a pickle, or does not fit the rest.
    """
    path = Path(path).expanduser().resolve()
    if not (path / "metrics.csv").is_file():
        if (path / "checkpoint.safetensors").is_file():
            raise RunError(f"{path}: this run was interrupted; train with the same settings to resume it")
        raise RunError(f"{path}: is not a run directory (no metrics.csv); give the folder that training wrote")
    config = parse_file(path / "config.json", _read_json)
    if is_earlier(config):
        raise RunError(
            f"{path}: an earlier version of mrl wrote this run, and its settings had other names; remove it and train "
            "again, or read it with that version"
        )
    weights = read_weights(path)
    user_ids, item_ids, labels = read_ids(path / "ids.parquet")
    has_history = (path / "history.csv").is_file()
    run = Run(
        path=path,
        config=config,
        environment=parse_file(path / "environment.json", _read_json),
        metrics=parse_file(path / "metrics.csv", _read_csv),
        history=parse_file(path / "history.csv", _read_csv) if has_history else pl.DataFrame(),
        user_ids=user_ids,
        item_ids=item_ids,
        labels=labels,
        seen=_read_seen(path / "seen.safetensors", len(user_ids), len(item_ids)),
        weights=weights,
    )
    if run.weights:
        shapes = [tuple(run.weights[name].shape) if name in run.weights else None for name in ("users", "items")]
        dims = {shape[-1] for shape in shapes if shape and len(shape) == 2}
        if len(dims) != 1 or shapes != [(len(ids), *dims) for ids in (user_ids, item_ids)]:
            raise RunError(
                f"{path / 'weights.safetensors'}: users {shapes[0]} and items {shapes[1]} do not fit the "
                f"{len(user_ids)} users and {len(item_ids)} items of ids.parquet; restore a copy or train again"
            )
    return run


def differences(first: Run, second: Run) -> pl.DataFrame:
    """What differs in settings and environment: columns name (config.… or environment.…), first, second, as text."""
    sides = []
    for run in (first, second):
        values = {f"config.{name}": value for name, value in run.config.items()}
        values |= {f"environment.{name}": value for name, value in run.environment.items()}
        sides.append({name: json.dumps(value) for name, value in values.items()})
    names = [name for name in sides[0] | sides[1] if sides[0].get(name) != sides[1].get(name)]
    columns = {"name": names}
    for key, side in zip(("first", "second"), sides, strict=True):
        columns[key] = [side.get(name) for name in names]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _read_json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _read_csv(path: Path) -> pl.DataFrame:
    if path.stat().st_size <= 1:
        return pl.DataFrame()
    table = pl.read_csv(path, infer_schema_length=None)
    # Of a model without a width the file does not tell the type.
    return table.cast({"width": pl.Int64}) if "width" in table.columns else table


def _read_seen(path: Path, num_users: int, num_items: int) -> Positives | None:
    if not path.exists():
        return None
    tensors, _ = tensorfile.read(path)
    offsets, items = tensors.get("offsets"), tensors.get("items")
    if (
        offsets is None
        or items is None
        or len(offsets) != num_users + 1
        or [int(offsets[0]), int(offsets[-1])] != [0, len(items)]
        or bool((offsets.diff() < 0).any())
        or (len(items) and not 0 <= int(items.min()) <= int(items.max()) < num_items)
    ):
        raise RunError(f"{path}: does not fit the {num_users} users and {num_items} items of ids.parquet; train again")
    return Positives(offsets, items, num_items)
