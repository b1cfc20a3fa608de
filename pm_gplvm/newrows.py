"""Rows that a fit has not seen: checked, in its columns, and what is known of their places."""

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.processes import Frames, data_of, evenly_spaced
from pm_gplvm.rowdensity import Mixture, Rows
from pm_gplvm.schema import FEATURE, LATENT, OBS, draws_of, require_fit
from pm_gplvm.table import labelled

__all__ = ["new_table", "require_exact", "rows_by_draw"]

_STANDARD = "Normal(0.0, 1.0)"


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
            "with fit_marginal(build_model(Y), start=fit)."
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
    if np.ndim(Y_new) == 1:
        raise ValueError(
            f"Y_new must have two dimensions (obs_new, feature), got shape {np.shape(Y_new)}. For a "
            "single row pass Y_new[None]."
        )
    new, known = labelled(Y_new), fit["observed_data"][FEATURE].to_numpy()
    has_names = isinstance(Y_new, pd.DataFrame | xr.DataArray)
    other = [str(n) for n in new[FEATURE].to_numpy() if has_names and n not in known]
    if new.sizes[FEATURE] != len(known) or other:
        names = f", {', '.join(other[:5])} among them" if other else ""
        raise ValueError(
            f"Y_new must have the {len(known)} columns of the fit's table, got "
            f"{new.sizes[FEATURE]}{names}. Put NaN into columns that were not measured"
            f"{', or pass Y_new.T' if len(new) == len(known) else ''}."
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
    _, centre, scale = data_of(fit, caller="embed", missing=True)
    values = (new.to_numpy() - centre) / scale
    seen = ~np.isnan(values)
    y = np.where(seen, values, 0.0)
    X = draws_of(fit, "X")
    shape = (len(new), X.sizes[LATENT])
    chosen = evenly_spaced(X.shape[0] * X.shape[1], limit)
    if prior is None and "X_class" in fit["constant_data"]:
        mixtures = _classes(fit, chosen)
        moments = ((np.broadcast_to(m, shape) for m in (k.mean, k.spread)) for k in mixtures)
        return [
            Rows(y, seen, mean, sd, mixture)
            for (mean, sd), mixture in zip(moments, mixtures, strict=True)
        ]
    if prior is None:
        _warn_of_prior(fit)
        pairs = _default(fit, chosen)
    else:
        pairs = [_given(prior, shape)] * len(chosen)
    return [
        Rows(y, seen, np.broadcast_to(mean, shape), np.broadcast_to(sd, shape))
        for mean, sd in pairs
    ]


def _classes(fit: xr.DataTree, chosen: NDArray[np.intp]) -> list[Mixture]:
    """Mix the classes of :func:`pm_gplvm.classes` in the frame of each draw."""
    share = fit["constant_data"]["X_share"].to_numpy()
    centre, within = (draws_of(fit, f"X_{part}").to_numpy() for part in ("centre", "within"))
    centres, spreads = centre.reshape(-1, *centre.shape[2:])[chosen], within.reshape(-1)[chosen]
    frames = Frames.of(fit, chosen)
    return [
        Mixture(share, frames.inward(i, c), float(s * frames.scale[i, 0]))
        for i, (c, s) in enumerate(zip(centres, spreads, strict=True))
    ]


def _warn_of_prior(fit: xr.DataTree) -> None:
    """Say so where the model's own prior of X cannot be known to be N(0, 1) for a new row."""
    text = json.loads(fit.attrs.get("priors", "{}")).get("X", _STANDARD)
    if text != _STANDARD and not {"X_prior_mean", "X_time"} & set(fit["constant_data"].data_vars):
        warnings.warn(
            f"The place of a new row has the prior N(0, 1) here, while X had {text}. Give "
            "prior=(mean, sd).",
            RuntimeWarning,
            stacklevel=5,
        )


def _default(fit: xr.DataTree, chosen: NDArray[np.intp]) -> list[tuple[Array, Array]]:
    """N(0, 1) in the frame of each draw: what is rotated stays, what was moved moves along."""
    frames = Frames.of(fit, chosen)
    return list(zip(frames.shift, frames.scale, strict=True))


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
