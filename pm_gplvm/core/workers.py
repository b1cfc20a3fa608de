"""Tasks done at once by other processes, which are started anew, not forked, and kept for the next tasks.

What all tasks need (a compiled function, say) goes there by cloudpickle through a pipe, and is unpacked there
once. Nothing is read from a file.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.interrupt import caught, interrupted, safe_point, told_by

_POLL = 0.1  # seconds between two looks for Ctrl-C
_IDLE = 120  # seconds after which a process that has nothing to do ends


class _Pool:
    """Processes, and a flag that asks all their tasks to end."""

    def __init__(self, n: int) -> None:
        from multiprocessing import resource_tracker

        import loky
        from loky.backend import get_context
        from loky.backend import resource_tracker as loky_tracker

        # Begun with the first process, they would let signals through to it (see _without_signals).
        for tracker in (resource_tracker, loky_tracker):
            tracker.ensure_running()
        context = get_context("loky")
        self.n, self.pid, self.stop = n, os.getpid(), context.Event()
        self.executor = loky.ProcessPoolExecutor(
            n, timeout=_IDLE, context=context, initializer=_begin, initargs=(self.stop,)
        )

    def end(self, *, kill: bool) -> None:
        """End the processes, in the middle of their tasks or not."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loky's, where a tool to find their children lacks
            self.executor.shutdown(wait=True, kill_workers=kill)


class _Kept:
    """The processes that wait for further tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: _Pool | None = None

    def take(self, n: int) -> _Pool:
        """Take n processes that wait, or new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and pool.pid == os.getpid():  # else they are those of a parent
            if pool.n == n:
                return pool
            pool.end(kill=False)
        return _Pool(n)

    def keep(self, pool: _Pool) -> None:
        """Let them wait."""
        with self._lock:
            other, self._pool = self._pool, pool
        if other is not None:  # of another thread
            other.end(kill=False)


_KEPT = _Kept()


class Workers[M]:
    """Processes that hold copies of the same thing M."""

    def __init__(self, pool: _Pool, thing: bytes, threads: int | None) -> None:
        self._pool, self._thing, self._threads = pool, thing, threads
        self._key = hashlib.sha256(thing).hexdigest()

    def each[R](
        self, tasks: Mapping[int, Callable[[M], R]], ended: Callable[[int, R], None]
    ) -> bool:
        """Do tasks, begun in their order, and tell of each as it ends; whether Ctrl-C ended them.

        Then those that have begun end at their next safe point, and what they return counts.
        """
        submit = self._pool.executor.submit
        with _without_signals():
            numbers: dict[Future[Any], int] = {
                submit(_do, self._key, self._thing, self._threads, task): i
                for i, task in tasks.items()
            }
        waiting, asked = set(numbers), False
        while waiting:
            done: set[Future[Any]] = set()
            try:
                if not asked:
                    safe_point()
                done, waiting = wait(waiting, _POLL, FIRST_COMPLETED)
            except KeyboardInterrupt:
                caught()
                if asked:
                    raise
                asked = True
                self._pool.stop.set()
                # A cancelled one is no more waited for: if the processes have died, nobody ever ends it.
                waiting = {future for future in waiting if not future.cancel()}
            for future in done:
                if (end := _result(future, asked=asked)) is not None:
                    ended(numbers[future], end)
        return asked


@contextmanager
def _without_signals() -> Iterator[None]:
    """Hold Ctrl-C back for a moment, and from processes that begin in it: one dies of it before it is ready."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def workers[M](thing: M, n: int, threads: int | None) -> Iterator[Workers[M]]:
    """Have n processes in a ``with`` block, of so many BLAS threads; ValueError if ``thing`` cannot be sent.

    They are kept for the next block, if this one comes to its end without Ctrl-C.
    """
    import cloudpickle

    if multiprocessing.current_process().daemon:
        raise ValueError(
            f"cores must be 1 in a process that may have no others (one of multiprocessing.Pool), got {n}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTensor's, where data share memory: copies need not
            sent = cloudpickle.dumps(thing)
    except Exception as error:
        raise ValueError(
            f"cores must be 1 for this model, got {n}: it cannot be sent to another process ({error})."
        ) from error
    pool = _KEPT.take(n)
    try:
        yield Workers(pool, sent, threads)
    except BaseException:
        pool.stop.set()
        pool.end(kill=True)
        raise
    if interrupted() or pool.stop.is_set():
        pool.end(kill=True)
    else:
        _KEPT.keep(pool)


def _result(future: Future[Any], *, asked: bool) -> Any:
    """Return what a task returned, None if Ctrl-C came before it had anything; warn as it did."""
    try:
        end, warned = future.result()
    except (CancelledError, BrokenProcessPool) as error:
        if asked:
            return None
        raise RuntimeError(
            "cores: one of the processes ended by itself, most likely for want of memory. Pass fewer, or cores=1."
        ) from error
    for text, category, filename, line in warned:
        warnings.warn_explicit(text, category, filename, line, registry=_WARNED)
    return end


_WARNED: dict[Any, Any] = {}  # what several processes warn of alike is said once

# In the other process

_ASKED: list[Callable[[], bool]] = []
_THINGS: dict[str, Any] = {}  # the last one that was unpacked, by its digest


def _begin(stop: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the one that was called."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _ASKED[:] = [stop.is_set]


def _do(key: str, thing: bytes, threads: int | None, task: Callable[[Any], Any]) -> Any:
    """Do a task: what it returned, None if it was asked to end before, and what it warned of."""
    try:
        with told_by(_ASKED[0]), blas_threads(threads):
            safe_point()
            if key not in _THINGS:
                _THINGS.clear()
                _THINGS[key] = _unpacked(thing)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("default")
                end = task(_THINGS[key])
    except KeyboardInterrupt:
        return None, []
    return end, [(str(w.message), w.category, w.filename, w.lineno) for w in warned]


def _unpacked(thing: bytes) -> Any:
    import cloudpickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was made where it came from, too
            return cloudpickle.loads(thing)
    except Exception as error:
        raise ValueError(
            f"cores must be 1 for this model: another process cannot read it ({error})."
        ) from error
