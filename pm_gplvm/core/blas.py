"""How many threads the linear algebra may use, and products of rows apart."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from pm_gplvm.core.checks import Array

BlasThreads = int | Literal["auto"] | None

_MANY_ROWS, _MOST = 800, 4

Product = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Runs:
    """Runs of the rows of an array, from ``bounds[i]`` to ``bounds[i + 1]``, each multiplied by itself.

    BLAS rounds a row of a product in one way or another by how many rows there are and by its place
    among them, and an optimiser makes much of that. What is multiplied by runs does not depend, to the
    last digit, on what the other runs hold.

    >>> Runs([0, 1, 3])(np.ones((3, 2)), np.ones((2, 1))).tolist()
    [[2.0], [2.0], [2.0]]
    """

    bounds: list[int]

    def map(self, function: Callable[[Array], Array], A: Array, width: int) -> Array:
        """Call ``function`` with each run of A (S, K) and put what it gives into an array (S, width)."""
        out = np.empty((len(A), width))
        for start, end in pairwise(self.bounds):
            out[start:end] = function(A[start:end])
        return out

    def each(self, A: Array, factors: Sequence[Array], width: int) -> Array:
        """Multiply each run of A (S, K) by a factor (K, width) of its own."""
        out = np.empty((len(A), width))
        for start, end, factor in zip(self.bounds, self.bounds[1:], factors, strict=False):
            np.matmul(A[start:end], factor, out=out[start:end])
        return out

    def __call__(self, A: Array, B: Array) -> Array:
        """Multiply A (S, K) by B (K, L)."""
        return self.map(lambda run: run @ B, A, B.shape[1])


def rowwise(A: Array, B: Array) -> Array:
    """Multiply A (S, K) by B (K, L), each row by itself: see :class:`Runs`."""
    return np.asarray((A[:, None] @ B)[:, 0])


@contextmanager
def blas_threads(n: int | None) -> Iterator[None]:
    """Hold BLAS and OpenMP to ``n`` threads inside the block; None leaves them as they are."""
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"blas_threads must be a positive whole number or None, got {n!r}.")
    if n is None:
        yield
        return
    with threadpool_limits(n):
        yield


def threads_for(asked: BlasThreads, n_rows: int) -> int | None:
    """Choose the number of threads where the caller leaves it to the library ("auto").

    From 800 rows on up to 4: the cores that this process may use, and no more than BLAS is set to (by
    OPENBLAS_NUM_THREADS, say). Two threads take .7 of the time of one at N = 1000 on an idle machine and no
    more than it on a busy one; at N = 500 they gain less than they may cost.
    """
    if not isinstance(asked, str):
        return asked
    if asked != "auto":
        raise ValueError(
            f"blas_threads must be 'auto', a positive whole number or None, got {asked!r}."
        )
    return 1 if n_rows < _MANY_ROWS else max(1, min(_MOST, usable_cores(), _set_threads()))


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere, macOS among others
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _set_threads() -> int:
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return min(pools, default=1)
