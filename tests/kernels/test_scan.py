"""Scores from codes: what a plain product of the decoded vectors gives, for any number of items and dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.kernels.scan import scan_bits, scan_halves, scan_numbers

SIZES = {
    "seed": st.integers(0, 10**6),
    "count": st.sampled_from([0, 1, 7, 2048, 2049, 5000]),
    "dim": st.integers(1, 19),
}


@settings(max_examples=30)
@given(**SIZES, kind=st.sampled_from([np.float32, np.int8]), room=st.integers(0, 9))
def test_numbers(seed, count, dim, kind, room) -> None:
    rng = np.random.default_rng(seed)
    columns = (rng.standard_normal((dim, count + room)) * 40).clip(-127, 127).astype(kind)
    query, scores = rng.standard_normal(dim).astype(np.float32), np.full(count, np.nan, np.float32)
    scan_numbers(columns, query, scores)
    assert scores == pytest.approx(query.astype(float) @ columns[:, :count].astype(float), rel=1e-4, abs=1e-3)


@settings(max_examples=30)
@given(**SIZES)
def test_halves_zero_and_subnormal_included(seed, count, dim) -> None:
    rng = np.random.default_rng(seed)
    columns = (rng.standard_normal((dim, count)) * 10.0 ** rng.integers(-8, 4, (dim, count))).astype(np.float16)
    query, scores = rng.standard_normal(dim).astype(np.float32), np.empty(count, np.float32)
    bits = np.empty(2048, np.uint32)
    scan_halves(columns.view(np.uint16), query * np.float32(2.0**112), scores, bits, bits.view(np.float32))
    wanted = query.astype(float) @ columns.astype(float)
    assert scores == pytest.approx(wanted, rel=1e-4, abs=1e-5 * max(1.0, float(np.abs(wanted).max(initial=0)))), count


@settings(max_examples=30)
@given(**SIZES)
def test_bits(seed, count, dim) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 256, (dim, count), dtype=np.uint8)
    sums, lengths = rng.standard_normal((dim, 256)).astype(np.float32), rng.random(count).astype(np.float32)
    scores = np.empty(count, np.float32)
    scan_bits(columns, sums, lengths, scores)
    wanted = [lengths[i] * sum(float(sums[b, columns[b, i]]) for b in range(dim)) for i in range(count)]
    assert scores == pytest.approx(wanted, rel=1e-4, abs=1e-4)
