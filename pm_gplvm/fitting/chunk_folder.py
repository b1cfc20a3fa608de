"""Where a table is cut into chunks, and the folder in which the state of a fit in chunks is kept."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pm_gplvm.core.checks import Array, as_path, count
from pm_gplvm.core.cluster import connected, require_one_machine, require_reached
from pm_gplvm.core.row_chunks import Reader, prior_file, write_arrays
from pm_gplvm.core.uncollapsed import GatheredRows, NormalRows
from pm_gplvm.data.files import written_alone
from pm_gplvm.data.rows import RowTable
from pm_gplvm.data.sources import SavedRows
from pm_gplvm.data.stores import RowStore
from pm_gplvm.model.positions import Positions

STATE = "state.npz"
"""What all rows share, in the folder."""

_CHUNK_NUMBERS = 2**20  # numbers of a chunk's rows, their statistics among them
_FEWEST, _MOST = 64, 16_384  # rows of a chunk
_CHUNKS = 8  # of a table that is small
_WORK = 4 * 10**7  # rows times M² Q of a chunk that takes as long as a task of Dask's, 7 ms


def bounds_of_chunks(
    n_rows: int, width: int, chunk_rows: int | None, work: int = _WORK
) -> tuple[int, ...]:
    """Where chunks begin, and the end: whatever the number of workers, as sums are taken in the order of chunks.

    A row has ``width`` numbers and takes ``work``.
    """
    usual = int(np.clip(_CHUNK_NUMBERS // width, _FEWEST, _MOST))
    least = max(_WORK // work, _FEWEST)
    size = min(usual, max(-(-n_rows // _CHUNKS), least)) if chunk_rows is None else chunk_rows
    return (*range(0, n_rows, size), n_rows)


def goes_to_workers(client: Any, bounds: tuple[int, ...]) -> bool:
    """Whether the workers of a client do it, if there is one: of a single chunk they would take longer."""
    return client is not None and len(bounds) > 2


def for_workers(table: RowTable, folder: Path, bounds: tuple[int, ...]) -> Reader:
    """Return a table as other processes can read it, written to a folder where it stands in memory."""
    return table.elsewhere() or SavedRows.write(folder, table, bounds)


def shared_by_rows(positions: Positions, parameters: Mapping[str, Array]) -> dict[str, Any]:
    """Give what the prior of X says of all rows, at its own parameters."""
    of_none = positions.of(np.arange(0), parameters)
    return {n: v for n, v in vars(of_none).items() if n not in of_none.by_row}


def write_prior(
    folder: Path, positions: Positions, bounds: tuple[int, ...]
) -> type[NormalRows] | type[GatheredRows]:
    """Write down what the prior of X says of each row, for those that hold the rows; its kind."""
    start = {name: np.ones(shape) for name, shape in positions.shapes.items()}
    for i, (first, after) in enumerate(pairwise(bounds)):
        prior = positions.of(np.arange(first, after), start)
        by_row = {name: getattr(prior, name) for name in prior.by_row}
        if i == 0:
            kind = type(prior)
        if all(np.ndim(v) == 0 for v in by_row.values()):
            break
        write_arrays(prior_file(folder, i), by_row)
    return kind


@dataclass(frozen=True)
class InChunks:
    """What a verb is told of chunks: who holds them, where their state is kept, their rows, where the fit is written."""

    client: Any
    n_workers: int | None
    store: Any
    chunk_rows: int | None
    out: Any

    @property
    def asked(self) -> bool:
        """Whether rows are to go in chunks; a folder for their state does not ask for them."""
        asking = (self.client, self.n_workers, self.chunk_rows, self.out)
        return any(each is not None for each in asking)

    def refuse_store(self) -> None:
        """Raise if there is a folder, where rows do not go in chunks."""
        if self.store is not None:
            raise ValueError(
                f"store is of a fit in chunks, got {self.store!r} without client, n_workers or chunk_rows. Give one of them."
            )

    def keeps(self, start: Any) -> bool:
        """Whether the folder is the user's."""
        return self.store is not None or is_state(start)

    @contextmanager
    def opened(self, start: Any, target: RowStore | None) -> Iterator[tuple[Any, Path]]:
        """Have the client, where there is to be one, and the folder of the state."""
        if self.chunk_rows is not None:
            count("chunk_rows", self.chunk_rows, 2)
        with (
            connected(self.client, self.n_workers) as client,
            state_folder(self.store, start, client) as folder,
        ):
            if client is not None and target is not None:
                require_reached(client, "out", target.target.parent)
            yield client, folder


@contextmanager
def state_folder(store: Any, start: Any, client: Any) -> Iterator[Path]:
    """Folder in which the state is kept: the user's, or one that is deleted where all went well."""
    if is_state(start):
        if store is not None and Path(store).resolve() != Path(start).resolve():
            raise ValueError(
                f"store must be left out where start is the folder of a fit, got {str(store)!r}."
            )
        folder = Path(start).resolve()
        with written_alone("start", folder):
            yield folder
        return
    if store is not None:
        folder = as_path("store", store)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(
                f"store must be a new or an empty folder, got {str(folder)!r}. Delete it, or take another."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with written_alone("store", folder.resolve()):
            yield folder.resolve()
        return
    if client is not None:
        require_one_machine(client)
    folder = Path(tempfile.mkdtemp(prefix="pm-gplvm-"))
    kept = False
    try:
        yield folder
    except Exception as error:
        if kept := (folder / STATE).is_file():
            error.add_note(f"The last state is kept; go on from it with start={str(folder)!r}.")
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def start_named(start: Any) -> str:
    """Say in a fit where it began; the path of a folder is of one machine."""
    if is_state(start):
        return "store"
    return start if isinstance(start, str) else type(start).__name__


def is_state(start: Any) -> bool:
    """Whether this is the folder of another fit."""
    return isinstance(start, str | Path) and (Path(start) / STATE).is_file()
