"""Runs for the tests of serving: vectors of small whole numbers, so that there are ties, and their slow lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from mrl.data import Positives
from mrl.runs import Run


def made_run(seed: int = 0, users: int = 12, items: int = 90, dim: int = 8, *, ties: bool = True) -> Run:
    """Not trained, not on disk: vectors of a seed, titles, years, and about a tenth of all pairs seen."""
    rng = np.random.default_rng(seed)
    tables = {}
    for name, rows in (("users", users), ("items", items)):
        table = rng.integers(-2, 3, (rows, dim)) if ties else rng.standard_normal((rows, dim)) * 0.8 ** np.arange(dim)
        tables[name] = torch.from_numpy(table.astype(np.float32))
    seen = (rng.random((users, items)) < 0.1).nonzero()
    labels = {"title": [f"title {row}" for row in range(items)], "year": rng.integers(1980, 2000, items)}
    return Run(
        path=Path("made"),
        config={},
        environment={},
        metrics=pl.DataFrame(),
        history=pl.DataFrame(),
        user_ids=np.array([f"u{row}" for row in range(users)], dtype=object),
        item_ids=np.arange(items) * 3 + 7,
        labels=pl.DataFrame(labels),
        seen=Positives.from_pairs(*seen, users, items),
        weights=tables,
    )


def popular_run(seed: int = 0) -> Run:
    """`made_run` of more items, such that lengths and first columns of blocks tell how popular these are."""
    run = made_run(seed, users=40, items=300, ties=False)
    told = run.seen.item_counts.float().log1p()[:, None] * torch.tensor([1.0, 0, 0, 0, 0.5, 0, 0, 0])
    weights = run.weights | {"items": run.items + told, "users": run.users.abs()}
    return replace(run, weights=weights, config={"widths": [4, 8]})


def slow_lists(run: Run, k: int, width: int, allowed: np.ndarray | None = None, *, hides: bool = True) -> list[list]:
    """Raw item ids of the k best of each user by a plain sort; of equal scores the smaller row comes first."""
    lists = []
    for user, vector in enumerate(run.users.double().numpy()):
        scores = run.items.double().numpy()[:, :width] @ vector[:width]
        left = np.ones(len(scores), bool) if allowed is None else allowed.copy()
        if hides:
            left[run.seen.of(user).numpy()] = False
        rows = sorted(left.nonzero()[0], key=lambda row: (-scores[row], row))[:k]
        lists.append(run.item_ids[rows].tolist())
    return lists


def as_lists(table: pl.DataFrame, users: list) -> list[list]:
    """The items of each user in the order of a table of recommendations."""
    return [table.filter(pl.col("user") == user)["item"].to_list() for user in users]
