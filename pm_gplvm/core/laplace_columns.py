"""Laplace's approximation of ln p(y_d given K) where entries given f are not Gaussian, and its gradient.

Each column is f = level + N(0, K), its entries independent given f. By Rasmussen & Williams (2006), algorithms
3.1 and 5.1: nothing is inverted but B = I + W^½ K W^½, whose eigenvalues are at least 1, so that K may be singular.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from pm_gplvm.core.checks import Array

Terms = tuple[Array, Array, Array, Array]
"""Of f (N, D): ln p(y given f), its first derivative, W = minus its second, at least 0, and the derivative of W.

All are 0 where an entry is missing.
"""

_STEPS = 100
_TOLERANCE = 1e-12  # of the value a column
_LONGEST = 5.0  # step of f: the exponential of a longer one may overflow


class NoMode(ValueError):
    """No mode of f was found."""


class LaplaceColumns(NamedTuple):
    """ln p(y_d given K), approximately, (D,), what it was found at, and its derivatives."""

    value: Array
    mode: Array  # of f, (N, D)
    weights: Array  # K⁻¹(mode - level), (N, D): the slope of ln p(y given f) there
    variance: Array  # of f about its mode, (N, D)
    adjoint: Array  # (N, D): derivative of the value through what moves the mode, by what is added to the slope
    by_K: Array  # (N, N)
    by_level: Array  # (D,)


def laplace_columns(
    K: Array, level: Array, terms: Callable[[Array], Terms], start: Array | None = None
) -> LaplaceColumns:
    """Find the mode of f in each column, and the log marginal likelihood about it.

    ``by_K`` is the derivative of the sum of values: symmetric, in the entries of K as if all were independent.
    That in a parameter p of the entries is ∂/∂p Σ [ln p + ½ variance (ln p)'' + adjoint (ln p)'], at the mode, with
    the variance and the adjoint as they are. ``start`` is K⁻¹(f - level), (N, D), zero by default. Entries must be
    log-concave in f.
    """
    N, D = len(K), len(level)
    a = np.zeros((N, D))
    height, found = _height(K, level, terms, a)
    if start is not None:  # of another K it may be worse than none
        known, there = _height(K, level, terms, start)
        a = np.where(known > height, start, a)
        height, found = (known, there) if (known > height).all() else _height(K, level, terms, a)
    moving = np.ones(D, dtype=bool)
    for _ in range(_STEPS):
        _, slope, W, _ = found
        b = W * (K @ a) + slope
        step = np.zeros((N, D))
        for d in np.flatnonzero(moving):
            step[:, d] = _newton(K, W[:, d], b[:, d]) - a[:, d]
        length = np.minimum(1.0, _LONGEST / np.maximum(np.abs(K @ step).max(axis=0), _LONGEST))
        for _ in range(40):
            trial = a + length * step
            higher, at_trial = _height(K, level, terms, trial)
            if not (short := ~(higher >= height - _TOLERANCE * np.abs(height))).any():
                break
            length = np.where(short, 0.5 * length, length)
        gain = np.abs(higher - height) / np.maximum(np.abs(higher), 1.0)
        a, height, found = trial, higher, at_trial
        moving = moving & ~(gain < _TOLERANCE)
        if not moving.any():
            break
    else:
        raise NoMode(
            f"Newton's method found no mode of f in {_STEPS} steps. Are all entries log-concave in f?"
        )
    return _at_the_mode(K, level, a, found)


def _height(
    K: Array, level: Array, terms: Callable[[Array], Terms], a: Array
) -> tuple[Array, Terms]:
    """Ln p(y given f) - ½ (f - level)ᵀ K⁻¹ (f - level) of each column."""
    Ka = K @ a
    found = terms(level + Ka)
    return found[0].sum(axis=0) - 0.5 * (a * Ka).sum(axis=0), found


def _factor(K: Array, root: Array) -> Array:
    """Cholesky factor of B."""
    B = np.asfortranarray(root[:, None] * K * root)
    B.flat[:: len(K) + 1] += 1.0
    L, failed = lapack.dpotrf(B, lower=1, overwrite_a=1, clean=1)
    if failed:
        raise np.linalg.LinAlgError("B is not positive definite: K or W is not")
    return np.asarray(L)


def _solve(L: Array, b: Array) -> Array:
    """(LLᵀ)⁻¹ b."""
    return np.asarray(lapack.dpotrs(L, b, lower=1)[0])


def _newton(K: Array, W: Array, b: Array) -> Array:
    """(I + W K)⁻¹ b."""
    root = np.sqrt(W)
    solved = _solve(_factor(K, root), root * (K @ b))
    return np.asarray(b - root * solved)


def _covariance_inverse(K: Array, W: Array) -> tuple[Array, float]:
    """(K + W⁻¹)⁻¹ (N, N), and ½ ln|B|."""
    root = np.sqrt(W)
    L = _factor(K, root)
    return root[:, None] * _solve(L, np.diag(root)), float(np.log(np.diag(L)).sum())


def _at_the_mode(K: Array, level: Array, a: Array, found: Terms) -> LaplaceColumns:
    logp, _, W, of_W = found
    Ka, D = K @ a, a.shape[1]
    value = logp.sum(axis=0) - 0.5 * (a * Ka).sum(axis=0)
    variance, adjoint, u = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    total = np.zeros_like(K)
    for d in range(D):
        R, half_logdet = _covariance_inverse(K, W[:, d])
        value[d] -= half_logdet
        total += R
        KR = K @ R
        variance[:, d] = np.diag(K) - np.einsum("nm,nm->n", KR, K)
        # The mode moves with K, the level and the slope, and W with the mode.
        s = -0.5 * variance[:, d] * of_W[:, d]
        Ks = K @ s
        u[:, d] = s - R @ Ks
        adjoint[:, d] = Ks - KR @ Ks
    half = 0.5 * u @ a.T
    by_K = 0.5 * (a @ a.T - total) + half + half.T
    return LaplaceColumns(
        value, level + Ka, a, np.maximum(variance, 0.0), adjoint, by_K, (a + u).sum(axis=0)
    )
