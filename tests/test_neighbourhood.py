"""The log-density of a few rows: exact for all of them, the priors counted with their weights."""

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from oracles import ALL_KERNELS, centre_and_spread, column_logps, kernel_matrix
from scipy import stats

import pm_gplvm as gplvm
from pm_gplvm.density import compile_log_density
from pm_gplvm.neighbourhood import compile_neighbourhood
from pm_gplvm.spec import ModelSpec

CASES = [(kernel, ard) for kernel in ALL_KERNELS for ard in (False, True)]
CASES.remove(("linear", True))


def split(density, values):
    """X and θ as the neighbourhood takes them."""
    return values[density.X], [np.asarray(values[name]) for name in density.theta]


def values_of(model, rng):
    """A random place, in the model's value variables."""
    point = model.initial_point(random_seed=1)
    return {
        name: np.asarray(rng.normal(size=np.shape(v)) * (1.0 if name == "X" else 0.3))
        for name, v in point.items()
    }


def of_rows(Y, rows, kernel="rbf", **point):
    """L of some rows by themselves, by SciPy, the whole table centred and scaled."""
    table = Y.to_numpy()
    X = point.pop("X")
    K = kernel_matrix(kernel, X[rows], **point)
    return column_logps(table[rows], K, *centre_and_spread(table, "global")).sum()


# All rows: the model's own log-density


@pytest.mark.parametrize(("kernel", "ard"), CASES)
def test_all_rows_give_the_models_log_density(kernel, ard, Y, rng):
    model = gplvm.build_model(Y, kernel=f"{kernel} + bias", ard=ard)
    density, whole = compile_neighbourhood(model), compile_log_density(model)
    values = values_of(model, rng)
    X, theta = split(density, values)
    order = rng.permutation(12)
    value, dX, dtheta = density(order, X[order], theta)
    expected, flat = whole(whole.pack(values))
    slopes = whole.unpack(flat)
    assert value == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(dX, slopes["X"][order], rtol=1e-9, atol=1e-9)
    for name, slope in zip(density.theta, dtheta, strict=True):
        np.testing.assert_allclose(slope, slopes[name], rtol=1e-9, atol=1e-9)


def test_more_columns_than_rows(digits, model, rng):
    """The table is shortened once and for all rows; of some rows it is as good."""
    density = compile_neighbourhood(model)
    assert density.factor.shape == (30, 30)
    X, rows = rng.normal(size=(30, 2)), np.array([3, 7, 8, 20])
    point = {"X": X, "lengthscale": 0.9, "amplitude": 1.3, "sigma": 0.4}
    noise = np.hypot(0.4, ModelSpec.of(model).floor)
    logs = [np.log(point[name.removesuffix("_log__")]) for name in density.theta]
    _, likelihood, _ = density.judge(rows, X[rows], list(map(np.asarray, logs)))
    assert likelihood == pytest.approx(of_rows(digits, rows, **point | {"sigma": noise}), rel=1e-10)


# Some rows


def test_clusters_that_know_nothing_of_each_other_add_up(rng):
    """Where K is block-diagonal nothing is left out: value, gradients and priors' weights."""
    table = simulated(15, 4)
    model = gplvm.build_model(table)
    density, whole = compile_neighbourhood(model), compile_log_density(model)
    values = values_of(model, rng)
    clusters = np.split(rng.permutation(15), [3, 8])
    for i, rows in enumerate(clusters):
        values["X"][rows, 0] += 200.0 * i
    X, theta = split(density, values)
    parts = [density(rows, X[rows], theta) for rows in clusters]
    expected, flat = whole(whole.pack(values))
    slopes = whole.unpack(flat)
    assert sum(part[0] for part in parts) == pytest.approx(expected, rel=1e-11)
    for rows, (_, dX, _) in zip(clusters, parts, strict=True):
        np.testing.assert_allclose(dX, slopes["X"][rows], rtol=1e-8, atol=1e-8)
    for i, name in enumerate(density.theta):
        total = sum(np.asarray(part[2][i]) for part in parts)
        np.testing.assert_allclose(total, slopes[name], rtol=1e-9, atol=1e-9)


def test_rows_far_apart_are_left_out_otherwise(Y, rng):
    """The bias: rows of two sets that lie close do tell about each other."""
    model = gplvm.build_model(Y)
    density, whole = compile_neighbourhood(model), compile_log_density(model)
    values = values_of(model, rng) | {"sigma_log__": np.asarray(-2.0)}
    X, theta = split(density, values)
    halves = np.split(np.arange(12), 2)
    parts = sum(density(rows, X[rows], theta)[0] for rows in halves)
    assert abs(parts - whole(whole.pack(values))[0]) > 1.0


def test_theta_held_fixed(Y, rng):
    density = compile_neighbourhood(gplvm.build_model(Y, priors={"sigma": 0.4}, resolution=0))
    assert set(density.theta) == {"lengthscale_log__", "amplitude_log__"}
    X, rows = rng.normal(size=(12, 2)), np.arange(3, 9)
    _, likelihood, _ = density.judge(rows, X[rows], [np.zeros(()), np.zeros(())])
    assert likelihood == pytest.approx(of_rows(Y, rows, X=X, sigma=0.4), rel=1e-10)


# Priors of X


def by_row(name, dims):
    mean = np.arange(24.0).reshape(12, 2)
    return pm.Normal(name, mean, np.linspace(0.5, 2.0, 12)[:, None], dims=dims)


def with_spread(name, dims):
    return pm.Normal(name, 0.0, pm.HalfNormal("tau"), dims=dims)


PRIORS = {
    "flat": ("flat", lambda x, rows: 0.0),
    "heavy tails": (pm.StudentT.dist(nu=4), lambda x, rows: stats.t(4).logpdf(x).sum()),
    "by row": (
        by_row,
        lambda x, rows: (
            stats.norm(
                np.arange(24.0).reshape(12, 2)[rows], np.linspace(0.5, 2.0, 12)[rows][:, None]
            )
            .logpdf(x)
            .sum()
        ),
    ),
    "by column": (
        pm.Normal.dist(0.0, np.tile([1.0, 3.0], (12, 1))),
        lambda x, rows: stats.norm(0.0, [1.0, 3.0]).logpdf(x).sum(),
    ),
    "rows of a Gaussian": (
        lambda name, dims: pm.MvNormal(
            name, np.zeros(2), np.array([[1.0, 0.5], [0.5, 2.0]]), dims=dims
        ),
        lambda x, rows: (
            stats.multivariate_normal(np.zeros(2), [[1.0, 0.5], [0.5, 2.0]]).logpdf(x).sum()
        ),
    ),
    "two clusters": (
        pm.Mixture.dist([0.3, 0.7], [pm.Normal.dist(-2.0, 1.0), pm.Normal.dist(2.0, 1.0)]),
        lambda x, rows: np.log(0.3 * stats.norm(-2.0).pdf(x) + 0.7 * stats.norm(2.0).pdf(x)).sum(),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_of_some_rows(name, Y, rng):
    prior, expected = PRIORS[name]
    fixed = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.4}
    density = compile_neighbourhood(gplvm.build_model(Y, priors={"X": prior, **fixed}))
    X, rows = rng.normal(size=(12, 2)), np.array([10, 1, 4, 5])
    value, likelihood, _ = density.judge(rows, X[rows], [])
    assert value - likelihood == pytest.approx(expected(X[rows], rows), rel=1e-8, abs=1e-8)


def test_prior_of_the_priors_parameter_counts_by_share(Y, rng):
    fixed = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.4}
    density = compile_neighbourhood(gplvm.build_model(Y, priors={"X": with_spread, **fixed}))
    X, rows = rng.normal(size=(12, 2)), np.array([10, 1, 4])
    value, likelihood, _ = density.judge(rows, X[rows], [np.log(1.7)])
    expected = stats.norm(0.0, 1.7).logpdf(X[rows]).sum() + 3 / 12 * stats.halfnorm.logpdf(1.7)
    assert value - likelihood == pytest.approx(expected, rel=1e-10)


# Held out


@pytest.mark.parametrize("n_columns", [4, 20])
def test_left_out_rows_by_conditioning(n_columns, rng):
    """Each row of some given the others, as a ratio of two of SciPy's densities."""
    table = simulated(12, n_columns)
    density = compile_neighbourhood(gplvm.build_model(table, priors={"sigma": 0.4}, resolution=0))
    X, rows = rng.normal(size=(12, 2)), np.array([0, 2, 3, 7, 11])
    point = {"X": X, "sigma": 0.4}
    together = of_rows(table, rows, **point)
    expected = np.mean([together - of_rows(table, np.delete(rows, i), **point) for i in range(5)])
    _, _, held_out = density.judge(rows, X[rows], [np.zeros(()), np.zeros(())])
    assert held_out == pytest.approx(expected, rel=1e-9)


# Turned away


def with_covariance_of_its_own(Y):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(12, 2))
        K = pm.gp.cov.RatQuad(2, alpha=1.0, ls=1.0)(X) + 0.1 * np.eye(12)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    return model


def with_coupled_rows(Y):
    def prior(name, dims):
        return pm.MatrixNormal(
            name, np.zeros((12, 2)), rowcov=np.eye(12) + 1.0, colcov=np.eye(2), dims=dims
        )

    return gplvm.build_model(Y, priors={"X": prior})


def with_potential(Y):
    model = gplvm.build_model(Y)
    with model:
        pm.Potential("smooth", -((model["X"][1:] - model["X"][:-1]) ** 2).sum())
    return model


def with_positive_positions(Y):
    return gplvm.build_model(Y, priors={"X": pm.HalfNormal.dist()})


def with_random_mean(Y):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(12, 2))
        K = gplvm.covariance("rbf", X, sigma=0.3)
        gplvm.GPColumns("Y", K, mu=pm.Normal("mean"), observed=Y.to_numpy().T)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_covariance_of_its_own, r"must have a kernel of the table .*got a covariance of its"),
        (with_coupled_rows, r"prior of X that is independent from row to row.*got matrixnormal"),
        (with_potential, r"nothing but its table that depends on X .*got smooth\. Use fit_map"),
        (with_positive_positions, r"a free X without a transform .*an X that is transformed"),
        (with_random_mean, r"data for the mean and scale of its table, got random variables"),
        (
            lambda Y: gplvm.build_model(Y, priors={"X": np.eye(12, 2)}),
            r"a free X without a transform .*an X that is no free variable",
        ),
    ],
    ids=["covariance", "rows", "potential", "transform", "mean", "fixed"],
)
def test_models_that_cannot_be_learnt_by_neighbourhoods(make, message, Y):
    with pytest.raises(ValueError, match=message):
        compile_neighbourhood(make(Y))
