"""Labelled tables: digits from scikit-learn, and files of text, Parquet, AnnData and NetCDF."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import as_path, checked, count
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.arrays import absent
from pm_gplvm.data.delimited import (
    Delimited,
    are_names,
    as_numbers,
    class_names,
    names_rows,
    read_delimited,
    row_names,
)
from pm_gplvm.data.fit import FEATURE, OBS
from pm_gplvm.data.table import labelled

_TEXT = (".csv", ".tsv", ".txt")


@checked
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
    with interruptible():
        from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    total = len(digits.data)
    count("n", n, 1, total)
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


def load_table(
    path: str | Path,
    *,
    label: str | None = None,
    index: str | None = None,
    missing: Any = (),
    sep: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    layer: str | None = None,
) -> xr.DataArray:
    r"""Read a table of numbers from a file of text, a Parquet, AnnData or NetCDF file.

    Whatever does not tell for sure what a number or a name is raises an error that says what to pass.

    Parameters
    ----------
    path : path
        ``.csv``, ``.tsv`` or ``.txt`` (also ``.gz``) with the names of the columns in the first line, in UTF-8,
        marked UTF-16 or Windows-1252; lines that begin with "#" are comments. ``.parquet``. ``.h5ad``, with
        the package anndata. ``.nc`` with one two-dimensional variable.
    label : str, optional
        Column (of ``obs`` in AnnData, coordinate in NetCDF) with each row's class. It becomes the
        coordinate ``label``, "" where it is missing.
    index : str, optional
        Column with the names of the rows. By default the first column of a file of text if it has no name, is
        called "id" or "index", or holds text, another in each row. Without a name or called "id" or "index"
        it holds the classes if its entries repeat.
    missing : str, number or sequence of them, optional
        What else stands for a missing entry, such as -999. In a file of text an empty field, NA, N/A,
        NaN, null, None, ".", "-" and "?" always do.
    sep, decimal : str, optional
        Separator and decimal mark of a file of text; found by themselves where they can be.
    header : bool, optional
        Whether the first line of a file of text names the columns; asked for only where it has numbers.
        Without names columns are called "0", "1", ...
    layer : str, optional
        Layer of an AnnData file that is read instead of ``X``.

    Returns
    -------
    DataArray, dims (obs, feature)
        NaN where an entry is missing: see ``missing`` of :func:`build_model`.

    Warns
    -----
    RuntimeWarning
        If a file of text is not in UTF-8, and was read as Windows-1252.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package that reads such files is not installed.
    TypeError
        If a column holds text.
    ValueError
        If the file is of another kind or damaged, its rows differ in length or do not fit the header, names are
        missing or repeat, numbers may be read in two ways, or there is no column ``label`` or ``index``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "cells.csv"
    ...     _ = path.write_text("stage;a;b\nearly;1,5;2\nearly;2;NA\nlate;7;8\n")
    ...     table = load_table(path, label="stage")
    >>> table["label"].to_numpy().tolist(), table.to_numpy().tolist()
    (['early', 'early', 'late'], [[1.5, 2.0], [2.0, nan], [7.0, 8.0]])
    """
    path = _existing(as_path("path", path))
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    kinds = (*_TEXT, ".nc", ".parquet", ".h5ad")
    if kind not in kinds or (path.suffix.lower() == ".gz" and kind not in _TEXT):
        raise ValueError(
            f"A table must be a {', '.join(kinds[:-1])} or {kinds[-1]} file (text also as .gz), got "
            f"{path.name!r}."
        )
    given = {"sep": sep, "decimal": decimal, "header": header, "index": index, "layer": layer}
    _check_apply(path, kind, [name for name, value in given.items() if value is not None])
    words, numbers = _codes(missing)
    if kind == ".nc":
        table = _from_netcdf(path, label)
    elif kind == ".h5ad":
        table = _from_anndata(path, label, layer)
    elif kind == ".parquet":
        table = _from_parquet(path, label, index)
    else:
        sought = [name for name in (label, index) if name is not None]
        text = read_delimited(path, sep=sep, decimal=decimal, header=header, names=sought)
        table = _from_text(path, text, label, index, decimal, words)
    return table.where(~np.isin(table, numbers)) if numbers else table


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return path


def _check_apply(path: Path, kind: str, given: list[str]) -> None:
    """Raise where an argument says nothing about a file of this kind."""
    apply = {".parquet": {"index"}, ".h5ad": {"layer"}, ".nc": set()}
    allowed = apply.get(kind, {"sep", "decimal", "header", "index"})
    if other := [name for name in given if name not in allowed]:
        raise ValueError(
            f"{other[0]} says nothing about a {kind} file such as {path.name}. Leave it out."
        )


def _codes(missing: Any) -> tuple[list[str], list[float]]:
    """Return the words and the numbers that stand for a missing entry."""
    given = [missing] if isinstance(missing, str) else np.atleast_1d(missing).tolist()
    words = [str(code) for code in given]
    return words, [float(word) for word in words if _is_float(word)]


def _is_float(word: str) -> bool:
    try:
        return not np.isnan(float(word))
    except ValueError:
        return False


def _require_numbers(path: Path, columns: Any) -> None:
    if not len(columns):
        raise ValueError(
            f"{path.name} must have a column of numbers, got none beside names and classes of its rows."
        )


def _table(
    path: Path, values: Any, rows: NDArray[Any], features: Any, labels: NDArray[Any] | None
) -> xr.DataArray:
    table = xr.DataArray(
        np.asarray(values, dtype=np.float64),
        dims=(OBS, FEATURE),
        coords={OBS: rows, FEATURE: [str(name) for name in features]},
        name=path.name.split(".")[0] if path.suffix.lower() == ".gz" else path.stem,
    )
    return table if labels is None else table.assign_coords(label=(OBS, labels))


def _require_column(path: Path, argument: str, name: str, columns: Any) -> None:
    if name not in columns:
        names = ", ".join(map(str, columns[:8])) + ", …" * (len(columns) > 8)
        raise ValueError(
            f"{argument} must name a column of {path.name}, got {name!r}. Its columns are {names}."
        )


def _from_text(
    path: Path,
    text: Delimited,
    label: str | None,
    index: str | None,
    decimal: str | None,
    words: list[str],
) -> xr.DataArray:
    frame = text.frame
    for argument, name in (("label", label), ("index", index)):
        if name is not None:
            _require_column(path, argument, name, frame.columns)
    if label is not None and label == index:
        raise ValueError(f"label and index must be different columns, got {label!r} for both.")
    labels = None if label is None else class_names(frame.pop(label).tolist())
    rows = None if index is None else row_names(frame.pop(index).tolist())
    first = frame.columns[0] if frame.shape[1] else None
    if index is None and first is not None:
        fields = frame[first].tolist()
        if names_rows(first):
            if labels is None and len(set(fields)) < len(fields):
                labels = class_names(frame.pop(first).tolist())
            else:
                rows = row_names(frame.pop(first).tolist())
        elif are_names(fields):
            rows = row_names(frame.pop(first).tolist())
    _require_numbers(path, frame.columns)
    values = as_numbers(path, Delimited(frame, text.lines), decimal, words)
    rows = np.arange(len(values)) if rows is None else rows
    return _table(path, values, rows, frame.columns, labels)


# Files of other kinds


def _from_parquet(path: Path, label: str | None, index: str | None) -> xr.DataArray:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(
            f"{path.name} is read by means of pyarrow, which is not installed. Call python -m pip install "
            "pyarrow."
        ) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name} is not a Parquet file: {error}.") from error
    for argument, name in (("label", label), ("index", index)):
        if name is not None:
            _require_column(path, argument, name, frame.columns)
    labels = None if label is None else _classes(frame.pop(label))
    if index is not None:
        frame = frame.set_index(index)
    _require_numbers(path, frame.columns)
    _check_different(path, frame.columns)
    text = [str(c) for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    if text:
        raise TypeError(
            f"{path.name} must hold numbers, got text in {', '.join(text[:5])}. If one of them names the "
            f"classes, pass it as the label (--label {text[0]}); if it names the rows, as the index."
        )
    table = labelled(frame)
    return _table(path, table.to_numpy(), table[OBS].to_numpy(), frame.columns, labels)


def _check_different(path: Path, names: pd.Index) -> None:
    if names.has_duplicates:
        raise ValueError(
            f"{path.name} must have different names of columns, got {names[names.duplicated()][0]!r} more "
            "than once. Rename them."
        )


def _classes(column: Any) -> NDArray[Any]:
    """Classes of a column of any kind as text, "" where it is missing."""
    entries = np.asarray(column, dtype=object)
    return np.array(["" if absent(entry) else str(entry) for entry in entries], dtype=str)


def _from_anndata(path: Path, label: str | None, layer: str | None) -> xr.DataArray:
    try:
        import anndata
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{path.name} is read by means of anndata, which is not installed. Call python -m pip install "
            "anndata."
        ) from error
    try:
        data: Any = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is not an AnnData file: {error}.") from error
    if label is not None:
        _require_column(path, "label", label, data.obs.columns)
    layers = ", ".join(str(name) for name in data.layers if name is not None) or "none"
    if layer is not None and layer not in data.layers:
        raise ValueError(
            f"layer must name a layer of {path.name}, got {layer!r}. Its layers are {layers}."
        )
    values = data.X if layer is None else data.layers[layer]
    if values is None:
        raise ValueError(
            f"{path.name} has no X. Pass layer= with one of its layers, which are {layers}."
        )
    _require_numbers(path, data.var_names)
    _check_different(path, data.var_names)
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    labels = None if label is None else _classes(data.obs[label])
    rows = np.array(data.obs_names, dtype=str)
    return _table(path, values, rows, data.var_names, labels)


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
    return table.assign_coords(label=(rows, _classes(table[label].to_numpy())))
