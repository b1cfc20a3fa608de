"""The sampler of X and θ: trajectories, row moves and replica exchange, in turn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.density import Ensemble, compile_ensemble
from pm_gplvm.exchange import respaced, swap
from pm_gplvm.kernels import KERNELS
from pm_gplvm.pattern_moves import PatternMoves
from pm_gplvm.row_priors import RowPrior, compile_row_prior
from pm_gplvm.rowjumps import Proposal, RowMoves, Theta
from pm_gplvm.spec import ModelSpec
from pm_gplvm.trajectories import StepSizes, move

__all__ = ["Iteration", "Posterior", "Replicas", "compile_posterior"]

STEPS = (8, 30)
"""Shortest and longest trajectory, in leapfrog steps."""

_GROUPS = (2, 4)  # fewest and most rows that are moved together
_CACHE = 2**18  # numbers in one array of candidates: states are taken in parts of this size


@dataclass(frozen=True)
class Posterior:
    """A model compiled for the sampler.

    Parameters
    ----------
    ensemble : Ensemble
    kernel : str
    F : ndarray, shape (N, D)
        Standardised data, NaN where missing.
    row_prior : RowPrior or None
        None where X is no free variable, so that no row can be moved by itself.
    fixed : dict
        Hyperparameters held at a number, by name.
    floor : float
        Of the noise, besides sigma.
    """

    ensemble: Ensemble
    kernel: str
    F: Array
    row_prior: RowPrior | None
    fixed: dict[str, Array]
    floor: float = 0.0

    def theta(self, draws: dict[str, Array], n_states: int) -> tuple[Theta, Array]:
        """Read off the kernel at the states and its lengthscales, (R, 1, 1) or (R, 1, Q)."""

        def each(name: str, default: float) -> Array:
            value = draws.get(name, self.fixed.get(name, np.asarray(default)))
            return value if name in draws else np.broadcast_to(value, (n_states, *value.shape))

        scalars = (
            each("amplitude", 1.0),
            np.hypot(each("sigma", 0.0), self.floor),
            each("bias", 0.0),
        )
        lengthscale = each("lengthscale", 1.0).reshape(n_states, 1, -1)
        # Rows move in units of the lengthscale, and the linear part is in units of X.
        of_linear = None
        if KERNELS[self.kernel].summed:
            of_linear = each("weight", 1.0)[:, None, None] * lengthscale
        return Theta(self.kernel, *scalars, linear=of_linear), lengthscale


def compile_posterior(model: pm.Model) -> Posterior:
    """Compile a model for the sampler.

    Raises
    ------
    ValueError
        If the covariance is not one of the table's, or the data are not fixed.
    """
    spec = ModelSpec.of(model)
    if spec.kernel not in KERNELS:
        raise ValueError(
            f"sample knows the kernels {', '.join(KERNELS)}, got a covariance of another kind. "
            "Sample such a model with pm.sample, and compare its chains with gplvm.diagnose."
        )
    spec.table.require_shared(caller="sample")
    if not spec.table.standardisable:
        raise ValueError(
            "sample needs the mean and scale of the table to be data, got random variables."
        )
    ensemble = compile_ensemble(spec)
    row_prior = compile_row_prior(spec) if ensemble.X is not None else None
    return Posterior(ensemble, spec.kernel, spec.table.F, row_prior, spec.fixed, spec.floor)


@dataclass
class Iteration:
    """What one iteration did, at each of C chains and K temperatures.

    Parameters
    ----------
    acceptance, diverged, moved : ndarray, shape (C, K)
        Of the trajectories; ``moved`` is the share of rows that found another place.
    swapped : ndarray, shape (K - 1,)
        Acceptance of the swaps.
    n_steps : int
    """

    acceptance: Array
    diverged: NDArray[np.bool_]
    moved: Array
    swapped: Array
    n_steps: int


class Replicas:
    """C chains of K replicas each.

    Parameters
    ----------
    posterior : Posterior
    states : ndarray, shape (C, K, P)
    beta, step_size : ndarray, shape (K,)
    n_candidates : int
        Places offered to a row at a time.
    rng : numpy.random.Generator
    """

    def __init__(
        self,
        posterior: Posterior,
        states: Array,
        beta: Array,
        step_size: Array,
        *,
        n_candidates: int,
        rng: np.random.Generator,
    ) -> None:
        self.posterior, self.beta, self.n_candidates, self.rng = posterior, beta, n_candidates, rng
        self.steps = StepSizes(step_size)
        self.chains = len(states)
        self.states = states.reshape(-1, states.shape[-1]).copy()
        self.known = posterior.ensemble(self.states)
        self.proposal = Proposal(posterior.F)

    @property
    def _betas(self) -> Array:
        return np.tile(self.beta, self.chains)

    def by_chain(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (C · K, ...) as (C, K, ...)."""
        return values.reshape(self.chains, len(self.beta), *values.shape[1:])

    @property
    def n_rows(self) -> int:
        """Rows that are offered other places in one iteration.

        As many as take about twice the arithmetic of the trajectory, N at most.
        """
        N = len(self.posterior.F)
        trajectory = np.mean(STEPS) * (N**3 + 50 * N**2)
        row = self.n_candidates * (2 * N**2 + 50 * N)
        return int(np.clip(np.ceil(2.0 * trajectory / row), 1, N))

    def iterate(self, *, tuning: bool = False) -> Iteration:
        """Trajectory, row moves, swaps."""
        n_steps = int(self.rng.integers(STEPS[0], STEPS[1] + 1))
        step_size = np.tile(self.steps.values, self.chains) * self.rng.uniform(
            0.8, 1.2, len(self.states)
        )
        trajectory = move(
            self.posterior.ensemble,
            self.states,
            self.known,
            self._betas,
            step_size,
            n_steps,
            self.rng,
        )
        acceptance = self.by_chain(trajectory.acceptance)
        if tuning:
            self.steps.learn(acceptance.mean(axis=0))
        moved = self._move_rows()
        order, swapped = swap(self.by_chain(self.known.log_likelihood), self.beta, self.rng)
        flat = (order + len(self.beta) * np.arange(self.chains)[:, None]).ravel()
        self.states, self.known = self.states[flat], self.known.take(flat)
        return Iteration(
            acceptance, self.by_chain(trajectory.diverged), self.by_chain(moved), swapped, n_steps
        )

    def _move_rows(self) -> Array:
        """Offer rows other places at every state; the share of them that moved."""
        moved = np.zeros(len(self.states))
        if self.posterior.row_prior is None:
            return moved
        N = len(self.posterior.F)
        part = max(_CACHE // (N * max(self.n_candidates, N)), 1)
        for start in range(0, len(self.states), part):
            rows = slice(start, start + part)
            moved[rows] = self._move_rows_of(rows)
        self.known = self.posterior.ensemble(self.states)
        return moved

    def _move_rows_of(self, rows: slice) -> Array:
        posterior, ensemble = self.posterior, self.posterior.ensemble
        prior: Any = posterior.row_prior
        states = self.states[rows]
        values = ensemble.values(states)
        parts = list(values.values())
        theta, lengthscale = posterior.theta(ensemble.draws(states), len(states))

        def log_prior(n: int, C: Array) -> Array:
            return prior(n, C * lengthscale, parts)

        Z = values[str(ensemble.X)] / lengthscale
        kind = PatternMoves if np.isnan(posterior.F).any() else RowMoves
        try:
            moves = kind(
                Z, theta, posterior.F, self._betas[rows], log_prior, self.proposal, self.rng
            )
        except np.linalg.LinAlgError:
            return np.zeros(len(states))  # where K is singular in rounding its rows stay
        N = len(posterior.F)
        share = moves.sweep(self.rng.permutation(N)[: self.n_rows], self.n_candidates)
        if prior.factorises and _GROUPS[1] < N:
            for _ in range(max(self.n_rows // 10, 1)):
                size = int(self.rng.integers(_GROUPS[0], _GROUPS[1] + 1))
                moves.regrow(self.proposal.group(size, self.rng), self.n_candidates)
        ensemble.positions(states)[:] = Z if ensemble.lengthscale else Z * lengthscale
        return share

    def spread(self, beta: Array) -> None:
        """Put replicas at further temperatures, all of a chain at the first one's state."""
        n = len(beta)
        first = np.repeat(np.arange(self.chains) * len(self.beta), n)
        self.states, self.known = self.states[first], self.known.take(first)
        # A likelihood flatter by β is wider by 1/√β.
        widest = np.sqrt(1.0 / np.maximum(beta, 0.05))
        self.steps = StepSizes(self.steps.values[0] * widest)
        self.beta = beta

    def respace(self, acceptance: Array, n_replicas: int | None) -> None:
        """Choose the temperatures anew from the acceptance of their swaps."""
        old = self.beta
        self.beta = respaced(old, acceptance, n_replicas)
        # The nearest of the old temperatures lends its states and, between, its step size.
        nearest = np.abs(self.beta[:, None] - old[None, :]).argmin(axis=1)
        flat = (np.arange(self.chains)[:, None] * len(old) + nearest).ravel()
        self.states, self.known = self.states[flat], self.known.take(flat)
        log_steps = np.interp(self.beta[::-1], old[::-1], np.log(self.steps.values[::-1]))
        self.steps = StepSizes(np.exp(log_steps[::-1]))
