"""The mode of X and θ together, by L-BFGS on the symbolic gradient."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.ascent import (
    COLLAPSED,
    DID_NOT_MOVE,
    INTERRUPTED,
    Optimum,
    climb,
    optima_positions,
    optima_table,
)
from pm_gplvm.compilation import Backend, compile_mode
from pm_gplvm.coordinates import Coordinates, optimiser_coordinates
from pm_gplvm.model import describe
from pm_gplvm.objective import LogDensity, compile_log_density
from pm_gplvm.progress import Counter
from pm_gplvm.relocation import Relocation
from pm_gplvm.results import as_fit, compile_constrain
from pm_gplvm.starts import perturbed, start_values
from pm_gplvm.threads import blas_threads as limit_threads

__all__ = ["fit_map"]

Array = NDArray[np.float64]

_ROUNDS = 20  # of relocation at most
_EVALUATIONS = 2000  # that a start takes, roughly


def fit_map(
    model: pm.Model,
    *,
    start: Any = "pca",
    n_restarts: int = 0,
    mode_of: Literal["X", "Z"] = "X",
    relocate: bool = True,
    maxiter: int = 5000,
    tol: float = 1e-10,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    backend: Backend = "auto",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Find the mode of the posterior of X and θ.

    The objective is L(X, θ) + ln p(X) + ln p(θ), densities of the variables themselves (no
    Jacobian of a transform): Lawrence's (2005) where the priors of θ are flat. L-BFGS maximises
    it in Z = X / lengthscale and the logarithms of θ, which changes its path, not its maximum (see
    :class:`pm_gplvm.coordinates.Coordinates`).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with latent positions ``X`` and a
        :class:`GPColumns`.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        Where to begin: a way to place X, each latent dimension then scaled to the prior's
        standard deviation 1; positions; values by name; or another fit.
    n_restarts : int, default 0
        Further starts, moved at random from the first by half its spread. The objective has
        many maxima: each start's is listed in the group ``optima``.
    mode_of : {"X", "Z"}, default "X"
        Of which variable it is the mode. A mode depends on the variable that the density is
        taken in: that in X has sd(X) far below 1, as X and the lengthscale shrink together
        until the lengthscale's prior stops them; that in Z = X / lengthscale has the scale
        of the posterior's draws.
    relocate : bool, default True
        From the best end offer single rows better places and climb on, as long as that raises
        the objective (:mod:`pm_gplvm.relocation`). It finds better modes than restarts do.
    maxiter : int, default 5000
        Iterations a start.
    tol : float, default 1e-10
        A start has converged when an iteration raises the objective by less than ``tol`` times
        its size, or the largest component of the gradient is below 1e-5.
    random_seed : int, optional
        Of the random start and of the restarts; also of the places offered, which are the same
        each time where it is None.
    progressbar : bool, default True
    blas_threads : int or None, default 1
        Threads of the linear algebra while it runs; None leaves the machine's setting.
    backend : {"auto", "python", "numba", "jax"}, default "auto"
        What compiles the model (see :func:`pm_gplvm.compilation.choose_backend`).
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    DataTree
        A posterior of one chain and one draw. ``sample_stats``: ``lp``, the objective, and
        ``log_likelihood``. ``optima``: one row a start, the best first; ``optima_positions``: ``Z``
        (start, obs, latent), X / lengthscale there (:func:`plot_optima`).

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, or X did not move.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the objective is not finite at the start.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian
    process latent variable models. JMLR 6, 1783-1816.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_map(model, progressbar=False)
    >>> dict(best.posterior.sizes)
    {'chain': 1, 'draw': 1, 'obs': 20, 'latent': 2}
    """
    describe(model)
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    _check(n_restarts, maxiter, tol, mode_of)
    rng = np.random.default_rng(random_seed)
    # Without a seed a fit from PCA is the same each time; so are the places it offers.
    places = np.random.default_rng(0 if random_seed is None else random_seed)
    first = start_values(model, start, rng)
    starts = [first, *(perturbed(model, first, start, rng) for _ in range(n_restarts))]
    density = compile_log_density(
        model,
        backend=backend,
        compile_kwargs=compile_kwargs,
        n_rows=max(map(len, map(np.atleast_1d, first.values()))),
        n_evaluations=_EVALUATIONS * len(starts),
    )
    coordinates = optimiser_coordinates(model, density, mode_of)

    optima: list[Optimum] = []
    with (
        limit_threads(blas_threads),
        Counter("fit_map", n_starts=len(starts), show=progressbar) as counter,
    ):
        for values in starts:
            optimum = climb(coordinates, values, maxiter, tol, counter)
            counter.finish(optimum.objective)
            optima.append(optimum)
            if optimum.message == INTERRUPTED:
                break
        top = max(range(len(optima)), key=lambda i: optima[i].objective)
        if relocate and optima[top].converged and Relocation.serves(model):
            optima[top] = _relocated(
                coordinates, optima[top], Relocation(model, places), maxiter, tol, counter
            )
    ranked = sorted(range(len(optima)), key=lambda i: -optima[i].objective)
    best = optima[ranked[0]]
    _warn(best, maxiter)
    return _as_tree(model, density, [(i, optima[i]) for i in ranked], start, mode_of, random_seed)


def _relocated(
    coordinates: Coordinates,
    best: Optimum,
    relocation: Relocation,
    maxiter: int,
    tol: float,
    counter: Counter,
) -> Optimum:
    """Move rows to better places and climb on, for as long as that finds a better mode."""
    for _ in range(_ROUNDS):
        values, n_moved = relocation(best.values)
        if not n_moved:
            break
        further = climb(coordinates, values, maxiter, tol, counter)
        if not further.objective > best.objective + tol * abs(best.objective):
            return best.after(further, keep=True)
        best = best.after(further)
        if not best.converged:
            break
    return best


def _check(n_restarts: int, maxiter: int, tol: float, mode_of: str) -> None:
    for name, value, least in (("n_restarts", n_restarts, 0), ("maxiter", maxiter, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    if not 0.0 < tol < 1.0:
        raise ValueError(f"tol must lie between 0 and 1, got {tol!r}.")
    if mode_of not in ("X", "Z"):
        raise ValueError(f"mode_of must be 'X' or 'Z', got {mode_of!r}.")


def _warn(best: Optimum, maxiter: int) -> None:
    if best.converged:
        return
    if best.message == DID_NOT_MOVE:
        remedy = "Start from 'pca' or 'random', or scale the data."
    elif best.message == COLLAPSED:
        remedy = "The data may hold noise alone for this kernel; lower sigma's prior or start from 'isomap'."
    elif best.message == INTERRUPTED:
        remedy = "Go on from here with fit_map(model, start=fit)."
    else:
        remedy = (
            f"Go on with fit_map(model, start=fit), raise maxiter = {maxiter}, or standardise Y."
        )
    warnings.warn(
        f"fit_map did not converge: {best.message} (objective {best.objective:.6g} after "
        f"{best.evaluations} evaluations, largest gradient {best.gradient:.3g}). {remedy}",
        RuntimeWarning,
        stacklevel=3,
    )


def _as_tree(
    model: pm.Model,
    density: LogDensity,
    ranked: list[tuple[int, Optimum]],
    start: Any,
    mode_of: str,
    random_seed: int | None,
) -> xr.DataTree:
    best = ranked[0][1]
    values = [best.values[name] for name in density.names]
    constrain = compile_constrain(model)
    ends = [constrain(*[o.values[name] for name in density.names]) for _, o in ranked]
    draws = {name: np.asarray(v)[None, None] for name, v in ends[0].items()}
    groups = {"optima": optima_table(ranked), **optima_positions([i for i, _ in ranked], ends)}
    # The likelihood is what the prior leaves of the objective: its graph is compiled once only.
    prior = pytensor.function(
        model.value_vars,
        model.logp(vars=[*model.free_RVs, *model.potentials], jacobian=False),
        on_unused_input="ignore",
        mode=compile_mode(),
    )
    likelihood = density(density.pack(best.values))[0] - float(prior(*values))
    return as_fit(
        model,
        draws,
        method="map",
        sample_stats={
            "lp": np.array([[best.objective]]),
            "log_likelihood": np.array([[likelihood]]),
        },
        settings={
            "mode_of": mode_of,
            "start": start if isinstance(start, str) else type(start).__name__,
            "converged": int(best.converged),
            "random_seed": random_seed,
        },
        groups=groups,
    )
