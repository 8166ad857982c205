"""Products of float32 tables by oneDNN on a CPU, where they are exact: on AMD more than twice as fast as by MKL.

MKL, by which torch multiplies, does not use all that processors of other makers can do. oneDNN does, but torch asks it
only where products may be rounded to bfloat16. It rounds where the processor has matrix instructions for that; all
others compute in float32 then, too. One product shows which it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

import torch

SIDE = 256  # of the tables that are multiplied to see whether anything is rounded
EXACT = 1e-5  # of the spread of the product: float32 is within 1e-6, TF32 and bfloat16 are not within 1e-3
_LOCK = Lock()
_inside: list[str] = []  # the setting that was found, once for every block that is entered


@contextmanager
def fast_products() -> Iterator[None]:
    """Products in this block, or in a function that this decorates, are by oneDNN where that is exact.

    The setting is the process's, so that other threads have it meanwhile. It is of GPUs, too: where there is one,
    nothing is set.
    """
    if not is_exact():
        yield
        return
    with _by_onednn():
        yield


@lru_cache(maxsize=1)
def is_exact() -> bool:
    """Whether oneDNN is there and rounds nothing where it might."""
    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        return False
    one, other = torch.randn(2, SIDE, SIDE, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    with _by_onednn():
        product = one @ other
    exact = one.double() @ other.double()
    return bool((product - exact).abs().max() < EXACT * exact.std())


@contextmanager
def _by_onednn() -> Iterator[None]:
    with _LOCK:
        _inside.append(_inside[0] if _inside else torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        with _LOCK:  # the last one out leaves it as the first one found it
            found = _inside.pop()
            if not _inside:
                torch.set_float32_matmul_precision(found)
