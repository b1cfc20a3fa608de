"""Columns grouped by their observed rows, and the likelihood of tables with holes against SciPy."""

import warnings

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from oracles import column_logps, likelihood_gradient
from pytensor.gradient import verify_grad

from pm_gplvm.core.gaussian import column_patterns, gram_factor, warn_of_cost
from pm_gplvm.model.ops import incomplete_columns_logp, incomplete_total_logp, total_logp

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6))


@given(seen=masks)
def test_every_entry_is_in_one_block(seen):
    F = np.where(seen, np.arange(seen.size, dtype=float).reshape(seen.shape), np.nan)
    count = np.zeros(seen.shape, dtype=int)
    for rows, columns, block in column_patterns(seen).blocks(F):
        np.testing.assert_array_equal(block, F[np.ix_(rows, columns)])
        assert not np.isnan(block).any()
        count[np.ix_(rows, columns)] += 1
    np.testing.assert_array_equal(count, seen)


@given(seen=masks, seed=st.integers(0, 100))
def test_there_are_as_many_as_columns_that_differ(seen, seed):
    patterns = column_patterns(seen)
    assert len(patterns) == len({column.tobytes() for column in seen.T})
    np.testing.assert_array_equal(patterns.seen[patterns.group], seen.T)
    order = np.random.default_rng(seed).permutation(seen.shape[1])
    assert len(column_patterns(seen[:, order])) == len(patterns)


def test_a_complete_table_is_one_block_and_not_copied(rng):
    F = rng.normal(size=(4, 3))
    ((rows, columns, block),) = column_patterns(np.ones((4, 3), dtype=bool)).blocks(F)
    assert block is F
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 2, 3], [0, 1, 2])


def test_many_patterns_are_told_with_what_they_cost():
    seen = ~np.eye(12, dtype=bool)  # 12 patterns of 11 rows each
    with pytest.warns(RuntimeWarning, match=r"12 patterns .* 12 columns.* about 9 times"):
        warn_of_cost(column_patterns(seen))


def test_few_patterns_are_not_worth_a_word():
    seen = np.ones((12, 500), dtype=bool)
    seen[0, ::2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cost(column_patterns(seen))


# Tables with holes

N, D = 9, 6
SCALE = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])


def holes(rng):
    """Two columns with the same holes, one complete, the others with holes of their own."""
    F = rng.normal(size=(N, D))
    missing = rng.random((N, D)) < 0.3
    missing[:, 1] = missing[:, 0]
    missing[:, 4] = False
    return np.where(missing, np.nan, F)


def positive_definite(rng, n=N):
    B = rng.normal(size=(n, n))
    return B @ B.T / n + np.eye(n)


def by_scipy(F, K, scale):
    seen = ~np.isnan(F)
    return np.array(
        [
            column_logps((s * f[o])[:, None], K[np.ix_(o, o)], scale=s)[0]
            for f, o, s in zip(F.T, seen.T, scale, strict=True)
        ]
    )


def slope_by_hand(F, K):
    """Lawrence's formula one column at a time, put where its rows are."""
    slope = np.zeros_like(K)
    for f, o in zip(F.T, ~np.isnan(F.T), strict=True):
        slope[np.ix_(o, o)] += likelihood_gradient(f[o][:, None], K[np.ix_(o, o)])
    return slope


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    return holes(rng), positive_definite(rng)


@pytest.fixture(scope="module")
def graphs(case):
    F, _ = case
    K = pt.dmatrix("K")
    total = incomplete_total_logp(F, K, scale=SCALE)
    columns = incomplete_columns_logp(np.nan_to_num(F), K, ~np.isnan(F), SCALE)
    return K, total, columns


@pytest.fixture(scope="module")
def evaluated(graphs, mode):
    K, total, columns = graphs
    outputs = [total, columns, pt.grad(total, K), pt.grad(columns.sum(), K)]
    return pytensor.function([K], outputs, mode=mode)


def test_columns_and_their_sum_equal_scipy_on_the_observed_parts(case, evaluated):
    F, K = case
    total, columns, *_ = evaluated(K)
    expected = by_scipy(F, K, SCALE)
    np.testing.assert_allclose(columns, expected, rtol=1e-12)
    assert total == pytest.approx(expected.sum(), rel=1e-12)


def test_the_gradient_is_the_formula_of_each_pattern(case, evaluated):
    F, K = case
    _, _, slope, of_columns = evaluated(K)
    np.testing.assert_allclose(slope, slope_by_hand(F, K), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, (of_columns + of_columns.T) / 2, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(slope, slope.T)


def test_the_gradient_equals_differences(case, mode, rng):
    F, _ = case

    def likelihood(B):
        return incomplete_total_logp(F, B @ B.T + pt.eye(N), scale=SCALE)

    verify_grad(likelihood, [rng.normal(size=(N, N))], rng=rng, mode=mode)


def test_the_second_derivative_equals_differences(case, mode, rng):
    F, _ = case

    def squares(B):
        value = incomplete_total_logp(F, B @ B.T + pt.eye(N), scale=SCALE)
        return (pt.grad(value, B) ** 2).sum()

    verify_grad(squares, [rng.normal(size=(N, N))], rng=rng, mode=mode)


def test_the_gradient_in_the_data_equals_differences(case, mode, rng):
    F, K = case

    def of_data(values):
        return incomplete_columns_logp(values, K, ~np.isnan(F), SCALE)

    verify_grad(of_data, [np.nan_to_num(F)], rng=rng, mode=mode)


def test_the_twin_says_the_same(case, graphs):
    """What the JAX backend sees in place of the Op."""
    pytest.importorskip("jax")
    F, K0 = case
    K, total, _ = graphs
    twin = pytensor.function([K], [total, pt.grad(total, K)], mode="JAX")
    value, slope = twin(K0)
    assert value == pytest.approx(by_scipy(F, K0, SCALE).sum(), rel=1e-10)
    np.testing.assert_allclose(slope, slope_by_hand(F, K0), rtol=1e-8, atol=1e-10)


def test_without_holes_it_is_the_complete_likelihood(mode, rng):
    F, K0 = rng.normal(size=(N, 20)), positive_definite(rng)
    scale, K = np.linspace(0.5, 2.0, 20), pt.dmatrix("K")
    complete = total_logp(gram_factor(F), K, n_columns=20, log_scale=np.log(scale).sum())
    graphs = [complete, incomplete_total_logp(F, K, scale=scale)]
    outputs = [*graphs, *(pt.grad(graph, K) for graph in graphs)]
    value, other, slope, other_slope = pytensor.function([K], outputs, mode=mode)(K0)
    assert other == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(other_slope, slope, rtol=1e-10, atol=1e-12)


def test_a_K_that_is_not_positive_definite_gives_minus_infinity(case, evaluated):
    F, _ = case
    K = np.eye(N)
    K[0, 0] = -1.0
    total, columns, slope, _ = evaluated(K)
    assert total == -np.inf
    np.testing.assert_array_equal(np.isneginf(columns), ~np.isnan(F[0]))
    assert np.isnan(slope).all()


def test_only_the_lower_triangle_of_K_is_read(case, evaluated, rng):
    _, K = case
    spoilt = K + np.triu(rng.normal(size=(N, N)), 1)
    for whole, half in zip(evaluated(K)[:3], evaluated(spoilt)[:3], strict=True):
        np.testing.assert_array_equal(whole, half)
