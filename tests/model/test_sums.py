"""Kernels with a linear part, from the fit to all that is asked of it."""

import warnings

import numpy as np
import pytest
import xarray as xr
from conftest import simulated
from made import fit_of
from oracles import SUMS, column_logps, kernel_matrix
from sklearn.decomposition import PCA

import pm_gplvm as gplvm
from pm_gplvm.fitting.relocation import Relocation
from pm_gplvm.model.density import compile_log_density
from pm_gplvm.sampling.replicas import compile_posterior

QUIET = {"random_seed": 1, "progressbar": False}
THETA = {"lengthscale": 0.8, "amplitude": 1.1, "weight": 0.7, "sigma": 0.3, "bias": 0.5}


@pytest.fixture(scope="module")
def line():
    """60 rows of a table that is linear in two factors, and noise of a tenth."""
    rng = np.random.default_rng(0)
    factors, loadings = rng.normal(size=(60, 2)), rng.normal(size=(2, 10))
    return factors @ loadings + 0.1 * rng.normal(size=(60, 10))


@pytest.fixture(scope="module")
def fit(line):
    return gplvm.fit_map(gplvm.build_model(line, 2, kernel="rbf + linear", resolution=0), **QUIET)


def position(fit):
    return fit["posterior"]["X"].to_numpy()[0, 0]


def scalars(fit):
    return {n: v.item() for n, v in fit["posterior"].data_vars.items() if v.ndim == 2}


def holed(Y):
    hole = np.zeros(Y.shape, dtype=bool)
    hole[[1, 4, 7], [0, 2, 2]] = True
    return Y.where(~hole), hole


# A linear table


def test_a_linear_table_needs_the_linear_part_alone(fit, line):
    theta = scalars(fit)
    across = theta["weight"] * position(fit).std()
    assert theta["amplitude"] < 0.1 * across
    pca = PCA(2).fit(line)
    fitted = gplvm.reconstruct(fit)["mean"].to_numpy()
    best = pca.inverse_transform(pca.transform(line))
    assert ((fitted - line) ** 2).mean() < 1.05 * ((best - line) ** 2).mean()


@pytest.mark.parametrize("times", [3.0, 10.0])
def test_rows_far_outside_are_placed_along_the_line(fit, line, times):
    """Where a stationary kernel would have drawn them back to the mean."""
    centre = line.mean(axis=0)
    far = centre + times * (line[:20] - centre)  # their noise too: they are unlike all others
    with pytest.warns(RuntimeWarning, match="explained much worse than the table's own"):
        new = gplvm.embed(fit, far, draws=400, **QUIET)
    x, X = new["posterior"]["X"].mean(("chain", "draw")).to_numpy(), position(fit)[:20]
    share = np.einsum("nq,nq->n", x, X) / np.einsum("nq,nq->n", X, X)
    np.testing.assert_allclose(share, times, rtol=0.05)
    along = share[:, None] * X
    assert np.linalg.norm(x - along) < 0.02 * np.linalg.norm(x)
    assert new["rows"]["converged"].all()
    predicted = gplvm.predict(fit, x)["mean"].to_numpy()
    misfit = np.sqrt(((predicted - far) ** 2).mean(axis=1))
    assert misfit.max() < 0.1 * times * 2.0  # of the noise, which was taken along


def test_far_rows_of_a_bent_table_find_what_fits_them(rng):
    """The bend ends, the line goes on: no other place fits a far row nearly as well."""
    t = rng.normal(size=(50, 1))
    loadings = rng.normal(size=(1, 8))
    Y = t @ loadings + 0.5 * np.sin(2.0 * t + np.arange(8)) + 0.05 * rng.normal(size=(50, 8))
    fit = gplvm.fit_map(gplvm.build_model(Y, 1, kernel="rbf + linear", resolution=0), **QUIET)
    sides = np.sign(t[:10]) * 6.0
    far = Y.mean(axis=0) + sides @ loadings
    with pytest.warns(RuntimeWarning, match="explained much worse than the table's own"):
        new = gplvm.embed(fit, far, draws=400, **QUIET)
    x = new["posterior"]["X"].mean(("chain", "draw")).to_numpy()
    predicted = gplvm.predict(fit, x)["mean"].to_numpy()
    assert ((predicted - far) ** 2).mean() < 0.1 * ((far - Y.mean(axis=0)) ** 2).mean()
    assert np.isfinite(gplvm.log_predictive(fit, far, draws=400, **QUIET)["log_score"]).all()


# What is asked of a fit


def test_a_hole_is_filled_by_the_conditional_of_its_column(Y, rng):
    table, hole = holed(Y)
    model = gplvm.build_model(table, 2, kernel="rbf + linear + bias", resolution=0, missing="mask")
    X = rng.standard_normal((12, 2))
    fit = fit_of(model, X[None, None], **THETA)
    K = kernel_matrix("rbf + linear", X, **THETA)
    centre, scale = (fit["constant_data"][n].to_numpy() for n in ("Y_mean", "Y_scale"))
    filled = gplvm.impute(fit)
    for n, d in np.argwhere(hole):
        seen = ~hole[:, d]
        gain = np.linalg.solve(K[np.ix_(seen, seen)], K[seen, n])
        f = (table.to_numpy()[seen, d] - centre[d]) / scale[d]
        spread = scale[d] * np.sqrt(K[n, n] - gain @ K[seen, n])
        assert filled["mean"][n, d].item() == pytest.approx(centre[d] + scale[d] * gain @ f)
        assert filled["sd"][n, d].item() == pytest.approx(spread)


def test_evidence_of_a_new_row_by_quadrature(Y, rng):
    """ln p(y) with one latent dimension: the integral over x on a grid."""
    model = gplvm.build_model(Y, 1, kernel="matern52 + linear", resolution=0)
    X = rng.standard_normal((12, 1))
    theta = {name: value for name, value in THETA.items() if name != "bias"}
    fit = fit_of(model, X[None, None], **theta)
    new = Y.to_numpy()[:3] + 0.3
    found = gplvm.log_predictive(fit, new, draws=20_000, **QUIET)
    centre, scale = (fit["constant_data"][n].to_numpy() for n in ("Y_mean", "Y_scale"))
    F = (Y.to_numpy() - centre) / scale
    grid = np.linspace(-7.0, 7.0, 1401)
    heights = np.empty((3, len(grid)))
    K = kernel_matrix("matern52 + linear", X, **theta)
    for j, x in enumerate(grid):
        joint = kernel_matrix("matern52 + linear", np.vstack([X, [[x]]]), **theta)
        gain = np.linalg.solve(K, joint[:12, 12])
        variance = joint[12, 12] - gain @ joint[:12, 12]
        away = (new - centre) / scale - gain @ F
        heights[:, j] = -0.5 * ((away**2).sum(axis=1) / variance + 4 * np.log(2 * np.pi * variance))
        heights[:, j] -= 0.5 * (x**2 + np.log(2 * np.pi))
    expected = np.log(np.exp(heights).sum(axis=1) * (grid[1] - grid[0])) - np.log(scale).sum()
    np.testing.assert_allclose(found["log_score"], expected, atol=0.03)


def test_saved_and_read_and_built_again(fit, tmp_path, rng):
    again = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    places = rng.standard_normal((3, 2))
    for one, other in zip(
        (gplvm.predict(fit, places), gplvm.diagnostics.magnification(fit, places)),
        (gplvm.predict(again, places), gplvm.diagnostics.magnification(again, places)),
        strict=True,
    ):
        xr.testing.assert_identical(one, other)
    assert [rv.name for rv in gplvm.model.rebuild(again).free_RVs] == [
        "X",
        "lengthscale",
        "amplitude",
        "weight",
        "sigma",
    ]
    with pytest.raises(ValueError, match=r"scale=True needs a stationary kernel"):
        gplvm.align(again, scale=True)


# Rows that move, in units of the lengthscale


@pytest.mark.parametrize("ard", [False, True], ids=["shared", "ard"])
@pytest.mark.parametrize("kernel", SUMS)
def test_the_samplers_K_is_that_of_X(kernel, ard, Y, rng):
    """Positions there are X / lengthscale, while the weight counts per unit of X."""
    posterior = compile_posterior(
        gplvm.build_model(Y, 2, kernel=f"{kernel} + bias", ard=ard, resolution=0)
    )
    ensemble = posterior.ensemble
    states = 0.5 * rng.standard_normal((3, ensemble.size))
    draws = ensemble.draws(states)
    theta, lengthscale = posterior.tables[0].theta(draws, 3)
    inverse = theta.inverse(draws["X"] / lengthscale)
    for r in range(3):
        own = {name: draws[name][r] for name in THETA}
        K = kernel_matrix(kernel, draws["X"][r], **own)
        np.testing.assert_allclose(inverse[r] @ K, np.eye(12), atol=1e-7)


@pytest.mark.parametrize("with_holes", [False, True])
def test_a_row_put_elsewhere_raises_the_density_as_scipy_says(Y, with_holes, rng):
    table, hole = holed(Y) if with_holes else (Y, np.zeros(Y.shape, dtype=bool))
    model = gplvm.build_model(
        table, 2, kernel="rbf + linear", resolution=0, ard=True, missing="mask"
    )
    density, log_lengthscale = compile_log_density(model), np.log([0.6, 1.3])
    before = {
        "X": rng.standard_normal((12, 2)),
        "lengthscale_log__": log_lengthscale,
        "amplitude_log__": np.log(0.6),
        "weight_log__": np.log(0.9),
        "sigma_log__": np.log(0.2),
    }
    after, n_moved = Relocation(model, np.random.default_rng(3))(before)
    assert n_moved > 0

    def value(values):
        theta = {"amplitude": 0.6, "weight": 0.9, "sigma": 0.2}
        K = kernel_matrix("rbf + linear", values["X"], lengthscale=np.exp(log_lengthscale), **theta)
        f = (table.to_numpy() - model["Y_mean"].eval()) / model["Y_scale"].eval()
        parts = [
            column_logps(f[seen, d][:, None], K[np.ix_(seen, seen)])[0]
            for d, seen in enumerate(~hole.T)
        ]
        return sum(parts) - 0.5 * (values["X"] ** 2).sum()

    gained = value(after) - value(before)
    assert gained > 0.5 * n_moved
    found = density(density.pack(after))[0] - density(density.pack(before))[0]
    assert found == pytest.approx(gained, rel=1e-8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # too short to have converged
@pytest.mark.parametrize("with_holes", [False, True])
def test_short_runs_of_the_samplers(Y, with_holes):
    table = holed(Y)[0] if with_holes else Y
    model = gplvm.build_model(table, 2, kernel="rbf + linear", resolution=0, missing="mask")
    few = {"draws": 10, "tune": 20, "chains": 2}
    drawn = gplvm.sample(model, **few, **QUIET)
    for chain, draw in ((0, 3), (1, 9)):
        at = drawn["posterior"].to_dataset().isel(chain=chain, draw=draw)
        theta = {n: float(at[n]) for n in THETA if n in at}
        assert set(theta) == set(THETA) - {"bias"}
        K = kernel_matrix("rbf + linear", at["X"].to_numpy(), **theta)
        centre, scale = (drawn["constant_data"][n].to_numpy() for n in ("Y_mean", "Y_scale"))
        total = 0.0
        for d in range(4):
            y = table.to_numpy()[:, d]
            o = ~np.isnan(y)
            total += column_logps(y[o][:, None], K[np.ix_(o, o)], centre[d], scale[d])[0]
        known = gplvm.diagnostics.compute_log_likelihood(drawn)["log_likelihood"]["Y"]
        assert known[chain, draw].sum().item() == pytest.approx(total, rel=1e-8)
    aligned = gplvm.align(drawn)
    np.testing.assert_array_equal(aligned["aligned"]["shift"], 0.0)
    assert (
        np.isfinite(gplvm.diagnostics.leave_one_out(aligned)["log_score"]).sum()
        == table.notnull().sum()
    )
    best = gplvm.fit_map(model, **QUIET)
    assert set(gplvm.sample_theta(model, best, **few, **QUIET)["posterior"].data_vars) == {
        "lengthscale",
        "amplitude",
        "weight",
        "sigma",
    }


@pytest.mark.parametrize("method", ["vfe", "fitc"])
def test_a_linear_table_needs_the_linear_part_alone_through_inducing_inputs(method, line, fit):
    model = gplvm.build_model(line, 2, kernel="rbf + linear", resolution=0)
    sparse = gplvm.fit_sparse(model, n_inducing=10, method=method, **QUIET)
    assert set(sparse["posterior"].data_vars) == {"X", *THETA} - {"bias"}
    theta = scalars(sparse)
    assert theta["amplitude"] < 0.1 * theta["weight"] * position(sparse).std()
    # Two inducing inputs determine a linear function: what is lost is the small part beside it.
    lp, exact = (f["sample_stats"]["lp"].item() for f in (sparse, fit))
    assert lp == pytest.approx(exact, abs=0.02 * abs(exact))
    ours, theirs = (gplvm.reconstruct(f)["mean"].to_numpy() for f in (sparse, fit))
    np.testing.assert_allclose(ours, theirs, atol=0.2)


def test_variational_takes_the_nodes_for_a_sum():
    model = gplvm.build_model(simulated(20, 4), 2, kernel="rbf + linear", resolution=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the rule of nodes misses the bound
        fit = gplvm.fit_variational(model, n_inducing=8, max_iter=20, **QUIET)
    assert {"weight", "amplitude"} < set(fit["posterior"].data_vars)
    assert np.isfinite(fit.attrs["rule_error"])
