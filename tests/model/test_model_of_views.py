"""Models of several tables that share X: their densities, bounds and starts against plain ones."""

import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from dense import bound, kl
from oracles import central_differences, centre_and_spread, column_logps, kernel_matrix
from scipy import stats

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density, optimiser_coordinates
from pm_gplvm.model.spec import ModelSpec, views_of

EXACT = {"rel": 1e-10}


def two(n=12):
    left, right = simulated(n, 4), simulated(n, 3, seed=5) * 7.0
    return {"rna": left, "protein": right.assign_coords(feature=["p", "q", "r"])}


def theta_of(view, rng):
    values = {"lengthscale": rng.uniform(0.6, 2.0, 2), "amplitude": 1.3, "sigma": 0.4}
    return {f"{name}_{view}": value for name, value in values.items()}


def point_of(views, rng, n=12):
    point = {"X": rng.normal(size=(n, 2))}
    for view in views:
        point |= theta_of(view, rng)
    return point


def log_likelihood_of(Y, view, point, rows=slice(None)):
    theta = {n.removesuffix(f"_{view}"): v for n, v in point.items() if n.endswith(f"_{view}")}
    K = kernel_matrix("rbf", point["X"][rows], **theta)
    return column_logps(Y, K, *centre_and_spread(Y, "global")).sum()


def log_prior_of(view, point):
    return (
        stats.invgamma(3.0, scale=2.0).logpdf(point[f"lengthscale_{view}"]).sum()
        + stats.lognorm(1.0).logpdf(point[f"amplitude_{view}"])
        + stats.lognorm(1.0, scale=np.exp(-2.0)).logpdf(point[f"sigma_{view}"])
    )


def test_names_and_dims():
    model = gplvm.build_model(two(), 2, ard=True)
    theta = ("lengthscale", "amplitude", "sigma")
    names = [f"{name}_{view}" for view in ("rna", "protein") for name in theta]
    assert [rv.name for rv in model.free_RVs] == ["X", *names]
    assert [rv.name for rv in model.observed_RVs] == ["Y_rna", "Y_protein"]
    assert model.named_vars_to_dims["Y_protein"] == ("feature_protein", "obs")
    assert model.named_vars_to_dims["lengthscale_rna"] == ("latent",)
    assert views_of(model) == ["rna", "protein"]
    assert views_of(gplvm.build_model(simulated())) == []


def test_the_density_is_that_of_two_dense_gaussians_and_the_priors(rng):
    tables = two()
    objective = gplvm.model.compile_objective(gplvm.build_model(tables, 2, ard=True, resolution=0))
    point = point_of(tables, rng)
    expected = stats.norm(0, 1).logpdf(point["X"]).sum()
    for view, Y in tables.items():
        expected += log_likelihood_of(Y.to_numpy(), view, point) + log_prior_of(view, point)
    value, gradient = objective(point)
    assert value == pytest.approx(expected, **EXACT)
    for name, slope in central_differences(lambda p: objective(p)[0], point).items():
        np.testing.assert_allclose(gradient[name], slope, rtol=1e-6, atol=1e-6)


def test_pymc_has_the_same_density(rng, mode):
    tables = two()
    model = gplvm.build_model(tables, 2, ard=True)
    point = point_of(tables, rng)
    logs = {name: np.log(v) for name, v in point.items() if name != "X"}
    values = {"X": point["X"], **{f"{name}_log__": v for name, v in logs.items()}}
    plain = model.compile_logp(jacobian=False, mode=mode)(values)
    assert plain == pytest.approx(gplvm.model.compile_objective(model)(point)[0], **EXACT)


def test_a_row_that_a_table_lacks_counts_in_the_others_alone(rng):
    tables = two()
    tables["protein"] = tables["protein"][2:9]
    model = gplvm.build_model(tables, 2, ard=True, missing="mask", resolution=0)
    point = point_of(tables, rng)
    expected = log_likelihood_of(tables["rna"].to_numpy(), "rna", point)
    expected += log_likelihood_of(tables["protein"].to_numpy(), "protein", point, slice(2, 9))
    value, _ = gplvm.model.compile_objective(model, prior=False)(point)
    assert value == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("kernel", ["rbf", "linear + bias", "matern52 + linear"])
def test_one_table_by_name_is_the_model_of_that_table(kernel, rng, Y):
    options = {"latent_dim": 2, "kernel": kernel, "ard": kernel != "linear + bias"}
    plain, named = gplvm.build_model(Y, **options), gplvm.build_model({"rna": Y}, **options)
    for coordinates in (None, optimiser_coordinates):
        given = {} if coordinates is None else {"coordinates": coordinates}
        one = compile_log_density(plain, **given)
        other = compile_log_density(ModelSpec.of(named, views=True), **given)
        at = rng.normal(size=one.size)
        value, gradient = one(at)
        again, slope = other(at)
        assert again == pytest.approx(value, **EXACT)
        np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-10)
    if kernel != "linear + bias":
        return
    one, other = (gplvm.model.build_variational(model) for model in (plain, named))
    assert [v.name for v in one.potentials] == ["likelihood_bound", "minus_KL"]
    assert [v.name for v in other.potentials] == ["likelihood_bound_rna", "minus_KL"]


def test_the_bound_is_the_sum_of_the_tables_bounds_less_one_divergence(rng, mode):
    tables = two()
    model = gplvm.build_model(tables, 2, ard=True, resolution=0)
    approximation = gplvm.model.build_variational(model, n_inducing=5)
    mean, sd = rng.normal(size=(12, 2)), rng.uniform(0.2, 1.0, (12, 2))
    point, expected = point_of(tables, rng), -kl(mean, sd)
    named = {"X_mean": mean, "X_sd": sd}
    named |= {name: value for name, value in point.items() if name != "X"}
    for view, Y in tables.items():
        W, unit = rng.normal(size=(5, 2)), point[f"lengthscale_{view}"]
        named[f"X_inducing_{view}"] = W
        centre, scale = centre_and_spread(Y.to_numpy(), "global")
        F = (Y.to_numpy() - centre) / scale
        theta = (point[f"amplitude_{view}"], 0.0, point[f"sigma_{view}"])
        expected += bound("rbf", mean / unit, sd / unit, W / unit, *theta, F)
        expected -= len(F) * np.log(scale).sum()
    values = {}
    for rv in approximation.free_RVs:
        name = approximation.rvs_to_values[rv].name
        values[name] = np.log(named[rv.name]) if name.endswith("_log__") else named[rv.name]
    terms = list(approximation.potentials)
    assert [v.name for v in terms] == [
        "likelihood_bound_rna",
        "likelihood_bound_protein",
        "minus_KL",
    ]
    total = approximation.compile_fn(
        approximation.replace_rvs_by_values([pm.math.sum(pm.math.stack(terms))])[0],
        inputs=approximation.value_vars,
        mode=mode,
        on_unused_input="ignore",
    )
    assert float(total(values)) == pytest.approx(expected, rel=1e-6)


def test_a_prior_is_of_one_table_or_of_all():
    priors = {"sigma": 0.2, "sigma_protein": pm.HalfNormal.dist(1.0), "lengthscale": 1.5}
    model = gplvm.build_model(two(), priors=priors)
    assert [rv.name for rv in model.free_RVs] == [
        *("X", "amplitude_rna", "amplitude_protein", "sigma_protein")
    ]
    spec = ModelSpec.of(model, views=True)
    assert [float(part.fixed["lengthscale"]) for part in spec.views] == [1.5, 1.5]
    assert float(spec.views[0].fixed["sigma"]) == 0.2
    assert spec.priors["sigma_protein"] == "HalfNormal(0.0, 1.0)"


def test_a_fit_of_one_prior_of_X_for_all_tables(rng):
    time = np.linspace(-1.0, 1.0, 12)
    priors = {"X": gplvm.priors.informative(time, 0.1)}
    fit = gplvm.fit_marginal(gplvm.build_model(two(), priors=priors), progressbar=False)
    x = fit["posterior"]["X"][0, 0, :, 0].to_numpy()
    assert np.abs(x - time).max() < 0.5
    taken = gplvm.data.view(fit, "protein")
    assert set(taken["constant_data"].data_vars) >= {"X_prior_mean", "X_prior_sd"}


KERNELS_OF_EACH = {"rna": "rbf + linear + bias", "protein": "matern52"}


def test_each_table_has_its_kernel():
    model = gplvm.build_model(two(), kernel=KERNELS_OF_EACH)
    names = {rv.name for rv in model.free_RVs}
    assert {"weight_rna", "bias_rna"} <= names
    assert not {"weight_protein", "bias_protein"} & names
    # Its density is the sum of those of the tables by themselves, at one X.
    at = {rv.name: np.full(rv.shape.eval(), 0.7) for rv in model.free_RVs}
    at["X"] = np.random.default_rng(1).standard_normal((12, 2))
    value, _ = gplvm.model.compile_objective(model, prior=False)(at)
    wanted = 0.0
    for name, table in two().items():
        alone = gplvm.build_model(table, kernel=KERNELS_OF_EACH[name])
        own = {rv.name: at["X" if rv.name == "X" else f"{rv.name}_{name}"] for rv in alone.free_RVs}
        wanted += gplvm.model.compile_objective(alone, prior=False)(own)[0]
    assert value == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(
        ValueError, match="kernel must be one value, or one for each of rna, protein"
    ):
        gplvm.build_model(two(), kernel={"rna": "rbf"})
    with pytest.raises(ValueError, match="must be a named one with several tables"):
        gplvm.build_model(two(), kernel={"rna": "rbf", "protein": "rbf[0] + rbf[1]"})
    with pytest.raises(ValueError, match="priors must name parameters of this model"):
        gplvm.build_model(two(), kernel=KERNELS_OF_EACH, priors={"weight_protein": 1.0})


@pytest.mark.parametrize("way", ["map", "marginal", "laplace", "variational", "sample"])
def test_fits_of_tables_with_kernels_of_their_own(way, tmp_path):
    model = gplvm.build_model(two(), kernel=KERNELS_OF_EACH)
    quiet = {"random_seed": 1, "progressbar": False}
    fits = {
        "map": lambda: gplvm.fit_map(model, **quiet),
        "marginal": lambda: gplvm.fit_marginal(model, **quiet),
        "laplace": lambda: gplvm.fit_laplace(model, draws=30, **quiet),
        "variational": lambda: gplvm.fit_variational(model, n_inducing=6, max_iter=5, **quiet),
        "sample": lambda: gplvm.sample(model, draws=6, tune=6, chains=2, replicas=1, **quiet),
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # what so small a table says, or so short a run
        fit = fits[way]()
        gplvm.save(fit, tmp_path / "fit.nc")
        again = gplvm.load(tmp_path / "fit.nc")
        kernels = {name: gplvm.data.view(again, name).attrs["kernel"] for name in two()}
        assert kernels == {"rna": "rbf + linear", "protein": "matern52"}
        if way != "map":
            return
        filled = gplvm.impute(again, {"rna": two()["rna"][:1]}, draws=100, n_starts=4, **quiet)
    assert np.isfinite(filled["mean_protein"]).all()
    assert (filled["sd_protein"] > 0.0).all()


def test_a_linear_table_beside_a_curved_one_goes_through_no_inducing_inputs():
    model = gplvm.build_model(two(), kernel={"rna": "rbf", "protein": "linear"})
    with pytest.raises(ValueError, match="must have a curved kernel for every table"):
        gplvm.fit_variational(model, progressbar=False)
    fit = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    assert "lengthscale_protein" not in fit["posterior"]


def test_scale_and_resolution_of_each_table():
    rna, protein = two().values()
    model = gplvm.build_model(
        {"rna": rna, "protein": protein},
        scale={"rna": "feature", "protein": "global"},
        resolution={"protein": 0.0, "rna": 0.1},
    )
    alone = gplvm.build_model(rna, scale="feature", resolution=0.1)
    np.testing.assert_array_equal(model["Y_scale_rna"].get_value(), alone["Y_scale"].get_value())
    assert model["Y_resolution_rna"].get_value() == alone["Y_resolution"].get_value()
    assert np.ptp(model["Y_scale_protein"].get_value()) == 0.0
    assert "Y_resolution_protein" not in model.named_vars
    with pytest.raises(
        ValueError, match="scale must be one value, or one for each of rna, protein"
    ):
        gplvm.build_model(two(), scale={"rna": "feature"})
    with pytest.raises(ValueError, match="resolution must be one value, got one for rna"):
        gplvm.build_model(rna, resolution={"rna": 0.1})


VERBS = {
    "fit_linear": gplvm.fit_linear,
    "fit_sparse": lambda m: gplvm.fit_sparse(m, progressbar=False),
    "fit_stochastic": lambda m: gplvm.fit_stochastic(m, progressbar=False),
    "sample_prior": gplvm.sample_prior,
    "sample_theta": lambda m: gplvm.sample_theta(m, np.zeros((12, 2))),
    "sbc": gplvm.diagnostics.sbc,
    "gradients": lambda m: gplvm.model.gradients(m, {}),
    "build_sparse": gplvm.model.build_sparse,
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_takes_one_table_says_so(verb):
    model = gplvm.build_model(two())
    with pytest.raises(
        ValueError, match=r"got one of several, rna, protein\. .*view\(fit, 'rna'\)"
    ):
        VERBS[verb](model)
