"""Ranking and metrics against slow loops, against trec_eval, and the properties they must have."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mrl.data.interactions import Interactions, Positives
from mrl.errors import ConfigError, RunError
from mrl.evaluation import ranking
from mrl.evaluation.evaluate import FORMULAS, KS, METRICS, Evaluation, evaluate, evaluate_scores
from mrl.evaluation.ranking import VectorRanking, top_k
from mrl.kernels.fast_paths import check_anew, verdicts

QUICK = settings(max_examples=40, deadline=None)
WIDTHS = (1, 2, 4, 8)


def make_data(seed: int, num_users: int = 23, num_items: int = 71) -> Interactions:
    """Random disjoint splits; some users have nothing in test, one has nothing at all, one nearly everything."""
    rng = np.random.default_rng(seed)
    part = rng.choice(4, size=(num_users, num_items), p=[0.75, 0.12, 0.05, 0.08])
    part[0] = 0
    part[1] = rng.choice([1, 3], size=num_items, p=[0.95, 0.05])
    part[2][part[2] == 3] = 0
    splits = [Positives.from_pairs(*np.nonzero(part == value), num_users, num_items) for value in (1, 2, 3)]
    return Interactions("random", *splits, np.arange(num_users), np.arange(num_items))


def make_vectors(seed: int, data: Interactions, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(data.num_users, dim, generator=generator),
        torch.randn(data.num_items, dim, generator=generator),
    )


def slow_order(scores) -> list[int]:
    """All items that are not masked, best first, ties by id."""
    return sorted((i for i, s in enumerate(scores) if s > -math.inf), key=lambda i: (-scores[i], i))


def slow_metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    hits = [item in relevant for item in ranked[:k]]
    first = next((rank for rank, is_hit in enumerate(hits, 1) if is_hit), None)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), k) + 1))
    return {
        "recall": sum(hits) / len(relevant),
        "precision": sum(hits) / k,
        "ndcg": sum(1 / math.log2(rank + 1) for rank, is_hit in enumerate(hits, 1) if is_hit) / ideal,
        "hit": float(any(hits)),
        "mrr": 1 / first if first else 0.0,
        "map": sum(sum(hits[:rank]) / rank for rank, is_hit in enumerate(hits, 1) if is_hit) / len(relevant),
    }


def slow_ranking(users, items, data, width, hidden) -> dict[int, list[int]]:
    """The ranked items of each user with something in test, by a loop over float64 scores."""
    scores = (users[:, None, :width].double() * items[None, :, :width].double()).cumsum(2)[:, :, -1].tolist()
    ranked = {}
    for user in range(data.num_users):
        for positives in hidden:
            for item in positives.of(user).tolist():
                scores[user][item] = -math.inf
        if len(data.test.of(user)):
            ranked[user] = slow_order(scores[user])
    return ranked


def values_of(evaluation: Evaluation) -> list[tuple]:
    return evaluation.table.rows()


# --- top_k -----------------------------------------------------------------------------------------------------------


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 60), st.booleans(), st.booleans())
def test_top_k_is_a_stable_sort(seed, num_items, k, tied, by_torch):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, (5, num_items)) if tied else rng.normal(size=(5, num_items))
    scores = np.where(rng.random(scores.shape) < 0.3, -np.inf, scores).astype(np.float64 if by_torch else np.float32)
    items, best = top_k(torch.from_numpy(scores), k)  # float64 takes the path by torch
    assert items.shape == best.shape == (5, k)
    for row in range(5):
        expected = slow_order(scores[row])[:k]
        assert items[row].tolist() == expected + [-1] * (k - len(expected))
        assert best[row].tolist() == [scores[row, item] for item in expected] + [-math.inf] * (k - len(expected))


@pytest.mark.parametrize("num_items", [3000, 40_000])
@pytest.mark.parametrize("values", [1, 7, 2000])
def test_top_k_of_long_rows_with_ties(num_items, values):
    scores = np.random.default_rng(values).integers(0, values, (9, num_items)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :50]
    assert np.array_equal(top_k(torch.from_numpy(scores), 50)[0], expected)
    assert np.array_equal(top_k(torch.from_numpy(scores).double(), 50)[0], expected)


def test_top_k_of_negative_and_mixed_signs():
    scores = torch.linspace(-1, 1, 5000).roll(1234).repeat(3, 1) - torch.tensor([[0.0], [2.0], [-2.0]])
    assert torch.equal(top_k(scores, 50)[0], scores.argsort(dim=1, descending=True)[:, :50])


def test_top_k_uses_threads_and_long_lists(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    scores = torch.randn(100, 20_000, generator=torch.Generator().manual_seed(0))
    order = scores.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(top_k(scores, 20)[0], order[:, :20])
    assert torch.equal(top_k(scores[:3], 300)[0], order[:3, :300])  # beyond what the kernel takes


def test_top_k_without_items_or_users():
    items, scores = top_k(torch.empty(2, 0), 3)
    assert items.tolist() == [[-1] * 3] * 2 and scores.tolist() == [[-math.inf] * 3] * 2
    assert top_k(torch.empty(0, 7), 3)[0].shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_a_number_is_never_ranked(bad):
    with pytest.raises(RunError, match="NaN or Inf"):
        top_k(torch.tensor([[1.0, bad, 2.0]]), 2)
    data = make_data(0)
    users, items = make_vectors(0, data)
    items[3, 2] = bad
    with pytest.raises(RunError, match="NaN, Inf"):
        evaluate(users, items, data, widths=[8])


def test_scores_that_overflow_are_not_ranked():
    data = make_data(0)
    users, items = make_vectors(0, data)
    with pytest.raises(RunError, match="too large"):
        evaluate(users * 1e30, items * 1e30, data, widths=[8])


# --- vectors ---------------------------------------------------------------------------------------------------------


def as_tf32(table: torch.Tensor) -> torch.Tensor:
    """Rounded to 10 bits after the point."""
    return ((table.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_lists_stay_exact_where_scores_are_rougher_than_what_tells_items_apart(monkeypatch):
    users = torch.ones(1, 2)
    items = torch.cat([torch.ones(400, 1), 2.0**-14 * torch.randperm(400)[:, None]], 1)
    assert len(as_tf32(1 + items[:, 1]).unique()) < 50  # closer together than TF32 can tell
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(ranking, "has_short_floats", lambda _: True)
    exact = torch.addmm

    def rough(x, a, b, *, beta, out):
        exact(x, a, b, beta=beta, out=out)
        return out.copy_(as_tf32(out))

    monkeypatch.setattr(torch, "addmm", rough)
    ((_, ranked, _),) = VectorRanking(users, items, (2,))(torch.arange(1), 20)
    assert ranked[0].tolist() == items[:, 1].argsort(descending=True)[:20].tolist()


@pytest.mark.parametrize("wrong", ["", "scores", "raises", "memory"])
def test_shortlists_by_tf32_are_compared_once_and_off_where_lists_differ(monkeypatch, wrong):
    """As on a GPU: the precision that is set says how products are made."""
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(ranking, "has_short_floats", lambda _: True)
    exact, precisions = torch.addmm, []

    def by_precision(x, a, b, **more):
        precisions.append(torch.get_float32_matmul_precision())
        if precisions[-1] == "highest":
            return exact(x, a, b, **more)
        if wrong == "raises":
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        if wrong == "memory" and len(a) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return exact(x, as_tf32(a), as_tf32(b.roll(int(wrong == "scores"), 1)), **more)

    data = make_data(3, num_items=700)
    users, items = make_vectors(3, data)
    expected = evaluate(users, items, data, widths=WIDTHS, per_user=True).per_user
    monkeypatch.setattr(torch, "addmm", by_precision)
    with check_anew(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_frame_equal(evaluate(users, items, data, widths=WIDTHS, per_user=True).per_user, expected)
        found = verdicts()["tf32_shortlists"]
    assert torch.get_float32_matmul_precision() == "highest"
    if wrong in ("", "memory"):  # out of memory only makes the batches smaller
        assert not warned and found == "used" and precisions.count("highest") == len(WIDTHS)
        return
    (message,) = [str(each.message) for each in warned]
    assert message == f"tf32_shortlists is off, so items are shortlisted by float32 sums: {found[5:]}"
    assert found == "off: CUBLAS_STATUS_NOT_SUPPORTED" if wrong == "raises" else found.endswith(" lists differ")
    assert precisions.count("high") <= len(WIDTHS)


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_of_products_is_left_as_it_was_set(monkeypatch, tf32):
    data = make_data(0)
    users, items = make_vectors(0, data)
    expected = evaluate(users, items, data, widths=WIDTHS).table
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(ranking, "has_short_floats", lambda _: tf32)
    torch.set_float32_matmul_precision("medium")
    try:
        for _ in range(2):
            assert_frame_equal(evaluate(users, items, data, widths=WIDTHS).table, expected)
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_on_a_cpu_no_list_is_compared():
    data = make_data(0)
    with check_anew():
        evaluate(*make_vectors(0, data), data, widths=WIDTHS, ks=[5, 60])
        assert verdicts() == {}


@QUICK
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(["kernels", "products", "torch", "TF32"]))
def test_ranking_of_vectors_is_the_slow_one(seed, duplicated, way):
    data = make_data(seed)
    users, items = make_vectors(seed, data)
    if duplicated:  # exact ties, however the matrix product rounds
        items = items[torch.arange(data.num_items) % 9]
        users[5] = 0
    hidden = [data.train, data.valid]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_KERNEL_LIMIT" if way in ("torch", "TF32") else "_FEW", 0)
        patch.setattr(ranking, "_WIDE", 0 if way == "products" else 128)
        if way == "TF32":  # as on a GPU
            exact = torch.addmm
            patch.setattr(ranking, "has_short_floats", lambda _: True)
            patch.setattr(torch, "addmm", lambda x, a, b, **more: exact(x, as_tf32(a), as_tf32(b), **more))
        rows = data.test.counts.nonzero()[:, 0]
        for width, ranked, scores in VectorRanking(users, items, WIDTHS)(rows, 30, hidden):
            for user, line, values in zip(rows.tolist(), ranked.tolist(), scores.tolist(), strict=True):
                expected = slow_ranking(users, items, data, width, hidden)[user][:30]
                assert line == expected + [-1] * (30 - len(expected))
                assert values[len(expected) :] == [-math.inf] * (30 - len(expected))
                known = set(data.train.of(user).tolist()) | set(data.valid.of(user).tolist())
                assert not known & set(line)


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_a_few_users_get_the_lists_that_they_get_among_many(seed, few):
    data = make_data(seed)
    users, items = make_vectors(seed, data)
    rank, everyone = VectorRanking(users, items, WIDTHS), torch.arange(data.num_users)
    assert data.num_users > 8
    for among_few, among_many in zip(
        rank(everyone[:few], 20, [data.train]), rank(everyone, 20, [data.train]), strict=True
    ):
        assert among_few[0] == among_many[0]
        assert torch.equal(among_few[1], among_many[1][:few]) and torch.equal(among_few[2], among_many[2][:few])


def test_a_few_users_are_left_to_the_kernels_where_torch_would_have_to_set_the_precision(monkeypatch):
    monkeypatch.setattr(VectorRanking, "_by_torch", None)
    torch.set_float32_matmul_precision("medium")
    try:
        ((_, ranked, _),) = VectorRanking(torch.ones(1, 2), torch.ones(3, 2), (2,))(torch.arange(1), 2)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert ranked.tolist() == [[0, 1]]


def test_wide_vectors_are_ranked_in_parts_as_by_the_kernels(monkeypatch):
    data = make_data(3, num_users=150, num_items=400)
    users, items = make_vectors(3, data, dim=160)
    items[5] = items[9]

    def ranked() -> list[tuple]:
        return list(VectorRanking(users, items, (4, 64, 160))(torch.arange(150), 20, [data.train]))

    monkeypatch.setattr(ranking, "_NUMBERS", 1)  # the fewest users at a time
    wide = ranked()
    monkeypatch.setattr(ranking, "_WIDE", 160)
    for (width, *one), (other_width, *other) in zip(wide, ranked(), strict=True):
        assert width == other_width and all(map(torch.equal, one, other))


def test_a_few_users_do_not_wait_for_numba():
    source = (
        "import sys, torch; from mrl.evaluation import VectorRanking\n"
        "list(VectorRanking(torch.ones(8, 4), torch.ones(50, 4), (2, 4))(torch.arange(8), 10))\n"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0


def test_scores_of_a_prefix_are_those_of_the_copied_columns():
    data = make_data(1)
    users, items = make_vectors(1, data)
    rows = torch.arange(data.num_users)
    for width, ranked, scores in VectorRanking(users, items, (2, 3, 8))(rows, 10):
        alone = next(VectorRanking(users[:, :width].clone(), items[:, :width].clone(), (width,))(rows, 10))
        assert torch.equal(ranked, alone[1]) and torch.equal(scores, alone[2])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    data = make_data(2, num_users=200, num_items=3000)
    users, items = make_vectors(2, data)
    items[1000:2000] = items[:1000]
    expected = evaluate(users, items, data, widths=WIDTHS, per_user=True)
    with check_anew():
        result = evaluate(users.cuda(), items.cuda(), data, widths=WIDTHS, per_user=True)
        assert set(verdicts().values()) <= {"used"}  # none before Ampere
    assert_frame_equal(result.per_user, expected.per_user, abs_tol=1e-12)
    rows = torch.arange(200)
    for cpu, gpu in zip(
        VectorRanking(users, items, WIDTHS)(rows, 50),
        VectorRanking(users.cuda(), items.cuda(), WIDTHS)(rows.cuda(), 50),
        strict=True,
    ):
        assert torch.equal(cpu[1], gpu[1].cpu()) and torch.equal(cpu[2], gpu[2].cpu())


# --- metrics ---------------------------------------------------------------------------------------------------------


@QUICK
@given(st.integers(0, 10**6), st.sampled_from(["test", "valid"]))
def test_metrics_are_those_of_a_slow_loop(seed, split):
    data = make_data(seed)
    users, items = make_vectors(seed, data)
    if split == "valid":  # seen from validation, test plays no part
        swapped = Interactions("swapped", data.train, data.test, data.valid, data.user_ids, data.item_ids)
        evaluation = evaluate(users, items, swapped, split="valid", widths=WIDTHS, per_user=True)
        hidden = [data.train]
    else:
        evaluation = evaluate(users, items, data, widths=WIDTHS, per_user=True)
        hidden = [data.train, data.valid]
    for width in WIDTHS:
        ranked = slow_ranking(users, items, data, width, hidden)
        assert evaluation.users == len(ranked)
        for k in KS:
            slow = {user: slow_metrics(line, set(data.test.of(user).tolist()), k) for user, line in ranked.items()}
            for metric in METRICS:
                mean = sum(values[metric] for values in slow.values()) / len(slow)
                assert evaluation.value(f"{metric}@{k}", width) == pytest.approx(mean, abs=1e-11)
                one = evaluation.per_user.filter(width=width, metric=metric, k=k)
                assert one["user"].to_list() == list(slow)
                assert one["value"].to_list() == pytest.approx([values[metric] for values in slow.values()])


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_trec_eval(seed):
    data = make_data(seed, num_users=60, num_items=150)
    users, items = make_vectors(seed, data)
    evaluation = evaluate(users, items, data, widths=(8,))
    ranked = slow_ranking(users, items, data, 8, [data.train, data.valid])
    judged = {str(user): {str(item): 1 for item in data.test.of(user).tolist()} for user in ranked}
    names = {"recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "hit": "success", "map": "map_cut"}
    for k in KS:
        run = {str(u): {str(item): float(-rank) for rank, item in enumerate(line[:k])} for u, line in ranked.items()}
        measures = {f"{name}.{k}" for name in names.values()} | {"recip_rank"}
        results = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run).values()
        for metric in METRICS:
            key = "recip_rank" if metric == "mrr" else f"{names[metric]}_{k}"
            mean = np.mean([result[key] for result in results])
            assert evaluation.value(f"{metric}@{k}") == pytest.approx(mean, abs=1e-9), (metric, k)


def metrics_of(hits: list[int], relevant: int, k: int) -> dict[str, float]:
    rows = torch.tensor([hits], dtype=torch.float64)
    counts = torch.tensor([relevant], dtype=torch.float64)
    return {name: float(formula(rows, counts, [k])) for name, formula in FORMULAS.items()}


def test_perfect_list():
    assert metrics_of([1, 1, 0], 2, 2) == dict.fromkeys(METRICS, 1.0)


def test_perfect_list_with_more_relevant_than_k():
    values = metrics_of([1, 1], 4, 2)
    assert values == {"recall": 0.5, "precision": 1, "ndcg": 1, "hit": 1, "mrr": 1, "map": 0.5}


def test_no_hit():
    assert metrics_of([0, 0, 0], 2, 3) == dict.fromkeys(METRICS, 0.0)


def test_one_hit_at_rank_three():
    values = metrics_of([0, 0, 1], 2, 3)
    expected = {"recall": 1 / 2, "precision": 1 / 3, "hit": 1, "mrr": 1 / 3, "map": 1 / 6}
    assert values == pytest.approx(expected | {"ndcg": 0.5 / (1 + 1 / math.log2(3))})


def test_short_list_is_filled_with_misses():
    data = Interactions(
        "short",
        Positives.from_pairs([0] * 6, [0, 1, 2, 3, 4, 5], 1, 8),
        Positives.empty(1, 8),
        Positives.from_pairs([0], [7], 1, 8),
        np.arange(1),
        np.arange(8),
    )
    evaluation = evaluate(torch.ones(1, 1), torch.ones(8, 1), data, widths=[1], ks=[5])
    assert evaluation.value("recall@5") == 1 and evaluation.value("precision@5") == pytest.approx(1 / 5)
    assert evaluation.value("mrr@5") == 0.5  # the tie goes to item 6


def test_a_split_without_anybody_is_an_error():
    data = make_data(0)
    empty = Interactions("d", data.train, data.valid, Positives.empty(23, 71), data.user_ids, data.item_ids)
    with pytest.raises(RunError, match="split='test': nobody"):
        evaluate(*make_vectors(0, data), empty, widths=[8])


def test_recall_grows_with_k():
    data = make_data(3)
    evaluation = evaluate(*make_vectors(3, data), data, widths=WIDTHS, ks=range(1, 72))
    for metric in ("recall", "hit", "mrr", "map"):
        for width in WIDTHS:
            values = evaluation.table.filter(metric=metric, width=width).sort("k")["value"]
            assert values.is_sorted()
    assert evaluation.value("recall@71", 4) == 1.0


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_chunks_change_nothing(seed, chunk):
    data = make_data(seed)
    users, items = make_vectors(seed, data)
    items[10:20] = items[0]
    at_once = evaluate(users, items, data, widths=WIDTHS, per_user=True)
    parts = evaluate(users, items, data, widths=WIDTHS, chunk=chunk, per_user=True)
    assert values_of(at_once) == values_of(parts)
    assert at_once.per_user.equals(parts.per_user)


@QUICK
@given(st.integers(0, 10**6))
def test_renumbering_changes_nothing_else(seed):
    data = make_data(seed)
    users, items = make_vectors(seed, data)
    rng = np.random.default_rng(seed)
    new_user, new_item = rng.permutation(data.num_users), rng.permutation(data.num_items)
    splits = [
        Positives.from_pairs(new_user[split.users], new_item[split.items], data.num_users, data.num_items)
        for split in (data.train, data.valid, data.test)
    ]
    moved = Interactions("moved", *splits, data.user_ids, data.item_ids)
    moved_users, moved_items = torch.empty_like(users), torch.empty_like(items)
    moved_users[new_user], moved_items[new_item] = users, items
    one = evaluate(users, items, data, widths=WIDTHS, per_user=True)
    other = evaluate(moved_users, moved_items, moved, widths=WIDTHS, per_user=True)
    assert values_of(one) == values_of(other)
    renamed = one.per_user.with_columns(pl.Series("user", new_user[one.per_user["user"]], dtype=pl.Int32))
    keys = ["user", "width", "metric", "k"]
    assert renamed.sort(keys).equals(other.per_user.sort(keys))


def test_one_pass_over_many_widths_equals_one_width_at_a_time():
    data = make_data(4)
    users, items = make_vectors(4, data)
    together = evaluate(users, items, data, widths=range(1, 9))
    for width in range(1, 9):
        assert together.table.filter(width=width).equals(evaluate(users, items, data, widths=[width]).table)


def test_the_paper_protocol_masks_train_only():
    data = make_data(5)
    users, items = make_vectors(5, data)
    paper = Interactions("paper", data.train, data.test, data.test, data.user_ids, data.item_ids)
    empty = Positives.empty(data.num_users, data.num_items)
    plain = Interactions("plain", data.train, empty, data.test, data.user_ids, data.item_ids)
    copied = Interactions("copy", data.train, data.test.union(empty), data.test, data.user_ids, data.item_ids)
    results = [evaluate(users, items, each, widths=[8]) for each in (paper, plain, copied)]
    assert results[0].value("hit@50") > 0
    assert values_of(results[0]) == values_of(results[1]) == values_of(results[2])
    assert values_of(evaluate(users, items, paper, split="valid", widths=[8]))[0][1:] == values_of(results[0])[0][1:]


def test_the_train_split_masks_nothing():
    data = make_data(6)
    evaluation = evaluate(*make_vectors(6, data), data, split="train", widths=[8], ks=[71])
    assert evaluation.value("recall@71") == 1


# --- scores of any model ---------------------------------------------------------------------------------------------


def test_scores_of_any_model():
    data = make_data(7)
    users, items = make_vectors(7, data)
    by_vectors = evaluate(users, items, data, widths=(4, 8), per_user=True)

    def blocks(rows):
        for width in (4, 8):
            yield width, users[rows, :width] @ items[:, :width].T

    by_scores = evaluate_scores(blocks, data, per_user=True)
    assert values_of(by_vectors) == values_of(by_scores)


def test_scores_without_a_width_are_left_as_they_are():
    data = make_data(8)
    popularity = data.train.item_counts.float()
    before = popularity.clone()
    evaluation = evaluate_scores(lambda rows: [(None, popularity.expand(len(rows), -1))], data, chunk=1)
    assert torch.equal(popularity, before)
    assert evaluation.table["width"].null_count() == len(evaluation.table) == len(METRICS) * len(KS)
    assert 0 < evaluation.value("recall@20") < 1


# --- settings, memory, output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ks", [[], [0], [5, -1], [2.5], [5, 72], [True]])
def test_impossible_ks(ks):
    data = make_data(0)
    with pytest.raises(ConfigError, match="ks="):
        evaluate(*make_vectors(0, data), data, widths=[8], ks=ks)


def test_a_small_catalogue_has_shorter_lists():
    data = make_data(0, num_items=15)
    evaluation = evaluate(*make_vectors(0, data), data, widths=[8])
    assert evaluation.table["k"].unique().sort().to_list() == [5, 10]


def test_vectors_of_another_data_set():
    data = make_data(0)
    users, items = make_vectors(0, data)
    with pytest.raises(RunError, match="22 users and 71 items: random has 23 and 71"):
        evaluate(users[1:], items, data, widths=[8])
    with pytest.raises(ConfigError, match="wider than the 8"):
        evaluate(users, items, data, widths=[16])
    with pytest.raises(ConfigError, match="chunk=0"):
        evaluate(users, items, data, widths=[8], chunk=0)


def starved(limit: int):
    """A product that runs out of memory for more than `limit` users, as a GPU would."""
    real = torch.addmm

    def addmm(scores, *rest, **options):
        if len(scores) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(scores, *rest, **options)

    return addmm


def test_out_of_memory_halves_the_chunk(monkeypatch):
    data = make_data(9)
    users, items = make_vectors(9, data)
    expected = evaluate(users, items, data, widths=WIDTHS, per_user=True)
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(torch, "addmm", starved(3))
    result = evaluate(users, items, data, widths=WIDTHS, per_user=True)
    assert values_of(result) == values_of(expected) and result.per_user.equals(expected.per_user)


def test_out_of_memory_with_one_user_is_an_error(monkeypatch):
    data = make_data(9)
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(torch, "addmm", starved(0))
    with pytest.raises(RunError, match="one user at a time"):
        evaluate(*make_vectors(9, data), data, widths=WIDTHS)


def test_other_failures_are_not_taken_for_memory(monkeypatch):
    data = make_data(9)

    def broken(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    monkeypatch.setattr(torch, "addmm", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(*make_vectors(9, data), data, widths=WIDTHS)


def test_the_chunk_keeps_to_its_budget():
    assert ranking.users_per_batch(10_000, "cpu", budget=400 * 4 * 10_000) == 400
    assert ranking.users_per_batch(10**9, "cpu") == 64
    assert ranking.users_per_batch(10, "cpu") == 2**16


def test_threads_and_many_rows_change_nothing(monkeypatch):
    data = make_data(11, num_users=700, num_items=300)
    users, items = make_vectors(11, data)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(evaluate(users, items, data, widths=(3, 8), per_user=True))
    assert results[0].per_user.equals(results[1].per_user)
    monkeypatch.setattr(ranking, "_KERNEL_LIMIT", 0)
    assert results[0].per_user.equals(evaluate(users, items, data, widths=(3, 8), per_user=True).per_user)


def test_table_and_its_values():
    data = make_data(10)
    evaluation = evaluate(*make_vectors(10, data), data, widths=(4, 6))
    assert evaluation.table.columns == ["split", "width", "metric", "k", "value"]
    assert evaluation.per_user is None
    tidy = evaluation.tidy(dataset="random", model="mf", seed=3)
    assert tidy.columns == ["dataset", "model", "seed", "split", "width", "metric", "k", "value"]
    with pytest.raises(ConfigError, match=r"value\('recall@20', width=None\).*\[4, 6\]"):
        evaluation.value("recall@20")
    with pytest.raises(ConfigError, match="recall@5, recall@10"):
        evaluation.value("recall@7", 4)
