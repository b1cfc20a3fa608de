"""The collapsed bound: an independent dense computation, GPy's figures, and what a bound must do."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from dense import JITTER, bound, complex_gradient, kl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from oracles import STATIONARY, column_logps, kernel_matrix
from scipy.optimize import minimize

import pm_gplvm as gplvm
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.psi import ONE_NODE
from pm_gplvm.model.ops import CollapsedBound

THETA = {"amplitude": 1.3, "bias": 0.4, "sigma": 0.5}


def places(rng, N=20, M=6, Q=3):
    return rng.standard_normal((N, Q)), rng.uniform(0.1, 0.9, (N, Q)), rng.standard_normal((M, Q))


def bound_and_gradient(kernel, where, F, *, amplitude, bias, sigma, n_columns, quadrature=None):
    whole = InducingKernel(kernel, where, amplitude, bias, quadrature=quadrature)
    return whole.bound_and_gradient(F, sigma, n_columns)


def value(kernel, where, F, *, points=False, **theta):
    quadrature = ONE_NODE if points else None
    theta = THETA | theta
    return bound_and_gradient(
        kernel, where, F, n_columns=F.shape[1], quadrature=quadrature, **theta
    )[0]


@pytest.mark.parametrize(("kernel", "M"), [("rbf", 6), ("linear", 3)])
def test_value_and_gradient_are_those_of_the_dense_computation(kernel, M, rng):
    where, F = places(rng, M=M), rng.standard_normal((20, 4))
    found, gradient = bound_and_gradient(kernel, where, F, n_columns=4, **THETA)
    arguments = [*where, *(np.array(THETA[name]) for name in ("amplitude", "bias", "sigma"))]
    assert found == pytest.approx(bound(kernel, *arguments, F), rel=1e-8)
    exact = complex_gradient(lambda *a: bound(kernel, *a, F), arguments)
    for mine, theirs in zip(gradient, exact, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max() + 1e-7)


@pytest.mark.parametrize(
    ("Q", "M", "expected"), [(5, 25, -47803.377355168894), (10, 50, -82900.13310951658)]
)
def test_gpys_figures(Q, M, expected, data_file):
    """GPy 1.13's bound at the common start of its benchmark, which has the same jitter."""
    with np.load(data_file("oil_flow.npz")) as file:
        Y = file["Y_train"][np.random.default_rng(0).permutation(1000)].astype(float)
    Y = Y - Y.mean(axis=0)
    Y /= np.sqrt((Y**2).mean())
    left, sizes, right = np.linalg.svd(Y - Y.mean(axis=0), full_matrices=False)
    X = left[:, :Q] * sizes[:Q] * np.sign(right[np.arange(Q), np.abs(right[:Q]).argmax(axis=1)])
    X /= X.std(axis=0)
    W = X[np.random.default_rng(0).permutation(1000)[:M]]
    sd = np.full_like(X, np.sqrt(0.1))
    theta = {"amplitude": 1.0, "bias": 0.0, "sigma": np.sqrt(0.1)}
    found = value("rbf", (X, sd, W), Y, **theta) - kl(X, sd)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", ["rbf", "matern52"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), sigma=st.floats(0.1, 2.0), M=st.integers(2, 8))
def test_of_points_it_is_below_the_exact_likelihood(kernel, seed, sigma, M):
    rng = np.random.default_rng(seed)
    X, S, W = places(rng, N=8, M=M, Q=2)
    F = rng.standard_normal((8, 3))
    K = kernel_matrix(kernel, X, amplitude=1.3, bias=0.4, sigma=sigma)
    exact = column_logps(F, K).sum()
    assert value(kernel, (X, 0 * S, W), F, points=True, sigma=sigma) < exact + 1e-7


@pytest.mark.parametrize("kernel", STATIONARY)
def test_it_is_the_exact_likelihood_where_inducing_inputs_reach_all_of_x_and_q_collapses(
    kernel, rng
):
    X, S, _ = places(rng, N=10, Q=2)
    F = rng.standard_normal((10, 3))
    exact = column_logps(F, kernel_matrix(kernel, X, **THETA)).sum()
    # What the jitter takes away: tr(K - Q) of D columns, seen through the noise.
    slack = 3 * 10 * THETA["amplitude"] ** 2 * JITTER / (2 * THETA["sigma"] ** 2)
    point = value(kernel, (X, 0 * S, X), F, points=True)
    assert -2 * slack <= point - exact <= 1e-9
    narrow = [value(kernel, (X, np.full_like(S, s), X), F) - exact for s in (0.1, 0.01, 0.001)]
    assert narrow[0] < narrow[1] < narrow[2] < 0.0
    assert narrow[2] > -1e-2


def test_it_is_below_the_evidence_of_x():
    """ln ∫ p(F|X) p(X) dX of four rows in one dimension, by 20⁴ nodes."""
    rng = np.random.default_rng(3)
    F = rng.standard_normal((4, 2))
    nodes, weights = hermegauss(20)
    grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    mass = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4)), axis=0).ravel()
    K = 1.69 * np.exp(-0.5 * (grid[:, :, None] - grid[:, None]) ** 2) + 0.16 + 0.25 * np.eye(4)
    quadratic = np.einsum("nd,gnm,md->g", F, np.linalg.inv(K), F)
    logs = -0.5 * (quadratic + 2 * np.linalg.slogdet(K)[1] + 8 * np.log(2 * np.pi))
    evidence = np.log(mass @ np.exp(logs - logs.max())) + logs.max()

    def negative(vector):
        U, log_S, W = vector[:4, None], vector[4:8, None], vector[8:, None]
        S = np.exp(log_S)
        found, (dU, dS, dW, *_) = bound_and_gradient("rbf", (U, S, W), F, n_columns=2, **THETA)
        assert found - kl(U, S) < evidence  # wherever the climb goes
        slope = np.concatenate([dU - U, dS * S - S**2 + 1.0, dW]).ravel()
        return kl(U, S) - found, -slope

    start = np.concatenate([rng.standard_normal(4), np.full(4, -0.7), rng.standard_normal(3)])
    assert -minimize(negative, start, jac=True).fun > evidence - 5.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_a_further_inducing_input_never_lowers_it(seed):
    rng = np.random.default_rng(seed)
    U, S, W = places(rng, N=12, M=6, Q=2)
    F = rng.standard_normal((12, 3))
    few, more = (value("rbf", (U, S, W[:m]), F) for m in (5, 6))
    assert more > few - 1e-6


def test_many_columns_cost_and_give_what_their_factor_does(rng):
    where, F = places(rng, N=10), rng.standard_normal((10, 40))
    whole, gradient = bound_and_gradient("rbf", where, F, n_columns=40, **THETA)
    factor, short = bound_and_gradient("rbf", where, gram_factor(F), n_columns=40, **THETA)
    assert factor == pytest.approx(whole, rel=1e-12)
    for a, b in zip(short, gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_where_a_matrix_is_not_positive_definite_it_is_minus_infinity(rng):
    found, gradient = bound_and_gradient(
        "rbf", places(rng), np.ones((20, 1)), n_columns=1, amplitude=0.0, bias=0.0, sigma=0.1
    )
    assert found == -np.inf
    assert all(np.isnan(part).all() for part in gradient)


def test_the_posterior_of_inducing_values_predicts_as_the_exact_one(rng):
    """Points, and inducing inputs at all of them."""
    X, _, _ = places(rng, N=10, Q=2)
    F, new = rng.standard_normal((10, 3)), rng.standard_normal((4, 2))
    whole = InducingKernel("matern32", (X, 0 * X, X), 1.3, 0.4, quadrature=ONE_NODE)
    posterior = whole.posterior(F, 0.5)
    K = kernel_matrix("matern32", np.concatenate([X, new]), amplitude=1.3, bias=0.4)
    inverse = np.linalg.inv(K[:10, :10] + 0.25 * np.eye(10))
    cross = K[10:, :10]
    np.testing.assert_allclose(cross @ posterior.weights, cross @ inverse @ F, atol=1e-6)
    np.testing.assert_allclose(
        cross @ posterior.reduction @ cross.T, cross @ inverse @ cross.T, atol=1e-6
    )


def variables(Q, N=None, M=None):
    shapes = {"U": (N, Q), "S": (N, Q), "W": (M, Q)}
    matrices = [pt.tensor(n, shape=shape, dtype="float64") for n, shape in shapes.items()]
    return [*matrices, *(pt.dscalar(name) for name in ("amplitude", "bias", "sigma"))]


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "cauchy", "linear"])
@pytest.mark.parametrize("points", [False, True])
def test_the_op_and_its_symbolic_form_agree(kernel, points, rng, mode):
    U, S, W = places(rng, N=8, M=3, Q=3)
    numbers = [U, 0 * S if points else S, W, *THETA.values()]
    F = pytensor.shared(rng.standard_normal((8, 4)))
    inputs = variables(3)
    op = CollapsedBound(kernel, 4, points)
    out = op(*inputs, F)[0]
    ours = pytensor.function(inputs, [out, *pt.grad(out, inputs)], mode=mode)(*numbers)
    written = op.symbolic(*inputs, F)[:7]
    for a, b in zip(ours, pytensor.function(inputs, written, mode=mode)(*numbers), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_jax_sees_the_symbolic_form(rng):
    pytest.importorskip("jax", reason="JAX is not installed (the extra [jax])")
    where, F = places(rng, N=8, M=3, Q=2), rng.standard_normal((8, 4))
    inputs = variables(2, N=8, M=3)
    out = CollapsedBound("rbf", 4)(*inputs, pytensor.shared(F))[0]
    compiled = pytensor.function(inputs, [out, pt.grad(out, inputs[0])], mode="JAX")
    found, slope = compiled(*where, *THETA.values())
    expected, gradient = bound_and_gradient("rbf", where, F, n_columns=4, **THETA)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(slope, gradient[0], rtol=1e-7, atol=1e-8)


def test_there_is_no_second_derivative(rng):
    inputs = variables(2)
    out = CollapsedBound("rbf", 4)(*inputs, pytensor.shared(np.ones((8, 4))))[0]
    slope = pt.grad(out, inputs[5])
    with pytest.raises(NotImplementedError, match="CollapsedBound has no second derivative"):
        pt.grad(slope, inputs[5])


def test_memory_is_reused_and_no_result_overwritten(rng):
    """Two evaluations of one compiled function, the first kept while the second runs."""
    where, F = places(rng), rng.standard_normal((20, 4))
    inputs = variables(3)
    out = CollapsedBound("rbf", 4)(*inputs, pytensor.shared(F))[0]
    function = pytensor.function(
        inputs, [out, *pt.grad(out, inputs)], mode=gplvm.model.compile_mode()
    )
    first = function(*where, *THETA.values())
    copies = [np.array(part) for part in first]
    function(where[0] + 1.0, *where[1:], *THETA.values())
    for part, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(part, copy)
