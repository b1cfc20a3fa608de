"""Columns with an amplitude and a noise of their own, by one spectral decomposition."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from oracles import column_logps, kernel_matrix

from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.spectral import spectrum
from pm_gplvm.model.ops import ColumnTerms, own_columns_logp, total_logp

HALF_LOG = 0.5 * np.log(2.0 * np.pi)


def table(N, D, size, seed=0):
    rng = np.random.default_rng(seed)
    X = size * rng.normal(size=(N, 2))
    K = kernel_matrix("rbf", X)
    amplitude, noise = np.exp(0.5 * rng.normal(size=D)), np.exp(rng.normal(size=D) - 3.0)
    root = np.linalg.cholesky(K + 1e-10 * np.eye(N))
    F = amplitude * (root @ rng.normal(size=(N, D))) + np.sqrt(noise) * rng.normal(size=(N, D))
    return K, F, amplitude, noise


def compiled():
    inputs = [pt.dmatrix(), pt.dmatrix(), pt.dvector(), pt.dvector()]
    weight = pt.dvector()
    terms, *_ = ColumnTerms()(*inputs)
    gradient = pt.grad((weight * terms).sum(), inputs)
    return pytensor.function([*inputs, weight], [terms, *gradient], mode="FAST_COMPILE")


@pytest.mark.parametrize(
    ("N", "D", "size", "low"),
    [(20, 4, 0.5, False), (120, 4, 0.2, True), (120, 150, 0.2, True), (40, 60, 5.0, False)],
)
def test_terms_and_gradients_are_those_of_each_column_alone(N, D, size, low):
    K, F, amplitude, noise = table(N, D, size)
    weight = np.random.default_rng(1).normal(size=D)
    for c in (np.ones(D), weight):
        terms, dK, dF, ds, dn = compiled()(K, F, amplitude**2, noise, c)
        G = np.zeros((N, N))
        for d in range(D):
            V = amplitude[d] ** 2 * K + noise[d] * np.eye(N)
            expected = column_logps(F[:, [d]], V)[0]
            assert terms[d] - N * HALF_LOG == pytest.approx(expected, rel=1e-10)
            inverse = np.linalg.inv(V)
            solved = inverse @ F[:, d]
            slope = 0.5 * (np.outer(solved, solved) - inverse)
            G += c[d] * amplitude[d] ** 2 * slope
            np.testing.assert_allclose(dF[:, d], -c[d] * solved, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(ds[d], c[d] * (slope * K).sum(), rtol=1e-8)
            np.testing.assert_allclose(dn[d], c[d] * np.trace(slope), rtol=1e-8)
        np.testing.assert_allclose(dK, G, rtol=1e-8, atol=1e-9 * abs(G).max())
    assert (len(spectrum(K, (noise / amplitude**2).min())[0]) < 0.75 * N) == low


@pytest.mark.parametrize(("N", "size"), [(10, 3.0), (100, 0.2)])
def test_the_gradient_in_K_is_that_of_finite_differences(N, size):
    K, F, amplitude, noise = table(N, 3, size)
    function = compiled()
    G = function(K, F, amplitude**2, noise, np.ones(3))[1]
    rng, h = np.random.default_rng(2), 1e-6
    B = rng.normal(size=(N, 5)) / 3.0
    for direction in (np.eye(N), np.ones((N, N)), B @ B.T):  # K stays positive semi-definite
        shifted = K + 2.0 * h * direction
        up = function(shifted + h * direction, F, amplitude**2, noise, np.ones(3))[0].sum()
        down = function(shifted - h * direction, F, amplitude**2, noise, np.ones(3))[0].sum()
        slope = function(shifted, F, amplitude**2, noise, np.ones(3))[1]
        np.testing.assert_allclose((slope * direction).sum(), (up - down) / (2.0 * h), rtol=1e-5)
    assert np.isfinite(G).all()


@pytest.mark.parametrize(("N", "D", "size"), [(120, 5, 0.3), (60, 5, 4.0), (30, 50, 2.0)])
def test_equal_columns_have_the_likelihood_of_a_shared_noise(N, D, size):
    K, F, *_ = table(N, D, size)
    kernel = pt.dmatrix()
    amplitude, sigma, scale = 1.3, 0.3, np.linspace(0.5, 2.0, D)
    own = own_columns_logp(
        F,
        kernel,
        np.ones((N, D), dtype=bool),
        amplitude=np.full(D, amplitude),
        noise=np.full(D, sigma**2),
        scale=scale,
    ).sum()
    total = amplitude**2 * kernel + sigma**2 * pt.eye(N)
    shared = total_logp(gram_factor(F), total, n_columns=D, log_scale=float(np.log(scale).sum()))
    values = pytensor.function(
        [kernel], [own, shared, pt.grad(own, kernel), pt.grad(shared, kernel)], mode="FAST_COMPILE"
    )(K)
    assert values[0] == pytest.approx(values[1], rel=1e-11)
    np.testing.assert_allclose(values[2], values[3], rtol=1e-7, atol=1e-10 * abs(values[3]).max())


def test_columns_with_holes_are_the_gaussians_of_what_was_seen():
    K, F, amplitude, noise = table(40, 5, 0.3)
    seen = np.random.default_rng(3).random(F.shape) < 0.8
    seen[:, 3:] = True
    value = own_columns_logp(
        np.where(seen, F, 7.0), K, seen, amplitude=amplitude, noise=noise, scale=2.0
    ).eval()
    for d in range(5):
        rows = seen[:, d]
        V = amplitude[d] ** 2 * K[np.ix_(rows, rows)] + noise[d] * np.eye(rows.sum())
        expected = column_logps(2.0 * F[rows][:, [d]], V, scale=2.0)[0]
        assert value[d] == pytest.approx(expected, rel=1e-11)


def test_the_twin_computes_the_same_and_so_do_its_derivatives():
    K, F, amplitude, noise = table(12, 3, 2.0)
    inputs = [pt.dmatrix(), pt.dmatrix(), pt.dvector(), pt.dvector()]
    given = (K, F, amplitude**2, noise)
    op, twin = ColumnTerms()(*inputs)[0], ColumnTerms().symbolic(*inputs)[0]
    slopes = [pt.grad(total.sum(), inputs) for total in (op, twin)]
    first = pytensor.function(inputs, [op, twin, *slopes[0], *slopes[1]], mode="FAST_COMPILE")
    values = first(*given)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-10)
    for i, (a, b) in enumerate(zip(values[2:6], values[6:], strict=True)):
        b = 0.5 * (b + b.T) if i == 0 else b  # K is read as symmetric
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
    # The second derivative is the twin's: that of the gradient's own, by differences.
    second = pt.grad((slopes[0][3] ** 2).sum(), inputs[2])
    function = pytensor.function(inputs, [second, slopes[0][3]], mode="FAST_COMPILE")
    curved, _ = function(*given)
    h = 1e-5
    for d in range(3):
        step = h * np.eye(3)[d]
        up = (function(K, F, amplitude**2 + step, noise)[1] ** 2).sum()
        down = (function(K, F, amplitude**2 - step, noise)[1] ** 2).sum()
        np.testing.assert_allclose(curved[d], (up - down) / (2 * h), rtol=1e-5)


def test_what_is_no_covariance_has_density_zero():
    K, F, amplitude, noise = table(10, 3, 1.0)
    noise[1] = 0.0
    terms, *slopes = compiled()(K, F, amplitude**2, noise, np.ones(3))
    assert (terms == -np.inf).all()
    assert all(np.isnan(slope).all() for slope in slopes)
