"""The psi statistics: loops, Monte Carlo, quadrature, and their gradient."""

import numpy as np
import pytest
from dense import complex_gradient, statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from oracles import STATIONARY, SUMS, central_differences, kernel_matrix

from pm_gplvm.core import psi
from pm_gplvm.core.psi import ONE_NODE, cubature, psi_statistics, quasi_monte_carlo, workspace_shape
from pm_gplvm.core.psi_loops import ROWS

KERNELS = (*STATIONARY, "linear")


def places(rng, N=20, M=6, Q=3):
    return rng.standard_normal((N, Q)), rng.uniform(0.1, 0.9, (N, Q)), rng.standard_normal((M, Q))


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_closed_forms_are_the_papers(kernel, rng):
    U, S, W = places(rng)
    ours, theirs = psi_statistics(kernel, U, S, W), statistics(kernel, U, S, W)
    for value, name in zip(theirs, ("psi0", "psi1", "psi2"), strict=True):
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_closed_forms_are_what_monte_carlo_finds(kernel, rng):
    U, S, W = places(rng, N=2, M=3, Q=2)
    ours = psi_statistics(kernel, U, S, W)
    n_draws, psi2, variance = 200_000, np.zeros((3, 3)), np.zeros((3, 3))
    for n in range(2):
        X = U[n] + S[n] * rng.standard_normal((n_draws, 2))
        K = X @ W.T if kernel == "linear" else np.exp(-0.5 * ((X[:, None] - W) ** 2).sum(axis=2))
        error = np.abs(K.mean(axis=0) - ours.psi1[n]) / (K.std(axis=0) / np.sqrt(n_draws))
        assert error.max() < 4.5
        products = K[:, :, None] * K[:, None, :]
        psi2 += products.mean(axis=0)
        variance += products.var(axis=0) / n_draws
    assert (np.abs(psi2 - ours.psi2) / np.sqrt(variance)).max() < 4.5


def test_rbf_is_what_quadrature_finds(rng):
    U, S, W = places(rng, Q=2)
    nodes, weights = hermegauss(40)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    rule = grid, np.outer(weights, weights).ravel() / weights.sum() ** 2
    closed, summed = psi_statistics("rbf", U, S, W), psi_statistics("rbf", U, S, W, quadrature=rule)
    np.testing.assert_allclose(closed.psi1, summed.psi1, rtol=1e-9)
    np.testing.assert_allclose(closed.psi2, summed.psi2, rtol=1e-9)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_gradient_is_the_derivative_of_the_papers_formulas(kernel, rng):
    U, S, W = places(rng, N=4, M=3, Q=2)
    d0, d1, d2 = rng.standard_normal(), rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    d2 = d2 + d2.T

    def along(U, S, W):
        psi0, psi1, psi2 = statistics(kernel, U, S, W)
        return d0 * psi0 + (d1 * psi1).sum() + (d2 * psi2).sum()

    ours = psi_statistics(kernel, U, S, W).pullback(d0, d1, d2)
    for mine, exact in zip(ours, complex_gradient(along, [U, S, W]), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernel", STATIONARY[1:])
@pytest.mark.parametrize("Q", [2, 4])
def test_gradient_by_nodes(kernel, Q, rng):
    arguments = list(places(rng, N=3, M=3, Q=Q))
    d1, d2 = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    d2 = d2 + d2.T

    def along(*arguments):
        found = psi_statistics(kernel, *arguments)
        return (d1 * found.psi1).sum() + (d2 * found.psi2).sum()

    ours = psi_statistics(kernel, *arguments).pullback(1.0, d1, d2)
    for i, mine in enumerate(ours):
        for index in np.ndindex(mine.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in arguments]
                moved[i][index] += step
                sides.append(along(*moved))
            assert mine[index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=2e-6, abs=1e-7)


def test_blocks_and_kept_rows_do_not_matter(rng, monkeypatch):
    """Rows past a block, more pairs than a tile holds, and terms that are kept, done anew or both."""
    N, M = 2 * ROWS + 6, 70
    arguments = places(rng, N, M)
    d1, d2 = rng.standard_normal((N, M)), rng.standard_normal((M, M))
    d2 = d2 + d2.T
    pairs = M * (M + 1) // 2
    alone = [
        psi_statistics("rbf", U[None], S[None], arguments[2])
        for U, S in zip(*arguments[:2], strict=True)
    ]
    back = [one.pullback(1.0, row[None], d2) for one, row in zip(alone, d1, strict=True)]
    expected = (
        np.concatenate([one.psi1 for one in alone]),
        sum(one.psi2 for one in alone),
        *(np.concatenate([each[i] for each in back]) for i in (0, 1)),
        sum(each[2] for each in back),
    )
    for blocks in (0, 1, 3):
        monkeypatch.setattr(psi, "_KEPT_SIZE", blocks * ROWS * pairs)
        assert workspace_shape(N, M) == (blocks * pairs, ROWS)
        parts = psi_statistics("rbf", *arguments)
        for a, b in zip(
            (parts.psi1, parts.psi2, *parts.pullback(1.0, d1, d2)), expected, strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_no_array_of_rows_and_pairs_is_formed(rng):
    import tracemalloc

    U, S, W = places(rng, N=40_000, M=20)
    tracemalloc.start()
    found = psi_statistics("rbf", U, S, W)
    found.pullback(1.0, found.psi1, found.psi2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.8 * 8 * 40_000 * 20 * 20


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_point_has_the_kernel_itself(kernel, rng):
    U, _, W = places(rng)
    found = psi_statistics(kernel, U, np.zeros_like(U), W, quadrature=ONE_NODE)
    K = kernel_matrix(kernel, np.concatenate([U, W]))[:20, 20:]
    np.testing.assert_allclose(found.psi1, K, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.psi2, K.T @ K, rtol=1e-10, atol=1e-12)


RATIO = np.array([0.7, 1.2, 0.4])


@pytest.mark.parametrize("kernel", SUMS)
def test_a_point_has_the_sum_of_both_parts(kernel, rng):
    U, _, W = places(rng)
    found = psi_statistics(
        kernel, U, np.zeros_like(U), W, quadrature=ONE_NODE, ratio=np.full(3, 0.6)
    )
    K = kernel_matrix(kernel, np.concatenate([U, W]), weight=0.6)
    assert found.psi0 == pytest.approx(np.trace(K[:20, :20]), rel=1e-12)
    np.testing.assert_allclose(found.psi1, K[:20, 20:], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.psi2, K[20:, :20] @ K[:20, 20:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", ["rbf + linear", "matern52 + linear"])
def test_gradient_of_a_sum(kernel, rng):
    """By quadrature, in ρ too; each of the statistics at once."""
    names = ("U", "S", "W", "ratio")
    point = dict(zip(names, (*places(rng, N=4, M=3, Q=3), RATIO), strict=True))
    d0, d1, d2 = rng.standard_normal(), rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    d2 = d2 + d2.T

    def statistics_at(at):
        return psi_statistics(kernel, at["U"], at["S"], at["W"], ratio=at["ratio"])

    def along(at):
        found = statistics_at(at)
        return d0 * found.psi0 + (d1 * found.psi1).sum() + (d2 * found.psi2).sum()

    ours = dict(zip(names, statistics_at(point).pullback(d0, d1, d2), strict=True))
    for name, exact in central_differences(along, point).items():
        np.testing.assert_allclose(ours[name], exact, rtol=1e-6, atol=1e-7)


def test_the_linear_part_of_a_sum_is_exact_by_nodes(rng):
    """Under a kernel whose other part is next to nothing."""
    U, S, W = places(rng)
    ratio = 1e4 * RATIO
    found = psi_statistics("rbf + linear", U, S, W, ratio=ratio)
    linear = psi_statistics("linear", ratio * U, ratio * S, ratio * W)
    for name in ("psi0", "psi1", "psi2"):
        expected = getattr(linear, name)
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
        )


@pytest.mark.parametrize("kernel", [*KERNELS, "rbf + linear"])
def test_second_moments_of_the_rows_add_up(kernel, rng, monkeypatch):
    monkeypatch.setattr(psi, "_BLOCK_SIZE", 1)  # then 16 rows a block
    U, S, W = places(rng, N=ROWS + 4)
    ratio = RATIO if "+" in kernel else None
    found = psi_statistics(kernel, U, S, W, ratio=ratio)
    blocks = list(found.second_moments())
    sizes = [ROWS, 4] if kernel == "rbf" else [16, 16, 16, 16, 4]
    assert [own.shape[0] for _, own in blocks] == sizes
    each = np.concatenate([own for _, own in blocks])
    np.testing.assert_allclose(each.sum(axis=0), found.psi2, rtol=1e-11)
    for n in (0, 17):
        alone = psi_statistics(kernel, U[[n]], S[[n]], W, ratio=ratio)
        np.testing.assert_allclose(each[n], alone.psi2, rtol=1e-11)


def test_rbf_tends_to_the_kernel_as_q_narrows(rng):
    U, _, W = places(rng)
    narrow = psi_statistics("rbf", U, np.full_like(U, 1e-7), W)
    point = psi_statistics("rbf", U, np.zeros_like(U), W, quadrature=ONE_NODE)
    np.testing.assert_allclose(narrow.psi1, point.psi1, rtol=1e-11)
    np.testing.assert_allclose(narrow.psi2, point.psi2, rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(-1e3, 1e3), st.sampled_from(["rbf", "matern52"]))
def test_a_common_shift_changes_nothing(seed, shift, kernel):
    U, S, W = places(np.random.default_rng(seed), N=5, M=3, Q=2)
    here = psi_statistics(kernel, U, S, W)
    there = psi_statistics(kernel, U + shift, S, W + shift)
    np.testing.assert_allclose(here.psi1, there.psi1, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(here.psi2, there.psi2, rtol=1e-8, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(KERNELS))
def test_psi2_exceeds_the_square_of_psi1(seed, kernel):
    """⟨k kᵀ⟩ - ⟨k⟩⟨k⟩ᵀ is a covariance."""
    U, S, W = places(np.random.default_rng(seed), N=7, M=4, Q=2)
    found = psi_statistics(kernel, U, S, W)
    spread = np.linalg.eigvalsh(found.psi2 - found.psi1.T @ found.psi1)
    assert spread.min() > -1e-10 * np.abs(found.psi2).max()


@pytest.mark.parametrize("Q", [1, 2, 3, 4, 10])
def test_a_rule_has_the_moments_of_a_standard_normal(Q):
    nodes, weights = cubature(Q)
    assert weights.min() > 0.0
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights @ nodes, 0.0, atol=1e-13)
    np.testing.assert_allclose(nodes.T @ (weights[:, None] * nodes), np.eye(Q), atol=1e-12)
    fine, same = quasi_monte_carlo(Q)
    np.testing.assert_allclose(same @ fine, 0.0, atol=1e-12)
    np.testing.assert_allclose(fine.T @ (same[:, None] * fine), np.eye(Q), atol=1e-12)


# As the docstring of cubature states them.
STATED = {
    (1, 0.1): 0.0005,
    (2, 0.1): 0.0005,
    (1, 0.5): 0.001,
    (1, 1.0): 0.001,
    (1, 2.0): 0.001,
    (2, 0.5): 0.006,
    (2, 1.0): 0.006,
    (2, 2.0): 0.006,
}


def dense_rule(Q):
    """The trapezoid rule with steps of a fortieth of a standard deviation."""
    line = np.linspace(-8.0, 8.0, 641)
    weights = np.exp(-0.5 * line**2)
    grid = np.stack(np.meshgrid(*[line] * Q, indexing="ij"), axis=-1).reshape(-1, Q)
    outer = weights if Q == 1 else np.outer(weights, weights).ravel()
    # What next to no weight lies on is left out.
    kept = outer > 1e-12
    return grid[kept], outer[kept] / outer[kept].sum()


@pytest.mark.parametrize("kernel", STATIONARY[1:])
@pytest.mark.parametrize("Q", [1, 2])
def test_the_error_of_a_rule_is_as_stated(kernel, Q, rng):
    """Also where q is two lengthscales wide."""
    nodes, weights = dense_rule(Q)
    W = np.concatenate([np.zeros((1, Q)), 2.0 * rng.standard_normal((30, Q))])
    for spread in (s for q, s in STATED if q == Q):
        U, S = np.zeros((1, Q)), np.full((1, Q), spread)
        ours = psi_statistics(kernel, U, S, W)
        K = psi_statistics(kernel, spread * nodes, 0.0 * nodes, W, quadrature=ONE_NODE).psi1
        psi1, psi2 = weights @ K, (weights[:, None] * K).T @ K
        error = max(np.abs(ours.psi1[0] - psi1).max(), np.abs(ours.psi2 - psi2).max())
        assert error < STATED[Q, spread]


@pytest.mark.parametrize("kernel", STATIONARY[1:])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("Q", [3, 5, 10])
def test_the_error_of_a_rule_in_many_dimensions_is_as_stated(kernel, spread, Q, rng):
    U, S, W = np.zeros((1, Q)), np.full((1, Q), spread), rng.standard_normal((30, Q))
    ours = psi_statistics(kernel, U, S, W)
    sampled = psi_statistics(kernel, U, S, W, quadrature=quasi_monte_carlo(Q, 8192, seed=5))
    for mine, theirs in ((ours.psi1, sampled.psi1), (ours.psi2, sampled.psi2)):
        assert np.abs(mine - theirs).max() < 0.01
