"""The refinement tree: strict nesting, flows that keep every item, names by lift and popularity."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prototyped import blobs
from sklearn.metrics import adjusted_mutual_info_score
from taxonomy import WIDTHS, taxonomy, value

from mrl.errors import ConfigError
from mrl.hierarchy.clusters import membership
from mrl.hierarchy.nesting import measure_nesting
from mrl.hierarchy.tree import build_tree, build_tree_clusters, count_flows, name_clusters, prototype_tree


@settings(deadline=None, max_examples=15)
@given(st.integers(5, 60), st.integers(1, 4), st.integers(0, 2**20))
def test_nested_clusters_are_strictly_nested(count, branching, seed):
    items = np.random.default_rng(seed).normal(size=(count, 8))
    clusters = build_tree_clusters(items, (2, 4, 8), branching, min_items=3)
    for parent, child in pairwise(clusters):
        assert all(len(set(parent[child == c])) == 1 for c in set(child))
        first = [parent[child == c][0] for c in range(child.max() + 1)]
        assert first == sorted(first)  # numbered by parent: no crossings
        sizes = np.bincount(child)
        assert all(a >= b for (a, b), (p, q) in zip(pairwise(sizes), pairwise(first), strict=True) if p == q)
    table = measure_nesting(clusters, (2, 4, 8), permutations=1)
    assert table.filter(pl.col("metric") == "share")["value"].to_list() == [1, 1, 1]


def test_nested_clusters_find_the_taxonomy():
    items, labels = taxonomy()
    clusters = build_tree_clusters(items, WIDTHS, [4, 4], min_items=2)
    for row, column in zip(clusters, labels.columns, strict=True):
        assert adjusted_mutual_info_score(row, labels[column]) == pytest.approx(1)
    assert (
        build_tree_clusters(items, WIDTHS, [4, 4], min_items=9)[1] == clusters[0]
    ).all()  # 32 items: too few for 4 × 9
    with pytest.raises(ConfigError, match=r"branching=\[4\]"):
        build_tree_clusters(items, WIDTHS, [4])
    with pytest.raises(ConfigError, match=r"branching=\[0, 0\]"):
        build_tree_clusters(items, WIDTHS, 0)


def test_flows_keep_every_item():
    clusters = np.array([[0, 0, 0, 1], [0, 1, 1, 1], [2, 2, 2, 2]])
    table = count_flows(clusters, (4, 8, 16))
    assert table.group_by("width").agg(pl.col("items").sum()).sort("width")["items"].to_list() == [4, 4]
    assert value(table, "items", width=4, cluster=0, next_cluster=1) == 2
    assert value(table, "share_out", width=4, cluster=0, next_cluster=1) == pytest.approx(2 / 3)
    assert value(table, "share_in", width=4, cluster=1, next_cluster=1) == pytest.approx(1 / 3)
    assert count_flows(clusters[:1], (4,)).columns == table.columns


def named_example() -> tuple[np.ndarray, pl.DataFrame]:
    clusters = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]])
    has_label, names = membership(pl.Series([["D", "A"], ["D", "A"], ["D"], ["D"], ["D", "H"], ["D", "H"]]))
    labels = pl.DataFrame({"title": ["one", "two", "three", "four", "five", None]})
    return clusters, name_clusters(
        clusters,
        (4, 8),
        has_label=has_label,
        names=names,
        labels=labels,
        popularity=np.array([1, 5, 2, 3, 1, 8]),
        titles=2,
    )


def test_clusters_are_named_by_lift_and_titles_that_carry_the_label():
    _, table = named_example()
    first, second = table.head(2).iter_rows(named=True)
    assert first["titles"] == "two; one" and second["titles"] == "5; five"  # no title: the row
    assert (first["typical"], first["lift"], first["label_share"]) == ("A", 1.5, 0.5)
    assert (second["typical"], second["lift"], second["name"]) == ("H", 3, "H: 5; five")
    assert second["popularity_share"] == pytest.approx(9 / 20) and second["share"] == pytest.approx(1 / 3)
    middle = value(table, "typical", width=8, cluster=1)
    assert middle is None and value(table, "name", width=8, cluster=1) == "four; three"
    plain = name_clusters(np.array([[0, 0]]), (4,), item_ids=np.array(["x", "y"], dtype=object))
    assert plain["name"].to_list() == ["x; y"] and plain["popularity_share"].to_list() == [None]


def test_titles_stand_for_the_first_label():
    """Star Wars is the most popular, but War is one of its five genres; George of the Jungle is no Horror at all."""
    war = {
        "Star Wars": (["Action", "Adventure", "Romance", "Sci-Fi", "War"], 583),
        "Schindler's List": (["Drama", "War"], 298),
        "Platoon": (["War"], 130),
        "Boot, Das": (["Action", "Drama", "War"], 201),
        "Toy Story": (["Comedy"], 452),
    }
    horror = {
        "George of the Jungle": (["Comedy"], 162),
        "Scream": (["Horror", "Thriller"], 120),
        "Nightmare": (["Horror"], 70),
        "Birds, The": (["Horror"], 50),
        "Bulletproof": (["Action"], 60),
    }
    films = war | horror
    has_label, names = membership(pl.Series([genres for genres, _ in films.values()]))
    table = name_clusters(
        np.array([[0] * len(war) + [1] * len(horror)]),
        (4,),
        has_label=has_label,
        names=names,
        labels=pl.DataFrame({"title": list(films)}),
        popularity=np.array([count for _, count in films.values()]),
    )
    assert table["typical"].str.split(" / ").list.first().to_list() == ["War", "Horror"]
    assert table["titles"].to_list() == ["Schindler's List; Platoon; Boot, Das", "Nightmare; Scream; Birds, The"]
    assert not table["name"].str.contains("Star Wars|George").any()
    without = name_clusters(np.array([[0] * len(war)]), (4,), labels=pl.DataFrame({"title": list(war)}), titles=1)
    assert without["name"].to_list() == ["Star Wars"]


def test_catalogue_tree_has_one_parent_a_node():
    clusters, named = named_example()
    tree = build_tree(named, count_flows(clusters, (4, 8)))
    assert tree["node"].to_list() == ["4/0", "4/1", "8/0", "8/1", "8/2"]
    assert tree["parent"].to_list() == [None, None, "4/0", "4/0", "4/1"]
    assert tree["level"].to_list() == [0, 0, 1, 1, 1]
    crossing = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 2]])
    with pytest.raises(ConfigError, match="two parents"):
        build_tree(name_clusters(crossing, (4, 8)), count_flows(crossing, (4, 8)))


def test_a_tree_of_prototypes_is_numbered_as_that_of_kmeans_is():
    items, branches = blobs()
    tree = prototype_tree(items, WIDTHS, (4, 4))
    assert (tree[1] // 4 == tree[0]).all()  # in the order of their parents
    assert [len(set(zip(level, branch, strict=True))) for level, branch in zip(tree, branches, strict=True)] == [4, 16]
