"""What predictions are mixed from: the draws of a fit as processes, exact or through inducing inputs.

A process has ``cross`` and ``prior_variance`` at new positions, the ``weights`` by which ``cross`` is
multiplied for the mean, and a ``variance``: :class:`GP`, :class:`OwnColumns` and :class:`Induced` have
these. :func:`parts` splits one by the missingness patterns of the table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.blas import Product
from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import GP, Patterns, column_patterns, single_columns
from pm_gplvm.core.inducing import InducingKernel, InducingPosterior, RowTerms
from pm_gplvm.core.inducing_patterns import by_patterns
from pm_gplvm.core.kernels import (
    cross_and_rate,
    cross_covariance,
    cross_pullback,
    cross_slope,
    is_known,
    prior_slope_variance,
    prior_variance,
    why_unknown,
)
from pm_gplvm.core.psi import ONE_NODE
from pm_gplvm.core.spectral import ColumnParts, spectrum
from pm_gplvm.data.fit import Fit

Indices = NDArray[np.intp]


class OwnColumns:
    """The columns of one draw, each with an amplitude and a noise of its own, given a complete table.

    With K = U diag(λ) Uᵀ of amplitude 1, V_d = a_d² K + n_d I and k the vector of k(x, X), column d
    has at x

        mean_d = a_d² kᵀ V_d⁻¹ f_d,    variance_d = a_d² k(x, x) - Σ_i s_di (U_iᵀ k)²,
        s_di = a_d⁴ / (a_d² λ_i + n_d):

    the Gaussian conditional (Rasmussen & Williams 2006, eq. 2.25 and 2.26) without a factorisation
    of every V_d.
    """

    def __init__(self, draw: GP) -> None:
        self.cross, self.prior_variance = draw.cross, draw.prior_variance
        self.signal = np.asarray(draw.theta["amplitude"]) ** 2
        self.noise = np.asarray(draw.sigma) ** 2
        K = draw.cross(draw.X)
        self.values, self.vectors = spectrum(K, float((self.noise / self.signal).min()))
        variances = self.values[:, None] * self.signal + self.noise
        self.shares = self.signal**2 / variances
        """s (r, D)."""

    def _parts(self, F: Array) -> ColumnParts:
        return ColumnParts(F, self.signal, self.noise, self.values, self.vectors)

    def log_terms(self, F: Array) -> tuple[Array, Array, Array]:
        """f_dᵀ V_d⁻¹ f_d and ln|V_d| of each column (D,), and V_d⁻¹ f_d (N, D)."""
        known = self._parts(F)
        return known.quad, known.logdet, known.solved()

    def solve(self, F: Array) -> Array:
        """V_d⁻¹ f_d, shape (N, D)."""
        return self._parts(F).solved()

    def weights(self, F: Array) -> Array:
        """Weights w of the conditional mean k(x, X) w, shape (N, D)."""
        return self.signal * self.solve(F)

    @property
    def precision(self) -> Array:
        """Diagonal of V_d⁻¹, shape (N, D)."""
        if self.vectors.shape[0] == self.vectors.shape[1]:
            return np.asarray(self.vectors**2 @ (self.shares / self.signal**2))
        known = self.vectors**2 @ (self.shares * self.values[:, None] / self.signal)
        return np.asarray((1.0 - known) / self.noise)

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals and variances (N, D) of each entry given the others of its column."""
        variance = 1.0 / self.precision
        return variance * self.solve(F), variance

    def smoothed(self, F: Array) -> tuple[Array, Array]:
        """Mean and variance (N, D) of the noise-free functions at the rows' own positions."""
        known = self.noise - self.noise**2 * self.precision
        return F - self.noise * self.solve(F), np.maximum(known, 0.0)

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free functions, from k(x, X) (S, N) and k(x, x) (S,), shape (S, D)."""
        known, _ = self.explained(cross, np.matmul)
        return np.maximum(prior[:, None] * self.signal - known, 0.0)

    def explained(self, cross: Array, product: Product) -> tuple[Array, Array]:
        """Prior variance less the conditional one (S, D), and Uᵀ k(x) (S, r)."""
        turned = product(cross, self.vectors)
        return product(turned**2, self.shares), turned

    def explained_pullback(self, turned: Array, by_explained: Array, product: Product) -> Array:
        """Gradient in k(x) (S, N), from the derivatives in :meth:`explained` (S, D)."""
        return product(2.0 * turned * product(by_explained, self.shares.T), self.vectors.T)


@dataclass(frozen=True)
class Induced:
    """The process of a sparse or variational fit, with the interface of a :class:`GP`.

    It is that of u, the values at the inducing inputs W (M, Q), given the table; W is in units of X. X
    being integrated over in a variational fit, there is one of it, whatever the draws of X. Columns of
    which the same rows were observed have one posterior of u: ``posteriors`` has them by the bytes of the
    rows' numbers, and :meth:`given` chooses one. ``known`` (N, Q)
    are the positions of the table's rows, ``spread`` their standard deviations in q(X), None where
    they are points. ``own_noise_of_rows``: FITC. ``frame`` (rotation, shift, scale) is that into which
    :func:`align` brought positions; ``known`` and W are as they were before.
    """

    kernel: str
    W: Array
    theta: dict[str, Any]
    sigma: float
    posteriors: Mapping[bytes, InducingPosterior]
    known: Array
    spread: Array | None
    own_noise_of_rows: bool
    frame: tuple[Array, Array, Any] | None = None

    @property
    def posterior(self) -> InducingPosterior:
        """That of u, of one pattern of columns."""
        (one,) = self.posteriors.values()
        return one

    def given(self, rows: Indices) -> "Induced":
        """Condition on these rows only, those of a pattern of the table."""
        if len(rows) == len(self.known):
            return self if len(self.posteriors) == 1 else self.under(rows)
        spread = None if self.spread is None else self.spread[rows]
        return replace(self.under(rows), known=self.known[rows], spread=spread)

    def under(self, rows: Indices) -> "Induced":
        """Return u given these rows, and all rows' positions."""
        return replace(self, posteriors={b"": self.posteriors[rows.tobytes()]})

    @property
    def signal(self) -> Array:
        """Variance by which the prior's is multiplied, one for all columns."""
        return np.ones(1)

    @property
    def noise(self) -> float:
        """Variance of the noise."""
        return self.sigma**2

    @property
    def X(self) -> Array:
        """Positions of the table's rows, those of q(X) by their means, in the frame, shape (N, Q)."""
        if self.frame is None:
            return self.known
        rotation, shift, scale = self.frame
        return np.asarray(scale * self.known @ rotation.T + shift)

    @property
    def unit(self) -> Array:
        """Lengthscale along each dimension of the frame, shape (Q,)."""
        unit = np.broadcast_to(self.theta.get("lengthscale", 1.0), self.W.shape[1])
        if self.frame is None:
            return unit
        rotation, _, scale = self.frame
        return np.asarray(np.sqrt(((scale * rotation * unit) ** 2).sum(axis=1)))

    def _raw(self, X_new: Array) -> Array:
        if self.frame is None:
            return X_new
        rotation, shift, scale = self.frame
        # No product of matrices, whose rounding depends on how many rows there are.
        return np.asarray(((X_new - shift)[:, :, None] * rotation).sum(axis=1) / scale)

    def cross(self, X_new: Array, product: Product = np.matmul) -> Array:
        """k(X_new, W), without noise, shape (S, M)."""
        return self.cross_and_rate(X_new, product)[0]

    def cross_and_rate(
        self, X_new: Array, product: Product = np.matmul
    ) -> tuple[Array, Array | None]:
        """As :meth:`cross`, and its derivative in the squared distance."""
        between = (self.kernel, self._raw(X_new), self.W)
        return cross_and_rate(*between, product=product, **self.theta)

    def cross_pullback(
        self,
        X_new: Array,
        rate: Array | None,
        by_cross: Array,
        by_prior: Array,
        product: Product = np.matmul,
    ) -> Array:
        """Gradient in X_new of what depends on it by :meth:`cross` and :meth:`prior_variance`."""
        between = (self.kernel, self._raw(X_new), self.W, rate, by_cross, by_prior)
        raw = cross_pullback(*between, product=product, **self.theta)
        return raw if self.frame is None else (self._turn @ raw[:, :, None])[:, :, 0]

    def weights(self, F: Array) -> Array:
        """Weights w of the conditional mean k(x, W) w; F is the table of the fit."""
        return self.posterior.weights

    def prior_variance(self, X_new: Array) -> Array:
        """Variance of the noise-free function before any data, shape (S,)."""
        theta = {name: value for name, value in self.theta.items() if name != "lengthscale"}
        return prior_variance(self.kernel, self._raw(X_new), **theta)

    def turned(self, cross: Array, product: Product = np.matmul) -> Array:
        """k(x, W) in the directions of :class:`InducingPosterior`, shape (S, M)."""
        return product(cross, self.posterior.directions.T)

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free function, in units of the scale² of Y, shape (S,)."""
        return np.maximum(
            prior - (self.turned(cross) ** 2 * self.posterior.shares).sum(axis=1), 0.0
        )

    def joint(self, F: Array, X_new: Array) -> tuple[Array, Array]:
        """Mean (S, D) and covariance (S, S) of the noise-free function at all positions."""
        raw, turned = self._raw(X_new), self.turned(self.cross(X_new))
        prior = cross_covariance(self.kernel, raw, raw, **self.theta)
        covariance = prior - (turned * self.posterior.shares) @ turned.T
        return turned @ self.posterior.coefficients, 0.5 * (covariance + covariance.T)

    @property
    def _turn(self) -> Array:
        """∂x/∂x' of raw positions x, and x' in the frame, shape (Q, Q)."""
        if self.frame is None:
            return np.eye(self.W.shape[1])
        return np.asarray(self.frame[0] / self.frame[2])

    def slope(self, X_new: Array) -> Array:
        """∂k(X_new, W)/∂X_new, shape (S, Q, M)."""
        raw = cross_slope(self.kernel, self._raw(X_new), self.W, **self.theta)
        return np.asarray(self._turn @ raw)

    def slope_covariance(self, slope: Array) -> Array:
        """Covariance of the function's slopes, in units of scale² of Y / X², shape (S, Q, Q)."""
        Q, turn = slope.shape[1], self._turn
        prior = turn * prior_slope_variance(self.kernel, Q, **self.theta) @ turn.T
        return prior - slope @ self.posterior.reduction @ slope.transpose(0, 2, 1)

    # The table's own rows, at ``known`` as points: u given those, and the rest of a row's column.

    def _at_rows(self, F: Array) -> tuple[RowTerms, tuple[Array, float]]:
        whole = self._kernel(np.zeros_like(self.known))
        found, scaled, noise = whole.point_posterior(
            F, self.sigma, own_noise=self.own_noise_of_rows
        )
        turned = whole.psi1 @ found.directions.T
        prior = self.theta.get("amplitude", 1.0) ** 2 * whole.own_variance + whole.bias**2
        quad, logdet = found.column_terms(scaled)
        logdet += 2.0 * float(np.log(noise).sum())
        return found.row_terms(turned, prior, F, noise**2), (quad, logdet)

    def _kernel(self, spread: Array) -> InducingKernel:
        quadrature = None if spread.any() else ONE_NODE
        return InducingKernel.of(
            self.kernel, (self.known, spread, self.W), self.theta, quadrature=quadrature
        )

    def log_terms(self, F: Array) -> tuple[Array, Any, Array]:
        """Of each column (D,), and a number: minus half their sum is the approximate ln p(f_d).

        And the residuals of the mean at the rows' positions over the noise, (N, D).
        """
        rows, (quad, logdet) = self._at_rows(F)
        return quad, logdet, rows.residual / self.noise

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals (N, D) and variance (N,) of each row of F given the others, where it lies."""
        return self._at_rows(F)[0].left_out(self.noise)

    def smoothed(self, F: Array) -> tuple[Array, Array]:
        """Mean (N, D) and variance, (N,) or (N, D) under q(X), of the noise-free function of the rows."""
        if self.spread is not None:
            return self._kernel(self.spread).row_moments(self.posterior)
        rows, _ = self._at_rows(F)
        return F - rows.residual, rows.variance

    def covariance_of_pairs(self, first: Indices, second: Indices) -> Array:
        """Covariance of some pairs of rows before any data, noise included, shape (P,)."""
        one, other = (self.known[rows][:, None] for rows in (first, second))
        values = cross_covariance(self.kernel, one, other, **self.theta)[:, 0, 0]
        return np.asarray(values + self.noise * (first == second))


Process = GP | Induced


def each_process(read: Fit, limit: int | None = None) -> Iterator[Process]:
    """Go through the processes that predictions are mixed over, at most ``limit``, evenly spaced."""
    read.require("X", "sigma")
    if not read.is_inducing:
        yield from each_draw(read, limit or read.n_mixed)
        return
    induced = _induced(read)
    if not read.is_aligned:
        yield induced
        return
    frames = read.frames(chosen_draws(read, limit))
    for frame in zip(frames.rotation, frames.shift, frames.scale, strict=True):
        yield replace(induced, frame=frame)


def for_each_draw[T](read: Fit, found: Iterator[T]) -> Iterator[T]:
    """Go through what was made of each process, the same again for every draw where these share one."""
    return repeat(next(found)) if read.has_one_process else found


def chosen_draws(read: Fit, limit: int | None) -> Indices:
    """Which draws :func:`each_process` goes through; one where X is integrated over and nothing turned."""
    one = read.is_inducing and not read.is_aligned
    return read.evenly_spaced(1 if one else limit or read.n_mixed)


def each_with_rows(read: Fit, limit: int | None = None) -> Iterator[Process]:
    """Go through the draws of all chains, or ``limit`` of them, with the rows where each draw has them.

    Under a variational fit θ and the inducing inputs are the same in all of them, and u is given X.
    """
    if not read.is_inducing:
        yield from each_draw(read, limit)
        return
    read.require("X", "sigma")
    induced = replace(_induced(read), spread=None)
    X = read.values("X", raw=True)
    for i in read.evenly_spaced(limit):
        yield replace(induced, known=X[i])


def given(process: Process, rows: Indices, columns: Indices) -> Process:
    """Condition a process on these rows only, for these columns."""
    return process.given(rows, columns) if isinstance(process, GP) else process.given(rows)


def parts(
    process: Process, F: Array, patterns: Patterns
) -> Iterator[tuple[Indices, Indices, slice, Array, Any]]:
    """Split a process by the missingness patterns of F (N, D).

    Each part is its rows, columns and patterns, the complete table there, and the process for it. A
    complete table whose columns have a noise of their own is one part, each column its own pattern.
    """
    if isinstance(process, GP) and process.own_noise and patterns.seen.all():
        rows, columns = (np.arange(n) for n in F.shape)
        yield rows, columns, slice(None), F, OwnColumns(process)
        return
    for g, (rows, columns, block) in enumerate(patterns.blocks(F)):
        yield rows, columns, slice(g, g + 1), block, given(process, rows, columns)


def conditional(
    process: Process, F: Array, patterns: Patterns, X_new: Array
) -> tuple[Array, Array]:
    """Mean (S, D) and variance (S, G) of the noise-free function at new positions (S, Q).

    The variance is the same in all columns of a pattern; in units of the scale² of Y.
    """
    mean, variance = np.empty((len(X_new), F.shape[1])), np.empty((len(X_new), len(patterns)))
    for _, columns, which, block, own in parts(process, F, patterns):
        cross = own.cross(X_new)
        mean[:, columns] = cross @ own.weights(block)
        variance[:, which] = by_pattern(own.variance(cross, own.prior_variance(X_new)))
    return mean, variance


def under(
    process: Process,
    F: Array,
    patterns: Patterns,
    q: tuple[Array, Array],
    nodes: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Mean and variance (S, D) of the noise-free function at uncertain positions N(mean, diag sd²), ``q`` (S, Q)."""
    (X, sd), shape = q, (len(q[0]), F.shape[1])
    mean, total = np.empty(shape), np.empty(shape)
    for _, columns, _, block, own in parts(process, F, patterns):
        known = own.weights(block)
        middle = own.cross(X) @ known
        first = second = np.zeros(middle.shape)  # moments about the mean in the middle
        for point, weight in zip(*nodes, strict=True):
            at = X + sd * point
            cross = own.cross(at)
            away = cross @ known - middle
            left = by_pattern(own.variance(cross, own.prior_variance(at)))
            first, second = first + weight * away, second + weight * (left + away**2)
        mean[:, columns], total[:, columns] = middle + first, second - first**2
    return mean, total


def conditional_variance(process: Process, F: Array, patterns: Patterns, X_new: Array) -> Array:
    """Variance of :func:`conditional` alone, shape (S, G)."""
    variances = [
        own.variance(own.cross(X_new), own.prior_variance(X_new))
        for *_, own in parts(process, F, patterns)
    ]
    return np.concatenate([by_pattern(v) for v in variances], axis=1)


def smoothed(draw: Process, F: Array, patterns: Patterns) -> tuple[Array, Array]:
    """Mean and variance (N, D) of the noise-free function at the rows' own positions."""
    mean, variance = np.empty_like(F), np.empty((len(F), len(patterns)))
    if isinstance(draw, Induced) and draw.spread is not None:
        spread = np.empty_like(F)
        for rows, columns in patterns:
            mean[:, columns], spread[:, columns] = draw.under(rows).smoothed(F[:, columns])
        return mean, spread
    for rows, columns, which, block, own in parts(draw, F, patterns):
        mean[np.ix_(rows, columns)], known = own.smoothed(block)
        variance[rows, which] = by_pattern(known)
        others = np.setdiff1d(np.arange(len(F)), rows)
        if others.size:
            at = draw.rows[others] if isinstance(draw, GP) else draw.X[others]
            cross = own.cross(at)
            mean[np.ix_(others, columns)] = cross @ own.weights(block)
            left = own.variance(cross, own.prior_variance(at))
            variance[others, which] = by_pattern(left)
    return mean, variance[:, patterns.group]


def joint(
    process: Process, F: Array, patterns: Patterns, X_new: Array
) -> Iterator[tuple[Indices, Array, Array]]:
    """Columns, and their mean (S, D_g) and common covariance (S, S) at all positions together, by pattern."""
    for rows, columns, block in patterns.blocks(F):
        yield columns, *given(process, rows, columns).joint(block, X_new)


def mixed(own: Any, known: Array, x: Array, weight: Array, variance: Array) -> tuple[Array, Array]:
    """E m and E (m² + v) (D,) of a measurement, over weighted positions x (T, Q).

    ``known`` are the weights of the conditional mean, ``variance`` (T, 1) or (T, D) is v.
    """
    if isinstance(own, Induced):
        turned, coefficients = own.turned(own.cross(x)), own.posterior.coefficients
        second = (turned.T * weight) @ turned
        squares = (coefficients * (second @ coefficients)).sum(axis=0)
        return (weight @ turned) @ coefficients, squares + weight @ variance
    mean = own.cross(x) @ known
    return weight @ mean, weight @ (mean**2 + variance)


def by_pattern(variance: Array) -> Array:
    """Give a variance that all columns share, (S,), the axis of the patterns."""
    return variance.reshape(len(variance), -1)


def column_variances(process: Process) -> Any:
    """Amplitude² of the columns of a draw that has its kernel of amplitude 1, shape (D,), else 1."""
    if isinstance(process, GP) and process.own_noise:
        return np.asarray(process.theta["amplitude"]) ** 2
    return 1.0


def each_draw(read: Fit, limit: int | None = None) -> Iterator[GP]:
    """Go through the draws of all chains in order, or ``limit`` of them, evenly spaced."""
    read.require("X", "sigma")
    if not is_known(read.kernel):
        raise ValueError(f"{read.caller} {why_unknown(read.kernel)}")
    X, noise, known = read.values("X"), read.noise(), read.inputs
    values = {name: read.values(name) for name in read.theta_names}
    of_inputs: dict[str, Any] = {}
    if known is not None:
        of_inputs = {"inputs": known.values, "at": read.at, "counted": read.counted}
    for i in read.evenly_spaced(limit):
        theta = {name: value[i] for name, value in values.items()}
        sigma = noise[i] if noise[i].ndim else float(noise[i])
        yield GP(read.kernel, X[i], theta, sigma, **of_inputs)


def patterns_of(read: Fit, F: Array) -> Patterns:
    """Group the columns of F (N, D) that have one K: the same rows observed, and the same noise."""
    return (single_columns if read.own_noise else column_patterns)(~np.isnan(F))


def _induced(read: Fit) -> Induced:
    F, group = read.table().F, read.group("approximation")
    theta = {name: read.values(name, raw=True)[0] for name in read.theta_names}
    sigma, W = float(read.noise()[0]), group["X_inducing"].to_numpy()
    own, patterns = read.approximation == "fitc", patterns_of(read, F)
    posteriors = {}
    if "X_mean" in group:
        known, spread = group["X_mean"].to_numpy(), group["X_sd"].to_numpy()
        whole = by_patterns(read.kernel, (known, spread, W), theta, patterns)
        found = whole.posteriors(np.nan_to_num(F), sigma)
        for (rows, _), (_, posterior) in zip(patterns, found, strict=True):
            posteriors[rows.tobytes()] = posterior
    else:
        known, spread = read.values("X", raw=True)[0], None
        for rows, _, block in patterns.blocks(F):
            points = known[rows], np.zeros_like(known[rows]), W
            whole = InducingKernel.of(read.kernel, points, theta, quadrature=ONE_NODE)
            posteriors[rows.tobytes()] = whole.point_posterior(block, sigma, own_noise=own)[0]
    return Induced(read.kernel, W, theta, sigma, posteriors, known, spread, own)
