"""Draws of X, θ and Y from the prior, and checks of them."""

from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from scipy.spatial.distance import pdist

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.fit import OBS, Fit, require_one_table, stacked
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.results import as_fit
from pm_gplvm.model.spec import ModelSpec

_SHARES = np.linspace(0.0, 1.0, 101)  # of the sorted numbers, at which distributions are compared
_MOST_COMPONENTS = 20
_MOST_DRAWS = 200


@checked
def sample_prior(
    model: pm.Model, *, draws: int = 500, random_seed: int | None = None
) -> xr.DataTree:
    """Draw X, θ and Y from the prior; only the mean and scale of the table are used.

    The draws are those of ``pm.sample_prior_predictive``, compiled in a second instead of a minute.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with latent positions ``X``.
    draws : int, default 500
    random_seed : int, optional

    Returns
    -------
    DataTree
        ``prior``: X (chain, draw, obs, latent), θ and what else the model has; one chain.
        ``prior_predictive``: the table, dims (chain, draw, feature, obs), in the units of Y.
        ``observed_data`` and ``constant_data`` as in every fit. ``plot.prior`` shows it; ArviZ's
        prior checks read it too.

    Raises
    ------
    TypeError, ValueError
        If ``draws`` is out of range, a prior is flat, or a drawn K is singular.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> prior = gplvm.sample_prior(model, draws=10, random_seed=1)
    >>> prior["prior_predictive"]["Y"].shape
    (1, 10, 64, 20)
    """
    name = ModelSpec.of(model).table.name
    flat = [rv.name for rv in model.free_RVs if isinstance(rv.owner.op, FlatRV | HalfFlatRV)]
    if flat:
        raise ValueError(
            f"model must have proper priors to draw from, got flat ones of {', '.join(flat)}. Give them "
            "a distribution: build_model(Y, priors=...)."
        )
    with blas_threads(1):
        drawn = pm.sample_prior_predictive(
            int(draws),
            model=model,
            random_seed=random_seed,
            compile_kwargs={"mode": compile_mode()},
        )
    failed = drawn["prior_predictive"][name].isnull().any(drawn["prior_predictive"][name].dims[2:])
    if failed.any():
        raise ValueError(
            f"model must draw covariances that are positive definite, got {int(failed.sum())} of "
            f"{draws} that are not. Give sigma a prior that is bounded away from 0."
        )
    values = {str(n): v.to_numpy() for n, v in drawn["prior"].data_vars.items()}
    fit = as_fit(
        model, values, method="prior", sample_stats={}, settings={"random_seed": random_seed}
    )
    read = Fit(fit)
    rows = {n: coord for n, coord in read.coords.items() if coord.dims == (OBS,)}
    predictive = drawn["prior_predictive"].to_dataset()[[name]].assign_coords(rows)
    tree = xr.DataTree.from_dict(
        {
            "prior": read.posterior,
            "prior_predictive": predictive.drop_attrs(),
            "observed_data": read.group("observed_data"),
            "constant_data": read.constants,
        }
    )
    tree.attrs = fit.attrs
    return tree


def check_prior(prior: xr.DataTree, fit: xr.DataTree | None = None) -> xr.Dataset:
    """Summarise each drawn table, and the observed one, in numbers that no rotation of X changes.

    At most 200 draws are used.

    Parameters
    ----------
    prior : DataTree
        From :func:`sample_prior`.
    fit : DataTree, optional
        A fit of the same model, whose distances are shown beside the prior's.

    Returns
    -------
    Dataset
        ``distance`` (draw, share): quantiles of ‖zₙ - zₘ‖ over all pairs of rows, z = x / lengthscale.
        ``value`` (draw, share): quantiles of the entries of the table, (Y - mean) / scale.
        ``variance`` (draw, component): share of the table's variance in each principal component, the
        eigenvalues of YYᵀ, which are all that the likelihood sees of Y besides their axes.
        ``value_observed``, ``variance_observed``: of the table itself; with ``fit``,
        ``distance_fit`` (share), the mean of its draws' quantiles.

    Raises
    ------
    TypeError, ValueError
        If ``prior`` is not what :func:`sample_prior` returns.
    """
    _require_prior(prior)
    few = Fit(prior.isel(draw=slice(_MOST_DRAWS), missing_dims="ignore"), "check_prior")
    name, held = few.observed, few.constants
    mean, scale = (
        held[n].to_numpy()[:, None] if n in held else default
        for n, default in (("Y_mean", 0.0), ("Y_scale", 1.0))
    )
    predictive, whole = few.group("prior_predictive"), {"posterior": few.group("prior")}
    if name not in predictive:
        raise ValueError(
            f"prior must hold drawn tables {name!r} in prior_predictive, got {', '.join(map(str, predictive))}."
        )
    Fit.of(xr.DataTree.from_dict({**whole, "constant_data": held}), "X", caller="plot.prior")
    drawn = (predictive[name].to_numpy()[0] - mean) / scale
    seen = (few.group("observed_data")[name].to_numpy() - mean) / scale
    known: dict[str, Any] = {
        "distance": (("draw", "share"), _distances(few.group("prior"), held)),
        "value": (("draw", "share"), np.quantile(drawn, _SHARES, axis=(1, 2)).T),
        "variance": (("draw", "component"), np.stack([_variances(table) for table in drawn])),
        "value_observed": ("share", np.nanquantile(seen, _SHARES)),
        "variance_observed": ("component", _variances(seen)),
    }
    if fit is not None:
        some = Fit.of(fit, "X", caller="plot.prior").thinned(_MOST_DRAWS)
        require_one_table({"prior": few, "fit": some}, caller="plot.prior")
        known["distance_fit"] = ("share", _distances(some.posterior, some.constants).mean(axis=0))
    checks = xr.Dataset(known, coords={"share": _SHARES})
    return checks.assign_coords(component=1 + np.arange(checks.sizes["component"]))


def _require_prior(prior: Any) -> None:
    if not isinstance(prior, xr.DataTree):
        raise TypeError(f"prior must be a DataTree of sample_prior, got {type(prior).__name__}.")
    missing = [n for n in ("prior", "prior_predictive", "observed_data") if n not in prior.children]
    if missing:
        raise ValueError(
            f"prior must hold the groups of sample_prior, got a DataTree without {', '.join(missing)}."
        )


def _distances(draws: xr.Dataset, held: xr.Dataset) -> Array:
    """Quantiles of the pairwise distances of each draw, shape (S, shares)."""
    read = Fit(xr.DataTree.from_dict({"posterior": draws, "constant_data": held}))
    return np.stack(
        [np.quantile(pdist(z), _SHARES) for z in stacked(read.positions_for_distances())]
    )


def _variances(table: Array) -> Array:
    """Shares of variance of the principal components of a table of shape (D, N)."""
    D, N = table.shape
    if np.isnan(table).any():  # an incomplete table has no eigenvalues
        return np.full(min(D, N, _MOST_COMPONENTS), np.nan)
    centred = table - table.mean(axis=1, keepdims=True)
    gram = centred.T @ centred if N <= D else centred @ centred.T
    with blas_threads(1):
        values = np.linalg.eigvalsh(gram)[::-1][:_MOST_COMPONENTS]
    return np.maximum(values, 0.0) / max(np.trace(gram), 1e-300)
