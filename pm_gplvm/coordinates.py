"""The coordinates in which the optimiser moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.distributions.transforms import LogTransform

from pm_gplvm.objective import LogDensity

__all__ = ["Coordinates", "optimiser_coordinates"]

Array = NDArray[np.float64]


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


def optimiser_coordinates(model: pm.Model, density: LogDensity) -> Coordinates:
    """Choose the coordinates for a model."""
    free = {rv.name: rv for rv in model.free_RVs}
    names: dict[str, str | None] = {"X": None, "lengthscale": None, "weight": None}
    kinds = {"X": type(None), "lengthscale": LogTransform, "weight": LogTransform}
    for name, transform in kinds.items():
        if name in free and isinstance(model.rvs_to_transforms[free[name]], transform):
            names[name] = model.rvs_to_values[free[name]].name
    return Coordinates(density, **names)
