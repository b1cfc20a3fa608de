"""Tasks of the chunks of a job, one after the other in this process or by a cluster of Dask's, some of which may die."""

import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from pm_gplvm.core.checks import count
from pm_gplvm.core.interrupt import safe_point
from pm_gplvm.core.row_chunks import Chunks, forget

_POLL = 0.25  # seconds between two looks for Ctrl-C
_LOOK = 1.0  # seconds between two looks for workers that have died
_PATIENCE = 2.0  # seconds that a result may take to come before its worker is looked for
_PAUSED = 60.0  # seconds that all may stand still for want of memory
_TOGETHER = 4  # chunks in a task of Dask's
_FEW_BYTES = 2**18  # in all tasks of a pass, so that it is told in them and not by one of its own
_KEPT_MEMORY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")  # of glibc, in bytes
_WATCHED_LESS = {
    # By default a worker looks at its own stack a hundred times a second, and ten times at its memory.
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "500 ms",
    "distributed.admin.system-monitor.interval": "5 s",
}
_MOST_DEATHS = 3  # of workers at the same chunk, with nothing of it done in between
_MEMORY = (
    "Most likely its memory was exceeded: take smaller chunks (chunk_rows), more workers or more memory for each "
    "(memory_limit of dask)."
)

Group = tuple[int, ...]  # chunks of one worker
Task = Callable[[Any, int, Any], Any]
"""Of a job, the number of a chunk, and what all chunks are told."""


class Executor(ABC):
    """Does a task for each chunk."""

    job: Any

    def each(
        self,
        task: Task,
        told: Any,
        *,
        to_the_end: bool = False,
        chunks: Sequence[int] | None = None,
    ) -> Iterator[Any]:
        """Results in the order of the chunks, all or some; ``to_the_end``: though Ctrl-C was pressed before."""
        order = range(self.job.n_chunks) if chunks is None else chunks
        return self._in_order(task, told, order, to_the_end=to_the_end)

    @abstractmethod
    def _in_order(
        self, task: Task, told: Any, order: Sequence[int], *, to_the_end: bool
    ) -> Iterator[Any]: ...

    @abstractmethod
    def end(self) -> None:
        """Let the chunks go."""


class Here(Executor):
    """Does tasks in the same process, one chunk after the other."""

    def __init__(self, job: Chunks) -> None:
        self.job = job

    def _in_order(
        self, task: Task, told: Any, order: Sequence[int], *, to_the_end: bool
    ) -> Iterator[Any]:
        for index in order:
            if not to_the_end:
                safe_point()
            yield task(self.job, index, told)

    def end(self) -> None:
        """Let the chunks go."""
        forget(self.job.key)


class Cluster(Executor):
    """The workers of a client of Dask's, each with chunks of its own for as long as it lives.

    Chunks stay with their worker, as that holds their rows. Those of a worker that has died go to the others. Results
    come in the order of the chunks, so that sums do not depend on how many workers there are. Tasks that are not
    ``held`` leave nothing with a worker: each is done by the first that is free, those that come later among them.
    So many chunks of a worker go ``together`` into one task.
    """

    def __init__(
        self, client: Any, job: Chunks, *, held: bool = True, together: int = _TOGETHER
    ) -> None:
        self.client, self.job, self.held = client, job, held
        self._together = together if held else 1
        self._owner: dict[int, str] = {}
        self._deaths = dict.fromkeys(range(job.n_chunks), 0)
        self._looked = self._moved = time.monotonic()
        self._patience = _PATIENCE
        self._sent: tuple[set[str], Any] = set(), None  # the job, and who has it

    def _in_order(
        self, task: Task, told: Any, order: Sequence[int], *, to_the_end: bool
    ) -> Iterator[Any]:
        found: dict[int, Any] = {}
        futures = self._submitted(task, told, order)
        following = 0
        try:
            while following < len(order):
                if not to_the_end:
                    safe_point()
                self._require_scheduler()
                lost = self._collect(futures, found)
                while following < len(order) and order[following] in found:
                    yield found.pop(order[following])
                    following += 1
                lost |= self._dead(futures)
                if lost:
                    for first, *_ in lost:
                        self._note_death(first)
                    # What was sent beside the tasks may have stood on the worker that is gone: all are sent again.
                    with suppress(
                        Exception
                    ):  # where the scheduler has gone too, which is found next
                        self.client.cancel(list(futures.values()))
                    self._sent = set(), None
                    futures = self._submitted(task, told, [i for group in futures for i in group])
        finally:
            if futures and self.client.status == "running":
                with suppress(Exception):
                    self.client.cancel(list(futures.values()))

    def end(self) -> None:
        """Let the chunks go."""
        if self.client.status == "running":
            with suppress(Exception):
                self.client.run(forget, self.job.key)

    def _submitted(self, task: Task, told: Any, indices: Sequence[int]) -> dict[Group, Any]:
        self._require_scheduler()
        workers = self._workers()
        self._assign(list(workers))
        # As tasks, which are done anew where their worker dies; Client.scatter to one that is dying waits for ever.
        with warnings.catch_warnings():
            # Once, to each worker that works on it: what Dask advises for large things is scatter.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            if self._sent[0] != set(workers):
                self._sent = set(workers), self.client.submit(_as_it_is, self.job, pure=False)
            job, groups = self._sent[1], list(self._groups(indices))
            sent = told
            if len(groups) * _size(told) > _FEW_BYTES:
                sent = self.client.submit(_as_it_is, told, pure=False)
        return {
            group: self.client.submit(
                _do, task, job, group, sent, workers=[owner] if self.held else None, pure=False
            )
            for owner, group in groups
        }

    def _groups(self, indices: Sequence[int]) -> Iterator[tuple[str, Group]]:
        """Go through the chunks of each worker, some in one task: a task takes 7 ms of all processes together."""
        of_worker: dict[str, list[int]] = {}
        for index in indices:
            of_worker.setdefault(self._owner[index], []).append(index)
        for start in range(0, max(map(len, of_worker.values())), self._together):
            for owner, own in of_worker.items():
                if group := tuple(own[start : start + self._together]):
                    yield owner, group

    def _assign(self, workers: list[str]) -> None:
        """Give chunks without a living worker to those that have least."""
        load = dict.fromkeys(workers, 0)
        for index, owner in list(self._owner.items()):
            if owner in load:
                load[owner] += 1
            else:
                del self._owner[index]
        for index in range(self.job.n_chunks):
            if index not in self._owner:
                least = min(load, key=lambda name: load[name])
                self._owner[index], load[least] = least, load[least] + 1

    def _collect(self, futures: dict[Group, Any], found: dict[int, Any]) -> set[Group]:
        """Take the results that are there, waiting a little for the first; which were lost."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker, wait
        from distributed import TimeoutError as Late

        with suppress(Late, TimeoutError, CancelledError):
            wait(list(futures.values()), timeout=_POLL, return_when="FIRST_COMPLETED")
        lost: set[Group] = set()
        for group, future in list(futures.items()):
            if future.status in ("cancelled", "lost"):
                lost.add(group)
            if future.status not in ("finished", "error"):
                continue
            try:
                results = future.result(timeout=self._patience)
            except KilledWorker:  # which Dask has tried on several workers where it could
                self._deaths[group[0]] += 0 if self.held else _MOST_DEATHS
                lost.add(group)
            except CancelledError:
                lost.add(group)
            except (Late, TimeoutError):  # it stood on a worker that has died, or the way is long
                self._patience *= 2.0
                self._looked = 0.0
            else:
                found.update(zip(group, results, strict=True))
                self._deaths |= dict.fromkeys(group, 0)
                del futures[group]
                self._moved = time.monotonic()
        return lost

    def _dead(self, futures: dict[Group, Any]) -> set[Group]:
        """Chunks that wait for a worker that is gone; RuntimeError where all stand still."""
        now = time.monotonic()
        if not futures or now - self._looked < _LOOK:
            return set()
        self._looked = now
        self._require_scheduler()
        workers = self._workers()
        waiting = {self._owner[first] for first, *_ in futures} if self.held else set(workers)
        still = [name for name in waiting if workers.get(name) == "paused"]
        if len(still) == len(waiting) and now - self._moved > _PAUSED:
            raise RuntimeError(f"The workers of client have all been paused by Dask. {_MEMORY}")
        # Dask itself gives to others what is bound to none.
        return {group for group in futures if self.held and self._owner[group[0]] not in workers}

    def _note_death(self, index: int) -> None:
        self._deaths[index] += 1
        self._moved = time.monotonic()
        if self._deaths[index] > _MOST_DEATHS:
            raise RuntimeError(
                f"client: {self._deaths[index]} workers ended at chunk {index} of {self.job.n_chunks}. {_MEMORY}"
            )

    def _workers(self) -> dict[str, str]:
        """Addresses of the workers, and their states; waits for one where there is none."""
        began = time.monotonic()
        while True:
            self._require_scheduler()
            try:
                told = self.client.scheduler_info(n_workers=-1).get("workers")
            except OSError:  # it has gone just now
                told = None
            if told:
                return {name: str(worker.get("status", "running")) for name, worker in told.items()}
            if time.monotonic() - began > _PAUSED:
                raise RuntimeError(f"client has had no worker for {_PAUSED:.0f} s. Start some.")
            time.sleep(_POLL)

    def _require_scheduler(self) -> None:
        if self.client.status != "running":
            raise RuntimeError(
                f"client has lost its scheduler (it is {self.client.status}). Start a cluster anew."
            )


def _as_it_is(value: Any) -> Any:
    """Give back what was sent, for other tasks to take."""
    return value


def _size(told: Any) -> int:
    """Bytes of the arrays in what is told."""
    if isinstance(told, np.ndarray):
        return told.nbytes
    if isinstance(told, tuple):
        return sum(map(_size, told))
    return sum(map(_size, vars(told).values())) if is_dataclass(told) else 0


def _do(task: Task, job: Chunks, group: Group, told: Any) -> list[Any]:
    with _libraries().limit(limits=1):
        return [task(job, index, told) for index in group]


@cache
def _libraries() -> ThreadpoolController:
    """Find the BLAS of this process once, as that takes milliseconds."""
    return ThreadpoolController()


@contextmanager
def connected(client: Any, n_workers: int | None) -> Iterator[Any]:
    """Have a client in a ``with`` block: the user's, one of so many processes that end with the block, or None."""
    if client is None and n_workers is None:
        yield None
        return
    try:
        import distributed
    except ImportError:
        name = "client" if n_workers is None else "n_workers"
        raise ImportError(
            f"{name} needs dask and distributed. Install them: pip install 'pm-gplvm[dask]'."
        ) from None
    if client is not None:
        if n_workers is not None:
            raise ValueError(
                f"n_workers must be left out where client is given, got {n_workers!r}."
            )
        if not isinstance(client, distributed.Client):
            raise TypeError(
                f"client must be a dask.distributed.Client, got {type(client).__name__}. Make one: "
                "distributed.Client(n_workers=2, threads_per_worker=1)."
            )
        if client.asynchronous:
            raise ValueError("client must not be asynchronous, got one that is.")
        yield client
        return
    import dask

    settings = {"n_workers": count("n_workers", n_workers), "threads_per_worker": 1}
    # Dask lets go of memory at once, and every larger array is then asked of the system anew: a third of a pass.
    kept: dict[str, Any] = {
        f"distributed.nanny.pre-spawn-environ.{name}": 2**25 for name in _KEPT_MEMORY
    }
    kept |= _WATCHED_LESS
    with (
        dask.config.set(kept),
        distributed.LocalCluster(**settings, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as own,
    ):
        yield own


def require_one_machine(client: Any) -> None:
    """Raise where workers may not see the files of this machine."""
    told = client.scheduler_info(n_workers=-1)["workers"]
    far = [name for name in told if not name.startswith("inproc:") and "127.0.0.1" not in name]
    if far:
        raise ValueError(
            f"store must be a folder that all workers of client can read and write, as they run on other machines "
            f"({far[0]} among them), got none."
        )


def require_reached(client: Any, name: str, folder: Path) -> None:
    """Raise where a worker cannot write to a folder that all of them are to write to."""
    told = client.run(os.access, str(folder), os.W_OK)
    if lacking := [worker for worker, can in told.items() if not can]:
        raise ValueError(
            f"{name} must lie in a folder that all workers of client can read and write, got {str(folder)!r}, which "
            f"{lacking[0]} cannot."
        )
