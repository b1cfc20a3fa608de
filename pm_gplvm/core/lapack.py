"""What compiled loops call: SciPy's LAPACK, and functions of which only the address is known."""

import math

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import get_cython_function_address, intrinsic

from pm_gplvm.core.jit import compiled

_LOWER = (
    76  # "L": in Fortran order the lower triangle, which of a C-ordered matrix is the upper one
)


def _routine(name: str) -> types.ExternalFunction:
    """Declare a routine of (uplo, n, A, lda, info), by a name under which a compiled caller can be stored."""
    symbol = f"pm_gplvm_{name}"
    llvmlite.binding.add_symbol(
        symbol, get_cython_function_address("scipy.linalg.cython_lapack", name)
    )
    return types.ExternalFunction(symbol, types.void(*[types.voidptr] * 5))


_dpotrf, _dpotri = _routine("dpotrf"), _routine("dpotri")


@compiled
def factorise(A, n, sizes, triangle):
    """Overwrite A (n, n), positive definite, by its Cholesky factor; ln|A|, or NaN if it is not.

    ``sizes`` (2,) int32 and ``triangle`` (1,) uint8 are memory to work with.
    """
    sizes[0], sizes[1], triangle[0] = n, 0, _LOWER
    _dpotrf(triangle.ctypes, sizes.ctypes, A.ctypes, sizes.ctypes, sizes[1:].ctypes)
    if sizes[1] != 0:
        return math.nan
    log_det = 0.0
    for i in range(n):
        log_det += 2.0 * math.log(A[i, i])
    return log_det


@compiled
def invert(A, n, sizes, triangle):
    """Overwrite A by its inverse, both triangles: see :func:`factorise`."""
    log_det = factorise(A, n, sizes, triangle)
    if not math.isnan(log_det):
        _dpotri(triangle.ctypes, sizes.ctypes, A.ctypes, sizes.ctypes, sizes[1:].ctypes)
        for i in range(n):
            for j in range(i):
                A[i, j] = A[j, i]
    return log_det


@intrinsic
def call(typing_context, address, state, given, n, m, out):
    """Call void f(double *state, double *given, int64 n, int64 m, double *out) at an address."""
    signature = types.void(types.int64, state, given, types.int64, types.int64, out)

    def codegen(context, builder, signature, arguments):
        where, *rest = arguments
        values = []
        for kind, value in zip(signature.args[1:], rest, strict=True):
            if isinstance(kind, types.Array):
                value = context.make_array(kind)(context, builder, value).data
            values.append(value)
        pointer = ir.FunctionType(ir.VoidType(), [v.type for v in values]).as_pointer()
        builder.call(builder.inttoptr(where, pointer), values)
        return context.get_dummy_value()

    return signature, codegen
