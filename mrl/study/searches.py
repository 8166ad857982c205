"""The searches of a study as one small table, kept beside its figures: who has it need not search again for hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mrl.errors import RunError
from mrl.study.folder import Entry, write_json

JSON = ("settings", "found")
COLUMNS = {
    "dataset": pl.String, "contender": pl.String, "key": pl.String, "number": pl.Int64, "value": pl.Float64,
    "seconds": pl.Float64, "cut": pl.Boolean, "error": pl.String, "granted": pl.Int64, "budget": pl.Float64,
    "epochs": pl.Int64, "patience": pl.Int64, "settings": pl.String, "found": pl.String,
}  # fmt: skip


def searches(entries: Sequence[Entry]) -> pl.DataFrame:
    """Every trial of every entry, a row each; `key` changes with data, widths and what is searched, not with code."""
    rows = [
        {"dataset": at.dataset, "contender": at.contender.name, "key": at.key}
        | trial
        | {name: json.dumps(trial[name]) for name in JSON}
        for at in entries
        for trial in at.trials()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def take_over(entries: Sequence[Entry], path: Path) -> int:
    """Give the searches in the table at `path` to those entries that have none. Returns to how many.

    Raises RunError where there is no such table.
    """
    try:
        table = pl.read_csv(path, schema=COLUMNS)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"searches={str(path)!r}: no table of searches as study-searches.csv is: {reason}") from None
    given = 0
    for at in entries:
        trials = table.filter(dataset=at.dataset, contender=at.contender.name, key=at.key).drop(
            "dataset", "contender", "key"
        )
        if len(trials) and not at.trials():
            rows = [row | {name: json.loads(row[name]) for name in JSON} for row in trials.sort("number").to_dicts()]
            write_json(at.path / "search.json", {"trials": rows})
            given += 1
    return given
