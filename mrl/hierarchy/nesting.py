"""Does a wider level refine a narrower one? Nesting of clusters, purity of the tree they form, similarity of prefixes.

Arrays in, tidy tables out; `mrl.hierarchy.measure` documents the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from mrl.hierarchy.clusters import check_items, entropy, indicator, with_chance


def measure_nesting(
    clusters: np.ndarray, widths: Sequence[int], *, clustering: str = "fixed", permutations: int = 100, seed: int = 0
) -> pl.DataFrame:
    """How far clusters at `width` (fine) lie within clusters at the narrower `other_width` (coarse), every pair.

    clusters: (W, I). With n_fc the number of items in fine cluster f and coarse cluster c,
        share   = (1/I) sum_f max_c n_fc                 1 if perfectly nested
        entropy = H(coarse | fine) in bits               0 if perfectly nested, H(coarse) if independent
    Chance: the fine clusters with their items shuffled, so the sizes stay.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(clusters.shape[1]) for _ in range(permutations)]
    rows = []
    for coarse, fine in combinations(range(len(widths)), 2):
        shuffled = np.array([_share_and_entropy(clusters[fine], clusters[coarse][order]) for order in orders])
        key = {"clustering": clustering, "width": widths[fine], "other_width": widths[coarse]}
        for metric, value, chance in zip(
            ("share", "entropy"), _share_and_entropy(clusters[fine], clusters[coarse]), shuffled.T, strict=True
        ):
            rows.append({**key, "metric": metric, **with_chance(value, chance)})
    return pl.DataFrame(rows)


def _share_and_entropy(fine: np.ndarray, coarse: np.ndarray) -> tuple[float, float]:
    """share and H(coarse | fine) = H(fine, coarse) - H(fine), in bits, of two clusterings (I,), (I,)."""
    shape = int(fine.max()) + 1, int(coarse.max()) + 1
    table = np.bincount(fine * shape[1] + coarse, minlength=shape[0] * shape[1]).reshape(shape)
    conditional = (entropy(table) - entropy(table.sum(axis=1))) / np.log(2)
    return float(table.max(axis=1).sum() / table.sum()), max(conditional, 0.0)


def tree_levels(clusters: np.ndarray) -> np.ndarray:
    """(W + 1, I) int64: node of each item at each level of a strict tree, all items in node 0 of the first level.

    A node is a path of clusters from the narrowest width on, so clusters that are not nested are cut where they
    cross; nested ones are kept as they are.
    """
    levels = [np.zeros(clusters.shape[1], dtype=np.int64)]
    for cluster_of in clusters:
        levels.append(np.unique(levels[-1] * (cluster_of.max() + 1) + cluster_of, return_inverse=True)[1])
    return np.stack(levels)


def purity_of_tree(levels: np.ndarray, has_label: np.ndarray) -> float:
    """Dendrogram purity (Heller & Ghahramani, "Bayesian Hierarchical Clustering", ICML 2005), exact.

    levels: (L, I) from `tree_levels`; has_label: (I, G) bool. Over all pairs of items that share a label: the share of
    items in the smallest subtree holding both that carry this label, averaged over pairs (a pair that shares m labels
    counts m times). The last level's nodes are the leaves, so pairs within one have it as their smallest subtree.
    Pairs are counted, not drawn: those that meet in a node are its pairs less the pairs of its children.
    0 where no two items share a label.
    """
    return purities_of_tree(levels, csr_array(has_label, dtype=np.float64))[-1]


def purities_of_tree(levels: np.ndarray, has_label: csr_array) -> list[float]:
    """(L,) `purity_of_tree` of the first 1, 2, …, L of `levels` (L, I), from one pass; has_label: (I, G) sparse."""
    counts = (indicator(levels[-1]) @ has_label).toarray()  # (nodes, G), at the deepest level from items
    met, as_leaves, pairs_below = [], [], None  # from the deepest level up
    for level in range(len(levels) - 1, -1, -1):
        if pairs_below is not None:
            parent = np.zeros(len(counts), dtype=np.int64)
            parent[levels[level + 1]] = levels[level]
            above = indicator(parent)
            counts, pairs_below = above @ counts, above @ pairs_below
        pairs = counts * (counts - 1) / 2
        share = counts / np.bincount(levels[level])[:, None]  # of a node's items that carry each label
        as_leaves.append(float((pairs * share).sum()))
        met.append(as_leaves[-1] if pairs_below is None else as_leaves[-1] - float((pairs_below * share).sum()))
        pairs_below = pairs
    total = float(pairs.sum())  # ends as the pairs of the root: all of them
    within = np.cumsum([0.0, *met[:0:-1]])  # of pairs that meet above each level
    return [float(above + leaf) / total if total else 0.0 for above, leaf in zip(within, as_leaves[::-1], strict=True)]


def dendrogram_purity(
    clusters: np.ndarray,
    widths: Sequence[int],
    has_label: np.ndarray,
    *,
    label: str = "genres",
    clustering: str = "tree",
    permutations: int = 100,
    seed: int = 0,
) -> pl.DataFrame:
    """`purity_of_tree` of the tree from the first width down to each width; chance from shuffled label sets.

    clusters: (W, I); has_label: (I, G) bool; items without a label are left out.
    """
    labelled = has_label.any(axis=1)
    carries = csr_array(has_label[labelled], dtype=np.float64)
    levels = tree_levels(clusters[:, labelled])
    rng = np.random.default_rng(seed)
    value = purities_of_tree(levels, carries)[1:]
    chance = [
        purities_of_tree(levels, carries[rng.permutation(carries.shape[0])])[1:] for _ in range(permutations)
    ]  # (P, W)
    key = {"clustering": clustering, "label": label, "metric": "dendrogram_purity"}
    return pl.DataFrame(
        {"width": width, **key, **with_chance(value[depth], (purities[depth] for purities in chance))}
        for depth, width in enumerate(widths)
    ).select("clustering", "width", pl.exclude("clustering", "width"))


def linear_cka(items: np.ndarray, widths: Sequence[int], *, permutations: int = 20, seed: int = 0) -> pl.DataFrame:
    """Linear centred kernel alignment between the prefixes of every two widths.

    CKA(X, Y) = |X'Y|_F^2 / (|X'X|_F |Y'Y|_F) on centred columns (Kornblith et al., "Similarity of Neural Network
    Representations Revisited", ICML 2019). Prefixes share columns, so high values are the rule: it says how much of the
    geometry the narrow prefix holds. Chance: the items of one side shuffled.
    """
    items, widths = check_items(items, widths)
    centred = items - items.mean(axis=0)
    scale = np.sqrt((centred**2).sum()) or 1.0
    centred = centred / scale  # CKA is free of scale, and squares of squares are kept in range
    rng = np.random.default_rng(seed)

    def energy(other: np.ndarray) -> np.ndarray:
        """(W, W): |X_a' Y_b|_F^2 of every two prefixes, from running sums over one product."""
        sums = ((centred.T @ other) ** 2).cumsum(axis=0).cumsum(axis=1)
        last = np.array(widths) - 1
        return sums[np.ix_(last, last)]

    unshuffled = energy(centred)
    norm = np.sqrt(np.outer(unshuffled.diagonal(), unshuffled.diagonal()))
    norm[norm == 0] = 1.0
    chance = np.stack([energy(rng.permutation(centred)) / norm for _ in range(permutations)])  # (P, W, W)
    return pl.DataFrame(
        {"width": width, "other_width": other_width, "metric": "cka"}
        | with_chance(unshuffled[i, j] / norm[i, j], chance[:, i, j])
        for (i, width), (j, other_width) in product(enumerate(widths), repeat=2)
    )
