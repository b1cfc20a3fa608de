"""X some steps on from the last rows, under ``priors.transitions``: paths simulated through the map."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.autoregression import Autoregression
from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import SEQUENCE, Fit
from pm_gplvm.model.priors import transitions
from pm_gplvm.prediction.paths import Frames, Paths, Sequences

_THETA = ("lengthscale", "amplitude", "weight", "noise")
_MOST = 10_000  # steps: a date or a time in seconds taken for a number of steps


@dataclass(frozen=True)
class Steps(Sequences):
    """The map that a fit has found: the row before each row, and the parameters of each draw."""

    before: NDArray[np.intp]
    sequence: NDArray[np.intp]
    theta: dict[str, Array]

    @classmethod
    def of(cls, read: Fit) -> "Steps":
        """Read them from a fit."""
        read.require(*(f"X_map_{part}" for part in _THETA))
        known = read.constants
        return cls(
            tuple(known["X_sequence_rows"][SEQUENCE].to_numpy().astype(str).tolist()),
            known["X_before"].to_numpy().astype(np.intp),
            known["X_sequence"].to_numpy().astype(np.intp),
            {part: read.values(f"X_map_{part}") for part in _THETA},
        )

    def at(self, times: Any, sequence: Any, warned: str | None = None) -> Frames:
        """Check steps after the last row, whole and from 1 on, and the labels of their sequences."""
        rows, t = self.numbers(times, None, None)
        if (t != np.round(t)).any() or (t < 1).any() or (t > _MOST).any():
            wrong = t[(t != np.round(t)) | (t < 1) | (t > _MOST)][0]
            raise ValueError(
                "times must be steps after the last row of the sequence under priors.transitions, whole numbers from "
                f"1 to {_MOST}, got {wrong:g}."
            )
        return self.framed(t, rows, sequence, warned)

    @property
    def t(self) -> Array:
        """Steps of the rows, 0 for the last of a sequence."""
        t = np.zeros(len(self.before))
        for number in np.unique(self.sequence):
            rows = np.flatnonzero(self.sequence == number)
            t[rows] = np.arange(1 - len(rows), 1)
        return t

    def moments(self, t: Array) -> NDArray[Any]:
        """Return steps as whole numbers."""
        return t.astype(np.int64)

    def drawn(
        self, new: Frames, X: Array, draw: int, n: int, rng: np.random.Generator
    ) -> tuple[Array, Array, Iterator[Array]]:
        """Mean and variance (S, Q) of n paths from X (N, Q) of a draw, and these (S, Q) one after the other.

        Sequences are continued apart, each with functions of its own, given the rows.
        """
        theta = {part: float(values[draw]) for part, values in self.theta.items()}
        after = np.flatnonzero(self.before >= 0)
        process = Autoregression(X[self.before[after]], X[after], theta, theta.pop("noise"))
        drawn = np.empty((n, len(new), X.shape[1]))
        for number in np.unique(new.sequence):
            here = np.flatnonzero(new.sequence == number)
            step, rows = new.t[here].astype(np.intp), np.flatnonzero(self.sequence == number)
            if len(rows):
                start = np.tile(X[rows[-1]], (n, 1))
            else:  # a new sequence: its first row is its first step
                start = rng.standard_normal((n, X.shape[1]))
            way = process.paths(start, int(step.max()) - (not len(rows)), rng)
            if not len(rows):
                way = np.concatenate([start[:, None], way], axis=1)
            drawn[:, here] = way[:, step - 1]
        return drawn.mean(axis=0), drawn.var(axis=0), iter(drawn)


def continued(read: Fit) -> Paths | Steps:
    """Read how a fit goes on: by times, or by steps."""
    return Steps.of(read) if transitions.mark in read.constants else Paths.of(read)
