"""How long a study will take, before it is begun: what is still to do, at the seconds that such work has taken before.

Seconds are those of `reports/study.csv` for the same model on the same data set, or of a rule, in proportion to
interactions × width ** POWER. They are of CPU, so of processes that have a core each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from mrl.report.stages import PROJECT
from mrl.study.config import StudyConfig
from mrl.study.tables import IS_CUT, KEYS, StudyTables, read_tables
from mrl.study.words import counted
from mrl.words import listed

MEASURED = PROJECT / "reports" / "study.csv"
NO_WIDTH = 128  # what EASE counts for, which has none
POWER = 1.25  # four times the width takes iALS 3.5 to 7.8 times as long
# Microseconds of a fit, and of a trial or a search of its own, of one interaction × width ** POWER: means of the study
# of 2026-11; of iALS as it is on gowalla.
RULE = {
    "default": (0.5, 9.0), "least_squares": (0.25, 5.0), "mf": (0.3, 2.2), "lightgcn": (2.2, 6.0), "bpr": (0.2, 1.2),
    "ials": (0.1, 0.1), "ease": (0.2, 0.2), "popularity": (0.0, 0.0),
}  # fmt: skip


def plan_study(config: StudyConfig, measured: Path = MEASURED) -> pl.DataFrame:
    """A row an experiment: dataset, model, trials and fits still to do, their seconds of CPU, and those of the timing.

    A search ends with its budget, except one that is a model's own. Stages take as long as a fit. measured: the table
    of a study.
    """
    rates = _measured(read_tables(measured)) if measured.exists() else {}
    rows = []
    for experiment in config.experiments():
        model, dataset, best = experiment.model, experiment.dataset, experiment.best_settings()
        kind = re.match(r"[a-z_]+", model.name)[0]
        place = dataset, "ials" if kind == "ials" else model.name
        rule = [1e-6 * len(config.data(dataset).train) * rate for rate in RULE.get(kind, RULE["lightgcn"])]
        width = model.fixed.get("dim") or max(model.widths, default=NO_WIDTH)
        fit, trial = (rate * width**POWER for rate in rates.get(place, rule))
        jobs = config.jobs(experiment)
        trials = sum(job.kind == "trial" for job in jobs)
        fits = len(model.seeds(config.seeds)) * (1 + model.has_stages) if trials else len(jobs)
        search = trials * trial if model.searches_by_itself else min(trials * trial, config.seconds)
        is_untimed = config.timing and (best is None or not experiment.timing_path(best).exists())
        timing = (fit + trial * model.searches_by_itself) * is_untimed
        row = {"dataset": dataset, "model": model.name, "trials": trials, "fits": fits}
        rows.append(row | {"seconds": search + fits * fit, "timing": timing})
    return pl.DataFrame(rows)


def describe_plan(config: StudyConfig) -> list[str]:
    """A line a data set, and one of all: what is to do, its hours of CPU, and the hours on so many processes."""
    plan, processes, lines = plan_study(config), config.processes or os.cpu_count() or 1, []
    for (dataset,), part in plan.group_by("dataset", maintain_order=True):
        data, longest = config.data(dataset), part.row(part["seconds"].arg_max(), named=True)
        line = f"{dataset} ({data.num_users:,} users, {data.num_items:,} items): {_hours(part, processes)}"
        line += f"; {longest['model']} alone {longest['seconds'] / 3600:.1f} h"
        if left_out := config.widths[len(config.widths_on(dataset)) :]:
            line += f"; without width {listed([str(width) for width in left_out])}, above its smaller side"
        lines.append(line)
    return [*lines, f"In all: {_hours(plan, processes)}"]


def _hours(plan: pl.DataFrame, processes: int) -> str:
    work, timing = plan["seconds"].sum() / 3600, plan["timing"].sum() / 3600
    pieces = f"{counted(plan['trials'].sum(), 'trial')} and {counted(plan['fits'].sum(), 'fit')}"
    hours = work / processes + timing  # which is one after the other
    return f"{pieces}, {work:.1f} h of CPU, {timing:.1f} h of timing; {hours:.1f} h on {counted(processes, 'core')}"


def _measured(tables: StudyTables) -> dict[tuple[str, str], tuple[float, float]]:
    """By data set and model, seconds of a fit and of a trial, for a width of 1; iALS as the widest of its rows.

    A trial of iALS and EASE is a fit. Of trainings, where the budget had ended a search, a whole trial takes twice as
    long as those that are known.
    """
    widest = {row[:2]: row[2] for row in tables.means.group_by(*KEYS).agg(pl.col("width").max()).iter_rows()}
    rates = {}
    for row in tables.costs.with_columns(is_cut=IS_CUT).iter_rows(named=True):
        ials = re.fullmatch(r"ials-(\d+)", row["model"])
        width = int(ials[1]) if ials else widest[row["dataset"], row["model"]] or NO_WIDTH
        fit, trial = row["fit_seconds"], row["search_seconds"] / row["trials"] * (2 if row["is_cut"] else 1)
        place = row["dataset"], "ials" if ials else row["model"]
        rates[place] = fit / width**POWER, (fit if ials or row["model"] == "ease" else trial) / width**POWER
    return rates
