"""Small linear systems, one a row: (Δ + QᵀQ) p = Qᵀ1, of the factors Q (n, D) of its positives and a diagonal Δ.

Rows with few positives are solved exactly, in as many unknowns as they have positives (Woodbury). Others go on by steps
of conjugate gradients from where they are. Loops for a CPU, row by row: its factors stay in the cache, and nothing is
padded. The same by products of batches, for other devices and numbers, is in `mrl.least_squares.ials`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from mrl.data import Positives
from mrl.kernels.threads import compiled, in_threads

CG_STEPS = 3  # of conjugate gradients: as good as exact solves, at a third of the time on dense data
CG_LEAST = 24  # positives of a row from which on the steps are cheaper than an exact solve

_kernel = partial(compiled, fastmath={"contract", "reassoc"})


def solve_compiled(
    solution: Tensor, rows: Tensor, table: Tensor, positives: Positives, spectrum: Tensor, row_l2: Tensor
) -> bool:
    """Solve `rows` of `solution` (R, D) in place, on a CPU in float32; whether all could be.

    Rows of CG_LEAST positives or more go on by steps from where they are. table (I, D): the other side; the diagonal of
    row r is spectrum (D,) + row_l2[r].
    """
    tensors = positives.offsets, positives.items, table, spectrum, row_l2, solution
    arrays, solved = [tensor.numpy() for tensor in tensors], []
    is_long = positives.counts[rows] >= CG_LEAST
    for loop, some in ((_step_rows, rows[is_long].numpy()), (_solve_rows, rows[~is_long].numpy())):
        work = partial(lambda loop, some, part: solved.append(loop(some[part], *arrays)), loop, some)
        in_threads(work, len(some), each=64)
    return all(solved)


@_kernel
def _step_rows(rows, offsets, items, table, spectrum, row_l2, solution):
    """From where they are by CG_STEPS steps, preconditioned by Δ."""
    dim, longest = table.shape[1], 0
    for r in rows:
        longest = max(longest, offsets[r + 1] - offsets[r])
    own, numbers, tiny = np.empty((longest, dim), np.float32), np.empty((4, dim), np.float32), np.float32(1.2e-38)
    diagonal, left, step, moved = numbers[0], numbers[1], numbers[2], numbers[3]
    for r in rows:
        x, first = solution[r], offsets[r]
        n = offsets[r + 1] - first
        left[:] = 0
        for d in range(dim):
            diagonal[d] = spectrum[d] + row_l2[r]
        for j in range(n):
            vector, place = table[items[first + j]], own[j]
            for d in range(dim):
                place[d] = vector[d]
                left[d] += vector[d]
        _times_system(own, n, diagonal, x, moved)
        square = np.float32(0)
        for d in range(dim):
            left[d] -= moved[d]
            step[d] = left[d] / diagonal[d]
            square += left[d] * step[d]
        for _ in range(CG_STEPS):
            _times_system(own, n, diagonal, step, moved)
            curve = np.float32(0)
            for d in range(dim):
                curve += step[d] * moved[d]
            length, before, square = square / max(curve, tiny), square, np.float32(0)
            for d in range(dim):
                x[d] += length * step[d]
                left[d] -= length * moved[d]
                moved[d] = left[d] / diagonal[d]
                square += left[d] * moved[d]
            ratio = square / max(before, tiny)
            for d in range(dim):
                step[d] = moved[d] + ratio * step[d]
    return True


@_kernel
def _times_system(own, n, diagonal, vector, out):
    """Fill out (D,) with (Δ + QᵀQ) vector: four positives at a time, each read once."""
    dim, j = len(vector), 0
    for d in range(dim):
        out[d] = diagonal[d] * vector[d]
    while j + 4 <= n:
        p, q, s, t = own[j], own[j + 1], own[j + 2], own[j + 3]
        a = b = c = e = np.float32(0)
        for d in range(dim):
            a += p[d] * vector[d]
            b += q[d] * vector[d]
            c += s[d] * vector[d]
            e += t[d] * vector[d]
        for d in range(dim):
            out[d] += a * p[d] + b * q[d] + c * s[d] + e * t[d]
        j += 4
    for i in range(j, n):
        p, a = own[i], np.float32(0)
        for d in range(dim):
            a += p[d] * vector[d]
        for d in range(dim):
            out[d] += a * p[d]


@_kernel
def _solve_rows(rows, offsets, items, table, spectrum, row_l2, solution):
    """Δ⁻¹ Qᵀ (1 + Q Δ⁻¹ Qᵀ)⁻¹ 1 by the Cholesky factors of each row; whether all have one."""
    dim, solved = table.shape[1], True
    own, scaled = np.empty((CG_LEAST, dim), np.float32), np.empty((CG_LEAST, dim), np.float32)
    inverse = np.empty(dim, np.float32)
    system, weights = np.empty((CG_LEAST, CG_LEAST), np.float32), np.empty(CG_LEAST, np.float32)
    for r in rows:
        x, first = solution[r], offsets[r]
        n = offsets[r + 1] - first
        for d in range(dim):
            inverse[d] = 1 / (spectrum[d] + row_l2[r])
        for i in range(n):
            vector, p, q = table[items[first + i]], own[i], scaled[i]
            for d in range(dim):
                p[d] = vector[d]
                q[d] = vector[d] * inverse[d]
            for j in range(i + 1):
                p, a = own[j], np.float32(0)
                for d in range(dim):
                    a += p[d] * q[d]
                system[i, j] = a
            system[i, i] += 1
        for i in range(n):
            b = np.float32(1)
            for j in range(i + 1):
                a = system[i, j]
                for k in range(j):
                    a -= system[i, k] * system[j, k]
                if j < i:
                    system[i, j] = a / system[j, j]
                    b -= system[i, j] * weights[j]
                else:
                    solved &= a > 0
                    system[i, i] = np.sqrt(a)
            weights[i] = b / system[i, i]
        x[:] = 0
        for i in range(n - 1, -1, -1):
            a = weights[i]
            for k in range(i + 1, n):
                a -= system[k, i] * weights[k]
            weights[i] = a = a / system[i, i]
            q = scaled[i]
            for d in range(dim):
                x[d] += a * q[d]
    return solved
