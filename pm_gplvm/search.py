"""The search for the optimum of a model with inducing inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions.transforms import LogTransform

from pm_gplvm.checks import Array
from pm_gplvm.density import LogDensity, compile_log_density
from pm_gplvm.optimise import (
    CONVERGED,
    INTERRUPTED,
    LINE_SEARCH,
    Optimum,
    maximise,
    relatively,
)
from pm_gplvm.progress import Counter
from pm_gplvm.threads import blas_threads as limit_threads

__all__ = ["InducedCoordinates", "induced_coordinates", "search"]

_FRESH = 3
_ROUNDING = 1e-6  # of the objective: β tr K⁻¹Ψ₂ is large, and K's condition may be 1e6
_STEP_THETA, _STEP_INDUCING, _STEP_SPREAD = 4.0, 2.0, 2.0  # found on the oil flow data


@dataclass(frozen=True)
class InducedCoordinates:
    """The coordinates in which the optimiser moves: all positions in units of the lengthscale.

    As in :class:`pm_gplvm.density.Coordinates`, for several variables at once, of which some
    may be held.

    Parameters
    ----------
    density : LogDensity
    places : tuple of str
        Value variables that are divided by the lengthscale.
    spreads : tuple of str
        Value variables, logarithms, from which its logarithm is taken.
    lengthscale : str or None
        Value variable of its logarithm, if it is free.
    steps : mapping
        Unit of each value variable.
    held : mapping
        Value variables that do not move.
    """

    density: LogDensity
    places: tuple[str, ...]
    spreads: tuple[str, ...]
    lengthscale: str | None
    steps: Mapping[str, float]
    held: Mapping[str, Array]

    def _pack(self, values: Mapping[str, Array]) -> Array:
        moving = [name for name in self.density.names if name not in self.held]
        return np.concatenate([np.ravel(values[name]) for name in moving])

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""
        inner = dict(values)
        if self.lengthscale is not None:
            log_lengthscale = values[self.lengthscale]
            inner |= {n: values[n] / np.exp(log_lengthscale) for n in self.places}
            inner |= {n: values[n] - log_lengthscale for n in self.spreads}
        return self._pack({name: inner[name] / self.steps[name] for name in inner})

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""
        values, start = dict(self.held), 0
        for name, shape in zip(self.density.names, self.density.shapes, strict=True):
            if name not in self.held:
                end = start + math.prod(shape)
                values[name] = self.steps[name] * vector[start:end].reshape(shape)
                start = end
        if self.lengthscale is not None:
            log_lengthscale = values[self.lengthscale]
            values |= {n: values[n] * np.exp(log_lengthscale) for n in self.places}
            values |= {n: values[n] + log_lengthscale for n in self.spreads}
        return values

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Objective and gradient at the optimiser's vector."""
        values = self.outward(vector)
        value, flat = self.density(self.density.pack(values))
        gradient = self.density.unpack(flat)
        if self.lengthscale is not None:
            log_lengthscale = values[self.lengthscale]
            along: Any = sum((gradient[n] * values[n]).sum(axis=0) for n in self.places)
            along = along + sum(gradient[n].sum(axis=0) for n in self.spreads)
            total = along if log_lengthscale.ndim else along.sum()
            gradient[self.lengthscale] = gradient[self.lengthscale] + total
            gradient |= {n: gradient[n] * np.exp(log_lengthscale) for n in self.places}
        return value, self._pack({n: g * self.steps[n] for n, g in gradient.items()})


def induced_coordinates(
    model: pm.Model, density: LogDensity, held: Mapping[str, Array]
) -> InducedCoordinates:
    """Choose the coordinates for a model with inducing inputs.

    The units follow the curvature: N rows share θ, and about N / M of them an inducing input.
    """
    free = {rv.name: model.rvs_to_values[rv].name for rv in model.free_RVs}
    lengthscale = free.get("lengthscale")
    if lengthscale is not None:
        transform = model.rvs_to_transforms[model["lengthscale"]]
        lengthscale = lengthscale if isinstance(transform, LogTransform) else None
    shapes = dict(zip(density.names, density.shapes, strict=True))
    rows = free["X_mean"] if "X_mean" in free else free["X"]
    n_rows, n_inducing = shapes[rows][0], shapes.get("X_inducing", (1,))[0]
    steps = dict.fromkeys(density.names, _STEP_THETA / np.sqrt(n_rows))
    steps |= {free[name]: 1.0 for name in ("X", "X_mean") if name in free}
    steps |= {free[name]: _STEP_SPREAD for name in ("X_sd",) if name in free}
    steps["X_inducing"] = _STEP_INDUCING * np.sqrt(n_inducing / n_rows)
    places = tuple(free[n] for n in ("X", "X_mean", "X_inducing") if n in free)
    spreads = (free["X_sd"],) if "X_sd" in free else ()
    return InducedCoordinates(density, places, spreads, lengthscale, steps, held)


def search(
    model: pm.Model,
    starts: Sequence[Mapping[str, Array]],
    *,
    title: str,
    hold: int,
    maxiter: int,
    tol: float,
    progressbar: bool,
    blas_threads: int | None,
) -> list[tuple[int, Optimum]]:
    """Climb from each start, amplitude and sigma held for the first ``hold`` iterations.

    Returns
    -------
    list of (int, Optimum)
        Number of the start and where it ended, the best first.
    """
    density = compile_log_density(model)
    names = [rv.name for rv in model.free_RVs if rv.name in ("amplitude", "sigma")]
    keep = [model.rvs_to_values[model[name]].name for name in names]
    optima: list[Optimum] = []
    with (
        limit_threads(blas_threads),
        Counter(title, n_starts=len(starts), show=progressbar) as counter,
    ):
        for values in starts:
            optimum = _two_phases(model, density, values, keep, hold, maxiter, tol, counter)
            counter.finish(optimum.objective)
            optima.append(optimum)
            if optimum.message == INTERRUPTED:
                break
    return sorted(enumerate(optima), key=lambda item: -item[1].objective)


def _two_phases(
    model: pm.Model,
    density: LogDensity,
    values: Mapping[str, Array],
    keep: Sequence[str],
    hold: int,
    maxiter: int,
    tol: float,
    counter: Counter,
) -> Optimum:
    free = induced_coordinates(model, density, {})
    if not hold or not keep:
        ended = maximise(free, values, maxiter, relatively(tol), counter)
    else:
        held = induced_coordinates(model, density, {name: values[name] for name in keep})
        ended = maximise(held, values, hold, relatively(tol), counter)
        if ended.message != INTERRUPTED:
            further = maximise(free, ended.values, maxiter, relatively(tol), counter)
            ended = _joined(ended, further)
    for _ in range(_FRESH):
        # The line search gave up: for a poor memory of the curvature, which a fresh beginning has
        # not, or because rounding is all that is left, and then a fresh one gains nothing.
        if ended.message != LINE_SEARCH:
            break
        fresh = maximise(free, ended.values, maxiter, relatively(tol), counter)
        gain = fresh.objective - ended.objective
        if gain <= max(tol, _ROUNDING) * max(1.0, abs(ended.objective)):
            return replace(_joined(ended, fresh), converged=True, message=CONVERGED)
        ended = _joined(ended, fresh)
    return ended


def _joined(first: Optimum, second: Optimum) -> Optimum:
    return replace(
        second,
        start=first.start,
        evaluations=first.evaluations + second.evaluations,
        seconds=first.seconds + second.seconds,
        trace=np.concatenate([first.trace, np.maximum(second.trace, first.objective)]),
    )
