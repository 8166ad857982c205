"""The searches of a study as one small table, kept beside its numbers: who has it need not search again for hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import polars as pl

from mrl.config import SECTION_OF, TrainConfig
from mrl.study.folder import Experiment, read_table, write_json

KEYS = {"dataset": pl.String, "model": pl.String, "key": pl.String}
COLUMNS = KEYS | {
    "number": pl.Int64, "value": pl.Float64, "seconds": pl.Float64, "timed_out": pl.Boolean, "error": pl.String,
    "max_trials": pl.Int64, "max_seconds": pl.Float64, "epochs": pl.Int64, "patience": pl.Int64,
    "settings": pl.String, "refit_settings": pl.String,
}  # fmt: skip
JSON = ("settings", "refit_settings")
KNOWN_SETTINGS = {*SECTION_OF, *(field.name for field in fields(TrainConfig))}


def searches(experiments: Sequence[Experiment]) -> pl.DataFrame:
    """Every trial of every experiment, a row each; `key` changes with data, widths and what is searched, not code."""
    rows = [
        {"dataset": experiment.dataset, "model": experiment.model.name, "key": experiment.key}
        | trial
        | {name: json.dumps(trial[name]) for name in JSON}
        for experiment in experiments
        for trial in experiment.trials()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def take_over(experiments: Sequence[Experiment], path: Path) -> int:
    """Give the searches in the table at `path` to those experiments that have none. Returns to how many.

    A search by earlier code that chose a setting which no longer exists is left out. RunError where there is no such
    table.
    """
    table = read_table(path, COLUMNS, "searches", "table of searches as study-searches.csv is")
    given = 0
    for experiment in experiments:
        place = {"dataset": experiment.dataset, "model": experiment.model.name, "key": experiment.key}
        trials = table.filter(**place).drop(*KEYS).sort("number").to_dicts()
        trials = [trial | {name: json.loads(trial[name]) for name in JSON} for trial in trials]
        chosen = {name for trial in trials for kind in JSON for name in trial[kind]}
        if trials and chosen <= KNOWN_SETTINGS and not experiment.trials():
            write_json(experiment.path / "search.json", {"trials": trials})
            given += 1
    return given
