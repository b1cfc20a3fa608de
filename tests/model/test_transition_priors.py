"""priors.transitions: its density by another route, its gradient, draws, paths, and what is refused."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from made import fit_of
from scipy.stats import multivariate_normal

import pm_gplvm as gplvm
from pm_gplvm.core.autoregression import Autoregression
from pm_gplvm.data.fit import Fit

N, Q = 12, 2
NAMES = np.array(["b", "a"])[[0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1]]  # the sequences take turns
BEFORE = [-1, 0, -1, 1, 2, 4, 3, 6, 5, 7, 9, 8]
THETA = {"lengthscale": 0.7, "amplitude": 1.2, "weight": 0.4, "noise": 0.3}
OF_Y = {"lengthscale": 1.2, "amplitude": 0.9, "sigma": 0.15}
QUIET = {"progressbar": False, "random_seed": 1}


def covariance(A, B):
    squares = ((A[:, None] - B) ** 2).sum(axis=2)
    stationary = THETA["amplitude"] ** 2 * np.exp(-0.5 * squares / THETA["lengthscale"] ** 2)
    return stationary + THETA["weight"] ** 2 * A @ B.T


def dense(X):
    """Eq. 10 of Wang, Fleet & Hertzmann (2008), by SciPy."""
    after = [i for i in range(N) if BEFORE[i] >= 0]
    before = [BEFORE[i] for i in after]
    K = covariance(X[before], X[before]) + THETA["noise"] ** 2 * np.eye(len(after))
    steps = sum(multivariate_normal(np.zeros(len(K)), K).logpdf(X[after, q]) for q in range(Q))
    first = [i for i in range(N) if BEFORE[i] < 0]
    return steps + sum(multivariate_normal(np.zeros(Q)).logpdf(X[i]) for i in first)


@pytest.fixture(scope="module")
def Y():
    rng = np.random.default_rng(3)
    path = np.column_stack([np.sin(0.8 * np.arange(N)), np.cos(0.8 * np.arange(N))])
    return path @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((N, 5))


@pytest.fixture(scope="module")
def model(Y):
    return gplvm.build_model(Y, Q, priors={"X": gplvm.priors.transitions(NAMES, noise=0.3)})


@pytest.fixture(scope="module")
def logp(model):
    X = model["X"]
    value = model.rvs_to_values[X]
    total = model.logp(vars=[X], jacobian=False)
    both = [total, pt.grad(total, value)]
    mode = gplvm.model.compile_mode()
    return model.compile_fn(both, inputs=model.value_vars, mode=mode, on_unused_input="ignore")


def point(X):
    known = {f"X_map_{name}_log__": np.log(v) for name, v in THETA.items() if name != "noise"}
    return known | {f"{name}_log__": np.log(v) for name, v in OF_Y.items()} | {"X": X}


def test_the_density_is_the_dense_one(logp, rng):
    for _ in range(3):
        X = rng.standard_normal((N, Q))
        np.testing.assert_allclose(logp(point(X))[0], dense(X), rtol=1e-10)


def test_the_gradient_is_the_slope(logp, rng):
    X = rng.standard_normal((N, Q))
    slope, step = np.empty((N, Q)), 1e-5
    for i in np.ndindex(N, Q):
        moved = [X.copy(), X.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        slope[i] = (dense(moved[0]) - dense(moved[1])) / (2.0 * step)
    np.testing.assert_allclose(logp(point(X))[1], slope, rtol=1e-6, atol=1e-6)


def test_the_model_knows_the_row_before(model):
    assert model["X_before"].get_value().tolist() == BEFORE
    assert model["X_sequence_rows"].get_value().tolist() == [5, 7]
    assert [rv.name for rv in model.free_RVs[:4]] == [
        *("X_map_lengthscale", "X_map_amplitude", "X_map_weight"),
        "X",
    ]


def test_draws_have_the_density(model):
    """By moments: of the first rows, of the second ones, and of two that come from one place."""
    given = {"X_map_lengthscale": 0.7, "X_map_amplitude": 1.2, "X_map_weight": 0.4}
    mode = gplvm.model.compile_mode()
    X = pm.draw(pm.do(model, given)["X"], draws=400, random_seed=1, mode=mode)
    np.testing.assert_allclose(X[:, [0, 2]].std(axis=0), 1.0, atol=0.15)
    # E x_after² = amplitude² + weight² Q + noise²
    wanted = 1.2**2 + 0.4**2 * Q + 0.3**2
    np.testing.assert_allclose(X[:, 1].var(axis=0), wanted, rtol=0.25)
    np.testing.assert_allclose(X[:, 4].var(axis=0), wanted, rtol=0.25)
    # The sequences share f: steps from places nearby go the same way.
    near = ((X[:, 0] - X[:, 2]) ** 2).sum(axis=1) < 0.1
    assert np.corrcoef(X[near, 1, 0], X[near, 4, 0])[0, 1] > 0.6


# Paths


def process(X, noise=0.3):
    after = np.array([i for i in range(N) if BEFORE[i] >= 0])
    theta = {name: v for name, v in THETA.items() if name != "noise"}
    return Autoregression(X[np.array(BEFORE)[after]], X[after], theta, noise)


def test_steps_are_the_dense_conditional_of_all_before(rng):
    """Of each path, one after the other: mean and variance given the rows and the path so far."""
    X = rng.standard_normal((N, Q))
    known = process(X)
    start, seed = rng.standard_normal((3, Q)), 5
    ways = known.paths(start, 6, np.random.default_rng(seed))
    z = np.random.default_rng(seed)
    drawn = np.array([z.standard_normal((3, Q)) for _ in range(6)])
    for p in range(3):
        way = np.vstack([start[p], ways[p]])
        for s in range(6):
            before = np.vstack([known.before, way[:s]])
            after = np.vstack([known.after, way[1 : s + 1]])
            K = covariance(before, before) + 0.3**2 * np.eye(len(before))
            k = covariance(way[[s]], before)
            mean = (k @ np.linalg.solve(K, after))[0]
            variance = covariance(way[[s]], way[[s]]) - k @ np.linalg.solve(K, k.T) + 0.3**2
            wanted = mean + np.sqrt(variance[0, 0]) * drawn[s, p]
            np.testing.assert_allclose(ways[p, s], wanted, rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def fit(model):
    X = np.random.default_rng(2).standard_normal((1, 2, N, Q))
    names = {f"X_map_{name}": v for name, v in THETA.items() if name != "noise"}
    return fit_of(model, X, **names, **OF_Y)


def test_forecast_goes_on_from_the_last_row(fit):
    found = gplvm.forecast(fit, [1, 1, 2], sequence="b", num_samples=3000, random_seed=1)
    X = fit.posterior["X"].to_numpy()[0]
    each = [process(x).given(x[[10]]) for x in X]
    means, variances = np.array([m[0] for m, _, _ in each]), [v[0] + 0.3**2 for _, v, _ in each]
    spread = np.mean(variances) + means.var(axis=0)
    np.testing.assert_allclose(found["X_mean"][0], means.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(found["X_sd"][0] ** 2, spread, rtol=0.1)
    np.testing.assert_array_equal(found["X"][:, 0], found["X"][:, 1])
    assert found["time"].to_numpy().tolist() == [1, 1, 2]
    assert found["mean"].shape == (3, 5)


def test_rows_are_drawn_up_to_the_last_step(fit, Y):
    ahead = gplvm.forecast(fit, [1, 2], sequence="b", num_samples=20, random_seed=1)
    ax = gplvm.plot.forecast(fit, ahead, [0])
    drawn = {tuple(point) for part in ax.collections for point in np.round(part.get_offsets(), 9)}
    drawn |= {tuple(np.round(p, 9)) for line in ax.lines for p in line.get_xydata()}
    rows = np.flatnonzero(NAMES == "b")
    wanted = {
        tuple(np.round(p, 9)) for p in zip(np.arange(1.0 - len(rows), 1.0), Y[rows, 0], strict=True)
    }
    assert wanted <= drawn
    plt.close("all")


def test_a_new_sequence_begins_with_the_prior(fit):
    with pytest.warns(RuntimeWarning, match=r"not \(c; it has a, b\)"):
        found = gplvm.forecast(fit, [1, 2], sequence="c", num_samples=3000, random_seed=1)
    np.testing.assert_allclose(found["X_mean"][0], 0.0, atol=0.07)
    np.testing.assert_allclose(found["X_sd"][0], 1.0, atol=0.05)


@pytest.mark.parametrize("times", [[0], [1.5], [-1], [20_000], [1, 0]])
def test_times_are_whole_steps(fit, times):
    with pytest.raises(ValueError, match=r"times must be steps after the last row.*got"):
        gplvm.forecast(fit, times, sequence="a")


# Fits


def test_fit_map_is_saved_read_and_continued(Y, tmp_path):
    priors = {"X": gplvm.priors.transitions(noise=0.1), "lengthscale": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = gplvm.fit_map(
            gplvm.build_model(Y, Q, priors=priors), max_iter=10, relocate=False, **QUIET
        )
    again = gplvm.load(gplvm.save(best, tmp_path / "fit.nc"))
    ahead = [gplvm.forecast(f, [1, 2, 3], num_samples=20, random_seed=1) for f in (best, again)]
    np.testing.assert_array_equal(ahead[0]["Y"], ahead[1]["Y"])
    placed = gplvm.embed(best, Y[:2], draws=100, **QUIET)
    assert placed["posterior"]["X"].shape == (1, 100, 2, Q)
    assert Fit.of(best, "X_map_amplitude", caller="a test").n_draws == 1


@pytest.mark.parametrize("verb", ["fit_marginal", "fit_variational", "fit_stochastic", "fit_svi"])
def test_fits_that_need_a_closed_form_refuse_it(model, verb):
    with pytest.raises(ValueError, match=r"[Tt]ake|[Uu]se"):
        getattr(gplvm, verb)(model, **QUIET)


def test_new_frames_by_times_are_for_the_other_prior(fit, Y):
    with pytest.raises(ValueError, match="needs a fit whose prior of X knows times"):
        gplvm.embed(fit, Y[:2], times=[1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": [None, *NAMES[1:]]}, "sequences must have one label a row, got 1 missing"),
        ({"sequences": NAMES[:5]}, "sequences must have one entry a row, 12, got 5"),
        ({"sequences": np.arange(N)}, "rows that follow each other, got 12 of one row each"),
        ({"noise": -1.0}, "noise.*must be positive"),
    ],
)
def test_what_cannot_be_meant(Y, options, message):
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(Y, Q, priors={"X": gplvm.priors.transitions(**options)})


def test_sequences_are_joined_by_label(Y):
    index = [f"frame{i}" for i in range(N)]
    named = pd.Series(NAMES, index)[::-1]
    prior = gplvm.priors.transitions(named)
    built = gplvm.build_model(pd.DataFrame(Y, index), Q, priors={"X": prior})
    assert built["X_before"].get_value().tolist() == BEFORE
    assert prior == gplvm.priors.transitions(named)
    assert prior != gplvm.priors.transitions()
