"""Full ranking at every width in one pass: recall, precision, NDCG, hit ratio, MRR and MAP.

Every item is ranked (`mrl.evaluation.ranking`) for every user who has items in the split; what the user is known to
have is left out. A metric is the mean over those users. Metric names are written `recall@20`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.data import Interactions, Positives
from mrl.errors import ConfigError, RunError
from mrl.evaluation.ranking import VectorRanking, mask_positives, top_k, users_per_batch
from mrl.kernels import in_threads, mark_hits
from mrl.widths import DEFAULT_WIDTHS, check_widths

KS = (5, 10, 20, 50)
_FIXED = 2.0**40  # means are summed in fixed point: integers add up to the same in any order, so for any chunk

RankedLists = tuple[int | None, Tensor, Tensor]  # width, items (B, k), scores (B, k)
Ranking = Callable[[Tensor, int, Sequence[Positives]], Iterable[RankedLists]]  # of user rows, k, what is left out


def _at(values: Tensor, ks: Sequence[int]) -> Tensor:
    """(B, k) by rank to (B, len(ks)): the columns of ranks ks, counted from 1."""
    return values[:, [k - 1 for k in ks]]


def recall(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Recall@k = |top k ∩ relevant| / |relevant|.

    hits: (B, K) float64, one where the item at that rank is relevant, zero where not or where the list has ended;
    relevant: (B,) float64, how many relevant items the user has, at least 1; ks: at most K. Returns (B, len(ks)).
    All metrics here take and return the same.
    """
    return _at(hits.cumsum(1), ks) / relevant[:, None]


def precision(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Precision@k = |top k ∩ relevant| / k, also where the list is shorter than k."""
    return _at(hits.cumsum(1), ks) / torch.tensor(ks, dtype=hits.dtype, device=hits.device)


def ndcg(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """NDCG@k = Σ_{r ≤ k} hit_r / log2(r + 1)  ÷  Σ_{r ≤ min(|relevant|, k)} 1 / log2(r + 1).

    Järvelin and Kekäläinen, ACM TOIS 2002; the ideal list is truncated as by Lai et al., arXiv 2406.07432.
    """
    discount = 1 / torch.arange(2, hits.shape[1] + 2, dtype=hits.dtype, device=hits.device).log2()
    limits = torch.tensor(ks, dtype=hits.dtype, device=hits.device)
    ideal = discount.cumsum(0)[torch.minimum(relevant[:, None], limits).long() - 1]
    return _at((hits * discount).cumsum(1), ks) / ideal


def hit(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Hit@k = 1 where any of the top k is relevant, else 0."""
    return _at(hits.cummax(1).values, ks)


def mrr(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """MRR@k = 1 / rank of the first relevant item among the top k, 0 where there is none."""
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=hits.dtype, device=hits.device)
    return _at((hits / ranks).cummax(1).values, ks)


def average_precision(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """MAP@k = Σ_{r ≤ k} hit_r · Precision@r  ÷  |relevant|, as trec_eval's map_cut."""
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=hits.dtype, device=hits.device)
    return _at((hits * hits.cumsum(1) / ranks).cumsum(1), ks) / relevant[:, None]


FORMULAS: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "hit": hit,
    "mrr": mrr,
    "map": average_precision,
}
METRICS = tuple(FORMULAS)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured.

    table: columns split, width (null where the model has none), metric, k, value; one row a value.
    per_user: columns user (row), width, metric, k, value, or None where it was not asked for.
    users: over how many users the means run.
    """

    table: pl.DataFrame
    per_user: pl.DataFrame | None
    users: int

    def value(self, name: str, width: int | None = None) -> float:
        """One mean by its name, such as `recall@20`; the width may be left out where there is only one."""
        metric, _, k = name.partition("@")
        rows = self.table.filter((pl.col("metric") == metric) & (pl.col("k").cast(pl.String) == k))
        if width is not None:
            rows = rows.filter(pl.col("width") == width)
        if len(rows) != 1:
            names = [f"{m}@{k}" for m, k in self.table.select("metric", "k").unique(maintain_order=True).iter_rows()]
            widths = self.table["width"].unique(maintain_order=True).to_list()
            raise ConfigError(f"value({name!r}, width={width}): choose one of {', '.join(names)} at one of {widths}")
        return rows["value"][0]

    def tidy(self, **facts: str | int | float) -> pl.DataFrame:
        """The table with columns in front, the same in each row: dataset, model, protocol, seed."""
        return self.table.select(*(pl.lit(value).alias(name) for name, value in facts.items()), pl.all())


def check_ks(ks: Sequence[int] | None, num_items: int | None = None) -> tuple[int, ...]:
    """Return list lengths in increasing order, or raise ConfigError; None means KS, as far as the catalogue goes."""
    if ks is None:
        lengths = KS if num_items is None else tuple(k for k in KS if k <= num_items)
        return lengths or (max(num_items or 1, 1),)
    try:
        are_lengths = len(ks) and not any(isinstance(k, bool) or index(k) < 1 for k in ks)
    except TypeError:
        are_lengths = False
    if not are_lengths:
        raise ConfigError(f"ks={ks!r}: give whole numbers of at least 1, such as {list(KS)}")
    if num_items is not None and max(ks) > num_items:
        raise ConfigError(f"ks={list(ks)}: {max(ks)} is more than the {num_items} items there are; give smaller ones")
    return tuple(sorted({int(k) for k in ks}))


def evaluate(
    users: Tensor,
    items: Tensor,
    data: Interactions,
    *,
    split: str = "test",
    widths: Sequence[int] = DEFAULT_WIDTHS,
    ks: Sequence[int] | None = None,
    chunk: int | None = None,
    per_user: bool = False,
) -> Evaluation:
    """Evaluate vectors at every width, trained or not, in one pass over the scores.

    users: (U, D), items: (I, D), on one device, rows as in `data`; a score is an inner product of leading columns.
    split: `test` leaves out what is in train and valid (not valid where it is the test split itself, as under the
    `paper` protocol); `valid` leaves out train; `train` nothing.
    ks: list lengths, 5, 10, 20 and 50 where the catalogue is that large. chunk: users at a time; by default as many
    as a fixed number of bytes holds. On CUDA out-of-memory the chunk is halved and the result is the same.
    Raises ConfigError on impossible settings, RunError where vectors or scores are not finite or sizes do not match.
    """
    widths = check_widths(widths, users.shape[1])
    if len(users) != data.num_users or len(items) != data.num_items:
        raise RunError(
            f"vectors of {len(users)} users and {len(items)} items: {data.name} has {data.num_users} and "
            f"{data.num_items}; load the data set that the run was trained on"
        )
    ranking = VectorRanking(users, items, widths)
    ks = check_ks(ks, data.num_items)
    chunk = ranking.users_per_batch(ks[-1]) if chunk is None else chunk
    return evaluate_ranking(ranking, data, split=split, ks=ks, chunk=chunk, per_user=per_user, device=users.device)


def evaluate_scores(
    score_blocks: Callable[[Tensor], Iterable[tuple[int | None, Tensor]]],
    data: Interactions,
    *,
    split: str = "test",
    ks: Sequence[int] | None = None,
    chunk: int | None = None,
    per_user: bool = False,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Evaluate any model that scores: score_blocks(rows (B,)) yields (width or None, scores (B, I)), each width once.

    For models without vectors (popularity, EASE: width None). The scores are not changed. Otherwise as `evaluate`.
    """

    def ranking(rows: Tensor, k: int, hidden: Sequence[Positives]) -> Iterable[RankedLists]:
        for width, scores in score_blocks(rows):
            scores = scores.detach().clone(memory_format=torch.contiguous_format)
            for positives in hidden:
                mask_positives(scores, rows, positives)
            yield width, *top_k(scores, k)

    return evaluate_ranking(ranking, data, split=split, ks=ks, chunk=chunk, per_user=per_user, device=device)


def evaluate_ranking(
    ranking: Ranking,
    data: Interactions,
    *,
    split: str = "test",
    ks: Sequence[int] | None = None,
    chunk: int | None = None,
    per_user: bool = False,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Evaluate lists, however they are made: ranking(rows (B,), k, hidden) yields width or None, items, scores (B, k).

    hidden: positives that may not be listed; -1 where nothing is left. Otherwise as `evaluate`.
    """
    ks = check_ks(ks, data.num_items)
    sums = sum_metrics(ranking, data, split=split, ks=ks, chunk=chunk, per_user=per_user, device=device)
    if not sums.users:
        raise RunError(f"split={split!r}: nobody in {data.name} has items there; choose another split or test_fraction")
    return sums.means(split, ks)


@dataclass(frozen=True)
class Sums:
    """The metrics, summed over some users: sums of several processes add up exactly.

    widths: of each level. total (L, M, len(ks)): in fixed point. rows (B,): the users, users: how many. values
    (B, L, M, len(ks)): of each user, None where they were not asked for.
    """

    widths: Sequence[int | None]
    total: Tensor
    users: int
    rows: Tensor
    values: Tensor | None

    def means(self, split: str, ks: Sequence[int]) -> Evaluation:
        """The means over these users, of whom there is at least one."""
        means = (self.total.double() / _FIXED / self.users).cpu()
        table = _table(means[:, None], self.widths, ks).select(pl.lit(split).alias("split"), pl.exclude("user"))
        values = None if self.values is None else _table(self.values.transpose(0, 1), self.widths, ks, self.rows.cpu())
        return Evaluation(table, values, self.users)


def sum_metrics(
    ranking: Ranking,
    data: Interactions,
    *,
    split: str,
    ks: Sequence[int],
    chunk: int | None = None,
    per_user: bool = False,
    device: torch.device | str = "cpu",
    widths: Sequence[int | None] = (),
) -> Sums:
    """The sums of `evaluate_ranking` over the users who have items in the split. widths: for where there are none."""
    device = torch.device(device)
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk}: must be at least 1; leave it out to have it chosen")
    chunk = users_per_batch(data.num_items, device) if chunk is None else chunk
    targets = data.split(split).to(device)
    hidden = [positives.to(device) for positives in _hidden(data, split)]
    keys = None if device.type == "cpu" else targets.keys()
    measure = partial(_measure, ranking, targets, keys, hidden, ks)
    rows = targets.counts.nonzero()[:, 0]
    total = torch.zeros(len(widths), len(FORMULAS), len(ks), dtype=torch.int64, device=device) if widths else 0
    by_user = [torch.zeros(0, len(widths), len(FORMULAS), len(ks), dtype=torch.float64)]
    start = 0
    while start < len(rows):
        part = rows[start : start + chunk]
        try:
            widths, values = measure(part)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            values = None  # go on outside, where the failed attempt holds no memory any more
        if values is None:
            if len(part) == 1:
                raise RunError(f"out of memory on {device} with one user at a time: evaluate on the CPU instead")
            chunk = len(part) // 2
            _free_memory(device)
            continue
        total = total + (values * _FIXED).round().long().sum(1)
        if per_user:
            by_user.append(values.transpose(0, 1).cpu())
        start += len(part)

    values = torch.cat(by_user[len(by_user) > 1 :]) if per_user else None
    return Sums(widths, torch.as_tensor(total), len(rows), rows, values)


def _hidden(data: Interactions, split: str) -> list[Positives]:
    """What must not be recommended when `split` is looked for."""
    if split == "train":
        return []
    if split == "test" and len(data.valid) and data.valid is not data.test and data.valid != data.test:
        return [data.train, data.valid]
    return [data.train]


def _measure(
    ranking: Ranking,
    targets: Positives,
    keys: Tensor | None,
    hidden: Sequence[Positives],
    ks: Sequence[int],
    rows: Tensor,
) -> tuple[list[int | None], Tensor]:
    """Widths, and every metric of users `rows` (B,): (L, B, M, len(ks)) float64. keys: `targets.keys()`, on a GPU."""
    ranked = [(width, items) for width, items, _ in ranking(rows, ks[-1], hidden)]
    items = torch.stack([items for _, items in ranked])  # (L, B, K)
    hits = _hits(items, targets, keys, rows).flatten(0, 1)  # (L · B, K)
    with_hits = hits.any(1).nonzero()[:, 0]  # every metric of a list without a hit is zero, and most have none
    relevant = targets.counts[rows].double().repeat(len(ranked))[with_hits]
    hits = hits[with_hits].double()
    values = hits.new_zeros(len(ranked) * len(rows), len(FORMULAS), len(ks))
    values[with_hits] = torch.stack([formula(hits, relevant, ks) for formula in FORMULAS.values()], dim=1)
    return [width for width, _ in ranked], values.unflatten(0, (len(ranked), len(rows)))


def _hits(items: Tensor, targets: Positives, keys: Tensor | None, rows: Tensor) -> Tensor:
    """(L, B, K) bool: which of items (L, B, K) are targets of users `rows` (B,)."""
    if items.device.type == "cpu":
        hits = torch.empty(items.shape, dtype=torch.bool)
        out, ids, users = hits.numpy(), items.numpy(), rows.numpy()
        tables = targets.items.numpy(), targets.offsets.numpy()
        in_threads(lambda part: mark_hits(ids[:, part], *tables, users[part], out[:, part]), len(rows), each=512)
        return hits
    listed = torch.where(items < 0, -1, items + (rows * targets.num_items)[:, None])
    return keys[torch.searchsorted(keys, listed).clamp_(max=len(keys) - 1)] == listed


def _table(values: Tensor, widths: Sequence[int | None], ks: Sequence[int], rows: Tensor | None = None) -> pl.DataFrame:
    """(L, B, M, len(ks)) values in long form; rows: (B,) the users."""
    rows = torch.zeros(1, dtype=torch.int64) if rows is None else rows
    level, user, metric, k = (pl.Series(index.ravel()) for index in np.indices(values.shape, dtype=np.int32))
    return pl.DataFrame(
        {
            "user": pl.Series(rows.int().numpy()).gather(user),
            "width": pl.Series(widths, dtype=pl.Int64).gather(level),
            "metric": pl.Series(METRICS).gather(metric),
            "k": pl.Series(ks, dtype=pl.Int64).gather(k),
            "value": values.flatten().numpy(),
        }
    )


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
