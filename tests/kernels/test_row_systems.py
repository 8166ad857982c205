"""Systems row by row against dense solves, for rows of any length and any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data.interactions import Positives
from mrl.kernels.row_systems import CG_LEAST, CG_STEPS, solve_compiled

ROWS, DIM = 120, 7


@pytest.fixture(scope="module")
def systems():
    """Rows of 0 to 59 positives, the other side, what is on the diagonal, and the solutions by numpy."""
    dense = np.arange(60) < np.arange(ROWS)[:, None] % 60
    positives = Positives.from_pairs(*np.nonzero(dense), ROWS, 60)
    generator = torch.Generator().manual_seed(0)
    table, spectrum = 0.3 * torch.randn(60, DIM, generator=generator), torch.linspace(0.0, 3.0, DIM)
    row_l2 = torch.linspace(0.5, 2.0, ROWS)
    exact = np.zeros((ROWS, DIM))
    for row in range(ROWS):
        own, diagonal = table[dense[row]].double().numpy(), (spectrum + row_l2[row]).double().numpy()
        exact[row] = np.linalg.solve(own.T @ own + np.diag(diagonal), own.sum(0))
    return positives, table, spectrum, row_l2, torch.from_numpy(exact)


def solved(systems, start: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    positives, table, spectrum, row_l2, _ = systems
    solution = start.clone()
    assert solve_compiled(solution, rows, table, positives, spectrum, row_l2)
    return solution


def test_short_rows_are_exact_and_long_ones_get_there_by_steps(systems):
    counts, exact = systems[0].counts, systems[-1]
    found, errors = torch.full((ROWS, DIM), 10.0), []
    for _ in range(8):
        found = solved(systems, found, torch.arange(ROWS))
        errors.append(float((found - exact).norm()))
        torch.testing.assert_close(found[counts < CG_LEAST].double(), exact[counts < CG_LEAST], rtol=1e-3, atol=1e-4)
    assert errors[1] < errors[0] / 5
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-4)


def test_the_steps_are_those_of_conjugate_gradients(systems):
    """In exact numbers as many steps as there are dimensions solve a system; fewer are the best of their subspace."""
    positives, table, spectrum, row_l2, exact = systems
    row = 50
    own, diagonal = table[positives.of(row).long()].double(), (spectrum + row_l2[row]).double()
    system, basis = own.T @ own + diagonal.diag(), [own.sum(0) / diagonal]
    for _ in range(CG_STEPS - 1):
        basis.append(system @ basis[-1] / diagonal)
    span = torch.stack(basis, 1)
    best = span @ torch.linalg.solve(span.T @ system @ span, span.T @ own.sum(0))
    found = solved(systems, torch.zeros(ROWS, DIM), torch.tensor([row]))[row]
    torch.testing.assert_close(found.double(), best, rtol=1e-3, atol=1e-4)
    assert (found - exact[row]).norm() > 1e-4


def test_only_the_rows_that_are_asked_for_change_whatever_the_threads(systems):
    start, rows = torch.ones(ROWS, DIM), torch.arange(0, ROWS, 3)
    found, before = solved(systems, start, rows), torch.get_num_threads()
    others = torch.ones(ROWS, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(found[others], start[others]) and not torch.equal(found, start)
    torch.set_num_threads(3)
    try:
        assert torch.equal(solved(systems, start, rows), found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_systems_without_a_solution_are_told(systems, bad):
    positives, table, spectrum, row_l2, _ = systems
    rows = torch.arange(1, CG_LEAST)
    assert not solve_compiled(torch.zeros(ROWS, DIM), rows, table * bad, positives, spectrum * 0, row_l2 * bad)
