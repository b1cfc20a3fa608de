"""The Bayesian GP-LVM by minibatches, with any likelihood: :mod:`pm_gplvm.core.uncollapsed`, maximised.

Each step takes a batch of rows: natural-gradient steps of their q(x), damped row by row, then one of
q(u), and Adam's steps of the inducing inputs, θ, the level and the likelihood's parameters.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from math import ceil
from operator import add
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count, number
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.interrupt import caught, interrupted, interruptible, safe_point
from pm_gplvm.core.kernels import (
    Kernel,
    beside,
    check_rank,
    composite_of,
    kernel_named,
    parse_kernel,
)
from pm_gplvm.core.uncollapsed import (
    ColumnPosterior,
    Features,
    Nodes,
    RowGradient,
    RowsPrior,
    SharedGradient,
    accurate,
    block_of_rows,
    natural_theta,
    rotated,
    row_steps,
    row_terms,
)
from pm_gplvm.data.arrays import labels_along, numbers
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, Fit, inducing_inputs, warn_of
from pm_gplvm.data.input_tables import inputs_of_rows
from pm_gplvm.data.inputs import COLUMN, Inputs
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.rows import Rows, RowTable, along_rows, offset_along_rows
from pm_gplvm.data.table import Scale, noise_floor, spread_by_feature
from pm_gplvm.fitting.optimise import optima_positions
from pm_gplvm.fitting.stochastic import Adam
from pm_gplvm.fitting.variational import spread_rows
from pm_gplvm.model.approximate import INDUCING
from pm_gplvm.model.arguments import arguments_of, refuse_beside_a_model
from pm_gplvm.model.families import Gaussian, working_table
from pm_gplvm.model.likelihoods import Likelihood, noted, resolve
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.model.positions import NormalPositions, Positions, positions_of
from pm_gplvm.model.results import attributes
from pm_gplvm.model.starts import (
    completed,
    least_squares_scores,
    turned_towards,
    with_angles,
)
from pm_gplvm.model.theta import ThetaPrior

_SPREAD, _TRUST = 0.2, 0.5  # sd of q(x) and damping of its steps at the start
_TURNS = 25  # steps between two turns of the basis of q(u)
_DECAY = 0.7  # power of the number of steps, by which the first steps of q(u) shrink
_LEAST_RATE = 0.02  # of the rates, at the end
# Found on oil flow (1000 rows, Q = 5), digits (1797) and draws of a GP (20 000 and 100 000 rows). Half of these rates
# end lower (oil -4.5 for -3.4 nats a row after 300 passes, digits -57.9 for -57.2 after 100), twice as high a rate of
# q(u) lower by 1.6 on digits.
_NATURAL, _ROW_RATE, _LOCAL = 0.2, 0.05, 20.0
_SAMPLE = 20_000  # rows that a start is found on
_FEWEST_STEPS = 3000
_WINDOWS = 40
_RISING = 0.1
_EVALUATED = 50_000  # rows that the bound is reported on
_MOST_DRAWN = 4 * 10**6  # numbers in the draws of X
_MOST_PLACED = 10**6  # and in the places where all runs ended


@dataclass
class State:
    """All that a fit moves.

    That is q(x) of the rows, q(u), inducing inputs, ln θ, level, the likelihood's parameters and those of the prior of X.
    """

    mean: Array
    sd: Array
    trust: Array
    W: Array
    log_theta: dict[str, Array]
    level: Array
    parameters: dict[str, Array]
    posterior: ColumnPosterior
    prior: dict[str, Array] = field(default_factory=dict)

    def copy(self, into: "State | None" = None) -> "State":
        """Copy what steps change in place; that of the rows into the arrays of an earlier copy, if one is given."""
        rows = {name: getattr(self, name) for name in ("mean", "sd", "trust")}
        copied = {
            n: np.empty_like(v) if into is None else getattr(into, n) for n, v in rows.items()
        }
        for name, values in rows.items():
            np.copyto(copied[name], values)
        return replace(
            self,
            **copied,
            log_theta=dict(self.log_theta),
            parameters=dict(self.parameters),
            prior=dict(self.prior),
        )


@dataclass(frozen=True)
class Data:
    """The table in the units of the model, a batch at a time, and what is known of its rows."""

    table: RowTable
    centre: Array
    scale: Array
    offset: Array | None = None  # (N, 1) or (N, D)
    entry: Array | None = None
    positions: Positions = field(default_factory=NormalPositions)
    inputs: Inputs | None = None  # of which the kernel has terms beside those of X

    def whole(self, X: Array, rows: Rows) -> Array:
        """Positions (n, Q) of some rows as the kernel takes them, with their inputs."""
        return X if self.inputs is None else beside(X, self.inputs.values[rows])

    def rows(self, rows: Rows) -> Observed:
        """Read some rows."""
        Y = (self.table.take(rows) - self.centre) / self.scale
        return Observed(Y, _some(self.offset, rows), _some(self.entry, rows))


def _some(values: Any, rows: Rows) -> Any:
    """Take some rows of what is known of each; what is known of all stays."""
    by_row = isinstance(values, np.ndarray) and values.ndim == 2 and len(values) > 1
    return values[rows] if by_row else values


@dataclass(frozen=True)
class Schedule:
    """How long the steps are, and how many."""

    batch_size: int
    epochs: float
    learning_rate: float  # of W, ln θ, level and parameters
    natural_rate: float  # of q(u), once the first steps are taken
    first_natural_rate: float
    row_rate: float  # of the rows' steps by Adam
    local_epochs: float  # passes at first with natural-gradient steps of the rows; then Adam's

    def steps(self, n_rows: int) -> int:
        """Tell the number of batches."""
        return max(1, ceil(self.epochs * n_rows / self.batch_size))


class Optimiser:
    """One run from one start."""

    def __init__(
        self,
        data: Data,
        likelihood: Likelihood,
        kernel: str,
        theta: ThetaPrior,
        state: State,
        schedule: Schedule,
        *,
        rng: np.random.Generator,
        held: frozenset[str] = frozenset(),
    ) -> None:
        self.data, self.likelihood, self.kernel, self.theta = data, likelihood, kernel, theta
        self.state, self.schedule, self.held = state, schedule, held
        self.rng = rng
        self.nodes = rotated(state.mean.shape[1], rng)
        self.taken = 0
        shared = {"W": state.W, "level": state.level}
        shared |= {f"theta_{n}": state.log_theta[n] for n in theta.free}
        shared |= {f"parameter_{n}": v for n, v in state.parameters.items()}
        shared |= {f"prior_{n}": v for n, v in state.prior.items()}
        self._adam = {name: Adam(np.shape(value), 0.9) for name, value in shared.items()}
        self._row_adam: tuple[Adam, Adam] | None = None
        self._prepare()

    def _prepare(self) -> None:
        state = self.state
        theta = natural_theta(self.kernel, state.log_theta)
        self.features = Features(self.kernel, state.W, theta, state.posterior.basis)

    def terms(
        self,
        rows: Rows,
        observed: Observed,
        q: tuple[Array, Array],
        nodes: Nodes,
        *,
        shared: bool = False,
    ) -> tuple[RowGradient, SharedGradient | None]:
        """Evaluate some rows at the present state."""
        state, Q = self.state, q[0].shape[1]
        if (known := self.data.inputs) is not None:  # their q is a point at each
            C = len(known.columns)
            q = self.data.whole(q[0], rows), np.pad(q[1], ((0, 0), (0, C)))
            nodes = np.pad(nodes[0], ((0, 0), (0, C))), nodes[1]
        own, of_shared = row_terms(
            self.features,
            state.posterior,
            state.level,
            self.likelihood,
            state.parameters,
            observed,
            q,
            nodes,
            shared=shared,
        )
        return RowGradient(own.value, own.mean[:, :Q], own.log_sd[:, :Q]), of_shared

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.state = state
        self._prepare()

    @property
    def longest(self) -> float:
        """Longest step of a row's mean: half of the shortest lengthscale."""
        return 0.5 * float(np.min(np.exp(self.state.log_theta.get("lengthscale", 0.0))))

    def step(self, rows: Rows) -> float:
        """Take one step with a batch of rows; its estimate of the bound, per row."""
        schedule, state, N = self.schedule, self.state, len(self.data.table)
        done = self.taken / schedule.steps(N)
        length = max(min(1.0, 2.0 * (1.0 - done)), _LEAST_RATE)
        local = self.taken * schedule.batch_size < schedule.local_epochs * N
        scale, value = N / len(rows), 0.0
        self.nodes = rotated(state.mean.shape[1], self.rng)
        parts: list[SharedGradient] = []
        of_prior: dict[str, Any] = dict.fromkeys(state.prior, 0.0)
        for block in _blocks(rows, self.nodes):
            observed, prior = self.data.rows(block), self.data.positions.of(block, state.prior)
            q = state.mean[block], state.sd[block]
            if local:

                def evaluate(
                    mean: Array, sd: Array, rows: Rows = block, seen: Observed = observed
                ) -> RowGradient:
                    return self.terms(rows, seen, (mean, sd), self.nodes)[0]

                mean, sd, trust, _ = row_steps(
                    evaluate, q, state.trust[block], prior, longest=self.longest, steps=2
                )
                state.mean[block], state.sd[block], state.trust[block] = mean, sd, trust
                q = mean, sd
            own, shared = self.terms(block, observed, q, self.nodes, shared=True)
            value += float((own.value - prior.divergence(*q)).sum())
            parts += [] if shared is None else [shared]
            by_prior = prior.gradient(*q)
            of_prior = {name: value + by_prior[name] for name, value in of_prior.items()}
            if not local:
                self._row_step(block, own, q, prior, length)
        estimate = value / len(rows) - state.posterior.divergence / N
        self._shared_step(reduce(add, parts), of_prior, scale, length)
        self.taken += 1
        return estimate

    def _row_step(
        self, rows: Rows, own: RowGradient, q: Any, prior: RowsPrior, length: float
    ) -> None:
        """Move q(x) of some rows by Adam, each with averages of its own."""
        state, (mean, sd), spread = self.state, q, prior.spread
        if self._row_adam is None:
            self._row_adam = Adam(state.mean.shape, 0.9), Adam(state.sd.shape, 0.9)
        rate = self.schedule.row_rate * length
        of_mean = own.mean - (mean - prior.towards(mean)) / spread**2
        of_sd = own.log_sd + 1.0 - (sd / spread) ** 2
        state.mean[rows] = mean + rate * self._row_adam[0](of_mean, rows)
        state.sd[rows] = sd * np.exp(rate * self._row_adam[1](of_sd, rows))

    def _shared_step(
        self, found: SharedGradient, of_prior: dict[str, Array], scale: float, length: float
    ) -> None:
        state, schedule, t = self.state, self.schedule, self.taken
        first = schedule.first_natural_rate / (1.0 + t) ** _DECAY
        rate = max(first, schedule.natural_rate * length)
        by_W, by_theta = self.features.through_factor(found.features)
        state.posterior = state.posterior.step(found.statistics, scale, rate)
        if t < 4 or t % _TURNS == 0:
            state.posterior = state.posterior.turned()
        rate = schedule.learning_rate * length

        def moved(name: str, value: Array, gradient: Any) -> Array:
            return np.asarray(value + rate * self._adam[name](scale * np.asarray(gradient)))

        _, of_theta = self.theta.log_density(state.log_theta)
        _, of_parameters = self.likelihood.log_prior(state.parameters)
        if "W" not in self.held:
            state.W = moved("W", state.W, by_W)
        state.level = moved("level", state.level, found.level)
        for name, shape in self.theta.free.items():
            gradient = by_theta[name] if shape else np.sum(by_theta[name])
            value = state.log_theta[name]
            state.log_theta[name] = moved(f"theta_{name}", value, gradient + of_theta[name] / scale)
        for name, value in state.parameters.items():
            gradient = found.parameters[name] + of_parameters[name] / scale
            state.parameters[name] = moved(f"parameter_{name}", value, gradient)
        _, of_positions = self.data.positions.log_prior(state.prior)
        for name, value in state.prior.items():
            gradient = of_prior[name] + of_positions[name] / scale
            state.prior[name] = moved(f"prior_{name}", value, gradient)
        self._prepare()

    def bound(self, rows: Iterator[Rows] | None = None) -> float:
        """Bound per row at the present state, by accurate nodes, over all rows or some."""
        nodes, value, n = accurate(self.state.mean.shape[1]), 0.0, 0
        for chosen in self.data.table.blocks() if rows is None else rows:
            for block in _blocks(chosen, nodes):
                q = self.state.mean[block], self.state.sd[block]
                prior = self.data.positions.of(block, self.state.prior)
                own, _ = self.terms(block, self.data.rows(block), q, nodes)
                value += float((own.value - prior.divergence(*q)).sum())
                n += len(block)
        return value / n - self.state.posterior.divergence / len(self.data.table)


def _blocks(rows: Rows, nodes: Nodes) -> Iterator[Rows]:
    size = block_of_rows(len(nodes[1]))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@checked
def fit_svi(
    Y: Any,
    latent_dim: int = 2,
    *,
    likelihood: Any = "gaussian",
    kernel: Any = "rbf",
    ard: bool = True,
    priors: Mapping[str, Any] | None = None,
    scale: Scale = "global",
    offset: Any = None,
    noise_sd: Any = None,
    resolution: Any = "auto",
    inputs: Any = None,
    n_inducing: int = 50,
    batch_size: int | None = None,
    epochs: float | None = None,
    learning_rate: float = 0.05,
    start: Any = "pca",
    n_restarts: int = 0,
    draws: int = 100,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Fit the Bayesian GP-LVM by minibatches: any likelihood, holes, up to millions of rows.

    Every row has a q(x) = N(μ, diag s²), every column a Gaussian over its values at M inducing inputs. The bound
    on the log marginal likelihood is a sum over the entries that were measured, so that a step reads a batch of rows
    only (Hensman et al. 2013, 2015; Lalchand, Ravuri & Lawrence 2022). Steps of q(x) and of the
    columns' Gaussians follow natural gradients, all others Adam (Kingma & Ba 2015).

    Parameters
    ----------
    Y : array_like, DataFrame, DataArray, AnnData, SciPy sparse, numpy.memmap, Zarr or dask array, or Path, shape (N, D), or pm.Model
        The table, rows are observations; NaN is an entry that was not measured. What is mapped, sparse, in
        Zarr, of Dask, a backed AnnData or a folder of Parquet files (its ``Path``) is read a batch at a time. Or a model of :func:`build_model`, which tells all from ``latent_dim`` to
        ``resolution``: they must be left out. A prior of its ``level`` is not looked at.
    latent_dim : int, default 2
        Q. With ``ard`` those not needed end with a long lengthscale.
    likelihood : str, object of ``pm_gplvm.likelihoods``, mapping from columns to these, or function
        What an entry is, given f(x) of its column: "gaussian", "student_t", "poisson",
        "negative_binomial", "bernoulli", "binomial", "ordinal", "lognormal", "gamma"; a function f -> pm.Distribution.dist(...)
        is one of PyMC's.
    kernel : str or object of ``gplvm.kernels``, default "rbf"
        As in :func:`build_model`.
    ard : bool, default True
        One lengthscale for each latent dimension, of each factor where there are several.
    priors : mapping, optional
        Of θ as in :func:`build_model`; of ``X`` N(0, 1), :func:`priors.informative` or :func:`priors.class_mixture`, whose
        centres (and spread, if it has a prior) are where the bound and their prior are highest.
    scale : {"global", "feature", "none"}, default "global"
        As in :func:`build_model`, for columns of a Gaussian or Student-t likelihood; others have f in units of
        their link.
    offset : array_like (N,), (N, 1) or (N, D), or "size", optional
        Added to f, the logarithm of an exposure for counts. "size": the logarithm of the row's sum
        over the median of all. A Series or DataFrame is joined by label.
    noise_sd : array_like (N,), (N, 1), (1, D) or (N, D), optional
        Known standard deviations of measurement in units of Y, added in square to the noise, joined by label as
        ``offset``. Of a Gaussian likelihood only.
    resolution : "auto", number or array_like (D,), default "auto"
        As in :func:`build_model`, the floor of a Gaussian likelihood's noise: "auto" is that of the grid that values lie on, of
        a column at most a third of its variance, or none where ``noise_sd`` is given.
    inputs : DataFrame, mapping from names to values, or Dataset, N rows, optional
        What is known of each row, as in :func:`build_model`. Under another likelihood than a Gaussian they act on f.
    n_inducing : int, default 50
        M; more than N are N. The linear kernel takes as many as it has latent dimensions (and one for a bias).
    batch_size : int, optional
        Rows of a step; by default 100 up to 1500 rows, 200 up to 10 000, 500 beyond.
    epochs : float, optional
        How often each row is visited. Default: 300 for 1000 rows, 75 for 20 000, 15 for 100 000, 2 for a million: at
        least twice, and in at least 3000 steps.
    learning_rate : float, default 0.05
        Length of Adam's first steps of inducing inputs, ln θ, levels and the likelihood's parameters; from half of the
        run on all steps shrink linearly.
    start : {"pca", "random"}, array_like (N, Q) or DataTree, default "pca"
        Where the means of q(x) begin: principal components of the table, of working residuals for counts and classes;
        or another fit's X, of an earlier one by this verb all of its state.
    n_restarts : int, default 0
        Further runs, from positions moved at random; the run of the highest bound is returned.
    draws : int, default 100
        Of X from q; fewer where they were more than 4·10⁶ numbers.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        ``posterior``: draws of X from q, with θ and the likelihood's parameters, the same in each.
        ``approximation``: ``X_mean`` and ``X_sd`` of q (obs, latent), ``X_inducing`` (inducing, latent), ``u_mean`` and
        ``u_precision`` (inducing, feature) of q(u) in the basis ``u_basis``, ``level`` (feature).
        ``sample_stats``: ``bound``, of the whole table in its units (beyond 50 000 rows from so many, drawn at
        random), and ``lp``, with ln p(θ). ``trace``
        (step): the mean estimate of the bound a row over the steps before, and seconds. ``optima``: one row a run.
        A table in memory stands in ``observed_data``.

    Warns
    -----
    RuntimeWarning
        If the bound rose by more than 0.1 nats a row in an epoch of the second half, or fell and an earlier state is
        returned, or Ctrl-C ended the fit.

    Raises
    ------
    TypeError, ValueError
        If the data are not what the likelihood describes (counts that are no integers), or an argument is out of range.
    KeyboardInterrupt
        At Ctrl-C before the first step, and at the second Ctrl-C.

    Notes
    -----
    The expectation under q(x) is taken at 2 Q + 1 nodes while it runs, turned at random in each step, at more for the
    bound that is reported. The
    covariance of a column's q(u) is diagonal in a basis that all columns share: exact for
    a Gaussian likelihood and complete columns.

    References
    ----------
    Hensman, J., Fusi, N., Lawrence, N. D. (2013). Gaussian processes for big data. UAI.
    Hensman, J., Matthews, A., Ghahramani, Z. (2015). Scalable variational Gaussian process
    classification. AISTATS, PMLR 38, 351-360.
    Lalchand, V., Ravuri, A., Lawrence, N. D. (2022). Generalised GPLVM with stochastic variational
    inference. AISTATS, PMLR 151, 7841-7864.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> rng = np.random.default_rng(1)
    >>> t = rng.uniform(-2.0, 2.0, (200, 1))
    >>> counts = rng.poisson(np.exp(np.sin(t + np.arange(6))))
    >>> fit = gplvm.fit_svi(
    ...     counts, 1, likelihood="poisson", epochs=20, random_seed=1, progressbar=False
    ... )
    >>> fit["approximation"]["X_mean"].shape
    (200, 1)
    """
    if isinstance(Y, pm.Model):
        given = {
            "latent_dim": latent_dim,
            "likelihood": likelihood,
            "kernel": kernel,
            "ard": ard,
            "priors": priors,
            "scale": scale,
            "offset": offset,
            "noise_sd": noise_sd,
            "resolution": resolution,
            "inputs": inputs,
        }
        refuse_beside_a_model(given, fit_svi)
        own: dict[str, Any] = arguments_of(Y)
        Y, latent_dim, likelihood, kernel = (
            own[n] for n in ("Y", "latent_dim", "likelihood", "kernel")
        )
        inputs = own["inputs"]
        ard, priors, scale = (own[n] for n in ("ard", "priors", "scale"))
        offset, resolution = own["offset"], own["resolution"]
    table = RowTable.of(Y)
    entry_kernel, bias = parse_kernel(kernel)
    known_inputs = inputs if isinstance(inputs, Inputs) else None
    if inputs is not None and known_inputs is None:
        _check_sizes(table, latent_dim, entry_kernel, None)
        labelled = labels_along(Y, 0) is not None
        known_inputs = inputs_of_rows(inputs, np.asarray(table.obs), labelled=labelled)
        entry_kernel = known_inputs.joined_kernel(composite_of(entry_kernel), latent_dim)
    _check_sizes(table, latent_dim, entry_kernel, known_inputs)
    chosen = resolve(likelihood, table.features.tolist())
    sample = table.take(table.sample(_SAMPLE, np.random.default_rng(0)))
    chosen = chosen.given(Observed(sample))
    of_X = dict(priors or {})
    positions = positions_of(of_X.pop("X", None), table, latent_dim)
    own_lengths = ard and "lengthscale" in entry_kernel.parameters
    theta = ThetaPrior(entry_kernel, bias, latent_dim, of_X, ard=own_lengths, inputs=known_inputs)
    shift, size = offset_along_rows(offset, table)
    data = _data(table, chosen, scale, shift, _entry(noise_sd, chosen, table), positions)
    data = replace(_floored(data, chosen, resolution, sample), inputs=known_inputs)
    schedule = _schedule(len(table), batch_size, epochs, learning_rate)
    # Whole steps would throw away what an earlier fit knows, and go too far from f = 0 where ln p is no parabola.
    known = isinstance(start, xr.DataTree) and Fit(start).is_uncollapsed
    first_rate = _NATURAL if known else 1.0 if chosen.name == "gaussian" else 0.5
    schedule = replace(schedule, first_natural_rate=first_rate)
    rng = np.random.default_rng(random_seed)
    with interruptible(keeps=True), limit_threads(blas_threads):
        first = _start(data, chosen, entry_kernel.name, theta, latent_dim, n_inducing, start, rng)
        runs = _runs(
            data, chosen, entry_kernel, theta, first, schedule, n_restarts, rng, progressbar
        )
        best = max(runs, key=lambda run: run.bound)
        fit = uncollapsed_fit(
            data,
            chosen,
            entry_kernel.name,
            theta,
            runs,
            best,
            draws,
            rng,
            {
                "n_inducing": len(best.state.W),
                "batch_size": schedule.batch_size,
                "epochs": schedule.epochs,
                "start": start if isinstance(start, str) else type(start).__name__,
                "n_restarts": n_restarts,
                "random_seed": random_seed,
                **size,
            },
        )
    for text in _problems(fit, best, runs, n_restarts):
        warn_of(fit, f"fit_svi {text}")
    return fit


# What is fitted


def _is_linear(kernel: Kernel | Composite) -> bool:
    """Whether it is the inner product alone."""
    return isinstance(kernel, Kernel) and kernel.scaled is None


def _check_sizes(
    table: RowTable, latent_dim: int, kernel: Kernel | Composite, inputs: Inputs | None
) -> None:
    N, D = table.shape
    if N < 3 or D < 1:
        raise ValueError(
            f"Y must have at least 3 rows (obs) and 1 column (feature), got shape {(N, D)}. Rows are what "
            "is embedded: if columns were meant, pass Y.T."
        )
    count("latent_dim", latent_dim, 1)
    if isinstance(kernel, Composite):
        kernel.check(latent_dim + (0 if inputs is None else len(inputs.columns)))
    check_rank(kernel, latent_dim, table.shape)


def _entry(noise_sd: Any, likelihood: Likelihood, table: RowTable) -> Array | None:
    """Return what the likelihood was told of each entry, or the sd of each measurement."""
    told = likelihood.entries(*table.shape)
    if noise_sd is None:
        return told
    if told is not None or likelihood.name != "gaussian":
        raise ValueError(
            f"noise_sd is of a Gaussian likelihood that was told none, got it with {likelihood.text}. Leave it out."
        )
    known = along_rows("noise_sd", noise_sd, table)
    if known is None:
        return None
    n_rows = len(known) if known.strides[0] else 1  # one for all rows is kept once
    return np.broadcast_to(known[:n_rows], (n_rows, table.shape[1]))


def _floored(data: Data, likelihood: Likelihood, resolution: Any, sample: Array) -> Data:
    """Add the floor of the noise to what is known of each entry's."""
    by_default = isinstance(resolution, str) and resolution == "auto"
    if not isinstance(likelihood, Gaussian):
        if by_default or (isinstance(resolution, int | float) and resolution == 0.0):
            return data
        raise ValueError(
            f"resolution is of a Gaussian likelihood, got {resolution!r} with {likelihood.text}. Leave it out."
        )
    if by_default and data.entry is not None:
        return data
    by_column = likelihood.noise == "column"
    floor = noise_floor(resolution, sample, data.scale, by_column=by_column)
    if not floor.any():
        return data
    known = 0.0 if data.entry is None else data.entry**2
    floor = np.broadcast_to(floor, (1, data.table.shape[1]))
    return replace(data, entry=np.sqrt(known + floor**2))


def _data(
    table: RowTable,
    likelihood: Likelihood,
    scale: Scale,
    offset: Array | None,
    entry: Array | None,
    positions: Positions,
) -> Data:
    """Look through the table once: is it what the likelihood describes, and centre and scale of its columns."""
    D, labels = table.shape[1], table.features.tolist()
    n, sums, squares = np.zeros(D), np.zeros(D), np.zeros(D)
    origin: Array = np.zeros(D)
    for rows in table.blocks():
        Y = table.take(rows)
        seen = Observed(Y, _some(offset, rows), _some(entry, rows))
        likelihood.check(seen, labels=labels, first_row=int(rows[0]))
        if rows[0] == 0:
            with catch_warnings():
                simplefilter("ignore", RuntimeWarning)
                origin = np.nan_to_num(np.nanmean(Y, axis=0))
        known = ~np.isnan(Y)
        moved = np.where(known, Y - origin, 0.0)
        n += known.sum(axis=0)
        sums += moved.sum(axis=0)
        squares += (moved**2).sum(axis=0)
    if (n == 0).any():
        column = int(np.argmin(n))
        raise ValueError(
            f"Y must have an entry in every column, got none in feature {table.features[column]}. Drop it."
        )
    variance = np.maximum(squares / n - (sums / n) ** 2, 0.0)
    centre, spread = origin + sums / n, np.ones(D)
    if scale == "feature":
        spread = spread_by_feature(variance, centre, table.features)
    elif scale == "global":
        standardised = likelihood.standardised(D)
        share = np.where(standardised, n, 0.0)
        if share.any():
            spread = np.full(D, np.sqrt(np.average(variance, weights=share)) or 1.0)
    elif scale != "none":
        raise ValueError(f"scale must be one of global, feature, none, got {scale!r}.")
    standardised = likelihood.standardised(D)
    centre, spread = np.where(standardised, centre, 0.0), np.where(standardised, spread, 1.0)
    if entry is not None and standardised.any():
        entry = entry / spread
    return Data(table, centre, spread, offset, entry, positions)


def _schedule(
    n_rows: int, batch_size: int | None, epochs: float | None, learning_rate: float
) -> Schedule:
    usual = 100 if n_rows <= 1500 else 200 if n_rows <= 10_000 else 500
    size = min(usual, n_rows) if batch_size is None else count("batch_size", batch_size, 1, n_rows)
    if epochs is None:
        few = _FEWEST_STEPS * size / n_rows
        epochs = max(few, float(np.clip(300.0 * (1000.0 / n_rows) ** 0.9, 2.0, 300.0)))
    number("epochs", epochs, above=0.0)
    number("learning_rate", learning_rate, above=0.0)
    return Schedule(size, float(epochs), float(learning_rate), _NATURAL, 1.0, _ROW_RATE, _LOCAL)


def _start(
    data: Data,
    likelihood: Likelihood,
    kernel: str,
    theta: ThetaPrior,
    latent_dim: int,
    n_inducing: int,
    start: Any,
    rng: np.random.Generator,
) -> State:
    table, Q = data.table, latent_dim
    if isinstance(start, xr.DataTree) and "u_mean" in Fit.of(start, "X", caller="start").group(
        "approximation"
    ):
        return _continued(Fit.of(start, "X", caller="start"), data, likelihood, theta, Q)
    entry = kernel_named(kernel)
    angles = entry.angles(Q) if isinstance(entry, Composite) else []
    X = _positions(data, likelihood, start, Q, rng, angles)
    sample = data.rows(table.sample(_SAMPLE, rng))
    parameters, level = likelihood.start(sample)
    unit = np.maximum(np.ptp(X, axis=0).mean(), 1e-300) / np.sqrt(5.0)
    usual = {"lengthscale": unit, "amplitude": 1.0, "alpha": 1.0, "weight": 0.3, "bias": 0.6}
    named = {
        name: theta.fixed.get(name, np.full(shape, usual[name]))
        for name, shape in theta.shapes.items()
    }
    if _is_linear(entry):  # determined by its values on the axes, and at the origin
        W = np.eye(Q + int("bias" in theta.dims), Q)
    else:
        count("n_inducing", n_inducing, 2)
        some = table.sample(_SAMPLE, rng)
        chosen = data.whole(X[some], some)
        W = spread_rows(chosen, min(n_inducing, len(chosen)), rng)
    return State(
        mean=X,
        sd=np.full(X.shape, _SPREAD),
        trust=np.full(len(X), _TRUST),
        W=W,
        log_theta={name: np.log(value) for name, value in named.items()},
        level=np.asarray(level, dtype=np.float64),
        parameters=parameters,
        posterior=ColumnPosterior.prior(len(W), table.shape[1]),
        prior=data.positions.start(X),
    )


def _positions(
    data: Data,
    likelihood: Likelihood,
    start: Any,
    Q: int,
    rng: np.random.Generator,
    angles: list[int],
) -> Array:
    """Means of q(x) at the start, of unit spread where they are found here and are no angles."""
    table = data.table
    N = len(table)
    if isinstance(start, str):
        if start == "random":
            X = rng.standard_normal((N, Q))
        elif start == "pca":
            X = with_angles(_components(data, likelihood, Q + len(angles), rng), angles)
            around, spread = X[:, angles], X.std(axis=0)
            empty = spread <= 1e-10 * max(spread.max(), 1e-300)
            X[:, empty] = rng.standard_normal((N, int(empty.sum())))
            X = (X - X.mean(axis=0)) / np.where(empty, 1.0, spread)
            X[:, angles] = around
        else:
            raise ValueError(f"start must be 'pca', 'random', positions or a fit, got {start!r}.")
        anchors = data.positions.anchors
        return X if anchors is None else turned_towards(X, *anchors, rng)
    if isinstance(start, xr.DataTree):
        read = Fit.of(start, "X", caller="start")
        X = np.asarray(read.values("X").mean(axis=0))
    else:
        X = numbers("start", start)
    if X.shape != (N, Q) or not np.isfinite(X).all():
        raise ValueError(f"start must give X finite values in the shape {(N, Q)}, got {X.shape}.")
    return X.copy()


def _components(data: Data, likelihood: Likelihood, Q: int, rng: np.random.Generator) -> Array:
    """Principal components of what the likelihood makes of the table, found on some rows, of all rows."""
    table = data.table
    some = table.sample(_SAMPLE, rng)
    sample = working_table(likelihood, data.rows(some))
    mean = np.nan_to_num(np.nanmean(sample, axis=0))
    slopes = _of_inputs(data, some, completed(sample - mean, Q))
    filled = completed(sample - mean - _explained(data, some, slopes), Q)
    _, _, V = np.linalg.svd(filled - filled.mean(axis=0), full_matrices=False)
    axes = V[:Q]
    X = np.empty((len(table), len(axes)))
    whole = [table.sample(len(table), rng)] if len(table) <= _SAMPLE else table.blocks()
    for rows in whole:
        values = working_table(likelihood, data.rows(rows)) - mean
        values = values - _explained(data, rows, slopes)
        X[rows] = least_squares_scores(values, axes)
    return np.column_stack([X, np.zeros((len(X), Q - X.shape[1]))])


def _design(data: Data, rows: Rows) -> Array:
    """Return what inputs of rows may act by at a start: a line of each, and a parabola of numbers."""
    if data.inputs is None:
        return np.zeros((len(rows), 0))
    known = data.inputs.values[rows]
    return np.hstack([known, known**2])


def _of_inputs(data: Data, rows: Rows, F: Array) -> Array:
    """Slopes of a table in what its inputs do, by least squares with a little held back."""
    A = _design(data, rows)
    return np.asarray(np.linalg.solve(A.T @ A + 0.1 * np.eye(A.shape[1]), A.T @ F))


def _explained(data: Data, rows: Rows, slopes: Array) -> Any:
    """Return what inputs do to some rows at a start."""
    return 0.0 if data.inputs is None else _design(data, rows) @ slopes


def _continued(read: Fit, data: Data, likelihood: Likelihood, theta: ThetaPrior, Q: int) -> State:
    """Take up the state of an earlier fit of this table."""
    known = read.group("approximation")
    (mean, sd), level = read.positions_and_sds, known["level"].to_numpy()
    names = {name for name in theta.dims if name in read}
    parameters, _ = likelihood.start(data.rows(np.arange(min(len(mean), 1000))))
    stored = {
        n: known[f"likelihood_{n}"].to_numpy() for n in parameters if f"likelihood_{n}" in known
    }
    fits = (
        mean.shape == (len(data.table), Q)
        and level.shape == (data.table.shape[1],)
        and names == set(theta.dims)
        and all(np.shape(read.values(n)[0]) in ((), theta.shapes[n]) for n in names)
        and {n: v.shape for n, v in stored.items()}
        == {n: np.shape(v) for n, v in parameters.items()}
    )
    if not fits:
        raise ValueError(
            "start must be a fit of this table, kernel and likelihood with the same latent_dim, got another. "
            "Start from its positions: start=fit['approximation']['X_mean']."
        )
    basis = known["u_basis"].to_numpy()
    precisions = known["u_precision"].to_numpy()
    common = (basis * precisions.mean(axis=1)) @ basis.T
    q = ColumnPosterior(known["u_mean"].to_numpy(), precisions, basis, common)
    log_theta = {
        name: np.broadcast_to(np.log(read.values(name)[0]), shape).copy()
        for name, shape in theta.shapes.items()
    }
    return State(
        mean.copy(),
        sd.copy() if read.has_q else np.full_like(mean, _SPREAD),
        np.full(len(mean), _TRUST),
        inducing_inputs(known),
        log_theta,
        level,
        stored,
        q,
        data.positions.start(mean) if (own := data.positions.stored(read)) is None else own,
    )


# The runs


@dataclass(frozen=True)
class Run:
    """Where one start ended."""

    state: State
    bound: float  # per row
    rise: float  # of the bound a row in an epoch, at the end
    fell: bool  # an earlier state was taken
    trace: list[tuple[int, float, float]]
    taken: int
    number: int
    cut: bool  # by Ctrl-C


def _runs(
    data: Data,
    likelihood: Likelihood,
    kernel: Kernel | Composite,
    theta: ThetaPrior,
    first: State,
    schedule: Schedule,
    n_restarts: int,
    rng: np.random.Generator,
    show: bool,
) -> list[Run]:
    count("n_restarts", n_restarts, 0)
    total = schedule.steps(len(data.table))
    starts = [first, *(_moved(first, rng) for _ in range(n_restarts))]
    held = frozenset({"W"} if _is_linear(kernel) else ())
    runs: list[Run] = []
    with progress_bar("fit_svi", total * len(starts), "steps", show=show) as bar:
        for i, state in enumerate(starts):
            optimiser = Optimiser(
                data, likelihood, kernel.name, theta, state, schedule, rng=rng, held=held
            )
            try:
                runs.append(_run(optimiser, rng, i, bar))
            except KeyboardInterrupt:
                if not runs:
                    raise
                caught()
            if interrupted():
                break
    return runs


def _moved(state: State, rng: np.random.Generator) -> State:
    """Another start: positions moved by half their spread."""
    mean = state.mean + 0.5 * state.mean.std(axis=0) * rng.standard_normal(state.mean.shape)
    return replace(state.copy(), mean=mean)


def _run(optimiser: Optimiser, rng: np.random.Generator, i: int, bar: Any) -> Run:
    """Take all steps, looking at the mean of their estimates a window at a time."""
    table, schedule = optimiser.data.table, optimiser.schedule
    total = schedule.steps(len(table))
    window = max(total // _WINDOWS, 1)
    began = time.perf_counter()
    trace: list[tuple[int, float, float]] = []
    estimates: list[float] = []
    kept, best = optimiser.state.copy(), -np.inf

    def look() -> None:
        nonlocal kept, best
        value = float(np.mean(estimates))
        estimates.clear()
        trace.append((optimiser.taken, value, time.perf_counter() - began))
        if (recent := _recent(trace)[0]) > best:
            kept, best = optimiser.state.copy(kept), recent

    try:
        while optimiser.taken < total:
            for rows in table.batches(schedule.batch_size, rng):
                safe_point()
                estimate = optimiser.step(rows)
                if not np.isfinite(estimate):
                    raise FloatingPointError
                estimates.append(estimate)
                if len(estimates) == window or optimiser.taken == total:
                    look()
                bar.advance(bound=estimate)
                if optimiser.taken >= total:
                    break
    except KeyboardInterrupt:
        if not optimiser.taken:
            raise
        caught()
    except (FloatingPointError, np.linalg.LinAlgError):
        if not trace:
            raise ValueError(
                "fit_svi found a bound that is not finite in its first steps. Lower learning_rate, or look at the "
                "table's largest entries."
            ) from None
    recent, noise = _recent(trace)
    fell = recent < best - max(3.0 * noise, 0.5)
    stopped_early = optimiser.taken < total and not interrupted()
    if fell or stopped_early:
        optimiser.restore(kept)
    few = None if len(table) <= _EVALUATED else iter([table.sample(_EVALUATED, rng)])
    return Run(
        optimiser.state,
        optimiser.bound(few),
        _rise(trace, schedule, len(table)),
        fell or stopped_early,
        trace,
        optimiser.taken,
        i,
        interrupted() and optimiser.taken < total,
    )


def _recent(trace: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean of the last five windows and their spread, as one differs from the next by chance."""
    values = [value for _, value, _ in trace[-5:]]
    return (float(np.mean(values)), float(np.std(values))) if values else (-np.inf, 0.0)


def _rise(trace: list[tuple[int, float, float]], schedule: Schedule, n_rows: int) -> float:
    """By how much the bound a row rose in an epoch of the second half of the run."""
    if len(trace) < 4:
        return 0.0
    (first, early, _), (last, late, _) = trace[len(trace) // 2], trace[-1]
    return (late - early) / ((last - first) * schedule.batch_size / n_rows)


# The fit


def uncollapsed_fit(
    data: Data,
    likelihood: Likelihood,
    kernel: str,
    theta: ThetaPrior,
    runs: list[Run],
    best: Run,
    draws: int,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    *,
    method: str = "svi",
    log_units: float | None = None,
) -> xr.DataTree:
    """Write a run down as a tree: what other verbs read of it stands in ``approximation``.

    ``log_units``: Σ ln scale over the entries, where it is known.
    """
    state, table = best.state, data.table
    (N, Q), D, M = state.mean.shape, table.shape[1], len(state.W)
    S = max(1, min(draws, _MOST_DRAWN // (N * Q)))
    X = rng.standard_normal((S, N, Q))
    X *= state.sd
    X += state.mean
    numbered = np.array_equal(table.obs, np.arange(N))
    obs = pd.RangeIndex(N) if numbered else table.obs  # which takes no memory
    coords = {OBS: obs, LATENT: np.arange(Q), FEATURE: table.features}
    own_coords = coords | theta.coords | dict(data.positions.names)
    of_rows = {name: ((OBS,), np.asarray(c)) for name, c in table.coords.items()}
    drawn: dict[str, Any] = {"X": (("chain", "draw", OBS, LATENT), X[None])}
    natural = _natural(state, theta)
    natural |= {n: np.asarray(v) for n, v in likelihood.constrained(state.parameters).items()}
    for name, value in natural.items():
        dims = theta.dims[name] if name in theta.dims else _dims_of(name, value, D)
        drawn[name] = (("chain", "draw", *dims), np.broadcast_to(value, (1, S, *value.shape)))
    for name, (dims, value) in data.positions.natural(state.prior).items():
        of_draws = np.broadcast_to(value, (1, S, *np.shape(value)))
        drawn[name] = (("chain", "draw", *dims), of_draws)
    ends = {"chain": [0], "draw": np.arange(S)}
    lp, _ = theta.log_density(state.log_theta)
    lp += likelihood.log_prior(state.parameters)[0] + data.positions.log_prior(state.prior)[0]
    of_scale = _log_scale(data, likelihood) if log_units is None else log_units
    bound = best.bound * N - of_scale
    rows_by_features = (OBS, FEATURE)
    constants: dict[str, Any] = {
        "Y_mean": (FEATURE, data.centre),
        "Y_scale": (FEATURE, data.scale),
        **{name: (theta.dims[name], value) for name, value in theta.fixed.items()},
        **data.positions.constants,
    }
    for name, known in (("Y_offset", data.offset), ("Y_entry", data.entry)):
        if known is not None:
            first = OBS if len(known) == N else f"{name}_rows"
            last = FEATURE if known.shape[1] == D else f"{name}_columns"
            constants[name] = ((first, last), known)
    approximation: dict[str, Any] = {
        "X_mean": ((OBS, LATENT), state.mean),
        "X_sd": ((OBS, LATENT), state.sd),
        "X_inducing": ((INDUCING, LATENT), state.W[:, :Q]),
        "u_mean": ((INDUCING, FEATURE), state.posterior.means),
        "u_precision": ((INDUCING, FEATURE), state.posterior.precisions),
        "u_basis": ((INDUCING, f"{INDUCING}_to"), state.posterior.basis),
        "level": (FEATURE, state.level),
        **{
            f"likelihood_{n}": (_dims_of(n, np.asarray(v), D), v)
            for n, v in state.parameters.items()
        },
    }
    if (known_inputs := data.inputs) is not None:
        own_coords[COLUMN] = np.array(known_inputs.columns)
        coords = coords | {COLUMN: own_coords[COLUMN]}
        constants["inputs"] = ((OBS, COLUMN), known_inputs.values)
        constants["inputs_mean"] = (COLUMN, known_inputs.mean)
        constants["inputs_scale"] = (COLUMN, known_inputs.scale)
        approximation["inputs_inducing"] = ((INDUCING, COLUMN), state.W[:, Q:])
    step, estimate, seconds = (
        np.array(c) for c in zip(*(best.trace or [(0, np.nan, 0.0)]), strict=True)
    )
    order = sorted(runs, key=lambda run: -run.bound)
    whole = table.whole()
    groups = {
        "posterior": xr.Dataset(drawn, coords=ends | own_coords | of_rows),
        "sample_stats": xr.Dataset(
            {
                n: (("chain", "draw"), np.full((1, S), v))
                for n, v in (("bound", bound), ("lp", bound + lp))
            },
            coords=ends,
        ),
        "observed_data": xr.Dataset(
            {} if whole is None else {"Y": (rows_by_features, whole)}, coords=coords | of_rows
        ).drop_vars([LATENT, COLUMN], errors="ignore"),
        "constant_data": xr.Dataset(constants, coords=own_coords),
        "approximation": xr.Dataset(approximation, coords={**coords, INDUCING: np.arange(M)}),
        "trace": xr.Dataset(
            {"bound": ("step", estimate), "seconds": ("step", seconds)}, coords={"step": step}
        ),
        "optima": xr.Dataset(
            {
                "objective": ("start", [r.bound * N - of_scale for r in order]),
                "evaluations": ("start", [r.taken for r in order]),
                "converged": ("start", [not ended for ended in map(_why_not, order)]),
                "message": ("start", [_why_not(r) or "the bound stands" for r in order]),
            },
            coords={"start": [r.number for r in order]},
        ),
    }
    if len(order) * N * Q <= _MOST_PLACED:
        named = [{"X": r.state.mean, **_natural(r.state, theta)} for r in order]
        groups |= optima_positions([r.number for r in order], named, kernel)
    fit = xr.DataTree.from_dict(groups)
    fit.attrs = attributes(
        method=method,
        kernel=kernel,
        observed="Y",
        priors={**theta.texts, **data.positions.texts},
        settings={"likelihood": noted(likelihood), **settings},
    )
    return fit


def _natural(state: State, theta: ThetaPrior) -> dict[str, Array]:
    """Free hyperparameters of the kernel."""
    return {name: np.exp(state.log_theta[name]) for name in theta.free}


def _why_not(run: Run) -> str:
    """Say why a run is not taken for one that has arrived, "" if it is."""
    if run.cut:
        return "interrupted"
    if run.fell:
        return "the bound fell, and the state before is returned"
    return f"the bound rose by {run.rise:.2g} nats a row in an epoch" if run.rise > _RISING else ""


def _dims_of(name: str, value: Array, n_columns: int) -> tuple[str, ...]:
    """Name the axes of a parameter of the likelihood: a number, one for each column, or several for each."""
    if value.ndim == 0:
        return ()
    first = FEATURE if len(value) == n_columns else f"{name}_dim_0"
    return (first, *(f"{name}_dim_{i}" for i in range(1, value.ndim)))


def _log_scale(data: Data, likelihood: Likelihood) -> float:
    """Σ ln scale over the entries that were measured: what turns the bound into the table's own units."""
    logs = np.log(data.scale)
    if not logs.any():
        return 0.0
    seen = sum((~np.isnan(data.table.take(rows))).sum(axis=0) for rows in data.table.blocks())
    return float(seen @ logs)


def _problems(fit: xr.DataTree, best: Run, runs: list[Run], n_restarts: int) -> Iterator[str]:
    if fit.attrs["interrupted"]:
        yield (
            f"was interrupted in run {len(runs)} of {n_restarts + 1}, after {best.taken} steps of the one that is returned. "
            "Go on from here with start=fit."
        )
    elif best.fell:
        yield (
            "saw its bound fall, and returns the state before. Lower learning_rate, or raise batch_size or n_inducing."
        )
    elif best.rise > _RISING:
        yield (
            f"ended while its bound still rose, by {best.rise:.2g} nats a row in an epoch. Go on with start=fit, or raise epochs."
        )
