"""The gradient taken apart: the question's formulas, as stated and as they should be, and three routes."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from oracles import (
    ALL_KERNELS,
    SUMS,
    central_differences,
    centre_and_spread,
    column_logps,
    kernel_matrix,
    likelihood_gradient,
)

import pm_gplvm as gplvm

CASES = [(kernel, ard) for kernel in ALL_KERNELS for ard in (False, True)]
CASES.remove(("linear", True))


def theta_of(kernel, ard):
    noise = {"sigma": 0.4, "bias": 0.7}
    if kernel == "linear":
        return noise
    weight = {"weight": 0.6} if kernel in SUMS else {}
    lengthscale = np.array([0.8, 1.7]) if ard else 0.9
    return {"lengthscale": lengthscale, "amplitude": 1.3, **weight, **noise}


def log_likelihood(Y, kernel, point):
    theta = {name: value for name, value in point.items() if name != "X"}
    K = kernel_matrix(kernel, point["X"], **theta)
    return column_logps(Y.to_numpy(), K, *centre_and_spread(Y.to_numpy(), "global")).sum()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}{'-ard' * case[1]}")
def case(request, Y):
    """One kernel: its name, a point, and the gradient there in parts."""
    kernel, ard = request.param
    model = gplvm.build_model(Y, kernel=f"{kernel} + bias", ard=ard, resolution=0)
    X = np.random.default_rng(5).normal(size=(12, 2))
    point = {"X": X, **theta_of(kernel, ard)}
    return kernel, point, gplvm.model.gradients(model, point, explicit=True)


@pytest.fixture(scope="module")
def F(Y):
    mean, scale = centre_and_spread(Y.to_numpy(), "global")
    return (Y.to_numpy() - mean) / scale


# The chain rule: one number a hyperparameter, N × Q numbers for X


def test_value_and_matrices_are_those_of_the_definition(case, Y, F):
    kernel, point, parts = case
    K = kernel_matrix(kernel, point["X"], **{n: v for n, v in point.items() if n != "X"})
    assert float(parts["L"]) == pytest.approx(log_likelihood(Y, kernel, point), rel=1e-10)
    np.testing.assert_allclose(parts["K"], K, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts["dL_dK"], likelihood_gradient(F, K), rtol=1e-7, atol=1e-9)


def test_tensor_meets_the_gradient_in_K_row_by_row(case):
    _, _, parts = case
    assert parts["dK_dX"].sizes == {"obs": 12, "obs_other": 12, "latent": 2}
    G, T = parts["dL_dK"].to_numpy(), parts["dK_dX"].to_numpy()
    by_hand = np.empty((12, 2))
    for n in range(12):
        for q in range(2):
            by_hand[n, q] = 2.0 * sum(G[n, j] * T[n, j, q] for j in range(12))
    np.testing.assert_allclose(by_hand, parts["dL_dX"], rtol=1e-9, atol=1e-10)


def test_every_theta_is_one_contraction_and_not_zero(case):
    _, point, parts = case
    G = parts["dL_dK"].to_numpy()
    for name in point.keys() - {"X"}:
        slope, dK = parts[f"dL_d{name}"].to_numpy(), parts[f"dK_d{name}"].to_numpy()
        np.testing.assert_allclose(np.einsum("ij,ij...->...", G, dK), slope, rtol=1e-8, atol=1e-9)
        assert np.abs(slope).min() > 1e-2


def test_gradient_equals_finite_differences_of_scipys_likelihood(case, Y):
    kernel, point, parts = case
    expected = central_differences(lambda at: log_likelihood(Y, kernel, at), point)
    for name, slope in expected.items():
        got = parts[f"dL_d{name}"].to_numpy()
        np.testing.assert_allclose(got, slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())


def test_tensor_equals_finite_differences_in_the_first_argument(case):
    kernel, point, parts = case
    X = point["X"]
    theta = {n: v for n, v in point.items() if n not in ("X", "sigma")}

    def covariances(x):
        """k(x, xⱼ) for all j, x being no row of X."""
        return kernel_matrix(kernel, np.vstack([x, X]), **theta)[0, 1:]

    step = 1e-5
    for n in range(12):
        for q in range(2):
            move = step * np.eye(2)[q]
            slope = (covariances(X[n] + move) - covariances(X[n] - move)) / (2.0 * step)
            # A Matérn 3/2's third derivative jumps at 0, where the difference is not exact.
            np.testing.assert_allclose(parts["dK_dX"][n, :, q], slope, rtol=1e-6, atol=1e-8)


# The question's formulas


def test_missing_half_makes_the_stated_gradient_twice_too_large(case, F):
    """∂L/∂K by differences in each entry of K: with the ½ it agrees, without it is double."""
    _, _, parts = case
    K, D = parts["K"].to_numpy(), F.shape[1]

    def terms(at):
        return -0.5 * D * np.linalg.slogdet(at["K"])[1] - 0.5 * np.trace(
            np.linalg.solve(at["K"], F @ F.T)
        )

    measured = central_differences(terms, {"K": K})["K"]
    inverse = np.linalg.inv(K)
    stated = inverse @ F @ F.T @ inverse - D * inverse
    size = np.abs(measured).max()
    np.testing.assert_allclose(0.5 * stated, measured, atol=1e-6 * size)
    np.testing.assert_allclose(parts["dL_dK"], measured, atol=1e-6 * size)
    assert np.abs(stated - measured).max() > 0.9 * size


def test_linear_kernel_has_the_closed_gradient(Y, F, rng):
    X = rng.normal(size=(12, 2))
    model = gplvm.build_model(Y, kernel="linear", resolution=0)
    parts = gplvm.model.gradients(model, {"X": X, "sigma": 0.5})
    inverse = np.linalg.inv(X @ X.T + 0.25 * np.eye(12))
    closed = inverse @ F @ F.T @ inverse @ X - F.shape[1] * inverse @ X
    np.testing.assert_allclose(parts["dL_dX"], closed, rtol=1e-8, atol=1e-9)


def test_a_neighbourhood_tells_nothing_of_the_rows_outside(Y, rng):
    """Of all of X only the R rows of the neighbourhood have a gradient in its likelihood."""
    X, near = rng.normal(size=(12, 2)), np.arange(5)
    theta = {"lengthscale": 0.9, "amplitude": 1.3, "sigma": 0.4}

    def of_some(at):
        K = kernel_matrix("rbf", at["X"][near], **theta)
        return column_logps(Y.to_numpy()[near], K).sum()

    slope = central_differences(of_some, {"X": X})["X"]
    assert np.abs(slope[near]).min() > 0.0
    np.testing.assert_array_equal(slope[5:], 0.0)


# What comes out


def test_parts_are_labelled_as_the_table_is(Y, rng):
    model = gplvm.build_model(Y, kernel="matern52", ard=True)
    point = {"X": rng.normal(size=(12, 2)), **theta_of("matern52", ard=True)}
    del point["bias"]
    parts = gplvm.model.gradients(model, point)
    assert set(parts.data_vars) == {"L", "K", "dL_dK", "dL_dX"} | {
        f"dL_d{name}" for name in ("lengthscale", "amplitude", "sigma")
    }
    assert parts["dL_dX"].dims == ("obs", "latent")
    assert parts["dL_dlengthscale"].dims == ("latent",)
    assert parts["dL_dsigma"].dims == ()
    assert parts["obs"].to_numpy().tolist() == Y["obs"].to_numpy().tolist()
    assert parts["obs_other"].to_numpy().tolist() == Y["obs"].to_numpy().tolist()


def test_point_may_be_a_fit(model, best):
    names = [rv.name for rv in model.free_RVs]
    point = {name: best["posterior"][name][0, 0].to_numpy() for name in names}
    xr.testing.assert_identical(
        gplvm.model.gradients(model, best), gplvm.model.gradients(model, point)
    )
    likelihood = float(best["sample_stats"]["log_likelihood"][0, 0])
    assert float(gplvm.model.gradients(model, best)["L"]) == pytest.approx(likelihood, rel=1e-9)


def test_value_held_fixed_has_no_slope(Y, rng):
    model = gplvm.build_model(Y, priors={"sigma": 0.4, "amplitude": 1.3})
    point = {"X": rng.normal(size=(12, 2)), "lengthscale": 0.9}
    parts = gplvm.model.gradients(model, point, explicit=True)
    assert {n for n in parts.data_vars if n[0] == "d"} == {
        *("dL_dK", "dL_dX", "dL_dlengthscale", "dK_dX", "dK_dlengthscale")
    }


def test_covariance_of_ones_own(rng):
    table = rng.normal(size=(7, 3))
    with pm.Model(coords={"obs": range(7)}) as model:
        X = pm.Normal("X", shape=(7, 2), dims=("obs", "latent"))
        alpha = pm.HalfNormal("alpha")
        K = pm.gp.cov.RatQuad(2, alpha=alpha, ls=0.8)(X) + 0.1 * np.eye(7)
        gplvm.GPColumns("Y", K, observed=table.T)
    point = {"X": rng.normal(size=(7, 2)), "alpha": 1.5}

    def by_definition(at):
        r2 = ((at["X"][:, None] - at["X"]) ** 2).sum(axis=-1)
        K = (1.0 + r2 / (2.0 * at["alpha"] * 0.64)) ** -at["alpha"] + 0.1 * np.eye(7)
        return column_logps(table, K).sum()

    parts = gplvm.model.gradients(model, point, explicit=True)
    for name, slope in central_differences(by_definition, point).items():
        np.testing.assert_allclose(parts[f"dL_d{name}"], slope, rtol=1e-6, atol=1e-6)
    by_hand = 2.0 * (parts["dL_dK"] * parts["dK_dX"]).sum("obs_other")
    np.testing.assert_allclose(by_hand, parts["dL_dX"], rtol=1e-8, atol=1e-9)


# Turned away


def test_point_that_lacks_a_variable(model):
    with pytest.raises(ValueError, match=r"point must give a value to .*X, got X\."):
        gplvm.model.gradients(model, {"X": np.zeros((30, 2))})


def test_point_of_a_wrong_shape(Y):
    point = {"X": np.zeros((11, 2)), "sigma": 0.5}
    with pytest.raises(ValueError, match=r"point\['X'\] must have shape \(12, 2\), got \(11, 2\)"):
        gplvm.model.gradients(gplvm.build_model(Y, kernel="linear"), point)


def test_point_that_is_none(model):
    with pytest.raises(TypeError, match=r"gradients needs a fit .*, got ndarray"):
        gplvm.model.gradients(model, np.zeros((30, 2)))


def test_mean_that_is_random(Y):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(12, 2))
        mean = pm.Normal("mean")
        K = gplvm.covariance("rbf", X, sigma=0.3)
        gplvm.GPColumns("Y", K, mu=mean, observed=Y.to_numpy().T)
    with pytest.raises(ValueError, match="mean and scale of the table to be data, got random"):
        gplvm.model.gradients(model, {"X": np.eye(12, 2), "mean": 0.0})
