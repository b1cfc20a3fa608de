"""A walk of X and θ along the gradients of neighbourhoods."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pm_gplvm.checks import Array

__all__ = ["Walk"]

Rows = NDArray[np.intp]
Slopes = Callable[[Rows, Array, Sequence[Array]], tuple[float, Array, list[Array]]]


class _Adam:
    """Steps of even length along noisy gradients, with averages for each number by itself.

    Kingma & Ba (2015), algorithm 1, with 0.99 for their β₂: a row is seen a few hundred times only.
    """

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        self.momentum, self.memory = momentum, 0.99
        self.mean, self.square, self.seen = (np.zeros(shape) for _ in range(3))

    def __call__(self, gradient: Array, rows: Any = ...) -> Array:
        """Direction of the step for these rows, of length 1 in each coordinate at first."""
        self.seen[rows] += 1.0
        mean = self.momentum * self.mean[rows] + (1.0 - self.momentum) * gradient
        square = self.memory * self.square[rows] + (1.0 - self.memory) * gradient**2
        self.mean[rows], self.square[rows] = mean, square
        seen = self.seen[rows]
        root = np.sqrt(square / (1.0 - self.memory**seen))
        return mean / (1.0 - self.momentum**seen) / (root + 1e-8)


class Walk:
    """Where the latent positions and θ are, and how they go on.

    Parameters
    ----------
    slopes : callable
        Rows, their positions and θ to a log-density and its gradients in the last two.
    X : ndarray, shape (N, Q)
    theta : sequence of ndarray
    n_neighbors : int
        R, the rows that a step moves.
    rates : pair of float
        Length of a step of X and of θ; 0 holds θ.
    momentum : float
    drawn : ndarray of int, optional
        The rows from which a step's first row is drawn; all by default.
    """

    def __init__(
        self,
        slopes: Slopes,
        X: Array,
        theta: Sequence[Array],
        *,
        n_neighbors: int,
        rates: tuple[float, float],
        momentum: float,
        drawn: Rows | None = None,
    ) -> None:
        self.slopes, self.n_neighbors, self.rates = slopes, n_neighbors, rates
        self.X, self.theta = X.copy(), [np.array(value) for value in theta]
        self.drawn = np.arange(len(X)) if drawn is None else drawn
        self.taken = 0
        self._move_X = _Adam(X.shape, momentum)
        self._move_theta = [_Adam(value.shape, momentum) for value in self.theta]

    def step(self, rng: np.random.Generator, length: float, *, move_theta: bool = True) -> None:
        """Take one step, ``length`` times the rates, of X and if wanted of θ.

        Raises
        ------
        ValueError
            If the log-density, its gradient or a position is not finite; nothing has moved then.
        """
        rows = self._neighbours(rng)
        value, dX, dtheta = self.slopes(rows, self.X[rows], self.theta)
        moved = self.X[rows] + length * self.rates[0] * self._move_X(dX, rows)
        if not all(np.isfinite(np.asarray(part)).all() for part in (value, moved, *dtheta)):
            raise self._not_finite()
        self.X[rows] = moved
        if move_theta and self.rates[1] > 0.0:
            for at, move, slope in zip(self.theta, self._move_theta, dtheta, strict=True):
                at += length * self.rates[1] * move(slope)
        self.taken += 1

    def _neighbours(self, rng: np.random.Generator) -> Rows:
        # In N/R steps each row moves about once, so that the tree is one step behind at most: the
        # search costs O(R log N) a step, the making of the tree included.
        if self.taken % max(1, len(self.X) // self.n_neighbors) == 0:
            self._tree = cKDTree(self.X)
        first = self.drawn[rng.integers(len(self.drawn))]
        distances, rows = self._tree.query(self.X[first], self.n_neighbors)
        if not np.isfinite(distances).all():  # positions so far apart that their squares overflow
            raise self._not_finite()
        if first not in rows:  # it has moved since the tree was made
            rows[-1] = first
        return np.asarray(rows)

    def _not_finite(self) -> ValueError:
        return ValueError(
            f"Step {self.taken + 1} is not finite: K of a neighbourhood is not positive definite, or "
            "a value lies outside its prior. Start with a larger sigma, or lower the rates of X and "
            f"θ, {self.rates[0]:g} and {self.rates[1]:g}."
        )
