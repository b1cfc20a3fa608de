"""Climbs from several starts: the order of their ends, and an interrupt at any moment."""

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.fitting.optimise import CONVERGED, FELL_BEHIND, INTERRUPTED, Start, best_first


class Valley:
    """Minus Rosenbrock's function of X (4, 2); at one evaluation Ctrl-C is pressed."""

    def __init__(self, stop=None):
        self.calls, self.stop = 0, stop

    def inward(self, values):
        return values["X"].ravel()

    def outward(self, vector):
        return {"X": vector.reshape(4, 2)}

    def __call__(self, vector):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return -rosen(vector), -rosen_der(vector)


def starts():
    rng = np.random.default_rng(2)
    return [Start({"X": rng.normal(0.0, 3.0, (4, 2))}, None) for _ in range(3)]


def aside(values):
    """Offer other places for the rows, which are lower at first."""
    return {"X": values["X"] + 0.1}, 1


def climbed(valley):
    with (
        interruptible(keeps=True),
        progress_bar("test", 3, "starts", show=False) as counter,
    ):
        return best_first(
            valley, starts(), aside, judge=None, max_iter=500, tol=0.01, counter=counter
        )


def test_the_best_is_climbed_to_its_end_and_others_fall_behind():
    ranked = climbed(Valley())
    objective = [optimum.objective for _, optimum in ranked]
    assert objective == sorted(objective, reverse=True)
    assert objective[0] == pytest.approx(0.0, abs=0.1)
    messages = [optimum.message for _, optimum in ranked]
    assert messages[0] == CONVERGED
    assert set(messages[1:]) <= {CONVERGED, FELL_BEHIND}
    assert sorted(i for i, _ in ranked) == [0, 1, 2]


def test_an_interrupt_loses_nothing_at_whatever_evaluation_it_comes():
    valley = Valley()
    climbed(valley)
    with pytest.raises(KeyboardInterrupt):  # there is nothing yet
        climbed(Valley(stop=1))
    reached = []
    for stop in range(2, valley.calls + 1):
        ranked = climbed(Valley(stop))
        best = ranked[0][1]
        assert best.message == INTERRUPTED
        assert not best.converged
        assert best.objective == max(optimum.objective for _, optimum in ranked)
        assert {optimum.message for _, optimum in ranked} <= {INTERRUPTED, FELL_BEHIND}
        reached.append(best.objective)
    assert (np.diff(reached) >= 0.0).all()
