"""ln p(y, x) of unseen rows at many positions at once, with its gradient in x."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import GP, column_patterns, single_columns
from pm_gplvm.core.mixtures import Mixture
from pm_gplvm.prediction.processes import OwnColumns, by_pattern, parts

_BLOCK = 2**19  # entries of one k(x, X): what a processor's cache still holds
_BELOW = 0.16  # of the training rows: as far below the median as one standard deviation
_LEAST_SPREAD = 0.1  # nats an entry: what differs by less in a wide table differs in nothing else
_LEAST_NOISE = 1e-12  # σ² that least squares are divided by where a fit has none


@dataclass(frozen=True)
class Rows:
    """Unseen rows y (M, D), standardised and 0 where not ``seen``, and the prior of their positions.

    x ~ N(mean, sd²), independent, (M, Q); or a mixture for all rows, of which these are the moments.
    """

    y: Array
    seen: NDArray[np.bool_]
    mean: Array
    sd: Array
    mixture: Mixture | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, which: Any) -> "Rows":
        return replace(
            self,
            y=self.y[which],
            seen=self.seen[which],
            mean=self.mean[which],
            sd=self.sd[which],
        )

    def columns(self, which: NDArray[np.intp]) -> "Rows":
        """Return the same rows with some of their entries."""
        if len(which) == self.y.shape[1]:
            return self
        return replace(self, y=self.y[:, which], seen=self.seen[:, which])

    def log_prior(self, x: Array) -> Array:
        """Return ln p(x), x of shape (M, ..., Q), shape (M, ...)."""
        if self.mixture is not None:
            return self.mixture.log_density(x)
        over = (len(self), *(1,) * (x.ndim - 2), x.shape[-1])
        mean, sd = self.mean.reshape(over), self.sd.reshape(over)
        scaled = (x - mean) / sd
        return np.asarray((-0.5 * (scaled**2 + np.log(2.0 * np.pi)) - np.log(sd)).sum(axis=-1))

    def prior_slope(self, x: Array) -> Array:
        """Gradient of ln p(x) at the position of each row, shape (M, Q)."""
        if self.mixture is not None:
            return self.mixture.slope(x)
        return -(x - self.mean) / self.sd**2


class RowDensity:
    """Density of unseen rows given one draw of X and θ, and F (N, D), NaN where an entry is missing.

    Columns in which the same training rows were observed have the same conditional variance: they
    are a part by themselves, and a complete table is one part. Columns with a noise of their own are
    a part each where entries are missing; the variance is then that of every column.
    """

    def __init__(self, draw: GP, F: Array) -> None:
        self.draw, self.F = draw, F
        self._alike = column_patterns(~np.isnan(F))
        patterns = single_columns(~np.isnan(F)) if draw.own_noise else self._alike
        self._parts = [
            (rows, columns, _Part(draw, own, block))
            for rows, columns, _, block, own in parts(draw, F, patterns)
        ]
        lengthscale = np.asarray(draw.theta.get("lengthscale", 1.0), dtype=np.float64)
        self.unit = np.broadcast_to(lengthscale, draw.X.shape[1])

    def conditional(self, x: Array) -> tuple[Array, Array]:
        """Mean (S, D) and variance (S, G) of a measurement at positions x of shape (S, Q)."""
        mean, variances = np.empty((len(x), self.F.shape[1])), []
        for _, columns, part in self._parts:
            mean[:, columns], variance = part.conditional(x)
            variances.append(variance)
        return mean, np.concatenate(variances, axis=1)

    def log_joint(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y, x) of the i-th row at the i-th position x (M, Q), shape (M,), and its gradient in x."""
        found = [part.log_likelihood(x, rows.columns(c)) for _, c, part in self._parts]
        value, gradient = (sum(p) for p in zip(*found, strict=True))
        return value + rows.log_prior(x), gradient + rows.prior_slope(x)

    def shortfall(self, x: Array, rows: Rows) -> Array:
        """How much worse the i-th row is explained at the i-th position than the training rows are.

        The distance of ln p(y given x), divided by the number of entries seen, below its median over
        the training rows, each given all others; in units of that of their lower sixth, at least 0.1.
        """
        usual, spread = self._usual
        value = self.log_joint(x, rows)[0] - rows.log_prior(x)
        return np.asarray((usual - value / rows.seen.sum(axis=1)) / spread)

    @cached_property
    def _usual(self) -> tuple[float, float]:
        """Median and lower spread of the training rows' own ln p, a seen entry, each left out."""
        total, count = np.zeros((2, len(self.F)))
        for known, columns, part in self._parts:
            residual, variance = part.left_out(self.F[np.ix_(known, columns)])
            each = residual**2 / variance + np.log(2.0 * np.pi * variance)
            total[known] -= 0.5 * each.sum(axis=1)
            count[known] += len(columns)
        low, usual = np.quantile(total / count, [_BELOW, 0.5])
        return float(usual), max(float(usual - low), _LEAST_SPREAD)

    def squares(self, x: Array, rows: Rows) -> tuple[Array, Array, Array]:
        """Misfit of the i-th row at the i-th position to the mean alone, as nonlinear least squares.

        (Σ_d (y_d - m_d(x))² / σ² + |(x - mean)/sd|²) / 2 over the entries seen: what -ln p(y, x)
        is where x is known as well as the training rows, but for constants. A mixture of the prior
        stands by its moments. Value (M,), gradient (M, Q), and JᵀJ (M, Q, Q), J the Jacobian of the
        scaled residuals.
        """
        away = (x - rows.mean) / rows.sd
        value, gradient = 0.5 * (away**2).sum(axis=1), away / rows.sd
        curvature = (1.0 / rows.sd**2)[:, :, None] * np.eye(x.shape[1])
        for _, columns, part in self._parts:
            misfit, slope, product = part.squares(x, rows.columns(columns))
            value += 0.5 * misfit
            gradient -= slope
            curvature += product
        return value, gradient, curvature

    def log_joint_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y, x) of every row at T positions of its own x (M, T, Q), shape (M, T), and the variance there (M, T, G)."""
        found = [part.log_likelihood_and_variance(x, rows.columns(c)) for _, c, part in self._parts]
        values, variances = zip(*found, strict=True)
        return sum(values) + rows.log_prior(x), np.concatenate(variances, axis=-1)

    def log_densities(self, positions: Array, rows: Rows) -> Array:
        """Return ln p(y, x) of every row at the same positions (P, Q), shape (M, P)."""
        found = [part.log_densities(positions, rows.columns(c)) for _, c, part in self._parts]
        shared = np.broadcast_to(positions, (len(rows), *positions.shape))
        return np.asarray(sum(found) + rows.log_prior(shared))

    def misfits(self, rows: Rows) -> Array:
        """Mean squared distances to the training rows over common entries, shape (M, N)."""
        squares, counts = np.zeros((2, len(rows), len(self.F)))
        for known, columns, block in self._alike.blocks(self.F):
            some = rows.columns(columns)
            squares[:, known] += distances2(some, block)
            counts[:, known] += some.seen.sum(axis=1)[:, None]
        with np.errstate(invalid="ignore"):
            return np.where(counts > 0.0, squares / counts, np.inf)


class _Part:
    """Density of unseen rows in the columns of one missingness pattern, given one draw.

    Given x a row has mean m(x) = k(x)ᵀ K⁻¹F and the variance v(x) = k(x, x) - k(x)ᵀ K⁻¹ k(x) + σ²
    (Rasmussen & Williams 2006, eq. 2.25 and 2.26), independent between columns, so that missing
    entries drop out of a sum. v is (S, 1), or (S, D) of columns with a noise of their own.
    """

    def __init__(self, draw: GP, own: GP | OwnColumns, F: Array) -> None:
        self.draw = own if isinstance(own, GP) else draw
        self.own, self.weights = own, own.weights(F)
        self.shared = isinstance(own, GP)

    def conditional(self, x: Array) -> tuple[Array, Array]:
        """Mean (S, D) and variance (S, 1) or (S, D) of a measurement at positions x."""
        found = [self._conditional(self.draw.cross(x[b]), x[b])[:2] for b in self._blocks(len(x))]
        mean, variance = (np.concatenate(p) for p in zip(*found, strict=True))
        return mean, variance

    def log_likelihood(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y given x) of the i-th row at the i-th position (M,), and its gradient in x."""
        found = [self._log_likelihood(x[b], rows[b]) for b in self._blocks(len(x))]
        value, gradient = (np.concatenate(p) for p in zip(*found, strict=True))
        return value, gradient

    def squares(self, x: Array, rows: Rows) -> tuple[Array, Array, Array]:
        """Σ (y - m(x))² of the i-th row at the i-th position (M,), (∂m/∂x)ᵀ(y - m) and (∂m/∂x)².

        All in units of the noise.
        """
        noise = np.maximum(self.own.noise, _LEAST_NOISE)
        (M, Q), D = x.shape, self.weights.shape[1]
        misfit, slope, product = np.empty(M), np.empty((M, Q)), np.empty((M, Q, Q))
        for b in self._blocks(M, Q * max(D, len(self.draw.X))):
            seen = rows.seen[b]
            residual = np.where(seen, rows.y[b] - self.draw.cross(x[b]) @ self.weights, 0.0)
            jacobian = self.draw.slope(x[b]) @ self.weights
            jacobian *= seen[:, None]
            misfit[b] = (residual**2 / noise).sum(axis=1)
            slope[b] = (jacobian @ (residual / noise)[:, :, None])[:, :, 0]
            product[b] = (jacobian / noise) @ jacobian.transpose(0, 2, 1)
        return misfit, slope, product

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals (N, D) and variances (N, 1) or (N, D) of the training rows, each given the others."""
        residual, variance = self.own.left_out(F)
        return residual, by_pattern(variance)

    def log_likelihood_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y given x) of every row at T positions of its own (M, T), and v there."""
        M, T, Q = x.shape
        flat, row = x.reshape(-1, Q), np.repeat(np.arange(M), T)
        values, variances = [], []
        for b in self._blocks(M * T):
            mean, variance, _ = self._conditional(self.draw.cross(flat[b]), flat[b])
            values.append(self._given(rows[row[b]], mean, variance)[0])
            variances.append(variance)
        return np.concatenate(values).reshape(M, T), np.concatenate(variances).reshape(M, T, -1)

    def log_densities(self, positions: Array, rows: Rows) -> Array:
        """Return ln p(y given x) of every row at the same positions (P, Q), shape (M, P)."""
        mean, variance = self.conditional(positions)
        seen = rows.seen.astype(np.float64)
        if self.shared:
            misfit = distances2(rows, mean) / variance[:, 0]
            misfit += seen.sum(axis=1)[:, None] * np.log(2.0 * np.pi * variance[:, 0])
            return -0.5 * misfit
        misfit = (seen * rows.y**2) @ (1.0 / variance).T
        misfit -= 2.0 * (seen * rows.y) @ (mean / variance).T
        misfit += seen @ (mean**2 / variance + np.log(2.0 * np.pi * variance)).T
        return np.asarray(-0.5 * misfit)

    def _blocks(self, n: int, entries: int = 0) -> list[slice]:
        size = max(1, _BLOCK // (entries or len(self.draw.X)))
        return [slice(i, i + size) for i in range(0, n, size)] or [slice(0, 0)]

    def _conditional(self, cross: Array, x: Array) -> tuple[Array, Array, Array]:
        """Mean, variance, and what the variance's gradient needs."""
        known, half = self.own.explained(cross)
        prior = self.own.prior_variance(x)[:, None] * self.own.signal
        return cross @ self.weights, np.maximum(prior - known, 0.0) + self.own.noise, half

    def _given(self, rows: Rows, mean: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
        """Return ln p(y | x), the residuals, and for each variance their squares and the entries seen."""
        residual = np.where(rows.seen, rows.y - mean, 0.0)
        misfit, count = residual**2, rows.seen.astype(np.float64)
        if self.shared:
            misfit, count = (a.sum(axis=1, keepdims=True) for a in (misfit, count))
        terms = misfit / variance + count * np.log(2.0 * np.pi * variance)
        return -0.5 * terms.sum(axis=1), residual, misfit, count

    def _log_likelihood(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        cross, rate = self.draw.cross_and_rate(x)
        mean, variance, half = self._conditional(cross, x)
        value, residual, misfit, count = self._given(rows, mean, variance)
        # ∂/∂v, and with ∂v/∂k = -2 K⁻¹k and ∂m/∂k = K⁻¹F the derivative in every k(x, x_n).
        by_variance = 0.5 * (misfit / variance - count) / variance
        by_cross = (residual / variance) @ self.weights.T
        by_cross -= self.own.explained_pullback(half, by_variance)
        by_prior = by_variance @ self.own.signal
        return value, self.draw.cross_pullback(x, rate, by_cross, by_prior)


def distances2(rows: Rows, F: Array) -> Array:
    """Squared distances of rows to the rows of F over the entries seen, shape (M, len(F))."""
    seen = rows.seen.astype(np.float64)
    inner = (seen * rows.y) @ F.T
    squares = (seen * rows.y**2).sum(axis=1)[:, None] + seen @ (F**2).T
    return np.maximum(squares - 2.0 * inner, 0.0)
