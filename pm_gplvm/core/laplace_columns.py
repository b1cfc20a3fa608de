"""Laplace's approximation of ln p(y_d given K) where entries given f are not Gaussian, and its gradient.

Each column is f = level + N(0, K), its entries independent given f. By Rasmussen & Williams (2006), algorithms
3.1 and 5.1: nothing is inverted but B = I + W^½ K W^½, whose eigenvalues are at least 1, so that K may be singular.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import mirror
from pm_gplvm.core.kernels import (
    cross_and_rate,
    cross_pullback,
    cross_slope,
    prior_slope_variance,
    prior_variance,
)

Terms = tuple[Array, Array, Array, Array]
"""Of f (N, D): ln p(y given f), its first derivative, W = minus its second, at least 0, and the derivative of W.

All are 0 where an entry is missing.
"""

_STEPS = 100
_TOLERANCE = 1e-12  # of the value a column
_LEAST_VARIANCE = 1e-10
_TOLD = 1e-3  # W times the variance before any data, above which an entry tells something
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


def _inverse(K: Array, root: Array) -> tuple[Array, float]:
    """B⁻¹ (N, N), and ½ ln|B|."""
    L = _factor(K, root)
    half_logdet = float(np.log(np.diag(L)).sum())
    inverse = np.asarray(lapack.dpotri(L, lower=1, overwrite_c=1)[0])
    mirror(inverse)
    return inverse, half_logdet


def _at_the_mode(K: Array, level: Array, a: Array, found: Terms) -> LaplaceColumns:
    logp, _, W, of_W = found
    Ka, D = K @ a, a.shape[1]
    value = logp.sum(axis=0) - 0.5 * (a * Ka).sum(axis=0)
    variance, adjoint, u = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    total = np.zeros_like(K)
    for d in range(D):
        root = np.sqrt(W[:, d])
        inverse, half_logdet = _inverse(K, root)
        value[d] -= half_logdet
        variance[:, d] = _variance(K, W[:, d], root, inverse)
        inverse *= root
        inverse *= root[:, None]  # now (K + W⁻¹)⁻¹
        total += inverse
        # The mode moves with K, the level and the slope, and W with the mode.
        s = -0.5 * variance[:, d] * of_W[:, d]
        u[:, d] = s - inverse @ (K @ s)
        adjoint[:, d] = K @ u[:, d]
    half = 0.5 * u @ a.T
    by_K = 0.5 * (a @ a.T - total) + half + half.T
    return LaplaceColumns(
        value, level + Ka, a, np.maximum(variance, 0.0), adjoint, by_K, (a + u).sum(axis=0)
    )


def _variance(K: Array, W: Array, root: Array, inverse: Array) -> Array:
    """Diagonal of K - K (K + W⁻¹)⁻¹ K, from B⁻¹: that of W^½ (...) W^½ is 1 - B⁻¹."""
    prior = np.diag(K)
    told = prior * W > _TOLD
    variance = np.where(told, (1.0 - np.diag(inverse)) / np.where(told, W, 1.0), 0.0)
    few = np.flatnonzero(~told)  # where all digits of that difference would be lost
    if len(few):
        cross = K[few] * root
        variance[few] = prior[few] - ((cross @ inverse) * cross).sum(axis=1)
    return variance


@dataclass(frozen=True)
class ColumnModes:
    """The functions of columns about their modes, at other positions too.

    With k the vector of k(x, X), column d has the mean level + kᵀ weights_d and the variance
    k(x, x) - kᵀ (K + W_d⁻¹)⁻¹ k (Rasmussen & Williams 2006, eq. 3.21 and 3.24).
    """

    kernel: str
    X: Array  # (N, Q)
    theta: dict[str, Any]
    level: Array  # (D,)
    weights: Array  # (N, D)
    curvature: Array  # W, (N, D)

    @cached_property
    def reductions(self) -> list[Array]:
        """(K + W⁻¹)⁻¹ of each column, (N, N)."""
        K, roots = self.cross(self.X), np.sqrt(self.curvature.T)
        return [root[:, None] * _inverse(K, root)[0] * root for root in roots]

    def cross(self, X: Array) -> Array:
        """k(x, X) at positions (S, Q), shape (S, N)."""
        return cross_and_rate(self.kernel, X, self.X, **self.theta)[0]

    def prior_variance(self, X: Array) -> Array:
        """k(x, x), shape (S,)."""
        theta = {name: value for name, value in self.theta.items() if name != "lengthscale"}
        return prior_variance(self.kernel, X, **theta)

    def moments(self, X: Array) -> tuple[Array, Array]:
        """Mean and variance (S, D) of f."""
        cross, prior = self.cross(X), self.prior_variance(X)
        return self.level + cross @ self.weights, self._variance(cross, prior)

    def _variance(self, cross: Array, prior: Array) -> Array:
        known = [((cross @ R) * cross).sum(axis=1) for R in self.reductions]
        return np.maximum(prior[:, None] - np.stack(known, axis=1), _LEAST_VARIANCE)

    def joint(self, X: Array) -> tuple[Array, Array]:
        """Mean (S, D) and covariance (S, S, D) of f at all positions."""
        cross = self.cross(X)
        prior = cross_and_rate(self.kernel, X, X, **self.theta)[0]
        covariance = np.stack([prior - cross @ R @ cross.T for R in self.reductions], axis=2)
        return self.level + cross @ self.weights, covariance

    def pullback(self, X: Array, by_mean: Array, by_variance: Array) -> Array:
        """Gradient in the positions (S, Q), from derivatives in mean and variance (S, D)."""
        cross, rate = cross_and_rate(self.kernel, X, self.X, **self.theta)
        by_cross = by_mean @ self.weights.T
        for d, R in enumerate(self.reductions):
            by_cross -= 2.0 * by_variance[:, d, None] * (cross @ R)
        by_prior = by_variance.sum(axis=1)
        return cross_pullback(self.kernel, X, self.X, rate, by_cross, by_prior, **self.theta)

    def slope_of_mean(self, X: Array) -> Array:
        """∂mean/∂x, (S, Q, D)."""
        return cross_slope(self.kernel, X, self.X, **self.theta) @ self.weights

    def slope_covariance(self, X: Array, weight: Array) -> Array:
        """Covariance of the slopes in x, summed over the columns with a weight (D,) of each, (S, Q, Q)."""
        slope = cross_slope(self.kernel, X, self.X, **self.theta)
        prior = np.diag(prior_slope_variance(self.kernel, X.shape[1], **self.theta))
        known = sum(w * R for w, R in zip(weight, self.reductions, strict=True))
        return weight.sum() * prior - slope @ known @ slope.transpose(0, 2, 1)

    @cached_property
    def at_rows(self) -> tuple[Array, Array]:
        """Mean and variance (N, D) of f at the rows' own positions."""
        return self.moments(self.X)

    @property
    def left_out(self) -> tuple[Array, Array]:
        """Mean and variance (N, D) of f at each row given the other entries of its column, about this mode.

        What an entry has told, N(f; W), is taken out of its posterior (Vehtari et al. 2016, JMLR 17 (103)).
        """
        mean, variance = self.at_rows
        left = variance / np.maximum(1.0 - variance * self.curvature, _LEAST_VARIANCE)
        return mean - left * self.weights, left
