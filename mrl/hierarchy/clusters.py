"""Clusters of items at each width, and how far they agree with what is known of the items.

k-means on the leading columns, AMI, NMI and purity against single labels (the true depths of a planted taxonomy) and
multi-labels (genres), every one beside the value that shuffled labels reach. `mrl.hierarchy.measure` documents the
columns.

Multi-labels. An item with m labels is one item, whatever m is:
- *information* (NMI, AMI): its unit of weight is split equally over its m labels, so the (cluster x label) contingency
  table sums to the number of labelled items. With one label an item these are the textbook measures. With more,
  1 is out of reach, since a cluster cannot say which of an item's labels is meant: compare widths and models, not data.
- *purity*: the share of items that carry the most frequent label of their cluster. A label of many items is typical of
  many clusters, so purity means little without its chance level.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from scipy.special import entr
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.cluster import expected_mutual_information
from sklearn.preprocessing import MultiLabelBinarizer
from threadpoolctl import threadpool_limits

from mrl.errors import ConfigError, DataError
from mrl.prototypes import fit_prototypes
from mrl.widths import check_widths

TRIALS = 400  # trials of k-means, divided by the number of clusters
DISTANCES = 2**21  # between points and centres, in one step of all trials: where there are more, fewer trials
CAREFUL = 100  # clusters, up to which k-means starts from centres that are far apart: beyond, that costs more than all
# that follows, and the squared distances are 1 % less (completejourney, 1,507 clusters)
EXACT_CELLS = 2**18  # of a contingency table whose expected information comes from the formula, not from shuffles


def check_items(items: np.ndarray, widths: Sequence[int], **by_item: object) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return `items` (I, D) as float64 and `widths` as a tuple, or raise naming what is wrong with them.

    by_item: what else must have one row an item; None where there is no such thing.
    """
    items = np.asarray(items, dtype=np.float64)
    if items.ndim != 2 or not len(items):
        raise DataError(f"items has the shape {items.shape}: give a matrix with one row an item")
    finite = np.isfinite(items).all(axis=1)
    if not finite.all():
        raise DataError(f"items row {int(np.argmin(finite))}: NaN or infinite; train again or drop the item")
    for name, column in by_item.items():
        if column is not None and len(column) != len(items):
            raise DataError(f"{name} has {len(column)} rows for {len(items)} items; give one a row of items")
    return items, check_widths(widths, items.shape[1])


def normalise_rows(items: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros stay zeros."""
    length = np.linalg.norm(items, axis=1, keepdims=True)
    return items / np.where(length > 0, length, 1)


def sample_rows(candidates: int | np.ndarray, sample: int | None, seed: int = 0) -> np.ndarray:
    """At most `sample` rows, increasing, drawn without replacement from `candidates` (rows, or their number)."""
    rows = np.arange(candidates) if isinstance(candidates, int) else np.asarray(candidates)
    if sample is not None and sample < 2:
        raise ConfigError(f"sample={sample}: must be at least 2, or None for every item")
    if sample is None or sample >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))


def cluster_points(points: np.ndarray, number: int, seed: int, starts: int = 4) -> np.ndarray:
    """(n,) int64: k-means clusters of `points`, numbered from the largest; fewer than `number` if points coincide.

    The best of `starts` trials. One thread, because OpenMP adds up in any order and a repeat must be bit-identical.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # coinciding points: fewer clusters is the right answer
        init = "k-means++" if number <= CAREFUL else "random"
        return _by_size(KMeans(number, init=init, n_init=starts, random_state=seed).fit_predict(points))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """The same clusters (n,), numbered from the largest; equally large ones by their first item."""
    _, first, cluster, size = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    return np.argsort(np.lexsort((first, -size)))[cluster]


def trials_of(points: int, number: int) -> int:
    """How often k-means of `points` into `number` clusters is tried: more often for few clusters, once for very many.

    Few clusters of many tight groups have many local optima, and are cheap. A trial costs points x number, so the
    trials are as many as DISTANCES has room for, and the work grows with the points.
    """
    return max(1, min(max(4, TRIALS // number), DISTANCES // (points * number)))


def one_a_width(name: str, numbers: int | Sequence[int], widths: Sequence[int], most: int | None = None) -> list[int]:
    """One number of clusters a width, each at least 1 and at most `most`, or ConfigError."""
    numbers = [numbers] * len(widths) if isinstance(numbers, int) else list(numbers)
    if len(numbers) != len(widths):
        raise ConfigError(f"{name}={numbers}: {len(numbers)} numbers for {len(widths)} widths; give one each")
    if min(numbers) < 1 or max(numbers) > (most or max(numbers)):
        bounds = f"between 1 and the {most} items there are" if most else "at least 1"
        raise ConfigError(f"{name}={numbers}: each must be {bounds}")
    return numbers


def cluster_items(
    items: np.ndarray, widths: Sequence[int], clusters: int | Sequence[int], *, normalise: bool = True, seed: int = 0
) -> np.ndarray:
    """k-means of the first d columns of `items` (I, D) for every width d.

    clusters: one number for every width, or one a width. normalise: scale each prefix to length 1 first, so that
    direction (taste) counts and length (mostly popularity) does not. Returns (W, I) int64, 0 the largest cluster.
    """
    items, widths = check_items(items, widths)
    numbers = one_a_width("clusters", clusters, widths, len(items))
    prefixes = (normalise_rows(items[:, :width]) if normalise else items[:, :width] for width in widths)
    return np.stack(
        [
            cluster_points(prefix, number, seed, starts=trials_of(len(items), number))
            for prefix, number in zip(prefixes, numbers, strict=True)
        ]
    )


def prototype_clusters(
    items: np.ndarray, widths: Sequence[int], clusters: int | Sequence[int], seed: int = 0
) -> np.ndarray:
    """(W, I) int64, as `cluster_items`: `mrl.prototypes` in place of k-means, clusters of nearly equal size."""
    items, widths = check_items(items, widths)
    found = fit_prototypes(items, widths, one_a_width("clusters", clusters, widths, len(items)), seed=seed)
    return np.stack([_by_size(labels) for labels in found.clusters])


def membership(labels: pl.Series, separator: str = "|") -> tuple[np.ndarray, list[str]]:
    """Which item carries which label: ((I, G) bool, the G names in sorted order).

    labels: one value an item (text, number) or a list of them; text is split at `separator`. Nothing for null.
    """
    numeric = labels.dtype.is_numeric()
    if labels.dtype != pl.List:
        labels = labels.cast(pl.String).str.split(separator)
    lists = [
        [text for value in values or () if value is not None and (text := str(value).strip())]
        for values in labels.to_list()
    ]
    names = sorted({value for values in lists for value in values}, key=float if numeric else str)
    sparse = MultiLabelBinarizer(classes=names, sparse_output=True).fit_transform(lists)  # eight times smaller
    return sparse.astype(bool).toarray(), names


def name_branches(label: str, names: Sequence[str]) -> list[str]:
    """The names of a label as they are; numbers of a true depth with the depth, which a bare one would not say."""
    depth = label.removeprefix("depth_")
    is_named = depth == label or not all(name.isdecimal() for name in names)
    return list(names) if is_named else [f"branch {depth}·{name}" for name in names]


def indicator(clusters: np.ndarray) -> csr_array:
    """(K, I) sparse: 1 where the item is in the cluster; times an (I, ...) matrix it adds up within clusters."""
    count = len(clusters)
    return csr_array((np.ones(count), (clusters, np.arange(count))), shape=(int(clusters.max(initial=-1)) + 1, count))


def entropy(weights: np.ndarray) -> float:
    """-sum p log p in nats of non-negative `weights`, scaled to sum to 1; 0 where all are 0."""
    return float(entr(weights / (weights.sum() or 1.0)).sum())


def with_chance(value: float, shuffled: Iterable[float]) -> dict[str, float]:
    """The columns `value`, `chance` (mean over shuffles) and `chance_std` (standard deviation over shuffles)."""
    shuffled = np.fromiter(shuffled, dtype=np.float64)
    return {"value": float(value), "chance": float(shuffled.mean()), "chance_std": float(shuffled.std())}


def measure_agreement(
    clusters: np.ndarray,
    widths: Sequence[int],
    has_label: np.ndarray,
    *,
    label: str = "genres",
    clustering: str = "fixed",
    permutations: int = 100,
    seed: int = 0,
) -> pl.DataFrame:
    """AMI, NMI and purity of clusters against labels, at every width, with chance from shuffled labels.

    clusters: (W, I); has_label: (I, G) bool from `membership`; items without a label are left out.
    With MI and the entropies H taken from the weighted contingency table of the module docstring,
        NMI = MI / mean(H_clusters, H_labels),   AMI = (MI - E) / (mean(H_clusters, H_labels) - E),
    E the expected MI: exact for single labels (Vinh, Epps, Bailey, JMLR 2010), the mean over the shuffles else and
    where the table has more than EXACT_CELLS cells;
        purity = (1/I) sum_c max_g #{items of c that carry g}.
    0 where there is nothing to know (one cluster, one label). Shuffles move whole label sets between items. Tables
    are sparse: a shuffle costs as much as there are labels on items, however many clusters and labels there are.
    """
    labelled = has_label.any(axis=1)
    carries, clusters = csr_array(has_label[labelled], dtype=np.float64), np.atleast_2d(clusters)[:, labelled]
    if not carries.shape[0]:
        raise DataError(f"label {label!r}: no item carries any; give labels or leave it out")
    per_item = np.diff(carries.indptr)  # (I,) labels of each item
    weights = carries.copy()  # (I, G), rows sum to 1
    weights.data /= np.repeat(per_item, per_item)
    single = bool((per_item == 1).all())
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(per_item)) for _ in range(permutations)]
    rows = []
    for width, cluster_of in zip(widths, clusters, strict=True):
        member = indicator(cluster_of)  # (K, I)
        table = member @ weights  # (K, G), sparse
        both = entropy(table.sum(1)) + entropy(table.sum(0))  # H(clusters) + H(labels), which no shuffle changes
        mean_entropy, mutual, pure = both / 2, both - entropy(table.data), _purity(member @ carries)
        shuffled, pure_shuffled = np.empty((2, permutations))
        for trial, order in enumerate(orders):
            drawn = member @ weights[order]
            shuffled[trial] = both - entropy(drawn.data)
            pure_shuffled[trial] = _purity(drawn if single else member @ carries[order])
        is_exact = single and table.shape[0] * table.shape[1] <= EXACT_CELLS
        expected = _expected_information(table.toarray()) if is_exact else shuffled.mean()
        scope = mean_entropy - expected
        # nothing to know: 0 / 0 must not be read as agreement
        gain, spread = ((mutual - expected) / scope, shuffled.std() / scope) if scope > 1e-9 else (0.0, 0.0)
        ami = {"value": float(gain), "chance": 0.0, "chance_std": float(spread)}
        scale = max(mean_entropy, 1e-12)
        key = {"clustering": clustering, "width": width, "clusters": len(np.unique(cluster_of)), "label": label}
        rows += [
            {**key, "metric": "ami", **ami},
            {**key, "metric": "nmi", **with_chance(mutual / scale, shuffled / scale)},
            {**key, "metric": "purity", **with_chance(pure / len(per_item), pure_shuffled / len(per_item))},
        ]
    return pl.DataFrame(rows)


def _purity(counts: csr_array) -> float:
    """The sum over clusters of their most frequent label's count; no cluster (row) may be empty."""
    counts = counts[np.diff(counts.indptr) > 0]
    return float(np.maximum.reduceat(counts.data, counts.indptr[:-1]).sum())


def _expected_information(table: np.ndarray) -> float:
    table = table[table.sum(1) > 0][:, table.sum(0) > 0].round().astype(np.int64)
    return float(expected_mutual_information(csr_array(table), int(table.sum())))
