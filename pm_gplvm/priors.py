"""Priors by name, number, distribution or function."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Variable

__all__ = ["DEFAULT_PRIORS", "add_prior"]

Prior = Any
"""A number (held fixed), ``"flat"``, a ``pm.Distribution.dist(...)`` or ``f(name, dims)``."""

DEFAULT_PRIORS: Mapping[str, Callable[[], Variable]] = {
    "X": lambda: pm.Normal.dist(0.0, 1.0),
    # Bounded away from 0: with N(0, 1) on X the pair (X, lengthscale) may shrink together at no
    # cost in likelihood, and a density that does not vanish at 0 leaves the mode without a place.
    "lengthscale": lambda: pm.InverseGamma.dist(3.0, 2.0),
    "amplitude": lambda: pm.LogNormal.dist(0.0, 1.0),
    "weight": lambda: pm.HalfNormal.dist(1.0),  # finite at 0: the linear part may vanish
    "sigma": lambda: pm.LogNormal.dist(-2.0, 1.0),
    "bias": lambda: pm.HalfNormal.dist(1.0),
}
"""The default of each parameter; amplitude, weight (per unit of X), sigma and bias in units
of the data's scale."""


def add_prior(
    name: str, prior: Prior, *, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    """Add one parameter to the model on the context stack.

    Parameters
    ----------
    name : str
    prior : number, array, "flat", unregistered distribution or callable
        A number is held fixed and stands in ``constant_data``. "flat" is the improper constant
        density (on the positive numbers where the parameter is positive). A distribution made
        by ``.dist()`` is brought to the parameter's shape. A callable ``f(name, dims)`` must
        register the variable itself and return it.
    dims, shape : tuple
        Of the parameter.
    positive : bool
        Whether the parameter is a standard deviation or a length.

    Returns
    -------
    TensorVariable

    Raises
    ------
    TypeError, ValueError
        If the prior is of another kind, has the wrong shape, or a fixed value is not positive.
    """
    if isinstance(prior, str):
        if prior != "flat":
            raise ValueError(f"priors[{name!r}] must be 'flat' where it is a text, got {prior!r}.")
        return (pm.HalfFlat if positive else pm.Flat)(name, dims=dims)
    if isinstance(prior, Variable):
        return _registered(name, prior, dims, shape)
    if callable(prior):
        variable = prior(name, dims)
        if not isinstance(variable, Variable):
            raise TypeError(
                f"priors[{name!r}] was called and must return the variable it made, "
                f"got {type(variable).__name__}."
            )
        return variable
    return _fixed(name, prior, dims, shape, positive)


def _registered(
    name: str, prior: Variable, dims: tuple[str, ...], shape: tuple[int, ...]
) -> Variable:
    if prior.owner is None or not hasattr(prior.owner.op, "ndim_supp"):
        raise TypeError(
            f"priors[{name!r}] must be a distribution made by .dist(), such as pm.HalfNormal.dist(1), "
            f"got the variable {prior}."
        )
    given = tuple(prior.type.shape)
    fits = len(given) == len(shape) and all(
        a in (None, b) for a, b in zip(given, shape, strict=True)
    )
    if given and not fits:
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {given}.")
    # A variable of its own, so that one distribution may serve several parameters and models.
    prior = change_dist_size(prior, shape[: len(shape) - prior.owner.op.ndim_supp])
    return pm.modelcontext(None).register_rv(prior, name, dims=dims)


def _fixed(
    name: str, prior: Any, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    try:
        value = np.asarray(prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"priors[{name!r}] must be a number, 'flat', a distribution made by .dist() or a "
            f"function of (name, dims), got {type(prior).__name__}."
        ) from None
    if value.shape not in ((), shape):
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {value.shape}.")
    if not np.isfinite(value).all() or (positive and (value <= 0).any()):
        wanted = "positive and finite" if positive else "finite"
        raise ValueError(f"priors[{name!r}] must be {wanted} where it is a number, got {prior}.")
    return pm.Data(name, np.broadcast_to(value, shape).copy(), dims=dims or None)
