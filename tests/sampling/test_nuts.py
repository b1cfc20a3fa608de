"""sample_theta: against integration on a grid, its groups, seeds, and what it refuses."""

import arviz_stats
import numpy as np
import pymc as pm
import pytest
from made import InterruptAt
from oracles import centre_and_spread, column_logps, kernel_matrix
from scipy import stats

import pm_gplvm as gplvm
from pm_gplvm.sampling import nuts

QUIET = {"progressbar": False}


def moments_on_a_grid(log_density, grid):
    """Mean and standard deviation under an unnormalised log-density on an even grid."""
    values = np.array([log_density(u) for u in grid])
    weights = np.exp(values - values.max())
    assert weights[0] < 1e-8 * weights.max()
    assert weights[-1] < 1e-8 * weights.max()
    weights /= weights.sum()
    mean = weights @ grid
    return mean, np.sqrt(weights @ (grid - mean) ** 2)


LOG_PRIORS = {  # densities of the logarithm of each parameter
    "sigma": lambda u: stats.norm(-2.0, 1.0).logpdf(u),
    "lengthscale": lambda u: stats.invgamma(3.0, scale=2.0).logpdf(np.exp(u)) + u,
    "amplitude": lambda u: stats.norm(0.0, 1.0).logpdf(u),
}


@pytest.mark.parametrize("name", ["sigma", "lengthscale", "amplitude"])
def test_one_free_parameter_against_a_grid(name, Y, rng):
    held = {"lengthscale": 1.2, "amplitude": 1.0, "sigma": 0.3, "bias": 0.5}
    del held[name]
    X = rng.normal(size=(12, 2))
    model = gplvm.build_model(Y, kernel="rbf + bias", priors=held, resolution=0)
    fit = gplvm.sample_theta(model, X, draws=1000, tune=500, chains=2, random_seed=1, **QUIET)
    assert list(fit["posterior"].data_vars) == [name]
    logs = np.log(fit["posterior"][name])

    location = centre_and_spread(Y.to_numpy(), "global")

    def log_density(u):
        K = kernel_matrix("rbf", X, **held, **{name: np.exp(u)})
        return column_logps(Y.to_numpy(), K, *location).sum() + LOG_PRIORS[name](u)

    mean, sd = moments_on_a_grid(log_density, np.linspace(-12.0, 4.0, 801))
    dataset = logs.to_dataset(name="u")
    # Five Monte Carlo standard errors of the mean and of the standard deviation.
    errors = {m: float(arviz_stats.mcse(dataset, method=m)["u"]) for m in ("mean", "sd")}
    assert float(logs.mean()) == pytest.approx(mean, abs=5 * errors["mean"])
    assert float(logs.std()) == pytest.approx(sd, abs=5 * errors["sd"])


def test_groups_dims_and_settings(theta, best, digits):
    posterior = theta["posterior"]
    assert set(posterior.data_vars) == {"lengthscale", "amplitude", "sigma"}
    assert all(v.dims == ("chain", "draw") for v in posterior.data_vars.values())
    assert dict(posterior.sizes) == {"chain": 2, "draw": 1000}
    assert all((v > 0).all() for v in posterior.data_vars.values())
    held = theta["constant_data"]["X"]
    assert held.dims == ("obs", "latent")
    np.testing.assert_array_equal(held, best["posterior"]["X"][0, 0])
    np.testing.assert_array_equal(theta["constant_data"]["label"], digits["label"])
    np.testing.assert_array_equal(theta["observed_data"]["Y"], digits.T)
    assert {"Y_mean", "Y_scale"} <= set(theta["constant_data"].data_vars)
    assert (theta.attrs["method"], theta.attrs["kernel"]) == ("nuts_theta", "rbf")
    assert (theta.attrs["draws"], theta.attrs["tune"], theta.attrs["random_seed"]) == (1000, 500, 1)


def test_sample_stats_have_pymcs_names(theta):
    stats = theta["sample_stats"]
    assert set(stats.data_vars) == {
        "lp",
        "diverging",
        "energy",
        "tree_depth",
        "reached_max_treedepth",
        "n_steps",
        "step_size",
    }
    assert all(v.dims == ("chain", "draw") for v in stats.data_vars.values())
    assert stats["diverging"].dtype == bool
    assert np.isfinite(stats["lp"]).all()


def test_lp_is_the_density_of_the_draws(theta, model, best):
    """lp of a draw: objective with X held, plus ln θ for each log transform."""
    objective = gplvm.model.compile_objective(model)
    X = best["posterior"]["X"].to_numpy()[0, 0]
    offsets = []
    for chain, draw in [(0, 0), (0, 250), (1, 999)]:
        point = {n: float(v[chain, draw]) for n, v in theta["posterior"].data_vars.items()}
        value = objective({"X": X, **point})[0] + sum(np.log(list(point.values())))
        offsets.append(float(theta["sample_stats"]["lp"][chain, draw]) - value)
    # X's prior, constant here, is no part of the sampled density.
    expected = -stats.norm.logpdf(X).sum()
    np.testing.assert_allclose(offsets, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def one_parameter(Y):
    """A model in which sigma alone is free, with positions to hold."""
    X = np.random.default_rng(5).normal(size=(12, 2))
    return gplvm.build_model(Y, priors={"lengthscale": 1.0, "amplitude": 1.0}), X


def sample(model, X, **settings):
    settings = {"draws": 1000, "tune": 300, "chains": 2, "random_seed": 1, **QUIET, **settings}
    return gplvm.sample_theta(model, X, **settings)


def test_seeds(one_parameter):
    model, X = one_parameter
    first, again, other = (sample(model, X, random_seed=s)["posterior"]["sigma"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_two_chains_at_once_draw_the_same(one_parameter):
    model, X = one_parameter
    one, two = (sample(model, X, cores=c)["posterior"]["sigma"] for c in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_ard_and_deterministics(Y, rng):
    model = gplvm.build_model(Y, ard=True, priors={"amplitude": 1.0, "sigma": 0.3})
    with model:
        pm.Deterministic("relevance", 1.0 / model["lengthscale"], dims="latent")
    fit = sample(model, rng.normal(size=(12, 2)))
    posterior = fit["posterior"]
    assert posterior["lengthscale"].dims == ("chain", "draw", "latent")
    np.testing.assert_allclose(posterior["relevance"], 1.0 / posterior["lengthscale"], rtol=1e-12)


def test_model_is_left_as_it_was(one_parameter):
    model, X = one_parameter
    sample(model, X)
    assert [rv.name for rv in model.free_RVs] == ["X", "sigma"]


def test_too_few_draws_are_reported(one_parameter):
    model, X = one_parameter
    with pytest.warns(
        RuntimeWarning, match=r"sample_theta has not converged: .*bulk ESS.*Raise tune and draws"
    ) as caught:
        sample(model, X, draws=20, tune=100)
    assert caught[0].filename == __file__


def test_one_chain_samples(one_parameter):
    model, X = one_parameter
    fit = sample(model, X, chains=1)
    assert fit["posterior"].sizes["chain"] == 1


# Turned away


@pytest.mark.parametrize("shape", [(12, 1), (11, 2), (24,)])
def test_positions_of_a_wrong_shape(shape, one_parameter, rng):
    model, _ = one_parameter
    with pytest.raises(ValueError, match=r"X must have shape \(N, Q\) = \(12, 2\), got \("):
        sample(model, rng.normal(size=shape))


def test_positions_that_are_not_finite(one_parameter):
    model, X = one_parameter
    with pytest.raises(ValueError, match="X must be finite, got missing or infinite entries"):
        sample(model, np.where(X > 0, X, np.nan))


@pytest.mark.parametrize("wrong", [object(), "pca", {"X": 1}])
def test_positions_of_another_kind(wrong, one_parameter):
    model, _ = one_parameter
    with pytest.raises(TypeError, match=r"X must be an array of numbers, got a"):
        sample(model, wrong)


def test_fit_of_several_draws(model, best):
    several = best.copy()
    repeated = best["posterior"].to_dataset().isel(draw=[0, 0, 0]).assign_coords(draw=range(3))
    several["posterior"] = type(best)(repeated)
    with pytest.raises(
        ValueError, match=r"X must be a fit of one draw, got 1 chains of 3 draws\. Choose one"
    ):
        gplvm.sample_theta(model, several, **QUIET)


def test_fit_of_another_table(one_parameter, best):
    model, _ = one_parameter
    with pytest.raises(
        ValueError, match=r"X must have the rows of the table, got none for 12 of 12"
    ):
        sample(model, best)


def test_fit_without_positions(model, best):
    bare = best.copy()
    bare["posterior"] = type(best)(best["posterior"].to_dataset().drop_vars("X"))
    with pytest.raises(ValueError, match=r"sample_theta needs the variable 'X'"):
        gplvm.sample_theta(model, bare, **QUIET)


def test_model_whose_X_is_fixed(Y, one_parameter):
    _, X = one_parameter
    with pytest.raises(ValueError, match="model must have a free variable 'X' to be held"):
        sample(gplvm.build_model(Y, priors={"X": X}), X)


def test_model_without_free_hyperparameters(Y, one_parameter):
    _, X = one_parameter
    model = gplvm.build_model(Y, priors={"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3})
    with pytest.raises(
        ValueError, match="model must have a free hyperparameter, got every one fixed"
    ):
        sample(model, X)


@pytest.mark.parametrize("name", ["draws", "tune", "chains", "cores"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_out_of_range(name, value, one_parameter):
    model, X = one_parameter
    with pytest.raises(
        ValueError, match=rf"{name} must be a whole number of at least [01], got {value}"
    ):
        sample(model, X, **{name: value})


def test_something_else_than_a_model(one_parameter):
    _, X = one_parameter
    with pytest.raises(TypeError, match=r"model must be a pm\.Model, got str"):
        gplvm.sample_theta("model", X)


# Ctrl-C


def watched(Y, at):
    """A model at whose n-th evaluation Ctrl-C is pressed."""
    model = gplvm.build_model(Y, priors={"lengthscale": 1.0, "amplitude": 1.0})
    with model:
        pm.Potential("interrupt", InterruptAt(at)(model["sigma"]))
    return model


@pytest.mark.parametrize("cores", [1, 2])
def test_chains_are_cut_to_one_length(cores, Y, rng, ctrl_c):
    X = rng.normal(size=(12, 2))
    settings = {"tune": 60, "chains": 2, "cores": cores, "random_seed": 1, **QUIET}
    with pytest.warns(RuntimeWarning, match=r"interrupted: \d+ of 1000000 draws of . of 2") as said:
        fit = gplvm.sample_theta(watched(Y, 1500), X, draws=10**6, **settings)
    assert [warning.filename for warning in said] == [__file__]
    sizes = fit["posterior"].sizes
    assert 1 <= sizes["chain"] <= cores  # those that lag are left out
    assert fit.attrs["interrupted"] == 1
    assert 50 < fit.attrs["draws"] == sizes["draw"] < 10**6
    for group in ("posterior", "sample_stats"):
        assert all(np.isfinite(v.to_numpy()).all() for v in fit[group].data_vars.values())
    assert np.isfinite(gplvm.predict(fit, [[0.0, 0.1]])["mean"]).all()
    some = min(sizes["draw"], 200)
    whole = gplvm.sample_theta(watched(Y, 0), X, draws=200, **settings)
    chains = whole["posterior"]["sigma"].to_numpy()[:, :some].tolist()
    assert whole.attrs["interrupted"] == 0
    for chain in fit["posterior"]["sigma"].to_numpy()[:, :some].tolist():
        assert chain in chains


def test_before_the_first_draw_it_is_told(Y, rng, ctrl_c):
    with pytest.raises(KeyboardInterrupt, match="interrupted before its first draw"):
        gplvm.sample_theta(watched(Y, 300), rng.normal(size=(12, 2)), draws=5, tune=10**6, **QUIET)


@pytest.mark.parametrize("when", ["before it was heard of", "while draws come to their end"])
def test_the_second_ends_it_at_once(when, Y, rng, ctrl_c):
    ctrl_c(nuts, "_waited_for", *[1] * (1 + when.startswith("before")))
    if when.startswith("while"):
        ctrl_c(nuts, "_polled", 2)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        gplvm.sample_theta(watched(Y, 0), rng.normal(size=(12, 2)), draws=10**6, **QUIET)


def test_as_many_draws_as_can_be_are_kept():
    for lengths, chains, draws in (
        ([0, 3, 9, 8], [2, 3], 8),
        ([5, 5, 5], [0, 1, 2], 5),
        ([0, 7], [1], 7),
        ([4, 1], [0], 4),
    ):
        numbers = [100.0 * c + np.arange(length) for c, length in enumerate(lengths)]
        vectors, known = nuts.whole_chains([chain[:, None] for chain in numbers], {"lp": numbers})
        expected = [numbers[c][:draws] for c in chains]
        np.testing.assert_array_equal(vectors[..., 0], expected)
        np.testing.assert_array_equal(known["lp"], expected)


def test_functions_written_out_leave_the_same_noise_as_integrated_out(rng):
    """Of a Gaussian with known errors: sigma against a grid of the marginal likelihood."""
    X = rng.normal(size=(8, 1))
    Y = np.sin(X + np.arange(3)) + 0.2 * rng.normal(size=(8, 3))
    held = {"lengthscale": 1.2, "amplitude": 1.0, "level": 0.0}
    likelihood = gplvm.likelihoods.gaussian(noise_sd=0.05)
    model = gplvm.build_model(Y, 1, likelihood=likelihood, priors=held)
    fit = gplvm.sample_theta(model, X, draws=1500, tune=500, chains=2, random_seed=1, **QUIET)
    F = Y - Y.mean(axis=0)
    spread = np.sqrt((F**2).mean())
    signal = kernel_matrix("rbf", X, lengthscale=1.2, amplitude=1.0, sigma=1e-3)

    def log_density(u):
        K = signal + (np.exp(2.0 * u) + (0.05 / spread) ** 2) * np.eye(8)
        each = stats.multivariate_normal(np.zeros(8), K).logpdf((F / spread).T)
        return each.sum() + LOG_PRIORS["sigma"](u)

    mean, sd = moments_on_a_grid(log_density, np.linspace(-9.0, 3.0, 400))
    drawn = np.log(fit["posterior"]["sigma"].to_numpy())
    error = sd / np.sqrt(float(arviz_stats.ess(drawn)))
    assert abs(drawn.mean() - mean) < 4.0 * error
    np.testing.assert_allclose(drawn.std(), sd, rtol=0.15)
    assert fit["posterior"]["f"].dims == ("chain", "draw", "obs", "feature")
    assert "X" in fit["constant_data"]


@pytest.mark.parametrize("mixed", [False, True])
def test_draws_of_functions_say_what_their_table_is(mixed, rng):
    counts = rng.poisson(3.0, (6, 3)).astype(float)
    counts[0, 1] = np.nan
    likelihood = {(0, 1): "poisson", 2: "student_t"} if mixed else "poisson"
    model = gplvm.build_model(counts, 1, likelihood=likelihood, missing="mask")
    X = rng.normal(size=(6, 1))
    with pytest.warns(RuntimeWarning, match="not converged"):
        fit = gplvm.sample_theta(model, X, draws=20, tune=50, chains=1, random_seed=1, **QUIET)
    assert fit["observed_data"]["Y"].dims == ("obs", "feature")
    np.testing.assert_array_equal(fit["observed_data"]["Y"], counts)
    with pytest.raises(ValueError, match=r"predict needs a fit of a Gaussian .*fit_svi\(model\)"):
        gplvm.predict(fit, X)
