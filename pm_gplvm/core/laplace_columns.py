"""Laplace's approximation of ln p(y_d given K) where entries given f are not Gaussian, and its gradient.

Each column is f = level + N(0, K), its entries independent given f. By Rasmussen & Williams (2006), algorithms
3.1 and 5.1: nothing is inverted but B = I + W^½ K W^½, whose eigenvalues are at least 1, so that K may be singular.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky

from pm_gplvm.core.checks import Array

Terms = tuple[Array, Array, Array, Array]
"""Of f (N, D): ln p(y given f), its first derivative, W = minus its second, at least 0, and the derivative of W.

All are 0 where an entry is missing.
"""

_STEPS = 100
_TOLERANCE = 1e-12  # of the value a column
_LONGEST = 5.0  # step of f: the exponential of a longer one may overflow


class LaplaceColumns(NamedTuple):
    """ln p(y_d given K), approximately, (D,); the mode of f (N, D); derivatives in K (N, N) and the levels (D,)."""

    value: Array
    mode: Array
    by_K: Array
    by_level: Array


def laplace_columns(
    K: Array, level: Array, terms: Callable[[Array], Terms], start: Array | None = None
) -> LaplaceColumns:
    """Find the mode of f in each column, and the log marginal likelihood about it.

    ``by_K`` is the derivative of the sum of values: symmetric, in the entries of K as if all were independent.
    ``start`` is K⁻¹(f - level), (N, D), zero by default. Entries must be log-concave in f.
    """
    N, D = len(K), len(level)
    a = np.zeros((N, D)) if start is None else start.copy()
    height, found = _height(K, level, terms, a)
    for _ in range(_STEPS):
        _, slope, W, _ = found
        b = W * (K @ a) + slope
        step = np.stack([_newton(K, W[:, d], b[:, d]) for d in range(D)], axis=1) - a
        length = np.minimum(1.0, _LONGEST / np.maximum(np.abs(K @ step).max(axis=0), _LONGEST))
        for _ in range(40):
            trial = a + length * step
            higher, at_trial = _height(K, level, terms, trial)
            if not (short := ~(higher >= height - _TOLERANCE * np.abs(height))).any():
                break
            length = np.where(short, 0.5 * length, length)
        gain = np.max(np.abs(higher - height) / np.maximum(np.abs(higher), 1.0))
        a, height, found = trial, higher, at_trial
        if gain < _TOLERANCE:
            break
    else:
        raise ValueError(
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
    return np.asarray(cholesky(np.eye(len(K)) + root[:, None] * K * root, lower=True))


def _newton(K: Array, W: Array, b: Array) -> Array:
    """(I + W K)⁻¹ b."""
    root = np.sqrt(W)
    solved = cho_solve((_factor(K, root), True), root * (K @ b))
    return np.asarray(b - root * solved)


def _at_the_mode(K: Array, level: Array, a: Array, found: Terms) -> LaplaceColumns:
    logp, _, W, of_W = found
    Ka = K @ a
    value = logp.sum(axis=0) - 0.5 * (a * Ka).sum(axis=0)
    by_K, by_level = 0.5 * a @ a.T, np.empty(a.shape[1])
    for d in range(a.shape[1]):
        root = np.sqrt(W[:, d])
        L = _factor(K, root)
        value[d] -= np.log(np.diag(L)).sum()
        R = root[:, None] * cho_solve((L, True), np.diag(root))  # (K + W⁻¹)⁻¹
        variance = np.diag(K) - np.einsum("nm,nm->n", K @ R, K)
        # The mode moves with K and the level, and W with the mode.
        s = -0.5 * variance * of_W[:, d]
        u = s - R @ (K @ s)
        half = 0.5 * np.outer(u, a[:, d])
        by_K += half + half.T - 0.5 * R
        by_level[d] = (a[:, d] + u).sum()
    return LaplaceColumns(value, level + Ka, by_K, by_level)
