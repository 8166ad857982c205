"""Evaluation on shards: each process ranks all items for its own users; the metrics add up exactly.

Items are gathered, whole or in blocks of 256 MiB; users stay where they lie. Lists do not depend on what else is ranked
beside them, and means are summed in fixed point: the metrics are the same bit for bit in any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mrl.distributed.data import ShardedData
from mrl.errors import RunError
from mrl.evaluation import Evaluation, check_ks, sum_metrics
from mrl.least_squares.ials import Factors
from mrl.sharded.ranking import ShardedRanking
from mrl.sharded.rows import Rows


def evaluate(
    data: ShardedData,
    vectors: Factors,
    items: Rows,
    *,
    split: str,
    widths: Sequence[int],
    ks: Sequence[int] | None = None,
    per_user: bool = False,
) -> Evaluation:
    """As `mrl.evaluation.evaluate`, of own users (U', D) and items (I', D); the same in all processes.

    items: whose they are. per_user: only in the first process.
    """
    group, ks = data.group, check_ks(ks, data.num_items)
    ranking = ShardedRanking(group, *vectors, items, widths)
    options = {"chunk": ranking.users_per_batch(ks[-1]), "device": group.device, "widths": ranking.widths}
    sums = sum_metrics(ranking, data.own, split=split, ks=ks, per_user=per_user, **options)
    ranking.finish()
    rows, values = sums.rows + data.users.start, sums.values
    if per_user:
        rows, values = group.to_first(rows), group.to_first(values.to(group.device)).cpu()
    users = sum(group.each(sums.users))
    if not users:
        raise RunError(f"split={split!r}: nobody in {data.name} has items there; choose another split or test_fraction")
    return replace(sums, total=group.sum(sums.total), users=users, rows=rows, values=values).means(split, ks)
