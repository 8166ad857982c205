"""Nested losses against slow loops, and the properties that tie nested to plain."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.interactions import Positives
from mrl.errors import ConfigError
from mrl.loss import LOSSES, NestedLoss, decorrelation, l2_penalty, relation_distillation
from mrl.sampler import NegativeSampler

WIDTHS = (2, 3, 6)


def vectors(seed: int, batch: int = 5, levels: int = 3, dim: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, dim), (batch, dim), (batch, levels, dim))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def log1pexp(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(np.linalg.norm(x), 1e-12)


def slow_term(kind: str, u: np.ndarray, i: np.ndarray, j: np.ndarray, boundary: np.ndarray) -> float:
    """One level's term, one triplet at a time: u, i, j are (B, d) copies of the first d columns."""
    total = 0.0
    for p, q, n in zip(u, i, j, strict=True):
        good, bad = float(p @ q), float(p @ n)
        if kind == "bpr":
            total += log1pexp(bad - good)
        elif kind == "bce":
            total += log1pexp(-good) + log1pexp(bad)
        elif kind == "cml":
            total += max(0.0, 0.5 + ((p - q) ** 2).sum() - ((p - n) ** 2).sum())
        elif kind == "uib":
            bound = float(p @ boundary)
            total += log1pexp(bound - good) + log1pexp(bad - bound)
        else:
            total += ((unit(p) - unit(q)) ** 2).sum()
    total /= len(u)
    if kind == "dau":
        for side in (u, i):
            pairs = [math.exp(-2 * ((unit(a) - unit(b)) ** 2).sum()) for a, b in combinations(side, 2)]
            total += math.log(sum(pairs) / len(pairs)) / 2
    return total


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(LOSSES), st.integers(0, 10**6), st.booleans())
def test_every_loss_is_the_weighted_sum_of_its_slow_terms(kind: str, seed: int, shared: bool) -> None:
    users, positives, negatives = vectors(seed)
    weights = (0.2, 0.3, 0.5)
    loss = NestedLoss(WIDTHS, weights, kind=kind)
    if kind == "uib":
        torch.nn.init.normal_(loss.boundary, generator=torch.Generator().manual_seed(seed))
    negatives = negatives[:, :1] if shared else negatives
    total, by_level = loss(users, positives, negatives)
    expected = []
    for level, width in enumerate(WIDTHS):
        own = negatives[:, 0 if shared else level]
        boundary = loss.boundary[level, :width].detach().double().numpy() if kind == "uib" else np.zeros(width)
        expected.append(slow_term(kind, *(x[:, :width].double().numpy() for x in (users, positives, own)), boundary))
    np.testing.assert_allclose(by_level.numpy(), expected, rtol=2e-4, atol=1e-5)
    assert total.item() == pytest.approx(sum(w * t for w, t in zip(weights, expected, strict=True)), rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_one_width_is_the_plain_loss_and_the_last_weight_alone_is_the_full_width(kind: str) -> None:
    users, positives, negatives = vectors(1)
    plain = NestedLoss([6], kind=kind)(users, positives, negatives[:, -1])[0]
    last = NestedLoss(WIDTHS, (0, 0, 1), kind=kind)(users, positives, negatives)[0]
    torch.testing.assert_close(last, plain)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_random_subset_of_levels_has_the_whole_loss_as_its_mean(kind: str) -> None:
    users, positives, negatives = vectors(2)
    loss = NestedLoss(WIDTHS, (0.5, 0.2, 0.3), kind=kind)
    total = loss(users, positives, negatives)[0]
    parts = [loss(users, positives, negatives[:, [k]], torch.tensor([k]))[0] for k in range(3)]
    torch.testing.assert_close(sum(parts) / 3, total)


def test_softplus_does_not_overflow() -> None:
    users = torch.full((1, 4), 100.0, requires_grad=True)
    total, _ = NestedLoss([4])(users, -users.detach(), users.detach())
    total.backward()
    assert total.item() == pytest.approx(80_000)
    assert users.grad.isfinite().all()


def test_the_penalty_is_that_of_the_paper() -> None:
    users, positives, negatives = vectors(3)
    squares = sum((x.double() ** 2).sum().item() for x in (users, positives, negatives))
    assert l2_penalty(1e-2, users, positives, negatives).item() == pytest.approx(1e-2 / (2 * 5) * squares)


def test_wrong_shapes_and_names_are_refused_in_words() -> None:
    users, positives, negatives = vectors(4)
    with pytest.raises(ConfigError, match="must be one of bpr"):
        NestedLoss(WIDTHS, kind="hinge")
    with pytest.raises(ConfigError, match=r"must both be \(batch, 6\)"):
        NestedLoss(WIDTHS)(users[:, :4], positives[:, :4], negatives)
    with pytest.raises(ConfigError, match="one a level"):
        NestedLoss(WIDTHS)(users, positives, negatives[:, :2])
    with pytest.raises(ConfigError, match="needs negatives"):
        NestedLoss(WIDTHS)(users, positives)


def test_a_two_tower_model_of_your_own_learns_a_checkerboard() -> None:
    """The loop of the module's docstring, around a backbone that is not ours: even users like even items."""
    torch.manual_seed(0)
    users, items = (x.flatten() for x in torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij"))
    liked = (users % 2 == items % 2) & (torch.rand(len(users)) < 0.7)  # the rest of the taste is held out
    positives = Positives.from_pairs(users[liked], items[liked], 20, 30)
    user_features, item_features = torch.eye(20), torch.eye(30)
    user_tower = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    item_tower = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    loss, sampler = NestedLoss([2, 4, 8]), NegativeSampler(positives, [2, 4, 8], candidates=4)
    optimiser = torch.optim.Adam([*user_tower.parameters(), *item_tower.parameters()], lr=0.01)
    user_rows, item_rows = positives.users.long(), positives.items.long()
    for _ in range(150):
        people, catalogue = user_tower(user_features)[user_rows], item_tower(item_features)
        negatives = sampler(user_rows, people, catalogue[item_rows], catalogue)
        total, _ = loss(people, catalogue[item_rows], negatives.vectors)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    with torch.no_grad():
        people, catalogue = user_tower(user_features), item_tower(item_features)
    unseen = (users % 2 == items % 2) & ~liked
    wrong = users % 2 != items % 2
    for width in (2, 4, 8):  # every prefix ranks the held-out likes above what is never liked
        scores = (people[:, :width] @ catalogue[:, :width].T).flatten()
        assert (scores[unseen][:, None] > scores[wrong][None, :]).float().mean() > 0.95


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slope(function, items: torch.Tensor) -> torch.Tensor:
    leaf = items.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def test_decorrelation_is_the_distance_of_the_correlations_from_none():
    items = drawn(30, 6) @ drawn(6, 6)
    expected = np.linalg.norm(np.corrcoef(items.numpy().T) - np.eye(6)) / 6
    assert float(decorrelation(items)) == pytest.approx(expected, rel=1e-6)


def test_columns_that_say_the_same_count_and_orthogonal_ones_do_not():
    alike = drawn(20, 1).repeat(1, 4) * torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)
    assert float(decorrelation(alike)) == pytest.approx(12**0.5 / 4, rel=1e-6)
    apart = torch.linalg.qr(torch.cat([torch.ones(20, 1, dtype=torch.float64), drawn(20, 4)], 1))[0][:, 1:]
    assert float(decorrelation(apart)) < 1e-6
    assert torch.isfinite(slope(decorrelation, apart)).all()


def test_a_constant_column_has_a_finite_gradient():
    assert torch.isfinite(slope(decorrelation, torch.zeros(9, 3))).all()


def test_following_the_gradient_decorrelates():
    items = drawn(40, 5) @ drawn(5, 5)
    before = float(decorrelation(items))
    for _ in range(200):
        items = items - 30 * slope(decorrelation, items)
    assert float(decorrelation(items)) < before / 10


def test_distillation_is_how_far_cosines_of_the_widths_are_from_their_mean():
    items, widths = drawn(7, 8), (2, 4, 8)
    cosines = np.zeros((3, 7, 7))
    for level, width in enumerate(widths):
        for i in range(7):
            for j in range(7):
                p, q = items[i, :width].numpy(), items[j, :width].numpy()
                cosines[level, i, j] = p @ q / np.linalg.norm(p) / np.linalg.norm(q)
    expected = ((cosines - cosines.mean(0)) ** 2).mean()
    assert float(relation_distillation(items, widths)) == pytest.approx(expected, rel=1e-6)


def test_cosines_are_drawn_to_a_mean_that_is_held_fixed():
    items, widths = drawn(7, 8), (2, 8)
    mean = (
        sum(
            torch.nn.functional.normalize(items[:, :w], dim=1) @ torch.nn.functional.normalize(items[:, :w], dim=1).T
            for w in widths
        )
        / 2
    )

    def apart(table: torch.Tensor) -> torch.Tensor:
        units = [torch.nn.functional.normalize(table[:, :width], dim=1) for width in widths]
        return sum((unit @ unit.T - mean).square().mean() for unit in units) / 2

    moved = slope(lambda table: relation_distillation(table, widths), items)
    torch.testing.assert_close(moved, slope(apart, items))


def test_relations_that_agree_at_all_widths_cost_nothing():
    items = torch.cat([drawn(5, 2), torch.zeros(5, 2, dtype=torch.float64)], 1)
    assert float(relation_distillation(items, (2, 4))) < 1e-12
