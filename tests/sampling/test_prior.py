"""sample_prior: the distributions that the README names, and the checks of what was drawn."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from oracles import kernel_matrix
from scipy import stats
from scipy.spatial.distance import pdist

import pm_gplvm as gplvm
from pm_gplvm.sampling.prior import check_prior


@pytest.fixture(scope="module")
def prior(Y):
    return gplvm.sample_prior(gplvm.build_model(Y, kernel="rbf + bias"), draws=400, random_seed=3)


def test_every_variable_has_its_prior(prior):
    drawn = prior["prior"].to_dataset()
    priors = {
        "X": stats.norm(0.0, 1.0),
        "lengthscale": stats.invgamma(3.0, scale=2.0),
        "amplitude": stats.lognorm(1.0),
        "sigma": stats.lognorm(1.0, scale=np.exp(-2.0)),
        "bias": stats.halfnorm(scale=1.0),
    }
    assert set(drawn.data_vars) == set(priors)
    for name, distribution in priors.items():
        assert stats.kstest(drawn[name].to_numpy().ravel(), distribution.cdf).pvalue > 1e-3, name


def test_each_table_is_drawn_from_its_own_covariance(prior):
    """Whitened by the K of its draw, by scikit-learn, the table is standard normal."""
    drawn = prior["prior"].to_dataset().isel(chain=0)
    mean, scale = (prior.constant_data[n].to_numpy()[:, None] for n in ("Y_mean", "Y_scale"))
    white = []
    for i in range(400):
        one = {str(n): v.to_numpy()[i] for n, v in drawn.data_vars.items()}
        K = kernel_matrix("rbf", one.pop("X"), **{n: float(v) for n, v in one.items()})
        F = (prior["prior_predictive"]["Y"].to_numpy()[0, i] - mean) / scale
        white.append(np.linalg.solve(np.linalg.cholesky(K), F.T))
    assert stats.kstest(np.ravel(white), "norm").pvalue > 1e-3


def test_groups_labels_and_seeds(prior, Y):
    assert set(prior.children) == {"prior", "prior_predictive", "observed_data", "constant_data"}
    assert prior["prior"]["X"].dims == ("chain", "draw", "obs", "latent")
    assert prior["prior_predictive"]["Y"].dims == ("chain", "draw", "feature", "obs")
    for group in ("prior", "prior_predictive", "observed_data"):
        np.testing.assert_array_equal(prior[group]["label"], Y["label"])
    assert (prior.attrs["method"], prior.attrs["kernel"]) == ("prior", "rbf")
    model = gplvm.build_model(Y, kernel="rbf + bias")
    again, other = (gplvm.sample_prior(model, draws=2, random_seed=s) for s in (4, 5))
    third = gplvm.sample_prior(model, draws=2, random_seed=4)
    np.testing.assert_array_equal(again["prior_predictive"]["Y"], third["prior_predictive"]["Y"])
    assert not np.array_equal(again["prior"]["X"], other["prior"]["X"])


def test_what_is_held_stands_beside_the_draws(Y):
    model = gplvm.build_model(Y, ard=True, priors={"lengthscale": [0.5, 2.0], "sigma": 0.3})
    prior = gplvm.sample_prior(model, draws=5, random_seed=1)
    assert set(prior["prior"].data_vars) == {"X", "amplitude"}
    np.testing.assert_array_equal(prior["constant_data"]["lengthscale"], [0.5, 2.0])
    z = prior["prior"]["X"].to_numpy()[0, 3] / [0.5, 2.0]
    found = check_prior(prior)["distance"].to_numpy()[3]
    assert found[[0, 50, 100]].tolist() == pytest.approx(
        [pdist(z).min(), np.median(pdist(z)), pdist(z).max()]
    )


def test_checks_of_the_table(prior, Y):
    checks = check_prior(prior)
    F = (Y.to_numpy() - Y.to_numpy().mean(axis=0)) / prior.constant_data["Y_scale"].to_numpy()
    assert float(checks["value_observed"][50]) == pytest.approx(np.median(F))
    shares = np.linalg.svd(F, compute_uv=False) ** 2
    np.testing.assert_allclose(checks["variance_observed"], shares / shares.sum(), rtol=1e-9)
    np.testing.assert_allclose(checks["variance"].sum("component"), 1.0)
    assert checks["component"].to_numpy().tolist() == [1, 2, 3, 4]
    assert checks.sizes["draw"] == 200


def test_a_fit_adds_its_distances(prior, Y):
    best = gplvm.fit_map(gplvm.build_model(Y), progressbar=False)
    z = best.posterior["X"].to_numpy()[0, 0] / best.posterior["lengthscale"].item()
    found = check_prior(prior, best)["distance_fit"]
    assert float(found[100]) == pytest.approx(pdist(z).max())


def test_a_model_of_ones_own(rng):
    with pm.Model() as model:
        X = pm.Normal("X", 0.0, 2.0, shape=(6, 1))
        K = pm.gp.cov.ExpQuad(1, ls=1.0)(X) + 0.1 * np.eye(6)
        gplvm.GPColumns("table", K, observed=rng.normal(size=(3, 6)))
    prior = gplvm.sample_prior(model, draws=50, random_seed=1)
    assert prior["prior_predictive"]["table"].shape == (1, 50, 3, 6)
    assert np.isfinite(check_prior(prior)["variance"]).all()


# Turned away


def test_flat_priors_cannot_be_drawn_from(Y):
    model = gplvm.build_model(Y, priors={"X": "flat", "sigma": "flat"})
    with pytest.raises(ValueError, match="proper priors to draw from, got flat ones of X, sigma"):
        gplvm.sample_prior(model)


@pytest.mark.parametrize("draws", [0, 1.5, True])
def test_wrong_draws(model, draws):
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1"):
        gplvm.sample_prior(model, draws=draws)


def test_a_covariance_that_cannot_be_drawn_from(Y):
    tiny = {"sigma": 1e-12, "lengthscale": 1e4, "amplitude": 1.0}
    with pytest.raises(ValueError, match="positive definite, got 3 of 3 that are not"):
        gplvm.sample_prior(gplvm.build_model(Y, priors=tiny, resolution=0), draws=3, random_seed=1)


def test_what_sample_prior_did_not_make(best):
    with pytest.raises(TypeError, match="prior must be a DataTree of sample_prior, got Dataset"):
        check_prior(xr.Dataset())
    with pytest.raises(ValueError, match="without prior, prior_predictive"):
        check_prior(best)
