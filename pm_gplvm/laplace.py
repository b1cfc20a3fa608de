"""Laplace's approximation of the posterior of X and θ, as draws."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr

from pm_gplvm.checks import Array, count
from pm_gplvm.compilation import Backend, compile_mode
from pm_gplvm.density import (
    Coordinates,
    compile_constrain,
    compile_log_density,
    optimiser_coordinates,
)
from pm_gplvm.expansion import Expansion, expand, laplace_evidence
from pm_gplvm.optimise import maximise, tightly
from pm_gplvm.progress import Counter
from pm_gplvm.results import as_fit
from pm_gplvm.spec import ModelSpec
from pm_gplvm.starts import start_values
from pm_gplvm.threads import BlasThreads, threads_for
from pm_gplvm.threads import blas_threads as limit_threads
from pm_gplvm.volume import log_volume, why_no_volume

__all__ = ["fit_laplace"]

_TOL = 1e-7  # nats at which the climb ends
_CONVERGED = 1e-4  # nats still to be gained: the mode is then within 0.014 sd of where it should be


def fit_laplace(
    model: pm.Model,
    start: Any = "pca",
    *,
    draws: int = 1000,
    maxiter: int = 5000,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: BlasThreads = "auto",
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Draw X and θ from Gaussians: θ about its marginal estimate, X about its mode given θ.

    From ``start`` the estimate of :func:`fit_marginal` is climbed to, in the logarithms of θ. Its
    objective e(X, θ) is ln p(X, θ, Y) and a term of θ alone, so that its Hessian, taken by central
    differences of the gradient (2 (NQ + number of θ) of them), holds both Gaussians of Laplace's
    approximation: X given θ is N(X̂(θ), (P + H)⁻¹), P + H = -∂² ln p / ∂X², and θ has the curvature of
    the profile max_X e(X, θ). Where X cannot be integrated out (:func:`fit_marginal` says when), the
    Gaussian is that about the mode of X and ln θ together.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with latent positions ``X``.
    start : DataTree, array_like (N, Q), mapping or {"pca", "isomap", "random"}
        Where to climb from, best a fit of :func:`fit_marginal`; from one of :func:`fit_map` it goes on
        to the marginal estimate. The approximation knows of no other mode than the one it is led to.
    draws : int, default 1000
        Independent draws, in one chain.
    maxiter : int, default 5000
        Iterations of the climb.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : {"auto"}, int or None, default "auto"
        As in :func:`fit_map`.
    backend : {"python", "numba", "jax"}, default "python"
        What compiles the model. Numba takes minutes to, and spares some 0.2 ms an evaluation.
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    DataTree
        ``posterior``: draws of X and θ, all in the frame of the mode. ``sample_stats``: ``lp``,
        the model's log-density in its transformed variables (as NUTS notes it), and
        ``log_weight``, the logarithm of posterior over approximation, 0 at the mode: importance
        weights of the draws. The attrs say how good it is:

        ``null_directions``
            Rotations that leave the posterior as it is, Q(Q-1)/2 of them or none.
        ``flat_directions``
            Directions without curvature besides, along which nothing is drawn; 0 at a maximum.
        ``newton_decrement``
            By how much the objective could still rise, in nats; ``converged`` if below 1e-4.
        ``pareto_k``
            Of the importance weights, from 25 draws on. Above 0.7 the Gaussian is far from the
            posterior, which is the rule for N above a few tens; the draws are then a sketch of
            the uncertainty.
        ``log_evidence``
            ln p(Y) by Laplace's formula: of this mode and the copies of it that symmetry makes
            (rotations and reflections; signs and order with ARD), not of other modes. Left
            out where a direction is flat or the symmetry is of another kind.

    Warns
    -----
    RuntimeWarning
        If the climb did not converge, or there are flat directions.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the density is not finite at the start.

    References
    ----------
    Tierney, L. and Kadane, J. B. (1986). Accurate approximations for posterior moments and
    marginal densities. JASA 81, 82-86.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> sketch = gplvm.fit_laplace(model, best, draws=50, progressbar=False, random_seed=1)
    >>> sketch.posterior["X"].shape, sketch.attrs["null_directions"]
    ((1, 50, 20, 2), 1)
    """
    ModelSpec.of(model)
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    for name, value in (("draws", draws), ("maxiter", maxiter)):
        count(name, value)
    rng = np.random.default_rng(random_seed)
    volume = why_no_volume(model) is None
    density = compile_log_density(
        model, jacobian=True, volume=volume, backend=backend, compile_kwargs=compile_kwargs
    )
    coordinates = optimiser_coordinates(model, density)
    if not volume:
        coordinates = replace(coordinates, lengthscale=None)
    target = _Target(coordinates, _compile_volume(model) if volume else None)
    begin = start_values(model, start, rng)
    with limit_threads(threads_for(blas_threads, density.n_rows)):
        with Counter("fit_laplace", n_starts=1, show=progressbar) as counter:
            optimum = maximise(coordinates, begin, maxiter, tightly(_TOL), counter)
            counter.finish(optimum.objective)
        mode = coordinates.inward(optimum.values)
        gaussian = expand(coordinates, mode, progressbar=progressbar)
        noise = rng.standard_normal((draws, gaussian.root.shape[1]))
        vectors = mode + noise @ gaussian.root.T
        gaussian = replace(gaussian, value=target(mode))
        stats = _densities(gaussian, target, vectors, noise)
        evidence = laplace_evidence(gaussian)
    _warn(gaussian, maxiter)
    constrain = compile_constrain(model)
    points = [
        constrain(*(values[name] for name in density.names))
        for values in map(coordinates.outward, vectors)
    ]
    return as_fit(
        model,
        {name: np.stack([point[name] for point in points])[None] for name in points[0]},
        method="laplace",
        sample_stats=stats,
        settings={
            "start": start if isinstance(start, str) else type(start).__name__,
            "converged": int(gaussian.decrement < _CONVERGED),
            "newton_decrement": gaussian.decrement,
            "null_directions": len(gaussian.planes),
            "flat_directions": gaussian.n_flat,
            "pareto_k": _pareto_k(stats["log_weight"][0]),
            "random_seed": random_seed,
        }
        | ({} if evidence is None else {"log_evidence": evidence}),
    )


def _compile_volume(model: pm.Model) -> Callable[..., Any]:
    """Compile the term of θ alone, a function of the values of the model's value variables."""
    term = model.replace_rvs_by_values([log_volume(model)])
    return pytensor.function(model.value_vars, term, on_unused_input="ignore", mode=compile_mode())


@dataclass(frozen=True)
class _Target:
    """The posterior's log-density in the coordinates of the Gaussian.

    Parameters
    ----------
    coordinates : Coordinates
        Of the objective that is climbed.
    volume : callable or None
        The term of θ that the objective has besides.
    """

    coordinates: Coordinates
    volume: Callable[..., Any] | None

    def of_model(self, vector: Array) -> float:
        """Log-density of the model's transformed variables."""
        value = self.coordinates(vector)[0]
        if self.volume is None:
            return value
        values = self.coordinates.outward(vector)
        (term,) = self.volume(*(values[name] for name in self.coordinates.density.names))
        return value - float(term)

    def __call__(self, vector: Array) -> float:
        """Log-density of the coordinates: N Σ ln lengthscale more, where X is measured by it."""
        value, X, lengthscale = (
            self.of_model(vector),
            self.coordinates.X,
            self.coordinates.lengthscale,
        )
        if X is None or lengthscale is None:
            return value
        values = self.coordinates.outward(vector)
        return value + float(np.broadcast_to(values[lengthscale], values[X].shape).sum())


def _densities(
    gaussian: Expansion, target: _Target, vectors: Array, noise: Array
) -> dict[str, Array]:
    """Give lp and ln(posterior / approximation) of each draw.

    On the slice the posterior counts with the volume that its rotations sweep, as r counts in
    polar coordinates.
    """
    lp = np.array([target.of_model(vector) for vector in vectors])
    height = np.array([target(vector) for vector in vectors])
    sweep = np.array([gaussian.log_sweep(vector) for vector in vectors])
    log_weight = (
        height
        - gaussian.value
        + 0.5 * (noise**2).sum(axis=1)
        + sweep
        - gaussian.log_sweep(gaussian.mode)
    )
    return {"lp": lp[None], "log_weight": log_weight[None]}


def _pareto_k(log_weight: Array) -> float:
    from arviz_stats.base import array_stats

    if len(log_weight) < 25:
        return float("nan")
    try:
        return float(array_stats.psislw(-log_weight)[1])
    except ValueError:  # all weights are the same
        return float("nan")


def _warn(gaussian: Expansion, maxiter: int) -> None:
    if gaussian.decrement >= _CONVERGED:
        warnings.warn(
            f"fit_laplace did not reach the mode: a Newton step would still raise the objective by "
            f"{gaussian.decrement:.3g} (wanted below {_CONVERGED:g}). Raise maxiter = {maxiter}, or start "
            "from a fit of fit_marginal that has converged.",
            RuntimeWarning,
            stacklevel=3,
        )
    if gaussian.n_flat:
        warnings.warn(
            f"fit_laplace found no curvature in {gaussian.n_flat} of {len(gaussian.mode)} directions "
            "(those of rotations aside) and draws nothing along them: the start is no maximum, or "
            "the priors leave these directions free. Start from fit_marginal(model, n_restarts=...), or "
            "give X and θ proper priors.",
            RuntimeWarning,
            stacklevel=3,
        )
