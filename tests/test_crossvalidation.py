"""K-fold over rows: the integral over a row's place by quadrature, the folds, what is refused."""

from functools import partial

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from made import fit_of
from oracles import kernel_matrix
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import pm_gplvm as gplvm


def log_density_at(X, F, y, x, sigma):
    """Return ln N(y | the conditional of the joint Gaussian at x) + ln N(x; 0, 1)."""
    N = len(X)
    joint = kernel_matrix("rbf", np.vstack([X, [[x]]]), lengthscale=0.8, sigma=sigma)
    gain = np.linalg.solve(joint[:N, :N], joint[:N, N])
    variance = joint[N, N] - gain @ joint[:N, N]
    return norm(gain @ F, np.sqrt(variance)).logpdf(y).sum() + norm.logpdf(x)


@pytest.fixture(scope="module")
def curve():
    """30 rows on a line in the latent plane that an RBF kernel bends."""
    rng = np.random.default_rng(2)
    X = np.linspace(-2.0, 2.0, 30)[:, None]
    K = kernel_matrix("rbf", X, lengthscale=0.8, sigma=0.3)
    Y = 5.0 + 2.0 * multivariate_normal(np.zeros(30), K).rvs(6, random_state=rng).T
    return xr.DataArray(
        Y,
        dims=("obs", "feature"),
        coords={"obs": [f"r{i}" for i in range(30)], "age": ("obs", X[:, 0])},
    )


def scores_of(Y, **settings):
    settings = {"n_folds": 3, "n_samples": 300, "random_seed": 1, **settings}
    return gplvm.cross_validate(Y, partial(gplvm.build_model, latent_dim=1), **settings)


def test_every_row_is_held_out_once(curve):
    seen = []

    def build(table):
        seen.append(set(table["obs"].to_numpy().tolist()))
        # With "rbf" alone the fit of one fold finds no structure and says so.
        return gplvm.build_model(table, 1, kernel="rbf + linear")

    scores = gplvm.cross_validate(curve, build, n_folds=4, n_samples=300, random_seed=1)
    held = [set(curve["obs"].to_numpy().tolist()) - rows for rows in seen]
    assert sorted(map(len, held)) == [7, 7, 8, 8]
    assert set.union(*held) == set(curve["obs"].to_numpy().tolist())
    for k, rows in enumerate(held):
        assert set(scores["obs"].to_numpy()[scores["fold"] == k].tolist()) == rows
    assert scores["age"].dims == ("obs",)
    assert np.isfinite(scores["log_score"]).all()


def test_the_score_is_a_density_in_the_units_of_Y(curve):
    scores, again, tenfold = (scores_of(Y) for Y in (curve, curve, 10.0 * curve))
    # Rounding in the optimiser may end the refit elsewhere in its tolerance, even by one seed.
    repeated = np.abs(again["log_score"] - scores["log_score"])
    assert (repeated < 5 * scores["error"] + 1e-3).all()
    difference = tenfold["log_score"] - scores["log_score"] + 6 * np.log(10.0)
    uncertain = np.hypot(tenfold["error"], scores["error"])
    assert (np.abs(difference) < 5 * uncertain + 1e-6).all()


def test_the_kernel_that_drew_the_table_scores_higher(curve):
    line = partial(gplvm.build_model, latent_dim=1, kernel="linear")
    settings = {"n_folds": 3, "n_samples": 300, "random_seed": 1}
    bent = scores_of(curve)["log_score"]
    straight = gplvm.cross_validate(curve, line, **settings)["log_score"]
    assert float(bent.sum()) > float(straight.sum()) + 10.0


def test_the_place_of_a_row_and_the_draws_are_integrated_out(curve):
    """By quadrature, draw by draw; and in whatever frame the draws are."""
    kept = []

    def fit(model):
        N, rng = model.initial_point()["X"].shape[0], np.random.default_rng(6)
        X = np.linspace(-2.0, 2.0, N)[:, None] + 0.05 * rng.standard_normal((1, 3, N, 1))
        kept.append(fit_of(model, X, lengthscale=0.8, amplitude=1.0, sigma=0.4))
        return kept[-1]

    scores = scores_of(curve, fit=fit, n_folds=2, n_samples=3000)
    known, (held,) = kept[0], np.nonzero(scores["fold"].to_numpy() == 0)
    centre, scale = (known.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    F = (known.observed_data["Y"].to_numpy().T - centre) / scale
    grid = np.linspace(-5.0, 5.0, 501)
    for row in held[:3]:
        y = (curve.to_numpy()[row] - centre) / scale
        logs = [
            [log_density_at(X, F, y, x, 0.4) for x in grid]
            for X in known.posterior["X"].to_numpy()[0]
        ]
        expected = logsumexp(logs) + np.log((grid[1] - grid[0]) / 3) - np.log(scale).sum()
        found = scores.isel(obs=row)
        assert float(found["log_score"]) == pytest.approx(
            expected, abs=5 * float(found["error"]) + 1e-3
        )
    aligned = scores_of(curve, fit=lambda m: gplvm.align(fit(m)), n_folds=2, n_samples=3000)
    uncertain = np.hypot(aligned["error"], scores["error"])
    assert (np.abs(aligned["log_score"] - scores["log_score"]) < 5 * uncertain + 1e-3).all()


# Turned away


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_folds": 1}, "n_folds must be a whole number of at least 2, got 1"),
        ({"n_folds": 31}, "n_folds must be at most the number of rows, 30, got 31"),
        ({"n_folds": 2.0}, r"n_folds must be a whole number of at least 2, got 2\.0"),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"n_samples": -1}, "n_samples must be a whole number of at least 100, got -1"),
    ],
)
def test_wrong_arguments(curve, settings, message):
    with pytest.raises(ValueError, match=message):
        scores_of(curve, **settings)


@pytest.mark.parametrize("prior", ["flat", pm.Normal.dist(0.0, 2.0), pm.StudentT.dist(4.0)])
def test_another_prior_of_the_positions(curve, prior):
    build = partial(gplvm.build_model, latent_dim=1, priors={"X": prior})
    with pytest.raises(ValueError, match=r"under X ~ N\(0, 1\), got a model with another prior"):
        gplvm.cross_validate(curve, build)
