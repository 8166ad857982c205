"""Nested least squares against autograd, dense solves, plain iALS, and its own objective."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.interactions import Positives
from mrl.errors import RunError
from mrl.least_squares import nested as least_squares
from mrl.least_squares.axes import rotate
from mrl.least_squares.ials import frequency_l2, ials, solve_rows, transpose
from mrl.least_squares.nested import fold_in, nested_least_squares, solve_blocks
from mrl.widths import blocks

SCALE = {"alpha0": 0.2, "l2": 0.05, "nu": 0.7}
WIDTHS, WEIGHTS = (2, 3, 7), (0.5, 0.2, 0.3)

L2_WIDTH_EXPONENTS = [0.0, 0.8]  # a penalty that is the same in all columns, and one that grows with the width


@pytest.fixture(scope="module", autouse=True)
def growing_from_2_on():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_squares, "FLAT", 2)
        yield


def made(num_users: int, num_items: int, share: float, seed: int, dim: int = 7):
    """A dense 0/1 matrix, the same as positives, and random factors; in float64, where the checks are sharp."""
    rng = np.random.default_rng(seed)
    dense = rng.random((num_users, num_items)) < share
    positives = Positives.from_pairs(*np.nonzero(dense), num_users, num_items)
    users, items = (torch.from_numpy(rng.normal(size=(rows, dim)) * 0.3) for rows in (num_users, num_items))
    return torch.from_numpy(dense).double(), positives, users, items


def objective(users, items, dense, *, l2_width_exponent, alpha0, l2, nu):
    """The formula of the docstring over all pairs."""
    total = 0.0
    penalty = torch.tensor([(width / 2) ** l2_width_exponent for width in (2, 2, 3, 7, 7, 7, 7)], dtype=torch.float64)
    for width, weight in zip(WIDTHS, WEIGHTS, strict=True):
        p, q = users[:, :width], items[:, :width]
        scores = p @ q.T
        user_l2 = l2 * (dense.sum(1) + alpha0 * dense.shape[1]) ** nu
        item_l2 = l2 * (dense.sum(0) + alpha0 * dense.shape[0]) ** nu
        level = (dense * (1 - scores) ** 2).sum() + alpha0 * (scores**2).sum()
        total += weight * (level + (user_l2 @ p**2 + item_l2 @ q**2) @ penalty[:width])
    return total


def solved(users, items, positives, l2_width_exponent, chunk=2**20, only=None):
    row_l2 = frequency_l2(positives.counts, positives.num_items, **SCALE)
    return solve_blocks(
        users, items, positives, row_l2, widths=WIDTHS, level_weights=WEIGHTS, alpha0=SCALE["alpha0"], chunk=chunk,
        l2_width_exponent=l2_width_exponent, only=only,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    num_users=st.integers(1, 10),
    num_items=st.integers(1, 40),
    share=st.sampled_from([0.05, 0.3, 1.0]),
    l2_width_exponent=st.sampled_from(L2_WIDTH_EXPONENTS),
    chunk=st.sampled_from([1, 300, 2**20]),
    seed=st.integers(0, 99),
)
def test_each_block_is_the_dense_solution_given_the_rest(
    num_users, num_items, share, l2_width_exponent, chunk, seed
) -> None:
    dense, positives, users, items = made(num_users, num_items, share, seed)
    alpha0 = SCALE["alpha0"]
    row_l2 = frequency_l2(positives.counts, num_items, **SCALE).double()
    expected = users.clone()
    for user in range(num_users):
        seen = dense[user] > 0
        for b, span in enumerate(blocks(WIDTHS)):
            penalty = row_l2[user] * (WIDTHS[b] / 2) ** l2_width_exponent
            left = right = 0.0
            for level in range(b, len(WIDTHS)):  # the levels that have the block, one by one
                width, weight = WIDTHS[level], WEIGHTS[level]
                rest = torch.tensor([d for d in range(width) if not span.start <= d < span.stop], dtype=torch.long)
                q, other = items[:, span], items[:, rest] @ expected[user, rest]
                left = left + weight * (q[seen].T @ q[seen] + alpha0 * q.T @ q + penalty * torch.eye(q.shape[1]))
                right = right + weight * (q[seen].T @ (1 - other[seen]) - alpha0 * q.T @ other)
            expected[user, span] = torch.linalg.solve(left, right)
    expected[dense.sum(1) == 0] = 0
    torch.testing.assert_close(
        solved(users, items, positives, l2_width_exponent, chunk), expected, atol=1e-8, rtol=1e-6
    )


@pytest.mark.parametrize("l2_width_exponent", L2_WIDTH_EXPONENTS)
def test_autograds_gradient_is_zero_at_each_blocks_optimum(l2_width_exponent) -> None:
    dense, positives, users, items = made(12, 30, 0.3, 0)
    for b, span in enumerate(blocks(WIDTHS)):
        users = solved(users, items, positives, l2_width_exponent, only=[b]).requires_grad_()
        objective(users, items, dense, l2_width_exponent=l2_width_exponent, **SCALE).backward()
        assert users.grad[:, span].abs().max() < 1e-5  # the penalty of a row is kept in 32 bits
        assert users.grad.abs().max() > 1e-2
        users = users.detach()


@pytest.mark.parametrize("l2_width_exponent", L2_WIDTH_EXPONENTS)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_objective_falls_at_every_block_step(share, l2_width_exponent) -> None:
    dense, positives, users, items = made(15, 40, share, 1)
    by_item = transpose(positives)
    if share == 0.1:
        assert (positives.counts < 7).any() and (by_item.counts < 3).any()  # fewer positives than dimensions too
    scale = {"l2_width_exponent": l2_width_exponent, **SCALE}
    values = [objective(users, items, dense, **scale)]
    for _ in range(3):
        for b in range(len(WIDTHS)):
            users = solved(users, items, positives, l2_width_exponent, only=[b])
            values.append(objective(users, items, dense, **scale))
        for b in range(len(WIDTHS)):
            items = solved(items, users, by_item, l2_width_exponent, only=[b])
            values.append(objective(users, items, dense, **scale))
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(values))
    assert values[-1] < 0.8 * values[0]


def test_one_level_is_plain_ials() -> None:
    _, positives, users, items = made(20, 30, 0.2, 2)
    row_l2 = frequency_l2(positives.counts, 30, **SCALE)
    alpha0 = SCALE["alpha0"]
    found = solve_blocks(users, items, positives, row_l2, widths=(7,), level_weights=(1.0,), alpha0=alpha0)
    solution, _, basis = solve_rows(items, positives, row_l2, alpha0=alpha0)
    torch.testing.assert_close(found, solution @ basis.T, atol=1e-8, rtol=1e-6)


def test_without_sweeps_factors_are_on_their_principal_axes_and_balanced() -> None:
    _, positives, users, items = made(20, 30, 0.2, 2)
    found = nested_least_squares(positives, (2, 7), (users, items), sweeps=0, **SCALE)
    for one, other in zip(found, rotate(users, items), strict=True):
        torch.testing.assert_close(one / one.norm(dim=0), other / other.norm(dim=0))
    torch.testing.assert_close(found[0] @ found[1].T, users @ items.T)
    sides = (found[0], positives.counts, 30), (found[1], transpose(positives).counts, 20)
    left, right = (frequency_l2(counts, others, **SCALE).double() @ rows**2 for rows, counts, others in sides)
    torch.testing.assert_close(left, right)


def test_the_objective_falls_at_every_sweep_and_the_same_settings_give_the_same_vectors() -> None:
    dense, positives, *_ = made(30, 40, 0.2, 3)
    options = {"level_weights": WEIGHTS, "l2_width_exponent": 0.8, **SCALE}
    plain = ials(positives, 7, sweeps=3, **SCALE)
    swept = [nested_least_squares(positives, WIDTHS, plain, **options, sweeps=sweeps) for sweeps in range(3)]
    losses = [objective(*(table.double() for table in each), dense, l2_width_exponent=0.8, **SCALE) for each in swept]
    assert losses[2] < losses[1] < losses[0]
    users, items = swept[2]
    assert users.shape == (30, 7) and items.shape == (40, 7) and users.dtype == torch.float32
    again = nested_least_squares(positives, WIDTHS, plain, **options, sweeps=2)
    assert torch.equal(users, again[0]) and torch.equal(items, again[1])
    turned = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))[0]
    other = nested_least_squares(positives, WIDTHS, tuple(table @ turned for table in plain), **options, sweeps=2)
    torch.testing.assert_close(other[1], items, atol=1e-4, rtol=1e-3)  # whatever the axes of the factors were


@pytest.mark.parametrize("l2_width_exponent", L2_WIDTH_EXPONENTS)
def test_fold_in_is_the_optimum_of_all_blocks_at_once(l2_width_exponent) -> None:
    dense, positives, users, items = made(12, 30, 0.3, 4)
    scale = {"l2_width_exponent": l2_width_exponent, **SCALE}
    levels = {"widths": WIDTHS, "level_weights": WEIGHTS, **scale}
    found = fold_in(items, positives, 30, **levels).requires_grad_()
    objective(found, items, dense, **scale).backward()
    assert found.grad.abs().max() < 1e-5
    for chunk in (1, 100):
        torch.testing.assert_close(fold_in(items, positives, 30, chunk=chunk, **levels), found.detach())
    for _ in range(200):  # block after block gets there too
        users = solved(users, items, positives, l2_width_exponent)
    torch.testing.assert_close(users, found.detach(), atol=1e-4, rtol=1e-3)
    nobody = Positives.empty(2, 30)
    assert not fold_in(items, nobody, 30, **levels).any()


def test_too_little_of_a_penalty_is_an_error_and_not_numbers() -> None:
    _, positives, _, items = made(5, 6, 0.5, 5, dim=4)
    with pytest.raises(RunError, match=r"least squares: L2 of .* is too little"):
        fold_in(items.float(), positives, 6, widths=(4,), alpha0=1e-30, l2=1e-30)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    _, positives, *_ = made(60, 80, 0.2, 6)
    factors = ials(positives, 4, sweeps=3, **SCALE)
    cpu = nested_least_squares(positives, (2, 4), factors, l2_width_exponent=0.8, **SCALE)
    there = tuple(table.cuda() for table in factors)
    gpu = nested_least_squares(positives.to("cuda"), (2, 4), there, l2_width_exponent=0.8, **SCALE)
    for one, other in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-3, rtol=1e-3)
