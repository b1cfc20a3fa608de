"""From arrays of draws to a fit: a DataTree with PyMC's groups and the model's labels."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_gplvm.core.checks import Array
from pm_gplvm.core.interrupt import interrupted
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, THETA, to_json, warn_of
from pm_gplvm.data.table import unlike_noise
from pm_gplvm.model.compile import constants
from pm_gplvm.model.laplace import FunctionMode
from pm_gplvm.model.likelihoods import noted
from pm_gplvm.model.spec import VIEW, FunctionTable, ModelSpec, views_of


def as_fit(
    model: pm.Model | ModelSpec,
    draws: Mapping[str, Array],
    *,
    method: str,
    sample_stats: Mapping[str, Array],
    settings: Mapping[str, Any],
    groups: Mapping[str, xr.Dataset] | None = None,
) -> xr.DataTree:
    """Put draws, (chain, draw, ...) by name, into a DataTree with the model's table and data.

    ``method`` says how they were made, such as "map"; ``settings`` stand in the attrs, numbers and text
    as they are, all else as JSON. ``interrupted`` is 1 if Ctrl-C ended the work.
    """
    spec = ModelSpec.of(model, functions=True, views=True)
    model = spec.model
    observed = {model.rvs_to_values[rv]: rv.name for rv in model.observed_RVs}
    fixed = {
        var.name: var.get_value()
        for var in model.data_vars
        if var not in observed and hasattr(var, "get_value")
    }
    table = spec.table
    settings, of_table = dict(settings), {}
    if isinstance(table, FunctionTable):  # the variables are of entries, or of columns of one kind
        seen = {table.name: table.Y}
        of_table = {table.name: (OBS, FEATURE)}
        source = table.source
        settings |= {"likelihood": noted(source.likelihood), **source.size}
        if (entry := source.rows_and_entries.entry) is not None:
            fixed["Y_entry"] = entry
            if entry.shape == table.Y.shape:
                of_table["Y_entry"] = (OBS, FEATURE)
    else:
        seen = {name: constants(value)[0] for value, name in observed.items()}
        for each in (part.table for part in spec.parts):
            if each.seen is not None:  # placeholders of missing entries become NaN again
                seen[each.name] = np.where(each.seen, seen[each.name], np.nan)
    tree = {
        "posterior": _dataset(model, _ordered(draws, spec), ("chain", "draw")),
        "sample_stats": _dataset(model, sample_stats, ("chain", "draw")),
        "observed_data": _dataset(model, seen, (), of_table),
        "constant_data": _dataset(model, fixed, (), of_table),
        **(groups or {}),
    }
    fit = xr.DataTree.from_dict(tree)
    fit.attrs = attributes(
        method=method,
        kernel=spec.kernel,
        observed=table.name,
        priors=spec.priors,
        settings=settings,
    )
    if spec.views:
        fit.attrs["views"] = to_json([part.view for part in spec.views])
        fit.attrs["kernels"] = to_json({part.view: part.kernel for part in spec.views})
        del fit.attrs["observed"]
    return fit


def mode_of_functions(spec: ModelSpec, mode: FunctionMode) -> dict[str, xr.Dataset]:
    """Make the group ``laplace`` of a fit: what predictions need of the functions at their mode."""
    values = {
        "weights": mode.weights,
        "curvature": mode.curvature,
        "level": mode.level,
        "log_likelihood": mode.log_likelihood,
        **{f"likelihood_{name}": value for name, value in mode.parameters.items()},
    }
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(("weights", "curvature"), (OBS, FEATURE))
    dims |= {name: (FEATURE,) for name, v in values.items() if np.shape(v) == mode.level.shape}
    return {"laplace": _dataset(spec.model, values, (), dims)}


def attributes(
    *,
    method: str,
    kernel: str,
    observed: str,
    priors: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Say in the attrs of a fit how it was made."""
    return {
        "pm_gplvm_version": version("pm_gplvm"),
        "pymc_version": pm.__version__,
        "method": method,
        "kernel": kernel,
        "observed": observed,
        "priors": to_json(priors),
        "interrupted": int(interrupted()),
        **{name: _attr(value) for name, value in settings.items()},
    }


def warn_of_columns(spec: ModelSpec, fit: xr.DataTree, caller: str) -> None:
    """Warn where one noise is for all columns, and that of a few exceeds what the others have in common."""
    for part in () if spec.inputs is not None else spec.parts:
        table = part.table
        if not table.standardisable or table.own is not None or table.seen is not None:
            continue
        noise = unlike_noise(table.F, spec.X_shape[1])
        if noise is None:
            continue
        values = fit["observed_data"][table.name]
        names = values[str(values.dims[0])].to_numpy()
        least, most = int(np.nanargmin(noise)), int(np.nanargmax(noise))
        where = "" if part.view is None else f" of the table {part.view!r}"
        warn_of(
            fit,
            f"{caller}: the noise of the columns{where} differs by a factor of {noise[most] / noise[least]:.2g}, by factor "
            f"analysis (least in {names[least]}, greatest in {names[most]}). One noise for all takes that of the greatest for "
            "what the columns have in common. noise='column', in build_model or GPLVM, gives each its own.",
        )


def _ordered(draws: Mapping[str, Array], spec: ModelSpec) -> dict[str, Array]:
    """X, then θ in the order of every table, then what else the model has."""
    theta = [part.own(name) for part in spec.parts for name in THETA]
    first = [name for name in ("X", *theta) if name in draws]
    return {name: draws[name] for name in (*first, *(n for n in draws if n not in first))}


def _attr(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    kept = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if kept else to_json(value)


def _dataset(
    model: pm.Model,
    values: Mapping[str, Any],
    leading: tuple[str, ...],
    own_dims: Mapping[str, tuple[str, ...]] | None = None,
) -> xr.Dataset:
    variables = {}
    for name, value in values.items():
        value = np.asarray(value)
        dims = (own_dims or {}).get(name) or model.named_vars_to_dims.get(name)
        if dims is None or len(dims) != value.ndim - len(leading):
            dims = tuple(f"{name}_dim_{i}" for i in range(value.ndim - len(leading)))
        variables[name] = ((*leading, *dims), value)
    dataset = xr.Dataset(variables)
    coords: dict[str, Any] = {
        dim: np.arange(dataset.sizes[dim]) for dim in leading if dim in dataset.sizes
    }
    for dim, size in dataset.sizes.items():
        labels = model.coords.get(str(dim))
        if labels is not None and len(labels) == size:
            coords[str(dim)] = np.asarray(labels)
        elif dim in (OBS, LATENT):
            coords[str(dim)] = np.arange(size)
    if OBS in dataset.sizes:
        coords |= row_labels(model, dataset.sizes[OBS])
    return dataset.assign_coords(coords)


def row_labels(model: pm.Model, size: int) -> dict[str, Any]:
    """Coordinates of the model that no variable uses and that have one entry a row."""
    used = {dim for dims in model.named_vars_to_dims.values() for dim in dims}
    if views_of(model):
        used.add(VIEW)
    return {
        name: (OBS, np.asarray(labels))
        for name, labels in model.coords.items()
        if name not in used and labels is not None and len(labels) == size
    }
