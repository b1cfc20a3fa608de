"""Several tables of the same rows: joined by label, and one of them taken out of their fit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, counted
from pm_gplvm.data.arrays import labels_along, listed
from pm_gplvm.data.fit import FEATURE, OBS, OF_VIEW, Fit, in_view, to_json
from pm_gplvm.data.table import as_table, new_table, require_entries

_OF_SEVERAL = ("views", "kernels", "own_names")
_SHARED = {"log_likelihood", "log_marginal", "bound"}  # of all views together, in a fit of them


def are_views(Y: Any) -> bool:
    """Whether a table was given as a mapping from names to tables."""
    return isinstance(Y, Mapping) and not isinstance(Y, xr.Dataset | xr.DataTree)


def as_views(given: Mapping[Any, Any], *, missing: str) -> dict[str, xr.DataArray]:
    """Return tables as :func:`as_table` does, each with all rows in one order, NaN in rows that it lacks.

    Rows are joined by label where every table has labels, else by position.
    """
    names = checked_names(given)
    tables = {name: _table(name, given[name], missing) for name in names}
    labels = {name: table[OBS].to_numpy() for name, table in tables.items()}
    rows, orders = joined_rows(given, labels, missing=missing)
    coords: dict[str, Any] = {}  # along the rows, of the first table that has them for all rows
    joined = {}
    for name, table in tables.items():
        order = orders[name]
        absent = order < 0
        values = np.where(absent[:, None], np.nan, table.to_numpy()[order])
        columns = table[FEATURE].to_numpy()
        joined[name] = xr.DataArray(
            values, dims=(OBS, FEATURE), coords={OBS: rows, FEATURE: columns}
        )
        for other, coord in table.coords.items():
            if other not in (OBS, FEATURE) and coord.dims == (OBS,) and not absent.any():
                coords.setdefault(str(other), (OBS, coord.to_numpy()[order]))
    return {name: table.assign_coords(coords) for name, table in joined.items()}


def checked_names(given: Mapping[Any, Any]) -> list[str]:
    """Return the names of tables; ValueError if variables cannot be named after them."""
    if not given:
        raise ValueError(
            "Y must have at least one table where it is a mapping, got an empty one. Pass tables by name: "
            "build_model({'rna': Y1, 'protein': Y2})."
        )
    for name in given:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"Y must give each table a name of letters, digits and '_', not beginning with a digit, got {name!r}: "
                "variables are named after it (sigma_rna). Rename it."
            )
    names = list(given)
    taken = [*OF_VIEW, *(in_view(of, name) for name in names for of in OF_VIEW)]
    twice = pd.Index(taken)[pd.Index(taken).duplicated()]
    if len(twice):
        bad = [name for name in names if {in_view(of, name) for of in OF_VIEW} & set(twice)]
        raise ValueError(
            f"Y must give its tables names that lead to variables of their own, got {listed(bad)}, by which "
            f"{twice[0]!r} would be two. Rename one."
        )
    return names


@contextmanager
def of_table(name: str | None) -> Iterator[None]:
    """Say of which of several tables an error is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if name is None:
            raise
        raise type(error)(f"In the table {name!r}: {error}") from None


def _table(name: str, Y: Any, missing: str) -> xr.DataArray:
    with of_table(name):
        return as_table(Y, missing=missing)


def joined_rows(
    given: Mapping[str, Any], labels: Mapping[str, NDArray[Any]], *, missing: str
) -> tuple[NDArray[Any], dict[str, NDArray[np.intp]]]:
    """Join the rows of tables, each with as many labels as it has rows, by these where it was given with them.

    The labels of all rows, and for each table which of its own rows each is, -1 where it lacks it.
    """
    rows = _all_rows(given, labels, missing)
    orders = {}
    for name, own in labels.items():
        same = labels_along(given[name], 0) is None or np.array_equal(own, rows)
        orders[name] = np.arange(len(rows)) if same else pd.Index(own).get_indexer(pd.Index(rows))
    return rows, orders


def _all_rows(
    given: Mapping[str, Any], labels: Mapping[str, NDArray[Any]], missing: str
) -> NDArray[Any]:
    """Labels of all rows: those of the first table, then what others have besides."""
    bare = [name for name in labels if labels_along(given[name], 0) is None]
    labelled = [name for name in labels if name not in bare]
    first = (labelled or bare)[0]
    rows = labels[first]
    if bare:
        for name in labels:
            if len(labels[name]) != len(rows):
                raise ValueError(
                    f"Y must have tables of the same rows, got {len(rows)} in {first!r} and {len(labels[name])} in "
                    f"{name!r}, and no labels of rows in {listed(bare)} to join them by. Give each table labels "
                    "(DataFrame(Y, index=...)), or the same rows in one order."
                )
            if name in labelled and not np.array_equal(labels[name], rows):
                raise ValueError(
                    f"Y must have tables that can be joined, got rows of other labels in {first!r} and {name!r}, and "
                    f"none in {listed(bare)}. Give labels to each, or to none, in one order."
                )
        return rows
    others = [name for name in labelled[1:] if not np.array_equal(labels[name], rows)]
    if not others:
        return rows
    for name in (first, *others):
        index = pd.Index(labels[name])
        if not index.is_unique:
            raise ValueError(
                f"Y has tables that are joined by the labels of their rows, which repeat in {name!r} "
                f"({listed(index[index.duplicated()].unique())}). Make them unique, or pass arrays "
                "(.to_numpy()) in one order."
            )
    union = pd.Index(rows)
    for name in others:
        index = pd.Index(labels[name])
        if not index.isin(union).any():
            raise ValueError(
                f"Y must have tables with rows in common, got none in {name!r} ({listed(index)}) that those before "
                f"it have ({listed(union)}). Give them the same labels, or pass arrays (.to_numpy()) in one order."
            )
        union = union.append(index[~index.isin(union)])
    short = {name: int((~union.isin(labels[name])).sum()) for name in labelled}
    lacking = {name: n for name, n in short.items() if n}
    if lacking and missing == "raise":
        name, n = next(iter(lacking.items()))
        lost = union[~union.isin(labels[name])]
        raise ValueError(
            f"Y must have tables of the same rows, got {counted(n, 'row')} that {name!r} lacks: {listed(lost)}. Pass "
            "missing='mask', which takes what a table lacks for not measured, or give the rows that all have."
        )
    return union.to_numpy()


def view(fit: xr.DataTree, name: str) -> xr.DataTree:
    """Take one table out of a fit of several.

    What comes out is a fit of that table as every verb takes it: the positions, found from all tables, and
    its own θ, data and inducing inputs under their plain names.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model` of several tables.
    name : str
        Of one of its tables.

    Returns
    -------
    DataTree
        With ``attrs["view"]``, its name. ``sample_stats``: ``lp`` is that of all tables together, ``log_likelihood``
        that of this one. Rows that the table lacks are missing in it, and have positions.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is none of several tables, or has none of that name.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model({"upper": Y[:, :32], "lower": Y[:, 32:]})
    >>> fit = gplvm.fit_marginal(model, progressbar=False)
    >>> lower = gplvm.data.view(fit, "lower")
    >>> gplvm.predict(lower, lower["posterior"]["X"][0, 0, :2])["mean"].shape
    (2, 32)
    """
    read = Fit.of(fit, "X", caller="view", views=True)
    if not read.views:
        raise ValueError(
            "view needs a fit of several tables, build_model({'rna': Y1, 'protein': Y2}), got one of a single table: "
            "it is what view would return."
        )
    if name not in read.views:
        raise ValueError(
            f"name must be one of the fit's tables, {', '.join(read.views)}, got {name!r}."
        )
    own = read.own_names
    others = {in_view(of, other) for other in read.views if other != name for of in own}
    plain = {in_view(of, name): of for of in own}
    groups = {}
    for path, group in fit.children.items():
        data = group.to_dataset()
        if path == "sample_stats":
            data = data.drop_vars(_SHARED, errors="ignore")
        data = data.drop_vars([v for v in data.variables if v in others])
        data = data.drop_dims([d for d in data.dims if d in others])
        known = {*data.variables, *data.dims}
        groups[path] = data.rename({old: new for old, new in plain.items() if old in known})
    taken = xr.DataTree.from_dict(groups)
    known_attrs = {n: v for n, v in fit.attrs.items() if n not in (*others, *_OF_SEVERAL)}
    attrs = {plain.get(str(n), n): v for n, v in known_attrs.items()}
    if "kernels" in fit.attrs:  # those before had one kernel
        attrs["kernel"] = read.setting("kernels")[name]
    priors = {plain.get(n, n): text for n, text in (read.priors or {}).items() if n not in others}
    taken.attrs = attrs | {"observed": "Y", "view": name, "priors": to_json(priors)}
    return taken


Tables = dict[str | None, Fit]
"""What a fit is of each of its tables by name; of a single one by None."""


def tables_of_fit(fit: Any, *, caller: str) -> Tables:
    """Read a fit of one table or several."""
    read = Fit.of(fit, "X", caller=caller, views=True)
    views: Tables = {name: Fit(view(fit, name), caller) for name in read.views}
    tables: Tables = views or {None: read}
    for table in tables.values():
        table.require("Y_mean", "Y_scale")
    return tables


@dataclass(frozen=True)
class NewRows:
    """New rows of the tables of a fit, in the user's units, (obs_new, feature) each, NaN where missing."""

    tables: Tables
    parts: dict[str | None, xr.DataArray]

    @classmethod
    def of(cls, tables: Tables, Y_new: Any) -> "NewRows":
        """Check them; of several tables each may be given or not."""
        if None in tables:
            return cls(tables, {None: new_table(tables[None], Y_new)})
        names, first = [str(name) for name in tables], str(next(iter(tables)))
        if not are_views(Y_new):
            raise TypeError(
                f"Y_new must be a mapping from tables of the fit to their new rows, {{{first!r}: ...}}, got "
                f"{type(Y_new).__name__}. By one table alone pass gplvm.data.view(fit, {first!r})."
            )
        unknown = [str(name) for name in Y_new if name not in names]
        if unknown or not Y_new:
            raise ValueError(
                f"Y_new must name tables of the fit, {', '.join(names)}, got {listed(unknown) or 'none'}."
            )
        given = {}
        for name, rows in Y_new.items():
            with of_table(name):
                given[name] = new_table(tables[name], rows, empty=True)
        one, *others = given
        whole = given[one]
        for other in others:
            if not np.array_equal(given[other]["obs_new"], whole["obs_new"]):
                raise ValueError(
                    f"Y_new must have the same new rows in each table, in one order, got "
                    f"{listed(whole['obs_new'].to_numpy())} in {one!r} and "
                    f"{listed(given[other]['obs_new'].to_numpy())} in {other!r}. Put NaN where a table lacks a row."
                )
        parts: dict[str | None, xr.DataArray] = {}
        for name, table in tables.items():
            absent = xr.DataArray(
                np.full((len(whole), len(table.features)), np.nan),
                dims=("obs_new", FEATURE),
                coords={"obs_new": whole["obs_new"], FEATURE: table.features},
            )
            parts[name] = given.get(name, absent)
        rows = cls(tables, parts)
        require_entries(rows.values)
        return rows

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    @property
    def values(self) -> Array:
        """All entries side by side, (M, D)."""
        return np.hstack([part.to_numpy() for part in self.parts.values()])

    @property
    def standardised(self) -> Array:
        """The same in the units of the model."""
        return (self.values - self._units(0)) / self._units(1)

    @property
    def log_units(self) -> Array:
        """Sum of the logarithms of the scales of the entries seen, (M,)."""
        return np.asarray((~np.isnan(self.values)) @ np.log(self._units(1)))

    def _units(self, which: int) -> Array:
        return np.concatenate([table.units()[which] for table in self.tables.values()])

    @property
    def labels(self) -> dict[Any, Any]:
        """Coordinates along the rows."""
        found: dict[Any, Any] = {}
        for part in self.parts.values():
            found |= {name: c for name, c in part.coords.items() if c.dims == ("obs_new",)}
        return found
