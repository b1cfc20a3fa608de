"""Gibbs updates of single rows of X, and block updates of several, at many states at once.

Gradients alone do not explore X: given all the others a row can often lie in several positions, with
a barrier between them that no trajectory crosses. A Gibbs update removes a row and inserts it again
at one of many proposals z, chosen with the weights

    w(z) = p(z) p(yₙ given z, Z₋ₙ, Y₋ₙ, θ)^β / q(z),
    p(yₙ given z, …) = ∏_g ∏_{d ∈ g} N(y_nd; m_d(z), v_g(z)).

m and v are the Gaussian process conditional given the other rows. A missingness pattern g is the set
of columns that have the same rows observed: each has a K_g⁻¹ of its own, and a complete table has one.

With the present position among the proposals this is iterated sampling importance resampling
(Andrieu, Doucet & Holenstein 2010, JRSS B 72, section 4.1). It leaves the posterior invariant for
any number of proposals and any q that does not depend on the row's own position. A block update
removes several rows, inserts them one after the other, and is accepted by the ratio of the mean
weights met on the way forth and back (configurational-bias Monte Carlo: Siepmann & Frenkel 1992,
Molecular Physics 75, 59).

Removing and inserting a row change K_g⁻¹ by one outer product each, O(N²).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from pm_gplvm.core.checks import Array
from pm_gplvm.core.distances import distances_from_products
from pm_gplvm.core.gaussian import column_patterns, invert, mirror
from pm_gplvm.core.kernels import (
    KERNELS,
    beside,
    cross_covariance,
    is_composite,
    prior_variance,
)
from pm_gplvm.core.row_loops import TINY, WIDE, WIDTH

LogPrior = Callable[[int, Array], Array]


@dataclass(frozen=True)
class Theta:
    """A kernel in units of the lengthscale, with its hyperparameters at R states.

    amplitude, sigma and bias are (R,). weight, that of a linear part for each unit of Z, is (R, 1, 1)
    or (R, 1, Q).
    """

    kernel: str
    amplitude: Array
    sigma: Array
    bias: Array
    weight: Array

    @classmethod
    def of(
        cls, kernel: str, values: Mapping[str, Any], n_states: int, floor: float
    ) -> tuple["Theta", Array]:
        """Read θ off values (R, ...) by name, and the lengthscale, (R, 1, 1) or (R, 1, Q).

        What is not among the values has its default. ``floor`` is noise besides sigma. Of a kernel of several
        factors the unit is 1 and Z are the positions themselves.
        """
        if is_composite(kernel):
            return CompositeTheta.read(kernel, values, n_states, floor), np.ones((n_states, 1, 1))

        def each(name: str, default: float) -> Array:
            return np.asarray(values.get(name, np.full(n_states, default)), dtype=np.float64)

        lengthscale = each("lengthscale", 1.0).reshape(n_states, 1, -1)
        amplitude = each("amplitude", 1.0)
        # By itself the linear part has no weight of its own.
        weight = amplitude if KERNELS[kernel].scaled is None else each("weight", 1.0)
        sigma = np.hypot(each("sigma", 0.0), floor)
        per_unit = weight[:, None, None] * lengthscale
        return cls(kernel, amplitude, sigma, each("bias", 0.0), per_unit), lengthscale

    def cross(self, C: Array, Z: Array) -> Array:
        """k(C, Z) without noise: (R, M, Q) and (R, N, Q) to (R, M, N)."""
        return cross_covariance(self.kernel, C, Z, **self._against((-1, 1, 1)))

    def variance(self, C: Array) -> Array:
        """Prior variance of a new row at C, noise included: (R, M, Q) to (R, M)."""
        return prior_variance(self.kernel, C, **self._against((-1, 1))) + self.sigma[:, None] ** 2

    def _against(self, shape: tuple[int, ...]) -> dict[str, Array]:
        """Shape the parameters so that amplitude and bias broadcast against an array like this."""
        # By itself the linear part takes its weight for amplitude.
        amplitude = self.amplitude.reshape(shape) if KERNELS[self.kernel].scaled else self.weight
        return {"amplitude": amplitude, "weight": self.weight, "bias": self.bias.reshape(shape)}

    def inverse(self, Z: Array) -> Array:
        """K⁻¹ at positions (R, N, Q), noise included, shape (R, N, N)."""
        K = self.cross(Z, Z)
        rows = np.arange(K.shape[1])
        K[:, rows, rows] = self.variance(Z)
        for each in K:
            if invert(each) is None:
                raise np.linalg.LinAlgError("K of a state with a finite density is singular.")
            mirror(each)
        return K


@dataclass(frozen=True)
class CompositeTheta(Theta):
    """A kernel of several factors at R states, at positions in their own units.

    ``amplitude`` is (R, T), ``factors`` has what else the factors have, (R, L) and (R, A).
    """

    factors: Mapping[str, Array]

    @classmethod
    def read(
        cls, kernel: str, values: Mapping[str, Any], n_states: int, floor: float
    ) -> "CompositeTheta":
        """Read θ off values (R, ...) by name."""
        none = np.zeros(n_states)
        sigma = np.hypot(np.asarray(values.get("sigma", none)), floor)
        bias = np.asarray(values.get("bias", none))
        factors = {n: np.asarray(values[n]) for n in ("lengthscale", "alpha") if n in values}
        amplitude = np.asarray(values["amplitude"])
        return cls(kernel, amplitude, sigma, bias, np.ones((n_states, 1, 1)), factors)

    def cross(self, C: Array, Z: Array) -> Array:
        """k(C, Z) without noise: (R, M, Q) and (R, N, Q) to (R, M, N)."""
        scales = {"amplitude": self.amplitude, "bias": self.bias[:, None, None]}
        return cross_covariance(self.kernel, C, Z, **scales, **self.factors)

    def variance(self, C: Array) -> Array:
        """Prior variance of a new row at C, noise included: (R, M, Q) to (R, M)."""
        scales = {"amplitude": self.amplitude, "bias": self.bias[:, None]}
        return prior_variance(self.kernel, C, **scales) + self.sigma[:, None] ** 2


@dataclass
class Part:
    """The columns of one missingness pattern at R states.

    F (N, D_g) is 0 where a row is not observed. The rows and columns of K⁻¹ that belong to such a row,
    or to one that was removed, are 0: nothing else need be told of it.
    """

    seen: NDArray[np.bool_]  # (N,)
    F: Array
    inverse: Array  # K⁻¹, (R, N, N)
    weights: Array  # K⁻¹ F, (R, N, D_g)

    @classmethod
    def of(cls, theta: Theta, Z: Array, rows: NDArray[np.intp], block: Array) -> "Part":
        """Set up the pattern with these rows observed, at positions (R, N, Q)."""
        R, N, _ = Z.shape
        seen = np.zeros(N, dtype=bool)
        seen[rows] = True
        F, inverse = block, theta.inverse(Z[:, rows])
        if len(rows) < N:
            part, inverse = inverse, np.zeros((R, N, N))
            inverse[np.ix_(np.arange(R), rows, rows)] = part
            F = np.zeros((N, block.shape[1]))
            F[rows] = block
        return cls(seen, F, inverse, inverse @ F)

    def copy(self) -> "Part":
        """Copy what the updates change."""
        return Part(self.seen, self.F, self.inverse.copy(), self.weights.copy())

    def remove(self, n: int) -> None:
        """Turn K⁻¹ and K⁻¹F into those of the other rows, in place."""
        a = self.inverse[:, n].copy()
        scaled = a / a[:, n, None]
        _add_outer(self.inverse, -scaled, a)
        self.weights -= scaled[:, :, None] * self.weights[:, None, n]

    def insert(self, n: int, s: Array, variance: Array) -> None:
        """Insert row n, from s = K₋ₙ⁻¹ kₙ (R, N) and its conditional variance (R,), in place."""
        u = s.copy()
        u[:, n] = -1.0
        scaled = u / variance[:, None]
        _add_outer(self.inverse, scaled, u)
        self.weights += scaled[:, :, None] * (u @ self.F)[:, None, :]

    def leave_out(self, n: int, cross: Array) -> None:
        """Set k(c, zₙ) so that products of ``cross`` (R, M, N) with K⁻¹ are those with K₋ₙ⁻¹.

        K₋ₙ⁻¹ = K⁻¹ - aaᵀ/aₙ with a the column n of K⁻¹. This spares removing a row that stays.
        """
        a = self.inverse[:, n]
        cross[..., n] = 0.0
        cross[..., n] = (cross @ a[:, :, None])[..., 0] / -a[:, n, None]

    def squared_residual(self, n: int, cross: Array) -> Array:
        """Squared distance (R, M) of row n to its prediction from k(c, Z) (R, M, N)."""
        residual = self.F[n] - cross @ self.weights
        return np.einsum("rmd,rmd->rm", residual, residual)

    def conditional(self, cross: Array, prior: Array, noise: Array) -> tuple[Array, Array]:
        """k(c, Z) K⁻¹ (R, M, N), and the variance (R, M) of a new row given the others.

        ``prior`` (R, M) and ``noise`` (R, 1) are variances.
        """
        S = cross @ self.inverse
        # It is at least that of the noise, which rounding may hide.
        return S, np.maximum(prior - np.einsum("rmn,rmn->rm", S, cross), noise)

    def log_density(self, squared: Array, variance: Array) -> Array:
        """Log-density of a row from its squared residual and variance, up to a constant."""
        return np.asarray(-0.5 * (squared / variance + self.F.shape[1] * np.log(variance)))


def _add_outer(A: Array, u: Array, v: Array) -> None:
    """Add u vᵀ to A in place, in a fraction of the time that NumPy takes."""
    for own, left, right in zip(A, u, v, strict=True):
        blas.dger(1.0, right, left, a=own.T, overwrite_a=1)


@dataclass(frozen=True)
class Proposal:
    """q: a normal beside another row, one that is alike in Y first, or about all of them.

    F (N, D) is standardised and NaN where missing; ``width`` is in lengthscales.
    """

    F: Array
    width: float = WIDTH

    @cached_property
    def _rank(self) -> Array:
        return _distances(self.F).argsort(axis=1).argsort(axis=1).astype(np.float64)

    @cached_property
    def beside(self) -> Array:
        """Probability that row n is proposed beside row j, shape (N, N)."""
        N = len(self.F)
        near = 1.0 / (self._rank + 1.0)
        np.fill_diagonal(near, 0.0)
        near /= near.sum(axis=1, keepdims=True)
        return (1.0 - WIDE) * near + WIDE * (1.0 - np.eye(N)) / (N - 1)

    @cached_property
    def _together(self) -> Array:
        near = 1.0 / (self._rank + 1.0) ** 1.5
        np.fill_diagonal(near, 0.0)
        return near

    def block(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose rows that are alike in Y, to be updated together."""
        first = rng.integers(len(self.F))
        near = self._together[first] / self._together[first].sum()
        others = rng.choice(len(self.F), size=size - 1, replace=False, p=near)
        return np.concatenate([[first], others])

    def draw(
        self, n: int, M: int, Z: Array, present: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Draw M proposals (R, M, Q) of row n; mean and spread of the wide component, (R, 1, Q) each."""
        R, N, Q = Z.shape
        weights = self.beside[n] * present
        chosen = np.searchsorted(np.cumsum(weights), rng.random((R, M)) * weights.sum())
        chosen = np.minimum(chosen, N - 1)
        centre, spread = wide_component(Z, present)
        steps = rng.standard_normal((R, M, Q))
        beside = Z[np.arange(R)[:, None], chosen] + self.width * steps
        wide = rng.random((R, M, 1)) < WIDE
        return np.where(wide, centre + spread * steps, beside), centre, spread

    def log_density(
        self, n: int, C: Array, Z: Array, present: Array, centre: Array, spread: Array
    ) -> Array:
        """Log-density q of proposals (R, M, Q) up to a constant, shape (R, M)."""
        Q = Z.shape[2]
        weights = self.beside[n] * present
        near = distances_from_products(C, Z, C @ Z.transpose(0, 2, 1))
        near *= -0.5 / self.width**2
        np.exp(near, out=near)
        density = near @ (weights / weights.sum()) * ((1.0 - WIDE) / self.width**Q)
        wide = -0.5 * (((C - centre) / spread) ** 2).sum(axis=-1)
        scale = WIDE / spread.prod(axis=-1)
        density += np.exp(wide) * scale
        # Far from all other rows both underflow; the wide component falls more slowly.
        return np.where(density < TINY, wide + np.log(scale), np.log(np.maximum(density, TINY)))


def _distances(F: Array) -> Array:
    """Distances between the rows of a table, (N, N); of incomplete ones over common entries."""
    if not np.isnan(F).any():
        return cdist(F, F)
    from sklearn.metrics.pairwise import nan_euclidean_distances

    return np.nan_to_num(nan_euclidean_distances(F), nan=np.inf)


def wide_component(Z: Array, present: Array) -> tuple[Array, Array]:
    """Mean and spread of the rows that are present, the spread made generous, (R, 1, Q) each."""
    total = present.sum()
    centre = np.einsum("n,rnq->rq", present, Z)[:, None] / total
    variance = np.einsum("n,rnq->rq", present, (Z - centre) ** 2)[:, None] / total
    return centre, np.sqrt(2.0 * variance + 0.25)


@dataclass(frozen=True)
class TableAt:
    """A table F (N, D), standardised and NaN where missing, with its θ at R states.

    ``stretch`` (R, 1, 1 or Q) brings positions into units of its lengthscale; None where they are. ``inputs``
    (N, P) are what the kernel takes of the rows beside their positions.
    """

    theta: Theta
    F: Array
    stretch: Array | None = None
    inputs: Array | None = None

    def own(self, Z: Array, row: int | None = None) -> Array:
        """Give positions (R, N, Q) as the kernel takes them: of all rows, or all of them of one row."""
        own = Z if self.stretch is None else Z * self.stretch
        if self.inputs is None:
            return own
        return beside(own, self.inputs if row is None else self.inputs[row])

    def parts(self, Z: Array) -> list[Part]:
        """Set up the missingness patterns, at positions (R, N, Q)."""
        patterns = column_patterns(~np.isnan(self.F))
        own = self.own(Z)
        return [Part.of(self.theta, own, rows, F) for rows, _, F in patterns.blocks(self.F)]


class RowUpdates:
    """Updates of the rows of a table, or of several, at R states at once.

    Z (R, N, Q) is in lengthscales and changed in place. beta (R,) is the power of the likelihood. ``log_prior``
    takes a row's number and proposals (R, M, Q) to ln p(z), up to what does not depend on z, (R, M).
    """

    def __init__(
        self,
        Z: Array,
        tables: Sequence[TableAt],
        beta: Array,
        log_prior: LogPrior,
        proposal: Proposal,
        rng: np.random.Generator,
    ) -> None:
        self.Z, self.tables, self.beta = Z, tables, beta
        self.log_prior, self.proposal, self.rng = log_prior, proposal, rng
        each = [table.parts(Z) for table in tables]
        self.parts = [part for parts in each for part in parts]
        ends = accumulate(map(len, each), initial=0)
        self.spans = [slice(*pair) for pair in pairwise(ends)]  # the parts of each table

    def sweep(self, rows: NDArray[np.int64], n_proposals: int) -> Array:
        """Update the rows one after the other; the share of them that moved, shape (R,)."""
        present, moved = np.ones(self.Z.shape[1]), np.zeros(len(self.Z))
        for n in rows:
            _remove(self.parts, n, present)
            C, *wide = self.proposal.draw(n, n_proposals, self.Z, present, self.rng)
            C = np.concatenate([self.Z[:, n, None], C], axis=1)
            log_weights, inserts = self.weigh(n, C, self.Z, self.parts, present, wide)
            chosen = choose(log_weights, self.rng)
            _insert(n, C, chosen, inserts, self.Z, present)
            moved += chosen > 0
        return moved / len(rows)

    def block_update(self, rows: Iterable[int], n_proposals: int) -> NDArray[np.bool_]:
        """Remove several rows and insert them again as one move; where it was accepted, (R,)."""
        bare, present = [part.copy() for part in self.parts], np.ones(self.Z.shape[1])
        for n in rows:
            _remove(bare, n, present)
        parts = [part.copy() for part in bare]
        # A covariance near to singular may overflow or leave no weight at all: then the rows stay.
        with np.errstate(all="ignore"):
            forth, Z = self._insert_all(rows, n_proposals, parts, present, keep=False)
            back, _ = self._insert_all(rows, n_proposals, bare, present, keep=True)
        accepted = np.isfinite(forth) & np.isfinite(back)
        level = np.log(self.rng.random(len(self.Z)))
        accepted[accepted] = level[accepted] < forth[accepted] - back[accepted]
        self.Z[accepted] = Z[accepted]
        for mine, new in zip(self.parts, parts, strict=True):
            mine.inverse[accepted] = new.inverse[accepted]
            mine.weights[accepted] = new.weights[accepted]
        return accepted

    def _insert_all(
        self,
        rows: Iterable[int],
        n_proposals: int,
        parts: list[Part],
        present: Array,
        *,
        keep: bool,
    ) -> tuple[Array, Array]:
        """Insert rows at chosen proposals, or where they were: the log mean weights' sum, and Z."""
        Z, present = self.Z.copy(), present.copy()
        total = np.zeros(len(Z))
        for n in rows:
            C, *wide = self.proposal.draw(n, n_proposals, Z, present, self.rng)
            if keep:
                C[:, 0] = self.Z[:, n]
            log_weights, inserts = self.weigh(n, C, Z, parts, present, wide)
            top = _largest(log_weights)[:, 0]
            total += top + np.log(np.exp(log_weights - top[:, None]).sum(axis=1))
            chosen = np.zeros(len(Z), dtype=int) if keep else choose(log_weights, self.rng)
            _insert(n, C, chosen, inserts, Z, present)
        return total, Z

    def score(self, n_proposals: int) -> Array:
        """Compute ln p(yₙ given the other rows) of every row, its position averaged over its prior, (R, N)."""
        present, scores = np.ones(self.Z.shape[1]), np.empty(self.Z.shape[:2])
        with np.errstate(all="ignore"):  # a covariance near to singular may overflow
            for n in range(self.Z.shape[1]):
                _remove(self.parts, n, present)
                C, *wide = self.proposal.draw(n, n_proposals, self.Z, present, self.rng)
                C = np.concatenate([self.Z[:, n, None], C], axis=1)  # to come back to
                likelihood, inserts = self._log_likelihood(n, C, self.Z, self.parts, present)
                others = self.log_prior(n, C) - self.proposal.log_density(
                    n, C, self.Z, present, *wide
                )
                scores[:, n] = logsumexp((likelihood + others)[:, 1:], axis=1)
                scores[:, n] -= logsumexp(others[:, 1:], axis=1)
                seen = sum(part.F.shape[1] for part in self.parts if part.seen[n])
                scores[:, n] -= 0.5 * seen * np.log(2.0 * np.pi)
                _insert(n, C, np.zeros(len(C), dtype=int), inserts, self.Z, present)
        return scores

    def weigh(
        self, n: int, C: Array, Z: Array, parts: list[Part], present: Array, wide: list[Array]
    ) -> tuple[Array, list[tuple[Part, Array, Array]]]:
        """Log-weights (R, M) of proposals of a removed row, and what inserts it into each part."""
        likelihood, inserts = self._log_likelihood(n, C, Z, parts, present)
        log_weights = (
            self.beta[:, None] * likelihood
            + self.log_prior(n, C)
            - self.proposal.log_density(n, C, Z, present, *wide)
        )
        return np.where(np.isnan(log_weights), -np.inf, log_weights), inserts

    def _log_likelihood(
        self, n: int, C: Array, Z: Array, parts: list[Part], present: Array
    ) -> tuple[Array, list[tuple[Part, Array, Array]]]:
        """Compute ln p(yₙ) at proposals (R, M) up to a constant, and what inserts it into each part."""
        likelihood, inserts = np.zeros(C.shape[:2]), []
        for table, span in zip(self.tables, self.spans, strict=True):
            having = [part for part in parts[span] if part.seen[n]]
            if not having:
                continue
            theta, at = table.theta, table.own(C, n)
            cross = theta.cross(at, table.own(Z))
            cross *= present
            prior, noise = theta.variance(at), (theta.sigma**2)[:, None]
            for part in having:
                S, variance = part.conditional(cross, prior, noise)
                likelihood += part.log_density(part.squared_residual(n, cross), variance)
                inserts.append((part, S, variance))
        return likelihood, inserts


def _remove(parts: list[Part], n: int, present: Array) -> None:
    present[n] = 0.0
    for part in parts:
        if part.seen[n]:
            part.remove(n)


def _insert(
    n: int,
    C: Array,
    chosen: NDArray[np.int64],
    inserts: list[tuple[Part, Array, Array]],
    Z: Array,
    present: Array,
) -> None:
    """Insert row n at the chosen ones of the proposals."""
    states = np.arange(len(Z))
    Z[:, n] = C[states, chosen]
    for part, S, variance in inserts:
        part.insert(n, S[states, chosen], variance[states, chosen])
    present[n] = 1.0


def _largest(log_weights: Array) -> Array:
    """Largest log-weight of each state (R, 1), 0 where none is finite."""
    top = log_weights.max(axis=1, keepdims=True)
    return np.where(top == -np.inf, 0.0, top)


def choose(log_weights: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """One index a state, with probabilities proportional to the weights; 0 if all are 0."""
    weights = np.cumsum(np.exp(log_weights - _largest(log_weights)), axis=1)
    below = weights < rng.random((len(weights), 1)) * weights[:, -1:]
    return np.minimum(below.sum(axis=1), weights.shape[1] - 1)
