"""The refinement tree: what clusters are called, where they go as the width grows, a strictly nested catalogue.

Arrays in, tidy tables out; `mrl.hierarchy.measure` documents the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from mrl.errors import ConfigError
from mrl.hierarchy.clusters import check_items, indicator, split_points, unit_rows
from mrl.hierarchy.neighbours import item_titles


def nested_clusters(
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
    children = [branching] * len(widths) if isinstance(branching, int) else list(branching)
    if len(children) != len(widths):
        raise ConfigError(f"branching={children}: {len(children)} numbers for {len(widths)} widths; give one each")
    if not all(number >= 1 for number in children) or min_items < 1:
        raise ConfigError(f"branching={children}, min_items={min_items}: must be at least 1")
    parents, levels = np.zeros(len(items), dtype=np.int64), []
    for width, number in zip(widths, children, strict=True):
        prefix = unit_rows(items[:, :width]) if normalise else items[:, :width]
        child = np.zeros(len(items), dtype=np.int64)
        for parent in range(parents.max() + 1):
            inside = np.flatnonzero(parents == parent)
            if number > 1 and len(inside) >= number * min_items:
                child[inside] = split_points(prefix[inside], number, seed)
        parents = np.unique(parents * number + child, return_inverse=True)[1]
        levels.append(parents)
    return np.stack(levels)


def cluster_names(
    clusters: np.ndarray,
    widths: Sequence[int],
    *,
    carried: np.ndarray | None = None,
    names: Sequence[str] = (),
    labels: pl.DataFrame | None = None,
    item_ids: np.ndarray | None = None,
    popularity: np.ndarray | None = None,
    clustering: str = "same",
    typical: int = 2,
    titles: int = 3,
) -> pl.DataFrame:
    """Every cluster at every width, named by its typical labels and its most popular titles.

    clusters: (W, I); carried: (I, G) bool with `names`; labels: a frame with a `title` column; popularity: (I,).
    Lift of label g in cluster c = P(g | c) / P(g) among labelled items. Typical are the labels with lift > 1 and at
    least two items that add most to what the cluster tells, P(g | c) log lift: lift alone would prefer the rarest.
    Columns: clustering, width, cluster, items, share (of all items), popularity_share (of all interactions, null
    without popularity), typical (labels joined by ` / `, or null), lift (of the first), label_share (P(first | c)),
    titles (joined by `; `), name (typical: titles).
    """
    num_items = clusters.shape[1]
    title = np.array(item_titles(num_items, labels, item_ids), dtype=object)
    weight = np.zeros(num_items) if popularity is None else np.asarray(popularity, dtype=np.float64)
    known = np.zeros(num_items, dtype=bool) if carried is None else carried.any(axis=1)
    overall = carried[known].mean(axis=0) if known.any() else None  # (G,)
    rows = []
    for width, found in zip(widths, clusters, strict=True):
        for cluster in np.unique(found):
            inside = np.flatnonzero(found == cluster)
            popular = inside[np.argsort(-weight[inside], kind="stable")][:titles]
            first = {"typical": None, "lift": None, "label_share": None}
            if overall is not None and known[inside].any():
                within = carried[inside[known[inside]]]
                share, lift = within.mean(axis=0), within.mean(axis=0) / np.maximum(overall, 1e-12)
                gain = np.where((lift > 1) & (within.sum(axis=0) >= 2), share * np.log(np.maximum(lift, 1)), 0)
                best = [g for g in np.argsort(-gain, kind="stable")[:typical] if gain[g] > 0]
                if best:
                    words = " / ".join(names[g] for g in best)
                    top = best[0]
                    first = {"typical": words, "lift": float(lift[top]), "label_share": float(share[top])}
            listed = "; ".join(title[popular])
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


def flows(clusters: np.ndarray, widths: Sequence[int], *, clustering: str = "same") -> pl.DataFrame:
    """How many items go from which cluster at one width to which at the next: the ribbons of an alluvial diagram.

    clusters: (W, I). Columns: clustering, width, cluster, next_width, next_cluster, items, share_out (of the cluster at
    `width`), share_in (of the one at `next_width`); only flows with items, sorted.
    """
    rows = []
    for (width, here), (next_width, there) in pairwise(zip(widths, clusters, strict=True)):
        table = (indicator(here) @ indicator(there).T.toarray()).astype(np.int64)  # (K here, K there)
        out, into = table.sum(axis=1), table.sum(axis=0)
        for a, b in np.argwhere(table):
            count = int(table[a, b])
            source = {"clustering": clustering, "width": width, "cluster": int(a)}
            target = {"next_width": next_width, "next_cluster": int(b), "items": count}
            rows.append({**source, **target, "share_out": count / int(out[a]), "share_in": count / int(into[b])})
    columns = {"clustering": pl.String, "width": pl.Int64, "cluster": pl.Int64, "next_width": pl.Int64}
    columns |= {"next_cluster": pl.Int64, "items": pl.Int64, "share_out": pl.Float64, "share_in": pl.Float64}
    return pl.DataFrame(rows, schema=columns)


def catalogue_tree(named: pl.DataFrame, flowing: pl.DataFrame) -> pl.DataFrame:
    """The nodes of a strictly nested tree: `cluster_names` plus `node`, `parent` (null at the first width) and `level`.

    A node is `width/cluster`. named and flowing: `cluster_names` and `flows` of the same `nested_clusters`.
    """
    node = pl.format("{}/{}", pl.col("width"), pl.col("cluster"))
    parents = flowing.select(
        pl.col("next_width").alias("width"), pl.col("next_cluster").alias("cluster"), node.alias("parent")
    )
    joined = named.join(parents, on=["width", "cluster"], how="left", maintain_order="left")
    if len(joined) != len(named):
        raise ConfigError("a cluster has two parents: the clusters are not strictly nested; use `flows` instead")
    return joined.select(
        node.alias("node"),
        "parent",
        (pl.col("width").rank("dense").cast(pl.Int64) - 1).alias("level"),
        pl.all().exclude("parent"),
    )
