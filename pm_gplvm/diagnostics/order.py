"""Rows in the order of one latent dimension, and how sure their places in it are."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import rankdata

from pm_gplvm.core.checks import checked, count, interval
from pm_gplvm.data.fit import OBS, Fit
from pm_gplvm.model.priors import kind_of_prior


@checked
def order(fit: xr.DataTree, *, dim: int = 0) -> pd.DataFrame:
    """Put the rows in the order of a latent dimension, with intervals of position and rank.

    For a dimension that means something: pseudotime under :func:`priors.informative`, whose first dimension is told
    capture times. Ranks are taken in each draw, so that rows that vary together keep their order.

    Parameters
    ----------
    fit : DataTree
        Of :func:`sample`, :func:`fit_laplace` or :func:`fit_variational`, whose draws of X, of q(x) in the last two,
        give the intervals; an estimate gives the order alone.
    dim : int, default 0
        Which latent dimension, from 0.

    Returns
    -------
    DataFrame
        One row for each row of the table, in its order: ``position``, the mean over the draws; ``sd``; ``low`` and ``high``,
        the ends of the 89 % interval; ``rank``, of the means, 1 for the first, ties halved; ``rank_low`` and ``rank_high``, the
        ends of the 89 % interval of the ranks. NaN where there is one draw, but for ``position`` and ``rank``.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, or ``dim`` is none of its dimensions.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own, as those of :func:`sample` under the default prior do, so that no
        dimension is the same in all of them (:func:`align`).

    Notes
    -----
    The intervals are those of x under the model, with its inducing inputs and its θ where these are held. They say nothing
    of whether the dimension is time.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=30)
    >>> told = gplvm.priors.informative(np.linspace(-1.5, 1.5, 30), 0.3)
    >>> model = gplvm.build_model(Y, priors={"X": told})
    >>> fit = gplvm.fit_variational(model, n_inducing=10, random_seed=1, progressbar=False)
    >>> table = gplvm.diagnostics.order(fit)
    >>> table.columns.tolist()
    ['position', 'sd', 'low', 'high', 'rank', 'rank_low', 'rank_high']
    """
    read = Fit.of(fit, "X", caller="order")
    count("dim", dim, 0, read.latent_dim - 1)
    if not kind_of_prior(read.constants).anchored:
        read.warn_unaligned()
    x = read.values("X")[:, :, dim]
    ranks = rankdata(x, axis=1)
    position, (low, high), (first, last) = x.mean(axis=0), interval(x), interval(ranks)
    sd = x.std(axis=0) if len(x) > 1 else np.full_like(position, np.nan)
    return pd.DataFrame(
        {
            "position": position,
            "sd": sd,
            "low": low,
            "high": high,
            "rank": rankdata(position),
            "rank_low": first,
            "rank_high": last,
        },
        index=pd.Index(read.row_names(len(position)), name=OBS),
    )
