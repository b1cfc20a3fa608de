"""Joint draws at new places, and the training rows as the model sees them."""

from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.checks import count
from pm_gplvm.newrows import require_exact
from pm_gplvm.prediction import check_positions
from pm_gplvm.processes import data_of, each_draw, patterns_of, smoothed
from pm_gplvm.schema import FEATURE, OBS, warn_unaligned

__all__ = ["reconstruct", "sample_predictive"]


def sample_predictive(
    fit: xr.DataTree,
    X_new: Any,
    *,
    noise: bool = False,
    draws: int = 100,
    random_seed: int | None = None,
) -> xr.DataTree:
    """Draw tables at new latent positions, their rows jointly.

    Each draw takes one (X, θ) of the fit and, for each column, a function from the Gaussian
    conditional of all new positions together (Rasmussen & Williams 2006, eq. 2.25 and 2.26), so
    that neighbouring rows vary together; :func:`predict` has the mean and sd of each alone.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
        In the frame of the fit's ``X``: the aligned one after :func:`align`.
    noise : bool, default False
        Whether the white noise of new measurements is added.
    draws : int, default 100
        How many tables. The fit's draws are taken evenly spaced, each as often as the others where
        there are fewer of them.
    random_seed : int, optional

    Returns
    -------
    DataTree
        ``predictions``: the table's name, dims (chain, draw, obs_new, feature), one chain, in the
        units of Y.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, ``X_new`` has a wrong shape, or
        ``draws`` is out of range.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> path = np.linspace([-1.0, 0.0], [1.0, 0.0], 5)
    >>> gplvm.sample_predictive(best, path, draws=3, random_seed=1)["predictions"]["Y"].shape
    (1, 3, 5, 64)
    """
    require_exact(fit, caller="sample_predictive")
    warn_unaligned(fit, caller="sample_predictive")
    count("draws", draws)
    positions = check_positions(fit, X_new)
    F, centre, scale = data_of(fit, caller="sample_predictive", missing=True)
    patterns = patterns_of(fit, F)
    rng = np.random.default_rng(random_seed)
    chosen = list(each_draw(fit, caller="sample_predictive", limit=draws))
    tables = []
    for draw, share in zip(chosen, np.array_split(np.arange(draws), len(chosen)), strict=True):
        own = rng.standard_normal((len(share), len(positions), F.shape[1]))
        for rows, columns, block in patterns.blocks(F):
            mean, root = draw.given(rows, columns).joint(block, positions)
            own[..., columns] = mean + root @ own[..., columns]
        if noise:
            own = own + draw.sigma * rng.standard_normal(own.shape)
        tables.append(centre + scale * own)
    name = fit.attrs["observed"]
    values = np.concatenate(tables)[None]
    group = xr.Dataset(
        {name: (("chain", "draw", "obs_new", FEATURE), values)},
        coords={
            "chain": [0],
            "draw": np.arange(draws),
            "obs_new": np.arange(len(positions)),
            FEATURE: fit["observed_data"][FEATURE].to_numpy(),
        },
    )
    return xr.DataTree.from_dict({"predictions": group})


def reconstruct(fit: xr.DataTree, *, noise: bool = False, draws: int = 100) -> xr.Dataset:
    """Give the training rows as the model sees them: each at its own place, without noise.

    At the places of a draw the function has mean F - σ²K⁻¹F and variance σ² - σ⁴[K⁻¹]_nn, K with
    its noise σ²: the Gaussian conditional at X_new = X. An entry that is missing is predicted at its
    row's place as in :func:`predict`, from the rows that have that column. The draws are mixed by the law of total
    variance. With X fixed rows that lie apart are hardly smoothed; how a row would be predicted
    from the others tells :func:`leave_one_out`.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    noise : bool, default False
        Whether ``sd`` includes the white noise of a new measurement.
    draws : int, default 100
        At most so many draws are used, evenly spaced.

    Returns
    -------
    Dataset, dims (obs, feature)
        ``mean`` and ``sd`` in the units of Y, with the labels of the rows.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or ``draws`` is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> dict(gplvm.reconstruct(best).sizes)
    {'obs': 20, 'feature': 64}
    """
    require_exact(fit, caller="reconstruct")
    count("draws", draws)
    F, centre, scale = data_of(fit, caller="reconstruct", missing=True)
    patterns = patterns_of(fit, F)
    means, variances = [], []
    for draw in each_draw(fit, caller="reconstruct", limit=draws):
        mean, variance = smoothed(draw, F, patterns)
        means.append(mean)
        variances.append(variance + draw.sigma**2 if noise else variance)
    total = np.mean(variances, axis=0)[:, patterns.group] + np.var(means, axis=0)
    known = {
        "mean": centre + scale * np.mean(means, axis=0),
        "sd": scale * np.sqrt(total),
    }
    observed = fit["observed_data"].to_dataset()
    coords = {
        name: coord for name, coord in observed.coords.items() if coord.dims in ((OBS,), (FEATURE,))
    }
    return xr.Dataset({n: ((OBS, FEATURE), v) for n, v in known.items()}, coords=coords)
