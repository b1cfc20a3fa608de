"""Places of unseen rows against quadrature, their intervals against the truth, what is refused."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from made import fit_of, made_fit
from oracles import kernel_matrix
from scipy.special import logsumexp
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction import row_posterior

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.3}
NAN = np.nan


@pytest.fixture(scope="module")
def line(Y):
    """A fit in one dimension, and rows to be placed, some with holes."""
    rng = np.random.default_rng(4)
    model = gplvm.build_model(Y, 1, resolution=0)
    fit = fit_of(model, rng.standard_normal((1, 1, 12, 1)), **THETA)
    new = Y.to_numpy()[:4] + 0.3 * rng.standard_normal((4, 4))
    new[1, 2] = new[2, :2] = new[3, 1:] = NAN
    return fit, new


def on_a_grid(fit, new, prior=(0.0, 1.0), end=6.0, n=3001):
    """Grid, ln p(y, x) of each row on it in standardised units, mean and sd of every entry there."""
    F, centre, scale = Fit(fit).table()
    posterior = fit.posterior.to_dataset().isel(chain=0, draw=0)
    X, N = posterior["X"].to_numpy(), len(F)
    sigma = THETA["sigma"]
    theta = {name: THETA[name] for name in ("lengthscale", "amplitude")}
    grid = np.linspace(-end, end, n)
    K = kernel_matrix("rbf", X, **theta) + sigma**2 * np.eye(N)
    cross = np.stack([kernel_matrix("rbf", np.vstack([X, [[x]]]), **theta)[N, :N] for x in grid])
    gain = np.linalg.solve(K, cross.T).T
    sd = np.sqrt(theta["amplitude"] ** 2 + sigma**2 - (gain * cross).sum(axis=1))[:, None]
    mean = gain @ F
    y = (new - centre) / scale
    logs = [np.nansum(norm(mean, sd).logpdf(row), axis=1) + norm(*prior).logpdf(grid) for row in y]
    return grid, np.array(logs), centre + scale * mean, scale * sd


def test_places_by_quadrature(line):
    fit, new = line
    grid, logs, _, _ = on_a_grid(fit, new)
    found = gplvm.embed(fit, new, draws=8000, random_seed=2)
    X = found["posterior"]["X"].to_numpy()[0, :, :, 0]
    weight = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    for i in range(4):
        for x in np.linspace(-2.0, 2.0, 9):
            share = weight[i, grid <= x].sum()
            assert (X[:, i] <= x).mean() == pytest.approx(share, abs=0.03)
    assert (found["rows"]["pareto_k"] < 0.7).all()
    assert (found["rows"]["ess"] > 1000).all()


def test_the_integral_by_quadrature_in_the_units_of_the_table(line):
    fit, new = line
    grid, logs, _, _ = on_a_grid(fit, new)
    scale = fit.constant_data["Y_scale"].to_numpy()
    expected = logsumexp(logs, axis=1) + np.log(grid[1] - grid[0])
    expected -= (~np.isnan(new)) @ np.log(scale)
    found = gplvm.log_predictive(fit, new, draws=8000, random_seed=1)
    np.testing.assert_allclose(found["log_score"], expected, atol=0.02)
    assert (np.abs(found["log_score"] - expected) < 5 * found["error"] + 1e-3).all()
    assert (found["error"] < 0.02).all()


def test_a_prior_of_ones_own(line):
    fit, new = line
    mean = np.array([[-1.0], [0.0], [1.0], [2.0]])
    found = gplvm.log_predictive(fit, new, prior=(mean, 0.5), draws=8000, random_seed=1)
    scale = fit.constant_data["Y_scale"].to_numpy()
    for i in range(4):
        grid, logs, _, _ = on_a_grid(fit, new[[i]], prior=(mean[i, 0], 0.5))
        expected = logsumexp(logs) + np.log(grid[1] - grid[0]) - (~np.isnan(new[i])) @ np.log(scale)
        assert float(found["log_score"][i]) == pytest.approx(expected, abs=0.02)


def test_missing_entries_by_quadrature(line):
    fit, new = line
    _, logs, mean, sd = on_a_grid(fit, new)
    weight = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    first = weight @ mean
    second = weight @ (mean**2 + sd**2)
    found = gplvm.impute(fit, new, draws=8000, random_seed=1)
    holes = np.isnan(new)
    spread = np.sqrt(second - first**2)
    np.testing.assert_allclose(
        (found["mean"].to_numpy() - first)[holes] / spread[holes], 0, atol=0.05
    )
    np.testing.assert_allclose(found["sd"].to_numpy()[holes], spread[holes], rtol=0.05)
    np.testing.assert_array_equal(found["mean"].to_numpy()[~holes], new[~holes])
    assert (found["sd"].to_numpy()[~holes] == 0.0).all()


@pytest.fixture(scope="module")
def folded():
    """Rows along a line, folded: the first columns see |x| only, the last one x itself."""
    x = np.linspace(-2.0, 2.0, 41)
    columns = [np.cos(1.3 * x), x**2 - 2.0, np.sin(x)]
    Y = np.stack(columns, axis=1)
    model = gplvm.build_model(Y, 1)
    fit = fit_of(model, x[None, None, :, None], lengthscale=1.0, amplitude=1.5, sigma=0.1)
    at = np.array([-1.53, 0.52])
    return fit, np.stack([np.cos(1.3 * at), at**2 - 2.0, np.sin(at)], axis=1), at


def test_two_places_are_reported(folded):
    fit, new, at = folded
    blind = new.copy()
    blind[:, 2] = NAN
    found = gplvm.embed(fit, np.vstack([new, blind]), random_seed=2)
    rows, modes = found["rows"], found["modes"]
    np.testing.assert_allclose(rows["effective_modes"], [1, 1, 2, 2], atol=0.05)
    np.testing.assert_allclose(modes["X"][:2, 0, 0], at, atol=0.1)
    for i, x in enumerate(at):
        pair = np.sort(modes["X"].to_numpy()[2 + i, :2, 0])
        np.testing.assert_allclose(pair, [-abs(x), abs(x)], atol=0.1)
        np.testing.assert_allclose(modes["weight"][2 + i, :2], 0.5, atol=0.05)
        right = (found["posterior"]["X"][0, :, 2 + i, 0] > 0).mean()
        assert float(right) == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(modes["weight"].sum("mode"), 1.0, atol=1e-9)
    # The seen column tells the one place from the other, and with it the missing one.
    filled = gplvm.impute(fit, blind, random_seed=2)
    assert (filled["sd"][:, 2] > 0.4).all()


def test_draws_of_the_fit_count_by_the_density_they_give_the_row(Y, rng):
    model = gplvm.build_model(Y, 1, resolution=0)
    X = rng.standard_normal((1, 3, 12, 1))
    several = fit_of(model, X, **THETA)
    singles = [fit_of(model, X[:, [s]], **THETA) for s in range(3)]
    new = Y.to_numpy()[:3] + 0.2
    settings = {"draws": 6000, "random_seed": 3}
    scores = np.stack([gplvm.log_predictive(f, new, **settings)["log_score"] for f in singles])
    mixed = gplvm.log_predictive(several, new, **settings)["log_score"]
    np.testing.assert_allclose(mixed, logsumexp(scores, axis=0) - np.log(3), atol=0.05)

    share = np.exp(scores - logsumexp(scores, axis=0))
    means = np.stack([place_means(f, new, **settings) for f in singles])
    spread = gplvm.embed(several, new, **settings)["posterior"]["X"].std(("chain", "draw"))
    away = place_means(several, new, **settings) - (share[:, :, None] * means).sum(axis=0)
    assert (np.abs(away) < 0.1 * spread.to_numpy() + 0.01).all()
    holes = new.copy()
    holes[:, 1] = NAN
    parts = np.stack([gplvm.impute(f, holes, **settings)["mean"] for f in singles])
    scores = np.stack([gplvm.log_predictive(f, holes, **settings)["log_score"] for f in singles])
    share = np.exp(scores - logsumexp(scores, axis=0))
    filled = gplvm.impute(several, holes, **settings)
    expected = (share[:, :, None] * parts).sum(axis=0)
    np.testing.assert_allclose(filled["mean"], expected, atol=0.1 * float(filled["sd"].max()))


def place_means(fit, new, **settings):
    return gplvm.embed(fit, new, **settings)["posterior"]["X"].mean(("chain", "draw")).to_numpy()


def test_an_aligned_fit_gives_places_in_its_frame(Y, rng):
    model = gplvm.build_model(Y, 2)
    fit = fit_of(model, 0.5 + rng.standard_normal((1, 1, 12, 2)), **THETA)
    to = rng.standard_normal((12, 2))
    new, settings = Y.to_numpy()[:3] + 0.1, {"draws": 8000, "random_seed": 4}
    raw = place_means(fit, new, **settings)
    score = gplvm.log_predictive(fit, new, **settings)["log_score"]
    for scale in (False, True):
        aligned = gplvm.align(fit, to=to, scale=scale)
        known = aligned["aligned"].to_dataset().isel(chain=0, draw=0)
        W, factor = known["rotation"].to_numpy(), float(known.get("scale", 1.0))
        expected = factor * raw @ W.T + known["shift"].to_numpy()
        np.testing.assert_allclose(place_means(aligned, new, **settings), expected, atol=0.04)
        again = gplvm.log_predictive(aligned, new, **settings)["log_score"]
        np.testing.assert_allclose(again, score, atol=0.05)


def test_intervals_contain_the_truth():
    """Rows of one Gaussian process, half of them new; X and θ of the others known."""
    rng = np.random.default_rng(11)
    N, M, D, sigma = 80, 300, 6, 0.3
    X = rng.standard_normal((N + M, 2))
    K = kernel_matrix("rbf", X, lengthscale=1.0, amplitude=1.0, sigma=sigma)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((N + M, D))
    model = gplvm.build_model(Y[:N], scale="none", resolution=0)
    fit = fit_of(model, X[None, None, :N], lengthscale=1.0, amplitude=1.0, sigma=sigma)
    # The process has mean 0; the model's centring would be a mean known wrongly.
    fit["constant_data"]["Y_mean"].values[:] = 0.0
    new = Y[N:]
    half = np.where(rng.permuted(np.tile(np.arange(D) < D // 2, (M, 1)), axis=1), new, NAN)
    for table in (new, half):
        with pytest.warns(RuntimeWarning, match=r"pareto_k exceeds 0\.7 in \d of 300 rows"):
            found = gplvm.embed(fit, table, draws=400, random_seed=5)
        assert (found["rows"]["pareto_k"] > 0.7).mean() < 0.025
        low, high = np.quantile(found["posterior"]["X"][0], [0.055, 0.945], axis=0)
        inside = (low <= X[N:]) & (X[N:] <= high)
        assert 0.85 < inside.mean() < 0.93


@pytest.fixture(scope="module")
def waves():
    """Rows of smooth functions of two coordinates, known for the first 80, with some noise."""
    rng = np.random.default_rng(6)
    X = rng.standard_normal((120, 2))
    Y = np.sin(X @ rng.standard_normal((2, 12)) + rng.uniform(0.0, 2.0 * np.pi, 12))
    Y += 0.1 * rng.standard_normal(Y.shape)
    model = gplvm.build_model(Y[:80], 2, scale="none", resolution=0)
    fit = fit_of(model, X[None, None, :80], lengthscale=1.2, amplitude=1.0, sigma=0.1)
    return fit, Y[80:]


def test_a_row_unlike_the_table_is_named_and_others_are_not(waves):
    fit, new = waves
    ordinary = gplvm.embed(fit, new, random_seed=1)  # warnings are errors here
    assert float(ordinary["rows"]["shortfall"].median()) == pytest.approx(0.0, abs=1.0)
    rng = np.random.default_rng(2)
    table = pd.DataFrame(new, index=[f"row {i}" for i in range(len(new))])
    table.columns = fit["observed_data"]["feature"].to_numpy()
    table.loc["row 7"] = 5.0 * rng.standard_normal(12)
    table.loc["row 20"] = 20.0 * rng.standard_normal(12)
    table.iloc[20, :4] = NAN
    message = r"2 of 40 rows \(row 20, row 7\) are explained much worse"
    with pytest.warns(RuntimeWarning, match=message):
        found = gplvm.embed(fit, table, random_seed=1)
    assert (found["rows"]["shortfall"] > 5.0).to_numpy().nonzero()[0].tolist() == [7, 20]


@pytest.mark.filterwarnings("ignore:embed. .* much worse:RuntimeWarning")  # that is no matter here
def test_the_shortfall_by_hand(waves):
    fit, new = waves
    found = gplvm.embed(fit, new, random_seed=1)
    F, centre, _ = Fit(fit).table()
    X = fit["posterior"]["X"].to_numpy()[0, 0]

    def of(y, x, known, at):
        """Mean log-density of a row's entries given other rows, by the joint Gaussian."""
        N = len(at)
        K = kernel_matrix("rbf", np.vstack([at, x]), lengthscale=1.2, amplitude=1.0)
        K += 0.01 * np.eye(N + 1)
        gain = np.linalg.solve(K[:N, :N], K[:N, N])
        return norm(gain @ known, np.sqrt(K[N, N] - gain @ K[:N, N])).logpdf(y).mean()

    rest = [np.delete(np.arange(80), n) for n in range(80)]
    own = [of(F[n], X[n], F[r], X[r]) for n, r in enumerate(rest)]
    low, usual = np.quantile(own, [0.16, 0.5])
    best = found["modes"]["X"].to_numpy()[:, 0]
    scores = np.array([of(y, x, F, X) for y, x in zip(new - centre, best, strict=True)])
    single = (found["rows"]["effective_modes"] < 1.0001).to_numpy()
    assert single.sum() > 20
    expected = (usual - scores) / (usual - low)
    np.testing.assert_allclose(
        found["rows"]["shortfall"].to_numpy()[single], expected[single], rtol=1e-5
    )


def test_labels_units_and_order_of_columns(line, Y):
    fit, new = line
    table = xr.DataArray(
        new,
        dims=("obs", "feature"),
        coords={"obs": list("abcd"), "feature": Y["feature"], "kind": ("obs", [1, 2, 1, 2])},
    )
    found = gplvm.embed(fit, table[:, ::-1], random_seed=1)
    again = gplvm.embed(fit, new, random_seed=1)
    np.testing.assert_array_equal(found["posterior"]["X"], again["posterior"]["X"])
    assert found["posterior"]["X"].dims == ("chain", "draw", "obs_new", "latent")
    assert found["rows"]["obs_new"].to_numpy().tolist() == list("abcd")
    assert found["modes"]["kind"].dims == ("obs_new",)
    frame = pd.DataFrame(new, columns=Y["feature"].to_numpy())
    filled = gplvm.impute(fit, frame, random_seed=1)
    assert filled["mean"].dims == ("obs_new", "feature")


def test_it_can_be_saved_and_told_again(line, tmp_path):
    fit, new = line
    found = gplvm.embed(fit, new, random_seed=1)
    again = gplvm.load(gplvm.save(found, tmp_path / "new.nc"))
    xr.testing.assert_identical(found["posterior"].to_dataset(), again["posterior"].to_dataset())


# Turned away


@pytest.mark.parametrize("function", [gplvm.embed, gplvm.impute, gplvm.log_predictive])
@pytest.mark.parametrize(
    ("Y_new", "settings", "message"),
    [
        (np.zeros((2, 3)), {}, "Y_new must have the 4 columns of the fit's table, got 3"),
        (pd.DataFrame(np.zeros((2, 4)), columns=[5, 6, 7, 8]), {}, "got 4, 5, 6, 7, 8 among them"),
        (np.zeros((0, 4)), {}, "Y_new must have at least one row"),
        ([[np.inf, 0, 0, 0]], {}, "Y_new must not be infinite"),
        ([[0.0] * 4, [NAN] * 4], {}, "got 1 row of NaN alone, first row 1"),
        (
            np.zeros((1, 4)),
            {"num_samples": 0},
            "num_samples must be a whole number of at least 1, got 0",
        ),
        (np.zeros((1, 4)), {"draws": 10}, "draws must be a whole number of at least 100"),
        (np.zeros((1, 4)), {"n_starts": 2.5}, r"n_starts must be a whole number .* got 2\.5"),
        (np.zeros((1, 4)), {"prior": 1.0}, r"prior must be a pair \(mean, sd\)"),
        (np.zeros((1, 4)), {"prior": (np.zeros(3), 1.0)}, r"prior must be a pair \(mean, sd\)"),
        (np.zeros((1, 4)), {"prior": (0.0, -1.0)}, "prior must have finite means and positive"),
    ],
)
def test_wrong_arguments(line, function, Y_new, settings, message):
    with pytest.raises(ValueError, match=message):
        function(line[0], Y_new, **settings)


def test_what_is_no_fit_is_refused(line):
    fit, new = line
    with pytest.raises(TypeError, match="embed needs a fit"):
        gplvm.embed({"X": 1}, new)
    without = fit.copy()
    without["posterior"] = xr.DataTree(fit.posterior.to_dataset().drop_vars("X"))
    with pytest.raises(ValueError, match="embed needs the variable 'X'"):
        gplvm.embed(without, new)


@pytest.mark.parametrize("use", ["embed", "log_predictive", "impute"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_gives_no_part_of_the_rows(use, times, Y, ctrl_c, monkeypatch):
    """Between two draws of the fit, or at once; afterwards all is as before."""
    fit = made_fit(Y, "rbf", draws=3)
    embedded = partial(getattr(gplvm, use), fit, Y[:2], random_seed=1, progressbar=False)
    before, done = embedded(), []
    placed = row_posterior.positions_of
    monkeypatch.setattr(row_posterior, "positions_of", lambda *a: done.append(a) or placed(*a))
    ctrl_c(row_posterior, "positions_of", *[2] * times)
    with pytest.raises(KeyboardInterrupt):
        embedded()
    assert len(done) == 3 - times
    monkeypatch.undo()
    after = embedded()
    assert before.identical(after)
