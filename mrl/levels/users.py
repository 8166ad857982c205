"""What is known of users, as classes: how active they are, how broad their taste, and what the data set says of them.

activity      fifths by the number of training interactions
breadth       fifths by the effective number of genres (or departments) among these: the exponential of the entropy
              of their shares (Hill, "Diversity and evenness", Ecology 1973). It grows with the activity, too
age, gender, occupation   of MovieLens-100K; ages in the groups of MovieLens-1M
home_1, …     of `planted`: the branch that a user is at home in, at each depth
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.special import entr

from mrl.data import DATASETS, Positives
from mrl.data.downloads import fetch
from mrl.data.synthetic import planted
from mrl.errors import DataError
from mrl.files import read_users
from mrl.hierarchy import label_of, membership
from mrl.levels.depths import in_fifths
from mrl.runs import Run

AGES = {
    0: "under 18",
    18: "18 to 24",
    25: "25 to 34",
    35: "35 to 44",
    45: "45 to 49",
    50: "50 to 55",
    56: "56 and over",
}


def user_classes(run: Run) -> dict[str, pl.Series]:
    """The classes of the module docstring by name, (U,) each, of those that are known; null where one is not."""
    if run.seen is None:
        return {}
    classes = {"activity": in_fifths(run.seen.counts.numpy())}
    if (label := label_of(run)) is not None:
        classes["breadth"] = in_fifths(taste_breadth(run.seen, run.labels[label]))
    known = _known_of_users(run.config)
    if known is None:
        return classes
    ids = pl.DataFrame({"user": [str(raw) for raw in run.user_ids.tolist()]})
    known = known.with_columns(pl.col("user").cast(pl.String)).unique("user", keep="first")
    joined = ids.join(known, on="user", how="left", maintain_order="left").drop("user")
    return classes | {column.name: column.cast(pl.String) for column in joined if column.null_count() < len(column)}


def taste_breadth(seen: Positives, labels: pl.Series) -> np.ndarray:
    """(U,) the effective number of labels among each user's items; NaN where none of them has one.

    An item of several labels counts for each of them by equal parts.
    """
    has_label, _ = membership(labels)
    weights = torch.from_numpy(has_label / np.maximum(has_label.sum(axis=1, keepdims=True), 1))  # (I, G)
    sums = torch.zeros(seen.num_users, weights.shape[1], dtype=torch.float64)
    sums.index_add_(0, seen.users.long(), weights[seen.items.long()])
    totals = sums.sum(dim=1, keepdim=True).numpy()
    shares = sums.numpy() / np.where(totals > 0, totals, np.nan)
    return np.exp(entr(shares).sum(axis=1))


def _known_of_users(config: Mapping[str, Any]) -> pl.DataFrame | None:
    """user (raw id) and what the data set of these settings says of them, or None where it says nothing."""
    dataset = config["dataset"]
    if dataset == "planted":
        homes = planted(**config["planted"], seed=config["seed"]).homes
        depths = {f"home_{depth}": column for depth, column in enumerate(homes.T, start=1)}
        return pl.DataFrame({"user": np.arange(len(homes)), **depths})
    if dataset not in DATASETS:
        path = Path(dataset).expanduser()
        folder = path if path.is_dir() else path.parent
    elif dataset == "ml-100k":  # the others have no such file
        try:
            folder = fetch(dataset)
        except DataError:
            return None
    else:
        return None
    files = [file for file in (folder / "u.user", *sorted(folder.glob("*.user"))) if file.is_file()]
    if not files:
        return None
    users = read_users(files[0])
    edges, names = list(AGES), list(AGES.values())
    group = [None if age is None else names[np.searchsorted(edges, age, side="right") - 1] for age in users["age"]]
    return users.with_columns(age=pl.Series(group, dtype=pl.String))
