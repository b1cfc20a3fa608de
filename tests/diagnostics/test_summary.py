"""The summary of every kind of fit: what it was, how it ended, θ in units, what comes next."""

import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from oracles import kernel_matrix

import pm_gplvm as gplvm

QUIET = {"progressbar": False, "random_seed": 1}


@pytest.fixture(scope="module")
def table():
    return simulated(30, 10, noise=0.3)


@pytest.fixture(scope="module")
def fits(table):
    """One of every kind, by its method."""
    model = gplvm.build_model(table)
    best = gplvm.fit_marginal(model, **QUIET)
    linear = gplvm.build_model(table, kernel="linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {
            "marginal": best,
            "map": gplvm.fit_map(model, **QUIET),
            "linear": gplvm.fit_linear(linear),
            "laplace": gplvm.fit_laplace(model, start=best, draws=40, **QUIET),
            "sparse": gplvm.fit_sparse(model, n_inducing=8, **QUIET),
            "variational": gplvm.fit_variational(model, n_inducing=8, max_iter=50, **QUIET),
            "stochastic": gplvm.fit_stochastic(model, steps=200, **QUIET),
            "add_rows": gplvm.add_rows(best, table[:3].to_numpy() + 0.1, steps=20, **QUIET),
            "nuts_theta": gplvm.sample_theta(model, best, draws=300, tune=300, **QUIET),
            "replica_exchange": gplvm.sample(
                model, draws=20, tune=10, replicas=1, chains=2, **QUIET
            ),
        }
    return made


SAYS = {
    "marginal": ("Converged", "fit_laplace(model, start=fit)"),
    "map": ("", "fit_marginal(model, start=fit)"),
    "linear": ("", "sample(model)"),
    "laplace": ("40 draws about a mode; Pareto k", "sample(model)"),
    "sparse": ("Converged", "sample(model)"),
    "variational": ("100 draws from q(X)", "fit_variational(model, start=fit)"),
    "stochastic": ("Ended after 200 steps", "fit_map(model, start=fit)"),
    "add_rows": ("Ended after 20 steps", "sample_theta(model, fit)"),
    "nuts_theta": ("4 chains of 300 draws", "X is held"),
    "replica_exchange": ("2 chains of 20 draws do not agree", "align(fit)"),
}


@pytest.mark.parametrize("method", SAYS)
def test_every_kind_of_fit(fits, method, tmp_path):
    fit = fits[method]
    told = gplvm.summary(fit)
    ended, advice = SAYS[method]
    text = str(told)
    assert fit.attrs["method"] == method
    assert ended in text
    assert advice in " ".join(told.advice)
    N = fit["observed_data"].sizes["obs"]
    assert text.startswith(f"Table Y: {N} rows and 10 columns, complete.")
    assert told.warned == tuple(gplvm.summary(fit).warned)
    assert 0.0 < told.noise < 1.5
    assert 0.0 < told.explained <= 1.0
    drawn = method in ("laplace", "nuts_theta", "replica_exchange")
    assert told.theta["low"].notna().any() == drawn
    html = told._repr_html_()
    assert "<table" in html
    assert "Next: " in html
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert str(gplvm.summary(read)) == text


def test_the_numbers_are_those_of_the_model(table, fits):
    fit = fits["marginal"]
    told, values = gplvm.summary(fit), fit["posterior"].isel(chain=0, draw=0)
    scale = float(fit["constant_data"]["Y_scale"].to_numpy().flat[0])
    theta = {name: float(values[name]) for name in ("lengthscale", "amplitude")}
    sigma = float(np.hypot(values["sigma"], fit["constant_data"]["Y_resolution"]))
    assert told.theta.loc["lengthscale", "value"] == pytest.approx(theta["lengthscale"])
    assert told.theta.loc["amplitude", "value"] == pytest.approx(scale * theta["amplitude"])
    assert told.theta.loc["noise (sigma)", "value"] == pytest.approx(scale * sigma)
    F = (table.to_numpy() - table.to_numpy().mean(axis=0)) / scale
    K = kernel_matrix("rbf", values["X"].to_numpy(), **theta) + sigma**2 * np.eye(len(F))
    rest = sigma**2 * np.linalg.solve(K, F)
    assert told.explained == pytest.approx(1.0 - (rest**2).sum() / (F**2).sum(), rel=1e-8)
    assert told.noise == pytest.approx(sigma**2 / (F**2).mean(), rel=1e-8)


def test_holes_columns_and_dimensions_are_told(table):
    holes = table.copy()
    holes[0, 0] = np.nan
    model = gplvm.build_model(holes, missing="mask", noise="column", ard=True, kernel="rbf + bias")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = gplvm.summary(gplvm.fit_marginal(model, max_iter=30, **QUIET))
    assert "0.33 % missing" in told.fitted[0]
    for words in ("kernel rbf + bias", "a lengthscale of each dimension", "a noise of each column"):
        assert words in told.fitted[1]
    assert {"lengthscale[0]", "lengthscale[1]", "noise (sigma), median of columns"} <= set(
        told.theta.index
    )


def test_it_says_what_went_wrong(table, ctrl_c):
    with pytest.warns(RuntimeWarning) as warned:
        fit = gplvm.fit_map(gplvm.build_model(table), max_iter=2, **QUIET)
    told = gplvm.summary(fit)
    assert told.ended[0].startswith("Not converged: the limit of iterations")
    assert told.warned == tuple(str(w.message) for w in warned)
    assert told.advice == ["Go on from here: fit_map(model, start=fit), or raise max_iter."]
    noise = np.random.default_rng(0).standard_normal((30, 4))
    with pytest.warns(RuntimeWarning, match="no structure"):
        fit = gplvm.fit_marginal(gplvm.build_model(noise), **QUIET)
    told = gplvm.summary(fit)
    assert "no structure found" in told.ended[0]
    assert "fewer latent dimensions" in told.advice[0]
    from pm_gplvm.fitting import optimise

    ctrl_c(optimise._Run, "negative", 8)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        fit = gplvm.fit_map(gplvm.build_model(table), **QUIET)
    assert gplvm.summary(fit).ended[0] == "Interrupted: it is what there was."


def test_draws_of_pymc_itself(table, mode):
    model = gplvm.build_model(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pm.sample(
            model=model, draws=20, tune=10, chains=2, cores=1, random_seed=1,
            progressbar=False, compile_kwargs={"mode": mode},
        )  # fmt: skip
    told = gplvm.summary(fit)
    assert "PyMC" in told.fitted[2]
    assert np.isnan(told.explained)
    assert "2 chains of 20 draws" in told.ended[0]


@pytest.mark.parametrize("wrong", [None, {"a": 1}, "fit.nc"])
def test_no_fit(wrong):
    with pytest.raises(TypeError, match="summary needs a fit"):
        gplvm.summary(wrong)
