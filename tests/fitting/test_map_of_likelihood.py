"""The mode of models with a likelihood, f integrated out by Laplace's approximation."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

import pm_gplvm as gplvm

likelihoods = gplvm.likelihoods
QUIET = {"random_seed": 1, "progressbar": False}


def counts(seed=1, N=60, D=20):
    """Counts of smooth functions of two latent positions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, 2))
    K = np.exp(-0.5 * ((X[:, None] - X[None]) ** 2).sum(-1) / 1.5**2) + 1e-8 * np.eye(N)
    F = np.linalg.cholesky(K) @ rng.normal(size=(N, D))
    return X, rng.poisson(np.exp(F)).astype(float)


@pytest.fixture(scope="module")
def fitted():
    X, Y = counts()
    model = gplvm.build_model(Y, likelihood="poisson")
    return X, Y, model, gplvm.fit_map(model, **QUIET)


def test_it_finds_positions_better_than_what_takes_counts_for_gaussian(fitted):
    X, Y, _, fit = fitted
    logs = np.log1p(Y)
    usual = gplvm.fit_map(gplvm.build_model(logs), **QUIET)
    found, gaussian = (
        trustworthiness(X, each.posterior["X"][0, 0], n_neighbors=10) for each in (fit, usual)
    )
    assert found > trustworthiness(X, PCA(2).fit_transform(logs), n_neighbors=10) + 0.03
    assert found > gaussian + 0.03


def test_what_comes_back(fitted):
    _, Y, model, fit = fitted
    posterior, stats = fit.posterior, fit["sample_stats"]
    assert set(posterior.data_vars) == {"X", "lengthscale", "amplitude", "level", "f"}
    assert posterior["f"].dims == ("chain", "draw", "obs", "feature")
    assert fit.attrs["method"] == "map"
    assert fit.attrs["kernel"] == "rbf"
    assert fit.attrs["converged"] == 1
    np.testing.assert_array_equal(fit["observed_data"]["Y"], Y)
    # f is the mode: its weights are the slope of ln p, and K⁻¹(f - level)
    f, group = posterior["f"].to_numpy()[0, 0], fit["laplace"]
    np.testing.assert_allclose(group["weights"], Y - np.exp(f), atol=1e-4)
    np.testing.assert_allclose(group["curvature"], np.exp(f), rtol=1e-9)
    X, theta = posterior["X"][0, 0].to_numpy(), float(posterior["lengthscale"][0, 0])
    d2 = ((X[:, None] - X[None]) ** 2).sum(-1) / theta**2
    K = float(posterior["amplitude"][0, 0]) ** 2 * np.exp(-0.5 * d2)
    np.testing.assert_allclose(
        posterior["level"][0, 0].to_numpy() + K @ group["weights"].to_numpy(), f, atol=1e-8
    )
    likelihood, lp = float(stats["log_likelihood"][0, 0]), float(stats["lp"][0, 0])
    np.testing.assert_allclose(group["log_likelihood"].sum(), likelihood, rtol=1e-9)
    np.testing.assert_allclose(lp, fit["optima"]["objective"][0], rtol=1e-9)
    free = [rv for rv in model.free_RVs if rv.name != "v"]
    priors = pm.compile(
        [model.rvs_to_values[rv] for rv in free],
        model.logp(vars=free, jacobian=False),
        mode=gplvm.model.compile_mode(),
    )
    values = [posterior[rv.name][0, 0].to_numpy() for rv in free]
    values = [
        v if "log__" not in model.rvs_to_values[rv].name else np.log(v)
        for rv, v in zip(free, values, strict=True)
    ]
    np.testing.assert_allclose(priors(*values), lp - likelihood, rtol=1e-9)


def test_it_is_saved_and_loaded(fitted, tmp_path):
    fit = fitted[3]
    loaded = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    for name, group in fit.children.items():
        xr.testing.assert_equal(loaded[name].to_dataset(), group.to_dataset())


def test_it_goes_on_from_a_fit_and_from_that_by_minibatches(fitted):
    _, _, model, fit = fitted
    again = gplvm.fit_map(model, start=fit, **QUIET)
    lp = float(fit["sample_stats"]["lp"][0, 0])
    assert float(again["sample_stats"]["lp"][0, 0]) > lp - 0.01
    assert int(again["optima"]["evaluations"][0]) < int(fit["optima"]["evaluations"][0])
    other = gplvm.fit_svi(model, epochs=20, draws=1, **QUIET)
    further = gplvm.fit_map(model, start=other, **QUIET)
    assert further.attrs["converged"] == 1


@pytest.mark.parametrize(
    ("likelihood", "names"),
    [
        ("negative_binomial", {"dispersion"}),
        ("ordinal", {"gaps", "cuts"}),
        ({tuple(range(3)): "poisson", (3, 4, 5): "lognormal"}, {"sigma_lognormal"}),
    ],
)
def test_parameters_of_likelihoods_are_found(likelihood, names):
    _, Y = counts(3, N=30, D=6)
    Y = np.minimum(Y, 3.0)
    if isinstance(likelihood, dict):
        Y[:, 3:] += 0.5
    model = gplvm.build_model(Y, likelihood=likelihood)
    fit = gplvm.fit_map(model, **QUIET)
    assert names <= set(fit.posterior.data_vars)
    assert fit.attrs["converged"] == 1


def test_an_offset_is_taken_off():
    """Twice the exposure, twice the counts expected: the level is that of one exposure."""
    _, Y = counts(4, N=30, D=6)
    offset = np.linspace(0.0, 2.0, 30)
    settings = {"likelihood": "poisson", "priors": {"X": np.zeros((30, 1)), "amplitude": 1e-3}}
    fit = gplvm.fit_map(
        gplvm.build_model(Y, 1, offset=offset, ard=False, **settings), relocate=False, **QUIET
    )
    rate = Y.sum(axis=0) / np.exp(offset).sum()
    # with the prior N(start, 1) about that very rate
    np.testing.assert_allclose(fit.posterior["level"][0, 0], np.log(rate), atol=1e-3)


def test_restarts_and_processes_serve(fitted):
    _, _, model, fit = fitted
    found = gplvm.fit_map(model, n_restarts=2, max_iter=30, **QUIET)
    assert found["optima"].sizes["start"] == fit["optima"].sizes["start"] + 2


def test_other_backends_are_refused(fitted):
    with pytest.raises(ValueError, match="backend must be 'python' for a model with a likelihood"):
        gplvm.fit_map(fitted[2], backend="jax")


def test_the_estimator_fits_it_where_it_is_asked_for():
    _, Y = counts(5, N=30, D=6)
    estimator = gplvm.GPLVM(likelihood="poisson", inference="map", random_state=1)
    X = estimator.fit_transform(Y)
    assert estimator.fit_.attrs["method"] == "map"
    assert "weight" in estimator.fit_.posterior
    np.testing.assert_allclose(estimator.transform(Y)[:3], X[:3])
    assert np.isfinite(estimator.score(Y))
    again = gplvm.GPLVM.from_fit(estimator.fit_)
    assert (again.likelihood, again.inference) == ("poisson", "map")
    assert again.fit(Y).embedding_.shape == (30, 2)
    sized = gplvm.GPLVM(likelihood="poisson", offset="size", inference="map", random_state=1)
    assert sized.fit(Y).transform(Y[:2] * 2.0).shape == (2, 2)
    assert sized.fit_.attrs["size_median"] == np.median(Y.sum(axis=1))


def test_trials_of_each_entry_and_offsets_stand_in_the_fit():
    rng = np.random.default_rng(6)
    trials = rng.integers(5, 20, (30, 4))
    Y = rng.binomial(trials, 0.4).astype(float)
    offset = rng.normal(size=30) * 0.1
    model = gplvm.build_model(Y, likelihood=likelihoods.binomial(trials), offset=offset)
    fit = gplvm.fit_map(model, **QUIET)
    np.testing.assert_array_equal(fit["constant_data"]["Y_entry"], trials)
    found = gplvm.reconstruct(fit, noise=True)
    assert (found["mean"] <= trials).all()
    with pytest.raises(ValueError, match="cannot tell the numbers of trials of new rows"):
        gplvm.predict(fit, np.zeros((1, 2)))
    other = gplvm.build_model(Y, likelihood=likelihoods.binomial(20), offset=offset)
    with pytest.raises(ValueError, match="needs the offset of each new row"):
        gplvm.embed(gplvm.fit_map(other, **QUIET), Y[:1])


def test_summary_says_what_it_is(fitted):
    told = gplvm.summary(fitted[3])
    assert "likelihood poisson" in " ".join(told.fitted)
    assert "fit_svi(model, start=fit)" in told.advice[0]
    assert told.explained > 0.1
