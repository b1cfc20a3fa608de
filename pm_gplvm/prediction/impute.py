"""Missing entries of new rows, and of the training rows, from those that were seen."""

from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.fit import FEATURE, Fit
from pm_gplvm.prediction.embed import positions_of_table, readable
from pm_gplvm.prediction.predict import reconstruct
from pm_gplvm.prediction.processes import each_process, mixed, parts, patterns_of
from pm_gplvm.prediction.uncollapsed import mixed_responses, offset_of


@checked
def impute(
    fit: xr.DataTree,
    Y_new: Any = None,
    *,
    prior: Any = None,
    num_samples: int = 20,
    draws: int = 1000,
    n_starts: int = 16,
    offset: Any = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.Dataset:
    """Fill the missing entries of new rows, or of those that the fit was made from.

    The prediction at x is mixed over the posterior of x given the entries seen, as :func:`embed`
    finds it, by the law of total variance:

        mean = E m(x),  sd² = E v(x) + var m(x),

    m and v those of a measurement, its noise included. The positions of the training rows are those of
    the fit's draws, as in :func:`reconstruct`; of a variational fit they are integrated over q(X).

    Parameters
    ----------
    Y_new : array_like, DataFrame or DataArray, optional
        By default the table that the fit was made from, with ``missing="mask"``; of the other
        arguments ``num_samples`` alone then matters.
    fit, prior, num_samples, draws, n_starts, offset, random_seed, progressbar, blas_threads
        As in :func:`embed`.

    Returns
    -------
    Dataset, dims (obs_new, feature), or (obs, feature) for the training rows
        ``mean`` and ``sd`` in the units of Y. Entries seen stand in ``mean`` as they are, with
        ``sd`` 0. ``pareto_k`` (obs_new,) of the weights: above 0.7 do not rely on the row; there is
        none of training rows. Where :func:`embed` finds several modes, the prediction may have several too.

    Raises
    ------
    TypeError, ValueError, KeyboardInterrupt
        As in :func:`embed`.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=32)
    >>> best = gplvm.fit_marginal(gplvm.build_model(Y[:30]), progressbar=False)
    >>> holes = Y[30:].where(Y["feature"] != Y["feature"][20])
    >>> filled = gplvm.impute(best, holes, random_seed=1, progressbar=False)
    >>> int(np.isnan(holes).sum()), int((filled["sd"] > 0).sum())
    (2, 2)
    """
    if Y_new is None:
        return _filled(fit, num_samples)
    settings = {"num_samples": num_samples, "draws": draws, "n_starts": n_starts}
    read = readable(fit, settings, "impute")
    new, positions, _ = positions_of_table(
        read, Y_new, prior, settings, random_seed, blas_threads, progressbar, offset=offset
    )
    weights, k = positions.smoothed()
    if read.has_likelihood:
        with limit_threads(blas_threads):
            found = mixed_responses(read, new, positions, weights, offset_of(read, new, offset))
        return _together(new, k, *found)
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)
    first, second = np.zeros(new.shape), np.zeros(new.shape)
    n_used = positions.n_draws
    each = weights.shape[1] // n_used
    with limit_threads(blas_threads):
        for s, draw in enumerate(each_process(read, n_used)):
            part = slice(s * each, (s + 1) * each)
            for _, columns, which, block, own in parts(draw, F, patterns):
                known = own.weights(block)
                for row in range(len(new)):
                    variance = positions.variance[row, part][:, which]
                    x, w = positions.x[row, part], weights[row, part]
                    mean, square = mixed(own, known, x, w, variance)
                    first[row, columns] += mean
                    second[row, columns] += square
    variance = np.maximum(second - first**2, 0.0)
    return _together(new, k, centre + scale * first, scale * np.sqrt(variance))


def _together(new: xr.DataArray, k: Array, mean: Array, sd: Array) -> xr.Dataset:
    """Put what was seen and what was predicted together."""
    missing = np.isnan(new.to_numpy())
    dims = ("obs_new", FEATURE)
    return xr.Dataset(
        {
            "mean": (dims, np.where(missing, mean, new.to_numpy())),
            "sd": (dims, np.where(missing, sd, 0.0)),
            "pareto_k": ("obs_new", k),
        },
        coords=new.coords,
    )


def _filled(fit: xr.DataTree, num_samples: int) -> xr.Dataset:
    """Fill the missing entries of the training rows."""
    known = reconstruct(fit, noise=True, num_samples=num_samples)
    observed = Fit(fit, "impute").Y.transpose(*known["mean"].dims)
    missing = observed.isnull()
    return known.assign(
        mean=observed.where(~missing, known["mean"]), sd=known["sd"].where(missing, 0.0)
    )
