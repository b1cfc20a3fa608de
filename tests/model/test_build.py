"""build_model: labels, priors of every kind, and the units of what comes out."""

from functools import partial

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from oracles import ALL_KERNELS, kernel_matrix

import pm_gplvm as gplvm
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.model.spec import ModelSpec, noise_in

FIXED = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}


def names(variables):
    return [variable.name for variable in variables]


def test_variables_dims_and_coordinates(Y):
    model = gplvm.build_model(Y, 2, kernel="rbf + bias", ard=True)
    assert names(model.free_RVs) == ["X", "lengthscale", "amplitude", "sigma", "bias"]
    assert names(model.observed_RVs) == ["Y"]
    assert names(model.data_vars) == ["Y_mean", "Y_scale", "Y_data", "Y_resolution"]
    dims = {k: tuple(v) for k, v in model.named_vars_to_dims.items()}
    assert dims["X"] == ("obs", "latent")
    assert dims["lengthscale"] == ("latent",)
    assert dims["Y"] == ("feature", "obs")
    assert dims["Y_mean"] == ("feature",)
    assert tuple(model.coords["obs"]) == tuple(Y["obs"].to_numpy())
    assert tuple(model.coords["feature"]) == tuple(Y["feature"].to_numpy())
    assert tuple(model.coords["latent"]) == (0, 1)
    assert tuple(model.coords["label"]) == tuple(Y["label"].to_numpy())
    np.testing.assert_array_equal(model["Y_data"].get_value(), Y.to_numpy().T)


def test_a_floor_of_0_is_no_variable(Y):
    model = gplvm.build_model(Y, resolution=0)
    assert names(model.data_vars) == ["Y_mean", "Y_scale", "Y_data"]
    assert model["sigma"] is noise_in(model)
    given = gplvm.build_model(Y, resolution=0.2)["Y_resolution"]
    assert float(given.get_value()) == 0.2


@pytest.mark.parametrize("resolution", [-0.1, np.nan, np.inf, True, "fine"])
def test_floors_out_of_range(resolution, Y):
    with pytest.raises(ValueError, match=r"resolution must be 'auto', 0 or a positive number.*got"):
        gplvm.build_model(Y, resolution=resolution)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("rbf", ["X", "lengthscale", "amplitude", "sigma"]),
        ("matern32 + bias", ["X", "lengthscale", "amplitude", "sigma", "bias"]),
        ("linear", ["X", "sigma"]),
        ("linear + bias", ["X", "sigma", "bias"]),
        ("linear + rbf", ["X", "lengthscale", "amplitude", "weight", "sigma"]),
        ("matern52 + linear + bias", ["X", "lengthscale", "amplitude", "weight", "sigma", "bias"]),
    ],
)
def test_parameters_of_each_kernel(kernel, expected, Y):
    model = gplvm.build_model(Y, kernel=kernel)
    assert names(model.free_RVs) == expected
    assert ModelSpec.of(model).kernel == parse_kernel(kernel)[0].name


def test_frame_gives_its_names_to_the_model(rng):
    frame = pd.DataFrame(rng.normal(size=(4, 3)), index=list("wxyz"), columns=["a", "b", "c"])
    model = gplvm.build_model(frame, 1)
    assert tuple(model.coords["obs"]) == tuple("wxyz")
    assert tuple(model.coords["feature"]) == ("a", "b", "c")


def test_model_prints_and_draws_itself(Y):
    model = gplvm.build_model(Y)
    assert "Y ~ GPColumns" in model.str_repr()
    pytest.importorskip("graphviz", reason="python-graphviz is not installed")
    assert "GPColumns" in pm.model_to_graphviz(model).source


def test_every_row_label_reaches_the_fit(best, digits):
    posterior = best["posterior"].to_dataset()
    assert posterior["label"].dims == ("obs",)
    np.testing.assert_array_equal(posterior["label"], digits["label"])
    np.testing.assert_array_equal(posterior["obs"], digits["obs"])
    np.testing.assert_array_equal(best["observed_data"]["feature"], digits["feature"])
    np.testing.assert_array_equal(best["observed_data"]["Y"], digits.T)


def test_several_labels_reach_the_fit(rng):
    table = xr.DataArray(
        rng.normal(size=(6, 3)),
        dims=("cell", "gene"),
        coords={
            "label": ("cell", list("aabbcc")),
            "stage": ("cell", np.arange(6.0)),
            "day": ("cell", pd.date_range("2024-01-01", periods=6).to_numpy()),
        },
    )
    fit = gplvm.fit_map(gplvm.build_model(table, 1), progressbar=False)
    posterior = fit["posterior"].to_dataset()
    for name in ("label", "stage", "day"):
        assert posterior[name].dims == ("obs",)
        np.testing.assert_array_equal(posterior[name], table[name])


@pytest.mark.parametrize("name", ["chain", "draw", "latent", "sigma", "Y"])
def test_row_label_with_a_name_the_model_uses(name, rng):
    table = xr.DataArray(
        rng.normal(size=(6, 3)), dims=("obs", "feature"), coords={name: ("obs", list("aabbcc"))}
    )
    with pytest.raises(ValueError, match=rf"coordinate.*'{name}'.*[Rr]ename"):
        gplvm.build_model(table, 2)


# Priors


def test_fixed_numbers_stand_in_constant_data(Y):
    model = gplvm.build_model(Y, priors={"sigma": 0.3, "amplitude": 2})
    assert names(model.free_RVs) == ["X", "lengthscale"]
    fit = gplvm.fit_map(model, progressbar=False)
    assert set(fit["posterior"].data_vars) == {"X", "lengthscale"}
    assert fit["constant_data"]["sigma"] == 0.3
    assert fit["constant_data"]["amplitude"] == 2.0


def test_fixed_array_for_each_dimension(Y):
    model = gplvm.build_model(Y, ard=True, priors={"lengthscale": [0.5, 2.0]})
    np.testing.assert_array_equal(model["lengthscale"].get_value(), [0.5, 2.0])
    assert tuple(model.named_vars_to_dims["lengthscale"]) == ("latent",)
    one_for_all = gplvm.build_model(Y, ard=True, priors={"lengthscale": 0.7})
    np.testing.assert_array_equal(one_for_all["lengthscale"].get_value(), [0.7, 0.7])


def test_fixed_positions(Y, rng):
    X = rng.normal(size=(12, 2))
    fit = gplvm.fit_map(gplvm.build_model(Y, priors={"X": X}), progressbar=False)
    assert "X" not in fit["posterior"]
    np.testing.assert_array_equal(fit["constant_data"]["X"], X)
    assert fit["constant_data"]["X"].dims == ("obs", "latent")


def test_flat_priors_add_nothing(Y, rng):
    flat = dict.fromkeys(("X", *FIXED), "flat")
    objective = gplvm.model.compile_objective(gplvm.build_model(Y, priors=flat))
    likelihood = gplvm.model.compile_objective(gplvm.build_model(Y), prior=False)
    point = {"X": rng.normal(size=(12, 2)), **FIXED}
    assert objective(point)[0] == pytest.approx(likelihood(point)[0], rel=1e-13)


def logp_of(model, name, value, mode):
    variable = model[name]
    logp = pm.logp(variable, np.asarray(value, dtype=float)).sum()
    return float(logp.eval(mode=mode))


@pytest.mark.parametrize("shape", [(), (2,)], ids=["scalar", "full"])
def test_distribution_as_prior(shape, Y, mode):
    model = gplvm.build_model(
        Y,
        ard=True,
        priors={
            "lengthscale": pm.Gamma.dist(2.0, 2.0, shape=shape),
            "sigma": pm.HalfNormal.dist(0.5),
        },
    )
    assert model["lengthscale"].eval(mode=mode).shape == (2,)
    assert tuple(model.named_vars_to_dims["lengthscale"]) == ("latent",)
    expected = pm.logp(pm.Gamma.dist(2.0, 2.0), np.array([0.5, 3.0])).sum().eval(mode=mode)
    assert logp_of(model, "lengthscale", [0.5, 3.0], mode) == pytest.approx(float(expected))


def test_scalar_distribution_for_all_positions(Y, mode):
    model = gplvm.build_model(Y, priors={"X": pm.Laplace.dist(0.0, 0.5)})
    drawn = model["X"].eval(mode=mode)
    assert drawn.shape == (12, 2)
    assert len(np.unique(drawn)) == 24  # independent, not one draw repeated


def test_function_as_prior(Y):
    seen = []

    def prior(name, dims):
        seen.append((name, dims))
        return pm.HalfCauchy(name, 1.0, dims=dims)

    model = gplvm.build_model(Y, ard=True, priors={"lengthscale": prior, "sigma": prior})
    assert seen == [("lengthscale", ("latent",)), ("sigma", ())]
    assert names(model.free_RVs) == ["X", "lengthscale", "amplitude", "sigma"]
    assert type(model["sigma"].owner.op).__name__ == "HalfCauchyRV"


def test_function_may_build_a_parameter_of_others(Y):
    def prior(name, dims):
        return pm.Deterministic(name, pm.HalfNormal("tau", 1.0) + 0.1)

    model = gplvm.build_model(Y, priors={"sigma": prior})
    fit = gplvm.fit_map(model, progressbar=False)
    posterior = fit["posterior"]
    assert float(posterior["sigma"][0, 0]) == pytest.approx(float(posterior["tau"][0, 0]) + 0.1)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (
            {"sgima": 1.0},
            r"name parameters of this model \(X, lengthscale, amplitude, sigma\), got sgima",
        ),
        ({"bias": 1.0}, r"name parameters of this model .*got bias"),
        ({"sigma": "half"}, r"priors\['sigma'\] must be 'flat' where it is a text, got 'half'"),
        (
            {"sigma": 0.0},
            r"priors\['sigma'\] must be positive and finite where it is a number, got 0\.0",
        ),
        ({"sigma": -1}, r"must be positive and finite where it is a number, got -1"),
        ({"lengthscale": np.inf}, r"must be positive and finite"),
        ({"X": np.full((12, 2), np.nan)}, r"priors\['X'\] must be finite"),
        ({"sigma": [0.1, 0.2]}, r"priors\['sigma'\] must have shape \(\) or \(\), got \(2,\)"),
        (
            {"X": np.zeros((11, 2))},
            r"priors\['X'\] must have shape \(\) or \(12, 2\), got \(11, 2\)",
        ),
        (
            {"sigma": pm.HalfNormal.dist(1.0, shape=3)},
            r"priors\['sigma'\] must have shape .*got \(3,\)",
        ),
        (
            {"X": pm.Normal.dist(0.0, 1.0, shape=2)},
            r"priors\['X'\] must have shape \(\) or \(12, 2\)",
        ),
        (
            {"X": pm.Normal.dist(0.0, 1.0, shape=(11, 2))},
            r"priors\['X'\] must have shape \(\) or \(12, 2\), got \(11, 2\)",
        ),
    ],
)
def test_priors_out_of_range(priors, message, Y):
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(Y, priors=priors)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            {"a": 1},
            r"must be a number, 'flat', a distribution made by \.dist\(\) or a function of .*got dict",
        ),
        (lambda name, dims: 3.0, r"was called and must return the variable it made, got float"),
        (
            pm.math.exp(1.0),
            r"must be a distribution made by \.dist\(\), such as pm\.HalfNormal\.dist\(1\)",
        ),
    ],
    ids=["dict", "function", "expression"],
)
def test_priors_of_another_kind(prior, message, Y):
    with pytest.raises(TypeError, match=message):
        gplvm.build_model(Y, priors={"sigma": prior})


def test_a_prior_is_not_changed_by_its_use(Y):
    prior = pm.Gamma.dist(2.0, 2.0)
    for _ in range(2):
        gplvm.build_model(Y, priors={"sigma": prior})
    assert prior.name is None


def test_one_distribution_for_two_parameters(Y, mode):
    prior = pm.HalfNormal.dist(1.0)
    model = gplvm.build_model(Y, priors={"sigma": prior, "amplitude": prior})
    assert names(model.free_RVs) == ["X", "lengthscale", "amplitude", "sigma"]
    sigma, amplitude = pm.draw([model["sigma"], model["amplitude"]], random_seed=1, mode=mode)
    assert sigma != amplitude


# Units


@pytest.fixture(scope="module")
def held(Y):
    """All of X and θ fixed: the prior predictive is then N(mean, scale² K) itself."""
    X = np.random.default_rng(8).normal(size=(4, 2))
    table = 100.0 + 1000.0 * Y[:4, :2]
    return X, table, gplvm.build_model(table, priors={"X": X, **FIXED})


def test_predictive_draws_are_in_the_units_of_the_table(held, mode):
    X, table, model = held
    n_draws = 8000
    drawn = pm.sample_prior_predictive(
        draws=n_draws, model=model, random_seed=1, compile_kwargs={"mode": mode}
    )["prior_predictive"]["Y"]
    assert drawn.dims == ("chain", "draw", "feature", "obs")
    flat = drawn.to_numpy().reshape(n_draws, 8)
    mean = table.to_numpy().mean(axis=0)
    scale = np.sqrt(((table.to_numpy() - mean) ** 2).mean())
    assert scale > 500.0
    covariance = np.kron(np.eye(2), scale**2 * kernel_matrix("rbf", X, sigma=0.3))
    variances = np.diag(covariance)
    # Five standard errors of a mean and of a covariance.
    assert (np.abs(flat.mean(axis=0) - np.repeat(mean, 4)) < 5 * np.sqrt(variances / n_draws)).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n_draws)
    assert (np.abs(np.cov(flat.T) - covariance) < 5 * error).all()


def test_posterior_predictive_is_in_the_units_of_the_table(best, model, digits, mode):
    drawn = pm.sample_posterior_predictive(
        best, model=model, random_seed=1, progressbar=False, compile_kwargs={"mode": mode}
    )["posterior_predictive"]["Y"]
    assert drawn.dims == ("chain", "draw", "feature", "obs")
    assert drawn.sizes == {"chain": 1, "draw": 1, "feature": 64, "obs": 30}
    # Ink goes from 0 to 16 with mean 5: a table in units of the scale would have mean 0.
    assert float(drawn.mean()) == pytest.approx(float(digits.mean()), abs=2.0)


def test_model_with_everything_fixed_has_nothing_to_fit(held):
    _, _, model = held
    with pytest.raises(ValueError, match="free"):
        gplvm.fit_map(model, progressbar=False)


# Arguments


@pytest.mark.parametrize("latent_dim", [0, -1])
def test_latent_dim_out_of_range(latent_dim, Y):
    with pytest.raises(ValueError, match=rf"latent_dim must be at least 1, got {latent_dim}\."):
        gplvm.build_model(Y, latent_dim)


@pytest.mark.parametrize("kernel", ["linear", "linear + bias", "linear[0,1] + linear[2]"])
def test_a_linear_kernel_has_no_more_dimensions_than_the_table_rank(kernel, Y):
    message = (
        r"latent_dim must be at most min\(N, D\) = 4 with kernel='linear.*, got 5: a linear map"
    )
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(Y, 5, kernel=kernel)
    with pytest.raises(ValueError, match=message):
        gplvm.fit_svi(Y, 5, kernel=kernel)


@pytest.mark.parametrize("latent_dim", [2.0, "2", None, True])
def test_latent_dim_that_is_no_whole_number(latent_dim, Y):
    with pytest.raises(TypeError, match="latent_dim must be a whole number, got"):
        gplvm.build_model(Y, latent_dim)


def test_latent_dim_from_numpy(Y):
    assert tuple(gplvm.build_model(Y, np.int64(3)).coords["latent"]) == (0, 1, 2)


def test_unknown_kernel(Y):
    with pytest.raises(ValueError, match=r"kernel must be one of rbf, .*got 'rbf\+cubic'"):
        gplvm.build_model(Y, kernel="rbf+cubic")


def test_ard_needs_a_lengthscale(Y):
    with pytest.raises(
        ValueError, match=r"ard=True needs a kernel with a lengthscale, got kernel='linear'"
    ):
        gplvm.build_model(Y, kernel="linear", ard=True)


# describe


def test_describe_of_something_else():
    with pytest.raises(TypeError, match=r"model must be a pm\.Model, got int\. See build_model"):
        ModelSpec.of(3)


def test_describe_without_a_table():
    with pm.Model() as model:
        pm.Normal("X")
    with pytest.raises(
        ValueError, match=r"one observed GPColumns, got 0\. Build it with build_model"
    ):
        ModelSpec.of(model)


def test_describe_without_positions(rng):
    with pm.Model() as model:
        pm.HalfNormal("s")
        gplvm.GPColumns("Y", np.eye(4), observed=rng.normal(size=(2, 4)))
    with pytest.raises(ValueError, match=r"latent positions called 'X', got the variables s, Y"):
        ModelSpec.of(model)


@pytest.mark.parametrize("kernel", [*ALL_KERNELS, "rbf + bias", "rbf + linear + bias"])
@pytest.mark.parametrize("ard", [False, True])
def test_the_kernel_is_read_off_the_graph(kernel, ard, Y):
    if ard and kernel == "linear":
        return
    model = gplvm.build_model(Y, kernel=kernel, ard=ard, priors={"sigma": 0.1})
    for one in (model, pm.do(model, {"X": np.ones((12, 2))})):
        assert ModelSpec.of(one).kernel == kernel.removesuffix(" + bias")


def test_parameters_of_other_names_make_a_covariance_custom(Y):
    def described(build):
        with pm.Model() as model:
            X = pm.Normal("X", shape=(12, 2))
            gplvm.GPColumns("Y", build(X), observed=Y.to_numpy().T)
        return ModelSpec.of(model).kernel

    def length():
        return pm.HalfNormal("lengthscale")

    assert described(lambda X: gplvm.covariance("rbf", X, lengthscale=length())) == "rbf"
    assert described(lambda X: gplvm.covariance("rbf", X, lengthscale=2 * length())) == "custom"
    assert described(lambda X: gplvm.covariance("rbf", 2 * X)) == "custom"
    both = partial(gplvm.covariance, "rbf + linear")
    assert described(lambda X: both(X, lengthscale=length())) == "rbf + linear"
    assert described(both) == "rbf + linear"
    assert described(lambda X: both(X, weight=pm.HalfNormal("weight"))) == "rbf + linear"
    assert described(lambda X: both(X, weight=2.0)) == "custom"
    assert described(lambda X: both(X, weight=pm.HalfNormal("w"))) == "custom"
    assert described(lambda X: gplvm.covariance("rbf", X, sigma=0.3)) == "custom"
    assert described(lambda X: gplvm.covariance("rbf", X, sigma=pm.HalfNormal("s"))) == "custom"
