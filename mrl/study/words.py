"""The critical summary of a study, computed from its tables: where the main model is ahead, where behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

import polars as pl

from mrl.config import SECTION_OF, TrainConfig
from mrl.controls.fitting import SEARCHED_INTERACTIONS, K
from mrl.figures import metric_title
from mrl.report.code import code_version
from mrl.study.datasets import DATASETS, describe_options
from mrl.study.models import select_models
from mrl.study.tables import IS_CUT, LEVEL, StudyTables
from mrl.words import listed, model_name

KNOWN_SETTINGS = {*SECTION_OF, *(field.name for field in fields(TrainConfig))}
TRIED = (
    "What was tried to win them, and did not: levels fitted, trained, held or taught by themselves, several fits "
    "added, other rotations, level weights, penalties, negatives, losses, sweeps and dimensions, EASE distilled, "
    "propagation learned. Each attempt, with its numbers, is a line of reports/log.md."
)  # of the default recipe
VERDICTS = {"ahead": "significantly ahead", "level": "not told apart", "behind": "significantly behind"}


def format_metric(value: float) -> str:
    """A metric as tables have it: `.0992`."""
    return f"{value:.4f}".replace("0.", ".", 1)


def format_difference(value: float) -> str:
    """`+.0012`, `−.0012`."""
    return f"{value:+.4f}".replace("0.", ".", 1).replace("-", "−")


def format_seconds(value: float) -> str:
    """`12.3`, `123`, `0.04`."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def summarise(tables: StudyTables) -> dict[str, list[str]]:
    """Sentences by heading: the verdict, each data set, every loss, the seconds, and what has to be known of it all."""
    compared = tables.tests["dataset"].unique(maintain_order=True).to_list()
    if not compared:
        missing = f"nothing of {model_name(tables.main)} is there yet" if tables.main else "no recipe is among the rows"
        return {"What it shows": [f"There is nothing to compare: {missing}."], "To be known": caveats(tables)}
    by_metric = tables.tests.group_by("dataset", "metric", maintain_order=True)
    return {
        "What it shows": [verdict_overall(tables), *(verdict_on(tables, dataset) for dataset in compared)],
        "By data set": [describe_widths(tests) for _, tests in by_metric],
        "Where it loses": losses(tables),
        "Seconds": [fit_seconds(tables, dataset) for dataset in compared],
        "To be known": caveats(tables),
    }


def verdict_overall(tables: StudyTables) -> str:
    """All cells in one sentence."""
    tests = tables.tests
    count = {verdict: len(tests.filter(verdict=verdict)) for verdict in VERDICTS}
    at_or_above = len(tests.filter(pl.col("difference") >= 0, verdict="level"))
    sets = counted(tests["dataset"].n_unique(), "data set")
    cells = f"{sets}, {counted(tests['width'].n_unique(), 'width')} and {counted(tests['metric'].n_unique(), 'metric')}"
    return (
        f"Over {cells} ({counted(len(tests), 'cell')}), {model_name(tables.main)} is significantly ahead of the best "
        f"baseline in {count['ahead']}, significantly behind it in {count['behind']}, and not told apart from it in "
        f"{count['level']}, of which its mean is at or above in {at_or_above} (paired test by user, Holm's correction "
        f"over the cells of a data set, level {LEVEL}). Baselines: the published method and the controls."
    )


def verdict_on(tables: StudyTables, dataset: str) -> str:
    """Whether the main model is at or above every other row of a data set, and at how many widths significantly."""
    tests = tables.tests.filter(dataset=dataset)
    below = int(tests["is_below"].sum())
    where = (
        f"below another row in {below} of {len(tests)} cells" if below else "at or above every other row in every cell"
    )
    ahead = [
        f"{len(part.filter(verdict='ahead'))} of {counted(len(part), 'width')} by {metric_title(metric, K)}"
        for (metric,), part in tests.group_by("metric", maintain_order=True)
    ]
    name = model_name(tables.main)
    return f"{dataset}: {name} is {where}; significantly above the best baseline at {listed(ahead)}."


def describe_widths(tests: pl.DataFrame) -> str:
    """One data set and metric: at which widths the main model is ahead, level and behind, and by how much."""
    parts = []
    for verdict, words in VERDICTS.items():
        part = tests.filter(verdict=verdict).sort("width")
        if not len(part):
            continue
        ends = dict.fromkeys(format_difference(end) for end in (part["difference"].min(), part["difference"].max()))
        baselines = _joined([model_name(model) for model in dict.fromkeys(part["best_baseline"])])
        where = "every width" if len(part) == len(tests) else listed([str(width) for width in part["width"]])
        parts.append(f"{words} at {where} ({' to '.join(ends)} against {baselines})")
    first = tests.row(0, named=True)
    return f"{first['dataset']}, {metric_title(first['metric'], K)}, {first['users']:,} users: {listed(parts)}."


def losses(tables: StudyTables) -> list[str]:
    """A sentence for every cell in which another row has the higher mean."""
    sentences = []
    for row in tables.tests.filter("is_below").iter_rows(named=True):
        verdict = f"{VERDICTS[row['verdict']]}, p = {row['p_holm']:.2g} after Holm"
        kind = verdict if row["best_other"] == row["best_baseline"] else "also a recipe of this project"
        sentences.append(
            f"{row['dataset']}, {metric_title(row['metric'], K)} at {row['width']}: {format_metric(row['mean'])} "
            f"against {format_metric(row['best_other_mean'])} of {model_name(row['best_other'])} ({kind})."
        )
    if sentences and tables.main == "default":
        sentences.append(TRIED)
    return sentences or ["In no cell."]


def fit_seconds(tables: StudyTables, dataset: str) -> str:
    """What a fit of the main model takes beside those of the best baselines, and what its search does."""
    models = dict.fromkeys([tables.main, *tables.tests.filter(dataset=dataset)["best_baseline"]])
    costs = {row["model"]: row for row in tables.costs.filter(dataset=dataset).iter_rows(named=True)}
    fits, searches = (
        _joined([f"{model_name(model)} {format_seconds(costs[model][f'{kind}_seconds'])}" for model in models])
        for kind in ("fit", "search")
    )
    clock = f"{_clock(tables)}, one thread"
    return f"{dataset}, seconds of one fit with its settings known, {clock}: {fits}. Of the whole search: {searches}."


def caveats(tables: StudyTables) -> list[str]:
    """What a reader must know: rows that are missing, short of seeds, of earlier code, or whose search was stopped or
    longer than others."""
    sentences = []
    for dataset in tables.datasets:
        widths = tables.widths_on(dataset)
        rows = list(dict.fromkeys(model.model for model in select_models((), widths)))
        there = tables.means.filter(dataset=dataset)
        costs = tables.costs.filter(dataset=dataset)
        limited = costs.filter(IS_CUT)
        # nothing ends a search that is a model's own
        longer = costs.filter(pl.col("max_trials").is_null(), pl.col("search_seconds") > pl.col("max_search_seconds"))
        budget = f"{longer['max_search_seconds'].max() or 0:.0f} s"
        lists = {
            "above its smaller side, and left out: {}.": [
                f"width {width}" for width in tables.widths if width not in widths
            ],
            "without numbers: {}.": [model_name(model) for model in rows if model not in there["model"].to_list()],
            "the budget ended the search of {}. More might serve them better.": [
                f"{model_name(row['model'])} ({row['trials']} of {counted(row['max_trials'], 'trial')}"
                + (f", {row['trials_timed_out']} cut short)" if row["trials_timed_out"] else ")")
                for row in limited.iter_rows(named=True)
            ],
            f"a search of its own took more than the {budget} that others were granted: {{}}.": [
                f"{model_name(model)} ({format_seconds(seconds)} s)"
                for model, seconds in longer.select("model", "search_seconds").iter_rows()
            ],
            "trials that failed and count as 0: {}.": [
                f"{model_name(model)} ({failed})"
                for model, failed in costs.select("model", "trials_failed").iter_rows()
                if failed
            ],
            f"fewer than {counted(tables.seeds, 'seed')}: {{}}.": [
                f"{model_name(model)} ({seeds})" for model, seeds in short_of_seeds(tables, there).items()
            ],
        }
        sentences += [f"{dataset}: {text.format(_joined(items))}" for text, items in lists.items() if items]
    sentences += describe_code(tables)
    for (model,), costs in tables.costs.group_by("model", maintain_order=True):
        names = re.findall(r"(\w+)=", " ".join(costs["settings"].drop_nulls()))
        if unknown := [name for name in dict.fromkeys(names) if name not in KNOWN_SETTINGS]:
            gone = f"it has a setting that no longer exists ({listed(unknown)})"
            sentences.append(f"{model_name(model)} was measured with earlier code: {gone}.")
    return sentences or ["Every row is there, with all its seeds, and no search was cut."]


def describe_code(tables: StudyTables) -> list[str]:
    """Which code has made the rows: whether it is this one, and its digests, as in the column `code`."""
    now = {model.model: code_version(model.code) for model in select_models((), tables.widths)}
    rows = tables.results.select("model", "dataset", pl.col("code").fill_null("not noted")).unique(maintain_order=True)
    is_now = rows["code"] == rows["model"].replace_strict(now, default="")
    earlier, name_all = rows.filter(~is_now), pl.col("model").unique(maintain_order=True)
    if len(earlier) < len(rows):
        parts = earlier.group_by("dataset", maintain_order=True).agg(name_all).iter_rows()
        sentence = "{}: by earlier code than that which has written this: {}."
        old = [sentence.format(dataset, _joined([*map(model_name, models)])) for dataset, models in parts]
        by_code = rows.filter(is_now).group_by("code", maintain_order=True).agg(name_all).iter_rows()
        named = "; ".join(f"{code} of {_joined([*map(model_name, models)])}" for code, models in by_code)
        return [*old, f"Digests of the code that has made the {'other ' * bool(old)}rows and written this: {named}."]
    digests = listed(earlier["code"].unique(maintain_order=True).to_list())
    return [f"Every row was made by earlier code than that which has written this (digest: {digests})."]


def short_of_seeds(tables: StudyTables, means: pl.DataFrame) -> dict[str, int]:
    """The models of these means that have fewer seeds than they should, and how many."""
    models = select_models((), tables.widths)
    expected = {model.model: len(model.seeds(range(tables.seeds))) for model in models}
    fewest = means.group_by("model", maintain_order=True).agg(pl.col("seeds").min()).iter_rows()
    return {model: seeds for model, seeds in fewest if seeds < expected.get(model, tables.seeds)}


def describe_protocol(tables: StudyTables) -> list[str]:
    """How the numbers were made, in sentences."""
    trials, seconds = (_range(tables.costs[name]) for name in ("max_trials", "max_search_seconds"))
    trials += " trial" if trials == "1" else " trials"
    recipes = [model for model in select_models((), tables.widths) if model.role == "recipe"]
    recipes = [model for model in recipes if model.model in tables.means["model"] and model.max_trials is not None]
    own_search = _joined([model_name(model.model) for model in recipes])
    sampled = [*dict.fromkeys(tables.costs.filter("sampled")["dataset"])]
    sample = f"{SEARCHED_INTERACTIONS:,} interactions of users drawn at random"
    return [
        "Protocol honest: settings and epochs from validation (a seeded tenth of each user's training items), then a "
        "refit on all of train, and test touched once. One split for all models and seeds.",
        *(describe_options(dataset) for dataset in tables.datasets if DATASETS.get(dataset)),
        f"Each search (Optuna, TPE) maximises validation NDCG@20, mean over the widths, by {trials} (fewer of models "
        f"that are trained), within {seconds} s.",
        *([f"On {listed(sampled)} a search has {sample}; the epochs are then chosen with all."] if sampled else []),
        *([f"By its own search on the same validation part, not by Optuna: {own_search}."] if own_search else []),
        f"Means and 95 % intervals (Student's t) over {counted(tables.seeds, 'seed')}; EASE and popularity do "
        "not depend on a seed and have no width: they stand in the widest column.",
        "The main model is compared with the best baseline at each width, picked on test in that baseline's favour, "
        "user by user, each user's metric averaged over the seeds; a sign-flip permutation test, Holm's correction "
        "over the widths and metrics of a data set. It speaks of other users, not of other seeds.",
        f"Seconds: search is the sum over the trials {_clock(tables)}, in processes of one thread; fit is that of one "
        "fit with its settings known, likewise.",
    ]


def _joined(items: Sequence[str]) -> str:
    """A list in words; with semicolons where a comma is part of an item."""
    return "; ".join(items) if any(", " in item for item in items) else listed(items)


def _range(column: pl.Series) -> str:
    values = sorted(set(column.drop_nulls()))
    return " to ".join(f"{value:g}" for value in dict.fromkeys([*values[:1], *values[-1:]])) or "no"


def _clock(tables: StudyTables) -> str:
    return "of CPU" if set(tables.costs["device"]) == {"cpu"} else "of CPU, or on a GPU of the wall"
