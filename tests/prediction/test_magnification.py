"""Magnification against finite differences, autodiff-free algebra and sampled slopes."""

import numpy as np
import pytest
from made import conditional, fit_of, made_fit
from oracles import ALL_KERNELS, STATIONARY, SUMS
from scipy.stats import multivariate_normal

import pm_gplvm as gplvm
from pm_gplvm.core.kernels import cross_covariance, cross_slope, prior_slope_variance
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction.magnification import occupancy
from pm_gplvm.prediction.processes import each_process

KERNELS = [*STATIONARY, "linear", "rbf + bias", *SUMS]
STEP = 1e-5


def differences(function, x):
    """Central differences of a function of one position, along each of its dimensions."""
    steps = STEP * np.eye(len(x))
    return np.stack([(function(x + h) - function(x - h)) / (2 * STEP) for h in steps], axis=-1)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_slopes_of_the_kernel(kernel, rng):
    theta = {"lengthscale": np.array([0.7, 1.4]), "amplitude": 1.3, "weight": 0.6, "bias": 0.4}
    theta = {"amplitude": 1.0, "bias": 0.4} if kernel == "linear" else theta
    X, x = rng.standard_normal((6, 2)), rng.standard_normal(2)
    expected = differences(lambda at: cross_covariance(kernel, at[None], X, **theta)[0], x)
    np.testing.assert_allclose(cross_slope(kernel, x[None], X, **theta)[0].T, expected, rtol=1e-7)

    # ∂²k/∂x∂x' at x' = x is the variance of a difference quotient of the prior process.
    h = 1e-4
    for q in range(2):
        pair = np.stack([x, x + h * np.eye(2)[q]])
        K = cross_covariance(kernel, pair, pair, **theta)
        quotient = (K[0, 0] + K[1, 1] - 2.0 * K[0, 1]) / h**2
        found = prior_slope_variance(kernel, 2, **theta)[q]
        assert found == pytest.approx(quotient, rel=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_draw_against_differences_of_the_conditional(Y, kernel, rng):
    fit = made_fit(Y, kernel)
    X_new = rng.standard_normal((3, 2))
    found = gplvm.diagnostics.magnification(fit, X_new)
    scale = fit.constant_data["Y_scale"].to_numpy()
    F = (Y.to_numpy() - fit.constant_data["Y_mean"].to_numpy()) / scale
    h = 1e-4
    for x, metric in zip(X_new, found["metric"].to_numpy(), strict=True):
        slopes = differences(lambda at: gplvm.predict(fit, at[None])["mean"].to_numpy()[0], x)
        # Slopes as differences of the joint conditional at x and x + h along each dimension.
        _, joint = conditional(
            fit, 0, np.stack([x - h / 2 * e for e in (*np.eye(2), *-np.eye(2))]), F[:, 0]
        )
        D = np.hstack([-np.eye(2), np.eye(2)]) / h
        covariance = D @ joint @ D.T
        expected = slopes.T @ slopes + (scale**2).sum() * covariance
        np.testing.assert_allclose(metric, expected, rtol=2e-3, atol=2e-3 * np.trace(expected))
    np.testing.assert_allclose(
        found["magnification"], np.sqrt(np.linalg.det(found["metric"].to_numpy())), rtol=1e-12
    )
    assert (found["from_mean"] <= found["magnification"] * (1 + 1e-12)).all()
    assert found["low"].isnull().all()


def test_the_metric_is_that_of_sampled_functions(Y):
    """E JᵀJ over functions drawn jointly at a place and beside it."""
    fit, x, h = made_fit(Y, "rbf"), np.array([0.2, -0.3]), 0.01
    places = np.stack([x, x + np.array([h, 0.0]), x + np.array([0.0, h])])
    rows = gplvm.sample_predictive(fit, places, num_samples=4000, random_seed=1)["predictions"][
        "Y"
    ][0]
    slopes = ((rows[:, 1:] - rows[:, :1].values) / h).to_numpy()
    expected = np.einsum("siD,sjD->ij", slopes, slopes) / len(slopes)
    found = gplvm.diagnostics.magnification(fit, x[None])["metric"].to_numpy()[0]
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05 * np.trace(expected))


def test_draws_are_mixed_in_the_metric(Y):
    fit = made_fit(Y, "rbf", draws=5)
    x = np.array([[0.1, 0.4], [2.0, 2.0]])
    single = [gplvm.diagnostics.magnification(fit_of_draw(fit, i), x) for i in range(5)]
    found = gplvm.diagnostics.magnification(fit, x)
    mixed = np.mean([one["metric"] for one in single], axis=0)
    np.testing.assert_allclose(found["metric"], mixed, rtol=1e-12)
    volumes = np.stack([one["magnification"] for one in single])
    np.testing.assert_allclose(found["low"], np.quantile(volumes, 0.055, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["high"], np.quantile(volumes, 0.945, axis=0), rtol=1e-12)


def fit_of_draw(fit, i):
    one = fit.copy()
    one["posterior"] = fit["posterior"].to_dataset().isel(draw=[i])
    return one


def test_turning_the_frame_leaves_the_volume(Y, rng):
    fit = made_fit(Y, "matern52")
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    turn = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    aligned = gplvm.align(fit, to=X @ turn)
    x = rng.standard_normal((4, 2))
    here = gplvm.diagnostics.magnification(fit, x)
    there = gplvm.diagnostics.magnification(
        aligned, (x - X.mean(axis=0)) @ turn + (X @ turn).mean(axis=0)
    )
    np.testing.assert_allclose(there["magnification"], here["magnification"], rtol=1e-8)
    np.testing.assert_allclose(
        there["metric"], np.einsum("ai,nab,bj->nij", turn, here["metric"], turn), rtol=1e-8
    )


def test_inducing_inputs(Y):
    """Slopes of what a sparse fit predicts, their spread by differences, and a turned frame."""
    model = gplvm.build_model(Y)
    sparse = gplvm.fit_sparse(model, n_inducing=6, random_seed=1, progressbar=False)
    inside = sparse["posterior"]["X"].to_numpy()[0, 0]
    (process,) = each_process(Fit(sparse))
    x, h = inside[:2] + 0.05, 1e-4 * float(process.theta["lengthscale"])
    found = gplvm.diagnostics.magnification(sparse, x)
    scale2 = (sparse.constant_data["Y_scale"].to_numpy() ** 2).sum()
    for at, metric in zip(x, found["metric"].to_numpy(), strict=True):
        slopes = differences(lambda to: gplvm.predict(sparse, to[None])["mean"].to_numpy()[0], at)
        ends = np.stack([at - h / 2 * e for e in (*np.eye(2), *-np.eye(2))])
        prior = cross_covariance(process.kernel, ends, ends, **process.theta)
        cross = process.cross(ends)
        D = np.hstack([-np.eye(2), np.eye(2)]) / h
        covariance = D @ (prior - cross @ process.posterior.reduction @ cross.T) @ D.T
        expected = slopes.T @ slopes + scale2 * covariance
        np.testing.assert_allclose(metric, expected, rtol=2e-3, atol=2e-3 * np.trace(expected))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])
    aligned = gplvm.align(sparse, to=inside @ turn)
    moved = (x - inside.mean(axis=0)) @ turn + (inside @ turn).mean(axis=0)
    there = gplvm.diagnostics.magnification(aligned, moved)
    np.testing.assert_allclose(there["magnification"], found["magnification"], rtol=1e-6)


def test_missing_entries_are_a_sum_over_columns(Y, rng):
    holes = Y.where(rng.random(Y.shape) > 0.3)
    X, x = rng.standard_normal((12, 2)), rng.standard_normal((3, 2))
    theta = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.3}
    model = gplvm.build_model(holes, scale="none", missing="mask")
    found = gplvm.diagnostics.magnification(fit_of(model, X[None, None], **theta), x)[
        "metric"
    ].to_numpy()
    expected = np.zeros_like(found)
    for d in range(4):
        seen = holes[:, d].notnull().to_numpy()
        column = gplvm.build_model(Y[seen][:, [d]], 1, scale="none")
        one = fit_of(column, X[None, None, seen], **theta)
        expected += gplvm.diagnostics.magnification(one, x)["metric"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_far_from_the_data_the_prior_is_left(Y):
    fit = made_fit(Y, "rbf")
    theta = {n: fit["posterior"][n].item() for n in ("lengthscale", "amplitude")}
    scale2 = (fit.constant_data["Y_scale"].to_numpy() ** 2).sum()
    far = gplvm.diagnostics.magnification(fit, [[80.0, 80.0]])
    expected = scale2 * theta["amplitude"] ** 2 / theta["lengthscale"] ** 2
    assert float(far["magnification"][0]) == pytest.approx(expected, rel=1e-9)
    assert float(far["from_mean"][0]) == pytest.approx(0.0, abs=1e-9)


def test_one_dimension(Y):
    model = gplvm.build_model(Y, 1)
    X = np.linspace(-1, 1, 12)[None, None, :, None]
    fit = fit_of(model, X, lengthscale=0.5, amplitude=1.0, sigma=0.1)
    found = gplvm.diagnostics.magnification(fit, [[0.3]])
    slope = differences(
        lambda at: gplvm.predict(fit, at[None])["mean"].to_numpy()[0], np.array([0.3])
    )
    assert float(found["from_mean"][0]) == pytest.approx(np.linalg.norm(slope), rel=1e-6)


def test_occupancy_is_the_mixture_of_gaussians(rng):
    roots = rng.standard_normal((5, 2, 2))
    centres = rng.standard_normal((5, 2))
    draws = centres + np.einsum("nij,snj->sni", roots, rng.standard_normal((300, 5, 2)))
    at = rng.standard_normal((7, 2))
    expected = np.mean(
        [
            multivariate_normal(draws[:, n].mean(axis=0), np.cov(draws[:, n].T)).pdf(at)
            for n in range(5)
        ],
        axis=0,
    )
    np.testing.assert_allclose(occupancy(draws, at), expected, rtol=1e-10)


def test_wrong_arguments(best):
    with pytest.raises(ValueError, match=r"X_new must have shape \(n, latent_dim\) = \(n, 2\)"):
        gplvm.diagnostics.magnification(best, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1, got 0"):
        gplvm.diagnostics.magnification(best, np.zeros((3, 2)), num_samples=0)
    with pytest.raises(TypeError, match="magnification needs a fit"):
        gplvm.diagnostics.magnification("fit", np.zeros((3, 2)))
