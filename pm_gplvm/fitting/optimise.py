"""L-BFGS from one start, and the best of several: short runs, rows are moved, one run to the end."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import xarray as xr
from scipy.optimize import minimize

from pm_gplvm.core.checks import Array
from pm_gplvm.core.interrupt import caught, safe_point
from pm_gplvm.core.kernels import unit_of
from pm_gplvm.core.workers import Workers
from pm_gplvm.data.fit import LATENT, OBS
from pm_gplvm.data.progress import Bar, progress_bar
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import Form, forms, perturbed

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
    """When a run ends: both ``gain`` and ``remaining`` must be undershot, in nats."""

    gain: float  # of the last iterations together
    window: int  # how many those are
    remaining: float = np.inf  # that the next step is expected to gain, ½ gᵀHg, H as L-BFGS has it
    relative: float = (
        0.0  # SciPy's ftol: ends also at a gain of less than this share of the objective
    )
    arrives: bool = True  # what ends by this rule has converged


def tightly(tol: float = TOL) -> Rule:
    """To the end: in units of the log-density, so that it means the same for any table."""
    return Rule(_TIMES * tol, _WINDOW, tol)


def loosely(nats: float, window: int = 5) -> Rule:
    """Until little is gained, to be judged or improved in another way."""
    return Rule(nats, window, arrives=False)


def relatively(tol: float) -> Rule:
    """By the size of the objective: for bounds whose rounding is above a hundredth of a nat."""
    return Rule(-np.inf, 1, relative=tol)


class Objective(Protocol):
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
        """Go on to where a further run ended, or keep this end; both are counted."""
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

    def __init__(self, objective: Objective, counter: Bar, rule: Rule) -> None:
        self.objective, self.counter, self.rule = objective, counter, rule
        self.best: tuple[float, Array, Array] | None = None
        self.trace: list[float] = []
        self.objectives: list[float] = []
        self.ended = False
        self._curvature = _Curvature()
        self._known: tuple[Array, Array] | None = None

    def negative(self, vector: Array) -> tuple[float, Array]:
        value, gradient = self.objective(vector)
        finite = bool(np.isfinite(value) and np.isfinite(gradient).all())
        if finite and (self.best is None or value > self.best[0]):
            self.best = value, vector.copy(), gradient
        self.trace.append(-np.inf if self.best is None else self.best[0])
        self.counter.step(self.trace[-1])
        safe_point()
        # L-BFGS-B cannot interpolate with infinities: a very low, flat place turns it back.
        if not finite:
            return 1e300, np.zeros_like(vector)
        self._known = vector.copy(), -gradient
        return -value, -gradient

    def begin(self, vector: Array) -> None:
        """Forget the curvature, and note where L-BFGS begins."""
        self._curvature = _Curvature()
        value, gradient = self.negative(vector)
        self.objectives.append(-value)
        self._curvature.add(vector, gradient)

    def iterated(self, intermediate_result: Any) -> None:
        """Judge an iterate; the name of the argument is SciPy's."""
        vector, value = intermediate_result.x, float(intermediate_result.fun)
        self.objectives.append(-value)
        known = self._known
        if known is None or not np.array_equal(known[0], vector):
            known = vector.copy(), self.negative(vector)[1]
        self._curvature.add(vector, known[1])
        if len(self.objectives) > self.rule.window and self.settled():
            self.ended = True
            raise StopIteration

    def settled(self) -> bool:
        """Whether neither the last iterations nor the next step gain anything to speak of."""
        back = min(self.rule.window, len(self.objectives) - 1)
        return (
            self.objectives[-1] - self.objectives[-1 - back] < self.rule.gain
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


def maximise(
    objective: Objective,
    values: Mapping[str, Array],
    max_iter: int,
    rule: Rule,
    counter: Bar,
    *,
    moved: bool = False,
) -> Optimum:
    """Run L-BFGS from values of the model's value variables; ValueError if it is not finite there.

    With ``moved`` an earlier run has led here, so that X may already be where it should.
    """
    begin, started = objective.inward(values), time.perf_counter()
    run = _Run(objective, counter, rule)
    run.begin(begin)
    if run.best is None:
        raise ValueError(
            "The objective is not finite at the start: K is not positive definite, or a value lies "
            "outside its prior. Start with a larger sigma or other positions."
        )
    first = run.best[0]
    message = _attempts(run, max_iter)
    top, vector, gradient = run.best
    end = objective.outward(vector)
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


def _attempts(run: _Run, max_iter: int) -> str:
    """Run L-BFGS, and again where the line search fails: what it remembers may be bad."""
    relative, expected = run.rule.relative, np.inf
    for attempt in range(1 if relative else 1 + _FRESH):
        before, vector = run.highest
        try:
            if attempt:
                run.begin(vector)
            left = max_iter - (len(run.objectives) - 1 - attempt)
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
            caught()
            return INTERRUPTED
        if run.ended or result.success:
            return CONVERGED if run.rule.arrives else UNFINISHED
        if result.status == 1:
            return LIMIT
        # Nothing is higher along the line: its memory of the curvature is poor, or only rounding is left.
        gained = run.highest[0] - before
        idle = attempt > 0 and gained < _ROUNDING * abs(before)
        if run.settled() or idle:
            # A run that reaches rounding within one window has gained much in that window.
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
    """Make the group ``optima`` of a fit from numbers of starts and their ends, the best first."""
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


def interruption(caller: str, optima: xr.Dataset) -> str:
    """Say what is kept of a search that was interrupted, and how to go on; the best start is the first."""
    best = optima.isel(start=0)
    number = optima.sizes["start"]
    told = (
        "its only start so far is kept" if number == 1 else f"the best of {number} starts is kept"
    )
    go_on = f"Go on from here with {caller}(model, start=fit)"
    if best["converged"]:
        go_on = "It has converged; call it again for the starts that are left"
    return (
        f"{caller} was interrupted: {told} (objective {float(best['objective']):.6g} after "
        f"{int(best['evaluations'])} evaluations). {go_on}."
    )


def optima_positions(
    starts: Sequence[int], named: Sequence[Mapping[str, Array]], kernel: str
) -> dict[str, xr.Dataset]:
    """Make the group ``optima_positions`` of a fit: Z (start, obs, latent), where each start put the rows.

    In units of the lengthscale, where that is free. There is no group where X is held.
    """
    place = next((name for name in ("X", "X_mean") if name in named[0]), None)
    if place is None:
        return {}
    Q = named[0][place].shape[1]
    Z = [v[place] / unit_of(kernel, Q, v.get("lengthscale", 1.0)) for v in named]
    group = xr.Dataset({"Z": (("start", OBS, LATENT), np.stack(Z))}, coords={"start": list(starts)})
    return {"optima_positions": group}


Relocate = Callable[[Mapping[str, Array]], tuple[dict[str, Array], int]]
Judge = Callable[[Optimum], float]
Measure = Callable[[Mapping[str, Array]], Objective]
Target = tuple[Objective, Measure | None]
"""What is maximised, and what gives it in coordinates that suit a place."""


# Nats that five iterations must gain for a run to go on: at least, and for each number sought.
_SHORT, _SHORT_EACH, _LONGER, _LONGER_EACH = 20.0, 0.1, 3.0, 0.02
# Nats by which a start may lie below the best and yet go on: at least, and for each number sought.
_BEHIND, _BEHIND_EACH = 20.0, 0.1
_NOTHING = 0.1  # root mean square of X below which an end says that there is no structure
_ROUNDS = 5  # of moving rows at most
_MEASURED = 60  # iterations after which the coordinates are chosen anew
FELL_BEHIND = "fell behind another start"


@dataclass(frozen=True)
class Start:
    """Where a run begins, values of the model's value variables."""

    values: dict[str, Array]
    form: Form | None  # how curved the map is there, if the start was made here
    asked: bool = False  # by the user: it is run to its end whatever the others reach


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


def from_joint_mode(joint: Objective, starts: Sequence[Start], max_iter: int) -> Start:
    """Make a start of the mode of X and θ together: at little noise, more strongly curved.

    It is run to from the start whose Z has the size 1.
    """
    whitened = [s for s in starts if s.form is not None and not s.form.straight]
    begin = next((s for s in whitened if s.form is not None and s.form.size == 1.0), starts[0])
    with progress_bar("", 1, "starts", show=False) as counter:
        end = maximise(joint, begin.values, max_iter, loosely(_LONGER), counter)
    return Start(end.values, replace(begin.form, joint=True) if begin.form else None)


def from_each[S](
    starts: Sequence[S], run: Callable[[S], Optimum], counter: Bar
) -> tuple[dict[int, Optimum], bool]:
    """Run from each start until one is interrupted: where they ended, by number, and whether one was."""
    ended: dict[int, Optimum] = {}
    for i, start in enumerate(starts):
        try:
            ended[i] = run(start)
        except KeyboardInterrupt:  # at its very first evaluation
            if not ended:
                raise
            caught()
            return ended, True
        counter.finish(ended[i].objective)
        if ended[i].message == INTERRUPTED:
            return ended, True
    return ended, False


def at_once(
    workers: Workers[Target],
    tasks: Mapping[int, "Callable[[_Runs], Optimum]"],
    max_iter: int,
    counter: Bar,
    before: Mapping[int, Optimum] | None = None,
) -> tuple[dict[int, Optimum], bool]:
    """Run in other processes: where they ended, by number, and whether Ctrl-C came before all had.

    ``before``: where the runs were, if they go on.
    """
    ended = dict(before or {})

    def note(i: int, end: Optimum) -> None:
        known = ended[i].evaluations if i in ended else 0
        ended[i], counter.evaluations = end, counter.evaluations + end.evaluations - known
        counter.finish(end.objective)

    interrupted = workers.each(
        {i: partial(_there, task=task, max_iter=max_iter) for i, task in tasks.items()}, note
    )
    if not ended:
        raise KeyboardInterrupt
    return {i: ended[i] for i in sorted(ended)}, interrupted


def _there(target: Target, task: "Callable[[_Runs], Optimum]", max_iter: int) -> Optimum:
    return task(_Runs(*target, max_iter, Bar("", None, "starts")))


def best_first(
    objective: Objective,
    starts: Sequence[Start],
    relocate: Relocate | None,
    *,
    judge: Judge | None,
    measure: Measure | None = None,
    max_iter: int,
    tol: float,
    counter: Bar,
    workers: Workers[Target] | None = None,
) -> list[tuple[int, Optimum]]:
    """Maximise from all starts and list where they ended, by their numbers, the best first.

    All run until little is gained; those near the best go on for a while, and ``judge`` (or the objective)
    chooses between them. From the best, ``relocate`` moves single rows to better places between loose
    runs, for as long as that gains. One run to the end is the last, and for it alone convergence is
    judged. What the user asked for (restarts) is run to its end too. After the first runs ``measure``
    gives the objective in coordinates that suit the place. What does not wait for another run is run by
    ``workers``, if there are any.
    """
    runs = _Runs(objective, measure, max_iter, counter)
    short, longer = _loose_rules(starts[0])
    alone = len(starts) == 1 and relocate is None
    first = [
        partial(
            _Runs.first, start=start.values, rule=short, tol=tol if start.asked or alone else None
        )
        for start in starts
    ]
    if workers is None:
        ended, interrupted = from_each(first, lambda run: run(runs), counter)
    else:  # what is run to its end takes longest, and is begun first
        order = sorted(range(len(starts)), key=lambda i: not starts[i].asked)
        ended, interrupted = at_once(workers, {i: first[i] for i in order}, max_iter, counter)
    if interrupted:
        return rank(ended, interrupted=True)
    counter.begin("climb")
    top = _top(ended)
    if len(starts) > 1:
        near = [
            i for i in ended if ended[i].message == UNFINISHED and _is_near(ended[i], ended[top])
        ]
        if len(near) > 1:
            on = {i: partial(_Runs.further, optimum=ended[i], rule=longer) for i in near}
            if workers is None:
                for i, run in on.items():
                    ended[i] = run(runs)
                    if ended[i].message == INTERRUPTED:
                        return rank(ended, interrupted=True)
            else:
                ended, interrupted = at_once(workers, on, max_iter, counter, ended)
                if interrupted:
                    return rank(ended, interrupted=True)
        top = _top(ended)
        if judge is not None:
            top = _chosen(ended, top, judge)
    best, here = ended[top], None
    if relocate is not None:
        best, here = _relocated(runs, best, relocate, longer)
    ended[top] = runs.to_the_end(best, tol, here)
    return rank(ended, top)


def _loose_rules(start: Start) -> tuple[Rule, Rule]:
    """When the first runs end, and those between which rows are moved."""
    size = sum(value.size for value in start.values.values())
    short, longer = max(_SHORT, _SHORT_EACH * size), max(_LONGER, _LONGER_EACH * size)
    return loosely(short), loosely(longer)


@dataclass(frozen=True)
class _Runs:
    """Runs, and further ones from where they ended."""

    objective: Objective
    measure: Measure | None
    max_iter: int
    counter: Bar

    def here(self, values: Mapping[str, Array]) -> Objective:
        """Take coordinates that suit this place."""
        return self.objective if self.measure is None else self.measure(values)

    def first(self, start: Mapping[str, Array], rule: Rule, tol: float | None) -> Optimum:
        """Run from a start by a rule, and on to the end where ``tol`` is given."""
        end = maximise(self.objective, start, self.max_iter, rule, self.counter)
        return end if tol is None else self.to_the_end(end, tol)

    def further(
        self,
        optimum: Optimum,
        rule: Rule,
        objective: Objective | None = None,
        max_iter: int | None = None,
    ) -> Optimum:
        """Go on by another rule; in the coordinates that suit this place if no others are given."""
        moved = optimum.message != DID_NOT_MOVE
        try:
            objective = objective or self.here(optimum.values)
            most = max_iter or self.max_iter
            end = maximise(objective, optimum.values, most, rule, self.counter, moved=moved)
            return optimum.after(end)
        except KeyboardInterrupt:
            caught()
            return stopped(optimum)

    def to_the_end(
        self, optimum: Optimum, tol: float, objective: Objective | None = None
    ) -> Optimum:
        """Go on until it has converged, or there is nothing higher."""
        if optimum.message in (INTERRUPTED, CONVERGED):
            return optimum
        left = self.max_iter
        while left > 0:
            some = left if self.measure is None else min(left, _MEASURED)
            optimum = self.further(optimum, tightly(tol), objective, some)
            if optimum.message != LIMIT:
                break
            left, objective = left - some, None
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


def rank(
    ended: Mapping[int, Optimum], chosen: int | None = None, *, interrupted: bool = False
) -> list[tuple[int, Optimum]]:
    """Sort them, the one that was chosen or else the best first; what was left behind says so."""
    order = sorted(ended, key=lambda i: (i != chosen, -ended[i].objective))
    if interrupted and ended[order[0]].message == UNFINISHED:  # another start was being run from
        ended = {**ended, order[0]: replace(ended[order[0]], message=INTERRUPTED)}
    left = {
        i: replace(ended[i], message=FELL_BEHIND)
        for i in order[1:]
        if ended[i].message == UNFINISHED
    }
    return [(i, left.get(i, ended[i])) for i in order]


def stopped(optimum: Optimum) -> Optimum:
    """Where it had come to when it was interrupted outside a run."""
    return replace(optimum, converged=False, message=INTERRUPTED)


def _relocated(
    runs: _Runs, best: Optimum, relocate: Relocate, rule: Rule
) -> tuple[Optimum, Objective | None]:
    """Move rows to better places and maximise again, for as long as that gains; in what coordinates too."""
    objective = None
    for _ in range(_ROUNDS):
        try:
            values, n_moved = relocate(best.values)
            if not n_moved:
                break
            objective = objective or runs.here(best.values)
            further = maximise(objective, values, runs.max_iter, rule, runs.counter)
        except KeyboardInterrupt:
            caught()
            return stopped(best), objective
        gained = further.objective - best.objective
        best = best.after(further, keep=gained <= 0.0)
        if further.message == INTERRUPTED:
            return stopped(best), objective
        if gained < _LONGER:
            break
    return best, objective


def start_columns(starts: Sequence[Start], ranked: Sequence[tuple[int, Optimum]]) -> xr.Dataset:
    """Columns of the group ``optima`` that tell the form of each start."""
    chosen = [starts[i].form for i, _ in ranked]
    columns = {
        "size": [np.nan if form is None else form.size for form in chosen],
        "spread": ["given" if form is None else form.name for form in chosen],
    }
    return xr.Dataset({name: ("start", np.asarray(column)) for name, column in columns.items()})
