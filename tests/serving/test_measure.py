"""Settings of an index side by side: overlaps and held-out accuracy are those of slow loops, shortlists suffice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from served import made_run, slow_lists

from mrl.data.interactions import Interactions, Positives
from mrl.evaluation import evaluate
from mrl.serving import Index
from mrl.serving.measure import (
    add_to_report,
    candidates,
    describe,
    enlarge,
    measure,
    of_users,
    overlaps,
    pareto,
    shortlist_for,
)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_overlap_is_the_share_of_a_list_in_another(seed, k) -> None:
    rng = np.random.default_rng(seed)
    found, exact = (np.array([rng.permutation(12)[:k] for _ in range(4)]) for _ in range(2))
    exact[0, k // 2 :] = -1
    found[1, 0] = -1
    for one, other, share in zip(found.tolist(), exact.tolist(), overlaps(found, exact), strict=True):
        wanted = {item for item in other if item >= 0}
        assert share == pytest.approx(len(wanted & set(one)) / max(len(wanted), 1))


@pytest.mark.parametrize("bits", [32, 8])
def test_a_shortlist_is_as_long_as_needed_and_not_twice_that(bits: int) -> None:
    run = made_run(0, users=200, items=1500, ties=False)
    items, users = run.items.numpy(), run.users.numpy()
    exact, _ = Index(items).search_rows(users, 10)
    size = shortlist_for(items, users, 3, bits, 10, 0.95)
    shares = []
    for length in (size, size // 2):
        found, _ = Index(items, [3, 8], [max(length, 10)], bits=bits).search_rows(users, 10)
        shares.append(overlaps(found, exact).mean())
    assert shares[0] >= 0.95 > shares[1]


def held_out(run) -> Interactions:
    rng = np.random.default_rng(5)
    shape = len(run.user_ids), len(run.item_ids)
    test = Positives.from_pairs(*(rng.random(shape) < 0.05).nonzero(), *shape).without(run.seen)
    return Interactions("made", run.seen, Positives.empty(*shape), test, run.user_ids, run.item_ids, run.labels)


def test_a_table_of_settings_agrees_with_evaluation_and_with_slow_lists() -> None:
    run = made_run(3, users=60, items=300, ties=False)
    run = replace(run, config={"widths": [2, 4, 8]})
    data = held_out(run)
    table = measure(
        run, [{"widths": [8]}, {"widths": [4]}, {"widths": [4, 8], "shortlist": [60], "bits": 8}], data, k=10
    )
    evaluation = evaluate(run.users, run.items, data, widths=(4, 8), ks=[10])
    for row, width in ((0, 8), (1, 4)):
        assert table["recall"][row] == pytest.approx(evaluation.value("recall@10", width))
        assert table["ndcg"][row] == pytest.approx(evaluation.value("ndcg@10", width))
    assert table["overlap"][0] == table["overlap_reported"][0] == 1
    narrow, whole = slow_lists(run, 10, 4), slow_lists(run, 10, 8)
    shares = [len(set(one) & set(other)) / 10 for one, other in zip(narrow, whole, strict=True)]
    assert (table["overlap"][1] + table["overlap_reported"][1]) / 2 == pytest.approx(np.mean(shares))
    assert table["multiply_adds"].to_list() == [8 * 300, 4 * 300, 4 * 300 + 8 * 60]
    assert (table["p99_ms"] >= table["p50_ms"]).all()
    assert (table.select("p50_ms", "per_second", "build_seconds").to_numpy() > 0).all()
    assert "valid_recall" not in table.columns


def test_validation_is_reported_only_where_it_was_not_learned_from() -> None:
    run = made_run(3, users=60, items=300)
    shape = 60, 300
    rng = np.random.default_rng(6)
    valid = Positives.from_pairs(*(rng.random(shape) < 0.05).nonzero(), *shape).without(run.seen)
    data = replace(held_out(run), valid=valid)
    assert measure(run, [{}], data, k=10)["valid_recall"][0] == pytest.approx(
        evaluate(run.users, run.items, data, split="valid", widths=(8,), ks=[10]).value("recall@10")
    )
    learned = replace(run, seen=run.seen.union(valid))
    assert "valid_recall" not in measure(learned, [{}], replace(data, train=run.seen), k=10).columns


def test_of_many_users_some_are_tested_by_their_own_rows(monkeypatch) -> None:
    run = made_run(3, users=60, items=300, ties=False)
    data = held_out(run)
    rows = np.array([4, 17, 40])
    some, part = of_users(run, data, rows)
    assert some.recommend(run.user_ids[[17]].tolist(), 5).equals(run.recommend(run.user_ids[[17]].tolist(), 5))
    wanted = evaluate(run.users, run.items, data, widths=(8,), ks=[10], per_user=True).per_user
    mean = wanted.filter(pl.col("user").is_in(rows.tolist()), metric="recall")["value"].mean()
    assert evaluate(some.users, some.items, part, widths=(8,), ks=[10]).value("recall@10") == pytest.approx(mean)
    monkeypatch.setattr("mrl.serving.measure._TESTED", 30)
    drawn = np.sort(np.random.default_rng(0).permutation(data.test.counts.nonzero()[:, 0].numpy())[:30])
    mean = wanted.filter(pl.col("user").is_in(drawn.tolist()), metric="recall")["value"].mean()
    assert measure(run, [{}], data, k=10)["recall"][0] == pytest.approx(mean)


def test_candidates_reach_what_is_asked_for_where_a_list_is_scored_again() -> None:
    run = replace(made_run(1, users=400, items=2000, ties=False), config={"widths": [4, 8]})
    settings = candidates(run, 10, 0.95, faiss=False)
    assert {"widths": [8]} in settings
    table = measure(run, settings, k=10)
    ladders = table.filter(pl.col("shortlist").list.len() == 1)
    assert len(ladders) >= 2
    assert (ladders["overlap_reported"] > 0.94).all()
    assert ladders["widths"].list.last().unique().to_list() == [8]


def test_the_front_is_what_nothing_beats() -> None:
    table = pl.DataFrame({"p50_ms": [1.0, 2.0, 2.0, 3.0, 1.0], "overlap_reported": [0.5, 0.9, 0.8, 0.9, 0.5]})
    assert pareto(table).to_list() == [True, True, False, False, True]


def test_an_enlarged_run_has_lengths_and_axes_like_the_real_one() -> None:
    run = made_run(0, users=50, items=400, ties=False)
    larger = enlarge(run, 5000)
    assert larger.items.shape == (5000, 8)
    for real, made in ((run.items, larger.items),):
        lengths = [torch.quantile(table.norm(dim=1), torch.tensor([0.1, 0.5, 0.9])) for table in (real, made)]
        assert lengths[1] == pytest.approx(lengths[0], rel=0.1)
        assert made.std(0).numpy() == pytest.approx(real.std(0).numpy(), rel=0.2)
    assert torch.equal(enlarge(run, 5000).items, larger.items)


def test_a_report_takes_the_place_of_earlier_rows_of_its_data_set(tmp_path: Path) -> None:
    run, path = made_run(0, items=60), tmp_path / "reports" / "serving.csv"
    table = measure(run, [{}, {"widths": [4, 8], "shortlist": [20]}], k=5)
    add_to_report(table, path, "one")
    add_to_report(table, path, "two")
    again = add_to_report(table.head(1), path, "one")
    assert again["dataset"].to_list() == ["two", "two", "one"]
    assert pl.read_csv(path, schema_overrides={"widths": pl.String})["widths"].to_list() == ["8", "4 8", "8"]


def test_settings_in_words() -> None:
    row = {"widths": [4, 16, 64], "shortlist": [500, 100], "bits": 8, "kind": ""}
    assert describe(row) == "the first 4 dimensions in int8, the best 500 again by 16, the best 100 again by 64"
    assert (
        describe(row | {"widths": [64], "shortlist": [], "bits": 32, "kind": "hnsw"})
        == "the first 64 dimensions by HNSW"
    )
