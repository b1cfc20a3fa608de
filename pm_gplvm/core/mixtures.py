"""Mixtures of Gaussians and t-distributions: priors of a position, and proposals for it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp, softmax

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import lower_factors

_FREEDOM = 5.0  # degrees of freedom: tails heavier than the modes' own
_CENTRES, _ADDED = 4, 0.5  # of an adaptation: how many, and their share


@dataclass(frozen=True)
class Mixture:
    """Prior of a position with several centres: Σ_k share_k N(centre_k, sd²).

    Shapes (K,) of ``share`` and (K, Q) of ``centre``.
    """

    share: Array
    centre: Array
    sd: float

    @property
    def mean(self) -> Array:
        """Mean, shape (Q,)."""
        return self.share @ self.centre

    @property
    def spread(self) -> Array:
        """Standard deviation in each dimension, shape (Q,)."""
        return np.sqrt(self.sd**2 + self.share @ (self.centre - self.mean) ** 2)

    def _logs(self, x: Array) -> Array:
        squares = ((x[..., None, :] - self.centre) ** 2).sum(axis=-1) / self.sd**2
        units = x.shape[-1] * (0.5 * np.log(2.0 * np.pi) + np.log(self.sd))
        return np.asarray(np.log(self.share) - 0.5 * squares - units)

    def log_density(self, x: Array) -> Array:
        """Log-density of positions (..., Q), shape (...)."""
        return np.asarray(logsumexp(self._logs(x), axis=-1))

    def slope(self, x: Array) -> Array:
        """Gradient of the log-density, shape (..., Q)."""
        return np.asarray((softmax(self._logs(x), axis=-1) @ self.centre - x) / self.sd**2)


@dataclass(frozen=True)
class Proposals:
    """For each of M rows J t-distributions and the prior, mixed, to draw positions from.

    ``at`` (M, J, Q) and ``spread`` (M, J, Q, Q), the lower Cholesky factor, are of t-distributions with
    5 degrees of freedom. ``share`` (M, J + 1) is that of each, the prior last; ``mean`` and ``sd`` (M, Q)
    are the prior's.
    """

    at: Array
    spread: Array
    share: Array
    mean: Array
    sd: Array

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Positions, shape (M, n, Q), each component in proportion to its share (stratified)."""
        M, J, Q = self.at.shape
        level = (np.arange(n) + rng.uniform(size=(M, n))) / n
        below = np.cumsum(self.share, axis=1)[:, None, :-1]
        part = (level[:, :, None] > below).sum(axis=2)
        z = rng.standard_normal((M, n, Q))
        heavy = z / np.sqrt(rng.chisquare(_FREEDOM, (M, n, 1)) / _FREEDOM)
        row, own = np.arange(M)[:, None], np.minimum(part, J - 1)
        about = self.at[row, own] + np.einsum("mnpq,mnq->mnp", self.spread[row, own], heavy)
        prior = self.mean[:, None] + self.sd[:, None] * z
        return np.where((part == J)[:, :, None], prior, about)

    def log_density(self, x: Array) -> Array:
        """Logarithm of the mixture's density at x of shape (M, n, Q), shape (M, n)."""
        Q = x.shape[2]
        constant = gammaln(0.5 * (_FREEDOM + Q)) - gammaln(0.5 * _FREEDOM)
        constant -= 0.5 * Q * np.log(_FREEDOM * np.pi)
        scaled = (x - self.mean[:, None]) / self.sd[:, None]
        prior = -0.5 * (scaled**2 + np.log(2.0 * np.pi)).sum(axis=2)
        logs = [prior - np.log(self.sd).sum(axis=1)[:, None]]
        for j in reversed(range(self.at.shape[1])):
            r2, logdet = squared_distances(x, self.at[:, j], self.spread[:, j])
            bell = -0.5 * (_FREEDOM + Q) * np.log1p(r2 / _FREEDOM)
            logs.insert(0, constant - 0.5 * logdet[:, None] + bell)
        with np.errstate(divide="ignore"):
            weighted = np.stack(logs, axis=2) + np.log(self.share)[:, None]
        return np.asarray(logsumexp(weighted, axis=2))

    def adapted(self, x: Array, log_ratio: Array, unit: Array) -> "Proposals":
        """Add t-distributions about the heaviest of positions x (M, n, Q), as wide as those about them.

        One round of incremental mixture importance sampling (Raftery & Bao 2010, Biometrics 66) of
        several centres at once. ``log_ratio`` (M, n) are the log weights of x under this mixture,
        ``unit`` (Q,) is that in which distances are measured.
        """
        M, n, _ = x.shape
        row, every = np.arange(M)[:, None], np.arange(M)
        weight = np.exp(log_ratio - logsumexp(log_ratio, axis=1, keepdims=True)) + 1.0 / n
        left, about = log_ratio.copy(), n // _CENTRES
        at, spread = [], []
        for _ in range(_CENTRES):
            centre = x[every, left.argmax(axis=1)]
            away = x - centre[:, None]
            r2 = ((away / unit) ** 2).sum(axis=2)
            near = np.argpartition(r2, about - 1, axis=1)[:, :about]
            w, d = weight[row, near], away[row, near]
            covariance = np.einsum("mn,mnp,mnq->mpq", w / w.sum(axis=1, keepdims=True), d, d)
            at.append(centre)
            spread.append(lower_factors(covariance))
            left[row, near] = -np.inf
        share = np.full((M, _CENTRES), _ADDED / _CENTRES)
        return Proposals(
            np.concatenate([np.stack(at, axis=1), self.at], axis=1),
            np.concatenate([np.stack(spread, axis=1), self.spread], axis=1),
            np.concatenate([share, (1.0 - _ADDED) * self.share], axis=1),
            self.mean,
            self.sd,
        )


def squared_distances(x: Array, at: Array, spread: Array) -> tuple[Array, Array]:
    """Distances (M, n) of x (M, n, Q) to ``at`` (M, Q) in the metric of spread spreadᵀ, and its ln det (M,)."""
    scaled = np.einsum("mpq,mnq->mnp", np.linalg.inv(spread), x - at[:, None])
    diagonal = np.diagonal(spread, axis1=1, axis2=2)
    return (scaled**2).sum(axis=2), 2.0 * np.log(diagonal).sum(axis=1)
