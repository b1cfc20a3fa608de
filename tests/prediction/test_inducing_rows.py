"""Unseen rows through inducing inputs: their density against the joint Gaussian, and where they are put."""

import warnings

import numpy as np
import pytest
import xarray as xr
from conftest import simulated
from made import fit_of
from oracles import central_differences, kernel_matrix
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.core import inducing as inducing_module
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction import row_posterior
from pm_gplvm.prediction.processes import each_process, each_with_rows
from pm_gplvm.prediction.row_posterior import RowDensity, Rows

QUIET = {"progressbar": False, "random_seed": 1}
JITTER = 1e-8
THETA = {"lengthscale": 0.9, "amplitude": 1.3, "sigma": 0.3}
KERNELS = ("rbf", "matern32 + bias", "cauchy", "linear", "rbf + linear + bias")
N, Q = 14, 2


def theta_of(kernel):
    theta = {"sigma": 0.3} if kernel == "linear" else dict(THETA)
    theta |= {"weight": 0.6} if "+ linear" in kernel else {}
    return theta | ({"bias": 0.7} if "bias" in kernel else {})


def sparse_by_hand(Y, kernel, W=None, *, method="vfe", seed=3):
    """A sparse fit of positions by chance; W at all of them if it is not given."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((len(Y), Q))
    model = gplvm.build_model(Y, Q, kernel=kernel, resolution=0, missing="mask")
    fit = fit_of(model, X[None, None], **theta_of(kernel))
    inducing = xr.Dataset({"X_inducing": (("inducing", "latent"), X if W is None else W)})
    fit["approximation"] = xr.DataTree(inducing)
    fit.attrs["approximation"] = method
    return fit


def exactly(fit):
    """The same draws as a fit of the exact model."""
    exact = fit.copy()
    del exact["approximation"]
    return exact


def density_of(fit):
    (process,) = each_process(Fit(fit))
    return RowDensity(process, Fit(fit).table().F)


def some_rows(rng, M, D):
    seen = rng.uniform(size=(M, D)) < 0.6
    seen[:, 0] = True
    seen[0] = True
    y = np.where(seen, rng.standard_normal((M, D)), 0.0)
    return Rows(y, seen, rng.standard_normal((M, Q)), rng.uniform(0.5, 2.0, (M, Q)))


@pytest.fixture(scope="module")
def table():
    return simulated(N, 9, seed=2)


def inducing(rng, kernel):
    return rng.standard_normal((2 if kernel == "linear" else 5, Q))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_the_density_is_that_of_the_dense_predictive(kernel, method, table, rng):
    W = inducing(rng, kernel)
    fit = sparse_by_hand(table, kernel, W, method=method)
    density, rows, x = density_of(fit), some_rows(rng, 6, 9), rng.standard_normal((6, Q))
    theta = theta_of(kernel)
    sigma, name = theta.pop("sigma"), kernel.removesuffix(" + bias")
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    K = kernel_matrix(name, np.vstack([X, x, W]), **theta)
    unit = 1.0 + 2 * (0.6 * 0.9 / 1.3) ** 2 if "+ linear" in kernel else 1.0
    gram = K[N + 6 :, N + 6 :]
    gram = gram + JITTER * theta.get("amplitude", 1.0) ** 2 * unit * np.eye(len(W))
    low = K[: N + 6, N + 6 :] @ np.linalg.solve(gram, K[N + 6 :, : N + 6])
    left = np.diag(K)[: N + 6] - np.diag(low)
    noise = sigma**2 + (left[:N] if method == "fitc" else np.zeros(N))
    gain = np.linalg.solve(low[:N, :N] + np.diag(noise), low[:N, N:]).T
    spread = np.sqrt(np.diag(K)[N : N + 6] - (gain * low[N:, :N]).sum(axis=1) + sigma**2)
    each = norm(gain @ density.F, spread[:, None]).logpdf(rows.y)
    expected = (each * rows.seen).sum(axis=1) + norm(rows.mean, rows.sd).logpdf(x).sum(axis=1)

    value, gradient = density.log_joint(x, density.prepared(rows))
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_array_equal(density.log_joint(x, rows)[0], value)  # prepared there
    for i in range(6):
        slope = central_differences(
            lambda at, i=i: density.log_joint(at["x"], rows[[i]])[0][0], {"x": x[[i]]}
        )
        np.testing.assert_allclose(gradient[[i]], slope["x"], rtol=1e-5, atol=1e-5)
    # The other ways to ask for it.
    together, variance = density.log_joint_and_variance(x[:, None], density.prepared(rows))
    np.testing.assert_allclose(together[:, 0], expected, rtol=1e-7)
    np.testing.assert_allclose(variance[:, 0, 0], spread**2, rtol=1e-7)
    np.testing.assert_allclose(np.diag(density.log_densities(x, rows)), expected, rtol=1e-7)
    mean, variance = density.conditional(x)
    np.testing.assert_allclose(mean, gain @ density.F, atol=1e-6)
    np.testing.assert_allclose(variance[:, 0], spread**2, rtol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_squares_have_their_slope_and_curvature(kernel, table, rng):
    density = density_of(sparse_by_hand(table, kernel, inducing(rng, kernel)))
    rows, x = some_rows(rng, 4, 9), rng.standard_normal((4, Q))
    value, gradient, curvature = density.squares(x, rows)
    mean, _ = density.conditional(x)
    residual = np.where(rows.seen, rows.y - mean, 0.0) / 0.3
    away = (x - rows.mean) / rows.sd
    np.testing.assert_allclose(value, 0.5 * ((residual**2).sum(1) + (away**2).sum(1)), rtol=1e-8)
    step = 1e-6
    for q in range(Q):
        up, down = x.copy(), x.copy()
        up[:, q] += step
        down[:, q] -= step
        slope = (density.squares(up, rows)[0] - density.squares(down, rows)[0]) / (2 * step)
        np.testing.assert_allclose(gradient[:, q], slope, rtol=1e-5, atol=1e-5)
        along = (density.conditional(up)[0] - density.conditional(down)[0]) / (2 * step)
        along = np.where(rows.seen, along, 0.0) / 0.3
        own = (along**2).sum(axis=1) + 1.0 / rows.sd[:, q] ** 2
        np.testing.assert_allclose(curvature[:, q, q], own, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["rbf", "matern32 + bias", "rbf + linear + bias"])
@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_with_inducing_inputs_at_all_rows_it_is_the_exact_one(
    kernel, method, table, rng, monkeypatch
):
    """With next to no jitter, which is all that they differ by."""
    monkeypatch.setattr(inducing_module, "JITTER", 1e-13)
    fit = sparse_by_hand(table, kernel, method=method)
    ours, exact = density_of(fit), density_of(exactly(fit))
    rows, x = some_rows(rng, 6, 9), rng.standard_normal((6, Q))
    for a, b in zip(ours.log_joint(x, rows), exact.log_joint(x, rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.misfits(rows), exact.misfits(rows), rtol=1e-12)
    np.testing.assert_allclose(ours.shortfall(x, rows), exact.shortfall(x, rows), rtol=1e-7)
    new = rng.standard_normal((3, Q))
    for verb in (gplvm.predict, gplvm.reconstruct, gplvm.diagnostics.leave_one_out):
        more = {"cov": True} if verb is gplvm.predict else {}
        arguments = (new,) if verb is gplvm.predict else ()
        one, other = (verb(f, *arguments, **more) for f in (fit, exactly(fit)))
        for name in set(one.data_vars) - {"pareto_k"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-7, atol=1e-7)
    one, other = (
        gplvm.sample_predictive(f, new, num_samples=4000, random_seed=2)["predictions"]["Y"][0]
        for f in (fit, exactly(fit))
    )
    error = np.sqrt(2.0 / 4000) * other.std("draw")
    assert (np.abs(one.mean("draw") - other.mean("draw")) < 5.0 * error).all()
    ours, exact = (
        gplvm.diagnostics.compute_log_likelihood(f)["log_likelihood"]["Y"]
        for f in (fit, exactly(fit))
    )
    np.testing.assert_allclose(ours, exact, rtol=1e-7)


def test_the_log_likelihood_is_the_fits_own(table):
    for method in ("vfe", "fitc"):
        model = gplvm.build_model(table, Q, kernel="rbf + linear")
        fit = gplvm.fit_sparse(model, n_inducing=5, method=method, max_iter=20, tol=1e-2, **QUIET)
        columns = gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"]
        known = fit["sample_stats"]["log_likelihood"].item()
        assert columns.sum().item() == pytest.approx(known, rel=1e-8)


# Tables with missing entries: each column by itself, with the rows it has


@pytest.fixture(scope="module")
def holed():
    """14 x 9 with three patterns, and 5 rows alone in one of them."""
    table = simulated(N, 9, seed=2)
    seen = np.ones((N, 9), dtype=bool)
    seen[::3, 2:5] = False
    seen[5:, 7] = False
    return table.where(seen)


def column_alone(fit, d):
    """The same fit of the complete table of one column over its rows, its mean and scale as they were."""
    Y = fit["observed_data"]["Y"]
    rows = np.flatnonzero(np.isfinite(Y.transpose("obs", "feature").to_numpy()[:, d]))
    groups = {
        name: group.to_dataset().isel(obs=rows, feature=[d], missing_dims="ignore")
        for name, group in fit.children.items()
    }
    alone = xr.DataTree.from_dict(groups)
    alone.attrs = fit.attrs
    return alone, rows


def with_q(fit, rng):
    """Give a sparse fit by hand the q(X) of a variational one."""
    X = fit["posterior"]["X"][0, 0].drop_vars(("chain", "draw"))
    sd = X.copy(data=rng.uniform(0.1, 0.4, X.shape))
    known = fit["approximation"].to_dataset().assign(X_mean=X, X_sd=sd)
    fit["approximation"] = xr.DataTree(known)
    return fit


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", ["vfe", "fitc", "q"])
def test_each_column_is_told_from_its_own_rows(kernel, method, holed, rng):
    fit = sparse_by_hand(holed, kernel, inducing(rng, kernel), method=method)
    fit = with_q(fit, rng) if method == "q" else fit
    new = rng.standard_normal((3, Q))
    whole = {
        "predict": gplvm.predict(fit, new, noise=True, cov=True),
        "reconstruct": gplvm.reconstruct(fit),
        "leave_one_out": gplvm.diagnostics.leave_one_out(fit),
    }
    likelihood = gplvm.diagnostics.compute_log_likelihood(fit)["log_likelihood"]["Y"]
    for d in (0, 3, 7):
        alone, rows = column_alone(fit, d)
        same = {
            "predict": gplvm.predict(alone, new, noise=True, cov=True),
            "reconstruct": gplvm.reconstruct(alone),
            "leave_one_out": gplvm.diagnostics.leave_one_out(alone),
        }
        for verb, one in same.items():
            found = whole[verb].isel(feature=[d], obs=rows, missing_dims="ignore")
            for name in one.data_vars:
                np.testing.assert_allclose(found[name], one[name], rtol=1e-7, atol=1e-9)
        own = gplvm.diagnostics.compute_log_likelihood(alone)["log_likelihood"]["Y"]
        np.testing.assert_allclose(likelihood[..., [d]], own, rtol=1e-9)
    # A hole is what predict gives at its row's position, or the mean of that under q.
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    hole, at = np.isnan(holed.to_numpy()), gplvm.predict(fit, X)
    filled = gplvm.impute(fit)
    assert (filled["sd"].to_numpy()[hole] > 0.0).all()
    if method != "q":
        for name in ("mean", "sd"):
            found = whole["reconstruct"][name].to_numpy()[hole]
            np.testing.assert_allclose(found, at[name].to_numpy()[hole], rtol=1e-8)
        return
    sd, n_draws = fit["approximation"]["X_sd"].to_numpy(), 4000
    x = X[6] + sd[6] * rng.standard_normal((n_draws, Q))
    at = gplvm.predict(fit, x)
    error = at["mean"].std("obs_new") / np.sqrt(n_draws)
    own = whole["reconstruct"].isel(obs=6)
    assert (np.abs(own["mean"] - at["mean"].mean("obs_new")) < 5.0 * error + 0.01).all()
    total = np.sqrt(at["mean"].var("obs_new") + (at["sd"] ** 2).mean("obs_new"))
    np.testing.assert_allclose(own["sd"], total, rtol=0.05)


@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_with_inducing_inputs_at_all_rows_a_table_with_holes_is_the_exact_one(
    method, holed, rng, monkeypatch
):
    monkeypatch.setattr(inducing_module, "JITTER", 1e-13)
    fit = sparse_by_hand(holed, "matern32 + bias", method=method)
    ours, exact = density_of(fit), density_of(exactly(fit))
    rows, x = some_rows(rng, 6, 9), rng.standard_normal((6, Q))
    rows.seen[3] = np.arange(9) == 7  # of whole patterns nothing
    rows.y[~rows.seen] = 0.0
    for some in (rows, ours.prepared(rows)):
        for a, b in zip(ours.log_joint(x, some), exact.log_joint(x, rows), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
    for a, b in zip(
        ours.log_joint_and_variance(x[:, None], ours.prepared(rows)),
        exact.log_joint_and_variance(x[:, None], rows),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
    for a, b in zip(ours.squares(x, rows), exact.squares(x, rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
    both = ours.log_densities(x, rows), exact.log_densities(x, rows)
    np.testing.assert_allclose(*both, rtol=1e-7)
    np.testing.assert_allclose(ours.shortfall(x, rows), exact.shortfall(x, rows), rtol=1e-7)
    np.testing.assert_allclose(ours.misfits(rows), exact.misfits(rows), rtol=1e-12)
    new = holed[:2].to_numpy()
    new[1, :3] = np.nan
    settings = {"draws": 200, "n_starts": 4, **QUIET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (gplvm.impute(f, new, **settings) for f in (fit, exactly(fit)))
    np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-4, atol=1e-4)
    one, other = (gplvm.diagnostics.magnification(f, x) for f in (fit, exactly(fit)))
    np.testing.assert_allclose(one["metric"], other["metric"], rtol=1e-6, atol=1e-8)


# The Bayesian GP-LVM


@pytest.fixture(scope="module")
def digits_fit():
    """60 digits."""
    Y = gplvm.data.load_digits(n=60)
    model = gplvm.build_model(Y, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = gplvm.fit_variational(model, n_inducing=20, draws=40, max_iter=600, **QUIET)
    return Y, fit


def test_training_rows_are_given_back(digits_fit):
    """As GPy's infer_newX is tested: a row of the table comes to where q has it."""
    Y, fit = digits_fit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gplvm.embed(fit, Y, **QUIET)
    known, sd = (fit["approximation"][n].to_numpy() for n in ("X_mean", "X_sd"))
    away = np.linalg.norm(found["modes"]["X"].to_numpy()[:, 0] - known, axis=1)
    others = np.linalg.norm(known[:, None] - known, axis=2) + np.diag(np.full(60, np.inf))
    assert np.median(away) < 0.2 * np.median(others.min(axis=1))
    assert (away < 2.0 * np.linalg.norm(sd, axis=1)).mean() > 0.9
    # And as wide as q has it: the posterior of a row given q(u) is what its factor of q approximates.
    ratio = found["posterior"]["X"].std("draw").to_numpy()[0] / sd
    assert 0.7 < np.median(ratio) < 1.4


def test_reconstruction_is_the_mean_over_q(digits_fit):
    """Against predictions at many draws of each row's position."""
    Y, fit = digits_fit
    found = gplvm.reconstruct(fit, noise=True)
    known, sd = (fit["approximation"][n].to_numpy() for n in ("X_mean", "X_sd"))
    rng, n_draws = np.random.default_rng(0), 4000
    for n in (3, 40):
        x = known[n] + sd[n] * rng.standard_normal((n_draws, 2))
        at = gplvm.predict(fit, x, noise=True)
        error = at["mean"].std("obs_new") / np.sqrt(n_draws)
        assert (np.abs(found["mean"][n] - at["mean"].mean("obs_new")) < 5.0 * error + 1e-9).all()
        total = np.sqrt(at["mean"].var("obs_new") + (at["sd"] ** 2).mean("obs_new"))
        np.testing.assert_allclose(found["sd"][n], total, rtol=0.05)
    residual = (found["mean"] - Y).to_numpy()
    assert (residual**2).mean() < 0.4 * Y.to_numpy().var(axis=0).mean()


def test_an_aligned_fit_says_the_same_in_its_own_frame(digits_fit):
    _, fit = digits_fit
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    target = fit["approximation"]["X_mean"].to_numpy() @ turn.T + [0.3, -0.2]
    aligned = gplvm.align(fit, to=target)
    (plain,) = each_process(Fit(fit))
    turned = next(iter(each_process(Fit(aligned), 1)))
    rotation, shift, scale = turned.frame
    assert not np.allclose(rotation, np.eye(2))
    F = Fit(fit).table().F
    one, other = RowDensity(plain, F), RowDensity(turned, F)
    rng = np.random.default_rng(1)
    rows, x = some_rows(rng, 5, F.shape[1]), rng.standard_normal((5, 2))
    inside = scale * x @ rotation.T + shift
    np.testing.assert_allclose(turned.X, scale * plain.X @ rotation.T + shift, rtol=1e-12)
    value, _ = one.log_joint(x, rows)
    moved, gradient = other.log_joint(inside, rows)
    np.testing.assert_allclose(moved - rows.log_prior(inside), value - rows.log_prior(x), rtol=1e-9)
    for i in range(5):
        slope = central_differences(
            lambda at, i=i: other.log_joint(at["x"], rows[[i]])[0][0], {"x": inside[[i]]}
        )
        np.testing.assert_allclose(gradient[[i]], slope["x"], rtol=2e-5, atol=1e-4)


def test_draws_of_q_are_each_a_sparse_process(digits_fit):
    """What leave_one_out and the log-likelihood go through: X as drawn, u given it."""
    _, fit = digits_fit
    read = Fit(fit)
    processes = list(each_with_rows(read, 5))
    assert len(processes) == 5
    chosen = read.evenly_spaced(5)
    np.testing.assert_array_equal(processes[2].known, read.values("X")[chosen[2]])
    scores = gplvm.diagnostics.leave_one_out(fit)
    assert np.isfinite(scores["log_score"]).all()
    assert np.isfinite(scores["pareto_k"]).all()


def test_only_some_rows_of_a_long_table_are_beginnings(table, rng, monkeypatch):
    monkeypatch.setattr(row_posterior, "_KNOWN", 5)
    fit = sparse_by_hand(table, "rbf", inducing(rng, "rbf"))
    density = density_of(fit)
    assert density.beginnings.shape == (5, Q)
    rows = some_rows(rng, 3, 9)
    expected = ((rows.y[0] - density.F[density.known]) ** 2).mean(axis=1)  # row 0 is seen whole
    np.testing.assert_allclose(density.misfits(rows)[0], expected, rtol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gplvm.embed(fit, table[:2].to_numpy(), draws=100, **QUIET)
    assert np.isfinite(found["modes"]["X"][:, 0]).all()
