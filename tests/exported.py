"""A small run on disk to serve: 40 users, 300 items, 64 dimensions of which the first say most, titles, seen items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from mrl.data.interactions import Interactions, Positives
from mrl.runs import Run, RunDirectory, environment, load

USERS, ITEMS, DIM = 40, 300, 64


def write_served(path: Path) -> Run:
    rng = np.random.default_rng(0)
    scale = 1 / np.arange(1, DIM + 1) ** 0.7
    users = rng.normal(size=(USERS, DIM)) * scale
    items = rng.normal(size=(ITEMS, DIM)) * scale * rng.exponential(size=(ITEMS, 1))
    parts = [rng.random((USERS, ITEMS)) < share for share in (0.1, 0.05)]
    train, test = (Positives.from_pairs(*np.nonzero(part), USERS, ITEMS) for part in (parts[0], parts[1] & ~parts[0]))
    titles = pl.DataFrame({"title": [f"Film {item}, 'the first'" for item in range(ITEMS)]})
    ids = np.arange(USERS) + 190, np.arange(ITEMS) * 3 + 1
    data = Interactions("films", train, Positives.empty(USERS, ITEMS), test, *ids, titles)
    with RunDirectory(path) as directory:
        directory.write_config({"seed": 0, "widths": [4, 16, DIM], "recipe": "least_squares"})
        directory.write_ids(data)
        directory.write_seen(data.train)
        directory.write_weights(*(torch.tensor(side, dtype=torch.float32) for side in (users, items)))
        directory.write_environment(environment(data, "cpu"))
        directory.write_metrics(pl.DataFrame({"split": ["test"], "width": [DIM], "metric": ["recall"], "k": [20]}))
    return load(path)
