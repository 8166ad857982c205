"""Clusters and their agreement with labels: known values, the textbook measures, slow loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prototyped import blobs
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from taxonomy import WIDTHS, at_chance, taxonomy, value

from mrl.errors import ConfigError, DataError
from mrl.hierarchy import clusters as rooms
from mrl.hierarchy.clusters import (
    cluster_items,
    cluster_points,
    measure_agreement,
    membership,
    name_branches,
    prototype_clusters,
    sample_rows,
    trials_of,
)

single_labels = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n), st.lists(st.integers(0, 4), min_size=n, max_size=n)
    )
)


def test_clusters_see_the_leading_columns_only():
    items, labels = taxonomy()
    clusters = cluster_items(items, WIDTHS, [4, 16])
    assert adjusted_mutual_info_score(clusters[0], labels["depth_1"]) == pytest.approx(1)
    assert adjusted_mutual_info_score(clusters[1], labels["depth_2"]) == pytest.approx(1)
    changed = items.copy()
    changed[:, 4:] = np.random.default_rng(1).normal(size=changed[:, 4:].shape)
    assert (cluster_items(changed, WIDTHS, [4, 16])[0] == clusters[0]).all()


def test_clusters_repeat_and_are_numbered_by_size():
    items = np.random.default_rng(0).normal(size=(90, 8))
    clusters = cluster_items(items, (2, 8), 5, seed=3)
    assert (clusters == cluster_items(items, (2, 8), 5, seed=3)).all()
    for row in clusters:
        assert (np.diff(np.bincount(row)) <= 0).all()


def test_few_clusters_of_many_tight_groups_do_not_end_in_a_local_optimum():
    """16 groups in 4 families, as in a planted taxonomy: the families are the best 4 clusters; 4 trials miss them."""
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(4), 40)
    groups = 0.7 * rng.normal(size=(16, 16)) + 3.0 * np.repeat(np.eye(4, 16), 4, axis=0)
    items = np.repeat(groups, 10, axis=0) + 0.05 * rng.normal(size=(160, 16))
    few = [adjusted_mutual_info_score(families, cluster_points(items, 4, seed)) for seed in range(10)]
    many = [
        adjusted_mutual_info_score(families, cluster_items(items, (16,), 4, normalise=False, seed=seed)[0])
        for seed in range(10)
    ]
    assert min(few) < 0.95 and min(many) > 0.999


def test_normalised_clusters_ignore_length():
    rng = np.random.default_rng(0)
    direction = np.repeat(np.eye(2), 30, axis=0)
    items = direction * rng.uniform(0.1, 50, size=(60, 1))
    assert (cluster_items(items, (2,), 2)[0] == np.repeat([0, 1], 30)).all()
    raw = cluster_items(items, (2,), 2, normalise=False)[0]
    assert (raw != np.repeat([0, 1], 30)).any() and (raw != np.repeat([1, 0], 30)).any()


def test_coinciding_items_make_fewer_clusters():
    clusters = cluster_items(np.zeros((12, 4)), (4,), 3)
    assert (clusters == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, r"clusters=\[0, 0\]: each must be between 1 and the 64 items"),
        ({"clusters": 65}, r"clusters=\[65, 65\]"),
        ({"clusters": [4]}, "1 numbers for 2 widths"),
        ({"widths": (4, 99), "clusters": 2}, "99 is wider than the 16 dimensions"),
    ],
)
def test_impossible_cluster_settings(arguments, message):
    items, _ = taxonomy(copies=4)
    with pytest.raises(ConfigError, match=message):
        cluster_items(items, **{"widths": WIDTHS, **arguments})


def test_nan_is_never_clustered():
    items, _ = taxonomy()
    items[7, 2] = np.nan
    with pytest.raises(DataError, match="items row 7: NaN"):
        cluster_items(items, WIDTHS, 4)


def test_sample_is_seeded_sorted_and_bounded():
    rows = sample_rows(np.array([3, 5, 9, 11, 20]), 3, seed=1)
    assert len(rows) == 3 and (np.diff(rows) > 0).all() and set(rows) <= {3, 5, 9, 11, 20}
    assert (rows == sample_rows(np.array([3, 5, 9, 11, 20]), 3, seed=1)).all()
    assert (sample_rows(4, None) == np.arange(4)).all() and (sample_rows(4, 9) == np.arange(4)).all()
    with pytest.raises(ConfigError, match="sample=1"):
        sample_rows(4, 1)


def test_membership_reads_lists_text_and_numbers():
    has_label, names = membership(pl.Series([["b", "a"], [], None, ["a", "a"]]))
    assert names == ["a", "b"] and has_label.tolist() == [[True, True], [False, False], [False, False], [True, False]]
    assert membership(pl.Series(["b | a", None, "", "a"]))[0].tolist() == [*has_label.tolist()[:3], [True, False]]
    assert membership(pl.Series([10, 9, None]))[1] == ["9", "10"]


@settings(deadline=None, max_examples=40)
@given(single_labels)
def test_agreement_on_single_labels_is_the_textbook_one(pair):
    clusters, labels = map(np.array, pair)
    table = measure_agreement(clusters[None], (4,), np.eye(5, dtype=bool)[labels], permutations=2)
    nmi = normalized_mutual_info_score(labels, clusters) if len({*labels}) > 1 or len({*clusters}) > 1 else 0
    assert value(table, metric="nmi") == pytest.approx(nmi, abs=1e-9)
    if len(set(labels)) > 1 and len(set(clusters)) > 1 and len(set(clusters)) < len(clusters) > len(set(labels)):
        expected = adjusted_mutual_info_score(labels, clusters)
        assert value(table, metric="ami") == pytest.approx(expected, abs=1e-6)
    purity = sum(np.bincount(labels[clusters == c]).max() for c in set(clusters)) / len(labels)
    assert value(table, metric="purity") == pytest.approx(purity)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 25), st.integers(1, 5), st.integers(0, 2**20))
def test_agreement_on_multi_labels_equals_a_slow_loop(count, genres, seed):
    rng = np.random.default_rng(seed)
    has_label, clusters = rng.random((count, genres)) < 0.4, rng.integers(0, 3, count)
    has_label[0, 0] = True
    weight, right, total = {}, 0, 0
    for c in range(3):
        inside = [i for i in range(count) if clusters[i] == c and has_label[i].any()]
        total += len(inside)
        right += max((sum(has_label[i, g] for i in inside) for g in range(genres)), default=0)
        for i in inside:
            for g in np.flatnonzero(has_label[i]):
                weight[c, g] = weight.get((c, g), 0) + 1 / has_label[i].sum()
    by_cluster, by_genre = np.zeros(3), np.zeros(genres)
    for (c, g), w in weight.items():
        by_cluster[c] += w / total
        by_genre[g] += w / total
    mutual = sum(w / total * np.log(w / total / (by_cluster[c] * by_genre[g])) for (c, g), w in weight.items())
    mean = sum(-(p[p > 0] * np.log(p[p > 0])).sum() for p in (by_cluster, by_genre)) / 2
    table = measure_agreement(clusters[None], (4,), has_label, permutations=2)
    assert value(table, metric="purity") == pytest.approx(right / total)
    assert value(table, metric="nmi") == pytest.approx(mutual / mean if mean > 1e-9 else 0, abs=1e-9)


def test_agreement_perfect_independent_and_multi_label_at_chance():
    labels = np.repeat(np.arange(4), 25)
    perfect = measure_agreement(np.stack([labels, labels]), (4, 8), np.eye(4, dtype=bool)[labels])
    assert perfect.filter(pl.col("metric") == "ami")["value"].to_list() == pytest.approx([1, 1])
    assert value(perfect, metric="purity", width=8) == 1
    assert value(perfect, "chance", metric="purity", width=8) == pytest.approx(0.33, abs=0.04)
    independent = measure_agreement(
        np.tile(np.arange(5), 20)[None], (4,), np.eye(4, dtype=bool)[labels]
    )  # exactly balanced
    assert value(independent, metric="nmi") == pytest.approx(0, abs=1e-12)
    assert value(independent, metric="purity") == 0.25
    assert value(independent, metric="ami") < 0
    rng = np.random.default_rng(0)
    random = measure_agreement(rng.integers(0, 6, (1, 300)), (4,), rng.random((300, 7)) < 0.3)
    assert all(at_chance(row) for row in random.iter_rows(named=True))


def test_nothing_to_know_is_zero_and_no_labels_an_error():
    one = measure_agreement(np.zeros((1, 6), dtype=int), (4,), np.ones((6, 1), dtype=bool))
    assert value(one, metric="ami") == 0 and value(one, metric="purity") == 1
    with pytest.raises(DataError, match="no item carries any"):
        measure_agreement(np.zeros((1, 6), dtype=int), (4,), np.zeros((6, 2), dtype=bool))


@pytest.mark.robustness
def test_work_of_k_means_grows_with_the_items_however_many_clusters_there_are(monkeypatch):
    work = []

    def count(points, number, seed, starts):
        work.append(len(points) * number * starts)
        return np.zeros(len(points), dtype=np.int64)

    monkeypatch.setattr(rooms, "cluster_points", count)
    for number in (4, 16, 30, 336, 1500):
        for size in (10_000, 20_000):
            cluster_items(np.ones((size, 1)), (1,), number)
        small, large = work[-2:]
        assert large <= 2.1 * small and large <= max(rooms.DISTANCES, 20_000 * number), number
    assert [trials_of(2000, number) for number in (1, 4, 16, 30, 250)] == [400, 100, 25, 13, 4]


def test_expected_information_of_a_large_table_is_that_of_its_shuffles(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 2000)
    clusters = np.where(rng.random(2000) < 0.4, labels, rng.integers(0, 40, 2000))
    has_label, _ = membership(pl.Series(labels))
    exact = measure_agreement(clusters, (2,), has_label, permutations=50)
    monkeypatch.setattr(rooms, "EXACT_CELLS", 0)
    shuffled = measure_agreement(clusters, (2,), has_label, permutations=50)
    assert value(shuffled, metric="ami") == pytest.approx(value(exact, metric="ami"), abs=1e-3)
    assert shuffled.filter(pl.col("metric") != "ami").equals(exact.filter(pl.col("metric") != "ami"))


def test_numbers_of_a_depth_are_called_by_it_and_names_are_not():
    assert name_branches("depth_2", ["0", "1"]) == ["branch 2·0", "branch 2·1"]
    assert name_branches("depth_2", ["GROCERY > COFFEE", "7"]) == ["GROCERY > COFFEE", "7"]
    assert name_branches("genres", ["1", "2"]) == ["1", "2"]


def test_prototypes_stand_in_for_kmeans_with_clusters_of_one_size():
    items, branches = blobs()
    clusters = prototype_clusters(items, WIDTHS, [4, 16])
    assert [np.bincount(at_width).tolist() for at_width in clusters] == [[32] * 4, [8] * 16]
    for at_width, branch in zip(clusters, branches, strict=True):
        assert adjusted_mutual_info_score(branch, at_width) == pytest.approx(1)
    assert np.bincount(prototype_clusters(items, WIDTHS, 3)[0]).argmax() == 0
