"""Loops that torch cannot express well, compiled by numba, and run over slices of a batch in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import torch


def compiled(function: Callable, **options: object) -> Callable:
    """Compile to machine code that releases the GIL, kept on disk where the disk can be written."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no folder to cache in, as in a read-only installation
        return numba.njit(nogil=True, error_model="numpy", **options)(function)


def in_threads(work: Callable[[slice], object], rows: int, *, least: int) -> None:
    """Call work(slice) for slices that cover `rows`, at once, each of at least `least` rows.

    Threads of our own, as many as torch uses: numba's pools change torch's, spin while they wait (which on a busy
    machine costs more than it gains), survive no fork, and take no calls from two threads.
    """
    threads = max(1, min(torch.get_num_threads(), rows // least))
    edges = [rows * t // threads for t in range(threads + 1)]
    if threads == 1:
        work(slice(0, rows))
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, slice(edges[t], edges[t + 1])) for t in range(1, threads)]
        work(slice(edges[0], edges[1]))
        for other in others:
            other.result()
