"""A fit asked at given inputs of new rows, or of some parts of its function alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.input_tables import inputs_of_new
from pm_gplvm.data.inputs import Inputs


def located(
    read: Fit, inputs: Any, rows: NDArray[Any] | int, *, without: Sequence[str] = ()
) -> Fit:
    """Ask a fit at the inputs of new rows, which must be given if it has any; ``without`` some parts of its function."""
    known = read.inputs
    if known is None:
        if inputs is not None:
            raise ValueError(
                f"{read.caller} takes inputs of new rows where the model had some, got a fit without. Leave them out, or "
                "build the model with inputs=."
            )
        return read
    at = inputs_of_new(known, inputs, rows, caller=read.caller, without=without)
    return _counting(replace(read, at=at), known, without)


def at_own_rows(read: Fit, without: Sequence[str] = ()) -> Fit:
    """Ask a fit at the inputs of its own rows."""
    known = read.inputs
    if known is None:
        return read
    return _counting(replace(read, at=known.values), known, without)


def at_usual(read: Fit) -> Fit:
    """Ask a fit at the means of its numbers and the most frequent classes."""
    return read if read.inputs is None else replace(read, at=read.inputs.usual)


def of_latent(read: Fit) -> Fit:
    """Ask a fit of what is a function of X alone, whatever the inputs."""
    return read if read.inputs is None else located(read, None, 1, without=read.inputs.names)


def latent_alone(fit: xr.DataTree) -> dict[str, Any]:
    """Arguments by which :func:`predict` says what is a function of X alone."""
    known = Fit(fit).inputs
    return {} if known is None else {"without": known.names}


def _counting(read: Fit, known: Inputs, without: Sequence[str]) -> Fit:
    names = [name for name in known.parts if name not in without]
    counted = known.counted(read.kernel, names) if without else None
    return replace(read, counted=counted)


def checked_without(read: Fit, without: Any) -> list[str]:
    """Return the names of parts that are left out, or raise if they are none."""
    if without is None:
        return []
    known = _known(read, "without")
    names = [without] if isinstance(without, str) else list(without)
    other = [name for name in names if name not in known.parts]
    if other or len(set(names)) == len(known.parts):
        wanted = ", ".join(known.parts)
        got = ", ".join(map(str, other)) if other else "all of them"
        raise ValueError(f"without must name some parts of the function, of {wanted}, got {got}.")
    return names


def each_part(read: Fit, without: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Name the parts of the function, each with the terms that it has."""
    known = _known(read, "parts")
    names = [name for name in known.parts if name not in without]
    return {name: known.counted(read.kernel, [name]) for name in names}


def _known(read: Fit, argument: str) -> Inputs:
    if read.inputs is None:
        raise ValueError(
            f"{argument} is of a model with inputs, got a fit of one without. Build it by build_model(Y, inputs=...)."
        )
    return read.inputs


def groups(at: Array) -> list[tuple[Array, NDArray[np.intp]]]:
    """Group new rows by their inputs (M, C): these, and which rows have them."""
    found, group = np.unique(at, axis=0, return_inverse=True)
    return [(inputs, np.flatnonzero(group.ravel() == g)) for g, inputs in enumerate(found)]
