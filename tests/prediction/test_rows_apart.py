"""What a new row is told depends on that row alone: not on company, order, or how columns are given."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from made import fit_of
from oracles import kernel_matrix
from scipy.stats import kstest

import pm_gplvm as gplvm
from pm_gplvm.core.batch_optimise import maximise
from pm_gplvm.core.blas import Runs, rowwise
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction import row_posterior
from pm_gplvm.prediction.row_posterior import row_contents, row_streams

N, D, Q, M = 24, 5, 2, 7
THETA = {"lengthscale": 1.1, "amplitude": 1.2, "sigma": 0.25}
QUICK = {"draws": 200, "n_starts": 6, "num_samples": 3, "random_seed": 5, "progressbar": False}
FIRST_WORD = 10788412513954249630  # of the row (0, 1) and the seed 1
CLASSES = np.repeat(["a", "b", "c"], N // 3)


def holes_in(Y):
    table = Y.to_numpy().copy()
    table[:5, 1] = table[3:9, 3] = np.nan
    return table


def by_hand(Y, n_draws=1, *, theta=THETA, extra=(), **options):
    """A fit of draws by chance of X, all in one frame."""
    model = gplvm.build_model(Y, Q, **options)
    rng = np.random.default_rng(3)
    first = rng.standard_normal((N, Q))
    X = first + 0.1 * rng.standard_normal((1, n_draws, N, Q))
    values = {name: rng.standard_normal((1, n_draws, *shape)) for name, shape in extra}
    fit = fit_of(model, X, **theta, **values)
    return gplvm.align(fit, to=first) if n_draws > 1 else fit


def own_columns():
    amplitude = np.linspace(0.7, 1.3, D)[None, None]
    return {"lengthscale": 1.1, "amplitude": amplitude, "sigma": 0.25 * amplitude}


def marginal(Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gplvm.fit_marginal(
            gplvm.build_model(Y, Q, kernel="rbf + linear"), progressbar=False, max_iter=200
        )


FITS = {
    "one draw": by_hand,
    "marginal": marginal,
    "sampled": lambda Y: by_hand(Y, 4),
    "holes": lambda Y: by_hand(holes_in(Y), missing="mask"),
    "column": lambda Y: by_hand(Y, theta=own_columns(), noise="column"),
    "column, holes": lambda Y: by_hand(
        holes_in(Y), theta=own_columns(), noise="column", missing="mask"
    ),
    "linear": lambda Y: by_hand(Y, theta={"sigma": 0.5}, kernel="linear"),
    "sum with bias": lambda Y: by_hand(
        Y, 2, theta=THETA | {"weight": 0.5, "bias": 0.4}, kernel="matern32 + linear + bias"
    ),
    "informed": lambda Y: by_hand(
        Y, priors={"X": gplvm.priors.informative(np.linspace(-1.0, 1.0, N), 0.3)}
    ),
    "classes": lambda Y: by_hand(
        Y,
        2,
        extra=[("X_centre", (3, Q))],
        priors={"X": gplvm.priors.class_mixture(CLASSES, within=0.5)},
    ),
    "dynamics": lambda Y: by_hand(
        Y,
        priors={"X": gplvm.priors.dynamics(np.arange(N) / 5.0, kernel="rbf", lengthscale=1.0)},
    ),
    "back constraint": lambda Y: marginal_map(Y),
    "sparse": lambda Y: inducing(Y, gplvm.fit_sparse, kernel="rbf + linear + bias"),
    "fitc": lambda Y: inducing(Y, gplvm.fit_sparse, method="fitc"),
    "variational": lambda Y: inducing(Y, gplvm.fit_variational, draws=4),
    "variational, aligned": lambda Y: gplvm.align(inducing(Y, gplvm.fit_variational, draws=4)),
}


def inducing(Y, verb, *, kernel="matern32", **settings):
    """A fit through as many inducing inputs as there are columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = gplvm.build_model(Y, Q, kernel=kernel)
        return verb(model, n_inducing=5, max_iter=10, random_seed=1, progressbar=False, **settings)


def marginal_map(Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = gplvm.build_model(Y, Q, priors={"X": gplvm.priors.back_constraint()})
        return gplvm.fit_map(model, progressbar=False, max_iter=50, random_seed=1)


@pytest.fixture(scope="module")
def tables():
    """A table, and other rows of it, some with holes of several patterns, one of them a stranger."""
    whole = simulated(N + M, D, seed=4)
    new = whole[N:].to_numpy().copy()
    new[4] += 6.0
    return whole[:N], new


def with_gaps(new):
    new = new.copy()
    new[1, 2] = new[3, :3] = new[4, 0] = new[6, 1:] = np.nan
    return new


def told(fit, rows, **settings):
    """All that is said of each row, the row first."""
    settings = QUICK | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = gplvm.embed(fit, rows, **settings)
        known = {f"X of {g}": places[g]["X"] for g in ("posterior", "modes")}
        known |= {n: v for g in ("modes", "rows") for n, v in places[g].data_vars.items()}
        if "X_back_lengthscale" not in Fit(fit).constants:
            known |= {
                f"score: {n}": v for n, v in gplvm.log_predictive(fit, rows, **settings).items()
            }
            known |= {f"filled: {n}": v for n, v in gplvm.impute(fit, rows, **settings).items()}
    return {name: v.transpose("obs_new", ...).to_numpy() for name, v in known.items()}


def assert_told_alike(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-300, err_msg=name)


@pytest.mark.parametrize("kind", FITS)
def test_a_row_is_told_the_same_alone_in_company_and_in_any_order(kind, tables):
    Y, new = tables
    fit = FITS[kind](Y)
    new = new if kind == "back constraint" else with_gaps(new)
    together = told(fit, new)
    for i in range(M):
        assert_told_alike(told(fit, new[[i]]), {n: v[[i]] for n, v in together.items()})
    order = np.random.default_rng(1).permutation(M)
    assert_told_alike(told(fit, new[order]), {n: v[order] for n, v in together.items()})
    some = [5, 1, 3, 1]  # one of them twice
    assert_told_alike(told(fit, new[some]), {n: v[some] for n, v in together.items()})


@pytest.mark.parametrize("kind", ["holes", "sparse"])
def test_however_rows_are_taken_together(kind, tables, monkeypatch):
    Y, new = tables
    monkeypatch.setattr(row_posterior, "_ROWS", 4)  # at a time
    monkeypatch.setattr(row_posterior, "_BLOCK", 50 * N)  # so that positions of a row are parted
    fit = by_hand(holes_in(Y), missing="mask") if kind == "holes" else FITS[kind](Y)
    together = told(fit, with_gaps(new))
    for some in ([6], [5, 0, 3, 2, 1]):
        alone = told(fit, with_gaps(new)[some])
        assert_told_alike(alone, {n: v[some] for n, v in together.items()})


def test_with_a_prior_of_its_own(tables):
    Y, new = tables
    fit = by_hand(Y)
    mean, sd = np.linspace(-1.0, 1.0, M * Q).reshape(M, Q), np.linspace(0.4, 1.5, M)[:, None]
    mean[2], sd = mean[5], np.broadcast_to(sd, (M, Q))
    together = told(fit, with_gaps(new), prior=(mean, sd))
    for i in range(M):
        alone = told(fit, with_gaps(new)[[i]], prior=(mean[[i]], sd[[i]]))
        assert_told_alike(alone, {n: v[[i]] for n, v in together.items()})
    for_all = told(fit, new[:2], prior=(0.3, 0.8))
    of_each = told(fit, new[:2], prior=(np.full((2, Q), 0.3), np.full((2, Q), 0.8)))
    assert_told_alike(of_each, for_all)


def test_however_columns_come_and_zeros_are_signed(tables):
    Y, new = tables
    Y = Y.assign_coords(feature=list("abcde"))
    fit, new = by_hand(Y), with_gaps(new)
    new[0, 1], new[2, 3] = 0.0, -0.0
    expected = told(fit, new)
    frame = pd.DataFrame(new, columns=list("abcde"))
    by_name = told(fit, frame[list("dbeac")])
    gaps = by_name.pop("filled: mean"), by_name.pop("filled: sd")
    assert_told_alike(by_name, {n: v for n, v in expected.items() if n in by_name})
    assert_told_alike(
        dict(enumerate(gaps)), {0: expected["filled: mean"], 1: expected["filled: sd"]}
    )
    other = np.where(new == 0.0, -new, new)
    other[np.isnan(other)] = -np.nan
    assert_told_alike(told(fit, other), expected)


def test_what_seeds_a_stream():
    values = np.array([[0.0, 1.0], [-0.0, 1.0], [np.nan, 1.0], [1.0, np.nan], [0.0, 1.0 + 1e-15]])
    first, second, *others = row_contents(values)
    assert first == second
    assert len({first, *others}) == 4
    known = [np.random.SeedSequence(s) for s in (1, 1, 2)]
    words = [[r.bit_generator.random_raw() for r in row_streams(values, s)] for s in known]
    assert words[0] == words[1]
    assert len(set(words[0])) == 4
    assert not set(words[0]) & set(words[2])
    assert words[0][0] == FIRST_WORD  # on every machine


def test_streams_of_rows_that_are_nearly_alike_have_nothing_in_common():
    values = np.arange(400.0)[:, None] / 7.0
    z = np.array([r.standard_normal(50) for r in row_streams(values, np.random.SeedSequence(1))])
    assert kstest(z.ravel(), "norm").pvalue > 0.001
    assert kstest(z.mean(axis=0) * 20.0, "norm").pvalue > 0.001
    neighbours = (z[1:] * z[:-1]).mean(axis=1) * np.sqrt(50)
    assert abs(neighbours.mean()) * np.sqrt(399) < 4.0


def test_products_of_runs_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((40, 301)), rng.standard_normal((301, 37))
    bounds = [0, 1, 4, 20, 21, 40]
    found = Runs(bounds)(A, B)
    np.testing.assert_allclose(found, A @ B, rtol=1e-10, atol=1e-12)
    for start, end in pairwise(bounds):
        np.testing.assert_array_equal(found[start:end], A[start:end].copy() @ B)
    for i in range(40):
        np.testing.assert_array_equal(rowwise(A, B)[i], rowwise(A[[i]], B)[0])


def test_a_problem_ends_where_it_ends_alone():
    rng = np.random.default_rng(0)
    target, steep = rng.standard_normal((9, 3)), 10.0 ** rng.uniform(-1.0, 3.0, (9, 3))

    def function(x, which):
        away = x - target[which]
        quartic = away**4
        value, slope = -(steep[which] * away**2 + quartic), -2.0 * steep[which] * away
        return value.sum(axis=1), slope - 4.0 * away**3

    x = rng.standard_normal((9, 3))
    together = maximise(function, x, np.ones(3))
    for i in range(9):
        alone = maximise(lambda x, which, i=i: function(x, which + i), x[[i]], np.ones(3))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


# The draws are of the posterior


@pytest.fixture(scope="module")
def plane():
    """A fit in two dimensions, rows of the same functions, and the posterior of each on a grid."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((40 + 60, 2))
    Y = np.sin(X @ rng.standard_normal((2, 3)) + rng.uniform(0.0, 2.0 * np.pi, 3))
    Y += 0.3 * rng.standard_normal(Y.shape)
    model = gplvm.build_model(Y[:40], 2, scale="none", resolution=0)
    fit = fit_of(model, X[None, None, :40], lengthscale=1.2, amplitude=1.0, sigma=0.3)
    F, centre, _ = Fit(fit).table()
    axis = np.linspace(-4.5, 4.5, 121)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    K = kernel_matrix("rbf", X[:40], lengthscale=1.2, amplitude=1.0) + 0.09 * np.eye(40)
    cross = np.exp(-0.5 * ((grid[:, None] - X[:40]) ** 2).sum(axis=2) / 1.44)
    gain = np.linalg.solve(K, cross.T).T
    variance = 1.09 - (gain * cross).sum(axis=1)
    misfit = ((Y[40:, None] - centre - gain @ F) ** 2).sum(axis=2)
    logs = -0.5 * (misfit / variance + 3.0 * np.log(2.0 * np.pi * variance))
    logs += -0.5 * (grid**2).sum(axis=1) - np.log(2.0 * np.pi)
    weight = np.exp(logs - logs.max(axis=1, keepdims=True))
    evidence = np.log(weight.sum(axis=1) * (axis[1] - axis[0]) ** 2) + logs.max(axis=1)
    return fit, Y[40:], grid, weight / weight.sum(axis=1, keepdims=True), evidence


def test_draws_have_the_mean_and_the_spread_of_the_posterior(plane):
    fit, new, grid, weight, _ = plane
    found = gplvm.embed(fit, new, draws=2000, random_seed=1, progressbar=False)
    X = found["posterior"]["X"].to_numpy()[0]
    mean = weight @ grid
    sd = np.sqrt(weight @ grid**2 - mean**2)
    # Resampling doubles the variance of a mean of T positions at most, but for unequal weights.
    error = sd / np.sqrt(found["rows"]["ess"].to_numpy())[:, None]
    z = (X.mean(axis=0) - mean) / error
    assert abs(z.mean()) < 4.0 / np.sqrt(z.size)
    assert 0.5 < z.std() < 1.3
    np.testing.assert_allclose(X.std(axis=0), sd, rtol=0.2)
    assert np.mean(X.std(axis=0) / sd) == pytest.approx(1.0, abs=0.015)


def test_scores_err_as_they_say_and_rows_apart_from_each_other(plane):
    fit, new, _, _, evidence = plane
    known = gplvm.log_predictive(fit, new, draws=1000, random_seed=1, progressbar=False)
    z = (known["log_score"].to_numpy() - evidence) / known["error"].to_numpy()
    assert abs(z.mean()) < 4.0 / np.sqrt(len(z))
    assert 0.5 < z.std() < 1.4


# Several modes


def test_modes_of_like_weight_are_counted_and_told_once():
    x = np.linspace(-2.0, 2.0, 41)
    Y = np.stack([np.cos(1.3 * x), x**2 - 2.0], axis=1)
    fit = fit_of(
        gplvm.build_model(Y, 1), x[None, None, :, None], lengthscale=1.0, amplitude=1.5, sigma=0.1
    )
    at = np.array([-1.53, 0.01, 0.52])  # Y sees |x| only: the first and the last lie in two places
    new = np.stack([np.cos(1.3 * at), at**2 - 2.0], axis=1)
    found = gplvm.embed(fit, new, random_seed=1, progressbar=False)
    assert found["rows"]["n_modes"].to_numpy().tolist() == [2, 1, 2]
    weight = found["modes"]["weight"].to_numpy()
    assert (np.diff(np.where(np.isnan(weight), -1.0, weight), axis=1) <= 0.0).all()
    estimator = gplvm.GPLVM.from_fit(fit)
    message = (
        r"transform: 2 of 3 new rows may as well lie elsewhere: a second mode has at least half"
    )
    with pytest.warns(RuntimeWarning, match=message) as caught:
        places = estimator.transform(np.vstack([new, Y[:5]]))
    assert len(caught) == 1
    np.testing.assert_array_equal(places[3:], estimator.embedding_[:5])
    for i in (0, 2, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(estimator.transform(new[[i]])[0], places[i])
