"""X and θ by stochastic gradients of neighbourhoods: the log-density, the steps, the fit."""

import tracemalloc
import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from made import InterruptAt
from oracles import (
    ALL_KERNELS,
    centre_and_spread,
    column_logps,
    kernel_matrix,
    neighbour_errors,
)
from scipy import stats
from sklearn.neighbors import NearestNeighbors

import pm_gplvm as gplvm
from pm_gplvm.fitting.stochastic import Optimiser, compile_neighbourhood
from pm_gplvm.model.density import compile_log_density
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import start_values

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
    _, likelihood, _ = density.evaluate(rows, X[rows], list(map(np.asarray, logs)))
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
    _, likelihood, _ = density.evaluate(rows, X[rows], [np.zeros(()), np.zeros(())])
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
    value, likelihood, _ = density.evaluate(rows, X[rows], [])
    assert value - likelihood == pytest.approx(expected(X[rows], rows), rel=1e-8, abs=1e-8)


def test_prior_of_the_priors_parameter_counts_by_share(Y, rng):
    fixed = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.4}
    density = compile_neighbourhood(gplvm.build_model(Y, priors={"X": with_spread, **fixed}))
    X, rows = rng.normal(size=(12, 2)), np.array([10, 1, 4])
    value, likelihood, _ = density.evaluate(rows, X[rows], [np.log(1.7)])
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
    _, _, held_out = density.evaluate(rows, X[rows], [np.zeros(()), np.zeros(())])
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


# Steps: which rows move, how far, and what is refused


def bowl(rows, X_rows, theta):
    """-½‖X‖² - ½(θ - 1)², whose gradient pulls every row to 0."""
    value = -0.5 * (X_rows**2).sum() - 0.5 * sum(((t - 1.0) ** 2).sum() for t in theta)
    return value, -X_rows, [1.0 - t for t in theta]


THETA = (np.zeros(()), np.zeros(2))


def optimiser_at(X, gradient=bowl, theta=THETA, **options):
    options = {"n_neighbors": 4, "rates": (0.1, 0.05), "momentum": 0.9} | options
    return Optimiser(gradient, X, theta, **options)


@pytest.fixture
def X(rng):
    return rng.normal(size=(40, 2))


def test_only_the_nearest_rows_of_the_drawn_one_move(X):
    optimiser = optimiser_at(X, first=np.array([7]))
    optimiser.step(np.random.default_rng(0), 1.0)
    near = NearestNeighbors(n_neighbors=4).fit(X).kneighbors(X[[7]], return_distance=False)[0]
    moved = np.flatnonzero((optimiser.X != X).any(axis=1))
    assert set(moved) == set(near)
    assert 7 in moved


def test_first_steps_have_the_length_of_the_rates(X):
    optimiser = optimiser_at(X, first=np.array([7]))
    optimiser.step(np.random.default_rng(0), 0.5)
    moved = (optimiser.X != X).any(axis=1)
    np.testing.assert_allclose(optimiser.X[moved] - X[moved], -0.05 * np.sign(X[moved]), rtol=1e-6)
    np.testing.assert_allclose(optimiser.theta[0], 0.025, rtol=1e-6)
    np.testing.assert_allclose(optimiser.theta[1], [0.025, 0.025], rtol=1e-6)


def test_all_rows_at_once_is_adam(X):
    """Kingma & Ba's algorithm 1, written out, on a gradient that turns."""
    optimiser = optimiser_at(X, n_neighbors=40, momentum=0.8)
    at, mean, square = X.copy(), np.zeros_like(X), np.zeros_like(X)
    rng = np.random.default_rng(0)
    for t in range(1, 30):
        optimiser.step(rng, 1.0 - t / 30)
        mean = 0.8 * mean + 0.2 * -at
        square = 0.99 * square + 0.01 * at**2
        root = np.sqrt(square / (1.0 - 0.99**t)) + 1e-8
        at = at + (1.0 - t / 30) * 0.1 * (mean / (1.0 - 0.8**t)) / root
    np.testing.assert_allclose(optimiser.X, at, rtol=1e-10)


def test_neighbours_follow_the_moving_rows(rng):
    """Two far clusters, one carried over to the other: its rows find their new neighbours."""
    X = np.concatenate([rng.normal(size=(20, 2)), 50.0 + rng.normal(size=(20, 2))])
    met = []

    def carry(rows, X_rows, theta):
        met.append(set(rows.tolist()))
        return 0.0, 50.0 - X_rows, []

    optimiser = optimiser_at(X, carry, (), rates=(2.0, 0.0))
    generator = np.random.default_rng(0)
    for _ in range(1500):
        optimiser.step(generator, 1.0)
    assert not any(rows & set(range(20)) and rows - set(range(20)) for rows in met[:10])
    assert any(rows & set(range(20)) and rows - set(range(20)) for rows in met[-100:])


def test_drawn_row_is_always_among_its_neighbours(X):
    """Also where it has moved away since the tree was made."""
    seen = []

    def away(rows, X_rows, theta):
        seen.append(set(rows.tolist()))
        return 0.0, np.ones_like(X_rows), []

    optimiser = optimiser_at(X, away, (), n_neighbors=2, rates=(5.0, 0.0), first=np.array([3]))
    for _ in range(15):
        optimiser.step(np.random.default_rng(0), 1.0)
    assert all(3 in rows and len(rows) == 2 for rows in seen)


def test_theta_stays_where_its_rate_is_zero(X):
    optimiser = optimiser_at(X, rates=(0.1, 0.0))
    optimiser.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(optimiser.theta[1], 0.0)


def test_theta_waits(X):
    optimiser = optimiser_at(X)
    optimiser.step(np.random.default_rng(0), 1.0, move_theta=False)
    np.testing.assert_array_equal(optimiser.theta[1], 0.0)
    optimiser.step(np.random.default_rng(0), 1.0)
    np.testing.assert_allclose(optimiser.theta[1], 0.05, rtol=1e-6)


def test_what_was_handed_over_is_left_alone(X):
    theta = [np.zeros(2)]
    before = X.copy()
    optimiser = optimiser_at(X, theta=theta)
    optimiser.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(theta[0], 0.0)


@pytest.mark.parametrize("part", ["value", "X", "theta"])
def test_step_that_is_not_finite_moves_nothing(part, X):
    def broken(rows, X_rows, theta):
        value, dX, dtheta = bowl(rows, X_rows, theta)
        if part == "value":
            return -np.inf, dX, dtheta
        if part == "X":
            return value, np.where(np.arange(4)[:, None] == 2, np.nan, dX), dtheta
        return value, dX, [dtheta[0], np.array([0.0, np.inf])]

    optimiser = optimiser_at(X, broken)
    message = r"Step 1 is not finite.*larger sigma, or lower the rates of X and θ, 0\.1 and 0\.05"
    with pytest.raises(ValueError, match=message):
        optimiser.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(optimiser.X, X)
    np.testing.assert_array_equal(optimiser.theta[1], 0.0)


def test_positions_that_fly_apart(X):
    optimiser = optimiser_at(1e200 * X)
    with pytest.raises(ValueError, match="Step 1 is not finite"):
        optimiser.step(np.random.default_rng(0), 1.0)


# The fit


@pytest.fixture(scope="module")
def digits_200():
    return gplvm.data.load_digits(n=200)


@pytest.fixture(scope="module")
def big(digits_200):
    return gplvm.build_model(digits_200)


@pytest.fixture(scope="module")
def learnt(big):
    return gplvm.fit_stochastic(big, random_seed=1, progressbar=False)


def positions(fit):
    return fit["posterior"]["X"].to_numpy()[0, 0]


def number(fit, name, group="sample_stats"):
    return float(fit[group][name][0, 0])


# What it finds


def test_neighbours_share_a_class_more_often_than_in_pca(big, learnt, digits_200):
    labels = digits_200["label"].to_numpy()
    pca = start_values(big, "pca", np.random.default_rng(0))["X"]
    assert neighbour_errors(positions(learnt), labels) < neighbour_errors(pca, labels) / 3


def test_trace_rises_to_what_the_fit_says(big, learnt):
    trace = learnt["trace"].to_dataset()
    assert trace["step"].to_numpy().tolist() == [120 * i for i in range(11)]
    for name in ("objective", "held_out"):
        assert trace[name][5] > trace[name][0]
        assert trace[name][-1] > trace[name][0]
    assert float(trace["objective"][-1]) == pytest.approx(number(learnt, "lp"), rel=1e-12)
    assert (np.diff(trace["seconds"]) > 0.0).all()
    names = [rv.name for rv in big.free_RVs]
    point = {name: learnt["posterior"][name][0, 0].to_numpy() for name in names}
    assert gplvm.model.compile_objective(big)(point)[0] == pytest.approx(
        number(learnt, "lp"), rel=1e-9
    )
    likelihood, _ = gplvm.model.compile_objective(big, prior=False)(point)
    assert likelihood == pytest.approx(number(learnt, "log_likelihood"), rel=1e-9)


def test_map_goes_on_from_here(big, learnt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 40 iterations do not converge
        finished = gplvm.fit_map(big, start=learnt, max_iter=40, progressbar=False)
    assert float(finished["optima"]["objective_at_start"][0]) == pytest.approx(
        number(learnt, "lp"), rel=1e-9
    )
    assert number(finished, "lp") > number(learnt, "lp") + 10.0


def test_all_rows_a_step_come_to_the_optimisers_place():
    """With R = N there is no bias: a mode that fit_map stays at."""
    model = gplvm.build_model(simulated(12, 4))
    fit = gplvm.fit_stochastic(
        model, n_neighbors=12, steps=6000, random_seed=1, progressbar=False, monitor=1
    )
    mode = gplvm.fit_map(model, start=fit, progressbar=False)
    assert 0.0 <= number(mode, "lp") - number(fit, "lp") < 2.0
    assert number(fit, "lp") > float(fit["trace"]["objective"][0]) + 10.0


@pytest.mark.parametrize("kernel", [*ALL_KERNELS, "rbf + bias"])
def test_every_kernel_is_learnt(kernel):
    model = gplvm.build_model(simulated(60, 5, seed=3), kernel=kernel)
    fit = gplvm.fit_stochastic(model, n_neighbors=20, random_seed=1, progressbar=False)
    objective = fit["trace"]["objective"]
    assert objective[-1] > objective[0] + 10.0


def test_lengthscale_for_each_dimension():
    model = gplvm.build_model(simulated(60, 5, seed=3), ard=True)
    fit = gplvm.fit_stochastic(model, n_neighbors=20, random_seed=1, progressbar=False)
    assert fit["posterior"]["lengthscale"].dims == ("chain", "draw", "latent")
    assert fit["trace"]["objective"][-1] > fit["trace"]["objective"][0]


# Many rows


def test_twenty_thousand_rows_in_memory_linear_in_N():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(20_000, 2))
    Y = np.sin(X @ rng.normal(size=(2, 5))) + 0.1 * rng.normal(size=(20_000, 5))
    gplvm.fit_stochastic(gplvm.build_model(Y[:50]), steps=2, progressbar=False)
    tracemalloc.start()
    model = gplvm.build_model(Y)
    fit = gplvm.fit_stochastic(model, steps=400, random_seed=1, monitor=1, progressbar=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * Y.nbytes  # one N × N array would be 4000 times Y
    assert positions(fit).shape == (20_000, 2)
    assert set(fit["trace"].data_vars) == {"held_out", "seconds"}
    assert fit["trace"]["held_out"][1] > fit["trace"]["held_out"][0]
    assert set(fit["sample_stats"].data_vars) == {"held_out"}
    assert float(fit["trace"]["held_out"][-1]) == pytest.approx(number(fit, "held_out"))


# What comes out


def test_fit_has_what_every_fit_has(learnt, digits_200):
    assert learnt.attrs["method"] == "stochastic"
    assert learnt.attrs["n_neighbors"] == 50
    assert learnt.attrs["steps"] == 300 * 200 // 50
    assert learnt["posterior"]["label"].to_numpy().tolist() == digits_200["label"].values.tolist()
    assert gplvm.predict(learnt, np.zeros((1, 2)))["mean"].shape == (1, 64)


def test_seed_decides(big):
    a, b, c = (
        gplvm.fit_stochastic(big, steps=30, random_seed=s, monitor=1, progressbar=False)
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(positions(a), positions(b))
    assert not np.array_equal(positions(a), positions(c))


def test_goes_on_from_a_fit(big, learnt):
    """Steps are measured by the start's spread, here that of a fit."""
    before = positions(learnt).copy()
    further = gplvm.fit_stochastic(
        big, start=learnt, steps=200, learning_rate=0.005, random_seed=2, progressbar=False
    )
    assert number(further, "held_out") > number(learnt, "held_out") - 0.5
    np.testing.assert_array_equal(positions(learnt), before)
    assert further.attrs["random_seed"] == 2
    assert further.attrs["start"] == "DataTree"


def test_theta_held(big):
    start = {"X": np.random.default_rng(1).normal(size=(200, 2)), "sigma": 0.7}
    fit = gplvm.fit_stochastic(
        big, start=start, learning_rate_theta=0.0, steps=50, random_seed=1, progressbar=False
    )
    assert number(fit, "sigma", "posterior") == pytest.approx(0.7, rel=1e-12)
    assert not np.array_equal(positions(fit), start["X"])


def test_theta_waits_until_the_start_has_unfolded(ctrl_c):
    """An interrupt within the first fifth of the steps finds θ at its start, one after it does not."""
    for at, moved in ((15, False), (45, True)):
        model = gplvm.build_model(gplvm.data.load_digits(n=60))
        with model:
            pm.Potential("interrupt", InterruptAt(at)(model["sigma"]))
        with pytest.warns(RuntimeWarning, match="fit_stochastic"):
            fit = gplvm.fit_stochastic(
                model, steps=100, monitor=1, random_seed=1, progressbar=False
            )
        assert (number(fit, "lengthscale", "posterior") != 1.0) == moved


def test_few_rows_are_all_neighbours(Y):
    fit = gplvm.fit_stochastic(gplvm.build_model(Y), steps=20, random_seed=1, progressbar=False)
    assert fit.attrs["n_neighbors"] == 12


# What goes wrong


def test_worse_than_at_the_start(big, learnt):
    with pytest.warns(RuntimeWarning, match=r"fit_stochastic left rows less likely .*Lower") as w:
        gplvm.fit_stochastic(
            big, start=learnt, learning_rate=3.0, steps=60, random_seed=1, progressbar=False
        )
    assert w[0].filename == __file__


def test_interrupt_returns_the_fit_so_far(Y, ctrl_c, monkeypatch):
    model = gplvm.build_model(Y)
    settings = {"steps": 40, "monitor": 4, "random_seed": 1, "progressbar": False}
    after, step = [], Optimiser.step

    def noted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        after.append(self.X.copy())

    monkeypatch.setattr(Optimiser, "step", noted)
    whole = gplvm.fit_stochastic(model, **settings)
    assert whole.attrs["interrupted"] == 0
    for at in (20, 25):  # where the fit is looked at anyhow, and between
        monkeypatch.setattr(Optimiser, "step", step)
        ctrl_c(Optimiser, "step", at)
        with pytest.warns(RuntimeWarning, match=rf"interrupted, after {at} of 40 .*start=fit") as w:
            fit = gplvm.fit_stochastic(model, **settings)
        assert [warning.filename for warning in w] == [__file__]
        assert (fit.attrs["interrupted"], fit.attrs["steps"]) == (1, at)
        np.testing.assert_array_equal(positions(fit), after[at - 1])
        seen, known = fit["trace"], whole["trace"]
        assert int(seen["step"][-1]) == at
        np.testing.assert_array_equal(seen["objective"][:3], known["objective"][:3])
        assert len(set(seen["step"].to_numpy())) == seen.sizes["step"] == (3 if at == 20 else 4)


def test_interrupt_before_the_first_step(Y, ctrl_c):
    ctrl_c(Optimiser, "__init__", 1)
    with pytest.raises(KeyboardInterrupt):
        gplvm.fit_stochastic(gplvm.build_model(Y), steps=5, random_seed=1, progressbar=False)


def test_step_that_is_not_finite(Y):
    with pytest.raises(ValueError, match=r"Step 1 is not finite: K .*not positive definite"):
        gplvm.fit_stochastic(
            gplvm.build_model(Y, resolution=0),
            start={"X": np.eye(12, 2), "sigma": 1e-200},
            random_seed=1,
            progressbar=False,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neighbors": 13}, r"n_neighbors must lie between 2 and N = 12, got 13"),
        ({"n_neighbors": 1}, r"n_neighbors must lie between 2 and N = 12, got 1"),
        ({"steps": 0}, r"steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number of at least 1, got 2\.5"),
        ({"monitor": -1}, r"monitor must be a whole number of at least 0, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be a finite number above 0, got 0\.0"),
        ({"learning_rate": np.nan}, "learning_rate must be a finite number above 0, got nan"),
        ({"learning_rate_theta": -0.1}, "learning_rate_theta must be a finite number at least 0"),
        ({"momentum": 1.0}, r"momentum must be a finite number at least 0 and below 1, got 1\.0"),
        ({"blas_threads": 0}, r"blas_threads must be a whole number of at least 1, got 0"),
        ({"backend": "torch"}, r"backend must be 'python', 'numba' or 'jax', got 'torch'"),
    ],
)
def test_arguments_out_of_range(arguments, message, Y):
    with pytest.raises(ValueError, match=message):
        gplvm.fit_stochastic(gplvm.build_model(Y), progressbar=False, **arguments)


def test_neighbours_that_are_no_number(Y):
    with pytest.raises(
        ValueError, match=r"n_neighbors must be a whole number of at least 1, got 2\.5"
    ):
        gplvm.fit_stochastic(gplvm.build_model(Y), n_neighbors=2.5)


def test_something_else_than_a_model(Y):
    with pytest.raises(TypeError, match=r"model must be a pm\.Model, got DataArray"):
        gplvm.fit_stochastic(Y)


# The papers' data


@pytest.mark.slow
def test_oil_flow(data_file):
    """1000 rows: PCA 162 errors, published full GP-LVM 1, sparse IVM 24."""
    with np.load(data_file("oil_flow.npz")) as file:
        Y, labels = file["Y_train"], file["labels_train"]
    model = gplvm.build_model(Y)
    assert (
        neighbour_errors(start_values(model, "pca", np.random.default_rng(0))["X"], labels) == 162
    )
    fit = gplvm.fit_stochastic(model, random_seed=1, progressbar=False)
    assert neighbour_errors(positions(fit), labels) <= 30
    finished = gplvm.fit_map(model, start=fit, progressbar=False)
    assert finished.attrs["converged"] == 1
    assert neighbour_errors(positions(finished), labels) <= 10
