"""What the study has found, as tables: figures by model and width, ours against the best of the others, and the costs.

Intervals of a mean are Student's t over seeds. Ours is compared, at each width, with the row that is best on test among
those that are not ours, which favours that row: user by user, each user's figure being its mean over the seeds of a
row; 95 % bootstrap intervals over users, a sign-flip permutation test, and Holm's correction over the widths and
metrics of a data set. A model without widths (EASE) is compared with the widest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import polars as pl
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mrl.analysis.comparison import interval, sign_flip
from mrl.errors import RunError
from mrl.study.config import StudyConfig
from mrl.study.fitting import K
from mrl.study.folder import Entry, read_json

LEVEL = 0.05
FIGURES = {
    "dataset": pl.String, "model": pl.String, "role": pl.String, "width": pl.Int64, "metric": pl.String, "k": pl.Int64,
    "seeds": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64,
}  # fmt: skip
TESTS = {
    "dataset": pl.String, "model": pl.String, "width": pl.Int64, "metric": pl.String, "mean": pl.Float64,
    "best": pl.String, "best_mean": pl.Float64, "loss": pl.Boolean, "rival": pl.String, "rival_mean": pl.Float64,
    "users": pl.Int64, "difference": pl.Float64, "difference_low": pl.Float64, "difference_high": pl.Float64,
    "p": pl.Float64, "p_holm": pl.Float64, "verdict": pl.String,
}  # fmt: skip
COSTS = {
    "dataset": pl.String, "model": pl.String, "trials": pl.Int64, "granted": pl.Int64, "cut": pl.Int64,
    "failed": pl.Int64, "search_seconds": pl.Float64, "budget": pl.Float64, "fit_seconds": pl.Float64,
    "fit_threads": pl.Int64, "timed_seconds": pl.Float64, "timed_threads": pl.Int64,
    "timed_search_seconds": pl.Float64, "device": pl.String, "settings": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class StudyTables:
    """The tables of a study, in the order of `mrl.study.models`, ours first.

    figures: a row a model, width (null where it has none) and metric: seeds, mean, and low and high, the ends of the
    95 % interval (null where there is one seed). by_seed: the same with seed and value, one row a seed.
    tests: a row a width and metric of ours: `best`, the highest other row; whether that is a `loss`; and against
    `rival`, the highest that is not ours: difference, its interval, p, p_holm and verdict (ahead, level, behind).
    costs: a row a model: trials done, and granted (null where it is not granted as many as others), those cut by the
    budget, those that failed, seconds of the search and its budget, mean seconds of a fit, both of CPU in processes of
    one thread (on a GPU of the wall), seconds on the wall of a fit alone on all cores and of a search of its own,
    device, settings.
    ours: the model of `tests`; empty where there is none yet.
    """

    figures: pl.DataFrame
    by_seed: pl.DataFrame
    tests: pl.DataFrame
    costs: pl.DataFrame
    ours: str

    def tidy(self) -> pl.DataFrame:
        """All of it as one table, a row a figure; what is compared is null but for ours."""
        tests = self.tests.drop("mean")
        keys = ["dataset", "model", "width", "metric"]
        return (
            self.figures.with_columns(protocol=pl.lit("honest"), split=pl.lit("test"))
            .join(tests, on=keys, how="left", nulls_equal=True, maintain_order="left")
            .join(self.costs, on=["dataset", "model"], how="left", maintain_order="left")
        )


def tables(config: StudyConfig) -> StudyTables:
    """From what is there, of every contender, on the data sets of the study. RunError where nothing is."""
    found = [at for at in config.entries(chosen=False) if any(True for _ in at.results(config.seeds))]
    if not found:
        raise RunError(f"{config.folder}: no finished fit of {', '.join(config.datasets)} there; run the study first")
    places = {dataset: place for place, dataset in enumerate(config.datasets)}
    roles = ("ours", "mrl4rec", "control")
    found.sort(key=lambda at: (places[at.dataset], roles.index(at.contender.role)))
    rows = [list(parts) for _, parts in groupby(found, key=lambda at: (at.dataset, at.contender.model))]
    by_seed = pl.concat(_by_seed(at, config) for at in found)
    own = [at.contender.model for at in found if at.contender.role == "ours"]
    ours = config.ours or (own[0] if own else "")
    figures = _over_seeds(by_seed)
    tests = [_against(figures, found, dataset, ours, config) for dataset in config.datasets] if ours else []
    costs = pl.DataFrame([_cost(parts, config) for parts in rows], schema=COSTS)
    return StudyTables(figures, by_seed, pl.concat([pl.DataFrame(schema=TESTS), *tests]), costs, ours)


def _by_seed(at: Entry, config: StudyConfig) -> pl.DataFrame:
    facts = {"dataset": at.dataset, "model": at.contender.model, "role": at.contender.role}
    rows = [
        {**facts, **figure, "seed": result["seed"]}
        for result, _ in at.results(config.seeds)
        for figure in result["figures"]
    ]
    names = ("dataset", "model", "role", "width", "metric", "k")
    return pl.DataFrame(rows, schema={name: FIGURES[name] for name in names} | {"seed": pl.Int64, "value": pl.Float64})


def _over_seeds(by_seed: pl.DataFrame) -> pl.DataFrame:
    keys = ["dataset", "model", "role", "width", "metric", "k"]
    rows = []
    for key, part in by_seed.group_by(keys, maintain_order=True):
        values = part["value"].to_list()
        mean = fmean(values)
        half = None
        if len(values) > 1:
            half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
        ends = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
        rows.append(dict(zip(keys, key, strict=True)) | {"seeds": len(values), "mean": mean} | ends)
    return pl.DataFrame(rows, schema=FIGURES)


def _against(
    figures: pl.DataFrame, found: Iterable[Entry], dataset: str, ours: str, config: StudyConfig
) -> pl.DataFrame:
    """The rows of `StudyTables.tests` of one data set."""
    here = figures.filter(pl.col("dataset") == dataset)
    mine = here.filter(pl.col("model") == ours).sort("metric", "width", descending=[True, False])  # recall first
    others = here.filter(pl.col("model") != ours).with_columns(at=pl.col("width").fill_null(config.widths[-1]))
    entries = [at for at in found if at.dataset == dataset]
    rows, differences = [], []
    for cell in mine.iter_rows(named=True):
        level = others.filter(pl.col("at") == cell["width"], pl.col("metric") == cell["metric"])
        rivals = level.filter(pl.col("role") != "ours")
        if not len(rivals):
            continue
        best, rival = (side.row(int(side["mean"].arg_max()), named=True) for side in (level, rivals))
        users, difference = _paired(entries, config, cell, rival)
        differences.append(difference)
        rows.append(
            {name: cell[name] for name in ("dataset", "model", "width", "metric", "mean")}
            | {"best": best["model"], "best_mean": best["mean"], "loss": best["mean"] > cell["mean"]}
            | {"rival": rival["model"], "rival_mean": rival["mean"], "users": users}
        )
    if not rows:
        return pl.DataFrame(schema=TESTS)
    paired = np.stack(differences)  # (L · metrics, n)
    low, high = interval(paired, resamples=config.resamples, rng=np.random.default_rng([config.seed, 0]))
    p = [sign_flip(row, resamples=config.resamples, rng=np.random.default_rng([config.seed, 1])) for row in paired]
    corrected = multipletests(p, method="holm")[1]
    for row, *numbers in zip(rows, paired.mean(1), low, high, p, corrected, strict=True):
        names = ("difference", "difference_low", "difference_high", "p", "p_holm")
        row |= dict(zip(names, map(float, numbers), strict=True))
        sure = row["p_holm"] < LEVEL
        row["verdict"] = "level" if not sure else "ahead" if row["difference"] > 0 else "behind"
    return pl.DataFrame(rows, schema=TESTS)


def _paired(entries: list[Entry], config: StudyConfig, mine: dict, rival: dict) -> tuple[int, np.ndarray]:
    """How many users, and the difference of each (n,), both sides averaged over their seeds."""
    sides = [_people(entries, config, row["model"], row["metric"], row["width"]) for row in (mine, rival)]
    both = sides[0].join(sides[1], on="user", suffix="_rival", validate="1:1")
    if not len(sides[0]) == len(sides[1]) == len(both):
        raise RunError(f"{mine['model']} and {rival['model']} on {mine['dataset']} were tested on different users")
    return len(both), (both["value"] - both["value_rival"]).to_numpy()


def _people(entries: list[Entry], config: StudyConfig, model: str, metric: str, width: int | None) -> pl.DataFrame:
    """Columns user and value: one figure of a model, averaged over its seeds."""
    name = f"{metric}@{K}" + ("" if width is None else f"_w{width}")
    paths: list[Path] = [
        path
        for at in entries
        if at.contender.model == model and (width in at.contender.widths or width is None)
        for _, path in at.results(config.seeds)
    ]
    seeds = [pl.read_parquet(path, columns=["user", name]) for path in paths]
    value = reduce(lambda total, table: total + table[name].cast(pl.Float64), seeds, 0.0) / len(seeds)
    return seeds[0].select("user", value=value)


def _cost(parts: list[Entry], config: StudyConfig) -> dict:
    """A row of `StudyTables.costs`; what a model of several parts has spent is their sum."""
    trials = [trial for at in parts for trial in at.trials()]
    searched = [at for at in parts if at.trials()]
    results = [[result for result, _ in at.results(config.seeds)] for at in parts]
    timed = [read_json(at.timing_path(at.best())) for at in parts if at.timing_path(at.best()).exists()]
    first, whole, by_trials = results[0][0], len(timed) == len(parts), parts[0].contender.trials is None
    chosen = {at.contender.name: _free(at) for at in parts}
    told = chosen[parts[0].contender.name] if len(parts) == 1 else "; ".join(f"{n}: {s}" for n, s in chosen.items())
    return {
        "dataset": parts[0].dataset,
        "model": parts[0].contender.model,
        "trials": min((len(at.trials()) for at in searched), default=None),
        "granted": max((trial["granted"] for trial in trials), default=None) if by_trials else None,
        "cut": sum(trial["cut"] for trial in trials),
        "failed": sum(trial["error"] is not None for trial in trials),
        "search_seconds": sum(trial["seconds"] for trial in trials) if trials else None,
        "budget": max((trial["budget"] for trial in trials), default=None),
        "fit_seconds": sum(fmean(result["seconds"] for result in part) for part in results),
        "fit_threads": first["threads"],
        "timed_seconds": sum(timing["seconds"] for timing in timed) if whole else None,
        "timed_threads": timed[0]["threads"] if whole else None,
        "timed_search_seconds": timed[0]["search_seconds"] if whole else None,
        "device": first["device"],
        "settings": told,
    }


def _free(at: Entry) -> str:
    """The settings that were chosen, not those that make the contender what it is."""
    settings = {name: value for name, value in at.best().items() if name not in at.contender.fixed}
    shown = (
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    )
    return ", ".join(shown)
