"""What the levels of nested embeddings mean: item vectors and labels in, tidy tables out.

`measure_hierarchy` gives every number for one matrix of items; the functions behind it live beside what they measure
(`clusters`, `neighbours`, `nesting`, `probes`, `tree`) and `describe` puts the tables into words. This module knows no
models: run it on a control's items in the same way, and stack the tables with a `model` column.

One vocabulary of columns, in every table where they apply; one row a value:

    width             number of leading dimensions; of a block: where it ends; of a pair: the finer (wider) one
    other_width       the second width of a pair: the coarser one in `nesting`, any in the square `similarity`
    clustering        `fixed` (the same number of clusters at every width), `by_width` (more at wider ones),
                      `tree` (nested)
    clusters          number of clusters there are
    cluster           number of one cluster at its width
    label             what it is compared with: genres, depth_1, popularity, year, …
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
    names        clustering, width, cluster: see `tree.name_clusters`        items, typical, lift, titles, name, …
    flows        clustering, width, cluster, next_width, next_cluster        items, share_out, share_in
    tree         node, parent, level, and the columns of names

`items` in names, flows and tree is a number of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mrl.errors import ConfigError, DataError
from mrl.hierarchy.clusters import (
    check_items,
    cluster_items,
    measure_agreement,
    membership,
    name_branches,
    prototype_clusters,
    sample_rows,
)
from mrl.hierarchy.neighbours import find_nearest, neighbour_jaccard, neighbour_overlap
from mrl.hierarchy.nesting import dendrogram_purity, linear_cka, measure_nesting
from mrl.hierarchy.probes import block_correlation, block_shape, probe_labels, probe_number
from mrl.hierarchy.tree import build_tree, build_tree_clusters, count_flows, name_clusters, prototype_tree
from mrl.words import readable

SAMPLE = 20_000  # items that are measured, where nothing else is asked for
QUERIES = 2000  # items whose neighbours are sought, among all of them: every item with every other would be too many
PROBED = 3000  # items that linear probes read, drawn like the others; more would sharpen nothing that is shown


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The tables of one matrix of items, as the module documents them; `rows` (n,) are the item rows they rest on.

    clusters: by clustering, (W, n) clusters of these items at every width. Tables that need labels are empty without.
    notes: what was left out and why, in words.
    """

    widths: tuple[int, ...]
    rows: np.ndarray
    clusters: dict[str, np.ndarray]
    agreement: pl.DataFrame
    neighbours: pl.DataFrame
    nesting: pl.DataFrame
    similarity: pl.DataFrame
    blocks: pl.DataFrame
    recovery: pl.DataFrame
    names: pl.DataFrame
    flows: pl.DataFrame
    tree: pl.DataFrame
    notes: tuple[str, ...] = ()

    def numbers(self) -> pl.DataFrame:
        """All tables of metrics as one, with a column `table`: what goes into one CSV file."""
        parts = {name: getattr(self, name) for name in NUMBERS}
        named = [frame.select(pl.lit(name).alias("table"), pl.all()) for name, frame in parts.items() if len(frame)]
        values = [name for name in ("value", "chance", "chance_std") if any(name in frame.columns for frame in named)]
        return pl.concat(named, how="diagonal_relaxed").select(pl.exclude(values), *values)


NUMBERS = ("agreement", "neighbours", "nesting", "similarity", "blocks", "recovery")


def depth_columns(labels: pl.DataFrame | None) -> list[str]:
    """The columns of true depths (`depth_1`, `depth_2`, …) in order; none for real data."""
    columns = [] if labels is None else [name for name in labels.columns if name.startswith("depth_")]
    return sorted(columns, key=lambda name: (len(name), name))


def measure_recovery(
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
    (ami, nmi, purity), value, chance, chance_std. Left out are depths of more classes than a quarter of the items,
    since clusters of three items say little, and those that no item has; empty where that is every depth.
    """
    columns = depth_columns(labels)
    if not columns:
        raise DataError(f"labels has no column depth_1 but {labels.columns}: recovery needs the true depths")
    parts = []
    for column in columns:
        has_label, names = membership(labels[column])
        if not 1 <= len(names) <= most_clusters(len(items)):
            continue
        clusters = cluster_items(items, widths, len(names), normalise=normalise, seed=seed)
        options = {"label": column, "permutations": permutations, "seed": seed}
        parts.append(measure_agreement(clusters, widths, has_label, **options))
    return pl.concat(parts).drop("clustering") if parts else _EMPTY


def most_clusters(num_items: int) -> int:
    """As many clusters as are made of so many items: a quarter as many, at least 1."""
    return max(num_items // 4, 1)


def measure_hierarchy(
    items: np.ndarray,
    widths: Sequence[int],
    *,
    labels: pl.DataFrame | None = None,
    popularity: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
    label_columns: Sequence[str] | None = None,
    clusters: int = 16,
    clusters_by_width: Sequence[int] | None = None,
    branching: int | Sequence[int] | None = None,
    k: int = 10,
    clustering: str = "kmeans",
    normalise: bool = True,
    sample: int | None = SAMPLE,
    permutations: int = 100,
    seed: int = 0,
) -> Hierarchy:
    """Every table of the hierarchy for one matrix of items.

    items: (I, D); labels: one row an item, with `title`, `year` and label columns where known; popularity: (I,) number
    of training interactions, items without any are left out (nothing was learned of them); label_columns: what clusters
    are compared with, by default `genres` and the true depths; they also name the clusters. clusters: at every width
    of the clustering `fixed`; clusters_by_width: at each width of `by_width`, by default as many as it has dimensions;
    branching: of the tree, by default 4 and then 2; k: neighbours; clustering: kmeans, or prototypes (`mrl.prototypes`:
    balanced, always by direction) in its place; normalise: compare directions, not lengths (see
    `cluster_items`); sample: at most that many items, drawn by `seed`; None for all. At most a quarter as many clusters
    as items are made, so a depth of more classes is not recovered; `notes` say so.

    Work grows with the items, not with their square: above some thousand, neighbours are sought for QUERIES of them,
    probes read PROBED of them, and k-means is tried less often (`clusters.trials_of`). 20,000 items with depths of 30,
    336 and 1,500 classes take less than a minute on one core.
    """
    items, widths = check_items(items, widths, labels=labels, popularity=popularity, item_ids=item_ids)
    learned = np.arange(len(items)) if popularity is None else np.flatnonzero(np.asarray(popularity) > 0)
    if len(learned) <= k:
        raise DataError(f"items: {len(learned)} have training interactions; at least {k + 1} are needed for k={k}")
    rows = sample_rows(learned, sample, seed)
    items, labels = items[rows], None if labels is None else labels[rows]
    popularity = None if popularity is None else np.asarray(popularity, dtype=np.float64)[rows]
    item_ids = rows if item_ids is None else np.asarray(item_ids)[rows]

    most = most_clusters(len(rows))
    options = {"permutations": permutations, "seed": seed}
    kmeans = {"normalise": normalise, "seed": seed}
    cluster, grow, how = cluster_items, build_tree_clusters, kmeans
    if clustering == "prototypes":
        cluster, grow, how = prototype_clusters, prototype_tree, {"seed": seed}
    elif clustering != "kmeans":
        raise ConfigError(f"clustering={clustering!r}: must be kmeans or prototypes")
    clusterings = {
        "fixed": cluster(items, widths, min(clusters, most), **how),
        "by_width": cluster(items, widths, [min(n, most) for n in clusters_by_width or widths], **how),
        "tree": grow(items, widths, branching or [4] + [2] * (len(widths) - 1), **how),
    }
    members = _members(labels, label_columns)
    queries = sample_rows(len(rows), QUERIES, seed)
    neighbours = find_nearest(items, widths, k, rows=queries, normalise=normalise)
    agreement, jaccard = [], []
    for label, (has_label, _) in members.items():
        against = {"label": label} | options
        for name, assigned in clusterings.items():
            agreement.append(measure_agreement(assigned, widths, has_label, clustering=name, **against))
        agreement.append(dendrogram_purity(clusterings["tree"], widths, has_label, **against))
        jaccard.append(neighbour_jaccard(neighbours, widths, has_label, rows=queries, **against))
    depths = depth_columns(labels)
    recovery = measure_recovery(items, widths, labels, **kmeans, permutations=permutations) if depths else _EMPTY
    recovered = recovery["label"].to_list() if len(recovery) else []
    notes = [
        f"{readable(depth)} is not recovered: it has no class, or more than {most:,}, a quarter of the items"
        for depth in depths
        if depth not in recovered
    ]
    facts = {
        "has_label": np.hstack([has_label for has_label, _ in members.values()]) if members else None,
        "names": [name for _, names in members.values() for name in names],
        **{"labels": labels, "item_ids": item_ids, "popularity": popularity},
    }
    names, flows = {}, {}
    for name, assigned in clusterings.items():
        names[name] = name_clusters(assigned, widths, clustering=name, **facts)
        flows[name] = count_flows(assigned, widths, clustering=name)
    return Hierarchy(
        widths=widths,
        rows=rows,
        clusters=clusterings,
        agreement=_stack(*agreement),
        neighbours=_stack(*jaccard),
        nesting=_stack(
            *(measure_nesting(clusterings[name], widths, clustering=name, **options) for name in ("fixed", "by_width"))
        ),
        similarity=_stack(
            neighbour_overlap(neighbours, widths, len(rows)),
            linear_cka(items, widths, seed=seed),
            block_correlation(items, widths),
        ),
        blocks=_stack(block_shape(items, widths), *_probes(items, widths, labels, members, popularity, seed), _PROBES),
        recovery=recovery,
        names=_stack(*names.values()),
        flows=_stack(*flows.values()),
        tree=build_tree(names["tree"], flows["tree"]),
        notes=tuple(notes),
    )


_EMPTY = pl.DataFrame()
_PROBES = pl.DataFrame(schema={"label": pl.String, "class": pl.String, "chance_std": pl.Float64})  # where none is made


def _stack(*frames: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(frames, how="diagonal_relaxed") if frames else _EMPTY


def _members(labels: pl.DataFrame | None, columns: Sequence[str] | None) -> dict[str, tuple[np.ndarray, list[str]]]:
    """`membership` of each label column; columns that say nothing about these items are left out unless asked for."""
    if labels is None:
        return {}
    missing = [name for name in columns or () if name not in labels.columns]
    if missing:
        raise DataError(f"label_columns={missing}: labels only has {labels.columns}")
    default = [name for name in ("genres", *depth_columns(labels)) if name in labels.columns]
    members = {}
    for name in default if columns is None else columns:
        has_label, values = membership(labels[name])
        if columns is not None or has_label.any():
            members[name] = has_label, name_branches(name, values)
    return members


def _probes(items, widths, labels, members, popularity, seed: int) -> list[pl.DataFrame]:
    """Probes of everything there is enough of, on at most PROBED items: log popularity, year, labels."""
    rows = sample_rows(len(items), PROBED, seed)
    items, labels = items[rows], None if labels is None else labels[rows]
    members = {name: (has_label[rows], classes) for name, (has_label, classes) in members.items()}
    numbers = {}
    if popularity is not None:
        numbers["popularity"] = np.log1p(popularity[rows])
    if labels is not None and "year" in labels.columns:
        numbers["year"] = labels["year"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    probes = []
    for name, target in numbers.items():
        known = target[np.isfinite(target)]
        if len(known) >= 10 and known.max() > known.min():  # not their deviation, which rounds to more than 0
            probes.append(probe_number(items, widths, target, label=name, seed=seed))
    for name, (has_label, classes) in members.items():
        known = has_label[has_label.any(axis=1)]
        if (np.minimum(known.sum(axis=0), (~known).sum(axis=0)) >= 10).any():
            probes.append(probe_labels(items, widths, has_label, classes, label=name, seed=seed))
    return probes
