"""The few places that a row may have, and the share of its posterior about each."""

import numpy as np

from pm_gplvm.checks import Array
from pm_gplvm.proposals import squared_distances
from pm_gplvm.rowposterior import Modes, Places

__all__ = ["effective", "peaks"]

_MODES = 8
_ONE_PEAK = 2.0  # two equal Gaussians nearer than two standard deviations have one peak


def peaks(places: Places, weights: Array) -> tuple[Array, Array, Array]:
    """Join modes that are one, and share the weights among those that are left.

    Returns
    -------
    at, sd : ndarray, shape (M, J, Q)
    weight : ndarray, shape (M, J)
        The weightiest first; NaN where there is none.
    """
    modes = _apart(places.modes)
    logs = []
    for j in range(modes.at.shape[1]):
        r2, logdet = squared_distances(places.x, modes.at[:, j], modes.spread[:, j])
        logs.append(modes.log_mass[:, j, None] - 0.5 * (r2 + logdet[:, None]))
    height = np.stack(logs, axis=2)
    height = np.exp(height - height.max(axis=2, keepdims=True))
    weight = np.einsum("mt,mtj->mj", weights, height / height.sum(axis=2, keepdims=True))
    weight = np.where(np.isfinite(modes.log_mass), weight, -1.0)
    order = np.argsort(-weight, axis=1)
    row = np.arange(len(weight))[:, None]
    weight, at = weight[row, order], modes.at[row, order]
    sd = np.sqrt((modes.spread**2).sum(axis=3))[row, order]
    none = weight < 0.0
    at[none] = sd[none] = np.nan
    return at, sd, np.where(none, np.nan, weight)


def _apart(modes: Modes) -> Modes:
    """Keep the heaviest modes; one within two standard deviations of another adds its mass to it."""
    M, C = modes.log_mass.shape
    left, every, J = modes.log_mass.copy(), np.arange(M), min(C, _MODES)
    index, mass = np.zeros((M, J), dtype=np.intp), np.full((M, J), -np.inf)
    for j in range(J):
        index[:, j] = best = left.argmax(axis=1)
        r2, _ = squared_distances(modes.at, modes.at[every, best], modes.spread[every, best])
        here = (r2 <= _ONE_PEAK**2) & np.isfinite(left)
        top = left[every, best]
        with np.errstate(invalid="ignore", divide="ignore"):
            mass[:, j] = top + np.log(np.where(here, np.exp(left - top[:, None]), 0.0).sum(axis=1))
        mass[~np.isfinite(top), j] = -np.inf
        left[here] = -np.inf
    row = every[:, None]
    return Modes(modes.at[row, index], modes.spread[row, index], mass, modes.converged)


def effective(weight: Array) -> Array:
    """Exponential of the entropy of the weights of each row, shape (M,)."""
    w = np.where(weight > 0.0, weight, 1.0)
    return np.asarray(np.exp(-(w * np.log(w)).sum(axis=1)))
