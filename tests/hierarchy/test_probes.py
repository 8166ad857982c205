"""What blocks add: ranks, variances, correlations and probes of known value."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from taxonomy import at_chance, shuffled_within_columns, value

from mrl.errors import DataError
from mrl.hierarchy.probes import (
    block_correlation,
    block_shape,
    effective_rank,
    measure_auc,
    probe_labels,
    probe_number,
)


def test_effective_rank_known_values():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(60, 5))
    columns = np.linalg.qr(columns - columns.mean(axis=0))[0]
    assert effective_rank(columns + 3) == pytest.approx(5)
    assert effective_rank(np.outer(rng.normal(size=60), [1, 2, 3])) == pytest.approx(1)
    assert effective_rank(np.full((60, 3), 0.1)) == 0
    p = np.array([2 / 3, 1 / 3])
    assert effective_rank(columns[:, :2] * [2, 1]) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_variance_shares_and_correlations_of_blocks():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(60, 4))
    columns = np.linalg.qr(columns - columns.mean(axis=0))[0]
    shape = block_shape(columns * [3, 3, 1, 1], (2, 4)).filter(pl.col("metric") == "variance_share")
    assert value(shape, part="block", width=2) == pytest.approx(0.9)
    assert value(shape, part="block", width=4) == pytest.approx(0.1)
    assert value(shape, part="prefix", width=4) == pytest.approx(1)
    assert shape.filter(part="block")["chance"].to_list() == [0.5, 0.5]
    ranks = block_shape(columns * [3, 3, 1, 1], (2, 4)).filter(pl.col("metric") == "effective_rank", part="prefix")
    assert ranks["value"].to_list() == pytest.approx(ranks["chance"].to_list())  # these do not correlate
    assert ranks["chance"][0] == pytest.approx(2)
    alike = block_shape(columns[:, [0, 0, 1, 2]], (2, 4)).filter(part="block", width=2, metric="effective_rank")
    assert (alike["value"][0], alike["chance"][0]) == pytest.approx((1, 2))
    columns[:, 3] = columns[:, 0]
    table = block_correlation(columns, (2, 4))
    assert value(table, width=2, other_width=4) == pytest.approx(0.5)  # one of four pairs is 1: sqrt(1 / 4)
    assert value(table, width=2, other_width=2) == pytest.approx(0, abs=1e-9)
    random = block_correlation(rng.normal(size=(500, 32)), (16, 32))
    assert value(random, width=32, other_width=16) == pytest.approx(random["chance"][0], rel=0.15)
    assert value(block_correlation(columns, (1, 4)), width=1, other_width=1) == 0  # a column has no other


def test_probes_read_what_a_block_holds_and_nothing_else():
    rng = np.random.default_rng(0)
    items = rng.normal(size=(1000, 8))
    target = items[:, :4] @ [1, -2, 0.5, 3]
    target[:20] = np.nan
    table = probe_number(items, (4, 8), target, label="year")
    assert value(table, part="block", width=4) > 0.999
    assert value(table, part="prefix", width=8) > 0.999
    assert at_chance(table.filter(pl.col("part") == "block", pl.col("width") == 8).row(0, named=True))
    assert table["chance"].abs().max() < 0.05
    has_label = np.column_stack([items[:, 0] > 0, items[:, 5] > 0.5, np.arange(1000) < 3, np.ones(1000, dtype=bool)])
    names = ["first", "second", "rare", "all"]
    table = probe_labels(items, (4, 8), has_label, names, label="genres")
    assert set(table["class"].to_list()) == {"first", "second", None}  # ten with and ten without it are needed
    blocks = {(row["class"], row["width"]): row for row in table.filter(pl.col("part") == "block").to_dicts()}
    assert blocks["first", 4]["value"] > 0.99 and blocks["second", 8]["value"] > 0.99
    assert at_chance(blocks["first", 8]) and at_chance(blocks["second", 4])
    assert blocks[None, 4]["value"] == pytest.approx((blocks["first", 4]["value"] + blocks["second", 4]["value"]) / 2)
    assert (table["chance"] - 0.5).abs().max() < 0.05
    lost = probe_labels(shuffled_within_columns(items), (4, 8), has_label, names)
    assert all(at_chance(row) for row in lost.iter_rows(named=True))


def test_auc_of_perfect_tied_and_one_sided_predictions():
    feature = np.repeat([0.0, 1.0], 50)[:, None]
    areas = measure_auc(feature, np.column_stack([feature[:, 0] > 0, feature[:, 0] < 1, np.ones(100, dtype=bool)]))
    assert areas[:2] == pytest.approx(1) and np.isnan(areas[2])
    assert measure_auc(np.zeros((100, 1)), np.arange(100)[:, None] % 2 == 0) == pytest.approx(0.5)


def test_probes_without_enough_to_learn_from():
    items = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(DataError, match="known for 9 items"):
        probe_number(items, (4,), np.where(np.arange(30) < 9, 1.0, np.nan), label="year")
    with pytest.raises(DataError, match="no label has 10 items"):
        probe_labels(items, (4,), np.ones((30, 1), dtype=bool), ["all"])
