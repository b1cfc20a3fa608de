"""L-BFGS from one start: the loop that every optimising fit shares."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import xarray as xr
from scipy.optimize import minimize

from pm_gplvm.checks import Array
from pm_gplvm.progress import Counter
from pm_gplvm.schema import LATENT, OBS

__all__ = [
    "COLLAPSED",
    "CONVERGED",
    "DID_NOT_MOVE",
    "INTERRUPTED",
    "LIMIT",
    "LINE_SEARCH",
    "TOL",
    "UNFINISHED",
    "Optimum",
    "Rule",
    "climb",
    "loosely",
    "optima_positions",
    "optima_table",
    "relatively",
    "tightly",
]

CONVERGED = "converged"
UNFINISHED = "not climbed to the end"
INTERRUPTED = "interrupted"
LIMIT = "the limit of iterations was reached"
LINE_SEARCH = "the line search found nothing higher"
DID_NOT_MOVE = "X did not move from its start"
COLLAPSED = "all latent positions fell onto one point"

TOL = 0.01
"""Nats that the next step may still be expected to gain where an optimiser has converged."""

_WINDOW, _TIMES = 10, 10.0  # iterations that may together have gained so many times TOL
_PAIRS = 20  # steps that the curvature is remembered by
_FRESH = 2  # beginnings anew after a line search has failed
_ROUNDING = 1e-14  # of the objective


@dataclass(frozen=True)
class Rule:
    """When a climb ends.

    Parameters
    ----------
    gain : float
        Nats that the last ``window`` iterations must have gained together to go on.
    window : int
    remaining : float
        And what the next step is expected to gain must be less, in nats: ½ gᵀHg, H the optimiser's
        own approximation of the inverse Hessian.
    relative : float
        SciPy's ftol: ends also where an iteration gains less than this share of the objective.
    arrives : bool
        Whether what ends by this rule has converged.
    """

    gain: float
    window: int
    remaining: float = np.inf
    relative: float = 0.0
    arrives: bool = True


def tightly(tol: float = TOL) -> Rule:
    """To the end: in units of the log-density, so that it means the same for any table."""
    return Rule(_TIMES * tol, _WINDOW, tol)


def loosely(nats: float, window: int = 5) -> Rule:
    """Until little is gained, to be judged or improved in another way."""
    return Rule(nats, window, arrives=False)


def relatively(tol: float) -> Rule:
    """By the size of the objective: for bounds whose rounding is above a hundredth of a nat."""
    return Rule(-np.inf, 1, relative=tol)


class Landscape(Protocol):
    """An objective of one vector, and the way between that and a model's variables."""

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Objective and gradient."""


@dataclass(frozen=True)
class Optimum:
    """Where one start ended; ``trace`` is the best objective after each evaluation.

    ``remaining`` is what the next step is expected to gain, in nats, by the optimiser's own metric.
    """

    values: dict[str, Array]
    objective: float
    start: float
    evaluations: int
    gradient: float
    remaining: float
    converged: bool
    message: str
    seconds: float
    trace: Array

    def after(self, further: "Optimum", *, keep: bool = False) -> "Optimum":
        """Go on to where a further climb ended, or keep this end; both are counted."""
        end = self if keep else further
        return replace(
            end,
            start=self.start,
            evaluations=self.evaluations + further.evaluations,
            seconds=self.seconds + further.seconds,
            trace=np.maximum.accumulate(np.concatenate([self.trace, further.trace])),
        )


class _Curvature:
    """What L-BFGS knows of the objective: the last steps, with the change of the gradient along them."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[Array, Array, float]] = deque(maxlen=_PAIRS)
        self._last: tuple[Array, Array] | None = None

    def add(self, vector: Array, gradient: Array) -> None:
        """Note an iterate; the gradient is that of what is minimised."""
        if self._last is not None:
            step, change = vector - self._last[0], gradient - self._last[1]
            along = float(step @ change)
            if along > 1e-10 * float(change @ change):
                self._pairs.append((step, change, along))
        self._last = vector.copy(), gradient

    def expected_gain(self) -> float:
        """½ gᵀHg, H the inverse Hessian of these pairs (Nocedal & Wright 2006, algorithm 7.4)."""
        if self._last is None:
            return np.inf
        q = self._last[1].copy()
        weights = []
        for step, change, along in reversed(self._pairs):
            weights.append(float(step @ q) / along)
            q -= weights[-1] * change
        if self._pairs:
            _, change, along = self._pairs[-1]
            q *= along / float(change @ change)
        for (step, change, along), weight in zip(self._pairs, reversed(weights), strict=True):
            q += (weight - float(change @ q) / along) * step
        return 0.5 * float(self._last[1] @ q)


class _Run:
    """One run of L-BFGS: what it has met, and whether it may stop."""

    def __init__(self, landscape: Landscape, counter: Counter, rule: Rule) -> None:
        self.landscape, self.counter, self.rule = landscape, counter, rule
        self.best: tuple[float, Array, Array] | None = None
        self.trace: list[float] = []
        self.heights: list[float] = []
        self.ended = False
        self._curvature = _Curvature()
        self._known: tuple[Array, Array] | None = None

    def negative(self, vector: Array) -> tuple[float, Array]:
        value, gradient = self.landscape(vector)
        finite = bool(np.isfinite(value) and np.isfinite(gradient).all())
        if finite and (self.best is None or value > self.best[0]):
            self.best = value, vector.copy(), gradient
        self.trace.append(-np.inf if self.best is None else self.best[0])
        self.counter.step(self.trace[-1])
        # L-BFGS-B cannot interpolate with infinities: a very low, flat place turns it back.
        if not finite:
            return 1e300, np.zeros_like(vector)
        self._known = vector.copy(), -gradient
        return -value, -gradient

    def begin(self, vector: Array) -> None:
        """Forget the curvature, and note where L-BFGS begins."""
        self._curvature = _Curvature()
        value, gradient = self.negative(vector)
        self.heights.append(-value)
        self._curvature.add(vector, gradient)

    def iterated(self, intermediate_result: Any) -> None:
        """Judge an iterate; the name of the argument is SciPy's."""
        vector, value = intermediate_result.x, float(intermediate_result.fun)
        self.heights.append(-value)
        known = self._known
        if known is None or not np.array_equal(known[0], vector):
            known = vector.copy(), self.negative(vector)[1]
        self._curvature.add(vector, known[1])
        if len(self.heights) > self.rule.window and self.settled():
            self.ended = True
            raise StopIteration

    def settled(self) -> bool:
        """Whether neither the last iterations nor the next step gain anything to speak of."""
        back = min(self.rule.window, len(self.heights) - 1)
        return (
            self.heights[-1] - self.heights[-1 - back] < self.rule.gain
            and self._curvature.expected_gain() < self.rule.remaining
        )

    @property
    def highest(self) -> tuple[float, Array]:
        """The best objective so far, and where it was met."""
        if self.best is None:
            raise ValueError("no evaluation has been finite yet.")
        return self.best[:2]

    @property
    def remaining(self) -> float:
        """Nats that the next step is expected to gain."""
        return self._curvature.expected_gain()


def climb(
    landscape: Landscape,
    values: Mapping[str, Array],
    maxiter: int,
    rule: Rule,
    counter: Counter,
    *,
    moved: bool = False,
) -> Optimum:
    """Run L-BFGS from one start.

    Parameters
    ----------
    landscape : Landscape
        Such as :class:`pm_gplvm.density.Coordinates`.
    values : mapping
        Of the model's value variables, by name.
    maxiter : int
    rule : Rule
        When to end, and whether that is an arrival.
    counter : Counter
        Told of every evaluation.
    moved : bool, default False
        Whether an earlier climb has led here, so that X may already be where it should.

    Returns
    -------
    Optimum

    Raises
    ------
    ValueError
        If the objective is not finite at the start.
    """
    begin, started = landscape.inward(values), time.perf_counter()
    run = _Run(landscape, counter, rule)
    run.begin(begin)
    if run.best is None:
        raise ValueError(
            "The objective is not finite at the start: K is not positive definite, or a value lies "
            "outside its prior. Start with a larger sigma or other positions."
        )
    first = run.best[0]
    message = _attempts(run, maxiter)
    top, vector, gradient = run.best
    end = landscape.outward(vector)
    problem = None if message == INTERRUPTED else _stuck(values, end, moved)
    return Optimum(
        values=end,
        objective=top,
        start=first,
        evaluations=len(run.trace),
        gradient=float(np.abs(gradient).max()),
        remaining=run.remaining,
        converged=message == CONVERGED and problem is None,
        message=problem or message,
        seconds=time.perf_counter() - started,
        trace=np.array(run.trace),
    )


def _attempts(run: _Run, maxiter: int) -> str:
    """Climb, and begin anew where the line search fails: what L-BFGS remembers may be bad."""
    relative, expected = run.rule.relative, np.inf
    for attempt in range(1 if relative else 1 + _FRESH):
        before, vector = run.highest
        if attempt:
            run.begin(vector)
        left = maxiter - (len(run.heights) - 1 - attempt)
        try:
            result = minimize(
                run.negative,
                vector,
                jac=True,
                method="L-BFGS-B",
                callback=run.iterated,
                options={
                    "maxiter": left,
                    "maxfun": 20 * left,
                    "maxcor": _PAIRS,
                    "ftol": relative,
                    "gtol": 1e-5 if relative else 0.0,
                },
            )
        except KeyboardInterrupt:
            return INTERRUPTED
        if run.ended or result.success:
            return CONVERGED if run.rule.arrives else UNFINISHED
        if result.status == 1:
            return LIMIT
        # Nothing is higher along the line: its memory of the curvature is poor, or only rounding is left.
        gained = run.highest[0] - before
        idle = attempt > 0 and gained < _ROUNDING * abs(before)
        if run.settled() or idle:
            # A climb that reaches rounding within one window has gained much in that window.
            there = run.settled() or expected < run.rule.remaining
            return CONVERGED if run.rule.arrives and there else LINE_SEARCH
        expected = run.remaining
    return LINE_SEARCH


def _stuck(start: Mapping[str, Array], end: Mapping[str, Array], moved: bool) -> str | None:
    """All-zero X is a stationary point, where an optimiser would report success."""
    X = end.get("X")
    if X is None or X.ndim != 2:
        return None
    if not moved and np.abs(X - start["X"]).max() <= 1e-10 * np.abs(start["X"]).max():
        return DID_NOT_MOVE
    if X.std(axis=0).max() <= 1e-8:
        return COLLAPSED
    return None


def optima_table(ranked: Sequence[tuple[int, Optimum]]) -> xr.Dataset:
    """Make the group ``optima`` of a fit: one row a start, the best first.

    Parameters
    ----------
    ranked : sequence
        Number of the start and where it ended.
    """
    columns = {
        "objective": [o.objective for _, o in ranked],
        "objective_at_start": [o.start for _, o in ranked],
        "evaluations": [o.evaluations for _, o in ranked],
        "largest_gradient": [o.gradient for _, o in ranked],
        "remaining_gain": [o.remaining for _, o in ranked],
        "converged": [o.converged for _, o in ranked],
        "message": [o.message for _, o in ranked],
        "seconds": [o.seconds for _, o in ranked],
    }
    return xr.Dataset(
        {name: ("start", np.asarray(column)) for name, column in columns.items()},
        coords={"start": [i for i, _ in ranked]},
    )


def optima_positions(
    starts: Sequence[int], named: Sequence[Mapping[str, Array]]
) -> dict[str, xr.Dataset]:
    """Make the group ``optima_positions`` of a fit: where each start put the rows.

    Parameters
    ----------
    starts : sequence of int
        Their numbers.
    named : sequence of mapping
        Values of the model's variables where each ended, by name.

    Returns
    -------
    dict
        The group by its name, with ``Z`` (start, obs, latent): X in units of the lengthscale, where
        that is free. Empty where X is held.
    """
    place = next((name for name in ("X", "X_mean") if name in named[0]), None)
    if place is None:
        return {}
    Z = [v[place] / v.get("lengthscale", 1.0) for v in named]
    group = xr.Dataset({"Z": (("start", OBS, LATENT), np.stack(Z))}, coords={"start": list(starts)})
    return {"optima_positions": group}
