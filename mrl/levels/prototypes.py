"""Nested prototypes (`mrl.prototypes`) beside k-means and balanced k-means, at equal numbers of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import adjusted_mutual_info_score
from threadpoolctl import threadpool_limits

from mrl.config import flat
from mrl.data import Positives
from mrl.errors import RunError
from mrl.hierarchy import check_items, membership, normalise_rows
from mrl.hierarchy.clusters import cluster_items, entropy, indicator, measure_agreement, with_chance
from mrl.hierarchy.measure import depth_columns
from mrl.hierarchy.nesting import dendrogram_purity, measure_nesting
from mrl.hierarchy.tree import build_tree_clusters
from mrl.least_squares import fold_in, transpose
from mrl.prototypes import fit_prototypes, prototype_counts, sinkhorn
from mrl.runs import Run

PASSES = 10  # of balanced k-means, at most
SHARPNESS = 100.0  # of cosines, in its assignments: nearly all or nothing
ROUNDS = 20
FIFTHS = 5  # classes of popularity
SCHEMA = {"method": pl.String, "seed": pl.Int64, "width": pl.Int64, "other_width": pl.Int64, "clusters": pl.Int64}
SCHEMA |= {"label": pl.String, "metric": pl.String, "value": pl.Float64, "chance": pl.Float64}
METHODS = ("kmeans", "balanced_kmeans", "prototypes", "kmeans_tree", "prototypes_tree")


def balanced_kmeans(points: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """(I,) int64: clusters of nearly equal size, of rows (I, m) of length 1, by Lloyd's two steps.

    Items go to the nearest of the centres by a Sinkhorn assignment, which is nearly the optimal balanced one where it
    is this sharp (Cuturi 2013); centres are means, at length 1. Until nothing moves.
    """
    with threadpool_limits(1):
        centres, _ = kmeans_plusplus(points, number, random_state=seed)
    labels, offsets = np.full(len(points), -1), torch.zeros(number)
    for _ in range(PASSES):
        logits = torch.from_numpy(SHARPNESS * points @ centres.T)
        # on from the offsets of the last pass: rows first, or the first round would forget them
        assigned, further = sinkhorn((logits + offsets).log_softmax(1), rounds=ROUNDS)
        offsets, moved = offsets + further, assigned.argmax(1).numpy()
        if (moved == labels).all():
            break
        labels = moved
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, points)
        filled = np.bincount(labels, minlength=number) > 0
        centres = np.where(filled[:, None], normalise_rows(sums), centres)
    return labels


def user_halves(run: Run, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two views (I, D) of every item: folded in from one random half of all users each.

    One solve an item (`mrl.least_squares.fold_in`) with the settings that the run was made by; users are their own
    vectors. An item that nobody of a half has met keeps its vector. RunError where the run has not what that needs.
    """
    if run.seen is None:
        raise RunError(f"{run.path}: has no seen.safetensors, so an item's users are unknown; train again")
    settings = flat(run.config) | run.environment.get("chosen", {})
    # the usual ones for a run that was not made by least squares
    alpha0, l2 = settings.get("alpha0") or 0.1, settings.get("frequency_l2") or 0.01
    half = torch.rand(len(run.user_ids), generator=torch.Generator().manual_seed(seed)) < 0.5
    by_item, views = transpose(run.seen), []
    for users in (half, ~half):
        kept = users[by_item.items.long()]
        some = Positives.from_pairs(by_item.users[kept], by_item.items[kept], len(run.item_ids), len(run.user_ids))
        vectors = fold_in(
            run.users, some, len(run.user_ids), widths=[run.users.shape[1]], alpha0=alpha0, l2=l2,
            nu=settings.get("nu") or 1.0,
        )  # fmt: skip
        views.append(torch.where((some.counts > 0)[:, None], vectors, run.items).numpy())
    return views[0], views[1]


def compare_clusterings(
    items: np.ndarray,
    widths: Sequence[int],
    *,
    per_dimension: float = 4.0,
    labels: pl.DataFrame | None = None,
    popularity: np.ndarray,
    views: tuple[np.ndarray, np.ndarray] | None = None,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    permutations: int = 20,
) -> pl.DataFrame:
    """One row a method, seed, width and metric; METHODS at equal numbers of clusters, `per_dimension` times the width.

    items: (I, D), those nobody met (popularity 0) are left out; views: for a further method `prototypes_views`.
    Columns method, seed (null: over all), width, other_width (of nesting: the next narrower), clusters, label, metric,
    value, chance. Metrics: ami, purity (with genres and true depths); dendrogram_purity (of trees, down to the width);
    share, entropy (nesting); usage_entropy and popularity_entropy, both over the largest possible: of cluster sizes;
    of fifths of popularity within a cluster, mean over items; stability (mean AMI of every two seeds).
    """
    items, widths = check_items(items, widths, labels=labels, popularity=popularity)
    known = np.asarray(popularity) > 0
    items, popularity = items[known], np.asarray(popularity)[known]
    labels = None if labels is None else labels.filter(pl.Series(known))
    counts = prototype_counts(widths, per_dimension, len(items))
    columns = [name for name in ("genres", *depth_columns(labels)) if labels is not None and name in labels.columns]
    members = {name: membership(labels[name])[0] for name in columns}
    members = {name: has_label for name, has_label in members.items() if has_label.any()}
    fifths = ((rankdata(popularity, "average") - 1) * FIFTHS / len(popularity)).astype(np.int64)
    views = None if views is None else (views[0][known], views[1][known])
    wanted = (*methods, "prototypes_views", "prototypes_views_tree") if views is not None else methods
    found: dict[str, list[np.ndarray]] = {method: [] for method in wanted}
    for seed in seeds:
        for method, clusters in _clusterings(items, widths, counts, views, wanted, seed).items():
            found[method].append(clusters)
    parts = []
    for method, by_seed in found.items():
        options = {"permutations": permutations, "clustering": method}
        for seed, clusters in zip(seeds, by_seed, strict=True):
            tables = [_usage(clusters, widths, counts, fifths, seed)]
            if len(widths) > 1:
                tables.append(_of_neighbours(measure_nesting(clusters, widths, **options), widths))
            for label, has_label in members.items():
                tables.append(measure_agreement(clusters, widths, has_label, label=label, **options))
                if method.endswith("tree"):
                    tables.append(dendrogram_purity(clusters, widths, has_label, label=label, **options))
            keys = {"method": pl.lit(method), "seed": pl.lit(seed, pl.Int64)}
            parts += [table.with_columns(**keys) for table in tables]
        pairs = list(combinations(range(len(seeds)), 2))
        for level, width in enumerate(widths) if pairs else ():
            values = [adjusted_mutual_info_score(by_seed[a][level], by_seed[b][level]) for a, b in pairs]
            row = {"method": method, "width": width, "metric": "stability", "value": float(np.mean(values))}
            parts.append(pl.DataFrame([row | {"chance": 0.0}]))
    table = pl.concat(parts, how="diagonal_relaxed").filter(pl.col("metric") != "nmi")
    missing = [pl.lit(None).alias(name) for name in SCHEMA if name not in table.columns]
    return table.with_columns(missing).select(list(SCHEMA)).cast(SCHEMA)


def _clusterings(items, widths, counts, views, methods, seed) -> dict[str, np.ndarray]:
    """(W, I) of each method."""
    made: dict[str, np.ndarray] = {}
    for name, seen in (("prototypes", None), ("prototypes_views", views)):
        if name in methods:
            fitted = fit_prototypes(items, widths, counts, views=seen, seed=seed)
            made |= {name: fitted.clusters, f"{name}_tree": fitted.nodes}
    if "kmeans" in methods:
        made["kmeans"] = cluster_items(items, widths, counts, seed=seed)
    if "balanced_kmeans" in methods:
        prefixes = zip(widths, counts, strict=True)
        clusters = [balanced_kmeans(normalise_rows(items[:, :width]), count, seed) for width, count in prefixes]
        made["balanced_kmeans"] = np.stack(clusters)
    if "kmeans_tree" in methods:
        branching = [counts[0], *(max(1, round(b / a)) for a, b in pairwise(counts))]
        made["kmeans_tree"] = build_tree_clusters(items, widths, branching, min_items=1, seed=seed)
    return {method: made[method] for method in methods}


def _usage(clusters: np.ndarray, widths: Sequence[int], counts: Sequence[int], fifths: np.ndarray, seed: int):
    """The rows of usage_entropy and popularity_entropy."""
    one_hot, rng = np.eye(FIFTHS)[fifths], np.random.default_rng(seed)
    order, rows = rng.permutation(len(fifths)), []
    for width, count, cluster_of in zip(widths, counts, clusters, strict=True):
        member = indicator(cluster_of)
        sizes = np.bincount(cluster_of)
        used = int((sizes > 0).sum())

        def mixed(classes: np.ndarray, member=member, sizes=sizes) -> float:
            within = [entropy(row) for row in member @ classes]
            return float(sizes @ within / sizes.sum() / np.log(FIFTHS))

        key = {"width": width, "clusters": used}
        even = entropy(sizes) / np.log(max(count, used, 2))
        rows.append({**key, "metric": "usage_entropy", "value": even, "chance": None})
        rows.append({**key, "metric": "popularity_entropy", **with_chance(mixed(one_hot), [mixed(one_hot[order])])})
    return pl.DataFrame(rows, infer_schema_length=None)


def _of_neighbours(nesting: pl.DataFrame, widths: Sequence[int]) -> pl.DataFrame:
    """The rows of a width and the next narrower one."""
    below = dict(zip(widths[1:], widths, strict=False))
    return nesting.filter(pl.col("other_width") == pl.col("width").replace_strict(below, default=None))
