"""A finished run, read back: its settings, vectors and metrics, and recommendations from them; shared on a hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.data import Positives
from mrl.data.ids import rows_by_text
from mrl.errors import ConfigError, RunError
from mrl.evaluation import VectorRanking, users_per_batch
from mrl.popularity import Popularity, check_popularity, find_popularity, project_queries
from mrl.runs import hub, tensorfile
from mrl.runs.card import model_card
from mrl.runs.directory import is_earlier
from mrl.runs.files import BACKBONE, DROPPED, parse_file, read_frame, read_ids, read_weights
from mrl.runs.lists import as_lists, find_rows
from mrl.widths import AUTO, check_widths


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read back by `load`. path: absolute, so that it is found from any working directory.

    weights: tensors by name, empty for a model without vectors (popularity, EASE).
    user_ids (U,), item_ids (I,): raw ids by row, int64, or objects: text, beside numbers where `mrl.serving` added it.
    labels: one row an item, or None. seen: the positives of training, or None. dropped: what `min_rating` left out of
    them, or None.
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
    dropped: Positives | None = None

    @property
    def met(self) -> list[Positives]:
        """What users are known to have met, liked or not: never recommended to them."""
        return [positives for positives in (self.seen, self.dropped) if positives is not None]

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """The row of each user by its raw id as it is written."""
        return rows_by_text(self.user_ids)

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
        return parse_file(path, read_frame) if path.exists() else None

    def _table(self, name: str) -> Tensor:
        if name not in self.weights:
            raise RunError(f"{self.path}: this run has metrics but no vectors; give one with weights.safetensors")
        return self.weights[name]

    def by_width(self, split: str = "test", k: int = 20) -> pl.DataFrame:
        """A row a width, a column a metric, such as `recall@20`."""
        rows: dict[int | None, dict[str, float]] = {}
        for row in self.metrics.iter_rows(named=True):
            if row["split"] == split and row["k"] == k:
                rows.setdefault(row["width"], {})[f"{row['metric']}@{k}"] = row["value"]
        if not rows:
            ks = ", ".join(map(str, sorted(set(self.metrics["k"].to_list()))))
            raise ConfigError(f"split={split!r}, k={k!r}: was not measured; there are {ks} of test or valid")
        widths = sorted(rows, key=lambda width: width or 0)
        table = [{"width": width} | rows[width] for width in widths]
        return pl.DataFrame(table, schema_overrides={"width": pl.Int64}, infer_schema_length=None)

    @property
    def asked(self) -> dict[str, Any]:
        """The settings as they were given: those of `config`, but for widths that the search found."""
        return self.config | ({"widths": AUTO} if "widths" in self.environment.get("chosen", {}) else {})

    @property
    def advice(self) -> str:
        """What wider vectors would gain and narrower ones keep, on validation; empty where the training cannot say."""
        return self.environment.get("advice", "")

    @property
    def trials(self) -> pl.DataFrame:
        """The trials of the search of settings, best first: the settings that differ, value, seconds. Empty without."""
        if "phase" not in self.history.columns:
            return pl.DataFrame()
        trials = self.history.filter(pl.col("phase") == "settings").drop("phase")
        tried = [column.name for column in trials if column.null_count() < len(column)]
        return trials.select(tried).sort("value", descending=True) if len(trials) else pl.DataFrame()

    @cached_property
    def popularity(self) -> Popularity:
        """The directions of popularity among the items, see `mrl.popularity`; found once, in about half a second.

        RunError where the run has no vectors or does not say what was met, DataError for too few items.
        """
        items = self.items
        if self.seen is None:
            raise RunError(f"{self.path}: has no seen.safetensors, so how popular items are is unknown; train again")
        return find_popularity(items, self.seen.item_counts.numpy(), self.config.get("widths") or [items.shape[1]])

    def recommend(
        self,
        user_ids: Any,
        k: int = 10,
        width: int | None = None,
        exclude_seen: bool = True,
        popularity: float = 1.0,
    ) -> pl.DataFrame:
        """The k best items of users given by raw id (one, or many): columns user, item, rank (from 1), score, title.

        user_ids: also as a NumPy, torch or Arrow array or a series of polars or pandas; see `mrl.data.ids`.
        width: any number of leading dimensions, by default all. exclude_seen: never what a user is known to have met,
        rated below `min_rating` or not; evaluation ranks those pairs like any other. A user to whom fewer than k items
        are left gets fewer; title is there where items have one. The columns user and item are text where ids are text
        or both numbers and text.
        popularity: how much of it is left in the vectors of either side, from 1, as trained, to 0, projected out; what
        it adds to scores is left by the square (`mrl.popularity`, γ = 1 − popularity). At the trained widths.
        Raises RunError on an unknown user, DataError on what is no id, ConfigError on the rest.
        """
        rows = self._rows(user_ids)
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise ConfigError(f"k={k!r}: must be a whole number such as 10")
        if k < 1 or k > len(self.item_ids):
            raise ConfigError(f"k={k}: must be from 1 to {len(self.item_ids)}, the number of items")
        if not isinstance(exclude_seen, bool):
            raise ConfigError(f"exclude_seen={exclude_seen!r}: must be True or False")
        k, (width,) = int(k), check_widths([self.users.shape[1] if width is None else width], self.users.shape[1])
        if exclude_seen and self.seen is None:
            raise RunError(f"{self.path}: has no seen.safetensors; train again, or recommend with exclude_seen=False")
        users = self.users
        if check_popularity(popularity) < 1:
            users = users.clone()
            users[rows] = project_queries(users[rows], self.popularity.directions, popularity)
        ranking = VectorRanking(users, self.items, (width,))
        hidden = self.met if exclude_seen else []
        found = []
        for part in rows.split(users_per_batch(len(self.item_ids), "cpu")):
            _, items, scores = next(ranking(part, k, hidden))
            user, rank = (items >= 0).nonzero(as_tuple=True)  # -1 where nothing is left
            found.append((part[user], items[user, rank], rank + 1, scores[user, rank]))
        user, item, rank, score = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return as_lists(self.user_ids[user], self.item_ids, self.labels, item, rank, score)

    def push(self, repo: str, *, private: bool = True) -> str:
        """The run's files to `repo` of the Hugging Face hub, made where there is none: hf://repo@commit, for `load`.

        repo: such as organisation/name. private: of a repository that is made, since a run tells what each user has
        met (seen.safetensors). README.md, the model card, goes along as it is. Needs the extra `hub`.
        Raises RunError where the directory is damaged, is not what this run is (new users and items are in memory
        alone), or the hub refuses.
        """
        kept = load(self.path)
        is_same = self.weights.keys() == kept.weights.keys() and all(
            torch.equal(tensor, kept.weights[name]) for name, tensor in self.weights.items()
        )
        if not (is_same and self.user_ids.tolist() == kept.user_ids.tolist()):
            raise RunError(
                f"{self.path}: holds another run than this one, which is in memory alone; push load(its path)"
            )
        dims = self.users.shape[1] if self.weights else None
        sizes = {"users": len(self.user_ids), "items": len(self.item_ids), "dims": dims}
        card = model_card(self.config, self.environment, self.metrics, **sizes)
        return hub.upload(self.path, repo, card=card, private=private)

    def _rows(self, user_ids: Any) -> Tensor:
        """Rows of raw ids, (B,) int64."""
        like = self.user_ids[:3].tolist()
        return torch.tensor(find_rows(user_ids, self.user_rows, "user", self.path, like), dtype=torch.int64)


def load(path: str | os.PathLike[str]) -> Run:
    """Read a finished run directory.

    path: a folder (`~` is the home), or hf://organisation/name[@revision] on the Hugging Face hub, by the extra `hub`:
    only the files of a run are fetched, into the hub's cache. Raises RunError, with the file and the remedy, where one
    is missing, damaged, a pickle, or does not fit the rest.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise RunError(f"load({shorten(repr(path), 80)}): give the folder of a run as text or a Path")
    if hub.is_address(path):
        folder = hub.download(path)
        try:
            return load(folder)
        except RunError as error:
            raise RunError(f"{path}: {error}; what was fetched is in {folder.parent.parent}") from None
    path = Path(path).expanduser().resolve()
    if not (path / "metrics.csv").is_file():
        if (path / "checkpoint.safetensors").is_file():
            raise RunError(f"{path}: this run was interrupted; train with the same settings to resume it")
        raise RunError(f"{path}: is not a run directory (no metrics.csv); give the folder that training wrote")
    config = parse_file(path / "config.json", _read_json)
    if is_earlier(config):
        raise RunError(
            f"{path}: an earlier version of mrl wrote this run, with other settings; remove it and train again, or "
            "read it with that version"
        )
    weights = read_weights(path)
    user_ids, item_ids, labels = read_ids(path / "ids.parquet")
    seen, dropped = _read_seen(path / "seen.safetensors", len(user_ids), len(item_ids))
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
        seen=seen,
        weights=weights,
        dropped=dropped,
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
    table = read_frame(path)
    # Of a model without a width the file does not tell the type.
    return table.cast({"width": pl.Int64}) if "width" in table.columns else table


def _read_seen(path: Path, num_users: int, num_items: int) -> tuple[Positives | None, Positives | None]:
    """The positives of training, and beside them what was dropped."""
    if not path.exists():
        return None, None
    tensors, _ = tensorfile.read(path)
    seen, dropped = (
        _read_positives(path, tensors.get(f"{part}offsets"), tensors.get(f"{part}items"), num_users, num_items)
        if not part or f"{part}offsets" in tensors
        else None
        for part in ("", DROPPED)
    )
    return seen, dropped


def _read_positives(
    path: Path, offsets: Tensor | None, items: Tensor | None, num_users: int, num_items: int
) -> Positives:
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
