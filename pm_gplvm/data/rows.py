"""A table that is read a few rows at a time: in memory, mapped from a file, sparse, in Zarr, Parquet or a backed AnnData."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from pm_gplvm.core.checks import Array
from pm_gplvm.data.arrays import are_positions, is_anndata, labels_along, numbers
from pm_gplvm.data.fit import FEATURE, OBS
from pm_gplvm.data.sources import BackedAnnData, Mapped, source_of
from pm_gplvm.data.table import labelled

_RUN = 100_000  # numbers read at once from a source that is slow at single rows
_BLOCK = 2**18  # numbers of a block in a pass over the table

Rows = NDArray[np.intp]


class RowTable:
    """Rows of a table as float64, NaN where an entry is missing, with the labels of both axes.

    What stands in memory is not copied. Rows of a Zarr array are read in runs, as its chunks hold many.
    """

    def __init__(self, source: Any, obs: Any, features: Any, coords: Any) -> None:
        self._source, self.obs, self.coords = source, obs, coords
        self._order: Rows | None = None  # which row of the source each is, -1 where there is none
        self.features = np.asarray(features)
        self.shape: tuple[int, int] = tuple(source.shape)
        self.in_runs = not isinstance(source, np.ndarray) and not issparse(source)

    @classmethod
    def of(cls, Y: Any, name: str = "Y") -> "RowTable":
        """Take any kind of table, its values unchecked.

        Raises
        ------
        TypeError, ValueError
            If it has not two dimensions, or holds no numbers.
        """
        if is_anndata(Y):
            backed = getattr(Y, "isbacked", False)
            source = (
                BackedAnnData(Path(Y.filename), Y.shape) if backed else cls.of(Y.X, name)._source
            )
            return cls(source, Y.obs_names.to_numpy(), Y.var_names.to_numpy(), {})
        elsewhere = source_of(name, Y)
        plain = isinstance(Y, np.ndarray) and not np.ma.isMaskedArray(Y) and Y.dtype.kind in "fiub"
        if elsewhere is not None or issparse(Y) or plain:
            source, columns = elsewhere or (csr_array(Y) if issparse(Y) else Y, None)
            if len(source.shape) != 2:
                raise ValueError(
                    f"{name} must have two dimensions (obs, feature), got shape {source.shape}."
                )
            N, D = source.shape
            return cls(source, np.arange(N), np.arange(D) if columns is None else columns, {})
        table = labelled(Y, name)
        coords = {
            str(n): c.to_numpy() for n, c in table.coords.items() if c.dims == (OBS,) and n != OBS
        }
        rows, columns = table[OBS].to_numpy(), table[FEATURE].to_numpy()
        return cls(table.to_numpy(), rows, columns, coords)

    def __len__(self) -> int:
        return self.shape[0]

    def joined(self, obs: NDArray[Any], order: Rows) -> "RowTable":
        """Return these rows in another order, with their labels; NaN where ``order`` is -1, as the table lacks the row."""
        table = RowTable(self._source, obs, self.features, {})
        table.shape, table._order = (len(obs), self.shape[1]), order
        return table

    def take(self, rows: Rows) -> Array:
        """Read some rows, in increasing order, (B, D)."""
        if self._order is None:
            return self._take(rows)
        at = self._order[rows]
        wanted, back = np.unique(at[at >= 0], return_inverse=True)
        found = np.full((len(rows), self.shape[1]), np.nan)
        if len(wanted):
            found[at >= 0] = self._take(wanted)[back]
        return found

    def _take(self, rows: Rows) -> Array:
        """Read rows of the source."""
        if issparse(self._source):
            found = self._source[rows].toarray()
        elif self.in_runs:
            found = self._source.get_orthogonal_selection((rows, slice(None)))
        else:
            found = self._source[rows]
        values = np.asarray(found, dtype=np.float64)
        if (infinite := np.isinf(values)).any():
            row, column = (int(i) for i in np.argwhere(infinite)[0])
            raise ValueError(
                f"Y must not be infinite, got {values[row, column]} at obs {self.obs[rows[row]]}, feature "
                f"{self.features[column]}. Put NaN where an entry is missing."
            )
        return values

    @property
    def _in_memory(self) -> bool:
        return isinstance(self._source, np.ndarray) and not isinstance(self._source, np.memmap)

    def whole(self) -> Array | None:
        """Return the table if it stands in memory as it is, else None."""
        if self._in_memory and self._order is not None:
            return self.take(np.arange(len(self)))
        return np.asarray(self._source, dtype=np.float64) if self._in_memory else None

    def few(self, n: int) -> "RowTable":
        """Return a table of the first rows, with their labels; those of what is elsewhere cannot be read."""
        source = self.take(np.arange(n)) if self._in_memory else self._source
        return RowTable(
            source, self.obs[:n], self.features, {name: c[:n] for name, c in self.coords.items()}
        )

    def read(self, start: int, stop: int) -> Array:
        """Read a run of rows."""
        return self.take(np.arange(start, stop))

    def elsewhere(self) -> "RowTable | None":
        """Return what other processes can read for themselves, without labels of rows; None where it stands in memory."""
        source: Any = Mapped.of(self._source) if isinstance(self._source, np.memmap) else None
        if self.in_runs and not getattr(self._source, "is_held", False):
            source = self._source
        return (
            None
            if source is None or self._order is not None
            else RowTable(source, range(len(self)), self.features, {})
        )

    def blocks(self) -> Iterator[Rows]:
        """Go through all rows in order."""
        size = max(_BLOCK // self.shape[1], 1)
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))

    def sample(self, size: int, rng: np.random.Generator) -> Rows:
        """Choose rows at random, all where there are no more."""
        if size >= len(self):
            return np.arange(len(self))
        return np.sort(rng.choice(len(self), size, replace=False))

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Go through all rows in random batches of equal size; those left over come in another pass."""
        N = len(self)
        if not self.in_runs:
            order = rng.permutation(N)
        else:  # runs of rows in random order, mixed within groups of some tens of them
            run = max(_RUN // self.shape[1] // 16, 1)
            starts = rng.permutation(np.arange(0, N, run))
            order = np.concatenate([np.arange(s, min(s + run, N)) for s in starts])
            group = 16 * run
            for start in range(0, N, group):
                rng.shuffle(order[start : start + group])
        for start in range(0, N - size + 1, size):
            yield np.sort(order[start : start + size])


def is_elsewhere(Y: Any) -> bool:
    """Whether this is a table that does not stand in memory."""
    if isinstance(Y, np.memmap) or getattr(Y, "isbacked", False) is True:
        return True
    return source_of("Y", Y) is not None


def along_rows(name: str, given: Any, table: RowTable) -> Array | None:
    """Known numbers of rows (N, 1) or entries (N, D), brought to the order of the table's rows and columns by label.

    A number is that of all. None stays None.
    """
    if given is None:
        return None
    if isinstance(given, bool | np.bool_):
        raise TypeError(f"{name} must be an array of numbers, got {given!r}.")
    N, D = table.shape
    labels = labels_along(given, 0)
    if isinstance(given, xr.DataArray | pd.DataFrame | pd.Series) and labels is not None:
        own = pd.Index(labels)
        if own.is_unique and own.isin(table.obs).sum() == N:
            order = own.get_indexer(table.obs)
            given = given[order] if isinstance(given, xr.DataArray) else given.iloc[order]
        elif len(own) != N or not np.array_equal(np.asarray(own), np.asarray(table.obs)):
            missing = [str(row) for row in table.obs if row not in own][:3]
            raise ValueError(
                f"{name} must have the labels of the rows of Y, each once, got none of "
                f"{', '.join(missing) or 'some, or one twice'}. Give it the same index."
            )
    if isinstance(given, xr.DataArray | pd.DataFrame) and given.ndim == 2:
        given = _by_column(name, given, table)
    values = numbers(name, given)
    if values.ndim == 0:
        values = np.full((1, 1), float(values))
    elif values.shape == (N,):
        values = values[:, None]
    if values.shape not in ((1, 1), (N, 1), (N, D), (1, D)):
        raise ValueError(
            f"{name} must have the shape (N,), (N, 1), (1, D) or (N, D) with N, D = {N}, {D}, got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got missing or infinite values.")
    return np.broadcast_to(values, (N, values.shape[1]))


def _by_column(name: str, given: Any, table: RowTable) -> Any:
    """Bring columns to the order of the table's by label, where both have labels that somebody gave."""
    labels, wanted = labels_along(given, 1), table.features
    if labels is None or len(labels) != len(wanted) or len(wanted) == 1:
        return given
    if are_positions(labels) or are_positions(wanted) or np.array_equal(labels, wanted):
        return given
    own = pd.Index(labels)
    order = own.get_indexer(pd.Index(wanted)) if own.is_unique else np.full(len(wanted), -1)
    if (order < 0).any():
        missing = [str(column) for column in wanted[order < 0]][:3]
        raise ValueError(
            f"{name} must have the labels of the columns of Y, each once, got none of {', '.join(missing)}. Give it "
            "the same columns, or pass an array without labels in their order."
        )
    return given[:, order] if isinstance(given, xr.DataArray) else given.iloc[:, order]


_LARGEST_OFFSET = 300.0  # its exponential, times a count, is finite


def offset_along_rows(offset: Any, table: RowTable) -> tuple[Array | None, dict[str, float]]:
    """Offset of the rows, and what new rows need to find theirs."""
    if not isinstance(offset, str):
        values = along_rows("offset", offset, table)
        if values is not None and (most := np.abs(values).max()) > _LARGEST_OFFSET:
            raise ValueError(
                f"offset must lie within ±{_LARGEST_OFFSET:g}, got {most:g}. It is added to f: of an exposure pass the "
                "logarithm."
            )
        return values, {}
    if offset != "size":
        raise ValueError(f"offset must be 'size' where it is a text, got {offset!r}.")
    sums = np.concatenate([np.nansum(table.take(rows), axis=1) for rows in table.blocks()])
    if (sums <= 0.0).any():
        row = int(np.argmax(sums <= 0.0))
        raise ValueError(
            f"offset='size' needs a positive sum in each row, got {sums[row]:g} at obs {table.obs[row]}. Drop such "
            "rows, or give the offset."
        )
    median = float(np.median(sums))
    return np.asarray(np.log(sums / median))[:, None], {"size_median": median}
