"""Columns of a table grouped by which of their entries were observed."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.checks import Array

__all__ = ["Patterns", "column_patterns", "single_columns", "warn_of_cost"]

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

_MANY = 10  # patterns from which a fit takes so much longer that it is told


@dataclass(frozen=True, eq=False)
class Patterns:
    """Which rows are observed in which columns.

    Parameters
    ----------
    seen : ndarray of bool, shape (G, N)
        One row a pattern: the rows of the table that are observed in its columns.
    group : ndarray of int, shape (D,)
        The pattern of each column.
    """

    seen: Mask
    group: Indices

    def __len__(self) -> int:
        return len(self.seen)

    def __iter__(self) -> Iterator[tuple[Indices, Indices]]:
        """Go through the patterns: the rows observed, and the columns."""
        for g, rows in enumerate(self.seen):
            yield np.flatnonzero(rows), np.flatnonzero(self.group == g)

    def blocks(self, F: Array) -> Iterator[tuple[Indices, Indices, Array]]:
        """Cut a table (N, D) into complete ones: rows, columns, and the entries there."""
        for rows, columns in self:
            yield (
                rows,
                columns,
                F if len(self) == 1 and self.seen.all() else F[np.ix_(rows, columns)],
            )


def column_patterns(seen: Mask) -> Patterns:
    """Group columns that have the same rows observed.

    Parameters
    ----------
    seen : ndarray of bool, shape (N, D)
        Without an empty row or column.

    Returns
    -------
    Patterns
        One of all rows and columns where nothing is missing.

    Examples
    --------
    >>> seen = np.array([[True, False, True], [True, True, True]])
    >>> [(rows.tolist(), columns.tolist()) for rows, columns in column_patterns(seen)]
    [([1], [1]), ([0, 1], [0, 2])]
    """
    if seen.all():
        return Patterns(np.ones((1, len(seen)), dtype=bool), np.zeros(seen.shape[1], dtype=np.intp))
    patterns, group = np.unique(seen.T, axis=0, return_inverse=True)
    return Patterns(patterns, group.ravel().astype(np.intp))


def single_columns(seen: Mask) -> Patterns:
    """Give each column a pattern of its own, also where others have the same rows observed.

    Examples
    --------
    >>> len(single_columns(np.ones((3, 2), dtype=bool)))
    2
    """
    return Patterns(np.ascontiguousarray(seen.T), np.arange(seen.shape[1]))


def warn_of_cost(patterns: Patterns) -> None:
    """Tell how many factorisations one evaluation takes, if they are many.

    Warns
    -----
    RuntimeWarning
        If there are more than 10 patterns.
    """
    if len(patterns) <= _MANY:
        return
    counts = patterns.seen.sum(axis=1, dtype=np.float64)
    times = float((counts**3).sum()) / patterns.seen.shape[1] ** 3
    warnings.warn(
        f"Y has {len(patterns)} patterns of missing entries among its {len(patterns.group)} columns: every "
        f"evaluation takes as many Cholesky factorisations, about {times:.0f} times the arithmetic "
        "of a complete table. Fewer patterns cost less: drop rows or columns of which little was "
        "seen.",
        RuntimeWarning,
        stacklevel=3,
    )
