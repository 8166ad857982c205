"""What the study keeps of one model on one data set: its trials, its fits by seed, and what makes them outdated.

    <folder>/<data set, of a path its last part>/<model>-<key>-<code>/
        search.json           the finished trials
        seed-<n>-<key>.json   one fit that was tested: settings, metrics by width, seconds, device
        seed-<n>-<key>.parquet  the same metrics by user
        timing-<key>.json     seconds of a fit that had all cores to itself

The first key is of the data, the widths and what the model fixes and searches; <code> of the code that makes its
numbers (`code_version`); the last key of the settings of the fit. So a change of any makes new files and
leaves the old ones.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

import mrl
from mrl.data import dataset_name
from mrl.errors import RunError
from mrl.figures import write_whole
from mrl.study.models import StudyModel


class Job(NamedTuple):
    """A piece of work: trial `number`, or the refit and test of seed `number`."""

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

    def trials(self) -> list[dict[str, Any]]:
        """The finished trials by number: number, settings, refit_settings, value, seconds, timed_out, error (null
        where none), and the limits of the search: max_trials, max_seconds, epochs, patience.
        """
        path = self.path / "search.json"
        return read_json(path)["trials"] if path.exists() else []

    def best_settings(self) -> dict[str, Any] | None:
        """All settings of the best trial, the earliest of equals; None while there is none."""
        if self.model.max_trials == 0:
            return dict(self.model.fixed)
        trials = [trial for trial in self.trials() if not trial["error"]]
        if not trials:
            return None
        best = max(trials, key=lambda trial: (trial["value"], -trial["number"]))
        return {**self.model.fixed, **best["settings"], **best["refit_settings"]}

    def jobs(self, *, trials: int, seconds: float, seeds: Sequence[int]) -> list[Job]:
        """What is still to do: trials while there are any to make within the budget, then the fits."""
        max_trials = trials if self.model.max_trials is None else min(trials, self.model.max_trials)
        done = self.trials() if max_trials else []
        spent = sum(trial["seconds"] for trial in done)
        if len(done) < max_trials and (not done or spent < seconds):
            missing = sorted({*range(max_trials)} - {trial["number"] for trial in done})
            return [Job(self.dataset, self.model.name, "trial", number) for number in missing]
        settings = self.best_settings()
        if settings is None:
            return []
        missing = [seed for seed in self.seeds(seeds) if not self.result_path(seed, settings).exists()]
        return [Job(self.dataset, self.model.name, "seed", seed) for seed in missing]

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those that make a difference."""
        return seeds[:1] if self.model.deterministic else seeds

    def result_path(self, seed: int, settings: Mapping[str, Any]) -> Path:
        return self.path / f"seed-{seed}-{digest(settings)}.json"

    def timing_path(self, settings: Mapping[str, Any]) -> Path:
        return self.path / f"timing-{digest(settings)}.json"

    def results(self, seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], Path]]:
        """The finished fits of `seeds` with the best settings, and where their metrics by user are."""
        settings = self.best_settings()
        for seed in self.seeds(seeds) if settings is not None else ():
            path = self.result_path(seed, settings)
            if path.exists():
                yield read_json(path), path.with_suffix(".parquet")


def find_experiment(
    folder: Path, dataset: str, fingerprint: str, model: StudyModel, *, any_code: bool = False
) -> Experiment:
    """The experiment of a model on data with this fingerprint.

    any_code: where there is none made by this very code, take the newest one made by other code.
    """
    space = {name: repr(values) for name, values in model.space.items()}
    key = digest([fingerprint, model.name, list(model.widths), dict(model.fixed), space])
    path = folder / dataset_name(dataset) / f"{model.name}-{key}-{code_version(model.code)}"
    if any_code and not path.exists():
        others = [other for other in path.parent.glob(f"{model.name}-{key}-*") if other.is_dir()]
        path = max(others, key=lambda other: other.stat().st_mtime, default=path)
    return Experiment(dataset, model, path)


@cache
def code_version(code: tuple[str, ...]) -> str:
    """Changes with what these files and folders of `mrl` do, not with their comments, docstrings or layout."""
    places = [Path(mrl.__file__).parent / name for name in code]
    paths = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return digest([_without_docstrings(path.read_text(encoding="utf-8")) for path in paths])


def _without_docstrings(source: str) -> str:
    """What source text does, as its syntax tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body.pop(0)
    return ast.dump(tree)


def digest(value: Any) -> str:
    """Eight characters that tell JSON values apart, whatever the order of their names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


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
