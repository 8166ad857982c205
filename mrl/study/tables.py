"""The results of a study as one tidy table: means by model and width, the main model compared, and the costs.

Intervals of a mean are Student's t over seeds. The main model is compared, at each width, with the best baseline (a row
that is no recipe of this project), picked on test, which favours that baseline: user by user, each user's metric being
its mean over the seeds of a row; 95 % bootstrap intervals over users, a sign-flip permutation test, and Holm's
correction over the widths and metrics of a data set. A model without widths (EASE) is compared with the widest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean

import polars as pl
import polars.selectors as cs
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mrl.analysis.comparison import compare
from mrl.controls.fitting import METRICS, K
from mrl.errors import RunError
from mrl.least_squares.stages import TRAINED
from mrl.study.config import StudyConfig
from mrl.study.folder import Experiment, read_table
from mrl.study.kept import keep, keep_values, restore, values_by_user

LEVEL = 0.05
STAGE = "stage"  # the role of a row that is the default recipe after one of its stages
DIGITS = 9  # of numbers in the table: the last ones of a sum depend on how threads shared it
KEYS = {"dataset": pl.String, "model": pl.String}
WIDTH = {"width": pl.Int64}
POINT = WIDTH | {"metric": pl.String}
MEANS = {
    "dataset": pl.String, "model": pl.String, "role": pl.String, "code": pl.String, **POINT, "k": pl.Int64,
    "seeds": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64,
}  # fmt: skip
TESTS = {
    "best_other": pl.String, "best_other_mean": pl.Float64, "is_below": pl.Boolean, "best_baseline": pl.String,
    "best_baseline_mean": pl.Float64, "users": pl.Int64, "difference": pl.Float64, "difference_low": pl.Float64,
    "difference_high": pl.Float64, "p": pl.Float64, "p_holm": pl.Float64, "verdict": pl.String,
}  # fmt: skip
COSTS = {
    "trials": pl.Int64, "max_trials": pl.Int64, "trials_timed_out": pl.Int64, "trials_failed": pl.Int64,
    "search_seconds": pl.Float64, "max_search_seconds": pl.Float64, "fit_seconds": pl.Float64, "fit_threads": pl.Int64,
    "sampled": pl.Boolean, "device": pl.String, "settings": pl.String,
}  # fmt: skip
# whether the budget has ended the search that a row or a cell is of
IS_CUT = (pl.col("trials") < pl.col("max_trials")) | (pl.col("trials_timed_out") > 0)
TIDY = MEANS | {"protocol": pl.String, "split": pl.String} | TESTS | COSTS


@dataclass(frozen=True)
class StudyTables:
    """The results of a study, in the order of `mrl.study.models`, recipes first.

    tidy: all of it, a row a model, width (null where it has none) and metric, stages of the default recipe included.
    datasets, widths: of the study. seeds: how many a model should have, unless it is made with fewer. main: the model
    that is compared; empty where there is none yet.
    """

    tidy: pl.DataFrame
    datasets: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: int
    main: str

    @cached_property
    def results(self) -> pl.DataFrame:
        """The rows of `tidy` that are models, not stages of one."""
        return self.tidy.filter(pl.col("role") != STAGE)

    @cached_property
    def means(self) -> pl.DataFrame:
        """Seeds, mean, and low and high, the ends of the 95 % interval (null where there is one seed)."""
        return self.results.select(*MEANS)

    def stages(self, dataset: str) -> pl.DataFrame:
        """The means of the default recipe after each stage, the training last; empty where none was measured."""
        stages = self.tidy.filter(dataset=dataset, role=STAGE).select(*MEANS)
        trained = self.means.filter(dataset=dataset, model="default").with_columns(model=pl.lit(TRAINED))
        return pl.concat([stages, trained]) if len(stages) else stages

    def widths_on(self, dataset: str) -> tuple[int, ...]:
        """Those of the widths that are there of a data set: its smaller side may leave some out."""
        there = self.means.filter(dataset=dataset)["width"].to_list()
        return tuple(width for width in self.widths if width in there) or self.widths

    @cached_property
    def tests(self) -> pl.DataFrame:
        """A row a data set, metric and width of the main model.

        `best_other` is the highest other row; `is_below`: whether its mean is higher. Against `best_baseline`, the
        highest that is no recipe: difference, its interval, p, p_holm and verdict (ahead, level, behind).
        """
        tests = self.results.drop_nulls("best_baseline").select(*KEYS, *POINT, "mean", *TESTS)
        place = pl.col("dataset").cast(pl.Enum(self.datasets))
        return tests.sort(place, "metric", "width", descending=[False, True, False])  # recall first

    @cached_property
    def costs(self) -> pl.DataFrame:
        """A row a model: trials made (of its parts the fewest), and max_trials (null where nothing is to be chosen or
        the search is its own), those stopped by the budget, those that failed, seconds of the search and its budget,
        mean seconds of a fit, both of CPU in processes of one thread (on a GPU of the wall), whether the search had a
        sample of the users, device, settings.
        """
        parts = {"trials": pl.col("trials").min(), "trials_timed_out": pl.col("trials_timed_out").max()}
        by_row = self.results.group_by(*KEYS, maintain_order=True)
        return by_row.agg(parts.get(name, pl.col(name).first()) for name in COSTS)


def study_tables(config: StudyConfig) -> StudyTables:
    """Of every model that has a finished fit, on the data sets of the study, or of `config.table` where that is given.

    Raises RunError where there is nothing.
    """
    if config.table:
        return read_tables(Path(config.table))
    restore(config)
    experiments = config.experiments(all_models=True)
    experiments = [experiment for experiment in experiments if any(experiment.results(config.seeds))]
    if not experiments:
        raise RunError(f"{config.folder}: no finished fit of {', '.join(config.datasets)} there; run the study first")
    roles = ("recipe", "mrl4rec", "control")
    experiments.sort(key=lambda one: (config.datasets.index(one.dataset), roles.index(one.model.role)))
    rows = [list(parts) for _, parts in groupby(experiments, key=lambda one: (one.dataset, one.model.model))]
    means = _means(experiments, config)
    main = config.main or next(iter(means.filter(role="recipe")["model"]), "")
    tests = [_tests(means.filter(dataset=dataset), experiments, main, config) for dataset in config.datasets]
    costs = pl.DataFrame([row for parts in rows for row in _costs(parts, config)], schema=KEYS | WIDTH | COSTS)
    tidy = (
        means.with_columns(protocol=pl.lit("honest"), split=pl.lit("test"))
        .join(pl.concat(tests), on=[*KEYS, *POINT], how="left", nulls_equal=True, maintain_order="left")
        .join(costs, on=[*KEYS, *WIDTH], how="left", nulls_equal=True, maintain_order="left")
        .with_columns(cs.float().round(DIGITS))
    )
    return StudyTables(tidy, config.datasets, config.widths, len(config.seeds), main)


def read_tables(path: Path) -> StudyTables:
    """The results of a study from the tidy table that it has written; RunError where it is none."""
    tidy = read_table(path, TIDY, "table", "table of a study as study.csv is")
    compared = [*tidy.drop_nulls("best_baseline")["model"], *tidy.filter(role="recipe")["model"], ""]
    widths = tidy["width"].drop_nulls().unique().sort()
    datasets = tidy["dataset"].unique(maintain_order=True)
    return StudyTables(tidy, tuple(datasets), tuple(widths), tidy["seeds"].max() or 0, compared[0])


def _means(experiments: list[Experiment], config: StudyConfig) -> pl.DataFrame:
    rows = [
        {"dataset": one.dataset, "model": one.model.model, "role": one.model.role, "code": one.code, **row}
        | ({"model": row["stage"], "role": STAGE} if "stage" in row else {})
        for one in experiments
        for result in (*(result for result, _ in one.results(config.seeds)), *one.stages(config.seeds))
        for row in result["metrics"]
    ]
    keys = ["dataset", "model", "role", "code", *POINT, "k"]
    by_seed = pl.DataFrame(rows, schema={name: MEANS[name] for name in keys} | {"value": pl.Float64})
    value = pl.col("value")
    means = by_seed.group_by(keys, maintain_order=True).agg(
        seeds=pl.len().cast(pl.Int64), mean=value.mean(), error=value.std() / pl.len().sqrt()
    )
    half = pl.Series(stats.t.ppf(0.975, means["seeds"].to_numpy() - 1)) * means["error"]
    return means.with_columns(low=pl.col("mean") - half, high=pl.col("mean") + half).select(*MEANS)


def keep_all(config: StudyConfig) -> None:
    """Keep what is done beside the tables, with the values by user that the tests need (`mrl.study.kept`)."""
    keep(config)
    for compared in _compared_fits(config):
        keep_values(config, compared)


def lost_values(config: StudyConfig) -> list[Experiment]:
    """The experiments that the tests need, but whose values by user are gone: a row has become the best since."""
    lost = {
        experiment.path: experiment
        for compared in _compared_fits(config)
        for experiment, column in compared
        if values_by_user(config, experiment, column) is None
    }
    return list(lost.values())


def _compared_fits(config: StudyConfig) -> Iterator[list[tuple[Experiment, str]]]:
    """Of each data set, what the tests compare: experiments and columns by user."""
    experiments = [one for one in config.experiments(all_models=True) if any(one.results(config.seeds))]
    means = _means(experiments, config)
    main = config.main or next(iter(means.filter(role="recipe")["model"]), "")
    for dataset in config.datasets:
        compared = _compared(means.filter(dataset=dataset), main)
        yield [_fit_of(experiments, row) for one, _, baseline in compared for row in (one, baseline)]


def _compared(means: pl.DataFrame, main: str) -> Iterator[tuple[dict, dict, dict]]:
    """Of the means of one data set: each of the main model, the best of other rows there, and the best baseline."""
    widest = means["width"].max() or 0
    others = means.filter(pl.col("model") != main, pl.col("role") != STAGE).with_columns(
        at=pl.col("width").fill_null(widest)
    )
    for row in means.filter(model=main).iter_rows(named=True):
        rivals = others.filter(at=row["width"], metric=row["metric"]).sort("mean", descending=True, maintain_order=True)
        baselines = rivals.filter(pl.col("role") != "recipe")
        if len(baselines):
            yield row, rivals.row(0, named=True), baselines.row(0, named=True)


def _fit_of(experiments: list[Experiment], row: dict) -> tuple[Experiment, str]:
    """The experiment that a mean is of, and the column of its metrics by user."""
    width = row["width"]
    (experiment,) = (
        one
        for one in experiments
        if (one.dataset, one.model.model) == (row["dataset"], row["model"])
        and (width is None or width in one.model.widths)
    )
    return experiment, f"{row['metric']}@{K}" + ("" if width is None else f"_w{width}")


def _tests(means: pl.DataFrame, experiments: list[Experiment], main: str, config: StudyConfig) -> pl.DataFrame:
    """The rows of `StudyTables.tests` of one data set; without those whose values by user are gone."""
    rows, main_values, baseline_values = [], [], []
    for row, best, baseline in _compared(means, main):
        values = [values_by_user(config, *_fit_of(experiments, one)) for one in (row, baseline)]
        if any(value is None for value in values):
            continue
        place = {"width": row["width"], "metric": row["metric"], "k": K}
        named = [value.with_columns(**{name: pl.lit(where) for name, where in place.items()}) for value in values]
        main_values.append(named[0])
        baseline_values.append(named[1])
        rows.append(
            {name: row[name] for name in (*KEYS, *POINT)}
            | {"best_other": best["model"], "best_other_mean": best["mean"], "is_below": best["mean"] > row["mean"]}
            | {"best_baseline": baseline["model"], "best_baseline_mean": baseline["mean"]}
        )
    if not rows:
        return pl.DataFrame(schema=KEYS | POINT | TESTS)
    compared = compare(
        pl.concat(main_values),
        pl.concat(baseline_values),
        metrics=METRICS,
        resamples=config.resamples,
        seed=config.seed,
    )
    ahead = pl.when(pl.col("difference") > 0).then(pl.lit("ahead")).otherwise(pl.lit("behind"))
    p_holm = pl.Series(multipletests(compared["p"].to_numpy(), method="holm")[1])
    compared = compared.with_columns(p_holm=p_holm).select(
        *POINT, "users", "difference", "p", "p_holm", difference_low="low", difference_high="high",
        verdict=pl.when(pl.col("p_holm") < LEVEL).then(ahead).otherwise(pl.lit("level")),
    )  # fmt: skip
    table = pl.DataFrame(rows).join(compared, on=[*POINT], how="left", validate="1:1", maintain_order="left")
    return table.select(*KEYS, *POINT, *TESTS).cast({"users": pl.Int64})


def _costs(parts: list[Experiment], config: StudyConfig) -> Iterator[dict]:
    """The columns COSTS, by width: of a model of several parts with the sum of what they have spent, and the trials of
    the part of that width."""
    trials = [trial for part in parts for trial in part.trials()]
    results = [[result for result, _ in part.results(config.seeds)] for part in parts]
    settings = [f"{part.model.name}: {_chosen_settings(part)}" for part in parts]
    has_trials = parts[0].model.max_trials != 1
    row = {
        "dataset": parts[0].dataset,
        "model": parts[0].model.model,
        "max_trials": max((trial["max_trials"] for trial in trials if has_trials), default=None),
        "trials_failed": sum(trial["error"] is not None for trial in trials),
        "search_seconds": sum(trial["seconds"] for trial in trials),
        "max_search_seconds": max(trial["max_seconds"] for trial in trials),
        "fit_seconds": sum(fmean(result["seconds"] for result in part) for part in results),
        "fit_threads": results[0][0]["threads"],
        "sampled": any(trial.get("sampled") for trial in trials),
        "device": results[0][0]["device"],
        "settings": "; ".join(settings) if len(parts) > 1 else _chosen_settings(parts[0]),
    }
    for part in parts:
        timed_out = part.timed_out()
        for width in part.model.widths or (None,):
            yield row | {"width": width, "trials": len(part.trials()), "trials_timed_out": timed_out}


def _chosen_settings(experiment: Experiment) -> str:
    """The settings that were chosen, not those that make the model what it is."""
    fixed, best = experiment.model.fixed, experiment.best_settings()
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in best.items()
        if name not in fixed
    )
