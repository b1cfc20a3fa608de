"""Models with kernels of several factors: their variables, objective, and what is refused."""

import numpy as np
import pymc as pm
import pytest
from oracles import composite_matrix

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density, optimiser_coordinates
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import angles_of, start_values
from pm_gplvm.model.volume import log_volume, why_no_volume

TEXTS = (
    "rbf[0,1]",
    "rbf[0] + periodic[1]",
    "rational_quadratic[0] * linear[1] + matern12[1]",
    "linear[0] + linear[1]",
)


@pytest.fixture
def Y(rng):
    return rng.normal(size=(14, 4)) @ rng.normal(size=(4, 4))


def point_of(model, rng):
    """Values of the free variables, positive."""
    shapes = {rv.name: tuple(rv.shape.eval()) for rv in model.free_RVs}
    values = {name: np.exp(0.3 * rng.normal(size=shape)) for name, shape in shapes.items()}
    return values | {"X": rng.normal(size=shapes["X"])}


def test_variables_and_coordinates(Y):
    kernel = "rational_quadratic[0,1] * periodic[1] + linear[0] + bias"
    model = gplvm.build_model(Y, kernel=kernel)
    names = [rv.name for rv in model.free_RVs]
    assert names == ["X", "lengthscale", "amplitude", "alpha", "sigma", "bias"]
    dims = model.named_vars_to_dims
    assert dims["lengthscale"] == ("kernel_factor",)
    assert dims["amplitude"] == ("kernel_term",)
    assert dims["alpha"] == ("kernel_shape",)
    assert model.coords["kernel_factor"] == ("rational_quadratic[0,1]", "periodic[1]")
    assert model.coords["kernel_term"] == ("rational_quadratic[0,1] * periodic[1]", "linear[0]")
    ard = gplvm.build_model(Y, kernel=kernel, ard=True)
    wanted = ("rational_quadratic[0]", "rational_quadratic[1]", "periodic[1]")
    assert ard.coords["kernel_factor"] == wanted
    assert ModelSpec.of(model).kernel == ModelSpec.of(ard).kernel == kernel.removesuffix(" + bias")


def test_an_object_is_its_text(Y):
    k = gplvm.kernels
    by_object = gplvm.build_model(Y, kernel=k.rbf(dims=0) + k.periodic(dims=1))
    assert ModelSpec.of(by_object).kernel == "rbf[0] + periodic[1]"
    named = gplvm.build_model(Y, kernel=k.rbf() + k.bias())
    assert ModelSpec.of(named).kernel == "rbf"
    assert "bias" in named.named_vars


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ard", [False, True], ids=["shared", "ard"])
def test_objective_and_gradient(text, ard, Y, rng):
    if ard and "linear[0] + linear" in text:
        pytest.skip("no lengthscale")
    model = gplvm.build_model(Y, kernel=text, ard=ard, scale="none", resolution=0.0)
    objective = gplvm.model.compile_objective(model, prior=False)
    at = point_of(model, rng)
    value, gradient = objective(at)
    theta = {n: at[n] for n in ("lengthscale", "amplitude", "alpha") if n in at}
    K = composite_matrix(text, at["X"], **theta) + at["sigma"] ** 2 * np.eye(len(Y))
    F = Y - Y.mean(axis=0)
    known = -0.5 * F.shape[1] * (np.linalg.slogdet(K)[1] + len(Y) * np.log(2.0 * np.pi))
    assert value == pytest.approx(known - 0.5 * (F * np.linalg.solve(K, F)).sum(), rel=1e-10)
    for name, slope in gradient.items():
        for i in [(0,) * np.ndim(at[name]), tuple(n - 1 for n in np.shape(at[name]))]:
            moved = [{**at, name: np.array(at[name])} for _ in range(2)]
            moved[0][name][i] += 1e-6
            moved[1][name][i] -= 1e-6
            difference = (objective(moved[0])[0] - objective(moved[1])[0]) / 2e-6
            assert slope[i] == pytest.approx(difference, rel=1e-5, abs=1e-5)


def test_one_factor_over_all_dimensions_has_the_objective_of_the_named_kernel(Y, rng):
    named, own = (gplvm.build_model(Y, kernel=k) for k in ("rbf", "rbf[0,1]"))
    one, other = (gplvm.model.compile_objective(m) for m in (named, own))
    X, theta = rng.normal(size=(14, 2)), {"lengthscale": 0.8, "amplitude": 1.2}
    value, gradient = one({"X": X, **theta, "sigma": 0.3})
    same, slope = other({"X": X, **{n: np.array([v]) for n, v in theta.items()}, "sigma": 0.3})
    assert same == pytest.approx(value, rel=1e-10)
    for name, known in gradient.items():
        np.testing.assert_allclose(slope[name].reshape(known.shape), known, rtol=1e-8, atol=1e-10)


def test_one_factor_over_all_dimensions_has_the_volume_of_the_named_kernel(Y):
    start = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.3}
    held = [
        gplvm.build_model(Y, kernel=k, priors=start) for k in ("rbf", "rbf[0,1]", "rbf[0,1] + bias")
    ]
    one, other, biased = (float(log_volume(m).eval()) for m in held)
    assert one == pytest.approx(other, rel=1e-12)
    assert biased == pytest.approx(other, rel=1e-12)


def test_the_volume_takes_the_slopes_of_the_dimensions(Y):
    theta = {"lengthscale": [0.5, 2.0], "amplitude": [1.2, 0.7], "sigma": 0.3}
    model = gplvm.build_model(Y, kernel="rbf[0] + periodic[1]", priors=theta, resolution=0.0)
    slope = np.array([1.44 / 0.25, 0.49 / 4.0])
    known = 14 * (np.log(2.0 * np.pi) - 0.5 * np.log1p(4.0 * slope / 0.09).sum())
    assert float(log_volume(model).eval()) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "why"),
    [("matern12[0,1]", "matern12 factor have no slopes"), ("rbf[0] * linear[1]", "depend on the")],
)
def test_what_has_no_volume(text, why, Y):
    model = gplvm.build_model(Y, kernel=text)
    assert why in why_no_volume(model)
    with pytest.raises(ValueError, match=f"{why}.*Take fit_map"):
        gplvm.fit_marginal(model, progressbar=False)


def test_positions_are_moved_in_units_of_their_own(Y):
    model = gplvm.build_model(Y, kernel="rbf[0] + periodic[1]")
    coordinates = optimiser_coordinates(model)
    assert coordinates.lengthscale is None
    density = compile_log_density(model, coordinates=optimiser_coordinates)
    values = start_values(model, "pca", np.random.default_rng(0))
    assert np.isfinite(density(density.inward(values))[0])


def test_angles_begin_in_a_plane(rng):
    t = rng.uniform(-np.pi, np.pi, 30)
    Y = np.stack([np.cos(t), np.sin(t), 0.1 * rng.normal(size=30)], axis=1)
    model = gplvm.build_model(Y, 2, kernel="rbf[0] + periodic[1]")
    spec = ModelSpec.of(model)
    assert angles_of(spec) == [1]
    X = start_values(model, "pca", rng)["X"]
    together = max(abs(np.mean(np.exp(1j * (sign * X[:, 1] - t)))) for sign in (1.0, -1.0))
    assert together > 0.95
    assert angles_of(ModelSpec.of(gplvm.build_model(Y, 2, kernel="rbf[0,1] * periodic[1]"))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rbf[5]"}, "latent dimensions from 0 to 1, got rbf"),
        ({"kernel": "spline[0]"}, "kernel must be made of"),
        ({"kernel": "rbf[0,0]"}, "each latent dimension of a factor once"),
        ({"kernel": ""}, "kernel must be one of"),
        ({"kernel": "linear[0] + linear[1]", "ard": True}, "needs a kernel with a lengthscale"),
        ({"kernel": "rbf[0] + rbf[1]", "noise": "column"}, "noise='column' gives each column"),
        ({"kernel": "rbf[0] + rbf[1]", "priors": {"weight": 1.0}}, "priors must name"),
        ({"kernel": "rbf[0] + rbf[1]", "priors": {"amplitude": [1.0] * 3}}, "shape"),
        ({"priors": {"X": gplvm.priors.circular(dims=2)}}, "from 0 to 1, got 2"),
    ],
)
def test_refused(options, message, Y):
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(Y, **options)


def test_no_kernel(Y):
    with pytest.raises(TypeError, match=r"made of gplvm\.kernels"):
        gplvm.build_model(Y, kernel=3)


@pytest.mark.parametrize("verb", ["fit_sparse", "fit_variational"])
def test_inducing_inputs_in_closed_form_are_refused(verb, Y):
    model = gplvm.build_model(Y, kernel="rbf[0] + periodic[1]")
    with pytest.raises(ValueError, match=r"Take fit_marginal or fit_map.*fit_svi"):
        getattr(gplvm, verb)(model, progressbar=False)


def test_circular_prior(Y):
    prior = gplvm.priors.circular(dims=[1])
    assert prior == gplvm.priors.circular(dims=1)
    model = gplvm.build_model(Y, kernel="rbf[0] + periodic[1]", priors={"X": prior})
    at = np.random.default_rng(0).normal(size=(14, 2))
    known = pm.logp(pm.Normal.dist(0.0, np.array([1.0, 3.0])), at).sum().eval()
    assert pm.logp(model["X"], at).sum().eval() == pytest.approx(known, rel=1e-12)


def test_latent_functions(rng):
    Y = rng.poisson(2.0, size=(14, 3)).astype(float)
    model = gplvm.build_model(Y, kernel="rbf[0] + periodic[1]", likelihood="poisson")
    assert model.coords["kernel_term"] == ("rbf[0]", "periodic[1]")
    assert np.isfinite(model.compile_logp()(model.initial_point()))
