"""Labelled tables: digits from scikit-learn, and CSV and NetCDF files."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pm_gplvm.core.checks import as_path
from pm_gplvm.data.fit import FEATURE, OBS


def load_digits(n: int = 300, *, random_seed: int = 0) -> xr.DataArray:
    """Load handwritten digits, 8 × 8 pixels, from scikit-learn.

    Parameters
    ----------
    n : int
        Number of rows, drawn without replacement, at most 1797.
    random_seed : int
        Seed of the choice of rows.

    Returns
    -------
    DataArray, dims (obs, feature), shape (n, 64)
        Darkness of each pixel, 0 to 16, with the coordinate ``label`` (the digit) along ``obs``.

    Raises
    ------
    ValueError
        If ``n`` does not lie between 1 and 1797.

    Examples
    --------
    >>> load_digits(n=5).shape
    (5, 64)
    """
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    total = len(digits.data)
    if not 1 <= n <= total:
        raise ValueError(f"n must lie between 1 and {total}, got {n}.")
    rows = np.sort(np.random.default_rng(random_seed).permutation(total)[:n])
    return xr.DataArray(
        digits.data[rows],
        dims=(OBS, FEATURE),
        coords={
            OBS: rows,
            FEATURE: [f"pixel_{i}_{j}" for i in range(8) for j in range(8)],
            "label": (OBS, digits.target[rows].astype(str)),
        },
        name="digits",
    )


def load_table(path: str | Path, *, label: str | None = None) -> xr.DataArray:
    r"""Read a table of numbers from a CSV or NetCDF file.

    Parameters
    ----------
    path : path
        ``.csv`` with the names of the columns in the first line, or ``.nc`` with one two-dimensional
        variable. A first column of a CSV file without a name, or called "id" or "index", names the
        rows, or their classes if its entries repeat.
    label : str, optional
        Column (CSV) or coordinate (NetCDF) with each row's class. It becomes the coordinate
        ``label``.

    Returns
    -------
    DataArray, dims (obs, feature)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, or has no column ``label``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "cells.csv"
    ...     _ = path.write_text("stage,a,b\nearly,1,2\nearly,2,4\nlate,7,8\n")
    ...     load_table(path, label="stage")["label"].to_numpy().tolist()
    ['early', 'early', 'late']
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix == ".csv":
        return _from_csv(path, label)
    if path.suffix == ".nc":
        return _from_netcdf(path, label)
    raise ValueError(f"A table must be a .csv or .nc file, got {path.name!r}.")


def _from_csv(path: Path, label: str | None) -> xr.DataArray:
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a CSV table: {error}.") from error
    labels = None
    if label is not None:
        if label not in frame:
            columns = ", ".join(map(str, frame.columns[:8])) + ", …" * (frame.shape[1] > 8)
            raise ValueError(
                f"label must name a column of {path.name}, got {label!r}. Its columns are {columns}."
            )
        labels = frame.pop(label).astype(str).to_numpy()
    first = frame.columns[0] if frame.shape[1] else ""
    if str(first).lower() in {"id", "index"} or str(first).startswith("Unnamed"):
        if labels is None and not frame[first].is_unique:
            labels = frame.pop(first).astype(str).to_numpy()
        else:
            frame = frame.set_index(first)
    text = [str(c) for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    if text:
        raise TypeError(
            f"{path.name} must hold numbers, got text in {', '.join(text[:5])}. "
            f"If one of them names the classes, pass it as the label (--label {text[0]})."
        )
    table = xr.DataArray(
        frame.to_numpy(dtype=np.float64),
        dims=(OBS, FEATURE),
        coords={OBS: frame.index.to_numpy(), FEATURE: [str(c) for c in frame.columns]},
        name=path.stem,
    )
    return table if labels is None else table.assign_coords(label=(OBS, labels))


def _from_netcdf(path: Path, label: str | None) -> xr.DataArray:
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            data = file.load()
    except OSError as error:
        raise ValueError(f"{path.name} is not a NetCDF file: {error}.") from error
    tables = [name for name, variable in data.data_vars.items() if variable.ndim == 2]
    if len(tables) != 1:
        names = ": " * bool(tables) + ", ".join(map(str, tables))
        raise ValueError(
            f"{path.name} must hold one two-dimensional variable, got {len(tables)}{names}."
        )
    table = data[tables[0]]
    if label is None:
        return table
    if label in data.data_vars and data[label].ndim == 1:
        table = table.assign_coords({label: data[label]})
    if label not in table.coords:
        raise ValueError(
            f"label must name a coordinate of {path.name}, got {label!r}. "
            f"It has {', '.join(map(str, table.coords)) or 'none'}."
        )
    rows = table[label].dims
    return table.assign_coords(label=(rows, table[label].to_numpy().astype(str)))
