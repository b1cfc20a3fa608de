"""The density of an unseen row and its gradient, the climbs, and the mixtures, each by another route."""

import numpy as np
import pytest
from made import fit_of
from oracles import STATIONARY, SUMS, central_differences, kernel_matrix
from scipy.optimize import least_squares, minimize, rosen, rosen_der
from scipy.stats import multivariate_normal, multivariate_t, norm
from sklearn.decomposition import PCA

import pm_gplvm as gplvm
from pm_gplvm.core.batch_optimise import maximise
from pm_gplvm.core.batch_optimise import minimise as least
from pm_gplvm.core.mixtures import Proposals
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction.processes import each_draw
from pm_gplvm.prediction.row_posterior import RowDensity, Rows, _starts, positions_of, scatter

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.3}
KERNELS = [
    *STATIONARY,
    "linear",
    "rbf + bias",
    *SUMS,
    "rbf + linear + bias",
]


def theta_of(kernel):
    theta = {"sigma": 0.3} if kernel == "linear" else dict(THETA)
    theta |= {"weight": 0.6} if "+ linear" in kernel else {}
    return theta | ({"bias": 0.7} if "bias" in kernel else {})


def some_rows(rng, M, D, Q):
    seen = rng.uniform(size=(M, D)) < 0.6
    seen[:, 0] = True
    y = np.where(seen, rng.standard_normal((M, D)), 0.0)
    return Rows(y, seen, rng.standard_normal((M, Q)), rng.uniform(0.5, 2.0, (M, Q)))


def density_of(Y, kernel, rng):
    model = gplvm.build_model(Y, kernel=kernel, resolution=0)
    fit = fit_of(model, rng.standard_normal((1, 1, 12, 2)), **theta_of(kernel))
    F, _, _ = Fit(fit).table()
    (draw,) = each_draw(Fit(fit))
    return RowDensity(draw, F)


def by_the_joint_gaussian(density, kernel, x, y, seen, mean, sd):
    X, theta = density.draw.X, theta_of(kernel)
    sigma, N = theta.pop("sigma"), len(density.draw.X)
    joint = kernel_matrix(kernel.removesuffix(" + bias"), np.vstack([X, x]), **theta)
    joint += sigma**2 * np.eye(N + 1)
    gain = np.linalg.solve(joint[:N, :N], joint[:N, N])
    spread = np.sqrt(joint[N, N] - gain @ joint[:N, N])
    own = norm(gain @ density.F, spread).logpdf(y)[seen].sum()
    return own + norm(mean, sd).logpdf(x).sum()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_density_is_that_of_the_joint_gaussian(Y, kernel, rng):
    density, rows = density_of(Y, kernel, rng), some_rows(rng, 6, 4, 2)
    x = rng.standard_normal((6, 2))
    value, gradient = density.log_joint(x, rows)
    for i in range(6):
        parts = (rows.y[i], rows.seen[i], rows.mean[i], rows.sd[i])

        def joint(point, parts=parts):
            return by_the_joint_gaussian(density, kernel, point["x"], *parts)

        assert value[i] == pytest.approx(joint({"x": x[i]}), rel=1e-9)
        slope = central_differences(joint, {"x": x[i]})["x"]
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_ways_to_ask_for_it_agree(Y, kernel, rng):
    density, rows = density_of(Y, kernel, rng), some_rows(rng, 5, 4, 2)
    places = rng.standard_normal((7, 2))
    heights = density.log_densities(places, rows)
    shared = np.broadcast_to(places, (5, 7, 2))
    own, variance = density.log_joint_and_variance(shared, rows)
    single = [density.log_joint(np.repeat(p[None], 5, axis=0), rows)[0] for p in places]
    np.testing.assert_allclose(heights, own, rtol=1e-9)
    np.testing.assert_allclose(own, np.transpose(single), rtol=1e-10)
    _, spread = density.conditional(places)
    np.testing.assert_allclose(variance, np.broadcast_to(spread, (5, 7, 1)), rtol=1e-10)


def test_anisotropic_lengthscales(Y, rng):
    model = gplvm.build_model(Y, 2, ard=True)
    X = rng.standard_normal((1, 1, 12, 2))
    fit = fit_of(model, X, amplitude=1.3, sigma=0.3, lengthscale=[[[0.5, 1.5]]])
    F, _, _ = Fit(fit).table()
    (draw,) = each_draw(Fit(fit))
    density, rows = RowDensity(draw, F), some_rows(rng, 3, 4, 2)
    x = rng.standard_normal((3, 2))
    _, gradient = density.log_joint(x, rows)
    slope = central_differences(lambda p: density.log_joint(p["x"], rows)[0].sum(), {"x": x})
    np.testing.assert_allclose(gradient, slope["x"], rtol=1e-5, atol=1e-6)


def test_climbs_end_where_scipys_end(rng):
    x = rng.uniform(-2.0, 2.0, (20, 2))

    def function(x, which):
        return -rosen(x.T), -rosen_der(x.T).T

    top, value, converged = maximise(function, x, np.ones(2), max_iter=500, tol=1e-10)
    assert converged.all()
    expected = [minimize(rosen, start, jac=rosen_der, method="BFGS").x for start in x]
    np.testing.assert_allclose(top, expected, atol=1e-3)
    np.testing.assert_allclose(value, 0.0, atol=1e-8)


def test_a_climb_that_is_cut_short_says_so():
    def function(x, which):
        return -rosen(x.T), -rosen_der(x.T).T

    _, _, converged = maximise(
        function, np.array([[-1.9, 2.0], [1.0, 1.0]]), np.ones(2), max_iter=3
    )
    assert converged.tolist() == [False, True]


def test_least_squares_end_where_scipys_end(Y, rng):
    holes = Y.to_numpy().copy()
    holes[:4, 1] = holes[2:5, 3] = np.nan
    model = gplvm.build_model(holes, missing="mask", resolution=0)
    X = rng.standard_normal((1, 1, 12, 2))
    (draw,) = each_draw(Fit(fit_of(model, X, **THETA)))
    F, _, _ = Fit(fit_of(model, X, **THETA)).table()
    density, rows = RowDensity(draw, F), some_rows(rng, 6, 4, 2)
    x = rng.standard_normal((6, 2))

    def residuals(point, i):
        mean = density.conditional(point[None])[0][0]
        misfit = np.where(rows.seen[i], rows.y[i] - mean, 0.0) / THETA["sigma"]
        return np.append(misfit, (point - rows.mean[i]) / rows.sd[i])

    def function(x, which):
        return density.squares(x, rows[which])

    value, gradient, curvature = function(x, np.arange(6))
    end, lowest, _ = least(function, x, density.unit, max_iter=200, tol=1e-14)
    for i in range(6):
        at_start = least_squares(residuals, x[i], args=(i,), max_nfev=1)
        assert value[i] == pytest.approx(at_start.cost, rel=1e-10)
        np.testing.assert_allclose(gradient[i], at_start.grad, rtol=1e-4, atol=1e-5)
        J = at_start.jac
        np.testing.assert_allclose(curvature[i], J.T @ J, rtol=1e-4, atol=1e-5)
        # From the start scipy may go down into another valley; from beside ours it must come back.
        beside = end[i] + 0.01 * rng.standard_normal(2)
        own = least_squares(residuals, beside, args=(i,), xtol=1e-12, ftol=1e-12, gtol=1e-12)
        assert lowest[i] == pytest.approx(own.cost, rel=1e-8)
        np.testing.assert_allclose(end[i], own.x, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_squares_have_their_slope_and_curvature(Y, kernel, rng):
    density, rows = density_of(Y, kernel, rng), some_rows(rng, 6, 4, 2)
    x = rng.standard_normal((6, 2))
    _, gradient, curvature = density.squares(x, rows)
    slope = central_differences(lambda p: density.squares(p["x"], rows)[0].sum(), {"x": x})
    np.testing.assert_allclose(gradient, slope["x"], rtol=1e-5, atol=1e-5)
    step = 1e-5 * np.eye(2)
    up, down = (np.stack([density.conditional(x + s * e)[0] for e in step], 1) for s in (1, -1))
    J = np.where(rows.seen[:, None], up - down, 0.0) / (2e-5 * 0.3)
    expected = J @ J.transpose(0, 2, 1) + np.eye(2) / rows.sd[:, :, None] ** 2
    np.testing.assert_allclose(curvature, expected, rtol=1e-4, atol=1e-5)


def test_a_climb_of_values_that_are_rounded_is_done_when_no_step_brings_more():
    def function(x, which):
        return np.round(-(x**4).sum(axis=1), 5), -4.0 * x**3

    top, _, converged = maximise(function, np.array([[1.0, 0.5], [-0.3, 0.8]]), np.ones(2))
    assert converged.all()
    assert np.abs(top).max() < 0.2


def test_a_climb_that_knows_its_curvature_begins_with_newtons_step(rng):
    target, precise = rng.standard_normal((3, 2)), np.array([[1e6, 2e5], [2e5, 1e5]])
    calls = []

    def function(x, which):
        calls.append(x)
        slope = (target[which] - x) @ precise
        return -0.5 * ((x - target[which]) * -slope).sum(axis=1), slope

    inverse = np.tile(np.linalg.inv(precise), (3, 1, 1))
    top, _, converged = maximise(function, target + 0.3, np.array([2.0, 0.5]), inverse=inverse)
    assert converged.all()
    assert len(calls) == 2
    np.testing.assert_allclose(top, target, atol=1e-9)


@pytest.fixture(scope="module")
def steep():
    """Rows with next to no noise, on functions of four coordinates that are known for the others."""
    rng = np.random.default_rng(0)
    N, M, Q, D, lengthscale, sigma = 150, 30, 4, 40, 5.0, 1e-4
    X = rng.standard_normal((N + M, Q))
    W, V = rng.standard_normal((2, Q, D)) / lengthscale
    Y = np.sin(X @ W + rng.uniform(0.0, 2.0 * np.pi, D)) + 0.5 * np.cos(X @ V)
    Y = Y / Y.std() + sigma * rng.standard_normal(Y.shape)
    model = gplvm.build_model(Y[:N], Q, scale="none", resolution=0)
    theta = {"lengthscale": lengthscale, "amplitude": 1.5, "sigma": sigma}
    return fit_of(model, X[None, None, :N], **theta), Y[:N], Y[N:], X[N:]


def ppca_fill(Y, holes, Q):
    pca = PCA(Q).fit(Y)
    covariance, filled = pca.get_covariance(), holes.copy()
    for row in filled:
        gone = np.isnan(row)
        known = covariance[np.ix_(~gone, ~gone)]
        away = np.linalg.solve(known, row[~gone] - pca.mean_[~gone])
        row[gone] = pca.mean_[gone] + covariance[np.ix_(gone, ~gone)] @ away
    return filled


@pytest.mark.parametrize("holes", [False, True])
def test_rows_without_noise_are_not_lost(steep, holes):
    fit, known, new, at = steep
    rng = np.random.default_rng(1)
    D = new.shape[1]
    gone = rng.permuted(np.tile(np.arange(D) < D // 2, (len(new), 1)), axis=1) & holes
    table = np.where(gone, np.nan, new)
    places = gplvm.embed(fit, table, random_seed=1)
    x = places["modes"]["X"].to_numpy()[:, 0]
    pca = PCA(4).fit(known)
    error = np.abs(gplvm.predict(fit, x)["mean"].to_numpy() - new).max()
    assert error < 0.1 * np.abs(pca.inverse_transform(pca.transform(new)) - new).max()
    np.testing.assert_allclose(x, at, atol=0.05)
    assert places["rows"]["converged"].all()
    if holes:
        filled = gplvm.impute(fit, table, random_seed=1)["mean"].to_numpy()
        ours, theirs = (
            np.sqrt(((f - new)[gone] ** 2).mean()) for f in (filled, ppca_fill(known, table, 4))
        )
        assert ours < 0.1 * theirs


def test_climbs_of_the_density_alone_lose_them(steep):
    fit, _, new, at = steep
    F, _, _ = Fit(fit).table()
    (draw,) = each_draw(Fit(fit))
    density = RowDensity(draw, F)
    M = len(new)
    rows = Rows(new - known_mean(fit), np.ones(new.shape, bool), np.zeros((M, 4)), np.ones((M, 4)))
    scattered = scatter(density, np.random.default_rng(1))
    starts = _starts(density, rows, 16, scattered)
    row = np.repeat(np.arange(M), 16)
    top, height, _ = maximise(
        lambda x, which: density.log_joint(x, rows, row[which]), starts.reshape(-1, 4), density.unit
    )
    best = height.reshape(M, 16).argmax(axis=1) + 16 * np.arange(M)
    modes = positions_of(density, rows, 100, 16, scattered, np.random.default_rng(1).spawn(M)).modes
    ours = modes.at[np.arange(M), modes.log_mass.argmax(axis=1)]
    assert (np.abs(top[best] - at).max(axis=1) > 0.3).sum() >= 3
    assert (np.abs(ours - at).max(axis=1) < 0.05).all()
    assert (density.log_joint(ours, rows)[0] > height.reshape(M, 16).max(axis=1) - 1e-3).all()


def known_mean(fit):
    return fit["constant_data"]["Y_mean"].to_numpy()


def test_mixtures_have_the_density_they_are_drawn_from(rng):
    at = rng.standard_normal((2, 2, 2))
    spread = np.tril(rng.uniform(0.2, 0.6, (2, 2, 2, 2)))
    share = np.array([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]])
    mean, sd = rng.standard_normal((2, 2)), rng.uniform(1.0, 2.0, (2, 2))
    proposals = Proposals(at, spread, share, mean, sd)
    x = proposals.draw(4000, rng.spawn(2))
    logs = proposals.log_density(x)
    for m in range(2):
        parts = [multivariate_t(at[m, j], spread[m, j] @ spread[m, j].T, df=5) for j in range(2)]
        parts.append(multivariate_normal(mean[m], np.diag(sd[m] ** 2)))
        expected = sum(s * p.pdf(x[m]) for s, p in zip(share[m], parts, strict=True))
        np.testing.assert_allclose(np.exp(logs[m]), expected, rtol=1e-9)
        # ∫ g q dx / q = ∫ g dx for a g that is known: the draws have that density.
        inner = multivariate_normal(mean[m], 0.25 * np.diag(sd[m] ** 2)).pdf(x[m])
        ratio = inner / np.exp(logs[m])
        assert ratio.mean() == pytest.approx(1.0, abs=5 * ratio.std() / np.sqrt(4000))
