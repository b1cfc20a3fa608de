"""Kernels of several factors against PyMC's and scikit-learn's, and their derivatives against differences."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from oracles import COMPOSITES, composite_by_pymc, composite_matrix
from pytensor.gradient import verify_grad

import pm_gplvm as gplvm
from pm_gplvm.core import kernels
from pm_gplvm.core.kernels import kernel_named, parse_kernel
from pm_gplvm.model.ops import CompositeCovariance

EVERY = pytest.mark.parametrize("ard", [False, True], ids=["shared", "ard"])
COMPOSITE = pytest.mark.parametrize("text", COMPOSITES)
Q = 3


def theta_of(text, rng, ard):
    """Parameters of their right lengths."""
    labels = kernel_named(text).labels(Q, ard=ard)
    return {name: rng.uniform(0.5, 1.5, len(each)) for name, (_, each) in labels.items()}


def two_sets(rng):
    return rng.normal(size=(5, Q)), rng.normal(size=(7, Q))


@COMPOSITE
@EVERY
def test_covariance_equals_scikit_learn_and_pymc(text, ard, rng):
    X, theta = rng.normal(size=(9, Q)), theta_of(text, rng, ard)
    K = gplvm.covariance(text, X, **theta, sigma=0.3, bias=0.6).eval()
    rest = 0.09 * np.eye(9) + 0.36
    np.testing.assert_allclose(K, composite_matrix(text, X, **theta) + rest, rtol=1e-10)
    # PyMC adds 1e-12 to r² under the root.
    slack = 5e-6 if "matern12" in text else 1e-11
    np.testing.assert_allclose(K, composite_by_pymc(text, X, **theta) + rest, 1e-10, atol=slack)


@COMPOSITE
def test_one_number_is_that_of_all(text, rng):
    X = rng.normal(size=(6, Q))
    found = gplvm.covariance(text, X, lengthscale=0.8, amplitude=1.3, alpha=2.0).eval()
    labels = kernel_named(text).labels(Q, ard=False)
    one = {"lengthscale": 0.8, "amplitude": 1.3, "alpha": 2.0}
    theta = {name: np.full(len(each), one[name]) for name, (_, each) in labels.items()}
    np.testing.assert_allclose(found, composite_matrix(text, X, **theta), rtol=1e-10)


def difference(function, at, step=1e-6):
    """Central differences of a number in every entry of an array."""
    at = np.asarray(at)
    slope = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        slope[i] = (function(up) - function(down)) / (2.0 * step)
    return slope


@COMPOSITE
@EVERY
def test_pullbacks_equal_differences(text, ard, rng):
    (A, B), theta = two_sets(rng), theta_of(text, rng, ard)
    theta["bias"] = 0.6
    G, g = rng.normal(size=(5, 7)), rng.normal(size=5)

    def total(A, **changed):
        now = theta | changed
        prior = {name: value for name, value in now.items() if name != "lengthscale"}
        of_cross = (G * kernels.cross_covariance(text, A, B, **now)).sum()
        return of_cross + (g * kernels.prior_variance(text, A, **prior)).sum()

    K, rate = kernels.cross_and_rate(text, A, B, **theta)
    by_X = kernels.cross_pullback(text, A, B, rate, G, g, **theta)
    np.testing.assert_allclose(by_X, difference(total, A), rtol=1e-6, atol=1e-7)
    by_log = kernels.log_pullback(text, A, B, K, rate, G, g, **theta)
    assert by_log.keys() == theta.keys()
    for name, value in theta.items():
        known = difference(lambda log: total(A, **{name: np.exp(log)}), np.log(value))  # noqa: B023
        np.testing.assert_allclose(by_log[name], known, rtol=1e-6, atol=1e-7)


@COMPOSITE
@EVERY
def test_slopes_equal_differences(text, ard, rng):
    (A, B), theta = two_sets(rng), theta_of(text, rng, ard)
    slope = kernels.cross_slope(text, A, B, **theta)
    for q in range(Q):
        step = 1e-6 * np.eye(Q)[q]
        up, down = (kernels.cross_covariance(text, A + s, B, **theta) for s in (step, -step))
        np.testing.assert_allclose(slope[:, q], (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
    entry, X = kernel_named(text), A[:1]
    if entry.why_no_slope is not None:
        with pytest.raises(ValueError, match="has no slope"):
            kernels.prior_slope_variance(text, Q, **theta)
        return
    variance = kernels.prior_slope_variance(text, Q, **theta)
    for q in range(Q):
        step = 1e-4 * np.eye(Q)[q]
        around = [
            kernels.cross_covariance(text, X + a * step, X + b * step, **theta)[0, 0]
            for a, b in ((1, 1), (-1, -1), (1, -1), (-1, 1))
        ]
        known = (around[0] + around[1] - around[2] - around[3]) / 4e-8
        assert variance[q] == pytest.approx(known, rel=1e-3, abs=1e-6)


@COMPOSITE
def test_many_states_at_once(text, rng):
    (A, B), both = two_sets(rng), [theta_of(text, rng, False) for _ in range(2)]
    theta = {name: np.stack([each[name] for each in both]) for name in both[0]}
    K = kernels.cross_covariance(text, np.stack([A, A]), np.stack([B, B]), **theta)
    prior = {name: value for name, value in theta.items() if name != "lengthscale"}
    variance = kernels.prior_variance(text, np.stack([A, A]), **prior)
    for i, each in enumerate(both):
        alone = kernels.cross_covariance(text, A, B, **each)
        np.testing.assert_allclose(K[i], alone, rtol=1e-9, atol=1e-9)
        diagonal = np.diag(kernels.cross_covariance(text, A, A, **each))
        np.testing.assert_allclose(variance[i], diagonal, rtol=1e-12)


def operation(text, rng, ard):
    """The Op of a text, and a point of its inputs."""
    labels, theta = kernel_named(text).labels(Q, ard=True), theta_of(text, rng, ard)
    own = ard and len(labels.get("lengthscale", ("", []))[1]) > len(
        kernel_named(text).labels(Q, ard=False).get("lengthscale", ("", []))[1]
    )
    vectors = [theta.get(name, np.zeros(0)) for name in ("lengthscale", "amplitude", "alpha")]
    at = [rng.normal(size=(5, Q)), *vectors, np.array(0.7), np.array(0.4)]
    return CompositeCovariance(kernel_named(text).name, Q, own), at


@COMPOSITE
@EVERY
def test_op_its_twin_and_both_gradients(text, ard, rng, mode):
    op, at = operation(text, rng, ard)
    inputs = [pt.tensor(shape=v.shape, dtype="float64") for v in at]
    weights = rng.normal(size=(5, 5))  # not symmetric
    ours, twin = op(*inputs), op.symbolic(*inputs)[0]
    gradients = [
        pt.grad((weights * K).sum(), inputs, disconnected_inputs="ignore") for K in (ours, twin)
    ]
    function = pytensor.function(
        inputs, [ours, twin, *gradients[0], *gradients[1]], mode=mode, on_unused_input="ignore"
    )
    K, same, *slopes = function(*at)
    np.testing.assert_allclose(K, same, rtol=1e-10)
    for one, other in zip(slopes[: len(at)], slopes[len(at) :], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("text", COMPOSITES[:6])
def test_second_derivatives(text, rng, mode):
    op, at = operation(text, rng, False)
    held = [v for v in at if v.size == 0]

    def gradient(*some):
        given = iter(some)
        inputs = [pt.constant(v) if v.size == 0 else next(given) for v in at]
        K = op(*inputs)
        slopes = pt.grad((K**2).sum(), list(some), disconnected_inputs="ignore")
        return pt.add(*[(s**2).sum() for s in slopes])

    free = [v for v in at if v.size]
    assert len(free) + len(held) == len(at)
    verify_grad(gradient, free, rng=rng, mode=mode, rel_tol=1e-4, abs_tol=1e-3)


def test_rows_that_coincide_have_a_finite_gradient(rng, mode):
    op, at = operation("matern12[0,1] + matern12[2]*rational_quadratic", rng, False)
    at[0][1] = at[0][3] = at[0][0]
    inputs = [pt.tensor(shape=v.shape, dtype="float64") for v in at]
    weights = rng.normal(size=(5, 5))
    for K in (op(*inputs), op.symbolic(*inputs)[0]):
        slopes = pt.grad((weights * K).sum(), inputs, disconnected_inputs="ignore")
        found = pytensor.function(inputs, [K, *slopes], mode=mode, on_unused_input="ignore")(*at)
        assert all(np.isfinite(value).all() for value in found)
        assert found[0][0, 1] == pytest.approx((at[2] ** 2).sum() + 0.49, rel=1e-14)


def test_a_factor_over_all_dimensions_is_the_named_kernel(rng):
    (A, B) = (X[:, :2] for X in two_sets(rng))
    G, g = rng.normal(size=(5, 7)), rng.normal(size=5)
    for name in ("rbf", "matern32", "matern52", "cauchy"):
        own, named = f"{name}[0,1]", {"lengthscale": 0.7, "amplitude": 1.3, "bias": 0.2}
        theta = {"lengthscale": np.array([0.7]), "amplitude": np.array([1.3]), "bias": 0.2}
        K, rate = kernels.cross_and_rate(name, A, B, **named)
        np.testing.assert_allclose(
            kernels.cross_covariance(own, A, B, **theta), K, rtol=1e-12, atol=0
        )
        one = kernels.cross_pullback(name, A, B, rate, G, g, **named)
        np.testing.assert_allclose(
            kernels.cross_pullback(own, A, B, None, G, g, **theta), one, rtol=1e-9
        )
        one, other = (
            kernels.log_pullback(text, A, B, K, slope, G, g, **values)
            for text, slope, values in ((name, rate, named), (own, None, theta))
        )
        for each in one:
            np.testing.assert_allclose(np.sum(other[each]), np.sum(one[each]), rtol=1e-9)


def test_a_period_later_is_the_same_place(rng):
    A, B = two_sets(rng)
    moved = A + 2.0 * np.pi * np.array([0.0, 0.0, 1.0])
    theta = theta_of("rbf[0,1] + periodic[2]", rng, False)
    K = kernels.cross_covariance("rbf[0,1] + periodic[2]", A, B, **theta)
    again = kernels.cross_covariance("rbf[0,1] + periodic[2]", moved, B, **theta)
    np.testing.assert_allclose(again, K, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbf[1, 0]*Periodic[2]+ bias", ("rbf[0,1] * periodic[2]", True)),
        ("rational_quadratic", ("rational_quadratic", False)),
        ("bias + linear[0] + rbf", ("linear[0] + rbf", True)),
        ("rbf[0] + rbf[0]", ("rbf[0] + rbf[0]", False)),
        ("linear + rbf", ("rbf + linear", False)),
    ],
)
def test_texts(text, expected):
    entry, bias = parse_kernel(text)
    assert (entry.name, bias) == expected
    again, _ = parse_kernel(entry.name)
    assert again is entry


@pytest.mark.parametrize(
    "text",
    [
        "rbf[0,0]",
        "rbf[]",
        "rbf[-1]",
        "rbf[a]",
        "rbf[0",
        "spline[0]",
        "rbf[0] +",
        "rbf[0] * bias",
        "rbf[0] + bias + bias",
        "* rbf[0]",
        "",
    ],
)
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="kernel must"):
        parse_kernel(text)


def test_objects_write_texts():
    k = gplvm.kernels
    kernel = k.rbf(dims=[1, 0]) * k.periodic(dims=2) + k.linear(dims=np.int64(0)) + k.bias()
    assert str(kernel) == "rbf[0,1] * periodic[2] + linear[0] + bias"
    assert parse_kernel(kernel)[0].name == "rbf[0,1] * periodic[2] + linear[0]"
    assert parse_kernel(k.rbf() + k.linear())[0] is parse_kernel("rbf + linear")[0]
    with pytest.raises(ValueError, match="sum of products"):
        (k.rbf() + k.linear()) * k.periodic()
    with pytest.raises(TypeError):
        k.rbf() + 1
    for dims, error in (([], ValueError), ([0, 0], ValueError), (-1, ValueError), ("0", TypeError)):
        with pytest.raises(error, match="dims must"):
            k.rbf(dims=dims)


def test_entries_of_equal_factors_have_names_of_their_own():
    labels = kernel_named("rbf[0] * periodic[1] + rbf[0]").labels(2, ard=False)
    assert labels["lengthscale"][1] == ["rbf[0]", "periodic[1]", "rbf[0] (2)"]


def test_wrong_lengths_are_refused(rng):
    X = rng.normal(size=(4, 3))
    with pytest.raises(ValueError, match="from 0 to 2"):
        gplvm.covariance("rbf[5]", X)
    with pytest.raises(ValueError, match="lengthscale must be one number, or have 2 or 3 entries"):
        gplvm.covariance("rbf[0,1] + periodic[2]", X, lengthscale=np.ones(4))
    with pytest.raises(ValueError, match="one entry for each factor"):
        kernels.cross_covariance("rbf[0,1] + periodic[2]", X, X, lengthscale=np.ones(4))
    with pytest.raises(ValueError, match="number of columns"):
        gplvm.covariance("rbf[0]", pt.dmatrix())


def test_the_unit_of_a_dimension_is_the_shortest_lengthscale():
    text = "rbf[0,1] + periodic[1] + linear[2]"
    assert kernels.unit_of(text, 3, np.array([2.0, 0.5])).tolist() == [2.0, 0.5, 1.0]
    assert kernels.unit_of(text, 3, np.array([2.0, 3.0, 0.5])).tolist() == [2.0, 0.5, 1.0]
    assert kernels.unit_of("rbf", 3, 2.0).tolist() == [2.0] * 3
