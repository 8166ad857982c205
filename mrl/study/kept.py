"""What is committed of a study beside its tables: with it another call goes on where the working files are gone.

    <stem>-kept.jsonl          the files of `mrl.study.folder`, one a line: every trial, fit and stage
    <stem>-users/<set>.parquet   metrics by user, means over the seeds, of the rows that the tests compare

Metrics by user of all rows would be too many. Those of the main model and, at each width, of the best baseline so far
are all that the paired tests need. In whole numbers of 1 / UNIT, as that is a quarter of the bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from mrl.errors import RunError
from mrl.figures import write_whole
from mrl.report.code import digest
from mrl.study.config import StudyConfig
from mrl.study.folder import Experiment, read_json, write_json

UNIT = 2**16 - 1
KEPT = ("search.json", "epochs-*.json", "seed-*.json", "stages-*.json")


def keep(config: StudyConfig) -> Path:
    """Write what there is of every experiment, of earlier code where this one has made nothing; of other data sets and
    other settings what was kept before. Returns the path of the table."""
    experiments = config.experiments(all_models=True, any_code=True)
    folders = [experiment.path.relative_to(config.folder).as_posix() for experiment in experiments]
    ours = {folder.rpartition("-")[0] for folder in folders}  # whatever the code
    lines = [line for line in _read(config) if line["folder"].rpartition("-")[0] not in ours]
    for experiment, folder in zip(experiments, folders, strict=True):
        files = sorted(file for pattern in KEPT for file in experiment.path.glob(pattern))
        lines += [{"folder": folder, "file": file.name, "content": read_json(file)} for file in files]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    return write_whole(_table(config), text.encode())


def restore(config: StudyConfig) -> int:
    """Write the files of the kept table that are not there, of any code. Returns how many."""
    missing = [(Path(config.folder, line["folder"], line["file"]), line["content"]) for line in _read(config)]
    missing = [(path, content) for path, content in missing if not path.exists()]
    for path, content in missing:
        write_json(path, content)
    return len(missing)


def values_by_user(config: StudyConfig, experiment: Experiment, column: str) -> pl.DataFrame | None:
    """user and value: a column of `write_per_user`, mean over the seeds. None where it is not at hand any more."""
    paths = [path for _, path in experiment.results(config.seeds)]
    if all(path.exists() for path in paths):
        by_seed = pl.concat(pl.read_parquet(path, columns=["user", column]) for path in paths)
        means = by_seed.group_by("user").agg(value=pl.col(column).cast(pl.Float64).mean()).sort("user")
        return means.with_columns(value=(pl.col("value") * UNIT).round() / UNIT)
    path, name = _users(config, experiment), _column(config, experiment, column)
    if not path.exists() or name not in pl.read_parquet_schema(path):
        return None
    return pl.read_parquet(path, columns=["user", name]).select("user", value=pl.col(name).cast(pl.Float64) / UNIT)


def keep_values(config: StudyConfig, compared: Iterable[tuple[Experiment, str]]) -> None:
    """Write these columns by user, all of one data set, in place of those that were kept of it."""
    tables = {}
    for experiment, column in compared:
        values = values_by_user(config, experiment, column)
        if values is not None:
            whole = (pl.col("value") * UNIT).round().cast(pl.UInt16)
            tables[_column(config, experiment, column)] = values.select("user", whole)
    if not tables:
        return
    (first, *_) = tables.values()
    columns = {name: table["value"] for name, table in tables.items()}
    buffer = io.BytesIO()
    pl.DataFrame({"user": first["user"], **columns}).write_parquet(buffer, compression_level=19)
    write_whole(_users(config, experiment), buffer.getvalue())


def _column(config: StudyConfig, experiment: Experiment, column: str) -> str:
    """Changes with whatever the values depend on."""
    fit = digest([experiment.best_settings(), list(experiment.model.seeds(config.seeds))])
    return f"{experiment.path.name}-{fit} {column}"


def _users(config: StudyConfig, experiment: Experiment) -> Path:
    return config.stem.with_name(f"{config.stem.name}-users") / f"{experiment.path.parent.name}.parquet"


def _table(config: StudyConfig) -> Path:
    return config.stem.with_name(f"{config.stem.name}-kept.jsonl")


def _read(config: StudyConfig) -> list[dict]:
    path = _table(config)
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{name: line[name] for name in ("folder", "file", "content")} for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is no table of what a study has kept ({error}); remove it") from None
