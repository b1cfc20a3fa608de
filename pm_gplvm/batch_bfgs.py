"""BFGS for many small problems in step: each iteration is one evaluation of all that still move."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.checks import Array

__all__ = ["maximise"]

Index = NDArray[np.intp]

_SUFFICIENT = 1e-4  # of the rise that the slope promises (Armijo)
_SHRINK = 0.25
_SMALLEST = 1e-8  # fraction of a step below which a problem is given up
_ROUNDED = 1e-3  # a rise that no step, however short, brings about is lost in the values' rounding
_FIRST = 0.1  # length of the first step, in units
_LONGEST = 1.0


def maximise(
    function: Callable[[Array, Index], tuple[Array, Array]],
    x: Array,
    unit: Array,
    *,
    maxiter: int = 200,
    tol: float = 1e-6,
    inverse: Array | None = None,
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Climb from every point of its own to a maximum.

    Parameters
    ----------
    function : callable
        Points (S', Q) and which of the S problems they belong to, (S',), to values (S',) and
        gradients (S', Q).
    x : ndarray, shape (S, Q)
        Where to begin.
    unit : ndarray, shape (Q,)
        Length of a natural step in each dimension; none is longer.
    maxiter : int, default 200
        Evaluations of each problem.
    tol : float, default 1e-6
        A problem is done when its quadratic model promises a rise of less than this; or
        of less than 0.001 where no step brings any, as the values are not known better.
    inverse : ndarray, shape (S, Q, Q), optional
        Of the negative Hessian where each begins, as far as it is known: the first step is then
        that of Newton.

    Returns
    -------
    x : ndarray, shape (S, Q)
    value : ndarray, shape (S,)
    converged : ndarray of bool, shape (S,)

    References
    ----------
    Nocedal, J., Wright, S. J. (2006). Numerical Optimization. Springer. Algorithm 6.1.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([[1.0, 2.0], [3.0, -4.0]])
    >>> def function(x, which):
    ...     away = x - target[which]
    ...     return -(away**2).sum(axis=1), -2.0 * away
    >>> x, value, converged = maximise(function, np.zeros((2, 2)), np.ones(2))
    >>> x.round(3).tolist(), converged.tolist()
    ([[1.0, 2.0], [3.0, -4.0]], [True, True])
    """
    u = x / unit
    S, Q = u.shape
    everyone = np.arange(S)

    def evaluate(u: Array, which: Index) -> tuple[Array, Array]:
        value, gradient = function(u * unit, which)
        return value, gradient * unit

    value, gradient = evaluate(u, everyone)
    length = np.linalg.norm(gradient, axis=1)
    if inverse is None:
        H = (_FIRST / np.maximum(length, 1e-300))[:, None, None] * np.eye(Q)
    else:
        H = inverse / np.outer(unit, unit)
    fraction, fresh = np.ones(S), np.full(S, inverse is None)
    converged = length == 0.0
    active = everyone[~converged & np.isfinite(value)]
    for _ in range(maxiter):
        if not len(active):
            break
        slope = gradient[active]
        step = np.einsum("spq,sq->sp", H[active], slope)
        step /= np.maximum(np.linalg.norm(step, axis=1) / _LONGEST, 1.0)[:, None]
        step *= fraction[active, None]
        found, its = evaluate(u[active] + step, active)
        better = found >= value[active] + _SUFFICIENT * (step * slope).sum(axis=1)
        moved = active[better]
        H[moved] = _updated(H[moved], step[better], slope[better] - its[better], fresh[moved])
        u[moved] += step[better]
        value[moved], gradient[moved] = found[better], its[better]
        fresh[moved], fraction[moved] = False, 1.0
        fraction[active[~better]] *= _SHRINK
        promised = 0.5 * np.einsum("sp,spq,sq->s", gradient[active], H[active], gradient[active])
        enough = np.where(fraction[active] > _SMALLEST, tol, max(tol, _ROUNDED))
        converged[active] = ~fresh[active] & (promised < enough)
        active = active[~converged[active] & (fraction[active] > _SMALLEST)]
    return u * unit, value, converged


def _updated(H: Array, s: Array, y: Array, fresh: NDArray[np.bool_]) -> Array:
    """Update H by the BFGS formula, where the curvature is that of a maximum."""
    sy = np.einsum("sq,sq->s", s, y)
    curved = sy > 1e-10 * np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1)
    H = H.copy()
    first = curved & fresh  # the first step tells the scale (Nocedal & Wright 2006, eq. 6.20)
    size = (sy / np.maximum((y**2).sum(axis=1), 1e-300))[first]
    H[first] = size[:, None, None] * np.eye(s.shape[1])
    s, y, rho = s[curved], y[curved], 1.0 / sy[curved]
    left = np.eye(s.shape[1]) - rho[:, None, None] * s[:, :, None] * y[:, None, :]
    H[curved] = left @ H[curved] @ left.transpose(0, 2, 1)
    H[curved] += rho[:, None, None] * s[:, :, None] * s[:, None, :]
    return H
