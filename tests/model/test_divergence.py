"""KL(q(X) ‖ p(X)) under each prior of X: Gaussian against Gaussian by dense matrices, mixtures by draws, and the bound."""

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from numpy.polynomial.hermite_e import hermegauss
from oracles import central_differences, kernel_matrix
from scipy.special import logsumexp
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density

N, Q = 12, 2
TIME = np.array([0.3, 2.0, 1.1, 5.0, 4.4, 7.5, 9.0, 6.1, 3.3, 8.2, 2.7, 5.6])
LABELS = np.array(list("aabbccabcabc"), dtype=object)
SOME = np.array([*LABELS[:8], None, None, "", None], dtype=object)


def scaled_prior(name, dims):
    spread = pm.HalfNormal("X_spread", 1.0)
    return pm.Normal(name, 0.3, spread, dims=dims)


PRIORS = {
    "normal": pm.Normal.dist(1.0, 2.0),
    "free spread": scaled_prior,
    "informative": gplvm.priors.informative(np.linspace(-1.0, 1.0, N), 0.3),
    "dynamics": gplvm.priors.dynamics(TIME),
    "sequences": gplvm.priors.dynamics(TIME, sequences=np.arange(N) % 2, lengthscale=2.0),
    "classes": gplvm.priors.class_mixture(LABELS),
    "some classes": gplvm.priors.class_mixture(SOME, within=pm.HalfNormal.dist(1.0)),
}


@pytest.fixture(scope="module")
def Y():
    return simulated(N, 5, seed=3)


def numbers(model, rng):
    """Values of all variables by name."""
    values = {
        "X_mean": rng.standard_normal((N, Q)),
        "X_sd": rng.uniform(0.2, 0.9, (N, Q)),
        "X_spread": np.array(0.7),
        "X_lengthscale": np.array(1.7),
        "X_within": np.array(0.6),
        "X_centre": rng.standard_normal((3, Q)),
    }
    return {name: value for name, value in values.items() if name in model.named_vars}


def minus_kl(model, values):
    given = {model[n]: v for n, v in values.items() if n in {rv.name for rv in model.free_RVs}}
    return float(model["minus_KL"].eval(given, on_unused_input="ignore"))


def dense_kl(mean, A, centre, B):
    """KL(N(mean, A) ‖ N(centre, B))."""
    away, inverse = mean - centre, np.linalg.inv(B)
    logs = np.linalg.slogdet(B)[1] - np.linalg.slogdet(A)[1]
    return 0.5 * (np.trace(inverse @ A) + away @ inverse @ away - len(mean) + logs)


def prior_moments(kind, values):
    """Mean and covariance of the whole of X, row after row."""
    if kind in ("dynamics", "sequences"):
        unit = 2.0 if kind == "sequences" else values["X_lengthscale"]
        K = 0.99 * kernel_matrix("matern32", TIME[:, None], lengthscale=unit)
        if kind == "sequences":
            K = K * (np.arange(N)[:, None] % 2 == np.arange(N) % 2)
        return np.zeros(N * Q), np.kron(K + 0.01 * np.eye(N), np.eye(Q))
    mean, sd = np.zeros((N, Q)), np.ones((N, Q))
    if kind == "normal":
        mean, sd = mean + 1.0, 2.0 * sd
    if kind == "free spread":
        mean, sd = mean + 0.3, 0.7 * sd
    if kind == "informative":
        mean[:, 0], sd[:, 0] = np.linspace(-1.0, 1.0, N), 0.3
    if kind == "classes":
        mean, sd = values["X_centre"][np.searchsorted(["a", "b", "c"], LABELS)], 0.5 * sd
    return mean.ravel(), np.diag(sd.ravel() ** 2)


@pytest.mark.parametrize("kind", [kind for kind in PRIORS if kind != "some classes"])
def test_it_is_that_of_two_gaussians(kind, Y, rng):
    model = gplvm.build_model(Y, Q, priors={"X": PRIORS[kind]})
    bound = gplvm.model.build_variational(model, n_inducing=4)
    values = numbers(bound, rng)
    A = np.diag(values["X_sd"].ravel() ** 2)
    expected = dense_kl(values["X_mean"].ravel(), A, *prior_moments(kind, values))
    assert minus_kl(bound, values) == pytest.approx(-expected, rel=1e-9)


def test_rows_of_unknown_class_have_a_bound_on_it(Y, rng):
    model = gplvm.build_model(Y, Q, priors={"X": PRIORS["some classes"]})
    bound = gplvm.model.build_variational(model, n_inducing=4)
    values = numbers(bound, rng)
    mean, sd, centre = values["X_mean"], values["X_sd"], values["X_centre"]
    number = np.searchsorted(["a", "b", "c"], LABELS[:8])
    share = np.bincount(number) / 8.0
    x = mean + sd * rng.standard_normal((20_000, N, Q))
    each = norm(centre, 0.6).logpdf(x[:, :, None]).sum(axis=-1)
    log_prior = np.where(np.arange(N) < 8, each[:, range(N), [*number, 0, 0, 0, 0]], -np.inf)
    log_prior[:, 8:] = logsumexp(each[:, 8:], b=share, axis=2)
    draws = log_prior.sum(axis=1) - norm(mean, sd).logpdf(x).sum(axis=(1, 2))
    error = draws.std() / np.sqrt(len(draws))
    found = minus_kl(bound, values)
    assert draws.mean() - 6.0 < found < draws.mean() + 4.0 * error
    # Where q is narrow nothing is lost.
    narrow = values | {"X_sd": np.full((N, Q), 1e-5)}
    each = norm(centre, 0.6).logpdf(mean[:, None]).sum(axis=-1)
    expected = each[range(8), number].sum() + logsumexp(each[8:], b=share, axis=1).sum()
    expected += N * Q * (0.5 + 0.5 * np.log(2.0 * np.pi) + np.log(1e-5))
    assert minus_kl(bound, narrow) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", PRIORS)
def test_the_gradient_of_the_whole(kind, Y, rng):
    model = gplvm.build_model(Y, Q, priors={"X": PRIORS[kind]})
    density = compile_log_density(gplvm.model.build_variational(model, n_inducing=4))
    vector = 0.3 * rng.standard_normal(density.size)
    slope = central_differences(lambda point: density(point["v"])[0], {"v": vector})["v"]
    np.testing.assert_allclose(
        density(vector)[1], slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max()
    )


@pytest.mark.parametrize("kind", ["informative", "dynamics"])
def test_the_bound_is_below_the_evidence(kind):
    """ln ∫ p(Y | X, θ) p(X) dX of four rows in one dimension, by 20⁴ nodes, at the end of a climb."""
    rng = np.random.default_rng(3)
    table, t = rng.standard_normal((4, 3)), np.array([0.0, 1.0, 2.5, 3.0])
    if kind == "informative":
        mean, root = np.array([-1.0, -0.5, 0.5, 1.0]), 0.4 * np.eye(4)
        prior = gplvm.priors.informative(mean, 0.4)
    else:
        K = 0.99 * kernel_matrix("matern32", t[:, None], lengthscale=1.5) + 0.01 * np.eye(4)
        mean, root = np.zeros(4), np.linalg.cholesky(K)
        prior = gplvm.priors.dynamics(t, lengthscale=1.5)
    held = {"lengthscale": 1.0, "amplitude": 1.2, "sigma": 0.5}
    model = gplvm.build_model(table, 1, priors={"X": prior, **held}, resolution=0)
    fit = gplvm.fit_variational(model, n_inducing=4, progressbar=False, random_seed=1)
    nodes, weights = hermegauss(20)
    grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    mass = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4)), axis=0).ravel()
    X = mean + grid @ root.T
    K = 1.44 * np.exp(-0.5 * (X[:, :, None] - X[:, None]) ** 2) + 0.25 * np.eye(4)
    F = table - table.mean(axis=0)
    scale = np.sqrt((F**2).mean())
    F = F / scale
    quadratic = np.einsum("nd,gnm,md->g", F, np.linalg.inv(K), F)
    logs = -0.5 * (quadratic + 3 * np.linalg.slogdet(K)[1] + 12 * np.log(2 * np.pi * scale**2))
    evidence = np.log(mass @ np.exp(logs - logs.max())) + logs.max()
    bound = fit["sample_stats"]["bound"][0, 0].item()
    assert evidence - 5.0 < bound < evidence
    assert fit["sample_stats"]["lp"][0, 0].item() == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (pm.StudentT.dist(4), "got another one. Take Normal, priors.informative"),
        (np.ones((N, Q)), "got one that is held"),
        (gplvm.priors.back_constraint(), "got priors.back_constraint, under which X is a function"),
        ("flat", "got another one. Take Normal, priors.informative"),
    ],
)
def test_priors_without_one_are_refused(prior, message, Y):
    model = gplvm.build_model(Y, Q, priors={"X": prior})
    with pytest.raises(ValueError, match=message):
        gplvm.model.build_variational(model, n_inducing=4)
