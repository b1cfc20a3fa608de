"""Positions that follow from those before by a function with a Gaussian process prior: paths drawn step by step."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import cross_covariance, prior_variance

KERNEL = "rbf + linear"


@dataclass(frozen=True)
class Autoregression:
    """x' = f(x) + noise, each column of f N(0, K), known by transitions from ``before`` (M, Q) to ``after`` (M, Q).

    ``theta`` holds lengthscale, amplitude and weight, ``noise`` is a standard deviation.
    """

    before: Array
    after: Array
    theta: dict[str, Any]
    noise: float

    @cached_property
    def _known(self) -> tuple[Array, Array]:
        """L and L⁻¹ after, L Lᵀ = K + noise² I."""
        K = self.cross(self.before, self.before) + self.noise**2 * np.eye(len(self.before))
        chol = cholesky(K, lower=True)
        return chol, np.asarray(solve_triangular(chol, self.after, lower=True))

    def cross(self, X_new: Array, X: Array) -> Array:
        """K (..., S, M), without noise."""
        return cross_covariance(KERNEL, X_new, X, **self.theta)

    def variance(self, X: Array) -> Array:
        """Give the diagonal of K at X (..., Q)."""
        return prior_variance(
            KERNEL, X, amplitude=self.theta["amplitude"], weight=self.theta["weight"]
        )

    def given(self, X: Array) -> tuple[Array, Array, Array]:
        """Mean (P, Q) and variance (P,) of f at positions (P, Q), and L⁻¹ k (M, P)."""
        if not len(self.before):
            return np.zeros_like(X), self.variance(X), np.zeros((0, len(X)))
        chol, half = self._known
        root = np.asarray(solve_triangular(chol, self.cross(self.before, X), lower=True))
        return root.T @ half, self.variance(X) - (root**2).sum(axis=0), root

    def paths(self, start: Array, steps: int, rng: np.random.Generator) -> Array:
        """Draw P paths (P, steps, Q) on from positions (P, Q), each of one function of its own.

        A step is drawn given the transitions that are known and those of its path so far, so that a path that comes
        back to a place goes on as it did before, noise apart.
        """
        P, Q = start.shape
        way = np.empty((P, steps + 1, Q))
        way[:, 0] = start
        roots = np.empty((P, steps, len(self.before)))
        chol = np.zeros((P, steps, steps))
        white = np.empty((P, steps, Q))  # what the steps are made of
        for s in range(steps):
            x = way[:, s]
            mean, variance, root = self.given(x)
            roots[:, s] = root.T
            if s:
                # A further row of the Cholesky factor of this path's steps, given what is known.
                between = self._between(way[:, :s], x) - np.einsum(
                    "psm,pm->ps", roots[:, :s], root.T
                )
                row = np.linalg.solve(chol[:, :s, :s], between[..., None])[..., 0]
                chol[:, s, :s] = row
                mean = mean + np.einsum("ps,psq->pq", row, white[:, :s])
                variance = variance - (row**2).sum(axis=1)
            sd = np.sqrt(np.maximum(variance, 0.0) + self.noise**2)
            chol[:, s, s] = sd
            white[:, s] = rng.standard_normal((P, Q))
            way[:, s + 1] = mean + sd[:, None] * white[:, s]
        return way[:, 1:]

    def _between(self, X: Array, x: Array) -> Array:
        """K of each path's own positions (P, s, Q) and its last one (P, Q), (P, s)."""
        return self.cross(x[:, None], X)[:, 0]
