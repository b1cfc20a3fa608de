"""Moves that take single rows, or a few at once, to other places.

Gradients alone do not explore X: given all the others a row can often lie in several places, with
a barrier between them that no trajectory climbs. Here a row is taken out and put back at a place
chosen among many candidates z with the weights

    w(z) = p(z) p(yₙ given z, Z₋ₙ, Y₋ₙ, θ)^β / q(z),
    p(yₙ given z, …) = ∏_d N(y_nd; m_d(z), v(z)),

m and v being the Gaussian process conditional given the other rows. With the present place among
the candidates this is iterated sampling importance resampling (Andrieu, Doucet & Holenstein 2010,
JRSS B 72, section 4.1), which leaves the posterior invariant for any number of candidates and any
proposal q that does not depend on the row's own place. Several rows at once are taken out and
put back one after the other, accepted by the ratio of the mean weights met on the way forth and
back (configurational-bias Monte Carlo: Siepmann & Frenkel 1992, Molecular Physics 75, 59).

Taking out a row and putting it back change K⁻¹ by one outer product each, O(N²).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.spatial.distance import cdist

from pm_gplvm.checks import Array
from pm_gplvm.gaussian import invert, mirror
from pm_gplvm.kernels import KERNELS

__all__ = ["Proposal", "RowMoves", "RowPrior", "Theta", "choose", "put_back", "take_out"]

RowPrior = Callable[[int, Array], Array]

_FAR = 0.5  # share of the wide component, and of a choice that ignores Y, in the proposal


@dataclass(frozen=True)
class Theta:
    """A kernel with its hyperparameters at R states.

    Parameters
    ----------
    kernel : str
    amplitude, sigma, bias : ndarray, shape (R,)
    linear : ndarray, shape (R, 1, 1) or (R, 1, Q), optional
        Of a sum with a linear part: weight · lengthscale, the weight per unit of the Z in which
        rows move.
    """

    kernel: str
    amplitude: Array
    sigma: Array
    bias: Array
    linear: Array | None = None

    @property
    def _slopes(self) -> Array:
        """Standard deviations of the linear part's slopes, (R, 1, 1) or (R, 1, Q)."""
        if KERNELS[self.kernel].scaled is None:
            return self.amplitude[:, None, None]
        if self.linear is None:
            raise TypeError(f"kernel {self.kernel!r} needs the weights of its linear part.")
        return self.linear

    def cross(self, C: Array, Z: Array) -> Array:
        """k(C, Z) without noise: (R, M, Q) and (R, N, Q) to (R, M, N)."""
        entry = KERNELS[self.kernel]
        variance, offset = (self.amplitude**2)[:, None, None], (self.bias**2)[:, None, None]
        across = Z.transpose(0, 2, 1)
        if entry.scaled is None:
            value = np.zeros((len(C), C.shape[1], Z.shape[1]))
        else:
            s = squared_distances(C, Z, C @ across)
            s *= entry.unit
            value = entry.scaled(s, np.log(variance), np)[0]
        if entry.linear:
            value += (C * self._slopes**2) @ across
        if self.bias.any():
            value += offset
        return value

    def variance(self, C: Array) -> Array:
        """Variance of a new row at C before any data, noise included: (R, M, Q) to (R, M)."""
        entry = KERNELS[self.kernel]
        constant = self.bias**2 + self.sigma**2
        if entry.scaled is not None:
            constant = constant + self.amplitude**2
        variance = np.broadcast_to(constant[:, None], C.shape[:2])
        if not entry.linear:
            return variance
        return np.asarray(variance + ((self._slopes * C) ** 2).sum(axis=-1))

    def inverse(self, Z: Array) -> Array:
        """K⁻¹ at positions (R, N, Q), noise included, shape (R, N, N)."""
        K = self.cross(Z, Z)
        N = K.shape[1]
        rows = np.arange(N)
        K[:, rows, rows] = self.variance(Z)
        for each in K:
            if invert(each) is None:
                raise np.linalg.LinAlgError("K of a state with a finite density is singular.")
            mirror(each)
        return K


def squared_distances(C: Array, Z: Array, inner: Array) -> Array:
    """‖c - z‖² from inner products, which are overwritten."""
    inner *= -2.0
    inner += (C**2).sum(axis=-1)[:, :, None]
    inner += (Z**2).sum(axis=-1)[:, None, :]
    return np.maximum(inner, 0.0, out=inner)


@dataclass(frozen=True)
class Proposal:
    """Where a row's candidates come from: beside other rows, those alike in Y first, or far.

    Parameters
    ----------
    F : ndarray, shape (N, D)
        Standardised data, NaN where missing.
    width : float
        Standard deviation about another row, in lengthscales.
    """

    F: Array
    width: float = 0.3

    @cached_property
    def _rank(self) -> Array:
        return _distances(self.F).argsort(axis=1).argsort(axis=1).astype(np.float64)

    @cached_property
    def beside(self) -> Array:
        """Probability that row n's candidate lies beside row j, shape (N, N)."""
        N = len(self.F)
        near = 1.0 / (self._rank + 1.0)
        np.fill_diagonal(near, 0.0)
        near /= near.sum(axis=1, keepdims=True)
        return (1.0 - _FAR) * near + _FAR * (1.0 - np.eye(N)) / (N - 1)

    @cached_property
    def _together(self) -> Array:
        near = 1.0 / (self._rank + 1.0) ** 1.5
        np.fill_diagonal(near, 0.0)
        return near

    def group(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose rows that are alike in Y, to be moved together."""
        first = rng.integers(len(self.F))
        near = self._together[first] / self._together[first].sum()
        others = rng.choice(len(self.F), size=size - 1, replace=False, p=near)
        return np.concatenate([[first], others])

    def draw(
        self, n: int, M: int, Z: Array, present: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Draw M candidates of row n for each of R states.

        Returns
        -------
        C : ndarray, shape (R, M, Q)
        centre, spread : ndarray, shape (R, 1, Q)
            Of the wide component.
        """
        R, N, Q = Z.shape
        weights = self.beside[n] * present
        chosen = np.searchsorted(np.cumsum(weights), rng.random((R, M)) * weights.sum())
        chosen = np.minimum(chosen, N - 1)
        centre, spread = _wide(Z, present)
        steps = rng.standard_normal((R, M, Q))
        beside = Z[np.arange(R)[:, None], chosen] + self.width * steps
        far = rng.random((R, M, 1)) < _FAR
        return np.where(far, centre + spread * steps, beside), centre, spread

    def log_density(
        self, n: int, C: Array, Z: Array, present: Array, centre: Array, spread: Array
    ) -> Array:
        """Log-density of candidates (R, M, Q) up to a constant, shape (R, M)."""
        Q = Z.shape[2]
        weights = self.beside[n] * present
        near = squared_distances(C, Z, C @ Z.transpose(0, 2, 1))
        near *= -0.5 / self.width**2
        np.exp(near, out=near)
        density = near @ (weights / weights.sum()) * ((1.0 - _FAR) / self.width**Q)
        scaled = ((C - centre) / spread) ** 2
        density += np.exp(-0.5 * scaled.sum(axis=-1)) * (_FAR / spread.prod(axis=-1))
        return np.log(density)


def _distances(F: Array) -> Array:
    """Distances between the rows of a table, (N, N); of incomplete ones over common entries."""
    if not np.isnan(F).any():
        return cdist(F, F)
    from sklearn.metrics.pairwise import nan_euclidean_distances

    return np.nan_to_num(nan_euclidean_distances(F), nan=np.inf)


def _wide(Z: Array, present: Array) -> tuple[Array, Array]:
    """Mean and spread of the rows that are present, the spread made generous, (R, 1, Q) each."""
    total = present.sum()
    centre = np.einsum("n,rnq->rq", present, Z)[:, None] / total
    variance = np.einsum("n,rnq->rq", present, (Z - centre) ** 2)[:, None] / total
    return centre, np.sqrt(2.0 * variance + 0.25)


class RowMoves:
    """Moves of rows at R states at once.

    Parameters
    ----------
    Z : ndarray, shape (R, N, Q)
        Positions in lengthscales; the moves change them in place.
    theta : Theta
    F : ndarray, shape (N, D)
        Standardised data.
    beta : ndarray, shape (R,)
        Power of the likelihood.
    log_prior : callable
        Row number n and candidates (R, M, Q) to ln p(z), up to what does not depend on z, (R, M).
    proposal : Proposal
    rng : numpy.random.Generator
    """

    def __init__(
        self,
        Z: Array,
        theta: Theta,
        F: Array,
        beta: Array,
        log_prior: RowPrior,
        proposal: Proposal,
        rng: np.random.Generator,
    ) -> None:
        self.Z, self.theta, self.F, self.beta = Z, theta, F, beta
        self.log_prior, self.proposal, self.rng = log_prior, proposal, rng
        self.inverse = theta.inverse(Z)
        self.weights = self.inverse @ F

    def sweep(self, rows: NDArray[np.int64], n_candidates: int) -> Array:
        """Offer each of the rows other places, one after the other.

        Returns
        -------
        ndarray, shape (R,)
            Share of the rows that moved.
        """
        present = np.ones(len(self.F))
        moved = np.zeros(len(self.Z))
        states = np.arange(len(self.Z))
        for n in rows:
            present[n] = 0.0
            take_out(self.inverse, self.weights, n)
            C, *wide = self._candidates(n, n_candidates, self.Z, present)
            C = np.concatenate([self.Z[:, n, None], C], axis=1)
            log_weights, S, variance = self._weigh(
                n, C, self.Z, self.inverse, self.weights, present, wide
            )
            chosen = choose(log_weights, self.rng)
            self.Z[:, n] = C[states, chosen]
            back = S[states, chosen], variance[states, chosen]
            put_back(self.inverse, self.weights, n, *back, self.F)
            moved += chosen > 0
            present[n] = 1.0
        return moved / len(rows)

    def regrow(self, rows: Iterable[int], n_candidates: int) -> NDArray[np.bool_]:
        """Take several rows out and put them back, one after the other, as one move.

        Returns
        -------
        ndarray of bool, shape (R,)
            Where it was accepted.
        """
        bare, present = (self.inverse.copy(), self.weights.copy()), np.ones(len(self.F))
        for n in rows:
            take_out(*bare, n)
            present[n] = 0.0
        forth = self._put_back(rows, n_candidates, bare, present, keep=False)
        back = self._put_back(rows, n_candidates, bare, present, keep=True)
        accepted = np.log(self.rng.random(len(self.Z))) < forth[0] - back[0]
        for mine, new in zip((self.Z, self.inverse, self.weights), forth[1:], strict=True):
            mine[accepted] = new[accepted]
        return accepted

    def _put_back(
        self,
        rows: Iterable[int],
        n_candidates: int,
        bare: tuple[Array, Array],
        present: Array,
        *,
        keep: bool,
    ) -> tuple[Array, Array, Array, Array]:
        """Put rows back at chosen candidates, or where they were, and sum the log mean weights."""
        A, W = (part.copy() for part in bare)
        Z, present = self.Z.copy(), present.copy()
        states = np.arange(len(Z))
        total = np.zeros(len(Z))
        for n in rows:
            C, *wide = self._candidates(n, n_candidates, Z, present)
            if keep:
                C[:, 0] = self.Z[:, n]
            log_weights, S, variance = self._weigh(n, C, Z, A, W, present, wide)
            top = log_weights.max(axis=1)
            total += top + np.log(np.exp(log_weights - top[:, None]).sum(axis=1))
            chosen = np.zeros(len(Z), dtype=int) if keep else choose(log_weights, self.rng)
            Z[:, n] = C[states, chosen]
            put_back(A, W, n, S[states, chosen], variance[states, chosen], self.F)
            present[n] = 1.0
        return total, Z, A, W

    def _candidates(self, n: int, M: int, Z: Array, present: Array) -> tuple[Array, Array, Array]:
        return self.proposal.draw(n, M, Z, present, self.rng)

    def _weigh(
        self, n: int, C: Array, Z: Array, A: Array, W: Array, present: Array, wide: list[Array]
    ) -> tuple[Array, Array, Array]:
        """Log-weights (R, M) of candidates; k(C, Z) K⁻¹ and the conditional variances too."""
        cross = self.theta.cross(C, Z)
        cross *= present
        S = cross @ A
        explained = np.einsum("rmn,rmn->rm", S, cross)
        # It is at least that of the noise, which rounding may hide.
        noise = (self.theta.sigma**2)[:, None]
        variance = np.maximum(self.theta.variance(C) - explained, noise)
        residual = self.F[n] - cross @ W
        misfit = np.einsum("rmd,rmd->rm", residual, residual) / variance
        likelihood = -0.5 * (misfit + self.F.shape[1] * np.log(variance))
        log_weights = (
            self.beta[:, None] * likelihood
            + self.log_prior(n, C)
            - self.proposal.log_density(n, C, Z, present, *wide)
        )
        return np.where(np.isnan(log_weights), -np.inf, log_weights), S, variance


def choose(log_weights: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """One index a state, with probabilities proportional to the weights."""
    weights = np.cumsum(np.exp(log_weights - log_weights.max(axis=1, keepdims=True)), axis=1)
    below = weights < rng.random((len(weights), 1)) * weights[:, -1:]
    return np.minimum(below.sum(axis=1), weights.shape[1] - 1)


def take_out(A: Array, W: Array, n: int) -> None:
    """Turn K⁻¹ and K⁻¹F into those of the other rows; what belongs to row n becomes 0."""
    a = A[:, n].copy()
    scaled = a / a[:, n, None]
    _add_outer(A, -scaled, a)
    W -= scaled[:, :, None] * W[:, None, n]


def put_back(A: Array, W: Array, n: int, s: Array, variance: Array, F: Array) -> None:
    """Return row n to K⁻¹ and K⁻¹F, from s = K₋ₙ⁻¹ kₙ and its conditional variance."""
    u = s.copy()
    u[:, n] = -1.0
    scaled = u / variance[:, None]
    _add_outer(A, scaled, u)
    W += scaled[:, :, None] * (u @ F)[:, None, :]


def _add_outer(A: Array, u: Array, v: Array) -> None:
    """Add u vᵀ to A in place, in a fraction of the time that NumPy takes."""
    for own, left, right in zip(A, u, v, strict=True):
        blas.dger(1.0, right, left, a=own.T, overwrite_a=1)
