"""L-BFGS of a vector whose parts lie in different places, by their inner products alone.

The two loops of Nocedal & Wright (2006, algorithm 7.4) need of the steps, of the changes of the gradient and of the
gradient itself nothing but the inner products with each other; the direction is a weighted sum of them (Chen, Wang & Zhou
2014, "Large-scale L-BFGS using MapReduce"). The line search knows values and slopes along the direction.
"""

from collections.abc import Callable
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter

import numpy as np
from scipy.optimize import line_search

from pm_gplvm.core.checks import Array
from pm_gplvm.core.interrupt import caught, safe_point
from pm_gplvm.core.row_chunks import Step
from pm_gplvm.fitting.optimise import CONVERGED, INTERRUPTED, LIMIT, LINE_SEARCH

_PAIRS = 10  # steps that the curvature is remembered by; each takes memory for all rows
_SUFFICIENT, _CURVATURE = 1e-3, 0.9  # of the strong Wolfe conditions, as L-BFGS-B has them
_LONGEST_SEARCH = 20


class Parts(Protocol):
    """What is minimised: a function of a vector that others hold."""

    def value(self, step: Step) -> float:
        """Value where a step leads, infinite where there is none."""

    def products(self, step: Step) -> Array:
        """Inner products (3, 2 h + 3) of the step, change and gradient there: see :class:`Iterates`."""

    def arrived(self, number: int) -> None:
        """Note the evaluation that is gone on from."""


class VectorFree:
    """A minimisation: where it is, and what it remembers of the curvature."""

    def __init__(self, parts: Parts, first: int, told: Callable[[float], None]) -> None:
        self.parts, self.told = parts, told
        self.current = self.number = first
        self.value, self.first = np.inf, np.nan
        self.trace: list[float] = []
        self.pairs: tuple[tuple[int, int], ...] = ()
        self._gram: Array = np.zeros((1, 1))

    @property
    def slope(self) -> float:
        """Length of the gradient."""
        return float(np.sqrt(self._gram[-1, -1]))

    def begin(self) -> None:
        """Evaluate where it is, and forget the curvature."""
        self.forget()
        step = Step(self.number + 1, self.current)
        value = self._value(step)
        if np.isfinite(value):
            self._accept(step, value, self.parts.products(step))
            self.forget()

    def forget(self) -> None:
        """Remember the gradient only."""
        self.pairs, self._gram = (), self._gram[-1:, -1:]

    def run(self, max_iter: int, tol: float) -> str:
        """Go on until an iteration lowers the value by less than ``tol`` of its size; why it ended."""
        try:
            return self._run(max_iter, tol)
        except KeyboardInterrupt:
            caught()
            return INTERRUPTED

    def _run(self, max_iter: int, tol: float) -> str:
        for _ in range(max_iter):
            before, weights = self.value, self._direction()
            along = float(weights @ self._gram[:, -1])
            found = self._searched(weights, along) if along < 0.0 else None
            if found is None:
                if not self.pairs:
                    return LINE_SEARCH
                self.forget()
                continue
            self._accept(*found)
            if before - self.value <= tol * max(abs(before), abs(self.value), 1.0):
                return CONVERGED
            safe_point()
        return LIMIT

    def _direction(self) -> Array:
        """Weights (2 h + 1,) of the steps, changes and gradient in the direction: the two loops."""
        gram, h = self._gram, len(self.pairs)
        weights = np.zeros(2 * h + 1)
        weights[-1] = -1.0
        if not h:  # the first step has length 1 at most, as L-BFGS-B's
            return weights / max(1.0, self.slope)
        shares = np.empty(h)
        for i in reversed(range(h)):
            shares[i] = gram[i] @ weights / gram[i, h + i]
            weights[h + i] -= shares[i]
        weights *= gram[h - 1, 2 * h - 1] / gram[2 * h - 1, 2 * h - 1]
        for i in range(h):
            weights[i] += shares[i] - gram[h + i] @ weights / gram[i, h + i]
        return weights

    def _value(self, step: Step) -> float:
        value = self.parts.value(step)
        self.number = step.number
        if not self.trace:
            self.first = value
        self.trace.append(min(value, self.trace[-1]) if self.trace else value)
        self.told(self.trace[-1])
        return value

    def _searched(self, weights: Array, along: float) -> tuple[Step, float, Array] | None:
        """Search along a direction by the strong Wolfe conditions; None where nothing is lower."""
        met: dict[float, tuple[Step, float]] = {}
        products: dict[float, Array] = {}

        def value(at: Any) -> float:
            length = float(at[0])
            if length not in met:
                step = Step(
                    self.number + 1, self.current, self.pairs, tuple(weights.tolist()), length
                )
                met[length] = step, self._value(step)
            return met[length][1]

        def slope(at: Any) -> Array:
            value(at)
            length = float(at[0])
            if length not in products:
                products[length] = self.parts.products(met[length][0])
            # The last product of the new step is that with the gradient there.
            return np.array([products[length][0, -1] / length])

        with catch_warnings():
            simplefilter("ignore")  # SciPy's, that it found nothing
            length, *_ = line_search(
                value,
                slope,
                np.zeros(1),
                np.ones(1),
                np.array([along]),
                self.value,
                c1=_SUFFICIENT,
                c2=_CURVATURE,
                maxiter=_LONGEST_SEARCH,
            )
        if length is None:
            return None
        slope(np.array([length]))
        return *met[float(length)], products[float(length)]

    def _accept(self, step: Step, value: float, products: Array) -> None:
        """Go to where a step leads, and remember it."""
        h = len(self.pairs)
        gram = np.zeros((2 * h + 3, 2 * h + 3))
        gram[: 2 * h, : 2 * h] = self._gram[: 2 * h, : 2 * h]
        gram[2 * h :], gram[:, 2 * h :] = products, products.T
        new = gram[2 * h, 2 * h + 1] > 1e-10 * gram[2 * h + 1, 2 * h + 1]
        steps, changes = list(range(h)), list(range(h, 2 * h))
        if new:
            steps.append(2 * h)
            changes.append(2 * h + 1)
            self.pairs = (*self.pairs, (step.current, step.number))[-_PAIRS:]
        chosen = [*steps[-_PAIRS:], *changes[-_PAIRS:], 2 * h + 2]
        self._gram = gram[np.ix_(chosen, chosen)]
        self.current, self.value = step.number, value
        self.parts.arrived(step.number)
