"""``fit_variational`` and ``fit_sparse`` of a table in chunks of rows, here or on the workers of a cluster.

A pass over the chunks gives the sums that the bound is made of, another the gradient
(:mod:`pm_gplvm.core.row_chunks`). What all rows share (θ, inducing inputs) is moved here, each row's q(x) or position where the row
is, both by one L-BFGS (:mod:`pm_gplvm.fitting.vector_free`), in the coordinates of
:func:`pm_gplvm.fitting.variational.induced_coordinates`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from scipy.linalg import LinAlgError

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, count, number, one_of
from pm_gplvm.core.cluster import (
    Cluster,
    Executor,
    Here,
)
from pm_gplvm.core.inducing import InducingKernel, InducingPosterior
from pm_gplvm.core.interrupt import caught, interruptible
from pm_gplvm.core.kernels import KERNELS, Kernel, parse_kernel
from pm_gplvm.core.row_chunks import (
    Beginning,
    GaussianRows,
    Iterates,
    Job,
    Moments,
    Place,
    Placed,
    PointRows,
    RowKind,
    Slopes,
    Step,
    Sums,
    begin,
    first_positions,
    given_positions,
    gradient,
    held,
    moments,
    points,
    statistics,
    write_arrays,
)
from pm_gplvm.core.uncollapsed import (
    ColumnPosterior,
    Features,
    natural_theta,
)
from pm_gplvm.data.arrays import numbers
from pm_gplvm.data.fit import FEATURE, OBS, THETA, Fit, warn_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.rows import RowTable
from pm_gplvm.data.stores import RowStore
from pm_gplvm.data.table import Scale, noise_floor, spread_by_feature
from pm_gplvm.fitting.chunk_folder import (
    STATE,
    InChunks,
    bounds_of_chunks,
    for_workers,
    goes_to_workers,
    is_state,
    shared_by_rows,
    start_named,
    write_prior,
)
from pm_gplvm.fitting.minibatch import Functions, State
from pm_gplvm.fitting.minibatch_tables import Part, Views
from pm_gplvm.fitting.optimise import (
    CONVERGED,
    INTERRUPTED,
    LINE_SEARCH,
    Optimum,
    interruption,
    optima_table,
)
from pm_gplvm.fitting.stored_fits import FEW, Writing, store_for, stored
from pm_gplvm.fitting.svi import Run, n_drawn, uncollapsed_fit
from pm_gplvm.fitting.variational import (
    EXPLAINED,
    FRESH,
    NOISE_AT_START,
    ROUNDING,
    SPREAD_AT_START,
    STEP_INDUCING,
    STEP_THETA,
    spread_rows,
    switched_off,
    unconverged,
)
from pm_gplvm.fitting.vector_free import VectorFree
from pm_gplvm.model.density import Layout
from pm_gplvm.model.likelihoods import Likelihood, resolve
from pm_gplvm.model.positions import Positions, positions_of
from pm_gplvm.model.priors import DEFAULT_PRIORS
from pm_gplvm.model.starts import THETA_AT_START, turned_towards
from pm_gplvm.model.theta import PositivePriors, ThetaPrior

_WIDEST = 1000  # columns whose covariances are summed; of wider tables those of a sample are
_SAMPLE = 20_000  # rows that the inducing inputs are chosen from


@dataclass(frozen=True)
class Problem:
    """What is fitted: a table of N rows, the kernel and the priors."""

    kernel: str
    kind: RowKind
    theta: ThetaPrior
    noise: PositivePriors
    positions: Positions
    likelihood: Likelihood
    floor: float
    centre: Array
    scale: Array
    shape: tuple[int, int]
    latent_dim: int
    n_inducing: int
    W_held: Array | None  # those of the linear kernel

    @property
    def layout(self) -> Layout:
        """How what all rows share lies in one vector."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.W_held is None:
            shapes["W"] = (self.n_inducing, self.latent_dim)
        shapes |= self.theta.free | self.noise.free | dict(self.positions.shapes)
        return Layout(tuple(shapes), tuple(shapes.values()))

    @property
    def steps(self) -> dict[str, float]:
        """Units that the variables are measured in."""
        N = self.shape[0]
        steps = dict.fromkeys(self.layout.names, STEP_THETA / np.sqrt(N))
        return steps | {"W": STEP_INDUCING * np.sqrt(self.n_inducing / N)}

    def views(self, table: RowTable) -> Views:
        """Put what a fit by minibatches would know of the table."""
        D = self.shape[1]
        part = Part(
            table,
            self.likelihood,
            self.kernel,
            self.theta,
            self.centre,
            self.scale,
            entry=np.broadcast_to(self.floor, (1, D)) if self.floor else None,
        )
        return Views((part,), self.positions, table.coords)

    def nowhere(self, n: int) -> Array:
        """Give points of rows that are known elsewhere."""
        X = np.zeros((n, self.latent_dim))
        return self.kind.first(X, np.ones_like(X), np.ones(self.latent_dim))

    def shared(self, vector: Array) -> "Shared":
        """Read a vector."""
        steps = self.steps
        parts = {n: v * steps[n] for n, v in self.layout.unpack(vector).items()}
        fixed = {n: np.log(v) for n, v in (self.theta.fixed | self.noise.fixed).items()}
        W = parts["W"] if self.W_held is None else self.W_held
        log_sigma = float(parts["sigma"] if self.noise.free else fixed.pop("sigma"))
        log_theta = fixed | {n: np.asarray(parts[n]) for n in self.theta.free}
        return Shared(self, W, log_theta, log_sigma, {n: parts[n] for n in self.positions.shapes})

    def vector(
        self,
        W: Array,
        log_theta: Mapping[str, Any],
        log_sigma: float,
        of_prior: Mapping[str, Array],
    ) -> Array:
        """Write a vector; W in lengthscales."""
        parts = {"W": W, **log_theta, "sigma": log_sigma, **of_prior}
        return self.layout.pack({n: parts[n] / self.steps[n] for n in self.layout.names})


@dataclass(frozen=True)
class Shared:
    """What all rows share: inducing inputs in lengthscales, ln θ, ln sigma, parameters of the prior of X."""

    problem: Problem
    W: Array
    log_theta: dict[str, Array]
    log_sigma: float
    of_prior: dict[str, Array]

    @property
    def theta(self) -> dict[str, Array]:
        """Kernel parameters."""
        return {name: np.exp(value) for name, value in self.log_theta.items()}

    @property
    def lengthscale(self) -> Array:
        """One for each dimension."""
        return np.broadcast_to(self.theta.get("lengthscale", 1.0), self.problem.latent_dim)

    @property
    def sigma(self) -> float:
        """Noise with its floor."""
        return float(np.hypot(np.exp(self.log_sigma), self.problem.floor))

    def place(self, step: Step) -> Place:
        """Tell the chunks."""
        theta, problem = self.theta, self.problem
        ratio = None
        amplitude = float(theta.get("amplitude", 1.0))
        if KERNELS[problem.kernel].summed:
            ratio = theta["weight"] * self.lengthscale / amplitude
        of_table = problem.centre, problem.scale
        bias = float(theta.get("bias", 0.0))
        prior = shared_by_rows(problem.positions, self.of_prior)
        return Place(step, self.W, self.lengthscale, amplitude, bias, ratio, *of_table, prior)

    def log_prior(self) -> tuple[float, dict[str, Any]]:
        """Ln p(θ), with what the prior of X has of its own, and its gradient in the logarithms."""
        problem = self.problem
        found = [
            problem.theta.log_density(self.log_theta),
            problem.noise.log_density({"sigma": np.asarray(self.log_sigma)}),
            problem.positions.log_prior(self.of_prior),
        ]
        return sum(value for value, _ in found), {n: v for _, s in found for n, v in s.items()}


class ChunkedBound:
    """The objective less its sign: parts of it here, parts with the chunks."""

    def __init__(self, problem: Problem, executor: Executor, start: Array, first: int) -> None:
        self.problem, self.executor = problem, executor
        self.held: frozenset[str] = frozenset()
        self.iterates = Iterates()
        self.iterates.points[first] = start
        self.sums: dict[int, Sums] = {}  # of the evaluations that may still be asked for
        self._last: tuple[int, InducingPosterior] | None = None
        self.first = first  # the evaluation that is begun from
        self.was_free = False  # it goes on from one in which nothing was held

    def shared(self, step: Step) -> Shared:
        """Read what all rows share where a step leads."""
        return self.problem.shared(self.iterates.moved(step))

    def _without_rows(self, place: Place) -> InducingKernel:
        Q, problem = self.problem.latent_dim, self.problem
        return place.kernel(problem.kernel, np.zeros((0, Q)), np.ones((0, Q)), problem.kind)

    def _posterior(self, shared: Shared, step: Step, sums: Sums) -> InducingPosterior:
        if self._last is None or self._last[0] != step.number:
            K = self._without_rows(shared.place(step))
            found = K.posterior_of(sums.P, sums.psi0, sums.psi2, shared.sigma)
            self._last = step.number, found
        return self._last[1]

    def value(self, step: Step) -> float:
        """Evaluate, infinite where a matrix is not positive definite."""
        shared = self.shared(step)
        sums = reduce(add, self.executor.each(statistics, shared.place(step)))
        known = {n: s for n, s in self.sums.items() if n in step.needed}
        self.sums = known | {step.number: sums}
        value = self.bound(shared, step, sums) + sums.log_prior + shared.log_prior()[0]
        return -value if np.isfinite(value) else np.inf

    def bound(self, shared: Shared, step: Step, sums: Sums) -> float:
        """Of the table, from sums."""
        try:
            posterior = self._posterior(shared, step, sums)
        except LinAlgError:
            return -np.inf
        return float(posterior.bound(sums.trace, sums.n_rows, self.problem.shape[1]))

    def products(self, step: Step) -> Array:
        """Differentiate, and return the inner products of all parts together."""
        shared, sums, problem = self.shared(step), self.sums[step.number], self.problem
        place = shared.place(step)
        posterior = self._posterior(shared, step, sums)
        of_bound = posterior.pullback(sums.trace, sums.n_rows, problem.shape[1])
        dK, dpsi0, dP, dpsi2, dsigma = of_bound
        asked = Slopes(place, dpsi0, dP, dpsi2)
        rows = reduce(add, self.executor.each(gradient, asked))
        Q, D = problem.latent_dim, problem.shape[1]
        _, _, W, amplitude, bias, along = self._without_rows(place).pullback(
            np.zeros((0, D)), dK, dpsi0, dP, dpsi2
        )  # what K gives
        theta = shared.theta
        of_ratio = np.zeros(Q)
        if along:
            of_ratio = (along[0] + rows.ratio) * place.ratio
        slopes: dict[str, Any] = {
            "W": W + rows.W,
            "lengthscale": rows.unit + of_ratio,
            "amplitude": (amplitude + rows.amplitude) * place.amplitude - of_ratio.sum(),
            "weight": of_ratio.sum(),
            "bias": (bias + rows.bias) * place.bias,
            "sigma": dsigma * np.exp(2.0 * shared.log_sigma) / shared.sigma,
        }
        if "lengthscale" in theta and not theta["lengthscale"].ndim:
            slopes["lengthscale"] = slopes["lengthscale"].sum()
        of_positions = problem.positions.shapes
        own = Layout(tuple(of_positions), tuple(of_positions.values()))
        slopes |= own.unpack(rows.prior[: own.size])
        _, of_prior = shared.log_prior()
        steps = problem.steps
        whole = {
            n: np.zeros(shape)
            if n in self.held
            else -steps[n] * (np.asarray(slopes[n]) + of_prior.get(n, 0.0))
            for n, shape in zip(problem.layout.names, problem.layout.shapes, strict=True)
        }
        point, slope = self.iterates.moved(step), problem.layout.pack(whole)
        products = rows.products + self.iterates.products(step, point, slope)
        self.iterates.points[step.number], self.iterates.slopes[step.number] = point, slope
        self.iterates.keep(step.needed | {step.number})
        return np.asarray(products)

    def arrived(self, number: int) -> None:
        """Write down what all rows share, by which another fit goes on from the chunks' files."""
        job = self.executor.job
        if not job.keeps:
            return
        told = {
            "vector": self.iterates.points[number],
            "number": number,
            "bounds": job.bounds,
            "held": bool(self.held),
            "kernel": job.kernel,
            "names": self.problem.layout.names,
        }
        write_arrays(Path(job.folder) / STATE, told)


# The start


def _units(found: Moments, scale: str, features: Any) -> tuple[Array, Array]:
    """Centre and scale of the columns."""
    variance = found.squares.diagonal() if found.squares.ndim == 2 else found.squares
    variance = variance / found.n_rows
    one_of("scale", scale, get_args(Scale))
    if scale == "none":
        return found.mean, np.ones_like(found.mean)
    if not variance.any():
        raise ValueError(f"Y has {found.n_rows} equal rows: there is nothing to embed.")
    if scale == "global":
        return found.mean, np.full_like(found.mean, np.sqrt(variance.mean()))
    return found.mean, spread_by_feature(variance, found.mean, features)


def _axes(
    found: Moments, centre: Array, scale: Array, sample: Array, Q: int
) -> tuple[Array, Array]:
    """Principal axes (Q, D) of the standardised table, signs as scikit-learn's, and their variances."""
    if found.squares.ndim == 2:
        covariance = found.squares / found.n_rows / np.outer(scale, scale)
        values, vectors = np.linalg.eigh(covariance)
        values, axes = values[::-1][:Q], vectors.T[::-1][:Q]
    else:
        _, roots, right = np.linalg.svd((sample - centre) / scale, full_matrices=False)
        values, axes = roots[:Q] ** 2 / len(sample), right[:Q]
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    return axes * signs, np.maximum(values, 0.0)


class _Start:
    """From a table and a user's wish to the first vector and the chunks' first points."""

    def __init__(
        self, executor: Executor, table: RowTable, problem: Problem, rng: np.random.Generator
    ) -> None:
        self.executor, self.table, self.problem, self.rng = executor, table, problem, rng

    def begun(self, start: Any, found: Moments, sample: Array) -> Array:
        """Return the first vector."""
        N, Q, problem = len(self.table), self.problem.latent_dim, self.problem
        chosen = self.table.sample(_SAMPLE, self.rng)
        known: dict[str, Array] = {}
        if isinstance(start, str):
            one_of("start", start, ("pca", "random"))
            axes, values = _axes(found, problem.centre, problem.scale, sample, Q)
            empty = values <= 1e-20 * max(float(values.max()), 1e-300)
            told = Beginning(
                axes / problem.scale,
                problem.centre,
                np.where(empty, 1.0, np.sqrt(values)),
                empty if start == "pca" else np.ones(Q, dtype=bool),
                int(self.rng.integers(2**31)),
                chosen,
            )
            placed = reduce(add, self.executor.each(first_positions, told))
            if problem.positions.anchors is not None:
                known["X_mean"] = turned_towards(self._X(), *problem.positions.anchors, self.rng)
        else:
            known = _known(start, (N, Q))
        if known:
            given = known["X_mean"], known.get("X_sd"), chosen
            placed = reduce(add, self.executor.each(given_positions, given))
        spread = np.maximum(placed.chosen.std(axis=0), 1e-300)
        log_theta, log_sigma = self._theta(placed, known)
        unit = np.broadcast_to(np.exp(log_theta.get("lengthscale", 0.0)), Q)
        if problem.W_held is not None:
            W = problem.W_held
        elif known.get("X_inducing", np.empty(0)).shape == (problem.n_inducing, Q):
            W = known["X_inducing"] / unit
        else:
            W = spread_rows(placed.chosen / unit, problem.n_inducing, self.rng)
        of_prior = problem.positions.start(self._X()) if problem.positions.shapes else {}
        if isinstance(start, xr.DataTree):
            of_prior = problem.positions.stored(Fit(start)) or of_prior
        for _ in self.executor.each(begin, (unit, SPREAD_AT_START * spread)):
            pass
        return problem.vector(W, log_theta, log_sigma, of_prior)

    def _X(self) -> Array:
        """First positions of all rows."""
        return np.concatenate(list(self.executor.each(points, 0)))

    def _theta(self, placed: Placed, known: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Where they are not given as other fits begin; of q(x) with little noise, and the lengthscales the range of X over √5."""
        usual: dict[str, Any] = dict(THETA_AT_START)
        theta = self.problem.theta
        if isinstance(self.problem.kind, GaussianRows):
            usual["lengthscale"] = (placed.high - placed.low) / np.sqrt(5.0)
            usual["sigma"] = NOISE_AT_START
        log_theta = {}
        for name, shape in theta.shapes.items():
            logs = np.log(theta.fixed.get(name, known.get(name, usual[name])))
            log_theta[name] = np.broadcast_to(logs, shape) if shape else logs.mean()
        sigma = self.problem.noise.fixed.get("sigma", known.get("sigma", usual["sigma"]))
        return log_theta, float(np.log(sigma))


def _known(start: Any, shape: tuple[int, int]) -> dict[str, Array]:
    """Positions that a user gives, or what an earlier fit knows."""
    known: dict[str, Array] = {}
    if isinstance(start, xr.DataTree):
        read = Fit.of(start, "X", caller="start")
        known = {n: np.asarray(read.values(n)[0]) for n in (*THETA, "sigma") if n in read}
        known["X_mean"] = np.asarray(read.values("X")[-1])
        group = read.group("approximation")
        known |= {n: group[n].to_numpy() for n in ("X_mean", "X_sd", "X_inducing") if n in group}
    else:
        known["X_mean"] = numbers("start", start)
    X = known["X_mean"]
    if X.shape != shape or not np.isfinite(X).all():
        raise ValueError(f"start must give X finite values in the shape {shape}, got {X.shape}.")
    if np.ptp(X, axis=0).max() == 0.0:
        raise ValueError("start has all latent positions equal, got one point for all rows.")
    return known


# The fit


def fit_by_chunks(
    Y: Any, *, chunks: InChunks, progressbar: bool, blas_threads: int | None, **settings: Any
) -> xr.DataTree:
    """Do what a verb does with a table, in this process or by those of a cluster."""
    table, asked = RowTable.of(Y), Setting(**settings)
    labels = {**table.coords, OBS: table.obs, FEATURE: table.features}
    with (
        store_for(chunks.out, asked.verb, labels) as target,
        interruptible(keeps=True),
        limit_threads(blas_threads),
        chunks.opened(asked.start, target) as (client, folder),
    ):
        return _fitted(table, client, folder, chunks, progressbar, asked, target)


def _gone_on(problem: Problem, executor: Executor, folder: Path) -> ChunkedBound:
    """Take up the state of another fit of the table from its folder."""
    job = executor.job
    with np.load(folder / STATE, allow_pickle=False) as kept:
        known = {name: kept[name] for name in kept.files}
    same = (
        "vector" in known
        and known["vector"].shape == (problem.layout.size,)
        and tuple(known["bounds"].tolist()) == job.bounds
        and str(known["kernel"]) == job.kernel
        and tuple(known["names"].tolist()) == problem.layout.names
    )
    if not same:
        raise ValueError(
            f"start must be the folder of a fit of this table in the same chunks, with the same kernel and sizes, got "
            f"{str(folder)!r} of another."
        )
    bound = ChunkedBound(problem, executor, known["vector"], int(known["number"]))
    bound.was_free = not known["held"]
    return bound


@dataclass(frozen=True)
class Setting:
    """How a table is fitted: what a verb takes of it."""

    latent_dim: int
    kernel: Any
    ard: bool
    priors: Mapping[str, Any] | None
    scale: Any
    resolution: Any
    n_inducing: int
    start: Any
    hold: int
    draws: int
    max_iter: int
    tol: float
    random_seed: int | None
    method: Literal["variational", "sparse"] = "variational"

    @property
    def verb(self) -> str:
        """Name of the verb."""
        return f"fit_{self.method}"


def _fitted(
    table: RowTable,
    client: Any,
    folder: Path,
    chunks: InChunks,
    show: bool,
    asked: Setting,
    target: RowStore | None,
) -> xr.DataTree:
    rng, began = np.random.default_rng(asked.random_seed), time.perf_counter()
    with progress_bar(asked.verb, None, "starts", show=show) as bar:
        keeps = chunks.keeps(asked.start)
        bound = prepared(table, client, folder, chunks.chunk_rows, asked, rng, keeps=keeps)
        try:
            search = VectorFree(bound, bound.first, lambda value: bar.step(-value))
            hold = 0 if bound.was_free else asked.hold
            message = _searched(search, bound, hold, asked.max_iter, asked.tol)
            optimum = Optimum(
                values={},
                objective=-search.value,
                start=-search.first,
                evaluations=len(search.trace),
                gradient=search.slope,
                remaining=np.nan,
                converged=message == CONVERGED,
                message=message,
                seconds=time.perf_counter() - began,
                trace=-np.array(search.trace),
            )
            told: dict[str, Any] = {
                "start": start_named(asked.start),
                "hold": asked.hold,
                "random_seed": asked.random_seed,
            }
            views = bound.problem.views(table)
            draws = n_drawn(asked.draws, len(table), asked.latent_dim)
            if target is None:
                each = bound.executor.each(points, search.current, to_the_end=True)
                shown, rows = views, np.concatenate(list(each))
            else:
                shown, rows = views.few(FEW), bound.problem.nowhere(FEW)
            fit = _as_fit(shown, bound, search, optimum, rows, draws, asked, rng, told)
            if target is None:
                return fit
            number = search.current
            unit = bound.shared(Step(number, number)).lengthscale
            return stored(
                fit,
                target,
                bound.executor,
                write_rows,
                lambda writing: At(writing, number, unit),
                views,
                draws,
                rng,
            )
        finally:
            bound.executor.end()


@dataclass(frozen=True)
class At:
    """At which evaluation rows are written, and what their numbers are in units of X."""

    writing: Writing
    number: int
    unit: Array


def write_rows(job: Job, index: int, told: At) -> int:
    """Write q(x) of a chunk where the fit is put together."""
    mean, sd = (each * told.unit for each in job.kind.read(points(job, index, told.number)))
    with_table = told.writing.of_rows["observed_data"]
    tables = {"Y": ((OBS, FEATURE), held(job, index).Y)} if with_table else {}
    told.writing.write(index, job.rows(index), (mean, sd), tables)
    return 0


def prepared(
    table: RowTable,
    client: Any,
    folder: Path,
    chunk_rows: int | None,
    asked: Setting,
    rng: np.random.Generator,
    *,
    keeps: bool = True,
) -> ChunkedBound:
    """Look through the table, and place its rows where the fit begins: evaluation 1, or the last of another fit."""
    (N, D), Q = table.shape, asked.latent_dim
    entry, bias, M = _checked(table.shape, asked)
    kind: RowKind = GaussianRows() if asked.method == "variational" else PointRows()
    ard = bool(asked.ard) and "lengthscale" in entry.parameters
    priors = dict(asked.priors or {})
    positions = positions_of(priors.pop("X", None), table, Q)
    of_sigma = {"sigma": priors.pop("sigma", DEFAULT_PRIORS["sigma"]())}
    theta = ThetaPrior(entry, bias, Q, priors, ard=ard)
    noise = PositivePriors(of_sigma, {"sigma": ()}, Q)
    bounds = bounds_of_chunks(N, M + D, chunk_rows, M * M * Q)
    reader: Any = table
    keeps = keeps or client is not None
    far = goes_to_workers(client, bounds)
    if far:
        reader = for_workers(table, folder / "table", bounds)
    prior = write_prior(folder, positions, bounds)
    job = Job(reader, bounds, str(folder), entry.name, Q, kind, prior, keeps)
    executor: Executor = Cluster(client, job) if far else Here(job)
    try:
        found = reduce(add, executor.each(moments, (D, D <= _WIDEST)))
        centre, size = _units(found, asked.scale, table.features)
        sample = table.take(table.sample(_SAMPLE, np.random.default_rng(0)))
        floor = float(noise_floor(asked.resolution, sample, size, by_column=False))
        likelihood = resolve("gaussian", table.features.tolist())
        held = np.eye(M, Q) if entry.scaled is None else None
        problem = Problem(
            entry.name,
            kind,
            theta,
            noise,
            positions,
            likelihood,
            floor,
            centre,
            size,
            (N, D),
            Q,
            M,
            held,
        )
        if is_state(asked.start):
            return _gone_on(problem, executor, folder)
        first = _Start(executor, table, problem, rng).begun(asked.start, found, sample)
    except BaseException:
        executor.end()
        raise
    return ChunkedBound(problem, executor, first, 1)


def _checked(shape: tuple[int, int], asked: Setting) -> tuple[Kernel, bool, int]:
    """Check the sizes; the kernel, whether it has a bias, and the number of inducing inputs."""
    N, D = shape
    if N < 3 or D < 1:
        raise ValueError(
            f"Y must have at least 3 rows (obs) and 1 column (feature), got shape {(N, D)}. Rows are what "
            "is embedded: if columns were meant, pass Y.T."
        )
    entry, bias = parse_kernel(asked.kernel)
    if not isinstance(entry, Kernel):
        raise ValueError(
            f"kernel must be one of {', '.join(KERNELS)} for inducing inputs with q(u) in closed form, got "
            f"{entry.name!r}. Take fit_svi."
        )
    count("latent_dim", asked.latent_dim, 1, min(N, D))
    count("hold", asked.hold, 0)
    number("tol", asked.tol, above=0.0, below=1.0)
    if entry.scaled is None:
        return entry, bias, asked.latent_dim + int(bias)
    return entry, bias, min(count("n_inducing", asked.n_inducing, 2), N)


def _searched(search: VectorFree, bound: ChunkedBound, hold: int, max_iter: int, tol: float) -> str:
    """Minimise, amplitude and sigma held at first; why it ended. As :func:`pm_gplvm.fitting.variational.search`."""
    bound.held = frozenset({"amplitude", "sigma"} if hold else ())
    search.begin()
    if not np.isfinite(search.value):
        raise ValueError(
            "The objective is not finite at the start: K is not positive definite. Start with other positions."
        )
    message = LINE_SEARCH
    if hold:
        message = search.run(hold, tol)
        if message == INTERRUPTED:
            return message
        bound.held = frozenset()
    for attempt in range(1 + FRESH):
        if attempt or hold:
            try:
                search.begin()
            except KeyboardInterrupt:
                caught()
                return INTERRUPTED
        before = search.value
        message = search.run(max_iter, tol)
        if message != LINE_SEARCH:
            break
        little = before - search.value <= max(tol, ROUNDING) * max(1.0, abs(before))
        if attempt and little:
            return CONVERGED
    return message


def _as_fit(
    views: Views,
    bound: ChunkedBound,
    search: VectorFree,
    optimum: Optimum,
    rows: Array,
    draws: int,
    asked: Setting,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
) -> xr.DataTree:
    """Make the fit: q(u) of the columns as a fit by minibatches has it, so that the table need not be there."""
    problem = bound.problem
    (N, D), n = problem.shape, len(rows)
    step = Step(search.current, search.current)
    shared, sums = bound.shared(step), bound.sums[search.current]
    unit = shared.lengthscale
    mean, sd = problem.kind.read(rows)
    theta = natural_theta(problem.kernel, shared.log_theta)
    W = shared.W * unit
    posterior, explained = _column_posterior(problem, W, theta, shared.sigma, sums)
    functions = Functions(
        W=W,
        log_theta={n: np.asarray(v) for n, v in shared.log_theta.items()},
        level=np.zeros(D),
        parameters={"log_sigma": np.asarray(shared.log_sigma)},
        posterior=posterior,
    )
    state = State(mean * unit, sd * unit, np.full(n, 0.5), (functions,), shared.of_prior)
    of_table, points = bound.bound(shared, step, sums), asked.method == "sparse"
    value = of_table + sums.log_prior
    run = Run(state, value, 0.0, False, [], optimum.evaluations, 0, False)
    units = N * float(np.log(problem.scale).sum())
    fit = uncollapsed_fit(
        views,
        [run],
        run,
        draws,
        rng,
        {
            "explained": explained,
            "converged": int(optimum.converged),
            **({"approximation": "vfe"} if points else {}),
            **settings,
        },
        method=asked.method,
        log_units=units,
    )
    in_units = replace(optimum, objective=optimum.objective - units, start=optimum.start - units)
    stats = fit["sample_stats"].to_dataset()
    stats["lp"] = xr.full_like(stats["lp"], in_units.objective)
    if points:
        stats["log_likelihood"] = xr.full_like(stats["bound"], of_table - units)
        stats = stats.drop_vars("bound")
        known = fit["approximation"].to_dataset().drop_vars(["X_mean", "X_sd"])
        fit["approximation"] = xr.DataTree(known)
    fit["sample_stats"] = xr.DataTree(stats)
    fit["optima"] = xr.DataTree(optima_table([(0, in_units)]))
    fit["trace"] = xr.DataTree(xr.Dataset({"objective": ("evaluation", optimum.trace - units)}))
    texts = []
    if fit.attrs["interrupted"]:
        texts = [interruption(asked.verb, fit["optima"].to_dataset())]
    elif not optimum.converged:
        texts = [
            f"{asked.verb}: it {unconverged(optimum)}; go on with {asked.verb}(Y, start=fit) or raise max_iter."
        ]
    if explained < EXPLAINED:
        texts.append(f"{asked.verb}: {switched_off(explained)}.")
    for text in texts:
        warn_of(fit, text)
    return fit


def _column_posterior(
    problem: Problem, W: Array, theta: Mapping[str, Any], sigma: float, sums: Sums
) -> tuple[ColumnPosterior, float]:
    """q(u) of all columns, which share its covariance, and the share of the table's variance that it explains."""
    M, D = sums.P.shape
    half = Features(problem.kernel, W, theta, np.eye(M)).inverse
    A = half @ sums.psi2 @ half.T / sigma**2
    found = InducingPosterior(half, A, half @ sums.P, sums.psi0, sigma)
    weights = found.weights
    fitted = 2.0 * (weights * sums.P).sum() - (weights * (sums.psi2 @ weights)).sum()
    basis, precisions = found.basis_and_precisions
    wide = np.repeat(precisions[:, None], D, axis=1)
    q = ColumnPosterior(found.coefficients, wide, basis, (basis * precisions) @ basis.T)
    return q, float(fitted / sums.trace)
