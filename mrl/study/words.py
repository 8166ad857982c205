"""The critical summary of a study, computed from its tables: where ours is ahead or behind, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from mrl.figures.plots import metric_title
from mrl.study.config import StudyConfig
from mrl.study.fitting import K
from mrl.study.models import select
from mrl.study.tables import LEVEL, StudyTables
from mrl.words import listed

TRIED = (
    "What was tried to win them, and did not: levels fitted, trained, held or taught by themselves, several fits "
    "added, other turns, level weights, penalties, negatives, losses, sweeps and dimensions, EASE distilled, "
    "propagation learned. Each attempt, with its figures, is a line of reports/log.md."
)  # of the default recipe
VERDICTS = {"ahead": "significantly ahead", "level": "not told apart", "behind": "significantly behind"}


def figure(value: float) -> str:
    """A figure as tables have it: `.0992`."""
    return f"{value:.4f}".replace("0.", ".", 1)


def gap(value: float) -> str:
    """A difference: `+.0012`, `−.0012`."""
    return f"{value:+.4f}".replace("0.", ".", 1).replace("-", "−")


def seconds(value: float) -> str:
    """`12.3`, `123`, `0.04`."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def summary(found: StudyTables, config: StudyConfig) -> dict[str, list[str]]:
    """Sentences by heading: the verdict, each data set, every loss, the seconds, and what has to be known of it all."""
    if not len(found.tests):
        missing = f"nothing of {found.ours} is there yet" if found.ours else "no model of ours is among the rows"
        return {"What it shows": [f"There is nothing to compare: {missing}."], "To be known": caveats(found, config)}
    return {
        "What it shows": [overall(found), *(demanded(found, dataset) for dataset in _datasets(found))],
        "By data set": [
            by_metric(part) for (_, _), part in found.tests.group_by("dataset", "metric", maintain_order=True)
        ],
        "Where it loses": losses(found),
        "Seconds": [fit_seconds(found, dataset) for dataset in _datasets(found)],
        "To be known": caveats(found, config),
    }


def overall(found: StudyTables) -> str:
    """All cells in one sentence."""
    tests = found.tests
    count = {verdict: len(tests.filter(pl.col("verdict") == verdict)) for verdict in VERDICTS}
    above = len(tests.filter(pl.col("verdict") == "level", pl.col("difference") >= 0))
    sets = counted(tests["dataset"].n_unique(), "data set")
    cells = f"{sets}, {counted(tests['width'].n_unique(), 'width')} and {counted(tests['metric'].n_unique(), 'metric')}"
    return (
        f"Over {cells} ({counted(len(tests), 'cell')}), {found.ours} is significantly ahead of the best row that is "
        f"not ours in {count['ahead']}, significantly behind it in {count['behind']}, and not told apart from it in "
        f"{count['level']}, of which its mean is at or above in {above} (paired test by user, Holm's correction over "
        f"the cells of a data set, level {LEVEL})."
    )


def demanded(found: StudyTables, dataset: str) -> str:
    """Whether ours is at or above every other row at every width, and at how many widths significantly."""
    tests = found.tests.filter(pl.col("dataset") == dataset)
    lost = int(tests["loss"].sum())
    whole = "at or above every other row in every cell"
    told = (
        f"{dataset}: {found.ours} is {whole}" if not lost else f"{dataset}: {found.ours} is below another row in {lost}"
    )
    told += f" of {len(tests)} cells" if lost else ""
    sure = []
    for (metric,), part in tests.group_by("metric", maintain_order=True):
        ahead = len(part.filter(pl.col("verdict") == "ahead"))
        sure.append(f"{ahead} of {counted(len(part), 'width')} by {metric_title(metric, K)}")
    return f"{told}; significantly above the best that is not ours at {listed(sure)}."


def by_metric(tests: pl.DataFrame) -> str:
    """The rows of one data set and metric: at which widths ours is ahead, level and behind, and by how much."""
    said = []
    for verdict, words in VERDICTS.items():
        part = tests.filter(pl.col("verdict") == verdict).sort("width")
        if not len(part):
            continue
        ends = dict.fromkeys(gap(end) for end in (part["difference"].min(), part["difference"].max()))
        against = list(dict.fromkeys(part["rival"]))
        where = "every width" if len(part) == len(tests) else listed([str(width) for width in part["width"]])
        said.append(f"{words} at {where} ({' to '.join(ends)} against {listed(against)})")
    first = tests.row(0, named=True)
    return f"{first['dataset']}, {metric_title(first['metric'], K)}, {first['users']:,} users: {listed(said)}."


def losses(found: StudyTables) -> list[str]:
    """A sentence for every cell in which another row has the higher mean."""
    said = []
    for row in found.tests.filter(pl.col("loss")).iter_rows(named=True):
        told = f"{row['dataset']}, {metric_title(row['metric'], K)} at {row['width']}: {figure(row['mean'])} against "
        told += f"{figure(row['best_mean'])} of {row['best']}"
        if row["best"] == row["rival"]:
            told += f" ({VERDICTS[row['verdict']]}, p = {row['p_holm']:.2g} after Holm)"
        else:
            told += " (also ours)"
        said.append(f"{told}.")
    if said and found.ours == "refined":
        said.append(TRIED)
    return said or ["In no cell."]


def fit_seconds(found: StudyTables, dataset: str) -> str:
    """What a fit of ours takes beside those of the rivals."""
    tests = found.tests.filter(pl.col("dataset") == dataset)
    shown = dict.fromkeys([found.ours, *tests["rival"]])
    costs = {row["model"]: row for row in found.costs.filter(pl.col("dataset") == dataset).iter_rows(named=True)}
    timed = all(costs[model]["timed_seconds"] is not None for model in shown)
    column = "timed" if timed else "fit"
    each = [f"{model} {seconds(costs[model][f'{column}_seconds'])}" for model in shown]
    threads = costs[found.ours][f"{column}_threads"]
    how = f"on the wall, alone on {counted(threads, 'thread')}" if timed else f"{_clock(found)}, one thread"
    told = f"{dataset}, seconds of one fit with its settings known, {how}: {listed(each)}."
    search = costs[found.ours]["timed_search_seconds"]
    return told if search is None else f"{told} The search of {found.ours} takes {seconds(search)} there."


def caveats(found: StudyTables, config: StudyConfig) -> list[str]:
    """What a reader must know: rows that are missing, short of seeds, or whose search was cut or longer than others."""
    said = []
    rows = list(dict.fromkeys(each.model for each in select((), config.widths)))
    for dataset in config.datasets:
        there = found.figures.filter(pl.col("dataset") == dataset)
        if absent := [row for row in rows if row not in set(there["model"])]:
            said.append(f"{dataset}: not there yet: {listed(absent)}.")
        costs = found.costs.filter(pl.col("dataset") == dataset)
        short = costs.filter((pl.col("trials") < pl.col("granted")) | (pl.col("cut") > 0))
        if len(short):
            each = [
                f"{row['model']} ({row['trials']} of {counted(row['granted'], 'trial')}"
                + (f", {row['cut']} cut short" if row["cut"] else "")
                + ")"
                for row in short.iter_rows(named=True)
            ]
            said.append(f"{dataset}: the budget ended the search of {listed(each)}; more might serve them better.")
        longer = costs.filter(pl.col("granted").is_null() & (pl.col("search_seconds") > pl.col("budget")))
        if len(longer):  # nothing ends a search that is a model's own
            each = [f"{row['model']} ({seconds(row['search_seconds'])} s)" for row in longer.iter_rows(named=True)]
            budget = f"{longer['budget'].max():.0f} s"
            said.append(
                f"{dataset}: a search of its own took more than the {budget} that others were granted: {listed(each)}."
            )
        failed = costs.filter(pl.col("failed") > 0)
        if len(failed):
            each = [f"{row['model']} ({row['failed']})" for row in failed.iter_rows(named=True)]
            said.append(f"{dataset}: trials that failed and count as 0: {listed(each)}.")
        if few := short_of_seeds(there, config):
            each = [f"{model} ({seeds})" for model, seeds in few.items()]
            said.append(f"{dataset}: fewer than {counted(len(config.seeds), 'seed')}: {listed(each)}.")
    return said or ["Every row is there, with all its seeds, and no search was cut."]


def short_of_seeds(there: pl.DataFrame, config: StudyConfig) -> dict[str, int]:
    """The models of these figures that have fewer seeds than they should, and how many."""
    alike = {each.model for each in select((), config.widths) if each.deterministic}
    least = there.group_by("model", maintain_order=True).agg(pl.col("seeds").min())
    return {model: seeds for model, seeds in least.iter_rows() if seeds < len(config.seeds) and model not in alike}


def _datasets(found: StudyTables) -> Iterable[str]:
    return found.tests["dataset"].unique(maintain_order=True)


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def protocol(found: StudyTables, config: StudyConfig) -> list[str]:
    """How the figures were made, in sentences."""
    granted, budget = (_range(found.costs[name]) for name in ("granted", "budget"))
    granted += " trial" if granted == "1" else " trials"
    alone = [each.model for each in select((), config.widths) if each.role == "ours" and each.trials is not None]
    alone = [model for model in alone if model in set(found.figures["model"])]
    return [
        "Protocol honest: settings and epochs from validation (a seeded tenth of each user's training items), then a "
        "refit on all of train, and test touched once. One split for all models and seeds.",
        f"Each search (Optuna, TPE) maximises validation NDCG@20, mean over the widths, by {granted} at most, "
        f"the same for all with something to choose, within {budget} s, summed over its trials.",
        *([f"By its own search on the same validation part, not by Optuna: {listed(alone)}."] if alone else []),
        f"Means and 95 % intervals (Student's t) over {counted(len(config.seeds), 'seed')}; EASE and popularity do "
        "not depend on a seed and have no width: they stand in the widest column.",
        "Ours is compared with the best row at each width, picked on test in that row's favour, user by user, each "
        "user's figure averaged over the seeds; a sign-flip permutation test, Holm's correction over the widths and "
        "metrics of a data set. It speaks of other users, not of other seeds.",
        f"Seconds: search is the sum over the trials {_clock(found)}, in processes of one thread; fit is that of one "
        f"fit with its settings known{_timed(found)}."
        + (" Where no search is given, the fit includes it." if found.costs["search_seconds"].null_count() else ""),
    ]


def _range(column: pl.Series) -> str:
    values: Sequence[float] = sorted(set(column.drop_nulls()))
    return " to ".join(f"{value:g}" for value in dict.fromkeys([*values[:1], *values[-1:]])) or "no"


def _clock(found: StudyTables) -> str:
    return "of CPU" if set(found.costs["device"]) == {"cpu"} else "of CPU, or on a GPU of the wall"


def _timed(found: StudyTables) -> str:
    timed = found.costs.drop_nulls("timed_threads")
    if len(timed) < len(found.costs):
        return ", likewise"
    return f", on the wall, alone on {_range(timed['timed_threads'])} threads"
