"""Transitions of the sampler: Hamiltonian Monte Carlo on many states in step, and tempering.

An HMC transition has a random, small number of leapfrog steps in the coordinates of
:mod:`pm_gplvm.ensemble` (Neal 2011, MCMC using Hamiltonian dynamics, section 3.2); each temperature
has its own step size.

In parallel tempering a chain is K replicas at powers β of the likelihood, the first at β = 1, the
posterior, the others flatter. Neighbours swap by Metropolis' rule (Geyer 1991; the even and the odd
pairs in turn: Syed, Bouchard-Côté, Deligiannidis & Doucet 2022, JRSS B 84), so that an embedding
found where the likelihood is flat can come down.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from pm_gplvm.core.checks import Array
from pm_gplvm.core.trajectories import DIVERGED
from pm_gplvm.model.density import Ensemble, Evaluation

_REJECTION = 0.5  # wanted share of swaps that are rejected
_MOST = 30  # replicas
_COLDEST = 0.5  # power at or below which a ladder ends: barriers that need one are there still
_HELD = 0.6  # share of what the likelihood explains that the flattest replica is to hold


def hmc_transition(
    ensemble: Ensemble,
    states: Array,
    known: Evaluation,
    beta: Array,
    step_size: Array,
    n_steps: int,
    rng: np.random.Generator,
) -> tuple[Array, NDArray[np.bool_]]:
    """Move states (R, P) along one trajectory each, in place: the acceptance, and what diverged.

    ``known`` is the evaluation at the states, and is brought up to date. beta, step_size and what is
    returned are (R,).
    """
    step = step_size[:, None] * ensemble.units
    momentum = rng.standard_normal(states.shape)
    value, gradient = known.tempered(beta)
    before = value - 0.5 * (momentum**2).sum(axis=1)
    position = states
    momentum = momentum + 0.5 * step * gradient
    with np.errstate(over="ignore", invalid="ignore"):  # a diverging trajectory is refused below
        for i in range(n_steps):
            position = position + step * momentum
            new = ensemble(position)
            value, gradient = new.tempered(beta)
            momentum += (1.0 if i < n_steps - 1 else 0.5) * step * gradient
        change = value - 0.5 * (momentum**2).sum(axis=1) - before
    change = np.where(np.isfinite(change), change, -np.inf)
    accepted = np.log(rng.random(len(states))) < change
    states[accepted] = position[accepted]
    known.update(accepted, new)
    # A trajectory that left the support of a bounded prior is refused, and has not diverged.
    diverged = (change < -DIVERGED) & ~np.isneginf(new.log_prior)
    return np.exp(np.minimum(change, 0.0)), diverged


@dataclass
class StepSizes:
    """Step sizes (K,), one a temperature, that stochastic approximation brings to a wanted acceptance."""

    values: Array
    target: float = 0.8
    _count: int = field(default=0, init=False)

    def learn(self, acceptance: Array) -> None:
        """Take in the acceptance at each temperature, shape (K,)."""
        self._count += 1
        gain = min(0.5, 2.0 / self._count**0.6)
        self.values = self.values * np.exp(gain * (acceptance - self.target))


def first_schedule(n_replicas: int, beta_min: float) -> Array:
    """Powers (K,) from 1 down to ``beta_min``, in equal ratios (towards 0, in growing ones)."""
    if n_replicas == 1:
        return np.ones(1)
    if beta_min > 0.0:
        return np.geomspace(1.0, beta_min, n_replicas)
    return np.linspace(1.0, 0.0, n_replicas) ** 4


def melting_power(beta: Array, log_likelihood: Array, unexplained: float) -> float:
    """Find the flattest power, not above 0.5, at which the likelihood still holds most of the structure.

    ``log_likelihood`` (K,) are its means at the powers, and ``unexplained`` its value where noise has all of
    the table. Below some power the structure melts, at once as ice does: replicas there cost as much and
    bring nothing that could come down. Where it holds at all the powers, the last of them.
    """
    gained = log_likelihood - unexplained
    melted = np.flatnonzero(gained < _HELD * gained[0])
    if gained[0] <= 0.0 or not melted.size:
        return float(beta[-1])
    i = int(melted[0])
    share = (gained[i - 1] - _HELD * gained[0]) / (gained[i - 1] - gained[i])
    found = float(np.exp((1.0 - share) * np.log(beta[i - 1]) + share * np.log(beta[i])))
    return max(min(found, _COLDEST), float(beta[-1]))


def adapted_schedule(
    beta: Array, acceptance: Array, n_replicas: int | None, lowest: float | None = None
) -> Array:
    """Space the powers so that all swaps are rejected equally often, from the first down to ``lowest``.

    Without that, down to the last.

    ``acceptance`` (K - 1,) is that of the swaps at ``beta`` (K,). Without ``n_replicas`` there are as
    many as let half of the swaps through. The rejections add up to the communication barrier Λ, which
    does not depend on the spacing (Syed et al. 2022, section 5).
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.clip(1.0 - acceptance, 1e-3, None))])
    lowest = float(beta[-1]) if lowest is None else lowest
    total = float(np.interp(lowest, beta[::-1], barrier[::-1]))
    if n_replicas is None:
        n_replicas = min(max(int(np.ceil(total / _REJECTION)) + 1, 2), _MOST)
    wanted = np.linspace(0.0, total, n_replicas)
    new = PchipInterpolator(barrier, beta)(wanted)
    new[0], new[-1] = beta[0], lowest
    return np.asarray(new)


def swap(
    log_likelihood: Array, beta: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Swap neighbours of each chain, from the log-likelihoods (C, K) and the powers (K,).

    Returns which replica's state is at each temperature now, (C, K), and the mean acceptance of each
    swap, (K - 1,).
    """
    C, K = log_likelihood.shape
    order = np.tile(np.arange(K), (C, 1))
    here = log_likelihood.copy()
    acceptance = np.zeros(K - 1)
    for first in (0, 1):
        low = np.arange(first, K - 1, 2)
        if not low.size:
            continue
        change = (beta[low] - beta[low + 1]) * (here[:, low + 1] - here[:, low])
        acceptance[low] = np.exp(np.minimum(change, 0.0)).mean(axis=0)
        chains, pairs = np.nonzero(np.log(rng.random(change.shape)) < change)
        i, j = low[pairs], low[pairs] + 1
        for table in (order, here):
            table[chains, i], table[chains, j] = table[chains, j], table[chains, i].copy()
    return order, acceptance
