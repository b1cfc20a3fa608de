"""Unseen rows: their checks, the prior of their positions, and their positions as a DataTree."""

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, Fit
from pm_gplvm.data.table import labelled
from pm_gplvm.model.priors import kind_of_prior, mapped
from pm_gplvm.prediction.row_density import Rows

_STANDARD = "Normal(0.0, 1.0)"


def new_table(read: Fit, Y_new: Any) -> xr.DataArray:
    """Check new rows and bring their columns (obs_new, feature) into the order of the fit's.

    In the user's units, NaN where missing, with the labels of its rows.
    """
    if np.ndim(Y_new) == 1:
        raise ValueError(
            f"Y_new must have two dimensions (obs_new, feature), got shape {np.shape(Y_new)}. For a "
            "single row pass Y_new[None]."
        )
    new, known = labelled(Y_new), read.features
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


def rows_by_draw(read: Fit, new: xr.DataArray, prior: Any, limit: int) -> list[Rows]:
    """Standardise new rows, once for each of at most ``limit`` draws, with the prior of their positions.

    ``prior`` is (mean, sd), each a number, (Q,) or (M, Q), in the frame of the fit's X; None stands for
    N(0, 1) of the draw as it was made, before :func:`align` moved it.
    """
    _, centre, scale = read.table()
    values = (new.to_numpy() - centre) / scale
    seen = ~np.isnan(values)
    y = np.where(seen, values, 0.0)
    shape, chosen = (len(new), read.latent_dim), read.evenly_spaced(limit)
    if prior is None:
        _warn_of_prior(read)
        priors = kind_of_prior(read.constants).new_row(read, chosen)
    else:
        priors = [(*_given(prior, shape), None)] * len(chosen)
    return [
        Rows(y, seen, np.broadcast_to(mean, shape), np.broadcast_to(sd, shape), mixture)
        for mean, sd, mixture in priors
    ]


def _warn_of_prior(read: Fit) -> None:
    """Warn if the prior of a new row may not be N(0, 1)."""
    text = (read.priors or {}).get("X", _STANDARD)
    if text != _STANDARD and kind_of_prior(read.constants).name is None:
        warnings.warn(
            f"The place of a new row has the prior N(0, 1) here, while X had {text}. Give "
            "prior=(mean, sd).",
            RuntimeWarning,
            stacklevel=5,
        )


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


def row_labels(new: xr.DataArray) -> dict[Any, Any]:
    """Coordinates along the new rows."""
    return {name: coord for name, coord in new.coords.items() if coord.dims == ("obs_new",)}


def tree_of_positions(
    read: Fit,
    new: xr.DataArray,
    X: Array,
    found: tuple[Array, Array, Array],
    rows: dict[str, NDArray[Any]],
) -> xr.DataTree:
    """Put together what :func:`pm_gplvm.embed` returns.

    ``X`` (S, M, Q) are the draws; ``found`` the modes (M, J, Q), their sd and weights (M, J); ``rows``
    what is known of each row, (M,).
    """
    at, sd, weight = found
    coords: dict[str, Any] = {**row_labels(new), LATENT: read.draws("X")[LATENT].to_numpy()}
    modes = {
        "X": (("obs_new", "mode", LATENT), at),
        "sd": (("obs_new", "mode", LATENT), sd),
        "weight": (("obs_new", "mode"), weight),
    }
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"X": (("chain", "draw", "obs_new", LATENT), X[None])},
                coords={**coords, "chain": [0], "draw": np.arange(len(X))},
            ),
            "modes": xr.Dataset(modes, coords={**coords, "mode": np.arange(weight.shape[1])}),
            "rows": xr.Dataset(
                {name: ("obs_new", values) for name, values in rows.items()},
                coords=row_labels(new),
            ),
        }
    )
    tree.attrs = {"pm_gplvm_version": version("pm_gplvm"), "method": "embed"}
    return tree


def positions_by_map(read: Fit, new: xr.DataArray, draws: int) -> xr.DataTree:
    """Positions X = g(Y) of new rows without missing entries, one for each of so many draws of the fit."""
    F, centre, scale = read.table(missing=False)
    F_new = (new.to_numpy() - centre) / scale
    if np.isnan(F_new).any():
        raise ValueError(
            "embed needs whole rows for a fit with back constraints, as a place is a function of all of "
            "it, got missing entries. Give prior=(0.0, 1.0) to place them by their density instead."
        )
    chosen = read.evenly_spaced(draws)
    frames = read.frames(chosen)
    positions = mapped(read, F, F_new, read.values("X", raw=True)[chosen])
    X = np.stack([frames.inward(i, x) for i, x in enumerate(positions)])
    M = len(new)
    found = (X.mean(axis=0)[:, None], X.std(axis=0)[:, None], np.ones((M, 1)))
    rows = {
        "effective_modes": np.ones(M),
        "ess": np.full(M, float(len(X))),
        "pareto_k": np.full(M, np.nan),
        "shortfall": np.full(M, np.nan),
        "converged": np.ones(M, dtype=bool),
    }
    tree = tree_of_positions(read, new, X, found, rows)
    tree.attrs["draws"] = len(X)
    return tree
