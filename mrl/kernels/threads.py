"""What the hardware can do: loops compiled by numba, run over slices of a batch in threads; short floats of a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from threading import Lock

import torch

AHEAD = 4  # rows from one that is worked on to one that is fetched
_BUILDING = Lock()  # the first call may come from several threads at once
_FORKED = False


class Kernel:
    """A compiled loop that imports numba at its first call, since that takes a third as long as importing torch.

    build: returns numba's dispatcher. Other compiled loops may call a kernel by its name, as if it were one.
    """

    def __init__(self, build: Callable[[], Callable]) -> None:
        self._build, self._dispatcher = build, None

    @property
    def dispatcher(self) -> Callable:
        if self._dispatcher is None:
            with _BUILDING:
                self._dispatcher = self._dispatcher or self._build()
        return self._dispatcher

    def __call__(self, *arguments: object) -> object:
        return self.dispatcher(*arguments)

    @property
    def _numba_type_(self) -> object:  # by which numba knows what a name in a compiled loop stands for
        return self.dispatcher._numba_type_


def compiled(function: Callable, **options: object) -> Kernel:
    """Compile to machine code that releases the GIL, kept on disk where the disk can be written."""
    return Kernel(partial(_compile, function, options))


def _compile(function: Callable, options: dict[str, object]) -> Callable:
    import numba

    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba finds no folder to cache in, as in a read-only installation
        return numba.njit(nogil=True, error_model="numpy", **options)(function)


def _build_fetch() -> Callable:
    import numba
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic
    from numba.np.arrayobj import make_array

    @intrinsic
    def hint(typing, array, offset):
        """Ask for the cache line of a byte `offset` of an array: no more than a hint, so never a fault."""

        def emit(context, builder, signature, arguments):
            view = make_array(signature.args[0])(context, builder, arguments[0])
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            address = builder.gep(builder.bitcast(view.data, byte), [arguments[1]])
            builder.call(function, [address, number(0), number(3), number(1)])  # to read, into every cache, data
            return context.get_dummy_value()

        return types.void(array, types.intp), emit

    @numba.njit(nogil=True)
    def fetch(array, start, stop):
        for offset in range(start * array.itemsize, stop * array.itemsize, 64):
            hint(array, offset)

    return fetch


fetch = Kernel(_build_fetch)  # fetch(array, start, stop): these entries, counted flat, are needed soon


def has_short_floats(device: torch.device) -> bool:
    """Whether it multiplies numbers of 8 to 11 bits (bfloat16, TF32) faster than others: NVIDIA from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def in_threads(work: Callable[[slice], object], rows: int, *, each: int, threads: int | None = None) -> None:
    """Call work(slice) for all of `rows`, at least `each` rows a call, on `threads`, by default as many as torch uses.

    Threads of our own, not numba's: its pools change torch's, spin while they wait (which on a busy machine costs more
    than it gains), survive no fork, and take no calls from two threads.
    """
    threads = torch.get_num_threads() if threads is None or _FORKED else threads
    parts = min(rows // max(each, 1), 4 * threads)  # more parts than threads: a slow core gets fewer
    if parts <= 1 or threads == 1:
        work(slice(0, rows))
        return
    edges = [rows * part // parts for part in range(parts + 1)]
    for _ in _pool(os.getpid(), threads).map(work, (slice(start, stop) for start, stop in pairwise(edges))):
        pass  # raises what a part raised


def _after_fork() -> None:
    """In a forked process one thread computes.

    Of OpenMP's threads, which torch had started, the child has none but waits for them for ever. A lock that another
    thread of the parent held is never released.
    """
    global _BUILDING, _FORKED
    _BUILDING, _FORKED = Lock(), True
    torch.set_num_threads(1)


def is_forked() -> bool:
    """Whether this process was forked from one that had imported the package: it lacks the threads of polars, too."""
    return _FORKED


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Kept from call to call, since a step has many; a forked process, which has none of the threads, gets its own."""
    return ThreadPoolExecutor(threads)
