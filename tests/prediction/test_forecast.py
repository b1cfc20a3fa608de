"""Other times: the conditional of X by dense formulas, Y given paths, coverage of what the model drew."""

import warnings

import numpy as np
import pandas as pd
import pytest
from made import fit_of
from oracles import kernel_matrix

import pm_gplvm as gplvm

QUIET = {"progressbar": False, "random_seed": 1}
T = np.array([0.0, 0.5, 1.1, 1.4, 2.0, 2.6, 3.0, 3.5, 0.2, 0.9, 1.6, 2.2])
MOVIE = np.repeat(["walk", "run"], [8, 4])
AHEAD = np.array([3.2, 3.6, 4.4, 0.5])
LENGTHSCALE, OWN = 0.8, 0.2


def covariance(t, other, kernel="matern32"):
    """(1 - own²) κ, as the second route has it."""
    whole = np.concatenate([t, other])[:, None]
    K = kernel_matrix(kernel, whole, lengthscale=LENGTHSCALE, amplitude=1.0)
    return (1.0 - OWN**2) * K[: len(t), len(t) :]


def model_of(Y, t=T, *, kernel="matern32", **options):
    prior = gplvm.priors.dynamics(t, kernel=kernel, lengthscale=LENGTHSCALE, own=OWN, **options)
    return gplvm.build_model(Y, priors={"X": prior})


@pytest.fixture(scope="module")
def drawn():
    """Make a fit of draws of X and θ, for a prior with these options."""

    def make(draws=1, **options):
        rng = np.random.default_rng(2)
        X = rng.standard_normal((1, draws, 12, 2))
        Y = np.sin(X[0, 0] @ rng.standard_normal((2, 5))) + 0.1 * rng.standard_normal((12, 5))
        theta = {"lengthscale": 1.2, "amplitude": 0.9, "sigma": 0.15}
        return fit_of(model_of(Y, **options), X, **theta)

    return make


def dense(t, x, new, kernel="matern32"):
    """Mean (S, Q) and covariance (S, S) of a column at new frames."""
    K = covariance(t, t, kernel) + OWN**2 * np.eye(len(t))
    k = covariance(new, t, kernel)
    spread = covariance(new, new, kernel) - k @ np.linalg.inv(K) @ k.T
    return k @ np.linalg.inv(K) @ x, spread + OWN**2 * np.eye(len(new))


# X


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "matern52"])
def test_x_is_the_dense_conditional_of_its_own_sequence(drawn, kernel):
    fit = drawn(kernel=kernel, sequences=MOVIE)
    found = gplvm.forecast(fit, AHEAD, sequence="walk", num_samples=4000, random_seed=1)
    mean, spread = dense(T[:8], fit.posterior["X"].to_numpy()[0, 0, :8], AHEAD, kernel)
    np.testing.assert_allclose(found["X_mean"], mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["X_sd"] ** 2, np.tile(np.diag(spread), (2, 1)).T, rtol=1e-9)
    for q in range(2):
        own = np.cov(found["X"].to_numpy()[:, :, q].T)
        np.testing.assert_allclose(own, spread, atol=0.06)
    across = np.corrcoef(found["X"].to_numpy()[:, :, 0].T, found["X"].to_numpy()[:, :, 1].T)
    assert np.abs(across[:4, 4:]).max() < 0.07


def test_draws_of_a_fit_are_mixed(drawn):
    fit = drawn(draws=7)
    found = gplvm.forecast(fit, AHEAD, num_samples=21, random_seed=1)
    each = [dense(T, x, AHEAD) for x in fit.posterior["X"].to_numpy()[0]]
    means = np.array([mean for mean, _ in each])
    total = np.diag(each[0][1])[:, None] + means.var(axis=0)
    np.testing.assert_allclose(found["X_mean"], means.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["X_sd"] ** 2, total, rtol=1e-9)


def test_sequences_are_independent_and_a_new_one_is_the_prior(drawn):
    fit = drawn(sequences=MOVIE)
    names, times = ["walk", "run", "walk", "jump"], np.array([3.7, 3.6, 4.0, 0.5])
    with pytest.warns(RuntimeWarning, match=r"not \(jump; it has run, walk\)"):
        found = gplvm.forecast(fit, times, sequence=names, num_samples=3000, random_seed=1)
    assert found["sequence"].to_numpy().tolist() == names
    alone = gplvm.forecast(fit, times[[1]], sequence="run", random_seed=2)
    np.testing.assert_allclose(found["X_mean"][1], alone["X_mean"][0], rtol=1e-9)
    np.testing.assert_allclose(found["X_mean"][3], 0.0)
    np.testing.assert_allclose(found["X_sd"][3], 1.0, rtol=1e-9)
    together = np.corrcoef(found["X"].to_numpy()[:, :, 0].T)
    assert np.abs(together[[0, 0, 1], [1, 3, 3]]).max() < 0.08
    assert together[0, 2] > 0.2
    moved = fit.copy()
    X = fit.posterior["X"].copy(deep=True)
    X[..., 8:, :] += 3.0
    moved["posterior"] = fit["posterior"].to_dataset().assign(X=X)
    same = gplvm.forecast(moved, AHEAD, sequence="walk", random_seed=1)
    np.testing.assert_allclose(
        same["X_mean"], gplvm.forecast(fit, AHEAD, sequence="walk", random_seed=1)["X_mean"]
    )


def test_the_time_of_a_row_is_another_frame_there(drawn):
    """The path is known there but for the noise of one frame; between two such frames the path is one."""
    fit = drawn()
    found = gplvm.forecast(fit, [T[3], T[3]], num_samples=4000, random_seed=1)
    _, spread = dense(T, fit.posterior["X"].to_numpy()[0, 0], np.array([T[3], T[3]]))
    np.testing.assert_allclose(spread[0, 0] - spread[0, 1], OWN**2)
    np.testing.assert_allclose(np.cov(found["X"].to_numpy()[:, :, 0].T), spread, atol=0.01)
    assert found["X_sd"].to_numpy().min() > OWN


def test_a_sequence_of_one_frame_is_continued(drawn):
    one = np.where(np.arange(12) == 4, "single", "rest")
    fit = drawn(sequences=one)
    found = gplvm.forecast(fit, [2.0, 2.5], sequence="single", random_seed=1)
    k = covariance(np.array([2.0, 2.5]), np.array([2.0]))
    np.testing.assert_allclose(found["X_mean"], k @ fit.posterior["X"].to_numpy()[0, 0, [4]])


def test_order_of_times_does_not_matter(drawn):
    fit, order = drawn(), np.array([2, 0, 3, 1])
    found, turned = (gplvm.forecast(fit, t, random_seed=1) for t in (AHEAD, AHEAD[order]))
    np.testing.assert_allclose(turned["X_mean"], found["X_mean"][order])
    np.testing.assert_allclose(turned["X_sd"], found["X_sd"][order])


def test_x_wider_than_its_prior_is_told_where_that_counts(drawn):
    fit = drawn().copy()
    X = 3.0 * fit.posterior["X"]
    fit["posterior"] = fit["posterior"].to_dataset().assign(X=X)
    with pytest.warns(RuntimeWarning, match=r"as wide as its prior.*own=0.2.*own=0.02"):
        gplvm.forecast(fit, [9.0], random_seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gplvm.forecast(fit, [0.55], random_seed=1)


# Y


@pytest.mark.parametrize("noise", [True, False])
def test_y_is_what_predict_says_along_the_paths(drawn, noise):
    fit = drawn()
    found = gplvm.forecast(fit, AHEAD, noise=noise, num_samples=200, random_seed=1)
    each = [gplvm.predict(fit, x, noise=noise, cov=True) for x in found["X"].to_numpy()]
    means = np.array([known["mean"] for known in each])
    total = np.mean([known["sd"] ** 2 for known in each], axis=0) + means.var(axis=0)
    np.testing.assert_allclose(found["mean"], means.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["sd"] ** 2, total, rtol=1e-6)
    squares = []  # Mahalanobis: as many as there are steps, on average
    for known, table in zip(each, found["Y"].to_numpy(), strict=True):
        for d in range(5):
            away = table[:, d] - known["mean"].to_numpy()[:, d]
            cov = known["cov"].to_numpy()[:, :, d] + 1e-12 * np.eye(4)
            squares.append(away @ np.linalg.solve(cov, away))
    assert np.mean(squares) == pytest.approx(4.0, abs=4.5 * np.sqrt(8.0 / len(squares)))


def test_intervals_hold_what_the_model_drew():
    """Tables and their future drawn from the model: 89 % of it in the 89 % intervals."""
    rng, inside = np.random.default_rng(5), {"X": [], "Y": []}
    t = np.concatenate([np.arange(20) / 4.0, np.arange(20, 25) / 4.0, [1.6, 2.9]])
    K = covariance(t, t, "matern52") + OWN**2 * np.eye(27)
    for _ in range(60):
        X = np.linalg.cholesky(K) @ rng.standard_normal((27, 2))
        f = kernel_matrix("rbf", X, lengthscale=1.0, amplitude=1.0) + 0.1**2 * np.eye(27)
        Y = np.linalg.cholesky(f) @ rng.standard_normal((27, 4))
        prior = gplvm.priors.dynamics(t[:20], kernel="matern52", lengthscale=LENGTHSCALE, own=OWN)
        model = gplvm.build_model(Y[:20], kernel="rbf", priors={"X": prior}, resolution=0)
        for name, value in (("Y_mean", np.zeros(4)), ("Y_scale", np.ones(4))):
            model[name].set_value(value)
        theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.1}
        fit = fit_of(model, X[None, None, :20], **theta)
        found = gplvm.forecast(fit, t[20:], num_samples=300, random_seed=int(rng.integers(1000)))
        for name, truth in (("X", X[20:]), ("Y", Y[20:])):
            low, high = np.quantile(found[name], [0.055, 0.945], axis=0)
            inside[name].append((low < truth) & (truth < high))
    for name, hits in inside.items():
        share, n = np.mean(hits), 60 * 2  # tables, and dimensions or so, are what is independent
        assert abs(share - 0.89) < 3.5 * np.sqrt(0.89 * 0.11 / n), name


def test_missing_entries_and_a_noise_of_each_column_are_taken():
    rng = np.random.default_rng(3)
    t = np.arange(24) / 4.0
    Y = np.sin(t[:, None] + np.arange(5.0)) + [0.05, 0.05, 0.4, 0.05, 0.05] * rng.standard_normal(
        (24, 5)
    )
    prior = {"X": gplvm.priors.dynamics(t)}
    holes = np.where((np.arange(24)[:, None] > 18) & (np.arange(5) < 2), np.nan, Y)
    masked = gplvm.build_model(holes, priors=prior, missing="mask")
    column = gplvm.build_model(Y, priors=prior, noise="column")
    for model in (masked, column):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = gplvm.fit_map(model, max_iter=200, **QUIET)
        found = gplvm.forecast(fit, [6.0, 6.2], random_seed=1)
        truth = np.sin(np.array([[6.0], [6.2]]) + np.arange(5.0))
        assert (np.abs(found["mean"] - truth) < 4.0 * found["sd"] + 0.1).all()
        spread = found["Y"].std("sample")
        np.testing.assert_allclose(spread, found["sd"], rtol=0.3)


# Fits


def counts(Y):
    return np.random.default_rng(3).poisson(np.exp(np.asarray(Y)))


FITS = {
    "fit_marginal": lambda m: gplvm.fit_marginal(m, max_iter=50, **QUIET),
    "fit_map": lambda m: gplvm.fit_map(m, max_iter=50, relocate=False, **QUIET),
    "fit_laplace": lambda m: gplvm.fit_laplace(m, draws=30, **QUIET),
    "fit_sparse": lambda m: gplvm.fit_sparse(m, n_inducing=6, max_iter=50, **QUIET),
    "fit_variational": lambda m: gplvm.fit_variational(
        m, n_inducing=6, draws=30, max_iter=50, **QUIET
    ),
    "sample_theta": lambda m: gplvm.sample_theta(
        m,
        gplvm.fit_map(m, max_iter=50, relocate=False, **QUIET),
        draws=20,
        tune=20,
        chains=2,
        **QUIET,
    ),
    "sample": lambda m: gplvm.align(
        gplvm.sample(m, draws=20, tune=20, chains=2, replicas=1, **QUIET)
    ),
}


@pytest.mark.parametrize("kind", FITS)
def test_every_fit_that_takes_the_prior_is_continued_saved_and_read(kind, tmp_path):
    t = np.arange(16) / 4.0
    Y = np.sin(t[:, None] + np.arange(4.0)) + 0.05 * np.random.default_rng(1).standard_normal(
        (16, 4)
    )
    model = gplvm.build_model(
        Y, priors={"X": gplvm.priors.dynamics(t, sequences=["ä"] * 16)}, kernel="rbf"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = FITS[kind](model)
    found = gplvm.forecast(fit, [1.1, 4.0, 9.0], num_samples=60, random_seed=1)
    assert found["Y"].shape == (60, 3, 4)
    assert np.isfinite(found["Y"]).all()
    sd = found["sd"].to_numpy()
    assert (sd[0] < sd[2]).all()
    np.testing.assert_allclose(found["Y"].mean("sample"), found["mean"], atol=0.6 * sd.max())
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    again = gplvm.forecast(read, [1.1, 4.0, 9.0], sequence="ä", num_samples=60, random_seed=1)
    for name in found.data_vars:
        np.testing.assert_array_equal(again[name], found[name])


def test_counts_are_forecast_as_counts():
    t = np.arange(12) / 3.0
    Y = counts(np.sin(t[:, None] + np.arange(3.0)))
    prior = {"X": gplvm.priors.dynamics(t)}
    model = gplvm.build_model(Y, likelihood="poisson", priors=prior)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = gplvm.fit_map(model, max_iter=30, **QUIET)
    found = gplvm.forecast(fit, [4.0, 4.3], random_seed=1)
    values = found["Y"].to_numpy()
    assert (values % 1.0 == 0.0).all()
    assert (values >= 0.0).all()
    quiet = gplvm.forecast(fit, [4.0, 4.3], noise=False, random_seed=1)
    assert (quiet["sd"] < found["sd"]).all()


def test_a_turned_frame_changes_nothing_of_y(drawn):
    fit = drawn(draws=3)
    X = fit.posterior["X"].mean(("chain", "draw")).to_numpy()
    to = 0.5 * X @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 0.3
    turned = gplvm.align(fit, to=to)
    found, other = (gplvm.forecast(f, AHEAD, random_seed=1) for f in (fit, turned))
    np.testing.assert_allclose(other["mean"], found["mean"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other["sd"], found["sd"], rtol=1e-6)
    at = gplvm.predict(turned, other["X"][0].to_numpy())
    assert at["mean"].shape == (4, 5)


# Dates


DAYS = pd.date_range("2024-02-27", periods=12, freq="D")


@pytest.mark.parametrize(
    ("t", "times", "unit"),
    [
        (DAYS, ["2024-03-10", "2024-03-09 12:00"], "D"),
        (DAYS.tz_localize("Europe/Berlin"), ["2024-03-09 23:00", "2024-03-09 11:00"], "D"),
        (DAYS, ["2024-03-10", "2024-03-09 12:00"], "h"),
        (DAYS - DAYS[0], [12 * 86400, 11.5 * 86400], "h"),
        (DAYS.as_unit("s"), ["2024-03-10", "2024-03-09 12:00"], "ns"),
    ],
    ids=["days", "zone", "hours", "durations", "seconds"],
)
def test_dates_and_durations_are_on_the_axis_of_the_fit(t, times, unit, tmp_path):
    new = pd.to_timedelta(times, unit="s") if unit == "h" and isinstance(times[0], int) else None
    new = pd.to_datetime(times, format="mixed") if new is None else new
    Y = np.sin(np.arange(12)[:, None] / 2.0 + np.arange(3.0))
    prior = gplvm.priors.dynamics(t, lengthscale=pd.Timedelta("4D"), time_unit=unit)
    plain = gplvm.priors.dynamics(np.arange(12.0), lengthscale=4.0)
    X = np.random.default_rng(0).standard_normal((1, 1, 12, 2))
    theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.1}
    dated, numbered = (
        fit_of(gplvm.build_model(Y, priors={"X": known}), X, **theta) for known in (prior, plain)
    )
    read = gplvm.load(gplvm.save(dated, tmp_path / "dated.nc"))
    found = gplvm.forecast(read, new, random_seed=1)
    expected = gplvm.forecast(numbered, [12.0, 11.5], random_seed=1)
    np.testing.assert_allclose(found["X_mean"], expected["X_mean"], rtol=1e-9, atol=1e-9)
    assert (pd.Index(found["time"].to_numpy()) == new).all()


def test_times_of_a_series_are_joined_to_its_sequences(drawn):
    fit = drawn(sequences=MOVIE)
    times = pd.Series(AHEAD, index=list("abcd"))
    names = pd.Series(["run", "walk", "walk", "run"], index=list("dcba"))
    found = gplvm.forecast(fit, times, sequence=names, random_seed=1)
    assert found["sequence"].to_numpy().tolist() == ["run", "walk", "walk", "run"]
    names = pd.Series(["walk", "walk", "run", "run"], index=list("dcba"))
    found = gplvm.forecast(fit, times, sequence=names, random_seed=1)
    assert found["sequence"].to_numpy().tolist() == ["run", "run", "walk", "walk"]


def test_numbered_sequences_are_found_as_whole_numbers_or_not(drawn):
    fit = drawn(sequences=np.repeat([1.0, 2.0], 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for label in (2, 2.0, np.int8(2), "2"):
            assert gplvm.forecast(fit, [9.0], sequence=label)["sequence"].item() == "2"


# What cannot be meant


@pytest.mark.parametrize(
    ("times", "sequence", "error", "text"),
    [
        ([], "walk", ValueError, r"times must have one entry .* at least one, got shape \(0,\)"),
        ([np.nan], "walk", ValueError, "times must be finite.*got nan"),
        ([np.inf], "walk", ValueError, "times must be finite.*got inf"),
        (3.0, "walk", ValueError, r"For a single time pass \[time\]"),
        ([[1.0], [2.0]], "walk", ValueError, r"got shape \(2, 1\)"),
        (DAYS, "walk", TypeError, "times must hold numbers, .* got dates.*priors.dynamics"),
        (DAYS - DAYS[0], "walk", TypeError, "times must hold numbers, .* got durations"),
        (["soon"], "walk", TypeError, "times must hold numbers, got"),
        (None, "walk", TypeError, "times must be an array of numbers, got None"),
        ([1.0], None, ValueError, r"sequence must say which .* \(run, walk\).*got None"),
        ([1.0, 2.0], ["walk"], ValueError, "one for each of the 2 times, got 1"),
        ([1.0, 2.0], ["walk", None], ValueError, "got 2 with 1 missing"),
        ([1.0, 2.0], [["walk", "run"]] * 2, ValueError, "sequence must have one label a row"),
    ],
)
def test_what_cannot_be_meant_is_refused(drawn, times, sequence, error, text):
    with pytest.raises(error, match=text):
        gplvm.forecast(drawn(sequences=MOVIE), times, sequence=sequence)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([12.0], "times must hold dates, .* got numbers"),
        (DAYS - DAYS[0], "times must hold dates, .* got durations"),
        ([], "at least one"),
        (np.array(["2024-03-01", "NaT"], "M8[D]"), "got 1 NaT"),
    ],
)
def test_dates_are_wanted_where_dates_were_given(times, text):
    Y = np.sin(np.arange(12)[:, None] / 2.0 + np.arange(3.0))
    model = gplvm.build_model(Y, priors={"X": gplvm.priors.dynamics(DAYS, lengthscale=4.0)})
    X = np.random.default_rng(0).standard_normal((1, 1, 12, 2))
    fit = fit_of(model, X, lengthscale=1.0, amplitude=1.0, sigma=0.1)
    with pytest.raises((TypeError, ValueError), match=text):
        gplvm.forecast(fit, times)


def test_a_fit_without_times_and_one_of_before_are_refused(drawn, best):
    with pytest.raises(ValueError, match=r"whose prior of X knows times.*priors.dynamics\(t\)"):
        gplvm.forecast(best, [1.0])
    old = drawn().copy()
    old["constant_data"] = old["constant_data"].to_dataset().drop_vars("X_own")
    with pytest.raises(ValueError, match=r"got none of X_own.*Fit again"):
        gplvm.forecast(old, [1.0])


def without(fit, group, name):
    edited = fit.copy()
    edited[group] = fit[group].to_dataset().drop_vars(name)
    return edited


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda fit: without(fit, "posterior", "X"), "forecast needs the variable 'X'"),
        (lambda fit: without(fit, "constant_data", "X_lengthscale"), "variable 'X_lengthscale'"),
        (lambda fit: without(fit, "constant_data", "Y_scale"), "variable 'Y_scale'"),
        (lambda fit: without(fit, "constant_data", "X_time"), "whose prior of X knows times"),
        (lambda fit: fit.drop_nodes("observed_data"), "a fit that holds its table"),
        (
            lambda fit: fit["posterior"].to_dataset(),
            "forecast needs a fit .a DataTree.*got Dataset",
        ),
        (lambda fit: None, "forecast needs a fit .a DataTree.*got NoneType"),
    ],
)
def test_edited_fits_are_refused(drawn, edit, text):
    with pytest.raises((TypeError, ValueError), match=text):
        gplvm.forecast(edit(drawn()), [1.0])
