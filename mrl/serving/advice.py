"""Which index to build: by measurements of this run on this machine, within limits that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from mrl.data import Interactions
from mrl.errors import ConfigError
from mrl.parameters import PathText, settings
from mrl.runs import Run
from mrl.serving.index import Index
from mrl.serving.measure import SETTINGS, candidates, describe, measure, pareto
from mrl.words import percent

_ALIKE, _AS_FAST = 1.1, 1.25  # times that differ by less are not told apart; or are not worth an index


@settings
class ServeConfig:
    """The parameters of `notebooks/serve.ipynb`.

    run: a run directory. recall: the least share of the exact list. latency_ms, bytes: the most of a single query and
    of an item; 0 for any. k: length of the lists. threads: of a query. enlarge: measure with so many items like the
    run's instead; 0 for its own. index: where the advised index is published; empty for `index` in the run. table: to
    which the measurements are added, such as reports/serving.csv; figure: without the ending; empty for neither.
    """

    run: PathText
    recall: Annotated[float, Field(gt=0, le=1)] = 0.98
    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    bytes: Annotated[float, Field(ge=0)] = 0.0
    k: PositiveInt = 20
    threads: PositiveInt = 1
    enlarge: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    index: PathText = ""
    table: PathText = ""
    figure: PathText = ""


@dataclass(frozen=True, eq=False)
class Advice:
    """What `advise` recommends. settings: of `Index`. why: one sentence. table: all measured; row: the advised one."""

    settings: dict[str, Any]
    why: str
    table: pl.DataFrame
    row: int

    def index(self, run: Run) -> Index:
        """The index that is advised."""
        return Index(run, **self.settings)


def advise(
    run: Run,
    recall: float = 0.98,
    latency_ms: float | None = None,
    bytes: float | None = None,
    *,
    k: int = 20,
    threads: int = 1,
    data: Interactions | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Advice:
    """The fastest index that finds a share `recall` of the exact k best, in time, in memory.

    recall: the least mean overlap with the exact list at full width, on users to choose by; others are reported.
    latency_ms: the most that the median of single queries may take. bytes: the most an item may take in memory.
    data: see `measure`. settings: those to choose from; by default `candidates`.
    Where the fastest are within a tenth, the one with the fewest bytes is taken, since times are no more exact.
    Raises ConfigError where nothing fits, with what comes nearest.
    """
    for name, value, top in (("recall", recall, 1), ("latency_ms", latency_ms, None), ("bytes", bytes, None)):
        if value is not None and not (value > 0 and (top is None or value <= top)):
            raise ConfigError(f"{name}={value!r}: must be above 0{' and at most 1' * (top is not None)}")
    made = candidates(run, k, recall, seed=seed) if settings is None else list(settings)
    table = measure(run, made, data, k=k, threads=threads, seed=seed)
    table = table.with_columns(pareto(table), number=pl.int_range(len(table)))
    limits = {
        f"overlap of {recall:g}": pl.col("overlap") >= recall,
        f"{latency_ms} ms": pl.lit(True) if latency_ms is None else pl.col("p50_ms") <= latency_ms,
        f"{bytes} bytes an item": pl.lit(True) if bytes is None else pl.col("bytes_per_item") <= bytes,
    }
    fitting = table.filter(pl.all_horizontal(*limits.values()))
    if not len(fitting):
        met = sum((limit.cast(pl.Int64) for limit in limits.values()), pl.lit(0))
        best = table.sort(met, "overlap", descending=True).row(0, named=True)
        asked = [limit for limit in limits if not limit.startswith("None")]
        raise ConfigError(f"nothing measured reaches {' within '.join(asked)}; the nearest is {_numbers(best)}")
    quick = fitting.filter(pl.col("p50_ms") <= fitting["p50_ms"].min() * _ALIKE)
    row = quick.sort("bytes_per_item", "p50_ms").row(0, named=True)
    exact = table.filter(bits=32, backend="plain").filter(pl.col("shortlist").list.len() == 0)
    exact = exact.filter(pl.col("widths").list.first() == run.items.shape[1])
    why = _sentence(row, exact, recall, run)
    return Advice(made[row["number"]] | {"threads": threads}, why, table.drop("number"), row["number"])


def _numbers(row: Mapping[str, Any]) -> str:
    return (
        f"{describe(row)}: {percent(row['overlap_reported'])} of the exact list, {row['p50_ms']:.2g} ms, "
        f"{row['bytes_per_item']:.0f} bytes an item"
    )


def _sentence(row: Mapping[str, Any], exact: pl.DataFrame, recall: float, run: Run) -> str:
    """What to take and why, from the measured rows alone."""
    said = f"Of {len(run.item_ids):,} items take {_numbers(row)}"
    if not len(exact):
        return said + "."
    whole = exact.row(0, named=True)
    if all(row[name] == whole[name] for name in SETTINGS):
        return f"{said}: the exact scan; nothing that finds {percent(recall)} of it is faster here."
    times = whole["p50_ms"] / row["p50_ms"]
    if times < _AS_FAST:
        memory = f"{row['bytes_per_item']:.0f} bytes an item in place of {whole['bytes_per_item']:.0f}"
        return f"{said}. The exact scan is as fast ({whole['p50_ms']:.2g} ms): all that is saved is memory, {memory}."
    cost = f"{whole['p50_ms']:.2g} ms ({times:.1f} ×) and {whole['bytes_per_item']:.0f} bytes"
    return f"{said}. The exact scan takes {cost}."
