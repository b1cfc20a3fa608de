"""The objective of the fits: SciPy's value, differences' gradient, invariances, Lawrence, backends."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    ALL_KERNELS,
    STATIONARY,
    SUMS,
    central_differences,
    centre_and_spread,
    column_logps,
    kernel_matrix,
    lawrence,
)
from scipy import stats

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density, log_density
from pm_gplvm.model.ops import columns_logp

few = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def point_of(kernel, rng, *, ard=False, n=12, bias=0.7):
    theta = {"lengthscale": np.array([0.8, 1.7]) if ard else 0.9, "amplitude": 1.3}
    theta = {} if kernel == "linear" else theta
    theta |= {"weight": 0.6} if kernel in SUMS else {}
    noise = {"sigma": 0.4} | ({} if bias is None else {"bias": bias})
    return {"X": rng.normal(size=(n, 2)), **theta, **noise}


def expected_log_likelihood(Y, kernel, point, scale):
    theta = {name: value for name, value in point.items() if name != "X"}
    K = kernel_matrix(kernel, point["X"], **theta)
    return column_logps(Y.to_numpy(), K, *centre_and_spread(Y.to_numpy(), scale))


def assert_gradients_agree(gradient, expected, rel=1e-6):
    assert set(gradient) == set(expected)
    for name, slope in expected.items():
        assert gradient[name].shape == slope.shape
        np.testing.assert_allclose(gradient[name], slope, rtol=rel, atol=rel * np.abs(slope).max())


# Value


@pytest.mark.parametrize("bias", [None, 0.7], ids=["no bias", "bias"])
@pytest.mark.parametrize("scale", ["none", "global", "feature"])
@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_log_likelihood_equals_scipy(kernel, scale, bias, Y, objectives, rng):
    point = point_of(kernel, rng, bias=bias)
    objective = objectives(kernel if bias is None else f"{kernel} + bias", scale=scale)
    value, _ = objective(point)
    assert value == pytest.approx(expected_log_likelihood(Y, kernel, point, scale).sum(), rel=1e-10)


def test_objective_adds_the_log_priors(Y, objectives, rng):
    point = point_of("rbf", rng)
    value, _ = objectives("rbf + bias", prior=True)(point)
    priors = (
        stats.norm(0, 1).logpdf(point["X"]).sum()
        + stats.invgamma(3.0, scale=2.0).logpdf(point["lengthscale"])
        + stats.lognorm(1.0).logpdf(point["amplitude"])
        + stats.lognorm(1.0, scale=np.exp(-2.0)).logpdf(point["sigma"])
        + stats.halfnorm().logpdf(point["bias"])
    )
    likelihood = expected_log_likelihood(Y, "rbf", point, "global").sum()
    assert value == pytest.approx(likelihood + priors, rel=1e-10)


def test_pymcs_own_ways_to_the_likelihood(Y, mode, rng):
    """point_logps, and compute_log_likelihood with one term a feature."""
    model = gplvm.build_model(Y, kernel="rbf + bias", scale="feature", resolution=0)
    point = point_of("rbf", rng)
    logs = {f"{k}_log__": np.log(v) for k, v in point.items() if k != "X"}
    expected = expected_log_likelihood(Y, "rbf", point, "feature")
    values = model.point_logps({"X": point["X"], **logs}, round_vals=12, mode=mode)
    assert values["Y"] == pytest.approx(expected.sum(), rel=1e-10)
    fit = gplvm.fit_map(model, progressbar=False)
    for name, value in point.items():
        fit["posterior"][name].values[...] = value
    pm.compute_log_likelihood(fit, model=model, progressbar=False, compile_kwargs={"mode": mode})
    terms = fit["log_likelihood"]["Y"]
    assert terms.dims == ("chain", "draw", "feature")
    assert terms["feature"].to_numpy().tolist() == Y["feature"].to_numpy().tolist()
    np.testing.assert_allclose(terms[0, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("jacobian", [False, True])
def test_log_density_equals_the_models_own(jacobian, digits, model, mode):
    """30 rows, 64 columns: the factor against PyMC's sum over columns."""
    point = model.initial_point(random_seed=3)
    rng = np.random.default_rng(3)
    point["X"] = rng.normal(size=(30, 2))
    short = model.compile_fn(
        log_density(model, jacobian=jacobian), inputs=model.value_vars, mode=mode
    )
    long = model.compile_fn(model.logp(jacobian=jacobian), inputs=model.value_vars, mode=mode)
    assert short(point) == pytest.approx(float(long(point)), rel=1e-11)


def test_shortened_data_give_the_gradient_of_all_columns(model, mode):
    density = compile_log_density(model, jacobian=True)
    point = model.initial_point()
    point["X"] = np.random.default_rng(4).normal(size=(30, 2))
    value, gradient = density(density.pack(point))
    outputs = [model.logp(), *pt.grad(model.logp(), model.value_vars)]
    expected, *slopes = model.compile_fn(outputs, inputs=model.value_vars, mode=mode)(point)
    assert value == pytest.approx(float(expected), rel=1e-11)
    for name, slope in zip((v.name for v in model.value_vars), slopes, strict=True):
        np.testing.assert_allclose(density.unpack(gradient)[name], slope, rtol=1e-8, atol=1e-8)


# Gradient


@pytest.mark.parametrize(
    ("kernel", "ard"), [*((k, a) for k in (*STATIONARY, *SUMS) for a in (0, 1)), ("linear", 0)]
)
def test_gradient_equals_central_differences(kernel, ard, objectives, rng):
    objective = objectives(f"{kernel} + bias", ard=bool(ard), scale="feature")
    point = point_of(kernel, rng, ard=bool(ard))
    _, gradient = objective(point)
    assert_gradients_agree(gradient, central_differences(lambda p: objective(p)[0], point))


def test_gradient_with_priors_equals_central_differences(objectives, rng):
    objective = objectives("rbf + bias", prior=True)
    point = point_of("rbf", rng)
    _, gradient = objective(point)
    assert_gradients_agree(gradient, central_differences(lambda p: objective(p)[0], point))


def test_gradient_in_the_samplers_variables_equals_central_differences(Y, rng):
    model = gplvm.build_model(Y, kernel="matern52 + bias", ard=True)
    density = compile_log_density(model, jacobian=True)
    at = density.pack(
        {
            name: 0.5 * rng.normal(size=s)
            for name, s in zip(density.names, density.shapes, strict=True)
        }
    )
    _, gradient = density(at)
    expected = central_differences(lambda p: density(p["v"])[0], {"v": at})["v"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "linear", "rbf + linear"])
def test_second_derivatives_through_the_whole_density(kernel, Y, mode, rng):
    """Hessian times a vector, against differences of the gradient."""
    model = gplvm.build_model(Y, kernel=kernel)
    total = log_density(model)
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    gradients = pt.grad(total, values)
    at = {v.name: 0.3 * rng.normal(size=np.shape(model.initial_point()[v.name])) for v in values}
    along = {name: rng.normal(size=np.shape(value)) for name, value in at.items()}
    product = pt.grad(
        sum((g * along[v.name]).sum() for g, v in zip(gradients, values, strict=True)), values
    )
    function = pytensor.function(values, [*gradients, *product], mode=mode)
    n = len(values)
    found = function(*at.values())[n:]
    step = 1e-5
    up, down = (function(*(at[name] + s * step * along[name] for name in at))[:n] for s in (1, -1))
    for ours, higher, lower in zip(found, up, down, strict=True):
        expected = (higher - lower) / (2 * step)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


# What the likelihood is blind to


@pytest.fixture(scope="module")
def likelihood(mode):
    """L as a function of everything, two lengthscales, for each stationary kernel."""
    F, X, lengthscale, scale = pt.dmatrix(), pt.dmatrix(), pt.dvector(), pt.dvector()
    compiled = {}
    for kernel in STATIONARY:
        K = gplvm.covariance(kernel, X, lengthscale=lengthscale, amplitude=1.2, sigma=0.5, bias=0.3)
        compiled[kernel] = pytensor.function(
            [F, X, lengthscale, scale], columns_logp(F, K, scale), mode=mode
        )

    def evaluate(kernel, F, X, lengthscale=(0.9, 0.9), scale=(1.0, 1.0, 1.0)):
        return compiled[kernel](F, X, np.array(lengthscale), np.array(scale))

    return evaluate


kernels, seeds = st.sampled_from(STATIONARY), st.integers(0, 2**16)


def data(seed):
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(9, 3)), rng.normal(size=(9, 2))


@few
@given(kernel=kernels, seed=seeds, angle=st.floats(-3.2, 3.2), mirror=st.booleans())
def test_rotations_and_reflections(likelihood, kernel, seed, angle, mirror):
    _, F, X = data(seed)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= -1.0 if mirror else 1.0
    np.testing.assert_allclose(likelihood(kernel, F, X @ turn), likelihood(kernel, F, X), rtol=1e-9)


def test_ard_is_not_blind_to_rotations(likelihood):
    _, F, X = data(1)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned, before = (likelihood("rbf", F, Z, (0.5, 2.0)).sum() for Z in (X @ turn, X))
    assert abs(turned - before) > 0.1


@few
@given(
    kernel=kernels,
    seed=seeds,
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 2),
    swap=st.booleans(),
)
def test_signs_and_permutations_under_ard(likelihood, kernel, seed, signs, swap):
    _, F, X = data(seed)
    lengthscale = np.array([0.5, 2.0])
    order = [1, 0] if swap else [0, 1]
    changed = likelihood(kernel, F, (X * signs)[:, order], lengthscale[order])
    np.testing.assert_allclose(changed, likelihood(kernel, F, X, lengthscale), rtol=1e-9)


@few
@given(kernel=kernels, seed=seeds, shift=st.tuples(*[st.floats(-100.0, 100.0)] * 2))
def test_translations(likelihood, kernel, seed, shift):
    _, F, X = data(seed)
    np.testing.assert_allclose(
        likelihood(kernel, F, X + shift), likelihood(kernel, F, X), rtol=1e-9
    )


@few
@given(kernel=kernels, seed=seeds, factor=st.floats(0.01, 100.0))
def test_scale_of_X_and_lengthscale_together(likelihood, kernel, seed, factor):
    _, F, X = data(seed)
    changed = likelihood(kernel, F, factor * X, np.array([0.9, 0.9]) * factor)
    np.testing.assert_allclose(changed, likelihood(kernel, F, X), rtol=1e-9)


@few
@given(kernel=kernels, seed=seeds)
def test_order_of_rows_and_columns(likelihood, kernel, seed):
    rng, F, X = data(seed)
    rows, columns = rng.permutation(9), rng.permutation(3)
    before = likelihood(kernel, F, X)
    np.testing.assert_allclose(likelihood(kernel, F[rows], X[rows]), before, rtol=1e-9)
    np.testing.assert_allclose(likelihood(kernel, F[:, columns], X), before[columns], rtol=1e-9)


@few
@given(kernel=kernels, seed=seeds, factor=st.floats(1e-3, 1e3))
def test_scale_of_the_data(likelihood, kernel, seed, factor):
    """scale · F under scale² K: only the Jacobian, N ln scale a column, remains."""
    _, F, X = data(seed)
    changed = likelihood(kernel, F, X, scale=np.full(3, factor))
    np.testing.assert_allclose(
        changed, likelihood(kernel, F, X) - 9 * np.log(factor), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("scale", ["global", "feature"])
def test_model_of_a_table_in_other_units(scale, Y, objectives, rng):
    units = 1000.0 if scale == "global" else np.array([1000.0, 0.01, 1.0, 20.0])
    point = point_of("rbf", rng)
    other = gplvm.model.compile_objective(
        gplvm.build_model(Y * units + 50.0, kernel="rbf + bias", scale=scale, resolution=0),
        prior=False,
    )
    value, gradient = objectives("rbf + bias", scale=scale)(point)
    changed, same = other(point)
    jacobian = 12 * np.log(np.broadcast_to(units, 4)).sum()
    assert changed == pytest.approx(value - jacobian, rel=1e-8)
    assert_gradients_agree(same, gradient)


def test_model_of_a_table_in_another_order(Y, objectives, rng):
    rows, columns = rng.permutation(12), rng.permutation(4)
    point = point_of("rbf", rng)
    other = gplvm.model.compile_objective(
        gplvm.build_model(Y[rows, columns], kernel="rbf + bias", resolution=0), prior=False
    )
    value, gradient = objectives("rbf + bias")(point)
    changed, permuted = other({**point, "X": point["X"][rows]})
    assert changed == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(permuted["X"], gradient["X"][rows], rtol=1e-8, atol=1e-10)


# X = 0 and broken K


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_all_zero_X_is_stationary(kernel, objectives, rng):
    point = {**point_of(kernel, rng), "X": np.zeros((12, 2))}
    value, gradient = objectives(f"{kernel} + bias", scale="feature")(point)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient["X"], 0.0)


def test_K_that_is_not_positive_definite(objectives, rng):
    point = {**point_of("rbf", rng), "X": np.zeros((12, 2)), "sigma": 0.0}
    value, _ = objectives("rbf + bias")(point)
    assert value == -np.inf


@pytest.mark.parametrize("kernel", ["rbf + bias", "linear + bias", "rbf + linear + bias"])
def test_samplers_may_step_far_outside(kernel, Y):
    """An exception in the density would end a whole run; infinity is but a rejected step."""
    density = compile_log_density(gplvm.build_model(Y, kernel=kernel), jacobian=True)
    start = dict.fromkeys(density.names, 0.0)
    shapes = dict(zip(density.names, density.shapes, strict=True))
    start |= {"X": np.random.default_rng(1).normal(size=shapes["X"])}
    for name in density.names[1:]:
        for far in (-800.0, -400.0, 400.0, 800.0):
            value, gradient = density(density.pack({**start, name: far}))
            assert value < density(density.pack(start))[0] or np.isnan(value)
            assert gradient.shape == (density.size,)


# Lawrence's own objective (JMLR 6, 2005)


START = {"amplitude": 1.0, "lengthscale": 1.0, "sigma": np.exp(-0.5), "bias": np.exp(-0.5)}


def assert_is_lawrences(Y, X):
    flat = dict.fromkeys(START, "flat")
    model = gplvm.build_model(
        Y, X.shape[1], kernel="rbf + bias", priors=flat, scale="none", resolution=0
    )
    value, gradient = gplvm.model.compile_objective(model)({"X": X, **START})
    centred = Y - Y.mean(axis=0)
    expected, slopes = lawrence(X, centred, rbf=1.0, gamma=1.0, white=np.exp(-1), bias=np.exp(-1))
    assert value == pytest.approx(expected, rel=1e-10)
    # From his variances to our standard deviations; gamma = 1 / lengthscale².
    chained = {
        "X": slopes["X"],
        "amplitude": 2.0 * slopes["rbf"],
        "lengthscale": -2.0 * slopes["gamma"],
        "sigma": 2.0 * np.exp(-0.5) * slopes["white"],
        "bias": 2.0 * np.exp(-0.5) * slopes["bias"],
    }
    for name, slope in chained.items():
        np.testing.assert_allclose(
            gradient[name], slope, rtol=1e-8, atol=1e-9 * np.abs(slope).max()
        )


def pca(Y, q):
    centred = Y - Y.mean(axis=0)
    U, s, _ = np.linalg.svd(centred, full_matrices=False)
    return U[:, :q] * s[:q] / np.sqrt(len(Y))


def test_oracle_of_lawrences_objective(Y):
    """The oracle itself, against SciPy and against differences."""
    Y = Y.to_numpy() - Y.to_numpy().mean(axis=0)
    point = {"X": pca(Y, 2), "rbf": 1.3, "gamma": 0.8, "white": 0.4, "bias": 0.3}
    value, gradient = lawrence(Y=Y, **point)
    K = kernel_matrix(
        "rbf", point["X"], lengthscale=0.8**-0.5, amplitude=1.3**0.5, sigma=0.4**0.5, bias=0.3**0.5
    )
    expected = column_logps(Y, K).sum() + stats.norm.logpdf(point["X"]).sum()
    assert value == pytest.approx(expected, rel=1e-10)
    assert_gradients_agree(gradient, central_differences(lambda p: lawrence(Y=Y, **p)[0], point))


def test_lawrences_objective_on_simulated_data(Y, rng):
    assert_is_lawrences(Y.to_numpy(), rng.normal(size=(12, 2)))


def test_lawrences_objective_on_oil_flow(oil_100):
    Y, _ = oil_100
    assert_is_lawrences(Y, pca(Y, 2))


# Points of a wrong form


@pytest.fixture
def good(rng):
    return point_of("rbf", rng)


def test_point_without_a_variable(objectives, good):
    del good["sigma"]
    with pytest.raises(
        ValueError, match=r"point must give a value to .*sigma.*, got X, lengthscale"
    ):
        objectives("rbf + bias")(good)


def test_point_with_an_unknown_variable(objectives, good):
    with pytest.raises(ValueError, match=r"point must give a value to .*got .*sigma_log__"):
        objectives("rbf + bias")({**good, "sigma_log__": 0.0})


def test_empty_point(objectives):
    with pytest.raises(ValueError, match="got nothing"):
        objectives("rbf + bias")({})


def test_point_of_a_wrong_shape(objectives, good):
    with pytest.raises(ValueError, match=r"point\['X'\] must have shape \(12, 2\), got \(11, 2\)"):
        objectives("rbf + bias")({**good, "X": good["X"][1:]})


def test_objective_of_something_else():
    with pytest.raises(TypeError, match=r"model must be a pm.Model, got dict\. See build_model"):
        gplvm.model.compile_objective({})


# Backends


def assert_backend_agrees(backend, model, point):
    value, gradient = gplvm.model.compile_objective(model)(point)
    other, slopes = gplvm.model.compile_objective(model, backend=backend)(point)
    assert other == pytest.approx(value, rel=1e-9)
    for name, slope in gradient.items():
        np.testing.assert_allclose(
            np.asarray(slopes[name]), slope, rtol=1e-9, atol=1e-9 * np.abs(slope).max()
        )


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_jax(kernel, Y, rng):
    pytest.importorskip("jax", reason="JAX is not installed (the extra [jax])")
    model = gplvm.build_model(Y, kernel=f"{kernel} + bias")
    assert_backend_agrees("jax", model, point_of(kernel, rng))


def test_jax_with_everything_frozen(Y, rng):
    pytest.importorskip("jax", reason="JAX is not installed (the extra [jax])")
    model = pm.model.transform.optimization.freeze_dims_and_data(
        gplvm.build_model(Y, kernel="rbf + bias")
    )
    assert_backend_agrees("jax", model, point_of("rbf", rng))


@pytest.mark.slow
def test_numba(rng):
    model = gplvm.build_model(rng.normal(size=(5, 2)), 1, kernel="rbf")
    assert_backend_agrees(
        "numba",
        model,
        {"X": rng.normal(size=(5, 1)), "lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4},
    )
