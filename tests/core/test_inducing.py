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
from pm_gplvm.core.inducing import InducingKernel, shortened
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


# One row and the others


KNOWN = {"rbf": {}, "matern32": {}, "linear": {}, "rbf + linear": {"ratio": np.array([0.5, 0.8])}}


def at_points(kernel, X, W, F, own_noise):
    whole = InducingKernel(kernel, (X, 0 * X, W), 1.3, 0.4, quadrature=ONE_NODE, **KNOWN[kernel])
    return whole, whole.point_posterior(F, 0.5, own_noise=own_noise)


def dense_parts(kernel, X, W):
    """K of X, and of W with its jitter, and between them, by scikit-learn."""
    ratio = KNOWN[kernel].get("ratio", np.zeros(2))
    both = np.concatenate([X, W])
    K = kernel_matrix(kernel.removesuffix(" + linear"), both, amplitude=1.3, bias=0.4)
    K = K + 1.69 * (both * ratio) @ (both * ratio).T
    N = len(X)
    jitter = JITTER * 1.69 * (1.0 + (ratio**2).sum())
    return K[:N, :N], K[N:, N:] + jitter * np.eye(len(W)), K[:N, N:]


@pytest.mark.parametrize("kernel", KNOWN)
@pytest.mark.parametrize("own_noise", [False, True])
def test_of_points_it_is_the_dense_one(kernel, own_noise, rng):
    """Mean, variance, the bound of each column, and each row left out, by plain inverses."""
    X, _, W = places(rng, N=10, M=2 if kernel == "linear" else 4, Q=2)
    F, new = rng.standard_normal((10, 3)), rng.standard_normal((5, 2))
    whole, (found, scaled, noise) = at_points(kernel, X, W, F, own_noise)
    K, gram, cross = dense_parts(kernel, np.concatenate([X, new]), W)
    Q = cross @ np.linalg.solve(gram, cross.T)
    left = np.diag(K - Q)
    seen = 0.25 + (left[:10] if own_noise else np.zeros(10))
    np.testing.assert_allclose(noise**2, seen, rtol=1e-7)

    def predicted(rows, at):
        gain = np.linalg.solve(Q[np.ix_(rows, rows)] + np.diag(seen[rows]), Q[np.ix_(rows, at)]).T
        return gain @ F[rows], np.diag(K)[at] - (gain * Q[np.ix_(at, rows)]).sum(axis=1)

    every, at = np.arange(10), np.arange(10, 15)
    mean, variance = predicted(every, at)
    turned = cross[10:] @ found.directions.T
    np.testing.assert_allclose(turned @ found.coefficients, mean, atol=1e-7)
    np.testing.assert_allclose(
        np.diag(K)[10:] - (turned**2 * found.shares).sum(axis=1), variance, atol=1e-7
    )
    np.testing.assert_allclose(cross[10:] @ found.weights, mean, atol=1e-6)
    np.testing.assert_allclose(
        cross[10:] @ found.reduction @ cross[10:].T,
        (turned * found.shares) @ turned.T,
        atol=1e-6,
    )

    rows = found.row_terms(whole.psi1 @ found.directions.T, np.diag(K)[:10], F, noise**2)
    residual, spread = rows.left_out(0.25)
    for n in range(10):
        mean, variance = predicted(np.delete(every, n), np.array([n]))
        np.testing.assert_allclose(residual[n], F[n] - mean[0], atol=1e-6)
        assert spread[n] == pytest.approx(variance[0] + 0.25, rel=1e-6)

    quad, logdet = found.column_terms(scaled)
    terms = -0.5 * (quad + logdet) - np.log(noise).sum() - 5.0 * np.log(2.0 * np.pi)
    expected = column_logps(F, Q[:10, :10] + np.diag(seen))
    expected -= 0.0 if own_noise else 0.5 * left[:10].sum() / 0.25
    np.testing.assert_allclose(terms, expected, rtol=1e-7)
    if not own_noise:
        assert terms.sum() == pytest.approx(whole.posterior(F, 0.5).bound((F**2).sum(), 10, 3))


def test_rows_that_are_inducing_inputs_are_left_out_as_in_the_exact_model(rng):
    """To what the jitter leaves."""
    X, F = 1.5 * rng.standard_normal((10, 2)), rng.standard_normal((10, 3))
    whole, (found, _, noise) = at_points("matern32", X, X, F, own_noise=False)
    rows = found.row_terms(whole.psi1 @ found.directions.T, np.full(10, 1.85), F, noise**2)
    residual, variance = rows.left_out(0.25)
    inverse = np.linalg.inv(dense_parts("matern32", X, X)[0] + 0.25 * np.eye(10))
    np.testing.assert_allclose(variance, 1.0 / np.diag(inverse), rtol=1e-7)
    np.testing.assert_allclose(residual, inverse @ F / np.diag(inverse)[:, None], atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "linear", "rbf + linear"])
def test_the_rows_own_moments_under_q(kernel, rng):
    """The law of total variance over many draws of each row's position, u given the table."""
    U, S, W = places(rng, N=3, M=2 if kernel == "linear" else 4, Q=2)
    F = rng.standard_normal((3, 2))
    whole = InducingKernel(kernel, (U, S, W), 1.3, 0.4, **KNOWN.get(kernel, {}))
    posterior = whole.posterior(F, 0.5)
    mean, variance = whole.row_moments(posterior)
    n_draws = 40_000
    for n in range(3):
        x = U[n] + S[n] * rng.standard_normal((n_draws, 2))
        at = InducingKernel(
            kernel, (x, 0 * x, W), 1.3, 0.4, quadrature=ONE_NODE, **KNOWN.get(kernel, {})
        )
        turned = at.psi1 @ posterior.directions.T
        means = turned @ posterior.coefficients
        own = 1.69 * at.own_variance + 0.16 - (turned**2 * posterior.shares).sum(axis=1)
        error = means.std(axis=0) / np.sqrt(n_draws)
        # Quadrature by nodes has an error of its own.
        assert (np.abs(means.mean(axis=0) - mean[n]) < 4.5 * error + 0.01).all()
        total = means.var(axis=0) + own.mean()
        np.testing.assert_allclose(variance[n], total, rtol=0.05)


@pytest.mark.parametrize("D", [3, 9])
def test_rows_are_shortened_without_loss(D, rng):
    coefficients, y = rng.standard_normal((5, D)), rng.standard_normal((4, D))
    t = rng.standard_normal((6, 5))
    short, root, rest = shortened(coefficients, y)
    assert short.shape == (4, min(D, 5))
    expected = ((y[:, None] - t @ coefficients) ** 2).sum(axis=2)
    found = rest[:, None] + ((short[:, None] - t @ root.T) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Also where all but one part in 10¹² is explained.
    near = t[:4] @ coefficients + 1e-6 * y
    short, root, rest = shortened(coefficients, near)
    found = rest + ((short - t[:4] @ root.T) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, 1e-12 * (y**2).sum(axis=1), rtol=1e-8)


def variables(Q, N=None, M=None):
    shapes = {"U": (N, Q), "S": (N, Q), "W": (M, Q)}
    matrices = [pt.tensor(n, shape=shape, dtype="float64") for n, shape in shapes.items()]
    return [*matrices, *(pt.dscalar(name) for name in ("amplitude", "bias", "sigma"))]


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "cauchy", "linear", "matern32 + linear"])
@pytest.mark.parametrize("points", [False, True])
def test_the_op_and_its_symbolic_form_agree(kernel, points, rng, mode):
    U, S, W = places(rng, N=8, M=3, Q=3)
    numbers = [U, 0 * S if points else S, W, *THETA.values()]
    F = pytensor.shared(rng.standard_normal((8, 4)))
    inputs, ratio = variables(3), []
    if "+" in kernel:
        ratio = [pt.dvector("ratio")]
        numbers.append(np.array([0.5, 0.8, 1.1]))
    op = CollapsedBound(kernel, 4, points)
    out = op(*inputs, F, *ratio)[0]
    slopes = pt.grad(out, [*inputs, *ratio])
    ours = pytensor.function([*inputs, *ratio], [out, *slopes], mode=mode)(*numbers)
    written = pytensor.function([*inputs, *ratio], op.symbolic(*inputs, F, *ratio)[:-1], mode=mode)
    assert len(ours) == 7 + len(ratio)
    for a, b in zip(ours, written(*numbers), strict=True):
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
