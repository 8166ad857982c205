"""Which width knows which depth: one matrix of vectors and classes of its rows → a table, every value beside chance.

Three ways to ask whether the first d columns know a class (a department, a genre, an age group):

    ami          k-means clusters of directions, as many as there are classes, MOST_CLUSTERS at most: adjusted mutual
                 information with the classes, 0 at chance
    clusters     share of the others in an item's cluster that have its class
    neighbours   share of an item's nearest neighbours, by cosine, that have its class
    auc          how well a linear probe tells the class from the rest, held out; 1/2 at chance

Each but ami is there in two averages. `plain` counts every item alike, so that one large class decides; `macro` is the
mean over the classes, of those with at least LEAST items (probes: among the items that they read). Chance is exact: of
a class with n of N items, others drawn at random have it with the share (n - 1) / (N - 1).
Work grows with the items: neighbours and probes are sought for a sample of them, and one k-means serves all depths of
more classes than MOST_CLUSTERS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from mrl.hierarchy.clusters import (
    check_items,
    cluster_points,
    indicator,
    measure_agreement,
    membership,
    normalise_rows,
    sample_rows,
)
from mrl.hierarchy.measure import PROBED, QUERIES, SAMPLE, most_clusters
from mrl.hierarchy.neighbours import find_nearest
from mrl.hierarchy.probes import measure_auc

MOST_CLUSTERS = 256
STARTS, DISTANCES = 10, 2**19  # of k-means: so many, or fewer where they would compare more points with centres
LEAST = 10  # items of a class, for it to count in a macro mean; a probe needs them with and without it
NEIGHBOURS = 10
PERMUTATIONS = 10  # of labels, for the expected information of tables that are too large for the formula
SCHEMA = {
    "label": pl.String, "classes": pl.Int64, "metric": pl.String, "average": pl.String, "width": pl.Int64,
    "value": pl.Float64, "chance": pl.Float64,
}  # fmt: skip


def measure_depths(
    vectors: np.ndarray, widths: Sequence[int], labels: Mapping[str, pl.Series], *, sample: int = SAMPLE, seed: int = 0
) -> pl.DataFrame:
    """The table of the module docstring, columns as in SCHEMA, of vectors (N, D) at every width.

    labels: by name, (N,) one class a row, or a list of them; null where nothing is known. Numbers are classes too: cut
    them first (`in_fifths`). classes: how many of them count in a macro mean. Labels of fewer than two such classes are
    left out. sample: rows at most, drawn by seed.
    """
    vectors, widths = check_items(vectors, widths, **labels)
    rows = sample_rows(len(vectors), sample, seed)
    vectors = vectors[rows]
    members = {name: membership(column.gather(rows))[0] for name, column in labels.items()}
    members = {name: has_class for name, has_class in members.items() if (has_class.sum(0) >= LEAST).sum() > 1}
    if not members:
        return pl.DataFrame(schema=SCHEMA)
    queries = sample_rows(len(vectors), QUERIES, seed)
    nearest = find_nearest(vectors, widths, min(NEIGHBOURS, len(vectors) - 1), rows=queries)
    clusters: dict[int, np.ndarray] = {}  # (W, N), by their number
    table = []
    for label, has_class in members.items():
        number = min(has_class.shape[1], MOST_CLUSTERS, most_clusters(len(vectors)))
        if number not in clusters:
            starts = max(1, min(STARTS, DISTANCES // (len(vectors) * number)))
            prefixes = (normalise_rows(vectors[:, :width]) for width in widths)
            clusters[number] = np.stack([cluster_points(prefix, number, seed, starts) for prefix in prefixes])
        key = {"label": label, "classes": int((has_class.sum(axis=0) >= LEAST).sum())}
        agreement = measure_agreement(clusters[number], widths, has_class, permutations=PERMUTATIONS, seed=seed)
        for width, value in agreement.filter(metric="ami").select("width", "value").iter_rows():
            table.append(key | {"metric": "ami", "average": "plain", "width": width, "value": value, "chance": 0.0})
        for metric, shares in (
            ("clusters", share_in_clusters(clusters[number], has_class)),
            ("neighbours", share_of_neighbours(nearest, queries, has_class)),
            ("auc", probe_classes(vectors, widths, has_class, seed)),
        ):
            for width, averages in zip(widths, shares, strict=True):
                for average, (value, chance) in averages.items():
                    facts = {"metric": metric, "average": average, "width": width}
                    table.append(key | facts | {"value": value, "chance": chance})
    return pl.DataFrame(table, schema=SCHEMA).sort("label", "metric", "average", "width", maintain_order=True)


def in_fifths(numbers: np.ndarray) -> pl.Series:
    """Numbers (N,) as five classes of about equally many, `1` the lowest; null where not finite. Equal ones stay
    together, so many equal ones make fewer classes."""
    numbers = np.asarray(numbers, dtype=np.float64)
    known = np.isfinite(numbers)
    edges = np.quantile(numbers[known], [0.2, 0.4, 0.6, 0.8]) if known.any() else []
    fifth = np.searchsorted(edges, numbers) + 1
    return pl.Series(
        [str(part) if is_known else None for part, is_known in zip(fifth, known, strict=True)], dtype=pl.String
    )


Averages = dict[str, tuple[float, float]]  # plain and macro: value and chance


def share_in_clusters(clusters: np.ndarray, has_class: np.ndarray) -> list[Averages]:
    """A row of `clusters` (W, N) each: the share of the others in an item's cluster that have its class.

    has_class (N, G) bool: rows without a class count nowhere, and clusters of one say nothing.
    """
    labelled = has_class.any(axis=1)
    carries = csr_array(has_class[labelled], dtype=np.float64)
    averages = []
    for cluster_of in clusters[:, labelled]:
        member = indicator(cluster_of)  # (K, n)
        counts, others = (member @ carries).tocoo(), member.sum(axis=1) - 1
        shared = counts.data * (counts.data - 1) / np.maximum(others[counts.row], 1)
        known = np.where(others[counts.row] > 0, counts.data, 0)
        hits, items = (np.bincount(counts.col, values, carries.shape[1]) for values in (shared, known))
        averages.append(_average(hits, items, has_class))
    return averages


def share_of_neighbours(nearest: np.ndarray, queries: np.ndarray, has_class: np.ndarray) -> list[Averages]:
    """A row of `nearest` (W, Q, k) each: the share of the neighbours of the items `queries` (Q,) that have its class.

    has_class (N, G) bool: pairs with an item without a class are left out.
    """
    labelled, carries = has_class.any(axis=1), csr_array(has_class, dtype=np.float64)
    averages = []
    for found in nearest:
        pairs = np.stack([np.repeat(queries, found.shape[1]), found.ravel()])
        item, neighbour = pairs[:, labelled[pairs].all(axis=0)]
        hits, items = carries[item].multiply(carries[neighbour]).sum(axis=0), carries[item].sum(axis=0)
        averages.append(_average(np.asarray(hits), np.asarray(items), has_class))
    return averages


def _average(hits: np.ndarray, items: np.ndarray, has_class: np.ndarray) -> Averages:
    """Both averages of hits / items by class (G,), and of the chance of each class."""
    sizes = has_class.sum(axis=0)
    chance = np.maximum(sizes - 1, 0) / max(has_class.any(axis=1).sum() - 1, 1)
    counted = (items > 0) & (sizes >= LEAST)
    if not counted.any():
        return {"plain": (np.nan, np.nan), "macro": (np.nan, np.nan)}
    plain = float(hits.sum() / items.sum()), float(items @ chance / items.sum())
    return {"plain": plain, "macro": (float((hits[counted] / items[counted]).mean()), float(chance[counted].mean()))}


def probe_classes(vectors: np.ndarray, widths: Sequence[int], has_class: np.ndarray, seed: int = 0) -> list[Averages]:
    """A width each: the area under the ROC curve of linear probes, held out, on at most PROBED labelled rows."""
    rows = sample_rows(np.flatnonzero(has_class.any(axis=1)), PROBED, seed)
    vectors, has_class = vectors[rows], has_class[rows]
    sizes = has_class.sum(axis=0)
    usable = np.minimum(sizes, len(rows) - sizes) >= LEAST
    if not usable.any():
        return [{"plain": (np.nan, np.nan), "macro": (np.nan, np.nan)} for _ in widths]
    averages = []
    with threadpool_limits(1):  # small systems: threads cost more than they give, and repeats must be bit-identical
        for width in widths:
            areas = measure_auc(vectors[:, :width], has_class[:, usable], seed=seed)
            known = np.isfinite(areas)
            plain = float(np.average(areas[known], weights=sizes[usable][known]))
            averages.append({"plain": (plain, 0.5), "macro": (float(areas[known].mean()), 0.5)})
    return averages
