"""The bound of a table with missing entries: a dense computation for each column, differences, the complete bound."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from dense import bound
from oracles import central_differences, column_logps
from test_inducing import KNOWN, THETA, dense_parts, places, variables

from pm_gplvm.core.gaussian import Patterns, column_patterns, single_columns
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.inducing_patterns import (
    PatternKernel,
    by_patterns,
    points_and_gradient,
    warn_of_inducing_cost,
)
from pm_gplvm.core.psi import ONE_NODE, cubature
from pm_gplvm.model.ops import PatternBound

KERNELS = ["rbf", "matern32", "linear", "rbf + linear"]
A, B, SIGMA = THETA.values()


def holes(rng, N=20, D=5):
    """A table with 0 where nothing is seen, what is seen, and two columns of one pattern."""
    seen = rng.random((N, D)) < 0.6
    seen[:, 1] = seen[:, 0]
    seen[0] = True
    return np.where(seen, rng.standard_normal((N, D)), 0.0), seen


def shortened(F, seen):
    patterns = column_patterns(seen)
    short, of_short = patterns.shortened(F)
    return short, of_short, tuple(np.bincount(patterns.group).tolist())


def value_and_gradient(kernel, where, F, seen, *, a=A, b=B, sigma=SIGMA, ratio=None, how="q"):
    short, patterns, widths = shortened(F, seen)
    scales = float(a), float(b)
    if how != "q":
        whole = InducingKernel(kernel, where, *scales, quadrature=ONE_NODE, ratio=ratio)
        own = how == "fitc"
        return points_and_gradient(whole, short, float(sigma), patterns, widths, own_noise=own)
    split = PatternKernel(kernel, where, *scales, patterns=patterns, ratio=ratio)
    return split.bounds_and_gradient(short, float(sigma), widths)


@pytest.mark.parametrize(("kernel", "M"), [("rbf", 6), ("linear", 3)])
def test_it_is_the_dense_bound_of_each_column_over_its_rows(kernel, M, rng):
    where, (F, seen) = places(rng, M=M), holes(rng)
    U, S, W = where
    expected = sum(
        bound(kernel, U[rows], S[rows], W, A, B, SIGMA, F[rows, d][:, None])
        for d, rows in enumerate(seen.T)
    )
    found, _ = value_and_gradient(kernel, where, F, seen)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_at_points_it_is_the_dense_likelihood_of_each_column(kernel, method, rng):
    X, W = rng.standard_normal((20, 2)), rng.standard_normal((2 if kernel == "linear" else 4, 2))
    F, seen = holes(rng)
    K, gram, cross = dense_parts(kernel, X, W)
    Q = cross @ np.linalg.solve(gram, cross.T)
    left, expected = np.diag(K - Q), 0.0
    for d, rows in enumerate(seen.T):
        noise = 0.25 + (left[rows] if method == "fitc" else np.zeros(rows.sum()))
        expected += column_logps(F[rows, d][:, None], Q[np.ix_(rows, rows)] + np.diag(noise)).sum()
        expected -= 0.0 if method == "fitc" else 0.5 * left[rows].sum() / 0.25
    found, _ = value_and_gradient(kernel, (X, 0 * X, W), F, seen, how=method, **KNOWN[kernel])
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("how", ["q", "vfe", "fitc"])
def test_the_gradient(kernel, how, rng):
    U, S, W = places(rng, N=12, M=2 if kernel == "linear" else 4, Q=2)
    S = S if how == "q" else 0.0 * S
    F, seen = holes(rng, N=12)
    at = {"U": U, "W": W, "a": np.array(A), "b": np.array(B), "sigma": np.array(SIGMA)}
    at |= {"S": S} if how == "q" else {}
    at |= KNOWN[kernel]

    def both(point):
        positions = point["U"], point.get("S", S), point["W"]
        scales = {name: point[name] for name in point if name not in ("U", "S", "W")}
        return value_and_gradient(kernel, positions, F, seen, how=how, **scales)

    slope = central_differences(lambda point: both(point)[0], at)
    gradient = dict(zip(("U", "S", "W", "a", "b", "sigma", "ratio"), both(at)[1], strict=False))
    for name, expected in slope.items():
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_complete_table_split_by_its_columns_has_the_complete_bound(kernel, rng):
    """The sum over columns of what a pattern of all rows gives, by the other way through the statistics."""
    where = places(rng, M=2 if kernel == "linear" else 4, Q=2)
    F, known = rng.standard_normal((20, 3)), KNOWN[kernel]
    patterns = single_columns(np.ones(F.shape, dtype=bool))
    split = PatternKernel(kernel, where, A, B, patterns=patterns, **known)
    found, gradient = split.bounds_and_gradient(F, SIGMA, (1, 1, 1))
    whole = InducingKernel(kernel, where, A, B, **known)
    expected, slope = whole.bound_and_gradient(F, SIGMA, 3)
    assert found == pytest.approx(expected, rel=1e-11)
    for mine, theirs in zip(gradient, slope, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_points_by_their_psi_statistics(kernel, rng):
    """The bound at points by two ways: through Ψ₂, and through the scaled vectors of rows."""
    U, S, W = places(rng, M=2 if kernel == "linear" else 4, Q=2)
    F, seen = holes(rng)
    short, patterns, widths = shortened(F, seen)
    known, where = KNOWN[kernel], (U, 0.0 * S, W)
    split = PatternKernel(kernel, where, A, B, patterns=patterns, quadrature=ONE_NODE, **known)
    found, gradient = split.bounds_and_gradient(short, SIGMA, widths)
    expected, slope = value_and_gradient(kernel, where, F, seen, how="vfe", **known)
    assert found == pytest.approx(expected, rel=1e-10)
    for i in (0, 2, 3, 4, 5):
        np.testing.assert_allclose(gradient[i], slope[i], rtol=1e-6, atol=1e-6)


def test_blocks_of_rows_are_the_whole(rng, monkeypatch):
    from pm_gplvm.core import psi_patterns

    where, (F, seen) = places(rng, N=60, M=5, Q=2), holes(rng, N=60)
    for kernel in ("rbf", "matern32"):
        expected, slope = value_and_gradient(kernel, where, F, seen)
        with monkeypatch.context() as patched:
            patched.setattr(psi_patterns, "_BLOCK_SIZE", 1)
            found, gradient = value_and_gradient(kernel, where, F, seen)
        assert found == pytest.approx(expected, rel=1e-12)
        for mine, theirs in zip(gradient, slope, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_posteriors_are_those_of_each_pattern_alone(rng):
    U, S, W = places(rng)
    F, seen = holes(rng)
    patterns = column_patterns(seen)
    theta = {"amplitude": A, "bias": B}
    found = by_patterns("rbf", (U, S, W), theta, patterns)
    for (rows, columns), (same, posterior) in zip(
        patterns, found.posteriors(F, SIGMA), strict=True
    ):
        np.testing.assert_array_equal(columns, same)
        alone = InducingKernel("rbf", (U[rows], S[rows], W), A, B)
        expected = alone.posterior(F[np.ix_(rows, columns)], SIGMA)
        np.testing.assert_allclose(posterior.weights, expected.weights, atol=1e-7)
        np.testing.assert_allclose(posterior.reduction, expected.reduction, atol=1e-7)
    complete = column_patterns(np.ones_like(seen))
    assert type(by_patterns("rbf", (U, S, W), theta, complete)) is InducingKernel


def test_where_a_matrix_is_not_positive_definite_it_is_minus_infinity(rng):
    F, seen = holes(rng)
    U, S, W = places(rng)
    for how in ("q", "vfe", "fitc"):
        where = (U, S if how == "q" else 0.0 * S, W)
        found, gradient = value_and_gradient("rbf", where, F, seen, a=0.0, b=0.0, how=how)
        assert found == -np.inf
        assert all(np.isnan(part).all() for part in gradient)


@pytest.mark.parametrize("kernel", ["rbf", "cauchy", "linear", "matern32 + linear"])
@pytest.mark.parametrize("how", ["q", "vfe", "fitc"])
def test_the_op_and_its_symbolic_form_agree(kernel, how, rng, mode):
    U, S, W = places(rng, N=8, M=3, Q=3)
    numbers = [U, S if how == "q" else 0.0 * S, W, *THETA.values()]
    F, seen = holes(rng, N=8, D=4)
    short, patterns, widths = shortened(F, seen)
    inputs, ratio, shared = variables(3), [], pytensor.shared(short)
    if "+" in kernel:
        ratio = [pt.dvector("ratio")]
        numbers.append(np.array([0.5, 0.8, 1.1]))
    op = PatternBound(kernel, patterns, widths, how != "q", fitc=how == "fitc")
    out = op(*inputs, shared, *ratio)[0]
    slopes = pt.grad(out, [*inputs, *ratio])
    ours = pytensor.function([*inputs, *ratio], [out, *slopes], mode=mode)(*numbers)
    written = op.symbolic(*inputs, shared, *ratio)[:-1]
    theirs = pytensor.function([*inputs, *ratio], written, mode=mode)(*numbers)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if how == "q" or i != 2:  # no slope in the spread of points is asked for
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)


def test_cubature_by_patterns(rng):
    """All nodes of a block of rows at once give what one node after the other does."""
    U, S, W = places(rng, N=15, M=4, Q=2)
    F, seen = holes(rng, N=15)
    rule = cubature(2)
    short, patterns, widths = shortened(F, seen)
    split = PatternKernel("rbf", (U, S, W), A, B, patterns=patterns, quadrature=rule)
    found, _ = split.bounds_and_gradient(short, SIGMA, widths)
    expected = sum(
        InducingKernel("rbf", (U[rows], S[rows], W), A, B, quadrature=rule).bound_and_gradient(
            F[rows, d][:, None], SIGMA, 1
        )[0]
        for d, rows in enumerate(seen.T)
    )
    assert found == pytest.approx(expected, rel=1e-11)


def test_many_patterns_are_warned_of():
    seen = np.ones((60, 50), dtype=bool)
    few, many = Patterns(seen[:20], np.arange(20)), Patterns(seen, np.arange(60))
    warn_of_inducing_cost(few, points=True)
    warn_of_inducing_cost(many, points=False)
    with pytest.warns(RuntimeWarning, match=r"60 patterns .* about 16 times"):
        warn_of_inducing_cost(many, points=True)
