"""Fold-in of new users and items: one least-squares solve each, good at every width, no retraining.

    with_new = fold_in_users(run, log)            # log: columns user and item, raw ids
    with_new.recommend(["a new user"], width=8)

The vectors of the other side stay what they are, whatever made them: nested least squares, or a training on top of it.
New items compete with those that were trained, so they are made as long, column by column, as folding in those again
shows them to be.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mrl.config import flat
from mrl.data import Positives
from mrl.errors import ConfigError, DataError, RunError
from mrl.least_squares import fold_in, mean_score, transpose
from mrl.runs import Run
from mrl.widths import check_level_weights

TYPICAL_SCORE = 0.5  # what a positive scores in factors of least squares: the scale in which α0 and λ were chosen


def fold_in_users(run: Run, log: pl.DataFrame, *, alpha0: float | None = None, l2: float | None = None) -> Run:
    """The run with the users of `log` beside its own, ready to be recommended to. Nothing is written to disk.

    log: columns user and item, raw ids; users that the run does not have, items that it has. alpha0, l2: of least
    squares; None for those that the run was made with. What the new users are known to have is left out of their
    recommendations. Raises DataError for ids that do not fit, RunError where the run has no vectors or no seen
    interactions, ConfigError where alpha0 and l2 are needed.
    """
    return _fold_in(run, log, "user", alpha0, l2)


def fold_in_items(run: Run, log: pl.DataFrame, *, alpha0: float | None = None, l2: float | None = None) -> Run:
    """The run with the items of `log` beside its own: likewise, with users that the run has and items it has not.

    Labels of the new items are null.
    """
    return _fold_in(run, log, "item", alpha0, l2)


def _fold_in(run: Run, log: pl.DataFrame, side: str, alpha0: float | None, l2: float | None) -> Run:
    chosen = run.environment.get("chosen", {})
    alpha0 = chosen.get("alpha0") if alpha0 is None else alpha0
    l2 = chosen.get("frequency_l2") if l2 is None else l2
    settings = flat(run.config)
    nu = chosen.get("nu", settings.get("nu"))
    if alpha0 is None or l2 is None:
        raise ConfigError(f"{run.path}: was not made by least squares; give alpha0 and l2, such as 0.03 and 0.003")
    if run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors, so the scale of its scores is unknown; train again")
    if missing := {"user", "item"} - set(log.columns):
        raise DataError(f"log: no column {min(missing)!r}; it has {', '.join(log.columns)}")
    known_side = "item" if side == "user" else "user"
    known = run.item_ids if side == "user" else run.user_ids
    own, other = (run.user_ids, run.items) if side == "user" else (run.item_ids, run.users)
    new_ids = log[side].unique(maintain_order=True).to_list()
    if there := set(own.tolist()) & set(new_ids):
        raise DataError(f"log: {side} {min(there, key=str)!r} is in {run.path} already; give new {side}s only")
    row_of = {raw: row for row, raw in enumerate(known.tolist())}
    if unknown := [raw for raw in log[known_side].to_list() if raw not in row_of]:
        raise DataError(f"log: {known_side} {unknown[0]!r} is not in {run.path}; leave it out or train again")
    new_of = {raw: row for row, raw in enumerate(new_ids)}
    rows = [new_of[raw] for raw in log[side].to_list()]
    columns = [row_of[raw] for raw in log[known_side].to_list()]
    positives = Positives.from_pairs(rows, columns, len(new_ids), len(known))

    scale = _vector_scale(run)
    widths, rotation_width = settings["widths"], chosen.get("rotation_width") or 0
    levels = check_level_weights(chosen.get("level_weights", settings.get("level_weights", ())), widths)
    # prefixes of axes that were rotated rank as all of those do, but are no factors of least squares themselves
    levels = [weight * (width >= rotation_width) for width, weight in zip(widths, levels, strict=True)]

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
            l2_width_exponent=chosen.get("l2_width_exponent", 0.0),
        )

    vectors = folded(positives)
    if side == "item":
        refolded = folded(transpose(run.seen))
        vectors *= (run.items * refolded).sum(0) / refolded.square().sum(0).clamp_min(torch.finfo(refolded.dtype).tiny)
    ids = np.concatenate([own, np.array(new_ids, dtype=own.dtype)])
    weights = run.weights | {f"{side}s": torch.cat([run.users if side == "user" else run.items, vectors])}
    pairs, sizes = (positives.users.long() + len(own), positives.items.long()), (len(ids), len(known))
    if side == "item":
        pairs, sizes = pairs[::-1], sizes[::-1]
    users, items = (torch.cat(both) for both in zip((run.seen.users.long(), run.seen.items.long()), pairs, strict=True))
    seen = Positives.from_pairs(users, items, *sizes)
    if side == "user":
        return replace(run, user_ids=ids, weights=weights, seen=seen)
    labels = run.labels
    if labels is not None:
        empty = pl.DataFrame({name: [None] * len(new_ids) for name in labels.columns}, schema=labels.schema)
        labels = pl.concat([labels, empty])
    return replace(run, item_ids=ids, weights=weights, seen=seen, labels=labels)


def _vector_scale(run: Run) -> Tensor:
    """By how much the vectors are longer than factors of least squares: propagation and training scale them."""
    return torch.tensor(mean_score(run.users, run.items, run.seen) / TYPICAL_SCORE).clamp_min(1e-6).sqrt()
