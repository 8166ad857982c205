"""The published method beside the numbers measured with its authors' code, under the `paper` protocol.

Models by name: `mf-dns-mns` (the method), `mf-dns-shared` (one negative for all levels), `lightgcn2-dns-mns`, and
`mf-dns-alone<width>`, a plain model trained at one width. Settings as in Lai et al., arXiv 2406.07432. Their code picks
the epoch by Recall@10 of the full width on test; here it is Recall@20, averaged over the widths, since all are shown.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
from pydantic import NonNegativeInt, PositiveInt

from mrl.config import TrainConfig
from mrl.parameters import PathText, settings
from mrl.report.stages import PROJECT
from mrl.runs import Run
from mrl.widths import DEFAULT_WIDTHS

PUBLISHED = PROJECT / "reports" / "published.csv"
ALONE = "mf-dns-alone"
FEW_CANDIDATES = {"ml100k": 8}  # M is 16 elsewhere


@settings
class ReproductionConfig:
    """Parameters of `notebooks/reproduce.ipynb`: data sets for each model, seeds, and where things go.

    Empty `anchors` and `report` mean the project's own files under `reports/`.
    """

    mns_datasets: tuple[PathText, ...] = ("ml100k", "tool", "phone")
    shared_datasets: tuple[PathText, ...] = ("ml100k", "tool", "phone")
    graph_datasets: tuple[PathText, ...] = ("ml100k", "tool")
    alone_datasets: tuple[PathText, ...] = ("ml100k", "tool")
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    alone_seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    widths: tuple[PositiveInt, ...] = DEFAULT_WIDTHS
    epochs: PositiveInt = 300
    processes: NonNegativeInt = 0
    runs: PathText = "runs/reproduction"
    anchors: PathText = ""
    report: PathText = ""

    def configs(self) -> list[TrainConfig]:
        """Every run to make, the method's first."""
        wanted = [
            *(("mf-dns-mns", dataset, self.widths) for dataset in self.mns_datasets),
            *(("lightgcn2-dns-mns", dataset, self.widths) for dataset in self.graph_datasets),
            *(("mf-dns-shared", dataset, self.widths) for dataset in self.shared_datasets),
            *((f"{ALONE}{width}", dataset, (width,)) for dataset in self.alone_datasets for width in self.widths),
        ]
        return [
            TrainConfig(
                dataset=dataset,
                protocol="paper",
                backbone=model.split("-")[0].rstrip("2"),
                widths=widths,
                nested_negatives=not model.endswith("shared"),
                sampler={"candidates": FEW_CANDIDATES.get(dataset, 16)},
                epochs=self.epochs,
                early_stopping={"monitor": "recall@20"},
                seed=seed,
                name=model,
                run_dir=f"{self.runs}/{dataset}-{model}-{seed}",
            )
            for model, dataset, widths in wanted
            for seed in (self.alone_seeds if model.startswith(ALONE) else self.seeds)
        ]


def compare_with_anchors(runs: Iterable[Run], anchors: pl.DataFrame) -> pl.DataFrame:
    """One row a data set, model, width and metric: mean, low and high over seeds beside the measured anchor.

    Models trained alone at each width become one model, `mf-dns-alone`. `ratio` is mean / anchor, null where there is
    no anchor; `epoch_low` and `epoch_high` are the picked epochs.
    """
    metrics = pl.concat(
        run.metrics.filter(pl.col("split") == "test").with_columns(epoch=pl.lit(run.environment["best_epoch"]))
        for run in runs
    )
    keys = ["dataset", "model", "width", "metric", "k"]
    alone = pl.col("model").str.replace(rf"^{ALONE}\d+$", ALONE)
    anchors = anchors.with_columns(alone).select(*keys, pl.col("value", "low", "high", "seeds").name.prefix("anchor_"))
    return (
        metrics.with_columns(alone)
        .filter(pl.col("k") == 20, pl.col("metric").is_in(["recall", "ndcg"]))
        .group_by(keys)
        .agg(
            protocol=pl.col("protocol").first(),
            seeds=pl.len(),
            mean=pl.col("value").mean(),
            low=pl.col("value").min(),
            high=pl.col("value").max(),
            epoch_low=pl.col("epoch").min(),
            epoch_high=pl.col("epoch").max(),
        )
        .join(anchors, on=keys, how="left", validate="1:1")
        .with_columns(ratio=(pl.col("mean") / pl.col("anchor_value")).round(3))
        .with_columns(pl.col("mean", "low", "high").round(4))
        .sort("dataset", "model", "metric", "width", descending=[False, False, True, False])  # recall first
    )


def published_figures(dataset: str) -> list[dict]:
    """What others have published on this very split, as they measured it: model, width, metric, k, value, source.

    Empty where there is none, and in an installed package, which has no reports.
    """
    return pl.read_csv(PUBLISHED).filter(dataset=dataset).to_dicts() if PUBLISHED.exists() else []
