"""Tables that stay where they are, read some rows at a time, by other processes too.

Each has a ``shape`` and gives rows as a Zarr array does; none is read whole.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array

Rows = NDArray[np.intp]


def source_of(name: str, given: Any) -> tuple[Any, Any] | None:
    """Return rows that are read where they are and the names of columns (None for positions); None of what is in memory."""
    if hasattr(given, "get_orthogonal_selection"):  # Zarr
        return given, None
    if hasattr(given, "dask") and hasattr(given, "chunks") and hasattr(given, "compute"):
        return DaskRows(given), None
    if isinstance(given, Path):
        found = ParquetFolder(Path(given), name)
        return found, found.columns
    return None


@dataclass(frozen=True)
class Mapped:
    """A file that is mapped into memory by each process for itself."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def _mapped(self) -> Any:
        return np.memmap(self.path, np.dtype(self.dtype), "r", offset=self.offset, shape=self.shape)

    def get_orthogonal_selection(self, selection: tuple[Any, Any]) -> Array:
        """Read some rows."""
        return np.asarray(self._mapped[selection[0]])

    @classmethod
    def of(cls, array: np.memmap[Any, Any]) -> "Mapped | None":
        """Tell where an array is mapped from, None of a part of one."""
        if (
            array.filename is None
            or isinstance(array.base, np.ndarray)
            or not array.flags.c_contiguous
        ):
            return None
        return cls(str(array.filename), array.offset, array.shape, array.dtype.str)

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("path", "offset", "shape", "dtype")}


@dataclass(frozen=True)
class DaskRows:
    """A dask array: rows are computed by whoever asks for them, in its own thread."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table."""
        return tuple(self.array.shape)

    @property
    def is_held(self) -> bool:
        """Whether its blocks stand with workers (``client.persist``), where tasks cannot ask for them."""
        try:
            from distributed import futures_of
        except ImportError:
            return False
        return bool(futures_of(self.array))

    def get_orthogonal_selection(self, selection: tuple[Any, Any]) -> Array:
        """Compute some rows."""
        rows = selection[0]
        run = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        chosen = self.array[int(rows[0]) : int(rows[-1]) + 1] if run else self.array[rows]
        return np.asarray(chosen.compute(scheduler=None if self.is_held else "synchronous"))


class ParquetFolder:
    """The Parquet files of a folder, one after the other in the order of their names."""

    def __init__(self, path: Path, name: str = "Y") -> None:
        from pyarrow import parquet

        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise ValueError(
                f"{name} must be a folder of Parquet files, got none in {str(path)!r}."
            )
        self.path, self.parts, self.columns = path, [], None
        for file in files:
            about = parquet.ParquetFile(file)
            columns = [n for n in about.schema_arrow.names if not n.startswith("__index_level_")]
            if self.columns is not None and columns != self.columns:
                raise ValueError(
                    f"{name} must have the same columns in each file, got {len(columns)} in {file.name} that are not "
                    f"the {len(self.columns)} of {files[0].name}. Write them anew."
                )
            self.columns = columns
            groups = range(about.num_row_groups)
            self.parts += [(file, i, about.metadata.row_group(i).num_rows) for i in groups]
        self.starts = np.concatenate([[0], np.cumsum([n for _, _, n in self.parts])])
        self.shape = int(self.starts[-1]), len(self.columns or [])

    def get_orthogonal_selection(self, selection: tuple[Any, Any]) -> Array:
        """Read some rows, in increasing order."""
        from pyarrow import parquet

        rows = np.asarray(selection[0])
        found = np.empty((len(rows), self.shape[1]))
        where = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(where):
            file, group, _ = self.parts[part]
            frame = parquet.ParquetFile(file).read_row_group(group, columns=self.columns)
            values = np.column_stack([column.to_numpy() for column in frame.columns])
            chosen = where == part
            found[chosen] = values[rows[chosen] - self.starts[part]]
        return found


@dataclass(frozen=True)
class BackedAnnData:
    """The matrix of an AnnData file, opened by each process for itself."""

    path: Path
    shape: tuple[int, ...]

    def get_orthogonal_selection(self, selection: tuple[Any, Any]) -> Array:
        """Read some rows."""
        import anndata

        found = anndata.read_h5ad(self.path, backed="r")
        try:
            matrix: Any = found.X
            values = matrix[selection[0]]
        finally:
            found.file.close()
        return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


@dataclass(frozen=True)
class SavedRows:
    """Rows of a table in memory, written to a folder for other processes: a file for each chunk."""

    folder: Path
    bounds: tuple[int, ...]

    @classmethod
    def write(cls, folder: Path, table: Any, bounds: tuple[int, ...]) -> "SavedRows":
        """Write what ``table.read`` gives."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, (start, stop) in enumerate(pairwise(bounds)):
            np.save(folder / f"{i:06}.npy", table.read(start, stop))
        return cls(folder, bounds)

    def read(self, start: int, stop: int) -> Array:
        """Read one chunk."""
        i = self.bounds.index(start)
        return np.asarray(np.load(self.folder / f"{i:06}.npy", allow_pickle=False))
