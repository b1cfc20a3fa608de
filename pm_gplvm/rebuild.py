"""The model that a fit came from, built again from what the fit tells."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from numpy.typing import NDArray
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RNGConsumerOp

from pm_gplvm.kernels import KERNELS
from pm_gplvm.model import build_model
from pm_gplvm.schema import LATENT, THETA, draws_of, has_own_noise, require_fit
from pm_gplvm.table import Scale, as_table, centre_and_scale

__all__ = ["priors_of", "rebuild_model"]

_FLAT = {"Flat()", "HalfFlat()"}


def rebuild_model(fit: xr.DataTree, *, priors: Mapping[str, Any] | None = None) -> pm.Model:
    """Build the model of a fit again, without the table that it was first built from.

    The table, its labels, mean and scale, the kernel and what was held fixed stand in the fit. Of
    the priors it only tells what they were: those that :func:`build_model` does not have by
    default must be given again, and are compared.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`, for instance from :func:`load`.
    priors : mapping, optional
        As in :func:`build_model`, for those that were neither the default nor a number nor "flat".

    Returns
    -------
    pm.Model
        On which :func:`fit_marginal`, :func:`sample`, :func:`sample_more` and the others go on.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is none of a model of :func:`build_model`, or had other priors.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> model = gplvm.rebuild_model(best)
    >>> better = gplvm.fit_marginal(
    ...     model, start=best, n_restarts=1, random_seed=1, progressbar=False
    ... )
    """
    require_fit(fit, "X", "sigma", "Y_mean", "Y_scale", caller="rebuild_model")
    kernel, noted = fit.attrs.get("kernel", "custom"), fit.attrs.get("priors")
    if kernel not in KERNELS or noted is None:
        raise ValueError(
            "rebuild_model needs a fit of a model of build_model, got one with a covariance of its own "
            "or without a note of its priors. Build the model as it was first built."
        )
    had, constant = json.loads(noted), fit["constant_data"].to_dataset()
    known = {*fit["posterior"].data_vars, *constant.data_vars}
    flat = {name: "flat" for name, text in had.items() if text in _FLAT}
    held = {n: constant[n].to_numpy() for n in ("X", *THETA) if n in constant and n not in had}
    table = fit["observed_data"].to_dataset()[fit.attrs["observed"]]
    model = build_model(
        table,
        draws_of(fit, "X").sizes[LATENT],
        kernel=f"{kernel} + bias" if "bias" in known else kernel,
        ard="lengthscale" in known and LATENT in draws_of(fit, "lengthscale").dims,
        priors={**flat, **held, **(priors or {})},
        scale=_scale(table, constant["Y_scale"].to_numpy()),
        missing="mask",
        resolution=constant["Y_resolution"].to_numpy() if "Y_resolution" in constant else 0,
        noise="column" if has_own_noise(fit) else "shared",
    )
    # The very numbers, also where they were not made by a rule.
    for name in ("Y_mean", "Y_scale"):
        model[name].set_value(constant[name].to_numpy())
    _compare(had, priors_of(model))
    return model


def _scale(table: xr.DataArray, spread: NDArray[np.float64]) -> Scale:
    """Find the rule that gives these scales of the columns."""
    rules: tuple[Scale, ...] = ("global", "feature", "none")
    for rule in rules:
        with suppress(ValueError):  # "feature" refuses constant columns
            if np.array_equal(centre_and_scale(as_table(table, missing="mask"), rule)[1], spread):
                return rule
    return "none"


def _compare(had: Mapping[str, str], has: Mapping[str, str]) -> None:
    other = [name for name in {**had, **has} if had.get(name) != has.get(name)]
    if other:
        found = "; ".join(
            f"{name} had {had.get(name, 'none')}, now {has.get(name, 'none')}" for name in other
        )
        raise ValueError(
            f"rebuild_model must have the priors of the fit, got others: {found}. Give them as they "
            f"were given to build_model: priors={{'{other[0]}': ...}}."
        )


def priors_of(model: pm.Model) -> dict[str, str]:
    """Tell the prior of every free variable, in a text that no other prior has.

    Returns
    -------
    dict
        Name to text: "InverseGamma(3.0, 2.0)"; arrays of numbers by shape and SHA-256; the words
        of PyMC where the parameters are variables themselves.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> priors_of(gplvm.build_model(gplvm.load_digits(n=20)))["sigma"]
    'LogNormal(-2.0, 1.0)'
    """
    return {rv.name: _text(rv) for rv in model.free_RVs}


def _text(rv: Variable) -> str:
    op = rv.owner.op
    parameters = op.dist_params(rv.owner)
    random = any(v.owner and isinstance(v.owner.op, RNGConsumerOp) for v in ancestors(parameters))
    if random:
        return rv.str_repr().partition("~")[2].strip()
    values = pytensor.function([], parameters, mode="FAST_COMPILE")()
    return f"{op._print_name[0]}({', '.join(map(_number, values))})"


def _number(value: Any) -> str:
    value = np.asarray(value, dtype=np.float64)
    if value.size and (value == value.flat[0]).all():
        return repr(float(value.flat[0]))
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
    return f"array {value.shape} {digest}"
