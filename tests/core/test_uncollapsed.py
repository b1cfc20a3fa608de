"""The uncollapsed bound: its gradients, its value by other routes, natural-gradient steps."""

from itertools import product

import numpy as np
import pytest
from oracles import central_differences
from scipy.stats import norm

from pm_gplvm.core.inducing import JITTER as COLLAPSED_JITTER
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.kernels import KERNELS, cross_covariance, prior_variance
from pm_gplvm.core.psi import ONE_NODE
from pm_gplvm.core.uncollapsed import (
    ColumnPosterior,
    Features,
    GatheredRows,
    NormalRows,
    accurate,
    mixing_nodes,
    natural_theta,
    positive,
    rotated,
    row_steps,
    row_terms,
)
from pm_gplvm.model.likelihoods import Gaussian, Poisson, Rows

N, Q, M, D = 7, 2, 5, 3
NODES = rotated(Q, np.random.default_rng(5))
POINT = (np.zeros((1, Q)), np.ones(1))


class Case:
    """A bound with everything in it: holes, levels, a noise of each column."""

    def __init__(self, kernel="rbf", seed=1):
        rng = np.random.default_rng(seed)
        self.kernel = kernel
        values = {"lengthscale": rng.normal(0.0, 0.2, Q), "amplitude": 0.1, "weight": -0.4}
        names = (*KERNELS[kernel].parameters, "bias")
        self.log_theta = {n: np.asarray({**values, "bias": -0.5}[n]) for n in names}
        self.W = np.eye(Q + 1, Q) if KERNELS[kernel].scaled is None else rng.standard_normal((M, Q))
        m = len(self.W)
        basis = np.linalg.qr(rng.standard_normal((m, m)))[0]
        precisions = 1.0 + 5.0 * rng.random((m, D))
        self.posterior = ColumnPosterior(rng.standard_normal((m, D)), precisions, basis, np.eye(m))
        self.level = rng.standard_normal(D)
        self.parameters = {"log_sigma": rng.normal(-1.0, 0.3, D)}
        Y = rng.standard_normal((N, D))
        Y[0, 1] = Y[3] = np.nan
        self.rows = Rows(Y)
        self.mean = rng.standard_normal((N, Q))
        self.log_sd = np.log(rng.uniform(0.3, 0.8, (N, Q)))

    def terms(self, nodes=None, **changed):
        known = {**vars(self), **changed}
        features = Features(
            self.kernel,
            known["W"],
            natural_theta(self.kernel, known["log_theta"]),
            self.posterior.basis,
        )
        q = known["mean"], np.exp(known["log_sd"])
        own, shared = row_terms(
            features,
            known["posterior"],
            known["level"],
            Gaussian("column"),
            known["parameters"],
            self.rows,
            q,
            nodes or NODES,
            shared=True,
        )
        return own, shared, features

    def value(self, **changed):
        return float(self.terms(**changed)[0].value.sum())


@pytest.mark.parametrize("kernel", KERNELS)
def test_its_gradients_are_those_of_its_value(kernel):
    case = Case(kernel)
    own, shared, features = case.terms()
    by_W, by_theta = features.through_factor(shared.features)
    found = {"mean": own.mean, "log_sd": own.log_sd, "W": by_W, "level": shared.level}
    numeric = central_differences(
        lambda named: case.value(**named), {name: getattr(case, name) for name in found}
    )
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, numeric[name], rtol=1e-5, atol=1e-6, err_msg=name)
    numeric = central_differences(lambda named: case.value(log_theta=named), case.log_theta)
    for name, gradient in numeric.items():
        np.testing.assert_allclose(by_theta[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)
    numeric = central_differences(lambda named: case.value(parameters=named), case.parameters)
    for name, gradient in numeric.items():
        np.testing.assert_allclose(shared.parameters[name], gradient, rtol=1e-5, atol=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole():
    case = Case()
    _, shared, features = case.terms()
    parts = []
    for some in (slice(0, 3), slice(3, N)):
        rows = Rows(case.rows.Y[some])
        q = case.mean[some], np.exp(case.log_sd[some])
        _, part = row_terms(
            features,
            case.posterior,
            case.level,
            Gaussian("column"),
            case.parameters,
            rows,
            q,
            NODES,
            shared=True,
        )
        parts.append(part)
    whole = parts[0] + parts[1]
    np.testing.assert_allclose(whole.features.W, shared.features.W)
    np.testing.assert_allclose(whole.features.outer, shared.features.outer)
    np.testing.assert_allclose(whole.level, shared.level)
    np.testing.assert_allclose(whole.statistics.common, shared.statistics.common)
    np.testing.assert_allclose(whole.statistics.curvature, shared.statistics.curvature)
    np.testing.assert_allclose(whole.parameters["log_sigma"], shared.parameters["log_sigma"])


def test_the_moments_of_f_are_those_of_the_conditional_given_q():
    """By the covariances themselves: f given u, and u ~ N(L V m, L V diag(1/p) Vᵀ Lᵀ)."""
    case = Case()
    theta = natural_theta("rbf", case.log_theta)
    features = Features("rbf", case.W, theta, case.posterior.basis)
    X = np.random.default_rng(2).standard_normal((4, Q))
    mean, variance = features.moments(case.posterior, case.level, X)
    K = cross_covariance("rbf", case.W, case.W, **theta)
    K = K + 1e-6 * np.trace(K) / M * np.eye(M)
    L = np.linalg.cholesky(K)
    k = cross_covariance("rbf", X, case.W, **theta)
    of_x = {n: v for n, v in theta.items() if n != "lengthscale"}
    prior = prior_variance("rbf", X, **of_x)
    for d in range(D):
        turn = L @ case.posterior.basis
        u = turn @ case.posterior.means[:, d]
        S = (turn / case.posterior.precisions[:, d]) @ turn.T
        A = k @ np.linalg.inv(K)
        np.testing.assert_allclose(mean[:, d], case.level[d] + A @ u, atol=1e-8)
        expected = prior - np.diag(A @ k.T) + np.diag(A @ S @ A.T)
        np.testing.assert_allclose(variance[:, d], expected, atol=1e-7)


def test_its_value_is_an_integral_over_x_and_f():
    """A Gaussian's expectation by a dense grid in both dimensions of x, constants included."""
    case = Case()
    own, _, features = case.terms(nodes=accurate(Q))
    x, w = np.polynomial.hermite_e.hermegauss(30)
    w = w / w.sum()
    sd, noise = np.exp(case.log_sd), np.exp(case.parameters["log_sigma"])
    expected = np.zeros(N)
    for (a, u), (b, v) in product(zip(x, w, strict=True), repeat=2):
        X = case.mean + sd * [a, b]
        m, variance = features.moments(case.posterior, case.level, X)
        logs = norm(m, noise).logpdf(case.rows.Y) - 0.5 * variance / noise**2
        expected += u * v * np.nansum(logs, axis=1)
    np.testing.assert_allclose(own.value, expected, rtol=0.0, atol=2e-2 * np.abs(expected).max())
    assert own.value[3] == 0.0  # nothing was seen of it


def turned(dims):
    return rotated(dims, np.random.default_rng(5))


@pytest.mark.parametrize(("rule", "degree"), [(turned, 3), (accurate, 5), (positive, 3)])
@pytest.mark.parametrize("dims", [1, 2, 3, 4, 6])
def test_nodes_are_exact_for_polynomials(rule, degree, dims):
    points, weights = rule(dims)
    moments = {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 3.0, 5: 0.0}
    for powers in product(range(degree + 1), repeat=min(dims, 3)):
        if sum(powers) <= degree:
            powers = np.array([*powers, *(0,) * (dims - len(powers))])
            found = weights @ np.prod(points**powers, axis=1)
            expected = np.prod([moments[int(p)] for p in powers])
            np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_turned_nodes_are_exact_for_the_fourth_degree_on_average(dims):
    """What a fit could hide from axes that stay: E x₁²x₂² = 1 and E x₁⁴ = 3."""
    rng = np.random.default_rng(6)
    found = np.zeros(2)
    for _ in range(4000):
        points, weights = rotated(dims, rng)
        assert (weights > 0.0).all()
        found += weights @ points[:, 0] ** 4, weights @ (points[:, 0] ** 2 * points[:, -1] ** 2)
    expected = (3.0, 3.0 if dims == 1 else 1.0)
    np.testing.assert_allclose(found / 4000, expected, rtol=0.06)


def test_one_whole_step_from_known_positions_is_the_collapsed_bound():
    """Gaussian noise, nothing missing: a step of length 1 gives the optimal q(u) (Titsias 2009)."""
    rng = np.random.default_rng(3)
    n, sigma = 40, 0.3
    X, W = rng.standard_normal((n, Q)), rng.standard_normal((6, Q))
    F = np.sin(X @ rng.standard_normal((Q, D))) + sigma * rng.standard_normal((n, D))
    theta = {"lengthscale": np.array([0.9, 1.2]), "amplitude": 1.1}
    posterior = ColumnPosterior.prior(6, D)
    parameters = {"log_sigma": np.array(np.log(sigma))}
    level, q = np.zeros(D), (X, np.zeros_like(X))
    for turned in (
        False,
        True,
    ):  # the first step finds the basis in which the covariance is diagonal
        posterior = posterior.turned() if turned else posterior
        features = Features("rbf", W, theta, posterior.basis)
        given = (level, Gaussian(), parameters, Rows(F), q, POINT)
        _, shared = row_terms(features, posterior, *given, shared=True)
        posterior = posterior.step(shared.statistics, 1.0, 1.0)
    own, _ = row_terms(features, posterior, *given)
    found = own.value.sum() - posterior.divergence
    whole = InducingKernel.of("rbf", (X, np.zeros_like(X), W), theta, quadrature=ONE_NODE)
    expected = whole.posterior(F, sigma).bound((F**2).sum(), n, D)
    assert COLLAPSED_JITTER == 1e-8  # here it is 1e-6: a difference of some 1e-4 nats
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_the_divergence_of_q_is_that_of_normals(rng):
    mean, sd = rng.standard_normal((3, 2)), rng.uniform(0.2, 2.0, (3, 2))
    centre, spread = rng.standard_normal((3, 2)), rng.uniform(0.5, 2.0, (3, 2))
    draws = mean + sd * rng.standard_normal((200_000, 3, 2))
    ratio = norm(mean, sd).logpdf(draws) - norm(centre, spread).logpdf(draws)
    found = NormalRows(centre, spread).divergence(mean, sd)
    np.testing.assert_allclose(found, ratio.sum(axis=2).mean(axis=0), rtol=0.03)
    q = ColumnPosterior(mean, 1.0 / sd**2, np.eye(3), np.eye(3))
    np.testing.assert_allclose(q.divergence, NormalRows().divergence(mean, sd).sum(), rtol=1e-12)


def test_gradients_of_a_mixture_of_classes(rng):
    """In all that is free, by differences; rows of one class, of an unknown one, and of the only one."""
    weights = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    point = {
        "mean": rng.standard_normal((4, 2)),
        "log_sd": np.log(rng.uniform(0.2, 0.9, (4, 2))),
        "centre": rng.standard_normal((3, 2)),
        "log_within": np.array(-0.4),
    }

    def value(v):
        prior = GatheredRows(logs, v["centre"], np.exp(v["log_within"]))
        return -prior.divergence(v["mean"], np.exp(v["log_sd"])).sum()

    numeric = central_differences(value, point)
    spread, sd = np.exp(point["log_within"]), np.exp(point["log_sd"])
    prior = GatheredRows(logs, point["centre"], spread)
    found = prior.gradient(point["mean"], sd)
    found["mean"] = (prior.towards(point["mean"]) - point["mean"]) / spread**2
    found["log_sd"] = 1.0 - (sd / spread) ** 2
    for name, gradient in numeric.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-8, err_msg=name)


def test_turning_the_basis_leaves_the_mean_and_keeps_what_is_diagonal(rng):
    case = Case()
    common = rng.standard_normal((M, M))
    before = ColumnPosterior(
        case.posterior.means, case.posterior.precisions, case.posterior.basis, common @ common.T
    )
    after = before.turned()
    np.testing.assert_allclose(after.basis @ after.means, before.basis @ before.means, atol=1e-12)
    turned = after.basis.T @ before.basis
    whole = turned @ np.diag(before.precisions[:, 0]) @ turned.T
    np.testing.assert_allclose(after.precisions[:, 0], np.diag(whole))


def test_no_step_lowers_the_bound_of_its_row(rng):
    case = Case()
    features = case.terms()[2]
    Y = rng.poisson(2.0, (N, D)).astype(float)
    Y[2] = np.nan

    def evaluate(mean, sd):
        return row_terms(
            features, case.posterior, case.level, Poisson(), {}, Rows(Y), (mean, sd), NODES
        )[0]

    q, trust, prior = (3.0 * case.mean, np.exp(case.log_sd)), np.ones(N), NormalRows()
    bound = evaluate(*q).value - prior.divergence(*q)
    for _ in range(60):
        mean, sd, trust, new = row_steps(evaluate, q, trust, prior, longest=0.5, steps=2)
        assert (new >= bound - 1e-8).all()
        q, bound = (mean, sd), new
    found = evaluate(*q)
    slope = found.mean - q[0]
    assert np.abs(slope).max() < 1e-3
    np.testing.assert_allclose(q[0][2], 0.0, atol=1e-6)  # of an empty row q is the prior
    np.testing.assert_allclose(q[1][2], 1.0, atol=1e-6)


def test_a_matrix_that_is_not_positive_definite_is_an_error():
    W = np.zeros((3, 2))
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        Features("linear", W, {}, np.eye(3))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_nodes_mix_a_kernel_over_uncertain_positions(ratio):
    """E exp(-x²) over N(0.4, ratio²) is known."""
    sd = np.array([[ratio, 0.0, 0.5 * ratio], [0.1, 0.0, 0.0]])
    nodes, weights = mixing_nodes(sd, np.ones(3))
    assert (weights > 0.0).all()
    assert weights.sum() == pytest.approx(1.0)
    assert not nodes[:, 1].any()
    for q in (0, 2):
        wide = 1.0 + 2.0 * sd[0, q] ** 2
        found = weights @ np.exp(-((0.4 + sd[0, q] * nodes[:, q]) ** 2))
        assert found == pytest.approx(np.exp(-0.16 / wide) / np.sqrt(wide), rel=0.02)


def test_nodes_in_many_dimensions_are_exact_for_cubic_functions():
    nodes, weights = mixing_nodes(np.array([[0.1, 0.0, 1.0, 1.0, 2.0]]), np.ones(5))
    assert (weights > 0.0).all()
    np.testing.assert_allclose(weights @ nodes, 0.0, atol=1e-12)
    np.testing.assert_allclose((weights * nodes.T) @ nodes, np.diag([1.0, 0, 1, 1, 1]), atol=1e-12)


def test_nodes_of_known_positions_are_one():
    nodes, weights = mixing_nodes(np.zeros((4, 2)), np.ones(2))
    assert nodes.tolist() == [[0.0, 0.0]]
    assert weights.tolist() == [1.0]
