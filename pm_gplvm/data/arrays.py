"""What a user hands in as plain arrays: numbers, classes and times, joined to the rows of a table."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import issparse

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import FEATURE, OBS

MOST_CLASSES = 20  # different numbers or dates that are still classes, not a scale
LARGEST = 1e100  # squares and cubes of a number, and their sums, must not overflow
_MOST_DENSE = 2**27  # entries of a table made dense or read into memory: 1 GiB
_REMEDY = (
    "Move labels out of the table (labels = frame.pop(column), for color=labels; of a DataArray they may be a "
    "coordinate on obs) or drop them."
)
_NAMED = 5  # labels named in an error
_NO_CLASS = {"", "nan", "None", "<NA>", "NaT"}  # what NumPy's text arrays make of a missing label
_UNITS = ("W", "D", "h", "m", "s", "ms", "us", "ns")


# Numbers


def numbers(name: str, given: Any) -> Array:
    """Return any array-like of numbers as float64, NaN where an entry is missing or masked.

    Text, dates, durations and complex numbers raise a TypeError, numbers beyond 1e100 a ValueError.
    """
    if isinstance(given, pd.DataFrame):
        values = _from_frame(name, given)
    elif isinstance(given, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        values = _from_column(name, pd.Series(given))
    else:
        given = _in_memory(name, given)
        if isinstance(given, nw.DataFrame):
            columns = [_floats(name, given[c].to_numpy(), f"column {c}") for c in given.columns]
            values = np.stack(columns, axis=1) if columns else np.empty((len(given), 0))
        else:
            values = _floats(name, given)
    values = np.ascontiguousarray(values) if values.ndim else values
    beyond = np.isfinite(values) & (np.abs(values) > LARGEST)
    if beyond.any():
        found = values[beyond]
        raise ValueError(
            f"{name} must hold numbers between -1e100 and 1e100, got {found[np.abs(found).argmax()]:g}. If "
            "it stands for a missing entry, put NaN."
        )
    return values


def finite(name: str, given: Any, shape: tuple[int, ...] | None = None, what: str = "") -> Array:
    """Return finite numbers of a shape; ``what`` tells the shape in words, such as "(N, Q)"."""
    values = numbers(name, given)
    if shape is not None and values.shape != shape:
        raise ValueError(
            f"{name} must have shape {f'{what} = ' * bool(what)}{shape}, got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got missing or infinite entries.")
    return values


def _in_memory(name: str, given: Any) -> Any:
    """Return an ndarray, masked array or narwhals frame; what is sparse or lazy is made whole."""
    if given is None or isinstance(given, str | bytes | Mapping | set | frozenset | type):
        raise TypeError(f"{name} must be an array of numbers, got {_kind(given)}.")
    if isinstance(given, xr.Dataset | xr.DataTree):
        raise TypeError(
            f"{name} must be an array of numbers, got {_kind(given)}. Pass one of its variables."
        )
    if is_anndata(given):
        given = given.X
    if issparse(given) or hasattr(given, "todense") or _is_lazy(given):
        size = float(np.prod([float(n) for n in given.shape]))
        if not size <= _MOST_DENSE:  # NaN where a lazy array does not know its rows
            raise ValueError(
                f"{name} is sparse or lazy with {given.shape} entries, too many to be made a dense "
                "array here (1 GiB). Choose fewer columns or rows, reduce it first (TruncatedSVD, say), "
                "or compute it yourself."
            )
        given = given.compute() if _is_lazy(given) else given
        if isinstance(given, pd.DataFrame | pd.Series):
            return numbers(name, given)
        given = given.todense() if hasattr(given, "todense") else given
    if isinstance(given, xr.DataArray):
        given = given.to_numpy()
    frame = nw.from_native(given, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.Series):
        return frame.to_numpy()
    if isinstance(frame, nw.DataFrame):
        return frame
    if np.ma.isMaskedArray(given):
        return given
    try:
        values = np.asarray(given)
        if values.dtype == object and values.ndim == 0 and not isinstance(given, Real | Decimal):
            raise TypeError("it is no array")
        return values
    except Exception as error:  # whatever __array__ of another library raises
        reason = "rows of unequal length" if "inhomogeneous" in str(error) else str(error)
        raise TypeError(
            f"{name} must be an array of numbers, got {_kind(given)} ({reason})."
        ) from error


def _is_lazy(given: Any) -> bool:
    return (
        hasattr(given, "compute") and hasattr(given, "dask") and not isinstance(given, xr.DataArray)
    )


def is_anndata(given: Any) -> bool:
    """Whether this is an AnnData, without importing it."""
    return type(given).__module__.partition(".")[0] == "anndata" and hasattr(given, "var_names")


def _kind(given: Any) -> str:
    name = type(given).__name__
    return "None" if given is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _from_frame(name: str, given: pd.DataFrame) -> Array:
    if all(map(_are_numbers, set(given.dtypes))):
        values: Array = given.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        return values
    columns, text = [], []
    for i, label in enumerate(given.columns):
        try:
            columns.append(_from_column(name, given.iloc[:, i]))
        except TypeError:
            text.append(str(label))
    if text:
        raise TypeError(
            f"{name} must hold numbers, got text, dates or other objects in {len(text)} of "
            f"{given.shape[1]} columns: {listed(text)}. {_REMEDY}"
        )
    return np.stack(columns, axis=1)


def _are_numbers(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)


def _from_column(name: str, column: pd.Series) -> Array:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if _are_numbers(column.dtype):
        values: Array = column.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        return values
    if pd.api.types.is_object_dtype(column):
        return _floats(name, column.to_numpy())
    raise TypeError(f"{name} must hold numbers, got {column.dtype} values.")


def _floats(name: str, values: Any, where: str = "") -> Array:
    """Return entries as float64; only what is a number, or missing, is taken."""
    of = f"{name} ({where})" if where else name
    dtype = values.dtype
    if dtype.kind in "biuf":
        plain = np.array(values, dtype=np.float64)  # a copy: the caller may change the original
    elif dtype.kind == "O":
        flat = [_float(of, value) for value in np.asarray(values).ravel().tolist()]
        plain = np.array(flat, dtype=np.float64).reshape(values.shape)
    else:
        kind, remedy = {
            "c": ("complex ones", "Stack real and imaginary parts."),
            "M": ("dates", "Pass them as times, or as numbers of days since the first."),
            "m": ("durations", "Divide them by a unit, such as np.timedelta64(1, 's')."),
        }.get(dtype.kind, ("text or other objects", _REMEDY))
        raise TypeError(f"{of} must hold numbers, got {kind}. {remedy}")
    masked = np.ma.isMaskedArray(values)
    return np.where(np.ma.getmaskarray(values), np.nan, plain) if masked else plain


def _float(name: str, value: Any) -> float:
    if value is None or value is pd.NA or value is np.ma.masked:
        return np.nan
    if not isinstance(value, Real | Decimal | np.bool_):
        raise TypeError(
            f"{name} must hold numbers, got {value!r} ({type(value).__name__}). {_REMEDY}"
        )
    amount: Any = value
    try:
        return float(amount)
    except OverflowError:  # an integer too long for a float
        return np.inf if amount > 0 else -np.inf


# Labels


def listed(names: Any) -> str:
    """Name the first few of some labels."""
    return f"{', '.join(map(str, names[:_NAMED]))}{', …' if len(names) > _NAMED else ''}"


def plain_labels(index: pd.Index) -> NDArray[Any]:
    """Labels that a file can hold: numbers and dates as they are, others as text."""
    if isinstance(index, pd.MultiIndex):
        return np.array([" ".join(map(str, entry)) for entry in index])
    if pd.api.types.is_numeric_dtype(index) or pd.api.types.is_datetime64_dtype(index):
        return index.to_numpy()
    return np.array([str(entry) for entry in index])


def labels_along(given: Any, axis: int) -> NDArray[Any] | None:
    """Return labels that a Series, DataFrame, DataArray or AnnData has along an axis; None if none."""
    if isinstance(given, pd.Series | pd.DataFrame):
        index = given.axes[axis]
    elif isinstance(given, xr.DataArray):
        dim = dims_of(given)[axis]
        if dim not in given.indexes:
            return None
        index = given.indexes[dim]
    elif is_anndata(given):
        index = (given.obs_names, given.var_names)[axis]
    elif axis == 1 and isinstance(
        frame := nw.from_native(given, eager_only=True, pass_through=True), nw.DataFrame
    ):
        index = pd.Index(frame.columns)
    else:
        return None
    return plain_labels(index)


def are_positions(labels: NDArray[Any]) -> bool:
    """Whether labels are 0, 1, 2, ... as those are that nobody gave."""
    return labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels)))


def dims_of(given: xr.DataArray) -> tuple[Any, ...]:
    """Dims of rows and columns: obs and feature where they are there, else in their order."""
    dims = given.dims
    return dims[::-1] if dims[0] == FEATURE or dims[-1] == OBS else dims


def by_row(name: str, given: Any, rows: NDArray[Any]) -> Any:
    """Return what carries row labels in the order of a table's rows; all else as it is, by position.

    Rows beyond those of the table are left out.
    """
    order = order_of(name, labels_along(given, 0), rows)
    if order is None:
        return given
    if isinstance(given, xr.DataArray):
        return given.isel({dims_of(given)[0]: order})
    return given[order] if is_anndata(given) else given.iloc[order]


def order_of(
    name: str, labels: NDArray[Any] | None, rows: NDArray[Any], *, labelled: bool = False
) -> NDArray[np.intp] | None:
    """Find each row of a table among labels; None where nothing can be joined, and the position counts.

    Labels 0, 1, 2, ... may be nobody's. They join where that is sure: ``labelled`` says that the table
    was given with its labels.
    """
    if labels is None or np.array_equal(labels, rows):
        return None
    shared = bool(pd.Index(labels).isin(pd.Index(rows)).any())
    bare, numbered = are_positions(rows) and not labelled, are_positions(labels)
    if not shared and (bare or numbered):
        return None
    if bare or (numbered and len(labels) == len(rows)):
        raise ValueError(
            f"{name} must have the labels of the table's rows or none, got {listed(labels)} where the rows "
            f"are {listed(rows)}: it could be meant by label or by position. Pass {name}.loc[Y.index] or "
            f"{name}.to_numpy()."
        )
    return row_order(name, labels, rows)


def row_order(name: str, labels: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.intp]:
    """Find each row of a table among labels, or raise and name some that are not there."""
    if np.array_equal(labels, rows):
        return np.arange(len(rows))
    known = pd.Index(labels)
    for whose, index in ((name, known), ("the table", pd.Index(rows))):
        if not index.is_unique:
            raise ValueError(
                f"{name} is joined to the rows of the table by label, and the labels of {whose} repeat "
                f"({listed(index[index.duplicated()].unique())}). Make them unique, or pass "
                f"{name}.to_numpy() in the order of the rows."
            )
    order = known.get_indexer(pd.Index(rows))
    if (absent := order < 0).any():
        raise ValueError(
            f"{name} must have the rows of the table, got none for {int(absent.sum())} of {len(rows)}: "
            f"{listed(rows[absent])} ({name} has {listed(labels)}). Pass an array without labels if "
            "it stands in the order of the rows."
        )
    return np.asarray(order)


# Classes


def classes(name: str, given: Any) -> pd.Categorical:
    """Return labels of rows as classes, code -1 where one is missing: None, NaN, masked or "".

    Ordered categories keep their order, others are sorted, numbers within text by value.
    """
    if isinstance(given, pd.Series) and isinstance(given.dtype, pd.CategoricalDtype):
        given = given.cat.remove_unused_categories().array
    if isinstance(given, pd.Categorical) and given.ordered:
        return given
    if given is None or isinstance(given, str | bytes | Mapping | set):
        raise TypeError(f"{name} must have one label a row, got {_kind(given)}.")
    frame = nw.from_native(given, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.Series):
        values = frame.to_list()
    elif isinstance(given, xr.DataArray | pd.Index | pd.api.extensions.ExtensionArray):
        values = np.asarray(given).tolist()
    elif np.ma.isMaskedArray(given):
        values = given.tolist()
    else:
        array = np.asarray(given, dtype=None if isinstance(given, np.ndarray) else object)
        if array.ndim == 2 and 1 in array.shape:
            array = array.ravel()
        if array.ndim != 1:
            raise ValueError(f"{name} must have one label a row, got shape {array.shape}.")
        values = array.tolist()
    known = [v for v in values if not _is_missing(v)]
    try:
        names = sorted(set(known), key=_by_value if all(map(_says_a_number, known)) else natural)
    except TypeError as error:
        raise TypeError(f"{name} must hold labels such as text or numbers ({error}).") from error
    position = {value: i for i, value in enumerate(names)}
    codes = [-1 if _is_missing(v) else position[v] for v in values]
    return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))


def absent(value: Any) -> bool:
    """Whether an entry is None, NaN, NaT or pandas' NA."""
    return value is None or value is pd.NA or value is pd.NaT or bool(value != value)


def _is_missing(value: Any) -> bool:
    return value in _NO_CLASS if isinstance(value, str) else absent(value)


def _says_a_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.isfinite(float(value))
    except ValueError:
        return False


def _by_value(value: str) -> tuple[float, str]:
    return float(value), value


def natural(value: Any) -> tuple[Any, ...]:
    """Sort key: numbers by value, before text; in text "2" stands before "10"."""
    if isinstance(value, Real | Decimal | np.bool_):
        return (0, float(value), str(value))
    pieces = re.split(r"(\d+)", str(value))
    return (
        1,
        tuple((i % 2, int(p) if i % 2 else p.lower()) for i, p in enumerate(pieces)),
        str(value),
    )


# Times


def unit_of_time(name: str, unit: str) -> np.timedelta64:
    """Return one unit of time, "D" for days."""
    if unit not in _UNITS:
        raise ValueError(f"{name} must be one of {', '.join(_UNITS)}, got {unit!r}.")
    one: np.timedelta64 = np.ones(1, f"m8[{unit}]")[0]
    return one


def nanoseconds(unit: str) -> float:
    """Return how many nanoseconds one of these units of time has."""
    return float(unit_of_time("time_unit", unit) / np.timedelta64(1, "ns"))


def unit_of_nanoseconds(count: float) -> str:
    """Return the unit of time that has so many nanoseconds."""
    return next(unit for unit in _UNITS if nanoseconds(unit) == count)


def duration(name: str, value: Any, unit: str) -> Any:
    """Return a duration in a unit of time; what is none as it is."""
    if isinstance(value, np.timedelta64 | timedelta):
        length = float(pd.Timedelta(value) / pd.Timedelta(unit_of_time("time_unit", unit)))
        if not np.isfinite(length):
            raise ValueError(f"{name} must be a duration, got {value!r}.")
        return length
    return value


def times(name: str, given: Any, unit: str = "D") -> tuple[Array, bool]:
    """Return times as numbers, and whether they were dates or durations.

    Dates become units of time since the first, durations units of time, whatever the resolution
    they are stored in. Numbers stay as they are.
    """
    one = unit_of_time("time_unit", unit)
    values = datelike(given)
    if values is None:
        return numbers(name, given), False
    if np.isnat(values).any():
        raise ValueError(
            f"{name} must be known in every row, got {int(np.isnat(values).sum())} NaT."
        )
    if values.dtype.kind == "M":
        values = values - values.min()
    return np.asarray(values / one, dtype=np.float64), True


def first_date(given: Any) -> Array | None:
    """Day since 1970, and nanoseconds of that day, of the first of some dates; None where they are none."""
    values = datelike(given)
    if values is None or values.dtype.kind != "M" or np.isnat(values).any():
        return None
    day = values.min().astype("M8[D]")
    within = (values.min() - day) / np.timedelta64(1, "ns")
    return np.array([day.astype(np.int64), within], dtype=np.float64)


def times_since(name: str, given: Any, start: Array | None, unit: str | None) -> Array:
    """Return times on the axis that :func:`times` made of others.

    ``start`` is their :func:`first_date`, None where they were no dates, ``unit`` None where they were numbers.
    """
    values = datelike(given)
    kind = "numbers" if values is None else "dates" if values.dtype.kind == "M" else "durations"
    wanted = "numbers" if unit is None else "durations" if start is None else "dates"
    if kind != wanted:
        raise TypeError(
            f"{name} must hold {wanted}, as the times did that the model was built with, got {kind}. Give them as "
            "they were given to priors.dynamics."
        )
    if values is None:
        return numbers(name, given)
    if missing := int(np.isnat(values).sum()):
        raise ValueError(f"{name} must have no missing ones, got {missing} NaT.")
    one = unit_of_time("time_unit", str(unit))
    if start is None:
        return np.asarray(values / one, dtype=np.float64)
    within = start[1] * (np.timedelta64(1, "ns") / one)
    return np.asarray((values - _day(start)) / one - within, dtype=np.float64)


def moments(t: Array, start: Array | None, unit: str | None) -> NDArray[Any]:
    """Return times of such an axis as dates or durations, to the microsecond, or as the numbers they are."""
    if unit is None:
        return t
    micro = unit_of_time("time_unit", unit) / np.timedelta64(1, "us")
    elapsed = (t * micro + (0.0 if start is None else start[1] / 1e3)).round().astype("m8[us]")
    return elapsed if start is None else _day(start).astype("M8[us]") + elapsed


def _day(start: Array) -> np.datetime64:
    return np.datetime64(int(start[0]), "D")


def datelike(given: Any) -> NDArray[Any] | None:
    """Return dates or durations as an array of NumPy's, None if they are none."""
    frame = nw.from_native(given, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(given, xr.DataArray) or isinstance(frame, nw.Series):
        given = given if isinstance(given, pd.Series) else frame.to_numpy()
    if isinstance(given, np.ndarray) and given.dtype.kind in "mM":
        calendar = np.datetime_data(given.dtype)[0] in "YM"  # a month has no fixed length
        return given.astype("M8[D]") if calendar and given.dtype.kind == "M" else given
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = np.array([*given, None], dtype=object)[:-1]  # never an array of arrays
    if np.ndim(given) != 1:
        return None
    index = pd.Index(given)
    first = next((v for v in index if not _is_missing(v)), None) if index.dtype == object else None
    if isinstance(first, timedelta | np.timedelta64):
        index = pd.to_timedelta(index.to_list())
    elif isinstance(first, date | np.datetime64 | pd.Period):
        moments = [getattr(v, "start_time", v) for v in index]
        try:
            index = pd.Index(pd.to_datetime(moments))
        except pd.errors.OutOfBoundsDatetime:  # before pandas 3: nanoseconds, 1677 to 2262
            known = (None if _is_missing(v) else pd.Timestamp(v).to_datetime64() for v in moments)
            return np.array([*known], dtype="M8[us]")
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if isinstance(index, pd.DatetimeIndex) and index.tz is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    return index.to_numpy() if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) else None
