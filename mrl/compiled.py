"""Loops that torch cannot express well, compiled by numba, and run over slices of a batch in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import torch


def compiled(function: Callable, **options: object) -> Callable:
    """Compile to machine code that releases the GIL, kept on disk where the disk can be written."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no folder to cache in, as in a read-only installation
        return numba.njit(nogil=True, error_model="numpy", **options)(function)


def in_threads(work: Callable[[slice], object], rows: int, *, each: int) -> None:
    """Call work(slice) for all of `rows`, at least `each` rows a call, on as many threads as torch uses.

    Threads of our own, not numba's: its pools change torch's, spin while they wait (which on a busy machine costs more
    than it gains), survive no fork, and take no calls from two threads.
    """
    threads = torch.get_num_threads()
    parts = min(rows // max(each, 1), 4 * threads)  # more parts than threads: a slow core gets fewer
    if parts <= 1 or threads == 1:
        work(slice(0, rows))
        return
    edges = [rows * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(min(threads, parts)) as pool:
        for _ in pool.map(work, (slice(start, stop) for start, stop in pairwise(edges))):
            pass  # raises what a part raised
