"""Trees that are strict by construction, against loops, and codes that do not know how items are numbered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.prototypes import semantic_codes, semantic_ids
from mrl.prototypes.tree import count_parents, grow_tree, step_down


def drawn(seed: int, items: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(items, number)) for number in (3, 5, 9)]


def grown_slowly(logits: list[np.ndarray]) -> np.ndarray:
    """Node names instead of numbers: the prototype, or the parent's name again where no prototype has it as parent."""
    names = [[int(row.argmax()) for row in logits[0]]]
    for level, scores in enumerate(logits[1:], start=1):
        parents = {}
        for k in range(scores.shape[1]):
            inside = [names[-1][item] for item, row in enumerate(scores) if row.argmax() == k]
            if inside:
                parents[k] = max(sorted(set(inside), key=place_of(level)), key=inside.count)
        here = []
        for item, row in enumerate(scores):
            children = [k for k, parent in parents.items() if parent == names[-1][item]]
            here.append(max(children, key=lambda k: row[k]) if children else (names[-1][item],))
        names.append(here)
    return np.array([[str(name) for name in level] for level in names])


def place_of(level: int):
    """Nodes that go on alone come behind the prototypes, as they came at the level before."""
    return lambda name: (isinstance(name, tuple), str(name)) if isinstance(name, tuple) else (False, f"{name:03}")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_it_is_what_loops_grow_and_strictly_nested(seed):
    logits = drawn(seed, items=12)
    nodes, parents = grow_tree(logits)
    slow = grown_slowly(logits)
    for fast, names in zip(nodes, slow, strict=True):
        assert len(set(zip(fast, names, strict=True))) == len(set(fast)) == len(set(names))  # the same clusters
    for level in (1, 2):
        assert (parents[level][nodes[level]] == nodes[level - 1]).all()
        assert set(nodes[level - 1]) <= set(parents[level])  # every branch goes on


def test_parents_are_counted():
    assert count_parents(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 2, 2]), 2, 3).tolist() == [0, -1, 1]


def test_a_node_without_children_goes_on_alone():
    first, second = np.array([[9.0, 0], [9, 0], [9, 0], [0, 9]]), np.array([[9.0, 0], [9, 0], [0, 9], [9, 0]])
    nodes, parents = grow_tree([first, second])
    assert nodes.tolist() == [[0, 0, 0, 1], [0, 0, 1, 2]]
    assert parents[1].tolist() == [0, 0, 1]
    assert step_down(np.array([1, 0]), second[:2], parents[1]).tolist() == [2, 0]


def test_codes_count_from_the_largest_child_and_are_the_same_in_any_order():
    nodes = np.array([[5, 5, 5, 2, 2, 2, 2], [1, 7, 7, 3, 3, 4, 4]])
    assert semantic_codes(nodes).tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1, 1]]
    assert semantic_ids(semantic_codes(nodes)) == ["1-1", "1-0", "1-0", "0-0", "0-0", "0-1", "0-1"]
    nodes, order = grow_tree(drawn(1))[0], np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(semantic_codes(nodes[:, order]), semantic_codes(nodes)[:, order])


@pytest.mark.parametrize("seed", range(3))
def test_codes_tell_the_nodes_apart(seed):
    nodes, _ = grow_tree(drawn(seed))
    codes = semantic_codes(nodes)
    for level in range(3):
        paths = list(map(tuple, codes[: level + 1].T))
        assert len(set(paths)) == len(set(zip(paths, nodes[level], strict=True))) == len(set(nodes[level]))
