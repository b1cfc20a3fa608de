"""Compiled updates of rows against those in NumPy, and their invariance."""

import numpy as np
import pytest
from numba import carray, cfunc
from numba.core import types
from test_row_moves import AMPLITUDE, BIAS, SIGMA, WEIGHT, normal_prior, table_of, updates_of

from pm_gplvm.core import row_loops
from pm_gplvm.core.fused import Columns
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.core.row_moves import Proposal, wide_component

N, Q, D = 7, 2, 4
NUMBERS = types.CPointer(types.float64)


@cfunc(types.void(NUMBERS, NUMBERS, types.int64, types.int64, NUMBERS))
def log_prior(state, given, n, m, out):
    C = carray(given, (m, 2))
    for i in range(m):
        carray(out, (m,))[i] = -0.5 * (C[i, 0] ** 2 + C[i, 1] ** 2)


def rows_of(kernel, Z, F, beta):
    entry = KERNELS[kernel]
    linear = entry.linear * (WEIGHT if entry.summed else AMPLITUDE)
    theta = np.array([AMPLITUDE * (entry.scaled is not None), BIAS, SIGMA, linear, linear])
    columns = Columns.of(F, kernel, np.zeros(F.shape[1]))
    units = np.array([0.5, 2.0])  # the state's positions are Z times these
    state = np.concatenate([[7.0], (Z * units).ravel(), [8.0]])
    memory = np.empty((len(columns.counts), N, N)), np.empty(columns.F.shape)
    beside = Proposal(F).beside
    rows = row_loops.Rows(
        columns, theta, beta, state, 1, units, log_prior.address, beside, Z.copy(),
        np.ascontiguousarray(Z.T), np.ones(N), *memory,
    )  # fmt: skip
    assert row_loops.factorised(rows)
    return rows


@pytest.mark.parametrize("kernel", ["rbf", "linear", "matern52 + linear", "cauchy"])
@pytest.mark.parametrize(("holes", "n"), [(False, 2), (True, 0), (True, 3)])
def test_weights_are_those_in_numpy(kernel, holes, n, rng):
    Z, F, C = rng.normal(size=(N, Q)), table_of(rng, N, D, holes), rng.normal(size=(5, Q))
    rows = rows_of(kernel, Z, F, 0.4)
    work = row_loops.memory(rows, len(C))
    row_loops.remove(rows, n)
    row_loops.propose(rows, n, work, rng)
    present = np.arange(N) != n
    wide = wide_component(Z[None], present.astype(float))
    np.testing.assert_allclose([work.centre, work.spread], [w[0, 0] for w in wide])
    C[-1] = 300.0, -200.0  # so far out that its density underflows
    work.C[:] = C
    row_loops.weigh(rows, n, work)
    updates = updates_of(Z[None], F, rng, kernel, 0.4)
    for part in updates.parts:
        if part.seen[n]:
            part.remove(n)
    found = updates.weigh(n, C[None], Z[None], updates.parts, present.astype(float), list(wide))
    expected = found[0][0]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(np.diff(work.log_weights), np.diff(expected), rtol=1e-10)
    assert normal_prior(n, C).shape == expected.shape


@pytest.mark.parametrize("holes", [False, True])
def test_what_is_known_stays_right_and_the_state_follows(holes, rng):
    Z, F = rng.normal(size=(N, Q)), table_of(rng, N, D, holes)
    rows = rows_of("rbf + linear", Z, F, 1.0)
    order, blocks = np.arange(N), np.array([[0, 1, 2, -1], [3, 5, -1, -1], [0, 2, 4, 6]])
    moved = accepted = 0
    for _ in range(20):
        moved += row_loops.sweep(rows, order, 16, rng)
        accepted += row_loops.block_updates(rows, blocks, 16, rng)
    assert moved > 20
    assert accepted > 3
    again = rows_of("rbf + linear", rows.Z, F, 1.0)
    np.testing.assert_allclose(rows.A, again.A, atol=1e-9)
    np.testing.assert_allclose(rows.W, again.W, atol=1e-9)
    np.testing.assert_array_equal(rows.ZT, rows.Z.T)
    np.testing.assert_allclose(rows.state[1:-1].reshape(N, Q), rows.Z * rows.units)
    assert (rows.state[0], rows.state[-1]) == (7.0, 8.0)
    assert (rows.present == 1.0).all()


@pytest.mark.parametrize("how", ["sweep", "blocks"])
def test_the_prior_is_left_as_it_is_at_beta_zero(how, rng):
    """From draws of it: moments of positions and of the distances of rows that move together."""
    F = table_of(rng, N, D, holes=False)
    seen = []
    for _ in range(1500):
        rows = rows_of("rbf", rng.standard_normal((N, Q)), F, 0.0)
        if how == "sweep":
            row_loops.sweep(rows, np.arange(N), 6, rng)
        else:
            row_loops.block_updates(rows, np.array([[0, 1, 2, 3], [4, 5, -1, -1]]), 6, rng)
        seen.append(rows.Z.copy())
    X = np.array(seen)[:, :6]
    error = 4.0 / np.sqrt(X.size)
    assert X.mean() == pytest.approx(0.0, abs=error)
    assert (X**2).mean() == pytest.approx(1.0, abs=np.sqrt(2.0) * error)
    assert (X**4).mean() == pytest.approx(3.0, abs=np.sqrt(96.0) * error)
    apart = ((X[:, 0] - X[:, 1]) ** 2).sum(axis=-1)
    assert apart.mean() == pytest.approx(4.0, abs=4.0 * 4.0 / np.sqrt(len(apart)))


def test_the_posterior_is_left_as_it_is(rng):
    """One row of three, the others held: its draws against the density on a grid."""
    F = np.array([[0.5, -1.0], [-0.4, 0.3], [0.2, 0.8]] + 4 * [[0.0, 0.1]])
    Z = rng.normal(size=(N, Q))
    rows = rows_of("rbf", Z, F, 1.0)
    draws = []
    for _ in range(6000):
        row_loops.sweep(rows, np.array([1]), 12, rng)
        draws.append(rows.Z[1].copy())
    side = np.linspace(-5.0, 5.0, 101)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, Q)
    from pm_gplvm.core.fused import log_likelihood

    levels = []
    for place in grid:
        there = Z.copy()
        there[1] = place
        levels.append(log_likelihood(rows.columns, rows.theta, there) - 0.5 * (place**2).sum())
    weights = np.exp(np.array(levels) - max(levels))
    weights /= weights.sum()
    for power in (1, 2):
        exact = weights @ grid[:, 0] ** power
        sd = np.sqrt(weights @ (grid[:, 0] ** power - exact) ** 2)
        found = (np.array(draws) ** power).mean(axis=0)
        np.testing.assert_array_less(np.abs(found - exact), 4.0 * sd / np.sqrt(2000))


def test_no_weight_at_all_stays(rng):
    rows = rows_of("rbf", rng.normal(size=(N, Q)), table_of(rng, N, D, holes=False), 1.0)
    work = row_loops.memory(rows, 4)
    work.log_weights[:] = -np.inf
    assert row_loops.choose(work, rng) == (0, -np.inf)
    work.log_weights[:] = [-np.inf, 3.0, -np.inf, 3.0]
    chosen = [row_loops.choose(work, rng)[0] for _ in range(400)]
    assert set(chosen) == {1, 3}
    assert 140 < chosen.count(1) < 260
    assert row_loops.choose(work, rng)[1] == pytest.approx(3.0 + np.log(2.0))
