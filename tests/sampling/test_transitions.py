"""Parallel tempering: swaps and schedules of temperatures."""

import numpy as np
import pytest
from scipy import stats

from pm_gplvm.sampling.transitions import (
    adapted_schedule,
    first_schedule,
    melting_power,
    swap,
)


@pytest.mark.parametrize(("n", "low"), [(5, 0.2), (8, 0.0), (2, 0.5)])
def test_first_schedule(n, low):
    beta = first_schedule(n, low)
    assert beta[0] == 1.0
    assert beta[-1] == pytest.approx(low)
    assert len(beta) == n
    assert (np.diff(beta) < 0).all()


def test_one_replica_is_the_posterior():
    assert first_schedule(1, 0.3).tolist() == [1.0]


def test_swaps_leave_the_joint_law_invariant(rng):
    """L = N(0, 1) with a flat prior: at power β its log is -χ²/(2β)."""
    beta = np.array([1.0, 0.5, 0.25])
    x = rng.normal(size=(20_000, 3)) / np.sqrt(beta)
    order, acceptance = swap(-0.5 * x**2, beta, rng)
    x = np.take_along_axis(x, order, axis=1)
    assert (np.sort(order, axis=1) == np.arange(3)).all()
    assert (acceptance > 0.3).all()
    for k in range(3):
        assert stats.kstest(x[:, k] * np.sqrt(beta[k]), "norm").pvalue > 1e-3
    # They stay independent of each other, too.
    assert abs(stats.spearmanr(np.abs(x[:, 0]), np.abs(x[:, 1])).statistic) < 0.03


def test_certain_swaps_are_made(rng):
    order, acceptance = swap(np.array([[-100.0, 0.0]]), np.array([1.0, 0.5]), rng)
    assert order.tolist() == [[1, 0]]
    assert acceptance.tolist() == [1.0]


def test_respacing_makes_rejections_equal():
    """With rejections proportional to the steps in ln β the answer is known."""
    beta = np.array([1.0, 0.9, 0.5, 0.3, 0.2])
    acceptance = 1.0 - 0.3 * -np.diff(np.log(beta))
    new = adapted_schedule(beta, acceptance, 7)
    assert new[0] == 1.0
    assert new[-1] == 0.2
    np.testing.assert_allclose(np.diff(np.log(new)), np.log(0.2) / 6, rtol=0.25)


def test_as_many_replicas_as_let_half_of_the_swaps_through():
    assert len(adapted_schedule(np.linspace(1, 0.2, 9), np.full(8, 0.25), None)) == 13
    assert len(adapted_schedule(np.linspace(1, 0.2, 9), np.full(8, 0.95), None)) == 2


def test_the_power_at_which_the_structure_melts():
    """Of 100 nats gained 60 are to be held: between the fourth and the fifth power."""
    beta = np.array([1.0, 0.8, 0.6, 0.4, 0.3, 0.2])
    level = np.array([0.0, -5.0, -15.0, -30.0, -80.0, -99.0])
    found = melting_power(beta, level, -100.0)
    share = (70.0 - 60.0) / (70.0 - 20.0)
    assert found == pytest.approx(0.4 ** (1.0 - share) * 0.3**share)
    # Held throughout, nothing gained at all, and lost at once.
    assert melting_power(beta, 0.1 * level, -100.0) == 0.2
    assert melting_power(beta, level - 200.0, -100.0) == 0.2
    assert melting_power(beta, np.array([0.0, *5 * [-99.0]]), -100.0) == 0.5


def test_a_schedule_that_ends_earlier():
    beta = np.array([1.0, 0.6, 0.2])
    found = adapted_schedule(beta, np.array([0.5, 0.5]), None, 0.4)
    assert (found[0], found[-1]) == (1.0, 0.4)
    # A barrier of about .75 in steps of a half at most.
    assert len(found) == 3
    assert (np.diff(found) < 0.0).all()
