"""Replica exchange: states at several powers β of the likelihood that change places.

A chain is K replicas, the first at β = 1, the posterior, the others flatter. Neighbours swap by
Metropolis' rule (Geyer 1991; the even and the odd pairs in turn: Syed, Bouchard-Côté, Deligiannidis
& Doucet 2022, JRSS B 84), so that an embedding found where the likelihood is flat can come down.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from pm_gplvm.checks import Array

__all__ = ["ladder", "respaced", "swap"]

_REJECTION = 0.5  # wanted share of swaps that are rejected
_MOST = 30  # replicas


def ladder(n_replicas: int, beta_min: float) -> Array:
    """Powers from 1 down to ``beta_min``, in equal ratios (towards 0, in growing ones).

    Returns
    -------
    ndarray, shape (K,)
    """
    if n_replicas == 1:
        return np.ones(1)
    if beta_min > 0.0:
        return np.geomspace(1.0, beta_min, n_replicas)
    return np.linspace(1.0, 0.0, n_replicas) ** 4


def swap(
    log_likelihood: Array, beta: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Swap neighbours of each chain.

    Parameters
    ----------
    log_likelihood : ndarray, shape (C, K)
    beta : ndarray, shape (K,)
    rng : numpy.random.Generator

    Returns
    -------
    order : ndarray of int, shape (C, K)
        Which replica's state stands at each temperature now.
    acceptance : ndarray, shape (K - 1,)
        Mean probability of each swap.
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


def respaced(beta: Array, acceptance: Array, n_replicas: int | None) -> Array:
    """Respace the powers so that all swaps are rejected equally often.

    Parameters
    ----------
    beta : ndarray, shape (K,)
    acceptance : ndarray, shape (K - 1,)
        Of the swaps at these powers.
    n_replicas : int or None
        How many are wanted; None for as many as let half of the swaps through.

    Returns
    -------
    ndarray
        With the same first and last power.

    Notes
    -----
    The rejections add up to the communication barrier Λ, which does not depend on the spacing
    (Syed et al. 2022, section 5).
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.clip(1.0 - acceptance, 1e-3, None))])
    if n_replicas is None:
        n_replicas = min(max(int(np.ceil(barrier[-1] / _REJECTION)) + 1, 2), _MOST)
    wanted = np.linspace(0.0, barrier[-1], n_replicas)
    new = PchipInterpolator(barrier, beta)(wanted)
    new[0], new[-1] = beta[0], beta[-1]
    return np.asarray(new)
