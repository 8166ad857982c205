"""A tree of prototypes, strict by construction, and the codes of items in it.

A prototype has as its parent the node of the level before that most of its items lie in, and an item goes down only
along children: level by level to the best one of the node that it is in. So what an item is at a level depends on
prefixes up to that width alone, and every branch lies within one branch of every narrower width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count_parents(nodes: np.ndarray, clusters: np.ndarray, num_nodes: int, num_clusters: int) -> np.ndarray:
    """(K,) the node that most items of each cluster lie in, the lowest of several; −1 for a cluster without items.

    nodes, clusters: (I,) of each item at the level before, and at this one regardless of the tree.
    """
    table = np.zeros((num_nodes, num_clusters), dtype=np.int64)
    np.add.at(table, (nodes, clusters), 1)
    return np.where(table.any(0), table.argmax(0), -1)


def grow_tree(logits: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """logits: of each level (I, K_j), an item's prototype has the highest. Returns nodes (W, I), and parents by level.

    Nodes of a level are its prototypes 0 … K_j − 1 and, behind them, the nodes of the level before that no prototype
    has as its parent: these go on as their own only child. parents[j]: (nodes,) of each node, −1 for a prototype
    without items; at the first level 0, the root.
    """
    nodes, parents = [logits[0].argmax(1)], [np.zeros(logits[0].shape[1], dtype=np.int64)]
    for scores in logits[1:]:
        own = count_parents(nodes[-1], scores.argmax(1), len(parents[-1]), scores.shape[1])
        childless = np.setdiff1d(nodes[-1], own)
        parents.append(np.concatenate([own, childless]))
        nodes.append(step_down(nodes[-1], scores, parents[-1]))
    return np.stack(nodes), parents


def step_down(nodes: np.ndarray, scores: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """(I,) the best child of each item's node; scores: (I, K) of the prototypes that come first in `parents`."""
    number = scores.shape[1]
    best = np.where(parents[:number] == nodes[:, None], scores, -np.inf)
    chosen, goes_on = best.argmax(1), np.isneginf(best.max(1))
    if goes_on.any():
        only_child = {parent: number + place for place, parent in enumerate(parents[number:].tolist())}
        chosen[goes_on] = [only_child[node] for node in nodes[goes_on].tolist()]
    return chosen


def semantic_codes(nodes: np.ndarray) -> np.ndarray:
    """(W, I) int64: one code a level, the place of an item's node among the children of its parent, the largest first.

    nodes: (W, I) of a strict tree. Children as large as each other come in the order of their numbers.
    """
    codes, parents = [], np.zeros_like(nodes[0])
    for at_level in nodes:
        children, first, size = np.unique(at_level, return_index=True, return_counts=True)
        parent = parents[first]
        order = np.lexsort((children, -size, parent))
        # the place within its parent: the place in order less that of the first with the same parent
        _, start, count = np.unique(parent[order], return_index=True, return_counts=True)
        code = np.empty_like(children)
        code[order] = np.arange(len(children)) - np.repeat(start, count)
        codes.append(code[np.searchsorted(children, at_level)])
        parents = at_level
    return np.stack(codes)


def semantic_ids(codes: np.ndarray) -> list[str]:
    """The codes (W, I) of each item as text, such as `3-0-1`: the beginning of a text is a branch."""
    return ["-".join(map(str, column)) for column in codes.T.tolist()]
