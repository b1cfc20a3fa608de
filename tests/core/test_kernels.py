"""Covariances against scikit-learn, their gradients against differences and the symbolic twins."""

from functools import partial

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from oracles import ALL_KERNELS, STATIONARY, SUMS, kernel_matrix
from pytensor.gradient import verify_grad

import pm_gplvm as gplvm
from pm_gplvm.core import kernels
from pm_gplvm.core.kernels import KERNELS, parse_kernel
from pm_gplvm.model.ops import Covariance

THETA = {"amplitude": 1.3, "sigma": 0.4, "bias": 0.7}
WEIGHT = 0.6


@pytest.fixture(scope="module")
def evaluate(mode):
    """K of each kernel as a function of numbers, one lengthscale a dimension."""
    X, lengthscale, *scalars = pt.dmatrix(), pt.dvector(), *(pt.dscalar() for _ in range(4))
    names = (*THETA, "weight")
    compiled = {
        kernel: pytensor.function(
            [X, lengthscale, *scalars],
            gplvm.covariance(
                kernel, X, lengthscale=lengthscale, **dict(zip(names, scalars, strict=True))
            ),
            mode=mode,
            on_unused_input="ignore",
        )
        for kernel in ALL_KERNELS
    }
    return lambda kernel, X, lengthscale: compiled[kernel](X, lengthscale, *THETA.values(), WEIGHT)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("lengthscale", [[0.8, 0.8], [0.5, 2.0]], ids=["shared", "ard"])
def test_covariance_equals_scikit_learn(kernel, lengthscale, evaluate, rng):
    X = rng.normal(size=(9, 2))
    lengthscale = np.array(lengthscale)
    expected = kernel_matrix(kernel, X, lengthscale=lengthscale, weight=WEIGHT, **THETA)
    np.testing.assert_allclose(evaluate(kernel, X, lengthscale), expected, rtol=1e-12)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("n", [127, 128, 129, 260])
def test_covariance_over_several_blocks(kernel, n, evaluate, rng):
    X = rng.normal(size=(n, 2))
    K = evaluate(kernel, X, np.ones(2))
    expected = kernel_matrix(kernel, X, weight=WEIGHT, **THETA)
    np.testing.assert_allclose(K, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(K, K.T, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kernel", STATIONARY)
def test_distant_origin_costs_no_digits(kernel, evaluate, rng):
    X = rng.normal(size=(20, 2))
    near = evaluate(kernel, X, np.ones(2))
    # Adding 1e4 rounds X to 1e-12; distances from norms would keep but eight digits.
    np.testing.assert_allclose(evaluate(kernel, X + 1e4, np.ones(2)), near, rtol=1e-9)


@pytest.mark.parametrize("kernel", STATIONARY)
def test_slope_is_the_profiles_derivative(kernel):
    profile = partial(KERNELS[kernel].profile, xp=np, amplitude=1.7)
    r2 = np.array([0.3, 1.0, 4.0, 9.0])
    step = 1e-5
    expected = (profile(r2 + step)[0] - profile(r2 - step)[0]) / (2 * step)
    np.testing.assert_allclose(profile(r2)[1], expected, rtol=1e-8)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_defaults_are_unit_and_noise_free(kernel, rng, mode):
    X = rng.normal(size=(4, 2))
    K = gplvm.covariance(kernel, X).eval(mode=mode)
    np.testing.assert_allclose(K, kernel_matrix(kernel, X), rtol=1e-12)


CASES = [(kernel, ()) for kernel in ALL_KERNELS if kernel not in SUMS]
CASES += [(kernel, shape) for kernel in SUMS for shape in ((), (2,))]
cases = pytest.mark.parametrize(("kernel", "shape"), CASES)


def variables(kernel, shape):
    """The Op's inputs; a sum has one more, the linear part's, a number or one a dimension."""
    own = [pt.dmatrix(), *(pt.dscalar() for _ in range(3))]
    return [*own, pt.tensor(shape=shape, dtype="float64")] if kernel in SUMS else own


def point(rng, kernel, shape, n=5):
    own = [1.0 + rng.normal(size=(n, 2)), *map(np.asarray, THETA.values())]
    return [*own, np.array([0.6, 1.1])[: shape[0]] if shape else np.array(0.6)][
        : 4 + (kernel in SUMS)
    ]


@cases
def test_op_and_its_twin_agree(kernel, shape, rng, mode):
    op = Covariance(kernel)
    inputs = variables(kernel, shape)
    both = pytensor.function(inputs, [*op(*inputs), *op.symbolic(*inputs)], mode=mode)
    K, slope, twin_K, twin_slope = both(*point(rng, kernel, shape))
    np.testing.assert_allclose(K, twin_K, rtol=1e-12)
    np.testing.assert_allclose(slope, twin_slope, rtol=1e-10)


@cases
@pytest.mark.parametrize("n", [5, 260])
def test_formula_of_the_pullback_equals_autodiff_of_the_twin(kernel, shape, n, rng, mode):
    op = Covariance(kernel)
    inputs = variables(kernel, shape)
    weights = rng.normal(size=(n, n))  # not symmetric
    gradients = [
        pt.grad((weights * K).sum(), inputs) for K in (op(*inputs)[0], op.symbolic(*inputs)[0])
    ]
    function = pytensor.function(inputs, [*gradients[0], *gradients[1]], mode=mode)
    values = function(*point(rng, kernel, shape, n))
    for ours, automatic in zip(values[: len(inputs)], values[len(inputs) :], strict=True):
        assert ours.shape == automatic.shape
        np.testing.assert_allclose(ours, automatic, rtol=1e-9, atol=1e-12 * n**2)


@cases
def test_verify_grad(kernel, shape, rng, mode):
    op, at = Covariance(kernel), point(rng, kernel, shape, 4)
    verify_grad(lambda *inputs: op(*inputs)[0], at, rng=rng, mode=mode, rel_tol=1e-5)


@cases
def test_verify_grad_of_the_pullback(kernel, shape, rng, mode):
    def pullback(*inputs):
        *own, weights = inputs
        K = Covariance(kernel)(*own)[0]
        parts = pt.grad((weights * K).sum(), own)
        return pt.concatenate([part.ravel() for part in parts])

    at = [*point(rng, kernel, shape, 4), rng.normal(size=(4, 4))]
    verify_grad(pullback, at, rng=rng, mode=mode, rel_tol=1e-5)


@pytest.mark.parametrize("kernel", [*STATIONARY[1:], *SUMS])
def test_slope_may_be_differentiated_too(kernel, rng, mode):
    op, at = Covariance(kernel), point(rng, kernel, (), 4)
    verify_grad(lambda *inputs: op(*inputs)[1], at, rng=rng, mode=mode, rel_tol=1e-5)


def test_a_weight_or_an_amplitude_of_zero_leaves_the_other_part(rng, mode):
    X = rng.normal(size=(6, 2))

    def K(kernel, **theta):
        return gplvm.covariance(kernel, X, sigma=0.1, **theta).eval(mode=mode)

    np.testing.assert_allclose(K("rbf + linear", weight=0.0), K("rbf"), rtol=1e-13)
    np.testing.assert_allclose(
        K("matern32 + linear", amplitude=1e-9, weight=2.0), K("linear", amplitude=2.0), rtol=1e-12
    )


def test_inputs_of_a_sum_are_told():
    with pytest.raises(TypeError, match=r"kernel 'rbf \+ linear' takes 5 inputs"):
        Covariance("rbf + linear")(pt.dmatrix(), 1.0, 0.0, 0.1)


@pytest.mark.parametrize("kernel", [*STATIONARY, *SUMS])
def test_equal_rows_have_finite_gradients(kernel, rng, mode):
    X = rng.normal(size=(4, 2))
    X[2] = X[0]
    Z = pt.dmatrix()
    weights = rng.normal(size=(4, 4))
    ops, numbers = Covariance(kernel), (1.0, 0.0, 0.1, 0.6)[: 3 + (kernel in SUMS)]
    K, twin = (
        outputs[0] for outputs in (ops(Z, *numbers), ops.symbolic(Z, *map(pt.constant, numbers)))
    )
    ours, automatic = pytensor.function(
        [Z], [pt.grad((weights * matrix).sum(), Z) for matrix in (K, twin)], mode=mode
    )(X)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, automatic, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["amplitude", "sigma", "bias"])
@pytest.mark.parametrize("kernel", ["rbf", "linear", "rbf + linear"])
def test_huge_parameters_overflow_without_an_exception(kernel, name, rng, mode):
    """A sampler may look at any point; what it meets there must be a number, infinite or not."""
    variables = {parameter: pt.dscalar() for parameter in THETA}
    K = gplvm.covariance(kernel, rng.normal(size=(4, 2)), **variables)
    slopes = pt.grad(K.sum(), list(variables.values()))
    compiled = pytensor.function(list(variables.values()), [K, *slopes], mode=mode)
    K, *_ = compiled(*{**THETA, name: 1e200}.values())
    assert np.isinf(np.diag(K)).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbf", ("rbf", False)),
        ("rbf + bias", ("rbf", True)),
        ("bias+matern32", ("matern32", True)),
        (" Linear ", ("linear", False)),
        ("rbf + linear", ("rbf + linear", False)),
        ("linear+rbf", ("rbf + linear", False)),
        ("linear + bias + Matern32", ("matern32 + linear", True)),
    ],
)
def test_parse_kernel(text, expected):
    kernel, bias = parse_kernel(text)
    assert (kernel.name, bias) == expected


@pytest.mark.parametrize(
    "text",
    ["rbg", "", "bias", "linear + linear", "rbf + bias + bias", "rbf + matern32", "rbf +"],
)
def test_unknown_kernel_is_refused_with_the_choices(text):
    with pytest.raises(
        ValueError, match=r"matern52, cauchy, linear, rbf \+ linear, matern32 \+ linear"
    ):
        parse_kernel(text)


@pytest.mark.parametrize("kernel", [None, 3, object()])
def test_kernel_of_another_type_is_told_the_way_out(kernel):
    with pytest.raises(TypeError, match=r"or a function that returns a covariance of pm.gp.cov"):
        parse_kernel(kernel)


@cases
@pytest.mark.parametrize("n", [5, 260])
def test_blocks_of_rows_and_the_plain_formula_agree(kernel, shape, n, rng):
    entry, inputs, G = KERNELS[kernel], point(rng, kernel, shape, n), rng.normal(size=(n, n))
    Z, bias = inputs[0], inputs[2]
    K, slope = np.empty((n, n)), np.zeros((n, n) if entry.keeps_slope else (0, 0))
    kernels.fill(entry, *inputs, K=K, slope=slope)
    whole = kernels.matrix(entry, *inputs)
    np.testing.assert_allclose(K, whole[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.tril(slope), np.tril(whole[1]), rtol=1e-10)

    def lower_block(start, end):
        return 0.5 * (G + G.T)[start:end, :end]

    by_blocks = kernels.contract(entry, Z, lower_block, K, slope, bias)
    at_once = kernels.contract_whole(entry, Z, G, *whole, bias)
    for ours, plain in zip(
        kernels.pullback(entry, inputs, by_blocks),
        kernels.pullback(entry, inputs, at_once),
        strict=True,
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-9)
