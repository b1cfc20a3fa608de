"""Steps of a fit by minibatches whose rows stand in chunks, with this process or with the workers of a cluster.

The rows of a batch lie in a few chunks. Who holds a chunk moves q(x) of its rows and tells what they add to the gradient in what
all rows share (:class:`pm_gplvm.fitting.minibatch.BatchSums`); what all rows share is moved here. Each worker writes down
which rows it has moved, and where to, so that another goes on with its chunks after it has died, with the same numbers.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.cluster import Cluster, Executor, Here
from pm_gplvm.core.row_chunks import Chunks, Reader, all_held, held_by, prior_by_row, write_arrays
from pm_gplvm.core.uncollapsed import ColumnPosterior, Features, GatheredRows, NormalRows, RowsPrior
from pm_gplvm.data.fit import FEATURE, OBS, to_json
from pm_gplvm.data.rows import Rows, RowTable
from pm_gplvm.data.stores import RowStore
from pm_gplvm.fitting.chunk_folder import (
    STATE,
    InChunks,
    bounds_of_chunks,
    for_workers,
    goes_to_workers,
    shared_by_rows,
    write_prior,
)
from pm_gplvm.fitting.minibatch import (
    BatchStep,
    BatchSums,
    Functions,
    HeldRows,
    Optimiser,
    RowsHere,
    RowState,
    RowSteps,
    State,
    TableAt,
    functions_of,
)
from pm_gplvm.fitting.minibatch_tables import Part, Views
from pm_gplvm.fitting.stochastic import Adam
from pm_gplvm.fitting.stored_fits import FEW, Writing, stored
from pm_gplvm.model.likelihoods import noted

_WORK = 10**6  # of a row, by which chunks are cut: many batches are taken of each
_GROUP, _FEWEST = 8, 64  # chunks that a batch is of, and the rows of each where it is of more
_MOST_FILES = 32  # of steps, before the rows of a chunk are written anew
_POSTERIOR = ("means", "precisions", "basis", "common")


@dataclass(frozen=True)
class BatchJob(Chunks):
    """What all tasks of a fit are told once: where the rows are, and where it is written how they were moved."""

    parts: tuple[Part, ...]  # with tables of no rows
    tables: tuple[Reader, ...]
    bounds: tuple[int, ...]
    folder: str
    prior: type[NormalRows] | type[GatheredRows]
    keeps: bool  # whether each step is written down, for others to take it up
    key: str = field(default_factory=lambda: uuid4().hex)

    def parts_of(self, index: int) -> tuple[Part, ...]:
        """Read the rows of a chunk."""
        rows = self.rows(index)
        found = []
        for part, table in zip(self.parts, self.tables, strict=True):
            Y = self.read_from(table, index, part.table.shape[1])
            own = RowTable(Y, np.arange(rows.start, rows.stop), part.table.features, {})
            found.append(part.some(rows, own))
        return tuple(found)

    def journal(self, index: int) -> "Journal":
        """Where it is written how the rows of a chunk were moved."""
        return Journal(_rows_folder(self.folder, self.key) / f"chunk-{index:06}")


def _rows_folder(folder: Any, key: str) -> Path:
    return Path(folder) / f"rows-{key}"


@dataclass
class Moved:
    """Rows of a chunk after a step, with a copy of how they stood when that was asked for."""

    q: RowState
    at: int  # the last step that moved one of them
    kept: RowState
    kept_at: int  # the step after which the copy holds
    adam: tuple[Adam, Adam] | None = None

    def keep(self, number: int) -> None:
        """Remember how the rows stand, as they did after a step that came later than their last."""
        if number > self.kept_at:
            self.kept, self.kept_at = self.q.copy_rows(self.kept), number

    @property
    def _arrays(self) -> list[Array]:
        """All that a step changes of rows, (n, ·) each."""
        mean, sd, trust = self.q.rows
        of_adam = [v for adam in self.adam or () for v in (adam.mean, adam.square, adam.taken)]
        return [mean, sd, trust[:, None], *of_adam]

    def values(self, rows: Any) -> Array:
        """Return all of some rows."""
        return np.column_stack([v[rows] for v in self._arrays])

    def put(self, rows: Any, values: Array) -> None:
        """Put all of some rows; of an early step they have nothing of Adam's."""
        mean, start = self.q.mean, 0
        if self.adam is None and values.shape[1] > 2 * mean.shape[1] + 1:
            self.adam = Adam(mean.shape, 0.9), Adam(mean.shape, 0.9)
        for target in self._arrays:
            stop = start + target.shape[1]
            if stop <= values.shape[1]:
                target[rows] = values[:, start:stop]
            start = stop


@dataclass(frozen=True)
class Journal:
    """Files of a chunk: all of its rows now and then (``rows-``), and those that each step moved (``step-``)."""

    folder: Path

    def begin(self, q: RowState) -> None:
        """Write the first rows."""
        self._write_all(Moved(q, 0, q, 0))

    def read(self, number: int) -> Moved:
        """Read how the rows stood after a step, or as soon after as is known."""
        known = self._numbers("rows")
        if not known:
            raise FileNotFoundError(
                f"{self.folder} holds no rows: the state of the fit has been removed. Begin anew."
            )
        first = max((n for n in known if n <= number), default=min(known))
        with np.load(self._file("rows", first), allow_pickle=False) as file:
            values, kept, kept_at = file["values"], file["kept"], int(file["kept_at"])
        Q = (kept.shape[1] - 1) // 2
        found = Moved(_as_state(values, Q), first, _as_state(kept, Q), kept_at)
        found.put(slice(None), values)
        for later in self._numbers("step"):
            if first < later <= number:
                with np.load(self._file("step", later), allow_pickle=False) as file:
                    found.keep(int(file["kept_at"]))
                    found.put(file["rows"], file["values"])
                found.at = later
        return found

    def add(self, moved: Moved, rows: Rows) -> None:
        """Write the rows that a step has moved."""
        told = {"rows": rows, "values": moved.values(rows), "kept_at": moved.kept_at}
        write_arrays(self._file("step", moved.at), told)

    def shorten(self, moved: Moved) -> None:
        """Write all rows, where there are many files; all that is older goes. No one may ask for it any more."""
        if len(self._numbers("step")) < _MOST_FILES:
            return
        self._write_all(moved)
        for kind, first in (("rows", moved.at), ("step", moved.at + 1)):
            for number in self._numbers(kind):
                if number < first:
                    self._file(kind, number).unlink(missing_ok=True)

    def _write_all(self, moved: Moved) -> None:
        q = moved.kept
        told = {
            "values": moved.values(slice(None)),
            "kept": np.column_stack(q.rows),
            "kept_at": moved.kept_at,
        }
        write_arrays(self._file("rows", moved.at), told)

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:09}.npz"

    def _numbers(self, kind: str) -> list[int]:
        return sorted(int(file.stem[len(kind) + 1 :]) for file in self.folder.glob(f"{kind}-*.npz"))


def _as_state(values: Array, Q: int) -> RowState:
    return RowState(values[:, :Q].copy(), values[:, Q : 2 * Q].copy(), values[:, 2 * Q].copy())


# Tasks: of a job, the number of a chunk, and what all chunks are told


@dataclass(frozen=True)
class Standing:
    """How the rows stand: the last step that moved one of a chunk, and what was kept."""

    before: Mapping[int, int]  # by chunk
    kept: int  # the step after which all was to be kept
    restored: bool  # whether that is where they stand again
    holding: tuple[int, ...]  # chunks whose entries are wanted in memory
    version: int  # of what all rows share


@dataclass(frozen=True)
class ChunkStep:
    """Which rows are moved, and how."""

    standing: Standing
    rows: Rows
    step: BatchStep
    functions: tuple[Functions, ...]


@dataclass(frozen=True)
class ChunkBound:
    """Which rows are evaluated, None for all, and what all rows share."""

    standing: Standing
    rows: Rows | None
    functions: tuple[Functions, ...]
    prior: dict[str, Any]


class BatchChunk:
    """Rows that a process holds."""

    def __init__(self, job: BatchJob, index: int) -> None:
        self.job, self.index, self.lock = job, index, threading.Lock()
        self.features: tuple[int, tuple[Features, ...]] | None = None  # by version
        self._moved: Moved | None = None
        self._parts: tuple[Part, ...] | None = None
        self._by_row = prior_by_row(job.folder, index)

    def prior(self, rows: Rows, told: Mapping[str, Any]) -> RowsPrior:
        """Give the prior of some rows, by what is told of it."""
        return self.job.prior(**{n: v[rows] for n, v in self._by_row.items()}, **told)

    def stand(self, standing: Standing) -> Moved:
        """Bring the rows to where they stand: from memory, or from what was written down."""
        before, journal = standing.before[self.index], self.job.journal(self.index)
        moved = self._moved
        if moved is None or (moved.at != before and self.job.keeps):
            moved = journal.read(before)
        elif self.job.keeps:
            journal.shorten(moved)
        moved.keep(standing.kept)
        self._moved = moved
        return moved

    def entries(self, standing: Standing) -> tuple[Part, ...]:
        """Read the entries of the rows, and let those of chunks go that are not wanted."""
        for other in all_held(self.job.key):
            if other.index not in standing.holding:
                other.put_away()
        parts = self._parts
        if parts is None:
            parts = self._parts = self.job.parts_of(self.index)
        return parts

    def put_away(self) -> None:
        """Let the entries go."""
        self._parts = self.features = None

    def tables(self, parts: tuple[Part, ...], version: int, functions: Any) -> list[TableAt]:
        """Functions of each table, with what other chunks of this process have made of them."""
        made = [each.features for each in all_held(self.job.key)]
        known = next((f for f in made if f is not None and f[0] == version), None)
        of_each: Sequence[Any] = [None] * len(parts) if known is None else known[1]
        pairs = zip(parts, functions, of_each, strict=True)
        tables = [TableAt(part, own, features) for part, own, features in pairs]
        self.features = version, tuple(table.features for table in tables)
        return tables

    def own(self, rows: Rows | None) -> Rows:
        """Which of the rows are here, counted from the first here."""
        here = self.job.rows(self.index)
        if rows is None:
            return np.arange(here.stop - here.start)
        return rows[slice(*np.searchsorted(rows, (here.start, here.stop)))] - here.start


def batch_step(job: BatchJob, index: int, told: ChunkStep) -> BatchSums:
    """Take a step with the rows of a batch that lie in a chunk."""
    chunk = held_by(job, index, BatchChunk)
    with chunk.lock:
        moved, parts = chunk.stand(told.standing), chunk.entries(told.standing)
        tables = chunk.tables(parts, told.standing.version, told.functions)
        rows = chunk.own(told.rows)
        moved.at = -1  # of no use to anyone, if it ends here
        steps = RowSteps(parts, chunk.prior, moved.q, moved.adam)
        found = steps.step(rows, told.step, tables)
        moved.adam, moved.at = steps.adam, told.step.number
        if job.keeps:
            job.journal(index).add(moved, rows)
    return found


def batch_bound(job: BatchJob, index: int, told: ChunkBound) -> float:
    """Sum the bound of rows of a chunk."""
    chunk = held_by(job, index, BatchChunk)
    with chunk.lock:
        moved, parts = chunk.stand(told.standing), chunk.entries(told.standing)
        q = moved.kept if told.standing.restored else moved.q
        tables = chunk.tables(parts, told.standing.version, told.functions)
        return RowSteps(parts, chunk.prior, q).bound(chunk.own(told.rows), tables, told.prior)


def batch_rows(job: BatchJob, index: int, told: Standing) -> tuple[Array, Array, Array]:
    """Return q(x) of the rows of a chunk."""
    chunk = held_by(job, index, BatchChunk)
    with chunk.lock:
        moved = chunk.stand(told)
        return (moved.kept if told.restored else moved.q).copy_rows().rows


@dataclass(frozen=True)
class ChunkWriting:
    """How rows stand, and where they are written."""

    standing: Standing
    writing: Writing


def batch_write(job: BatchJob, index: int, told: ChunkWriting) -> int:
    """Write q(x) of the rows of a chunk where the fit is put together, and their entries where it holds any."""
    mean, sd, _ = batch_rows(job, index, told.standing)
    tables: dict[str, Any] = {}
    if named := told.writing.of_rows["observed_data"]:
        for part in job.parts_of(index):
            if part.own("Y") in named:
                tables[part.own("Y")] = (OBS, part.own(FEATURE)), part.table.whole()
    told.writing.write(index, job.rows(index), (mean, sd), tables)
    return 0


# All rows


class ChunkedRows:
    """q(x) of all rows, with those that hold the chunks; ``written``: it is they who put the fit together."""

    def __init__(
        self, executor: Executor, views: Views, state: State, *, written: bool = False
    ) -> None:
        self.executor, self.views, self._written = executor, views, written
        job: BatchJob = executor.job
        self.job = job
        for index in range(job.n_chunks):
            rows = job.rows(index)
            job.journal(index).begin(RowState(*(v[rows] for v in state.rows)))
        self.before = dict.fromkeys(range(job.n_chunks), 0)
        self.kept, self.restored = 0, False
        self._group: tuple[int, ...] = ()
        self._asked = 0  # bounds
        self._optimiser: Optimiser | None = None

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Go through all rows in random batches of equal size, each of a few chunks; those left over come in another pass."""
        n = self.job.n_chunks
        G = min(n, max(_GROUP, size // _FEWEST))
        # Chunks go round the workers, so those of a group, one of each residue, are spread over them evenly.
        groups = np.full((-(-n // G), G), -1)
        for i in range(G):
            own = rng.permutation(np.arange(i, n, G))
            groups[: len(own), i] = own
        left = np.empty(0, dtype=np.intp)
        for group in rng.permutation(groups):
            self._group = tuple(int(i) for i in group if i >= 0)
            ranges = [self.job.rows(i) for i in self._group]
            rows = np.concatenate([np.arange(r.start, r.stop) for r in ranges])
            rng.shuffle(rows)
            rows = np.concatenate([left, rows])
            whole = len(rows) // size * size
            for start in range(0, whole, size):
                yield np.sort(rows[start : start + size])
            left = rows[whole:]

    def _standing(
        self, chunks: Sequence[int], version: int, holding: tuple[int, ...] = ()
    ) -> Standing:
        before = {i: self.before[i] for i in chunks}
        return Standing(before, self.kept, self.restored, holding, version)

    def _chunks(self, rows: Rows | None) -> list[int]:
        if rows is None:
            return list(range(self.job.n_chunks))
        found = np.searchsorted(self.job.bounds, rows, side="right") - 1
        return [int(i) for i in np.unique(found)]

    def step(self, rows: Rows, told: BatchStep, tables: Sequence[TableAt]) -> BatchSums:
        """Move q(x) of some rows, and evaluate them there."""
        chunks = self._chunks(rows)
        own = replace(told, prior=shared_by_rows(self.views.positions, told.prior))
        holding = tuple({*chunks, *self._group})
        standing = self._standing(chunks, told.number - 1, holding)
        asked = ChunkStep(standing, rows, own, functions_of(tables))
        # Without files a step that was begun cannot be taken back.
        each = self.executor.each(batch_step, asked, chunks=chunks, to_the_end=not self.job.keeps)
        try:
            found: BatchSums = reduce(add, each)
        except BaseException:
            self._save()
            raise
        self.before |= dict.fromkeys(chunks, told.number)
        return found

    def bound(
        self, rows: Rows | None, tables: Sequence[TableAt], prior: Mapping[str, Any]
    ) -> float:
        """Sum the bound of some rows, or all, but for KL(q(u))."""
        chunks = self._chunks(rows)
        self._asked += 1
        told = shared_by_rows(self.views.positions, prior)
        standing = self._standing(chunks, -self._asked)
        asked = ChunkBound(standing, rows, functions_of(tables), told)
        return sum(self.executor.each(batch_bound, asked, chunks=chunks, to_the_end=True))

    def keep(self, optimiser: Optimiser) -> None:
        """Remember how the rows stand now, and write down what all rows share."""
        self.kept, self._optimiser = optimiser.taken, optimiser
        self._save()

    def restore(self) -> None:
        """Go back there."""
        self.restored = True

    def state(self) -> RowState:
        """Return q(x) of all rows, of the first where the fit is written by those that hold them."""
        chunks, few = range(self.job.n_chunks), slice(None)
        if self._written:
            chunks, few = range(1), slice(FEW)
        asked = self._standing(chunks, -1)
        each = list(self.executor.each(batch_rows, asked, chunks=chunks, to_the_end=True))
        return RowState(*(np.concatenate(parts)[few] for parts in zip(*each, strict=True)))

    def write(
        self, fit: xr.DataTree, target: RowStore, draws: int, rng: np.random.Generator
    ) -> xr.DataTree:
        """Let the rows of a fit be written, which has the first of them so far, and open it."""
        standing = self._standing(range(self.job.n_chunks), -1)

        def told(writing: Writing) -> ChunkWriting:
            return ChunkWriting(standing, writing)

        return stored(fit, target, self.executor, batch_write, told, self.views, draws, rng)

    def _save(self) -> None:
        """Write down what all rows share, by which another fit goes on from the chunks' files."""
        if not self.job.keeps or self._optimiser is None:
            return
        optimiser, folder = self._optimiser, Path(self.job.folder)
        told: dict[str, Any] = {
            "about": _about(self.views, optimiser.latent_dim),
            "key": self.job.key,
            "bounds": self.job.bounds,
            "before": [self.before[i] for i in range(self.job.n_chunks)],
        }
        told |= {f"prior/{name}": value for name, value in optimiser.prior.items()}
        for i, each in enumerate(optimiser.functions):
            told |= {f"{i}/W": each.W, f"{i}/level": each.level}
            told |= {f"{i}/theta/{name}": value for name, value in each.log_theta.items()}
            told |= {f"{i}/likelihood/{name}": value for name, value in each.parameters.items()}
            told |= {f"{i}/posterior/{n}": getattr(each.posterior, n) for n in _POSTERIOR}
        write_arrays(folder / STATE, told)
        own = _rows_folder(folder, self.job.key)
        for other in folder.glob("rows-*"):
            if other != own:  # those of the fit that this goes on from
                shutil.rmtree(other, ignore_errors=True)


def _about(views: Views, Q: int) -> str:
    """Say what a state is of."""
    tables = {
        str(part.name): [*part.table.shape, part.kernel, noted(part.likelihood), part.theta.texts]
        for part in views.parts
    }
    return to_json({"tables": tables, "latent_dim": Q, "prior": views.positions.texts})


def read_state(folder: Path, views: Views, Q: int) -> State:
    """Read the state of another fit of the table from its folder."""
    with np.load(folder / STATE, allow_pickle=False) as file:
        known = {name: file[name] for name in file.files}
    if "about" not in known or str(known["about"]) != _about(views, Q):
        raise ValueError(
            f"start must be the folder of a fit by fit_svi of this table, with the same kernel, likelihood, priors and "
            f"latent_dim, got {str(folder)!r} of another."
        )
    rows_folder = _rows_folder(folder, str(known["key"]))
    found = []
    for index, before in enumerate(known["before"].tolist()):
        journal = Journal(rows_folder / f"chunk-{index:06}")
        found.append(journal.read(before).q.rows)
    functions = []
    for i in range(len(views.parts)):
        own = {n.removeprefix(f"{i}/"): v for n, v in known.items() if n.startswith(f"{i}/")}
        functions.append(
            Functions(
                own["W"],
                _named(own, "theta/"),
                own["level"],
                _named(own, "likelihood/"),
                ColumnPosterior(*(own[f"posterior/{name}"] for name in _POSTERIOR)),
            )
        )
    mean, sd, trust = (np.concatenate(each) for each in zip(*found, strict=True))
    return State(mean, sd, trust, tuple(functions), _named(known, "prior/"))


def _named(known: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in known.items() if n.startswith(prefix)}


@contextmanager
def rows_for(
    views: Views, Q: int, told: InChunks, start: Any, target: RowStore | None
) -> Iterator[Callable[[State], HeldRows]]:
    """Have what holds the rows of a fit: this process, all of them or in chunks, or the workers of a cluster."""
    if not told.asked:
        told.refuse_store()
        yield lambda state: RowsHere(views, state)
        return
    with told.opened(start, target) as (client, folder):
        width = sum(part.table.shape[1] for part in views.parts) + 9 * Q
        bounds = bounds_of_chunks(len(views), width, told.chunk_rows, _WORK)
        far = goes_to_workers(client, bounds)
        job = _job(views, bounds, folder, far=far, keeps=far or told.keeps(start))
        executor: Executor = Cluster(client, job, together=len(bounds)) if far else Here(job)
        try:
            yield lambda state: ChunkedRows(executor, views, state, written=target is not None)
        finally:
            executor.end()


def _job(
    views: Views, bounds: tuple[int, ...], folder: Path, *, far: bool, keeps: bool
) -> BatchJob:
    """Tell all of a fit to those that hold its rows."""
    tables: list[Reader] = [part.table for part in views.parts]
    if far:
        tables = [
            for_workers(part.table, folder / f"table-{i}", bounds)
            for i, part in enumerate(views.parts)
        ]
    empty = [
        RowTable(np.zeros((0, p.table.shape[1])), (), p.table.features, {}) for p in views.parts
    ]
    parts = (replace(part, table=none) for part, none in zip(views.parts, empty, strict=True))
    prior = write_prior(folder, views.positions, bounds)
    return BatchJob(tuple(parts), tuple(tables), bounds, str(folder), prior, keeps)
