"""Fold-in of new users and items: one least-squares solve each, good at every width, no retraining.

    with_new = fold_in_users(run, {"user": "a new user", "item": [50, 172, 181]})
    with_new.recommend(["a new user"], width=8)

The vectors of the other side stay what they are, whatever made them: least squares, or a training on top of it.
New items compete with those that were trained, so they are made as long, column by column, as folding in those again
shows them to be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import flat
from mrl.data import Positives
from mrl.data.frames import as_frame
from mrl.data.ids import append, rows_by_text, texts
from mrl.data.splits import check_number
from mrl.errors import ConfigError, DataError, RunError
from mrl.least_squares import fold_in, transpose
from mrl.runs import Run
from mrl.runs.lists import find_rows
from mrl.widths import check_level_weights

TYPICAL_SCORE = 0.5  # what a positive scores in factors of least squares: the scale in which α0 and λ were chosen
NUMBERS = 2**20  # of vectors at a time


def fold_in_users(run: Run, log: Any, *, alpha0: float | None = None, l2: float | None = None) -> Run:
    """The run with the users of `log` beside its own, ready to be recommended to. Nothing is written to disk.

    log: columns user and item, raw ids; users that the run does not have, items that it has. A frame of polars or
    pandas, an Arrow table, a dict of columns, a list of (user, item), or what else `mrl.data.frames.as_frame` takes.
    New ids may be text where those of the run are numbers; then the run has both.
    Where the run was made with `min_rating` and the log has a column rating, what is rated lower is not learned from.
    alpha0, l2: of least squares; None for those that the run was made with.
    What the new users are known to have met is left out of their recommendations. Raises DataError for ids that do not
    fit, RunError where the run has no vectors or no seen interactions, ConfigError where alpha0 and l2 are needed.
    """
    return _fold_in(run, log, "user", alpha0, l2)


def fold_in_items(run: Run, log: Any, *, alpha0: float | None = None, l2: float | None = None) -> Run:
    """The run with the items of `log` beside its own: likewise, with users that the run has and items it has not.

    Labels of the new items are null.
    """
    return _fold_in(run, log, "item", alpha0, l2)


def update_users(run: Run, log: Any, *, alpha0: float | None = None, l2: float | None = None) -> Run:
    """The run with users that it has folded in anew: from what they had met, and from what `log` adds to that.

    Otherwise as `fold_in_users`; of items that the run has not, fold those in first. RunError for unknown ids.
    """
    if run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors, so what its users have met is unknown; train again")
    log = as_frame(log, "log", ("user", "item", "rating"))
    who = find_rows(log["user"], run.user_rows, "user", run.path, run.user_ids[:3].tolist())
    what = find_rows(log["item"], rows_by_text(run.item_ids), "item", run.path, run.item_ids[:3].tolist())
    is_liked, shape = _is_liked(log, flat(run.config).get("min_rating")), (len(run.user_ids), len(run.item_ids))
    added, below = (
        Positives.from_pairs(np.array(who, int)[kept], np.array(what, int)[kept], *shape)
        for kept in (is_liked, ~is_liked)
    )
    seen = run.seen.union(added)
    dropped = (Positives.empty(*shape) if run.dropped is None else run.dropped).union(below).without(seen)
    rows, vectors = folded_again(run, np.unique(who), seen, alpha0=alpha0, l2=l2)
    users = run.users.clone()
    users[rows] = vectors
    return replace(run, weights=run.weights | {"users": users}, seen=seen, dropped=dropped if len(dropped) else None)


def folded_again(
    run: Run, users: np.ndarray, positives: Positives, *, alpha0: float | None = None, l2: float | None = None
) -> tuple[Tensor, Tensor]:
    """Users of rows (B,), taken out of the run and folded in as if they were new, from their `positives`.

    Returns their rows (n,), without those who have none, and their vectors (n, D).
    """
    left = np.setdiff1d(np.arange(len(run.user_ids)), users)
    rest = replace(
        run,
        user_ids=run.user_ids[left],
        weights=run.weights | {"users": run.users[left]},
        seen=run.seen.take(torch.from_numpy(left)),
        dropped=None,
    )
    known = np.isin(positives.users.numpy(), users)
    who, what = positives.users.numpy()[known], positives.items.numpy()[known]
    log = {"user": run.user_ids[who], "item": run.item_ids[what]}
    made = fold_in_users(rest, log, alpha0=alpha0, l2=l2) if len(who) else rest
    return torch.from_numpy(np.unique(who)).long(), made.users[len(left) :]


def _fold_in(run: Run, log: Any, side: str, alpha0: float | None, l2: float | None) -> Run:
    chosen = run.environment.get("chosen", {})
    alpha0 = chosen.get("alpha0") if alpha0 is None else alpha0
    l2 = chosen.get("frequency_l2") if l2 is None else l2
    settings = flat(run.config)
    nu = chosen.get("nu", settings.get("nu"))
    if alpha0 is None or l2 is None:
        raise ConfigError(f"{run.path}: was not made by least squares; give alpha0 and l2, such as 0.03 and 0.003")
    alpha0, l2 = check_number("alpha0", alpha0), check_number("l2", l2)
    if run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors, so the scale of its scores is unknown; train again")
    known_side = "item" if side == "user" else "user"
    known = run.item_ids if side == "user" else run.user_ids
    own, other = (run.user_ids, run.items) if side == "user" else (run.item_ids, run.users)
    log = as_frame(log, "log", ("user", "item", "rating"))
    new, others = texts(log[side], f"log: {side}"), texts(log[known_side], f"log: {known_side}")
    new_of = {text: row for row, text in enumerate(dict.fromkeys(new))}
    remedy = ", or take update_users" if side == "user" else ""
    if there := rows_by_text(own).keys() & new_of.keys():
        raise DataError(f"log: {side} {min(there)!r} is in {run.path} already; give new {side}s only{remedy}")
    row_of = rows_by_text(known)
    if unknown := [raw for raw, text in zip(log[known_side], others, strict=True) if text not in row_of]:
        raise DataError(f"log: {known_side} {unknown[0]!r} is not in {run.path}; leave it out or train again")
    pairs = np.array([new_of[text] for text in new]), np.array([row_of[text] for text in others])
    is_liked = _is_liked(log, settings.get("min_rating"))
    positives, dropped = (
        Positives.from_pairs(*(rows[kept] for rows in pairs), len(new_of), len(known)) for kept in (is_liked, ~is_liked)
    )
    if not positives.counts.all():
        nobody = list(new_of)[int(positives.counts.argmin())]
        raise DataError(f"log: {side} {nobody!r} has no rating of min_rating={settings['min_rating']} or more")

    scale = _vector_scale(run)
    widths, nested_l2 = settings["widths"], 0.0
    levels = check_level_weights(chosen.get("level_weights", settings.get("level_weights", ())), widths)
    if chosen.get("rotation"):  # prefixes rank as the whole does, but are no factors of least squares themselves
        levels = [0.0] * (len(widths) - 1) + [1.0]
    elif chosen.get("nested_sweeps"):
        nested_l2 = chosen["l2_width_exponent"]

    def folded(positives: Positives) -> Tensor:
        return scale * fold_in(
            other / scale,
            positives,
            len(known),
            widths=widths,
            level_weights=levels,
            alpha0=alpha0,
            l2=l2,
            nu=1.0 if nu is None else nu,
            l2_width_exponent=nested_l2,
        )

    vectors = folded(positives)
    if side == "item":
        refolded = folded(transpose(run.seen))
        vectors *= (run.items * refolded).sum(0) / refolded.square().sum(0).clamp_min(torch.finfo(refolded.dtype).tiny)
    weights = run.weights | {f"{side}s": torch.cat([run.users if side == "user" else run.items, vectors])}
    before = Positives.empty(len(run.user_ids), len(run.item_ids)) if run.dropped is None else run.dropped
    dropped = _with_new(before, dropped.without(positives), side)
    seen = _with_new(run.seen, positives, side)
    made = replace(run, weights=weights, seen=seen, dropped=dropped if len(dropped) else None)
    if side == "user":
        return replace(made, user_ids=append(own, list(new_of)))
    labels = run.labels
    if labels is not None:
        # Not by pl.concat: it waits for polars' threads, which a forked process does not have.
        empty = [None] * len(new_of)
        labels = pl.DataFrame([each.clone().append(pl.Series(empty, dtype=each.dtype)) for each in labels])
    return replace(made, item_ids=append(own, list(new_of)), labels=labels)


def _is_liked(log: pl.DataFrame, min_rating: float | None) -> np.ndarray:
    """(N,) bool: what is learned from, by the rule of the run; the rest is known to have been met."""
    if min_rating is None or "rating" not in log.columns:
        return np.ones(len(log), dtype=bool)
    if not log["rating"].dtype.is_numeric():
        raise DataError(f"log: ratings are {log['rating'].dtype}; give numbers, or leave the column out")
    return log["rating"].cast(pl.Float64).to_numpy() >= min_rating  # what is missing is NaN, and not


def _with_new(own: Positives, new: Positives, side: str) -> Positives:
    """The pairs of a run and, behind its users or its items, those of the new ones, which are the users of `new`."""
    num_users, num_items = own.num_users, own.num_items
    users, items = new.users.long(), new.items.long()
    if side == "user":
        users, num_users = users + num_users, num_users + new.num_users
    else:
        users, items, num_items = items, users + num_items, num_items + new.num_users
    pairs = torch.cat([own.users.long(), users]), torch.cat([own.items.long(), items])
    return Positives.from_pairs(*pairs, num_users, num_items)


def _vector_scale(run: Run) -> Tensor:
    """By how much the vectors are longer than factors of least squares: propagation and training scale them."""
    mean = _mean_score(run.users, run.items, run.seen)
    return torch.tensor(mean / TYPICAL_SCORE, dtype=torch.float32).clamp_min(1e-6).sqrt()


def _mean_score(users: Tensor, items: Tensor, positives: Positives) -> float:
    """The mean score of the positives by users (U, D) and items (I, D), summed in float64; 0 where there are none."""
    total, step = 0.0, max(1, NUMBERS // users.shape[1])
    for start in range(0, len(positives), step):
        pairs = slice(start, start + step)
        scores = users[positives.users[pairs].long()] * items[positives.items[pairs].long()]
        total += float(scores.sum(dtype=torch.float64))
    return total / max(len(positives), 1)
