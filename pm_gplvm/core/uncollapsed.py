"""The uncollapsed bound: q(u) of each column, q(x) of each row, and a sum over rows.

With inducing inputs W, K = k(W, W) = LLᵀ and an orthogonal V, common to all columns,

    f_d(x) = level_d + t(x)ᵀ c_d + rest,    t(x) = VᵀL⁻¹ k(W, x),
    q(f_d(x)) = N(level_d + tᵀ m_d, k(x, x) - Σ_j (1 - 1/p_jd) t_j²),

where q(c_d) = N(m_d, diag 1/p_d) and the prior of c_d is N(0, I). The bound is

    Σₙ [ E_q(xₙ) Σ_d E_q(f) ln p(y_nd | f) - KL(q(xₙ) ‖ p) ] - Σ_d KL(q(c_d) ‖ N(0, I))

(Hensman, Fusi & Lawrence 2013, UAI, eq. 4; Hensman, Matthews & Ghahramani 2015, AISTATS, eq. 18;
Lalchand, Ravuri & Lawrence 2022, AISTATS, section 3). A covariance diagonal in one basis V loses
little against a full one for each column, nothing where the noise is Gaussian, of one variance in each
column, and no entry is missing. The expectation under q(x) = N(μ, diag s²) is a sum over nodes.

Gradients are written by hand: ``expect`` of a likelihood gives those in the mean and the variance of f.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy.linalg import lapack
from scipy.special import logsumexp, softmax

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import (
    counted_theta,
    cross_and_rate,
    cross_pullback,
    kernel_named,
    log_pullback,
    prior_variance,
)

JITTER = 1e-6
"""Share of the mean of K's diagonal that is added to it: the functions live in what W spans."""

_LEAST_VARIANCE = 1e-10
_LOG_2PI = float(np.log(2.0 * np.pi))

Nodes = tuple[Array, Array]  # (K, Q) and their weights (K,), for expectations under N(0, I)


def rotated(Q: int, rng: np.random.Generator) -> Nodes:
    """Centre, and 2 Q nodes at distance √(Q + 2) along axes turned at random.

    Exact for polynomials of degree 3, and of degree 5 in expectation over the turns. Axes that stay would never
    see how two dimensions act together, and a fit would hide there what it does not explain.
    """
    axes = np.linalg.qr(rng.standard_normal((Q, Q)))[0] * np.sqrt(Q + 2.0)
    weights = np.full(2 * Q + 1, 0.5 / (Q + 2.0))
    weights[0] = 2.0 / (Q + 2.0)
    return np.concatenate([np.zeros((1, Q)), axes, -axes]), weights


def positive(Q: int) -> Nodes:
    """Nodes of positive weights, for variances: Gauss-Hermite up to three dimensions, beyond four turned rules."""
    if Q <= 3:
        return accurate(Q)
    rules = [rotated(Q, np.random.default_rng(seed)) for seed in range(4)]
    return np.concatenate([x for x, _ in rules]), np.concatenate([w for _, w in rules]) / 4.0


def accurate(Q: int) -> Nodes:
    """Nodes for a bound that is reported: Gauss-Hermite up to three dimensions, exact for degree 5 beyond."""
    if Q <= 3:
        return _gauss_hermite([{1: 9, 2: 5, 3: 3}[Q]] * Q)
    # The fifth-degree rule of McNamee & Stenger (1967) for N(0, I): origin, axes, pairs of axes.
    axes = np.sqrt(3.0) * np.eye(Q)
    pairs = [s * axes[i] + t * axes[j] for i in range(Q) for j in range(i) for s, t in _SIGNS]
    nodes = np.concatenate([np.zeros((1, Q)), axes, -axes, np.array(pairs)])
    outer, middle = 1.0 / 36.0, (4.0 - Q) / 18.0
    weights = np.full(len(nodes), outer)
    weights[0], weights[1 : 2 * Q + 1] = 1.0 + (Q * Q - 7.0 * Q) / 18.0, middle
    return nodes, weights


def mixing_nodes(sd: Array, unit: Array) -> Nodes:
    """Nodes of positive weight for N(0, I) in the dimensions whose sd (S, Q) is above 0 anywhere, 0 in the others.

    Gauss-Hermite in up to three of them, the finer the larger sd is beside the lengthscale ``unit`` (Q,); the rule
    of :func:`positive` beyond.
    """
    uncertain = np.flatnonzero((sd > 0.0).any(axis=0))
    n = len(uncertain)
    if n > 3:
        own, weights = positive(n)
    else:
        ratio = (sd / unit).max(axis=0)[uncertain]
        # An RBF's square of width r lengthscales converges as (2 r² / (1 + 2 r²))ⁿ: to a percent, or better.
        own, weights = _gauss_hermite(np.ceil(4.0 + 8.0 * ratio**2).clip(max=_MOST[n]))
    nodes = np.zeros((len(weights), sd.shape[1]))
    nodes[:, uncertain] = own
    return nodes, weights


_MOST = (1, 100, 50, 14)  # points in each of so many uncertain dimensions


def _gauss_hermite(points: Any) -> Nodes:
    """Product rule of so many points in each dimension."""
    rules = [np.polynomial.hermite_e.hermegauss(int(n)) for n in points]
    grid = np.array(list(product(*(x for x, _ in rules))))
    weights = [np.prod(p) for p in product(*(w / w.sum() for _, w in rules))]
    return grid.reshape(len(weights), len(rules)), np.array(weights)


_SIGNS = tuple(product((1.0, -1.0), repeat=2))


class Expectation(Protocol):
    """What the bound asks of a likelihood."""

    def expect(
        self,
        rows: Any,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: dict[str, Array],
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, dict[str, Array]]:
        """Sum E ln p of each row over nodes and columns, and overwrite mean and variance by the gradients."""
        ...


@dataclass(frozen=True)
class ColumnPosterior:
    """q(c) of all columns: means m and precisions p (M, D) in the basis V, and the common precision (M, M).

    ``common`` is the columns' mean precision in the basis of L, whose eigenvectors V follows.
    """

    means: Array
    precisions: Array
    basis: Array
    common: Array

    @classmethod
    def prior(cls, n_inducing: int, n_columns: int) -> "ColumnPosterior":
        """Start at the prior."""
        shape, one = (n_inducing, n_columns), np.eye(n_inducing)
        return cls(np.zeros(shape), np.ones(shape), one, one)

    @cached_property
    def shares(self) -> Array:
        """How much of the prior variance of each direction is taken away, (M, D)."""
        return np.asarray(1.0 - 1.0 / self.precisions)

    @property
    def divergence(self) -> float:
        """Σ_d KL(q(c_d) ‖ N(0, I))."""
        m, p = self.means, self.precisions
        return float(0.5 * (1.0 / p + m**2 - 1.0 + np.log(p)).sum())

    def step(self, statistics: "ColumnStatistics", scale: float, rate: float) -> "ColumnPosterior":
        """Take a natural-gradient step of length ``rate``, the batch counted ``scale`` times."""
        p = (1.0 - rate) * self.precisions + rate * (1.0 + scale * statistics.curvature)
        m = self.means + rate * (scale * statistics.slope - self.means) / p
        found = self.basis @ statistics.common @ self.basis.T
        common = (1.0 - rate) * self.common + rate * (np.eye(len(m)) + scale * found)
        return ColumnPosterior(m, p, self.basis, common)

    def turned(self) -> "ColumnPosterior":
        """Bring the basis to the eigenvectors of the common precision."""
        basis = np.linalg.eigh(self.common)[1]
        turn = basis.T @ self.basis
        # The diagonal of each turned precision: what is left out is what the basis cannot hold.
        return ColumnPosterior(turn @ self.means, turn**2 @ self.precisions, basis, self.common)


@dataclass(frozen=True)
class ColumnStatistics:
    """Of a batch: Tᵀg (M, D), (T²)ᵀw (M, D) and Tᵀ diag(mean of w over the columns) T (M, M).

    g and -w/2 are the gradients of the expected log density in the mean and the variance of f.
    """

    slope: Array
    curvature: Array
    common: Array

    def __add__(self, other: "ColumnStatistics") -> "ColumnStatistics":
        return ColumnStatistics(
            self.slope + other.slope,
            self.curvature + other.curvature,
            self.common + other.common,
        )


class Features:
    """t(x) of a kernel, inducing inputs W (M, Q) and a basis, and its gradient.

    ``theta`` has the kernel's parameters by name, as :func:`cross_and_rate` takes them.
    """

    def __init__(self, kernel: str, W: Array, theta: Mapping[str, Any], basis: Array) -> None:
        self.kernel, self.W, self.theta, self.basis = kernel, W, dict(theta), basis
        self.K, self.rate = cross_and_rate(kernel, W, W, **self.theta)
        noisy = self.K + JITTER * np.trace(self.K) / len(W) * np.eye(len(W))
        self.factor, info = lapack.dpotrf(noisy, lower=1, clean=1)
        if info:
            raise np.linalg.LinAlgError("K of the inducing inputs is not positive definite")
        self.inverse = lapack.dtrtri(self.factor, lower=1)[0]
        self.turn = self.inverse.T @ basis

    def counting(self, terms: Any) -> "Features":
        """Return the same of the function that has some terms of the kernel, and last the bias, given all of u."""
        other = copy(self)
        other.theta = counted_theta(self.theta, terms)
        return other

    def prior_variance(self, X: Array) -> Array:
        """k(x, x), shape (S,)."""
        theta = {name: value for name, value in self.theta.items() if name != "lengthscale"}
        return prior_variance(self.kernel, X, **theta)

    def at(self, X: Array) -> tuple[Array, Array, Array | None]:
        """T (S, M) at positions X (S, Q), k(X, W) and its derivative in r²."""
        cross, rate = cross_and_rate(self.kernel, X, self.W, **self.theta)
        return cross @ self.turn, cross, rate

    def moments(self, posterior: ColumnPosterior, level: Array, X: Array) -> tuple[Array, Array]:
        """Mean and variance (S, D) of f at positions X (S, Q)."""
        T, _, _ = self.at(X)
        variance = self.prior_variance(X)[:, None] - T**2 @ posterior.shares
        return T @ posterior.means + level, np.maximum(variance, _LEAST_VARIANCE)

    def joint(
        self, posterior: ColumnPosterior, level: Array, X: Array
    ) -> tuple[Array, Array, Array]:
        """Mean (S, D) at all positions; covariance (S, S) of what u leaves; t, whose weights have 1/p."""
        T, _, _ = self.at(X)
        theta = self.theta
        left = cross_and_rate(self.kernel, X, X, **theta)[0] - T @ T.T
        return T @ posterior.means + level, 0.5 * (left + left.T), T

    def pullback(
        self, X: Array, of: tuple[Array, Array, Array | None], by_cross: Array, by_prior: Array
    ) -> "FeatureGradient":
        """Gradient in W and θ of what depends on k(X, W) and k(x, x); what goes through L is left."""
        T, cross, rate = of
        turned, none = None if rate is None else rate.T, np.zeros(len(self.W))
        return FeatureGradient(
            cross_pullback(self.kernel, self.W, X, turned, by_cross.T, none, **self.theta),
            log_pullback(self.kernel, X, self.W, cross, rate, by_cross, by_prior, **self.theta),
            by_cross.T @ T,
        )

    def through_factor(self, gradient: "FeatureGradient") -> tuple[Array, dict[str, Any]]:
        """Add what depends on W and θ through L: the gradients in W and in the logarithms of θ."""
        # d(k L⁻ᵀ) = -k L⁻ᵀ dLᵀ L⁻ᵀ, and dL is that of a Cholesky factor (Murray 2016, eq. 8).
        dL = -np.tril(gradient.outer @ self.basis.T)
        A = np.tril(self.factor.T @ dL)
        A.flat[:: len(A) + 1] *= 0.5
        dK = self.inverse.T @ A @ self.inverse
        dK = 0.5 * (dK + dK.T)
        dK.flat[:: len(dK) + 1] += JITTER * np.trace(dK) / len(dK)
        of_K, none = (self.K, self.rate, dK), np.zeros(len(self.W))
        by_W = cross_pullback(self.kernel, self.W, self.W, self.rate, dK, none, **self.theta)
        by_theta = log_pullback(self.kernel, self.W, self.W, *of_K, none, **self.theta)
        theta = {name: value + by_theta[name] for name, value in gradient.theta.items()}
        return gradient.W + 2.0 * by_W, theta


@dataclass(frozen=True)
class FeatureGradient:
    """Gradients in W (M, Q) and ln θ of k(X, W) alone, and (∂/∂k(X, W))ᵀ t(X), (M, M)."""

    W: Array
    theta: dict[str, Any]
    outer: Array

    def __add__(self, other: "FeatureGradient") -> "FeatureGradient":
        theta = {name: value + other.theta[name] for name, value in self.theta.items()}
        return FeatureGradient(self.W + other.W, theta, self.outer + other.outer)


@dataclass(frozen=True)
class RowGradient:
    """Of some rows: E ln p (B,), and its gradients in the means and log sds of q(x), (B, Q)."""

    value: Array
    mean: Array
    log_sd: Array

    def __add__(self, other: "RowGradient") -> "RowGradient":
        return RowGradient(
            self.value + other.value, self.mean + other.mean, self.log_sd + other.log_sd
        )


@dataclass(frozen=True)
class SharedGradient:
    """Gradients, summed over some rows, in what all rows share."""

    statistics: ColumnStatistics
    features: FeatureGradient
    level: Array
    parameters: dict[str, Array]

    def __add__(self, other: "SharedGradient") -> "SharedGradient":
        parameters = {name: v + other.parameters[name] for name, v in self.parameters.items()}
        return SharedGradient(
            self.statistics + other.statistics,
            self.features + other.features,
            self.level + other.level,
            parameters,
        )


def block_of_rows(n_nodes: int) -> int:
    """How many rows are evaluated together: arrays of some 1000 nodes stay in the cache."""
    return max(1024 // n_nodes, 8)


def row_terms(
    features: Features,
    posterior: ColumnPosterior,
    level: Array,
    likelihood: Expectation,
    parameters: dict[str, Array],
    rows: Any,
    q: tuple[Array, Array],
    nodes: Nodes,
    *,
    shared: bool = False,
) -> tuple[RowGradient, SharedGradient | None]:
    """Evaluate E ln p of some rows under q(x) = N(mean, diag sd²), and its gradients.

    ``rows`` is what the likelihood takes, ``q`` mean and sd (B, Q).
    """
    (mean, sd), (points, weights) = q, nodes
    (B, Q), K = mean.shape, len(weights)
    X = (mean[:, None] + sd[:, None] * points).reshape(-1, Q)
    of = T, _cross, rate = features.at(X)
    squared = T**2
    f = T @ posterior.means
    f += level
    variance = squared @ posterior.shares
    np.subtract(features.prior_variance(X)[:, None], variance, out=variance)
    np.maximum(variance, _LEAST_VARIANCE, out=variance)
    D = f.shape[1]
    value, of_parameters = likelihood.expect(
        rows,
        f.reshape(B, K, D),
        variance.reshape(B, K, D),
        weights,
        parameters,
        of_parameters=shared,
    )
    by_mean, by_variance = f, variance  # overwritten
    by_T = by_variance @ posterior.shares.T
    by_T *= T
    by_T *= -2.0
    by_T += by_mean @ posterior.means.T
    by_prior = by_variance.sum(axis=1)
    by_cross = by_T @ features.turn.T
    by_X = cross_pullback(
        features.kernel, X, features.W, rate, by_cross, by_prior, **features.theta
    ).reshape(B, K, Q)
    own = RowGradient(value, by_X.sum(axis=1), sd * (by_X * points).sum(axis=1))
    if not shared:
        return own, None
    w = np.maximum(-2.0 * by_variance, 0.0)
    statistics = ColumnStatistics(
        slope=T.T @ by_mean,
        curvature=squared.T @ w,
        common=(T * w.mean(axis=1)[:, None]).T @ T,
    )
    by_features = features.pullback(X, of, by_cross, by_prior)
    return own, SharedGradient(statistics, by_features, by_mean.sum(axis=0), of_parameters)


class RowsPrior(Protocol):
    """What steps of q(x) ask of the prior of the positions of some rows."""

    @property
    def spread(self) -> Any:
        """Standard deviation about a centre."""
        ...

    def divergence(self, mean: Array, sd: Array) -> Array:
        """KL(q(x) ‖ p(x)) of each row, (B,)."""
        ...

    def towards(self, mean: Array) -> Any:
        """Where its slope at the means of q(x) points to: that is (towards - mean) / spread²."""
        ...

    def gradient(self, mean: Array, sd: Array) -> dict[str, Array]:
        """Gradient of -KL, summed over the rows, in what the prior has of its own."""
        ...


@dataclass(frozen=True)
class NormalRows:
    """N(centre, spread²), numbers or (B, Q)."""

    by_row: ClassVar[tuple[str, ...]] = ("centre", "spread")  # the others are the same for all rows

    centre: Any = 0.0
    spread: Any = 1.0

    def divergence(self, mean: Array, sd: Array) -> Array:
        """KL of each row, summed over the dimensions, (B,)."""
        ratio = (sd / self.spread) ** 2
        away = ((mean - self.centre) / self.spread) ** 2
        return np.asarray(0.5 * (away + ratio - 1.0 - np.log(ratio)).sum(axis=1))

    def towards(self, mean: Array) -> Any:
        """Return the centre."""
        return self.centre

    def gradient(self, mean: Array, sd: Array) -> dict[str, Array]:
        """Nothing is free."""
        return {}


@dataclass(frozen=True)
class GatheredRows:
    """Σ_k w_k N(c_k, spread² I): ln w (B, K), -inf where a row is of another class, and centres (K, Q).

    ``divergence`` is from the best bound ln p(x) ≥ ln Σ_k w_k exp⟨ln N(x; c_k, spread²)⟩, exact where the class is known.
    """

    by_row: ClassVar[tuple[str, ...]] = ("log_weights",)

    log_weights: Array
    centres: Array
    spread: Any

    def _logs(self, mean: Array) -> Array:
        squares = ((mean[:, None] - self.centres) ** 2).sum(axis=2)
        return np.asarray(self.log_weights - 0.5 * squares / self.spread**2)

    def divergence(self, mean: Array, sd: Array) -> Array:
        """KL of each row, or its bound, (B,)."""
        ratio = (sd / self.spread) ** 2
        rest = 0.5 * (ratio - 1.0 - np.log(ratio)).sum(axis=1)
        return np.asarray(rest - logsumexp(self._logs(mean), axis=1))

    def towards(self, mean: Array) -> Array:
        """Mean of the centres, each by the row's share in its class."""
        return np.asarray(softmax(self._logs(mean), axis=1) @ self.centres)

    def gradient(self, mean: Array, sd: Array) -> dict[str, Array]:
        """Gradient of -KL, summed over the rows, in the centres and in ln spread."""
        shares = softmax(self._logs(mean), axis=1)
        away = mean[:, None] - self.centres
        squares = ((away**2).sum(axis=2) * shares).sum() + (sd**2).sum()
        return {
            "centre": np.einsum("nk,nkq->kq", shares, away) / self.spread**2,
            "log_within": squares / self.spread**2 - mean.size,
        }


def log_densities(prior: RowsPrior, X: Array) -> Array:
    """Ln p(x) of positions (B, Q), (B,): the divergence of N(x, spread²) has it, as ln p is parabolic about a centre."""
    spread = np.broadcast_to(prior.spread, X.shape)
    return np.asarray(-prior.divergence(X, spread) - (np.log(spread) + 0.5 * _LOG_2PI).sum(axis=1))


def row_steps(
    evaluate: Any,
    q: tuple[Array, Array],
    trust: Array,
    prior: RowsPrior,
    *,
    longest: float,
    steps: int,
) -> tuple[Array, Array, Array, Array]:
    """Take damped natural-gradient steps of q(x) of some rows, each with its own damping.

    ``evaluate(mean, sd)`` gives a :class:`RowGradient`. A step goes ``trust`` (B,) of the way and at most
    ``longest``; where the row's own bound falls it is taken back and the trust is less. Returns means, sds,
    trust and the bound of each row.
    """
    mean, sd = q
    least = 1.0 / np.square(prior.spread)
    found = evaluate(mean, sd)
    bound = found.value - prior.divergence(mean, sd)
    by_mean, by_log_sd = found.mean, found.log_sd
    for _ in range(steps):
        precision = sd**-2.0
        wanted = np.clip(least - by_log_sd * precision, 0.5 * least, None)
        wanted = np.clip(wanted, 0.25 * precision, 4.0 * precision)
        rate = trust[:, None]
        moved_precision = (1.0 - rate) * precision + rate * wanted
        step = rate * (by_mean - (mean - prior.towards(mean)) * least) / moved_precision
        length = np.abs(step).max(axis=1, keepdims=True)
        step *= np.minimum(1.0, longest / np.maximum(length, 1e-300))
        new_mean, new_sd = mean + step, moved_precision**-0.5
        found = evaluate(new_mean, new_sd)
        new_bound = found.value - prior.divergence(new_mean, new_sd)
        better = new_bound >= bound - 1e-9
        kept = better[:, None]
        mean, sd = np.where(kept, new_mean, mean), np.where(kept, new_sd, sd)
        by_mean = np.where(kept, found.mean, by_mean)
        by_log_sd = np.where(kept, found.log_sd, by_log_sd)
        bound = np.where(better, new_bound, bound)
        trust = np.where(better, np.minimum(1.0, 1.5 * trust), 0.3 * trust)
    return mean, sd, np.clip(trust, 0.02, 1.0), bound


def natural_theta(kernel: str, log_theta: Mapping[str, Any]) -> dict[str, Any]:
    """Kernel parameters from their logarithms, those that it has."""
    names = (*kernel_named(kernel).parameters, "bias")
    return {name: np.exp(log_theta[name]) for name in names if name in log_theta}
