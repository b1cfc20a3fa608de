"""Relevance of each latent dimension, and how many are in use."""

import numpy as np
import pandas as pd
import xarray as xr

from pm_gplvm.core.checks import checked, interval
from pm_gplvm.data.fit import LATENT, Fit


def relevance(read: Fit) -> xr.DataArray:
    """Spread of X along each latent dimension in lengthscales, dims (draw, latent), all chains' draws.

    Along a dimension in which all rows lie within a small part of a lengthscale the function hardly
    changes. The number does not depend on the scale of X. For a fit with a q(x) of each row it is the
    spread of the means of q, which are all 0 where q is the prior.
    """
    X, unit = read.values("X"), read.unit_of_positions()
    unit = np.ones((1, 1)) if unit is None else unit
    if read.has_q:
        # After align only the draws are in the orientation of the fit, q is not.
        mean = (
            X.mean(axis=0) if read.is_aligned else read.group("approximation")["X_mean"].to_numpy()
        )
        X, unit = mean[None], unit[:1]
    draws = read.draws("X")
    labels = draws.get_index(draws.dims[-1]).to_numpy()
    spread = X.std(axis=1)
    for q in read.angles:  # over the circle: by the chord
        spread[:, q] = np.hypot(np.cos(X[..., q]).std(axis=1), np.sin(X[..., q]).std(axis=1))
    return xr.DataArray(spread / unit, dims=("draw", LATENT), coords={LATENT: labels})


@checked
def active_dimensions(fit: xr.DataTree, *, threshold: float = 0.05) -> pd.DataFrame:
    """Count the latent dimensions in use.

    The relevance of a dimension is the spread of X along it in units of its lengthscale. A dimension
    is in use if its relevance is at least ``threshold`` times that of the most relevant one, in at least
    half of the draws.

    Parameters
    ----------
    fit : DataTree
        Best of a model with ``ard=True``. With one lengthscale for all dimensions the orientation of X
        is arbitrary, and so are the numbers.
    threshold : float, default 0.05

    Returns
    -------
    DataFrame
        One row a latent dimension, the most relevant first: ``relevance``, its median over the
        draws; ``low`` and ``high``, the ends of its 89 % interval, NaN with one draw; ``in_use``, a
        bool; ``probability``, the share of draws in which it is in use. The number of dimensions in use is
        ``table["in_use"].sum()``.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, or ``threshold`` does not lie between 0 and 1.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=30), latent_dim=3, ard=True)
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> gplvm.diagnostics.active_dimensions(best).columns.tolist()
    ['relevance', 'low', 'high', 'in_use', 'probability']
    """
    found = relevance(Fit.of(fit, "X", caller="active_dimensions"))
    values = found.to_numpy()
    probability = (values >= threshold * values.max(axis=1, keepdims=True)).mean(axis=0)
    low, high = interval(values)
    table = pd.DataFrame(
        {
            "relevance": np.median(values, axis=0),
            "low": low,
            "high": high,
            "in_use": probability >= 0.5,
            "probability": probability,
        },
        index=pd.Index(found[LATENT].to_numpy(), name=LATENT),
    )
    return table.sort_values("relevance", ascending=False)


def dominant(read: Fit) -> tuple[int, int]:
    """Return the two most relevant dimensions, or 0 and 1 where all share a lengthscale."""
    values = np.median(relevance(read).to_numpy(), axis=0)
    # Drawn or held: one a draw, or one for each dimension too.
    has_ard = "lengthscale" in read and read.values("lengthscale").ndim == 2
    if not has_ard and not read.has_q:
        return 0, 1
    first, second = np.argsort(-values)[:2]
    return int(first), int(second)
