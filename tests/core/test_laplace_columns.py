"""Laplace's approximation by columns: against integrals, the exact Gaussian, and finite differences."""

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats
from scipy.special import expit, gammaln

from pm_gplvm.core.kernels import cross_covariance
from pm_gplvm.core.laplace_columns import laplace_columns


def poisson(Y):
    def terms(f):
        seen, rate = ~np.isnan(Y), np.exp(f)
        y = np.where(seen, Y, 0.0)
        parts = (y * f - rate - gammaln(y + 1.0), y - rate, rate, rate)
        return tuple(np.where(seen, part, 0.0) for part in parts)

    return terms


def bernoulli(Y):
    def terms(f):
        p = expit(f)
        w = p * (1.0 - p)
        return Y * f - np.logaddexp(0.0, f), Y - p, w, w * (1.0 - 2.0 * p)

    return terms


def gaussian(Y, sd=0.4):
    def terms(f):
        z = np.zeros_like(f)
        return stats.norm.logpdf(Y, f, sd), (Y - f) / sd**2, z + sd**-2, z

    return terms


def covariance(X, lengthscale=1.1, amplitude=0.9):
    return cross_covariance("rbf", X, X, lengthscale=lengthscale, amplitude=amplitude)


@pytest.fixture
def made(rng):
    X = rng.normal(size=(7, 2))
    return X, np.array([0.3, -0.5, 1.0]), rng.poisson(2.0, (7, 3)).astype(float)


def test_of_a_gaussian_it_is_exact(made):
    X, level, Y = made
    K = covariance(X)
    found = laplace_columns(K, level, gaussian(Y))
    C = K + 0.16 * np.eye(7)
    exact = [
        stats.multivariate_normal(np.full(7, m), C).logpdf(y)
        for m, y in zip(level, Y.T, strict=True)
    ]
    np.testing.assert_allclose(found.value, exact, rtol=1e-10)
    F = np.linalg.solve(C, Y - level)
    np.testing.assert_allclose(found.by_K, 0.5 * (F @ F.T - 3 * np.linalg.inv(C)), rtol=1e-8)
    np.testing.assert_allclose(found.by_level, F.sum(axis=0), rtol=1e-8)


@pytest.mark.parametrize("N", [2, 3])
@pytest.mark.parametrize("family", [poisson, bernoulli])
def test_it_is_near_the_integral(family, N, made):
    X, level, Y = made
    K, Y = covariance(X[:N], amplitude=0.5), np.minimum(Y[:N], 1.0 if family is bernoulli else 9.0)
    found = laplace_columns(K, level, family(Y))
    x, w = hermegauss(30)
    z = np.stack(np.meshgrid(*[x] * N, indexing="ij")).reshape(N, -1)
    weights = np.prod(
        np.stack(np.meshgrid(*[w / w.sum()] * N, indexing="ij")).reshape(N, -1), axis=0
    )
    L = np.linalg.cholesky(K)
    for d in range(3):
        logp = family(Y[:, d : d + 1])(level[d] + L @ z)[0].sum(axis=0)
        exact = np.log(weights @ np.exp(logp))
        assert abs(found.value[d] - exact) < 0.02
    at = np.linalg.solve(K, found.mode - level)
    np.testing.assert_allclose(at, family(Y)(found.mode)[1], atol=1e-6)


@pytest.mark.parametrize("family", [poisson, bernoulli])
def test_gradients_by_differences(family, made):
    X, level, Y = made
    Y = np.minimum(Y, 1.0) if family is bernoulli else Y
    terms, h = family(Y), 1e-5

    def value(K, level=level):
        return laplace_columns(K, level, terms).value

    found = laplace_columns(covariance(X), level, terms)
    for n, m in ((0, 0), (1, 4), (5, 2)):
        E = np.zeros((7, 7))
        E[n, m] += h
        E[m, n] += h
        change = (value(covariance(X) + E) - value(covariance(X) - E)).sum() / (2.0 * h)
        np.testing.assert_allclose(2.0 * found.by_K[n, m], change, rtol=1e-5, atol=1e-6)
    moved = (value(covariance(X), level + h) - value(covariance(X), level - h)) / (2.0 * h)
    np.testing.assert_allclose(found.by_level, moved, rtol=1e-5, atol=1e-6)

    def of(x=0.0, theta=0.0):
        moved = X.copy()
        moved[3, 1] += x
        return covariance(moved, lengthscale=1.1 + theta)

    for name in ("x", "theta"):
        slope = (of(**{name: h}) - of(**{name: -h})) / (2.0 * h)
        change = (value(of(**{name: h})) - value(of(**{name: -h}))).sum() / (2.0 * h)
        np.testing.assert_allclose((found.by_K * slope).sum(), change, rtol=1e-5)


def test_what_is_missing_is_as_if_the_row_were_not_there(made):
    X, level, Y = made
    Y[2] = np.nan
    keep = np.arange(7) != 2
    found = laplace_columns(covariance(X), level, poisson(Y))
    fewer = laplace_columns(covariance(X[keep]), level, poisson(Y[keep]))
    np.testing.assert_allclose(found.value, fewer.value, rtol=1e-9)
    np.testing.assert_allclose(found.by_K[np.ix_(keep, keep)], fewer.by_K, atol=1e-7)
    np.testing.assert_allclose(found.by_K[2], 0.0, atol=1e-9)


def test_rows_at_one_place_and_far_levels_are_no_hindrance(made):
    _, level, Y = made
    found = laplace_columns(covariance(np.zeros((7, 2))), level - 8.0, poisson(50.0 * Y))
    assert np.isfinite(found.value).all()
    assert np.isfinite(found.by_K).all()
