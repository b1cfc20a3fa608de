"""The places of new rows as a DataTree; and those that back constraints give at once."""

from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.draws import data_of, evenly_spaced
from pm_gplvm.latent_priors import mapped
from pm_gplvm.newrows import Frames
from pm_gplvm.schema import LATENT, draws_of

__all__ = ["places_by_map", "row_labels", "tree_of_places"]


def row_labels(new: xr.DataArray) -> dict[Any, Any]:
    """Coordinates along the new rows."""
    return {name: coord for name, coord in new.coords.items() if coord.dims == ("obs_new",)}


def tree_of_places(
    fit: xr.DataTree,
    new: xr.DataArray,
    X: Array,
    found: tuple[Array, Array, Array],
    rows: dict[str, NDArray[Any]],
) -> xr.DataTree:
    """Put together what :func:`pm_gplvm.embed` returns.

    Parameters
    ----------
    fit : DataTree
    new : DataArray, dims (obs_new, feature)
    X : ndarray, shape (S, M, Q)
    found : tuple of ndarray
        Modes (M, J, Q), their standard deviations, and weights (M, J).
    rows : dict
        What is known of each row, shape (M,).
    """
    at, sd, weight = found
    coords: dict[str, Any] = {**row_labels(new), LATENT: draws_of(fit, "X")[LATENT].to_numpy()}
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


def places_by_map(fit: xr.DataTree, new: xr.DataArray, draws: int) -> xr.DataTree:
    """Place new rows by X = g(Y): one place for each of so many draws of the fit.

    Raises
    ------
    ValueError
        If a row has missing entries.
    """
    F, centre, scale = data_of(fit, caller="embed")
    F_new = (new.to_numpy() - centre) / scale
    if np.isnan(F_new).any():
        raise ValueError(
            "embed needs whole rows for a fit with back constraints, as a place is a function of all of "
            "it, got missing entries. Give prior=(0.0, 1.0) to place them by their density instead."
        )
    raw = draws_of(fit, "X", raw=True).to_numpy()
    chosen = evenly_spaced(raw.shape[0] * raw.shape[1], draws)
    frames = Frames.of(fit, chosen)
    places = mapped(fit, F, F_new, raw.reshape(-1, *raw.shape[2:])[chosen])
    X = np.stack([frames.inward(i, x) for i, x in enumerate(places)])
    M = len(new)
    found = (X.mean(axis=0)[:, None], X.std(axis=0)[:, None], np.ones((M, 1)))
    rows = {
        "effective_modes": np.ones(M),
        "ess": np.full(M, float(len(X))),
        "pareto_k": np.full(M, np.nan),
        "shortfall": np.full(M, np.nan),
        "converged": np.ones(M, dtype=bool),
    }
    tree = tree_of_places(fit, new, X, found, rows)
    tree.attrs["draws"] = len(X)
    return tree
