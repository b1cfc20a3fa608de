"""L-BFGS from one start: the loop that every optimising fit shares."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize

from pm_gplvm.progress import Counter
from pm_gplvm.schema import LATENT, OBS

__all__ = [
    "COLLAPSED",
    "DID_NOT_MOVE",
    "INTERRUPTED",
    "Optimum",
    "climb",
    "optima_positions",
    "optima_table",
]

Array = NDArray[np.float64]

INTERRUPTED = "interrupted"
DID_NOT_MOVE = "X did not move from its start"
COLLAPSED = "all latent positions fell onto one point"


class Landscape(Protocol):
    """An objective of one vector, and the way between that and a model's variables."""

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Objective and gradient."""


@dataclass(frozen=True)
class Optimum:
    """Where one start ended; ``trace`` is the best objective after each evaluation."""

    values: dict[str, Array]
    objective: float
    start: float
    evaluations: int
    gradient: float
    converged: bool
    message: str
    seconds: float
    trace: Array

    def after(self, further: "Optimum", *, keep: bool = False) -> "Optimum":
        """Go on to where a further climb ended, or keep this end; both are counted."""
        end = self if keep else further
        return replace(
            end,
            start=self.start,
            evaluations=self.evaluations + further.evaluations,
            seconds=self.seconds + further.seconds,
            trace=np.maximum.accumulate(np.concatenate([self.trace, further.trace])),
        )


def climb(
    coordinates: Landscape,
    values: Mapping[str, Array],
    maxiter: int,
    tol: float,
    counter: Counter,
) -> Optimum:
    """Run L-BFGS from one start.

    Parameters
    ----------
    coordinates : Landscape
        Such as :class:`pm_gplvm.coordinates.Coordinates`.
    values : mapping
        Of the model's value variables, by name.
    maxiter : int
    tol : float
        See :func:`pm_gplvm.fit_map`.
    counter : Counter
        Told of every evaluation.

    Returns
    -------
    Optimum

    Raises
    ------
    ValueError
        If the objective is not finite at the start.
    """
    begin = coordinates.inward(values)
    started, trace = time.perf_counter(), []
    best_value, best_vector, best_gradient = -np.inf, begin, np.full(begin.shape, np.nan)

    def negative(vector: Array) -> tuple[float, Array]:
        nonlocal best_value, best_vector, best_gradient
        value, gradient = coordinates(vector)
        if value > best_value and np.isfinite(gradient).all():
            best_value, best_vector, best_gradient = value, vector.copy(), gradient
        trace.append(best_value)
        counter.step(best_value)
        # L-BFGS-B cannot interpolate with infinities: a very low, flat place turns it back.
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            return 1e300, np.zeros_like(vector)
        return -value, -gradient

    initial, _ = negative(begin)
    if initial == 1e300:
        raise ValueError(
            "The objective is not finite at the start: K is not positive definite, or a value lies "
            "outside its prior. Start with a larger sigma or other positions."
        )
    try:
        result = minimize(
            negative,
            begin,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": maxiter,
                "maxfun": 20 * maxiter,
                "maxcor": 20,
                "ftol": tol,
                "gtol": 1e-5,
            },
        )
        converged, message = bool(result.success), str(result.message)
    except KeyboardInterrupt:
        converged, message = False, INTERRUPTED
    end = coordinates.outward(best_vector)
    problem = _stuck(values, end)
    return Optimum(
        values=end,
        objective=best_value,
        start=-initial,
        evaluations=len(trace),
        gradient=float(np.abs(best_gradient).max()),
        converged=converged and problem is None,
        message=problem or message,
        seconds=time.perf_counter() - started,
        trace=np.array(trace),
    )


def _stuck(start: Mapping[str, Array], end: Mapping[str, Array]) -> str | None:
    """All-zero X is a stationary point, where an optimiser would report success."""
    X = end.get("X")
    if X is None or X.ndim != 2:
        return None
    if np.abs(X - start["X"]).max() <= 1e-10 * np.abs(start["X"]).max():
        return DID_NOT_MOVE
    if X.std(axis=0).max() <= 1e-8:
        return COLLAPSED
    return None


def optima_table(ranked: Sequence[tuple[int, Optimum]]) -> xr.Dataset:
    """Make the group ``optima`` of a fit: one row a start, the best first.

    Parameters
    ----------
    ranked : sequence
        Number of the start and where it ended.
    """
    columns = {
        "objective": [o.objective for _, o in ranked],
        "objective_at_start": [o.start for _, o in ranked],
        "evaluations": [o.evaluations for _, o in ranked],
        "largest_gradient": [o.gradient for _, o in ranked],
        "converged": [o.converged for _, o in ranked],
        "message": [o.message for _, o in ranked],
        "seconds": [o.seconds for _, o in ranked],
    }
    return xr.Dataset(
        {name: ("start", np.asarray(column)) for name, column in columns.items()},
        coords={"start": [i for i, _ in ranked]},
    )


def optima_positions(
    starts: Sequence[int], named: Sequence[Mapping[str, Array]]
) -> dict[str, xr.Dataset]:
    """Make the group ``optima_positions`` of a fit: where each start put the rows.

    Parameters
    ----------
    starts : sequence of int
        Their numbers.
    named : sequence of mapping
        Values of the model's variables where each ended, by name.

    Returns
    -------
    dict
        The group by its name, with ``Z`` (start, obs, latent): X in units of the lengthscale, where
        that is free. Empty where X is held.
    """
    place = next((name for name in ("X", "X_mean") if name in named[0]), None)
    if place is None:
        return {}
    Z = [v[place] / v.get("lengthscale", 1.0) for v in named]
    group = xr.Dataset({"Z": (("start", OBS, LATENT), np.stack(Z))}, coords={"start": list(starts)})
    return {"optima_positions": group}
