"""For compiled loops that read here and there: ask the processor for memory that is needed soon. Imports numba."""

from __future__ import annotations

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array


@intrinsic
def _hint(typing, array, offset):
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
    """Bring entries start to stop, counted flat, into the cache."""
    for offset in range(start * array.itemsize, stop * array.itemsize, 64):
        _hint(array, offset)
