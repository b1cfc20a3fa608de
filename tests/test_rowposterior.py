"""The density of an unseen row and its gradient, the climbs, and the mixtures, each by another route."""

import numpy as np
import pytest
from made import fit_of
from oracles import SUMS, central_differences, kernel_matrix
from scipy.optimize import minimize, rosen, rosen_der
from scipy.stats import multivariate_normal, multivariate_t, norm

import pm_gplvm as gplvm
from pm_gplvm.batch_bfgs import maximise
from pm_gplvm.draws import data_of, each_draw
from pm_gplvm.proposals import Proposals
from pm_gplvm.rowdensity import RowDensity, Rows

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.3}
KERNELS = ["rbf", "matern32", "matern52", "linear", "rbf + bias", *SUMS, "rbf + linear + bias"]


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
    fit = fit_of(
        gplvm.build_model(Y, kernel=kernel), rng.standard_normal((1, 1, 12, 2)), **theta_of(kernel)
    )
    F, _, _ = data_of(fit, caller="test")
    (draw,) = each_draw(fit, caller="test")
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
    heights = density.heights(places, rows)
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
    F, _, _ = data_of(fit, caller="test")
    (draw,) = each_draw(fit, caller="test")
    density, rows = RowDensity(draw, F), some_rows(rng, 3, 4, 2)
    x = rng.standard_normal((3, 2))
    _, gradient = density.log_joint(x, rows)
    slope = central_differences(lambda p: density.log_joint(p["x"], rows)[0].sum(), {"x": x})
    np.testing.assert_allclose(gradient, slope["x"], rtol=1e-5, atol=1e-6)


def test_climbs_end_where_scipys_end(rng):
    x = rng.uniform(-2.0, 2.0, (20, 2))

    def function(x, which):
        return -rosen(x.T), -rosen_der(x.T).T

    top, value, converged = maximise(function, x, np.ones(2), maxiter=500, tol=1e-10)
    assert converged.all()
    expected = [minimize(rosen, start, jac=rosen_der, method="BFGS").x for start in x]
    np.testing.assert_allclose(top, expected, atol=1e-3)
    np.testing.assert_allclose(value, 0.0, atol=1e-8)


def test_a_climb_that_is_cut_short_says_so():
    def function(x, which):
        return -rosen(x.T), -rosen_der(x.T).T

    _, _, converged = maximise(function, np.array([[-1.9, 2.0], [1.0, 1.0]]), np.ones(2), maxiter=3)
    assert converged.tolist() == [False, True]


def test_mixtures_have_the_density_they_are_drawn_from(rng):
    at = rng.standard_normal((2, 2, 2))
    spread = np.tril(rng.uniform(0.2, 0.6, (2, 2, 2, 2)))
    share = np.array([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]])
    mean, sd = rng.standard_normal((2, 2)), rng.uniform(1.0, 2.0, (2, 2))
    proposals = Proposals(at, spread, share, mean, sd)
    x = proposals.draw(4000, rng)
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
