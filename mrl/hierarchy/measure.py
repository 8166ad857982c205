"""What the levels of nested embeddings mean: item vectors and labels in, tidy tables out.

`measure` gives every number for one matrix of items; the functions behind it live beside what they measure (`clusters`,
`neighbours`, `nesting`, `probes`, `tree`) and `describe` puts the tables into words. This module knows no models: run
it on a control's items in the same way, and stack the tables with a `model` column.

One vocabulary of columns, in every table where they apply; one row a figure:

    width             number of leading dimensions; of a block: where it ends; of a pair: the finer (wider) one
    other_width       the second width of a pair: the coarser one in `nesting`, any in the square `similarity`
    clustering        `same` (as many clusters at every width), `growing` (more at wider ones), `tree` (strictly nested)
    clusters          number of clusters there are
    cluster           number of one cluster at its width
    label             what it is held against: genres, depth_1, popularity, year, …
    class             one value of the label (a genre); null for the mean over them
    metric, value     see below
    chance            the value reached without any relation: mean over shuffles, or exact where a formula gives it
    chance_std        standard deviation over the shuffles; null or absent where chance is exact

    table        columns                                                     metrics
    agreement    clustering, width, clusters, label                          ami, nmi, purity, dendrogram_purity (tree)
    neighbours   width, neighbours, label                                    jaccard
    nesting      clustering, width, other_width                              share, entropy (bits)
    similarity   width, other_width, neighbours (overlap only)               overlap, cka, correlation (of blocks)
    blocks       part (block, prefix), width, start, label, class            effective_rank, variance_share, r2, auc
    recovery     width, clusters, label (depth_1, …)                         ami, nmi, purity
    names        clustering, width, cluster: see `tree.cluster_names`        items, typical, lift, titles, name, …
    flows        clustering, width, cluster, next_width, next_cluster        items, share_out, share_in
    tree         node, parent, level, and the columns of names

`items` in names, flows and tree is a number of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mrl.errors import DataError
from mrl.hierarchy.clusters import agreement, check_items, cluster_items, membership, sample_rows
from mrl.hierarchy.neighbours import nearest, neighbour_jaccard, neighbour_overlap
from mrl.hierarchy.nesting import dendrogram_purity, linear_cka, nesting
from mrl.hierarchy.probes import block_correlation, block_shape, probe_labels, probe_number
from mrl.hierarchy.tree import catalogue_tree, cluster_names, flows, nested_clusters


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The tables of one matrix of items, as the module documents them; `rows` (n,) are the item rows they rest on.

    `same`, `growing`, `nested`: (W, n) clusters at every width, beside `rows`. Tables without labels to fill them are
    empty frames.
    """

    widths: tuple[int, ...]
    rows: np.ndarray
    same: np.ndarray
    growing: np.ndarray
    nested: np.ndarray
    agreement: pl.DataFrame
    neighbours: pl.DataFrame
    nesting: pl.DataFrame
    similarity: pl.DataFrame
    blocks: pl.DataFrame
    recovery: pl.DataFrame
    names: pl.DataFrame
    flows: pl.DataFrame
    tree: pl.DataFrame

    def numbers(self) -> pl.DataFrame:
        """All tables of metrics as one, with a column `table`: what goes into one CSV file."""
        parts = {name: getattr(self, name) for name in NUMBERS}
        named = [frame.select(pl.lit(name).alias("table"), pl.all()) for name, frame in parts.items() if len(frame)]
        values = [name for name in ("value", "chance", "chance_std") if any(name in frame.columns for frame in named)]
        return pl.concat(named, how="diagonal_relaxed").select(pl.exclude(values), *values)


NUMBERS = ("agreement", "neighbours", "nesting", "similarity", "blocks", "recovery")


def depth_columns(labels: pl.DataFrame | None) -> list[str]:
    """The columns of true depths (`depth_1`, `depth_2`, …) in order; none for real data."""
    found = [] if labels is None else [name for name in labels.columns if name.startswith("depth_")]
    return sorted(found, key=lambda name: (len(name), name))


def recovery(
    items: np.ndarray,
    widths: Sequence[int],
    labels: pl.DataFrame,
    *,
    normalise: bool = True,
    permutations: int = 100,
    seed: int = 0,
) -> pl.DataFrame:
    """Which width recovers which true depth: as many k-means clusters as the depth has, at every width.

    items: (I, D); labels: one row an item with columns `depth_1`, `depth_2`, …. Columns width, clusters, label, metric
    (ami, nmi, purity), value, chance, chance_std.
    """
    columns = depth_columns(labels)
    if not columns:
        raise DataError(f"labels has no column depth_1 but {labels.columns}: recovery needs the true depths")
    parts = []
    for column in columns:
        carried, names = membership(labels[column])
        found = cluster_items(items, widths, len(names), normalise=normalise, seed=seed)
        parts.append(agreement(found, widths, carried, label=column, permutations=permutations, seed=seed))
    return pl.concat(parts).drop("clustering")


def measure(
    items: np.ndarray,
    widths: Sequence[int],
    *,
    labels: pl.DataFrame | None = None,
    popularity: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
    label_columns: Sequence[str] | None = None,
    same: int = 16,
    growing: Sequence[int] | None = None,
    branching: int | Sequence[int] | None = None,
    k: int = 10,
    normalise: bool = True,
    sample: int | None = 2000,
    permutations: int = 100,
    seed: int = 0,
) -> Hierarchy:
    """Every table of the hierarchy for one matrix of items.

    items: (I, D); labels: one row an item, with `title`, `year` and label columns where known; popularity: (I,) number
    of training interactions, items without any are left out (nothing was learned of them); label_columns: what clusters
    are held against, by default `genres` and the true depths; they also name the clusters. same: clusters at
    every width; growing: clusters at each width, by default as many as it has dimensions; branching: of the nested
    tree, by default 4 and then 2; k: neighbours; normalise: compare directions, not lengths (see `cluster_items`);
    sample: at most that many items, drawn by `seed`; None for all. Clusters are cut to a quarter of the items.
    """
    items, widths = check_items(items, widths)
    for name, given in (("labels", labels), ("popularity", popularity), ("item_ids", item_ids)):
        if given is not None and len(given) != len(items):
            raise DataError(f"{name} has {len(given)} rows for {len(items)} items; give one a row of items")
    learned = np.arange(len(items)) if popularity is None else np.flatnonzero(np.asarray(popularity) > 0)
    if len(learned) <= k:
        raise DataError(f"items: {len(learned)} have training interactions; at least {k + 1} are needed for k={k}")
    rows = sample_rows(learned, sample, seed)
    items, labels = items[rows], None if labels is None else labels[rows]
    popularity = None if popularity is None else np.asarray(popularity, dtype=np.float64)[rows]
    item_ids = rows if item_ids is None else np.asarray(item_ids)[rows]
    options = {"permutations": permutations, "seed": seed}

    most = max(len(rows) // 4, 1)
    shape = {"normalise": normalise, "seed": seed}
    clusterings = {
        "same": cluster_items(items, widths, min(same, most), **shape),
        "growing": cluster_items(items, widths, [min(n, most) for n in growing or widths], **shape),
        "tree": nested_clusters(items, widths, branching or [4] + [2] * (len(widths) - 1), **shape),
    }
    members = _members(labels, label_columns)
    near = nearest(items, widths, k, normalise=normalise)
    agreeing, jaccards = [], []
    for label, (carried, _) in members.items():
        for name, found in clusterings.items():
            agreeing.append(agreement(found, widths, carried, label=label, clustering=name, **options))
        agreeing.append(dendrogram_purity(clusterings["tree"], widths, carried, label=label, **options))
        jaccards.append(neighbour_jaccard(near, widths, carried, label=label, **options))
    carried = np.hstack([found for found, _ in members.values()]) if members else None
    names = [name for _, found in members.values() for name in found]
    known = {"carried": carried, "names": names, "labels": labels, "item_ids": item_ids, "popularity": popularity}
    named = {name: cluster_names(found, widths, clustering=name, **known) for name, found in clusterings.items()}
    flowing = {name: flows(found, widths, clustering=name) for name, found in clusterings.items()}
    overlap, cka = neighbour_overlap(near, widths), linear_cka(items, widths, seed=seed)
    return Hierarchy(
        widths=widths,
        rows=rows,
        same=clusterings["same"],
        growing=clusterings["growing"],
        nested=clusterings["tree"],
        agreement=_stack(agreeing),
        neighbours=_stack(jaccards),
        nesting=_stack([nesting(clusterings[c], widths, clustering=c, **options) for c in ("same", "growing")]),
        similarity=_stack([overlap, cka, block_correlation(items, widths)]),
        blocks=_stack([block_shape(items, widths), *_probes(items, widths, labels, members, popularity, seed)]),
        recovery=recovery(items, widths, labels, **shape, permutations=permutations)
        if depth_columns(labels)
        else _NONE,
        names=_stack(list(named.values())),
        flows=_stack(list(flowing.values())),
        tree=catalogue_tree(named["tree"], flowing["tree"]),
    )


_NONE = pl.DataFrame()


def _stack(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames, how="diagonal_relaxed") if frames else _NONE


def _members(labels: pl.DataFrame | None, columns: Sequence[str] | None) -> dict[str, tuple[np.ndarray, list[str]]]:
    """`membership` of each label column; columns that say nothing about these items are left out unless asked for."""
    if labels is None:
        return {}
    missing = [name for name in columns or () if name not in labels.columns]
    if missing:
        raise DataError(f"label_columns={missing}: labels only has {labels.columns}")
    usual = [name for name in ("genres", *depth_columns(labels)) if name in labels.columns]
    members = {name: membership(labels[name]) for name in (usual if columns is None else columns)}
    for name in set(members) & set(depth_columns(labels)):  # a bare number would not say of which depth
        carried, values = members[name]
        members[name] = carried, [f"branch {name.removeprefix('depth_')}·{value}" for value in values]
    return {name: found for name, found in members.items() if columns is not None or found[0].any()}


def _probes(items, widths, labels, members, popularity, seed: int) -> list[pl.DataFrame]:
    """Probes of everything there is enough of: log popularity, year, labels."""
    numbers = {}
    if popularity is not None:
        numbers["popularity"] = np.log1p(popularity)
    if labels is not None and "year" in labels.columns:
        numbers["year"] = labels["year"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    found = [
        probe_number(items, widths, target, label=name, seed=seed)
        for name, target in numbers.items()
        if np.isfinite(target).sum() >= 10 and np.nanstd(target) > 0
    ]
    for name, (carried, classes) in members.items():
        known = carried[carried.any(axis=1)]
        if (np.minimum(known.sum(axis=0), (~known).sum(axis=0)) >= 10).any():
            found.append(probe_labels(items, widths, carried, classes, label=name, seed=seed))
    return found
