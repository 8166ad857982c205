"""iALS against dense normal equations, its own gradient, and the optimum's known properties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.interactions import Positives
from mrl.errors import ConfigError, RunError
from mrl.kernels.row_systems import CG_LEAST
from mrl.least_squares.axes import balance, rotate
from mrl.least_squares.ials import frequency_l2, ials, spectral_start, transpose
from mrl.least_squares.ials import solve_rows as solve

SETTINGS = {"alpha0": 0.2, "l2": 0.05, "nu": 0.7}


def random_positives(num_users: int, num_items: int, share: float, seed: int) -> tuple[np.ndarray, Positives]:
    dense = np.random.default_rng(seed).random((num_users, num_items)) < share
    return dense, Positives.from_pairs(*np.nonzero(dense), num_users, num_items)


def objective(users, items, dense, *, alpha0, l2, nu):
    """The formula of the docstring over all pairs, in whatever type and library the factors are."""
    scores = users @ items.T
    user_l2 = l2 * (dense.sum(1) + alpha0 * dense.shape[1]) ** nu
    item_l2 = l2 * (dense.sum(0) + alpha0 * dense.shape[0]) ** nu
    fit = (dense * (1 - scores) ** 2).sum() + alpha0 * (scores**2).sum()
    return fit + (user_l2 * (users**2).sum(1)).sum() + (item_l2 * (items**2).sum(1)).sum()


def ials_objective(users, items, positives, **scale) -> float:
    dense = torch.zeros(positives.num_users, positives.num_items, dtype=torch.float64)
    dense[positives.users.long(), positives.items.long()] = 1
    return float(objective(users.double(), items.double(), dense, **scale))


def solve_rows(*arguments, **options) -> torch.Tensor:
    """The rows in the axes of the other side that was given."""
    solution, _, basis = solve(*arguments, **options)
    return solution @ basis.T


@settings(max_examples=40, deadline=None)
@given(
    num_users=st.integers(1, 12),
    num_items=st.integers(1, 30),
    dim=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    chunk=st.sampled_from([1, 200, 2**20]),
    seed=st.integers(0, 1000),
)
def test_rows_solve_the_dense_normal_equations(num_users, num_items, dim, share, chunk, seed):
    dense, positives = random_positives(num_users, num_items, share, seed)
    other = torch.randn(num_items, dim, generator=torch.Generator().manual_seed(seed))
    row_l2 = torch.linspace(0.3, 2.0, num_users)
    solved = solve_rows(other, positives, row_l2, alpha0=0.2, chunk=chunk)
    q = other.double().numpy()
    for user in range(num_users):
        mine = q[dense[user]]
        system = mine.T @ mine + 0.2 * q.T @ q + float(row_l2[user]) * np.eye(dim)
        np.testing.assert_allclose(solved[user], np.linalg.solve(system, mine.sum(0)), rtol=1e-3, atol=1e-4)


def long_rows(num_users: int = 30, num_items: int = 80, dim: int = 6):
    """Rows with so many positives that they go on by steps, random factors and what they solve to, exactly."""
    dense, positives = random_positives(num_users, num_items, 0.5, 8)
    assert int(positives.counts.min()) >= CG_LEAST
    other = 0.3 * torch.randn(num_items, dim, generator=torch.Generator().manual_seed(8))
    row_l2 = torch.linspace(0.3, 2.0, num_users)
    q = other.double().numpy()
    exact = np.empty((num_users, dim))
    for user in range(num_users):
        mine = q[dense[user]]
        system = mine.T @ mine + 0.2 * q.T @ q + float(row_l2[user]) * np.eye(dim)
        exact[user] = np.linalg.solve(system, mine.sum(0))
    return positives, other, row_l2, torch.from_numpy(exact)


def test_without_a_start_rows_are_solved_exactly_and_by_steps_nearly_so():
    positives, other, row_l2, exact = long_rows()
    exactly = solve_rows(other, positives, row_l2, alpha0=0.2).double()
    torch.testing.assert_close(exactly, exact, rtol=1e-4, atol=1e-5)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(9))
    errors = []
    for distance in (0.3, 0.03):
        start = exact.float() * (1 + distance * noise)
        found = solve_rows(other, positives, row_l2, alpha0=0.2, start=start).double()
        errors.append(float((found - exact).norm() / exact.norm()))
        assert errors[-1] < 0.02 * distance  # a fiftieth of what was wrong, by three steps
    assert errors[1] < errors[0] / 5
    assert float((exactly - exact).norm() / exact.norm()) < errors[1]
    there = solve_rows(other, positives, row_l2, alpha0=0.2, start=exact.float()).double()
    torch.testing.assert_close(there, exact, rtol=1e-4, atol=1e-5)  # who is there stays there


@pytest.mark.parametrize("chunk", [1, 600, 2**20])
def test_short_rows_and_those_that_do_not_fit_are_exact_whatever_the_start(chunk):
    _, positives = random_positives(12, 60, 0.2, 10)
    other = torch.randn(60, 5, generator=torch.Generator().manual_seed(10))
    row_l2, far = torch.linspace(0.3, 2.0, 12), torch.full((12, 5), 100.0)
    expected = solve_rows(other, positives, row_l2, alpha0=0.2)
    assert int(positives.counts.max()) < CG_LEAST
    found = solve_rows(other, positives, row_l2, alpha0=0.2, start=far, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    positives, other, row_l2, exact = long_rows()
    found = solve_rows(other, positives, row_l2, alpha0=0.2, start=torch.full((30, 6), 100.0), chunk=1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)  # a chunk of one number holds no row


def test_how_a_row_is_solved_does_not_depend_on_the_others():
    dense = np.arange(80) < np.arange(10, 70)[:, None]  # from 10 to 69 positives
    positives, generator = Positives.from_pairs(*np.nonzero(dense), 60, 80), torch.Generator().manual_seed(3)
    other, far = torch.randn(80, 6, generator=generator), torch.randn(60, 6, generator=generator)
    options = {"alpha0": 0.2, "chunk": 300}  # of 50 positives or more a row does not fit
    together = solve_rows(other, positives, torch.ones(60), start=far, **options)
    for row in range(60):
        alone = solve_rows(other, positives.take(torch.tensor([row])), torch.ones(1), start=far[[row]], **options)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_steps_end_where_exact_solves_do():
    _, positives = random_positives(40, 60, 0.5, 11)
    by_steps = ials(positives, 4, sweeps=30, start=spectral_start(positives, 4), **SETTINGS)
    exactly = ials(positives, 4, sweeps=30, **SETTINGS)
    losses = [ials_objective(*factors, positives, **SETTINGS) for factors in (by_steps, exactly)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_sweep_solves_users_then_items_whatever_the_axes():
    """Its factors come in other axes than rows solved one side after the other; what they score is the same."""
    _, positives = random_positives(30, 40, 0.2, 13)
    by_item, scale = transpose(positives), SETTINGS["alpha0"]
    sides = (
        (positives, frequency_l2(positives.counts, 40, **SETTINGS)),
        (by_item, frequency_l2(by_item.counts, 30, **SETTINGS)),
    )
    users, items = spectral_start(positives, 6)
    for _ in range(2):
        users = solve_rows(items, *sides[0], alpha0=scale, start=users)
        items = solve_rows(users, *sides[1], alpha0=scale, start=items)
    found = ials(positives, 6, sweeps=2, start=spectral_start(positives, 6), **SETTINGS)
    torch.testing.assert_close(found[0] @ found[1].T, users @ items.T, rtol=1e-3, atol=1e-4)


def test_sweeps_may_be_taken_in_two_goes():
    _, positives = random_positives(40, 60, 0.5, 12)
    start = spectral_start(positives, 5)
    whole = ials(positives, 5, sweeps=3, start=start, **SETTINGS)
    half = ials(positives, 5, sweeps=1, start=start, **SETTINGS)
    rest = ials(positives, 5, sweeps=2, start=half, **SETTINGS)
    assert all(torch.equal(one, other) for one, other in zip(whole, rest, strict=True))


def planted(seed: int = 0) -> Positives:
    """Six groups of users that like six groups of items, and some noise: axes that are worth finding."""
    rng = np.random.default_rng(seed)
    alike = np.arange(150)[:, None] % 6 == np.arange(90)[None, :] % 6
    return Positives.from_pairs(*np.nonzero(rng.random((150, 90)) < np.where(alike, 0.5, 0.05)), 150, 90)


@pytest.mark.parametrize("alpha0", [0.1, 0.3, 1.0])  # 0.6 is usual at this density
def test_from_the_spectral_start_few_sweeps_come_further_than_from_random_factors(alpha0):
    """As the scores tell: the sides, of which the start has one, are balanced before the penalties are compared."""
    positives, scale = planted(), SETTINGS | {"alpha0": alpha0}
    user_l2 = frequency_l2(positives.counts, positives.num_items, **scale)
    item_l2 = frequency_l2(positives.item_counts, positives.num_users, **scale)

    def loss(**start) -> float:
        factors = rotate(*ials(positives, 12, sweeps=3, **start, **scale))
        return ials_objective(*balance(*factors, user_l2, item_l2), positives, **scale)

    random = [loss(generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    assert loss(start=spectral_start(positives, 12)) < min(random)


def test_the_spectral_start_is_that_of_the_normalised_interactions():
    """Leading right singular vectors times the roots of their singular values, from numpy; users are zero."""
    positives = planted()
    dense = np.zeros((150, 90))
    dense[positives.users, positives.items] = 1
    graph = dense / np.sqrt(np.maximum(dense.sum(1), 1)[:, None] * np.maximum(dense.sum(0), 1))
    _, s, v = np.linalg.svd(graph)
    users, items = spectral_start(positives, 24)  # more than the planted six, so that those are exact
    assert users.shape == (150, 24) and not users.any() and items.dtype == torch.float32
    cosines = np.abs((items.numpy()[:, :6] * v[:6].T).sum(0)) / items[:, :6].norm(dim=0).numpy()
    assert cosines[0] > 0.999 and cosines.min() > 0.5
    np.testing.assert_allclose(items[:, :6].square().sum(0), s[:6], rtol=0.02)
    span = items[:, :6].double() / items[:, :6].norm(dim=0)
    assert np.linalg.svd(span.numpy().T @ v[:6].T)[1].min() > 0.98  # the same span
    gram = (items.T @ items).numpy()
    np.testing.assert_allclose(gram - np.diag(gram.diagonal()), 0, atol=1e-4)
    assert torch.equal(spectral_start(positives, 24, seed=0)[1], items)
    other = spectral_start(positives, 24, seed=1)[1]
    assert not torch.equal(other, items)
    np.testing.assert_allclose(other.square().sum(0)[:6], s[:6], rtol=0.02)


@pytest.mark.parametrize(
    ("dense", "rank"),
    [
        (np.ones((1, 30)), 1),
        (np.random.default_rng(0).random((5, 40)) < 0.5, 5),
        (np.random.default_rng(1).random((60, 20)) < 0.4, 20),
        (np.random.default_rng(2).random((60, 1)) < 0.4, 1),
        (np.ones((12, 9)), 1),
        (np.arange(24)[:, None] % 3 == np.arange(30)[None, :] % 3, 3),
        (np.zeros((4, 6)), 0),
    ],
    ids=["one user", "few users", "20 items", "one item", "everybody has everything", "three groups", "nothing"],
)
def test_what_the_data_have_no_rank_for_is_zero_and_stays_finite(dense, rank):
    positives = Positives.from_pairs(*np.nonzero(dense), *dense.shape)
    users, items = spectral_start(positives, 32)
    assert users.shape == (dense.shape[0], 32) and items.shape == (dense.shape[1], 32)
    lengths = items.norm(dim=0)
    assert (lengths[:rank] > 0.01).all() and not lengths[rank:].any()
    factors = ials(positives, 32, sweeps=3, start=(users, items), **SETTINGS)
    assert all(table.isfinite().all() for table in factors)
    assert not any(table[:, rank:].any() for table in rotate(*factors))
    if rank:
        assert ials_objective(*factors, positives, **SETTINGS) < len(positives)  # what zeros would leave


def test_gradient_is_zero_at_each_half_step():
    dense, positives = random_positives(25, 40, 0.2, 0)
    users, items = ials(positives, 6, sweeps=3, **SETTINGS)
    truth = torch.from_numpy(dense).double()
    users, items = users.double(), items.double().requires_grad_()
    objective(users, items, truth, **SETTINGS).backward()
    assert items.grad.abs().max() < 1e-4  # the items were solved last

    user_l2 = frequency_l2(positives.counts, 40, **SETTINGS)
    items = items.detach()
    users = solve_rows(items.float(), positives, user_l2, alpha0=SETTINGS["alpha0"]).double().requires_grad_()
    objective(users, items, truth, **SETTINGS).backward()
    assert users.grad.abs().max() < 1e-4


def test_both_gradients_vanish_after_many_sweeps():
    dense, positives = random_positives(20, 15, 0.3, 1)
    # dim = 20 is wider than there are items: most of the freedom is the penalty's to remove
    factors = [f.double().requires_grad_() for f in ials(positives, 20, sweeps=400, **SETTINGS)]
    objective(*factors, torch.from_numpy(dense).double(), **SETTINGS).backward()
    assert all(factor.grad.abs().max() < 1e-3 for factor in factors)


def test_the_objective_falls_at_every_sweep():
    _, positives = random_positives(60, 50, 0.15, 2)
    fits = [ials(positives, 8, sweeps=sweeps, **SETTINGS) for sweeps in range(1, 9)]
    losses = [ials_objective(*factors, positives, **SETTINGS) for factors in fits]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_a_seed_gives_the_same_factors_and_another_seed_others():
    _, positives = random_positives(30, 20, 0.2, 3)
    first, second, other = (
        ials(positives, 4, sweeps=2, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.allclose(first[1], other[1])


def test_renumbering_users_permutes_them():
    dense, positives = random_positives(30, 20, 0.2, 4)
    order = np.random.default_rng(0).permutation(30)
    renumbered = Positives.from_pairs(*np.nonzero(dense[order]), 30, 20)
    users, items = ials(positives, 4, sweeps=3)
    moved_users, moved_items = ials(renumbered, 4, sweeps=3)
    torch.testing.assert_close(moved_users, users[order], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moved_items, items, rtol=1e-3, atol=1e-5)


def test_rows_without_positives_are_zero_and_nothing_at_all_is_accepted():
    users, items = ials(Positives.from_pairs([0, 0], [1, 2], 3, 4), 5, sweeps=2)
    assert users[1:].abs().sum() == 0 and items[[0, 3]].abs().sum() == 0 and users[0].abs().sum() > 0
    users, items = ials(Positives.empty(3, 4), 5, sweeps=1)
    assert users.shape == (3, 5) and items.shape == (4, 5) and not users.any() and not items.any()


def test_new_users_are_folded_in_to_where_training_puts_them():
    _, positives = random_positives(30, 20, 0.2, 5)
    users, items = ials(positives, 4, sweeps=300, **SETTINGS)
    newcomer = Positives.from_pairs(np.zeros(len(positives.of(0))), positives.of(0).numpy(), 1, 20)
    row_l2 = frequency_l2(newcomer.counts, 20, **SETTINGS)
    folded = solve_rows(items, newcomer, row_l2, alpha0=SETTINGS["alpha0"])
    torch.testing.assert_close(folded[0], users[0], rtol=1e-3, atol=1e-4)


def test_transpose_swaps_the_sides():
    dense, positives = random_positives(9, 13, 0.3, 6)
    assert transpose(positives) == Positives.from_pairs(*np.nonzero(dense.T), 13, 9)
    assert transpose(transpose(positives)) == positives


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("dim", 0, "whole number"),
        ("sweeps", 2.5, "whole number"),
        ("alpha0", 0.0, "0.01 to 1"),
        ("alpha0", float("nan"), "0.01 to 1"),
        ("l2", -1.0, "0.001 to 0.1"),
        ("nu", float("inf"), "1 is usual"),
    ],
)
def test_impossible_settings_are_named(name, value, remedy):
    with pytest.raises(ConfigError, match=rf"^{name}={value!r}: .*{remedy}"):
        ials(Positives.empty(2, 2), **{"dim": 2, name: value})


def test_systems_that_cannot_be_solved_are_an_error_and_not_numbers():
    positives = Positives.from_pairs([0], [0], 1, 4)
    with pytest.raises(RunError, match="raise l2 or alpha0"):
        solve_rows(torch.full((4, 3), float("nan")), positives, torch.ones(1), alpha0=0.1)
    with pytest.raises(RunError, match="L2 of 0 a row"):
        solve_rows(torch.zeros(4, 3), positives, torch.zeros(1), alpha0=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_cuda_agrees_with_the_cpu():
    _, positives = random_positives(200, 150, 0.2, 7)
    here = ials(positives, 16, sweeps=4)
    there = ials(positives.to("cuda"), 16, sweeps=4)
    torch.testing.assert_close((there[0] @ there[1].T).cpu(), here[0] @ here[1].T, rtol=1e-3, atol=1e-4)
