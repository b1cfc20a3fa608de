"""Steps of a fit by minibatches: q(x) of the rows of a batch, then what all rows share.

Rows stand in one place (:class:`RowSteps`), or in chunks with the workers of a cluster
(:mod:`pm_gplvm.fitting.minibatch_chunks`); the steps are the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import ceil
from operator import add
from typing import Any, Protocol

import numpy as np

from pm_gplvm.core.checks import Array
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
from pm_gplvm.data.rows import Rows
from pm_gplvm.fitting.minibatch_tables import Part, Views
from pm_gplvm.fitting.stochastic import Adam
from pm_gplvm.model.likelihoods import Likelihood
from pm_gplvm.model.likelihoods import Rows as Observed

_TURNS = 25  # steps between two turns of the basis of q(u)
_FARTHEST = 2.0  # of f through a link, at the rows of a batch, in a step of q(u)
_DECAY = 0.7  # power of the number of steps, by which the first steps of q(u) shrink
_LEAST_RATE = 0.02  # of the rates, at the end


@dataclass
class Functions:
    """What a fit moves of a table: q(u), inducing inputs, ln θ, level and the likelihood's parameters."""

    W: Array
    log_theta: dict[str, Array]
    level: Array
    parameters: dict[str, Array]
    posterior: ColumnPosterior

    def copy(self) -> "Functions":
        """Copy what steps change in place."""
        return replace(self, log_theta=dict(self.log_theta), parameters=dict(self.parameters))


@dataclass
class RowState:
    """q(x) = N(mean, diag sd²) of some rows, (n, Q) each, and how much of a damped step each takes, (n,)."""

    mean: Array
    sd: Array
    trust: Array

    @property
    def rows(self) -> tuple[Array, Array, Array]:
        """All three."""
        return self.mean, self.sd, self.trust

    def copy_rows(self, into: "RowState | None" = None) -> "RowState":
        """Copy what steps change in place, into the arrays of an earlier copy if one is given."""
        kept = RowState(*map(np.empty_like, self.rows)) if into is None else into
        for target, values in zip(kept.rows, self.rows, strict=True):
            np.copyto(target, values)
        return kept


@dataclass
class State(RowState):
    """All that a fit moves: q(x) of the rows, the functions of each table, and the parameters of the prior of X."""

    functions: tuple[Functions, ...]
    prior: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """How long the steps are, and how many."""

    batch_size: int
    epochs: float
    learning_rate: float  # of W, ln θ, level and parameters
    natural_rate: float  # of q(u), once the first steps are taken
    row_rate: float  # of the rows' steps by Adam
    local_epochs: float  # passes at first with natural-gradient steps of the rows; then Adam's
    goes_on: bool = False  # from what an earlier fit knows

    def steps(self, n_rows: int) -> int:
        """Tell the number of batches."""
        return max(1, ceil(self.epochs * n_rows / self.batch_size))

    def first_rate(self, likelihood: Likelihood) -> float:
        """Length of the first step of q(u)."""
        # Whole steps would throw away what an earlier fit knows, and go too far from f = 0 where ln p is no parabola.
        if self.goes_on:
            return self.natural_rate
        return 1.0 if likelihood.name == "gaussian" else 0.5


class TableAt:
    """The functions of one table as they stand."""

    def __init__(self, part: Part, functions: Functions, features: Features | None = None) -> None:
        self.part = part
        self.take(functions, features)

    def take(self, functions: Functions, features: Features | None = None) -> None:
        """Stand at these functions; their ``features``, where somebody has made them."""
        self.functions = functions
        if features is None:
            theta = natural_theta(self.part.kernel, functions.log_theta)
            features = Features(self.part.kernel, functions.W, theta, functions.posterior.basis)
        self.features = features

    def terms(
        self,
        rows: Rows,
        observed: Observed,
        q: tuple[Array, Array],
        nodes: Nodes,
        *,
        shared: bool = False,
    ) -> tuple[RowGradient, SharedGradient | None]:
        """Evaluate some rows at the present functions."""
        functions, Q = self.functions, q[0].shape[1]
        if (known := self.part.inputs) is not None:  # their q is a point at each
            C = len(known.columns)
            q = self.part.whole(q[0], rows), np.pad(q[1], ((0, 0), (0, C)))
            nodes = np.pad(nodes[0], ((0, 0), (0, C))), nodes[1]
        own, of_shared = row_terms(
            self.features,
            functions.posterior,
            functions.level,
            self.part.likelihood,
            functions.parameters,
            observed,
            q,
            nodes,
            shared=shared,
        )
        return RowGradient(own.value, own.mean[:, :Q], own.log_sd[:, :Q]), of_shared


def functions_of(tables: Sequence[TableAt]) -> tuple[Functions, ...]:
    """Copy the functions of each table, which its steps change."""
    return tuple(table.functions.copy() for table in tables)


def row_gradient(
    tables: Sequence[TableAt],
    rows: Rows,
    seen: list[Observed],
    q: tuple[Array, Array],
    nodes: Nodes,
) -> RowGradient:
    """Evaluate some rows, all tables together."""
    each = zip(tables, seen, strict=True)
    return reduce(add, [table.terms(rows, own, q, nodes)[0] for table, own in each])


class TableSteps(TableAt):
    """The functions of one table as they stand, and steps of what they have."""

    def __init__(self, part: Part, functions: Functions, schedule: Schedule) -> None:
        super().__init__(part, functions)
        self.schedule = schedule
        shared = {"W": functions.W, "level": functions.level}
        shared |= {f"theta_{n}": functions.log_theta[n] for n in part.theta.free}
        shared |= {f"parameter_{n}": v for n, v in functions.parameters.items()}
        self._adam = {name: Adam(np.shape(value), 0.9) for name, value in shared.items()}

    @property
    def shortest(self) -> float:
        """The shortest lengthscale."""
        return float(np.min(np.exp(self.functions.log_theta.get("lengthscale", 0.0))))

    def step(
        self, found: SharedGradient, X: Array, scale: float, taken: int, length: float
    ) -> None:
        """Take a step with rows that lie about X, counted ``scale`` times, after so many steps."""
        functions, schedule, part = self.functions, self.schedule, self.part
        first = schedule.first_rate(part.likelihood) / (1.0 + taken) ** _DECAY
        rate = max(first, schedule.natural_rate * length)
        by_W, by_theta = self.features.through_factor(found.features)
        functions.posterior = self._shortened(
            functions.posterior.step(found.statistics, scale, rate), X
        )
        if taken < 4 or taken % _TURNS == 0:
            functions.posterior = functions.posterior.turned()
        rate = schedule.learning_rate * length

        def moved(name: str, value: Array, gradient: Any) -> Array:
            return _moved(self._adam[name], value, scale * np.asarray(gradient), rate)

        _, of_theta = part.theta.log_density(functions.log_theta)
        _, of_parameters = part.likelihood.log_prior(functions.parameters)
        if not part.is_linear:
            functions.W = moved("W", functions.W, by_W)
        functions.level = moved("level", functions.level, found.level)
        for name, shape in part.theta.free.items():
            gradient = by_theta[name] if shape else np.sum(by_theta[name])
            value, slope = functions.log_theta[name], gradient + of_theta[name] / scale
            functions.log_theta[name] = moved(f"theta_{name}", value, slope)
        for name, value in functions.parameters.items():
            slope = found.parameters[name] + of_parameters[name] / scale
            functions.parameters[name] = moved(f"parameter_{name}", value, slope)
        self.take(functions)

    def _shortened(self, after: ColumnPosterior, X: Array) -> ColumnPosterior:
        """Let no function move too far at the rows: a Newton step to a count far above its mean would, and exp(f) with it."""
        before = self.functions.posterior.means
        through_links = ~self.part.likelihood.standardised(before.shape[1])
        step = (after.means - before) * through_links
        most = np.sqrt(self.features.prior_variance(X).max() * (step**2).sum(axis=0))
        if (most <= _FARTHEST).all():  # nowhere
            return after
        moved = np.abs(self.features.at(X)[0] @ step).max(axis=0)
        shorter = np.minimum(1.0, _FARTHEST / np.maximum(moved, 1e-300))
        return replace(after, means=np.where(through_links, before + shorter * step, after.means))


# The rows


@dataclass(frozen=True)
class BatchStep:
    """What a step of rows is told beside the functions of the tables."""

    number: int  # of the step, from 1 on
    prior: dict[str, Any]  # parameters of the prior of X, as ``RowSteps.prior`` takes them
    nodes: Nodes
    longest: float
    local: bool  # whether by natural gradients, else by Adam
    rate: float  # of Adam


@dataclass(frozen=True)
class BatchSums:
    """Of some rows after their step: the bound but for KL(q(u)), and gradients in what all rows share.

    ``gradients`` are of each table, ``X`` positions as its kernel takes them, in the order of the rows.
    """

    value: float
    gradients: tuple[SharedGradient, ...]
    of_prior: dict[str, Any]
    X: tuple[Array, ...]

    def __add__(self, other: "BatchSums") -> "BatchSums":
        return BatchSums(
            self.value + other.value,
            tuple(a + b for a, b in zip(self.gradients, other.gradients, strict=True)),
            {name: value + other.of_prior[name] for name, value in self.of_prior.items()},
            tuple(np.concatenate(pair) for pair in zip(self.X, other.X, strict=True)),
        )


class RowSteps:
    """q(x) of rows that stand in one place, and steps of it.

    ``prior`` gives that of some rows by what is told of it.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        prior: Callable[[Rows, Mapping[str, Any]], RowsPrior],
        q: RowState,
        adam: tuple[Adam, Adam] | None = None,
    ) -> None:
        self.parts, self.prior, self.q, self.adam = parts, prior, q, adam

    def step(self, rows: Rows, told: BatchStep, tables: Sequence[TableAt]) -> BatchSums:
        """Move q(x) of some rows, and evaluate them there."""
        found = [self._block_step(block, told, tables) for block in _blocks(rows, told.nodes)]
        return reduce(add, found)

    def _block_step(self, block: Rows, told: BatchStep, tables: Sequence[TableAt]) -> BatchSums:
        state, nodes = self.q, told.nodes
        seen = [part.rows(block) for part in self.parts]
        prior = self.prior(block, told.prior)
        q = state.mean[block], state.sd[block]
        if told.local:

            def evaluate(mean: Array, sd: Array) -> RowGradient:
                return row_gradient(tables, block, seen, (mean, sd), nodes)

            trust = state.trust[block]
            mean, sd, trust, _ = row_steps(evaluate, q, trust, prior, longest=told.longest, steps=2)
            state.mean[block], state.sd[block], state.trust[block] = mean, sd, trust
            q = mean, sd
        own, gradients = [], []
        for table, observed in zip(tables, seen, strict=True):
            of_rows, shared = table.terms(block, observed, q, nodes, shared=True)
            own.append(of_rows)
            gradients += [] if shared is None else [shared]
        of_rows = reduce(add, own)
        value = float((of_rows.value - prior.divergence(*q)).sum())
        of_prior: dict[str, Any] = dict(prior.gradient(*q))
        if not told.local:
            self._adam_step(block, of_rows, q, prior, told.rate)
        X = tuple(part.whole(state.mean[block], block) for part in self.parts)
        return BatchSums(value, tuple(gradients), of_prior, X)

    def _adam_step(
        self, rows: Rows, own: RowGradient, q: Any, prior: RowsPrior, rate: float
    ) -> None:
        """Move q(x) of some rows by Adam, each with averages of its own."""
        state, (mean, sd), spread = self.q, q, prior.spread
        if self.adam is None:
            self.adam = Adam(state.mean.shape, 0.9), Adam(state.sd.shape, 0.9)
        of_mean = own.mean - (mean - prior.towards(mean)) / spread**2
        of_sd = own.log_sd + 1.0 - (sd / spread) ** 2
        state.mean[rows] = mean + rate * self.adam[0](of_mean, rows)
        state.sd[rows] = sd * np.exp(rate * self.adam[1](of_sd, rows))

    def bound(self, rows: Rows, tables: Sequence[TableAt], prior: Mapping[str, Any]) -> float:
        """Sum the bound of some rows, but for KL(q(u)), by accurate nodes."""
        nodes, value = accurate(self.q.mean.shape[1]), 0.0
        for block in _blocks(rows, nodes):
            q = self.q.mean[block], self.q.sd[block]
            seen = [part.rows(block) for part in self.parts]
            own = row_gradient(tables, block, seen, q, nodes)
            value += float((own.value - self.prior(block, prior).divergence(*q)).sum())
        return value


class HeldRows(Protocol):
    """q(x) of all rows, wherever they stand."""

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Go through all rows in random batches."""

    def step(self, rows: Rows, told: BatchStep, tables: Sequence[TableAt]) -> BatchSums:
        """Move q(x) of some rows, and evaluate them there."""

    def bound(
        self, rows: Rows | None, tables: Sequence[TableAt], prior: Mapping[str, Array]
    ) -> float:
        """Sum the bound of some rows, or all, but for KL(q(u))."""

    def keep(self, optimiser: "Optimiser") -> None:
        """Remember how the rows stand now."""

    def restore(self) -> None:
        """Go back there."""

    def state(self) -> RowState:
        """Return q(x) of all rows."""


class RowsHere(RowSteps):
    """Those of a table that one process goes through."""

    def __init__(self, views: Views, q: RowState) -> None:
        super().__init__(views.parts, views.positions.of, q)
        self._table = views.table
        self._kept: RowState | None = None

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Go through all rows in random batches."""
        return self._table.batches(size, rng)

    def bound(
        self, rows: Rows | None, tables: Sequence[TableAt], prior: Mapping[str, Any]
    ) -> float:
        """Sum the bound of some rows, or all, but for KL(q(u))."""
        blocks = self._table.blocks() if rows is None else [rows]
        return sum(super(RowsHere, self).bound(each, tables, prior) for each in blocks)

    def keep(self, optimiser: "Optimiser") -> None:
        """Remember how the rows stand now."""
        self._kept = self.q.copy_rows(self._kept)

    def restore(self) -> None:
        """Go back there."""
        if self._kept is not None:
            self.q = self._kept

    def state(self) -> RowState:
        """Return q(x) of all rows."""
        return self.q


class Optimiser:
    """One run from one start."""

    def __init__(
        self,
        views: Views,
        state: State,
        schedule: Schedule,
        rows: HeldRows,
        *,
        rng: np.random.Generator,
    ) -> None:
        self.views, self.schedule, self.rng = views, schedule, rng
        self.prior = dict(state.prior)
        self.rows = rows
        self.latent_dim = state.mean.shape[1]
        self.nodes = rotated(self.latent_dim, rng)
        self.taken = 0
        pairs = zip(views.parts, state.functions, strict=True)
        self.tables = [TableSteps(part, each.copy(), schedule) for part, each in pairs]
        self._adam = {name: Adam(np.shape(value), 0.9) for name, value in state.prior.items()}
        self.keep()

    @property
    def functions(self) -> tuple[Functions, ...]:
        """Those of each table as they stand; later steps do not change them."""
        return functions_of(self.tables)

    def keep(self) -> None:
        """Remember how all stands now."""
        self._kept = self.functions, dict(self.prior)
        self.rows.keep(self)

    def restore(self) -> None:
        """Go back there."""
        functions, self.prior = self._kept
        for table, each in zip(self.tables, functions, strict=True):
            table.take(each)
        self.rows.restore()

    def state(self) -> State:
        """Return all that was moved."""
        return State(*self.rows.state().rows, self.functions, self.prior)

    @property
    def longest(self) -> float:
        """Longest step of a row's mean: half of the shortest lengthscale."""
        return 0.5 * min(table.shortest for table in self.tables)

    @property
    def divergence(self) -> float:
        """Σ KL(q(u) ‖ p(u)) over the tables."""
        return sum(table.functions.posterior.divergence for table in self.tables)

    def step(self, rows: Rows) -> float:
        """Take one step with a batch of rows; its estimate of the bound, per row."""
        schedule, N = self.schedule, len(self.views)
        done = self.taken / schedule.steps(N)
        length = max(min(1.0, 2.0 * (1.0 - done)), _LEAST_RATE)
        local = self.taken * schedule.batch_size < schedule.local_epochs * N
        self.nodes = rotated(self.latent_dim, self.rng)
        told = BatchStep(
            self.taken + 1,
            dict(self.prior),
            self.nodes,
            self.longest,
            local,
            schedule.row_rate * length,
        )
        found = self.rows.step(rows, told, self.tables)
        estimate = found.value / len(rows) - self.divergence / N
        scale = N / len(rows)
        for table, gradient, X in zip(self.tables, found.gradients, found.X, strict=True):
            table.step(gradient, X, scale, self.taken, length)
        self._prior_step(found.of_prior, scale, length)
        self.taken += 1
        return estimate

    def _prior_step(self, of_prior: Mapping[str, Array], scale: float, length: float) -> None:
        """Move what the prior of X has of its own."""
        rate = self.schedule.learning_rate * length
        _, of_positions = self.views.positions.log_prior(self.prior)
        for name, value in self.prior.items():
            slope = of_prior[name] + of_positions[name] / scale
            self.prior[name] = _moved(self._adam[name], value, scale * np.asarray(slope), rate)

    def bound(self, rows: Rows | None = None) -> float:
        """Bound per row at the present state, by accurate nodes, over all rows or some."""
        n = len(self.views) if rows is None else len(rows)
        return self.rows.bound(rows, self.tables, self.prior) / n - self.divergence / len(
            self.views
        )


def _moved(adam: Adam, value: Array, gradient: Array, rate: float) -> Array:
    return np.asarray(value + rate * adam(gradient))


def _blocks(rows: Rows, nodes: Nodes) -> Iterator[Rows]:
    size = block_of_rows(len(nodes[1]))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
