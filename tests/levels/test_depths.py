"""Which width knows which class, against loops written out, and on vectors whose levels are known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mrl.errors import DataError
from mrl.hierarchy.neighbours import find_nearest
from mrl.levels.depths import LEAST, in_fifths, measure_depths, share_in_clusters, share_of_neighbours

WIDTHS = (2, 6)


def nested_items(seed: int = 0) -> tuple[np.ndarray, dict[str, pl.Series]]:
    """240 items whose first two dimensions are of one of 3 coarse classes, the next four of one of 12 fine ones."""
    rng = np.random.default_rng(seed)
    fine = np.repeat(np.arange(12), 20)
    coarse = fine // 4
    centres = np.hstack([2 * np.array([[1, 0], [-0.5, 0.9], [-0.5, -0.9]])[coarse], np.eye(4)[fine % 4] * 2])
    labels = {"depth_1": pl.Series(coarse), "depth_2": pl.Series(fine), "noise": pl.Series(rng.permutation(fine))}
    return centres + 0.1 * rng.normal(size=centres.shape), labels


def cells(table: pl.DataFrame, **where: object) -> dict[int, tuple[float, float]]:
    return {row["width"]: (row["value"], row["chance"]) for row in table.filter(**where).iter_rows(named=True)}


def test_each_width_knows_the_depth_that_is_in_it() -> None:
    table = measure_depths(*nested_items()[:1], WIDTHS, nested_items()[1])
    for metric in ("clusters", "neighbours", "auc"):
        for average in ("plain", "macro"):
            where = {"metric": metric, "average": average}
            coarse, fine = (cells(table, label=f"depth_{depth}", **where) for depth in (1, 2))
            assert coarse[2][0] > 0.99 and coarse[6][0] > 0.99
            assert fine[6][0] > 0.99
            if metric != "auc":
                assert fine[2][0] == pytest.approx(0.25, abs=0.05)  # one of the four within its coarse class
                assert fine[2][1] == pytest.approx(19 / 239) and coarse[2][1] == pytest.approx(79 / 239)
            noise = cells(table, label="noise", **where)
            assert all(abs(value - chance) < 0.06 for value, chance in noise.values())
    ami = cells(table, label="depth_2", metric="ami")
    assert ami[6] == (pytest.approx(1), 0) and ami[2][0] < 0.7
    assert table.filter(label="depth_2")["classes"].unique().to_list() == [12]


def test_shares_are_those_of_a_loop_over_items() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 4))
    has_class = rng.random((60, 3)) < 0.4  # several classes an item, or none
    has_class[:, 2] = False
    has_class[:3, 2] = True  # too few for a macro mean
    queries = np.arange(0, 60, 2)
    nearest = find_nearest(vectors, [4], 5, rows=queries)
    clusters = rng.integers(0, 9, size=(1, 60))
    labelled = has_class.any(axis=1)
    groups = [(q, [n for n in found if labelled[n]]) for q, found in zip(queries, nearest[0], strict=True)]
    check(share_of_neighbours(nearest, queries, has_class)[0], groups, has_class, by_pair=True)
    others = [
        (i, [j for j in range(60) if j != i and labelled[j] and clusters[0, i] == clusters[0, j]]) for i in range(60)
    ]
    check(share_in_clusters(clusters, has_class)[0], others, has_class, by_pair=False)


def check(found: dict, groups: list, has_class: np.ndarray, *, by_pair: bool) -> None:
    """by_pair: whether an item counts as often as it has others (as neighbours do), or once."""
    labelled, sizes = has_class.any(axis=1), has_class.sum(axis=0)
    hits, total = np.zeros(3), np.zeros(3)
    for item, others in groups:
        if not labelled[item] or not others:
            continue
        for g in np.flatnonzero(has_class[item]):
            shared = sum(has_class[other, g] for other in others)
            hits[g] += shared if by_pair else shared / len(others)
            total[g] += len(others) if by_pair else 1
    chance = (sizes - 1) / (labelled.sum() - 1)
    assert found["plain"] == pytest.approx((hits.sum() / total.sum(), total @ chance / total.sum()))
    counted = sizes >= LEAST
    assert counted.tolist() == [True, True, False]
    assert found["macro"] == pytest.approx(((hits / total)[counted].mean(), chance[counted].mean()))


def test_a_large_class_decides_the_plain_mean_and_not_the_macro_one() -> None:
    rng = np.random.default_rng(2)
    big = rng.normal(size=(900, 4)) * 0.1 + [1, 0, 0, 0]
    labels = pl.Series(["grocery"] * 900 + [f"class {number}" for number in rng.integers(0, 4, 100)])
    table = measure_depths(np.vstack([big, rng.normal(size=(100, 4))]), [4], {"depth_1": labels})
    plain, macro = (cells(table, metric="neighbours", average=average)[4] for average in ("plain", "macro"))
    assert plain[0] > 0.85 and plain[1] > 0.8 and macro[0] < 0.5 and macro[1] == pytest.approx(0.2, abs=0.01)


def test_labels_that_say_nothing_are_left_out() -> None:
    vectors, labels = nested_items()
    others = {
        "one": pl.Series(["a"] * 240),
        "none": pl.Series([None] * 240, dtype=pl.String),
        "ids": pl.Series(range(240)),
    }
    assert measure_depths(vectors, WIDTHS, labels | others)["label"].unique().sort().to_list() == sorted(labels)
    assert measure_depths(vectors, WIDTHS, others).is_empty()
    with pytest.raises(DataError, match="depth_1 has 3 rows for 240 items"):
        measure_depths(vectors, WIDTHS, {"depth_1": pl.Series([1, 2, 3])})


def test_a_repeat_is_the_same_and_a_sample_is_of_that_many() -> None:
    vectors, labels = nested_items()
    table = measure_depths(vectors, WIDTHS, labels, sample=120, seed=3)
    assert table.equals(measure_depths(vectors, WIDTHS, labels, sample=120, seed=3))
    assert cells(table, label="depth_1", metric="neighbours", average="plain")[2][1] == pytest.approx(1 / 3, abs=0.02)


def test_fifths_keep_equal_numbers_together() -> None:
    assert in_fifths(np.arange(10.0)).to_list() == [number for number in "12345" for _ in range(2)]
    assert in_fifths(np.array([3.0, np.nan, 1.0])).null_count() == 1
    assert in_fifths(np.ones(8)).n_unique() == 1
    assert in_fifths(np.full(3, np.nan)).null_count() == 3
