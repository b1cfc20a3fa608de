"""What a fit by minibatches reads: each table with its likelihood, kernel and priors of θ, and the prior of X."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, count
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import (
    Kernel,
    beside,
    check_rank,
    composite_of,
    kernel_named,
    parse_kernel,
)
from pm_gplvm.data.arrays import labels_along
from pm_gplvm.data.fit import OBS, in_view
from pm_gplvm.data.input_tables import inputs_of_rows
from pm_gplvm.data.inputs import Inputs
from pm_gplvm.data.rows import Rows, RowTable, along_rows, offset_along_rows
from pm_gplvm.data.table import Scale, noise_floor, spread_by_feature
from pm_gplvm.data.views import are_views, checked_names, joined_rows, of_table
from pm_gplvm.model.build import of_each, refuse_composite
from pm_gplvm.model.families import Gaussian, working_table
from pm_gplvm.model.likelihoods import Likelihood, resolve
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.model.positions import NormalPositions, Positions, positions_of
from pm_gplvm.model.theta import ThetaPrior

SAMPLE = 20_000
"""Rows that a start is found on."""


@dataclass(frozen=True)
class Part:
    """A table in the units of the model, a batch at a time, and what is known of its entries and functions."""

    table: RowTable
    likelihood: Likelihood
    kernel: str
    theta: ThetaPrior
    centre: Array
    scale: Array
    offset: Array | None = None  # (N, 1) or (N, D)
    entry: Array | None = None
    inputs: Inputs | None = None  # of which the kernel has terms beside those of X
    name: str | None = None  # None where it is the only one
    size: Mapping[str, float] = field(default_factory=dict)  # by which new rows find their offset

    def own(self, name: str) -> str:
        """Name of what is its own, in a fit."""
        return in_view(name, self.name)

    @property
    def is_linear(self) -> bool:
        """Whether its kernel is the inner product alone."""
        kernel = kernel_named(self.kernel)
        return isinstance(kernel, Kernel) and kernel.scaled is None

    def whole(self, X: Array, rows: Rows) -> Array:
        """Positions (n, Q) of some rows as the kernel takes them, with their inputs."""
        return X if self.inputs is None else beside(X, self.inputs.values[rows])

    def some(self, rows: slice, table: RowTable) -> Self:
        """Return that of a run of rows, which stand in a table of their own."""
        inputs = self.inputs
        if inputs is not None:
            inputs = replace(inputs, values=inputs.values[rows])
        offset, entry = _some(self.offset, rows), _some(self.entry, rows)
        return replace(self, table=table, offset=offset, entry=entry, inputs=inputs)

    def rows(self, rows: Rows) -> Observed:
        """Read some rows."""
        Y = (self.table.take(rows) - self.centre) / self.scale
        return Observed(Y, _some(self.offset, rows), _some(self.entry, rows))

    def working(self, rows: Rows) -> Array:
        """Read some rows as what a start takes for normal."""
        return working_table(self.likelihood, self.rows(rows))

    @property
    def log_scale(self) -> float:
        """Σ ln scale over the entries that were measured: what turns the bound into the table's own units."""
        logs = np.log(self.scale)
        if not logs.any():
            return 0.0
        blocks = self.table.blocks()
        seen = sum((~np.isnan(self.table.take(rows))).sum(axis=0) for rows in blocks)
        return float(seen @ logs)

    def joined(self, table: RowTable, order: Rows) -> Self:
        """Bring what is known of rows into the order of a table that was joined to others."""
        if table is self.table:
            return self
        offset, entry = _reordered(self.offset, order, 0.0), _reordered(self.entry, order, 1.0)
        return replace(self, table=table, offset=offset, entry=entry)


def _some(values: Any, rows: Rows | slice) -> Any:
    """Take some rows of what is known of each; what is known of all stays."""
    by_row = isinstance(values, np.ndarray) and values.ndim == 2 and len(values) > 1
    return values[rows] if by_row else values


def _reordered(values: Array | None, order: Rows, lacking: float) -> Array | None:
    """Bring what is known of each row into another order; of rows that the table lacks nothing counts."""
    if values is None or len(values) == 1:
        return values
    return np.where((order < 0)[:, None], lacking, values[order])


@dataclass(frozen=True)
class Views:
    """Tables of the same rows, one or several, and the prior of their positions."""

    parts: tuple[Part, ...]
    positions: Positions = field(default_factory=NormalPositions)
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # along the rows

    def __len__(self) -> int:
        return len(self.parts[0].table)

    @property
    def obs(self) -> NDArray[Any]:
        """Labels of the rows."""
        return np.asarray(self.parts[0].table.obs)

    @property
    def labels(self) -> dict[str, NDArray[Any]]:
        """All labels of the rows."""
        return {OBS: self.obs, **self.coords}

    @property
    def by_row(self) -> dict[str, Array]:
        """What is known of rows beside their entries, under its names among the constants of a fit."""
        found = {name: value for name, (_, value) in self.positions.constants.items()}
        for part in self.parts:
            inputs = None if part.inputs is None else part.inputs.values
            known = {"Y_offset": part.offset, "Y_entry": part.entry, "inputs": inputs}
            found |= {part.own(name): value for name, value in known.items() if value is not None}
        return found

    @property
    def log_scale(self) -> float:
        """Σ ln scale over the entries of all tables."""
        return sum(part.log_scale for part in self.parts)

    def few(self, n: int) -> "Views":
        """Return the first rows of all tables."""
        parts = tuple(part.some(slice(n), part.table.few(n)) for part in self.parts)
        return Views(parts, self.positions.few(n), {name: c[:n] for name, c in self.coords.items()})

    @property
    def table(self) -> RowTable:
        """The table by which rows go into blocks and batches: one that is read in runs, where there is such."""
        tables = [part.table for part in self.parts]
        return next((table for table in tables if table.in_runs), tables[0])

    def side_by_side(self, rows: Rows) -> "SideBySide":
        """Put all tables side by side, so that each has the same sum of squares over these rows."""
        blocks = [part.working(rows) for part in self.parts]
        sizes = [1.0] * len(blocks)
        if len(blocks) > 1:
            with catch_warnings():  # of columns without an entry among these rows
                simplefilter("ignore", RuntimeWarning)
                sizes = [float(np.sqrt(np.nansum(np.nanvar(b, axis=0)))) or 1.0 for b in blocks]
        return SideBySide(self.parts, sizes)


@dataclass(frozen=True)
class SideBySide:
    """Working tables in one, each divided by its size."""

    parts: Sequence[Part]
    sizes: Sequence[float]

    def rows(self, rows: Rows) -> Array:
        """Read some rows, NaN where an entry is missing."""
        pairs = zip(self.parts, self.sizes, strict=True)
        return np.hstack([part.working(rows) / size for part, size in pairs])


def read_views(
    Y: Any,
    latent_dim: int,
    priors: Mapping[str, Any] | None,
    inputs: Any,
    *,
    ard: bool,
    **given: Any,
) -> Views:
    """Check what :func:`fit_svi` is given, and look through its tables once.

    ``given``: ``likelihood``, ``kernel``, ``scale``, ``offset``, ``noise_sd`` and ``resolution``, of several tables
    for all or by name.
    """
    several = are_views(Y)
    names: list[str | None] = [*checked_names(Y)] if several else [None]
    if several and inputs is not None:
        raise ValueError(
            "inputs are of a fit of one table, got them with several. Fit one table, or put what is known into a "
            "table of its own."
        )
    by_name: dict[str, dict[str | None, Any]] = {  # a mapping of one table is of its columns
        option: of_each(option, value, names) if several else {None: value}
        for option, value in given.items()
    }
    tables = {}
    for name in names:
        with of_table(name):
            tables[name] = RowTable.of(Y[name] if several else Y)
    kernels = {name: parse_kernel(kernel) for name, kernel in by_name.pop("kernel").items()}
    n_columns = sum(table.shape[1] for table in tables.values())
    known_inputs = inputs if isinstance(inputs, Inputs) else None
    for name, table in tables.items():
        with of_table(name):
            entry, bias = kernels[name]
            refuse_composite(entry, name)
            if inputs is not None and known_inputs is None:
                _check_sizes(table, latent_dim, entry, n_columns, None)
                labelled = labels_along(Y, 0) is not None
                known_inputs = inputs_of_rows(inputs, np.asarray(table.obs), labelled=labelled)
                entry = known_inputs.joined_kernel(composite_of(entry), latent_dim)
                kernels[name] = entry, bias
            _check_sizes(table, latent_dim, entry, n_columns, known_inputs)
    joined, orders, coords = _joined(Y, tables)
    of_X = dict(priors or {})
    positions = positions_of(of_X.pop("X", None), next(iter(joined.values())), latent_dim)
    of_tables = _priors_by_table(of_X, kernels)
    parts = []
    for name, table in tables.items():
        own = {option: values[name] for option, values in by_name.items()}
        entry, bias = kernels[name]
        lengths = ard and "lengthscale" in entry.parameters
        with of_table(name):
            theta = ThetaPrior(
                entry, bias, latent_dim, of_tables[name], ard=lengths, inputs=known_inputs
            )
            part = _part(table, entry.name, theta, name, **own)
        parts.append(replace(part, inputs=known_inputs).joined(joined[name], orders[name]))
    return Views(tuple(parts), positions, coords)


def _check_sizes(
    table: RowTable,
    latent_dim: int,
    kernel: Kernel | Composite,
    n_columns: int,
    inputs: Inputs | None,
) -> None:
    N, D = table.shape
    if N < 3 or D < 1:
        raise ValueError(
            f"Y must have at least 3 rows (obs) and 1 column (feature), got shape {(N, D)}. Rows are what "
            "is embedded: if columns were meant, pass Y.T."
        )
    count("latent_dim", latent_dim, 1)
    if isinstance(kernel, Composite):
        kernel.check(latent_dim + (0 if inputs is None else len(inputs.columns)))
    check_rank(kernel, latent_dim, (N, n_columns))


Tables = dict[str | None, RowTable]


def _joined(
    Y: Any, tables: Tables
) -> tuple[Tables, dict[str | None, Rows], dict[str, NDArray[Any]]]:
    """Join tables by row: all rows of each, which of its own they are, and coordinates along them."""
    if None in tables:
        (table,) = tables.values()
        return tables, {None: np.arange(len(table))}, table.coords
    labels = {str(name): np.asarray(table.obs) for name, table in tables.items()}
    rows, orders = joined_rows(Y, labels, missing="mask")
    joined: Tables = {}
    coords: dict[str, NDArray[Any]] = {}  # of the first table that has them for all rows
    for name, table in tables.items():
        order = orders[str(name)]
        plain = np.array_equal(order, np.arange(len(table))) and np.array_equal(table.obs, rows)
        joined[name] = table if plain else table.joined(rows, order)
        for other, coord in table.coords.items():
            if (order >= 0).all():
                coords.setdefault(other, coord[order])
    return joined, {name: orders[str(name)] for name in tables}, coords


def _priors_by_table(
    priors: Mapping[str, Any], kernels: Mapping[str | None, tuple[Any, bool]]
) -> dict[str | None, dict[str, Any]]:
    """Give each table the priors of its kernel's parameters: its own, or else those under plain names."""
    if None in kernels:
        return {None: dict(priors)}
    names = {
        view: (*entry.parameters, *(("bias",) if bias else ()))
        for view, (entry, bias) in kernels.items()
    }
    plain = dict.fromkeys(name for own in names.values() for name in own)
    known = [*plain, *(in_view(name, view) for view, own in names.items() for name in own)]
    if unknown := [str(name) for name in priors if name not in known]:
        raise ValueError(
            f"priors must name parameters of these kernels ({', '.join(known)}), got {', '.join(unknown)}."
        )
    return {
        view: {
            name: priors[given]
            for name in own
            for given in (in_view(name, view) if in_view(name, view) in priors else name,)
            if given in priors
        }
        for view, own in names.items()
    }


def _part(
    table: RowTable,
    kernel: str,
    theta: ThetaPrior,
    name: str | None,
    *,
    likelihood: Any,
    scale: Scale,
    offset: Any,
    noise_sd: Any,
    resolution: Any,
) -> Part:
    """Look through a table, with what is said of its entries."""
    chosen = resolve(likelihood, table.features.tolist())
    sample = table.take(table.sample(SAMPLE, np.random.default_rng(0)))
    chosen = chosen.given(Observed(sample))
    shift, size = offset_along_rows(offset, table)
    entry = _entry(noise_sd, chosen, table)
    centre, spread = _moments(table, chosen, scale, shift, entry)
    if entry is not None and chosen.standardised(table.shape[1]).any():
        entry = entry / spread
    part = Part(table, chosen, kernel, theta, centre, spread, shift, entry, name=name, size=size)
    return _floored(part, resolution, sample)


def _entry(noise_sd: Any, likelihood: Likelihood, table: RowTable) -> Array | None:
    """Return what the likelihood was told of each entry, or the sd of each measurement."""
    told = likelihood.entries(*table.shape)
    if noise_sd is None:
        return told
    if told is not None or likelihood.name != "gaussian":
        raise ValueError(
            f"noise_sd is of a Gaussian likelihood that was told none, got it with {likelihood.text}. Leave it out."
        )
    known = along_rows("noise_sd", noise_sd, table)
    if known is None:
        return None
    n_rows = len(known) if known.strides[0] else 1  # one for all rows is kept once
    return np.broadcast_to(known[:n_rows], (n_rows, table.shape[1]))


def _floored(part: Part, resolution: Any, sample: Array) -> Part:
    """Add the floor of the noise to what is known of each entry's."""
    by_default, likelihood = isinstance(resolution, str) and resolution == "auto", part.likelihood
    if not isinstance(likelihood, Gaussian):
        if by_default or (isinstance(resolution, int | float) and resolution == 0.0):
            return part
        raise ValueError(
            f"resolution is of a Gaussian likelihood, got {resolution!r} with {likelihood.text}. Leave it out."
        )
    if by_default and part.entry is not None:
        return part
    by_column = likelihood.noise == "column"
    floor = noise_floor(resolution, sample, part.scale, by_column=by_column)
    if not floor.any():
        return part
    known = 0.0 if part.entry is None else part.entry**2
    floor = np.broadcast_to(floor, (1, part.table.shape[1]))
    return replace(part, entry=np.sqrt(known + floor**2))


def _moments(
    table: RowTable,
    likelihood: Likelihood,
    scale: Scale,
    offset: Array | None,
    entry: Array | None,
) -> tuple[Array, Array]:
    """Look through the table once: is it what the likelihood describes, and centre and scale of its columns."""
    D, labels = table.shape[1], table.features.tolist()
    n, sums, squares = np.zeros(D), np.zeros(D), np.zeros(D)
    origin: Array = np.zeros(D)
    for rows in table.blocks():
        Y = table.take(rows)
        seen = Observed(Y, _some(offset, rows), _some(entry, rows))
        likelihood.check(seen, labels=labels, first_row=int(rows[0]))
        if rows[0] == 0:
            with catch_warnings():
                simplefilter("ignore", RuntimeWarning)
                origin = np.nan_to_num(np.nanmean(Y, axis=0))
        known = ~np.isnan(Y)
        moved = np.where(known, Y - origin, 0.0)
        n += known.sum(axis=0)
        sums += moved.sum(axis=0)
        squares += (moved**2).sum(axis=0)
    if (n == 0).any():
        column = int(np.argmin(n))
        raise ValueError(
            f"Y must have an entry in every column, got none in feature {table.features[column]}. Drop it."
        )
    variance = np.maximum(squares / n - (sums / n) ** 2, 0.0)
    centre, spread = origin + sums / n, np.ones(D)
    standardised = likelihood.standardised(D)
    if scale == "feature":
        spread = spread_by_feature(variance, centre, table.features)
    elif scale == "global":
        share = np.where(standardised, n, 0.0)
        if share.any():
            spread = np.full(D, np.sqrt(np.average(variance, weights=share)) or 1.0)
    elif scale != "none":
        raise ValueError(f"scale must be one of global, feature, none, got {scale!r}.")
    return np.where(standardised, centre, 0.0), np.where(standardised, spread, 1.0)
