"""Predictions, joint draws and reconstructions against the joint Gaussian, written out."""

import numpy as np
import pytest
import xarray as xr
from conftest import simulated
from made import conditional, fit_of, made_fit, noise_of
from oracles import STATIONARY, SUMS, kernel_matrix
from scipy.stats import multivariate_normal

import pm_gplvm as gplvm
from pm_gplvm.model.results import as_fit
from pm_gplvm.prediction.predict import relative_uncertainty

KERNELS = [
    *STATIONARY,
    "linear",
    "rbf + bias",
    *SUMS,
    "rbf + linear + bias",
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_draw_is_the_conditional_of_the_joint_gaussian(Y, kernel, rng):
    fit = made_fit(Y, kernel)
    X_new = rng.standard_normal((5, 2))
    predicted = gplvm.predict(fit, X_new)
    centre, scale = (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    for d in range(4):
        mean, cov = conditional(fit, 0, X_new, (Y.to_numpy()[:, d] - centre[d]) / scale[d])
        np.testing.assert_allclose(predicted["mean"][:, d], centre[d] + scale[d] * mean, rtol=1e-9)
        np.testing.assert_allclose(
            predicted["sd"][:, d], scale[d] * np.sqrt(np.diag(cov)), rtol=1e-7
        )


def test_draws_are_mixed_by_the_law_of_total_variance(Y, rng):
    fit = made_fit(Y, "rbf", draws=4)
    X_new = rng.standard_normal((3, 2))
    predicted = gplvm.predict(fit, X_new, noise=True)
    single = [gplvm.predict(made_one(fit, i), X_new, noise=True) for i in range(4)]
    means = np.stack([one["mean"].to_numpy() for one in single])
    variances = np.stack([one["sd"].to_numpy() ** 2 for one in single])
    np.testing.assert_allclose(predicted["mean"], means.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        predicted["sd"] ** 2, variances.mean(axis=0) + means.var(axis=0), rtol=1e-10
    )


def made_one(fit, draw):
    one = fit.copy()
    one["posterior"] = xr.DataTree(fit.posterior.to_dataset().isel(draw=[draw]))
    return one


def test_noise_adds_its_variance_in_the_units_of_the_table(Y, rng):
    fit = made_fit(Y, "rbf")
    X_new = rng.standard_normal((3, 2))
    without, with_noise = (gplvm.predict(fit, X_new, noise=n)["sd"] ** 2 for n in (False, True))
    scale = fit.constant_data["Y_scale"].to_numpy()
    np.testing.assert_allclose(
        with_noise - without, np.broadcast_to((noise_of(fit) * scale) ** 2, (3, 4)), rtol=1e-9
    )


def test_far_away_the_prior_remains_and_at_the_rows_little(Y):
    fit = made_fit(Y, "rbf")
    far = np.full((1, 2), 100.0)
    predicted = gplvm.predict(fit, far)
    scale = fit.constant_data["Y_scale"].to_numpy()
    np.testing.assert_allclose(predicted["mean"][0], fit.constant_data["Y_mean"], rtol=1e-12)
    np.testing.assert_allclose(predicted["sd"][0], scale * fit.posterior["amplitude"].item())
    assert relative_uncertainty(fit, far)[0] == pytest.approx(1.0)
    at_rows = relative_uncertainty(fit, fit.posterior["X"].to_numpy()[0, 0])
    assert (at_rows < 1.0).all()


def test_intervals_cover_new_rows_of_the_same_function(rng):
    # Rows of one Gaussian process; half are held out. With the true X and θ the standardised
    # residuals are standard normal: 400 of them, of which 89 % lie within 1.598.
    N, D, sigma = 100, 8, 0.2
    X = rng.standard_normal((N, 2))
    K = kernel_matrix("rbf", X, lengthscale=1.0, amplitude=1.0) + sigma**2 * np.eye(N)
    Y = multivariate_normal(np.zeros(N), K, allow_singular=True, seed=rng).rvs(D).T
    train, new = slice(None, 50), slice(50, None)

    model = gplvm.build_model(Y[train], scale="none")
    theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": sigma}
    values = {"X": X[None, None, train]} | {n: np.full((1, 1), v) for n, v in theta.items()}
    stats = {"lp": np.zeros((1, 1))}
    fit = as_fit(model, values, method="made", sample_stats=stats, settings={})
    # The model centres the columns; the mean is part of the draw, so it is taken off again.
    predicted = gplvm.predict(fit, X[new], noise=True)
    residuals = ((Y[new] - predicted["mean"]) / predicted["sd"]).to_numpy()
    share = (np.abs(residuals) < 1.598).mean()
    assert 0.80 < share < 0.97


def test_labels_and_units_come_out(theta, digits):
    predicted = gplvm.predict(theta, np.zeros((2, 2)), num_samples=3)
    assert predicted["mean"].dims == ("obs_new", "feature")
    assert predicted["feature"].to_numpy().tolist() == digits["feature"].to_numpy().tolist()


@pytest.mark.parametrize(
    ("X_new", "message"),
    [
        (np.zeros((2, 3)), r"X_new must have shape \(n, latent_dim\) = \(n, 2\), got \(2, 3\)"),
        (np.zeros(2), r"got \(2,\)"),
        ([[np.nan, 0.0]], "X_new must be finite"),
    ],
)
def test_wrong_positions_are_refused(best, X_new, message):
    with pytest.raises(ValueError, match=message):
        gplvm.predict(best, X_new)


def test_what_is_no_fit_is_refused(best):
    with pytest.raises(TypeError, match="predict needs a fit"):
        gplvm.predict({"posterior": 1}, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="needs a fit with the group 'posterior'"):
        gplvm.predict(xr.DataTree(), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1"):
        gplvm.predict(best, np.zeros((1, 2)), num_samples=0)


def test_a_covariance_of_the_users_own_is_refused_with_a_way_out(best):
    own = best.copy()
    own.attrs = {**best.attrs, "kernel": "custom"}
    with pytest.raises(ValueError, match="condition with PyMC"):
        gplvm.predict(own, np.zeros((1, 2)))


# Joint draws and reconstructions


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "linear", "rbf + bias", "rbf + linear"])
def test_draws_have_the_mean_and_covariance_of_the_joint_gaussian(Y, kernel, rng):
    fit = made_fit(Y, kernel)
    X_new = rng.standard_normal((4, 2))
    n = 20_000
    drawn = gplvm.sample_predictive(fit, X_new, num_samples=n, random_seed=1)["predictions"]["Y"][0]
    centre, scale = (fit.constant_data[name].to_numpy() for name in ("Y_mean", "Y_scale"))
    for d in range(4):
        mean, cov = conditional(fit, 0, X_new, (Y.to_numpy()[:, d] - centre[d]) / scale[d])
        own = (drawn[:, :, d].to_numpy() - centre[d]) / scale[d]
        size = np.sqrt(np.diag(cov))
        np.testing.assert_allclose((own.mean(axis=0) - mean) / size, 0.0, atol=5 / np.sqrt(n))
        away = (np.cov(own.T) - cov) / np.outer(size, size)
        np.testing.assert_allclose(away, 0.0, atol=8 / np.sqrt(n))


def test_draws_and_predict_agree_on_a_fit_of_many(Y, rng):
    fit = made_fit(Y, "rbf", draws=5)
    X_new = rng.standard_normal((3, 2))
    drawn = gplvm.sample_predictive(fit, X_new, noise=True, num_samples=20_000, random_seed=2)
    values = drawn["predictions"]["Y"]
    expected = gplvm.predict(fit, X_new, noise=True)
    error = expected["sd"] / np.sqrt(20_000)
    assert (np.abs(values.mean(("chain", "draw")) - expected["mean"]) < 5 * error).all()
    np.testing.assert_allclose(values.std(("chain", "draw")), expected["sd"], rtol=0.05)
    assert values.dims == ("chain", "draw", "obs_new", "feature")
    assert values["feature"].to_numpy().tolist() == Y["feature"].to_numpy().tolist()


def test_one_place_twice_is_one_function(Y):
    fit = made_fit(Y, "rbf")
    drawn = gplvm.sample_predictive(fit, np.ones((2, 2)), num_samples=10, random_seed=3)
    values = drawn["predictions"]["Y"][0].to_numpy()
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-6)
    again = gplvm.sample_predictive(fit, np.ones((2, 2)), num_samples=10, random_seed=3)
    xr.testing.assert_identical(
        drawn["predictions"].to_dataset(), again["predictions"].to_dataset()
    )


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("kernel", ["rbf", "linear", "rbf + linear"])
def test_a_reconstruction_is_the_prediction_at_the_rows_own_places(Y, kernel, noise):
    fit = made_fit(Y, kernel)
    expected = gplvm.predict(fit, fit.posterior["X"].to_numpy()[0, 0], noise=noise)
    found = gplvm.reconstruct(fit, noise=noise)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-8)
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=1e-5)
    assert found["obs"].to_numpy().tolist() == Y["obs"].to_numpy().tolist()
    assert found["label"].to_numpy().tolist() == Y["label"].to_numpy().tolist()


def test_reconstructions_are_mixed_by_the_law_of_total_variance(Y):
    fit = made_fit(Y, "rbf", draws=4)
    posterior, parts = fit.posterior.to_dataset(), []
    for i in range(4):
        one = fit.copy()
        one["posterior"] = xr.DataTree(posterior.isel(draw=[i]))
        parts.append(gplvm.reconstruct(one))
    together = xr.concat(parts, "part")
    found = gplvm.reconstruct(fit)
    np.testing.assert_allclose(found["mean"], together["mean"].mean("part"), rtol=1e-12)
    variance = (together["sd"] ** 2).mean("part") + together["mean"].var("part")
    np.testing.assert_allclose(found["sd"] ** 2, variance, rtol=1e-9)


def test_without_noise_the_table_itself_comes_back(rng):
    X = rng.standard_normal((15, 2))
    K = kernel_matrix("rbf", X, sigma=1e-3)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((15, 3))
    theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 1e-3}
    fit = fit_of(gplvm.build_model(Y, scale="none"), X[None, None], **theta)
    np.testing.assert_allclose(gplvm.reconstruct(fit)["mean"], Y, atol=0.01)


def test_wrong_arguments(Y):
    fit = made_fit(Y, "rbf")
    with pytest.raises(ValueError, match="X_new must have shape"):
        gplvm.sample_predictive(fit, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1, got 0"):
        gplvm.sample_predictive(fit, np.zeros((2, 2)), num_samples=0)
    with pytest.raises(
        ValueError, match=r"num_samples must be a whole number of at least 1, got 1\.5"
    ):
        gplvm.reconstruct(fit, num_samples=1.5)
    with pytest.raises(TypeError, match="reconstruct needs a fit"):
        gplvm.reconstruct(Y)


# The covariance of new positions


@pytest.mark.parametrize("kernel", ["rbf", "matern32 + linear + bias", "linear"])
@pytest.mark.parametrize("noise", [False, True])
def test_joint_covariance_is_that_of_the_joint_gaussian(kernel, noise, rng, Y):
    fit = made_fit(Y, kernel, draws=3)
    X = rng.standard_normal((5, 2))
    found = gplvm.predict(fit, X, noise=noise, cov=True)
    assert found["cov"].dims == ("obs_new", "obs_new_to", "feature")
    plain = gplvm.predict(fit, X, noise=noise)
    xr.testing.assert_identical(
        found[["mean", "sd"]].drop_vars("obs_new_to", errors="ignore"), plain
    )
    F = (Y - Y.mean("obs")).to_numpy()
    scale = np.sqrt((F**2).mean())
    for d in range(F.shape[1]):
        pairs = [conditional(fit, draw, X, F[:, d] / scale) for draw in range(3)]
        means, own = (np.stack(p) for p in zip(*pairs, strict=True))
        expected = own.mean(axis=0) + np.cov(means.T, bias=True)
        if noise:
            expected += np.mean([noise_of(fit, draw) ** 2 for draw in range(3)]) * np.eye(5)
        np.testing.assert_allclose(found["cov"][:, :, d], scale**2 * expected, rtol=1e-8, atol=1e-9)


def test_joint_covariance_by_column_with_holes(rng):
    """Rows that lack a column do not count for it; each column has its own noise."""
    table = simulated(15, 3).to_numpy()
    table[:4, 0] = table[2:7, 2] = np.nan
    model = gplvm.build_model(table, 2, noise="column", missing="mask", resolution=0)
    X = rng.standard_normal((15, 2))
    theta = {"lengthscale": 1.1, "amplitude": [[[0.8, 1.0, 1.3]]], "sigma": [[[0.2, 0.3, 0.4]]]}
    fit = fit_of(model, X[None, None], **theta)
    new = rng.standard_normal((4, 2))
    found = gplvm.predict(fit, new, cov=True)["cov"]
    scale = fit["constant_data"]["Y_scale"].to_numpy()
    for d, (a, s) in enumerate(zip((0.8, 1.0, 1.3), (0.2, 0.3, 0.4), strict=True)):
        rows = np.flatnonzero(~np.isnan(table[:, d]))
        n = len(rows)
        K = kernel_matrix("rbf", np.vstack([X[rows], new]), lengthscale=1.1, amplitude=a)
        gain = np.linalg.solve(K[:n, :n] + s**2 * np.eye(n), K[:n, n:]).T
        expected = np.broadcast_to(scale, 3)[d] ** 2 * (K[n:, n:] - gain @ K[:n, n:])
        np.testing.assert_allclose(found[:, :, d], expected, rtol=1e-9, atol=1e-10)
