"""What the study keeps of one model on one data set: its trials, its fits by seed, and what makes them outdated.

    <folder>/<data set, of a path its last part>/<model>-<key>-<code>/
        search.json           the finished trials
        seed-<n>-<key>.json   one fit that was tested: settings, metrics by width, seconds, device
        seed-<n>-<key>.parquet  the same metrics by user
        epochs-<key>.json     of a training whose search had a sample of the users: the epochs that all of them take
        stages-<n>-<key>.json  metrics after each stage of that fit, of the default recipe

The first key is of the data, the widths and what the model fixes and searches; <code> of the code that makes its
numbers (`code_version`); the last key of the settings of the fit. So a change of any makes new files and
leaves the old ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mrl.data import dataset_name
from mrl.errors import RunError
from mrl.figures import write_whole
from mrl.report.code import code_version, digest
from mrl.study.datasets import DATASETS
from mrl.study.models import StudyModel

STAGES_CODE = ("least_squares/stages.py",)


class Job(NamedTuple):
    """A piece of work: trial `number`, the epochs after a search on a sample, the fit of a seed, its stages."""

    dataset: str
    model: str
    kind: str
    number: int


@dataclass(frozen=True)
class Experiment:
    """One model on one data set; `path` is its folder."""

    dataset: str
    model: StudyModel
    path: Path

    @property
    def key(self) -> str:
        """Of the data, the widths and what the model fixes and searches, whatever the code."""
        return self.path.name.rsplit("-", 2)[1]

    @property
    def code(self) -> str:
        """Of the code that makes its numbers."""
        return self.path.name.rsplit("-", 1)[1]

    def trials(self) -> list[dict[str, Any]]:
        """The finished trials by number: number, settings, refit_settings, value, seconds, timed_out, error (null
        where none), sampled (whether on a sample of the users), and the limits: max_trials, max_seconds, epochs,
        patience.
        """
        path = self.path / "search.json"
        return read_json(path)["trials"] if path.exists() else []

    def best_settings(self) -> dict[str, Any] | None:
        """All settings of the best trial, and epochs of all users where it had a sample; None while there is none."""
        settings = self._searched_settings()
        if settings is None or not (path := self.epochs_path(settings)).exists():
            return settings
        return settings | read_json(path)["refit_settings"]

    def needs_epochs(self) -> bool:
        """Whether the epochs are those of a sample of the users only."""
        settings = self._searched_settings() or {}
        sampled = any(trial.get("sampled") for trial in self.trials())
        return "epochs" in settings and sampled and not self.epochs_path(settings).exists()

    def epochs_path(self, settings: Mapping[str, Any] | None = None) -> Path:
        """settings: what the search found; those of the best trial by default."""
        return self.path / f"epochs-{digest(settings or self._searched_settings())}.json"

    def _searched_settings(self) -> dict[str, Any] | None:
        """All settings of the best trial, the earliest of equals."""
        trials = [trial for trial in self.trials() if not trial["error"]]
        if not trials:
            return None
        best = max(trials, key=lambda trial: (trial["value"], -trial["number"]))
        return {**self.model.fixed, **best["settings"], **best["refit_settings"]}

    def jobs(self, *, trials: int, seeds: Sequence[int]) -> list[Job]:
        """What is still to do: trials, then the epochs where they were made on a sample, then the fits."""
        done = self.trials()
        if missing := sorted({*range(trials)} - {trial["number"] for trial in done}):
            return [Job(self.dataset, self.model.name, "trial", number) for number in missing]
        settings = self.best_settings()
        if settings is None:
            return []
        if self.needs_epochs():
            return [Job(self.dataset, self.model.name, "epochs", 0)]
        paths = {"seed": self.result_path} | ({"stages": self.stages_path} if self.model.has_stages else {})
        return [
            Job(self.dataset, self.model.name, kind, seed)
            for kind, path in paths.items()
            for seed in self.model.seeds(seeds)
            if not path(seed, settings).exists()
        ]

    def result_path(self, seed: int, settings: Mapping[str, Any]) -> Path:
        return self.path / f"seed-{seed}-{digest(settings)}.json"

    def stages_path(self, seed: int, settings: Mapping[str, Any]) -> Path:
        return self.path / f"stages-{seed}-{digest([dict(settings), code_version(STAGES_CODE)])}.json"

    def results(self, seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], Path]]:
        """The finished fits of `seeds` with the best settings, and where their metrics by user are."""
        for path in self._existing(self.result_path, seeds):
            yield read_json(path), path.with_suffix(".parquet")

    def timed_out(self) -> int:
        """How many of its trainings on validation had no more time."""
        trials = [trial for trial in self.trials() if not trial["error"]]
        path = self.epochs_path() if trials else self.path / "none"
        return sum(one["timed_out"] for one in (*trials, *([read_json(path)] if path.exists() else [])))

    def forget_fits(self) -> None:
        """So that they are made again, by the settings that are known."""
        for path in self.path.glob("seed-*.json"):
            path.unlink()

    def stages(self, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The same fits after each of their stages, as far as that is there."""
        return map(read_json, self._existing(self.stages_path, seeds))

    def _existing(self, path_of: Callable[[int, dict], Path], seeds: Sequence[int]) -> list[Path]:
        settings = self.best_settings()
        paths = [path_of(seed, settings) for seed in self.model.seeds(seeds)] if settings is not None else []
        return [path for path in paths if path.exists()]


def find_experiment(
    folder: Path, dataset: str, fingerprint: str, model: StudyModel, *, any_code: bool = False
) -> Experiment:
    """The experiment of a model on data with this fingerprint.

    any_code: where there is none made by this very code, take the newest one made by other code.
    """
    space = {name: repr(values) for name, values in model.space.items()}
    key = digest([fingerprint, model.name, list(model.widths), dict(model.fixed), space])
    name = dataset if dataset in DATASETS else dataset_name(dataset)
    path = folder / name / f"{model.name}-{key}-{code_version(model.code)}"
    if any_code and not path.exists():
        others = [other for other in path.parent.glob(f"{model.name}-{key}-*") if other.is_dir()]
        path = max(others, key=lambda other: other.stat().st_mtime, default=path)
    return Experiment(dataset, model, path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(dict(values), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{path}: cannot be read ({reason}); remove it to have it made again") from None


def read_table(path: Path, schema: Mapping[str, Any], setting: str, kind: str) -> pl.DataFrame:
    """The CSV file that a setting names; RunError where it is not of this kind."""
    try:
        return pl.read_csv(path, schema=schema)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{setting}={str(path)!r}: no {kind}: {str(error).partition(chr(10))[0]}") from None


def write_per_user(path: Path, table: pl.DataFrame) -> None:
    """`Evaluation.per_user` as one row a user: columns user, recall@20_w4, …, or recall@20 where there is no width."""
    name = pl.format("{}@{}", "metric", "k") + pl.format("_w{}", "width").fill_null("")
    table = table.with_columns(column=name, value=pl.col("value").cast(pl.Float32))
    buffer = io.BytesIO()
    table.pivot("column", index="user", values="value").sort("user").write_parquet(buffer)
    write_whole(path, buffer.getvalue())
