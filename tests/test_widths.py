"""Widths and level weights: what is accepted, what is refused with which words, and prefix scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl.errors import ConfigError
from mrl.widths import blocks, check_level_weights, check_widths, level_mask, powers_of_two, prefix_scores

increasing = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted)


@given(increasing)
def test_increasing_widths_pass_unchanged(widths: list[int]) -> None:
    assert check_widths(widths, dim=widths[-1]) == tuple(widths)


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ([], "at least one"),
        ([4, 4], "increase without repeats, for example [4]"),
        ([8, 4], "for example [4, 8]"),
        ([0, 4], "at least 1"),
        ([4.5], "whole number"),
        ("four", "whole numbers"),
        ([4, 128], "128 is wider than the 64 dimensions"),
    ],
)
def test_bad_widths_are_named_with_the_remedy(widths: object, words: str) -> None:
    with pytest.raises(ConfigError, match=r"widths=") as error:
        check_widths(widths, dim=64)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_powers_of_two_begin_at_four() -> None:
    found = {widest: powers_of_two(widest) for widest in (0, 4, 7, 8, 100)}
    assert found == {0: (4,), 4: (4,), 7: (4,), 8: (4, 8), 100: (4, 8, 16, 32, 64)}


@pytest.mark.parametrize("weights", [[1.0], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_bad_level_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="level_weights="):
        check_level_weights(weights, (4, 8))


def test_level_weights_default_to_equal_shares() -> None:
    assert check_level_weights(None, (4, 8, 16, 32)) == (0.25,) * 4
    assert check_level_weights([], (4, 8)) == (0.5, 0.5)


@given(increasing, st.integers(0, 2**31))
def test_prefix_scores_are_those_of_the_copied_columns(widths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(3, widths[-1], generator=generator, dtype=torch.float64) for _ in range(2))
    scores = prefix_scores(users, items, widths)
    for level, width in enumerate(widths):
        torch.testing.assert_close(scores[:, level], (users[:, :width].clone() * items[:, :width].clone()).sum(1))


@given(increasing)
def test_blocks_and_mask_tile_the_columns(widths: list[int]) -> None:
    assert [column for block in blocks(widths) for column in range(widths[-1])[block]] == list(range(widths[-1]))
    assert level_mask(widths, widths[-1]).sum(1).tolist() == widths
