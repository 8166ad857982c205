"""The learned rotation: prefixes come to rank as the whole does, and what is cut is better than principal axes cut."""

from __future__ import annotations

import pytest
import torch

from mrl.data.holdout import hold_out
from mrl.data.interactions import Interactions, Positives
from mrl.data.synthetic import planted_interactions
from mrl.evaluation.evaluate import evaluate
from mrl.least_squares import rotation as module
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import ials, spectral_start
from mrl.least_squares.rotation import learn_rotation, teacher

WIDTHS = (2, 4, 12)
WIDE = 24


@pytest.fixture(scope="module")
def data() -> Interactions:
    planted = planted_interactions(num_users=400, num_items=150, interactions=8000, branching=(4, 4), seed=0)
    return hold_out(planted, 0.2, seed=0)


@pytest.fixture(scope="module")
def factors(data) -> tuple[torch.Tensor, torch.Tensor]:
    start = spectral_start(data.train, WIDE)
    return rotate(*ials(data.train, WIDE, alpha0=0.3, l2=0.03, sweeps=4, start=start))


@pytest.fixture(scope="module")
def learned(data, factors) -> tuple[torch.Tensor, float]:
    return learn_rotation(*factors, data.train, WIDTHS)


def ndcg(data: Interactions, vectors, widths=WIDTHS) -> list[float]:
    result = evaluate(*vectors, data, split="valid", widths=widths, ks=(20,))
    return [result.value("ndcg@20", width=width) for width in widths]


def test_columns_are_orthonormal_and_as_many_as_are_served(data, factors, learned) -> None:
    found, loss = learned
    assert found.shape == (WIDE, 12) and 0 < loss < 0.75 * learn_rotation(*factors, data.train, WIDTHS, steps=1)[1]
    torch.testing.assert_close(found.T @ found, torch.eye(12), atol=1e-5, rtol=0)
    square, _ = learn_rotation(*factors, data.train, (2, WIDE), steps=20)
    torch.testing.assert_close(square.T @ square, torch.eye(WIDE), atol=1e-5, rtol=0)
    users, items = (table @ square for table in factors)
    torch.testing.assert_close(users @ items.T, factors[0] @ factors[1].T, atol=1e-4, rtol=1e-3)


def test_a_wide_fit_cut_by_it_ranks_better_than_principal_axes_cut(data, factors, learned) -> None:
    cut = tuple(table[:, :12].contiguous() for table in factors)
    before, after = ndcg(data, cut), ndcg(data, [table @ learned[0] for table in factors])
    assert after[0] > 1.3 * before[0] and sum(after) > 1.1 * sum(before)
    assert all(value > 0.97 * other for value, other in zip(after, before, strict=True))


def test_a_teacher_names_the_first_unseen_items_and_how_likely_they_are(monkeypatch, data, factors) -> None:
    """By scores of the same spread for every user; some users at a time."""
    monkeypatch.setattr(module, "SCORES", 7 * data.num_items)
    monkeypatch.setattr(module, "FIRST", 20)
    items, likely = teacher(*factors, data.train)
    scores = factors[0] @ factors[1].T
    scores = scores / (0.35 * scores.std(1, correction=0, keepdim=True))
    scores[data.train.users.long(), data.train.items.long()] = -torch.inf
    best = scores.topk(20)
    assert torch.equal(items.long(), best.indices)
    torch.testing.assert_close(likely, best.values.softmax(1), atol=1e-5, rtol=1e-3)


def test_a_teacher_says_nothing_of_what_is_seen() -> None:
    positives = Positives.from_pairs([0, 0, 0, 1, 1], [0, 1, 2, 0, 2], 3, 3)  # all items, all but one, none
    items, likely = teacher(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]), positives)
    assert not likely[0].any() and items[1, 0] == 1 and likely[1].tolist() == [1, 0, 0]
    assert items[2].tolist() == [2, 1, 0] and likely[2].sum().item() == pytest.approx(1)
    nothing = teacher(torch.zeros(2, 4), torch.ones(5, 4), Positives.from_pairs([0], [1], 2, 5))[1]
    assert nothing[1].tolist() == pytest.approx([0.2] * 5)


def test_prefixes_come_to_rank_unseen_items_as_the_whole_does(data, factors, learned) -> None:
    seen = torch.zeros(data.num_users, data.num_items, dtype=torch.bool)
    seen[data.train.users.long(), data.train.items.long()] = True

    def alike(users: torch.Tensor, items: torch.Tensor, width: int) -> float:
        whole, part = factors[0] @ factors[1].T, users[:, :width] @ items[:, :width].T
        tops = [scores.masked_fill(seen, -torch.inf).topk(10).indices for scores in (whole, part)]
        return float((tops[0][:, :, None] == tops[1][:, None]).any(2).float().mean())

    rotated = [table @ learned[0] for table in factors]
    assert alike(*rotated, 2) > 1.3 * alike(*factors, 2)
    for width in (4, 12):
        assert alike(*rotated, width) > 0.98 * alike(*factors, width)


def test_what_is_learned_is_columns_of_the_cayley_transform_of_the_whole_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    angles = 0.1 * torch.randn(WIDE, 5, generator=generator, dtype=torch.float64)
    skew = torch.zeros(WIDE, WIDE, dtype=torch.float64)
    skew[:, :5] = angles
    skew = (skew - skew.T) / 2
    one = torch.eye(WIDE, dtype=torch.float64)
    torch.testing.assert_close(module._rotation(angles), torch.linalg.solve(one - skew, one + skew)[:, :5])


def test_where_there_is_nothing_to_learn_axes_stay_where_they_are(data, factors) -> None:
    nothing = tuple(torch.zeros_like(table) for table in factors)
    found, loss = learn_rotation(*nothing, data.train, WIDTHS)
    assert torch.equal(found, torch.eye(WIDE)[:, :12]) and loss == 0
    users, items = (axis.flatten() for axis in torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij"))
    everything = Positives.from_pairs(users, items, 3, 5)
    found, _ = learn_rotation(torch.randn(3, 4), torch.randn(5, 4), everything, (2, 4))
    assert torch.equal(found, torch.eye(4))
    one_level, _ = learn_rotation(*factors, data.train, (WIDE,))  # the whole ranks as the whole
    assert torch.equal(one_level, torch.eye(WIDE))


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 30), (3, 40), (60, 20)])
def test_factors_with_columns_of_zeros_stay_finite(num_users, num_items) -> None:
    some = torch.rand(num_users, num_items, generator=torch.Generator().manual_seed(0)) < 0.4
    positives = Positives.from_pairs(*some.numpy().nonzero(), num_users, num_items)
    wide = ials(positives, 32, sweeps=2, alpha0=0.1, l2=0.01, start=spectral_start(positives, 32))
    assert not wide[0].any(0).all()
    found, loss = learn_rotation(*rotate(*wide), positives, (2, 16), steps=10)
    torch.testing.assert_close(found.T @ found, torch.eye(16), atol=1e-5, rtol=0)
    assert 0 <= loss < 10


def test_it_is_the_same_every_time_whatever_the_scale_and_another_by_another_seed(data, factors) -> None:
    first = learn_rotation(*factors, data.train, WIDTHS, steps=30)
    second = learn_rotation(*factors, data.train, WIDTHS, steps=30)
    assert torch.equal(first[0], second[0]) and first[1] == second[1]
    assert not torch.allclose(first[0], learn_rotation(*factors, data.train, WIDTHS, steps=30, seed=1)[0], atol=0.02)
    louder = factors[0] * torch.linspace(0.5, 2, data.num_users)[:, None], factors[1] * 4
    other = learn_rotation(*louder, data.train, WIDTHS, steps=30)[0]
    torch.testing.assert_close(other, first[0], atol=0.05, rtol=0)


def test_level_weights_say_for_which_level_it_is(data, factors) -> None:
    def by(*weights: float) -> list[float]:
        found, _ = learn_rotation(*factors, data.train, WIDTHS, level_weights=weights, steps=60)
        return ndcg(data, [table @ found for table in factors])

    first, second = by(1, 0, 0), by(0, 1, 0)
    assert first[0] > 1.02 * second[0] and first[1] < second[1]

    def square(*weights: float) -> torch.Tensor:
        return learn_rotation(*factors, data.train, (2, WIDE), level_weights=weights, steps=5)[0]

    # of a level as wide as the factors there is nothing to learn: its weight counts for nothing
    assert torch.equal(square(0, 1), square(1, 1)) and torch.equal(square(1, 9), square(1, 1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_rotates_as_well_as_the_cpu(data, factors, learned) -> None:
    there, _ = learn_rotation(*(table.cuda() for table in factors), data.train.to("cuda"), WIDTHS)
    found = ndcg(data, [table @ there.cpu() for table in factors])  # other random numbers
    assert found == pytest.approx(ndcg(data, [table @ learned[0] for table in factors]), rel=0.1)
