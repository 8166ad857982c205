"""How long a study will take, before it is begun: what is still to do, by a model of what each piece of work costs.

Seconds are of CPU, so of processes that have a core each. The constants were measured on ml100k, tool and gowalla, and
`machine_pace` says how much longer this machine takes than that one did.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import cache

import polars as pl
import torch

from mrl.controls.fitting import SEARCHED_INTERACTIONS, SEARCHED_USERS, sweeps_of
from mrl.data import Interactions
from mrl.data.synthetic import planted_interactions
from mrl.least_squares.ials import ials, spectral_start
from mrl.study.config import StudyConfig
from mrl.study.kept import restore
from mrl.study.models import StudyModel
from mrl.study.words import counted
from mrl.trainer import BATCH
from mrl.words import listed

EPOCHS, EASE_ITEMS = 20, 25_000  # of a training, to its best; more than EASE refuses
PROBE_SECONDS = 0.06  # of `machine_pace`, on the machine that the constants are of
# Seconds: of a score and dimension in a ranking; of a pair and dimension in a sweep of iALS, and of D³ there; of I³ in
# EASE; of a pair in an epoch; of a pair and of a row in a step on the graph, and of how many pairs on twice as much.
RANKING, ALS_PAIR, ALS_CUBE, EASE_CUBE = 4.4e-11, 2.2e-9, 5e-10, 4e-11
PAIR, GRAPH_PAIR, GRAPH_ROW, GRAPH_CACHED = 7e-6, 4.3e-7, 1.8e-6, 600_000
# Of a pair and dimension of the widest width, of a recipe: its search, its fit, and each epoch of the default one, with
# its validation; how many it tries, and half of how many it keeps (without): on small data, and on large.
RECIPE_SEARCH, RECIPE_FIT, RECIPE_EPOCH = 3e-6, 7e-7, 4e-7
SMALL_EPOCHS, LARGE_EPOCHS = (3, 0), (45, 20)


def plan_study(config: StudyConfig, pace: float | None = None) -> pl.DataFrame:
    """A row an experiment: dataset, model, trials and fits still to do, and their seconds of CPU.

    pace: by how much longer this machine takes; None to measure it.
    """
    restore(config)
    pace, rows = machine_pace() if pace is None else pace, []
    for experiment in config.experiments():
        model, dataset = experiment.model, experiment.dataset
        jobs = Counter(job.kind for job in config.jobs(experiment))
        if jobs["trial"]:  # all else comes after it
            seeds = len(model.seeds(config.seeds))
            jobs |= {"epochs": 1, "seed": seeds, "stages": seeds * model.has_stages}
        each = expected_seconds(config, config.data(dataset), model)
        seconds = pace * sum(number * each[kind] for kind, number in jobs.items())
        rows.append((dataset, model.name, jobs["trial"], jobs["seed"] + jobs["stages"], seconds))
    return pl.DataFrame(rows, schema=["dataset", "model", "trials", "fits", "seconds"], orient="row")


def expected_seconds(config: StudyConfig, data: Interactions, model: StudyModel) -> dict[str, float]:
    """Of each kind of `Job`: a trial, the training that chooses the epochs where trials have a sample of the users, a
    fit that is tested, and its stages."""
    pairs, users, rows = len(data.train), int((data.test.counts > 0).sum()), data.num_users + data.num_items
    judged = min(int((data.valid.counts > 0).sum()), SEARCHED_USERS)
    score = RANKING * data.num_items * sum(model.widths or (1,))
    test, valid = users * score, judged * score
    share = min(1.0, SEARCHED_INTERACTIONS / pairs) if model.on_sample else 1.0
    sizes, trial, seed, epochs, stages = (share * pairs, pairs), 0.0, 0.0, 0.0, 0.0
    if model.role == "recipe":
        search, stages, epoch = (pairs * model.widths[-1] * rate for rate in (RECIPE_SEARCH, RECIPE_FIT, RECIPE_EPOCH))
        tried, kept = LARGE_EPOCHS if share < 1 else SMALL_EPOCHS
        trial, seed = search + tried * epoch * model.has_stages, stages + kept * epoch * model.has_stages
    elif "dim" in model.fixed:
        dim = model.fixed["dim"]
        trial, seed = (sweeps_of(dim) * (ALS_PAIR * some * (dim + 20) + ALS_CUBE * dim**3) for some in sizes)
        trial += valid
    elif "backbone" in model.fixed:
        epoch, searched = _epoch(model, pairs, rows), EPOCHS + config.patience * config.eval_every
        sampled, whole = (_epoch(model, some, rows) + valid / config.eval_every for some in sizes)
        limit = config.seconds / config.max_trials(model), config.seconds / 2
        trial, seed = min(searched * sampled, limit[0]), min(EPOCHS * epoch, limit[1])
        epochs = min(searched * whole, limit[1]) if share < 1 else 0.0
    elif model.name == "ease" and data.num_items <= EASE_ITEMS:
        trial = seed = EASE_CUBE * data.num_items**3
        trial += valid
    return {"trial": trial, "epochs": epochs, "seed": seed + test, "stages": stages + 4 * test}


def _epoch(model: StudyModel, pairs: float, rows: int) -> float:
    """Seconds of an epoch of a training at up to 128 dimensions."""
    seconds = pairs * PAIR * (1.0 if model.fixed.get("nested_negatives") else 0.5)
    if model.fixed["backbone"] != "lightgcn":
        return seconds
    steps = max(1.0, pairs / (2048 if model.fixed.get("batch_size") is None else max(BATCH, pairs / 32)))
    return seconds + steps * (GRAPH_PAIR * pairs * (1 + pairs / GRAPH_CACHED) + GRAPH_ROW * rows)


@cache
def machine_pace() -> float:
    """How much longer one thread of this machine takes, by a small fit of iALS, than that which was measured on."""
    data, taken = planted_interactions(num_users=2000, num_items=640, interactions=50_000), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            started = time.process_time()
            ials(data.train, 64, sweeps=4, start=spectral_start(data.train, 64))
            taken.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(taken) / PROBE_SECONDS


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
    work = plan["seconds"].sum() / 3600
    pieces = f"{counted(plan['trials'].sum(), 'trial')} and {counted(plan['fits'].sum(), 'fit')}"
    return f"{pieces}, {work:.1f} h of CPU, {work / processes:.1f} h on {counted(processes, 'core')}"
