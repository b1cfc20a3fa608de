"""The posterior of the positions of unseen rows: its density, its modes, weighted positions about them.

What a row is told does not depend on the rows given with it. Many are treated at once, as that is
fast, but each draws from a stream that its own content seeds (:func:`row_streams`), and no rounding
is shared: matrices are multiplied by the runs of positions of one row (:class:`Runs`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from pm_gplvm.core.batch_optimise import Index, maximise, minimise
from pm_gplvm.core.blas import Runs, rowwise
from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import GP, column_patterns, lower_factors, single_columns
from pm_gplvm.core.inducing import shortened
from pm_gplvm.core.interrupt import interruptible, safe_point
from pm_gplvm.core.mixtures import Mixture, Proposals, over_last, squared_distances
from pm_gplvm.data.fit import Fit, evenly_spaced
from pm_gplvm.data.progress import Bar
from pm_gplvm.prediction.processes import (
    Induced,
    OwnColumns,
    Process,
    by_pattern,
    each_process,
    parts,
)

Indices = NDArray[np.intp]

# The density
_BLOCK = 2**19  # entries of one k(x, X): what a processor's cache still holds
_BELOW = 0.16  # of the training rows: as far below the median as one standard deviation
_LEAST_SPREAD = 0.1  # nats an entry: what differs by less in a wide table differs in nothing else
_LEAST_NOISE = 1e-12  # σ² that least squares are divided by where a fit has none

# Modes and positions
_ROWS = 1000  # at a time
_SHORT = 2**23  # numbers of the roots of so many rows, through inducing inputs
_KNOWN = 1000  # known rows at which a new one may begin, through inducing inputs: many more are no better
_SCATTERED = 1000  # positions beside those of the known rows, and as many from the prior
_BESIDE = 0.3  # in lengthscales
_APART = 0.2  # in lengthscales: nearer starts lead to the same mode
_ENDS = 4  # of least squares, from which the density is maximised too
_MODES = 8  # at most so many a row and draw
_SAME = 0.02  # in lengthscales: modes closer than this are merged
_STEP = 1e-4  # of the differences for a mode's curvature, in lengthscales
_PRIOR_SHARE = 0.1  # of the positions, so that no weight exceeds ten times the likelihood's
_WIDE, _WIDE_SHARE = 3.0, 0.2  # a wider copy of each mode, for those that are no Gaussian
_ROUNDS, _PILOT = 2, 200  # of adapting the mixture, by so many positions, not used again
_REPORTED = 8  # modes a row
_ONE_PEAK = 2.0  # two equal Gaussians nearer than two standard deviations have one mode
_NEGLIGIBLE = 12.0  # by which a mode's log mass may lie below the greatest


@dataclass(frozen=True)
class Rows:
    """Unseen rows y (M, D), standardised and 0 where not ``seen``, and the prior of their positions.

    x ~ N(mean, sd²), independent, (M, Q); or a mixture for all rows, of which these are the moments.
    ``offset`` (M, ...) is what a likelihood adds to f. ``of_tables`` are the same rows in each of several tables, where
    a density asks for these one by one.
    """

    y: Array
    seen: NDArray[np.bool_]
    mean: Array
    sd: Array
    mixture: Mixture | None = None
    short: "tuple[Short, ...]" = ()  # of each part of a density through inducing inputs
    offset: Array | None = None
    of_tables: "tuple[Rows, ...]" = ()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, which: Any) -> "Rows":
        return replace(
            self,
            y=self.y[which],
            seen=self.seen[which],
            mean=self.mean[which],
            sd=self.sd[which],
            short=tuple(short[which] for short in self.short),
            offset=None if self.offset is None else self.offset[which],
            of_tables=tuple(rows[which] for rows in self.of_tables),
        )

    def columns(self, which: NDArray[np.intp]) -> "Rows":
        """Return the same rows with some of their entries."""
        if len(which) == self.y.shape[1]:
            return self
        return replace(self, y=self.y.take(which, axis=1), seen=self.seen.take(which, axis=1))

    def log_prior(self, x: Array, row: Any = ...) -> Array:
        """Return ln p(x), x of shape (M, ..., Q), or (1, ..., Q) for all rows, shape (M, ...).

        ``row`` (M',) says of which of the rows each is.
        """
        mean, sd = self.mean[row], self.sd[row]
        if self.mixture is not None:
            logs = self.mixture.log_density(x)
            return np.broadcast_to(logs, (len(mean), *logs.shape[1:]))
        over = (len(mean), *(1,) * (x.ndim - 2), x.shape[-1])
        mean, sd = mean.reshape(over), sd.reshape(over)
        scaled = (x - mean) / sd
        return over_last(-0.5 * (scaled**2 + np.log(2.0 * np.pi)) - np.log(sd))

    def prior_slope(self, x: Array, row: Any = ...) -> Array:
        """Gradient of ln p(x) at the position of each row, shape (M, Q); ``row`` as in :meth:`log_prior`."""
        if self.mixture is not None:
            return self.mixture.slope(x)
        return -(x - self.mean[row]) / self.sd[row] ** 2


@dataclass(frozen=True)
class Short:
    """Rows and the functions at their seen entries in as few numbers as there are inducing inputs.

    Σ_d (y_d - m_d(x))² over the entries seen is rest + ‖y - Rt(x)‖² (:func:`shortened`). y (M, r), rest and
    the number of entries ``count`` (M,) are of each row, R (G, r, K) of each pattern of missing entries,
    ``pattern`` (M,) says of which a row is.
    """

    y: Array
    rest: Array
    count: Array
    R: Array
    pattern: Index

    def __getitem__(self, which: Any) -> "Short":
        some = {n: getattr(self, n)[which] for n in ("y", "rest", "count", "pattern")}
        return replace(self, **some)

    @classmethod
    def of(cls, rows: Rows, coefficients: Array) -> "Short":
        """Shorten rows, given the coefficients (K, D) of the mean of all columns."""
        K, D = coefficients.shape
        seen, pattern = np.unique(rows.seen, axis=0, return_inverse=True)
        pattern, most = pattern.ravel(), min(K, D)
        y, rest, R = (
            np.zeros((len(rows), most)),
            np.empty(len(rows)),
            np.zeros((len(seen), most, K)),
        )
        for g, entries in enumerate(seen):
            own = np.flatnonzero(pattern == g)
            short, root, rest[own] = shortened(coefficients[:, entries], rows.y[own][:, entries])
            y[own, : short.shape[1]], R[g, : len(root)] = short, root
        return cls(y, rest, rows.seen.sum(axis=1).astype(np.float64), R, pattern)


class Density(Protocol):
    """What :func:`positions_of` asks of the density of unseen rows: see :class:`RowDensity`."""

    known: Any
    beginnings: Array
    unit: Array

    @property
    def rows_at_once(self) -> int: ...  # noqa: D102

    def prepared(self, rows: Rows) -> Rows: ...  # noqa: D102

    def log_joint(  # noqa: D102
        self, x: Array, rows: Rows, row: Index | None = None
    ) -> tuple[Array, Array]: ...

    def shortfall(self, x: Array, rows: Rows) -> Array: ...  # noqa: D102

    def squares(  # noqa: D102
        self, x: Array, rows: Rows, row: Index | None = None
    ) -> tuple[Array, Array, Array]: ...

    def log_joint_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]: ...  # noqa: D102

    def log_densities(self, positions: Array, rows: Rows) -> Array: ...  # noqa: D102

    def misfits(self, rows: Rows) -> Array: ...  # noqa: D102


class RowDensity:
    """Density of unseen rows given one draw of X and θ, and F (N, D), NaN where an entry is missing.

    Columns in which the same training rows were observed have the same conditional variance: they
    are a part by themselves, and a complete table is one part. Columns with a noise of their own are
    a part each where entries are missing; the variance is then that of every column. ``known`` are the rows
    whose positions a new row may begin at. ``others`` are further tables of the same rows, their columns behind
    those of the first: given x and θ they are independent.
    """

    def __init__(self, draw: Process, F: Array, *others: tuple[Process, Array]) -> None:
        self.draw, self.F = draw, np.hstack([F, *(other for _, other in others)])
        self.known: Any = slice(None)
        self._parts: list[tuple[Indices, Indices, Any]] = []
        units, before = [], 0
        for process, table in [(draw, F), *others]:
            own_columns = not isinstance(process, Induced) and process.own_noise
            patterns = (single_columns if own_columns else column_patterns)(~np.isnan(table))
            for rows, columns, _, block, own in parts(process, table, patterns):
                part: Any
                if isinstance(process, Induced):
                    part = ShortPart(own, len(self._parts))
                else:
                    part = _Part(process, own, block)
                self._parts.append((rows, columns + before, part))
            if isinstance(process, Induced):
                units.append(process.unit)
                self.known = evenly_spaced(len(table), _KNOWN)
            else:
                units.append(process.unit_of_positions)
            before += table.shape[1]
        self.unit = np.min(units, axis=0)
        self.beginnings = draw.X[self.known]
        self._begin = self.F[self.known]
        self._alike = column_patterns(~np.isnan(self._begin))

    def prepared(self, rows: Rows) -> Rows:
        """Return rows with what all evaluations of their density need."""
        for _, columns, part in self._parts:
            rows = part.prepared(rows, columns)
        return rows

    @property
    def rows_at_once(self) -> int:
        """Rows that are treated together."""
        return min(part.rows_at_once for _, _, part in self._parts)

    def conditional(self, x: Array) -> tuple[Array, Array]:
        """Mean (S, D) and variance (S, G) of a measurement at positions x of shape (S, Q)."""
        mean, variances = np.empty((len(x), self.F.shape[1])), []
        for _, columns, part in self._parts:
            mean[:, columns], variance = part.conditional(x)
            variances.append(variance)
        return mean, np.concatenate(variances, axis=1)

    def log_joint(self, x: Array, rows: Rows, row: Index | None = None) -> tuple[Array, Array]:
        """Return ln p(y, x) at positions x (S, Q), shape (S,), and its gradient in x.

        ``row`` (S,), in order, says of which of the rows each is; by default the i-th of the i-th.
        """
        row = np.arange(len(rows)) if row is None else row
        found = [part.log_likelihood(x, part.of(rows, c), row) for _, c, part in self._parts]
        value, gradient = (sum(p) for p in zip(*found, strict=True))
        return value + rows.log_prior(x, row), gradient + rows.prior_slope(x, row)

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
        some = count > 0.0  # of several tables one may lack a row
        low, usual = np.quantile(total[some] / count[some], [_BELOW, 0.5])
        return float(usual), max(float(usual - low), _LEAST_SPREAD)

    def squares(self, x: Array, rows: Rows, row: Index | None = None) -> tuple[Array, Array, Array]:
        """Misfit of rows to the mean alone, as nonlinear least squares; ``row`` as in :meth:`log_joint`.

        (Σ_d (y_d - m_d(x))² / σ² + |(x - mean)/sd|²) / 2 over the entries seen: what -ln p(y, x)
        is where x is known as well as the training rows, but for constants. A mixture of the prior
        stands by its moments. Value (S,), gradient (S, Q), and JᵀJ (S, Q, Q), J the Jacobian of the
        scaled residuals.
        """
        row = np.arange(len(rows)) if row is None else row
        mean, sd = rows.mean[row], rows.sd[row]
        away = (x - mean) / sd
        value, gradient = 0.5 * over_last(away**2), away / sd
        curvature = (1.0 / sd**2)[:, :, None] * np.eye(x.shape[1])
        for _, columns, part in self._parts:
            misfit, slope, product = part.squares(x, part.of(rows, columns), row)
            value += 0.5 * misfit
            gradient -= slope
            curvature += product
        return value, gradient, curvature

    def log_joint_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y, x) of every row at T positions of its own x (M, T, Q), shape (M, T), and the variance there (M, T, G)."""
        found = [
            part.log_likelihood_and_variance(x, part.of(rows, c)) for _, c, part in self._parts
        ]
        values, variances = zip(*found, strict=True)
        return sum(values) + rows.log_prior(x), np.concatenate(variances, axis=-1)

    def log_densities(self, positions: Array, rows: Rows) -> Array:
        """Return ln p(y, x) of every row at the same positions (P, Q), shape (M, P)."""
        found = [part.log_densities(positions, part.of(rows, c)) for _, c, part in self._parts]
        return np.asarray(sum(found) + rows.log_prior(positions[None]))

    def misfits(self, rows: Rows) -> Array:
        """Mean squared distances to the ``known`` rows over common entries, shape (M, N)."""
        squares, counts = np.zeros((2, len(rows), len(self._begin)))
        for known, columns, block in self._alike.blocks(self._begin):
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

    @property
    def rows_at_once(self) -> int:
        """Rows that are treated together."""
        return _ROWS

    def prepared(self, rows: Rows, columns: Indices) -> Rows:
        """Return rows as they are."""
        return rows

    def of(self, rows: Rows, columns: Indices) -> Rows:
        """Return the entries of rows in the columns of this part."""
        return rows.columns(columns)

    def conditional(self, x: Array) -> tuple[Array, Array]:
        """Mean (S, D) and variance (S, 1) or (S, D) of a measurement at positions x."""
        every = self._blocks(np.zeros(len(x), dtype=np.intp))
        found = [
            self._conditional(self.draw.cross(x[b], runs), x[b], runs)[:2] for b, runs in every
        ]
        mean, variance = (np.concatenate(p) for p in zip(*found, strict=True))
        return mean, variance

    def log_likelihood(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array]:
        """Return ln p(y given x) of the i-th row at the i-th position (S,), and its gradient in x.

        Positions of equal ``row`` (S,), in order, are of the same row.
        """
        found = [self._log_likelihood(x[b], rows[row[b]], runs) for b, runs in self._blocks(row)]
        value, gradient = (np.concatenate(p) for p in zip(*found, strict=True))
        return value, gradient

    def squares(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array, Array]:
        """Σ (y - m(x))² of the i-th row at the i-th position (S,), (∂m/∂x)ᵀ(y - m) and (∂m/∂x)².

        All in units of the noise; ``row`` as in :meth:`log_likelihood`.
        """
        noise = np.maximum(self.own.noise, _LEAST_NOISE)
        (M, Q), D = x.shape, self.weights.shape[1]
        misfit, slope, product = np.empty(M), np.empty((M, Q)), np.empty((M, Q, Q))
        for b, runs in self._blocks(row, Q * max(D, len(self.draw.X))):
            seen = rows.seen[row[b]]
            mean = runs(self.draw.cross(x[b], runs), self.weights)
            residual = np.where(seen, rows.y[row[b]] - mean, 0.0)
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
        for b, runs in self._blocks(row):
            mean, variance, _ = self._conditional(self.draw.cross(flat[b], runs), flat[b], runs)
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
        misfit = rowwise(seen * rows.y**2, (1.0 / variance).T)
        misfit -= 2.0 * rowwise(seen * rows.y, (mean / variance).T)
        misfit += rowwise(seen, (mean**2 / variance + np.log(2.0 * np.pi * variance)).T)
        return np.asarray(-0.5 * misfit)

    def _blocks(self, row: Index, entries: int = 0) -> Iterator[tuple[slice, Runs]]:
        """Split positions as :func:`blocks_of` does, by default by the entries of k(x, X)."""
        return blocks_of(row, entries or len(self.draw.X))

    def _conditional(self, cross: Array, x: Array, runs: Runs) -> tuple[Array, Array, Array]:
        """Mean, variance, and what the variance's gradient needs."""
        known, half = self.own.explained(cross, runs)
        prior = self.own.prior_variance(x)[:, None] * self.own.signal
        return runs(cross, self.weights), np.maximum(prior - known, 0.0) + self.own.noise, half

    def _given(self, rows: Rows, mean: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
        """Return ln p(y | x), the residuals, and for each variance their squares and the entries seen."""
        residual = np.where(rows.seen, rows.y - mean, 0.0)
        misfit, count = residual**2, rows.seen.astype(np.float64)
        if self.shared:
            misfit, count = (a.sum(axis=1, keepdims=True) for a in (misfit, count))
        terms = misfit / variance + count * np.log(2.0 * np.pi * variance)
        return -0.5 * terms.sum(axis=1), residual, misfit, count

    def _log_likelihood(self, x: Array, rows: Rows, runs: Runs) -> tuple[Array, Array]:
        cross, rate = self.draw.cross_and_rate(x, runs)
        mean, variance, half = self._conditional(cross, x, runs)
        value, residual, misfit, count = self._given(rows, mean, variance)
        # ∂/∂v, and with ∂v/∂k = -2 K⁻¹k and ∂m/∂k = K⁻¹F the derivative in every k(x, x_n).
        by_variance = 0.5 * (misfit / variance - count) / variance
        by_cross = runs(residual / variance, self.weights.T)
        by_cross -= self.own.explained_pullback(half, by_variance, runs)
        by_prior = (by_variance * self.own.signal).sum(axis=1)
        return value, self.draw.cross_pullback(x, rate, by_cross, by_prior, runs)


class ShortPart:
    """Density of unseen rows in the columns of a pattern, through inducing inputs, as :class:`_Part`.

    With t(x) the directions of :class:`InducingPosterior` a row has the mean t coefficients and the variance
    v = k(x, x) - Σ s t² + σ². Only the distance of its seen entries to the mean counts, and that is
    in M numbers (:class:`Short`): a position costs M², whatever D. ``number`` is that of the part.
    """

    def __init__(self, own: Induced, number: int) -> None:
        self.own, self.number, known = own, number, own.posterior
        self.directions, self.shares, self.coefficients = (
            np.ascontiguousarray(a) for a in (known.directions, known.shares, known.coefficients)
        )

    @property
    def rows_at_once(self) -> int:
        """Rows that are treated together: each may have an R of its own."""
        M, D = self.coefficients.shape
        return max(1, min(_ROWS, _SHORT // (M * min(M, D))))

    def prepared(self, rows: Rows, columns: Indices) -> Rows:
        """Return rows with their short form in the columns of this part."""
        own = Short.of(rows.columns(columns), self.coefficients)
        return replace(rows, short=(*rows.short, own))

    def of(self, rows: Rows, columns: Indices) -> Short:
        """Return the short form of rows in the columns of this part."""
        if rows.short:
            return rows.short[self.number]
        return Short.of(rows.columns(columns), self.coefficients)

    def conditional(self, x: Array) -> tuple[Array, Array]:
        """Mean (S, D) and variance (S, 1) of a measurement at positions x."""
        turned = self.own.turned(self.own.cross(x))
        return turned @ self.coefficients, self._variance(x, turned)[:, None]

    def log_likelihood(self, x: Array, rows: Short, row: Index) -> tuple[Array, Array]:
        """As :meth:`_Part.log_likelihood`."""
        value, gradient, s = np.empty(len(x)), np.empty_like(x), self.shares
        for b, runs in blocks_of(row, len(s)):
            own, R = row[b], self._roots(rows, row[b], runs)
            cross, rate = self.own.cross_and_rate(x[b], runs)
            turned = self.own.turned(cross, runs)
            variance = self._variance(x[b], turned)
            residual = rows.y[own] - runs.each(turned, [r.T for r in R], rows.y.shape[1])
            misfit, count = rows.rest[own] + (residual**2).sum(axis=1), rows.count[own]
            value[b] = -0.5 * (misfit / variance + count * np.log(2.0 * np.pi * variance))
            by_variance = 0.5 * (misfit / variance - count) / variance
            by_turned = runs.each(residual / variance[:, None], R, len(s))
            by_turned -= 2.0 * by_variance[:, None] * s * turned
            by_cross = runs(by_turned, self.directions)
            gradient[b] = self.own.cross_pullback(x[b], rate, by_cross, by_variance, runs)
        return value, gradient

    def squares(self, x: Array, rows: Short, row: Index) -> tuple[Array, Array, Array]:
        """As :meth:`_Part.squares`."""
        noise, (S, Q) = max(self.own.noise, _LEAST_NOISE), x.shape
        misfit, slope, product = np.empty(S), np.empty((S, Q)), np.empty((S, Q, Q))
        for b, runs in blocks_of(row, Q * len(self.shares)):
            own, R = row[b], self._roots(rows, row[b], runs)
            turned = self.own.turned(self.own.cross(x[b], runs), runs)
            residual = rows.y[own] - runs.each(turned, [r.T for r in R], rows.y.shape[1])
            jacobian = self.own.slope(x[b]) @ self.directions.T
            many = Runs([Q * bound for bound in runs.bounds])
            jacobian = many.each(
                jacobian.reshape(-1, len(self.shares)), [r.T for r in R], rows.y.shape[1]
            )
            jacobian = jacobian.reshape(len(own), Q, rows.y.shape[1])
            misfit[b] = (rows.rest[own] + (residual**2).sum(axis=1)) / noise
            slope[b] = (jacobian @ (residual / noise)[:, :, None])[:, :, 0]
            product[b] = (jacobian / noise) @ jacobian.transpose(0, 2, 1)
        return misfit, slope, product

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """As :meth:`_Part.left_out`, the rows at the means of q(X) where there is one."""
        residual, variance = self.own.left_out(F)
        return residual, by_pattern(variance)

    def log_likelihood_and_variance(self, x: Array, rows: Short) -> tuple[Array, Array]:
        """As :meth:`_Part.log_likelihood_and_variance`."""
        M, T, Q = x.shape
        flat, row = x.reshape(-1, Q), np.repeat(np.arange(M), T)
        values, variances = np.empty(M * T), np.empty(M * T)
        for b, runs in blocks_of(row, len(self.shares)):
            R = self._roots(rows, row[b], runs)
            turned = self.own.turned(self.own.cross(flat[b], runs), runs)
            variances[b] = self._variance(flat[b], turned)
            residual = runs.each(turned, [r.T for r in R], rows.y.shape[1])
            residual -= rows.y[row[b]]
            misfit = rows.rest[row[b]] + (residual**2).sum(axis=1)
            logs = rows.count[row[b]] * np.log(2.0 * np.pi * variances[b])
            values[b] = -0.5 * (misfit / variances[b] + logs)
        return values.reshape(M, T), variances.reshape(M, T, 1)

    def log_densities(self, positions: Array, rows: Short) -> Array:
        """As :meth:`_Part.log_densities`."""
        turned = self.own.turned(self.own.cross(positions))
        variance = self._variance(positions, turned)
        logs, inverse = np.log(2.0 * np.pi * variance), 1.0 / variance
        found = np.empty((len(rows.y), len(positions)))
        for i, (y, pattern) in enumerate(zip(rows.y, rows.pattern, strict=True)):
            residual = turned @ rows.R[pattern].T
            residual -= y
            misfit = rows.rest[i] + np.einsum("pr,pr->p", residual, residual)
            found[i] = -0.5 * (misfit * inverse + rows.count[i] * logs)
        return found

    def _variance(self, x: Array, turned: Array) -> Array:
        """Variance of a measurement, shape (S,)."""
        known = (turned**2 * self.shares).sum(axis=1)
        return np.maximum(self.own.prior_variance(x) - known, 0.0) + self.own.noise

    def _roots(self, rows: Short, row: Index, runs: Runs) -> list[Array]:
        """R (r, K) of the row of each run."""
        return [rows.R[g] for g in rows.pattern[row[runs.bounds[:-1]]]]


def blocks_of(row: Index, entries: int) -> Iterator[tuple[slice, Runs]]:
    """Split positions as the cache holds them, by entries of each, and each block into runs of the same row.

    How a row is split depends on how many positions of its own there are, not on the others.
    """
    size = max(1, _BLOCK // entries)
    edges = [*np.flatnonzero(np.diff(row, prepend=-1)).tolist(), len(row)]
    begin, bounds = 0, [0]
    for start, end in pairwise(edges):
        for at in range(start, end, size):
            until = min(at + size, end)
            if until - begin > size and len(bounds) > 1:
                yield slice(begin, at), Runs(bounds)
                begin, bounds = at, [0]
            bounds.append(until - begin)
    yield slice(begin, len(row)), Runs(bounds)


def distances2(rows: Rows, F: Array) -> Array:
    """Squared distances of rows to the rows of F over the entries seen, shape (M, len(F))."""
    seen = rows.seen.astype(np.float64)
    inner = rowwise(seen * rows.y, F.T)
    squares = (seen * rows.y**2).sum(axis=1)[:, None] + rowwise(seen, (F**2).T)
    return np.maximum(squares - 2.0 * inner, 0.0)


# Modes, and positions drawn about them


@dataclass(frozen=True)
class Modes:
    """Modes of ln p(y, x) in x, up to C for each of M rows, in no order.

    ``spread`` (M, C, Q, Q) is the lower Cholesky factor of the inverse of the negative Hessian at
    ``at`` (M, C, Q). ``log_mass`` (M, C) is the logarithm of the integral under the Gaussian there,
    -inf where there is no mode. ``converged`` (M,): whether the highest was reached to tolerance.
    """

    at: Array
    spread: Array
    log_mass: Array
    converged: NDArray[np.bool_]


@dataclass(frozen=True)
class Positions:
    """T weighted positions x (M, T, Q) of each of M rows, from all draws of a fit.

    ``log_ratio`` (M, T) is ln p(y, x) less the log density that x was drawn from; ``variance``
    (M, T, G) that of a measurement at x in each pattern of columns, in units of the scale² of Y.
    ``modes`` are of all draws. ``shortfalls`` (M, S) are :meth:`RowDensity.shortfall` at the heaviest
    mode in each draw. The first T / n_draws positions are of the first draw, and so on.
    """

    x: Array
    log_ratio: Array
    variance: Array
    modes: Modes
    shortfalls: Array
    n_draws: int

    @property
    def log_evidence(self) -> Array:
        """Estimate ln p(y) of each row, shape (M,)."""
        return np.asarray(logsumexp(self.log_ratio, axis=1) - np.log(self.log_ratio.shape[1]))

    @property
    def error(self) -> Array:
        """Standard error of ln p(y) from the choice of positions, shape (M,)."""
        relative = np.exp(self.log_ratio - self.log_evidence[:, None])
        return np.asarray(relative.std(axis=1) / np.sqrt(relative.shape[1]))

    @property
    def shortfall(self) -> Array:
        """How much worse a row is explained than those of the table, shape (M,).

        The median over the draws, so that a few that cannot explain a row do not count.
        """
        return np.asarray(np.median(self.shortfalls, axis=1))

    def smoothed(self) -> tuple[Array, Array]:
        """Pareto smoothed weights (M, T), a sum of 1 each row, and their Pareto k (M,)."""
        with interruptible():
            from arviz_stats.base import array_stats

        logs, k = array_stats.psislw(-self.log_ratio, axis=-1)
        return np.exp(logs), np.asarray(k)


def weighted_positions(
    densities: Iterable[Density],
    by_draw: list[Rows],
    *,
    n_samples: int,
    n_starts: int,
    seed: np.random.SeedSequence,
    streams: Sequence[np.random.Generator],
    progress: Bar | None = None,
) -> Positions:
    """Draw positions of each row from its mixtures, the same number from each draw of the fit.

    ``by_draw`` holds the rows once for each draw, with the prior of their positions in its frame, and
    ``densities`` are those given each draw.
    ``n_samples`` positions a row over all draws are rounded up to a whole number of each. ``streams``
    are those of the rows, which go on; ``seed`` is of what all rows share.
    """
    each = -(-n_samples // len(by_draw))
    whole = []
    for s, (density, rows) in enumerate(zip(densities, by_draw, strict=True)):
        scattered = scatter(density, np.random.default_rng(_child(seed, (s,))))
        found = []
        step = density.rows_at_once
        for block in (slice(i, i + step) for i in range(0, len(rows), step)):
            safe_point()
            own = streams[block]
            found.append(positions_of(density, rows[block], each, n_starts, scattered, own))
            if progress is not None:
                progress.advance(len(own))
        whole.append(_joined(found, axis=0))
    return _joined(whole, axis=1)


def each_density(tables: Sequence[Fit], limit: int) -> Iterator[Density]:
    """Densities of unseen rows given each of at most ``limit`` draws of a fit, of one table or several."""
    F = [read.table().F for read in tables]
    for draws in zip(*(each_process(read, limit) for read in tables), strict=True):
        (draw, own), *others = zip(draws, F, strict=True)
        yield RowDensity(draw, own, *others)


def each_density_at(draws: Sequence[GP], F: Array, at: Array) -> Iterator[Density]:
    """Densities of unseen rows that have these inputs (C,), given each draw."""
    return (RowDensity(draw.elsewhere(at), F) for draw in draws)


def row_contents(values: Array) -> list[bytes]:
    """Bytes of each row of a table, equal where the rows are: 0 has no sign, and NaN is NaN."""
    plain = np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8")
    return [row.tobytes() for row in plain]


def row_streams(values: Array, seed: np.random.SeedSequence) -> list[np.random.Generator]:
    """Make a stream of random numbers for each row (M, D), from its content and the seed."""
    digests = (blake2b(content, digest_size=16).digest() for content in row_contents(values))
    words = (tuple(np.frombuffer(digest, dtype="<u4").tolist()) for digest in digests)
    return [np.random.default_rng(_child(seed, key)) for key in words]


def _child(seed: np.random.SeedSequence, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed.entropy, spawn_key=key)


def positions_of(
    density: Density,
    rows: Rows,
    n: int,
    n_starts: int,
    scattered: tuple[Array, Array],
    streams: Sequence[np.random.Generator],
) -> Positions:
    """Draw n positions of each row given one draw of X and θ."""
    rows = density.prepared(rows)
    modes = _modes(density, rows, _starts(density, rows, n_starts, scattered))
    proposals = _proposals(modes, rows)
    for _ in range(_ROUNDS):
        x = proposals.draw(_PILOT, streams)
        value, _ = density.log_joint_and_variance(x, rows)
        proposals = proposals.adapted(x, value - proposals.log_density(x), density.unit)
    x = proposals.draw(n, streams)
    value, variance = density.log_joint_and_variance(x, rows)
    best = modes.at[np.arange(len(rows)), modes.log_mass.argmax(axis=1)]
    shortfalls = density.shortfall(best, rows)[:, None]
    return Positions(x, value - proposals.log_density(x), variance, modes, shortfalls, n_draws=1)


def scatter(density: Density, rng: np.random.Generator) -> tuple[Array, Array]:
    """Positions (P, Q) of the known rows and beside them, and some of N(0, 1), the same for all rows."""
    known = density.beginnings
    shape = (_SCATTERED, known.shape[1])
    beside = known[rng.integers(len(known), size=_SCATTERED)]
    beside = beside + _BESIDE * density.unit * rng.standard_normal(shape)
    return np.vstack([known, beside]), rng.standard_normal(shape)


def _starts(density: Density, rows: Rows, n: int, scattered: tuple[Array, Array]) -> Array:
    """Choose n starting positions of each row, shape (M, n, Q).

    A quarter are the positions of the known rows most alike in the entries seen; the others those
    where p(y, x) is highest among the positions of all known rows, positions beside them, and some of
    the prior (:func:`scatter`). These are the same for all rows of one prior, so that many cost little.
    """
    (M, Q), known = rows.mean.shape, density.beginnings
    shared, standard = scattered
    P = len(shared)
    points, log_densities = np.empty((M, P + len(standard), Q)), np.empty((M, P + len(standard)))
    points[:, :P], log_densities[:, :P] = shared, density.log_densities(shared, rows)
    priors, group = np.unique(np.hstack([rows.mean, rows.sd]), axis=0, return_inverse=True)
    for g, prior in enumerate(priors):
        own = np.flatnonzero(group.ravel() == g)
        points[own, P:] = positions = prior[:Q] + prior[Q:] * standard
        log_densities[own, P:] = density.log_densities(positions, rows[own])
    points /= density.unit
    alike = min(n // 4, len(known))
    likely, _ = _distinct(points, log_densities, n - alike, _APART)
    nearest = np.argsort(density.misfits(rows), axis=1, kind="stable")[:, :alike]
    chosen = points[np.arange(M)[:, None], likely] * density.unit
    return np.concatenate([chosen, known[nearest]], axis=1)


def _distinct(
    points: Array, log_densities: Array, most: int, apart: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Pick up to ``most`` of the highest points (M, P, Q) of each row, none beside one picked before.

    Their index, and False where there was none left, (M, most) each.
    """
    left, every = log_densities.copy(), np.arange(len(log_densities))
    index = np.zeros((len(log_densities), most), dtype=np.intp)
    found = np.zeros((len(log_densities), most), dtype=bool)
    for j in range(most):
        index[:, j] = best = left.argmax(axis=1)
        found[:, j] = np.isfinite(left[every, best])
        away = (points[:, :, q] - points[every, best, q, None] for q in range(points.shape[2]))
        left[sum(a**2 for a in away) <= apart**2] = -np.inf
    return index, found


def _modes(density: Density, rows: Rows, starts: Array) -> Modes:
    M, _, Q = starts.shape
    unit = density.unit
    found_at, log_densities, converged = _maximised(density, rows, starts)
    index, found = _distinct(found_at / unit, log_densities, _MODES, _SAME)
    every = np.arange(M)[:, None]
    at, log_density = found_at[every, index], log_densities[every, index]
    spread = np.broadcast_to(np.eye(Q), (*at.shape, Q)).copy()
    row = np.nonzero(found)[0]
    spread[found] = _spread(density, rows, row, at[found])
    log_mass = log_density + 0.5 * Q * np.log(2.0 * np.pi)
    log_mass += over_last(np.log(np.diagonal(spread, axis1=2, axis2=3)))
    highest = converged[np.arange(M), index[:, 0]]
    return Modes(at, spread, np.where(found, log_mass, -np.inf), highest)


def _maximised(
    density: Density, rows: Rows, starts: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Maximise ln p(y, x) from the starts, and from where the mean comes nearest to the row.

    With hardly any noise the density is so steep that the first step can end where v(x) is large and
    forgives any residual, a maximum of its own. Least squares know no v, and from their ends the
    first step is that of their curvature, which is short where it is steep. Positions (M, T, Q), log
    densities (M, T), -inf where there is none, and convergence (M, T).
    """
    M, n, Q = starts.shape
    unit, flat, row = density.unit, starts.reshape(-1, Q), np.repeat(np.arange(M), n)
    ends, _, curvature = minimise(lambda x, which: density.squares(x, rows, row[which]), flat, unit)
    log_density = density.log_joint(ends, rows, row)[0].reshape(M, n)
    index, found = _distinct((ends / unit).reshape(M, n, Q), log_density, min(n, _ENDS), _SAME)
    own, slot = np.nonzero(found)
    chosen = n * own + index[own, slot]
    inverse = np.linalg.inv(curvature[chosen])

    found_at, log_densities = np.zeros((M, n + _ENDS, Q)), np.full((M, n + _ENDS), -np.inf)
    converged = np.zeros((M, n + _ENDS), dtype=bool)

    def run(x: Array, own: NDArray[np.intp], slot: Any, inverse: Array | None = None) -> None:
        found_at[own, slot], log_densities[own, slot], converged[own, slot] = maximise(
            lambda x, which: density.log_joint(x, rows, own[which]), x, unit, inverse=inverse
        )

    run(flat, row, np.tile(np.arange(n), M))
    run(ends[chosen], own, n + slot, inverse)
    return found_at, log_densities, converged


def _spread(density: Density, rows: Rows, row: Index, at: Array) -> Array:
    """Cholesky factor of the covariance at modes, the Hessian by differences of the gradient."""
    unit, Q = density.unit, at.shape[1]
    hessian = np.empty((len(at), Q, Q))
    for q in range(Q):
        step = np.zeros(Q)
        step[q] = _STEP * unit[q]
        up, down = (density.log_joint(at + sign * step, rows, row)[1] for sign in (1.0, -1.0))
        hessian[:, q] = (up - down) * unit / (2.0 * _STEP)
    curvature, axes = np.linalg.eigh(-0.5 * (hessian + hessian.transpose(0, 2, 1)))
    # Nowhere wider than the prior, and as wide where there is no maximum.
    least = ((unit / rows.sd[row]) ** 2).min(axis=1)
    curvature = np.maximum(curvature, least[:, None])
    covariance = (axes / curvature[:, None]) @ axes.transpose(0, 2, 1)
    return np.asarray(unit[:, None] * lower_factors(covariance))


def _proposals(modes: Modes, rows: Rows) -> Proposals:
    below = modes.log_mass - modes.log_mass.max(axis=1, keepdims=True)
    kept = below > -_NEGLIGIBLE
    mass = np.where(kept, np.exp(below), 0.0)
    share = mass / mass.sum(axis=1, keepdims=True)
    share += kept / kept.sum(axis=1, keepdims=True)  # none is left to chance
    share *= 0.5 * (1.0 - _PRIOR_SHARE)
    at = np.concatenate([modes.at, modes.at], axis=1)
    spread = np.concatenate([modes.spread, _WIDE * modes.spread], axis=1)
    shares = (
        (1.0 - _WIDE_SHARE) * share,
        _WIDE_SHARE * share,
        np.full((len(rows), 1), _PRIOR_SHARE),
    )
    return Proposals(at, spread, np.concatenate(shares, axis=1), rows.mean, rows.sd)


def _joined(parts: list[Positions], axis: int) -> Positions:
    """Put rows (axis 0) or draws (axis 1) together."""
    names = ("at", "spread", "log_mass")
    at, spread, log_mass = (
        np.concatenate([getattr(p.modes, name) for p in parts], axis) for name in names
    )
    reached = [p.modes.converged for p in parts]
    converged = np.concatenate(reached) if axis == 0 else np.all(reached, axis=0)
    x, ratio, variance, shortfalls = (
        np.concatenate([getattr(p, name) for p in parts], axis)
        for name in ("x", "log_ratio", "variance", "shortfalls")
    )
    n_draws = 1 if axis == 0 else len(parts)
    modes = Modes(at, spread, log_mass, converged)
    return Positions(x, ratio, variance, modes, shortfalls, n_draws)


def joined_rows(parts: list[Positions], order: Indices) -> Positions:
    """Put rows together that were treated apart, of the same draws; ``order`` says which each was."""
    back, whole = np.argsort(order), _joined(parts, axis=0)
    x, ratio, variance, shortfalls = (
        getattr(whole, name)[back] for name in ("x", "log_ratio", "variance", "shortfalls")
    )
    modes = Modes(*(getattr(whole.modes, f.name)[back] for f in fields(Modes)))
    return Positions(x, ratio, variance, modes, shortfalls, parts[0].n_draws)


def separate_modes(positions: Positions, weights: Array) -> tuple[Array, Array, Array]:
    """Modes (M, J, Q), their sd (M, J, Q), and the share of the weights about each, the heaviest first.

    Modes that are one are merged; NaN where there is none.
    """
    modes = _merged(positions.modes)
    logs = []
    for j in range(modes.at.shape[1]):
        r2, logdet = squared_distances(positions.x, modes.at[:, j], modes.spread[:, j])
        logs.append(modes.log_mass[:, j, None] - 0.5 * (r2 + logdet[:, None]))
    log_density = np.stack(logs, axis=2)
    share = np.exp(log_density - log_density.max(axis=2, keepdims=True))
    share /= share.sum(axis=2, keepdims=True)
    weight = (weights[:, None] @ share)[:, 0]
    weight = np.where(np.isfinite(modes.log_mass), weight, -1.0)
    # By weight, and equal ones by position, the first dimension first.
    order = np.lexsort((*np.moveaxis(modes.at, 2, 0)[::-1], -weight), axis=1)
    row = np.arange(len(weight))[:, None]
    weight, at = weight[row, order], modes.at[row, order]
    sd = np.sqrt((modes.spread**2).sum(axis=3))[row, order]
    none = weight < 0.0
    at[none] = sd[none] = np.nan
    return at, sd, np.where(none, np.nan, weight)


def _merged(modes: Modes) -> Modes:
    """Keep the heaviest modes; one within two standard deviations of another adds its mass to it."""
    M, C = modes.log_mass.shape
    left, every, J = modes.log_mass.copy(), np.arange(M), min(C, _REPORTED)
    index, mass = np.zeros((M, J), dtype=np.intp), np.full((M, J), -np.inf)
    for j in range(J):
        index[:, j] = best = left.argmax(axis=1)
        r2, _ = squared_distances(modes.at, modes.at[every, best], modes.spread[every, best])
        here = (r2 <= _ONE_PEAK**2) & np.isfinite(left)
        top = left[every, best]
        with np.errstate(invalid="ignore", divide="ignore"):
            mass[:, j] = top + np.log(np.where(here, np.exp(left - top[:, None]), 0.0).sum(axis=1))
        mass[~np.isfinite(top), j] = -np.inf
        left[here] = -np.inf
    row = every[:, None]
    return Modes(modes.at[row, index], modes.spread[row, index], mass, modes.converged)


def effective(weight: Array) -> Array:
    """Exponential of the entropy of the weights of each row, shape (M,)."""
    w = np.where(weight > 0.0, weight, 1.0)
    return np.asarray(np.exp(-(w * np.log(w)).sum(axis=1)))
