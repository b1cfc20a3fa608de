"""The sampler of X and θ: HMC, Gibbs updates of rows and parallel tempering, in turn."""

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from pm_gplvm.core.blas import usable_cores
from pm_gplvm.core.checks import Array
from pm_gplvm.core.fused import Columns
from pm_gplvm.core.kernels import KERNELS, is_known
from pm_gplvm.core.row_moves import Proposal, RowUpdates, TableAt, Theta
from pm_gplvm.core.trajectories import densities, move, score_rows, update_rows
from pm_gplvm.model.compile import Backend
from pm_gplvm.model.density import (
    Ensemble,
    Evaluation,
    RowPrior,
    compile_ensemble,
    compile_row_prior,
)
from pm_gplvm.model.native import Native, compile_native
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.sampling.transitions import StepSizes, adapted_schedule, hmc_transition, swap

STEPS = (8, 30)
"""Fewest and most leapfrog steps of an HMC transition."""

_STEPS_FLAT, _FLAT = (20, 60), 0.6  # those of a replica below this power, which are long

BACKENDS = ("auto", "numba", "python")
_WORTH = 2000  # iterations of all chains that save what compiling them takes
_BLOCKS = (2, 4)  # fewest and most rows of a block update
_STREAMS = 16  # most streams of random numbers: compiled iterations share them by chains
_CACHE = 2**18  # numbers in one array of proposals: states are taken in parts of this size


@dataclass(frozen=True)
class SampledTable:
    """A table of the model that is sampled.

    F (N, D) is standardised, NaN where missing. ``names`` are those of θ in the model, ``fixed`` what of it is
    held at a number, and ``floor`` is noise besides sigma.
    """

    kernel: str
    F: Array
    log_scales: Array  # (D,)
    names: dict[str, str]
    fixed: dict[str, Array]
    floor: float = 0.0
    inputs: Array | None = None  # what is known of the rows beside X, (N, P)

    @classmethod
    def of(cls, spec: ModelSpec) -> "SampledTable":
        """Read a model of one table, or a part of one of several."""
        if not is_known(spec.kernel):
            raise ValueError(
                f"sample knows the kernels {', '.join(KERNELS)} and those of gplvm.kernels, got a covariance of another kind. "
                "Sample such a model with pm.sample, and compare its chains with gplvm.diagnose."
            )
        spec.table.require_shared(caller="sample")
        if not spec.table.standardisable:
            raise ValueError(
                "sample needs the mean and scale of the table to be data, got random variables."
            )
        names = {name: spec.own(name) for name in spec.theta}
        logs, beside = np.log(spec.table.scale), spec.inputs
        known = None if beside is None else beside.values
        return cls(spec.kernel, spec.table.F, logs, names, spec.fixed, spec.floor, known)

    @property
    def unexplained(self) -> float:
        """Log-likelihood where noise of the table's own size has all of it."""
        n, square = int(np.isfinite(self.F).sum()), np.nanmean(self.F**2)
        return float(-0.5 * n * (np.log(2.0 * np.pi * square) + 1.0) - self.log_units.sum())

    @cached_property
    def log_units(self) -> Array:
        """What units take from the log-density of each row, (N,)."""
        return ~np.isnan(self.F) @ self.log_scales

    def theta(self, draws: Mapping[str, Array], n_states: int) -> tuple[Theta, Array]:
        """Read off the kernel at the states and its lengthscales, (R, 1, 1) or (R, 1, Q)."""
        fixed = {n: np.broadcast_to(v, (n_states, *v.shape)) for n, v in self.fixed.items()}
        free = {name: draws[own] for name, own in self.names.items() if own in draws}
        return Theta.of(self.kernel, {**fixed, **free}, n_states, self.floor)


@dataclass(frozen=True)
class Posterior:
    """A model compiled for the sampler.

    F (N, D) are all tables side by side, standardised, NaN where missing. ``row_prior`` is None where X is not a
    free variable. With ``native`` whole iterations are compiled, without it they are NumPy calls.
    """

    ensemble: Ensemble
    kernel: str
    F: Array
    tables: tuple[SampledTable, ...]
    row_prior: RowPrior | None
    native: Native | None = None

    @property
    def backend(self) -> str:
        """What an iteration is made of."""
        return "python" if self.native is None else "numba"

    @cached_property
    def columns(self) -> Columns:
        """The table as compiled code has it."""
        (table,) = self.tables
        return Columns.of(table.F, table.kernel, table.log_scales)

    @cached_property
    def proposal(self) -> Proposal:
        """Where a row is proposed."""
        return Proposal(self.F)

    @property
    def unexplained(self) -> float:
        """Log-likelihood where noise of the tables' own size has all of it."""
        return sum(table.unexplained for table in self.tables)

    def __call__(self, states: Array) -> Evaluation:
        """Evaluate at states (R, P); compiled iterations compute gradients of their own."""
        if self.native is None:
            return self.ensemble(states)
        known = np.empty((2, len(states)))
        densities(self.columns, self.native.addresses, states, known)
        return _without_gradient(known)

    def placed(self, draws: Mapping[str, Array], n_states: int) -> tuple[list[TableAt], Array]:
        """Give the tables at the states, and the unit of positions: the geometric mean of their lengthscales."""
        found = [table.theta(draws, n_states) for table in self.tables]
        if len(found) == 1:
            ((theta, unit),) = found
            table = self.tables[0]
            return [TableAt(theta, table.F, inputs=table.inputs)], unit
        unit = np.exp(sum(np.log(length) for _, length in found) / len(found))
        tables = zip(self.tables, found, strict=True)
        return [TableAt(theta, table.F, unit / length) for table, (theta, length) in tables], unit


def _without_gradient(known: Array) -> Evaluation:
    none = np.empty((known.shape[1], 0))
    return Evaluation(known[0], known[1], none, none)


def chosen_backend(backend: str, iterations: int) -> Backend:
    """Check and choose what iterations are made of, for so many of all chains."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if backend == "auto":
        return "numba" if iterations >= _WORTH else "python"
    return "numba" if backend == "numba" else "python"


def threads_of(cores: int | None, chains: int) -> int:
    """Choose in how many threads chains run."""
    return min(usable_cores() if cores is None else cores, chains, _STREAMS)


def compile_posterior(model: pm.Model, backend: Backend = "python") -> Posterior:
    """Compile a model for the sampler, if its kernel is in the table and its data are fixed.

    A prior that numba cannot compile has the NumPy calls of "python".
    """
    spec = ModelSpec.of(model, views=True)
    tables = tuple(SampledTable.of(part) for part in spec.parts)
    ensemble = compile_ensemble(spec)
    row_prior = compile_row_prior(spec) if ensemble.X is not None else None
    # The loops know one table, and the named kernels.
    fused = backend == "numba" and spec.kernel in KERNELS and not spec.views
    native = _native(spec) if fused else None
    return Posterior(ensemble, spec.kernel, spec.table.F, tables, row_prior, native)


def _native(spec: ModelSpec) -> Native | None:
    """Compile a model for the loops, None if its priors cannot be."""
    try:
        with warnings.catch_warnings():
            # What PyTensor would leave to the interpreter is no faster than NumPy's calls.
            warnings.filterwarnings("error", message="Numba will use object mode")
            return compile_native(spec)
    except (NotImplementedError, NumbaError, UserWarning):
        return None


@dataclass
class Iteration:
    """What one iteration did, at each of C chains and K temperatures."""

    acceptance: Array  # of HMC, (C, K)
    diverged: NDArray[np.bool_]  # (C, K)
    moved: Array  # share of the updated rows that found another position, (C, K)
    swapped: Array  # acceptance of the swaps, (K - 1,)
    n_steps: int
    fresh: NDArray[np.int64]  # replicas that came down from the flattest, (C,)


def row_updates(
    posterior: Posterior, states: Array, betas: Array, rng: np.random.Generator
) -> tuple[RowUpdates, Array] | None:
    """Set up updates of rows at states (R, P), and the unit in which Z stands in them.

    None where rounding makes a K singular.
    """
    ensemble, prior = posterior.ensemble, posterior.row_prior
    assert prior is not None
    values = ensemble.outward(states)
    tables, unit = posterior.placed(ensemble.draws(states), len(states))
    Z = values[str(ensemble.X)] / unit

    def log_prior(n: int, C: Array) -> Array:
        if not prior.factorises:  # it looks at where the other rows are by now
            values[str(ensemble.X)] = Z * unit
        return np.asarray(prior(n, C * unit, list(values.values())))

    try:
        updates = RowUpdates(Z, tables, betas, log_prior, posterior.proposal, rng)
    except np.linalg.LinAlgError:
        return None
    return updates, _of_states(ensemble, values, unit, len(tables))


def _of_states(
    ensemble: Ensemble, values: Mapping[str, Array], unit: Array, n_tables: int
) -> Array:
    """Divide the unit of Z by that of positions in the states."""
    if len(ensemble.lengthscales) == n_tables:
        return np.ones_like(unit)  # it is the same
    if not ensemble.lengthscales:
        return unit
    return np.asarray(unit / np.exp(ensemble.log_unit(values)).reshape(len(unit), 1, -1))


def leave_rows_out(
    posterior: Posterior, states: Array, n_proposals: int, rng: np.random.Generator
) -> Array:
    """Compute ln p(row given the others and θ) at states (S, P), its position integrated out: (S, N).

    In units of the table. NaN where a K is singular. The integral is over ``n_proposals`` positions, by
    importance sampling with the proposal of the row updates.
    """
    units = sum(table.log_units for table in posterior.tables)
    scores = np.full((len(states), len(posterior.F)), np.nan)
    if posterior.native is not None:
        model = posterior.native.addresses
        table, beside = posterior.columns, posterior.proposal.beside
        score_rows(table, model, states.copy(), n_proposals, beside, rng, scores)
        return scores - units
    for i, state in enumerate(states):
        found = row_updates(posterior, state[None].copy(), np.ones(1), rng)
        if found is not None:
            scores[i] = found[0].score(n_proposals)[0]
    return scores - units


Snapshot = tuple[Array, Evaluation, NDArray[np.bool_], Mapping[str, Any]]


class Replicas:
    """C chains of K replicas each, from states (C, K, P), powers beta (K,) and step sizes (K,).

    ``n_proposals`` is the number of positions proposed to a row at a time. Compiled iterations of the chains
    run in as many threads as ``cores``, with the same numbers whatever it is.
    """

    def __init__(
        self,
        posterior: Posterior,
        states: Array,
        beta: Array,
        step_size: Array,
        *,
        n_proposals: int,
        rng: np.random.Generator,
        cores: int = 1,
    ) -> None:
        self.posterior, self.beta, self.n_proposals, self.rng = posterior, beta, n_proposals, rng
        self.steps = StepSizes(step_size)
        self.chains, self.cores = len(states), cores
        # The threads end with the sampler.
        self._each: Any = map if cores == 1 else ThreadPoolExecutor(cores).map
        self.states = states.reshape(-1, states.shape[-1]).copy()
        self.known = posterior(self.states)
        self.from_hot = np.zeros(len(self.states), dtype=bool)

    @property
    def _betas(self) -> Array:
        return np.tile(self.beta, self.chains)

    def by_chain(self, values: NDArray[Any]) -> NDArray[Any]:
        """Reshape values (C · K, ...) to (C, K, ...)."""
        return values.reshape(self.chains, len(self.beta), *values.shape[1:])

    @property
    def n_rows(self) -> int:
        """Rows updated in one iteration: about twice the arithmetic of the trajectory, N at most."""
        N = len(self.posterior.F)
        trajectory = np.mean(STEPS) * (N**3 + 50 * N**2)
        row = self.n_proposals * (2 * N**2 + 50 * N)
        return int(np.clip(np.ceil(2.0 * trajectory / row), 1, N))

    def iterate(self, *, tuning: bool = False) -> Iteration:
        """HMC, updates of rows, swaps."""
        n_steps = self._trajectory_lengths()
        step_size = np.tile(self.steps.values, self.chains) * self.rng.uniform(
            0.8, 1.2, len(self.states)
        )
        moving = self._move if self.posterior.native is None else self._move_compiled
        acceptance, diverged, moved = moving(step_size, n_steps)
        if tuning:
            self.steps.learn(self.by_chain(acceptance).mean(axis=0))
        order, swapped = swap(self.by_chain(self.known.log_likelihood), self.beta, self.rng)
        flat = (order + len(self.beta) * np.arange(self.chains)[:, None]).ravel()
        self._reorder(flat)
        return Iteration(
            acceptance=self.by_chain(acceptance),
            diverged=self.by_chain(diverged),
            moved=self.by_chain(moved),
            swapped=swapped,
            n_steps=int(n_steps[0]),
            fresh=self._arrivals(),
        )

    def _reorder(self, flat: NDArray[np.int64]) -> None:
        self.states, self.known = self.states[flat], self.known.take(flat)
        self.from_hot = self.from_hot[flat]

    def _arrivals(self) -> NDArray[np.int64]:
        """Count the replicas that are at β = 1 and have been at the flattest since they were last there."""
        from_hot = self.by_chain(self.from_hot).copy()
        if len(self.beta) > 1:
            from_hot[:, -1] = True
        fresh = from_hot[:, 0].astype(np.int64)
        from_hot[:, 0] = False
        self.from_hot = from_hot.ravel()
        return fresh

    def _trajectory_lengths(self) -> NDArray[np.int64]:
        """Draw the number of leapfrog steps of each state, (C · K,): one of the cold, one of the flat."""
        cold, flat = (int(self.rng.integers(few, most + 1)) for few, most in (STEPS, _STEPS_FLAT))
        tempered = len(self.beta) > 1
        return np.where(tempered & (self._betas < _FLAT), flat, cold)

    def _move(
        self, step_size: Array, n_steps: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_], Array]:
        """HMC and updates of rows, in NumPy: acceptance, divergence, share of rows moved, (C · K,) each."""
        acceptance, diverged = np.empty(len(self.states)), np.zeros(len(self.states), dtype=bool)
        for length in np.unique(n_steps):
            some = np.flatnonzero(n_steps == length)
            states, known = self.states[some], self.known.take(some)
            acceptance[some], diverged[some] = hmc_transition(
                self.posterior.ensemble,
                states,
                known,
                self._betas[some],
                step_size[some],
                int(length),
                self.rng,
            )
            self.states[some] = states
            self.known.put(some, known)
        return acceptance, diverged, self._update_rows()

    def _move_compiled(
        self, step_size: Array, n_steps: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_], Array]:
        """As :meth:`_move`, compiled."""
        posterior, native = self.posterior, self.posterior.native
        assert native is not None
        N, R = len(posterior.F), len(self.states)
        rows = self.rng.permutation(N)[: self.n_rows]
        n_blocks = max(self.n_rows // 10, 1) if native.factorises and _BLOCKS[1] < N else 0
        blocks = np.full((n_blocks, _BLOCKS[1]), -1)
        for block in blocks:
            size = int(self.rng.integers(_BLOCKS[0], _BLOCKS[1] + 1))
            block[:size] = posterior.proposal.block(size, self.rng)
        acceptance, moved, diverged = np.empty(R), np.zeros(R), np.zeros(R, dtype=bool)
        known = np.empty((2, R))
        table, model, betas = posterior.columns, native.addresses, self._betas
        steps, beside = step_size[:, None] * native.units, posterior.proposal.beside
        # Each part has a stream of its own, so that it does not matter when the others have theirs.
        parts = np.array_split(np.arange(R).reshape(self.chains, -1), min(self.chains, _STREAMS))
        seeds = self.rng.integers(2**63, size=len(parts))

        def iterate(part: NDArray[np.int64], seed: int) -> None:
            some, rng = slice(part[0, 0], part[-1, -1] + 1), np.random.default_rng(seed)
            states, beta = self.states[some], betas[some]
            lengths, accepted, left = n_steps[some], acceptance[some], diverged[some]
            move(table, model, states, beta, steps[some], lengths, rng, accepted, left)
            if posterior.row_prior is not None:
                n, share = self.n_proposals, moved[some]
                update_rows(table, model, states, beta, rows, blocks, n, beside, rng, share)
            densities(table, model, states, known[:, some])

        list(self._each(iterate, parts, seeds))
        self.known = _without_gradient(known)
        return acceptance, diverged, moved

    def _update_rows(self) -> Array:
        """Update rows at every state; the share of them that moved, shape (C · K,)."""
        moved = np.zeros(len(self.states))
        if self.posterior.row_prior is None:
            return moved
        N = len(self.posterior.F)
        part = max(_CACHE // (N * max(self.n_proposals, N)), 1)
        for start in range(0, len(self.states), part):
            some = slice(start, start + part)
            moved[some] = self._update_rows_of(some)
        self.known = self.posterior.ensemble(self.states)
        return moved

    def _update_rows_of(self, some: slice) -> Array:
        posterior, states = self.posterior, self.states[some]
        found = row_updates(posterior, states, self._betas[some], self.rng)
        if found is None:
            return np.zeros(len(states))
        updates, unit = found
        N = len(posterior.F)
        share = updates.sweep(self.rng.permutation(N)[: self.n_rows], self.n_proposals)
        assert posterior.row_prior is not None
        if posterior.row_prior.factorises and _BLOCKS[1] < N:
            for _ in range(max(self.n_rows // 10, 1)):
                size = int(self.rng.integers(_BLOCKS[0], _BLOCKS[1] + 1))
                updates.block_update(posterior.proposal.block(size, self.rng), self.n_proposals)
        posterior.ensemble.latent(states)[:] = updates.Z * unit
        return share

    def snapshot(self) -> Snapshot:
        """Copy what an iteration changes: the states, what is known of them, the generator."""
        known = self.known.take(np.arange(len(self.states)))
        return self.states.copy(), known, self.from_hot, self.rng.bit_generator.state

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        self.states, self.known, self.from_hot, self.rng.bit_generator.state = snapshot

    def temper(self, beta: Array) -> None:
        """Set new powers: all replicas of a chain begin at the state of its first."""
        n = len(beta)
        self._reorder(np.repeat(np.arange(self.chains) * len(self.beta), n))
        self.from_hot = np.zeros(len(self.states), dtype=bool)
        # A likelihood flatter by β is wider by 1/√β.
        widest = np.sqrt(1.0 / np.maximum(beta, 0.05))
        self.steps = StepSizes(self.steps.values[0] * widest)
        self.beta = beta

    def adapt_schedule(
        self, acceptance: Array, n_replicas: int | None, lowest: float | None = None
    ) -> None:
        """Choose the powers, down to ``lowest``, from the acceptance of the swaps between the present ones."""
        old = self.beta
        self.beta = adapted_schedule(old, acceptance, n_replicas, lowest)
        # States are those of the nearest old power; step sizes are interpolated.
        nearest = np.abs(self.beta[:, None] - old[None, :]).argmin(axis=1)
        flat = (np.arange(self.chains)[:, None] * len(old) + nearest).ravel()
        self._reorder(flat)
        log_steps = np.interp(self.beta[::-1], old[::-1], np.log(self.steps.values[::-1]))
        self.steps = StepSizes(np.exp(log_steps[::-1]))
