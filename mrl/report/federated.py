"""Federations compared: methods, baselines and the central model, by client group and width, and what they moved.

What `notebooks/federated.ipynb` calls, and the study behind `reports/federated.csv`. Whatever is chosen, the round
included, is chosen on validation; test is looked at once, at the round that was chosen and at the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from mrl.config import ELSEWHERE
from mrl.data import Interactions, dataset_name, load_data
from mrl.errors import RunError
from mrl.evaluation import evaluate
from mrl.federated import FederatedConfig, client_table, fit_federated, make_clients, traffic
from mrl.federated.config import Scenario
from mrl.federated.tables import by_client
from mrl.parameters import PathText, settings
from mrl.report.paper import write_beside
from mrl.report.stages import PROJECT
from mrl.runs import Run, load, run_path
from mrl.sweep import finished
from mrl.train import fit

K = 20
METRICS = ("recall", "ndcg")
CENTRAL = "central"
TITLES = {"closed_form": "closed form", "hetefedrec": "HeteFedRec", "fedmrl": "FedMRL"}
SCHEMA = {
    "dataset": pl.String, "model": pl.String, "moment": pl.String, "group": pl.Int64, "width": pl.Int64,
    "metric": pl.String, "users": pl.Int64, "seeds": pl.Int64, "mean": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "of_central": pl.Float64, "round": pl.Float64, "rounds_to_95": pl.Float64,
    "megabytes_to_95": pl.Float64, "megabytes": pl.Float64,
}  # fmt: skip


@settings
class ComparisonConfig(FederatedConfig):
    """Parameters of `notebooks/federated.ipynb`: those of `FederatedConfig`, and what stands beside it.

    beside: further scenarios that are run. table: the CSV file of the comparison, empty for comparison.csv in the run.
    figure: where the figure is saved, without the ending; empty for traffic in the run.
    """

    beside: tuple[Scenario, ...] = ("narrow", "wide", "alone", "central")
    table: PathText = ""
    figure: PathText = ""

    def federations(self) -> list[FederatedConfig]:
        """The federation itself, then those beside it, each in a run directory of its own."""
        own = {name: value for name, value in self.to_dict().items() if name not in ("beside", "table", "figure")}
        others = [{"scenario": each, "run_dir": "", "name": ""} for each in self.beside if each != self.scenario]
        return [FederatedConfig(**own), *(FederatedConfig(**(own | other)) for other in others)]

    def table_path(self, run: Run) -> Path:
        return Path(self.table) if self.table else run.path / "comparison.csv"

    def figure_stem(self, run: Run) -> Path:
        return Path(self.figure) if self.figure else run.path / "traffic"


def fit_all(configs: Iterable[FederatedConfig], *, progress: bool = True) -> list[Run]:
    """The runs of some federations, in order; what is there with the same settings and data is not trained again."""
    runs, data, of = [], None, None
    for config in configs:
        source = (config.dataset, config.seed, json.dumps(config.data, sort_keys=True))
        if of != source:  # one after the other mostly have the same
            data, of = load_data(config.training), source
        runs.append(_finished(config, data) or fit_federated(config, data, progress=progress))
    return runs


def _finished(config: FederatedConfig, data: Interactions) -> Run | None:
    """The run of these settings and data, where there is one."""
    try:
        run = load(run_path(config.training))
    except RunError:
        return None
    made, wanted = run.config.get("federated", {}), json.loads(json.dumps(config.to_dict()))
    if config.alpha0 is None:
        wanted["alpha0"] = made.get("alpha0")
    is_same = all(made.get(name) == value for name, value in wanted.items() if name not in ELSEWHERE)
    return run if is_same and run.environment["fingerprint"] == data.fingerprint else None


def model_of(run: Run) -> str:
    """What a run is called in tables: its method, with the scenario where that is not mixed; alone; central."""
    config = run.config["federated"]
    scenario = config["scenario"]
    if scenario in ("alone", CENTRAL):
        return CENTRAL if scenario == CENTRAL else "each client alone"
    method = TITLES.get(config["method"], config["method"])
    return method if scenario == "mixed" else f"{method}, {scenario}"


def compare_runs(runs: Sequence[Run], *others: pl.DataFrame) -> pl.DataFrame:
    """Recall and NDCG at 20 by client group and width, means over seeds, beside the central model: `SCHEMA`.

    moment: best (round on validation) or last. group: the width that clients hold, null for all. low, high: over seeds.
    of_central: the mean as a share of that of the central model, of the same users at the same width, at its best.
    round, rounds_to_95, megabytes_to_95 and megabytes: means over seeds; until 95 % of the best validation value, and
    until the round of the row, a client, up and down together. others: further rows, of `central_recipe`.
    """
    parts = [*others]
    for run in runs:
        moved = traffic(run)
        cost = cost_to_reach(moved)
        table = client_table(run).with_columns(
            dataset=pl.lit(run.metrics["dataset"][0]), model=pl.lit(model_of(run)), seed=pl.lit(run.config["seed"]),
            rounds_to_95=pl.lit(cost["rounds"], pl.Float64), megabytes_to_95=pl.lit(cost["megabytes"], pl.Float64),
        )  # fmt: skip
        megabytes = moved.select(pl.col("epoch").alias("round"), "megabytes")
        parts.append(table.join(megabytes, on="round", how="left", maintain_order="left"))
    table = pl.concat(parts, how="diagonal_relaxed").filter(pl.col("metric").is_in(METRICS), k=K)
    keys = ["dataset", "model", "moment", "group", "width", "metric"]
    value, costs = pl.col("value"), ("round", "rounds_to_95", "megabytes_to_95", "megabytes")
    table = table.group_by(keys, maintain_order=True).agg(
        pl.col("users").max(), value.len().alias("seeds"), value.mean().alias("mean"), value.min().alias("low"),
        value.max().alias("high"), *(pl.col(name).cast(pl.Float64).mean() for name in costs),
    )  # fmt: skip
    same = ["dataset", "group", "width", "metric"]
    central = table.filter(model=CENTRAL, moment="best").select(*same, central="mean")
    table = table.join(central, on=same, how="left", nulls_equal=True, maintain_order="left")
    table = table.with_columns(of_central=pl.col("mean") / pl.col("central"))
    return table.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()).with_columns(
        cs.float().round_sig_figs(5)
    )


def curves_of(runs: Sequence[Run]) -> pl.DataFrame:
    """`mrl.federated.traffic` of the runs with rounds, one below the other: dataset, model, metric, seed and its
    columns."""
    return pl.concat(
        traffic(run).select(
            pl.lit(run.metrics["dataset"][0]).alias("dataset"), pl.lit(model_of(run)).alias("model"),
            pl.lit(run.config["federated"]["monitor"]).alias("metric"), pl.lit(run.config["seed"]).alias("seed"),
            pl.all(),
        )
        for run in runs
        if run.config["federated"]["scenario"] != "alone"
    )  # fmt: skip


def describe_comparison(table: pl.DataFrame) -> str:
    """What clients, at the width that they hold, lose against the central model at its widest, and what that took.

    Markdown. table: of `compare_runs`, of one data set.
    """
    rows = table.filter(moment="best", metric="ndcg").filter(pl.col("width") == pl.col("width").max())
    all_users = rows.filter(pl.col("group").is_null())
    best = {row["model"]: row for row in all_users.iter_rows(named=True)}
    central = best.pop(CENTRAL, None)
    lines = []
    for model, row in best.items():
        text = f"- {model}: NDCG@{K} {row['mean']:.4f}"
        if central:
            text += f", {100 * row['mean'] / central['mean']:.0f} % of the central model's {central['mean']:.4f}"
        if row["megabytes_to_95"]:
            text += f"; 95 % of its best by round {row['rounds_to_95']:.0f}, {row['megabytes_to_95']:.2f} MB a client"
        lines.append(f"{text}.")
    return "\n".join(lines)


def central_recipe(config: FederatedConfig, folder: Path, *, progress: bool = True) -> tuple[Run, pl.DataFrame]:
    """The recipe least_squares on the same data and widths, a central model that is not of this wing; and its rows for
    `compare_runs`, by the same client groups."""
    training = config.training.with_settings(run_dir=str(folder), name="least-squares", per_user=False)
    run = finished(training) or fit(training, progress=progress)
    data = load_data(training).merge_valid()
    result = evaluate(run.users, run.items, data, split="test", widths=config.widths, ks=(K,), per_user=True)
    rows = by_client(result, make_clients(config, data.train), moment="best", round=0)
    facts = {"dataset": data.name, "model": "least squares, central", "seed": config.seed}
    return run, rows.with_columns(**{name: pl.lit(value) for name, value in facts.items()})


def study(
    datasets: Sequence[str] = ("ml-100k", "phone"),
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = ("closed_form",),
    *,
    folder: Path = Path("runs/federated"),
    scenarios: Sequence[Scenario] = ("mixed", "narrow", "wide", "alone", "central"),
    exponents: Sequence[float] = (0.0, 1.0),
    progress: bool = True,
    **options: Any,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every method and baseline on every data set and seed: `compare_runs` and `curves_of` of all of them.

    Settings come from validation: alpha0 and l2 of each data set and seed are those that the recipe least_squares has
    found there, and l2_width_exponent that of `exponents` with the best round there, for the central model and the
    closed form, but where all are narrow. Scenarios alone and central are run once, whatever the methods. What is in
    `folder` already is not run again. options: further settings of `FederatedConfig`.
    """
    runs, others = [], []
    for dataset in datasets:
        for seed in seeds:
            place = folder / dataset_name(dataset)
            config = FederatedConfig(**({"dataset": dataset, "seed": seed} | options))
            recipe, rows = central_recipe(config, place / f"least-squares-{seed}", progress=progress)
            others.append(rows)
            chosen = recipe.environment["chosen"]
            config = replace(config, alpha0=chosen["alpha0"], l2=chosen["frequency_l2"])
            plan = {}
            for method in methods:
                for scenario in scenarios:
                    each = replace(config, method=method, scenario=scenario)
                    plan.setdefault(each.run_name, each)
            for name, each in plan.items():
                is_closed = each.method == "closed_form" and each.scenario not in ("alone", "narrow")
                tried = [
                    replace(each, l2_width_exponent=exponent, run_dir=str(place / f"{name}-{exponent:g}-{seed}"))
                    for exponent in (exponents if is_closed else exponents[:1])
                ]
                runs.append(max(fit_all(tried, progress=progress), key=_best_on_validation))
    return compare_runs(runs, *others), curves_of(runs)


def _best_on_validation(run: Run) -> float:
    return traffic(run)["value"].max() or 0.0


def write_comparison(table: pl.DataFrame, path: Path = PROJECT / "reports" / "federated.csv") -> Path:
    """Write a table of `compare_runs`, beside the rows of other data sets that the file has; its path."""
    return write_beside(table, path, SCHEMA, "federations")


def cost_to_reach(table: pl.DataFrame, share: float = 0.95) -> dict[str, float | None]:
    """The first round whose value is at least a share of the best one, and the megabytes a client had moved by then.

    table: of `traffic`. Both None where nothing was validated.
    """
    values = table.drop_nulls("value")
    reached = values.filter(pl.col("value") >= share * pl.col("value").max())
    if not len(reached):
        return {"rounds": None, "megabytes": None}
    return {"rounds": reached["epoch"][0], "megabytes": reached["megabytes"][0]}
