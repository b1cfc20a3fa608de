"""X at other times than those of the rows, under ``priors.dynamics``: one Gaussian conditional a sequence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, warn
from pm_gplvm.core.gaussian import GP, square_root
from pm_gplvm.core.kernels import cross_covariance
from pm_gplvm.data.arrays import (
    by_row,
    classes,
    labels_along,
    listed,
    moments,
    times_since,
    unit_of_nanoseconds,
)
from pm_gplvm.data.fit import SEQUENCE, TIME_KERNEL, Fit
from pm_gplvm.model.priors import dynamics, plain_name

_NOTED = ("X_sequence", "X_sequence_rows", "X_own")


@dataclass(frozen=True)
class Frames:
    """Times (S,) in the units of a fit, the number of the sequence of each, and its name."""

    t: Array
    sequence: NDArray[np.intp]
    names: NDArray[Any]

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class Sequences:
    """The names of the sequences of a fit, and how times and labels of new frames are read."""

    names: tuple[str, ...]

    def numbers(
        self, times: Any, start: Array | None, unit: str | None
    ) -> tuple[NDArray[Any] | None, Array]:
        """Labels of new times, if they have any, and the times as finite numbers (S,)."""
        shape = np.shape(times)
        if times is not None and not isinstance(times, str) and (len(shape) != 1 or not shape[0]):
            raise ValueError(
                f"times must have one entry for each new frame, and at least one, got shape {shape}."
                f"{'' if shape else ' For a single time pass [time].'}"
            )
        t = times_since("times", times, start, unit)
        if not np.isfinite(t).all():
            raise ValueError(f"times must be finite, got {t[~np.isfinite(t)][0]}.")
        return labels_along(times, 0), t

    def framed(
        self, t: Array, rows: NDArray[Any] | None, sequence: Any, warned: str | None
    ) -> Frames:
        """Put the labels of sequences, one for all or one for each, to times.

        ``warned`` is the verb that warns of labels that the fit has not.
        """
        given = self._labels(
            sequence if rows is None else by_row("sequence", sequence, rows), len(t)
        )
        known = {name: i for i, name in enumerate(self.names)}
        others = [name for name in dict.fromkeys(given) if name not in known]
        if others and warned:
            warn(
                f"{warned} got sequences that the fit has not ({listed(others)}; it has {self._listed()}): they are "
                "new ones, of which the prior is all that is known."
            )
        numbers = known | {name: len(known) + i for i, name in enumerate(others)}
        return Frames(t, np.array([numbers[name] for name in given], np.intp), np.array(given))

    def _labels(self, sequence: Any, n: int) -> list[str]:
        if sequence is None:
            if len(self.names) > 1:
                raise ValueError(
                    f"sequence must say which of the sequences of the fit the times belong to ({self._listed()}), "
                    "one label for all or one for each, got None."
                )
            return list(self.names) * n
        one = isinstance(sequence, str) or np.ndim(sequence) == 0
        labels = classes("sequence", [sequence] if one else sequence)
        if (labels.codes < 0).any() or len(labels) not in (1 if one else n, n):
            raise ValueError(
                f"sequence must be one label, or one for each of the {n} times, got {len(labels)} with "
                f"{int((labels.codes < 0).sum())} missing."
            )
        names = [plain_name(label) for label in labels.tolist()]
        return names * n if one else names

    def _listed(self) -> str:
        return listed([name or "one without a name" for name in self.names])


@dataclass(frozen=True)
class Paths(Sequences):
    """The prior of X over time that a fit has, and what its rows are known to be.

    Columns of X are independent, N(0, (1 - own²) κ + own² I) within a sequence, and sequences are. ``t`` and
    ``sequence`` are of the rows, ``names`` of the sequences, ``lengthscale`` of the draws.
    """

    kernel: str
    own: float
    t: Array
    sequence: NDArray[np.intp]
    start: Array | None
    unit: str | None
    lengthscale: Array

    @classmethod
    def of(cls, read: Fit) -> "Paths":
        """Read them from a fit."""
        known = read.constants
        if dynamics.mark not in known:
            raise ValueError(
                f"{read.caller} needs a fit whose prior of X knows times, got one without. Build the model with "
                "priors={'X': priors.dynamics(t)}."
            )
        if lost := [name for name in _NOTED if name not in known]:
            raise ValueError(
                f"{read.caller} needs a fit that holds what priors.dynamics was told, got none of {', '.join(lost)}: "
                "it was made by an earlier version, or edited. Fit again: fit_map(model, start=fit)."
            )
        read.require("X_lengthscale")
        own = known["X_own"]
        dated, begun = (known.get(f"X_time_{name}") for name in ("unit", "start"))
        return cls(
            tuple(known["X_sequence_rows"][SEQUENCE].to_numpy().astype(str).tolist()),
            str(own[TIME_KERNEL].to_numpy()[0]),
            float(own[0]),
            known["X_time"].to_numpy().astype(np.float64),
            known["X_sequence"].to_numpy().astype(np.intp),
            None if begun is None else begun.to_numpy(),
            None if dated is None else unit_of_nanoseconds(float(dated)),
            read.values("X_lengthscale"),
        )

    def at(self, times: Any, sequence: Any, warned: str | None = None) -> Frames:
        """Check new times and the labels of their sequences, one for all or one for each.

        ``warned`` is the verb that warns of labels that the fit has not.
        """
        rows, t = self.numbers(times, self.start, self.unit)
        return self.framed(t, rows, sequence, warned)

    def moments(self, t: Array) -> NDArray[Any]:
        """Return times as the user has them."""
        return moments(t, self.start, self.unit)

    def conditional(self, frames: Frames, X: Array, lengthscale: float) -> tuple[Array, Array]:
        """Mean (S, Q) and covariance (S, S) of a column at new frames, given X (N, Q) of the rows as drawn.

        What is a frame's own is in it, also at the time of a row: that is another frame at the same time.
        """
        theta = {"lengthscale": lengthscale, "amplitude": np.sqrt(1.0 - self.own**2)}
        mean, covariance = np.zeros((len(frames), X.shape[1])), self.own**2 * np.eye(len(frames))
        t, t_new = self.t[:, None], frames.t[:, None]
        for number in np.unique(frames.sequence):
            rows, new = self.sequence == number, np.flatnonzero(frames.sequence == number)
            if rows.any():
                process = GP(self.kernel, t[rows], theta, self.own)
                mean[new], spread = process.joint(X[rows], t_new[new])
            else:
                spread = cross_covariance(self.kernel, t_new[new], t_new[new], **theta)
            covariance[np.ix_(new, new)] += spread
        return mean, covariance

    def drawn(
        self, new: Frames, X: Array, draw: int, n: int, rng: np.random.Generator
    ) -> tuple[Array, Array, Iterator[Array]]:
        """Mean and variance (S, Q) at new frames given X (N, Q) of a draw, and n paths (S, Q), each drawn when it is asked for."""
        mean, covariance = self.conditional(new, X, float(self.lengthscale[draw]))
        variance = np.broadcast_to(np.diagonal(covariance)[:, None], mean.shape)
        root = square_root(covariance)
        ways = (mean + root @ rng.standard_normal(mean.shape) for _ in range(n))
        return mean, variance, ways
