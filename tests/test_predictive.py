"""Joint draws and reconstructions against the joint Gaussian, written out."""

import numpy as np
import pytest
import xarray as xr
from made import fit_of
from oracles import kernel_matrix
from test_prediction import conditional, made_fit

import pm_gplvm as gplvm


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "linear", "rbf + bias", "rbf + linear"])
def test_draws_have_the_mean_and_covariance_of_the_joint_gaussian(Y, kernel, rng):
    fit = made_fit(Y, kernel)
    X_new = rng.standard_normal((4, 2))
    n = 20_000
    drawn = gplvm.sample_predictive(fit, X_new, draws=n, random_seed=1)["predictions"]["Y"][0]
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
    drawn = gplvm.sample_predictive(fit, X_new, noise=True, draws=20_000, random_seed=2)
    values = drawn["predictions"]["Y"]
    expected = gplvm.predict(fit, X_new, noise=True)
    error = expected["sd"] / np.sqrt(20_000)
    assert (np.abs(values.mean(("chain", "draw")) - expected["mean"]) < 5 * error).all()
    np.testing.assert_allclose(values.std(("chain", "draw")), expected["sd"], rtol=0.05)
    assert values.dims == ("chain", "draw", "obs_new", "feature")
    assert values["feature"].to_numpy().tolist() == Y["feature"].to_numpy().tolist()


def test_one_place_twice_is_one_function(Y):
    fit = made_fit(Y, "rbf")
    drawn = gplvm.sample_predictive(fit, np.ones((2, 2)), draws=10, random_seed=3)
    values = drawn["predictions"]["Y"][0].to_numpy()
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-6)
    again = gplvm.sample_predictive(fit, np.ones((2, 2)), draws=10, random_seed=3)
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
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1, got 0"):
        gplvm.sample_predictive(fit, np.zeros((2, 2)), draws=0)
    with pytest.raises(ValueError, match=r"draws must be a whole number of at least 1, got 1\.5"):
        gplvm.reconstruct(fit, draws=1.5)
    with pytest.raises(TypeError, match="reconstruct needs a fit"):
        gplvm.reconstruct(Y)


@pytest.mark.parametrize(
    ("function", "rest"),
    [
        (gplvm.sample_predictive, (np.zeros((1, 2)),)),
        (gplvm.reconstruct, ()),
        (gplvm.embed, (np.zeros((1, 4)),)),
        (gplvm.impute, (np.zeros((1, 4)),)),
        (gplvm.log_predictive, (np.zeros((1, 4)),)),
    ],
)
def test_a_sparse_fit_is_refused_with_a_way_out(Y, function, rest):
    fit = made_fit(Y, "rbf")
    fit["approximation"] = xr.DataTree(
        xr.Dataset({"X_inducing": (("inducing", "latent"), [[0.0, 0.0]])})
    )
    with pytest.raises(ValueError, match="needs a fit of the exact model, got a sparse"):
        function(fit, *rest)
