"""Semantic ids: the place of an item in the tree of prototypes, one code a width, as a label of a run's items.

    write_semantic_ids("runs/ml-100k-default-0")
    load("runs/ml-100k-default-0").labels["semantic_id"]
    index.search([196], only=pl.col("semantic_id").str.starts_with("3-0-"))     # of one branch

As generative recommenders use them (Rajput et al., TIGER, NeurIPS 2023, arXiv 2305.05065), but for its last code, which
tells items of one leaf apart: here they share their id.
"""

from __future__ import annotations

import os

import numpy as np
import polars as pl

from mrl.hierarchy.runs import popularity_of, widths_of
from mrl.prototypes import Prototypes, fit_prototypes, semantic_ids
from mrl.runs import RunDirectory, load

SEMANTIC_ID = "semantic_id"


def write_semantic_ids(path: str | os.PathLike[str], *, per_dimension: float = 4.0, seed: int = 0) -> Prototypes:
    """Give the items of a finished run a label `semantic_id`, one code a width: `3-0-1` is the second child of `3-0`.

    Codes are of the tree of prototypes on the run's item vectors; of the tables that its training learned, where it
    had the term (`nested_loss={"prototypes": …}`), else of `per_dimension` prototypes a dimension, fitted by `seed`.
    They are the same however the items are numbered. Null for items nobody met. Written into ids.parquet, so that
    `load`, lists, filters and `mrl.export` have them; once more, and they are replaced.
    Returns the prototypes of the items that were met. Raises RunError where the run has no vectors or is being written.
    """
    run = load(path)
    counts = popularity_of(run)
    known = np.arange(len(run.item_ids)) if counts is None else np.flatnonzero(counts > 0)
    widths = widths_of(run)
    learned = [run.backbone.get(f"prototypes.{level}") for level in range(len(widths))]
    tables = None if None in learned else [table.numpy() for table in learned]
    found = fit_prototypes(run.items.numpy()[known], widths, per_dimension=per_dimension, tables=tables, seed=seed)
    texts = np.full(len(run.item_ids), None, dtype=object)
    texts[known] = semantic_ids(found.codes)
    column = pl.Series(SEMANTIC_ID, texts.tolist(), dtype=pl.String)
    labels = column.to_frame() if run.labels is None else run.labels.with_columns(column)
    with RunDirectory(run.path) as directory:
        directory.replace_labels(labels)
    return found
