"""Tables with missing entries: from the door through every function that reads a fit."""

import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from made import fit_of
from oracles import column_logps, kernel_matrix
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.table import as_table, centre_and_scale
from pm_gplvm.diagnostics.invariants import invariants
from pm_gplvm.prediction.processes import each_draw
from pm_gplvm.prediction.row_posterior import RowDensity, Rows

THETA = {"lengthscale": 0.9, "amplitude": 1.1, "sigma": 0.3}
N, D = 20, 8


def with_holes(table):
    """A quarter missing, in columns that share their holes and in such that do not."""
    missing = np.random.default_rng(5).random(table.shape) < 0.25
    missing[:, 1] = missing[:, 0]
    missing[:, 2] = False
    return table.where(~missing)


@pytest.fixture(scope="module")
def whole():
    return simulated(N, D, seed=1)


@pytest.fixture(scope="module")
def holes(whole):
    return with_holes(whole)


@pytest.fixture(scope="module")
def masked(holes):
    # So few entries leave room for an embedding without any noise.
    priors = {"sigma": pm.LogNormal.dist(-1.0, 0.3)}
    return gplvm.build_model(holes, missing="mask", priors=priors, resolution=0)


@pytest.fixture(scope="module")
def made(masked):
    """A fit of two draws that are no mode, so that formulas can be checked at them."""
    rng = np.random.default_rng(8)
    sigma = [[0.3, 0.4]]
    X = rng.standard_normal((1, 2, N, 2))
    return fit_of(masked, X, **{**THETA, "sigma": sigma})


@pytest.fixture(scope="module")
def mode_found(masked):
    return gplvm.fit_marginal(masked, random_seed=1, progressbar=False)


def draws(fit):
    """X and K of each draw, from scikit-learn's kernels."""
    for draw in each_draw(Fit(fit)):
        theta = {name: THETA[name] for name in ("lengthscale", "amplitude")}
        yield draw.X, theta, draw.sigma


def standardised(fit, holes):
    mean, scale = (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    return (holes.to_numpy() - mean) / scale, mean, scale


def conditional(X, theta, sigma, f, x):
    """Mean and variance of the function of one column at x from the rows that have it."""
    o, n = np.flatnonzero(~np.isnan(f)), len(X)
    K = kernel_matrix("rbf", np.vstack([X, x]), **theta)
    known = K[np.ix_(o, o)] + sigma**2 * np.eye(len(o))
    cross = K[n:, :n][:, o]
    gain = np.linalg.solve(known, cross.T).T
    return gain @ f[o], np.diag(K[n:, n:]) - (gain * cross).sum(axis=1)


# the door


def test_by_default_it_is_an_error_that_tells_the_way_out(holes):
    with pytest.raises(
        ValueError, match=r"35 missing \(NaN\).* or pass missing='mask', which takes NaN"
    ):
        gplvm.build_model(holes)


def test_an_unknown_word(holes):
    with pytest.raises(ValueError, match="missing must be one of raise, mask, got 'drop'"):
        gplvm.build_model(holes, missing="drop")


def test_infinite_values_are_no_missing_ones(holes):
    with pytest.raises(ValueError, match=r"0 missing .* and 1 infinite values"):
        gplvm.build_model(holes.where(holes["obs"] != "row0", np.inf)[:, :1], 1, missing="mask")


@pytest.mark.parametrize(
    ("row", "column", "what"),
    [(3, slice(None), r"1 row of NaN alone, first obs 3 \(row3\)"),
     (slice(None), 2, r"1 column of NaN alone, first feature 2 \(column2\)")],
)  # fmt: skip
def test_rows_and_columns_without_an_entry(whole, row, column, what):
    values = whole.copy(deep=True)
    values[row, column] = np.nan
    with pytest.raises(ValueError, match=what):
        gplvm.build_model(values, missing="mask")


def test_many_patterns_are_told():
    table = simulated(20, 12)
    table = table.where(np.random.default_rng(0).random(table.shape) > 0.2)
    with pytest.warns(RuntimeWarning, match="12 patterns of missing entries among its 12 columns"):
        gplvm.build_model(table, missing="mask")


@pytest.mark.parametrize("scale", ["global", "feature"])
def test_mean_and_scale_are_those_of_what_was_observed(holes, scale):
    mean, spread = centre_and_scale(as_table(holes, missing="mask"), scale)
    frame = pd.DataFrame(holes.to_numpy())
    np.testing.assert_allclose(mean, frame.mean(), rtol=1e-12)
    centred = frame - frame.mean()
    square = np.nanmean(centred**2) if scale == "global" else (centred**2).mean()
    np.testing.assert_allclose(spread**2, np.broadcast_to(square, D), rtol=1e-12)


def test_masked_arrays_and_frames_are_the_same_model(holes):
    values = holes.to_numpy()
    tables = [np.ma.masked_invalid(values), pd.DataFrame(values), values]
    seen = [gplvm.build_model(t, missing="mask")["Y_seen"].get_value() for t in tables]
    for other in seen:
        np.testing.assert_array_equal(other, ~np.isnan(values).T)


def test_a_complete_table_makes_the_same_model(whole):
    plain, masked = gplvm.build_model(whole), gplvm.build_model(whole, missing="mask")
    assert "Y_seen" not in masked.named_vars
    assert type(masked["Y"].owner.op) is type(plain["Y"].owner.op)
    at = {"X": np.random.default_rng(1).standard_normal((N, 2)), **THETA}
    value, gradient = gplvm.model.compile_objective(plain)(at)
    other, other_gradient = gplvm.model.compile_objective(masked)(at)
    assert other == value
    np.testing.assert_array_equal(other_gradient["X"], gradient["X"])


# the likelihood


def test_the_objective_is_scipys_on_the_observed_parts(masked, holes, rng, mode):
    X = rng.standard_normal((N, 2))
    K = kernel_matrix("rbf", X, **THETA)
    mean, scale = (masked[n].get_value() for n in ("Y_mean", "Y_scale"))
    expected = 0.0
    for d, y in enumerate(holes.to_numpy().T):
        o = ~np.isnan(y)
        expected += column_logps(y[o][:, None], K[np.ix_(o, o)], mean[d], scale[d])[0]
    value, _ = gplvm.model.compile_objective(masked, prior=False)({"X": X, **THETA})
    assert value == pytest.approx(expected, rel=1e-11)
    point = {"X": X, **{f"{name}_log__": np.log(v) for name, v in THETA.items()}}
    by_pymc = masked.compile_logp(vars=[masked["Y"]], mode=mode)(point)
    assert by_pymc == pytest.approx(expected, rel=1e-11)


def test_the_gradient_equals_differences(masked, rng):
    objective = gplvm.model.compile_objective(masked)
    at = {"X": rng.standard_normal((N, 2)), **THETA}
    _, gradient = objective(at)
    for name, index in [("X", (0, 1)), ("X", (7, 0)), *((name, ()) for name in THETA)]:
        ends = []
        for step in (1e-5, -1e-5):
            moved = {n: np.array(v, dtype=float) for n, v in at.items()}
            moved[name][index] += step
            ends.append(objective(moved)[0])
        assert gradient[name][index] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_what_stands_in_for_a_missing_entry_does_not_matter(holes):
    values = holes.to_numpy()
    seen = ~np.isnan(values)
    terms = []
    for filler in (0.0, 1e6):
        with pm.Model() as model:
            X = pm.Normal("X", shape=(N, 2))
            K = gplvm.covariance("rbf", X, sigma=0.3)
            gplvm.GPColumns("Y", K, observed=np.where(seen, values, filler).T, seen=seen.T)
        terms.append(
            gplvm.model.compile_objective(model)({"X": np.arange(2.0 * N).reshape(N, 2)})[0]
        )
    assert terms[0] == terms[1]


def test_a_mask_must_be_a_table_of_data():
    with pytest.raises(ValueError, match=r"seen must have two dimensions \(feature, obs\)"):
        gplvm.GPColumns.dist(np.eye(3), seen=np.ones(3, dtype=bool))


# fits


def test_a_fit_shows_the_holes_and_where_they_are(mode_found, holes):
    np.testing.assert_array_equal(mode_found.observed_data["Y"].to_numpy().T, holes.to_numpy())
    seen = mode_found.constant_data["Y_seen"]
    assert seen.dims == ("feature", "obs")
    np.testing.assert_array_equal(seen.to_numpy().T, ~np.isnan(holes.to_numpy()))
    assert mode_found.attrs["converged"] == 1


def test_its_log_likelihood_by_three_routes(mode_found):
    recorded = float(mode_found.sample_stats["log_likelihood"].squeeze())
    assert float(invariants(mode_found)["log_likelihood"].squeeze()) == pytest.approx(recorded)
    terms = gplvm.diagnostics.compute_log_likelihood(mode_found)["log_likelihood"]["Y"]
    assert float(terms.sum()) == pytest.approx(recorded)


def test_relocation_climbs_on(masked, mode_found):
    plain = gplvm.fit_marginal(masked, relocate=False, random_seed=1, progressbar=False)
    height = [float(fit.sample_stats["log_marginal"].squeeze()) for fit in (plain, mode_found)]
    assert height[1] >= height[0]


def test_theta_by_nuts_against_a_grid(holes):
    priors = {"lengthscale": 0.9, "amplitude": 1.1}
    model = gplvm.build_model(holes, missing="mask", priors=priors)
    X = np.random.default_rng(2).standard_normal((N, 2))
    fit = gplvm.sample_theta(
        model, X, draws=1000, tune=500, chains=2, random_seed=1, progressbar=False
    )
    objective = gplvm.model.compile_objective(model)
    grid = np.linspace(0.3, 3.0, 300)
    logs = np.array([objective({"X": X, "sigma": s})[0] for s in grid])
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    mean = weight @ grid
    sd = np.sqrt(weight @ (grid - mean) ** 2)
    assert float(fit.posterior["sigma"].mean()) == pytest.approx(mean, abs=0.15 * sd)
    assert float(fit.posterior["sigma"].std()) == pytest.approx(sd, rel=0.1)


def test_the_sampler_moves_rows_and_goes_on_exactly(masked, mode_found, tmp_path):
    settings = {"tune": 20, "chains": 2, "replicas": 1, "random_seed": 1, "progressbar": False}
    short = gplvm.sample(masked, start=mode_found, draws=5, **settings)
    assert float(short.sample_stats["moved"].mean()) > 0.0
    gplvm.save(short, tmp_path / "short.nc")
    more = gplvm.resume(masked, tmp_path / "short.nc", draws=5, progressbar=False)
    once = gplvm.sample(masked, start=mode_found, draws=10, **settings)
    np.testing.assert_array_equal(more.posterior["X"], once.posterior["X"])


def test_many_states_at_once_are_each_right(masked, mode_found):
    """What the sampler records is the likelihood of the very draw."""
    settings = {"tune": 10, "chains": 3, "replicas": 2, "random_seed": 1, "progressbar": False}
    full = gplvm.sample(masked, start=mode_found, draws=4, **settings)
    again = invariants(full)["log_likelihood"]
    np.testing.assert_allclose(full.sample_stats["log_likelihood"], again, rtol=1e-10)
    objective = gplvm.model.compile_objective(masked)
    for draw in range(4):
        at = {n: v.to_numpy()[1, draw] for n, v in full.posterior.data_vars.items()}
        lp = float(full.sample_stats["lp"][1, draw])
        log_jacobian = sum(float(np.log(at[name])) for name in THETA)
        assert lp == pytest.approx(objective(at)[0] + log_jacobian, rel=1e-10)


def test_another_mask_is_another_model(masked, mode_found, whole):
    settings = {"tune": 4, "chains": 1, "replicas": 1, "random_seed": 1, "progressbar": False}
    short = gplvm.sample(masked, start=mode_found, draws=2, **settings)
    with pytest.raises(ValueError, match="model must be the one that was sampled"):
        gplvm.resume(gplvm.build_model(whole), short, draws=2, progressbar=False)


# what reads a fit


@pytest.mark.parametrize("noise", [False, True])
def test_predictions_are_conditionals_of_each_column(made, holes, noise, rng):
    x = rng.standard_normal((3, 2))
    F, mean, scale = standardised(made, holes)
    predicted = gplvm.predict(made, x, noise=noise)
    for d in range(D):
        parts = [
            (*conditional(X, theta, sigma, F[:, d], x), sigma) for X, theta, sigma in draws(made)
        ]
        means, variances = zip(*[(m, v + noise * s**2) for m, v, s in parts], strict=True)
        expected = np.mean(means, axis=0)
        spread = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
        np.testing.assert_allclose(predicted["mean"][:, d], mean[d] + scale[d] * expected)
        np.testing.assert_allclose(predicted["sd"][:, d], scale[d] * spread)


def test_reconstruction_is_the_prediction_at_the_rows_own_places(made, holes):
    one = made.isel(draw=slice(1), missing_dims="ignore")
    own = gplvm.predict(one, one.posterior["X"].to_numpy()[0, 0])
    found = gplvm.reconstruct(one)
    np.testing.assert_allclose(found["mean"], own["mean"], rtol=1e-9)
    np.testing.assert_allclose(found["sd"], own["sd"], rtol=1e-6)


def test_missing_entries_are_filled_and_others_left(made, holes):
    filled = gplvm.impute(made)
    missing = holes.isnull()
    assert filled["mean"].dims == ("obs", "feature")
    assert not filled["mean"].isnull().any()
    np.testing.assert_array_equal(filled["mean"].where(~missing), holes)
    guess = gplvm.reconstruct(made, noise=True)
    np.testing.assert_array_equal(filled["mean"].where(missing), guess["mean"].where(missing))
    np.testing.assert_array_equal(filled["sd"].where(missing), guess["sd"].where(missing))
    assert (filled["sd"].where(~missing, 0.0) == 0.0).all()
    gplvm.build_model(filled["mean"])  # a complete table again


def test_joint_draws_have_the_means_and_spreads_of_predictions(made, rng):
    one, x = made.isel(draw=slice(1), missing_dims="ignore"), rng.standard_normal((2, 2))
    tables = gplvm.sample_predictive(one, x, num_samples=4000, random_seed=1)["predictions"]["Y"][0]
    predicted = gplvm.predict(one, x)
    error = predicted["sd"] / np.sqrt(4000)
    assert (np.abs(tables.mean("draw") - predicted["mean"]) < 5 * error).all()
    np.testing.assert_allclose(tables.std("draw"), predicted["sd"], rtol=0.08)


def test_the_density_of_a_new_row_and_its_gradient(made, holes, rng):
    F, *_ = standardised(made, holes)
    draw, (X, theta, sigma) = next(each_draw(Fit(made))), next(draws(made))
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((4, D))
    seen = np.ones((4, D), dtype=bool)
    seen[1, 2:] = seen[2, 0] = False
    rows = Rows(np.where(seen, y, 0.0), seen, np.zeros((4, 2)), np.ones((4, 2)))
    density = RowDensity(draw, F)
    value, gradient = density.log_joint(x, rows)
    expected = norm.logpdf(x).sum(axis=1)
    for d in range(D):
        mean, variance = conditional(X, theta, sigma, F[:, d], x)
        terms = norm(mean, np.sqrt(variance + sigma**2)).logpdf(y[:, d])
        expected += np.where(seen[:, d], terms, 0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    for q in range(2):
        step = np.zeros(2)
        step[q] = 1e-5
        up, down = (density.log_joint(x + s * step, rows)[0] for s in (1.0, -1.0))
        np.testing.assert_allclose(gradient[:, q], (up - down) / 2e-5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        density.log_joint_and_variance(x[:, None], rows)[0][:, 0], value, rtol=1e-10
    )
    np.testing.assert_allclose(np.diagonal(density.log_densities(x, rows)), value, rtol=1e-9)


def test_new_rows_find_their_places(mode_found, holes):
    """A training row given again with the same holes lies where it lay."""
    new = holes.to_numpy()[[2, 5]]
    found = gplvm.embed(mode_found, new, random_seed=1)
    X = mode_found.posterior["X"].to_numpy()[0, 0, [2, 5]]
    near = np.abs(found["modes"]["X"].to_numpy() - X[:, None]).max(axis=-1)
    assert (np.nanmin(near, axis=1) < 0.3).all()
    scores = gplvm.log_predictive(mode_found, new, random_seed=1)
    assert np.isfinite(scores["log_score"]).all()


def test_imputing_a_new_row_is_the_prediction_mixed_over_its_places(mode_found, holes):
    new = holes.isel(obs=[4]).where(holes["feature"] != "column3")
    filled = gplvm.impute(mode_found, new, draws=4000, random_seed=1)
    places = gplvm.embed(mode_found, new, draws=4000, random_seed=1)["posterior"]["X"]
    predicted = gplvm.predict(mode_found, places.to_numpy()[0, :, 0])
    missing = new.isnull().to_numpy()[0]
    mean = predicted["mean"].mean("obs_new").to_numpy()
    error = 5 * predicted["mean"].std("obs_new").to_numpy() / np.sqrt(4000 / 10) + 1e-3
    assert (np.abs(filled["mean"].to_numpy()[0] - mean)[missing] < error[missing]).all()


def test_leaving_out_an_entry(made, holes):
    one = made.isel(draw=slice(1), missing_dims="ignore")
    found = gplvm.diagnostics.leave_one_out(one)
    np.testing.assert_array_equal(found["log_score"].isnull(), holes.isnull())
    F, mean, scale = standardised(one, holes)
    X, theta, sigma = next(draws(one))
    for row, d in np.argwhere(~np.isnan(F))[::7]:
        left = F[:, d].copy()
        left[row] = np.nan
        at, variance = conditional(X, theta, sigma, left, X[[row]])
        assert float(found["mean"][row, d]) == pytest.approx(mean[d] + scale[d] * at[0])
        spread = scale[d] * np.sqrt(variance[0] + sigma**2)
        assert float(found["sd"][row, d]) == pytest.approx(spread)


def test_compare_knows_what_it_cannot_know(mode_found, made):
    table = gplvm.compare({"mode": mode_found, "made": made}, n_neighbors=3)
    assert (
        table[["trustworthiness", "neighbours_Y", "distance_correlation_Y"]].isna().all(axis=None)
    )
    assert (
        table[["log_likelihood", "procrustes", "neighbours", "elpd_entry"]].notna().all(axis=None)
    )


def test_compare_sees_other_holes(made, whole):
    fit = fit_of(gplvm.build_model(whole), made.posterior["X"].to_numpy(), **THETA)
    with pytest.raises(ValueError, match="entries that differ"):
        gplvm.compare({"a": made, "b": fit}, n_neighbors=3)


def test_a_saved_fit_predicts_the_same(mode_found, tmp_path, rng):
    x = rng.standard_normal((3, 2))
    gplvm.save(mode_found, tmp_path / "fit.nc")
    loaded = gplvm.load(tmp_path / "fit.nc")
    xr.testing.assert_identical(gplvm.predict(loaded, x), gplvm.predict(mode_found, x))
    xr.testing.assert_identical(gplvm.impute(loaded), gplvm.impute(mode_found))


def test_pictures(mode_found, masked):
    assert gplvm.plot.latent(mode_found, color="label") is not None
    assert len(gplvm.plot.compare({"a": mode_found, "b": mode_found})) == 2
    prior = gplvm.sample_prior(masked, draws=20, random_seed=1)
    assert not prior["prior_predictive"]["Y"].isnull().any()  # whole tables
    assert len(gplvm.plot.prior(prior)) == 3


@pytest.mark.parametrize("start", ["pca", "isomap", "random"])
def test_every_start_places_the_rows(masked, start):
    fit = gplvm.fit_map(masked, start=start, relocate=False, random_seed=1, progressbar=False)
    assert np.isfinite(fit.posterior["X"]).all()


@pytest.mark.parametrize(
    "refused",
    [
        lambda model, fit, Y: gplvm.fit_stochastic(model),
        lambda model, fit, Y: gplvm.fit_linear(
            gplvm.build_model(Y, kernel="linear", missing="mask")
        ),
        lambda model, fit, Y: gplvm.add_rows(fit, Y[:2]),
        lambda model, fit, Y: gplvm.diagnostics.sbc(model, n_replicates=1),
    ],
    ids=["stochastic", "linear", "add_rows", "calibrate"],
)
def test_what_needs_a_complete_table_says_so(masked, mode_found, holes, refused):
    with pytest.raises(ValueError, match=r"needs a .*complete table, got one with \d+ missing"):
        refused(masked, mode_found, holes)


def test_missing_entries_are_found_again():
    """Smooth columns of one latent dimension: far nearer than the column means."""
    rng = np.random.default_rng(6)
    t = np.sort(rng.uniform(-2.0, 2.0, 60))
    waves = rng.uniform(0.5, 1.5, 16), rng.uniform(0.0, 6.0, 16)
    truth = np.sin(waves[0] * t[:, None] + waves[1]) + 0.05 * rng.standard_normal((60, 16))
    missing = rng.random(truth.shape) < 0.3
    table = np.where(missing, np.nan, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 16 patterns
        model = gplvm.build_model(table, 1, missing="mask")
    fit = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    filled = gplvm.impute(fit)
    error = (filled["mean"].to_numpy() - truth)[missing]
    means = (np.nanmean(table, axis=0) - truth)[missing]
    assert np.sqrt((error**2).mean()) < 0.2 * np.sqrt((means**2).mean())
    inside = np.abs(error) < norm.ppf(0.945) * filled["sd"].to_numpy()[missing]
    assert inside.mean() > 0.75  # a mode's own intervals are too short, not absurd


def test_missing_entries_are_found_again_through_inducing_inputs():
    rng = np.random.default_rng(6)
    t = np.sort(rng.uniform(-2.0, 2.0, 80))
    waves = rng.uniform(0.5, 1.5, 12), rng.uniform(0.0, 6.0, 12)
    truth = np.sin(waves[0] * t[:, None] + waves[1]) + 0.05 * rng.standard_normal((80, 12))
    missing = rng.random(truth.shape) < 0.3
    table = np.where(missing, np.nan, truth)
    settings = {"n_inducing": 12, "random_seed": 1, "progressbar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 12 patterns
        model = gplvm.build_model(table, 1, missing="mask")
    means = (np.nanmean(table, axis=0) - truth)[missing]
    for fit in (
        gplvm.fit_sparse(model, **settings),
        gplvm.fit_sparse(model, method="fitc", **settings),
        gplvm.fit_variational(model, **settings),
    ):
        filled = gplvm.impute(fit)
        error = (filled["mean"].to_numpy() - truth)[missing]
        assert np.sqrt((error**2).mean()) < 0.2 * np.sqrt((means**2).mean())
        inside = np.abs(error) < norm.ppf(0.945) * filled["sd"].to_numpy()[missing]
        assert inside.mean() > 0.75
        placed = gplvm.embed(fit, table[:2], draws=100, progressbar=False)
        assert np.isfinite(placed["modes"]["X"][:, 0]).all()


@pytest.mark.slow
def test_half_of_the_oil_flow_is_found_again_by_draws(data_file):
    """What the README says: nearer than regressions of the columns on each other, and as sure as it is."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    with np.load(data_file("oil_flow.npz")) as file:
        truth = file["Y_train"][:100]
    table = np.where(np.random.default_rng(0).random(truth.shape) < 0.5, np.nan, truth)
    truth, table = (values[~np.isnan(table).all(axis=1)] for values in (truth, table))
    hidden = np.isnan(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 12 patterns
        model = gplvm.build_model(table, missing="mask")
    settings = {"chains": 2, "replicas": 1, "random_seed": 1, "progressbar": False}
    filled = gplvm.impute(gplvm.sample(model, draws=100, tune=150, **settings), num_samples=200)
    error = (filled["mean"].to_numpy() - truth)[hidden]
    inside = np.abs(error) < norm.ppf(0.945) * filled["sd"].to_numpy()[hidden]
    assert 0.85 < inside.mean() < 0.93
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        theirs = IterativeImputer(max_iter=20, random_state=0).fit_transform(table)
    rmse = [np.sqrt((e**2).mean()) for e in (error, (theirs - truth)[hidden])]
    assert rmse[0] < 0.85 * rmse[1]
