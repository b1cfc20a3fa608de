"""Predictions about the modes of f: of a Gaussian likelihood they are those of the exact model."""

import numpy as np
import pymc as pm
import pytest

import pm_gplvm as gplvm
from pm_gplvm import diagnostics
from pm_gplvm.core.kernels import cross_covariance
from pm_gplvm.core.laplace_columns import ColumnModes

likelihoods = gplvm.likelihoods
QUIET = {"progressbar": False, "random_seed": 1}
N, D = 15, 4
AT = np.array([[0.0], [0.7], [-1.3]])


@pytest.fixture(scope="module")
def pair():
    """Fits of one model, with f written out and without."""
    rng = np.random.default_rng(1)
    X = rng.uniform(-2.0, 2.0, (N, 1))
    Y = 3.0 * np.sin(X + np.arange(D)) + 0.5 * rng.normal(size=(N, D))
    Y[2, 1] = Y[7, 3] = np.nan
    held = {"X": X, "lengthscale": 1.2}
    noisy = likelihoods.gaussian(noise_sd=np.full((N, D), 0.4))
    written = gplvm.build_model(
        Y,
        1,
        likelihood=noisy,
        scale="none",
        missing="mask",
        ard=False,
        priors={**held, "level": np.zeros(D)},
    )
    written = pm.do(written, {"sigma": 0.3})
    usual = gplvm.build_model(
        Y,
        1,
        scale="none",
        missing="mask",
        ard=False,
        priors={**held, "sigma": 0.5},
        resolution=0,
    )
    return gplvm.fit_map(written, **QUIET), gplvm.fit_map(usual, **QUIET)


def test_the_modes_are_one(pair):
    for name in ("lp", "log_likelihood"):
        found, exact = (float(fit["sample_stats"][name][0, 0]) for fit in pair)
        np.testing.assert_allclose(found, exact, rtol=1e-8)
    np.testing.assert_allclose(*(fit.posterior["amplitude"] for fit in pair), rtol=1e-6)


@pytest.mark.parametrize("noise", [False, True])
def test_predict(pair, noise):
    found, exact = (gplvm.predict(fit, AT, noise=noise, cov=True) for fit in pair)
    for name in ("mean", "sd", "cov"):
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-5, atol=1e-7)


def test_uncertain_positions(pair):
    found, exact = (gplvm.predict(fit, AT, X_sd=0.3) for fit in pair)
    np.testing.assert_allclose(found["mean"], exact["mean"], rtol=1e-5)
    np.testing.assert_allclose(found["sd"], exact["sd"], rtol=1e-5)


def test_rows_of_the_table(pair):
    for verb in (gplvm.reconstruct, gplvm.impute, diagnostics.leave_one_out):
        found, exact = (verb(fit) for fit in pair)
        for name in exact:
            np.testing.assert_allclose(found[name], exact[name], rtol=1e-5, atol=1e-7)
    found, exact = (diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"] for fit in pair)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_new_rows(pair):
    new = np.array([[0.5, 2.0, np.nan, 1.0], [np.nan, 0.1, -2.0, -1.0]])
    found, exact = (
        gplvm.log_predictive(fit, new, draws=4000, **QUIET)["log_score"] for fit in pair
    )
    np.testing.assert_allclose(found, exact, atol=0.05)
    found, exact = (gplvm.impute(fit, new, draws=4000, **QUIET) for fit in pair)
    np.testing.assert_allclose(found["mean"], exact["mean"], atol=0.1)
    np.testing.assert_allclose(found["sd"], exact["sd"], rtol=0.05)


def test_slopes(pair):
    found, exact = (diagnostics.magnification(fit, AT) for fit in pair)
    for name in ("magnification", "from_mean"):
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-5)


def test_moments_and_their_gradient_by_other_routes():
    rng = np.random.default_rng(2)
    X, at = rng.normal(size=(8, 2)), rng.normal(size=(3, 2))
    theta = {"lengthscale": np.array([0.8, 1.3]), "amplitude": 0.9}
    weights, W = rng.normal(size=(8, 3)), rng.random((8, 3)) * 5.0
    W[2, 1] = 0.0  # a missing entry
    modes = ColumnModes("rbf", X, theta, np.array([0.1, -0.3, 2.0]), weights, W)

    def k(A, B):
        return cross_covariance("rbf", A, B, **theta)

    mean, variance = modes.moments(at)
    _, covariance = modes.joint(at)
    for d in range(3):
        seen = W[:, d] > 0.0
        inverse = np.linalg.inv(k(X, X)[np.ix_(seen, seen)] + np.diag(1.0 / W[seen, d]))
        cross = k(at, X[seen])
        np.testing.assert_allclose(mean[:, d], modes.level[d] + k(at, X) @ weights[:, d])
        wanted = k(at, at) - cross @ inverse @ cross.T
        np.testing.assert_allclose(covariance[:, :, d], wanted, atol=1e-10)
        np.testing.assert_allclose(variance[:, d], np.diag(wanted), atol=1e-9)
    by_mean, by_variance = rng.normal(size=(2, 3, 3))
    h = 1e-5
    found = modes.pullback(at, by_mean, by_variance)
    for s, q in np.ndindex(3, 2):
        up, down = at.copy(), at.copy()
        up[s, q] += h
        down[s, q] -= h
        change = [
            (a - b) / (2.0 * h) for a, b in zip(modes.moments(up), modes.moments(down), strict=True)
        ]
        wanted = (by_mean * change[0] + by_variance * change[1]).sum()
        np.testing.assert_allclose(found[s, q], wanted, rtol=1e-5, atol=1e-7)


def test_an_entry_left_out_is_nearly_that_of_a_fit_without_it():
    """Of counts, at one X: the Gaussian about the mode less the entry, and the mode without the entry."""
    rng = np.random.default_rng(3)
    X = rng.uniform(-2.0, 2.0, (20, 1))
    Y = rng.poisson(np.exp(1.0 + np.sin(X + np.arange(3)))).astype(float)
    held = {"X": X, "lengthscale": 1.0, "amplitude": 1.0}

    def fit(Y):
        model = gplvm.build_model(
            Y, 1, likelihood="poisson", missing="mask", ard=False, priors=held
        )
        return gplvm.fit_map(model, **QUIET)

    found = diagnostics.leave_one_out(fit(Y))
    for n, d in ((3, 0), (11, 2)):
        hole = Y.copy()
        hole[n, d] = np.nan
        left = gplvm.predict(fit(hole), X[[n]], noise=True)
        # the level has seen the entry, one of twenty
        assert abs(float(found["mean"][n, d] / left["mean"][0, d]) - 1.0) < 0.1
        assert abs(float(found["sd"][n, d] / left["sd"][0, d]) - 1.0) < 0.1
    assert np.isfinite(found["log_score"]).all()
