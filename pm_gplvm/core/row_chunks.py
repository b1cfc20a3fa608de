"""The collapsed bound of a table in chunks of rows: what is done where the rows are.

Of the rows the bound needs sums only: Ψ₀, Ψ₁ᵀF, Ψ₂, tr FFᵀ, and what the prior of X adds (Gal, van der Wilk
& Rasmussen 2014; Dai et al. 2014). Rows have a q(x) each, or a position (:class:`GaussianRows`, :class:`PointRows`).
One task for each chunk gives them, another the chunk's part of the gradient. The rows' own parameters and their
gradients, of the last evaluations, stay where the rows are: of an optimiser's vectors only inner products are told.

A task depends on nothing that was left by another but files. A process that does not hold a chunk reads it, so that one
that has died is replaced by any other, with the same numbers.
"""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.psi import CLOSED_FORM, ONE_NODE, Quadrature, cubature
from pm_gplvm.core.uncollapsed import GatheredRows, NormalRows, RowsPrior, log_densities

LOG_SD_STEP = 2.0
"""Unit in which ln sd of q(x) is moved, as in :func:`pm_gplvm.fitting.variational.induced_coordinates`."""


class RowKind(Protocol):
    """What is known of the positions of rows, and how it stands in an optimiser's vector."""

    def quadrature(self, kernel: str, Q: int) -> Quadrature | None:
        """Rule by which the statistics are taken, None in closed form."""

    def first(self, X: Array, sd: Array, unit: Array) -> Array:
        """Vector of positions and sds in units of X."""

    def read(self, point: Array) -> tuple[Array, Array]:
        """Positions and sds (n, Q) in lengthscales."""

    def joined(self, of_mean: Array, of_log_sd: Array) -> Array:
        """Slopes along the vector."""

    def log_prior(self, prior: RowsPrior, X: Array, sd: Array) -> float:
        """Tell what the prior of X adds to the objective."""

    def of_log_sd(self, sd: Array, spread: Any) -> Array:
        """Its slope in ln sd."""


class GaussianRows:
    """q(x) = N(m, diag s²): m and ln s / :data:`LOG_SD_STEP`, (n, 2 Q)."""

    def quadrature(self, kernel: str, Q: int) -> Quadrature | None:
        """Rule by which the statistics are taken, None in closed form."""
        return None if kernel in CLOSED_FORM else cubature(Q)

    def first(self, X: Array, sd: Array, unit: Array) -> Array:
        """Vector of means and sds in units of X."""
        return np.hstack([X / unit, np.log(sd / unit) / LOG_SD_STEP])

    def read(self, point: Array) -> tuple[Array, Array]:
        """Means and sds (n, Q) in lengthscales."""
        mean, log_sd = np.split(point, 2, axis=1)
        return mean, np.exp(LOG_SD_STEP * log_sd)

    def joined(self, of_mean: Array, of_log_sd: Array) -> Array:
        """Slopes along the vector."""
        return np.hstack([of_mean, LOG_SD_STEP * of_log_sd])

    def log_prior(self, prior: RowsPrior, X: Array, sd: Array) -> float:
        """-KL(q(X) ‖ p(X))."""
        return -float(prior.divergence(X, sd).sum())

    def of_log_sd(self, sd: Array, spread: Any) -> Array:
        """Its slope in ln sd."""
        return np.asarray(1.0 - (sd / spread) ** 2)


class PointRows:
    """Positions that are known, (n, Q)."""

    def quadrature(self, kernel: str, Q: int) -> Quadrature | None:
        """One node, the position."""
        return ONE_NODE

    def first(self, X: Array, sd: Array, unit: Array) -> Array:
        """Vector of positions in units of X."""
        return np.asarray(X / unit)

    def read(self, point: Array) -> tuple[Array, Array]:
        """Positions in lengthscales, and sds of 0."""
        return point, np.zeros_like(point)

    def joined(self, of_mean: Array, of_log_sd: Array) -> Array:
        """Slopes along the vector."""
        return of_mean

    def log_prior(self, prior: RowsPrior, X: Array, sd: Array) -> float:
        """Ln p(X)."""
        return float(log_densities(prior, X).sum())

    def of_log_sd(self, sd: Array, spread: Any) -> Array:
        """None, as sds do not move."""
        return sd


class Reader(Protocol):
    """A table that gives some of its rows."""

    def read(self, start: int, stop: int) -> Array:
        """Rows from ``start`` up to ``stop``, NaN where an entry is missing."""


def write_arrays(target: Path, values: Any) -> None:
    """Write an array, or several by name, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{uuid.uuid4().hex}.part")
    with part.open("wb") as stream:
        if isinstance(values, dict):
            np.savez(stream, **values)
        else:
            np.save(stream, values)
    os.replace(part, target)


def prior_file(folder: str | Path, index: int) -> Path:
    """Where that stands which the prior of X says of each row of a chunk; it is missing where all rows are alike."""
    return Path(folder) / "prior" / f"{index:06}.npz"


def prior_by_row(folder: str | Path, index: int) -> dict[str, Array]:
    """Read it, nothing where all rows are alike."""
    file = prior_file(folder, index)
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


class Chunks:
    """A job that is done in chunks of rows: what all tasks are told once, under a name."""

    bounds: tuple[int, ...]  # where chunks begin, and the end
    key: str

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return len(self.bounds) - 1

    def rows(self, index: int) -> slice:
        """Rows of a chunk."""
        return slice(*self.bounds[index : index + 2])

    def where(self, index: int) -> str:
        """Say which rows a chunk has."""
        rows = self.rows(index)
        return f"chunk {index} (rows {rows.start} to {rows.stop - 1})"

    def read_from(self, table: Reader, index: int, width: int | None) -> Array:
        """Read a chunk of a table, of the width that is known, or ValueError."""
        rows = self.rows(index)
        found = np.asarray(table.read(rows.start, rows.stop), dtype=np.float64)
        if len(found) != rows.stop - rows.start or width not in (None, found.shape[1]):
            raise ValueError(
                f"Y must have the shape it says, got {found.shape} in {self.where(index)} for "
                f"{(rows.stop - rows.start, width)}. Write the table anew."
            )
        return found


@dataclass(frozen=True)
class Job(Chunks):
    """What all tasks of a fit are told once: where the rows are, and where the state of chunks is written."""

    table: Reader
    bounds: tuple[int, ...]
    folder: str
    kernel: str
    latent_dim: int
    kind: RowKind
    prior: type[NormalRows] | type[GatheredRows] = NormalRows
    keeps: bool = True  # whether each evaluation is written down, for others to take it up
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def read(self, index: int, width: int | None = None) -> Array:
        """Read a chunk, complete, of the width that is known, or ValueError."""
        rows, where = self.rows(index), self.where(index)
        found = self.read_from(self.table, index, width)
        if not np.isfinite(found).all():
            n, d = (int(i) for i in np.argwhere(~np.isfinite(found))[0])
            raise ValueError(
                f"Y must have all entries here, got {found[n, d]} in {where}, first at row {rows.start + n}, column "
                f"{d}. Fill or drop them, or take fit_svi, which knows what was not measured."
            )
        return found

    def file(self, index: int, number: int) -> Path:
        """Where the points and slopes of an evaluation are written."""
        return Path(self.folder) / f"chunk-{index:06}" / f"{number:08}.npy"

    def save(self, index: int, number: int, values: Array) -> None:
        """Write them, whole or not at all."""
        write_arrays(self.file(index, number), values)

    def load(self, index: int, number: int) -> Array:
        """Read them: (1 or 2, n, 2 Q), or Q of points."""
        return np.asarray(np.load(self.file(index, number), allow_pickle=False))


# An optimiser's vectors by inner products


@dataclass(frozen=True)
class Step:
    """A point from which a direction is gone along, that direction by earlier points, and how far.

    ``pairs`` are evaluations (from, to) whose difference is a step of the optimiser, ``weights`` (2 h + 1,) those
    of the steps, of the changes of the gradient and of the gradient in the direction. At the length 0 nothing but
    the point is needed.
    """

    number: int  # of the evaluation that is made there
    current: int
    pairs: tuple[tuple[int, int], ...] = ()
    weights: tuple[float, ...] = (0.0,)
    length: float = 0.0

    @property
    def needed(self) -> set[int]:
        """Evaluations that it is made of."""
        return {self.current, *(i for pair in self.pairs for i in pair)}


class Iterates:
    """Points of one part of a vector, and the gradients there, by the number of the evaluation."""

    def __init__(self) -> None:
        self.points: dict[int, Array] = {}
        self.slopes: dict[int, Array] = {}

    def keep(self, numbers: set[int]) -> None:
        """Forget all others."""
        for kept in (self.points, self.slopes):
            for number in kept.keys() - numbers:
                del kept[number]

    def moved(self, step: Step) -> Array:
        """Go along the direction."""
        if not step.length:
            return self.points[step.current].copy()
        h = len(step.pairs)
        along = step.weights[-1] * self.slopes[step.current]
        for i, (a, b) in enumerate(step.pairs):
            along += step.weights[i] * (self.points[b] - self.points[a])
            along += step.weights[h + i] * (self.slopes[b] - self.slopes[a])
        return np.asarray(self.points[step.current] + step.length * along)

    def products(self, step: Step, point: Array, slope: Array) -> Array:
        """Inner products (3, 2 h + 3) of the new step, change and gradient with the earlier steps and changes and themselves.

        Of the first evaluation of all the step and the change are 0.
        """
        known = step.current in self.slopes
        s = point - self.points[step.current]
        y = slope - self.slopes[step.current] if known else np.zeros_like(slope)
        new = np.stack([v.ravel() for v in (s, y, slope)])
        columns = np.empty((3, 2 * len(step.pairs) + 3))
        for i, (a, b) in enumerate(step.pairs):
            columns[:, i] = new @ (self.points[b] - self.points[a]).ravel()
            columns[:, len(step.pairs) + i] = new @ (self.slopes[b] - self.slopes[a]).ravel()
        columns[:, -3:] = new @ new.T
        return columns


# The bound


@dataclass(frozen=True)
class Place:
    """Where the chunks are evaluated: the step of their rows, and what all rows share."""

    step: Step
    W: Array  # in lengthscales, as rows' means and sds are moved
    lengthscale: Array  # (Q,)
    amplitude: float
    bias: float
    ratio: Array | None
    centre: Array
    scale: Array
    prior: dict[str, Any]  # what the prior of X says of all rows

    def kernel(self, name: str, mean: Array, sd: Array, kind: RowKind) -> InducingKernel:
        """Statistics of some rows; of none they give what K alone does."""
        # Nothing but psi1 is kept for the gradient: many chunks wait for it at once.
        settings = {"workspace": np.empty((0, 0)), "ratio": self.ratio}
        quadrature = kind.quadrature(name, mean.shape[1])
        positions = mean, sd, self.W
        return InducingKernel(
            name, positions, self.amplitude, self.bias, quadrature=quadrature, **settings
        )


class Added:
    """What chunks give, added up field by field."""

    def __add__[T](self: T, other: T) -> T:
        return type(self)(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


@dataclass(frozen=True)
class Sums(Added):
    """Of some rows: number, tr FFᵀ, Ψ₀, Ψ₁ᵀF (M, D), Ψ₂ (M, M), and what the prior of X adds to the objective."""

    n_rows: int
    trace: float
    psi0: float
    P: Array
    psi2: Array
    log_prior: float


@dataclass(frozen=True)
class Slopes:
    """What the bound's derivatives in the sums are, at a place."""

    place: Place
    dpsi0: float
    dP: Array
    dpsi2: Array


@dataclass(frozen=True)
class SharedSlope(Added):
    """A chunk's part of the gradient in what all rows share, and of the optimiser's inner products."""

    W: Array
    amplitude: float
    bias: float
    ratio: Array | float
    unit: Array  # in ln lengthscale, of the prior of X
    prior: Array  # in the parameters of that prior, one after the other
    products: Array


class Chunk:
    """Rows that a process holds, with what an optimiser remembers of them."""

    def __init__(self, job: Job, index: int) -> None:
        self.job, self.index = job, index
        self.iterates = Iterates()
        self._evaluated: tuple[int, Array, InducingKernel] | None = None

    @cached_property
    def Y(self) -> Array:
        """The rows in the user's units."""
        return self.job.read(self.index)

    @cached_property
    def _prior_by_row(self) -> dict[str, Array]:
        return prior_by_row(self.job.folder, self.index)

    def prior(self, place: Place) -> RowsPrior:
        """Prior of the rows' positions."""
        return self.job.prior(**self._prior_by_row, **place.prior)

    def of_width(self, width: int) -> Array:
        """Return the rows, or raise ValueError if they have another width."""
        if self.Y.shape[1] != width:
            self.job.read(self.index, width)  # which says so
        return self.Y

    def F(self, place: Place) -> Array:
        """Standardise the rows."""
        return (self.of_width(len(place.centre)) - place.centre) / place.scale

    def at(self, place: Place) -> tuple[Array, InducingKernel]:
        """Vector of the rows at a place, and their statistics, from memory or anew."""
        step, kind = place.step, self.job.kind
        if self._evaluated is None or self._evaluated[0] != step.number:
            for number in step.needed - self.iterates.points.keys():
                found = self.job.load(self.index, number)
                self.iterates.points[number] = found[0]
                if len(found) > 1:
                    self.iterates.slopes[number] = found[1]
            self.iterates.keep(step.needed)
            self._tidy(min(step.needed))
            point = self.iterates.moved(step)
            kernel = place.kernel(self.job.kernel, *kind.read(point), kind)
            self._evaluated = step.number, point, kernel
        return self._evaluated[1:]

    def _tidy(self, oldest: int) -> None:
        """Delete files that nobody will ask for, and none that a process which is late might not know of."""
        folder = self.job.file(self.index, 0).parent
        for file in folder.glob("*.npy"):
            if int(file.stem) < oldest:
                with suppress(FileNotFoundError):
                    file.unlink()


_HELD: dict[str, dict[int, Any]] = {}  # by the key of the job


def held_by[C: Chunks, T](job: C, index: int, begun: Callable[[C, int], T]) -> T:
    """Return the chunk that this process holds, or begin to hold it."""
    chunks = _HELD.setdefault(job.key, {})
    if index not in chunks:
        chunks[index] = begun(job, index)
    found: T = chunks[index]
    return found


def all_held(key: str) -> list[Any]:
    """Return the chunks of a job that this process holds."""
    return list(_HELD.get(key, {}).values())


def held(job: Job, index: int) -> Chunk:
    """Return the chunk that this process holds, or begin to hold it."""
    return held_by(job, index, Chunk)


def forget(key: str) -> None:
    """Let a job's chunks go."""
    _HELD.pop(key, None)


# Tasks: of a job, the number of a chunk, and what all chunks are told


def statistics(job: Job, index: int, place: Place) -> Sums:
    """Sum up a chunk at a place."""
    chunk = held(job, index)
    F, (_, kernel) = chunk.F(place), chunk.at(place)
    P, (mean, sd, _) = kernel.cross_sums(F), kernel.positions
    unit = place.lengthscale
    log_prior = job.kind.log_prior(chunk.prior(place), mean * unit, sd * unit)
    return Sums(len(F), float(np.vdot(F, F)), kernel.psi0, P, kernel.psi2, log_prior)


def gradient(job: Job, index: int, asked: Slopes) -> SharedSlope:
    """Differentiate the negative objective at a chunk's rows, keep that, and return its part of the shared gradient."""
    chunk, place = held(job, index), asked.place
    F, (point, kernel) = chunk.F(place), chunk.at(place)
    none = np.zeros_like(asked.dpsi2)
    dU, dS, dW, damplitude, dbias, along = kernel.pullback(
        F, none, asked.dpsi0, asked.dP, asked.dpsi2
    )
    mean, sd, _ = kernel.positions
    unit, prior = place.lengthscale, chunk.prior(place)
    X, spread = mean * unit, sd * unit
    of_X = -(X - prior.towards(X)) / prior.spread**2 * unit
    of_log_sd = job.kind.of_log_sd(spread, prior.spread)
    slope = -job.kind.joined(dU + of_X, sd * dS + of_log_sd)
    of_prior = [np.ravel(v) for v in prior.gradient(X, spread).values()]
    products = chunk.iterates.products(place.step, point, slope)
    number = place.step.number
    if job.keeps:
        job.save(index, number, np.stack([point, slope]))
    chunk.iterates.points[number], chunk.iterates.slopes[number] = point, slope
    return SharedSlope(
        dW,
        damplitude,
        dbias,
        along[0] if along else 0.0,
        (mean * of_X + of_log_sd).sum(axis=0),
        np.concatenate([*of_prior, np.empty(0)]),
        products,
    )


@dataclass(frozen=True)
class Moments:
    """Number of rows, mean (D,) and centred sums of squares of some columns: (D, D) or (D,)."""

    n_rows: int
    mean: Array
    squares: Array

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n_rows + other.n_rows
        gap, share = other.mean - self.mean, other.n_rows / n
        outer = np.outer(gap, gap) if self.squares.ndim == 2 else gap**2
        return Moments(
            n, self.mean + share * gap, self.squares + other.squares + self.n_rows * share * outer
        )


def moments(job: Job, index: int, told: tuple[int, bool]) -> Moments:
    """Look through a chunk of a table of a known width: is it complete, and its moments."""
    width, whole = told
    Y = held(job, index).of_width(width)
    mean = Y.mean(axis=0)
    away = Y - mean
    return Moments(len(Y), mean, away.T @ away if whole else (away**2).sum(axis=0))


@dataclass(frozen=True)
class Beginning:
    """How the first positions are found: along axes (Q, D) of the table, or at random where an axis is empty."""

    axes: Array
    centre: Array
    spread: Array
    empty: NDArray[np.bool_]
    seed: int
    chosen: NDArray[np.intp]  # rows whose positions are told


@dataclass(frozen=True)
class Placed:
    """Lowest and highest coordinates (Q,), and positions of the chosen rows."""

    low: Array
    high: Array
    chosen: Array

    def __add__(self, other: "Placed") -> "Placed":
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Placed(low, high, np.concatenate([self.chosen, other.chosen]))


def first_positions(job: Job, index: int, told: Beginning) -> Placed:
    """Place the rows of a chunk by the table's axes, and keep that as evaluation -1 would be: in units of X."""
    rows = job.rows(index)
    chunk = held(job, index)
    X = (chunk.Y - told.centre) @ told.axes.T / told.spread
    rng = np.random.default_rng([told.seed, index])
    drawn = rng.standard_normal(X.shape)
    X[:, told.empty] = drawn[:, told.empty]
    job.save(index, 0, X[None])
    return _placed(X, rows, told.chosen)


def given_positions(
    job: Job, index: int, told: tuple[Array, Array | None, NDArray[np.intp]]
) -> Placed:
    """Place the rows of a chunk where a user wants them, and with the sds of an earlier fit if they are given."""
    X, sd, chosen = told
    rows = job.rows(index)
    job.save(index, 0, np.stack([v[rows] for v in (X, sd) if v is not None]))
    return _placed(X[rows], rows, chosen)


def _placed(X: Array, rows: slice, chosen: NDArray[np.intp]) -> Placed:
    own = chosen[(chosen >= rows.start) & (chosen < rows.stop)]
    return Placed(X.min(axis=0), X.max(axis=0), X[own - rows.start])


def begin(job: Job, index: int, told: tuple[Array, Array]) -> int:
    """Make the optimiser's first points, in lengthscales, of the first positions and sds, or one sd for all."""
    lengthscale, usual = told
    X, *given = job.load(index, 0)
    sd = given[0] if given else np.broadcast_to(usual, X.shape)
    job.save(index, 1, job.kind.first(X, sd, lengthscale)[None])
    return 0


def points(job: Job, index: int, number: int) -> Array:
    """Return the vector of the rows at an evaluation."""
    kept = held(job, index).iterates.points
    return kept[number] if number in kept else job.load(index, number)[0]
