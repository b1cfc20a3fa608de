"""fit_laplace: exact where the posterior is Gaussian, and against differences and integration."""

import numpy as np
import pymc as pm
import pytest
from oracles import centre_and_spread, column_logps, kernel_matrix, ppca_with_prior
from scipy import stats
from scipy.special import logsumexp

import pm_gplvm as gplvm
from pm_gplvm.fitting.laplace import invariant_planes, log_group_volume
from pm_gplvm.model.density import compile_log_density, optimiser_coordinates

QUIET = {"progressbar": False, "random_seed": 1}


def table(n, d, seed=0, latent_dim=2, *, lengthscale=1.0, sigma=0.2):
    """A few rows that the model with amplitude 1 has drawn."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, latent_dim))
    K = kernel_matrix("rbf", X, lengthscale=lengthscale, sigma=sigma)
    return np.linalg.cholesky(K) @ rng.standard_normal((n, d))


def flat(fit, scale_free=True):
    """Draws as vectors (Z, log θ), shape (S, n)."""
    posterior = {str(n): v.to_numpy()[0] for n, v in fit["posterior"].data_vars.items()}
    X = posterior.pop("X")
    scale = posterior["lengthscale"].reshape(len(X), 1, -1) if scale_free else 1.0
    theta = [np.log(v).reshape(len(X), -1) for v in posterior.values()]
    return np.hstack([(X / scale).reshape(len(X), -1), *theta])


# Where the posterior is a Gaussian


@pytest.fixture(scope="module")
def gaussian_case():
    """The mean of each column is linear in X, K is known: X given Y is Gaussian."""
    rng = np.random.default_rng(4)
    N, Q, D = 4, 2, 3
    A, Y, K = rng.normal(size=(D, N * Q)), rng.normal(size=(N, D)), 0.7 * np.eye(N) + 0.3
    with pm.Model() as model:
        X = pm.Normal("X", 0.0, 1.0, shape=(N, Q))
        gplvm.GPColumns("Y", K, mu=A @ X.flatten(), observed=Y.T)
    fit = gplvm.fit_laplace(model, start=rng.normal(size=(N, Q)), draws=4000, **QUIET)
    # vec(Yᵀ) = (A ⊗ 1) x + noise, noise ~ N(0, I ⊗ K).
    design, noise = np.kron(A, np.ones((N, 1))), np.kron(np.eye(D), K)
    covariance = np.linalg.inv(np.eye(N * Q) + design.T @ np.linalg.solve(noise, design))
    mean = covariance @ design.T @ np.linalg.solve(noise, Y.T.ravel())
    evidence = stats.multivariate_normal(cov=design @ design.T + noise).logpdf(Y.T.ravel())
    return fit, mean, covariance, evidence


def test_a_gaussian_posterior_is_met_exactly(gaussian_case):
    fit, mean, covariance, evidence = gaussian_case
    draws = flat(fit, scale_free=False)
    # Whitened by the exact posterior the draws are standard normal.
    white = (draws - mean) @ np.linalg.cholesky(np.linalg.inv(covariance))
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(white.T), np.eye(len(mean)), atol=0.1)
    np.testing.assert_allclose(fit["sample_stats"]["log_weight"], 0.0, atol=1e-4)
    assert fit.attrs["log_evidence"] == pytest.approx(evidence, abs=1e-5)
    assert (fit.attrs["null_directions"], fit.attrs["flat_directions"]) == (0, 0)


def test_lp_is_the_density_of_each_draw(gaussian_case):
    fit, mean, covariance, evidence = gaussian_case
    expected = evidence + stats.multivariate_normal(mean, covariance).logpdf(
        flat(fit, scale_free=False)
    )
    np.testing.assert_allclose(fit["sample_stats"]["lp"][0], expected, rtol=1e-9)


# The Hessian

KNOWN = np.random.default_rng(7).standard_normal((6, 2))


def log_target(Y, kind):
    """e of (Z, log lengthscale, log amplitude, log sigma), by SciPy and scikit-learn.

    ln p(X, log θ, Y) and the volume of X, as far as it depends on θ; for "student" ln p alone, in X.
    """
    (N, D), location = Y.shape, centre_and_spread(Y, "global")

    def evaluate(vector):
        place, logs = vector[: 2 * N].reshape(N, 2), vector[2 * N :]
        lengthscale, (amplitude, sigma) = np.exp(logs[:-2]), np.exp(logs[-2:])
        Z = place / lengthscale if kind == "student" else place
        K = kernel_matrix("rbf", Z, amplitude=amplitude, sigma=sigma)
        value = column_logps(Y, K, *location).sum()
        if kind == "student":
            value += stats.t(5, KNOWN, 0.3).logpdf(place).sum()
        else:
            value += stats.norm.logpdf(Z * lengthscale).sum()
            slope = np.broadcast_to(amplitude**2 / lengthscale**2, 2)
            value -= 0.5 * N * np.log1p(D * slope / sigma**2).sum()
        value += (stats.invgamma(3.0, scale=2.0).logpdf(lengthscale) + np.log(lengthscale)).sum()
        value += stats.norm(0.0, 1.0).logpdf(np.log(amplitude))
        return value + stats.norm(-2.0, 1.0).logpdf(np.log(sigma))

    return evaluate


def second_differences(function, at, step=1e-2):
    """Hessian from values alone."""
    n, E = len(at), step * np.eye(len(at))
    H = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            signs = [(a, b, function(at + a * E[i] + b * E[j])) for a in (1, -1) for b in (1, -1)]
            H[i, j] = H[j, i] = sum(a * b * value for a, b, value in signs) / (4 * step**2)
    return H


def tiny_model(Y, kind):
    """X with the prior N(0, 1), or one under which it is not integrated out."""
    priors = {"X": pm.StudentT.dist(5, mu=KNOWN, sigma=0.3)} if kind == "student" else {}
    return gplvm.build_model(Y, ard=kind == "ard", priors=priors, resolution=0)


@pytest.fixture(scope="module", params=["shared", "ard", "student"])
def tiny(request):
    Y = table(6, 30, lengthscale=2.0, sigma=0.1)
    fit = gplvm.fit_laplace(tiny_model(Y, request.param), draws=4000, **QUIET)
    return Y, request.param, fit


def test_draws_have_the_inverse_hessian_as_covariance(tiny):
    Y, kind, fit = tiny
    draws = flat(fit, scale_free=kind != "student")
    target = log_target(Y, kind)
    mode, covariance = draws.mean(axis=0), np.cov(draws.T)
    # From 4000 draws alone the mode and the space that they fill.
    values, axes = np.linalg.eigh(covariance)
    filled = values > 1e-9 * values.max()
    assert (~filled).sum() == fit.attrs["null_directions"] == (1 if kind == "shared" else 0)
    # In the units of the draws' own spread the curvature must be that of a standard normal.
    unit = axes[:, filled] * np.sqrt(values[filled])
    curvature = second_differences(lambda c: target(mode + unit @ c), np.zeros(filled.sum()))
    np.testing.assert_allclose(curvature, -np.eye(filled.sum()), atol=0.15)
    # And the slope that of a place as near to the mode as the mean of the draws is.
    steps = 1e-3 * unit.T
    slope = [(target(mode + step) - target(mode - step)) / 2e-3 for step in steps]
    assert np.abs(slope).max() < 5 / np.sqrt(4000)


def test_the_direction_in_which_nothing_is_drawn_is_the_rotation(tiny):
    _, kind, fit = tiny
    if kind != "shared":
        assert fit.attrs["null_directions"] == 0
        return
    draws = flat(fit)
    _, axes = np.linalg.eigh(np.cov(draws.T))
    Z = draws.mean(axis=0)[:12].reshape(6, 2)
    turning = np.append((Z @ [[0.0, 1.0], [-1.0, 0.0]]).ravel(), np.zeros(3))
    assert abs(axes[:, 0] @ turning) / np.linalg.norm(turning) == pytest.approx(1.0, abs=1e-4)


def test_lp_is_the_objective_and_the_jacobian_of_the_logarithms(tiny):
    Y, kind, fit = tiny
    objective = gplvm.model.compile_objective(tiny_model(Y, kind))
    for draw in (0, 17, 3999):
        point = {str(n): v.to_numpy()[0, draw] for n, v in fit["posterior"].data_vars.items()}
        logs = sum(np.log(v).sum() for n, v in point.items() if n != "X")
        assert float(fit["sample_stats"]["lp"][0, draw]) == pytest.approx(
            objective(point)[0] + logs, rel=1e-9
        )


def test_linear_kernel_has_the_closed_form_as_its_mode():
    rng = np.random.default_rng(11)
    Y = rng.normal(size=(12, 2)) * [3.0, 1.5] @ rng.normal(size=(2, 6))
    Y = Y + 0.4 * rng.normal(size=Y.shape)
    Y = Y - Y.mean(axis=0)
    model = gplvm.build_model(Y, kernel="linear", scale="none", priors={"sigma": 0.5}, resolution=0)
    fit = gplvm.fit_laplace(model, draws=4000, **QUIET)
    X = fit["posterior"]["X"].to_numpy()[0]
    error = X.std(axis=0).max() / np.sqrt(len(X))
    expected = ppca_with_prior(Y, 2, 0.25)
    mean = X.mean(axis=0)
    np.testing.assert_allclose(mean @ mean.T, expected, atol=12 * error * np.abs(mean).max())
    assert fit.attrs["converged"] == 1


# The evidence


def gram_model(gram, precision):
    """X is known by a noisy look at X Xᵀ: nothing but rotations and reflections is left open."""
    N = len(gram)
    with pm.Model() as model:
        X = pm.Normal("X", 0.0, 1.0, shape=(N, N))
        pm.Potential("look", -0.5 * precision * ((X @ X.T - gram) ** 2).sum())
        gplvm.GPColumns("Y", np.eye(N), observed=np.zeros((3, N)))
    return model, -0.5 * 3 * N * np.log(2.0 * np.pi)


def average_over_the_prior(gram, precision, n=1_000_000):
    """ln E exp(potential), and the error of that."""
    N, rng = len(gram), np.random.default_rng(5)
    logs = np.empty(0)
    for _ in range(10):
        X = rng.standard_normal((n // 10, N, N))
        looks = -0.5 * precision * ((X @ X.transpose(0, 2, 1) - gram) ** 2).sum(axis=(1, 2))
        logs = np.append(logs, looks)
    weights = np.exp(logs - logs.max())
    return logsumexp(logs) - np.log(n), weights.std() / weights.mean() / np.sqrt(n)


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_evidence_counts_rotations_and_reflections(latent_dim, rng):
    gram = np.diag([2.0, 1.5, 1.0][:latent_dim]) + 0.2
    model, constant = gram_model(gram, precision=8.0)
    fit = gplvm.fit_laplace(model, start=rng.normal(size=(latent_dim,) * 2), draws=5000, **QUIET)
    assert fit.attrs["null_directions"] == latent_dim * (latent_dim - 1) // 2
    weights = fit["sample_stats"]["log_weight"].to_numpy()[0]
    corrected = fit.attrs["log_evidence"] + logsumexp(weights) - np.log(len(weights)) - constant
    expected, error = average_over_the_prior(gram, 8.0)
    assert corrected == pytest.approx(expected, abs=4 * error + 0.05)
    assert fit.attrs["log_evidence"] - constant == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("kernel", ["rbf", "rbf + linear"])
def test_evidence_of_a_table_against_its_average_over_the_prior(kernel):
    """Five rows known roughly, some θ free: both Gaussians, of X and of θ, corrected by the weights."""
    at, spread, D = np.linspace(-1.5, 1.5, 5), 0.2, 20
    K = kernel_matrix("rbf", at[:, None], sigma=0.5)
    Y = np.linalg.cholesky(K) @ np.random.default_rng(2).standard_normal((5, D))
    normals = {"sigma": (-2.0, 1.0)}
    priors = {"X": gplvm.priors.informative(at, spread), "lengthscale": 1.0, "amplitude": 1.0}
    if kernel == "rbf + linear":
        normals |= {"lengthscale": (0.0, 0.05), "weight": (-1.0, 0.1)}
        priors |= {n: pm.LogNormal.dist(*normals[n]) for n in ("lengthscale", "weight")}
    model = gplvm.build_model(Y, 1, kernel=kernel, priors=priors, resolution=0)
    fit = gplvm.fit_laplace(model, start=at[:, None], draws=4000, **QUIET)
    weights = fit["sample_stats"]["log_weight"].to_numpy()[0]
    corrected = fit.attrs["log_evidence"] + logsumexp(weights) - np.log(len(weights))

    points = stats.norm.ppf(stats.qmc.Sobol(5 + len(normals), seed=3).random_base2(16))
    X = at + spread * points[:, :5]
    theta = {
        name: np.exp(mean + sd * z)[:, None, None]
        for (name, (mean, sd)), z in zip(normals.items(), points.T[5:], strict=True)
    }
    apart = (X[:, :, None] - X[:, None, :]) / theta.get("lengthscale", 1.0)
    K = np.exp(-0.5 * apart**2) + theta["sigma"] ** 2 * np.eye(5)
    K += theta.get("weight", 0.0) ** 2 * X[:, :, None] * X[:, None, :]
    mean, scale = centre_and_spread(Y, "global")
    F = (Y - mean) / scale
    quad = np.linalg.inv(K).reshape(len(K), -1) @ (F @ F.T).ravel()
    logs = -0.5 * (quad + D * np.linalg.slogdet(K)[1] + F.size * np.log(2.0 * np.pi))
    expected = logsumexp(logs) - np.log(len(logs)) - 5 * np.log(scale).sum()
    assert fit.attrs["pareto_k"] < 0.7
    assert fit.attrs["log_evidence"] == pytest.approx(expected, abs=0.5)
    assert corrected == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("latent_dim", "ard", "copies"),
    [
        (1, False, 2.0),
        (2, False, 4.0 * np.pi),
        (3, False, 16.0 * np.pi**2),
        (2, True, 8.0),
        (3, True, 48.0),
    ],
)
def test_copies_of_a_mode(latent_dim, ard, copies, rng):
    """Volumes of O(Q), and the number of signed permutations under ARD."""
    model = gplvm.build_model(table(6, 4), latent_dim, ard=ard)
    density = compile_log_density(model, jacobian=True, coordinates=optimiser_coordinates)
    at = 0.5 * rng.normal(size=density.size)
    planes = invariant_planes(density, at)
    assert log_group_volume(density, at, planes) == pytest.approx(np.log(copies))


def test_a_symmetry_of_two_dimensions_of_three():
    """Its null direction is left out; the volume of such a group is not known here."""
    priors = {
        "X": lambda name, dims: pm.Normal(name, 0.0, [1.0, 1.0, 3.0], dims=dims),
        "lengthscale": 2.0,
        "sigma": 0.2,
    }
    model = gplvm.build_model(table(6, 8, latent_dim=3, lengthscale=2.0), 3, priors=priors)
    fit = gplvm.fit_laplace(model, draws=50, **QUIET)
    assert fit.attrs["null_directions"] == 1
    assert "log_evidence" not in fit.attrs


# What comes back


def test_groups_dims_and_settings(model, best, digits):
    fit = gplvm.fit_laplace(model, start=best, draws=200, **QUIET)
    assert dict(fit["posterior"].sizes) == {"chain": 1, "draw": 200, "obs": 30, "latent": 2}
    assert set(fit["posterior"].data_vars) == {"X", "lengthscale", "amplitude", "sigma"}
    np.testing.assert_array_equal(fit["observed_data"]["label"], digits["label"])
    attrs = fit.attrs
    assert (attrs["method"], attrs["start"]) == ("laplace", "DataTree")
    assert (attrs["converged"], attrs["flat_directions"], attrs["null_directions"]) == (1, 0, 1)
    assert attrs["newton_decrement"] < 1e-5
    assert attrs["pareto_k"] > 0.7  # 63 dimensions: no Gaussian is near
    assert all(isinstance(value, str | int | float) for value in attrs.values())
    # At the marginal estimate X has about the prior's spread; at the joint mode it has not.
    assert best["posterior"]["X"].std() < 0.6 < fit["posterior"]["X"].std()


def test_seeds(model, best):
    first, again, other = (
        gplvm.fit_laplace(model, start=best, draws=3, progressbar=False, random_seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first["posterior"]["X"], again["posterior"]["X"])
    assert not np.array_equal(first["posterior"]["X"], other["posterior"]["X"])


def test_with_theta_held_the_map_is_the_mode():
    """The volume that X takes is then a number."""
    priors = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    model = gplvm.build_model(table(8, 6), priors=priors)
    best = gplvm.fit_map(model, tol=1e-8, **QUIET)
    fit = gplvm.fit_laplace(model, start=best, draws=4000, **QUIET)
    X = fit["posterior"]["X"].to_numpy()[0]
    z = (X.mean(axis=0) - best["posterior"]["X"].to_numpy()[0, 0]) / X.std(axis=0)
    assert np.abs(z).max() < 5 / np.sqrt(4000)


def test_the_way_to_the_mode_may_be_too_short():
    model = gplvm.build_model(table(6, 30, lengthscale=2.0, sigma=0.1))
    with pytest.warns(
        RuntimeWarning, match=r"did not reach the mode: .*Raise max_iter = 12"
    ) as caught:
        fit = gplvm.fit_laplace(model, max_iter=12, draws=10, **QUIET)
    assert fit.attrs["converged"] == 0
    assert caught[0].filename == __file__


def test_directions_without_curvature_are_said_and_left_alone():
    """A flat prior of X leaves it free to move as a whole."""
    priors = {"X": "flat", "lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    model = gplvm.build_model(table(6, 8), priors=priors)
    with pytest.warns(RuntimeWarning, match=r"no curvature in 2 of 12 directions .*proper priors"):
        fit = gplvm.fit_laplace(model, draws=500, **QUIET)
    assert (fit.attrs["null_directions"], fit.attrs["flat_directions"]) == (1, 2)
    assert "log_evidence" not in fit.attrs
    centre = fit["posterior"]["X"].mean("obs")[0]
    np.testing.assert_allclose(centre - centre[0], 0.0, atol=1e-6)


# Turned away


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"max_iter": 1.5}, "max_iter must be a whole number of at least 1, got 1.5"),
        ({"start": np.zeros((6, 2))}, "all latent positions equal"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.fit_laplace(gplvm.build_model(table(6, 8)), **settings)


def test_a_model_with_nothing_to_fit(rng):
    held = {"X": rng.normal(size=(6, 2)), "lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    with pytest.raises(ValueError, match="every one fixed by a number"):
        gplvm.fit_laplace(gplvm.build_model(table(6, 8), priors=held))


def test_something_else_than_a_model(best):
    with pytest.raises(TypeError, match=r"model must be a pm\.Model, got DataTree"):
        gplvm.fit_laplace(best)
