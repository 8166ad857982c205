"""When to train again: how much fold-in loses against trained vectors, and for how many users and items it stands in.

A sample of users is taken out of the run and folded in again from what they have met, as if they were new; so is a
sample of items. What that costs in NDCG on held-out test data is what every user or item that came later loses until
the next training. Nothing is chosen by it but the day of that training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from torch import Tensor

from mrl.data import Interactions, Positives
from mrl.data.ids import rows_by_text
from mrl.errors import ConfigError, RunError
from mrl.evaluation import evaluate
from mrl.runs import Run
from mrl.serving.fold_in import fold_in_items, folded_again
from mrl.serving.measure import of_users
from mrl.words import percent


@dataclass(frozen=True, eq=False)
class Drift:
    """What `measure_drift` found.

    table: a row for `user` and `item`: sampled, ndcg_trained, ndcg_folded, kept (their ratio), share (of those that
    came by fold-in). loss: of NDCG, expected over all, a share. retrain: whether it is above what was tolerated.
    why: one sentence.
    """

    table: pl.DataFrame
    loss: float
    retrain: bool
    why: str


def measure_drift(
    run: Run, now: Run, data: Interactions, *, tolerance: float = 0.02, sample: int = 500, k: int = 20, seed: int = 0
) -> Drift:
    """Whether to train again, for a run as it was trained and as it is `now`, after fold-in.

    data: what `run` was trained on (`mrl.analysis.comparison.load_run_data`). tolerance: the loss of NDCG@k, as a
    share, from which it is time. sample: users, and items, that are folded in again; a tenth of all at most.
    """
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance={tolerance!r}: must be between 0 and 1")
    if run.seen is None or len(run.user_ids) != data.num_users or len(run.item_ids) != data.num_items:
        raise RunError(
            f"{run.path}: measure the drift of the run as it was trained, with its data and seen.safetensors"
        )
    rng = np.random.default_rng(seed)
    tested = data.test.counts.nonzero()[:, 0].numpy()
    # A tenth at most: what is left has to be the run that they come to.
    users = np.sort(rng.permutation(tested)[: min(sample, -(-data.num_users // 10))])
    wanted = data.test.item_counts.nonzero()[:, 0].numpy()
    items = np.sort(rng.permutation(wanted)[: min(sample, -(-data.num_items // 10))])
    # An item is missed by those who look for it: the users with one of the sampled items in test.
    seekers = np.unique(data.test.users.numpy()[np.isin(data.test.items.numpy(), items)])
    again, vectors = folded_again(run, users, run.seen)
    folded = run.users.index_copy(0, again, vectors), _fold_items_again(run, items)
    cases = [
        ("user", users, run.user_ids, now.user_ids, {"users": folded[0]}, users),
        ("item", items, run.item_ids, now.item_ids, {"items": folded[1]}, seekers),
    ]
    rows = []
    for side, sampled, before, after, vectors, rows_of in cases:
        trained = _ndcg(run, data, rows_of, k)
        again = _ndcg(replace(run, weights=run.weights | vectors), data, rows_of, k)
        came = len(set(map(str, after.tolist())) - set(map(str, before.tolist()))) / len(after)
        row = {"side": side, "sampled": len(sampled), "ndcg_trained": trained, "ndcg_folded": again}
        rows.append(row | {"kept": again / trained if trained else 1.0, "share": came})
    table = pl.DataFrame(rows)
    loss = float((table["share"] * (1 - table["kept"])).sum())
    kept, share = table["kept"].to_list(), table["share"].to_list()
    why = (
        f"Folded in, users keep {percent(kept[0])} of the NDCG@{k} of trained vectors and items {percent(kept[1])}; "
        f"{percent(share[0])} of users and {percent(share[1])} of items came by fold-in, which loses about "
        f"{percent(max(loss, 0.0))}: {'train again' if loss > tolerance else 'no need to train again'} "
        f"(tolerated: {percent(tolerance)})."
    )
    return Drift(table, loss, loss > tolerance, why)


def _ndcg(run: Run, data: Interactions, rows: np.ndarray, k: int) -> float:
    """Mean NDCG@k on test of users `rows`."""
    some, part = of_users(run, data, rows)
    return evaluate(some.users, some.items, part, widths=(some.users.shape[1],), ks=[k]).value(f"ndcg@{k}")


def _fold_items_again(run: Run, items: np.ndarray) -> Tensor:
    """(I, D): items of the run, those of rows `items` folded in as if they were new. Those nobody met stay."""
    items = items[run.seen.item_counts.numpy()[items] > 0]
    left = np.setdiff1d(np.arange(len(run.item_ids)), items)
    who, what = run.seen.users.numpy(), run.seen.items.numpy()
    known = np.isin(what, items)
    place = np.full(len(run.item_ids), -1)
    place[left] = np.arange(len(left))
    rest = replace(
        run,
        item_ids=run.item_ids[left],
        labels=None,
        weights=run.weights | {"items": run.items[left]},
        seen=Positives.from_pairs(who[~known], place[what[~known]], len(run.user_ids), len(left)),
        dropped=None,
    )
    made = fold_in_items(rest, {"user": run.user_ids[who[known]], "item": run.item_ids[what[known]]})
    rows, vectors = rows_by_text(run.item_ids), run.items.clone()
    vectors[[rows[str(raw)] for raw in made.item_ids[len(left) :].tolist()]] = made.items[len(left) :]
    return vectors
