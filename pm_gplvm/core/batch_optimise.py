"""Many small problems in step: each iteration is one evaluation of all that still move.

A problem has its own steps, tolerance and end, and what it is given back depends on it alone: no sum
here goes over problems, nor one whose order of terms does (``np.einsum`` chooses that by the shapes).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array

Index = NDArray[np.intp]

# BFGS
_SUFFICIENT = 1e-4  # of the rise that the slope promises (Armijo)
_SHRINK = 0.25
_SMALLEST = 1e-8  # fraction of a step below which a problem is given up
_ROUNDED = 1e-3  # a rise that no step, however short, brings about is lost in the values' rounding
_FIRST = 0.1  # length of the first step, in units
_LONGEST = 1.0

# Levenberg-Marquardt
_DAMPING = 1e-2  # of the first step, relative to the curvature in each dimension
_HIGHEST = 1e12  # damping at which a problem is given up
_LEAST = 1e-12  # curvature, relative to the greatest dimension's, that is divided by


def maximise(
    function: Callable[[Array, Index], tuple[Array, Array]],
    x: Array,
    unit: Array,
    *,
    max_iter: int = 200,
    tol: float = 1e-6,
    inverse: Array | None = None,
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Maximise from every one of S starting points x (S, Q) by BFGS (Nocedal & Wright 2006, algorithm 6.1).

    ``function`` maps points (S', Q) and which of the problems they belong to, (S',), to values (S',)
    and gradients (S', Q). ``unit`` (Q,) is the length of a natural step in each dimension; none is
    longer. A problem is done when its quadratic model promises a rise of less than ``tol``; or of less
    than 0.001 where no step brings any, as the values are not known better. ``inverse`` (S, Q, Q), that
    of the negative Hessian at the start, makes the first step Newton's. Returns x, the values there
    and whether each converged, within ``max_iter`` evaluations.

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
    for _ in range(max_iter):
        if not len(active):
            break
        slope = gradient[active]
        step = (H[active] @ slope[:, :, None])[:, :, 0]
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
        promised = 0.5 * _quadratic(H[active], gradient[active])
        enough = np.where(fraction[active] > _SMALLEST, tol, max(tol, _ROUNDED))
        converged[active] = ~fresh[active] & (promised < enough)
        active = active[~converged[active] & (fraction[active] > _SMALLEST)]
    return u * unit, value, converged


def _quadratic(A: Array, v: Array) -> Array:
    """Σ_pq v_p A_pq v_q of each problem, shape (S,)."""
    return (v * (A @ v[:, :, None])[:, :, 0]).sum(axis=1)


def _updated(H: Array, s: Array, y: Array, fresh: NDArray[np.bool_]) -> Array:
    """Update H by the BFGS formula, where the curvature is that of a maximum."""
    sy = (s * y).sum(axis=1)
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


def minimise(
    function: Callable[[Array, Index], tuple[Array, Array, Array]],
    x: Array,
    unit: Array,
    *,
    max_iter: int = 50,
    tol: float = 1e-4,
) -> tuple[Array, Array, Array]:
    """Minimise half a sum of squares from every one of S starting points x (S, Q).

    Levenberg-Marquardt with Marquardt's damping (Madsen, Nielsen & Tingleff 2004, algorithm 3.16).
    ``function`` maps points (S', Q) and which of the problems they belong to, (S',), to values |r|²/2
    (S',), gradients Jᵀr (S', Q) and curvatures JᵀJ (S', Q, Q). A problem is done when the next step
    promises to lower it by less than ``tol``, or by less than this part of its value. Returns x, and
    the values and curvatures there.

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
    for _ in range(max_iter):
        if not len(active):
            break
        slope, A = gradient[active] * unit, curvature[active] * np.outer(unit, unit)
        diagonal = np.einsum("sqq->sq", A)
        least = _LEAST * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny
        damped = A.copy()
        damped[:, np.arange(Q), np.arange(Q)] += damping[active, None] * np.maximum(diagonal, least)
        step = -np.linalg.solve(damped, slope[:, :, None])[:, :, 0]
        promised = -(slope * step).sum(axis=1) - 0.5 * _quadratic(A, step)
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
