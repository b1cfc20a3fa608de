"""Left out: entries by refitting the Gaussian, features by ArviZ and PyMC, rows by quadrature."""

import warnings
from functools import partial

import arviz_stats
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from made import fit_of
from oracles import ALL_KERNELS, SUMS, column_logps, kernel_matrix
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import pm_gplvm as gplvm
from pm_gplvm.diagnostics.compare import left_out
from pm_gplvm.fitting import optimise
from pm_gplvm.prediction import row_posterior
from pm_gplvm.sampling.replicas import Replicas

SHARED = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.4}


def theta_of(kernel):
    if kernel == "linear":
        return {"sigma": 0.4}
    return SHARED | ({"weight": 0.6} if kernel in SUMS else {})


def drawn(Y, kernel="rbf", *, chains=1, draws=1, scale="feature", spread=1.0, seed=2):
    """Draws about one random position, all of the same θ."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((len(Y), 2))
    X = centre + spread * rng.standard_normal((chains, draws, len(Y), 2))
    model = gplvm.build_model(Y, kernel=kernel, scale=scale, resolution=0)
    return model, fit_of(model, X, **theta_of(kernel))


def location(fit):
    return (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))


def conditional(K, y, n):
    """Mean and variance of entry n given the others, by conditioning."""
    others = np.arange(len(y)) != n
    gain = np.linalg.solve(K[np.ix_(others, others)], K[others, n])
    return gain @ y[others], K[n, n] - gain @ K[others, n]


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_one_draw_is_the_conditional_of_each_entry(kernel, Y):
    _, fit = drawn(Y, kernel)
    left = gplvm.diagnostics.leave_one_out(fit)
    K = kernel_matrix(kernel, fit.posterior["X"].to_numpy()[0, 0], **theta_of(kernel))
    centre, scale = location(fit)
    for n, d in np.ndindex(12, 4):
        y = (Y.to_numpy()[:, d] - centre[d]) / scale[d]
        mean, variance = conditional(K, y, n)
        one = left.isel(obs=n, feature=d)
        assert float(one["mean"]) == pytest.approx(centre[d] + scale[d] * mean, rel=1e-8)
        assert float(one["sd"]) == pytest.approx(scale[d] * np.sqrt(variance), rel=1e-8)
        logp = norm(centre[d] + scale[d] * mean, scale[d] * np.sqrt(variance)).logpdf(Y[n, d])
        assert float(one["log_score"]) == pytest.approx(float(logp), rel=1e-7)
    assert np.isnan(left["pareto_k"]).all()
    assert left["label"].dims == ("obs",)


def test_draws_are_weighted_by_one_over_the_density_of_the_entry(Y):
    """A few draws, so that no tail is smoothed: the plain importance identity."""
    _, fit = drawn(Y, draws=7)
    left = gplvm.diagnostics.leave_one_out(fit)
    singles = [gplvm.diagnostics.leave_one_out(fit.isel(draw=[i])) for i in range(7)]
    logs, means, sds = (
        np.stack([one[n].to_numpy() for one in singles]) for n in ("log_score", "mean", "sd")
    )
    # p(y | rest) = 1 / E[1 / p(y | rest, X, θ)] over the posterior.
    np.testing.assert_allclose(left["log_score"], np.log(7) - logsumexp(-logs, axis=0), rtol=1e-9)
    weights = np.exp(-logs) / np.exp(-logs).sum(axis=0)
    mean = (weights * means).sum(axis=0)
    np.testing.assert_allclose(left["mean"], mean, rtol=1e-9)
    second = (weights * (sds**2 + means**2)).sum(axis=0)
    np.testing.assert_allclose(left["sd"], np.sqrt(second - mean**2), rtol=1e-6)


def test_the_weights_turn_the_posterior_into_the_one_without_the_entry():
    """Three places for one row and all else known: the posterior with and without can be summed."""
    rng = np.random.default_rng(3)
    X = np.repeat(np.linspace(-1.0, 1.0, 5)[None, :, None], 3, axis=0)
    X[:, 2, 0] = -0.6, 0.1, 0.7
    y = rng.standard_normal(5)
    y -= y.mean()
    Ks = [kernel_matrix("rbf", x, sigma=0.4) for x in X]
    whole = np.array([column_logps(y[:, None], K)[0] for K in Ks])
    # Each place as often among the draws as the posterior given all of y says.
    counts = np.round(20_000 * np.exp(whole - logsumexp(whole))).astype(int)
    model = gplvm.build_model(y[:, None], 1, scale="none", resolution=0)
    draws = np.repeat(X, counts, axis=0)[None]
    left = gplvm.diagnostics.leave_one_out(
        fit_of(model, draws, lengthscale=1.0, amplitude=1.0, sigma=0.4), num_samples=20_000
    )
    for n in range(5):
        at = [conditional(K, y, n) for K in Ks]
        entry = np.array([norm(m, np.sqrt(v)).logpdf(y[n]) for m, v in at])
        without = whole - entry  # ln p(all but the entry | place)
        expected = logsumexp(without - logsumexp(without) + entry)
        assert float(left["log_score"][n, 0]) == pytest.approx(expected, abs=1e-3)


def test_pymc_agrees_on_the_terms_of_each_feature(Y, mode):
    model, fit = drawn(Y, chains=2, draws=3)
    ours = gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"]
    with model:
        theirs = pm.compute_log_likelihood(
            fit.copy(deep=True), progressbar=False, compile_kwargs={"mode": mode}
        )["log_likelihood"]["Y"]
    assert ours.dims == ("chain", "draw", "feature")
    np.testing.assert_allclose(ours, theirs.transpose("chain", "draw", "feature"), rtol=1e-10)
    assert "log_likelihood" not in fit.children


def test_az_loo_leaves_out_a_feature(Y):
    _, fit = drawn(Y, chains=2, draws=200, spread=0.01)
    loo = arviz_stats.loo(gplvm.diagnostics.compute_log_likelihood(fit), pointwise=True)
    assert loo.elpd_i.dims == ("feature",)
    terms = (
        gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"]
        .to_numpy()
        .reshape(400, 4)
    )
    plain = np.log(400) - logsumexp(-terms, axis=0)
    np.testing.assert_allclose(loo.elpd_i, plain, atol=0.05)
    known = left_out(fit)
    assert known["elpd_feature"] == pytest.approx(float(loo.elpd))
    assert known["elpd_feature_se"] == pytest.approx(float(loo.se))


def test_az_compare_ranks_fits(Y):
    near, far = (drawn(Y, chains=2, draws=100, spread=s)[1] for s in (0.01, 0.05))
    fits = {
        "near": gplvm.diagnostics.compute_log_likelihood(near),
        "far": gplvm.diagnostics.compute_log_likelihood(far),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = arviz_stats.compare(fits)
    assert set(table.index) == {"near", "far"}


def test_many_draws_get_smoothed_weights_and_a_pareto_k(Y):
    _, fit = drawn(Y, draws=100, spread=0.05)
    left = gplvm.diagnostics.leave_one_out(fit)
    assert np.isfinite(left["pareto_k"]).all()
    few = gplvm.diagnostics.leave_one_out(fit, num_samples=10)
    assert np.isnan(few["pareto_k"]).all()
    np.testing.assert_allclose(left["log_score"], few["log_score"], atol=1.0)


def test_identical_draws_need_no_weights(Y):
    _, fit = drawn(Y, draws=40, spread=0.0)
    one = gplvm.diagnostics.leave_one_out(fit.isel(draw=[0]))
    all_ = gplvm.diagnostics.leave_one_out(fit)
    np.testing.assert_allclose(all_["log_score"], one["log_score"], rtol=1e-10)


def test_residuals_are_calibrated_under_the_true_positions(rng):
    """Leave-one-out residuals of data from the model are standard normal, though not independent."""
    X = rng.standard_normal((60, 2))
    K = kernel_matrix("rbf", X, sigma=0.3)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((60, 30))
    model = gplvm.build_model(Y, scale="none", resolution=0)
    fit = fit_of(model, X[None, None], lengthscale=1.0, amplitude=1.0, sigma=0.3)
    left = gplvm.diagnostics.leave_one_out(fit)
    white = ((Y - left["mean"]) / left["sd"]).to_numpy()
    assert 0.86 < (np.abs(white) < 1.598).mean() < 0.92


@pytest.mark.parametrize("draws", [0, 2.5, True])
def test_wrong_draws(best, draws):
    with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1"):
        gplvm.diagnostics.leave_one_out(best, num_samples=draws)


def test_what_is_no_fit_of_ours(best):
    with pytest.raises(TypeError, match="compute_log_likelihood needs a fit"):
        gplvm.diagnostics.compute_log_likelihood({"X": 1})
    own = best.copy()
    own.attrs = {**best.attrs, "kernel": "custom"}
    with pytest.raises(ValueError, match="leave_one_out knows the kernels"):
        gplvm.diagnostics.leave_one_out(own)
    assert all(np.isnan(v) for v in left_out(own).values())


# Rows


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
    settings = {"n_folds": 3, "draws": 300, "random_seed": 1, **settings}
    return gplvm.diagnostics.cross_validate(Y, partial(gplvm.build_model, latent_dim=1), **settings)


def test_every_row_is_held_out_once(curve):
    seen = []

    def build(table):
        seen.append(set(table["obs"].to_numpy().tolist()))
        # With "rbf" alone the fit of one fold finds no structure and says so.
        return gplvm.build_model(table, 1, kernel="rbf + linear")

    scores = gplvm.diagnostics.cross_validate(curve, build, n_folds=4, draws=300, random_seed=1)
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
    settings = {"n_folds": 3, "draws": 300, "random_seed": 1}
    bent = scores_of(curve)["log_score"]
    straight = gplvm.diagnostics.cross_validate(curve, line, **settings)["log_score"]
    assert float(bent.sum()) > float(straight.sum()) + 10.0


def test_the_place_of_a_row_and_the_draws_are_integrated_out(curve):
    """By quadrature, draw by draw; and in whatever frame the draws are."""
    kept = []

    def fit(model):
        N, rng = model.initial_point()["X"].shape[0], np.random.default_rng(6)
        X = np.linspace(-2.0, 2.0, N)[:, None] + 0.05 * rng.standard_normal((1, 3, N, 1))
        kept.append(fit_of(model, X, lengthscale=0.8, amplitude=1.0, sigma=0.4))
        return kept[-1]

    scores = scores_of(curve, fit=fit, n_folds=2, draws=3000)
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
    aligned = scores_of(curve, fit=lambda m: gplvm.align(fit(m)), n_folds=2, draws=3000)
    uncertain = np.hypot(aligned["error"], scores["error"])
    assert (np.abs(aligned["log_score"] - scores["log_score"]) < 5 * uncertain + 1e-3).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_folds": 1}, "n_folds must be a whole number of at least 2, got 1"),
        ({"n_folds": 31}, "n_folds must be at most the number of rows, 30, got 31"),
        ({"n_folds": 2.0}, r"n_folds must be a whole number of at least 1, got 2\.0"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
        ({"draws": -1}, "draws must be a whole number of at least 1, got -1"),
    ],
)
def test_wrong_arguments(curve, settings, message):
    with pytest.raises(ValueError, match=message):
        scores_of(curve, **settings)


@pytest.mark.parametrize("prior", ["flat", pm.Normal.dist(0.0, 2.0), pm.StudentT.dist(4.0)])
def test_another_prior_of_the_positions(curve, prior):
    build = partial(gplvm.build_model, latent_dim=1, priors={"X": prior})
    with pytest.raises(ValueError, match=r"under X ~ N\(0, 1\).*, got a model with another prior"):
        gplvm.diagnostics.cross_validate(curve, build)


# Ctrl-C


@pytest.fixture(scope="module")
def folds():
    """Scores of three folds of a small table."""
    rng = np.random.default_rng(0)
    table = np.sin(rng.normal(size=(30, 2)) @ rng.normal(size=(2, 10)))
    table = table + 0.1 * rng.normal(size=table.shape)
    settings = {"n_folds": 3, "draws": 100, "random_seed": 1, "progressbar": False}
    return partial(gplvm.diagnostics.cross_validate, table, **settings)


PIECES = [(optimise, "minimize"), (row_posterior, "_modes")]


@pytest.fixture(scope="module")
def whole(folds):
    """All scores, and how often each piece had been called when each fold began."""
    calls, begun = dict.fromkeys(PIECES, 0), []

    def counted(piece, function, *args, **kwargs):
        calls[piece] += 1
        return function(*args, **kwargs)

    def build(table):
        begun.append(dict(calls))
        return gplvm.build_model(table)

    with pytest.MonkeyPatch.context() as patch:
        for piece in PIECES:
            patch.setattr(*piece, partial(counted, piece, getattr(*piece)))
        return folds(build), begun


# A fit is broken off, and nothing of its fold scored; the rows of a fold are all placed, or none.
@pytest.mark.parametrize(("piece", "kept"), [(PIECES[0], 1), (PIECES[1], 2)])
def test_whole_folds_are_kept(piece, kept, whole, folds, ctrl_c):
    scores, begun = whole
    assert scores.attrs["interrupted"] == 0
    ctrl_c(*piece, begun[1][piece] + 1)
    built = []
    with pytest.warns(RuntimeWarning, match=f"the rows of {kept} of 3 folds are scored") as said:
        some = folds(lambda table: built.append(table) or gplvm.build_model(table))
    assert [warning.filename for warning in said] == [__file__]
    assert len(built) == 2
    assert some.attrs["interrupted"] == 1
    xr.testing.assert_equal(some, scores.isel(obs=scores["fold"].to_numpy() < kept))


def test_a_fit_of_the_users_that_keeps_what_it_has_ends_the_loop_too(folds, ctrl_c):
    fitted = []

    def fit(model):
        fitted.append(model)
        return gplvm.sample(model, draws=4, tune=4, chains=1, replicas=1, progressbar=False)

    ctrl_c(Replicas, "iterate", 8 + 6)
    with pytest.warns(RuntimeWarning, match="cross_validate was interrupted") as said:
        scores = folds(fit=fit)
    assert len(said) == 1
    assert len(fitted) == 2
    assert set(scores["fold"].to_numpy()) == {0}


def test_ctrl_c_in_the_first_fold(folds, ctrl_c):
    ctrl_c(optimise, "minimize", 1)
    with pytest.raises(KeyboardInterrupt):
        folds()


def test_scores_of_some_rows_are_not_compared(Y):
    _, fit = drawn(Y)
    scores = xr.Dataset({"log_score": ("obs", np.zeros(4))}, attrs={"interrupted": 1})
    with pytest.raises(ValueError, match="kfold must have scores of all rows, got an interrupted"):
        gplvm.compare({"RBF": fit}, kfold={"RBF": scores})
