"""The variational Bayesian GP-LVM: q(X) = ∏ N(μₙ, diag sₙ²), and the bound that it maximises."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pymc.distributions.transforms import LogTransform

from pm_gplvm.approximations import build_variational
from pm_gplvm.bound import WholeKernel
from pm_gplvm.checks import Array
from pm_gplvm.inducing import (
    Exact,
    approximation_groups,
    check_settings,
    drawn,
    earlier,
    label_approximation,
    named_values,
    read_exact,
    spread_rows,
)
from pm_gplvm.optimise import Optimum
from pm_gplvm.psi import CLOSED_FORM
from pm_gplvm.results import as_fit
from pm_gplvm.rules import Rule, fine_rule
from pm_gplvm.search import search
from pm_gplvm.starts import perturbed, start_values

__all__ = ["fit_variational"]

_SPREAD, _NOISE = 0.2, 0.1  # of q, and of the noise, at the start
_EXPLAINED = 0.01


def fit_variational(
    model: pm.Model,
    *,
    n_inducing: int = 50,
    start: Any = "pca",
    n_restarts: int = 0,
    hold: int = 200,
    draws: int = 100,
    maxiter: int = 5000,
    tol: float = 1e-8,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Fit the variational Bayesian GP-LVM (Titsias & Lawrence 2010).

    Maximises the bound of :func:`build_variational`, plus ln p(θ), in the means and standard
    deviations of q(X), the inducing inputs and θ together, by L-BFGS. With ``ard=True`` it finds
    the number of latent dimensions: those not needed end with a long lengthscale, and q there is
    the prior (:func:`dimensions`). Cost: N M² Q for an evaluation; no N × N matrix is formed.

    q(X) has independent rows and dimensions. Its standard deviations are too small where the
    posterior is not: they leave out that rows may move together. :func:`pm_gplvm.sample` does not.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, best with ``ard=True`` and ``latent_dim`` larger than needed; the
        prior of ``X`` must be N(0, 1).
    n_inducing : int, default 50
        M, the number of inducing inputs.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        Where the means of q begin, as in :func:`fit_map`, or an earlier variational fit. The
        standard deviations of q begin at a fifth of the rows' spread, the inducing inputs at
        rows that lie apart (k-means++), sigma at 0.1 and each lengthscale at the range of X over √5,
        unless given.
    n_restarts : int, default 0
        Further starts, means and inducing inputs moved at random.
    hold : int, default 200
        Iterations at first in which amplitude and sigma stay where they start. Free from the
        beginning, they may explain all as noise before q is in place, and never come back.
    draws : int, default 100
        Of X from q.
    maxiter : int, default 5000
        Iterations a start, after the first.
    tol : float, default 1e-8
        A start has converged when an iteration raises the objective by less than ``tol`` times
        its size; or where rounding ends the line search and, begun afresh from there, it raises
        the objective by no more than 1e-6 of its size.
    random_seed : int, optional
        Of the inducing inputs, of the restarts and of the draws.
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        ``posterior``: draws of X from q, with the θ that maximises the objective in each.
        ``approximation``: ``X_mean`` and ``X_sd`` of q (obs, latent), ``X_inducing`` (inducing,
        latent). ``sample_stats``: ``lp``, the objective, and ``bound``, without ln p(θ), the same
        in each draw. ``optima``: one row a start, the best first. ``trace``: the objective
        after each evaluation of the best start.

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, or the signal was switched off: the fit explains less
        than a hundredth of the table's variance. If the kernel's psi statistics are taken by a
        rule of nodes, and that rule misses the bound by more than 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is not one that :func:`build_variational` takes,
        or the bound is not finite at the start.

    References
    ----------
    Titsias, M. K., Lawrence, N. D. (2010). Bayesian Gaussian process latent variable model.
    AISTATS, PMLR 9, 844-851.
    Titsias, M. K. (2009). Variational learning of inducing variables in sparse Gaussian
    processes. AISTATS, PMLR 5, 567-574.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=30), latent_dim=3, ard=True)
    >>> fit = gplvm.fit_variational(model, n_inducing=10, random_seed=1, progressbar=False)
    >>> fit["approximation"]["X_sd"].dims
    ('obs', 'latent')
    """
    check_settings(
        tol, hold=(hold, 0), n_restarts=(n_restarts, 0), draws=(draws, 1), maxiter=(maxiter, 1)
    )
    approximation = build_variational(model, n_inducing)
    exact, n_inducing = read_exact(model, n_inducing)
    rng = np.random.default_rng(random_seed)
    first = _start_theta(model, start, start_values(model, start, rng))
    exact_starts = [first, *(perturbed(model, first, start, rng) for _ in range(n_restarts))]
    starts = [_start_of_q(model, values, n_inducing, rng) for values in exact_starts]
    starts[0] |= earlier(start, starts[0])
    ranked = search(
        approximation,
        starts,
        title="fit_variational",
        hold=hold,
        maxiter=maxiter,
        tol=tol,
        progressbar=progressbar,
        blas_threads=blas_threads,
    )
    settings = {
        "start": start if isinstance(start, str) else type(start).__name__,
        "hold": hold,
        "random_seed": random_seed,
    }
    return _as_tree(model, approximation, exact, ranked, draws, rng, settings)


def _start_theta(model: pm.Model, start: Any, values: dict[str, Array]) -> dict[str, Array]:
    """Little noise, and as many lengthscales along each dimension as it is long, unless given."""
    if isinstance(start, xr.DataTree):
        return values
    X = values["X"]
    reach = np.ptp(X, axis=0) / np.sqrt(5.0)
    usual = {"sigma": np.array(_NOISE), "lengthscale": reach}
    given = set(start) if isinstance(start, Mapping) else set()
    for rv in model.free_RVs:
        if (
            rv.name in usual
            and rv.name not in given
            and isinstance(model.rvs_to_transforms[rv], LogTransform)
        ):
            name = model.rvs_to_values[rv].name
            value = np.log(usual[rv.name])
            values[name] = value if values[name].ndim == value.ndim else value.mean()
    return values


def _start_of_q(
    model: pm.Model, values: dict[str, Array], n_inducing: int, rng: np.random.Generator
) -> dict[str, Array]:
    X = values["X"]
    unit = named_values(model, values).get("lengthscale", 1.0)
    spread = np.maximum(X.std(axis=0), 1e-300)
    return {
        **{name: value for name, value in values.items() if name != "X"},
        "X_mean": X,
        "X_sd_log__": np.log(np.broadcast_to(_SPREAD * spread, X.shape)),
        "X_inducing": spread_rows(X / unit, n_inducing, rng) * unit,
    }


def _as_tree(
    model: pm.Model,
    approximation: pm.Model,
    exact: Exact,
    ranked: list[tuple[int, Optimum]],
    draws: int,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
) -> xr.DataTree:
    best = ranked[0][1]
    named = named_values(approximation, best.values)
    mean, sd = named["X_mean"], named["X_sd"]
    posterior = {
        name: np.broadcast_to(value, (1, draws, *np.shape(value)))
        for name, value in drawn(model, named).items()
    }
    X = posterior["X"] = rng.standard_normal((1, draws, *mean.shape))
    X *= sd
    X += mean
    groups = approximation_groups(approximation, named, ranked)
    found = _findings(exact, named)
    stats = {"lp": best.objective, "bound": found.bound}
    fit = as_fit(
        model,
        posterior,
        method="variational",
        sample_stats={name: np.full((1, draws), value) for name, value in stats.items()},
        settings={
            "n_inducing": len(named["X_inducing"]),
            "converged": int(best.converged),
            "explained": found.explained,
            **({} if found.rule_error is None else {"rule_error": found.rule_error}),
            **settings,
        },
        groups=groups,
    )
    label_approximation(fit)
    _warn(best, found)
    return fit


@dataclass(frozen=True)
class _Findings:
    """What there is to say of an optimum."""

    bound: float
    explained: float
    """Share of the table's variance that the mean of the fitted functions takes up."""
    rule_error: float | None
    """By how much a rule of nodes misses the bound, measured by a finer one."""


def _findings(exact: Exact, named: Mapping[str, Array]) -> _Findings:
    F, mean, sd = exact.F, named["X_mean"], named["X_sd"]
    sigma = float(np.hypot(named["sigma"], exact.floor))
    size = float((F**2).sum()), *F.shape
    whole = _statistics(exact, named)
    posterior = whole.posterior(F, sigma)
    likelihood = posterior.bound(*size)
    divergence = 0.5 * float((mean**2 + sd**2 - 1.0 - 2.0 * np.log(sd)).sum())
    rest = F - whole.psi1 @ posterior.weights
    error = None
    if exact.kernel not in CLOSED_FORM:
        fine = _statistics(exact, named, fine_rule(exact.latent_dim))
        error = likelihood - fine.posterior(F, sigma).bound(*size)
    return _Findings(
        bound=likelihood - len(F) * exact.log_scale - divergence,
        explained=1.0 - float((rest**2).sum()) / size[0],
        rule_error=error,
    )


def _statistics(exact: Exact, named: Mapping[str, Array], rule: Rule | None = None) -> WholeKernel:
    unit = named.get("lengthscale", 1.0)
    places = named["X_mean"] / unit, named["X_sd"] / unit, named["X_inducing"] / unit
    amplitude, bias = (float(named.get(name, d)) for name, d in (("amplitude", 1), ("bias", 0)))
    # There will be no gradient: nothing need be kept for it.
    return WholeKernel(exact.kernel, places, amplitude, bias, rule=rule, kept=np.empty((0, 0)))


def _warn(best: Optimum, found: _Findings) -> None:
    explained, error, texts = found.explained, found.rule_error, []
    if not best.converged:
        go_on = "go on with fit_variational(model, start=fit) or raise maxiter"
        texts.append(
            f"it did not converge: {best.message} (objective {best.objective:.6g} after "
            f"{best.evaluations} evaluations, largest gradient {best.gradient:.3g}); {go_on}"
        )
    if explained < _EXPLAINED:
        texts.append(
            f"the signal was switched off: it explains {100 * explained:.2g} % of the table's variance; "
            "hold amplitude and sigma longer (hold=1000), start with less noise "
            "(start={'X': ..., 'sigma': 0.05}) or from 'isomap'. If all starts end so, the table may be noise"
        )
    if error is not None and abs(error) > 1.0:
        texts.append(
            f"the rule of nodes misses the bound by {error:+.3g}, so that it may not be a bound; take "
            "kernel='rbf' where the bound itself is compared"
        )
    for text in texts:
        warnings.warn(f"fit_variational: {text}.", RuntimeWarning, stacklevel=4)
