"""Mixtures of Gaussians and t-distributions: priors of a position, and proposals for it.

What is computed for many rows at once is for each the same, to the last digit, as for it alone: sums
over a short axis are written out (:func:`over_last`), and products are of each row's own matrices.
"""

from collections.abc import Sequence
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
        squares = over_last((x[..., None, :] - self.centre) ** 2) / self.sd**2
        units = x.shape[-1] * (0.5 * np.log(2.0 * np.pi) + np.log(self.sd))
        return np.ascontiguousarray(np.log(self.share) - 0.5 * squares - units)

    def log_density(self, x: Array) -> Array:
        """Log-density of positions (..., Q), shape (...)."""
        return np.asarray(logsumexp(self._logs(x), axis=-1))

    def slope(self, x: Array) -> Array:
        """Gradient of the log-density, shape (..., Q)."""
        shares = softmax(self._logs(x), axis=-1)
        return np.asarray(((shares[..., None, :] @ self.centre)[..., 0, :] - x) / self.sd**2)


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

    def draw(self, n: int, streams: Sequence[np.random.Generator]) -> Array:
        """Positions, shape (M, n, Q), each component in proportion to its share (stratified).

        Each row draws from a stream of its own.
        """
        M, J, Q = self.at.shape
        level, z, square = np.empty((M, n)), np.empty((M, n, Q)), np.empty((M, n, 1))
        for m, stream in enumerate(streams):
            stream.random(out=level[m])
            stream.standard_normal(out=z[m])
            square[m, :, 0] = stream.chisquare(_FREEDOM, n)
        level = (np.arange(n) + level) / n
        part, total = np.zeros((M, n), dtype=np.intp), np.cumsum(self.share, axis=1)
        for j in range(J):
            part += level > total[:, j, None]
        heavy = z / np.sqrt(square / _FREEDOM)
        row, own = np.arange(M)[:, None], np.minimum(part, J - 1)
        about = self.at[row, own]
        for q in range(Q):
            about += self.spread[:, :, :, q][row, own] * heavy[:, :, q, None]
        prior = self.mean[:, None] + self.sd[:, None] * z
        return np.where((part == J)[:, :, None], prior, about)

    def log_density(self, x: Array) -> Array:
        """Logarithm of the mixture's density at x of shape (M, n, Q), shape (M, n)."""
        Q = x.shape[2]
        constant = gammaln(0.5 * (_FREEDOM + Q)) - gammaln(0.5 * _FREEDOM)
        constant -= 0.5 * Q * np.log(_FREEDOM * np.pi)
        scaled = (x - self.mean[:, None]) / self.sd[:, None]
        prior = -0.5 * over_last(scaled**2 + np.log(2.0 * np.pi))
        prior += (np.log(self.share[:, -1]) - over_last(np.log(self.sd)))[:, None]
        parts, top = [], prior.copy()
        for j in range(self.at.shape[1]):
            which = np.flatnonzero(self.share[:, j])  # most rows have few modes
            if not len(which):
                continue
            r2, logdet = squared_distances(x[which], self.at[which, j], self.spread[which, j])
            bell = -0.5 * (_FREEDOM + Q) * np.log1p(r2 / _FREEDOM)
            bell += (constant - 0.5 * logdet + np.log(self.share[which, j]))[:, None]
            top[which] = np.maximum(top[which], bell)
            parts.append((which, bell))
        total = np.exp(prior - top)
        for which, bell in parts:
            total[which] += np.exp(bell - top[which])
        return np.asarray(top + np.log(total))

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
            r2 = over_last((away / unit) ** 2)
            near = np.argpartition(r2, about - 1, axis=1)[:, :about]
            w, d = weight[row, near], away[row, near]
            weighted = d * (w / w.sum(axis=1, keepdims=True))[:, :, None]
            covariance = weighted.transpose(0, 2, 1) @ d
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
    scaled = (x - at[:, None]) @ np.linalg.inv(spread).transpose(0, 2, 1)
    diagonal = np.diagonal(spread, axis1=1, axis2=2)
    return over_last(scaled**2), 2.0 * over_last(np.log(diagonal))


def over_last(A: Array) -> Array:
    """Sum over a short last axis, in the order of its entries.

    NumPy chooses the order by how an array lies in memory, and that by how many rows there are.
    """
    total = A[..., 0].copy()
    for q in range(1, A.shape[-1]):
        total += A[..., q]
    return np.asarray(total)
