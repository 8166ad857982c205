"""Does a wider level refine a narrower one? Nesting of clusters, purity of the tree they form, similarity of prefixes.

Arrays in, tidy tables out; `mrl.hierarchy.measure` documents the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import polars as pl

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
        member = indicator(clusters[fine])
        inside = indicator(clusters[coarse]).T.toarray()  # (I, coarse clusters)
        shuffled = np.array([_share_and_entropy(member @ inside[order]) for order in orders])
        key = {"clustering": clustering, "width": widths[fine], "other_width": widths[coarse]}
        for metric, value, chance in zip(
            ("share", "entropy"), _share_and_entropy(member @ inside), shuffled.T, strict=True
        ):
            rows.append({**key, "metric": metric, **with_chance(value, chance)})
    return pl.DataFrame(rows)


def _share_and_entropy(table: np.ndarray) -> tuple[float, float]:
    """share and H(coarse | fine) = H(fine, coarse) - H(fine), in bits, of a (fine, coarse) table of counts."""
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
    has_label = has_label.astype(np.float64)
    total = same_label = 0.0
    pairs_below: np.ndarray | None = None
    for level in range(len(levels) - 1, -1, -1):
        member = indicator(levels[level])
        counts, sizes = member @ has_label, member.sum(axis=1)  # (nodes, G), (nodes,)
        pairs = counts * (counts - 1) / 2
        if pairs_below is None:
            meeting = pairs
        else:
            parent = np.zeros(len(pairs_below), dtype=np.int64)
            parent[levels[level + 1]] = levels[level]
            meeting = pairs - indicator(parent) @ pairs_below
        same_label += float((meeting * counts / sizes[:, None]).sum())
        total = float(pairs.sum())  # ends as the pairs of the root: all of them
        pairs_below = pairs
    return same_label / total if total else 0.0


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
    clusters, has_label = clusters[:, labelled], has_label[labelled]
    levels = tree_levels(clusters)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(has_label)) for _ in range(permutations)]
    rows = []
    for depth, width in enumerate(widths, 2):
        chance = (purity_of_tree(levels[:depth], has_label[order]) for order in orders)
        key = {"clustering": clustering, "width": width, "label": label, "metric": "dendrogram_purity"}
        rows.append({**key, **with_chance(purity_of_tree(levels[:depth], has_label), chance)})
    return pl.DataFrame(rows)


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
