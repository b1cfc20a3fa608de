"""From a model back to what ``build_model`` was given, for fits that hold no ``pm.Model``."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pytensor.graph.traversal import ancestors

from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.data.fit import CLASS, FEATURE, OBS
from pm_gplvm.model.build import scale_rule
from pm_gplvm.model.compile import constants
from pm_gplvm.model.functions import names_of_theta
from pm_gplvm.model.ops import length_of
from pm_gplvm.model.positions import why_not
from pm_gplvm.model.priors import LatentPrior, class_mixture, informative
from pm_gplvm.model.results import row_labels
from pm_gplvm.model.spec import FunctionTable, ModelSpec, views_of

_SIGMA = "LogNormal(-2.0, 1.0)"


def refuse_beside_a_model(given: Mapping[str, Any], fit: Callable[..., Any]) -> None:
    """Raise where what a model fixes is given to a fit too."""
    usual = signature(fit).parameters
    for name, value in given.items():
        if value is not usual[name].default and not (
            isinstance(value, str | int) and value == usual[name].default
        ):
            raise ValueError(
                f"{name} must be left out where {fit.__name__} is given a model, which fixes it, got {value!r}. Give it to "
                f"build_model, or the table to {fit.__name__}."
            )


def arguments_of(model: pm.Model) -> dict[str, Any]:
    """Tell the table, likelihood, kernel and priors of a model of :func:`build_model`.

    Raises
    ------
    ValueError
        If it has what :func:`fit_svi` does not: a noise and an amplitude of each column, a covariance of its own,
        priors that depend on each other, or one of X other than N(0, 1), :func:`priors.informative` and
        :func:`priors.class_mixture`.
    """
    if views := views_of(model):
        given = ", ".join(f"{name!r}: ..." for name in views)
        raise ValueError(
            f"fit_svi takes several tables as they are, got a model of {', '.join(views)}. Call fit_svi({{{given}}})."
        )
    spec = ModelSpec.of(model, functions=True)
    table = spec.table
    if isinstance(table, FunctionTable):
        source = table.source
        found: dict[str, Any] = {
            "Y": source.table,
            "likelihood": source.likelihood,
            "kernel": source.kernel,
            "scale": source.scale,
            "offset": "size" if source.size else source.offset,
            "resolution": "auto",
        }
    else:
        found = _of_gaussian(spec)
    names = names_of_theta(found["kernel"])
    lengthscale = model.named_vars.get("lengthscale")
    priors = {name: _prior_of(spec, name) for name in names}
    if not spec.prior.is_standard_normal:
        priors["X"] = _prior_of_positions(spec)
    return {
        **found,
        "latent_dim": spec.latent_dim,
        "ard": lengthscale is not None and _is_own(found["kernel"], lengthscale, spec.latent_dim),
        "priors": priors,
        "inputs": spec.inputs,
    }


def _is_own(kernel: str, lengthscale: Any, latent_dim: int) -> bool:
    """Whether each latent dimension, of each factor, has a lengthscale."""
    entry = parse_kernel(kernel)[0]
    if isinstance(entry, Composite):
        return entry.has_own(latent_dim, length_of(lengthscale))
    return bool(lengthscale.type.ndim == 1)


def _of_gaussian(spec: ModelSpec) -> dict[str, Any]:
    table, model = spec.table, spec.model
    table.require_shared(caller="fit_svi")
    if spec.kernel == "custom":
        raise ValueError(
            "fit_svi needs a model with one of the kernels by name, got a covariance of its own. Give it the table."
        )
    if (sigma := spec.priors.get("sigma", "a number")) != _SIGMA:
        raise ValueError(
            f"fit_svi has the prior {_SIGMA} of sigma, got a model with {sigma}. Build it without priors['sigma']."
        )
    (N, D), coords = table.Y.shape, model.coords
    known = {OBS: coords.get(OBS, np.arange(N)), FEATURE: coords.get(FEATURE, np.arange(D))}
    labels = {dim: np.asarray(_present(values)) for dim, values in known.items()}
    Y = xr.DataArray(table.Y, dims=(OBS, FEATURE), coords={**labels, **row_labels(model, N)})
    scale = scale_rule(Y, table.scale)
    if scale == "none" and not (table.scale == 1.0).all():
        raise ValueError(
            "fit_svi needs a model with a scale by one of the rules of build_model, got other numbers. Give it the table."
        )
    bias = " + bias" if "bias" in model.named_vars else ""
    return {
        "Y": Y,
        "likelihood": "gaussian",
        "kernel": spec.kernel + bias,
        "scale": scale,
        "offset": None,
        "resolution": float(np.max(spec.floors)),  # one, as the noise is
    }


def _present(labels: Sequence[Any] | None) -> Sequence[Any]:
    return [] if labels is None else labels


def _prior_of(spec: ModelSpec, name: str) -> Any:
    """Return a parameter's value where it is held, else its distribution."""
    if name in spec.fixed:
        return spec.fixed[name]
    variable = spec.free.get(name)
    others = [rv for rv in spec.model.basic_RVs if rv is not variable]
    if variable is None or any(v in others for v in ancestors([variable])):
        raise ValueError(
            f"fit_svi needs priors that do not depend on each other, got one of {name} that does. Give it the table, "
            "and priors of its own."
        )
    return variable


def _prior_of_positions(spec: ModelSpec) -> LatentPrior:
    prior, model = spec.prior, spec.model
    if prior.says is class_mixture:
        names = np.array([*model.coords[CLASS], None], dtype=object)  # -1 is the last one
        within = model["X_within"]
        free = within in model.free_RVs
        own = _prior_of(spec, "X_within") if free else constants(within)[0]
        return class_mixture(names[model["X_class"].get_value()], within=own)
    if prior.moments is None or prior.says is not informative:
        what = prior.says.__name__ if prior.says is not LatentPrior else "another"
        raise ValueError(
            "fit_svi needs X of the prior N(0, 1), priors.informative(...) or priors.class_mixture(...), got a model with "
            f"{what}{why_not(prior.says)}"
        )
    return informative(*prior.moments)
