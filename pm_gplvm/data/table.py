"""The user's table: checked, labelled, its centre and scale, the grid of its values, odd tables."""

import warnings
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, counted, warn
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.arrays import (
    absent,
    are_positions,
    by_row,
    dims_of,
    labels_along,
    listed,
    numbers,
)
from pm_gplvm.data.fit import FEATURE, OBS, Fit

Scale = Literal["global", "feature", "none"]

_FEWEST = 3  # rows of a table
_SMALLEST = 1e-100  # range of a table: variances and products of two must not underflow

# Grids of values
_DISTINCT = 0.9  # share of a column's entries above which its values are on no grid
_MULTIPLES, _ROUNDING = 0.95, 1e-3  # share of the gaps that must be whole multiples, and how nearly
_LEAST_NOISE = 0.01  # no table is known to more than a hundredth of its spread

# Odd tables
_LABELS = {"class", "classes", "cluster", "group", "label", "labels", "species", "stage", "target"}
_NUMBERS = {"id", "index", "row", "unnamed: 0"}
_FEW_ROWS, _MANY_COLUMNS = 20, 50  # columns per row
_SHARE, _FEW = 0.9, 0.25  # of all variance in at most this share of the columns
_SHARE_OF_FEW = 0.99  # in one column where there are only two or three
_BEYOND = 1e15  # no measurement is as large next to others, but what files fill gaps with
# One noise for all columns, beside factor analysis: nats that an entry gains by a noise of its column,
# share of its factors that principal components hold, share of the variance that they leave. Of
# benchmarks/ordinary_tables those that meet all three are the two that have their noise by column.
_GAIN, _COMMON, _LEFT = 0.8, 0.7, 0.1
_ENOUGH = 200  # rows, and columns, of a table that are looked at
_FARTHEST = 1e8  # of a new row from the mean, in scales: of longer ways no integral is left


def as_table(Y: Any, *, missing: str = "raise") -> xr.DataArray:
    """Return a table as float64 with dims (obs, feature), checked, in the user's units.

    Names of rows and columns are kept, and further coordinates along the rows (``label``).
    """
    table = labelled(Y)
    N, D = table.shape
    if N < _FEWEST or D < 1:
        raise ValueError(
            f"Y must have at least 3 rows (obs) and 1 column (feature), got shape {(N, D)}. Rows are "
            "what is embedded: if columns were meant, pass Y.T."
        )
    if missing not in ("raise", "mask"):
        raise ValueError(f"missing must be one of raise, mask, got {missing!r}.")
    _check_finite(table, allow_missing=missing == "mask")
    if not (names := table.indexes[FEATURE]).is_unique:
        raise ValueError(
            f"Y must have a name of its own for each column, got {listed(names[names.duplicated()].unique())} "
            "more than once. Rename them: new rows are joined to the columns by name."
        )
    values = table.to_numpy()
    spread = (np.nanmax(values, axis=0) - np.nanmin(values, axis=0)).max()
    if spread == 0.0:
        raise ValueError(f"Y has {N} equal rows: there is nothing to embed.")
    if spread < _SMALLEST:
        raise ValueError(
            f"Y must vary by at least {_SMALLEST:g}, got a largest range of {spread:.3g}: its square is "
            "lost in float64. Multiply it, or give it in a smaller unit."
        )
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
            "Drop or impute them, or pass missing='mask', which takes NaN for what was not measured."
        )
    for axis, dim, what in ((1, OBS, "row"), (0, FEATURE, "column")):
        if (empty := absent.all(axis=axis)).any():
            raise ValueError(
                f"Y must have an entry in every row and column, got {counted(int(empty.sum()), what)} of "
                f"NaN alone, first {dim} {_name(table, dim, int(empty.argmax()))}. Drop them."
            )


def _name(table: xr.DataArray, dim: str, position: int) -> str:
    label = table[dim].to_numpy()[position]
    return f"{position}" if str(label) == f"{position}" else f"{position} ({label})"


# Kinds of tables


def labelled(Y: Any, name: str = "Y") -> xr.DataArray:
    """Return any kind of table as float64 with dims (obs, feature), its labels kept, its values unchecked."""
    if isinstance(Y, xr.DataArray):
        if Y.ndim != 2 or len(set(Y.dims)) != 2:
            raise ValueError(f"{name} must have two dimensions (obs, feature), got dims {Y.dims}.")
        rows, columns = dims_of(Y)
        Y = Y.transpose(rows, columns).rename({rows: OBS, columns: FEATURE})
    values = numbers(name, Y)
    if values.ndim != 2:
        new = name != "Y"
        hint = f" For a single {'row' if new else 'feature'} pass {name}[{'None' if new else ':, None'}]."
        raise ValueError(
            f"{name} must have two dimensions (obs{'_new' * new}, feature), got shape {values.shape}."
            f"{hint * (values.ndim == 1)}"
        )
    coords: dict[str, Any] = {}
    for axis, (dim, size) in enumerate(zip((OBS, FEATURE), values.shape, strict=True)):
        labels = labels_along(Y, axis)
        coords[dim] = np.arange(size) if labels is None else labels
    if isinstance(Y, xr.DataArray):
        for other, coord in Y.coords.items():
            if coord.dims == (OBS,) and other != OBS and other not in Y.indexes:
                coords[str(other)] = (OBS, _plain_labels(coord.to_numpy()))
    return xr.DataArray(values, dims=(OBS, FEATURE), coords=coords)


def _plain_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Numbers and dates as they are, others as text, "" where there is none."""

    def text(label: Any) -> str:
        if absent(label):
            return ""
        return label.decode(errors="replace") if isinstance(label, bytes) else str(label)

    if labels.dtype.kind == "f":
        return labels.astype(np.float64)
    return labels if labels.dtype.kind in "biumM" else np.array([text(v) for v in labels.tolist()])


def new_table(read: Fit, Y_new: Any, *, empty: bool = False) -> xr.DataArray:
    """Check new rows and bring their columns (obs_new, feature) into the order of the fit's.

    In the user's units, NaN where missing, with the labels of its rows. ``empty``: whether rows may hold NaN alone.
    """
    new = _in_columns_of(read, Y_new, "Y_new")
    if not len(new):
        raise ValueError("Y_new must have at least one row, got none.")
    if not empty:
        require_entries(new.to_numpy())
    return new.rename({OBS: "obs_new"})


def table_like(read: Fit, Y: Any) -> NDArray[np.float64]:
    """Check a table (N, D) with the rows and columns of the fit's, and bring it into their order by label."""
    n = read.draws("X").shape[2]
    given = by_row("Y", Y, read.row_names(n))
    found = _in_columns_of(read, given, "Y")
    if len(found) != n:
        raise ValueError(
            f"Y must have the {counted(n, 'row')} of the fit's table, got {len(found)}. Put NaN where nothing is "
            "known; other rows have log_predictive."
        )
    return np.asarray(found.to_numpy())


def _in_columns_of(read: Fit, Y: Any, name: str) -> xr.DataArray:
    """Read a table (obs, feature) in the user's units, with the columns of the fit's in their order."""
    table, known = labelled(Y, name), read.features
    given = labels_along(Y, 1)
    has_names = given is not None and not are_positions(given)
    names = table.indexes[FEATURE]
    other = [str(n) for n in names if has_names and n not in known]
    if len(names) != len(known) or other:
        among = f", {listed(other)} among them" if other else ""
        turned = f", or pass {name}.T" if len(table) == len(known) else ""
        raise ValueError(
            f"{name} must have the {len(known)} columns of the fit's table, got {len(names)}{among}. Put "
            f"NaN into columns that were not measured{turned}."
        )
    if not names.is_unique:
        raise ValueError(
            f"{name} must have each column once, got {listed(names[names.duplicated()].unique())} more "
            "than once."
        )
    table = table.sel({FEATURE: known}) if has_names else table.assign_coords({FEATURE: known})
    values = table.to_numpy()
    if np.isinf(values).any():
        raise ValueError(f"{name} must not be infinite; put NaN where an entry is missing.")
    mean, scale = read.units()
    units = np.nan_to_num(np.abs(values - mean) / scale)
    if units.size and units.max() > _FARTHEST:
        row, column = np.unravel_index(units.argmax(), units.shape)
        raise ValueError(
            f"{name} must lie within {_FARTHEST:.0e} scales of the fit's table, got "
            f"{values[row, column]:g} in row {row}, column {known[column]}. If it stands for a "
            "missing entry, put NaN."
        )
    return table


def require_entries(values: Array) -> None:
    """Raise where a new row holds NaN alone."""
    if (empty := np.isnan(values).all(axis=1)).any():
        raise ValueError(
            f"Y_new must have an entry in every row, got {counted(int(empty.sum()), 'row')} of NaN alone, first "
            f"row {int(empty.argmax())}. Drop them."
        )


# Centre, scale and grid


def centre_and_scale(table: xr.DataArray, scale: Scale = "global") -> tuple[Array, Array]:
    """Return mean and scale of each column, both (D,), in the units of the table.

    A constant column is allowed unless each column has its own scale: it becomes 0, as if it were data
    without noise.
    """
    if scale not in (rules := get_args(Scale)):
        raise ValueError(f"scale must be one of {', '.join(rules)}, got {scale!r}.")
    values = table.to_numpy()
    mean = np.nanmean(values, axis=0)
    if scale == "none":
        return mean, np.ones_like(mean)
    spread = np.nanstd(values - mean, axis=0)
    if scale == "global":
        share = (~np.isnan(values)).sum(axis=0)
        return mean, np.full_like(mean, np.sqrt(np.average(spread**2, weights=share)))
    # A constant column leaves rounding noise of the size of its mean times machine precision.
    constant = np.nanmin(values, axis=0) == np.nanmax(values, axis=0)
    if constant.any():
        names = [str(name) for name in table[FEATURE].to_numpy()[constant]]
        raise ValueError(
            f"scale='feature' cannot divide by the spread of {len(names)} constant features: "
            f"{listed(names)}. Drop them or use scale='global'."
        )
    return mean, spread


def spread_by_feature(variance: Array, centre: Array, features: Any) -> Array:
    """Return the standard deviations (D,) of columns of which the moments are known; ValueError if one is constant."""
    spread = np.sqrt(variance)
    if (constant := spread <= 1e-12 * np.abs(centre)).any():
        raise ValueError(
            f"scale='feature' cannot divide by the spread of {int(constant.sum())} constant features, "
            f"{features[int(constant.argmax())]} among them. Drop them, or take scale='global'."
        )
    return spread


def grid_steps(values: Array) -> Array:
    """Return the step of the grid that each column's values (N, D) lie on; 0 where there is none.

    A column is gridded if values repeat (at most 90 % of its entries are distinct) and at least 95 % of
    the gaps between neighbouring values are whole multiples of the smallest; or if it has two values.
    """
    ordered = np.sort(values, axis=0)
    # NaN is sorted to the end, and no comparison with it is true.
    counts = 1 + (np.diff(ordered, axis=0) > 0.0).sum(axis=0)
    known = (~np.isnan(values)).sum(axis=0)
    steps = np.zeros(values.shape[1])
    for d in np.flatnonzero((counts > 1) & (counts <= _DISTINCT * known)):
        steps[d] = _grid_step(np.unique(ordered[: known[d], d]))
    return steps


def _grid_step(distinct: Array) -> float:
    gaps = np.diff(distinct)
    # Two numbers that should be equal may differ in their last digits.
    gaps = gaps[gaps > 1e-9 * np.ptp(distinct)]
    step = float(gaps.min())
    times = gaps / step
    whole = np.abs(times - np.round(times)) < _ROUNDING * np.maximum(times, 1.0)
    return step if len(distinct) == 2 or (len(gaps) > 1 and whole.mean() >= _MULTIPLES) else 0.0


def resolution_of(values: Array, scale: Array, *, by_column: bool = False) -> Array:
    """Return the least standard deviation of the noise, in units of the scale: () or by column (D,).

    A value (N, D) rounded to a grid of step δ has an error of variance δ²/12; its mean over the columns counts,
    and 0.01² besides. Without it a fit to gridded data may take the grid for signal. At most a third of a column's
    variance counts, which is what halves of two values have: of rare values δ²/12 would be more than all of it.
    """
    rounding = (
        np.minimum(grid_steps(values) ** 2 / 12.0, np.nanvar(values, axis=0) / 3.0) / scale**2
    )
    return np.sqrt((rounding if by_column else rounding.mean()) + _LEAST_NOISE**2)


def noise_floor(resolution: Any, values: Array, scale: Array, *, by_column: bool) -> Array:
    """Give the least standard deviation of the noise that was asked for, () or by column (D,), as by :func:`resolution_of`."""
    if isinstance(resolution, str) and resolution == "auto":
        return resolution_of(values, scale, by_column=by_column)
    try:
        floor = numbers("resolution", resolution)
    except (TypeError, ValueError):
        floor = np.array(np.nan)
    shapes = [(), scale.shape] if by_column else [()]
    known = floor.shape in shapes and not isinstance(resolution, bool)
    if known and np.isfinite(floor).all() and (floor >= 0.0).all():
        return floor
    raise ValueError(
        "resolution must be 'auto', 0 or a positive number (with noise='column' one for each column if "
        f"wanted), in units of the scale as sigma is, got {resolution!r}."
    )


# Odd tables


def warn_of_odd_table(table: xr.DataArray, scale: str) -> None:
    """Warn of a table that looks transposed, holds labels, or has columns in different units."""
    N, D = table.shape
    names = [str(name) for name in table[FEATURE].to_numpy()]
    if N < _FEW_ROWS and D >= _MANY_COLUMNS * N:
        warn(
            f"Y has {N} rows and {D} columns, and rows are what is embedded. If columns were meant, "
            "pass Y.T."
        )
    if labels := [n for n in names if n.lower() in _LABELS]:
        warn(
            f"Y has a column called {listed(labels)}, which would be embedded as a measurement. If it "
            f"holds classes, take it out: load_table(path, label={labels[0]!r}) or Y.pop({labels[0]!r})."
        )
    if numbers := [n for n in names if n.lower() in _NUMBERS]:
        warn(
            f"Y has a column called {listed(numbers)}, which would be embedded as a measurement. If "
            f"it numbers the rows, make it the index: load_table(path, index={numbers[0]!r}) or "
            f"Y.set_index({numbers[0]!r})."
        )
    if codes := _missing_codes(table):
        counted = [f"{code:.10g} ({n} times)" for code, n in codes.items()]
        first = f"{next(iter(codes)):.10g}"
        warn(
            f"Y has values far outside all others, {listed(counted)}, which seem to stand for missing "
            f"entries and would be embedded as measurements. If so, load_table(path, missing={first}) or "
            f"Y.where(Y != {first}) puts NaN there, and build_model(Y, missing='mask') takes it."
        )
    if scale == "global" and (large := _dominant(table, names)):
        warn(
            f"Y has nearly all of its variance in {len(large)} of {D} features, and they decide alone: "
            f"{listed(large)}. If the units differ, pass scale='feature', which divides each by "
            "its own spread."
        )


def unlike_noise(F: Array, latent_dim: int) -> Array | None:
    """Estimate the columns' noise (D,) by factor analysis where its factors are not those of principal components.

    That is where the noise of a few columns exceeds what the others have in common: components then follow
    those columns, and so does a model with one noise for all. NaN for a column that was not looked at.
    """
    with interruptible():
        from sklearn.decomposition import PCA, FactorAnalysis
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LinearRegression
        from sklearn.metrics import r2_score

    rows, columns = (np.unique(np.linspace(0, n - 1, _ENOUGH).astype(int)) for n in F.shape)
    columns = columns[F[np.ix_(rows, columns)].std(axis=0) > 0.0]
    some = F[np.ix_(rows, columns)]
    if latent_dim >= min(some.shape):
        return None
    with warnings.catch_warnings(), blas_threads(1):  # several would wait for each other
        warnings.simplefilter("ignore", ConvergenceWarning)
        components = PCA(latent_dim).fit(some)
        if 1.0 - components.explained_variance_ratio_.sum() < _LEFT:
            return None
        factors = FactorAnalysis(latent_dim, random_state=0).fit(some)
    gain = (factors.score(some) - components.score(some)) / len(columns)
    if gain < _GAIN:
        return None
    X, other = components.transform(some), factors.transform(some)
    common = LinearRegression().fit(X, other).predict(X)
    if r2_score(other, common, multioutput="variance_weighted") > _COMMON:
        return None
    noise = np.full(F.shape[1], np.nan)
    noise[columns] = np.sqrt(factors.noise_variance_)
    return noise


def _missing_codes(table: xr.DataArray) -> dict[float, int]:
    """Return numbers that seem to stand for missing entries, and how often each is in the table.

    A code is the lowest or highest value of a column, repeated, and farther from the next value than all
    others from each other, of which there are three or more: a measurement out there would hardly
    come twice as the same number, but in a table of counts. So it must also be written as codes are: in
    nines (999, -9999.99), beyond all measure (1e30), or whole and negative where nothing else is.
    """
    values, counts = np.unique(table.to_numpy(), return_counts=True)
    repeated = values[(counts > 1) & np.isfinite(values)]
    found: dict[float, int] = {}
    for column in table.to_numpy().T:
        others = np.unique(column[np.isfinite(column)])
        for code, low, high in (others[[0, 1, -1]], others[[-1, 0, -2]]) if len(others) > 3 else ():
            gap, spread = min(abs(code - low), abs(code - high)), abs(high - low)
            if gap <= spread or code not in repeated:
                continue
            whole = code == round(code) and (column == code).sum() > 1
            if _written_as_a_code(code) or (code < 0.0 <= min(low, high) and whole):
                found[float(code)] = int(counts[values == code][0])
    return found


def _written_as_a_code(value: float) -> bool:
    text = f"{abs(value):.10g}".replace(".", "")
    return abs(value) >= _BEYOND or (len(text) > 1 and set(text) == {"9"})


def _dominant(table: xr.DataArray, names: list[str]) -> list[str]:
    """Return the columns that hold nearly all variance, if they are few."""
    variance = np.nanvar(table.to_numpy(), axis=0)
    varies = int((variance > 0.0).sum())
    order = np.argsort(-variance)
    share = np.cumsum(variance[order]) / variance.sum()
    few = int(_FEW * varies)
    n = int(np.searchsorted(share, _SHARE if few else _SHARE_OF_FEW)) + 1
    return [names[i] for i in order[:n]] if varies > 1 and n <= max(few, 1) else []
