"""Sparse GP-LVMs: the two likelihoods written out, the exact one as their limit, and the fit."""

import tracemalloc

import numpy as np
import pytest
from oracles import STATIONARY, central_differences, column_logps, kernel_matrix

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density

JITTER = 1e-8


def fit_of(model, **settings):
    return gplvm.fit_sparse(model, progressbar=False, random_seed=1, **settings)


def density_of(model, n_inducing, method):
    density = compile_log_density(
        gplvm.model.build_sparse(model, n_inducing=n_inducing, method=method), prior=True
    )
    return density


def values_at(model, X, W, theta):
    values = {"X": X, "X_inducing": W}
    return values | {f"{name}_log__": np.log(value) for name, value in theta.items()}


def log_prior(model, X, theta):
    values = {"X": X} | {f"{name}_log__": np.log(value) for name, value in theta.items()}
    free = model.compile_logp(vars=model.free_RVs, jacobian=False, mode="FAST_COMPILE")
    return float(free(values))


@pytest.mark.parametrize("method", ["vfe", "fitc"])
@pytest.mark.parametrize("kernel", [*STATIONARY, "rbf + linear", "matern52 + linear"])
def test_the_likelihood_is_its_definition(kernel, method, Y, rng):
    model = gplvm.build_model(Y, 2, kernel=f"{kernel} + bias", resolution=0)
    density = density_of(model, 5, method)
    X, W = rng.standard_normal((12, 2)), rng.standard_normal((5, 2))
    theta = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4, "bias": 0.6}
    jitter = JITTER * 1.44
    if "+" in kernel:
        theta["weight"] = 0.7
        jitter += JITTER * 2 * (0.7 * 0.8) ** 2
    found, _ = density(density.pack(values_at(model, X, W, theta)))

    signal = {name: value for name, value in theta.items() if name != "sigma"}
    K = kernel_matrix(kernel, np.concatenate([X, W]), **signal)
    inducing = K[12:, 12:] + jitter * np.eye(5)
    Q = K[:12, 12:] @ np.linalg.solve(inducing, K[12:, :12])
    rest = np.diag(K[:12, :12] - Q)
    F = (Y - Y.mean("obs")).to_numpy()
    scale = np.sqrt((F**2).mean())
    if method == "vfe":
        expected = column_logps(F, Q + 0.16 * np.eye(12), scale=scale).sum()
        expected -= 4 * rest.sum() / (2 * 0.16)
    else:
        expected = column_logps(F, Q + np.diag(rest) + 0.16 * np.eye(12), scale=scale).sum()
    assert found == pytest.approx(expected + log_prior(model, X, theta), rel=1e-8)


@pytest.mark.parametrize("method", ["vfe", "fitc"])
@pytest.mark.parametrize("kernel", ["rbf", "matern32", "cauchy", "linear", "rbf + linear"])
def test_the_gradient(kernel, method, Y, rng):
    model = gplvm.build_model(Y, 2, kernel=kernel)
    density = density_of(model, 5, method)
    vector = 0.5 * rng.standard_normal(density.size)
    slope = central_differences(lambda point: density(point["v"])[0], {"v": vector})["v"]
    np.testing.assert_allclose(
        density(vector)[1], slope, rtol=1e-5, atol=1e-5 * np.abs(slope).max()
    )


def test_many_patterns_are_warned_of(rng):
    table = np.where(rng.random((20, 60)) < 0.1, np.nan, rng.standard_normal((20, 60)))
    with pytest.warns(RuntimeWarning, match=r"fit_sparse and fit_variational take far less"):
        model = gplvm.build_model(table, 2, missing="mask")
    with pytest.warns(RuntimeWarning, match=r"with inducing inputs an evaluation takes about \d+"):
        gplvm.model.build_sparse(model, n_inducing=4)
    gplvm.model.build_variational(model, n_inducing=4)  # costs less


@pytest.mark.parametrize("method", ["vfe", "fitc"])
@pytest.mark.parametrize("kernel", ["rbf", "matern52", "linear + bias", "rbf + linear + bias"])
def test_with_holes_and_inducing_inputs_at_all_rows_it_is_the_exact_one(kernel, method, Y, rng):
    holes = Y.copy()
    holes[::3, 1:3] = np.nan
    holes[7, 3] = np.nan
    model = gplvm.build_model(holes, 2, kernel=kernel, scale="feature", missing="mask")
    exact, sparse = compile_log_density(model), density_of(model, 12, method)
    start = model.initial_point()
    values = {n: start[n] + 0.3 * rng.standard_normal(np.shape(start[n])) for n in start}
    other = {**values, "X_inducing": values["X"]}
    expected = exact(exact.pack(values))[0]
    vector = sparse.pack(other)
    value, gradient = sparse(vector)
    assert value == pytest.approx(expected, abs=2e-4)
    slope = central_differences(lambda point: sparse(point["v"])[0], {"v": vector})["v"]
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())


@pytest.mark.parametrize("method", ["vfe", "fitc"])
@pytest.mark.parametrize("kernel", ["rbf", "matern52", "linear + bias", "rbf + linear + bias"])
def test_with_inducing_inputs_at_all_rows_it_is_the_exact_one(kernel, method, Y, rng):
    model = gplvm.build_model(Y, 2, kernel=kernel)
    exact, sparse = compile_log_density(model), density_of(model, 12, method)
    start = model.initial_point()
    values = {
        name: start[name] + 0.3 * rng.standard_normal(np.shape(start[name])) for name in start
    }
    other = {**values, "X_inducing": values["X"]}
    expected = exact(exact.pack(values))[0]
    assert sparse(sparse.pack(other))[0] == pytest.approx(expected, abs=2e-4)


def test_matern_is_smooth_where_an_inducing_input_lies_on_a_row(Y, rng):
    """Whose distance is 0, where a square root has no derivative."""
    model = gplvm.build_model(Y, 2, kernel="matern32")
    X = rng.standard_normal((12, 2))
    for method in ("vfe", "fitc"):
        density = density_of(model, 4, method)
        theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
        value, gradient = density(density.pack(values_at(model, X, X[:4], theta)))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_the_fit_reaches_the_exact_mode_with_as_many_inducing_inputs_as_rows(Y):
    model = gplvm.build_model(Y, 2)
    fit = fit_of(model, n_inducing=12, tol=1e-10)
    # From where that ended: both are to agree that it is a mode, not to choose the same of several.
    begin = {name: fit["posterior"][name].to_numpy()[0, 0] for name in fit["posterior"].data_vars}
    best = gplvm.fit_map(model, start=begin, tol=1e-8, relocate=False, progressbar=False)
    lp, exact = (f["sample_stats"]["lp"].item() for f in (fit, best))
    assert lp == pytest.approx(exact, abs=0.02)
    new = np.zeros((2, 2))
    one, other = gplvm.predict(fit, new, noise=True), gplvm.predict(best, new, noise=True)
    np.testing.assert_allclose(one["mean"], other["mean"], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(one["sd"], other["sd"], rtol=0.1)
    # FITC is another model, which may fit better than the exact one.
    assert fit_of(model, n_inducing=12, method="fitc")["sample_stats"]["lp"].item() > exact - 0.02


@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_prediction_through_inducing_inputs(method, digits, rng):
    """Against the conditional of the approximate joint Gaussian, written out."""
    model = gplvm.build_model(digits, 2, resolution=0)
    fit = fit_of(model, n_inducing=10, method=method, tol=1e-5)
    theta = {n: fit["posterior"][n].item() for n in ("lengthscale", "amplitude", "sigma")}
    X, W = fit["posterior"]["X"].to_numpy()[0, 0], fit["approximation"]["X_inducing"].to_numpy()
    new = X[:3] + 0.1 * rng.standard_normal((3, 2))
    a2, s2 = theta["amplitude"] ** 2, theta["sigma"] ** 2
    K = kernel_matrix("rbf", np.concatenate([X, new, W]), lengthscale=theta["lengthscale"])
    K, n = a2 * K, 30
    inducing = np.linalg.inv(K[n + 3 :, n + 3 :] + JITTER * a2 * np.eye(10))
    Q = K[: n + 3, n + 3 :] @ inducing @ K[n + 3 :, : n + 3]
    noise = np.full(n, s2) if method == "vfe" else s2 + np.diag(K[:n, :n] - Q[:n, :n])
    gain = Q[n:, :n] @ np.linalg.inv(Q[:n, :n] + np.diag(noise))
    F = (digits - digits.mean("obs")).to_numpy()
    predicted = gplvm.predict(fit, new, noise=True)
    np.testing.assert_allclose(
        predicted["mean"], digits.mean("obs").to_numpy() + gain @ F, rtol=1e-6, atol=1e-6
    )
    variance = a2 - np.einsum("sn,sn->s", gain, Q[n:, :n]) + s2
    scale = np.sqrt((F**2).mean())
    np.testing.assert_allclose(predicted["sd"][:, 0], scale * np.sqrt(variance), rtol=1e-6)


def test_groups_dims_and_settings(digits):
    model = gplvm.build_model(digits, 2, ard=True)
    fit = fit_of(model, n_inducing=10, method="fitc", n_restarts=1, tol=1e-5)
    assert dict(fit["posterior"].sizes) == {"chain": 1, "draw": 1, "obs": 30, "latent": 2}
    assert fit["approximation"]["X_inducing"].dims == ("inducing", "latent")
    assert (fit.attrs["method"], fit.attrs["approximation"]) == ("sparse", "fitc")
    assert fit["optima"].sizes["start"] == 2
    assert gplvm.plot.latent(fit, color="label").get_xlabel().startswith("latent")
    prior = fit["sample_stats"]["lp"].item() - fit["sample_stats"]["log_likelihood"].item()
    X, theta = fit["posterior"]["X"].to_numpy()[0, 0], {}
    for name in ("lengthscale", "amplitude", "sigma"):
        theta[name] = fit["posterior"][name].to_numpy()[0, 0]
    assert prior == pytest.approx(log_prior(model, X, theta), rel=1e-9)


def test_the_sparse_objective_is_not_the_prior_of_x_alone(digits):
    """A prior of the user's on X is kept, as fit_map keeps it."""
    import pymc as pm

    model = gplvm.build_model(digits, 2, priors={"X": pm.StudentT.dist(4.0)})
    fit = fit_of(model, n_inducing=10, tol=1e-4)
    assert np.isfinite(fit["sample_stats"]["lp"]).all()


def test_no_array_of_rows_and_rows_is_formed(rng):
    N = 6000
    model = gplvm.build_model(rng.standard_normal((N, 3)), 2)
    tracemalloc.start()
    with pytest.warns(RuntimeWarning, match="did not converge"):
        fit = fit_of(model, n_inducing=10, max_iter=2)
    gplvm.predict(fit, np.zeros((1, 2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * 8 * N**2


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"n_inducing": 1}, ValueError, "n_inducing must be at least 2, got 1"),
        ({"method": "dtc"}, ValueError, "method must be 'vfe' or 'fitc', got 'dtc'"),
        ({"n_inducing": 9, "hold": -1}, ValueError, "hold must be a whole number of at least 0"),
        (
            {"n_inducing": 9, "tol": 1.0},
            ValueError,
            "tol must be a finite number above 0 and below 1, got 1.0",
        ),
    ],
)
def test_settings_out_of_range(digits, setting, error, message):
    with pytest.raises(error, match=message):
        fit_of(gplvm.build_model(digits, 2), **setting)


def test_x_that_is_held_has_no_mode(digits, rng):
    model = gplvm.build_model(digits, 2, priors={"X": rng.standard_normal((30, 2))})
    with pytest.raises(ValueError, match="must have a free variable 'X', got one that is held"):
        fit_of(model, n_inducing=10)


def test_too_few_iterations_are_told_and_gone_on_from(digits):
    model = gplvm.build_model(digits, 2)
    with pytest.warns(RuntimeWarning, match=r"fit_sparse did not converge: .* raise max_iter"):
        half = fit_of(model, n_inducing=10, max_iter=5)
    whole = fit_of(model, n_inducing=10, start=half, tol=1e-5)
    assert whole["optima"]["objective_at_start"].item() == pytest.approx(
        half["optima"]["objective"].item(), rel=1e-9
    )
