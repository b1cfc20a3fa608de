"""X = g(Y): the map by another route, the prior that it stands for, and where new rows go."""

import numpy as np
import pytest
from conftest import simulated
from made import fit_of
from scipy.spatial.distance import pdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.model.priors import kind_of_prior
from pm_gplvm.model.spec import ModelSpec

N, Q = 16, 2
THETA = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4}


@pytest.fixture(scope="module")
def table():
    return simulated(N + 4, 5, seed=2)


@pytest.fixture(scope="module", params=["rbf", "linear"])
def kernel(request):
    return request.param


@pytest.fixture(scope="module")
def model(table, kernel):
    return gplvm.build_model(table[:N], priors={"X": gplvm.priors.back_constraint(kernel)})


@pytest.fixture(scope="module")
def fit(model):
    return gplvm.fit_map(model, random_seed=1, progressbar=False)


def similarity(kernel, F):
    if kernel == "rbf":
        return RBF(np.median(pdist(F)))(F)
    return F @ F.T / (F**2).sum(axis=1).mean()


def test_the_columns_of_X_have_the_covariance_of_the_kernel(model, fit, kernel):
    F, _, _ = Fit(fit).table()
    X = gplvm.sample_prior(model, draws=3000, random_seed=1)["prior"]["X"].to_numpy()[0]
    found = np.einsum("snq,smq->nm", X, X) / (3000 * Q)
    np.testing.assert_allclose(found, similarity(kernel, F), atol=0.15)


def test_the_mode_holds_X_in_the_span_of_the_kernel(model, fit, kernel):
    assert fit.attrs["converged"] == 1
    assert fit.attrs["kernel"] == "rbf"
    assert ModelSpec.of(model).prior.says is gplvm.priors.back_constraint
    assert kind_of_prior(Fit(fit).constants).mapped
    F, _, _ = Fit(fit).table()
    X = fit.posterior["X"].to_numpy()[0, 0]
    Phi = similarity(kernel, F)
    left = X - Phi @ np.linalg.lstsq(Phi, X, rcond=1e-10)[0]
    assert np.abs(left).max() < 1e-5


def test_the_gradient_goes_through_the_map(model, rng):
    objective = gplvm.model.compile_objective(model)
    shape = model["X_weights"].eval().shape
    at = {"X_weights": rng.standard_normal(shape), **THETA}
    _, gradient = objective(at)
    for index in [(0, 0), (2, 1)]:
        ends = []
        for step in (1e-5, -1e-5):
            moved = at["X_weights"].copy()
            moved[index] += step
            ends.append(objective({**at, "X_weights": moved})[0])
        assert gradient["X_weights"][index] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_new_rows_are_placed_by_the_regression_that_the_map_is(table, kernel, fit):
    new = table[N:]
    found = gplvm.embed(fit, new)["posterior"]["X"].to_numpy()[0, 0]
    F, mean, scale = Fit(fit).table()
    F_new, X = (new.to_numpy() - mean) / scale, fit.posterior["X"].to_numpy()[0, 0]
    if kernel == "rbf":
        unit = RBF(np.median(pdist(F)), "fixed")
        expected = (
            GaussianProcessRegressor(unit, alpha=1e-12, optimizer=None).fit(F, X).predict(F_new)
        )
    else:
        expected = F_new @ np.linalg.lstsq(F, X, rcond=None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_training_rows_lie_where_they_lay(table, fit):
    new = gplvm.embed(fit, table[:N])
    np.testing.assert_allclose(new["posterior"]["X"][0, 0], fit.posterior["X"][0, 0], atol=1e-6)
    assert (new["rows"]["effective_modes"] == 1.0).all()


def test_draws_that_were_aligned_are_placed_in_their_frame(model, table, rng):
    shape = model["X_weights"].eval().shape
    weights = rng.standard_normal((1, 4, *shape))
    basis = np.linalg.lstsq(
        ModelSpec.of(model).weights_of(np.eye(N)), np.eye(shape[0]), rcond=None
    )[0]
    fit = fit_of(model, basis @ weights, X_weights=weights, **THETA)
    turned = gplvm.align(fit, to=rng.standard_normal((N, Q)))
    new = gplvm.embed(turned, table[:N])["posterior"]["X"].to_numpy()
    np.testing.assert_allclose(new, turned["aligned"]["X"].to_numpy(), atol=1e-6)


def test_weights_are_those_of_given_positions(model, fit):
    weights = fit.posterior["X_weights"].to_numpy()[0, 0]
    found = ModelSpec.of(model).weights_of(fit.posterior["X"].to_numpy()[0, 0])
    np.testing.assert_allclose(found, weights, atol=1e-5)


def test_starts_lead_there(model, rng):
    for start in ("isomap", rng.standard_normal((N, Q))):
        fit = gplvm.fit_map(model, start=start, random_seed=1, progressbar=False)
        assert fit.posterior["X"].to_numpy().std() > 0.05
    with pytest.raises(ValueError, match=r"start must give X finite values in the shape \(16, 2\)"):
        gplvm.fit_map(model, start=np.zeros((3, 2)))


@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning")
def test_theta_and_all_are_drawn(model, fit):
    quiet = {"random_seed": 1, "progressbar": False}
    with pytest.warns(RuntimeWarning, match="has not converged"):
        theta = gplvm.sample_theta(model, fit, draws=20, tune=20, chains=1, **quiet)
    assert set(theta.posterior.data_vars) == {"lengthscale", "amplitude", "sigma"}
    np.testing.assert_allclose(theta.constant_data["X"], fit.posterior["X"][0, 0])
    full = gplvm.sample(model, start=fit, draws=5, tune=10, chains=1, replicas=1, **quiet)
    assert full.posterior["X"].shape == (1, 5, N, Q)
    full = gplvm.align(full, to=fit)
    assert gplvm.predict(full, np.zeros((1, Q)))["mean"].notnull().all()


def test_the_weights_can_be_integrated_out(kernel):
    """X is then the mode given θ, in the span of the kernel, and has the scale of its prior."""
    Y = simulated(30, 10, seed=2, noise=0.3)
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.back_constraint(kernel)})
    fit = gplvm.fit_marginal(model, tol=1e-8, random_seed=1, progressbar=False)
    assert (fit.attrs["method"], fit.attrs["converged"]) == ("marginal", 1)
    point = {n: v.to_numpy()[0, 0] for n, v in fit.posterior.data_vars.items() if n != "X"}
    _, gradient = gplvm.model.compile_objective(model)(point)
    assert np.abs(gradient["X_weights"]).max() < 1e-2
    X = fit.posterior["X"].to_numpy()[0, 0]
    np.testing.assert_allclose(ModelSpec.of(model).weights_of(X), point["X_weights"], atol=1e-5)
    joint = gplvm.fit_map(model, random_seed=1, progressbar=False)
    assert joint.posterior["sigma"].item() < fit.posterior["sigma"].item()
    assert joint.posterior["X"].std() < X.std()


def test_a_row_with_holes_is_placed_by_its_density_only(table, fit):
    new = table[N:].where(table["feature"] != "column1")
    with pytest.raises(ValueError, match=r"embed needs whole rows .* prior=\(0\.0, 1\.0\)"):
        gplvm.embed(fit, new)
    for function in (gplvm.impute, gplvm.log_predictive):
        with pytest.raises(ValueError, match="needs a density of the place of a new row"):
            function(fit, new)
    filled = gplvm.impute(fit, new, prior=(0.0, 1.0), random_seed=1)
    assert np.isfinite(filled["mean"]).all()


def test_a_table_with_holes_is_refused(table):
    holes = table.where(np.random.default_rng(0).random(table.shape) > 0.1)
    with pytest.raises(ValueError, match="back_constraint needs a complete Y"):
        gplvm.build_model(holes, missing="mask", priors={"X": gplvm.priors.back_constraint()})


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"kernel": "matern32"}, "kernel must be 'rbf' or 'linear'"),
        ({"lengthscale": -1.0}, "lengthscale must be a finite number above 0"),
        ({"kernel": "linear", "lengthscale": 1.0}, "lengthscale must be None with the kernel"),
    ],
)
def test_arguments_out_of_range(settings, wrong):
    with pytest.raises(ValueError, match=wrong):
        gplvm.priors.back_constraint(**settings)
