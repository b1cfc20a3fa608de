"""Row moves with missing entries: their weights by the joint density, and that they change no posterior."""

import numpy as np
import pytest
from oracles import ALL_KERNELS, column_logps
from scipy import stats
from test_rowjumps import AMPLITUDE, BIAS, SIGMA, K_of, normal_prior, theta_of

from pm_gplvm.pattern_moves import PatternMoves
from pm_gplvm.rowjumps import Proposal, RowMoves, _wide


def with_holes(rng, N, D):
    F = rng.normal(size=(N, D))
    F[rng.random((N, D)) < 0.3] = np.nan
    F[:, 0] = rng.normal(size=N)  # no row without an entry
    F[0, 1] = np.nan
    return F


def moves(Z, F, rng, kernel="rbf", beta=1.0):
    R = len(Z)
    return PatternMoves(Z, theta_of(kernel, R), F, np.full(R, beta), normal_prior, Proposal(F), rng)


def log_likelihood(kernel, Z, F):
    K, total = K_of(kernel, Z), 0.0
    for f in F.T:
        o = ~np.isnan(f)
        total += column_logps(f[o][:, None], K[np.ix_(o, o)])[0]
    return total


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("n", [0, 2])
def test_weights_are_the_joint_density_over_the_proposal(kernel, n, rng):
    N, Q, M, beta = 6, 2, 5, 0.6
    Z, F, C = rng.normal(size=(1, N, Q)), with_holes(rng, N, 4), rng.normal(size=(1, M, Q))
    mover, present = moves(Z, F, rng, kernel, beta), np.ones(N)
    present[n] = 0.0
    wide = _wide(Z, present)
    mover._remove(mover.known, n)
    found, _ = mover._weighed(n, C, Z, mover.known, present, list(wide))
    expected = np.empty(M)
    for m in range(M):
        moved = Z[0].copy()
        moved[n] = C[0, m]
        proposal = mover.proposal.log_density(n, C[:, m, None], Z, present, *wide)[0, 0]
        likelihood = log_likelihood(kernel, moved, F)
        expected[m] = beta * likelihood + normal_prior(n, C[0, m]) - proposal
    np.testing.assert_allclose(np.diff(found[0]), np.diff(expected), rtol=1e-8, atol=1e-8)


def test_inverses_follow_the_moves(rng):
    N, R = 7, 3
    Z, F = rng.normal(size=(R, N, 2)), with_holes(rng, N, 4)
    mover = moves(Z, F, rng)
    share = mover.sweep(np.arange(N), 30)
    accepted = [mover.regrow(np.array([0, 3, 5]), 30) for _ in range(20)]
    assert share.max() > 0.0
    assert np.any(accepted)
    fresh = moves(mover.Z.copy(), F, rng)
    for mine, new in zip(mover.known, fresh.known, strict=True):
        for own, other in zip(mine, new, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-7, atol=1e-8)


def test_without_holes_the_moves_are_the_same():
    start = np.random.default_rng(1)
    Z, F = start.normal(size=(3, 6, 2)), start.normal(size=(6, 4))
    ends = []
    for kind in (RowMoves, PatternMoves):
        rng = np.random.default_rng(2)
        theta = theta_of("rbf", 3)
        mover = kind(Z.copy(), theta, F, np.ones(3), normal_prior, Proposal(F), rng)
        mover.sweep(np.arange(6), 20)
        mover.regrow(np.array([1, 4]), 20)
        ends.append(mover.Z)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-12)


@pytest.mark.parametrize("turn", ["sweep", "regrow"])
def test_moves_leave_the_posterior_invariant(turn, rng):
    """Draws of the posterior, by importance resampling of the prior, stay draws of it."""
    N, R = 4, 4000
    F = rng.normal(size=(N, 3))
    F[1, 0] = F[2, 1] = F[3, 1] = np.nan
    prior = rng.normal(size=(200_000, N, 1))
    r2 = (prior - prior.transpose(0, 2, 1)) ** 2
    K = AMPLITUDE**2 * np.exp(-0.5 * r2) + BIAS**2 + SIGMA**2 * np.eye(N)
    log_weights = np.zeros(len(K))
    for f in F.T:
        o = np.flatnonzero(~np.isnan(f))
        part = K[:, o[:, None], o]
        quad = np.einsum("n,rnm,m->r", f[o], np.linalg.inv(part), f[o])
        log_weights -= 0.5 * (quad + np.linalg.slogdet(part)[1])
    weights = np.exp(log_weights - log_weights.max())
    Z = prior[rng.choice(len(prior), size=R, p=weights / weights.sum())]
    mover = moves(Z.copy(), F, rng)
    for _ in range(3):
        if turn == "sweep":
            mover.sweep(rng.permutation(N), 8)
        else:
            mover.regrow(mover.proposal.group(2, rng), 8)
    assert (mover.Z != Z).any(axis=(1, 2)).mean() > 0.3  # the test says something
    for invariant in (
        lambda z: z[:, 0, 0],
        lambda z: np.abs(z[:, 0, 0] - z[:, 1, 0]),
        lambda z: np.abs(z[:, 2, 0] - z[:, 3, 0]),
        lambda z: z.std(axis=(1, 2)),
    ):
        assert stats.ks_2samp(invariant(Z), invariant(mover.Z)).pvalue > 1e-3
