"""A fit speaks PyMC and ArviZ: every kind of fit, and each of their functions."""

import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated

import pm_gplvm as gplvm

QUIET = {"random_seed": 1, "progressbar": False}
FEW = {"draws": 40, "tune": 60, "chains": 2}

ONE = ("map", "marginal", "linear", "sparse", "stochastic")  # an estimate: one draw
MANY = ("laplace", "variational", "sample", "sample_theta")
INDUCING = ("sparse", "variational")


@pytest.fixture(scope="module")
def models():
    Y = simulated()
    return {
        "rbf": gplvm.build_model(Y),
        "linear": gplvm.build_model(Y, kernel="linear"),
    }


@pytest.fixture(scope="module")
def fits(models):
    rbf = models["rbf"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too short to have converged
        best = gplvm.fit_map(rbf, **QUIET)
        return {
            "map": best,
            "marginal": gplvm.fit_marginal(rbf, **QUIET),
            "linear": gplvm.fit_linear(models["linear"]),
            "sparse": gplvm.fit_sparse(rbf, n_inducing=6, **QUIET),
            "stochastic": gplvm.fit_stochastic(rbf, **QUIET),
            "laplace": gplvm.fit_laplace(rbf, draws=40, **QUIET),
            "variational": gplvm.fit_variational(rbf, n_inducing=6, draws=40, **QUIET),
            "sample": gplvm.sample(rbf, start=best, replicas=1, **FEW, **QUIET),
            "sample_theta": gplvm.sample_theta(rbf, best, **FEW, **QUIET),
        }


def own_model(name, models):
    return models["linear" if name == "linear" else "rbf"]


@pytest.fixture(params=["given", "rebuilt"])
def model_of(request, models, fits):
    """The model of a fit, the one it was made of or the one made of it."""

    def find(name):
        if request.param == "rebuilt":
            return gplvm.model.rebuild(fits[name], hold=True)
        model, constant = own_model(name, models), fits[name]["constant_data"]
        return pm.do(model, {"X": constant["X"].to_numpy()}) if "X" in constant else model

    return find


def one_draw(fit, times):
    """The first draw of a fit, so many times; of the exact model with the same X and θ."""
    groups = {
        name: group.to_dataset()
        for name, group in fit.children.items()
        if name in ("posterior", "observed_data", "constant_data")
    }
    first = groups["posterior"].isel(chain=[0], draw=[0] * times)
    groups["posterior"] = first.assign_coords(draw=np.arange(times))
    made = xr.DataTree.from_dict(groups)
    made.attrs = fit.attrs
    return made


@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_posterior_predictive_draws_are_those_of_the_fits_x_and_theta(name, fits, model_of, mode):
    """Tables of PyMC tell K = A + s² I; from it follow the mean and sd of sample_predictive at X itself.

    These are (I - s² K⁻¹) F and s² I - s⁴ K⁻¹, with s² I the noise.
    """
    S = 4000
    fit = one_draw(fits[name], S)
    drawn = pm.sample_posterior_predictive(
        fit,
        model=model_of(name),
        random_seed=1,
        progressbar=False,
        compile_kwargs={"mode": mode},
    )["posterior_predictive"]
    assert set(drawn.data_vars) == {"Y"}
    constant, observed = fit["constant_data"], fit["observed_data"]["Y"].transpose("obs", "feature")
    centre, scale = constant["Y_mean"].to_numpy(), constant["Y_scale"].to_numpy()
    tables = (
        drawn["Y"].transpose("draw", "feature", "obs", ...).to_numpy()[..., 0] - centre[:, None]
    ) / (scale[:, None])
    np.testing.assert_allclose(
        tables.mean(axis=(0, 1)), 0.0, atol=5 * tables.std() / np.sqrt(S * len(scale))
    )
    rows = tables.reshape(-1, tables.shape[-1])
    inverse = np.linalg.inv(rows.T @ rows / len(rows))
    noise = np.hypot(fit.posterior["sigma"].to_numpy()[0, 0], constant["Y_resolution"]).item() ** 2
    F = (observed.to_numpy() - centre) / scale
    mean = centre + scale * (F - noise * inverse @ F)
    variance = noise - noise**2 * np.diag(inverse)

    ours = one_draw(fits[name], 1)
    X = (
        fits[name].posterior["X"]
        if name != "sample_theta"
        else constant["X"].expand_dims(["chain", "draw"])
    )
    predicted = gplvm.sample_predictive(ours, X.to_numpy()[0, 0], num_samples=S, random_seed=2)[
        "predictions"
    ]["Y"].to_numpy()[0]
    found = (predicted / scale).var(axis=0).mean(axis=1)
    error = scale * np.sqrt(noise) * (5 / np.sqrt(S) + 5 * np.sqrt(F.shape[0] / len(rows)))
    np.testing.assert_array_less(
        abs(predicted.mean(axis=0) - mean), np.broadcast_to(error, mean.shape)
    )
    error = 5 * np.sqrt(2 / len(rows)) * (noise + found)
    np.testing.assert_array_less(abs(found - variance), error)


@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_log_likelihood_and_log_prior_of_pymc(name, fits, model_of, mode):
    fit, compiled = fits[name].copy(), {"mode": mode}
    pm.stats.compute_log_likelihood(
        fit, model=model_of(name), progressbar=False, compile_kwargs=compiled
    )
    pm.stats.compute_log_prior(
        fit, model=model_of(name), progressbar=False, compile_kwargs=compiled
    )
    draws = fits[name].posterior.sizes
    by_feature = fit["log_likelihood"]["Y"]
    assert dict(by_feature.sizes) == {"chain": draws["chain"], "draw": draws["draw"], "feature": 4}
    ours = gplvm.diagnostics.compute_log_prior(fits[name])
    assert "log_prior" not in fits[name].children
    assert set(ours["log_prior"].data_vars) == set(fits[name].posterior.data_vars)
    xr.testing.assert_allclose(ours["log_prior"].to_dataset(), fit["log_prior"].to_dataset())
    if name not in INDUCING:  # of these it is the bound's own
        known = gplvm.diagnostics.compute_log_likelihood(fits[name])["log_likelihood"]["Y"]
        np.testing.assert_allclose(by_feature, known, rtol=1e-8)


# What does not vary, one draw or the θ of the variational fit, has no R-hat.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_summary_and_trace_plot(name, fits):
    fit = fits[name]
    table = az.summary(fit)
    assert float(table.loc["sigma", "mean"]) == pytest.approx(
        fit.posterior["sigma"].mean().item(), rel=0.1, abs=0.01
    )
    shown = az.plot_trace(fit, var_names=["sigma"])
    assert shown.viz["figure"].item() is not None


def with_both(fit):
    return gplvm.diagnostics.compute_log_prior(gplvm.diagnostics.compute_log_likelihood(fit))


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", MANY)
def test_loo_and_sensitivity_of_draws(name, fits):
    fit = with_both(fits[name])
    loo = az.loo(fit, pointwise=True)
    assert loo.elpd_i.dims == ("feature",)
    assert np.isfinite(loo.elpd)
    table = az.psense_summary(fit, var_names=["sigma", "lengthscale"])
    assert list(table.index) == ["sigma", "lengthscale"]
    # θ of the variational fit is a point, and does not move with its prior.
    assert np.isfinite(table[["prior", "likelihood"]].to_numpy()).all() == (name != "variational")


@pytest.mark.filterwarnings("ignore:Number of tail draws")
@pytest.mark.parametrize("name", ONE)
def test_an_estimate_has_no_loo_of_arviz_but_one_of_ours(name, fits):
    """ArviZ smooths the tail of the draws, and one draw has none; so the docstring says."""
    fit = with_both(fits[name])
    for of_draws in (az.loo, az.psense_summary):
        with pytest.raises(IndexError, match="out of bounds"):
            of_draws(fit)
    assert "IndexError" in gplvm.diagnostics.compute_log_likelihood.__doc__
    if name not in INDUCING:
        scores = gplvm.diagnostics.leave_one_out(fits[name])["log_score"]
        assert np.isfinite(scores).all()


def test_models_that_are_not_the_fits_are_refused(fits, models):
    other = gplvm.build_model(simulated(), kernel="rbf + bias")
    with pytest.raises(ValueError, match="must be that of the fit, got one with bias"):
        gplvm.diagnostics.compute_log_prior(fits["map"], model=other)
    with pytest.raises(TypeError, match=r"model must be a pm\.Model or None, got str"):
        gplvm.diagnostics.compute_log_prior(fits["map"], model="rbf")
    with pytest.raises(TypeError, match="compute_log_prior needs a fit"):
        gplvm.diagnostics.compute_log_prior(models["rbf"])
    with pytest.raises(TypeError, match="hold must be True or False, got 'no'"):
        gplvm.model.rebuild(fits["map"], hold="no")
    given = gplvm.diagnostics.compute_log_prior(fits["sample_theta"], model=models["rbf"])
    assert "X" not in given["log_prior"]
