"""The inverse of a triangular matrix in position, by halves.

LAPACK's own takes as long as a Cholesky factorisation and more, as most of it are products of short blocks. By halves,

    [A B; 0 C]⁻¹ = [A⁻¹  -A⁻¹ B C⁻¹; 0  C⁻¹],

it is products of large triangles. At N = 500 it takes half the time, at N = 1000 seven tenths, and with it the
inverse of a covariance four fifths and nine tenths. SciPy's functions copy a part of an array; BLAS itself,
which Cython code reaches by address, does not.
"""

import ctypes
from functools import cache
from typing import Any

from numba.extending import get_cython_function_address
from numpy.typing import NDArray

_LEAF = 128  # rows of a part that LAPACK inverts as it is
_MULTIPLE = 8  # of which halves are, for the vectors of the processor
_UPPER, _LEFT, _RIGHT, _PLAIN = b"U", b"L", b"R", b"N"


@cache
def _routine(module: str, name: str, arguments: int) -> Any:
    """Find a routine of Fortran's, all of whose arguments are addresses; other threads run meanwhile."""
    address = get_cython_function_address(f"scipy.linalg.{module}", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)


def invert_upper(U: NDArray[Any]) -> None:
    """Overwrite the upper triangle of a Fortran-ordered matrix by its inverse's; its diagonal holds no 0.

    >>> import numpy as np
    >>> U = np.array([[2.0, 1.0], [0.0, 4.0]], order="F")
    >>> invert_upper(U)
    >>> U.tolist()
    [[0.5, -0.125], [0.0, 0.25]]
    """
    if not U.flags.f_contiguous or U.dtype != "float64" or not U.flags.writeable:
        raise ValueError("U must be a Fortran-ordered array of float64 that can be written to.")
    _invert(U.ctypes.data, len(U), ctypes.c_int(len(U)))


def _invert(address: int, n: int, columns: ctypes.c_int) -> None:
    """Invert the n rows and columns that begin at an address, of so many numbers a column."""
    lda = ctypes.byref(columns)
    if n <= _LEAF:
        dtrtri = _routine("cython_lapack", "dtrtri", 6)
        dtrtri(_UPPER, _PLAIN, _integer(n), address, lda, _integer(0))
        return
    first = -(-n // (2 * _MULTIPLE)) * _MULTIPLE
    other, corner = address + 8 * first * columns.value, address + 8 * first * (columns.value + 1)
    _invert(address, first, columns)
    _invert(corner, n - first, columns)
    dtrmm, sizes = _routine("cython_blas", "dtrmm", 11), (_integer(first), _integer(n - first))
    for side, factor, triangle in ((_LEFT, -1.0, address), (_RIGHT, 1.0, corner)):
        scale = ctypes.byref(ctypes.c_double(factor))
        dtrmm(side, _UPPER, _PLAIN, _PLAIN, *sizes, scale, triangle, lda, other, lda)


def _integer(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))
