"""From what a user has to a checked, labelled table, its centre and its scale."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.schema import FEATURE, OBS

__all__ = [
    "MISSING",
    "SCALES",
    "as_table",
    "centre_and_scale",
    "equal_rows",
    "grid_steps",
    "resolution_of",
]

Scale = Literal["global", "feature", "none"]
SCALES = ("global", "feature", "none")
MISSING = ("raise", "mask")

_DISTINCT = 0.9  # share of a column's entries above which its values are on no grid
_MULTIPLES, _ROUNDING = 0.95, 1e-3  # share of the gaps that must be whole multiples, and how nearly
_GRIDDED = 0.5  # share of gridded columns from which equal rows are no copies
_FEWEST = 3  # rows of a table
_LEAST_NOISE = 0.01  # no table is known to more than a hundredth of its spread

_REMEDY_LABEL = (
    "Move labels out of the table (a DataArray coordinate on obs keeps them) or drop them."
)


def as_table(Y: Any, *, missing: str = "raise") -> xr.DataArray:
    """Check a table and bring it into float64 with named rows and columns.

    Parameters
    ----------
    Y : array_like, DataFrame or DataArray, shape (N, D)
        Rows are observations. A DataFrame's index and columns, a DataArray's coordinates are
        kept; further coordinates along the rows (``label``) stay attached to them.
    missing : {"raise", "mask"}
        Whether NaN is an error, or stays.

    Returns
    -------
    DataArray, dims (obs, feature), float64
        In the user's units.

    Raises
    ------
    TypeError
        If a column holds text or complex numbers.
    ValueError
        If the shape is not N × D with N ≥ 3 and D ≥ 1, a value is infinite or missing, a whole row
        or column is missing, all rows are equal, or ``missing`` is unknown.

    Examples
    --------
    >>> as_table([[1, 2], [3, 4], [5, 7]]).sizes["obs"]
    3
    """
    table = _labelled(Y)
    N, D = table.shape
    if N < 3 or D < 1:
        raise ValueError(
            f"Y must have at least 3 rows (obs) and 1 column (feature), got shape {(N, D)}. Rows are "
            "what is embedded: if columns were meant, pass Y.T."
        )
    values = table.to_numpy()
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(MISSING)}, got {missing!r}.")
    _check_finite(table, allow_missing=missing == "mask")
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    if (low == high).all():
        raise ValueError(f"Y has {N} equal rows: there is nothing to embed.")
    return table


def _check_finite(table: xr.DataArray, *, allow_missing: bool) -> None:
    values = table.to_numpy()
    absent = np.isnan(values)
    bad = np.isinf(values) if allow_missing else ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        n = int((absent & bad).sum())
        raise ValueError(
            f"Y has {n} missing (NaN) and {int(bad.sum()) - n} infinite values, first at "
            f"obs {_name(table, OBS, row)}, feature {_name(table, FEATURE, column)}. "
            "Drop or impute them before build_model, or take build_model(..., missing='mask') where "
            "they are missing."
        )
    for axis, dim, what in ((1, OBS, "rows"), (0, FEATURE, "columns")):
        if (empty := absent.all(axis=axis)).any():
            raise ValueError(
                f"Y must have an entry in every row and column, got {int(empty.sum())} {what} of NaN "
                f"alone, first {dim} {_name(table, dim, int(empty.argmax()))}. Drop them."
            )


def _name(table: xr.DataArray, dim: str, position: int) -> str:
    label = table[dim].to_numpy()[position]
    return f"{position}" if str(label) == f"{position}" else f"{position} ({label})"


def _labelled(Y: Any) -> xr.DataArray:
    if isinstance(Y, xr.DataArray):
        return _from_dataarray(Y)
    if isinstance(Y, pd.DataFrame):
        return _from_frame(Y)
    return _from_array(Y)


def _from_array(Y: Any) -> xr.DataArray:
    if np.ma.isMaskedArray(Y):
        Y = np.ma.filled(Y.astype(float), np.nan)
    if hasattr(Y, "toarray"):
        raise TypeError("Y is a sparse matrix; pass Y.toarray() if it fits in memory.")
    try:
        Y = np.asarray(Y)
    except ValueError as error:
        raise TypeError(f"Y must hold numbers in rows of equal length ({error}).") from error
    values = _floats(Y)
    if values.ndim != 2:
        hint = " For a single feature pass Y[:, None]." if values.ndim == 1 else ""
        raise ValueError(
            f"Y must have two dimensions (obs, feature), got shape {values.shape}.{hint}"
        )
    N, D = values.shape
    return xr.DataArray(
        values, dims=(OBS, FEATURE), coords={OBS: np.arange(N), FEATURE: np.arange(D)}
    )


def _from_frame(Y: pd.DataFrame) -> xr.DataArray:
    text = [str(name) for name, dtype in Y.dtypes.items() if not _numeric(dtype)]
    if text:
        raise TypeError(
            f"Y must hold numbers, got text or other objects in {len(text)} of {Y.shape[1]} columns: "
            f"{', '.join(text[:5])}{', …' if len(text) > 5 else ''}. {_REMEDY_LABEL}"
        )
    values = Y.to_numpy(dtype=np.float64, na_value=np.nan)
    coords = {OBS: _plain_index(Y.index), FEATURE: _plain_index(Y.columns)}
    return xr.DataArray(values, dims=(OBS, FEATURE), coords=coords)


def _numeric(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)


def _plain_index(index: pd.Index) -> NDArray[Any]:
    """Labels that a file can hold: numbers and dates as they are, all else as text."""
    if isinstance(index, pd.MultiIndex):
        return np.array([" ".join(map(str, entry)) for entry in index])
    if pd.api.types.is_numeric_dtype(index) or pd.api.types.is_datetime64_dtype(index):
        return index.to_numpy()
    return np.array([str(entry) for entry in index])


def _from_dataarray(Y: xr.DataArray) -> xr.DataArray:
    if Y.ndim != 2:
        raise ValueError(f"Y must have two dimensions (obs, feature), got dims {tuple(Y.dims)}.")
    rows, columns = Y.dims
    if {rows, columns} == {OBS, FEATURE}:
        Y = Y.transpose(OBS, FEATURE)
    elif OBS in Y.dims or FEATURE in Y.dims:
        known = OBS if OBS in Y.dims else FEATURE
        other = next(dim for dim in Y.dims if dim != known)
        Y = Y.rename({other: FEATURE if known == OBS else OBS}).transpose(OBS, FEATURE)
    else:
        Y = Y.rename({rows: OBS, columns: FEATURE})
    values = _floats(Y.to_numpy())
    coords: dict[str, Any] = {
        dim: _plain_index(Y.indexes[dim]) if dim in Y.indexes else np.arange(size)
        for dim, size in zip((OBS, FEATURE), values.shape, strict=True)
    }
    for name, coord in Y.coords.items():
        if coord.dims == (OBS,) and name != OBS and name not in Y.indexes:
            coords[str(name)] = (OBS, coord.to_numpy())
    return xr.DataArray(values, dims=(OBS, FEATURE), coords=coords)


def _floats(values: NDArray[Any]) -> NDArray[np.float64]:
    if np.iscomplexobj(values):
        raise TypeError(
            "Y must hold real numbers, got complex ones. Stack real and imaginary parts."
        )
    try:
        return np.asarray(values, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Y must hold numbers, got text or other objects ({error}). {_REMEDY_LABEL}"
        ) from error


def centre_and_scale(
    table: xr.DataArray, scale: Scale = "global"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale of each column.

    Parameters
    ----------
    table : DataArray, dims (obs, feature)
        What is missing (NaN) is left out.
    scale : {"global", "feature", "none"}
        One number for all columns, such that the centred table has mean square 1; each column's
        own standard deviation; or 1. A column that is constant is allowed unless each column is
        scaled by itself: it is centred to 0 and counts as noise-free data.

    Returns
    -------
    mean, scale : ndarray, shape (D,)
        In the units of the table.

    Raises
    ------
    ValueError
        If ``scale`` is unknown, or "feature" and a column is constant.

    Examples
    --------
    >>> mean, scale = centre_and_scale(as_table([[1, 0], [3, 0], [5, 0]]))
    >>> mean.tolist(), scale.round(3).tolist()
    ([3.0, 0.0], [1.155, 1.155])
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    values = table.to_numpy()
    mean = np.nanmean(values, axis=0)
    spread = np.nanstd(values - mean, axis=0)
    # A constant column leaves rounding noise of the size of its mean times machine precision.
    constant = np.nanmin(values, axis=0) == np.nanmax(values, axis=0)
    if scale == "none":
        return mean, np.ones_like(mean)
    if scale == "global":
        share = (~np.isnan(values)).sum(axis=0)
        return mean, np.full_like(mean, np.sqrt(np.average(spread**2, weights=share)))
    if constant.any():
        names = [str(name) for name in table[FEATURE].to_numpy()[constant]]
        raise ValueError(
            f"scale='feature' cannot divide by the spread of {len(names)} constant features: "
            f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}. Drop them or use scale='global'."
        )
    return mean, spread


def grid_steps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the step of the grid that each column's values lie on.

    A column is gridded where values come again (at most 90 % of its entries are different ones) and
    at least 95 % of the gaps between neighbouring values are whole multiples of the smallest; a column
    of two values is.

    Parameters
    ----------
    values : ndarray, shape (N, D)
        NaN where missing.

    Returns
    -------
    ndarray, shape (D,)
        In the units of the table; 0 where a column is on no grid, or constant.

    Examples
    --------
    >>> import numpy as np
    >>> grid_steps(np.array([[1.0, 0.1], [2.0, 0.25], [4.0, 0.7], [2.0, 1.1]])).tolist()
    [1.0, 0.0]
    """
    ordered = np.sort(values, axis=0)
    # NaN stands at the end, and is above nothing.
    counts = 1 + (np.diff(ordered, axis=0) > 0.0).sum(axis=0)
    known = (~np.isnan(values)).sum(axis=0)
    steps = np.zeros(values.shape[1])
    for d in np.flatnonzero((counts > 1) & (counts <= _DISTINCT * known)):
        steps[d] = _grid_step(np.unique(ordered[: known[d], d]))
    return steps


def _grid_step(distinct: NDArray[np.float64]) -> float:
    gaps = np.diff(distinct)
    # Two numbers that should be equal may differ in their last digits.
    gaps = gaps[gaps > 1e-9 * np.ptp(distinct)]
    step = float(gaps.min())
    times = gaps / step
    whole = np.abs(times - np.round(times)) < _ROUNDING * np.maximum(times, 1.0)
    return step if len(distinct) == 2 or (len(gaps) > 1 and whole.mean() >= _MULTIPLES) else 0.0


def equal_rows(values: NDArray[np.float64]) -> NDArray[np.intp] | None:
    """Find rows that are exact copies of others, in a table whose columns are on no grid.

    Where values are measured on a continuous scale two rows are equal by having been entered twice. On
    a grid (answers, counts) they may well be equal by themselves, and say so much more.

    Parameters
    ----------
    values : ndarray, shape (N, D)
        NaN where missing.

    Returns
    -------
    ndarray of int, shape (N,), or None
        For each row the first one that is equal to it; None if there are no copies.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(0).normal(size=(4, 2))
    >>> equal_rows(values[[0, 1, 1, 2, 3, 0]]).tolist()
    [0, 1, 1, 3, 4, 0]
    """
    firsts: dict[bytes, int] = {}
    # 0.0 is added as -0.0, equal to 0.0, has other bytes.
    rows = np.ascontiguousarray(values) + 0.0
    first = np.array([firsts.setdefault(row.tobytes(), n) for n, row in enumerate(rows)])
    if len(firsts) == len(values) or len(firsts) < _FEWEST:
        return None
    gridded = (grid_steps(values[list(firsts.values())]) > 0.0).mean()
    return first if gridded < _GRIDDED else None


def resolution_of(
    table: xr.DataArray, scale: NDArray[np.float64], *, by_column: bool = False
) -> NDArray[np.float64]:
    """Give the standard deviation below which the noise of a table cannot lie.

    A value rounded to a grid of step δ is off by an error of variance δ²/12. Without that a fit to
    gridded data may take the grid for signal and the noise for nothing.

    Parameters
    ----------
    table : DataArray, dims (obs, feature)
    scale : ndarray, shape (D,)
        From :func:`centre_and_scale`.
    by_column : bool, default False
        Whether it is wanted of each column, rather than of all together.

    Returns
    -------
    ndarray, shape () or (D,)
        Root of δ²/12 (0 for a column on no grid), or its mean over the columns, and 0.01² besides, in
        units of the scale.

    Examples
    --------
    >>> table = as_table([[1], [2], [3], [5], [5], [3], [2], [1]])
    >>> round(float(resolution_of(table, centre_and_scale(table)[1])), 2)
    0.2
    """
    rounding = (grid_steps(table.to_numpy()) / scale) ** 2 / 12.0
    return np.sqrt((rounding if by_column else rounding.mean()) + _LEAST_NOISE**2)
