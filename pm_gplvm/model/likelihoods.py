"""Likelihoods of a table given f: expectations under a Gaussian f, starts, priors, predictions.

Of each entry y_nd a likelihood knows p(y | f + offset). Its parameters are named, unconstrained arrays:
of shape () where all columns share one, (D,) where each has its own.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import expit, gammaln, logsumexp

from pm_gplvm.core import expectations
from pm_gplvm.core.checks import Array, one_of

Parameters = dict[str, Array]
"""Unconstrained, by name."""

Labels = Sequence[Hashable]

POINTS = 5
"""Of Gauss-Hermite in f, for :meth:`Likelihood.expect`."""

_MANY = 32  # points where a prediction is made
_LOG_2PI = math.log(2.0 * math.pi)


def hermite(points: int) -> tuple[Array, Array]:
    """Nodes and weights for expectations under N(0, 1)."""
    x, weights = hermegauss(points)
    return x, weights / weights.sum()


def _halves(points: int) -> tuple[float, Array, Array]:
    """Weight of the middle point, the positive points and their weights."""
    x, weights = hermite(points)
    odd = points % 2
    return (
        float(weights[points // 2]) if odd else 0.0,
        x[points // 2 + odd :].copy(),
        weights[points // 2 + odd :].copy(),
    )


_CENTRE, _HALF_POINTS, _HALF_WEIGHTS = _halves(POINTS)


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, as a likelihood needs them.

    Y (B, D) is NaN where an entry is missing. ``offset``, (B, 1) or (B, D), is added to f: the logarithm
    of a size factor or of an exposure. ``entry``, (B, D) or (1, D), is what is known of each entry: trials
    (binomial), the standard deviation of a measurement (gaussian).
    """

    Y: Array
    offset: Array | None = None
    entry: Array | None = None
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What likelihoods computed of these rows, free of f and of parameters."""

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Where Y is known."""
        return ~np.isnan(self.Y)

    @cached_property
    def weight(self) -> Array:
        """1 where Y is known, 0 elsewhere."""
        return self.seen.astype(float)

    @cached_property
    def filled(self) -> Array:
        """Y with 0 for missing entries."""
        return np.where(self.seen, self.Y, 0.0)

    @cached_property
    def shift(self) -> Array:
        """The offset of every entry, (B, D)."""
        zero = np.zeros_like(self.Y)
        return zero if self.offset is None else zero + self.offset

    @cached_property
    def known(self) -> Array | None:
        """``entry`` for every entry, (B, D), 1 where Y is missing."""
        if self.entry is None:
            return None
        return np.where(self.seen, np.broadcast_to(self.entry, self.Y.shape), 1.0)


def _sums(a: Array, b: Array) -> Array:
    """Σ_d a b of each row."""
    return np.einsum("bd,bd->b", a, b)


def _like(gradient: Array, parameter: Array) -> Array:
    """Sum a gradient by column to the shape of its parameter."""
    return gradient if np.ndim(parameter) else np.asarray(gradient.sum())


def _each(parameter: Any, columns: int) -> Array:
    """Return a parameter for every column."""
    return np.ascontiguousarray(np.broadcast_to(parameter, (columns,)), dtype=float)


def _column_mean(values: Array, seen: NDArray[np.bool_]) -> Array:
    """Mean of what is known of each column, 0 of an empty one."""
    return np.where(seen, values, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)


def _normal_prior(value: Array, mean: float, sd: float) -> tuple[float, Array]:
    """Ln N(value) in total, and its derivative."""
    z = (np.asarray(value, dtype=float) - mean) / sd
    return float(np.sum(-0.5 * z * z - math.log(sd) - 0.5 * _LOG_2PI)), -z / sd


def _where(rows: Rows, bad: NDArray[np.bool_], labels: Labels | None, first_row: int) -> str:
    """Name the first entry that is wrong, and its value."""
    b, d = np.argwhere(bad)[0]
    column = f"column {labels[d]!r}" if labels is not None else f"column {d}"
    return f"got {rows.Y[b, d]:g} in row {first_row + b}, {column}"


class Likelihood:
    """What is known of an entry given f."""

    name: ClassVar[str]
    widths: ClassVar[dict[str, tuple[float, float]]] = {}
    """Mean and standard deviation of the normal prior of each unconstrained parameter."""

    # What data may be

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Raise an error that names the first entry that the likelihood cannot have made."""
        raise NotImplementedError

    def _entries(
        self,
        rows: Rows,
        bad: NDArray[np.bool_],
        wanted: str,
        remedy: str,
        labels: Labels | None,
        first_row: int,
    ) -> None:
        """Raise an error where an entry is bad."""
        bad = bad & rows.seen
        if bad.any():
            raise ValueError(
                f"Y must hold {wanted} for likelihood {self.name!r}, "
                f"{_where(rows, bad, labels, first_row)}; {remedy}."
            )

    def standardised(self, columns: int) -> NDArray[np.bool_]:
        """Which columns are centred and scaled before they are fitted: f has their units."""
        return np.zeros(columns, dtype=bool)

    def to_dict(self) -> dict[str, Any]:
        """Say in plain values what :func:`from_dict` makes it of."""
        return {"name": self.name, **vars(self)}

    # Fitting

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return parameters to start from, and the level of f in each column."""
        raise NotImplementedError

    def expect(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: Parameters,
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, Parameters]:
        """Return Σ_k w_k Σ_d E ln p(y | f + offset) of each row, and its derivatives in the parameters.

        ``mean`` and ``variance`` (B, K, D) of f at K nodes are overwritten with w_k times the derivatives
        in them. A missing entry adds 0 everywhere.
        """
        raise NotImplementedError

    def log_prior(self, parameters: Parameters) -> tuple[float, Parameters]:
        """Log-density of the unconstrained parameters and its derivatives."""
        total, slopes = 0.0, {}
        for name, value in parameters.items():
            part, slopes[name] = _normal_prior(value, *self.widths[name])
            total += part
        return total, slopes

    def constrained(self, parameters: Parameters) -> Parameters:
        """Return the natural parameters: ``log_sigma`` becomes ``sigma``."""
        return {name.removeprefix("log_"): np.exp(value) for name, value in parameters.items()}

    def working(self, rows: Rows) -> Array:
        """Return the table whose PCA starts the fit, NaN where Y is missing."""
        return rows.Y - rows.shift

    # Predictions

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """Return E[E[y|f]], Var[E[y|f]] and E[Var[y|f]], each (S, D), for f ~ N(mean, variance)."""
        raise NotImplementedError

    def log_predictive(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> Array:
        """Ln ∫ p(y | f + offset) N(f) df of each entry (B, D), NaN where Y is."""
        total = self._quadrature(rows, mean, variance, parameters)
        return np.where(rows.seen, total, np.nan)

    def log_density(self, rows: Rows, f: Array, parameters: Parameters) -> Array:
        """Ln p(y | f) of each entry, f with its offset; of missing entries whatever is finite."""
        raise NotImplementedError

    def slopes(self, rows: Rows, f: Array, parameters: Parameters) -> tuple[Array, Array]:
        """Return the first derivative of the log-density in f, and the second less its sign (at least 0)."""
        raise NotImplementedError

    def _quadrature(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> Array:
        """Gauss-Hermite about the mode of p(y | f) N(f), in its curvature: exact to 1e-6 or so.

        About the mean of f it would miss a likelihood much narrower than f.
        """
        sd = np.sqrt(np.maximum(variance, 1e-300))
        z = np.zeros_like(mean)  # f = mean + offset + sd z
        centre = mean + rows.shift
        for _ in range(50):
            g, h = self.slopes(rows, centre + sd * z, parameters)
            step = (sd * g - z) / (1.0 + variance * h)
            step = np.clip(step, -1.0 / np.minimum(sd, 1.0), 1.0 / np.minimum(sd, 1.0))
            step = np.clip(step, -2.0, 2.0)
            z = z + step
            if np.max(np.abs(step), initial=0.0) < 1e-6:
                break
        _, h = self.slopes(rows, centre + sd * z, parameters)
        scale = 1.0 / np.sqrt(1.0 + variance * h)
        x, weights = hermite(_MANY)
        terms = []
        for point, weight in zip(x, weights, strict=True):
            at = z + scale * point
            inner = self.log_density(rows, centre + sd * at, parameters)
            terms.append(inner - 0.5 * at * at + 0.5 * point * point + math.log(weight))
        return logsumexp(terms, axis=0) + np.log(scale)


def _offset(mean: Array, offset: Array | None) -> Array:
    return mean if offset is None else mean + offset


class _Noisy(Likelihood):
    """A likelihood with a standard deviation of noise."""

    noise: str

    def standardised(self, columns: int) -> NDArray[np.bool_]:
        """All."""
        return np.ones(columns, dtype=bool)

    # ln of LogNormal(-2, 1), as the Gaussian model has it
    widths: ClassVar[dict[str, tuple[float, float]]] = {"log_sigma": (-2.0, 1.0)}

    def _start_sigma(self, residuals: Array, seen: NDArray[np.bool_]) -> Parameters:
        """Half the standard deviation of columns, or of them all."""
        squares = _column_mean(residuals**2, seen)
        pooled = float(np.where(seen, residuals**2, 0.0).sum() / max(seen.sum(), 1)) or 1.0
        squares = np.where(squares > 1e-12 * pooled, squares, pooled)
        chosen = squares if self.noise == "column" else np.asarray(pooled)
        return {"log_sigma": np.log(0.5) + 0.5 * np.log(chosen)}


@dataclass(frozen=True)
class Gaussian(_Noisy):
    """Normal noise; with ``entry``, that of each measurement is added to it."""

    noise: str = "shared"
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        one_of("noise", self.noise, ("shared", "column"))

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Raise an error unless Y is finite, and the standard deviations of entries at least 0."""
        self._entries(
            rows, ~np.isfinite(rows.Y), "finite numbers", "remove it, or use NaN", labels, first_row
        )
        if rows.known is not None:
            bad = rows.seen & ~((rows.known >= 0.0) & np.isfinite(rows.known))
            if bad.any():
                b, d = np.argwhere(bad)[0]
                raise ValueError(
                    f"noise_sd must be finite and at least 0, got {rows.known[b, d]:g} in row "
                    f"{first_row + b}, column {labels[d] if labels is not None else d!r}; "
                    "where it is unknown, the entry of Y should be NaN."
                )

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return half the standard deviation for noise, and the means of columns."""
        Y = rows.filled - rows.shift
        level = _column_mean(Y, rows.seen)
        return self._start_sigma(Y - level, rows.seen), level

    def _variance(self, rows: Rows, parameters: Parameters) -> tuple[Array, Array]:
        """Variance of the noise of each entry, and that part of it which is learned (D,)."""
        own = _each(np.exp(2.0 * parameters["log_sigma"]), rows.Y.shape[1])
        if rows.known is None:
            return np.broadcast_to(own, rows.Y.shape), own
        return own + rows.known**2, own

    def expect(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: Parameters,
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, Parameters]:
        """See :meth:`Likelihood.expect`."""
        noise, own = self._variance(rows, parameters)
        precision = rows.weight / noise
        squares = np.empty_like(rows.Y)
        expectations.quadratic(
            mean, variance, weights, rows.filled - rows.shift, precision, squares
        )
        total = weights.sum()
        constant = _sums(rows.weight, np.log(noise) + _LOG_2PI)
        value = -0.5 * (_sums(precision, squares) + total * constant)
        if not of_parameters:
            return value, {}
        slope = own * (precision * (squares / noise - total)).sum(axis=0)
        return value, {"log_sigma": _like(slope, parameters["log_sigma"])}

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`."""
        centre = _offset(mean, offset)
        noise = np.exp(2.0 * parameters["log_sigma"]) + (0.0 if entry is None else entry**2)
        return centre, variance.copy(), np.broadcast_to(noise, centre.shape).copy()

    def log_predictive(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> Array:
        """See :meth:`Likelihood.log_predictive`."""
        total = variance + self._variance(rows, parameters)[0]
        return -0.5 * ((rows.Y - rows.shift - mean) ** 2 / total + np.log(total) + _LOG_2PI)


class _LogMean(Likelihood):
    """A likelihood of mean exp(f): moments by those of a lognormal variable."""

    def _mean_square(
        self, mean: Array, variance: Array, offset: Array | None
    ) -> tuple[Array, Array]:
        """E[e^f], and E[e^{2f}]."""
        t = _offset(mean, offset)
        return np.exp(t + 0.5 * variance), np.exp(2.0 * (t + variance))


class _Counts(_LogMean):
    """Counts of mean exp(f + offset)."""

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Raise an error unless Y holds counts."""
        self._entries(
            rows,
            ~np.isfinite(rows.Y) | (rows.Y < 0.0) | (rows.Y % 1.0 != 0.0),
            "counts (whole numbers of at least 0)",
            "hand in the raw counts, neither scaled nor their logarithms, and NaN for missing ones",
            labels,
            first_row,
        )

    def _level(self, rows: Rows) -> Array:
        """Ln of the rate of each column; of an empty one as if half a count had been seen."""
        exposure = np.where(rows.seen, np.exp(rows.shift), 0.0).sum(axis=0)
        counts = rows.filled.sum(axis=0)
        return np.log(np.maximum(counts, 0.5) / np.where(exposure > 0.0, exposure, 1.0))

    def _constant(self, rows: Rows) -> Array:
        """Σ_d ln y! of each row."""
        if "factorial" not in rows.kept:
            rows.kept["factorial"] = gammaln(rows.filled + 1.0).sum(axis=1)
        return rows.kept["factorial"]

    def working(self, rows: Rows) -> Array:
        """Working residuals (y - μ)/μ · √(μ/(1 + μ/r)), r = 2: a table whose PCA starts the fit."""
        mu = np.exp(np.minimum(self._level(rows) + rows.shift, 600.0))
        return (rows.Y - mu) / np.sqrt(mu * (1.0 + 0.5 * mu))


@dataclass(frozen=True)
class Poisson(_Counts):
    """Counts of mean and variance exp(f + offset)."""

    name: ClassVar[str] = "poisson"

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return no parameters, and the logarithm of the rate of each column."""
        return {}, self._level(rows)

    def expect(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: Parameters,
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, Parameters]:
        """See :meth:`Likelihood.expect`."""
        middle, rate = np.empty_like(rows.Y), np.empty_like(rows.Y)
        expectations.exponential(
            mean, variance, weights, 1.0, rows.shift, rows.filled, rows.weight, middle, rate
        )
        value = _sums(rows.filled, middle) - _sums(rows.weight, rate)
        return value - weights.sum() * self._constant(rows), {}

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`."""
        first, second = self._mean_square(mean, variance, offset)
        return first, second - first**2, first.copy()

    def log_density(self, rows: Rows, f: Array, parameters: Parameters) -> Array:
        """See :meth:`Likelihood.log_density`."""
        return rows.filled * f - np.exp(np.minimum(f, 600.0)) - gammaln(rows.filled + 1.0)

    def slopes(self, rows: Rows, f: Array, parameters: Parameters) -> tuple[Array, Array]:
        """See :meth:`Likelihood.slopes`."""
        rate = np.exp(np.minimum(f, 600.0))
        return rows.filled - rate, rate


class _Logistic(Likelihood):
    """Log-densities linear · t - count · ln(1 + eᵗ) and what is free of f."""

    def _expected(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        shift: Array,
        linear: Array,
        count: Array,
    ) -> tuple[Array, Array]:
        """Return the value without its constants, and E ln(1 + eᵗ) of each entry."""
        middle, soft = np.empty_like(rows.Y), np.empty_like(rows.Y)
        expectations.softplus(
            mean,
            variance,
            weights,
            shift,
            linear,
            count,
            _CENTRE,
            _HALF_POINTS,
            _HALF_WEIGHTS,
            middle,
            soft,
        )
        return _sums(linear, middle) - _sums(count, soft), soft


@dataclass(frozen=True)
class NegativeBinomial(_Counts, _Logistic):
    """Counts of mean μ = exp(f + offset) and variance μ + μ²/r, r the dispersion."""

    dispersion: str = "column"
    name: ClassVar[str] = "negative_binomial"
    # r between 0.15 and 50 in 95 %
    widths: ClassVar[dict[str, tuple[float, float]]] = {"log_dispersion": (1.0, 1.5)}

    def __post_init__(self) -> None:
        one_of("dispersion", self.dispersion, ("shared", "column"))

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return twice the r of the moments of columns, as f will explain some, and the log rates."""
        level = self._level(rows)
        mu = np.where(rows.seen, np.exp(np.minimum(level + rows.shift, 300.0)), 0.0)
        excess = np.where(rows.seen, (rows.filled - mu) ** 2 - mu, 0.0)
        squares = mu**2
        axis = None if self.dispersion == "shared" else 0
        ratio = squares.sum(axis=axis) / np.maximum(excess.sum(axis=axis), 1e-300)
        return {"log_dispersion": np.log(np.clip(2.0 * ratio, 0.5, 10.0))}, level

    def expect(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: Parameters,
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, Parameters]:
        """See :meth:`Likelihood.expect`."""
        log_r = _each(parameters["log_dispersion"], rows.Y.shape[1])
        r = np.exp(log_r)
        count = rows.filled + rows.weight * r
        value, soft = self._expected(
            rows, mean, variance, weights, rows.shift - log_r, rows.filled, count
        )
        rising, slope = np.empty_like(rows.Y), np.empty_like(rows.Y)
        expectations.log_rising(rows.filled, r, rising, slope)
        total = weights.sum()
        value += total * (rising.sum(axis=1) - self._constant(rows))
        if not of_parameters:
            return value, {}
        # t = f - ln r, so that r stands in the shift, in the count and in Γ
        by_r = total * slope.sum(axis=0) - np.einsum("bd,bd->d", rows.weight, soft)
        gradient = r * by_r - mean.sum(axis=(0, 1))
        return value, {"log_dispersion": _like(gradient, parameters["log_dispersion"])}

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`."""
        first, second = self._mean_square(mean, variance, offset)
        r = np.exp(parameters["log_dispersion"])
        return first, second - first**2, first + second / r

    def log_density(self, rows: Rows, f: Array, parameters: Parameters) -> Array:
        """See :meth:`Likelihood.log_density`."""
        y, log_r = rows.filled, parameters["log_dispersion"]
        r = np.exp(log_r)
        t = f - log_r
        constant = gammaln(y + r) - gammaln(r) - gammaln(y + 1.0)
        return constant + y * t - (y + r) * np.logaddexp(0.0, t)

    def slopes(self, rows: Rows, f: Array, parameters: Parameters) -> tuple[Array, Array]:
        """See :meth:`Likelihood.slopes`."""
        log_r = parameters["log_dispersion"]
        count, p = rows.filled + np.exp(log_r), expit(f - log_r)
        return rows.filled - count * p, count * p * (1.0 - p)


@dataclass(frozen=True)
class Bernoulli(_Logistic):
    """Zeros and ones, 1 with probability 1 / (1 + exp(-f - offset))."""

    name: ClassVar[str] = "bernoulli"

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Raise an error unless Y holds 0 and 1."""
        self._entries(
            rows,
            (rows.Y != 0.0) & (rows.Y != 1.0),
            "0 and 1",
            "code the two classes so, and missing entries as NaN",
            labels,
            first_row,
        )

    def _trials(self, rows: Rows) -> Array:
        """Trials of each entry, 0 of a missing one."""
        return rows.weight

    def _constant(self, rows: Rows) -> Array | float:
        """Return what is free of f, of each entry."""
        return 0.0

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return no parameters, and the log odds of columns, as if half a success and failure more had been seen."""
        trials, successes = self._trials(rows).sum(axis=0), rows.filled.sum(axis=0)
        offset = _column_mean(rows.shift, rows.seen)
        return {}, np.log((successes + 0.5) / (trials - successes + 0.5)) - offset

    def working(self, rows: Rows) -> Array:
        """Pearson residuals: a table whose PCA starts the fit."""
        trials = np.where(rows.seen, self._trials(rows), 1.0)
        p = expit(self.start(rows)[1] + rows.shift)
        return (rows.Y - trials * p) / np.sqrt(trials * p * (1.0 - p))

    def expect(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: Parameters,
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, Parameters]:
        """See :meth:`Likelihood.expect`."""
        value, _ = self._expected(
            rows, mean, variance, weights, rows.shift, rows.filled, self._trials(rows)
        )
        return value + weights.sum() * np.sum(self._constant(rows), axis=-1), {}

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`."""
        n = 1.0 if entry is None else entry
        t, sd = _offset(mean, offset), np.sqrt(variance)
        first, second = np.zeros_like(t), np.zeros_like(t)
        for point, weight in zip(*hermite(_MANY), strict=True):
            p = expit(t + sd * point)
            first += weight * p
            second += weight * p * p
        return n * first, n * n * np.maximum(second - first**2, 0.0), n * (first - second)

    def log_density(self, rows: Rows, f: Array, parameters: Parameters) -> Array:
        """See :meth:`Likelihood.log_density`."""
        return self._constant(rows) + rows.filled * f - self._trials(rows) * np.logaddexp(0.0, f)

    def slopes(self, rows: Rows, f: Array, parameters: Parameters) -> tuple[Array, Array]:
        """See :meth:`Likelihood.slopes`."""
        trials, p = self._trials(rows), expit(f)
        return rows.filled - trials * p, trials * p * (1.0 - p)


_NAMED: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (Gaussian, Poisson, NegativeBinomial, Bernoulli)
}


def resolve(given: Any, labels: Labels | None = None) -> Likelihood:
    """Make a likelihood of a name or of an object that is one."""
    if isinstance(given, Likelihood):
        return given
    one_of("likelihood", given, tuple(_NAMED))
    return _NAMED[given]()


def from_dict(given: dict[str, Any], *, caller: str = "fit") -> Likelihood:
    """Read what :meth:`Likelihood.to_dict` wrote."""
    settings = dict(given)
    return _NAMED[str(settings.pop("name"))](**settings)
