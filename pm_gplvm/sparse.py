"""Sparse GP-LVMs: the mode of X, θ and the inducing inputs, for tables of many rows."""

import warnings
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_gplvm.approximations import Method, build_sparse
from pm_gplvm.inducing import (
    INDUCING,
    approximation_groups,
    check_settings,
    drawn,
    earlier,
    label_approximation,
    named_values,
    potential_of,
    spread_rows,
)
from pm_gplvm.results import as_fit
from pm_gplvm.search import search
from pm_gplvm.starts import perturbed, start_values

__all__ = ["fit_sparse"]


def fit_sparse(
    model: pm.Model,
    *,
    n_inducing: int = 100,
    method: Method = "vfe",
    start: Any = "pca",
    n_restarts: int = 0,
    hold: int = 0,
    maxiter: int = 5000,
    tol: float = 1e-8,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Find the mode of X and θ with inducing inputs, where N is too large for ``fit_map``.

    Maximises the log-density of :func:`build_sparse` by L-BFGS. Cost: N M² for an evaluation; no
    N × N matrix is formed.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`.
    n_inducing : int, default 100
        M, the number of inducing inputs.
    method : {"vfe", "fitc"}
        See :func:`build_sparse`.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        As in :func:`fit_map`; the inducing inputs begin at rows that lie apart (k-means++), or
        where an earlier sparse or variational fit has them.
    n_restarts : int, default 0
        Further starts, X and the inducing inputs moved at random.
    hold : int, default 0
        Iterations at first in which amplitude and sigma stay where they start.
    maxiter, tol, random_seed, progressbar, blas_threads
        As in :func:`fit_variational`.

    Returns
    -------
    DataTree
        A posterior of one chain and one draw. ``approximation``: ``X_inducing`` (inducing,
        latent). ``sample_stats``: ``lp``, the objective, and ``log_likelihood``, the approximate
        one. ``optima`` and ``trace`` as :func:`fit_variational` gives them.

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, or X did not move.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is not one of :func:`build_model`, or the
        objective is not finite at the start.

    References
    ----------
    Titsias, M. K. (2009). Variational learning of inducing variables in sparse Gaussian
    processes. AISTATS, PMLR 5, 567-574.
    Snelson, E., Ghahramani, Z. (2006). Sparse Gaussian processes using pseudo-inputs. NIPS 18.
    Lawrence, N. D. (2007). Learning for larger datasets with the Gaussian process latent variable
    model. AISTATS, PMLR 2, 243-250.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=30))
    >>> best = gplvm.fit_sparse(model, n_inducing=10, random_seed=1, progressbar=False)
    >>> dict(best.posterior.sizes)
    {'chain': 1, 'draw': 1, 'obs': 30, 'latent': 2}
    """
    check_settings(tol, hold=(hold, 0), n_restarts=(n_restarts, 0), maxiter=(maxiter, 1))
    approximation = build_sparse(model, n_inducing, method=method)
    if "X" not in {rv.name for rv in model.free_RVs}:
        raise ValueError("model must have a free variable 'X', got one that is held.")
    rng = np.random.default_rng(random_seed)
    first = start_values(model, start, rng)
    starts = [first, *(perturbed(model, first, start, rng) for _ in range(n_restarts))]
    n_inducing = len(approximation.coords[INDUCING])
    for values in starts:
        unit = named_values(model, values).get("lengthscale", 1.0)
        values["X_inducing"] = spread_rows(values["X"] / unit, n_inducing, rng) * unit
    starts[0] |= earlier(start, starts[0])
    ranked = search(
        approximation,
        starts,
        title="fit_sparse",
        hold=hold,
        maxiter=maxiter,
        tol=tol,
        progressbar=progressbar,
        blas_threads=blas_threads,
    )
    best = ranked[0][1]
    named = named_values(approximation, best.values)
    likelihood = potential_of(approximation, best.values, "likelihood")
    fit = as_fit(
        model,
        {name: value[None, None] for name, value in drawn(model, named).items()},
        method="sparse",
        sample_stats={
            "lp": np.array([[best.objective]]),
            "log_likelihood": np.array([[likelihood]]),
        },
        settings={
            "approximation": method,
            "n_inducing": n_inducing,
            "converged": int(best.converged),
            "start": start if isinstance(start, str) else type(start).__name__,
            "random_seed": random_seed,
        },
        groups=approximation_groups(approximation, named, ranked),
    )
    label_approximation(fit)
    if not best.converged:
        warnings.warn(
            f"fit_sparse did not converge: {best.message} (objective {best.objective:.6g} after "
            f"{best.evaluations} evaluations, largest gradient {best.gradient:.3g}). Go on with "
            "fit_sparse(model, start=fit), or raise maxiter.",
            RuntimeWarning,
            stacklevel=2,
        )
    return fit
