"""Nested widths and their level weights: validated once, used everywhere.

A *width* is a number of leading dimensions; *level* k is the index of a width. Wider levels contain
narrower ones, so every score ⟨p[:d_k], q[:d_k]⟩ is a running sum over blocks of dimensions.
Matryoshka Representation Learning, Kusupati et al., NeurIPS 2022 (arXiv 2205.13147).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import index

import torch
from torch import Tensor

from mrl.errors import ConfigError

DEFAULT_WIDTHS = (4, 8, 16, 32, 64)
AUTO = "auto"  # powers of two, as far as validation gains: found by the search of settings
NARROWEST = 4  # of them


def check_widths(widths: Sequence[int], dim: int | None = None) -> tuple[int, ...]:
    """Return `widths` as a tuple of ints, or raise ConfigError naming the value and the remedy.

    Widths must be positive, strictly increasing and, where `dim` is given, at most `dim`.
    """
    try:
        checked = tuple(index(width) for width in widths)
        are_numbers = not any(isinstance(width, bool) for width in widths)
    except (TypeError, ValueError):
        raise ConfigError(f"widths={widths!r}: give a list of whole numbers such as [4, 8, 16]") from None
    if not checked or not are_numbers:
        raise ConfigError(f"widths={widths!r}: give at least one whole number, such as [4, 8, 16]")
    if checked[0] < 1:
        raise ConfigError(f"widths={list(checked)}: every width must be at least 1")
    if any(narrow >= wide for narrow, wide in pairwise(checked)):
        raise ConfigError(f"widths={list(checked)}: must increase without repeats, for example {sorted(set(checked))}")
    if dim is not None and checked[-1] > dim:
        raise ConfigError(f"widths={list(checked)}: {checked[-1]} is wider than the {dim} dimensions there are")
    return checked


def powers_of_two(widest: int) -> tuple[int, ...]:
    """4, 8, 16, … up to `widest`; at least 4."""
    return tuple(2**power for power in range(2, max(widest, NARROWEST).bit_length()))


def check_level_weights(level_weights: Sequence[float] | None, widths: Sequence[int]) -> tuple[float, ...]:
    """Return one weight a level; None means 1/K each (Lai et al., arXiv 2406.07432)."""
    levels = len(widths)
    if level_weights is None or len(level_weights) == 0:
        return (1.0 / levels,) * levels
    weights = tuple(float(weight) for weight in level_weights)
    if len(weights) != levels:
        raise ConfigError(
            f"level_weights={list(weights)}: {len(weights)} weights for {levels} widths {list(widths)}; give one each"
        )
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
        raise ConfigError(f"level_weights={list(weights)}: must be finite, not negative, and not all zero")
    return weights


def blocks(widths: Sequence[int]) -> list[slice]:
    """The columns that each level adds to the one before it: [0:4], [4:8], [8:16], …"""
    return [slice(start, stop) for start, stop in pairwise((0, *widths))]


def level_mask(widths: Sequence[int], dim: int, *, dtype: torch.dtype = torch.float32, device=None) -> Tensor:
    """(L, D) of zeros and ones: row k has ones in its first d_k columns."""
    columns = torch.arange(dim, device=device)
    edges = torch.tensor(tuple(widths), device=device)
    return (columns < edges[:, None]).to(dtype)


def prefix_scores(users: Tensor, items: Tensor, widths: Sequence[int]) -> Tensor:
    """Inner products at every width in one pass.

    users, items: (..., D), broadcast against each other. Returns (..., L).
    """
    product = users * items  # (..., D)
    return product @ level_mask(widths, product.shape[-1], dtype=product.dtype, device=product.device).T
