"""New rows placed together under a prior over time: the joint density by hand, and truths that come back."""

import warnings

import numpy as np
import pandas as pd
import pytest
from made import fit_of
from oracles import kernel_matrix
from scipy.optimize import minimize

import pm_gplvm as gplvm

OWN, UNIT, NOISE = 0.2, 0.8, 0.3
QUIET = {"progressbar": False, "random_seed": 1}


def path_covariance(t):
    K = kernel_matrix("matern52", t[:, None], lengthscale=UNIT)
    return (1.0 - OWN**2) * K + OWN**2 * np.eye(len(t))


@pytest.fixture(scope="module")
def world():
    """A fit at the truth, and a new sequence that the same functions made."""
    rng = np.random.default_rng(4)
    t, new = np.arange(40) / 5.0, np.arange(8) / 5.0
    X = np.linalg.cholesky(path_covariance(t)) @ rng.standard_normal((40, 2))
    x = np.linalg.cholesky(path_covariance(new)) @ rng.standard_normal((8, 2))
    K = kernel_matrix("rbf", np.concatenate([X, x]), lengthscale=1.5) + NOISE**2 * np.eye(48)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((48, 6))
    prior = gplvm.priors.dynamics(
        t, kernel="matern52", lengthscale=UNIT, own=OWN, sequences=["a"] * 40
    )
    model = gplvm.build_model(Y[:40], kernel="rbf", priors={"X": prior}, resolution=0)
    for name, value in (("Y_mean", np.zeros(6)), ("Y_scale", np.ones(6))):
        model[name].set_value(value)
    fit = fit_of(model, X[None, None], lengthscale=1.5, amplitude=1.0, sigma=NOISE)
    rows = Y[40:].copy()
    rows[2, :4] = np.nan
    return fit, new, x, rows


def embedded(world, sequence="b", times=None, **options):
    fit, new, _, rows = world
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gplvm.embed(
            fit, rows, times=new if times is None else times, sequence=sequence, **QUIET | options
        )


def minus_log_joint(world):
    """By predict's mean and sd, and the dense prior."""
    fit, new, _, rows = world
    inverse = np.linalg.inv(path_covariance(new))
    seen = ~np.isnan(rows)

    def value(flat):
        x = flat.reshape(8, 2)
        at = gplvm.predict(fit, x, noise=True)
        z = (rows - at["mean"].to_numpy()) / at["sd"].to_numpy()
        log = (-0.5 * z**2 - np.log(at["sd"].to_numpy()))[seen].sum()
        return 0.5 * np.einsum("tq,ts,sq->", x, inverse, x) - log

    return value


def test_the_mode_and_the_spread_are_those_of_the_joint_density(world):
    found = embedded(world, draws=20_000)
    at, value = found["modes"]["X"].to_numpy()[:, 0], minus_log_joint(world)
    end = minimize(value, at.ravel())
    np.testing.assert_allclose(end.x.reshape(8, 2), at, atol=2e-3)
    step, hessian = 1e-3, np.empty((16, 16))
    unit = step * np.eye(16)
    for i in range(16):
        for j in range(i + 1):
            four = [
                a * b * value(end.x + a * unit[i] + b * unit[j]) for a in (1, -1) for b in (1, -1)
            ]
            hessian[i, j] = hessian[j, i] = sum(four) / (4.0 * step**2)
    covariance = np.linalg.inv(hessian)
    drawn = found["posterior"]["X"].to_numpy()[0].reshape(-1, 16)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.06 * covariance.max())
    sd = found["modes"]["sd"].to_numpy()[:, 0].ravel()
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance)), rtol=0.02)


def test_together_they_lie_nearer_to_the_truth_than_each_for_itself(world):
    fit, _, x, rows = world
    together = embedded(world)["posterior"]["X"].to_numpy()[0]
    alone = gplvm.embed(fit, rows, **QUIET)["posterior"]["X"].to_numpy()[0]
    near, far = (((d - x) ** 2).sum(axis=2).mean() for d in (together, alone))
    assert near < 0.8 * far


def test_a_continued_sequence_is_given_its_rows(world):
    """With noise alone seen, the place is that of forecast."""
    fit, new, _, rows = world
    ahead = new + 8.0
    vague = np.full(rows.shape, np.nan)
    vague[:, 0] = 0.0
    loud = fit.copy()
    sigma = 0.0 * fit.posterior["sigma"] + 1e3
    loud["posterior"] = fit["posterior"].to_dataset().assign(sigma=sigma)
    found = gplvm.embed(loud, vague, times=ahead, sequence="a", **QUIET)
    expected = gplvm.forecast(fit, ahead, sequence="a", random_seed=1)
    np.testing.assert_allclose(found["modes"]["X"][:, 0], expected["X_mean"], atol=1e-3)
    np.testing.assert_allclose(found["modes"]["sd"][:, 0], expected["X_sd"], rtol=1e-2)


def test_times_are_joined_to_the_rows_by_label(world):
    fit, new, _, rows = world
    names, order = list("abcdefgh"), [3, 0, 7, 1, 2, 6, 5, 4]
    table = pd.DataFrame(rows, index=names, columns=fit["observed_data"]["feature"].to_numpy())
    times = pd.Series(new, index=names).iloc[order]
    found, expected = embedded((fit, None, None, table), times=times), embedded(world)
    np.testing.assert_allclose(found["modes"]["X"], expected["modes"]["X"], atol=1e-6)


@pytest.mark.parametrize("kind", ["variational", "draws"])
def test_other_fits_place_sequences_too(kind):
    rng = np.random.default_rng(1)
    t = np.arange(24) / 4.0
    Y = np.sin(t[:, None] + np.arange(5.0)) + 0.1 * rng.standard_normal((24, 5))
    model = gplvm.build_model(Y[:20], priors={"X": gplvm.priors.dynamics(t[:20])}, kernel="rbf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "variational":
            fit = gplvm.fit_variational(model, n_inducing=8, max_iter=80, **QUIET)
        else:
            fit = gplvm.fit_laplace(model, draws=20, **QUIET)
        found = gplvm.embed(fit, Y[20:], times=t[20:], num_samples=5, draws=200, **QUIET)
    assert found["posterior"]["X"].shape == (1, 200, 4, 2)
    shown = gplvm.predict(fit, found["modes"]["X"][:, 0].to_numpy())["mean"]
    assert np.sqrt(((shown - Y[20:]) ** 2).mean()) < 0.35


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sequence": "b"}, "sequence goes with times"),
        ({"times": np.arange(8.0), "sequence": "a", "prior": (0.0, 1.0)}, "takes prior or times"),
        ({"times": [1.0], "sequence": "a"}, "one entry for each of the 8 new rows, got 1"),
        ({"times": [np.nan] * 8, "sequence": "a"}, "times must be finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(world, options, text):
    fit, _, _, rows = world
    with pytest.raises(ValueError, match=text):
        gplvm.embed(fit, rows, **options, **QUIET)


def test_times_need_a_prior_that_knows_them(best, digits):
    with pytest.raises(ValueError, match="embed needs a fit whose prior of X knows times"):
        gplvm.embed(best, digits, times=np.arange(30.0), **QUIET)
