"""Rows that a fit has not seen: checked, in its columns, and what is known of their places."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.draws import data_of, evenly_spaced
from pm_gplvm.preprocess import _labelled as labelled
from pm_gplvm.rowdensity import Rows
from pm_gplvm.schema import FEATURE, LATENT, OBS, draws_of, require_fit

__all__ = ["new_table", "require_exact", "rows_by_draw"]

Array = NDArray[np.float64]


def require_exact(fit: xr.DataTree, *, caller: str) -> None:
    """Refuse what is no fit of the exact model.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is none, lacks X, sigma or its table, or went through inducing inputs.
    """
    require_fit(fit, "X", "sigma", "Y_mean", "Y_scale", caller=caller)
    if "approximation" in fit.children:
        raise ValueError(
            f"{caller} needs a fit of the exact model, got a sparse or variational one. Go on from it "
            "with fit_map(build_model(Y), start=fit)."
        )


def new_table(fit: xr.DataTree, Y_new: Any, *, caller: str) -> xr.DataArray:
    """Check new rows and bring their columns into the order of the fit's.

    Returns
    -------
    DataArray, dims (obs_new, feature), shape (M, D)
        In the user's units, NaN where missing; with the labels of its rows.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is none, or ``Y_new`` has other columns, no row, a row without any entry, or
        infinite values.
    """
    require_exact(fit, caller=caller)
    new, known = labelled(Y_new), fit["observed_data"][FEATURE].to_numpy()
    has_names = isinstance(Y_new, pd.DataFrame | xr.DataArray)
    other = [str(n) for n in new[FEATURE].to_numpy() if has_names and n not in known]
    if new.sizes[FEATURE] != len(known) or other:
        names = f", {', '.join(other[:5])} among them" if other else ""
        raise ValueError(
            f"Y_new must have the {len(known)} columns of the fit's table, got "
            f"{new.sizes[FEATURE]}{names}. Put NaN into columns that were not measured."
        )
    if not len(new):
        raise ValueError("Y_new must have at least one row, got none.")
    values = new.to_numpy()
    if np.isinf(values).any():
        raise ValueError("Y_new must not be infinite; put NaN where an entry is missing.")
    if (empty := np.isnan(values).all(axis=1)).any():
        raise ValueError(
            f"Y_new must have an entry in every row, got {int(empty.sum())} rows of NaN alone, first "
            f"row {int(empty.argmax())}. Drop them."
        )
    new = new.sel({FEATURE: known}) if has_names else new.assign_coords({FEATURE: known})
    return new.rename({OBS: "obs_new"})


def rows_by_draw(fit: xr.DataTree, new: xr.DataArray, prior: Any, limit: int) -> list[Rows]:
    """Standardise new rows, once for each draw that is used, with the prior of their places.

    Parameters
    ----------
    fit : DataTree
    new : DataArray, dims (obs_new, feature), shape (M, D)
    prior : tuple of array_like (mean, sd), or None
        Each a number, (Q,) or (M, Q), in the frame of the fit's X; None for N(0, 1) of the draw as
        it was made, before :func:`align` moved it.
    limit : int
        At most so many draws.

    Raises
    ------
    TypeError, ValueError
        If ``prior`` is no such pair, or not finite, or an sd is not positive.
    """
    _, centre, scale = data_of(fit, caller="embed")
    values = (new.to_numpy() - centre) / scale
    seen = ~np.isnan(values)
    y = np.where(seen, values, 0.0)
    X = draws_of(fit, "X")
    shape = (len(new), X.sizes[LATENT])
    chosen = evenly_spaced(X.shape[0] * X.shape[1], limit)
    if prior is None:
        pairs = _default(fit, shape[1], chosen)
    else:
        pairs = [_given(prior, shape)] * len(chosen)
    return [
        Rows(y, seen, np.broadcast_to(mean, shape), np.broadcast_to(sd, shape))
        for mean, sd in pairs
    ]


def _default(fit: xr.DataTree, Q: int, chosen: NDArray[np.intp]) -> list[tuple[Array, Array]]:
    """N(0, 1) in the frame of each draw: what is rotated stays, what was moved moves along."""
    shift, scale = np.zeros((len(chosen), Q)), np.ones((len(chosen), 1))
    if "aligned" in fit.children:
        group = fit["aligned"].to_dataset()
        shift = group["shift"].to_numpy().reshape(-1, Q)[chosen]
        if "scale" in group:
            scale = group["scale"].to_numpy().reshape(-1, 1)[chosen]
    return list(zip(shift, scale, strict=True))


def _given(prior: Any, shape: tuple[int, int]) -> tuple[Array, Array]:
    try:
        mean, sd = (np.broadcast_to(np.asarray(p, dtype=np.float64), shape) for p in prior)
    except (TypeError, ValueError):
        raise ValueError(
            "prior must be a pair (mean, sd), each a number or of shape (latent_dim,) = "
            f"({shape[1]},) or (rows, latent_dim) = {shape}, got {prior!r}."
        ) from None
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0.0).all()):
        raise ValueError("prior must have finite means and positive, finite standard deviations.")
    return mean, sd
