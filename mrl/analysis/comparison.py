"""Runs side by side: loaded with their data checked, measured alike, and compared user by user.

A comparison is paired: the same users, the same test items. Intervals are bootstrapped over users and a sign-flip
permutation test gives p, corrected over the widths by Holm. Both speak of other users, not of other training seeds:
what another seed would have given is not in them. Test is reported here and nothing is chosen on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mrl.analysis.profile import accuracy_by_activity, add_share_kept, known_positives, profile_lists, vector_costs
from mrl.config import TrainConfig
from mrl.data import Interactions, load_data, pick_device
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate
from mrl.parameters import PathText, settings
from mrl.runs import Run, load
from mrl.words import listed, model_name

MAX_NUMBERS = 2**22  # numbers drawn at once by a resampling: 32 MiB


def _as_tuple(value: object) -> object:
    """A list as the tuple that it is checked as; a single path, natural on a command line, as a tuple of one."""
    if isinstance(value, list | tuple) and not value:
        raise ConfigError("runs=[]: give at least one run directory, such as runs/ml-100k-mf-dns-mns-0")
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


@settings
class EvaluateConfig:
    """The parameters of `notebooks/evaluate.ipynb`.

    runs: run directories; the first is the main one, the others are compared with it. dataset: where the data are now,
    if not where the runs say. between: widths besides the trained ones. k: length of the lists. metric: of the figures;
    recall and ndcg are always written. resamples: of the bootstrap and of the permutation test, drawn with seed.
    device: auto, cpu, cuda, cuda:1, … out_dir: where the tables go; empty for `evaluation` in the first run.
    """

    runs: Annotated[tuple[PathText, ...], BeforeValidator(_as_tuple)]
    dataset: PathText = ""
    between: tuple[PositiveInt, ...] = (6, 12, 24, 48)
    k: PositiveInt = 20
    metric: Literal["recall", "precision", "ndcg", "hit", "mrr", "map"] = "recall"
    resamples: Annotated[int, Field(ge=100)] = 2000
    seed: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    out_dir: PathText = ""


def load_runs(paths: Iterable[str], dataset: str = "") -> tuple[dict[str, Run], Interactions]:
    """Runs by the name they have in tables (see `name_runs`), and their data, loaded again by the first one's settings.

    dataset: a name or path in place of the one in the settings. Runs that differ only in what was held out for
    validation (their seed, their protocol) go together. Raises RunError where the data are not what a run was trained
    on, where runs have different users, items or test sets, and where the first has no vectors.
    """
    runs = [load(path) for path in dict.fromkeys(paths)]
    if not runs[0].weights:
        raise RunError(f"{runs[0].path}: has no vectors, so no widths to evaluate; put a run that has them first")
    data = load_run_data(runs[0], dataset)
    for run in runs[1:]:
        if run.environment.get("fingerprint") == data.fingerprint:
            continue
        other = load_run_data(run, dataset)
        same_ids = all(np.array_equal(getattr(other, ids), getattr(data, ids)) for ids in ("user_ids", "item_ids"))
        if not same_ids or other.test != data.test or known_positives(other) != known_positives(data):
            raise RunError(
                f"{run.path}: was tested on other data ({other.name} {other.fingerprint[:12]}) than {runs[0].path} "
                f"({data.name} {data.fingerprint[:12]}); compare runs of the same data set and split"
            )
    return name_runs(runs), data


def name_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by their model's name, by their folder's where two share it, by their path where that does not help."""
    models = [str(run.metrics["model"][0]) for run in runs]
    names = [model if models.count(model) == 1 else run.path.name for model, run in zip(models, runs, strict=True)]
    if len(set(names)) < len(names):
        names = [run.path.as_posix() for run in runs]
    return dict(zip(names, runs, strict=True))


def load_run_data(run: Run, dataset: str = "") -> Interactions:
    """The data that a run was trained on, by its own settings; RunError where they are not the same any more."""
    names = {field.name for field in fields(TrainConfig)}  # controls have more
    try:
        config = TrainConfig(**{name: value for name, value in run.config.items() if name in names})
    except ConfigError as error:
        raise RunError(f"{run.path / 'config.json'}: {error}; restore a copy or train again") from None
    data = load_data(replace(config, dataset=dataset) if dataset else config)
    trained_on = run.environment.get("fingerprint")
    if data.fingerprint != trained_on:
        raise RunError(
            f"{run.path}: was trained on data with fingerprint {str(trained_on)[:12]}, {data.name} now has "
            f"{data.fingerprint[:12]}; give the data it was trained on (dataset=…), or train again"
        )
    return data


@dataclass(frozen=True)
class RunTables:
    """The tables of one run; those of a model without vectors are empty, and its accuracy has width null.

    accuracy: dataset, model, protocol, seed, split, width, trained, metric, k, value, kept. groups: model, grouping,
    group, width, metric, k, users, value. lists: model, width, metric, k, value. costs: model and the columns of
    `mrl.analysis.profile.vector_costs`. per_user: user, width, metric, k, value; None where nothing is by user.
    """

    accuracy: pl.DataFrame
    groups: pl.DataFrame
    lists: pl.DataFrame
    costs: pl.DataFrame
    per_user: pl.DataFrame | None


def measure_run(
    name: str, run: Run, data: Interactions, *, widths: Sequence[int] = (), k: int = 20, device: str = "auto"
) -> RunTables:
    """Everything about one run on the test set: at the widths it was trained at, and those of `widths` that it has."""
    facts = {column: run.metrics[column][0] for column in ("dataset", "protocol", "seed")} | {"model": name}
    metrics = run.metrics.filter(pl.col("split") == "test", pl.col("k") == k)
    order = ("dataset", "model", "protocol", "seed", "split", "width", "trained", "metric", "k", "value", "kept")
    if not run.weights:
        accuracy = metrics.with_columns(
            pl.col("width").cast(pl.Int64),
            model=pl.lit(name),
            trained=pl.lit(None, dtype=pl.Boolean),
            kept=pl.lit(None, dtype=pl.Float64),
        )
        empty = pl.DataFrame()
        per_user = run.per_user
        if per_user is not None:
            columns = ("user", "width", "metric", "k", "value")
            per_user = per_user.filter(pl.col("k") == k).select(*columns).cast({"width": pl.Int64})
        return RunTables(accuracy.select(order), empty, empty, empty, per_user)
    place = pick_device(device)
    users, items = run.users.to(place), run.items.to(place)
    trained = run.config.get("widths") or [users.shape[1]]
    widths = sorted({*trained, *(width for width in widths if width <= users.shape[1])})
    result = evaluate(users, items, data, widths=widths, ks=(k,), per_user=True)
    accuracy = add_share_kept(
        result.tidy(**facts).with_columns(pl.col("seed").cast(pl.Int64), trained=pl.col("width").is_in(trained))
    ).select(order)
    lists, by_popularity = profile_lists(users, items, data, widths=widths, k=k)
    groups = pl.concat([accuracy_by_activity(result.per_user, data), by_popularity], how="diagonal_relaxed")
    named = [
        table.select(pl.lit(name).alias("model"), pl.all())
        for table in (groups, lists, vector_costs(widths, len(items)))
    ]
    return RunTables(accuracy, *named, result.per_user)


def compare(
    first: pl.DataFrame,
    second: pl.DataFrame,
    *,
    metrics: Sequence[str] = ("recall", "ndcg"),
    resamples: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """Two models, user by user, at every width that both have.

    first, second: columns user, width, metric, k, value, as `RunTables.per_user`; of the same users. A second model
    without widths (null) is compared with every width of the first.
    Returns columns width, metric, k, users, mean, other_mean, difference (first − second), low, high (95 % percentile
    bootstrap over users), p (two-sided sign-flip permutation test), p_holm (over the widths of the metric).
    Raises RunError where there is no common width, or the users are not the same.
    """
    if second["width"].is_null().all():
        second = second.drop("width").join(first.select(pl.col("width").unique()), how="cross")
    keys = ["user", "width", "metric", "k"]
    paired = first.join(second, on=keys, suffix="_other", validate="1:1").filter(pl.col("metric").is_in(metrics))
    numbers_of_users = {table["user"].n_unique() for table in (first, second, paired)}
    if not len(paired) or len(numbers_of_users) > 1:
        raise RunError("the two models have no width, metric and users in common; evaluate both on the same data")
    tables = []
    for (metric, k), part in paired.sort("width", "user").group_by("metric", "k", maintain_order=True):
        widths = part["width"].unique().sort().to_list()
        values, other_values = (part[name].to_numpy().reshape(len(widths), -1) for name in ("value", "value_other"))
        difference = values - other_values  # (L, n)
        low, high = interval(difference, resamples=resamples, rng=np.random.default_rng([seed, 0]))
        p = [sign_flip(row, resamples=resamples, rng=np.random.default_rng([seed, 1])) for row in difference]
        columns = {"width": widths, "metric": metric, "k": k, "users": difference.shape[1]}
        columns |= {"mean": values.mean(1), "other_mean": other_values.mean(1), "difference": difference.mean(1)}
        columns |= {"low": low, "high": high, "p": p, "p_holm": multipletests(p, method="holm")[1]}
        tables.append(pl.DataFrame(columns))
    return pl.concat(tables)


def interval(difference: np.ndarray, *, resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile bootstrap interval of each row's mean; the rows (L, n) share the drawn users."""
    if difference.shape[1] < 2:
        return np.full(len(difference), -np.inf), np.full(len(difference), np.inf)
    result = stats.bootstrap(
        (difference,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=max(1, MAX_NUMBERS // difference.size),
        method="percentile",
        rng=rng,
    )
    return result.confidence_interval.low, result.confidence_interval.high


def sign_flip(difference: np.ndarray, *, resamples: int, rng: np.random.Generator) -> float:
    """p that a mean is as far from 0 as that of `difference` (n,) where each user's sign is a coin toss; two-sided.

    Exact where there are at most `resamples` ways to toss. Zeros have no sign and drop out.
    """
    tossed = difference[difference != 0]
    if not len(tossed):
        return 1.0
    options: dict = {"n_resamples": resamples, "batch": max(1, MAX_NUMBERS // len(tossed)), "vectorized": True}
    if 2 ** len(tossed) <= resamples:
        # one observation is too few for scipy, and a zero more changes no mean's rank
        tossed = tossed if len(tossed) > 1 else np.append(tossed, 0.0)
        test = stats.permutation_test((tossed,), np.mean, permutation_type="samples", **options)
    else:  # the same test; scipy draws permutations user by user, which takes minutes for many users

        def toss(size: Sequence[int]) -> np.ndarray:
            return np.where(rng.integers(0, 2, size, dtype=np.int8), tossed, -tossed)

        test = stats.monte_carlo_test(tossed, toss, np.mean, **options)
    return float(test.pvalue)


def compare_all(
    measured: dict[str, RunTables], *, metrics: Sequence[str] = ("recall", "ndcg"), resamples: int = 2000, seed: int = 0
) -> pl.DataFrame:
    """`compare` of the first model with each other one that has metrics by user: columns model, other in front."""
    (name, main), *others = measured.items()
    tables = [pl.DataFrame()]
    for other, run_tables in others:
        if main.per_user is None or run_tables.per_user is None:
            continue
        table = compare(main.per_user, run_tables.per_user, metrics=metrics, resamples=resamples, seed=seed)
        tables.append(table.select(pl.lit(name).alias("model"), pl.lit(other).alias("other"), pl.all()))
    return pl.concat(tables, how="diagonal")


def describe_comparison(table: pl.DataFrame, *, level: float = 0.05) -> str:
    """From `compare_all`, of one metric and one other model: where the first is ahead, behind, or neither; Markdown."""
    if not len(table):
        return ""
    table = table.sort("width")
    significant = pl.col("p_holm") < level
    ahead, behind = (table.filter(significant, sign) for sign in (pl.col("difference") > 0, pl.col("difference") < 0))
    unsure = table.filter(~significant)
    name, other = (f"*{model_name(table[column][0])}*" for column in ("model", "other"))
    metric = f"{table['metric'][0]}@{table['k'][0]}"

    def where(part: pl.DataFrame) -> str:
        if len(part) == len(table):
            return "at every width"
        return f"at width{'s' * (len(part) > 1)} {listed([str(width) for width in part['width']])}"

    parts = []
    for part, word, sign in ((ahead, "higher", 1), (behind, "lower", -1)):
        if len(part):
            largest = part.row(int(part["difference"].abs().arg_max()), named=True)
            low, high = sorted((sign * largest["low"], sign * largest["high"]))
            gap = f"by up to {abs(largest['difference']):.4f}, at width {largest['width']}" if len(part) > 1 else ""
            gap = gap or f"by {abs(largest['difference']):.4f}"
            parts.append(f"has the {word} {metric} {where(part)} ({gap}; 95 % interval {low:.4f} to {high:.4f})")
    if len(unsure):
        parts.append(f"cannot be told from it {where(unsure)}")
    text = f"Compared with {other}, {name} {listed(parts)}. Both had the same {table['users'][0]:,} users; "
    return text + f"Holm's correction over {len(table)} widths."
