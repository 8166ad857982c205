"""Vectors in fewer bits: how near they come, that a scan is a product with them, and that items can be added."""

from __future__ import annotations

import numpy as np
import pytest

from mrl.errors import ConfigError
from mrl.serving.codes import BITS, Codes


def vectors(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Of skewed lengths, as items have them."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dim)) * np.exp(rng.standard_normal((rows, 1)))).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dim", [1, 8, 13])
def test_a_scan_is_a_product_with_what_the_codes_stand_for(bits: int, dim: int) -> None:
    table, query = vectors(300, dim), vectors(1, dim, 1)[0]
    codes = Codes.encode(table, bits)
    scores = np.empty(300, np.float32)
    shift = codes.scan(query, scores)
    assert scores + shift == pytest.approx(codes.decode() @ query, rel=1e-3, abs=1e-3)


def test_more_bits_come_nearer_and_eight_are_within_half_a_step() -> None:
    table = vectors(500, 16)
    errors = [np.abs(Codes.encode(table, bits).decode() - table).max() for bits in BITS]
    assert errors[0] == 0
    assert errors == sorted(errors)
    codes = Codes.encode(table, 8)
    assert (np.abs(codes.decode() - table) <= codes.scale / 2 * 1.01).all()


def test_signs_keep_the_length_of_an_item() -> None:
    table = vectors(500, 32)
    codes = Codes.encode(table, 1)
    lengths = [np.linalg.norm(each, axis=1) for each in (codes.decode(), table)]
    assert np.corrcoef(*lengths)[0, 1] > 0.95
    assert codes.bytes_per_item == 32 / 8 + 4


@pytest.mark.parametrize("bits", BITS)
def test_items_put_later_are_coded_as_those_at_first(bits: int) -> None:
    table = vectors(40, 9)
    codes, whole = Codes.encode(table, bits), Codes.encode(table, bits)
    codes.put(np.arange(40, 60), table[:20])
    codes.put(np.array([3]), table[7:8])
    assert codes.count == 60
    wanted = whole.decode()
    assert codes.decode()[:3] == pytest.approx(wanted[:3])
    assert codes.decode()[3] == pytest.approx(wanted[7])
    assert codes.decode()[40:] == pytest.approx(wanted[:20])


def test_no_items_and_constant_columns_are_coded_too() -> None:
    for bits in BITS:
        assert Codes.encode(np.empty((0, 4), np.float32), bits).decode().shape == (0, 4)
        assert Codes.encode(np.full((3, 4), 0.5, np.float32), bits).decode() == pytest.approx(np.full((3, 4), 0.5))


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^bits=4: must be one of 32, 16, 8, 1$"):
        Codes.encode(vectors(3, 4), 4)
