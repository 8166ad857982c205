"""Tables of a federated run: accuracy by client group and width, and what it took to get there."""

from __future__ import annotations

import polars as pl

from mrl.errors import RunError
from mrl.evaluation import Evaluation
from mrl.federated.clients import Population
from mrl.runs import Run

CLIENTS = "clients.csv"
MEGABYTE = 1e6


def by_client(result: Evaluation, population: Population, *, moment: str, round: int) -> pl.DataFrame:
    """Metrics by the width of the users' clients: moment, round, group, width, metric, k, users, value.

    group: the width that clients hold; null for all of them. At a width beyond their own, clients use their own.
    result: by user.
    """
    groups = pl.Series("group", population.widths[population.owner].numpy())
    table = result.per_user.with_columns(group=groups.gather(result.per_user["user"]))
    keys = ["width", "metric", "k"]
    means = pl.col("value").len().alias("users"), pl.col("value").mean()
    parts = [
        table.group_by(keys, maintain_order=True).agg(*means).with_columns(group=pl.lit(None, pl.Int64)),
        table.group_by("group", *keys, maintain_order=True).agg(*means).sort("group", maintain_order=True),
    ]
    columns = ["group", *keys, "users", "value"]
    return pl.concat(part.select(columns) for part in parts).select(
        pl.lit(moment).alias("moment"), pl.lit(round).alias("round"), pl.all()
    )


def client_table(run: Run) -> pl.DataFrame:
    """clients.csv of a federated run (`by_client`), of the best round on validation and of the last one."""
    path = run.path / CLIENTS
    if not path.is_file():
        raise RunError(f"{run.path}: is no federated run (no {CLIENTS}); give one of mrl.federated.fit_federated")
    return pl.read_csv(path, schema_overrides={"group": pl.Int64, "width": pl.Int64})


def traffic(run: Run) -> pl.DataFrame:
    """Validation and bytes round by round: epoch, value (of the metric that chooses), up, down, megabytes, seconds.

    up, down: megabytes of the round, mean over all clients, those that took no part in it included; megabytes: both,
    of all rounds so far. value: of users at the width of their client; null where a round was not validated.
    """
    settings = run.config["federated"]
    metric = f"{settings['monitor']}_w{settings['widths'][-1]}"
    rows = run.history.filter(pl.col("phase") == "search")
    clients = settings["groups"] or len(run.user_ids)
    value = pl.col(metric) if metric in rows.columns else pl.lit(None, pl.Float64)
    per_client = [(pl.col(f"bytes_{way}") / clients / MEGABYTE).alias(way) for way in ("up", "down")]
    table = rows.select("epoch", value.alias("value"), *per_client, "seconds")
    return table.with_columns(megabytes=(pl.col("up") + pl.col("down")).cum_sum())
