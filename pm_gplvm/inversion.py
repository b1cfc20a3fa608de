"""The inverse of a covariance matrix and its determinant, by one Cholesky factorisation."""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from scipy.linalg import lapack

from pm_gplvm.checks import Array
from pm_gplvm.ops import row_blocks

__all__ = ["invert", "mirror", "symbolic_inverse"]


def invert(A: Array) -> float | None:
    """Overwrite a positive definite matrix by its inverse.

    Parameters
    ----------
    A : ndarray, shape (N, N), C order
        The lower triangle is read and written; what stands above it stays.

    Returns
    -------
    float or None
        ln|A|; None if A is not positive definite, and then its lower triangle holds no inverse.

    Examples
    --------
    >>> A = np.array([[2.0, 0.0], [1.0, 1.0]])
    >>> round(invert(A), 12), mirror(A).round(12).tolist()
    (0.0, [[1.0, -1.0], [-1.0, 2.0]])
    """
    # Seen in Fortran order, as LAPACK does, the lower triangle of a C-ordered matrix is the upper one.
    _, failed = lapack.dpotrf(A.T, lower=0, overwrite_a=1, clean=0)
    if failed:
        return None
    log_det = 2.0 * np.log(np.diagonal(A)).sum()
    lapack.dpotri(A.T, lower=0, overwrite_c=1)
    return float(log_det)


def mirror(A: Array) -> Array:
    """Copy the lower triangle of A to above it, in place."""
    for start, end in row_blocks(len(A)):
        corner = A[start:end, start:end]
        np.copyto(corner, corner.T, where=~np.tri(end - start, dtype=bool))
        A[:start, start:end] = A[start:end, :start].T
    return A


def symbolic_inverse(A: Variable, B: Variable) -> tuple[Variable, Variable, Variable]:
    """Write down A⁻¹ (..., N, N), A⁻¹B (..., N, M) and ln|A| (...), NaN where A is not positive definite."""
    chol = pt.linalg.cholesky(A, lower=True, on_error="nan")
    identity = pt.eye(A.shape[-1]) + pt.zeros_like(A)
    inverse, solved = (pt.linalg.cho_solve((chol, True), b, b_ndim=2) for b in (identity, B))
    return inverse, solved, 2.0 * pt.log(pt.diagonal(chol, axis1=-2, axis2=-1)).sum(axis=-1)
