"""What the study keeps of one contender on one data set: its trials, its fits by seed, and what makes them outdated.

    <folder>/<data set, of a path its last part>/<contender>-<key>-<code>/
        trials.db             Optuna's storage (SQLite)
        search.json           the finished trials, for people and for whoever has no Optuna
        seed-<n>-<key>.json   one fit that was tested: settings, figures by width, seconds, device
        seed-<n>-<key>.parquet  the same figures by user
        timing-<key>.json     seconds of a fit that had all cores to itself

The first key is of the data, the widths and what the contender fixes and searches; <code> of the code that makes its
figures; the last key of the settings that were found. So a change of any makes new files and leaves the old ones.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

import mrl
from mrl.data.datasets import dataset_name
from mrl.errors import RunError
from mrl.study.models import Contender

# Imported by what makes figures, but what they say is in the keys already (settings, and data by their fingerprint), or
# has no part in the figures.
APART = ("config", "data.datasets", "data.interactions", "data.load", "data.splits", "errors", "runs.run")


class Job(NamedTuple):
    """A piece of work: trial `number`, the fit of seed `number`, or the timing of it."""

    dataset: str
    contender: str
    kind: str
    number: int


@dataclass(frozen=True)
class Entry:
    """One contender on one data set; `path` is its folder."""

    dataset: str
    contender: Contender
    path: Path

    @property
    def key(self) -> str:
        """Of the data, the widths and what the contender fixes and searches, whatever the code."""
        return self.path.name.rsplit("-", 2)[1]

    def trials(self) -> list[dict[str, Any]]:
        """The finished trials by number: number, settings, found, value, seconds, cut, error (null where none), and
        what they were granted: granted (trials), budget (seconds), epochs, patience.
        """
        place = self.path / "search.json"
        return read_json(place)["trials"] if place.exists() else []

    def best(self) -> dict[str, Any] | None:
        """All settings of the best trial, the earliest of equals; None while there is none."""
        if self.contender.trials == 0:
            return dict(self.contender.fixed)
        whole = [trial for trial in self.trials() if not trial["error"]]
        if not whole:
            return None
        best = max(whole, key=lambda trial: (trial["value"], -trial["number"]))
        return {**self.contender.fixed, **best["settings"], **best["found"]}

    def jobs(self, *, trials: int, seconds: float, seeds: Sequence[int]) -> list[Job]:
        """What is still to do: trials while there are any to make within the budget, then the fits."""
        granted = trials if self.contender.trials is None else min(trials, self.contender.trials)
        done = self.trials() if granted else []
        spent = sum(trial["seconds"] for trial in done)
        if len(done) < granted and (not done or spent < seconds):
            missing = sorted({*range(granted)} - {trial["number"] for trial in done})
            return [Job(self.dataset, self.contender.name, "trial", number) for number in missing]
        settings = self.best()
        if settings is None:
            return []
        wanted = [seed for seed in self.seeds(seeds) if not self.result_path(seed, settings).exists()]
        return [Job(self.dataset, self.contender.name, "seed", seed) for seed in wanted]

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those that make a difference."""
        return seeds[:1] if self.contender.deterministic else seeds

    def result_path(self, seed: int, settings: Mapping[str, Any]) -> Path:
        return self.path / f"seed-{seed}-{digest(settings)}.json"

    def timing_path(self, settings: Mapping[str, Any]) -> Path:
        return self.path / f"timing-{digest(settings)}.json"

    def results(self, seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], Path]]:
        """The fits with the best settings that are there, of `seeds`, and where their figures by user are."""
        settings = self.best()
        for seed in self.seeds(seeds) if settings is not None else ():
            path = self.result_path(seed, settings)
            if path.exists():
                yield read_json(path), path.with_suffix(".parquet")


def entry(folder: Path, dataset: str, fingerprint: str, contender: Contender, *, any_code: bool = False) -> Entry:
    """The entry of a contender on data with this fingerprint.

    any_code: where there is none made by this very code, take the newest one made by other code.
    """
    space = {name: repr(range_) for name, range_ in contender.space.items()}
    key = digest([fingerprint, contender.name, list(contender.widths), dict(contender.fixed), space])
    path = folder / dataset_name(dataset) / f"{contender.name}-{key}-{code_version(contender)}"
    if any_code and not path.exists():
        others = [other for other in path.parent.glob(f"{contender.name}-{key}-*") if other.is_dir()]
        path = max(others, key=lambda other: other.stat().st_mtime, default=path)
    return Entry(dataset, contender, path)


def digest(value: Any) -> str:
    """Eight characters that tell JSON values apart, whatever the order of their names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def code_version(contender: Contender) -> str:
    """Changes with the code that makes a contender's figures, not with comments, docstrings or layout.

    That code is its fit, with the functions beside it that it calls, and its modules, with those that they import.
    """
    functions = [_meaning(textwrap.dedent(inspect.getsource(each))) for each in _called(contender.fit)]
    return digest([*functions, *(_source(module) for module in _imported(contender.modules))])


def _called(function: Callable) -> list[Callable]:
    """A function and those of its own module that it calls, directly or not."""
    found = [function]
    for one in found:
        named = (one.__globals__.get(name) for name in one.__code__.co_names)
        found += [
            other
            for other in named
            if inspect.isfunction(other) and other.__module__ == function.__module__ and other not in found
        ]
    return found


def _imported(modules: Iterable[str]) -> list[str]:
    """Modules of `mrl` and those of `mrl` that they import, but for what tells of settings, errors and data."""
    found = list(modules)
    for module in found:
        found += [name for name in _imports(module) if name not in found and name not in APART]
    return sorted(found)


@cache
def _imports(module: str) -> list[str]:
    named = [node for node in ast.walk(ast.parse(_text(module))) if isinstance(node, ast.ImportFrom)]
    inside = [node for node in named if (node.module or "").partition(".")[0] == "mrl"]
    found = [f"{node.module}.{alias.name}" for node in inside for alias in node.names]  # a module, or a name in one
    found += [node.module for node in inside]
    return [name for name in dict.fromkeys(each.removeprefix("mrl.") for each in found) if _place(name).is_file()]


@cache
def _source(module: str) -> str:
    return _meaning(_text(module))


def _text(module: str) -> str:
    return _place(module).read_text(encoding="utf-8")


def _place(module: str) -> Path:
    return Path(mrl.__file__).parent.joinpath(*module.split(".")).with_suffix(".py")


@cache
def _meaning(source: str) -> str:
    """A digest of what source text does."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body.pop(0)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Whole at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(dict(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); remove it to have it made again"
        ) from None


def write_people(path: Path, table: pl.DataFrame) -> None:
    """`Evaluation.per_user` as one row a user: columns user, recall@20_w4, …, or recall@20 where there is no width."""
    name = pl.format("{}@{}", "metric", "k") + pl.format("_w{}", "width").fill_null("")
    wide = (
        table.with_columns(name.alias("figure"), pl.col("value").cast(pl.Float32))
        .pivot("figure", index="user", values="value")
        .sort("user")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    wide.write_parquet(part)
    os.replace(part, path)
