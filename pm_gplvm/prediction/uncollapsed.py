"""Predictions of fits with a likelihood: f by minibatches, through its q(u), or about its mode."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import xarray as xr

from pm_gplvm.core.batch_optimise import Index
from pm_gplvm.core.blas import rowwise
from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import square_root
from pm_gplvm.core.inducing import InducingPosterior
from pm_gplvm.core.kernels import beside, cross_slope, prior_slope_variance, unit_of
from pm_gplvm.core.laplace_columns import ColumnModes
from pm_gplvm.core.psi import ONE_NODE
from pm_gplvm.core.uncollapsed import (
    ColumnPosterior,
    Expectation,
    Features,
    Nodes,
    block_of_rows,
    positive,
    row_terms,
)
from pm_gplvm.data.arrays import listed
from pm_gplvm.data.fit import OBS, Fit, evenly_spaced, inducing_inputs
from pm_gplvm.data.views import NewRows, Tables, are_views, of_table
from pm_gplvm.model.likelihoods import Likelihood, from_dict
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.prediction.processes import Induced
from pm_gplvm.prediction.row_posterior import Density, Positions, Rows, ShortPart, distances2

_KNOWN = 1000  # rows beside which new ones are sought, and whose fit tells what is usual
_BELOW, _LEAST_SPREAD = 1.0 / 6.0, 0.1
_ALIKE = 1e-6  # relative difference of precisions that are one
Frame = tuple[Array, Array, Any]
AtNodes = Iterator[tuple[float, tuple[Array, Array]]]
"""Weight of each node, and the moments (B, D) of f there."""

Block = tuple[slice, AtNodes, Any, Any]
"""Which rows, f at their nodes, offset and entry."""


@dataclass(frozen=True)
class Response:
    """A new measurement at some positions: mean, and the variances of its expectation and about that, (S, D)."""

    mean: Array
    of_mean: Array
    about: Array


class Functions(Protocol):
    """What is known of f, at raw positions (S, Q)."""

    @property
    def kernel(self) -> str: ...  # noqa: D102

    @property
    def theta(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def rows(self) -> Array:
        """Positions of the table's rows, (N, Q)."""
        ...

    def moments(self, X: Array) -> tuple[Array, Array]:
        """Mean and variance (S, D)."""
        ...

    def prior_variance(self, X: Array) -> Array:
        """Variance before any data, (S,)."""
        ...

    def slope_of_mean(self, X: Array) -> Array:
        """∂mean/∂x, (S, Q, D)."""
        ...

    def slope_covariance(self, X: Array, weight: Array) -> Array:
        """Covariance of the slopes summed over the columns with a weight (D,) of each, (S, Q, Q)."""
        ...

    def covariance(self, X: Array) -> Array:
        """Covariance (S, S, D) of all positions."""
        ...

    def draw(self, X: Array, n: int, rng: np.random.Generator) -> Array:
        """Draw all positions together, (n, S, D)."""
        ...

    def expected(
        self, X: Array, likelihood: Expectation, parameters: dict[str, Array], seen: Observed
    ) -> tuple[Array, Array]:
        """E ln p(y | f) of rows at positions of their own, (S,), and its gradient in these (S, Q)."""
        ...


@dataclass(frozen=True)
class InducedFunctions:
    """f through q(u)."""

    features: Features
    posterior: ColumnPosterior
    level: Array
    rows: Array

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self.features.kernel

    @property
    def theta(self) -> dict[str, Any]:
        """The kernel's parameters."""
        return self.features.theta

    def moments(self, X: Array) -> tuple[Array, Array]:
        """See :class:`Functions`."""
        return self.features.moments(self.posterior, self.level, X)

    def prior_variance(self, X: Array) -> Array:
        """See :class:`Functions`."""
        return self.features.prior_variance(X)

    @cached_property
    def _weights(self) -> Array:
        return np.asarray(self.features.turn @ self.posterior.means)

    def _slope(self, X: Array) -> Array:
        slope = cross_slope(self.kernel, X, self.features.W, **self.theta)
        return slope[:, : self.rows.shape[1]] @ self.features.turn

    def slope_of_mean(self, X: Array) -> Array:
        """See :class:`Functions`."""
        slope = cross_slope(self.kernel, X, self.features.W, **self.theta)
        return np.asarray(slope @ self._weights)[:, : self.rows.shape[1]]

    def slope_covariance(self, X: Array, weight: Array) -> Array:
        """See :class:`Functions`."""
        slope, shares = self._slope(X), self.posterior.shares @ weight
        prior = np.diag(prior_slope_variance(self.kernel, self.rows.shape[1], **self.theta))
        return weight.sum() * prior - (slope * shares) @ slope.transpose(0, 2, 1)

    def covariance(self, X: Array) -> Array:
        """See :class:`Functions`."""
        _, left, T = self.features.joint(self.posterior, self.level, X)
        spread = (T[:, None] * T[None]) @ (1.0 / self.posterior.precisions)
        return np.asarray(left[:, :, None] + spread)

    def draw(self, X: Array, n: int, rng: np.random.Generator) -> Array:
        """See :class:`Functions`."""
        mean, left, T = self.features.joint(self.posterior, self.level, X)
        M, D = self.posterior.precisions.shape
        u = rng.standard_normal((n, M, D)) / np.sqrt(self.posterior.precisions)
        rest = square_root(left) @ rng.standard_normal((n, len(X), D))
        return np.asarray(mean + T @ u + rest)

    def expected(
        self, X: Array, likelihood: Expectation, parameters: dict[str, Array], seen: Observed
    ) -> tuple[Array, Array]:
        """See :class:`Functions`."""
        one: Nodes = (np.zeros((1, X.shape[1])), np.ones(1))
        q = X, np.zeros_like(X)
        found, _ = row_terms(
            self.features, self.posterior, self.level, likelihood, parameters, seen, q, one
        )
        return found.value, found.mean[:, : self.rows.shape[1]]


@dataclass(frozen=True)
class ModeFunctions:
    """f about its mode."""

    modes: ColumnModes

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self.modes.kernel

    @property
    def theta(self) -> dict[str, Any]:
        """The kernel's parameters."""
        return self.modes.theta

    @property
    def rows(self) -> Array:
        """Positions of the table's rows, (N, Q)."""
        return self.modes.X

    def moments(self, X: Array) -> tuple[Array, Array]:
        """See :class:`Functions`."""
        return self.modes.moments(X)

    def prior_variance(self, X: Array) -> Array:
        """See :class:`Functions`."""
        return self.modes.prior_variance(X)

    def slope_of_mean(self, X: Array) -> Array:
        """See :class:`Functions`."""
        return self.modes.slope_of_mean(X)

    def slope_covariance(self, X: Array, weight: Array) -> Array:
        """See :class:`Functions`."""
        return self.modes.slope_covariance(X, weight)

    def covariance(self, X: Array) -> Array:
        """See :class:`Functions`."""
        return self.modes.joint(X)[1]

    def draw(self, X: Array, n: int, rng: np.random.Generator) -> Array:
        """See :class:`Functions`."""
        mean, covariance = self.modes.joint(X)
        drawn = rng.standard_normal((n, *mean.shape))
        for d in range(mean.shape[1]):
            root = square_root(covariance[:, :, d])
            drawn[:, :, d] = mean[:, d] + drawn[:, :, d] @ root.T
        return drawn

    def expected(
        self, X: Array, likelihood: Expectation, parameters: dict[str, Array], seen: Observed
    ) -> tuple[Array, Array]:
        """See :class:`Functions`."""
        mean, variance = (each[:, None].copy() for each in self.modes.moments(X))
        value, _ = likelihood.expect(seen, mean, variance, np.ones(1), parameters)
        return value, self.modes.pullback(X, mean[:, 0], variance[:, 0])


@dataclass(frozen=True)
class Uncollapsed:
    """The functions, the likelihood and what else such a fit holds, its positions in one frame of draws.

    f is in the units of the link, a measurement in those of the table.
    """

    read: Fit
    likelihood: Likelihood
    parameters: dict[str, Array]
    functions: Functions
    centre: Array
    scale: Array
    frame: Frame | None = None

    @classmethod
    def of(cls, read: Fit) -> "Uncollapsed":
        """Read it from a fit."""
        read.require("X", "Y_mean", "Y_scale")
        group = read.group("laplace" if read.has_function_modes else "approximation")
        likelihood = from_dict(read.setting("likelihood"))
        prefix = "likelihood_"
        parameters = {
            str(name).removeprefix(prefix): group[name].to_numpy()
            for name in group
            if str(name).startswith(prefix)
        }
        theta = {name: read.values(name, raw=True)[0] for name in read.theta_names}
        functions = _modes if read.has_function_modes else _induced
        return cls(
            read,
            likelihood,
            parameters,
            functions(read, group, theta),
            read.constants["Y_mean"].to_numpy(),
            read.constants["Y_scale"].to_numpy(),
        )

    @cached_property
    def entry(self) -> Array | None:
        """What the likelihood was told of all rows alike, (1, D); ValueError where new rows need their own."""
        return _entry_of_new_rows(self.read, self.likelihood)

    @property
    def noise(self) -> Array:
        """Variance of a measurement of a new row about f, (D,), where it is the same at all f: of a Gaussian."""
        f = np.zeros((1, len(self.centre)))
        return self.likelihood.moments(f, f, None, self.entry, self.parameters)[2][0]

    def raw(self, X: Array) -> Array:
        """Bring positions (S, Q) from the frame of the fit to that in which it was made, with their inputs."""
        if self.frame is not None:
            rotation, shift, scale = self.frame
            X = np.asarray((X - shift) @ rotation / scale)
        if self.read.inputs is None:
            return X
        if self.read.at is None:
            raise ValueError(
                "positions must come with their inputs, of which the kernel has terms."
            )
        return beside(X, self.read.at)

    def asked(self, at: Array | None) -> "Uncollapsed":
        """Return the same with these inputs of new rows."""
        return self if self.read.inputs is None else replace(self, read=replace(self.read, at=at))

    def of_rows(self, rows: slice, n: int) -> "Uncollapsed":
        """Return the same for some of n rows, which may have inputs of their own."""
        at = self.read.at
        return self.asked(at[rows]) if at is not None and len(at) == n else self

    def inward(self, X: Array) -> Array:
        """Bring positions (S, Q) into the frame of the fit."""
        if self.frame is None:
            return X
        rotation, shift, scale = self.frame
        return np.asarray(scale * X @ rotation.T + shift)

    @property
    def unit(self) -> Array:
        """Lengthscale along each dimension of the frame, shape (Q,)."""
        theta, Q = self.functions.theta, self.functions.rows.shape[1]
        unit = unit_of(self.functions.kernel, Q, theta.get("lengthscale", 1.0))
        if self.frame is None:
            return unit
        rotation, _, scale = self.frame
        return np.asarray(np.sqrt(((scale * rotation * unit) ** 2).sum(axis=1)))

    @property
    def in_units_of_Y(self) -> bool:
        """Whether f has the units of every column, as under a Gaussian."""
        return bool(self.likelihood.standardised(len(self.centre)).all())

    @property
    def turn(self) -> Array:
        """∂(raw position)/∂(position in the frame), shape (Q, Q)."""
        if self.frame is None:
            return np.eye(self.functions.rows.shape[1])
        return np.asarray(self.frame[0].T / self.frame[2])

    def moments(self, X: Array) -> tuple[Array, Array]:
        """Mean and variance (S, D) of f at positions in the frame, without offset."""
        return self.functions.moments(self.raw(X))

    def variance_share(self, X: Array, of: "Uncollapsed") -> Array:
        """Variance of f over that of another before any data, mean of the columns, shape (S,)."""
        _, variance = self.moments(X)
        prior = of.functions.prior_variance(of.raw(X))
        return np.asarray(variance.mean(axis=1) / np.maximum(prior, 1e-300))

    def response(
        self, mean: Array, variance: Array, offset: Any = None, entry: Any = None
    ) -> Response:
        """Moments of a measurement from those of f (S, D)."""
        entry = self.entry if entry is None else entry
        found = self.likelihood.moments(mean, variance, offset, entry, self.parameters)
        expected, of_mean, about = (np.broadcast_to(v, mean.shape) for v in found)
        return Response(
            self.centre + self.scale * expected, self.scale**2 * of_mean, self.scale**2 * about
        )

    def at(self, X: Array, offset: Any = None, entry: Any = None) -> Response:
        """Moments of a measurement at positions in the frame, by blocks of rows."""
        parts = []
        for rows in _blocks(len(X)):
            given = (_some(v, rows, len(X)) for v in (offset, entry))
            parts.append(self.response(*self.of_rows(rows, len(X)).moments(X[rows]), *given))
        return _together(parts)

    def around(
        self, mean: Array, sd: Array, nodes: Nodes, offset: Any = None, entry: Any = None
    ) -> Response:
        """Moments of a measurement at uncertain positions N(mean, diag sd²) in the frame, mixed over nodes."""
        blocks = self._each_around(mean, sd, nodes, offset, entry)
        return _together([self.mixed(at_nodes, *given) for _, at_nodes, *given in blocks])

    def mixed(self, at_nodes: AtNodes, offset: Any, entry: Any) -> Response:
        """Moments of a measurement from those of f at nodes, by the law of total variance."""
        each = [(w, self.response(*f, offset, entry)) for w, f in at_nodes]
        expected = sum(w * r.mean for w, r in each)
        of_mean = sum(w * (r.of_mean + (r.mean - expected) ** 2) for w, r in each)
        about = sum(w * r.about for w, r in each)
        return Response(*(np.asarray(v) for v in (expected, of_mean, about)))

    def _each_around(
        self, mean: Array, sd: Array, nodes: Nodes, offset: Any, entry: Any
    ) -> Iterator[Block]:
        points, weights = nodes
        for rows in _blocks(len(mean), len(weights)):
            at, own = (mean[rows], sd[rows]), self.of_rows(rows, len(mean))
            at_nodes = (
                (float(w), own.moments(at[0] + at[1] * point))
                for point, w in zip(points, weights, strict=True)
            )
            yield rows, at_nodes, *(_some(v, rows, len(mean)) for v in (offset, entry))

    def each_row(self) -> Iterator[Block]:
        """Go through blocks of the table's own rows, at the nodes of their q(x); without q(x) there is one node."""
        offset, entry = (_constant(self.read, name) for name in ("Y_offset", "Y_entry"))
        if isinstance(self.functions, ModeFunctions):
            at_rows = self.functions.modes.at_rows
            return iter([(slice(0, len(at_rows[0])), iter([(1.0, at_rows)]), offset, entry)])
        mean, sd = self.read.positions_and_sds
        known = self.read.inputs
        of_rows = self if known is None else self.asked(known.values)
        nodes = positive(mean.shape[1]) if self.read.has_q else ONE_NODE
        return of_rows._each_around(mean, sd, nodes, offset, entry)

    def metric(self, X: Array) -> tuple[Array, Array]:
        """E Jᵀ E J and the covariance of the slopes summed over the columns, (S, Q, Q), J = ∂f/∂x times the scale."""
        turn, Q, weight = self.turn, X.shape[1], self.scale**2
        first, second = [], []
        for rows in _blocks(len(X), Q * Q):
            raw = self.raw(X[rows])
            mean = turn.T @ self.functions.slope_of_mean(raw) * self.scale
            first.append(mean @ mean.transpose(0, 2, 1))
            second.append(turn.T @ self.functions.slope_covariance(raw, weight) @ turn)
        return np.concatenate(first), np.concatenate(second)

    def draw(self, X: Array, n: int, rng: np.random.Generator) -> Array:
        """Draw f of all positions (S, Q) together, (n, S, D)."""
        return self.functions.draw(self.raw(X), n, rng)

    def draw_response(self, X: Array, n: int, rng: np.random.Generator, *, noise: bool) -> Array:
        """Draw measurements, or with ``noise=False`` their expectations, at all positions, (n, S, D)."""
        f = self.draw(X, n, rng)
        flat = f.reshape(-1, f.shape[2])
        if noise:
            drawn = self.likelihood.draw(rng, flat, None, self.entry, self.parameters)
            return np.asarray(self.centre + self.scale * drawn).reshape(f.shape)
        return self.response(flat, np.zeros_like(flat)).mean.reshape(f.shape)

    def covariance_of_response(self, X: Array) -> Array:
        """Covariance (S, S, D) of the expectations of measurements at all positions."""
        if not self.in_units_of_Y:
            raise ValueError(
                f"{self.read.caller} with cov=True needs a Gaussian or Student-t likelihood, got "
                f"{self.likelihood.name}. Draw with sample_predictive, whose rows are joint."
            )
        return np.asarray(self.scale**2 * self.covariance(X))

    def observed(self, Y: Array, offset: Any = None, entry: Any = None) -> Observed:
        """Rows of the table as the likelihood takes them."""
        return Observed(
            (Y - self.centre) / self.scale, offset, self.entry if entry is None else entry
        )

    def covariance(self, X: Array) -> Array:
        """Covariance (S, S, D) of f at all positions."""
        return self.functions.covariance(self.raw(X))


def _induced(read: Fit, group: xr.Dataset, theta: dict[str, Any]) -> Functions:
    """Read f of a fit by minibatches."""
    basis = group["u_basis"].to_numpy()
    precisions = group["u_precision"].to_numpy()
    features, level = Features(read.kernel, inducing_inputs(group), theta, basis), group["level"]
    if read.counted is not None:  # the function asked for has some terms only, u all of them
        features = features.counting(read.counted)
        level = level * read.counted[-1]
    return InducedFunctions(
        features,
        ColumnPosterior(group["u_mean"].to_numpy(), precisions, basis, np.eye(len(basis))),
        level.to_numpy(),
        read.positions_and_sds[0],
    )


def _modes(read: Fit, group: xr.Dataset, theta: dict[str, Any]) -> Functions:
    """Read f of a mode under a likelihood."""
    parts = (group[name].to_numpy() for name in ("level", "weights", "curvature"))
    return ModeFunctions(ColumnModes(read.kernel, read.values("X", raw=True)[0], theta, *parts))


def _blocks(n: int, nodes: int = 1) -> Iterator[slice]:
    size = block_of_rows(nodes)
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def _some(values: Any, rows: slice, n: int) -> Any:
    return values[rows] if isinstance(values, np.ndarray) and len(values) == n else values


def _together(parts: list[Response]) -> Response:
    names = ("mean", "of_mean", "about")
    return Response(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def each_frame(read: Fit, limit: int | None) -> Iterator[Uncollapsed]:
    """Go through the frames that align gave the draws, at most ``limit``; else there is one."""
    whole = Uncollapsed.of(read)
    if not read.is_aligned:
        yield whole
        return
    frames = read.frames(read.evenly_spaced(limit or read.n_mixed))
    for frame in zip(frames.rotation, frames.shift, frames.scale, strict=True):
        yield replace(whole, frame=frame)


def with_known_rows(fit: Any) -> Any:
    """Leave out rows of a fit that tell nothing of new ones: q(u) tells all, but for where to begin and what is usual."""
    if not isinstance(fit, xr.DataTree) or not (read := Fit(fit)).is_uncollapsed:
        return fit
    rows = read.group("approximation").sizes.get(OBS, 0)
    if rows <= _KNOWN or any(OBS in c.dims for c in read.constants.data_vars.values()):
        return fit
    return read.with_rows(evenly_spaced(rows, _KNOWN)).tree


@dataclass(frozen=True)
class _Integrated:
    """A likelihood with ln ∫ p(y | f) q(f) df in place of E ln p(y | f)."""

    likelihood: Likelihood

    def expect(
        self,
        rows: Observed,
        mean: Array,
        variance: Array,
        weights: Array,
        parameters: dict[str, Array],
        *,
        of_parameters: bool = False,
    ) -> tuple[Array, dict[str, Array]]:
        """Sum over the columns at one node (B, 1, D), and overwrite mean and variance by the derivatives."""
        found = self.likelihood.marginal(rows, mean[:, 0], variance[:, 0], parameters)
        mean[:, 0], variance[:, 0] = found[1:]
        return found[0].sum(axis=1), {}


class _WithPrior(ABC):
    """Densities ln p(y, x) of unseen rows from those of their entries given x, and the prior of x."""

    @abstractmethod
    def log_likelihood(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array]:
        """Return ln p(y | x) at positions x (S, Q), shape (S,), and its gradient."""

    @abstractmethod
    def misfit(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array, Array]:
        """Value of -ln p(y | mean of f) but for constants, gradient, and Gauss-Newton's Hessian."""

    @abstractmethod
    def log_likelihood_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y | x) of every row at T positions of its own (M, T, Q), and the variance where all columns share it."""

    @abstractmethod
    def log_likelihoods(self, positions: Array, rows: Rows) -> Array:
        """Return ln p(y | x) of every row at the same positions (P, Q), shape (M, P)."""

    @abstractmethod
    def log_predictive(self, x: Array, rows: Rows, row: Index) -> Array:
        """Return ln p(y | x), by many points, shape (S,)."""

    @abstractmethod
    def squared_distances(self, rows: Rows) -> Array:
        """Squared distances to what is expected of the known rows, shape (M, N)."""

    @abstractmethod
    def of_known_rows(self) -> tuple[Array, Array] | None:
        """Return ln p(y | x) of the known rows at theirs, and their numbers of entries; None without their table."""

    def log_joint(self, x: Array, rows: Rows, row: Index | None = None) -> tuple[Array, Array]:
        """Return ln p(y, x) at positions x (S, Q), shape (S,), and its gradient."""
        row = np.arange(len(rows)) if row is None else row
        value, slope = self.log_likelihood(x, rows, row)
        return value + rows.log_prior(x, row), slope + rows.prior_slope(x, row)

    def squares(self, x: Array, rows: Rows, row: Index | None = None) -> tuple[Array, Array, Array]:
        """Value of -ln p(y | mean of f) - ln p(x) but for constants, gradient, and Gauss-Newton's Hessian."""
        row = np.arange(len(rows)) if row is None else row
        value, gradient, curvature = self.misfit(x, rows, row)
        mean, sd = rows.mean[row], rows.sd[row]
        away = (x - mean) / sd
        of_prior = (1.0 / sd**2)[:, :, None] * np.eye(x.shape[1])
        return 0.5 * (away**2).sum(axis=1) + value, away / sd + gradient, of_prior + curvature

    def log_joint_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """Return ln p(y, x) of every row at T positions of its own (M, T, Q), and the variance where all columns share it."""
        value, variance = self.log_likelihood_and_variance(x, rows)
        return value + rows.log_prior(x), variance

    def log_densities(self, positions: Array, rows: Rows) -> Array:
        """Return ln p(y, x) of every row at the same positions (P, Q), shape (M, P)."""
        return np.asarray(self.log_likelihoods(positions, rows) + rows.log_prior(positions[None]))

    def misfits(self, rows: Rows) -> Array:
        """Mean squared distances to what is expected of the known rows, shape (M, N)."""
        return self.squared_distances(rows) / rows.seen.sum(axis=1)[:, None]

    def shortfall(self, x: Array, rows: Rows) -> Array:
        """How much worse the i-th row is explained at the i-th position than the table's are at theirs.

        As :meth:`RowDensity.shortfall`, but the training rows are not left out. NaN where the fit does not hold its
        table.
        """
        usual, spread = self._usual
        value = self.log_predictive(x, rows, np.arange(len(rows)))
        return np.asarray((usual - value / rows.seen.sum(axis=1)) / spread)

    @cached_property
    def _usual(self) -> tuple[float, float]:
        if (known := self.of_known_rows()) is None:
            return np.nan, 1.0
        total, n = known
        each = (total / np.maximum(n, 1))[n > 0]
        low, usual = np.quantile(each, [_BELOW, 0.5])
        return float(usual), max(float(usual - low), _LEAST_SPREAD)


class UncollapsedDensity(_WithPrior):
    """Density of unseen rows under q(u), as :class:`RowDensity` has it for the other fits.

    Modes are sought of ln p(y | x) + ln p(x), f integrated out by few points, and positions weighted by it, by more. The
    bound E ln p(y | f) would do for rows among those of the table; where f is hardly known it lies far below.
    """

    def __init__(self, process: Uncollapsed) -> None:
        self.process = process
        known = evenly_spaced(len(process.functions.rows), _KNOWN)
        self.known = known
        self.beginnings = process.inward(process.functions.rows[known])
        self.unit = process.unit

    rows_at_once = 64

    def prepared(self, rows: Rows) -> Rows:
        """Return rows as they are."""
        return rows

    def _seen(self, rows: Rows, row: Index) -> Observed:
        some = rows[row]
        return Observed(np.where(some.seen, some.y, np.nan), some.offset, self.process.entry)

    def log_likelihood(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array]:
        """See :class:`_WithPrior`."""
        p, values, slopes = self.process, [], []
        for some in _blocks(len(x)):
            seen = self._seen(rows, row[some])
            integrated = _Integrated(p.likelihood)
            own, by_raw = p.functions.expected(p.raw(x[some]), integrated, p.parameters, seen)
            values.append(own)
            slopes.append(by_raw @ p.turn)
        return np.concatenate(values), np.concatenate(slopes)

    def misfit(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array, Array]:
        """See :class:`_WithPrior`."""
        p, (S, Q) = self.process, x.shape
        value, gradient, curvature = np.zeros(S), np.zeros((S, Q)), np.zeros((S, Q, Q))
        for some in _blocks(len(x), 4):
            raw = p.raw(x[some])
            f, _ = p.functions.moments(raw)
            slope = p.turn.T @ p.functions.slope_of_mean(raw)
            by_mean = np.ascontiguousarray(f[:, None])
            by_variance = np.full_like(by_mean, 1e-10)
            seen = self._seen(rows, row[some])
            found, _ = p.likelihood.expect(seen, by_mean, by_variance, np.ones(1), p.parameters)
            value[some] = -found
            gradient[some] = -(slope * by_mean).sum(axis=2)
            w = np.maximum(-2.0 * by_variance, 0.0)
            curvature[some] = (slope * w) @ slope.transpose(0, 2, 1)
        return value, gradient, curvature

    def log_predictive(self, x: Array, rows: Rows, row: Index) -> Array:
        """See :class:`_WithPrior`."""
        p, values = self.process, []
        for some in _blocks(len(x)):
            f = p.functions.moments(p.raw(x[some]))
            logs = p.likelihood.log_predictive(self._seen(rows, row[some]), *f, p.parameters)
            values.append(np.nansum(logs, axis=1))
        return np.concatenate(values)

    def log_likelihood_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """See :class:`_WithPrior`; no variance."""
        M, T, Q = x.shape
        row = np.repeat(np.arange(M), T)
        value = self.log_predictive(x.reshape(-1, Q), rows, row).reshape(M, T)
        return value, np.zeros((M, T, 1))

    def log_likelihoods(self, positions: Array, rows: Rows) -> Array:
        """See :class:`_WithPrior`."""
        p, value = self.process, np.empty((len(rows), len(positions)))
        normal = p.likelihood.name == "gaussian"
        for some in _blocks(len(positions)):
            f, variance = p.functions.moments(p.raw(positions[some]))
            if normal:  # of all rows by products of matrices
                value[:, some] = _normal_densities(rows, f, variance + p.noise)
                continue
            for m in range(len(rows)):
                seen = self._seen(rows, np.full(len(f), m))
                logs, _, _ = p.likelihood.marginal(seen, f, variance, p.parameters, points=1)
                value[m, some] = logs.sum(axis=1)
        return value

    def squared_distances(self, rows: Rows) -> Array:
        """See :class:`_WithPrior`."""
        expected = (self._at_known.mean - self.process.centre) / self.process.scale
        return distances2(rows, expected)

    @cached_property
    def _at_known(self) -> Response:
        return self._of_known.at(self.beginnings)

    @property
    def _of_known(self) -> Uncollapsed:
        """The process at the inputs of the known rows."""
        known = self.process.read.inputs
        return self.process if known is None else self.process.asked(known.values[self.known])

    def of_known_rows(self) -> tuple[Array, Array] | None:
        """See :class:`_WithPrior`."""
        p, read = self.process, self.process.read
        if not read.holds_table:
            return None
        Y = read.Y.isel(obs=self.known).to_numpy()
        offset, entry = (_constant(read, n) for n in ("Y_offset", "Y_entry"))
        given = (None if v is None or len(v) == 1 else v[self.known] for v in (offset, entry))
        f = self._of_known.moments(self.beginnings)
        logs = p.likelihood.log_predictive(p.observed(Y, *given), *f, p.parameters)
        return np.nansum(logs, axis=1), (~np.isnan(Y)).sum(axis=1)


def _normal_densities(rows: Rows, mean: Array, variance: Array) -> Array:
    """Ln N of the seen entries of rows (M, D) under each of P means and variances (P, D), shape (M, P)."""
    seen = rows.seen.astype(np.float64)
    y = seen * (rows.y if rows.offset is None else rows.y - rows.offset)
    misfit = rowwise(y**2, (1.0 / variance).T)
    misfit -= 2.0 * rowwise(y, (mean / variance).T)
    misfit += rowwise(seen, (mean**2 / variance + np.log(2.0 * np.pi * variance)).T)
    return np.asarray(-0.5 * misfit)


class SharedDensity(UncollapsedDensity):
    """The same where all columns have one variance at each position, of normal noise, by :class:`ShortPart`."""

    def __init__(self, process: Uncollapsed, functions: InducedFunctions, noise: float) -> None:
        super().__init__(process)
        features, known = functions.features, functions.posterior
        posterior = _Known(features.turn.T, known.shares[:, 0], known.means)
        own = Induced(
            features.kernel,
            features.W,
            features.theta,
            float(np.sqrt(noise)),
            {b"": posterior},
            functions.rows,
            None,
            own_noise_of_rows=False,
            frame=process.frame,
        )
        self._part, self.level = ShortPart(own, 0), functions.level
        self.every = np.arange(len(functions.level))

    @property
    def rows_at_once(self) -> int:  # type: ignore[override]
        """Rows that are treated together."""
        return self._part.rows_at_once

    def prepared(self, rows: Rows) -> Rows:
        """Return rows with their distances to the functions, less the level and their offset, in few numbers."""
        offset = 0.0 if rows.offset is None else rows.offset
        y = np.where(rows.seen, rows.y - self.level - offset, 0.0)
        return replace(rows, short=self._part.prepared(replace(rows, y=y), self.every).short)

    def log_likelihood(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array]:
        """See :class:`_WithPrior`."""
        return self._part.log_likelihood(x, rows.short[0], row)

    def misfit(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array, Array]:
        """See :class:`_WithPrior`."""
        misfit, slope, product = self._part.squares(x, rows.short[0], row)
        return 0.5 * misfit, -slope, product

    def log_likelihood_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """See :class:`_WithPrior`."""
        return self._part.log_likelihood_and_variance(x, rows.short[0])

    def log_likelihoods(self, positions: Array, rows: Rows) -> Array:
        """See :class:`_WithPrior`."""
        return self._part.log_densities(positions, rows.short[0])


class JoinedDensity(_WithPrior):
    """Density of unseen rows of several tables: given x they are independent, so that their logarithms are summed.

    Rows come with ``of_tables``.
    """

    def __init__(self, parts: Sequence[UncollapsedDensity]) -> None:
        self.parts = parts
        self.known: Any = parts[0].known
        self.beginnings = parts[0].beginnings
        self.unit = np.minimum.reduce([part.unit for part in parts])

    @property
    def rows_at_once(self) -> int:
        """Rows that are treated together."""
        return min(part.rows_at_once for part in self.parts)

    def prepared(self, rows: Rows) -> Rows:
        """Return rows with what each part needs of them."""
        own = zip(self.parts, rows.of_tables, strict=True)
        return replace(rows, of_tables=tuple(part.prepared(each) for part, each in own))

    def _each(self, verb: str, rows: Rows, *given: Any, last: tuple[Any, ...] = ()) -> list[Any]:
        own = zip(self.parts, rows.of_tables, strict=True)
        return [getattr(part, verb)(*given, each, *last) for part, each in own]

    def log_likelihood(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array]:
        """See :class:`_WithPrior`."""
        value, slope = _summed(self._each("log_likelihood", rows, x, last=(row,)))
        return value, slope

    def misfit(self, x: Array, rows: Rows, row: Index) -> tuple[Array, Array, Array]:
        """See :class:`_WithPrior`."""
        value, gradient, curvature = _summed(self._each("misfit", rows, x, last=(row,)))
        return value, gradient, curvature

    def log_likelihood_and_variance(self, x: Array, rows: Rows) -> tuple[Array, Array]:
        """See :class:`_WithPrior`."""
        found = self._each("log_likelihood_and_variance", rows, x)
        values, variances = zip(*found, strict=True)
        return sum(values), np.concatenate(variances, axis=-1)

    def log_likelihoods(self, positions: Array, rows: Rows) -> Array:
        """See :class:`_WithPrior`."""
        return np.asarray(sum(self._each("log_likelihoods", rows, positions)))

    def log_predictive(self, x: Array, rows: Rows, row: Index) -> Array:
        """See :class:`_WithPrior`."""
        return np.asarray(sum(self._each("log_predictive", rows, x, last=(row,))))

    def squared_distances(self, rows: Rows) -> Array:
        """See :class:`_WithPrior`."""
        return np.asarray(sum(self._each("squared_distances", rows)))

    def of_known_rows(self) -> tuple[Array, Array] | None:
        """See :class:`_WithPrior`."""
        found = [part.of_known_rows() for part in self.parts]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return None
        total, n = _summed(known)
        return total, n


def _summed(found: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.asarray(sum(each)) for each in zip(*found, strict=True))


class _Known(InducingPosterior):
    """A posterior over the values at the inducing inputs of which all that predictions need is known."""

    def __init__(self, directions: Array, shares: Array, coefficients: Array) -> None:
        known = {"directions": directions, "shares": shares, "coefficients": coefficients}
        self.__dict__.update({n: np.ascontiguousarray(v) for n, v in known.items()})


def uncollapsed_density(process: Uncollapsed) -> UncollapsedDensity:
    """Choose the density of unseen rows: that of normal noise, one for all columns, costs the square of M, whatever D."""
    functions = process.functions
    if process.read.inputs is not None:
        return UncollapsedDensity(process)
    if process.likelihood.name != "gaussian" or not isinstance(functions, InducedFunctions):
        return UncollapsedDensity(process)
    noise, precisions = process.noise, functions.posterior.precisions
    if np.ptp(noise) > _ALIKE * noise.min():
        return UncollapsedDensity(process)
    if (np.ptp(precisions, axis=1) > _ALIKE * precisions.min(axis=1)).any():
        return UncollapsedDensity(process)
    return SharedDensity(process, functions, float(noise[0]))


def each_uncollapsed_density(tables: Sequence[Fit], limit: int) -> Iterator[Density]:
    """Densities of unseen rows of one table or several, in each of at most ``limit`` frames."""
    for processes in zip(*(each_frame(read, limit) for read in tables), strict=True):
        densities = [uncollapsed_density(process) for process in processes]
        yield densities[0] if len(densities) == 1 else JoinedDensity(densities)


def _constant(read: Fit, name: str) -> Array | None:
    return read.constants[name].to_numpy() if name in read.constants else None


def _entry_of_new_rows(read: Fit, likelihood: Likelihood) -> Array | None:
    """Return what was told of all rows alike; of a single new row nothing is known."""
    entry = _constant(read, "Y_entry")
    if entry is None or (entry == entry[:1]).all():
        return None if entry is None else entry[:1]
    if likelihood.name == "binomial":
        raise ValueError(
            f"{read.caller} cannot tell the numbers of trials of new rows, as each of the fit's had its own. Fit "
            "with likelihoods.binomial(trials) of one number, or one for each column."
        )
    return None


def offset_of(read: Fit, new: xr.DataArray, offset: Any) -> Array | None:
    """Offset of new rows (M, 1) or (M, D): as given, or the logarithm of their size as the fit had it.

    Rows without an entry, which one of several tables may lack, have an offset of 0.
    """
    M, D = new.shape
    empty = np.isnan(new.to_numpy()).all(axis=1)
    if offset is None and "Y_offset" in read.constants:
        if empty.all():
            return np.zeros((M, 1))
        median = read.setting("size_median") if "size_median" in read.tree.attrs else None
        if median is None:
            raise ValueError(
                f"{read.caller} needs the offset of each new row, as the fit had one for each of its own. Pass "
                "offset=, zeros for an exposure of 1."
            )
        sums = np.where(empty, float(median), np.nansum(new.to_numpy(), axis=1))
        if (sums <= 0.0).any():
            raise ValueError(
                f"{read.caller} needs a positive sum in each new row, from which its size is told, got "
                f"{sums.min():g}. Pass offset=."
            )
        return np.asarray(np.log(sums / float(median)))[:, None]
    if offset is None:
        return None
    values = np.asarray(offset, dtype=np.float64)
    values = values[:, None] if values.shape == (M,) else values
    if values.shape not in ((M, 1), (M, D)) or not np.isfinite(values).all():
        raise ValueError(
            f"offset must be finite and have the shape ({M},), ({M}, 1) or ({M}, {D}), got {np.shape(offset)}."
        )
    return values


def offsets_of(tables: Tables, new: NewRows, offset: Any) -> dict[str | None, Array | None]:
    """Offset of new rows in each table; of several it is given by name."""
    if None in tables:
        return {None: offset_of(tables[None], new.parts[None], offset)}
    if offset is not None and (not are_views(offset) or set(offset) - set(tables)):
        got = listed(list(offset)) if are_views(offset) else type(offset).__name__
        raise ValueError(
            f"offset must be a mapping from tables of the fit, {', '.join(map(str, tables))}, to the offsets of their "
            f"new rows, got {got}."
        )
    found: dict[str | None, Array | None] = {}
    for name, read in tables.items():
        with of_table(name):
            found[name] = offset_of(read, new.parts[name], (offset or {}).get(name))
    return found


def with_offsets(rows: Rows, new: NewRows, offsets: Mapping[str | None, Array | None]) -> Rows:
    """Return new rows with their offset; of several tables the rows in each."""
    if None in offsets:
        return replace(rows, offset=offsets[None])
    ends = np.cumsum([part.shape[1] for part in new.parts.values()])
    columns = np.split(np.arange(ends[-1]), ends[:-1])
    each = zip(offsets.values(), columns, strict=True)
    return replace(rows, of_tables=tuple(replace(rows.columns(c), offset=own) for own, c in each))


def mixed_responses(
    read: Fit, new: xr.DataArray, positions: Positions, weights: Array, offset: Array | None
) -> tuple[Array, Array]:
    """Mean and sd (M, D) of measurements of new rows, mixed over weighted positions."""
    n = positions.n_draws
    each = weights.shape[1] // n
    first, second = np.zeros(new.shape), np.zeros(new.shape)
    for s, process in enumerate(each_frame(read, n)):
        part = slice(s * each, (s + 1) * each)
        for row in range(len(new)):
            given = None if offset is None else np.repeat(offset[row : row + 1], each, axis=0)
            own = process.of_rows(slice(row, row + 1), len(new))
            found, w = own.at(positions.x[row, part], given), weights[row, part]
            first[row] += w @ found.mean
            second[row] += w @ (found.of_mean + found.about + found.mean**2)
    return first, np.sqrt(np.maximum(second - first**2, 0.0))


def rows_under_q(read: Fit) -> Response:
    """Moments of a measurement of the table's own rows, mixed over q(x) where they have one."""
    process = Uncollapsed.of(read)
    return _together(
        [process.mixed(at_nodes, *given) for _, at_nodes, *given in process.each_row()]
    )


def left_out(read: Fit) -> tuple[Response, Array]:
    """Moments of each measurement of the table given the other entries of its column, and its log-density (N, D).

    Of a fit with the modes of f.
    """
    process = Uncollapsed.of(read)
    if not isinstance(process.functions, ModeFunctions):
        raise TypeError("the fit has no modes of f")
    f, known = (
        process.functions.modes.left_out,
        (_constant(read, "Y_offset"), _constant(read, "Y_entry")),
    )
    seen = process.observed(read.Y.to_numpy(), *known)
    scores = process.likelihood.log_predictive(seen, *f, process.parameters)
    return process.response(*f, *known), scores - np.log(process.scale)
