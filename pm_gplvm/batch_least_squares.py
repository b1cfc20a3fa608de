"""Levenberg-Marquardt for many small problems in step, as :mod:`batch_bfgs` climbs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.checks import Array

__all__ = ["minimise"]

Index = NDArray[np.intp]

_DAMPING = 1e-2  # of the first step, relative to the curvature in each dimension
_HIGHEST = 1e12  # damping at which a problem is given up
_LEAST = 1e-12  # curvature, relative to the greatest dimension's, that is divided by


def minimise(
    function: Callable[[Array, Index], tuple[Array, Array, Array]],
    x: Array,
    unit: Array,
    *,
    maxiter: int = 50,
    tol: float = 1e-4,
) -> tuple[Array, Array, Array]:
    """Go down from every point of its own to a minimum of half a sum of squares.

    Parameters
    ----------
    function : callable
        Points (S', Q) and which of the S problems they belong to, (S',), to values |r|²/2 (S',),
        gradients Jᵀr (S', Q) and curvatures JᵀJ (S', Q, Q).
    x : ndarray, shape (S, Q)
        Where to begin.
    unit : ndarray, shape (Q,)
        Length of a natural step in each dimension.
    maxiter : int, default 50
        Evaluations of each problem.
    tol : float, default 1e-4
        A problem is done when the next step promises to lower it by less than this, or by less
        than this part of its value.

    Returns
    -------
    x : ndarray, shape (S, Q)
    value : ndarray, shape (S,)
    curvature : ndarray, shape (S, Q, Q)
        JᵀJ there.

    References
    ----------
    Madsen, K., Nielsen, H. B., Tingleff, O. (2004). Methods for Non-Linear Least Squares Problems.
    Technical University of Denmark. Algorithm 3.16; the damping is Marquardt's.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([[1.0, 2.0], [3.0, -4.0]])
    >>> def function(x, which):
    ...     away = x - target[which]
    ...     return 0.5 * (away**2).sum(axis=1), away, np.tile(np.eye(2), (len(x), 1, 1))
    >>> x, value, _ = minimise(function, np.zeros((2, 2)), np.ones(2), tol=1e-12)
    >>> x.round(3).tolist()
    [[1.0, 2.0], [3.0, -4.0]]
    """
    x = x.copy()
    S, Q = x.shape
    value, gradient, curvature = function(x, np.arange(S))
    damping, factor = np.full(S, _DAMPING), np.full(S, 2.0)
    active = np.flatnonzero(np.isfinite(value))
    for _ in range(maxiter):
        if not len(active):
            break
        slope, A = gradient[active] * unit, curvature[active] * np.outer(unit, unit)
        diagonal = np.einsum("sqq->sq", A)
        least = _LEAST * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny
        damped = A.copy()
        damped[:, np.arange(Q), np.arange(Q)] += damping[active, None] * np.maximum(diagonal, least)
        step = -np.linalg.solve(damped, slope[:, :, None])[:, :, 0]
        promised = -(slope * step).sum(axis=1) - 0.5 * np.einsum("sp,spq,sq->s", step, A, step)
        going = promised > tol * np.minimum(1.0, value[active])
        active, step, promised = active[going], step[going], promised[going]
        there = x[active] + step * unit
        found, its_gradient, its_curvature = function(there, active)
        with np.errstate(invalid="ignore"):
            gain = (value[active] - found) / promised
        better = gain > 0.0
        moved, worse = active[better], active[~better]
        x[moved], value[moved] = there[better], found[better]
        gradient[moved], curvature[moved] = its_gradient[better], its_curvature[better]
        damping[moved] *= np.maximum(1.0 / 3.0, 1.0 - (2.0 * gain[better] - 1.0) ** 3)
        factor[moved] = 2.0
        damping[worse] *= factor[worse]
        factor[worse] *= 2.0
        active = active[damping[active] < _HIGHEST]
    return x, value, curvature
