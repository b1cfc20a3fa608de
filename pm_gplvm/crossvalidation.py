"""K-fold over rows: fit to some, and score the others by the density that the fit gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_gplvm.checks import count
from pm_gplvm.embedding import log_predictive
from pm_gplvm.map import fit_map, fit_marginal
from pm_gplvm.model import build_model
from pm_gplvm.preprocess import as_table
from pm_gplvm.progress import Pieces
from pm_gplvm.schema import OBS
from pm_gplvm.spec import PositionPrior
from pm_gplvm.volume import why_no_volume

__all__ = ["cross_validate"]


def cross_validate(
    Y: Any,
    build: Callable[[xr.DataArray], pm.Model] = build_model,
    *,
    fit: Callable[[pm.Model], xr.DataTree] | None = None,
    n_folds: int = 5,
    draws: int = 20,
    n_samples: int = 1000,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """Score a model by rows that it has not seen.

    The rows are dealt into folds at random. For each fold the model is built from, and fitted to,
    the other rows; each row y of the fold then gets ln p(y), its place x integrated out:

        p(y) = E ∫ N(y; m(x), v(x) I) N(x; 0, I) dx,

    the expectation over the draws of the fit, m and v those of :func:`predict`
    (:func:`log_predictive`).

    Parameters
    ----------
    Y : array_like, DataFrame or DataArray, dims (obs, feature), shape (N, D)
    build : callable, default build_model
        The table of some rows to a model, such as ``partial(build_model, latent_dim=3)``. X must
        have the prior N(0, 1).
    fit : callable, optional
        The model to a fit; :func:`fit_marginal` by default (:func:`fit_map` where X cannot be integrated
        out). For draws of X and θ give a sampler.
    n_folds : int, default 5
        Between 2 and N.
    draws : int, default 20
        At most so many draws of each fit are used, evenly spaced.
    n_samples : int, default 1000
        Points of the integral over x, for each row, at least 100.
    random_seed : int, optional
        Of the folds and the points.
    progressbar : bool, default True
        Of the folds; a ``fit`` of your own shows its own.

    Returns
    -------
    Dataset, dims (obs,)
        ``log_score``: ln p(y), the density in the units of Y; ``error``: the standard error
        that the integral leaves in it, and ``pareto_k`` of its weights; ``fold``. The sum of ``log_score`` compares models (number of
        latent dimensions, kernels, priors) on the same Y and ``random_seed``; :func:`compare`
        takes the Dataset as ``kfold``.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, X has another prior, or the covariance is not one of
        :func:`build_model`'s.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> scores = gplvm.cross_validate(
    ...     gplvm.load_digits(n=20), n_folds=2, random_seed=1, progressbar=False
    ... )
    >>> scores["log_score"].dims
    ('obs',)
    """
    table = as_table(Y)
    N = len(table)
    least = {"n_folds": (n_folds, 2), "draws": (draws, 1), "n_samples": (n_samples, 100)}
    for name, (value, low) in least.items():
        count(name, value, low)
    if n_folds > N:
        raise ValueError(f"n_folds must be at most the number of rows, {N}, got {n_folds}.")
    show = progressbar and fit is None  # two lines of progress do not go together
    fit = fit or _mode
    rng = np.random.default_rng(random_seed)
    fold = rng.permutation(np.arange(N) % n_folds)
    known = {name: np.empty(N) for name in ("log_score", "error", "pareto_k")}
    with Pieces("cross_validate", n_folds, "folds", show) as progress:
        for k in range(n_folds):
            held = fold == k
            model = build(table[~held])
            _check_prior(model)
            scores = log_predictive(
                fit(model),
                table.to_numpy()[held],
                draws=draws,
                n_samples=n_samples,
                random_seed=int(rng.integers(2**31)),
                progressbar=False,
            )
            for name, values in known.items():
                values[held] = scores[name]
            progress.advance()
    coords = {name: coord for name, coord in table.coords.items() if coord.dims == (OBS,)}
    columns = {**known, "fold": fold}
    return xr.Dataset({name: (OBS, values) for name, values in columns.items()}, coords=coords)


def _mode(model: pm.Model) -> xr.DataTree:
    """At the scale of the prior: under the joint mode that of a new row would be far too wide."""
    fit = fit_marginal if why_no_volume(model) is None else fit_map
    return fit(model, progressbar=False)


def _check_prior(model: pm.Model) -> None:
    if PositionPrior.of(model).is_standard_normal:
        return
    raise ValueError(
        "cross_validate integrates over the place of a new row under X ~ N(0, 1), got a model with "
        "another prior of X. Leave X's prior at its default."
    )
