"""What the model says about Y at new latent positions, mixed over the draws of a fit."""

from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.checks import Array, count
from pm_gplvm.gaussian import Patterns
from pm_gplvm.processes import (
    column_variances,
    conditional,
    conditional_variance,
    data_of,
    each_process,
    patterns_of,
)
from pm_gplvm.schema import FEATURE, LATENT, draws_of, require_fit, warn_unaligned

__all__ = ["check_positions", "predict", "relative_uncertainty"]


def check_positions(fit: xr.DataTree, X_new: Any) -> Array:
    """Return ``X_new`` as an array (n, Q) of finite numbers, or say what is wrong with it."""
    latent_dim = draws_of(fit, "X").sizes[LATENT]
    values = np.asarray(X_new, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != latent_dim:
        raise ValueError(
            f"X_new must have shape (n, latent_dim) = (n, {latent_dim}), got {values.shape}."
            f"{' For a single position pass [X_new].' if values.shape == (latent_dim,) else ''}"
        )
    if not np.isfinite(values).all():
        raise ValueError("X_new must be finite, got missing or infinite positions.")
    return values


def predict(fit: xr.DataTree, X_new: Any, *, noise: bool = False, draws: int = 100) -> xr.Dataset:
    """Predict Y at new latent positions.

    For each draw of (X, θ) the Gaussian conditional of a new row is formed (Rasmussen & Williams
    2006, eq. 2.25 and 2.26); the draws are mixed by the law of total variance. A sparse or
    variational fit predicts through its inducing inputs instead, X integrated over q. Where Y has
    missing entries, each column is conditioned on the rows that have it.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal`, :func:`sample_theta`, or any with ``X`` and θ.
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
        In the frame of the fit's ``X``: the aligned one after :func:`align`.
    noise : bool, default False
        Whether ``sd`` includes the white noise of a new measurement.
    draws : int, default 100
        At most so many draws are used, evenly spaced.

    Returns
    -------
    Dataset
        ``mean`` and ``sd``, dims (obs_new, feature), in the units of Y.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or ``X_new`` has a wrong shape.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> dict(gplvm.predict(best, np.zeros((1, 2))).sizes)
    {'obs_new': 1, 'feature': 64}
    """
    require_fit(fit, "X", "sigma", "Y_mean", "Y_scale", caller="predict")
    warn_unaligned(fit, caller="predict")
    count("draws", draws)
    positions = check_positions(fit, X_new)
    F, centre, scale = data_of(fit, caller="predict", missing=True)
    patterns = patterns_of(fit, F)

    means, variances = [], []
    for draw in each_process(fit, caller="predict", limit=draws):
        mean, variance = conditional(draw, F, patterns, positions)
        means.append(mean)
        variances.append(variance + draw.sigma**2 if noise else variance)
    total = np.mean(variances, axis=0)[:, patterns.group] + np.var(means, axis=0)
    dims = ("obs_new", FEATURE)
    return xr.Dataset(
        {
            "mean": (dims, centre + scale * np.mean(means, axis=0)),
            "sd": (dims, scale * np.sqrt(total)),
        },
        coords={
            "obs_new": np.arange(len(positions)),
            FEATURE: fit["observed_data"][FEATURE].to_numpy(),
        },
    )


def relative_uncertainty(fit: xr.DataTree, X_new: Any, *, draws: int = 20) -> Array:
    """How much of the prior's standard deviation is left at new latent positions.

    Parameters
    ----------
    fit : DataTree
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
    draws : int, default 20
        At most so many draws are used, evenly spaced.

    Returns
    -------
    ndarray, shape (S,)
        Standard deviation of the noise-free function over its prior standard deviation: near 0
        beside many rows, 1 where the data say nothing. The root mean square of all columns.
    """
    require_fit(fit, "X", "sigma", caller="relative_uncertainty")
    count("draws", draws)
    positions = check_positions(fit, X_new)
    table, patterns = _table(fit)
    share = np.bincount(patterns.group) / len(patterns.group)
    posterior, prior = [], []
    for draw in each_process(fit, caller="relative_uncertainty", limit=draws):
        prior.append(draw.prior_variance(positions))
        unit = column_variances(draw)
        posterior.append((conditional_variance(draw, table, patterns, positions) / unit) @ share)
    ratio = np.mean(posterior, axis=0) / np.maximum(np.mean(prior, axis=0), 1e-300)
    return np.asarray(np.sqrt(ratio))


def _table(fit: xr.DataTree) -> tuple[Array, Patterns]:
    """Y (N, D) and its columns by their observed rows; all alike in a fit that does not hold it."""
    name = str(fit.attrs.get("observed"))
    if "observed_data" not in fit.children or name not in fit["observed_data"]:
        columns = draws_of(fit, "sigma").sizes.get(FEATURE, 1)
        table = np.zeros((draws_of(fit, "X").shape[2], columns))
    else:
        table = fit["observed_data"][name].transpose(..., FEATURE).to_numpy()
    return table, patterns_of(fit, table)
