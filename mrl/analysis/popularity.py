"""What it costs and gives to project popularity out of the vectors of a run, and what can still be read from them.

`mrl.popularity` has the projection. The test set is popular itself, so accuracy on it falls as popularity goes: the
table is to be read beside the tail, the exposure of items and coverage. It is reported, and no γ is chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mrl.analysis.profile import profile_lists
from mrl.data import Interactions, pick_device
from mrl.evaluation import evaluate
from mrl.popularity import ENOUGH, find_popularity, project
from mrl.runs import Run
from mrl.words import listed, metric_title, percent

GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("recall", "ndcg", "tail_recall", "popularity", "gini", "coverage")
NETWORK = {"hidden_layer_sizes": 64, "learning_rate_init": 0.01, "early_stopping": True}  # small
SAMPLE = 4000  # items at most that it sees


def measure_popularity(
    run: Run, data: Interactions, *, gammas: Sequence[float] = GAMMAS, k: int = 20, device: str = "auto"
) -> pl.DataFrame:
    """Both sides projected by each γ and as trained (0), on test, at the trained widths: columns gamma, width, metric,
    k, value.

    Metrics are METRICS: recall and ndcg; `tail_recall`, that of the less popular half of the items, which is missing
    where no test item is among them; and of what is recommended, see `mrl.analysis.profile.measure_exposure`, the mean
    popularity, the Gini index and coverage. Raises what `Run.popularity` raises.
    """
    found, place, tables = run.popularity, pick_device(device), []
    for gamma in sorted({0.0, *gammas}):
        vectors = [project(side, found.directions, gamma).to(place) for side in (run.users, run.items)]
        accuracy = evaluate(*vectors, data, widths=found.widths, ks=(k,)).table
        lists, groups = profile_lists(*vectors, data, widths=found.widths, k=k)
        tail = groups.filter(group="tail").with_columns(metric=pl.lit("tail_recall"))
        parts = [table.select("width", "metric", "k", "value") for table in (accuracy, tail, lists)]
        tables.append(pl.concat(parts, how="vertical_relaxed").with_columns(gamma=pl.lit(float(gamma))))
    table = pl.concat(tables).filter(pl.col("metric").is_in(METRICS)).select("gamma", "width", "metric", "k", "value")
    return table.sort(pl.col("metric").cast(pl.Enum(METRICS)), "gamma", "width")


def probe_popularity(run: Run, *, seed: int = 0) -> pl.DataFrame:
    """How much of log(1 + count) a prefix tells of held-out items: columns probe, width, before, after (R², γ 0 and 1).

    linear: of `mrl.popularity.find_popularity`. network: 64 hidden units, fitted to two thirds of the items (SAMPLE at
    most), from which the directions come, too, and tested on the others.
    """
    found, items, counts = run.popularity, run.items.numpy(), run.seen.item_counts.numpy()
    columns = {"width": found.widths, "before": found.before, "after": found.after}
    rows = np.random.default_rng(seed).permutation(len(items))[:SAMPLE]
    test, train = np.split(rows, [len(rows) // 3])
    target = np.log1p(counts)
    spread = target[train].std() or 1.0
    target = (target - target[train].mean()) / spread
    directions = find_popularity(items[train], counts[train], found.widths, seed=seed).directions
    read: dict[str, list] = {"width": list(found.widths), "before": [], "after": []}
    for column, gamma in (("before", 0), ("after", 1)):
        table = project(items, directions, gamma)
        for width in found.widths:
            network = MLPRegressor(**NETWORK, random_state=seed)
            with threadpool_limits(1):  # small, and the same bits every time
                network = make_pipeline(StandardScaler(), network).fit(table[train, :width], target[train])
                error = target[test] - network.predict(table[test, :width])
            total = ((target[test] - target[test].mean()) ** 2).sum()
            read[column].append(float(1 - (error**2).sum() / total) if total else 0.0)
    return pl.concat(
        pl.DataFrame(values).select(pl.lit(probe).alias("probe"), pl.all())
        for probe, values in (("linear", columns), ("network", read))
    )


def describe_popularity(table: pl.DataFrame) -> str:
    """From `measure_popularity`: what its largest γ keeps, costs and gives at the widest width."""
    rows = table.filter(pl.col("width") == pl.col("width").max()).sort("gamma")
    values = {metric: part["value"].to_list() for (metric,), part in rows.group_by("metric", maintain_order=True)}
    gammas, (width, k) = rows["gamma"].unique().sort().to_list(), rows.select("width", "k").row(0)
    recall, title = values["recall"], metric_title("recall", k)

    def both(metric: str, form: Callable[[float], str]) -> str:
        return f"{form(values[metric][-1])} (γ = {gammas[0]:g}: {form(values[metric][0])})"

    text = f"At γ = {gammas[-1]:g}, width {width}, {title} is {both('recall', '{:.4f}'.format)}"
    if "tail_recall" in values:
        text += f", that of the tail {both('tail_recall', '{:.4f}'.format)}"
    text += f"; a recommended item has {both('popularity', '{:,.0f}'.format)} interactions on average, and "
    text += f"{both('coverage', percent)} of the items are recommended to anybody."
    kept = [
        f"{percent(value / recall[0])} at γ = {gamma:g}" for gamma, value in zip(gammas[1:], recall[1:], strict=True)
    ]
    return text + (f" Of {title} as trained remain {listed(kept)}." if recall[0] > 0 else "")


def describe_probes(table: pl.DataFrame) -> str:
    """From `probe_popularity`: what a linear probe and a small neural network find, before and after."""
    parts = {probe: part for (probe,), part in table.group_by("probe", maintain_order=True)}

    def both(probe: str) -> str:
        ends = (f"{column.min():.3f} to {column.max():.3f}" for column in parts[probe].select("after", "before"))
        after, before = (end.replace("-0.000", "0.000") for end in ends)
        return f"R² {after} by width ({before} as trained)"

    linear, network = both("linear"), both("network")
    most = parts["network"]["after"].max()
    text = f"At γ = 1 a linear probe of held-out items reads log popularity with {linear}, a small neural network with "
    text += f"{network}."
    if most >= ENOUGH:
        text += " What is left tells popularity in ways that are not linear."
    return text
