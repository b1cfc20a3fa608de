"""Mixtures of t-distributions about modes, one mixture a row, to draw places of rows from."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from pm_gplvm.checks import Array

__all__ = ["Proposals"]

_FREEDOM = 5.0  # degrees of freedom: tails heavier than the peaks' own
_CENTRES, _ADDED = 4, 0.5  # of an adaptation: how many, and their share


@dataclass(frozen=True)
class Proposals:
    """J t-distributions and the prior, mixed, for each of M rows.

    Parameters
    ----------
    at : ndarray, shape (M, J, Q)
    spread : ndarray, shape (M, J, Q, Q)
        Of a t-distribution with 5 degrees of freedom; its lower Cholesky factor.
    share : ndarray, shape (M, J + 1)
        Of each, the prior last; a sum of 1 for every row.
    mean, sd : ndarray, shape (M, Q)
        Of the prior.
    """

    at: Array
    spread: Array
    share: Array
    mean: Array
    sd: Array

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Places, shape (M, n, Q), each component in proportion to its share (stratified)."""
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
        """Add t-distributions about the weightiest of places drawn, as wide as those about them.

        One round of incremental mixture importance sampling (Raftery & Bao 2010), of several
        centres at once.

        Parameters
        ----------
        x : ndarray, shape (M, n, Q)
        log_ratio : ndarray, shape (M, n)
            Logarithms of the weights of x under this mixture.
        unit : ndarray, shape (Q,)
            In which distances are measured.

        References
        ----------
        Raftery, A. E., Bao, L. (2010). Estimating and projecting trends in HIV/AIDS generalized
        epidemics using incremental mixture importance sampling. Biometrics 66, 1162-1173.
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
            spread.append(np.linalg.cholesky(covariance))
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
    """Distances of x (M, n, Q) to ``at`` (M, Q) in the metric of spread spreadᵀ, and its ln det.

    Returns
    -------
    r2 : ndarray, shape (M, n)
    logdet : ndarray, shape (M,)
    """
    scaled = np.einsum("mpq,mnq->mnp", np.linalg.inv(spread), x - at[:, None])
    diagonal = np.diagonal(spread, axis1=1, axis2=2)
    return (scaled**2).sum(axis=2), 2.0 * np.log(diagonal).sum(axis=1)
