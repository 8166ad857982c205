"""What an index costs and what it keeps: bytes, time and accuracy of many settings side by side.

Accuracy is told twice. The *overlap* is the share of the exact list at full width that is found, |found ∩ exact| / k,
which needs no held-out data; settings are chosen by it, on one half of the users, and reported on the other. Recall and
NDCG on held-out positives are what a user notices; they are reported and nothing is chosen by them.
Times are of one process on the machine at hand; what is compared was measured in the same call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from torch import Tensor

from mrl.data import Interactions, Positives
from mrl.evaluation import VectorRanking, evaluate_ranking
from mrl.runs import Run
from mrl.serving.codes import Codes
from mrl.serving.index import Index

SETTINGS = ("widths", "shortlist", "bits", "backend", "kind")
GRAPH_ITEMS = range(20_000, 300_000)  # where a graph may pay, and is built in minutes
_SAMPLE = 400  # queries to choose by, and as many to report
_TIMED = 300
_TESTED = 10_000  # users of Recall and NDCG at most


def overlaps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """(B,): |found ∩ exact| / |exact| of lists (B, k) and (B, k') of rows; -1 stands for nothing."""
    hits = (exact[:, :, None] == found[:, None, :]).any(2) & (exact >= 0)
    return hits.sum(1) / np.maximum((exact >= 0).sum(1), 1)


def shortlist_for(items: np.ndarray, queries: np.ndarray, width: int, bits: int, k: int, overlap: float) -> int:
    """The shortest list from which the exact k best come back to a share of `overlap`, for the mean of `queries`.

    items (I, D), queries (B, D): a scan of the first `width` dimensions in `bits` ranks all items, and the list has to
    reach as far as the best by all D dimensions lie. Two significant digits, rounded up.
    """
    codes = Codes.encode(np.ascontiguousarray(items[:, :width]), bits)
    scores, places = np.empty(len(items), np.float32), []
    best, _ = _exact(items, queries, k)
    for query, wanted in zip(queries, best, strict=True):
        codes.scan(query[:width], scores)
        places += [int((scores >= scores[item]).sum()) for item in wanted]
    needed = int(np.sort(places)[min(len(places) - 1, int(np.ceil(overlap * len(places))))])
    step = 10 ** max(0, len(str(needed)) - 2)
    return min(len(items), max(k, -(-needed // step) * step))


def candidates(
    run: Run, k: int = 20, overlap: float = 0.98, *, seed: int = 0, faiss: bool | None = None
) -> list[dict[str, Any]]:
    """Settings of `Index` that are worth measuring for a run: exact, coded, adaptive, a funnel, and those of faiss.

    Shortlists are as long as `overlap` asks for on a sample of users. faiss: None for where it is installed.
    """
    items, users = (table.numpy().astype(np.float32) for table in (run.items, run.users))
    widths = [width for width in run.config.get("widths", ()) if width < items.shape[1]]
    dim, rows = items.shape[1], _halves(len(users), seed)[0]
    target = overlap + (1 - overlap) / 4  # what is found on a sample is a little less on others
    made: list[dict[str, Any]] = [{"widths": [width]} for width in (*widths, dim)]
    made += [{"widths": [dim], "bits": bits} for bits in (16, 8, 1)]
    sizes = {
        (width, bits): shortlist_for(items, users[rows[:200]], width, bits, k, target)
        for width in (*widths, dim)
        for bits in ((1, 8) if width == dim else (8, 32))
    }
    for (width, bits), size in sizes.items():
        if size <= len(items) // 4:
            made.append({"widths": sorted({width, dim}), "shortlist": [size], "bits": bits})
    steps = [width for width in widths if sizes[width, 8] <= len(items) // 4]
    if len(steps) > 1:
        ladder = steps[:: max(1, len(steps) // 3)]
        lists = np.maximum.accumulate([sizes[width, 8] for width in ladder][::-1])[::-1].tolist()
        if len(ladder) > 1:
            made.append({"widths": [*ladder, dim], "shortlist": lists, "bits": 8})
    if find_spec("faiss") if faiss is None else faiss:
        kinds = [{"kind": "flat"}, {"kind": "flat", "bits": 8}, {"kind": "panorama"}, {"kind": "ivf", "probes": 32}]
        kinds += [{"kind": "hnsw", "ef": ef} for ef in (64, 256)] if len(items) in GRAPH_ITEMS else []
        made += [{"backend": "faiss", "widths": [dim]} | kind for kind in kinds]
    return made


def measure(
    run: Run, settings: Sequence[Mapping[str, Any]], data: Interactions | None = None, *, k: int = 20, threads: int = 1,
    seed: int = 0,
) -> pl.DataFrame:  # fmt: skip
    """A row for each of `settings` (those of `Index`), all measured in turn.

    data: what the run was trained on, for Recall and NDCG; without, those columns are missing. Columns: the settings;
    overlap (to choose by) and overlap_reported (of other users); recall and ndcg of test, and valid_recall and
    valid_ndcg where the vectors have not learned from the validation part; bytes_per_item, multiply_adds,
    p50_ms and p99_ms of single queries by user id, per_second in batches, build_seconds.
    """
    halves = [rows[:_SAMPLE] for rows in _halves(len(run.user_ids), seed)]
    ranking = VectorRanking(run.users, run.items, [run.items.shape[1]])
    exact = [_lists(ranking, rows, k, run.met) for rows in halves]
    table = []
    for each in settings:
        index = Index(run, threads=threads, **each)
        row = {
            name: each.get(name, default) for name, default in zip(SETTINGS, (None, [], 32, "plain", ""), strict=True)
        }
        row["widths"], row["options"] = list(index.widths), repr({n: v for n, v in each.items() if n not in SETTINGS})
        found = [
            overlaps(_lists(ranking_of(index, run), rows, k, run.met), best)
            for rows, best in zip(halves, exact, strict=True)
        ]
        row["overlap"], row["overlap_reported"] = (float(each.mean()) for each in found)
        row |= _held_out(index, run, data, k) if data is not None else {}
        row |= {"bytes_per_item": index.bytes_per_item, "multiply_adds": index.multiply_adds}
        row |= _times(index, run, k, seed) | {"build_seconds": index.build_seconds}
        table.append(row)
    return pl.DataFrame(table, infer_schema_length=None).with_columns(threads=pl.lit(threads))


def ranking_of(index: Index, run: Run) -> Any:
    """An index as `mrl.evaluation` asks for lists: ranking(rows (B,), k, hidden) yields (None, items, scores)."""
    users = run.users.numpy().astype(np.float32)

    def rank(rows: Tensor, k: int, hidden: Sequence[Positives]) -> Iterator[tuple[None, Tensor, Tensor]]:
        left_out = [np.concatenate([part.of(row).numpy() for part in hidden] or [[]]) for row in rows.tolist()]
        items, scores = index.search_rows(users[rows], k, [each.astype(np.int64) for each in left_out])
        yield None, torch.from_numpy(items), torch.from_numpy(scores)

    return rank


def pareto(table: pl.DataFrame, cost: str = "p50_ms", value: str = "overlap_reported") -> pl.Series:
    """(N,) bool: rows that no other row beats in cost (less) without losing in value (more)."""
    costs, values = table[cost].to_numpy(), table[value].to_numpy()
    beaten = (costs[None] <= costs[:, None]) & (values[None] >= values[:, None])
    beaten &= (costs[None] < costs[:, None]) | (values[None] > values[:, None])
    return pl.Series("pareto", ~beaten.any(1))


def enlarge(run: Run, items: int, users: int = 2000, *, seed: int = 0) -> Run:
    """A run of as many items as asked for, as those of `run` are: for measuring how search grows, not for accuracy.

    Each new item is a real one, moved by a third of the spread of all along each axis, and as long as another real one:
    so lengths and axes are distributed as in the run. Likewise users. Nothing is seen.
    """
    rng = np.random.default_rng(seed)
    tables = {}
    for side, count in (("users", users), ("items", items)):
        real = getattr(run, side).numpy()
        lengths = np.linalg.norm(real, axis=1)
        made = real[rng.integers(0, len(real), count)]
        made = made + rng.standard_normal(made.shape).astype(np.float32) * real.std(0) / 3
        made *= (lengths[rng.integers(0, len(real), count)] / np.maximum(np.linalg.norm(made, axis=1), 1e-12))[:, None]
        tables[side] = torch.from_numpy(made.astype(np.float32))
    return Run(
        path=run.path,
        config=run.config,
        environment=run.environment,
        metrics=run.metrics,
        history=run.history,
        user_ids=np.arange(users),
        item_ids=np.arange(items),
        labels=None,
        seen=Positives.empty(users, items),
        weights=tables,
    )


def add_to_report(table: pl.DataFrame, path: Path, dataset: str) -> pl.DataFrame:
    """Put the rows of a data set into a table of several, in place of those it has there; returns and writes it."""
    flat = table.with_columns(
        pl.lit(dataset).alias("dataset"),
        pl.col("widths", "shortlist").list.eval(pl.element().cast(pl.String)).list.join(" "),
        cs.float().round_sig_figs(4),
    )
    flat = flat.select("dataset", pl.exclude("dataset"))
    if path.exists():
        before = pl.read_csv(path, schema_overrides={"widths": pl.String, "shortlist": pl.String, "kind": pl.String})
        flat = pl.concat([before.filter(pl.col("dataset") != dataset), flat], how="diagonal_relaxed")
    flat = flat.with_columns(pl.col("shortlist", "kind").fill_null(""))
    path.parent.mkdir(parents=True, exist_ok=True)
    flat.write_csv(path)
    return flat


def describe(row: Mapping[str, Any]) -> str:
    """The settings of a row in words: `the first 16 dimensions in 8 bits, the best 200 again by all 64`."""
    widths, shortlist, bits = row["widths"], row["shortlist"], row["bits"]
    first = f"the first {widths[0]} dimensions"
    codes = {32: "", 16: " in float16", 8: " in int8", 1: " by their signs"}[bits]
    later = widths[len(widths) - len(shortlist) :] if shortlist else []
    steps = [f"the best {size} again by {width}" for size, width in zip(shortlist, later, strict=True)]
    way = {"": "", "flat": " by faiss", "hnsw": " by HNSW", "ivf": " by IVF", "panorama": " by Panorama"}[row["kind"]]
    return ", ".join([first + codes + way, *steps])


def _held_out(index: Index, run: Run, data: Interactions, k: int) -> dict[str, float]:
    """Recall and NDCG on test, and on validation where that was not trained on."""
    tested = data.test.counts.nonzero()[:, 0].numpy()
    if len(tested) > _TESTED:
        rows = np.sort(np.random.default_rng(0).permutation(tested)[:_TESTED])
        run, data = of_users(run, data, rows)
    splits = {"test": ""}
    if len(data.valid) and data.valid != data.test and run.seen is not None:
        learned = np.isin(data.valid.keys().numpy(), run.seen.keys().numpy()).any()
        splits |= {} if learned else {"valid": "valid_"}
    values = {}
    for split, prefix in splits.items():
        evaluation = evaluate_ranking(ranking_of(index, run), data, split=split, ks=[k], chunk=512)
        values |= {f"{prefix}{metric}": evaluation.value(f"{metric}@{k}") for metric in ("recall", "ndcg")}
    return values


def of_users(run: Run, data: Interactions, rows: np.ndarray) -> tuple[Run, Interactions]:
    """A run and its data of users `rows` (B,) alone, who become the users 0 to B − 1; items stay."""
    kept = torch.from_numpy(rows)
    splits = {split: data.split(split).take(kept) for split in ("train", "valid", "test")}
    made = replace(
        run,
        user_ids=run.user_ids[rows],
        weights=run.weights | {"users": run.users[kept]},
        seen=None if run.seen is None else run.seen.take(kept),
        dropped=None if run.dropped is None else run.dropped.take(kept),
    )
    return made, replace(data, user_ids=data.user_ids[rows], dropped=None, **splits)


def _times(index: Index, run: Run, k: int, seed: int) -> dict[str, float]:
    """Milliseconds of single queries by user id, the median and the 99th of a hundred; queries a second in batches."""
    users = run.user_ids[np.random.default_rng(seed).integers(0, len(run.user_ids), _TIMED)].tolist()
    index.search(users[:2], k)
    single = []
    for user in users:
        began = time.perf_counter()
        index.search([user], k)
        single.append(1e3 * (time.perf_counter() - began))
    began = time.perf_counter()
    index.search(users, k)
    batch = time.perf_counter() - began
    return {
        "p50_ms": float(np.median(single)),
        "p99_ms": float(np.quantile(single, 0.99)),
        "per_second": len(users) / batch,
    }


def _halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """User rows in two halves, drawn by seed: to choose by, and to report."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: (count + 1) // 2], order[count // 2 :]


def _exact(items: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return Index(items).search_rows(queries, min(k, len(items)))


def _lists(ranking: Any, rows: np.ndarray, k: int, hidden: Sequence[Positives]) -> np.ndarray:
    """(B, k) item rows."""
    return next(iter(ranking(torch.from_numpy(rows), k, hidden)))[1].numpy()
