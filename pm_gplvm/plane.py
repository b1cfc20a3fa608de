"""The plane of two latent dimensions in which a fit is looked at."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.checks import Array
from pm_gplvm.relevance import dominant
from pm_gplvm.schema import LATENT, OBS, draws_of, require_fit

__all__ = ["Plane", "plane_of"]


@dataclass(frozen=True)
class Plane:
    """Two latent dimensions, the others held at the median of the mean positions.

    Parameters
    ----------
    draws : ndarray, shape (S, N, Q)
        Of X, all chains behind each other.
    dims : tuple of int
        The one drawn across, and the one drawn upwards; one alone where Q = 1.
    """

    draws: Array
    dims: tuple[int, ...]

    @property
    def X(self) -> Array:
        """Mean positions in the plane, shape (N, 2), or (N, 1) where Q = 1."""
        return np.asarray(self.draws[:, :, list(self.dims)].mean(axis=0))

    @property
    def moves(self) -> bool:
        """Whether the draws differ."""
        return len(self.draws) > 1 and bool(np.ptp(self.draws, axis=0).max() > 0.0)

    def lift(self, places: Array) -> Array:
        """Positions of all Q dimensions, shape (M, Q), from places in the plane."""
        whole = np.tile(np.median(self.draws.mean(axis=0), axis=0), (len(places), 1))
        whole[:, list(self.dims)] = places
        return whole

    def limits(self, margin: float = 0.08) -> Array:
        """Lower and upper ends, shape (2, 2) or (2, 1), so that all mean positions lie inside."""
        low, high = self.X.min(axis=0), self.X.max(axis=0)
        reach = margin * np.maximum(high - low, 1e-12)
        return np.stack([low - reach, high + reach])

    def mesh(self, limits: Array, shape: tuple[int, ...]) -> Array:
        """Cell centres of a grid of so many cells across (and up), shape (cells, 1 or 2).

        The first dimension changes fastest; the second rises.
        """
        axes = [
            low + (np.arange(n) + 0.5) / n * (high - low)
            for low, high, n in zip(*limits, shape, strict=True)
        ]
        return np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1)


def plane_of(fit: xr.DataTree, dims: Any, *, caller: str) -> Plane:
    """Choose the plane.

    Parameters
    ----------
    fit : DataTree
    dims : pair of int or None
        None for the first two or, where each has a lengthscale of its own, the two most relevant.
    caller : str
        Named in the message of an error.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, or ``dims`` are out of range.
    """
    require_fit(fit, "X", caller=caller)
    draws = draws_of(fit, "X").transpose("chain", "draw", OBS, LATENT).to_numpy()
    draws = draws.reshape(-1, *draws.shape[2:])
    Q = draws.shape[2]
    if Q == 1:
        if dims is not None:
            raise ValueError(f"dims must be left out where latent_dim is 1, got {dims}.")
        return Plane(draws, (0,))
    pair = dominant(fit) if dims is None else tuple(dims)
    if len(set(pair)) != 2 or not all(0 <= d < Q for d in pair):
        raise ValueError(f"dims must be two different dimensions below {Q}, got {dims}.")
    return Plane(draws, pair)
