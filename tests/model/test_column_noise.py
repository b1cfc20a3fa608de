"""An amplitude and a noise of each column: the model, and what its fits are read by."""

import numpy as np
import pymc as pm
import pytest
from made import fit_of
from oracles import column_logps, kernel_matrix
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.model.density import log_density
from pm_gplvm.model.results import as_fit
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.volume import log_volume
from pm_gplvm.prediction.predict import relative_uncertainty
from pm_gplvm.prediction.processes import OwnColumns, each_draw
from pm_gplvm.prediction.row_posterior import RowDensity, Rows

N, D = 25, 4
KERNELS = ("rbf + bias", "matern52", "linear + bias")


def table(seed=0, n=N, holes=False):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2.0, 2.0, (n, 1))
    Y = 3.0 + np.tanh(t @ rng.normal(size=(1, D)) + rng.normal(size=D))
    Y += np.array([0.1, 0.1, 0.5, 1.0]) * rng.normal(size=(n, D))
    if holes:
        Y[:5, 0] = np.nan
        Y[3:9, 2] = np.nan
    return Y


def made(kernel="rbf + bias", holes=False, draws=1, latent_dim=1):
    """A fit whose draws are made by hand."""
    rng = np.random.default_rng(1)
    model = gplvm.build_model(
        table(holes=holes),
        latent_dim,
        kernel=kernel,
        noise="column",
        scale="feature",
        missing="mask",
        resolution=0,
    )
    known = {
        "X": rng.normal(size=(1, draws, N, latent_dim)),
        "amplitude": np.exp(0.3 * rng.normal(size=(1, draws, D))),
        "sigma": np.exp(0.5 * rng.normal(size=(1, draws, D)) - 1.0),
    }
    if "linear" not in kernel:
        known["lengthscale"] = np.exp(0.3 * rng.normal(size=(1, draws)))
    if "bias" in kernel:
        known["bias"] = np.exp(0.3 * rng.normal(size=(1, draws)))
    fit = as_fit(
        model, known, method="made", sample_stats={"lp": np.zeros((1, draws))}, settings={}
    )
    return model, fit


def kernel_of(fit, s, X):
    posterior = fit["posterior"].to_dataset().isel(chain=0, draw=s)
    theta = {n: float(posterior[n]) for n in ("lengthscale", "bias") if n in posterior}
    return kernel_matrix(fit.attrs["kernel"], X, **theta)


def dense(fit, x, s=0):
    """Mean (S, D) and covariance (D, S, S) of the noise-free columns, one by one."""
    posterior = fit["posterior"].to_dataset().isel(chain=0, draw=s)
    X = posterior["X"].to_numpy()
    F, *_ = Fit(fit).table()
    K = kernel_of(fit, s, np.vstack([X, x]))
    means, covariances = [], []
    for d in range(D):
        a2, n = float(posterior["amplitude"][d]) ** 2, float(posterior["sigma"][d]) ** 2
        rows = np.flatnonzero(~np.isnan(F[:, d]))
        V = a2 * K[np.ix_(rows, rows)] + n * np.eye(len(rows))
        cross = a2 * K[N:, rows]
        means.append(cross @ np.linalg.solve(V, F[rows, d]))
        covariances.append(a2 * K[N:, N:] - cross @ np.linalg.solve(V, cross.T))
    return np.array(means).T, np.array(covariances)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_model_has_the_density_of_each_column_alone(kernel, holes):
    model, fit = made(kernel, holes)
    assert ModelSpec.of(model).kernel == kernel.split()[0]
    Y = table(holes=holes)
    mean, spread = np.nanmean(Y, axis=0), np.nanstd(Y, axis=0)
    posterior = fit["posterior"].to_dataset().isel(chain=0, draw=0)
    K = kernel_of(fit, 0, posterior["X"].to_numpy())
    a, s = posterior["amplitude"].to_numpy(), posterior["sigma"].to_numpy()
    expected = 0.0
    for d in range(D):
        rows = ~np.isnan(Y[:, d])
        V = a[d] ** 2 * K[np.ix_(rows, rows)] + s[d] ** 2 * np.eye(rows.sum())
        expected += column_logps(Y[rows][:, [d]], V, mean[d], spread[d]).sum()
    point = {rv.name: posterior[rv.name].to_numpy() for rv in model.free_RVs}
    value, gradient = gplvm.model.compile_objective(model, prior=False)(point)
    assert value == pytest.approx(expected, rel=1e-11)
    rng, h = np.random.default_rng(2), 1e-6
    objective = gplvm.model.compile_objective(model)
    _, gradient = objective(point)
    for name, at in point.items():
        step = h * rng.normal(size=at.shape)
        up, down = (objective({**point, name: at + sign * step})[0] for sign in (1.0, -1.0))
        assert (gradient[name] * step).sum() == pytest.approx((up - down) / 2.0, rel=1e-5)


@pytest.mark.parametrize("holes", [False, True])
def test_the_density_through_the_data_is_that_of_PyMC(holes):
    model, _ = made("rbf + bias", holes)
    logps = [log_density(model, jacobian=True), model.logp()]
    function = model.compile_fn(logps, point_fn=True, mode="FAST_COMPILE")
    a, b = function(model.initial_point())
    assert a == pytest.approx(b, rel=1e-12)


def test_priors_are_those_of_a_shared_noise_for_each_column():
    model = gplvm.build_model(table(), 1, noise="column", scale="feature", resolution=0)
    assert (
        model.named_vars_to_dims["sigma"] == model.named_vars_to_dims["amplitude"] == ("feature",)
    )
    total = sum(
        pm.logp(model[name], np.full(D, 0.7)).eval().sum() for name in ("sigma", "amplitude")
    )
    expected = norm.logpdf(np.log(0.7), -2.0).sum() + norm.logpdf(np.log(0.7), 0.0)
    assert total == pytest.approx(D * (expected - 2.0 * np.log(0.7)))


def test_draws_of_the_model_have_each_columns_covariance():
    X = np.linspace(-1.0, 1.0, 3)[:, None]
    K = kernel_matrix("rbf", X)
    a, s, scale = np.array([1.0, 2.0]), np.array([0.5, 0.1]), np.array([1.0, 3.0])
    rv = gplvm.GPColumns.dist(K, mu=[0.0, 5.0], scale=scale, amplitude=a, sigma=s)
    draws = pm.draw(rv, 20_000, random_seed=1)
    for d in range(2):
        V = scale[d] ** 2 * (a[d] ** 2 * K + s[d] ** 2 * np.eye(3))
        np.testing.assert_allclose(np.cov(draws[:, d].T), V, atol=0.05 * V[0, 0])
        np.testing.assert_allclose(draws[:, d].mean(axis=0), [0.0, 5.0][d], atol=0.1)


def test_an_amplitude_without_a_noise_is_refused():
    with pytest.raises(ValueError, match="amplitude needs a sigma"):
        gplvm.GPColumns.dist(np.eye(3), amplitude=[1.0, 2.0])
    with pytest.raises(ValueError, match="noise must be 'shared' or 'column'"):
        gplvm.build_model(table(), 1, noise="feature")


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_predictions_are_those_of_each_column_alone(kernel, holes):
    _, fit = made(kernel, holes, draws=3)
    x = np.linspace(-2.0, 2.0, 5)[:, None]
    _, centre, scale = Fit(fit).table()
    found = [dense(fit, x, s) for s in range(3)]
    mean = np.mean([m for m, _ in found], axis=0)
    between = np.var([m for m, _ in found], axis=0)
    inside = np.mean([np.diagonal(c, axis1=1, axis2=2).T for _, c in found], axis=0)
    noise = (fit["posterior"]["sigma"].to_numpy()[0] ** 2).mean(axis=0)
    for noisy in (False, True):
        known = gplvm.predict(fit, x, noise=noisy)
        np.testing.assert_allclose(known["mean"], centre + scale * mean, rtol=1e-9)
        variance = inside + between + noisy * noise
        np.testing.assert_allclose(known["sd"], scale * np.sqrt(variance), rtol=1e-8)
    # The share of the prior's standard deviation that is left, over the columns.

    unit = fit["posterior"]["amplitude"].to_numpy()[0] ** 2
    rest = [np.diagonal(c, axis1=1, axis2=2).T / unit[s] for s, (_, c) in enumerate(found)]
    prior = np.mean([np.diagonal(kernel_of(fit, s, x)) for s in range(3)], axis=0)
    expected = np.sqrt(np.mean(rest, axis=0).mean(axis=1) / prior)
    np.testing.assert_allclose(relative_uncertainty(fit, x), expected, rtol=1e-7)


@pytest.mark.parametrize("holes", [False, True])
def test_rows_are_smoothed_and_holes_filled_by_each_column_alone(holes):
    _, fit = made(holes=holes)
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    mean, covariance = dense(fit, X)
    _, centre, scale = Fit(fit).table()
    known = gplvm.reconstruct(fit)
    np.testing.assert_allclose(known["mean"], centre + scale * mean, rtol=1e-9)
    variance = np.diagonal(covariance, axis1=1, axis2=2).T
    np.testing.assert_allclose(known["sd"], scale * np.sqrt(variance), rtol=1e-6)
    if holes:
        filled, missing = gplvm.impute(fit), np.isnan(table(holes=True))
        np.testing.assert_allclose(
            filled["mean"].to_numpy()[missing], (centre + scale * mean)[missing]
        )
        noise = fit["posterior"]["sigma"].to_numpy()[0, 0] ** 2
        sd = scale * np.sqrt(variance + noise)
        np.testing.assert_allclose(filled["sd"].to_numpy()[missing], sd[missing], rtol=1e-7)


def test_joint_draws_have_each_columns_covariance():
    _, fit = made()
    x = np.array([[-0.5], [0.0], [3.0]])
    mean, covariance = dense(fit, x)
    _, centre, scale = Fit(fit).table()
    drawn = gplvm.sample_predictive(fit, x, noise=True, num_samples=20_000, random_seed=1)
    F = (drawn["predictions"]["Y"].to_numpy()[0] - centre) / scale
    noise = fit["posterior"]["sigma"].to_numpy()[0, 0] ** 2
    for d in range(D):
        V = covariance[d] + noise[d] * np.eye(3)
        np.testing.assert_allclose(F[:, :, d].mean(axis=0), mean[:, d], atol=0.05)
        np.testing.assert_allclose(np.cov(F[:, :, d].T), V, atol=0.05 * V.max())


@pytest.mark.parametrize("holes", [False, True])
def test_leaving_an_entry_out_is_conditioning_its_column_on_the_others(holes):
    _, fit = made(holes=holes)
    posterior = fit["posterior"].to_dataset().isel(chain=0, draw=0)
    F, centre, scale = Fit(fit).table()
    K = kernel_of(fit, 0, posterior["X"].to_numpy())
    known = gplvm.diagnostics.leave_one_out(fit)
    by_feature = gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"].to_numpy()[
        0, 0
    ]
    for d in range(D):
        rows = np.flatnonzero(~np.isnan(F[:, d]))
        V = float(posterior["amplitude"][d]) ** 2 * K + float(posterior["sigma"][d]) ** 2 * np.eye(
            N
        )
        own = V[np.ix_(rows, rows)]
        logp = multivariate_normal(np.zeros(len(rows)), own).logpdf(F[rows, d])
        assert by_feature[d] == pytest.approx(logp - len(rows) * np.log(scale[d]))
        n, others = rows[4], np.delete(rows, 4)
        weights = np.linalg.solve(V[np.ix_(others, others)], V[others, n])
        mean, variance = weights @ F[others, d], V[n, n] - weights @ V[others, n]
        assert float(known["mean"][n, d]) == pytest.approx(centre[d] + scale[d] * mean)
        assert float(known["sd"][n, d]) == pytest.approx(scale[d] * np.sqrt(variance))
        score = norm.logpdf(F[n, d], mean, np.sqrt(variance)) - np.log(scale[d])
        assert float(known["log_score"][n, d]) == pytest.approx(score)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_density_of_new_rows_is_that_of_each_column_alone(kernel, holes):
    _, fit = made(kernel, holes, latent_dim=2)
    F, *_ = Fit(fit).table()
    density = RowDensity(next(each_draw(Fit(fit))), F)
    rng = np.random.default_rng(5)
    M = 3
    seen = rng.random((M, D)) < 0.7
    rows = Rows(
        np.where(seen, rng.normal(size=(M, D)), 0.0), seen, np.zeros((M, 2)), np.ones((M, 2))
    )
    x = rng.normal(size=(M, 2))
    mean, covariance = dense(fit, x)
    sd = np.sqrt(
        np.diagonal(covariance, axis1=1, axis2=2).T
        + fit["posterior"]["sigma"].to_numpy()[0, 0] ** 2
    )
    expected = np.where(seen, norm.logpdf(rows.y, mean, sd), 0.0).sum(axis=1)
    expected += norm.logpdf(x).sum(axis=1)
    value, gradient = density.log_joint(x, rows)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    found, variance = density.conditional(x)
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(variance, sd**2, rtol=1e-8)
    every, variances = density.log_joint_and_variance(x[:, None], rows)
    np.testing.assert_allclose(every[:, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(variances[:, 0], sd**2, rtol=1e-8)
    np.testing.assert_allclose(np.diagonal(density.log_densities(x, rows)), expected, rtol=1e-9)
    for q in range(2):
        step = 1e-5 * np.eye(2)[q]
        up, down = (density.log_joint(x + sign * step, rows)[0] for sign in (1.0, -1.0))
        np.testing.assert_allclose(gradient[:, q], (up - down) / 2e-5, rtol=1e-5, atol=1e-7)


def test_new_rows_are_scored_and_filled_as_by_quadrature():
    _, fit = made()
    _, centre, scale = Fit(fit).table()
    new = table(seed=9, n=3)
    grid = np.linspace(-6.0, 6.0, 2001)[:, None]
    mean, covariance = dense(fit, grid)
    sd = np.sqrt(
        np.diagonal(covariance, axis1=1, axis2=2).T
        + fit["posterior"]["sigma"].to_numpy()[0, 0] ** 2
    )
    holed = new.copy()
    holed[:, 1] = np.nan
    scores = gplvm.log_predictive(fit, new, random_seed=1, draws=4000, progressbar=False)
    filled = gplvm.impute(fit, holed, random_seed=1, draws=4000, progressbar=False)
    placed = gplvm.embed(fit, new, random_seed=1, draws=4000, progressbar=False)
    width, prior = grid[1, 0] - grid[0, 0], norm.logpdf(grid[:, 0])
    for i in range(3):
        f = (new[i] - centre) / scale
        logs = norm.logpdf(f, mean, sd)
        height = np.exp(prior + logs.sum(axis=1))
        mass = height.sum() * width
        expected = np.log(mass) - np.log(scale).sum()
        assert float(scores["log_score"][i]) == pytest.approx(expected, abs=0.05)
        place = (height * grid[:, 0]).sum() * width / mass
        assert float(placed["posterior"]["X"][..., i, 0].mean()) == pytest.approx(place, abs=0.1)
        weight = np.exp(prior + np.delete(logs, 1, axis=1).sum(axis=1))
        weight /= weight.sum()
        there = weight @ mean[:, 1]
        assert float(filled["mean"][i, 1]) == pytest.approx(
            centre[1] + scale[1] * there, abs=0.05 * scale[1]
        )
        spread = np.sqrt(weight @ (sd[:, 1] ** 2 + mean[:, 1] ** 2) - there**2)
        assert float(filled["sd"][i, 1]) == pytest.approx(scale[1] * spread, rel=0.1)


@pytest.mark.parametrize("holes", [False, True])
def test_a_fit_is_found_saved_and_built_again(tmp_path, holes):
    model = gplvm.build_model(
        table(holes=holes),
        1,
        noise="column",
        scale="feature",
        missing="mask",
        priors={"lengthscale": 1.0, "sigma": pm.LogNormal.dist(-1.0, 0.5)},
    )
    fit = gplvm.fit_map(model, progressbar=False, random_seed=1)
    path = tmp_path / "fit.nc"
    gplvm.save(fit, path)
    again = gplvm.load(path)
    x = np.linspace(-1.0, 1.0, 3)[:, None]
    np.testing.assert_array_equal(gplvm.predict(again, x)["sd"], gplvm.predict(fit, x)["sd"])
    rebuilt = gplvm.model.rebuild(again, priors={"sigma": pm.LogNormal.dist(-1.0, 0.5)})
    point = {rv.name: fit["posterior"][rv.name].to_numpy()[0, 0] for rv in model.free_RVs}
    values = [gplvm.model.compile_objective(m)(point)[0] for m in (model, rebuilt)]
    assert values[0] == values[1]
    more = gplvm.fit_map(rebuilt, start=again, progressbar=False)
    assert float(more["sample_stats"]["lp"][0, 0]) >= float(fit["sample_stats"]["lp"][0, 0]) - 1e-6


@pytest.mark.parametrize(
    "verb",
    [
        lambda m, f: gplvm.sample(m, draws=2, tune=2, progressbar=False),
        lambda m, f: gplvm.fit_variational(m, progressbar=False),
        lambda m, f: gplvm.fit_sparse(m, progressbar=False),
        lambda m, f: gplvm.fit_stochastic(m, progressbar=False),
        lambda m, f: gplvm.fit_linear(m),
        lambda m, f: gplvm.diagnostics.sbc(m),
        lambda m, f: gplvm.add_rows(f, table(seed=3, n=2), progressbar=False),
    ],
)
def test_what_knows_one_noise_only_says_so(verb):
    model, fit = made()
    with pytest.raises(ValueError, match="needs one noise for all columns"):
        verb(model, fit)


def test_the_other_readers_take_such_a_fit():
    model, fit = made("rbf", draws=30)
    with pytest.warns(RuntimeWarning, match="unreliable"):  # the draws were made by hand
        table_of = gplvm.compare({"one": fit, "same": fit})
    assert np.isfinite(table_of.loc["one", "elpd_entry"])
    from pm_gplvm.diagnostics.invariants import invariants

    known = invariants(fit)
    expected = gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"].sum("feature")
    np.testing.assert_allclose(known["log_likelihood"], expected, rtol=1e-9)
    one = (
        gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"].to_numpy()[0, 0].sum()
    )
    at = {rv.name: fit["posterior"][rv.name].to_numpy()[0, 0] for rv in model.free_RVs}
    assert gplvm.model.compile_objective(model, prior=False)(at)[0] == pytest.approx(one)
    parts = gplvm.model.gradients(model, at, explicit=True)
    by_hand = 2.0 * (parts["dL_dK"] * parts["dK_dX"]).sum("obs_other")
    np.testing.assert_allclose(by_hand, parts["dL_dX"], rtol=1e-6, atol=1e-8)


def test_the_ways_by_spectrum_and_by_factorisation_agree():
    """A complete table goes by one decomposition, each column alone by its Cholesky factor."""
    rng = np.random.default_rng(4)
    n = 60  # of low rank
    model = gplvm.build_model(table(n=n), 1, noise="column", scale="feature", resolution=0)
    known = {
        "X": 0.5 * rng.normal(size=(1, 1, n, 1)),
        "lengthscale": np.ones((1, 1)),
        "amplitude": np.exp(0.3 * rng.normal(size=(1, 1, D))),
        "sigma": np.exp(0.5 * rng.normal(size=(1, 1, D)) - 1.0),
    }
    fit = as_fit(model, known, method="made", sample_stats={"lp": np.zeros((1, 1))}, settings={})
    F, *_ = Fit(fit).table()
    draw = next(each_draw(Fit(fit)))
    own = OwnColumns(draw)
    assert own.vectors.shape[1] < n // 2
    x = rng.normal(size=(5, 1))
    cross, prior = draw.cross(x), draw.prior_variance(x)
    for d in range(D):
        alone = draw.of_column(d)
        solved = alone.solve(F[:, d])
        np.testing.assert_allclose(own.solve(F)[:, d], solved, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(own.precision[:, d], np.diagonal(np.linalg.inv(alone.K)))
        logdet = 2.0 * np.log(np.diagonal(alone.chol)).sum()
        terms = [term[..., d] for term in own.log_terms(F)]
        assert terms[0] == pytest.approx(F[:, d] @ solved, rel=1e-11)
        assert terms[1] == pytest.approx(logdet, rel=1e-11)
        np.testing.assert_allclose(terms[2], solved, rtol=1e-8, atol=1e-9)
        variance = alone.variance(alone.cross(x), alone.prior_variance(x))
        np.testing.assert_allclose(
            own.variance(cross, prior)[:, d], variance, rtol=1e-6, atol=1e-10
        )
        np.testing.assert_allclose(
            (cross @ own.weights(F))[:, d], alone.cross(x) @ solved, rtol=1e-7, atol=1e-9
        )


def test_the_estimator_takes_a_noise_of_each_column():
    Y = table()
    estimator = gplvm.GPLVM(
        1, noise="column", scale="feature", resolution=0, random_state=1, max_iter=5
    )
    with pytest.warns(RuntimeWarning, match="did not converge"):
        estimator.fit(Y)
    assert estimator.fit_["posterior"]["sigma"].dims == ("chain", "draw", "feature")
    assert np.isfinite(estimator.score(table(seed=8, n=3)))


def test_the_metric_of_the_map_is_the_sum_over_the_columns():
    _, fit = made("rbf")
    x, h = np.array([[0.3]]), 1e-4
    known = gplvm.diagnostics.magnification(fit, x)
    mean, covariance = dense(fit, np.vstack([x - h, x + h]))
    _, _, scale = Fit(fit).table()
    slope = scale * (mean[1] - mean[0]) / (2.0 * h)
    spread = covariance[:, 0, 0] + covariance[:, 1, 1] - covariance[:, 0, 1] - covariance[:, 1, 0]
    expected = (slope**2 + scale**2 * spread / (2.0 * h) ** 2).sum()
    assert float(known["metric"][0, 0, 0]) == pytest.approx(expected, rel=1e-4)


def test_evaluations_take_turns_in_the_same_memory():
    """What the linker lets the Ops reuse must not leak from one evaluation into the next."""
    model, _ = made("rbf", latent_dim=2)
    rng = np.random.default_rng(0)
    points = [
        {rv.name: np.exp(0.2 * rng.normal(size=rv.eval().shape)) for rv in model.free_RVs}
        for _ in range(2)
    ]
    objective = gplvm.model.compile_objective(model)
    first = objective(points[0])
    kept = {name: value.copy() for name, value in first[1].items()}
    objective(points[1])
    again = objective(points[0])
    assert first[0] == again[0]
    for name in kept:
        np.testing.assert_array_equal(kept[name], again[1][name])
        np.testing.assert_array_equal(kept[name], first[1][name])


# The marginal estimate, and the floor of each column


def factor_table(seed=0, n=120, d=10):
    """One factor; the noise differs by column, up to twenty times."""
    rng = np.random.default_rng(seed)
    T = rng.normal(size=(n, 1))
    noise = np.exp(rng.uniform(np.log(0.1), np.log(2.0), d))
    return T @ rng.normal(size=(1, d)) + noise * rng.normal(size=(n, d)), T[:, 0], noise


def test_the_marginal_estimate_finds_the_factor_and_each_noise():
    Y, T, noise = factor_table(1)
    model = gplvm.build_model(Y, 1, kernel="rbf + linear", noise="column", scale="feature")
    fit = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    assert fit.attrs["converged"] == 1
    X = fit["posterior"]["X"].to_numpy()[0, 0, :, 0]
    factors = FactorAnalysis(1).fit_transform(Y)[:, 0]
    assert abs(np.corrcoef(X, T)[0, 1]) > abs(np.corrcoef(factors, T)[0, 1]) - 0.01
    floor, scale = (fit["constant_data"][name].to_numpy() for name in ("Y_resolution", "Y_scale"))
    assert floor.shape == scale.shape
    found = np.hypot(fit["posterior"]["sigma"].to_numpy()[0, 0], floor) * scale
    np.testing.assert_allclose(found, noise, rtol=0.25)


def test_the_volume_has_the_variance_and_noise_of_each_column():
    Y, _, _ = factor_table(n=20, d=4)
    Y[0, :2] = np.nan
    model = gplvm.build_model(
        Y, 2, kernel="rbf + linear", noise="column", missing="mask", resolution=[0.1, 0.2, 0.3, 0.4]
    )
    a, s = np.array([0.5, 1.0, 1.5, 2.0]), np.array([0.3, 0.4, 0.5, 0.6])
    (term,) = model.replace_rvs_by_values([log_volume(model)])
    point = {"amplitude": a, "sigma": s, "lengthscale": 1.3, "weight": 0.7}
    given = {
        value: np.log(point[rv.name]) if rv.name in point else np.full((20, 2), 0.5)
        for rv, value in model.rvs_to_values.items()
        if rv in model.free_RVs
    }
    found = term.eval(given, on_unused_input="ignore", mode=gplvm.model.compile_mode())
    scale = model["Y_scale"].get_value()
    variance = np.nanvar(Y / scale, axis=0)
    # Variance and slopes of functions over x ~ N(0, I) by drawing x, and a step apart from it.
    x = np.random.default_rng(0).normal(size=(2, 400_000, 2))
    k = np.exp(-0.5 * ((x[0] - x[1]) ** 2).sum(axis=1) / 1.3**2)
    varies = 1.0 + 2 * 0.7**2 - k.mean()
    noise = s**2 + np.array([0.1, 0.2, 0.3, 0.4]) ** 2
    each = np.maximum(variance / noise - 1.0, 0.0) / varies
    h = ~np.isnan(Y) @ each * (1 / 1.3**2 + 0.7**2) / 0.5**2
    expected = (np.log(2 * np.pi) - np.log1p(h)).sum()
    assert float(found) == pytest.approx(expected, abs=0.02)  # of the draws


def test_new_rows_of_a_sum_with_a_noise_of_each_column():
    """The gradient of ln p(y, x), and the least squares that it starts from, by differences."""
    Y, _, _ = factor_table(n=30, d=5)
    model = gplvm.build_model(Y, 2, kernel="rbf + linear", noise="column", scale="feature")
    rng = np.random.default_rng(3)
    theta = {"amplitude": rng.uniform(0.5, 1.5, 5), "sigma": rng.uniform(0.2, 0.6, 5)}
    fit = fit_of(
        model,
        rng.normal(size=(1, 1, 30, 2)),
        lengthscale=0.8,
        weight=0.6,
        **{name: value[None, None] for name, value in theta.items()},
    )
    F, _, _ = Fit(fit).table()
    (draw,) = each_draw(Fit(fit))
    density = RowDensity(draw, F)
    seen = rng.uniform(size=(4, 5)) < 0.7
    seen[:, 0] = True
    rows = Rows(
        np.where(seen, rng.normal(size=(4, 5)), 0.0), seen, np.zeros((4, 2)), np.ones((4, 2))
    )
    x, h = rng.normal(size=(4, 2)), 1e-6
    for what in (density.log_joint, density.squares):
        gradient = what(x, rows)[1]
        for q in range(2):
            step = h * np.eye(2)[q]
            difference = (what(x + step, rows)[0] - what(x - step, rows)[0]) / (2 * h)
            np.testing.assert_allclose(gradient[:, q], difference, rtol=1e-5, atol=1e-5)
    assert np.isfinite(density.shortfall(x, rows)).all()
