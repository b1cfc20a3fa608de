"""Scores of single entries: against densities written out, and even residuals where the model is right."""

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from made import fit_of
from scipy.special import logsumexp
from scipy.stats import kstest, nbinom, norm, poisson

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction.uncollapsed import Uncollapsed

score = gplvm.diagnostics.score_entries
likelihoods = gplvm.likelihoods
QUIET = {"progressbar": False, "random_seed": 1}


def test_of_draws_the_densities_are_averaged(Y):
    X = np.random.default_rng(3).standard_normal((2, 4, 12, 2))
    model = gplvm.build_model(Y, resolution=0)
    fit = fit_of(model, X, lengthscale=0.8, amplitude=1.3, sigma=0.4)
    each = [
        gplvm.reconstruct(fit.isel(chain=[c], draw=[d]), noise=True)
        for c in range(2)
        for d in range(4)
    ]
    right = [norm(one["mean"].to_numpy(), one["sd"].to_numpy()) for one in each]
    found = score(fit, Y)
    logs = logsumexp([n.logpdf(Y) for n in right], axis=0) - np.log(8)
    u = np.mean([n.cdf(Y) for n in right], axis=0)
    np.testing.assert_allclose(found["log_density"], logs, rtol=1e-9)
    np.testing.assert_allclose(found["quantile"], u, rtol=1e-9)
    np.testing.assert_allclose(found["residual"], norm.ppf(u), rtol=1e-9)
    assert found["label"].dims == ("obs",)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(2)
    x = rng.uniform(-2.0, 2.0, (200, 1))
    Y = rng.poisson(np.exp(1.0 + np.sin(x + np.arange(8.0)))).astype(float)
    hidden = rng.random(Y.shape) < 0.2
    seen = np.where(hidden, np.nan, Y)
    return Y, hidden, gplvm.fit_svi(seen, 1, likelihood="poisson", epochs=60, **QUIET)


def test_of_counts_they_are_mixed_over_f_and_the_position(counts):
    Y, _, fit = counts
    q = fit["approximation"]
    rng = np.random.default_rng(0)
    row = 5
    x = q["X_mean"][row].to_numpy() + q["X_sd"][row].to_numpy() * rng.standard_normal((20_000, 1))
    mean, variance = Uncollapsed.of(Fit(fit)).moments(x)
    rates = np.exp(mean + np.sqrt(variance) * rng.standard_normal(mean.shape))
    logs = np.log(poisson.pmf(Y[row], rates).mean(axis=0))
    below = poisson.cdf(Y[row] - 1.0, rates).mean(axis=0)
    found = score(fit, Y)
    np.testing.assert_allclose(found["log_density"][row], logs, atol=0.01)
    u, log_density = (found[name][row].to_numpy() for name in ("quantile", "log_density"))
    assert (u > below - 0.01).all()
    assert (u < below + np.exp(log_density) + 0.01).all()


def test_residuals_are_even_where_the_model_is_right(counts):
    Y, hidden, fit = counts
    u = score(fit, Y, random_seed=3)["quantile"].to_numpy()[hidden]
    assert kstest(u, "uniform").pvalue > 0.01
    gaussian = gplvm.fit_svi(np.where(hidden, np.nan, Y), 1, epochs=60, **QUIET)
    other = score(gaussian, Y)
    assert kstest(other["quantile"].to_numpy()[hidden], "uniform").pvalue < 0.01
    # A density of the Gaussian is that of a whole number, as numbers lie 1 apart.
    best = score(fit, Y)["log_density"].to_numpy()[hidden].mean()
    assert best > other["log_density"].to_numpy()[hidden].mean() + 0.05


def test_of_the_modes_of_f(counts):
    Y, hidden, _ = counts
    few = np.where(hidden, np.nan, Y)[:40]
    model = gplvm.build_model(few, 1, likelihood="poisson", missing="mask")
    fit = gplvm.fit_map(model, **QUIET)
    found = score(fit, Y[:40])
    filled = gplvm.reconstruct(fit)
    near = poisson.logpmf(Y[:40], filled["mean"].to_numpy())
    assert np.corrcoef(near.ravel(), found["log_density"].to_numpy().ravel())[0, 1] > 0.9


def test_units_are_those_of_the_table():
    Y = simulated(20, 3, seed=1).to_numpy()
    fits = [gplvm.fit_map(gplvm.build_model(k * Y), **QUIET) for k in (1.0, 100.0)]
    one, other = (score(fit, k * Y) for fit, k in zip(fits, (1.0, 100.0), strict=True))
    np.testing.assert_allclose(other["log_density"], one["log_density"] - np.log(100.0), atol=1e-3)


def test_rows_and_columns_join_by_label(Y):
    frame = Y.to_pandas().set_axis(list("abcdefghijkl")).set_axis(list("wxyz"), axis=1)
    fit = gplvm.fit_map(gplvm.build_model(frame), **QUIET)
    right, turned = score(fit, frame), score(fit, frame.iloc[::-1, ::-1])
    np.testing.assert_array_equal(right["log_density"], turned["log_density"])
    some = frame.where(frame > 0.0)
    np.testing.assert_array_equal(score(fit, some)["quantile"].isnull(), some.isna())
    with pytest.raises(ValueError, match="Y must have the 4 columns of the fit's table, got 3"):
        score(fit, frame.iloc[:, :3])
    with pytest.raises(ValueError, match="Y must have"):
        score(fit, frame.iloc[:5])
    with pytest.raises(ValueError, match="Y must have the 12 rows of the fit's table, got 5"):
        score(fit, frame.to_numpy()[:5])


def test_values_that_the_likelihood_cannot_give(counts):
    Y, _, fit = counts
    with pytest.raises(ValueError, match=r"counts \(whole numbers of at least 0\).*got 1.5"):
        score(fit, Y * 0.5 + 0.5)


def test_the_dispersion_is_used():
    rng = np.random.default_rng(4)
    Y = rng.poisson(rng.gamma(2.0, 2.0, (300, 4))).astype(float)
    fit = gplvm.fit_svi(Y, 1, likelihood="negative_binomial", epochs=40, **QUIET)
    found = score(fit, pd.DataFrame(Y))["log_density"].to_numpy()
    right = nbinom(2.0, 2.0 / (2.0 + 4.0)).logpmf(Y)
    assert found.mean() == pytest.approx(right.mean(), abs=0.05)
