"""The coordinates in which the optimiser moves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions.transforms import LogTransform
from scipy.linalg import blas

from pm_gplvm.checks import Array
from pm_gplvm.objective import LogDensity

__all__ = ["Coordinates", "Measured", "measured", "optimiser_coordinates"]

_STEP = 1e-4  # by which a gradient is differenced
_FEW = 20  # entries of a variable for which that is done


@dataclass(frozen=True)
class Coordinates:
    """A change of variables that leaves the maximum where it is and makes it easy to reach.

    Two things make plain L-BFGS crawl. The likelihood depends on X / lengthscale alone, so that X
    and the lengthscale can shrink together along a ridge: in Z = X / lengthscale the ridge is one
    axis. And the curvature in a hyperparameter, which all N rows share, is of the order of N
    times that in one row's position: θ is measured in units of 2/√N. (In a model where K depends
    on X in another way the map is still one to one.)

    Parameters
    ----------
    density : LogDensity
    X : str, optional
        Value variable of the positions, if they are free and untransformed.
    lengthscale : str, optional
        Value variable of the logarithm of the lengthscale, if it is free as well.
    weight : str, optional
        Value variable of the logarithm of the linear part's weight, if it is free as well: with it the
        optimiser moves weight · lengthscale, on which the likelihood depends at given Z.
    """

    density: LogDensity
    X: str | None
    lengthscale: str | None
    weight: str | None = None

    @cached_property
    def _steps(self) -> dict[str, float]:
        shapes = dict(zip(self.density.names, self.density.shapes, strict=True))
        unit = 1.0 if self.X is None else 2.0 / np.sqrt(shapes[self.X][0])
        return {name: 1.0 if name == self.X else unit for name in shapes}

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""
        inner = dict(values)
        if self.X is not None and self.lengthscale is not None:
            inner[self.X] = values[self.X] / np.exp(values[self.lengthscale])
            if self.weight is not None:
                inner[self.weight] = values[self.weight] + np.mean(values[self.lengthscale])
        return self.density.pack({name: inner[name] / u for name, u in self._steps.items()})

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""
        values = {name: u * self._steps[name] for name, u in self.density.unpack(vector).items()}
        if self.X is not None and self.lengthscale is not None:
            values[self.X] = values[self.X] * np.exp(values[self.lengthscale])
            if self.weight is not None:
                values[self.weight] = values[self.weight] - np.mean(values[self.lengthscale])
        return values

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Log-density and gradient at the optimiser's vector."""
        values = self.outward(vector)
        value, flat = self.density(self.density.pack(values))
        gradient = self.density.unpack(flat)
        if self.X is not None and self.lengthscale is not None:
            X, log_lengthscale = values[self.X], values[self.lengthscale]
            # ∂L/∂ln lengthscale at fixed Z, through X = lengthscale Z.
            along: Any = (gradient[self.X] * X).sum(axis=0)
            if log_lengthscale.ndim == 0:
                along = along.sum()
            if self.weight is not None:
                along = along - gradient[self.weight] / log_lengthscale.size
            gradient[self.lengthscale] = gradient[self.lengthscale] + along
            gradient[self.X] = gradient[self.X] * np.exp(log_lengthscale)
        return value, self.density.pack({n: g * self._steps[n] for n, g in gradient.items()})


@dataclass(frozen=True)
class Measured:
    """Coordinates in which the curvature that is expected at one place is about 1 in every direction.

    Near a maximum L-BFGS needs about half of the evaluations in them: rows near each other move together,
    so that their curvature is far from diagonal. Dimensions are taken one by one, which costs
    little of that and takes Q matrices of N rows.

    Parameters
    ----------
    plain : Coordinates
    roots : ndarray, shape (Q, N, N)
        Cholesky factors of the curvature in Z, a dimension each.
    units : mapping
        Of the other variables, by name: 1 over the root of their curvature.
    """

    plain: Coordinates
    roots: Array
    units: Mapping[str, Array]

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""
        parts = self.plain.density.unpack(self.plain.inward(values))
        return self._packed(parts, lambda root, z: root.T @ z, lambda theta, unit: theta / unit)

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""
        return self.plain.outward(self._within(vector))

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Log-density and gradient at the optimiser's vector."""
        value, flat = self.plain(self._within(vector))
        parts = self.plain.density.unpack(flat)
        return value, self._packed(parts, _forward, lambda slope, unit: slope * unit)

    def _within(self, vector: Array) -> Array:
        parts = self.plain.density.unpack(vector)
        return self._packed(parts, _backward, lambda theta, unit: theta * unit)

    def _packed(
        self,
        parts: dict[str, Array],
        of_positions: Callable[[Array, Array], Array],
        of_theta: Callable[[Array, Array], Array],
    ) -> Array:
        for name, part in parts.items():
            if name == self.plain.X:
                columns = [of_positions(*pair) for pair in zip(self.roots, part.T, strict=True)]
                parts[name] = np.stack(columns, axis=1)
            else:
                parts[name] = of_theta(part, self.units[name])
        return self.plain.density.pack(parts)


def _forward(root: Array, vector: Array) -> Array:
    # Seen in Fortran order the lower triangle is the upper one of the transpose.
    return np.asarray(blas.dtrsv(root.T, vector, lower=0, trans=1))


def _backward(root: Array, vector: Array) -> Array:
    return np.asarray(blas.dtrsv(root.T, vector, lower=0))


def measured(
    plain: Coordinates, values: Mapping[str, Array], information: Array
) -> Measured | None:
    """Choose the coordinates by the curvature at a place, None if it has no Cholesky factor.

    Parameters
    ----------
    plain : Coordinates
        Of a model whose X is free.
    values : mapping
        Where: of the model's value variables, by name.
    information : ndarray, shape (Q, N, N)
        In units of X, with that of the prior.
    """
    scale = 1.0 if plain.lengthscale is None else np.exp(values[plain.lengthscale])
    curvature = information * np.square(np.broadcast_to(scale, len(information)))[:, None, None]
    try:
        roots = np.linalg.cholesky(curvature)
    except np.linalg.LinAlgError:
        return None
    at = plain.inward(values)
    slope = plain(at)[1]
    within, units = plain.density.unpack(np.arange(at.size, dtype=np.float64)), {}
    for name, places in within.items():
        if name == plain.X:
            continue
        each = np.ones(places.shape)
        for index in np.ndindex(places.shape) if places.size <= _FEW else ():
            i, moved = int(places[index]), at.copy()
            moved[i] += _STEP
            known = abs(plain(moved)[1][i] - slope[i]) / _STEP
            if np.isfinite(known):
                each[index] = 1.0 / np.sqrt(max(known, 1.0))
        units[name] = each
    return Measured(plain, roots, units)


def optimiser_coordinates(model: pm.Model, density: LogDensity) -> Coordinates:
    """Choose the coordinates for a model."""
    free = {rv.name: rv for rv in model.free_RVs}
    names: dict[str, str | None] = {"X": None, "lengthscale": None, "weight": None}
    kinds = {"X": type(None), "lengthscale": LogTransform, "weight": LogTransform}
    for name, transform in kinds.items():
        if name in free and isinstance(model.rvs_to_transforms[free[name]], transform):
            names[name] = model.rvs_to_values[free[name]].name
    return Coordinates(density, **names)
