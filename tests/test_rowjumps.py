"""Row moves: their weights by a second route, and that they leave the posterior as it is."""

import numpy as np
import pytest
from oracles import ALL_KERNELS, SUMS, column_logps, kernel_matrix
from scipy import stats

from pm_gplvm.rowjumps import Proposal, RowMoves, Theta, _wide, take_out

AMPLITUDE, SIGMA, BIAS, WEIGHT = 1.3, 0.4, 0.6, 0.8


def theta_of(kernel, R):
    linear = np.full((R, 1, 1), WEIGHT) if kernel in SUMS else None
    return Theta(kernel, np.full(R, AMPLITUDE), np.full(R, SIGMA), np.full(R, BIAS), linear)


def normal_prior(n, C):
    return -0.5 * (C**2).sum(axis=-1)


def moves(Z, F, rng, kernel="rbf", beta=1.0):
    R = len(Z)
    return RowMoves(Z, theta_of(kernel, R), F, np.full(R, beta), normal_prior, Proposal(F), rng)


def K_of(kernel, Z):
    return kernel_matrix(kernel, Z, amplitude=AMPLITUDE, sigma=SIGMA, bias=BIAS, weight=WEIGHT)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_weights_are_the_joint_density_over_the_proposal(kernel, beta, rng):
    N, Q, D, M = 6, 2, 3, 5
    Z, F, C = rng.normal(size=(1, N, Q)), rng.normal(size=(N, D)), rng.normal(size=(1, M, Q))
    mover = moves(Z, F, rng, kernel, beta)
    n, present = 2, np.ones(N)
    present[n] = 0.0
    A, W = mover.inverse, mover.weights
    take_out(A, W, n)
    wide = _wide(Z, present)
    found = mover._weigh(n, C, Z, A, W, present, list(wide))[0][0]
    expected = np.empty(M)
    for m in range(M):
        moved = Z[0].copy()
        moved[n] = C[0, m]
        likelihood = column_logps(F, K_of(kernel, moved)).sum()
        proposal = mover.proposal.log_density(n, C[:, m, None], Z, present, *wide)[0, 0]
        expected[m] = beta * likelihood + normal_prior(n, C[0, m]) - proposal
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-8, atol=1e-8)


def test_the_proposal_draws_from_its_density(rng):
    N, Q = 5, 1
    Z, F = rng.normal(size=(1, N, Q)), rng.normal(size=(N, 3))
    proposal, present = Proposal(F), np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    C, *wide = proposal.draw(2, 40_000, Z, present, rng)
    grid = np.linspace(-12, 12, 4001)
    density = np.exp(proposal.log_density(2, grid[None, :, None], Z, present, *wide))[0]
    cumulative = np.cumsum(density) / density.sum()
    assert stats.kstest(C[0, :, 0], lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3


def test_inverse_and_weights_follow_the_moves(rng):
    N, R = 7, 3
    Z, F = rng.normal(size=(R, N, 2)), rng.normal(size=(N, 4))
    mover = moves(Z, F, rng)
    share = mover.sweep(np.arange(N), 30)
    accepted = [mover.regrow(np.array([0, 3, 5]), 30) for _ in range(20)]
    assert share.max() > 0.0
    assert np.any(accepted)
    for r in range(R):
        inverse = np.linalg.inv(K_of("rbf", mover.Z[r]))
        np.testing.assert_allclose(mover.inverse[r], inverse, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(mover.weights[r], inverse @ F, rtol=1e-7, atol=1e-8)


def by_sweep(mover, rng):
    mover.sweep(rng.permutation(mover.Z.shape[1]), 8)


def by_group(mover, rng):
    mover.regrow(mover.proposal.group(2, rng), 8)


@pytest.mark.parametrize("turn", [by_sweep, by_group])
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_moves_leave_the_posterior_invariant(turn, beta, rng):
    """Draws of the posterior, by importance resampling of the prior, stay draws of it."""
    N, Q, R = 4, 1, 4000
    F = rng.normal(size=(N, 2))
    prior = rng.normal(size=(200_000, N, Q))
    r2 = (prior - prior.transpose(0, 2, 1)) ** 2
    K = AMPLITUDE**2 * np.exp(-0.5 * r2) + BIAS**2 + SIGMA**2 * np.eye(N)
    quad = np.einsum("nd,rnm,md->r", F, np.linalg.inv(K), F)
    log_weights = -0.5 * beta * (quad + 2 * np.linalg.slogdet(K)[1])
    weights = np.exp(log_weights - log_weights.max())
    Z = prior[rng.choice(len(prior), size=R, p=weights / weights.sum())]
    mover = moves(Z.copy(), F, rng, beta=beta)
    for _ in range(3):
        turn(mover, rng)
    moved = (mover.Z != Z).any(axis=(1, 2)).mean()
    assert moved > 0.3  # the test says something
    for invariant in (
        lambda z: z[:, 0, 0],
        lambda z: np.abs(z[:, 0, 0] - z[:, 1, 0]),
        lambda z: np.abs(z[:, 2, 0] - z[:, 3, 0]),
        lambda z: z.std(axis=(1, 2)),
    ):
        p = stats.ks_2samp(invariant(Z), invariant(mover.Z)).pvalue
        assert p > 1e-3


def test_geweke(rng):
    """Drawing Y given Z and moving Z given Y in turn leaves Z at its prior."""
    N, R = 5, 1000
    Z = rng.normal(size=(R, N, 1))
    for _ in range(5):
        moved = np.empty_like(Z)
        for r in range(R):
            F = np.linalg.cholesky(K_of("rbf", Z[r])) @ rng.normal(size=(N, 2))
            mover = moves(Z[r : r + 1].copy(), F, rng)
            mover.sweep(rng.permutation(N), 4)
            mover.regrow(mover.proposal.group(2, rng), 4)
            moved[r] = mover.Z[0]
        Z = moved
    assert stats.kstest(Z.ravel(), "norm").pvalue > 1e-3
    gaps = np.abs(Z[:, 0, 0] - Z[:, 1, 0])
    assert stats.kstest(gaps, lambda x: stats.chi(1).cdf(x / np.sqrt(2.0))).pvalue > 1e-3
