"""Names of dimensions and variables, in one place, and what a fit must hold."""

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = [
    "CLASS",
    "FEATURE",
    "LATENT",
    "OBS",
    "THETA",
    "classes_of",
    "draws_of",
    "has_own_noise",
    "noise_of",
    "observed_of",
    "require_fit",
    "warn_unaligned",
]

OBS, FEATURE, LATENT, CLASS = "obs", "feature", "latent", "latent_class"

THETA = ("lengthscale", "amplitude", "weight", "sigma", "bias")
"""The hyperparameters that a model built here may have, in the order of its tables."""


_HOLDERS = {"posterior", "constant_data"}
_TURNED = {"X", "lengthscale"}


def require_fit(fit: Any, *variables: str, caller: str) -> xr.DataTree:
    """Return ``fit`` if it is a DataTree with a posterior and the named variables.

    Parameters
    ----------
    fit : Any
    *variables : str
        Each must stand in ``posterior`` or, where it was held fixed, in ``constant_data``.
    caller : str
        Named in the message.

    Raises
    ------
    TypeError
        If ``fit`` is not a DataTree.
    ValueError
        If a group or a variable is missing.
    """
    if not isinstance(fit, xr.DataTree):
        raise TypeError(
            f"{caller} needs a fit (a DataTree, as fit_marginal and sample_theta return it), "
            f"got {type(fit).__name__}."
        )
    if "posterior" not in fit.children:
        groups = ", ".join(fit.children) or "none"
        raise ValueError(
            f"{caller} needs a fit with the group 'posterior', got the groups: {groups}."
        )
    known = {str(name) for group in _HOLDERS & set(fit.children) for name in fit[group].data_vars}
    for name in variables:
        if name not in known:
            raise ValueError(
                f"{caller} needs the variable {name!r}, in posterior or constant_data; the fit has "
                f"{', '.join(map(str, fit['posterior'].data_vars))}. Was it made by a model of "
                "build_model?"
            )
    return fit


def observed_of(fit: xr.DataTree, *, caller: str) -> xr.DataArray:
    """Return the table of a fit, in the user's units.

    Raises
    ------
    ValueError
        If the fit does not tell which of its variables that is.
    """
    if "observed" not in fit.attrs:
        raise ValueError(
            f"{caller} needs a fit of this package, whose attrs name the table, got a DataTree without "
            "it. Draw with sample or sample_theta instead of pm.sample."
        )
    return fit["observed_data"].to_dataset()[fit.attrs["observed"]]


def classes_of(fit: xr.DataTree, name: str) -> NDArray[Any]:
    """Read a coordinate along the rows of a fit.

    Raises
    ------
    ValueError
        If the fit has none of that name.
    """
    coords = fit["observed_data"].to_dataset().coords
    if name not in coords:
        kept = [str(key) for key, value in coords.items() if value.dims == (OBS,)]
        raise ValueError(
            f"The fit has no coordinate {name!r} along its rows, got {', '.join(kept) or 'none'}. Give Y as "
            "a DataArray with that coordinate, or pass one value a row."
        )
    return np.asarray(coords[name].to_numpy())


def draws_of(fit: xr.DataTree, name: str, *, raw: bool = False) -> xr.DataArray:
    """All draws of a variable, one value a draw also where it was held fixed.

    Parameters
    ----------
    fit : DataTree
    name : str
    raw : bool, default False
        Whether X and the lengthscale are wanted as the sampler drew them, also of a fit that
        has been aligned. Otherwise they come from the group ``aligned`` where it has them, so
        that all who read a fit see one frame.

    Returns
    -------
    DataArray, dims (chain, draw, ...)
    """
    if not raw and name in _TURNED and "aligned" in fit.children and name in fit["aligned"]:
        return fit["aligned"].to_dataset()[name]
    posterior = fit["posterior"].to_dataset()
    if name in posterior:
        return posterior[name].transpose("chain", "draw", ...)
    fixed = fit["constant_data"].to_dataset()[name]
    return fixed.expand_dims({"chain": posterior["chain"], "draw": posterior["draw"]})


def has_own_noise(fit: xr.DataTree) -> bool:
    """Whether the columns of a fit have an amplitude and a noise each (``noise="column"``)."""
    return FEATURE in draws_of(fit, "sigma").dims


# What samples X anew in each draw, and so in a frame of its own; PyMC itself leaves no method.
_UNTURNED = {"replica_exchange", ""}


def noise_of(fit: xr.DataTree) -> xr.DataArray:
    """Give the standard deviation of all noise in each draw, its floor included, (chain, draw)."""
    floor = fit["constant_data"].to_dataset().get("Y_resolution", 0.0)
    sigma = draws_of(fit, "sigma")
    return sigma.copy(data=np.hypot(sigma.to_numpy(), np.asarray(floor)))


def warn_unaligned(fit: xr.DataTree, *, caller: str) -> None:
    """Warn where positions of different draws are about to be averaged in different frames.

    Warns
    -----
    RuntimeWarning
        If ``fit`` has draws of X by a sampler and has not been through :func:`pm_gplvm.align`.
    """
    if "aligned" in fit.children or "X" not in fit["posterior"]:
        return
    sizes = fit["posterior"].sizes
    if fit.attrs.get("method", "") in _UNTURNED and sizes["chain"] * sizes["draw"] > 1:
        warnings.warn(
            f"{caller} got draws of X each in a frame of its own, rotated and reflected at random: their "
            "mean is no embedding. Call fit = align(fit) first.",
            RuntimeWarning,
            stacklevel=3,
        )
