"""Labelled tables: digits from scikit-learn, and files of text, Parquet, AnnData and NetCDF."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, as_path, checked, count, warn
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.arrays import MOST_CLASSES, absent, datelike, dims_of
from pm_gplvm.data.delimited import (
    Delimited,
    are_names,
    as_numbers,
    class_names,
    dates,
    is_number,
    joined,
    names_rows,
    read_delimited,
    row_names,
)
from pm_gplvm.data.fit import FEATURE, OBS
from pm_gplvm.data.table import labelled

_TEXT = (".csv", ".tsv", ".txt")
_FEWEST_STEPS = 5  # rows at equal distances that are no chance


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
    time: str | None = None,
    index: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
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
        coordinate ``label``, as text, "" where it is missing. More than 20 different numbers or dates are no
        classes: they stay numbers or dates, a scale for colours.
    time : str, optional
        Column, as above, with each row's time: numbers, dates or durations, NaN or NaT where it is missing. It
        becomes the coordinate ``time``. By default an index of dates does, too.
    index : str or sequence of str, optional
        Column with the names of the rows; of several the names are joined by blanks. By default the first
        column of a file of text if it has no name, is called "id", "index" or "rownames", or holds dates, or
        text, another in each row. Without a name or called "id" or "index" it holds the classes if its entries
        repeat and are no dates. Where another column is given, a first one so called is left out.
    drop : str or sequence of str, optional
        Columns to leave out, whatever they hold.
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
        If a file of text is not in UTF-8, and was read as Windows-1252; if the first column rises in equal steps,
        as row numbers and times do, and was read as a measurement.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package that reads such files is not installed.
    TypeError
        If a column holds text, or ``time`` names one that holds neither numbers nor dates.
    ValueError
        If the file is of another kind or damaged, its rows differ in length or do not fit the header, names are
        missing, repeat or stand in two lines, numbers may be read in two ways, or there is no column ``label``, ``time``,
        ``index`` or ``drop``.

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
    path = existing_file(path)
    kind = kind_of_table(path)
    index = [index] if isinstance(index, str) else [] if index is None else list(index)
    given = {
        "sep": sep,
        "decimal": decimal,
        "header": header,
        "index": index or None,
        "layer": layer,
    }
    _check_apply(path, kind, [name for name, value in given.items() if value is not None])
    drop = [drop] if isinstance(drop, str) else list(drop)
    by_column = kind not in (".nc", ".h5ad")
    columns = Columns(label, time, index, drop if by_column else ())
    words, numbers = _codes(missing)
    if kind == ".nc":
        table = _from_netcdf(path, columns)
    elif kind == ".h5ad":
        table = _from_anndata(path, columns, layer)
    elif kind == ".parquet":
        table = _from_parquet(path, columns)
    else:
        how: dict[str, Any] = {"sep": sep, "decimal": decimal, "header": header}
        text = read_delimited(path, **how, names=columns.names, missing=words)
        table = _from_text(path, text, columns, decimal, words)
    if drop and not by_column:
        for name in drop:
            _require_column(path, "drop", name, table[FEATURE].to_numpy())
        table = table.drop_sel({FEATURE: drop})
        _require_numbers(path, table[FEATURE])
    return table.where(~np.isin(table, numbers)) if numbers else table


@dataclass(frozen=True)
class Columns:
    """Columns of a file that are no measurements."""

    label: str | None = None
    time: str | None = None
    index: Sequence[str] = ()
    drop: Sequence[str] = ()

    @property
    def named(self) -> list[tuple[str, str]]:
        """The argument and the name of each."""
        single = [("label", self.label), ("time", self.time)]
        several = [("index", n) for n in self.index] + [("drop", n) for n in self.drop]
        return [(a, n) for a, n in single if n is not None] + several

    @property
    def names(self) -> list[str]:
        """The name of each."""
        return [name for _, name in self.named]

    def check(self, path: Path, columns: Any) -> None:
        """Raise ValueError unless each is a column; time and label may be one and the same, or the index."""
        for argument, name in self.named:
            _require_column(path, argument, name, columns)
        if self.label is not None and self.label in self.index:
            raise ValueError(
                f"label and index must be different columns, got {self.label!r} for both."
            )
        if used := [n for n in self.drop if n in (self.label, self.time, *self.index)]:
            raise ValueError(
                f"drop must name columns that are not used otherwise, got {used[0]!r}. Leave it out."
            )


def kind_of_table(path: Path) -> str:
    """Return the ending of a file, that of text also before .gz; ValueError if no table ends so."""
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    kinds = (*_TEXT, ".nc", ".parquet", ".h5ad")
    if kind not in kinds or (path.suffix.lower() == ".gz" and kind not in _TEXT):
        raise ValueError(
            f"A table must be a {', '.join(kinds[:-1])} or {kinds[-1]} file (text also as .gz), got "
            f"{path.name!r}."
        )
    return kind


def existing_file(path: Any) -> Path:
    """Return the path of a file that is there."""
    path = as_path("path", path)
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
    path: Path,
    values: Any,
    rows: NDArray[Any],
    features: Any,
    labels: NDArray[Any] | None,
    times: NDArray[Any] | None,
) -> xr.DataArray:
    table = xr.DataArray(
        np.asarray(values, dtype=np.float64),
        dims=(OBS, FEATURE),
        coords={OBS: rows, FEATURE: [str(name) for name in features]},
        name=path.name.split(".")[0] if path.suffix.lower() == ".gz" else path.stem,
    )
    return _with_coords(table, labels, times)


def _with_coords(
    table: xr.DataArray, labels: NDArray[Any] | None, times: NDArray[Any] | None
) -> xr.DataArray:
    found = {"label": labels, "time": times}
    return table.assign_coords({n: (OBS, v) for n, v in found.items() if v is not None})


def _require_column(path: Path, argument: str, name: str, columns: Any) -> None:
    if name not in columns:
        names = ", ".join(map(str, columns[:8])) + ", …" * (len(columns) > 8)
        raise ValueError(
            f"{argument} must name a column of {path.name}, got {name!r}. Its columns are {names}."
        )


def _from_text(
    path: Path,
    text: Delimited,
    columns: Columns,
    decimal: str | None,
    words: list[str],
) -> xr.DataArray:
    frame, index = text.frame, list(columns.index)
    columns.check(path, frame.columns)
    fields = {name: frame[name].tolist() for name in columns.names}
    labels = times = rows = None
    if columns.label is not None:
        labels = _labels_of_text(path, text.of(columns.label), decimal)
    if columns.time is not None:
        times = _times_of_text(path, text.of(columns.time), decimal, columns.time)
    if index:
        rows = row_names(joined([fields[name] for name in index]))
    frame = frame.drop(columns=list(fields))
    first = frame.columns[0] if frame.shape[1] else None
    if not index and first is not None:
        names = frame[first].tolist()
        at = dates(names)
        if names_rows(first) and labels is None and at is None and len(set(names)) < len(names):
            labels, frame = class_names(names), frame.drop(columns=first)
        elif names_rows(first) or are_names(names) or at is not None:
            rows, frame = row_names(names), frame.drop(columns=first)
            times = at if times is None else times
    elif times is None:
        times = dates(joined([fields[name] for name in index]))
    if index and first is not None and names_rows(first):
        frame = frame.drop(columns=first)  # names of rows that others replace
    _require_numbers(path, frame.columns)
    values = as_numbers(path, Delimited(frame, text.lines), decimal, words)
    _warn_of_steps(path, str(frame.columns[0]), values)
    rows = np.arange(len(values)) if rows is None else rows
    return _table(path, values, rows, frame.columns, labels, times)


def _labels_of_text(path: Path, column: Delimited, decimal: str | None) -> NDArray[Any]:
    """Classes as text; more than 20 different numbers or dates as such."""
    fields = column.frame.iloc[:, 0].tolist()
    classes = class_names(fields)
    if len(set(classes.tolist())) <= MOST_CLASSES:
        return classes
    if (at := dates(fields)) is not None:
        return at
    return as_numbers(path, column, decimal)[:, 0] if all(map(is_number, fields)) else classes


def _times_of_text(path: Path, column: Delimited, decimal: str | None, name: str) -> NDArray[Any]:
    fields = column.frame.iloc[:, 0].tolist()
    if (at := dates(fields)) is not None:
        return at
    if not all(map(is_number, fields)):
        _refuse_times(path, name, next(field for field in fields if not is_number(field)))
    return as_numbers(path, column, decimal)[:, 0]


def _refuse_times(path: Path, name: str, found: Any) -> NoReturn:
    raise TypeError(
        f"time must name a column of {path.name} with numbers or dates, got {found!r} in {name!r}. Write dates "
        "as 2020-01-31 or 31.1.2020, with 14:30:00 behind it if wanted."
    )


def _warn_of_steps(path: Path, name: str, values: Array) -> None:
    """Warn if the first column rises in equal steps, as row numbers and times do."""
    if values.shape[1] < 2 or len(values) < _FEWEST_STEPS:
        return
    steps = np.diff(values[:, 0])
    if steps.min() > 0.0 and np.ptp(steps) <= 1e-6 * steps.max():
        warn(
            f"{path.name} has a first column {name!r} that rises in equal steps, as row numbers and times do, and "
            f"that is read as a measurement. If it is none, pass index={name!r} or time={name!r}."
        )


# Files of other kinds


def _from_parquet(path: Path, columns: Columns) -> xr.DataArray:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(
            f"{path.name} is read by means of pyarrow, which is not installed. Call python -m pip install "
            "pyarrow."
        ) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name} is not a Parquet file: {error}.") from error
    levels = [name for name in frame.index.names if name is not None and name in columns.names]
    frame = frame.assign(**{name: frame.index.get_level_values(name) for name in levels})
    columns.check(path, frame.columns)
    labels = None if columns.label is None else _labels(frame[columns.label])
    times = None if columns.time is None else _times(path, frame[columns.time], columns.time)
    if columns.index:
        names = frame[list(columns.index)]
        frame = frame.set_index(
            pd.Index(names.iloc[:, 0]) if names.shape[1] == 1 else pd.MultiIndex.from_frame(names)
        )
    if times is None:
        times = datelike(frame.index)
    frame = frame.drop(columns=columns.names)
    _require_numbers(path, frame.columns)
    _check_different(path, frame.columns)
    text = [str(c) for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    if text:
        kind, remedy = "text", f"the classes, pass label={text[0]!r}"
        if datelike(frame[text[0]]) is not None:
            kind, remedy = "dates", f"the times of the rows, pass time={text[0]!r}"
        raise TypeError(
            f"{path.name} must hold numbers, got {kind} in {', '.join(text[:5])}. If one of them names {remedy}; "
            f"if it names the rows, index={text[0]!r}."
        )
    table = labelled(frame)
    _warn_of_steps(path, str(frame.columns[0]), table.to_numpy())
    return _table(path, table.to_numpy(), table[OBS].to_numpy(), frame.columns, labels, times)


def _check_different(path: Path, names: pd.Index) -> None:
    if names.has_duplicates:
        raise ValueError(
            f"{path.name} must have different names of columns, got {names[names.duplicated()][0]!r} more "
            "than once. Rename them."
        )


def _labels(column: Any) -> NDArray[Any]:
    """Classes of a column of any kind as text, "" where it is missing; many numbers or dates as such."""
    entries = np.asarray(column, dtype=object)
    known = [entry for entry in entries.tolist() if not absent(entry)]
    if len(set(known)) > MOST_CLASSES:
        if (at := datelike(column)) is not None:
            return at
        if not any(isinstance(entry, str | bytes | bool) for entry in known):
            return np.array([np.nan if absent(v) else v for v in entries.tolist()], np.float64)
    return np.array(["" if absent(entry) else str(entry) for entry in entries], dtype=str)


def _times(path: Path, column: Any, name: str) -> NDArray[Any]:
    """Read times of a column of any kind: dates, durations, numbers, or text of dates."""
    if (at := datelike(column)) is not None:
        return at
    entries = np.asarray(column, dtype=object).tolist()
    if (at := dates(["" if absent(v) else str(v) for v in entries])) is not None:
        return at
    odd = [v for v in entries if not absent(v) and (isinstance(v, bool) or not isinstance(v, Real))]
    if odd:
        _refuse_times(path, name, odd[0])
    return np.array([np.nan if absent(v) else v for v in entries], dtype=np.float64)


def _from_anndata(path: Path, columns: Columns, layer: str | None) -> xr.DataArray:
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
    columns.check(path, data.obs.columns)
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
    labels = None if columns.label is None else _labels(data.obs[columns.label])
    times = None if columns.time is None else _times(path, data.obs[columns.time], columns.time)
    rows = np.array(data.obs_names, dtype=str)
    return _table(path, values, rows, data.var_names, labels, times)


def _from_netcdf(path: Path, columns: Columns) -> xr.DataArray:
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            data = file.load()
    except OSError as error:
        raise ValueError(f"{path.name} is not a NetCDF file: {error}.") from error
    tables = [name for name, variable in data.data_vars.items() if variable.ndim == 2]
    if len(tables) != 1:
        names = ": " * bool(tables) + ", ".join(map(str, tables))
        fit = ". It holds a fit: read it with gplvm.load" if holds_fit(path) else ""
        raise ValueError(
            f"{path.name} must hold one two-dimensional variable, got {len(tables)}{names}{fit}."
        )
    table = data[tables[0]]
    rows, features = dims_of(table)
    known = {n: v for n, v in data.variables.items() if v.dims == (rows,)}
    for argument, name in columns.named:
        if name not in known:
            raise ValueError(
                f"{argument} must name a coordinate of {path.name}, got {name!r}. "
                f"It has {', '.join(map(str, known)) or 'none'} along its rows."
            )
    labels = None if columns.label is None else _labels(known[columns.label].to_numpy())
    times = None
    if columns.time is not None:
        times = _times(path, known[columns.time].to_numpy(), columns.time)
    elif rows in known:
        times = datelike(known[rows].to_numpy())
    # A coordinate called obs, feature, label or time that is another one gives way.
    own = {OBS: rows, FEATURE: features}
    taken = [dim for dim, old in own.items() if dim != old and dim in table.coords]
    taken += [
        n
        for n, v in (("label", labels), ("time", times))
        if v is not None and n not in own.values()
    ]
    table = table.drop_vars(taken, errors="ignore").transpose(rows, features)
    return _with_coords(table.rename({old: new for new, old in own.items()}), labels, times)


def holds_fit(path: Path) -> bool:
    """Whether a file or folder looks like a fit: it has a group of draws."""
    if path.suffix == ".zarr":
        return (path / "posterior").is_dir()
    try:
        with h5py.File(path, "r") as file:
            return "posterior" in file and isinstance(file["posterior"], h5py.Group)
    except OSError:
        return False
