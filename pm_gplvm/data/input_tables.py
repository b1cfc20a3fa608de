"""Inputs as users hand them in: read, checked, and joined to rows by label."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.arrays import (
    classes,
    datelike,
    dims_of,
    labels_along,
    listed,
    numbers,
    order_of,
)
from pm_gplvm.data.inputs import LATENT_PART, Inputs

_EXAMPLE = "inputs=DataFrame({'dose': ..., 'batch': ...}, index=Y.index)"


def inputs_of_rows(given: Any, rows: NDArray[Any], *, labelled: bool) -> Inputs:
    """Read the inputs of a table's rows, joined by label where both have labels."""
    values, columns, mean, scale = [], [], [], []
    for name, column in _each(given):
        own = _joined(name, column, rows, labelled=labelled)
        argument = f"inputs[{name!r}]"
        if len(own) != len(rows):
            raise ValueError(
                f"{argument} must have one entry for each of the {len(rows)} rows of Y, got {len(own)}."
            )
        if _is_class(own):
            found = _labels(argument, own)
            order = map(str, classes(argument, own).categories)
            labels = [label for label in dict.fromkeys(order) if label in set(found)]
            if not 1 < len(labels) < len(rows):
                what = f"{labels[0]!r} in every row" if len(labels) == 1 else "another in each row"
                raise ValueError(
                    f"{argument} must have classes that some rows share and others do not, got {what}. Leave it "
                    "out: it tells no row from the others."
                )
            values.append(_one_hot(found, labels))
            columns += [f"{name}={label}" for label in (*labels, "")]
            mean += [0.0] * (len(labels) + 1)
            scale += [1.0] * (len(labels) + 1)
            continue
        each = numbers(argument, own)
        if each.ndim != 1:
            raise ValueError(f"{argument} must have one entry a row, got shape {each.shape}.")
        if not np.isfinite(each).all():
            n = int((~np.isfinite(each)).sum())
            raise ValueError(
                f"{argument} must be known in every row, got {n} missing or infinite. Fill them, or leave these "
                "rows out."
            )
        if np.ptp(each) == 0.0:
            raise ValueError(
                f"{argument} must differ between rows, got {each[0]:g} in every row. Leave it out."
            )
        mean.append(float(each.mean()))
        scale.append(float(each.std()))
        values.append(((each - mean[-1]) / scale[-1])[:, None])
        columns.append(name)
    return Inputs(np.hstack(values), tuple(columns), np.array(mean), np.array(scale))


def inputs_of_new(
    inputs: Inputs,
    given: Any,
    rows: NDArray[Any] | int,
    *,
    caller: str,
    without: Sequence[str] = (),
) -> Array:
    """Return the inputs of new rows (M, C), joined by label to ``rows`` where both have labels.

    A single value is that of all rows; a label that the table has not is a class of its own. Those in ``without`` need
    not be given, and are 0.
    """
    n = rows if isinstance(rows, int) else len(rows)
    labels = np.arange(n) if isinstance(rows, int) else rows
    needed = [name for name in inputs.names if name not in without]
    if given is None and needed:
        raise ValueError(
            f"{caller} needs inputs of the new rows, {', '.join(needed)}, which the kernel has terms of, got none. Give "
            f"inputs={{{needed[0]!r}: ...}}, one value a row or one for all."
        )
    known = dict(_each(given)) if given is not None else {}
    absent = [name for name in needed if name not in known]
    unknown = [name for name in known if name not in inputs.names]
    if absent or unknown:
        got = f"none of {', '.join(absent)}" if absent else f"{', '.join(unknown)} too"
        raise ValueError(
            f"inputs must have the fit's inputs of each new row, {', '.join(inputs.names)}, got {got}."
        )
    found = np.zeros((n, len(inputs.columns)))
    for each in inputs.each:
        if each.name not in known or each.name in without:
            continue
        argument = f"inputs[{each.name!r}]"
        value = known[each.name]
        alone = np.ndim(value) == 0
        own = [value] if alone else _joined(each.name, value, labels, labelled=False)
        if not alone and len(own) != n:
            raise ValueError(
                f"{argument} must have one entry for each of the {n} new rows, or be one for all, got {len(own)}."
            )
        if each.classes is None:
            part = numbers(argument, own)
            if not np.isfinite(part).all():
                raise ValueError(
                    f"{argument} must be finite numbers, got a missing or infinite one."
                )
            centre, spread = inputs.mean[each.columns], inputs.scale[each.columns]
            part = (part.reshape(-1, 1) - centre) / spread
        else:
            part = _one_hot(_labels(argument, own), each.classes)
        found[:, each.columns] = part
    return found


def by_row_of_new(given: Any, rows: NDArray[Any]) -> dict[str, Any]:
    """Return inputs of new rows by name: one value for all, or an array in their order, joined by label as above."""
    known = dict(_each(given))
    by_row = {name: value for name, value in known.items() if np.ndim(value)}
    return known | (columns_of(by_row, rows, labelled=False) if by_row else {})


def columns_of(given: Any, rows: NDArray[Any], *, labelled: bool) -> dict[str, NDArray[Any]]:
    """Return the inputs of a table's rows by name, in their order, joined by label where both have labels."""
    found = {}
    for name, column in _each(given):
        own = np.asarray(_joined(name, column, rows, labelled=labelled))
        if len(own) != len(rows):
            raise ValueError(
                f"inputs[{name!r}] must have one entry for each of the {len(rows)} rows of Y, got {len(own)}."
            )
        found[name] = own
    return found


def require_one_unseen(inputs: Inputs, given: Any, *, caller: str) -> None:
    """Raise if two labels of an input are new, where rows are told together: their columns are one."""
    known = dict(_each(given)) if given is not None else {}
    for each in inputs.each:
        if each.classes is None or np.ndim(known.get(each.name, 0)) == 0:
            continue
        labels = set(_labels(f"inputs[{each.name!r}]", known[each.name]))
        if len(new := sorted(labels - set(each.classes))) > 1:
            raise ValueError(
                f"{caller} tells rows together, and knows one class at a time that the table has not, got "
                f"{listed(new)} of {each.name!r}. Call it for each of them."
            )


def _each(given: Any) -> Iterator[tuple[str, Any]]:
    """Go through inputs by name; TypeError or ValueError if they are no table of named columns."""
    frame = nw.from_native(given, eager_only=True, pass_through=True)
    if isinstance(given, xr.Dataset):
        items: Any = given.data_vars.items()
    elif isinstance(given, pd.DataFrame | Mapping):
        items = given.items()
    elif isinstance(frame, nw.DataFrame):
        items = ((name, frame[name].to_native()) for name in frame.columns)
    else:
        raise TypeError(
            f"inputs must be a DataFrame, or a mapping from names to one value a row, got {type(given).__name__}. "
            f"Write {_EXAMPLE}."
        )
    items = list(items)
    names = [name for name, _ in items]
    if not names:
        raise ValueError(f"inputs must have at least one, got none. Write {_EXAMPLE}.")
    for name in names:
        if not isinstance(name, str) or not name or "=" in name or name == LATENT_PART:
            raise ValueError(
                f"inputs must have names that are text without '=', and not {LATENT_PART!r}, got {name!r}. Rename it."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"inputs must have names of their own, got {listed(names)}.")
    yield from items


def _joined(name: str, column: Any, rows: NDArray[Any], *, labelled: bool) -> Any:
    """Put a column in the order of the table's rows, by label where both have labels."""
    argument = f"inputs[{name!r}]"
    if np.ndim(column) != 1:
        raise ValueError(f"{argument} must have one entry a row, got shape {np.shape(column)}.")
    order = order_of(argument, labels_along(column, 0), rows, labelled=labelled)
    if isinstance(column, xr.DataArray):
        return (
            column.to_numpy()
            if order is None
            else column.isel({dims_of(column)[0]: order}).to_numpy()
        )
    if order is None:
        return column
    return column.iloc[order]


def _is_class(column: Any) -> bool:
    """Whether entries are labels: text, categories, bools."""
    if datelike(column) is not None:
        return False  # an error of numbers, which tells what to do with dates
    dtype = getattr(column, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype) or (
        dtype is not None and pd.api.types.is_bool_dtype(dtype)
    ):
        return True
    if dtype is not None and pd.api.types.is_numeric_dtype(dtype):
        return False
    entries = [v for v in np.asarray(column, dtype=object).tolist() if v is not None]
    return not all(isinstance(v, Real) and not isinstance(v, bool | np.bool_) for v in entries)


def _labels(argument: str, column: Any) -> list[str]:
    """Return the labels of rows as text; ValueError where one is missing."""
    found = classes(argument, column)
    if (n := int((found.codes < 0).sum())) > 0:
        raise ValueError(
            f"{argument} must be known in every row, got {n} missing. Give those a class of their own, or leave "
            "these rows out."
        )
    names = [str(name) for name in found.categories]
    return [names[code] for code in found.codes]


def _one_hot(found: list[str], labels: Any) -> Array:
    """Return a column for each label, 1 in its rows, and a last one for all others."""
    place = {label: i for i, label in enumerate(labels)}
    values = np.zeros((len(found), len(place) + 1))
    values[np.arange(len(found)), [place.get(label, len(place)) for label in found]] = 1.0
    return values
