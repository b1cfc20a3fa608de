"""The sampler of X and θ against integrals, itself, and the users' mistakes."""

import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from oracles import kernel_matrix
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, qmc

import pm_gplvm as gplvm
from pm_gplvm.sampling import joint, replicas

THETA = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.5}
QUIET = {"progressbar": False, "random_seed": 1}


def small_model(n=5, d=2, **priors):
    Y = simulated(n, d, seed=4).to_numpy()
    return Y, gplvm.build_model(Y, latent_dim=1, priors={**THETA, **priors}, resolution=0)


def by_integration(Y):
    """Posterior of one-dimensional positions under N(0, 1), θ held, by Sobol points of the prior.

    Positions (S, N), their log-weights, and ln p(Y).
    """
    N, D = Y.shape
    X = norm.ppf(qmc.Sobol(N, seed=0).random_base2(18))
    F = Y - Y.mean(axis=0)
    scale = np.sqrt((F**2).mean())
    r2 = ((X[:, :, None] - X[:, None, :]) / THETA["lengthscale"]) ** 2
    K = THETA["amplitude"] ** 2 * np.exp(-0.5 * r2) + THETA["sigma"] ** 2 * np.eye(N)
    quad = np.einsum("nd,snm,md->s", F, np.linalg.inv(K), F) / scale**2
    log_likelihood = -0.5 * (quad + D * np.linalg.slogdet(K)[1] + N * D * np.log(2 * np.pi))
    log_evidence = logsumexp(log_likelihood) - np.log(len(X))
    return X, log_likelihood - logsumexp(log_likelihood), log_evidence - N * D * np.log(scale)


@pytest.fixture(scope="module")
def integrated():
    Y, model = small_model()
    return model, *by_integration(Y)


@pytest.fixture(scope="module")
def tempered(integrated):
    """Draws from the prior up to the posterior."""
    return gplvm.sample(
        integrated[0], draws=500, tune=150, chains=4, replicas=6, beta_min=0.0, **QUIET
    )


def check_moments(fit, grid, log_weights):
    X = fit["posterior"]["X"].to_numpy()[..., 0]
    weights = np.exp(log_weights)
    for i, j in ((0, 1), (1, 3), (2, 4)):
        found = np.abs(X[..., i] - X[..., j])
        exact = np.abs(grid[:, i] - grid[:, j])
        mean = weights @ exact
        sd = np.sqrt(weights @ (exact - mean) ** 2)
        # Four standard errors at an effective size that the draws surely have.
        error = 4.0 * sd / np.sqrt(200.0)
        assert found.mean() == pytest.approx(mean, abs=error)
        assert found.std() == pytest.approx(sd, rel=0.15)
    assert (X**2).mean() == pytest.approx(weights @ (grid**2).mean(axis=1), rel=0.1)


def test_untempered_draws_against_numerical_integration(integrated):
    model, grid, log_weights, _ = integrated
    settings = {"draws": 500, "tune": 150, "chains": 4, "replicas": 1, "backend": "python"}
    fit = gplvm.sample(model, **settings, **QUIET)
    assert fit.attrs["backend"] == "python"
    check_moments(fit, grid, log_weights)


def test_tempered_draws_against_numerical_integration(integrated, tempered):
    _, grid, log_weights, _ = integrated
    check_moments(tempered, grid, log_weights)


def test_log_evidence_against_numerical_integration(integrated, tempered):
    evidence = gplvm.diagnostics.log_evidence(tempered)
    assert evidence.error < 0.2
    assert abs(evidence.value - integrated[3]) < 4.0 * evidence.error + 0.02


def test_log_evidence_of_the_linear_kernel():
    """N = 6, θ held: X integrated out by importance sampling from its prior."""
    Y = simulated(6, 2, seed=2).to_numpy()
    model = gplvm.build_model(Y, latent_dim=1, kernel="linear", priors={"sigma": 0.7}, resolution=0)
    F = Y - Y.mean(axis=0)
    scale = np.sqrt((F**2).mean())
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200_000, 6, 1))
    K = X @ X.transpose(0, 2, 1) + 0.49 * np.eye(6)
    quad = np.einsum("nd,snm,md->s", F / scale, np.linalg.inv(K), F / scale)
    terms = -0.5 * (quad + 2 * np.linalg.slogdet(K)[1] + 12 * np.log(2 * np.pi))
    exact = logsumexp(terms) - np.log(len(X)) - 12 * np.log(scale)
    fit = gplvm.sample(model, draws=400, tune=100, chains=2, replicas=5, beta_min=0.0, **QUIET)
    evidence = gplvm.diagnostics.log_evidence(fit)
    assert abs(evidence.value - exact) < 4.0 * evidence.error + 0.05


def test_log_likelihood_and_lp_are_those_of_the_draws(Y, mode):
    model = gplvm.build_model(Y)
    fit = gplvm.sample(model, draws=5, tune=9, chains=2, replicas=3, **QUIET)
    draw = {name: v.to_numpy()[1, 3] for name, v in fit["posterior"].data_vars.items()}
    table = Y.to_numpy()
    theta = {n: draw[n] for n in ("lengthscale", "amplitude")}
    K = kernel_matrix("rbf", draw["X"], **theta, sigma=np.hypot(draw["sigma"], 0.01))
    scale = fit["constant_data"]["Y_scale"].to_numpy()[0]
    wanted = sum(
        multivariate_normal(np.zeros(len(K)), scale**2 * K).logpdf(column - column.mean())
        for column in table.T
    )
    assert fit["sample_stats"]["log_likelihood"].to_numpy()[1, 3] == pytest.approx(wanted)
    np.testing.assert_array_equal(
        fit["tempering"]["log_likelihood"].to_numpy()[..., 0],
        fit["sample_stats"]["log_likelihood"].to_numpy(),
    )
    point = {
        v.name: draw[v.name] if v.name == "X" else np.log(draw[v.name.removesuffix("_log__")])
        for v in model.value_vars
    }
    lp = model.compile_logp(mode=mode)(point)
    assert fit["sample_stats"]["lp"].to_numpy()[1, 3] == pytest.approx(lp)


@pytest.mark.parametrize("backend", ["python", "numba"])
def test_same_seed_same_draws_and_more_of_them_are_those_of_one_run(backend, Y, tmp_path):
    model = gplvm.build_model(Y)
    settings = {"tune": 12, "chains": 2, "replicas": 2, "thin": 2, "backend": backend, **QUIET}
    whole = gplvm.sample(model, draws=8, **settings)
    path = tmp_path / "half.nc"
    gplvm.sample(model, draws=5, store=path, **settings)
    more = gplvm.resume(model, path, draws=3, progressbar=False)
    for group in ("posterior", "sample_stats"):
        for name, values in whole[group].data_vars.items():
            np.testing.assert_array_equal(more[group][name].to_numpy(), values.to_numpy())
    assert (more.attrs["draws"], more.attrs["backend"]) == (8, backend)
    if backend == "python":  # the other takes ten seconds to compile
        again = gplvm.resume(model, more, draws=2, progressbar=False)
        assert again["posterior"].sizes["draw"] == 10


def same(one, other):
    """Whether two runs have the same draws and stand at the same state, to the last bit."""
    for group in ("posterior", "sample_stats", "sampler"):
        for name, values in other[group].data_vars.items():
            np.testing.assert_array_equal(one[group][name].to_numpy(), values.to_numpy())
    np.testing.assert_array_equal(
        one["tempering"]["log_likelihood"], other["tempering"]["log_likelihood"]
    )
    for name in ("generator", "n_proposals"):
        assert one["sampler"].attrs[name] == other["sampler"].attrs[name]


@pytest.fixture(scope="module")
def uninterrupted(Y):
    """Nine draws of two chains, two iterations each, and how they were made."""
    model = gplvm.build_model(Y)
    settings = {"tune": 12, "chains": 2, "replicas": 2, "thin": 2, **QUIET}
    return model, settings, gplvm.sample(model, draws=9, **settings)


# After 12 iterations of tuning: in the first and in the second of a draw, and in the last of all.
@pytest.mark.parametrize(("at", "draws"), [(12 + 7, 3), (12 + 8, 4), (12 + 18, 9)])
@pytest.mark.parametrize("stored", [False, True])
def test_ctrl_c_keeps_whole_draws_and_it_goes_on_as_if_it_had_not_come(
    at, draws, stored, uninterrupted, ctrl_c, monkeypatch, tmp_path
):
    model, settings, whole = uninterrupted
    path = tmp_path / "draws.zarr" if stored else None
    ctrl_c(joint.Replicas, "iterate", at)
    with pytest.warns(RuntimeWarning, match=f"interrupted and has {draws} draws .*resume") as said:
        fit = gplvm.sample(model, draws=9, store=path, **settings)
    assert [warning.filename for warning in said] == [__file__]
    assert (fit.attrs["interrupted"], fit.attrs["draws"]) == (1, draws)
    for name, values in whole["posterior"].data_vars.items():
        np.testing.assert_array_equal(fit["posterior"][name], values[:, :draws])
    monkeypatch.undo()
    if draws < 9:
        more = gplvm.resume(model, path or fit, draws=9 - draws, progressbar=False)
        same(more, whole)
        assert (more.attrs["interrupted"], more.attrs["draws"]) == (0, 9)
    else:
        same(fit, whole)


def test_so_it_does_where_an_iteration_is_broken_off(uninterrupted, monkeypatch):
    """By a handler of the user's, that raises at once: states and generator have moved on by then."""
    model, settings, whole = uninterrupted
    swap, calls = replicas.swap, iter(range(1000))

    def broken(*args):
        if next(calls) == 12 + 9:
            raise KeyboardInterrupt
        return swap(*args)

    monkeypatch.setattr(replicas, "swap", broken)
    with pytest.warns(RuntimeWarning, match="interrupted and has 4 draws"):
        fit = gplvm.sample(model, draws=9, **settings)
    monkeypatch.undo()
    same(gplvm.resume(model, fit, draws=5, progressbar=False), whole)


def test_ctrl_c_in_resume(uninterrupted, ctrl_c, monkeypatch):
    model, settings, whole = uninterrupted
    fit = gplvm.sample(model, draws=2, **settings)
    for at, draws in ((1, 2), (7, 5)):  # before a draw was added, and after three
        ctrl_c(joint.Replicas, "iterate", at)
        with pytest.warns(RuntimeWarning, match=f"interrupted and has {draws} draws"):
            fit = gplvm.resume(model, fit, draws=7, progressbar=False)
        monkeypatch.undo()
    same(gplvm.resume(model, fit, draws=4, progressbar=False), whole)


@pytest.mark.parametrize(("at", "times"), [(5, 1), (20, 2)])
def test_ctrl_c_before_the_first_draw_and_twice(at, times, uninterrupted, ctrl_c):
    model, settings, _ = uninterrupted
    ctrl_c(joint.Replicas, "iterate", *[at] * times)
    with pytest.raises(KeyboardInterrupt):
        gplvm.sample(model, draws=9, **settings)


def test_a_posterior_that_mixes_needs_no_ladder(integrated):
    fit = gplvm.sample(integrated[0], draws=10, tune=240, chains=4, **QUIET)
    assert fit.attrs["replicas"] == 1


def test_chains_that_disagree_get_a_ladder(Y):
    """With hardly any noise rows are held fast, and chains from random places disagree."""
    model = gplvm.build_model(Y, priors={"sigma": 0.01}, resolution=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # so little noise may let some diverge
        fit = gplvm.sample(model, start="random", draws=10, tune=90, chains=3, **QUIET)
    tempering = fit["tempering"]
    assert fit.attrs["replicas"] == tempering.sizes["replica"] > 1
    beta = tempering["beta"].to_numpy()
    assert beta[0] == 1.0
    assert 0.2 <= beta[-1] <= 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        settings = {"draws": 4, "tune": 30, "chains": 2, "replicas": 3, "beta_min": 0.3}
        as_asked = gplvm.sample(model, start="random", **settings, **QUIET)
    assert as_asked["tempering"]["beta"].to_numpy()[-1] == pytest.approx(0.3)


def test_fresh_lineages_are_counted_where_there_is_a_ladder(integrated, tempered):
    """Each came down the whole ladder: fewer than iterations, and none without replicas."""
    fresh = tempered["sample_stats"]["fresh_lineages"]
    assert fresh.dims == ("chain", "draw")
    total = fresh.sum("draw").to_numpy()
    assert (total > 3).all()
    # A swap moves a replica by one level for each of the two rounds of an iteration.
    assert (total < 500 / 2).all()
    few = {"draws": 5, "tune": 10, "chains": 2, **QUIET}
    alone = gplvm.sample(integrated[0], replicas=1, **few)
    assert (alone["sample_stats"]["fresh_lineages"] == 0).all()


def bounded(name, dims):
    return pm.Uniform(name, -4.0, 4.0, dims=dims)


def smooth(name, dims):
    X = pm.Normal(name, dims=dims)
    pm.Potential("smooth", -((X[1:] - X[:-1]) ** 2).sum())
    return X


def driven(name, dims):
    steps = pm.Normal("steps", dims=dims)
    return pm.Deterministic(name, steps.cumsum(axis=0), dims=dims)


@pytest.mark.filterwarnings("ignore:.*divergence:RuntimeWarning")  # 15 iterations tune little
@pytest.mark.parametrize("prior", [bounded, smooth, driven], ids=lambda f: f.__name__)
def test_any_prior_on_x(prior, Y):
    model = gplvm.build_model(Y, priors={"X": prior}, resolution=0)
    fit = gplvm.sample(model, draws=15, tune=15, chains=2, replicas=2, **QUIET)
    X = fit["posterior"]["X"].to_numpy()
    assert np.isfinite(fit["sample_stats"]["lp"].to_numpy()).all()
    assert np.abs(np.diff(X, axis=1)).max() > 0.0
    if prior is bounded:
        assert np.abs(X).max() < 4.0


def test_starts_are_dealt_out(Y):
    model = gplvm.build_model(Y)
    places = [np.zeros((12, 2)) + np.arange(12)[:, None] * k for k in (1.0, 5.0)]
    found = joint._starts(model, places, 4, np.random.default_rng(0))
    assert [round(float(values["X"][11, 0]) / 11) for values in found] == [1, 5, 1, 5]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"chains": 1.5}, "chains must be"),
        ({"thin": True}, "thin must be"),
        ({"replicas": "some"}, "replicas must be"),
        ({"beta_min": 1.0}, "beta_min must be a finite number at least 0 and below 1, got 1.0"),
        ({"start": []}, "start must name at least one place"),
        ({"start": "spiral"}, "start must be one of"),
    ],
)
def test_bad_arguments(arguments, match, Y):
    with pytest.raises(ValueError, match=match):
        gplvm.sample(gplvm.build_model(Y), **arguments)


def test_models_it_does_not_know(Y):
    with pytest.raises(TypeError, match=r"model must be a pm\.Model"):
        gplvm.sample(Y)
    with pm.Model() as own:
        X = pm.Normal("X", shape=(12, 1))
        K = pm.gp.cov.RatQuad(1, alpha=1.0, ls=1.0)(X) + 0.1 * np.eye(12)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    with pytest.raises(ValueError, match="sample knows the kernels"):
        gplvm.sample(own)


def test_nothing_is_overwritten(Y, tmp_path):
    path = tmp_path / "mine.nc"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"mine\.nc"):
        gplvm.sample(gplvm.build_model(Y), store=path)
    assert path.read_text() == "precious"


def test_going_on_needs_the_same_model(Y, best):
    model = gplvm.build_model(Y)
    fit = gplvm.sample(model, draws=2, tune=3, chains=1, replicas=1, **QUIET)
    with pytest.raises(ValueError, match="model must be the one that was sampled"):
        gplvm.resume(gplvm.build_model(Y + 1.0), fit)
    with pytest.raises(ValueError, match="resume needs a fit made by sample"):
        gplvm.resume(model, best)


def test_evidence_needs_the_prior(Y, best):
    with pytest.raises(ValueError, match="log_evidence needs a fit made by sample"):
        gplvm.diagnostics.log_evidence(best)
    fit = gplvm.sample(gplvm.build_model(Y), draws=4, tune=6, chains=1, replicas=2, **QUIET)
    with pytest.raises(ValueError, match="down to the prior"):
        gplvm.diagnostics.log_evidence(fit)


def test_progress_is_shown_unless_not_wanted(Y, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as if a person were looking
    monkeypatch.setenv("TERM", "xterm")
    model = gplvm.build_model(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gplvm.sample(model, draws=2, tune=3, chains=1, replicas=1, **QUIET)
        assert capsys.readouterr().err == ""
        gplvm.sample(model, draws=2, tune=3, chains=1, replicas=1, random_seed=1)
    assert "log-likelihood" in capsys.readouterr().err
