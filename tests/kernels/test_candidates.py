"""Candidates: never a known positive, uniform over the rest, and the same from compiled loop and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mrl.data.interactions import Positives
from mrl.kernels.candidates import (
    LARGE,
    SIMILARITIES,
    STRETCH,
    WINDOW,
    UniformCandidates,
    level_scores,
    mix,
    pick_hardest,
)


def random_positives(seed: int, num_users: int = 12, num_items: int = 30, share: float = 0.4) -> Positives:
    met = np.random.default_rng(seed).random((num_users, num_items)) < share
    return Positives.from_pairs(*np.nonzero(met), num_users, num_items)


def by_torch(positives: Positives) -> UniformCandidates:
    """The implementation that a GPU gets, on the CPU."""
    draw = UniformCandidates(positives)
    draw.compiled = False
    draw._gaps = positives.users.long() * (positives.num_items + 1) + draw._gaps
    return draw


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.integers(1, 40))
def test_no_candidate_is_ever_a_positive(seed: int, share: float, num_items: int) -> None:
    positives = random_positives(seed, 6, num_items, share)
    draw = UniformCandidates(positives)
    assert draw.trainable.tolist() == [len(positives.of(user)) < num_items for user in range(6)]
    users = draw.trainable.nonzero().flatten()
    drawn = draw(users, (3, 5), torch.Generator().manual_seed(seed))
    assert drawn.shape == (len(users), 3, 5)
    for user, rows in zip(users.tolist(), drawn, strict=True):
        assert not set(rows.flatten().tolist()) & set(positives.of(user).tolist())
        assert rows.min() >= 0 and rows.max() < num_items


def test_candidates_are_uniform_over_what_is_unobserved() -> None:
    positives = Positives.from_pairs([0] * 5 + [1] * 19, [0, 3, 4, 10, 19, *range(1, 20)], 3, 20)
    draw = UniformCandidates(positives)
    drawn = draw(torch.tensor([0, 1, 2]), (30_000,), torch.Generator().manual_seed(0))
    unobserved = [item for item in range(20) if item not in (0, 3, 4, 10, 19)]
    assert chisquare(np.bincount(drawn[0].numpy(), minlength=20)[unobserved]).pvalue > 1e-3
    assert (drawn[1] == 0).all()  # one item left: it is drawn every time
    assert chisquare(np.bincount(drawn[2].numpy(), minlength=20)).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 0.99), st.integers(2, 200))
def test_the_compiled_loop_finds_the_items_that_torch_finds(seed: int, share: float, num_items: int) -> None:
    positives = random_positives(seed, 9, num_items, share)
    compiled, plain = UniformCandidates(positives), by_torch(positives)
    users = compiled.trainable.nonzero().flatten()
    chance = torch.rand(len(users), 2, 7, generator=torch.Generator().manual_seed(seed))
    ranks = (chance * compiled.free[users][:, None, None]).long()
    items_by_rank = compiled.unobserved(users, ranks)
    assert torch.equal(items_by_rank, plain.unobserved(users, ranks))
    for user, user_ranks, items in zip(
        users.tolist(), ranks.flatten(1).tolist(), items_by_rank.flatten(1).tolist(), strict=True
    ):
        unobserved = sorted(set(range(num_items)) - set(positives.of(user).tolist()))
        assert [unobserved[rank] for rank in user_ranks] == items


@pytest.fixture
def windows(monkeypatch) -> None:
    """Windows of 8 items in every catalogue of more than 16."""
    monkeypatch.setattr("mrl.kernels.candidates.LARGE", 16)
    monkeypatch.setattr("mrl.kernels.candidates.WINDOW", 8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.integers(17, 60))
def test_no_candidate_from_a_window_is_a_positive(windows, seed: int, share: float, num_items: int) -> None:
    positives = random_positives(seed, 6, num_items, share)
    draw = UniformCandidates(positives)
    assert draw.window == 8
    users = draw.trainable.nonzero().flatten()
    drawn = draw(users, (3, 5), torch.Generator().manual_seed(seed))
    for user, rows in zip(users.tolist(), drawn, strict=True):
        assert not set(rows.flatten().tolist()) & set(positives.of(user).tolist())
        assert rows.min() >= 0 and rows.max() < num_items
    ranks = torch.arange(num_items)
    for user in users.tolist():  # every rank is an unobserved item of its own
        free = ranks[: draw.free[user]]
        unobserved = draw.unobserved(torch.tensor([user]), free[None])[0]
        assert sorted(unobserved.tolist()) == sorted(set(range(num_items)) - set(positives.of(user).tolist()))


def test_candidates_from_windows_are_uniform_and_those_of_neighbours_close(windows) -> None:
    positives = Positives.from_pairs([0] * 5 + [1] * 19, [0, 3, 4, 10, 19, *range(1, 20)], 3, 20)
    draw, generator = UniformCandidates(positives), torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(torch.tensor([0, 1, 2]), (1,), generator)[:, 0] for _ in range(20_000)])
    unobserved = [item for item in range(20) if item not in (0, 3, 4, 10, 19)]
    assert chisquare(np.bincount(drawn[:, 0], minlength=20)[unobserved]).pvalue > 1e-3
    assert (drawn[:, 1] == 0).all()
    assert chisquare(np.bincount(drawn[:, 2], minlength=20)).pvalue > 1e-3
    together = draw(torch.full((8 * STRETCH,), 2), (4,), generator)  # has no positives, so never draws from elsewhere
    stretches = [frozenset(part.flatten().tolist()) for part in together.split(STRETCH)]
    assert {len(items) for items in stretches} == {8} and len(set(stretches)) > 4


@pytest.mark.parametrize("is_windowed", [False, True], ids=["all", "windows"])
def test_some_rows_of_a_batch_draw_what_they_would_draw_in_all_of_it(request, is_windowed: bool) -> None:
    if is_windowed:
        request.getfixturevalue("windows")
    draw, generator = UniformCandidates(random_positives(0)), torch.Generator()
    users = torch.randint(12, (2 * STRETCH,), generator=generator.manual_seed(1))
    whole = draw(users, (2, 3), generator.manual_seed(2))
    some = torch.rand(len(users), generator=generator.manual_seed(3)).argsort()[:50].sort().values
    assert torch.equal(draw(users[some], (2, 3), generator.manual_seed(2), some), whole[some])
    none = draw(users[:0], (2, 3), generator.manual_seed(2), some[:0])
    assert none.shape == (0, 2, 3)


def test_windows_are_for_catalogues_that_the_cache_does_not_hold() -> None:
    assert UniformCandidates(Positives.empty(2, LARGE)).window == 0
    assert UniformCandidates(Positives.empty(2, LARGE + 1)).window == WINDOW


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("active", [1, 3, 5])
@pytest.mark.parametrize("large", [16, 1000])
def test_the_hardest_are_those_of_drawing_scoring_and_choosing(active, threads, large, windows, monkeypatch) -> None:
    monkeypatch.setattr("mrl.kernels.candidates.LARGE", large)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("mrl.kernels.candidates.LEAST", 4)
    positives = random_positives(4, 40, 150, 0.5)
    generator = torch.Generator().manual_seed(0)
    table, items = (torch.randn(rows, 6, generator=generator) for rows in (40, 150))
    rows, draw = torch.randint(40, (30,), generator=generator), UniformCandidates(positives)
    rest = (items, (1, 4, 6), 5, active)
    picked = pick_hardest(draw, rows, rows, table, *rest, torch.Generator().manual_seed(9))
    again = pick_hardest(draw, rows, torch.arange(30), table[rows], *rest, torch.Generator().manual_seed(9))
    candidates = draw(rows, (3, 5), torch.Generator().manual_seed(9))
    best = level_scores("inner", table[rows], items, candidates, (1, 4, 6))[..., :active].argmax(2, keepdim=True)
    assert torch.equal(picked, candidates.gather(2, best)[..., 0]) and torch.equal(picked, again)


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_scores_are_those_of_a_slow_loop(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(rows, 6, generator=generator, dtype=dtype) for rows in (5, 9))
    candidates = torch.randint(9, (5, 3, 4), generator=generator)
    scores = level_scores(kind, users, items, candidates, (1, 4, 6))
    for (b, k, m), row in np.ndenumerate(candidates.numpy()):
        u, v = users[b, : (1, 4, 6)[k]].double(), items[row, : (1, 4, 6)[k]].double()
        expected = {"inner": u @ v, "cosine": u @ v / (u.norm() * v.norm()), "distance": -(u - v).square().sum()}[kind]
        assert scores[b, k, m].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_and_scores_as_the_cpu_does() -> None:
    positives = random_positives(3)
    users = torch.arange(12, device="cuda")
    drawn = UniformCandidates(positives.to("cuda"))(users, (3, 40))
    known = torch.isin(users[:, None, None] * 30 + drawn, positives.keys().cuda())
    assert not known.any()
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(rows, 8, generator=generator) for rows in (12, 30)]
    one = level_scores("inner", *tables, drawn.cpu(), (2, 4, 8))
    other = level_scores("inner", *(table.cuda() for table in tables), drawn, (2, 4, 8))
    torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-5)


def test_a_stream_draws_the_same_in_any_company() -> None:
    positives = random_positives(1)
    draw = UniformCandidates(positives)
    users = torch.arange(12)[draw.trainable]
    streams = mix(np.arange(len(users)).astype(np.uint64))
    together = draw.from_streams(users, streams, 2000)
    for row, user in enumerate(users.tolist()):
        alone = draw.from_streams(users[row : row + 1], streams[row : row + 1], 2000)[0]
        assert torch.equal(alone, together[row])
        counts = np.bincount(alone.numpy(), minlength=30)
        met = positives.of(user).numpy()
        assert counts[met].sum() == 0 and chisquare(np.delete(counts, met)).pvalue > 1e-4
    assert len({tuple(row.tolist()) for row in together}) == len(users)
