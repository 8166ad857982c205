"""Systems row by row against dense solves, whatever the batches, the padding and the way they are solved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.data.interactions import Positives
from mrl.kernels.row_systems import (
    CG_LEAST,
    add_outer,
    cholesky_solve,
    conjugate_gradients,
    gather_rows,
    row_chunks,
    solve_woodbury,
    square_chunks,
)


@pytest.fixture(scope="module")
def rows() -> tuple[Positives, torch.Tensor]:
    """Rows of 0 to 59 positives, and factors with a last row of zeros."""
    dense = np.arange(60) < np.arange(60)[:, None]
    factors = torch.randn(61, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factors[-1] = 0
    return Positives.from_pairs(*np.nonzero(dense), 60, 60), factors


@pytest.mark.parametrize("kept", [None, 40])
@pytest.mark.parametrize("chunk", [1, 300, 2**20])
def test_every_row_with_positives_is_in_one_batch_with_rows_like_it(rows, chunk, kept):
    positives, _ = rows
    batches = list(row_chunks(positives.counts, 7, chunk, kept))
    found = torch.cat([index for index, _ in batches])
    assert sorted(found.tolist()) == list(range(1, 60))
    for index, longest in batches:
        counts = positives.counts[index]
        assert longest == int(counts.max()) and 2 * int(counts.min()) >= longest - 1
        assert len(index) == 1 or len(index) * 7 * (longest if longest < (kept or 7) else 7) <= chunk
        if kept:  # none has rows of both sides of an edge
            assert len({int(np.searchsorted([CG_LEAST, kept], count, side="right")) for count in counts}) <= 2
    squares = list(square_chunks(positives.counts, 7, chunk))
    assert sorted(torch.cat([index for index, _ in squares]).tolist()) == list(range(1, 60))
    assert all(len(index) <= max(1, chunk // 49) for index, _ in squares)


def test_each_way_solves_the_same_systems(rows):
    positives, factors = rows
    index = torch.tensor([3, 30, 0, 50])
    diagonal = torch.linspace(0.5, 2.0, 28, dtype=torch.float64).reshape(4, 7)
    own = gather_rows(factors, positives, index, 0, 50)
    expected = torch.zeros(4, 7, dtype=torch.float64)
    for n, row in enumerate(index.tolist()):
        mine = factors[positives.of(row).long()]
        assert torch.equal(own[n, : len(mine)], mine) and not own[n, len(mine) :].any()
        expected[n] = torch.linalg.solve(mine.T @ mine + diagonal[n].diag(), mine.sum(0))
    found = solve_woodbury(own, torch.ones_like(own[:, :, 0]), diagonal)
    torch.testing.assert_close(found, expected)
    for chunk in (1, 100, 2**20):
        system = torch.diag_embed(diagonal)
        target = add_outer(system, factors, positives, index, 50, chunk)
        torch.testing.assert_close(cholesky_solve(system, target), expected)
    near, far = torch.zeros(4, 7, dtype=torch.float64), torch.zeros(4, 7, dtype=torch.float64)
    for _ in range(12):
        near = conjugate_gradients(own, near, diagonal)
    torch.testing.assert_close(near, expected)
    far = conjugate_gradients(own, far, diagonal)
    assert (far - expected).norm() < expected.norm()
