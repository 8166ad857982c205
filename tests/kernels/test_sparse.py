"""Sparse times dense: compiled against torch and against a dense product, for any number of threads."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl.kernels.sparse import propagate


def csr(matrix: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        sparse = matrix.to_sparse_csr()
    offsets, columns = sparse.crow_indices().int(), sparse.col_indices().int()
    return torch.sparse_csr_tensor(offsets, columns, sparse.values(), matrix.shape, check_invariants=False)


def random(rows: int, columns: int, share: float, dtype: torch.dtype) -> torch.Tensor:
    rng = np.random.default_rng([rows, columns])
    return torch.from_numpy(rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < share)).to(dtype)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.floats(0, 1), st.sampled_from(["float32", "float64"])
)
def test_product_and_gradient_are_those_of_the_dense_matrix(rows, columns, dim, share, dtype) -> None:
    dense = random(rows, columns, share, getattr(torch, dtype))
    x = random(columns, dim, 1.0, dense.dtype).requires_grad_()
    weights = random(rows, dim, 1.0, dense.dtype)
    product = propagate(csr(dense), csr(dense.T.contiguous()), x)
    torch.testing.assert_close(product, dense @ x, rtol=1e-4, atol=1e-4)
    (product * weights).sum().backward()
    torch.testing.assert_close(x.grad, dense.T @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    dense = random(2000, 60, 0.1, torch.float32)
    graph, transpose, x = csr(dense), csr(dense.T.contiguous()), random(60, 9, 1.0, torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = propagate(graph, transpose, x)
        torch.set_num_threads(threads)
        assert torch.equal(propagate(graph, transpose, x), alone)
    finally:
        torch.set_num_threads(before)


def test_a_gradient_that_is_not_contiguous_is_taken_as_it_is() -> None:
    dense = random(8, 6, 0.5, torch.float32)
    x = random(6, 3, 1.0, torch.float32).requires_grad_()
    weights = random(3, 8, 1.0, torch.float32)
    (propagate(csr(dense), csr(dense.T.contiguous()), x).T * weights).sum().backward()
    torch.testing.assert_close(x.grad, dense.T @ weights.T, rtol=1e-4, atol=1e-4)
