"""What the hardware can do: loops compiled by numba, run over slices of a batch in threads; short floats of a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numba
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

AHEAD = 4  # rows from one that is worked on to one that is fetched


def compiled(function: Callable, **options: object) -> Callable:
    """Compile to machine code that releases the GIL, kept on disk where the disk can be written."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no folder to cache in, as in a read-only installation
        return numba.njit(nogil=True, error_model="numpy", **options)(function)


@intrinsic
def _hint(typing, array, offset):
    """Ask the processor for the cache line of a byte `offset` of an array: no more than a hint, so never a fault."""

    def emit(context, builder, signature, arguments):
        view = make_array(signature.args[0])(context, builder, arguments[0])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        place = builder.gep(builder.bitcast(view.data, byte), [arguments[1]])
        builder.call(ask, [place, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@compiled
def fetch(array, start, stop):
    """For compiled loops that read here and there: bring entries start to stop, counted flat, into the cache."""
    for offset in range(start * array.itemsize, stop * array.itemsize, 64):
        _hint(array, offset)


def has_short_floats(device: torch.device) -> bool:
    """Whether it multiplies numbers of 8 to 11 bits (bfloat16, TF32) faster than others: NVIDIA from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


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
    for _ in _pool(os.getpid(), threads).map(work, (slice(start, stop) for start, stop in pairwise(edges))):
        pass  # raises what a part raised


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Kept from call to call, since a step has many; a forked process, which has none of the threads, gets its own."""
    return ThreadPoolExecutor(threads)
