"""Hamiltonian Monte Carlo on an ensemble of states, all in step.

Trajectories of a random, short length in the coordinates of :mod:`pm_gplvm.density` (Neal 2011,
MCMC using Hamiltonian dynamics, section 3.2); each temperature has its own step size.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.density import Ensemble, Evaluation

__all__ = ["StepSizes", "Trajectory", "move"]

_DIVERGED = 1000.0  # energy error above which PyMC and Stan call a trajectory divergent


@dataclass
class Trajectory:
    """What became of one trajectory of each state.

    Parameters
    ----------
    acceptance : ndarray, shape (R,)
        Probability of acceptance.
    diverged : ndarray of bool, shape (R,)
    """

    acceptance: Array
    diverged: NDArray[np.bool_]


def move(
    ensemble: Ensemble,
    states: Array,
    known: Evaluation,
    beta: Array,
    step_size: Array,
    n_steps: int,
    rng: np.random.Generator,
) -> Trajectory:
    """Move every state along one trajectory, in place, accepted or not by Metropolis' rule.

    Parameters
    ----------
    ensemble : Ensemble
    states : ndarray, shape (R, P)
        Overwritten.
    known : Evaluation
        At ``states``; brought up to date.
    beta, step_size : ndarray, shape (R,)
    n_steps : int
    rng : numpy.random.Generator

    Returns
    -------
    Trajectory
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
    diverged = (change < -_DIVERGED) & ~np.isneginf(new.log_prior)
    return Trajectory(np.exp(np.minimum(change, 0.0)), diverged)


@dataclass
class StepSizes:
    """Step sizes that stochastic approximation brings to a wanted acceptance.

    Parameters
    ----------
    values : ndarray, shape (K,)
        One for each temperature, shared by the chains.
    target : float
    """

    values: Array
    target: float = 0.8
    _count: int = field(default=0, init=False)

    def learn(self, acceptance: Array) -> None:
        """Take in the acceptance at each temperature, shape (K,)."""
        self._count += 1
        gain = min(0.5, 2.0 / self._count**0.6)
        self.values = self.values * np.exp(gain * (acceptance - self.target))
