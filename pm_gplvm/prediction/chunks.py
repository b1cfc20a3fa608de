"""New rows of a table larger than memory: placed or filled a chunk at a time, here or by a cluster, into a Zarr store.

Each row is told the same alone and among others, so that chunks change nothing but rounding, and who does them nothing.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, count
from pm_gplvm.core.cluster import Cluster, Executor, Here, connected, require_reached
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import OWN
from pm_gplvm.core.row_chunks import Chunks
from pm_gplvm.data.files import digest
from pm_gplvm.data.fit import FEATURE, OBS, to_json
from pm_gplvm.data.input_tables import by_row_of_new
from pm_gplvm.data.progress import Bar, progress_bar
from pm_gplvm.data.rows import RowTable
from pm_gplvm.data.stores import RowStore, opened_lazily
from pm_gplvm.data.views import Tables, are_views
from pm_gplvm.fitting.chunk_folder import bounds_of_chunks, for_workers


@dataclass(frozen=True)
class Told:
    """What is told of new rows beside their entries."""

    prior: Any = None
    offset: Any = None  # of several tables by name
    inputs: Any = None

    def of_rows(self, labels: NDArray[Any]) -> "Told":
        """Check it, and bring it to the order of all rows."""
        inputs = None if self.inputs is None else by_row_of_new(self.inputs, labels)
        offset = _by_table(self.offset, partial(_offset_of_rows, n_rows=len(labels)))
        return Told(self.prior, offset, inputs)

    def some(self, rows: slice, n_rows: int) -> "Told":
        """Return what is told of some of the rows."""
        prior, offset, inputs = self.prior, self.offset, self.inputs
        if isinstance(prior, tuple | list):
            prior = tuple(
                np.asarray(p)[rows] if np.ndim(p) == 2 and len(p) == n_rows else p for p in prior
            )
        if inputs is not None:
            inputs = {n: v[rows] if np.ndim(v) else v for n, v in inputs.items()}
        return Told(prior, _by_table(offset, lambda of_all: of_all[rows]), inputs)


def _by_table(offset: Any, change: Callable[[Any], Any]) -> Any:
    """Change an offset, or that of each of several tables; none stays none."""
    if are_views(offset):
        return {name: _by_table(own, change) for name, own in offset.items()}
    return None if offset is None else change(offset)


def _offset_of_rows(offset: Any, n_rows: int) -> Array:
    """Check that each of the new rows has an entry, or a row of them."""
    found = np.asarray(offset, dtype=np.float64)
    if found.ndim not in (1, 2) or len(found) != n_rows:
        raise ValueError(
            f"offset must have an entry, or a row of them, for each of the {n_rows} new rows, got the shape "
            f"{found.shape}."
        )
    return found


Place = Callable[[Tables, Any, Told, dict[str, int], Any, int], tuple[xr.DataTree, dict[str, Any]]]
"""Does some rows by the fit of each table, with a seed, the first at a position: a tree, and what to note of them."""


@dataclass(frozen=True)
class _Columns:
    """A table by rows, with the names of its columns."""

    rows: Any  # a Reader
    features: NDArray[Any]

    def read(self, rows: slice) -> xr.DataArray:
        values = self.rows.read(rows.start, rows.stop)
        return xr.DataArray(values, dims=(OBS, FEATURE), coords={FEATURE: self.features})


@dataclass(frozen=True)
class _Work(Chunks):
    """What all tasks are told once."""

    place: Place
    fits: Tables
    own: dict[str, Composite]  # kernels of the user's, which another process does not know
    tables: dict[str | None, _Columns]
    told: Told
    settings: dict[str, int]
    seed: int
    store: RowStore
    bounds: tuple[int, ...]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def done(self, rows: slice, Y: dict[str | None, xr.DataArray]) -> Any:
        """Do some rows that were read."""
        given: Any = Y.get(None, Y)
        told = self.told.some(rows, self.bounds[-1])
        return self.place(self.fits, given, told, self.settings, self.seed, rows.start)


def _do_chunk(work: _Work, index: int, _told: Any) -> dict[str, Any]:
    """Do a chunk and write it, unless that was done of the same rows; what is noted of it."""
    OWN.update(work.own)
    rows = work.rows(index)
    with _named(index, rows):
        before = work.store.noted(index)
        Y = {name: table.read(rows) for name, table in work.tables.items()}
        content = hashlib.sha256(b"".join(part.to_numpy().tobytes() for part in Y.values()))
        checksum = content.hexdigest()
        if before is not None:
            if before.pop("rows") != checksum:
                raise ValueError(
                    f"{work.store.part.name} holds what was done of other rows. Give the same table, or remove "
                    f"{work.store.part}."
                )
            return before
        tree, note = work.done(rows, Y)
        work.store.write(rows, tree)
        work.store.note(index, {"rows": checksum, **note})
    return note


@contextmanager
def _named(index: int, rows: slice) -> Iterator[None]:
    """Say in which chunk an error is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        where = f"chunk {index} (rows {rows.start} to {rows.stop - 1})"
        raise type(error)(f"In {where}: {error}") from None


@dataclass(frozen=True)
class Stored:
    """How rows are gone through, and where what is found is written."""

    out: Any
    client: Any
    n_workers: int | None
    chunk_rows: int | None
    random_seed: int | None
    progressbar: bool
    blas_threads: int | None

    def done(
        self, place: Place, fits: Tables, Y: Any, told: Told, settings: dict[str, int]
    ) -> tuple[xr.DataTree, list[dict[str, Any]], NDArray[Any]]:
        """Do all rows: the store, opened and not read, what is noted of each chunk, and the labels of the rows."""
        caller = next(iter(fits.values())).caller
        if self.out is None:
            raise ValueError(
                f"out must be the path of a new Zarr store where {caller} goes in chunks, got none. Name one: "
                "out='places.zarr'."
            )
        if self.chunk_rows is not None:
            count("chunk_rows", self.chunk_rows)
        with RowStore.of("out", self.out, "obs_new") as store:
            return self._done(store, place, fits, Y, told, settings)

    def _done(
        self,
        store: RowStore,
        place: Place,
        fits: Tables,
        Y: Any,
        told: Told,
        settings: dict[str, int],
    ) -> tuple[xr.DataTree, list[dict[str, Any]], NDArray[Any]]:
        caller = next(iter(fits.values())).caller
        tables = _tables(fits, Y)
        one = next(iter(tables.values()))
        N, labels = len(one), np.asarray(one.obs)
        if not N:
            raise ValueError("Y_new must have at least one row, got none.")
        of_rows: dict[str, Any] = {"obs_new": labels}
        for table in tables.values():
            of_rows |= table.coords
        Q = next(iter(fits.values())).latent_dim
        width = max(settings["draws"] * Q, sum(table.shape[1] for table in tables.values()))
        bounds = bounds_of_chunks(N, width, self.chunk_rows)
        sizes = N, int(bounds[1])
        told = told.of_rows(labels)
        asked = {
            "verb": caller,
            "version": version("pm_gplvm"),
            "fit": [digest(read.tree) for read in fits.values()],
            "table": [[str(n), *t.shape, _checksum([t.features])] for n, t in tables.items()],
            "labels": _checksum([np.asarray(v) for v in of_rows.values()]),
            "prior": _checksum(list(told.prior) if isinstance(told.prior, tuple) else [told.prior]),
            "offset": _checksum(_listed(told.offset)),
            "inputs": _checksum(_listed(told.inputs or {})),
            **settings,
            "random_seed": self.random_seed,
            "chunk_rows": sizes[1],
        }
        before = store.known("out", asked)
        seed = self.random_seed
        if seed is None:
            drawn = np.random.SeedSequence().entropy if before is None else before["seed"]
            seed = int(drawn)  # type: ignore[arg-type]
        own = {read.kernel: OWN[read.kernel] for read in fits.values() if read.kernel in OWN}
        work = _Work(place, fits, own, _columns(tables), told, settings, seed, store, bounds)
        with (
            limit_threads(self.blas_threads),
            progress_bar(caller, N, "rows", show=self.progressbar) as bar,
        ):
            if before is None:
                first = slice(0, 1)
                some = {n: _with_labels(c.read(first), of_rows) for n, c in work.tables.items()}
                tree, _ = work.done(first, some)
                for group in tree.subtree:
                    if "random_seed" in group.attrs:
                        group.attrs["random_seed"] = to_json(self.random_seed)
                store.begin(tree, of_rows, sizes, {"asked": asked, "drawn": {"seed": seed}})
            with connected(self.client, self.n_workers) as client:
                notes = _each(work, tables, client, bar)
            store.end()
        return opened_lazily(store, labels), notes, labels


def _each(work: _Work, tables: Mapping[str | None, RowTable], client: Any, bar: Bar) -> Any:
    """Do all chunks, in this process or by a cluster, and count the rows."""
    executor: Executor = Here(work)
    if client is not None:
        require_reached(client, "out", work.store.part)
        executor = Cluster(client, _elsewhere(work, tables), held=False)
    notes = []
    try:
        for index, note in enumerate(executor.each(_do_chunk, None)):
            rows = work.rows(index)
            notes.append(note)
            bar.advance(rows.stop - rows.start)
    except BaseException as error:
        error.add_note(
            f"What is done is kept in {work.store.part}; the same call goes on from there."
        )
        raise
    finally:
        executor.end()
    return notes


def _elsewhere(work: _Work, tables: Mapping[str | None, RowTable]) -> _Work:
    """Let other processes read the tables: where they are, or written to the store's folder for a while."""
    found = {}
    for i, (name, table) in enumerate(tables.items()):
        rows = for_workers(table, work.store.part / f"table-{i}", work.bounds)
        found[name] = _Columns(rows, table.features)
    return replace(work, tables=found)


def _tables(fits: Tables, Y: Any) -> dict[str | None, RowTable]:
    """Open the new rows of each table of a fit; of several tables those that are given."""
    if None in fits or not are_views(Y):
        return {None: RowTable.of(Y, "Y_new")}
    if not Y:
        raise ValueError(
            f"Y_new must name tables of the fit, {', '.join(map(str, fits))}, got none."
        )
    tables: dict[str | None, RowTable] = {n: RowTable.of(t, "Y_new") for n, t in Y.items()}
    one, *others = tables
    for other in others:
        if not np.array_equal(tables[one].obs, tables[other].obs):
            raise ValueError(
                f"Y_new must have the same new rows in each table, in one order, got others in {one!r} and {other!r}. "
                "Put NaN where a table lacks a row."
            )
    return tables


def _columns(tables: Mapping[str | None, RowTable]) -> dict[str | None, _Columns]:
    return {name: _Columns(table, table.features) for name, table in tables.items()}


def _with_labels(rows: xr.DataArray, labels: Mapping[str, Any]) -> xr.DataArray:
    """Name the first row."""
    return rows.assign_coords(
        {OBS if name == "obs_new" else name: (OBS, v[:1]) for name, v in labels.items()}
    )


def _listed(told: Any) -> list[Any]:
    """Names and values of a mapping, one after the other, or the value alone."""
    return [v for pair in told.items() for v in pair] if isinstance(told, Mapping) else [told]


def _checksum(values: list[Any]) -> str:
    """Tell arrays and texts from others."""
    found = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        whole = array.dtype.kind in "biufmM"
        found.update(f"{array.shape} ".encode())
        found.update(array.tobytes() if whole else "\0".join(map(str, array.ravel())).encode())
    return found.hexdigest()
