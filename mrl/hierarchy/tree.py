"""The refinement tree: what clusters are called, where they go as the width grows, a strictly nested catalogue.

Arrays in, tidy tables out; `mrl.hierarchy.measure` documents the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from mrl.errors import ConfigError
from mrl.hierarchy.clusters import check_items, cluster_points, indicator, normalise_rows, one_a_width
from mrl.hierarchy.neighbours import item_titles
from mrl.hierarchy.nesting import tree_levels
from mrl.prototypes import fit_prototypes

MANY = 4  # labels of an item: with more, none of them says what it is


def build_tree_clusters(
    items: np.ndarray,
    widths: Sequence[int],
    branching: int | Sequence[int] = (4, 2, 2, 2, 2),
    *,
    min_items: int = 8,
    normalise: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """Strictly nested clusters: all items split on the first width, then each cluster on the next width's columns.

    items: (I, D); branching: children of a node, one number or one a width (fewer where items coincide). A cluster
    with fewer than `min_items` items a child stays whole. Returns (W, I) int64; at each width clusters are numbered in
    the order of their parents, and from the largest within a parent, so that a tree can be drawn without crossings.
    """
    items, widths = check_items(items, widths)
    children = one_a_width("branching", branching, widths)
    if min_items < 1:
        raise ConfigError(f"min_items={min_items}: must be at least 1")
    parents, levels = np.zeros(len(items), dtype=np.int64), []
    for width, number in zip(widths, children, strict=True):
        prefix = normalise_rows(items[:, :width]) if normalise else items[:, :width]
        child = np.zeros(len(items), dtype=np.int64)
        for parent in range(parents.max() + 1):
            inside = np.flatnonzero(parents == parent)
            if number > 1 and len(inside) >= number * min_items:
                child[inside] = cluster_points(prefix[inside], number, seed)
        parents = np.unique(parents * number + child, return_inverse=True)[1]
        levels.append(parents)
    return np.stack(levels)


def prototype_tree(
    items: np.ndarray, widths: Sequence[int], branching: int | Sequence[int], seed: int = 0
) -> np.ndarray:
    """(W, I) int64, as `build_tree_clusters`: the tree of prototypes (`mrl.prototypes.tree`), numbered likewise.

    Of each level there are as many prototypes as `branching` makes; how many of them a node has, its items say.
    """
    items, widths = check_items(items, widths)
    counts = np.minimum(np.cumprod(one_a_width("branching", branching, widths)), len(items))
    return tree_levels(fit_prototypes(items, widths, counts.tolist(), seed=seed).codes)[1:]


def name_clusters(
    clusters: np.ndarray,
    widths: Sequence[int],
    *,
    has_label: np.ndarray | None = None,
    names: Sequence[str] = (),
    labels: pl.DataFrame | None = None,
    item_ids: np.ndarray | None = None,
    popularity: np.ndarray | None = None,
    clustering: str = "fixed",
    typical: int = 2,
    titles: int = 3,
) -> pl.DataFrame:
    """Every cluster at every width, named by its typical labels, with titles that stand for the first of them.

    clusters: (W, I); has_label: (I, G) bool with `names`; labels: a frame with a `title` column; popularity: (I,).
    Lift of label g in cluster c = P(g | c) / P(g) among labelled items. Typical are the labels with lift > 1 and at
    least two items that add most to what the cluster tells, P(g | c) log lift: lift alone would prefer the rarest.
    Titles are of items that carry the first of them, by popularity over their number of labels: a film that is War
    and nothing else stands for War before one of three genres. Those of more than MANY labels stand for none: they come
    last. Where no label is typical, titles are of the most popular items.
    Columns: clustering, width, cluster, items, share (of all items), popularity_share (of all interactions, null
    without popularity), typical (labels joined by ` / `, or null), lift (of the first), label_share (P(first | c)),
    titles (joined by `; `), name (typical: titles).
    """
    num_items = clusters.shape[1]
    title = np.array(item_titles(num_items, labels, item_ids), dtype=object)
    weight = np.ones(num_items) if popularity is None else np.asarray(popularity, dtype=np.float64)
    known = np.zeros(num_items, dtype=bool) if has_label is None else has_label.any(axis=1)
    labels_an_item = np.ones(num_items) if has_label is None else np.maximum(has_label.sum(axis=1), 1)
    as_example = weight / labels_an_item - (labels_an_item > MANY) * weight.max()
    carries = csr_array(has_label, dtype=np.float64) if known.any() else None
    overall = None if carries is None else carries.sum(axis=0) / known.sum()  # (G,)
    rows = []
    for width, cluster_of in zip(widths, clusters, strict=True):
        counts = None if carries is None else (indicator(cluster_of) @ carries).toarray()  # (K, G)
        for cluster in np.unique(cluster_of):
            inside = np.flatnonzero(cluster_of == cluster)
            examples, fitness = inside, weight
            first = {"typical": None, "lift": None, "label_share": None}
            if overall is not None and known[inside].any():
                share = counts[cluster] / known[inside].sum()
                lift = share / np.maximum(overall, 1e-12)
                gain = np.where((lift > 1) & (counts[cluster] >= 2), share * np.log(np.maximum(lift, 1)), 0)
                best = [g for g in np.argsort(-gain, kind="stable")[:typical] if gain[g] > 0]
                if best:
                    words = " / ".join(names[g] for g in best)
                    top = best[0]
                    first = {"typical": words, "lift": float(lift[top]), "label_share": float(share[top])}
                    examples, fitness = inside[has_label[inside, top]], as_example
            listed = "; ".join(title[examples[np.argsort(-fitness[examples], kind="stable")][:titles]])
            rows.append(
                {
                    "clustering": clustering,
                    "width": width,
                    "cluster": int(cluster),
                    "items": len(inside),
                    "share": len(inside) / num_items,
                    "popularity_share": None if popularity is None else float(weight[inside].sum() / weight.sum()),
                    **first,
                    "titles": listed,
                    "name": f"{first['typical']}: {listed}" if first["typical"] else listed,
                }
            )
    texts = {"typical": pl.String, "lift": pl.Float64, "label_share": pl.Float64, "popularity_share": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=texts, infer_schema_length=None)


def count_flows(clusters: np.ndarray, widths: Sequence[int], *, clustering: str = "fixed") -> pl.DataFrame:
    """How many items go from which cluster at one width to which at the next: the ribbons of an alluvial diagram.

    clusters: (W, I). Columns: clustering, width, cluster, next_width, next_cluster, items, share_out (of the cluster at
    `width`), share_in (of the one at `next_width`); only flows with items, sorted.
    """
    rows = []
    for (width, at_width), (next_width, at_next) in pairwise(zip(widths, clusters, strict=True)):
        table = (indicator(at_width) @ indicator(at_next).T).toarray().astype(np.int64)  # (K, next K)
        sizes, next_sizes = table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
        for cluster, next_cluster in np.argwhere(table).tolist():
            count = int(table[cluster, next_cluster])
            source = {"clustering": clustering, "width": width, "cluster": cluster}
            target = {"next_width": next_width, "next_cluster": next_cluster, "items": count}
            shares = {"share_out": count / sizes[cluster], "share_in": count / next_sizes[next_cluster]}
            rows.append({**source, **target, **shares})
    columns = {"clustering": pl.String, "width": pl.Int64, "cluster": pl.Int64, "next_width": pl.Int64}
    columns |= {"next_cluster": pl.Int64, "items": pl.Int64, "share_out": pl.Float64, "share_in": pl.Float64}
    return pl.DataFrame(rows, schema=columns)


def build_tree(names: pl.DataFrame, flows: pl.DataFrame) -> pl.DataFrame:
    """The nodes of a strictly nested tree: `name_clusters` plus `node`, `parent` (null at the first width) and `level`.

    A node is `width/cluster`. names and flows: `name_clusters` and `count_flows` of the same `build_tree_clusters`.
    """
    node = pl.format("{}/{}", pl.col("width"), pl.col("cluster"))
    parents = flows.select(
        pl.col("next_width").alias("width"), pl.col("next_cluster").alias("cluster"), node.alias("parent")
    )
    joined = names.join(parents, on=["width", "cluster"], how="left", maintain_order="left")
    if len(joined) != len(names):
        raise ConfigError("a cluster has two parents: the clusters are not strictly nested; use `count_flows` instead")
    return joined.select(
        node.alias("node"),
        "parent",
        (pl.col("width").rank("dense").cast(pl.Int64) - 1).alias("level"),
        pl.all().exclude("parent"),
    )
