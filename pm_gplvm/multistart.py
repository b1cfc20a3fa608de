"""The best of several starts: short climbs, the best goes on, rows are moved, one climb to the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from pm_gplvm.ascent import (
    CONVERGED,
    DID_NOT_MOVE,
    INTERRUPTED,
    LIMIT,
    UNFINISHED,
    Landscape,
    Optimum,
    Rule,
    climb,
    loosely,
    tightly,
)
from pm_gplvm.checks import Array
from pm_gplvm.progress import Counter
from pm_gplvm.spec import ModelSpec
from pm_gplvm.starts import Form, forms, perturbed

__all__ = ["Start", "best_first", "from_joint_mode", "start_columns", "starts_of"]

Relocate = Callable[[Mapping[str, Array]], tuple[dict[str, Array], int]]
Judge = Callable[[Optimum], float]
Measure = Callable[[Mapping[str, Array]], Landscape]

# Nats that five iterations must gain for a climb to go on: at least, and for each number sought.
_SHORT, _SHORT_EACH, _LONGER, _LONGER_EACH = 20.0, 0.1, 3.0, 0.02
# Nats by which a start may lie below the best and yet go on: at least, and for each number sought.
_BEHIND, _BEHIND_EACH = 20.0, 0.1
_NOTHING = 0.1  # root mean square of X below which an end says that there is no structure
_ROUNDS = 5  # of moving rows at most
_MEASURED = 60  # iterations after which the coordinates are chosen anew
FELL_BEHIND = "fell behind another start"


@dataclass(frozen=True)
class Start:
    """Where a climb begins.

    Parameters
    ----------
    values : dict
        Of the model's value variables.
    form : Form or None
        How curved the map is there, if the start was made here.
    asked : bool
        Whether the user asked for it, so that it is climbed to its end whatever the others reach.
    """

    values: dict[str, Array]
    form: Form | None
    asked: bool = False


def starts_of(
    spec: ModelSpec, start: object, n_restarts: int, rng: np.random.Generator
) -> list[Start]:
    """Make the starts: each form of the way that was asked for, then restarts moved at random."""
    made = forms(spec, start, rng)
    first = [Start(values, form) for form, values in made]
    moved = [
        Start(perturbed(spec, made[i % len(made)][1], start, rng), made[i % len(made)][0], True)
        for i in range(n_restarts)
    ]
    return [*first, *moved]


def from_joint_mode(joint: Landscape, starts: Sequence[Start], maxiter: int) -> Start:
    """Make a start of where the mode of X and θ together lies: at little noise, more strongly curved.

    Parameters
    ----------
    joint : Landscape
        The objective of :func:`pm_gplvm.fit_map`.
    starts : sequence of Start
        It is climbed to from the most curved of them whose Z has the size 1.
    maxiter : int
    """
    whitened = [s for s in starts if s.form is not None and not s.form.straight]
    begin = next((s for s in whitened if s.form is not None and s.form.size == 1.0), starts[0])
    with Counter("", n_starts=1, show=False) as counter:
        end = climb(joint, begin.values, maxiter, loosely(_LONGER), counter)
    return Start(end.values, replace(begin.form, joint=True) if begin.form else None)


def best_first(
    landscape: Landscape,
    starts: Sequence[Start],
    relocate: Relocate | None,
    *,
    judge: Judge | None,
    measure: Measure | None = None,
    maxiter: int,
    tol: float,
    counter: Counter,
) -> list[tuple[int, Optimum]]:
    """Climb from all starts and list where they ended, the best first.

    All climb until little is gained; those near the best go on for a while. From the best, single
    rows are moved to better places between loose climbs, for as long as that gains. One climb to the
    end is the last, and for it alone convergence is judged. What the user asked for (restarts) is
    climbed to its end too.

    Parameters
    ----------
    landscape : Landscape
    starts : sequence of Start
    relocate : callable or None
        Values to better ones, and how many rows moved.
    judge : callable or None
        What to choose by between ends that are near each other: an optimum to a number, None for its
        objective.
    measure : callable, optional
        Values to the landscape in coordinates that suit the place: what the climbs after the first
        ones go by.
    maxiter : int
        Iterations of a climb.
    tol : float
        See :func:`pm_gplvm.ascent.tightly`.
    counter : Counter

    Returns
    -------
    list of (int, Optimum)
        The number of the start and where it ended.
    """
    climbs = _Climbs(landscape, measure, maxiter, counter)
    short, longer = _loose_rules(starts[0])
    ended: dict[int, Optimum] = {}
    alone = len(starts) == 1 and relocate is None
    for i, start in enumerate(starts):
        try:
            ended[i] = climb(landscape, start.values, maxiter, short, counter)
        except KeyboardInterrupt:  # at its very first evaluation
            if not ended:
                raise
            return _ranked(ended, interrupted=True)
        if start.asked or alone:
            ended[i] = climbs.to_the_end(ended[i], tol)
        counter.finish(ended[i].objective)
        if ended[i].message == INTERRUPTED:
            return _ranked(ended, interrupted=True)
    top = _top(ended)
    if len(starts) > 1:
        near = [
            i for i in ended if ended[i].message == UNFINISHED and _is_near(ended[i], ended[top])
        ]
        for i in near if len(near) > 1 else []:
            ended[i] = climbs.further(ended[i], longer)
            if ended[i].message == INTERRUPTED:
                return _ranked(ended, interrupted=True)
        top = _top(ended)
        if judge is not None:
            top = _chosen(ended, top, judge)
    best, here = ended[top], None
    if relocate is not None:
        best, here = _relocated(climbs, best, relocate, longer)
    ended[top] = climbs.to_the_end(best, tol, here)
    return _ranked(ended, top)


def _loose_rules(start: Start) -> tuple[Rule, Rule]:
    """When the first climbs end, and those between which rows are moved."""
    size = sum(value.size for value in start.values.values())
    short, longer = max(_SHORT, _SHORT_EACH * size), max(_LONGER, _LONGER_EACH * size)
    return loosely(short), loosely(longer)


@dataclass(frozen=True)
class _Climbs:
    """Climbs on from where one ended."""

    landscape: Landscape
    measure: Measure | None
    maxiter: int
    counter: Counter

    def here(self, values: Mapping[str, Array]) -> Landscape:
        """Take coordinates that suit this place."""
        return self.landscape if self.measure is None else self.measure(values)

    def further(
        self,
        optimum: Optimum,
        rule: Rule,
        landscape: Landscape | None = None,
        maxiter: int | None = None,
    ) -> Optimum:
        """Go on by another rule; in the coordinates that suit this place if no others are given."""
        moved = optimum.message != DID_NOT_MOVE
        try:
            landscape = landscape or self.here(optimum.values)
            most = maxiter or self.maxiter
            end = climb(landscape, optimum.values, most, rule, self.counter, moved=moved)
            return optimum.after(end)
        except KeyboardInterrupt:
            return _stopped(optimum)

    def to_the_end(
        self, optimum: Optimum, tol: float, landscape: Landscape | None = None
    ) -> Optimum:
        """Go on until it has converged, or there is nothing higher."""
        if optimum.message in (INTERRUPTED, CONVERGED):
            return optimum
        left = self.maxiter
        while left > 0:
            some = left if self.measure is None else min(left, _MEASURED)
            optimum = self.further(optimum, tightly(tol), landscape, some)
            if optimum.message != LIMIT:
                break
            left, landscape = left - some, None
        return optimum


def _is_near(optimum: Optimum, best: Optimum) -> bool:
    size = sum(value.size for value in best.values.values())
    return best.objective - optimum.objective < max(_BEHIND, _BEHIND_EACH * size)


def _chosen(ended: Mapping[int, Optimum], top: int, judge: Judge) -> int:
    """Choose between the best end and those near it, unless the best says that there is nothing."""
    if not _spreads(ended[top]):
        return top
    near = [i for i in ended if _is_near(ended[i], ended[top]) and _spreads(ended[i])]
    return max(near, key=lambda i: judge(ended[i])) if len(near) > 1 else top


def _spreads(optimum: Optimum) -> bool:
    X = optimum.values.get("X")
    return X is None or float(np.sqrt((X**2).mean())) >= _NOTHING


def _top(ended: Mapping[int, Optimum]) -> int:
    return max(ended, key=lambda i: ended[i].objective)


def _ranked(
    ended: Mapping[int, Optimum], chosen: int | None = None, *, interrupted: bool = False
) -> list[tuple[int, Optimum]]:
    """Sort them, the one that was chosen or else the best first; what was left behind says so."""
    order = sorted(ended, key=lambda i: (i != chosen, -ended[i].objective))
    if (
        interrupted and ended[order[0]].message == UNFINISHED
    ):  # another start was being climbed from
        ended = {**ended, order[0]: replace(ended[order[0]], message=INTERRUPTED)}
    left = {
        i: replace(ended[i], message=FELL_BEHIND)
        for i in order[1:]
        if ended[i].message == UNFINISHED
    }
    return [(i, left.get(i, ended[i])) for i in order]


def _stopped(optimum: Optimum) -> Optimum:
    """Where it had come to when it was interrupted outside a climb."""
    return replace(optimum, converged=False, message=INTERRUPTED)


def _relocated(
    climbs: _Climbs, best: Optimum, relocate: Relocate, rule: Rule
) -> tuple[Optimum, Landscape | None]:
    """Move rows to better places and climb on, for as long as that gains; and in what coordinates."""
    landscape = None
    for _ in range(_ROUNDS):
        try:
            values, n_moved = relocate(best.values)
            if not n_moved:
                break
            landscape = landscape or climbs.here(best.values)
            further = climb(landscape, values, climbs.maxiter, rule, climbs.counter)
        except KeyboardInterrupt:
            return _stopped(best), landscape
        gained = further.objective - best.objective
        best = best.after(further, keep=gained <= 0.0)
        if further.message == INTERRUPTED:
            return _stopped(best), landscape
        if gained < _LONGER:
            break
    return best, landscape


def start_columns(starts: Sequence[Start], ranked: Sequence[tuple[int, Optimum]]) -> xr.Dataset:
    """Columns of the group ``optima`` that tell the form of each start."""
    chosen = [starts[i].form for i, _ in ranked]
    columns = {
        "size": [np.nan if form is None else form.size for form in chosen],
        "spread": ["given" if form is None else form.name for form in chosen],
    }
    return xr.Dataset({name: ("start", np.asarray(column)) for name, column in columns.items()})
