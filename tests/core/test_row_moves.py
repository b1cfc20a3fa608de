"""Updates of rows, of complete tables and with missing entries: weights by a second route, invariance."""

import numpy as np
import pytest
from oracles import ALL_KERNELS, SUMS, column_logps, kernel_matrix
from scipy import special, stats

from pm_gplvm.core import row_loops
from pm_gplvm.core.row_moves import (
    Part,
    Proposal,
    RowUpdates,
    TableAt,
    Theta,
    choose,
    wide_component,
)

AMPLITUDE, SIGMA, BIAS, WEIGHT = 1.3, 0.4, 0.6, 0.8


def theta_of(kernel, R):
    weight = np.full((R, 1, 1), WEIGHT if kernel in SUMS else AMPLITUDE)
    return Theta(kernel, np.full(R, AMPLITUDE), np.full(R, SIGMA), np.full(R, BIAS), weight)


def normal_prior(n, C):
    return -0.5 * (C**2).sum(axis=-1)


def updates_of(Z, F, rng, kernel="rbf", beta=1.0):
    R = len(Z)
    tables = [TableAt(theta_of(kernel, R), F)]
    return RowUpdates(Z, tables, np.full(R, beta), normal_prior, Proposal(F), rng)


def table_of(rng, N, D, holes):
    F = rng.normal(size=(N, D))
    if holes:
        F[rng.random((N, D)) < 0.3] = np.nan
        F[:, 0] = rng.normal(size=N)  # no row without an entry
        F[0, 1] = np.nan
    return F


def K_of(kernel, Z):
    return kernel_matrix(kernel, Z, amplitude=AMPLITUDE, sigma=SIGMA, bias=BIAS, weight=WEIGHT)


def log_likelihood(kernel, Z, F):
    K, total = K_of(kernel, Z), 0.0
    for f in F.T:
        o = ~np.isnan(f)
        total += column_logps(f[o][:, None], K[np.ix_(o, o)])[0]
    return total


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(("holes", "n"), [(False, 2), (True, 0), (True, 2)])
def test_weights_are_the_joint_density_over_the_proposal(kernel, beta, holes, n, rng):
    N, Q, D, M = 6, 2, 4, 5
    Z, C, F = rng.normal(size=(1, N, Q)), rng.normal(size=(1, M, Q)), table_of(rng, N, D, holes)
    updates, present = updates_of(Z, F, rng, kernel, beta), np.ones(N)
    present[n] = 0.0
    for part in updates.parts:
        if part.seen[n]:
            part.remove(n)
    wide = wide_component(Z, present)
    found = updates.weigh(n, C, Z, updates.parts, present, list(wide))[0][0]
    expected = np.empty(M)
    for m in range(M):
        moved = Z[0].copy()
        moved[n] = C[0, m]
        proposal = updates.proposal.log_density(n, C[:, m, None], Z, present, *wide)[0, 0]
        likelihood = log_likelihood(kernel, moved, F)
        expected[m] = beta * likelihood + normal_prior(n, C[0, m]) - proposal
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("holes", [False, True])
def test_a_row_left_out_is_predicted_as_if_it_were_removed(holes, rng):
    N, R, n = 7, 3, 2
    Z, C, F = rng.normal(size=(R, N, 2)), rng.normal(size=(R, 5, 2)), table_of(rng, N, 4, holes)
    updates = updates_of(Z, F, rng)
    theta = updates.tables[0].theta
    cross, prior = theta.cross(C, Z), theta.variance(C)
    for part in updates.parts:
        if not part.seen[n]:
            continue
        given = cross.copy()
        part.leave_out(n, given)
        found = part.squared_residual(n, given), *part.conditional(given, prior, np.zeros((R, 1)))
        part.remove(n)
        given[..., n] = 0.0
        wanted = part.squared_residual(n, given), *part.conditional(given, prior, np.zeros((R, 1)))
        for mine, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-10)


def test_the_proposal_draws_from_its_density(rng):
    N, Q = 5, 1
    Z, F = rng.normal(size=(1, N, Q)), rng.normal(size=(N, 3))
    proposal, present = Proposal(F), np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    C, *wide = proposal.draw(2, 40_000, Z, present, rng)
    grid = np.linspace(-12, 12, 4001)
    density = np.exp(proposal.log_density(2, grid[None, :, None], Z, present, *wide))[0]
    cumulative = np.cumsum(density) / density.sum()
    assert stats.kstest(C[0, :, 0], lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3


def test_far_proposals_have_a_finite_density_that_falls_like_its_wide_component(rng):
    """Where a density is below the smallest number, 40 spreads out, its logarithm is known all the same."""
    N = 6
    Z, F = rng.normal(size=(2, N, 2)), rng.normal(size=(N, 3))
    proposal, present = Proposal(F), (np.arange(N) != 4).astype(float)
    centre, spread = wide_component(Z, present)
    away = np.linspace(0.0, 80.0, 161)[None, :, None] * np.array([0.6, -0.8])
    C = centre + away * spread
    found = proposal.log_density(4, C, Z, present, centre, spread)
    near = special.logsumexp(
        -0.5 * ((C[:, :, None] - Z[:, None]) ** 2).sum(axis=-1) / row_loops.WIDTH**2,
        b=proposal.beside[4] * present / (proposal.beside[4] @ present) / row_loops.WIDTH**2,
        axis=-1,
    )
    wide = -0.5 * (away**2).sum(axis=-1) - np.log(spread).sum(axis=-1)
    expected = np.logaddexp(np.log(1.0 - row_loops.WIDE) + near, np.log(row_loops.WIDE) + wide)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("holes", [False, True])
def test_inverses_and_weights_follow_the_updates(holes, rng):
    N, R = 7, 3
    Z, F = rng.normal(size=(R, N, 2)), table_of(rng, N, 4, holes)
    updates = updates_of(Z, F, rng)
    share = updates.sweep(np.arange(N), 30)
    accepted = [updates.block_update(np.array([0, 3, 5]), 30) for _ in range(20)]
    assert share.max() > 0.0
    assert np.any(accepted)
    columns = [~np.isnan(F[:, d]) for d in range(F.shape[1])]
    for part in updates.parts:
        seen = np.ix_(part.seen, part.seen)
        table = F[:, [d for d, rows in enumerate(columns) if np.array_equal(rows, part.seen)]]
        for r in range(R):
            inverse, weights = np.zeros((N, N)), np.zeros((N, table.shape[1]))
            inverse[seen] = np.linalg.inv(K_of("rbf", updates.Z[r])[seen])
            weights[part.seen] = inverse[seen] @ table[part.seen]
            np.testing.assert_allclose(part.inverse[r], inverse, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(part.weights[r], weights, rtol=1e-7, atol=1e-8)


def split_table(updates, F):
    """Make a pattern of each column."""
    (whole,) = updates.parts
    updates.parts[:] = [
        Part(
            whole.seen,
            F[:, d : d + 1],
            whole.inverse.copy(),
            whole.weights[:, :, d : d + 1].copy(),
        )
        for d in range(F.shape[1])
    ]
    updates.spans[:] = [slice(0, F.shape[1])]


def test_patterns_of_equal_columns_give_what_one_pattern_does(rng):
    """The columns of a complete table, each by itself: the pattern is a matter of arithmetic alone."""
    Z, F = rng.normal(size=(3, 6, 2)), rng.normal(size=(6, 4))
    ends = []
    for split in (False, True):
        updates = updates_of(Z.copy(), F, np.random.default_rng(2))
        if split:
            split_table(updates, F)
        updates.sweep(np.arange(6), 20)
        updates.block_update(np.array([1, 4]), 20)
        ends.append(updates.Z)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)


def by_sweep(updates, rng):
    updates.sweep(rng.permutation(updates.Z.shape[1]), 8)


def by_block(updates, rng):
    updates.block_update(updates.proposal.block(2, rng), 8)


@pytest.mark.parametrize("turn", [by_sweep, by_block])
@pytest.mark.parametrize(("beta", "holes"), [(1.0, False), (0.4, False), (1.0, True)])
def test_updates_leave_the_posterior_invariant(turn, beta, holes, rng):
    """Draws of the posterior, by importance resampling of the prior, stay draws of it."""
    N, Q, R = 4, 1, 4000
    F = rng.normal(size=(N, 3 if holes else 2))
    if holes:
        F[1, 0] = F[2, 1] = F[3, 1] = np.nan
    prior = rng.normal(size=(200_000, N, Q))
    r2 = (prior - prior.transpose(0, 2, 1)) ** 2
    K = AMPLITUDE**2 * np.exp(-0.5 * r2) + BIAS**2 + SIGMA**2 * np.eye(N)
    log_weights = np.zeros(len(K))
    for f in F.T:
        o = np.flatnonzero(~np.isnan(f))
        part = K[:, o[:, None], o]
        quad = np.einsum("n,rnm,m->r", f[o], np.linalg.inv(part), f[o])
        log_weights -= 0.5 * beta * (quad + np.linalg.slogdet(part)[1])
    weights = np.exp(log_weights - log_weights.max())
    Z = prior[rng.choice(len(prior), size=R, p=weights / weights.sum())]
    updates = updates_of(Z.copy(), F, rng, beta=beta)
    for _ in range(3):
        turn(updates, rng)
    moved = (updates.Z != Z).any(axis=(1, 2)).mean()
    assert moved > 0.3  # the test says something
    for invariant in (
        lambda z: z[:, 0, 0],
        lambda z: np.abs(z[:, 0, 0] - z[:, 1, 0]),
        lambda z: np.abs(z[:, 2, 0] - z[:, 3, 0]),
        lambda z: z.std(axis=(1, 2)),
    ):
        p = stats.ks_2samp(invariant(Z), invariant(updates.Z)).pvalue
        assert p > 1e-3


def test_geweke(rng):
    """Drawing Y given Z and moving Z given Y in turn leaves Z at its prior."""
    N, R = 5, 1000
    Z = rng.normal(size=(R, N, 1))
    for _ in range(5):
        moved = np.empty_like(Z)
        for r in range(R):
            F = np.linalg.cholesky(K_of("rbf", Z[r])) @ rng.normal(size=(N, 2))
            updates = updates_of(Z[r : r + 1].copy(), F, rng)
            updates.sweep(rng.permutation(N), 4)
            updates.block_update(updates.proposal.block(2, rng), 4)
            moved[r] = updates.Z[0]
        Z = moved
    assert stats.kstest(Z.ravel(), "norm").pvalue > 1e-3
    gaps = np.abs(Z[:, 0, 0] - Z[:, 1, 0])
    assert stats.kstest(gaps, lambda x: stats.chi(1).cdf(x / np.sqrt(2.0))).pvalue > 1e-3


def test_weights_that_are_all_zero_leave_the_row():
    log_weights = np.array([[-np.inf, -np.inf], [-np.inf, 0.0]])
    assert choose(log_weights, np.random.default_rng(0)).tolist() == [0, 1]
