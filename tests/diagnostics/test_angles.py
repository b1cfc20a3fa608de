"""Latent dimensions that are angles: aligned by shifts and mirrors, compared around the circle, drawn so."""

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.core.procrustes import circular_mean, circular_procrustes_mean, unrolled, wrapped
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.invariants import pair_distances
from pm_gplvm.model.own_kernels import OwnKernel

TEXT = "rbf[0] + periodic[1]"


def fit_of(kernel, latent_dim, angles):
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(15, 4))
    prior = {"X": gplvm.priors.circular(dims=angles)}
    model = gplvm.build_model(Y, latent_dim, kernel=kernel, priors=prior)
    start = rng.normal(size=(15, latent_dim)) * 1.5
    return gplvm.fit_map(
        model, start=start, n_restarts=1, max_iter=2, relocate=False, progressbar=False
    )


def moved(fit, angles):
    """Eight draws of one shape, each dimension mirrored and shifted, angles also by whole periods."""
    rng = np.random.default_rng(1)
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    draws = np.stack([X * rng.choice([-1, 1], X.shape[1]) + 2.0 * rng.normal(size=X.shape[1]) for _ in range(8)])  # fmt: skip
    draws[..., angles] += 2.0 * np.pi * rng.integers(-2, 3, size=(*draws.shape[:2], len(angles)))
    group = fit["posterior"].to_dataset()
    parts = {n: v.isel(draw=np.zeros(8, dtype=int)) for n, v in group.data_vars.items()}
    parts = {n: v.assign_coords(draw=np.arange(8)) for n, v in parts.items()}
    parts["X"] = parts["X"].copy(data=draws[None])
    many = fit.copy()
    many["posterior"] = xr.DataTree(xr.Dataset(parts))
    return many, X


@pytest.fixture(scope="module", params=[("periodic", 1, [0]), (TEXT, 2, [1])], ids=lambda p: p[0])
def case(request):
    kernel, latent_dim, angles = request.param
    with pytest.warns(RuntimeWarning, match="did not converge"):
        fit = fit_of(kernel, latent_dim, angles)
    return fit, *moved(fit, angles), angles


def test_draws_of_one_shape_are_brought_together(case):
    fit, many, X, angles = case
    aligned = gplvm.align(many)["aligned"]
    np.testing.assert_allclose(aligned["residual"], 0.0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(aligned["X"].to_numpy()[0], axis=0), 0.0, atol=1e-6)
    reference = aligned["reference"].to_numpy()
    np.testing.assert_allclose(circular_mean(reference[:, angles]), 0.0, atol=1e-9)
    back = gplvm.align(many, to=fit)["aligned"]
    apart = back["X"].to_numpy()[0] - X
    apart[..., angles] = wrapped(apart[..., angles])
    np.testing.assert_allclose(apart, 0.0, atol=1e-6)


def test_predictions_move_along(case):
    _, many, X, _ = case
    aligned = gplvm.align(many)
    raw, frame = many["posterior"]["X"].to_numpy()[0], aligned["aligned"]
    x = X[:3] + 0.1
    W, b = frame["rotation"].to_numpy()[0], frame["shift"].to_numpy()[0]
    for i in (0, 5):
        one = many.copy()
        one["posterior"] = xr.DataTree(many["posterior"].to_dataset().isel(draw=[i]))
        turned = gplvm.align(one, to=frame["X"].to_numpy()[0, i])
        told = gplvm.predict(turned, x @ W[i].T + b[i])["mean"]
        np.testing.assert_allclose(told, gplvm.predict(one, x)["mean"], atol=1e-6)
    assert not np.allclose(raw[0], raw[5])


def test_distances_go_around_the_circle(case):
    _, many, X, angles = case
    distance = pair_distances(Fit(many), n_pairs=30)
    np.testing.assert_allclose(np.ptp(distance.to_numpy()[0], axis=0), 0.0, atol=1e-9)
    i, j = (distance[side].to_numpy() for side in ("first", "second"))
    unit = Fit(many).unit_of_positions()[0] * np.ones(X.shape[1])
    apart = X[i] - X[j]
    chord = np.where(np.isin(np.arange(X.shape[1]), angles), 2.0 * np.sin(apart / 2.0), apart)
    np.testing.assert_allclose(distance.to_numpy()[0, 0], np.linalg.norm(chord / unit, axis=1))
    shares = gplvm.diagnostics.neighbour_probabilities(many, n_neighbors=3)
    assert set(np.unique(shares)) <= {0.0, 1.0}
    relevance = gplvm.diagnostics.active_dimensions(many)
    np.testing.assert_allclose(relevance["low"], relevance["high"], rtol=1e-9)


def test_plots_show_one_period(case):
    fit, many, _, angles = case
    for one in (fit, gplvm.align(many)):
        ax = gplvm.plot.latent(one, grid=4, dims=(0, 1) if angles == [1] else None)
        if fit["posterior"].sizes["latent"] == 1:
            ring = ax.collections[-1].get_offsets()
            np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 1.0)
        else:
            np.testing.assert_allclose(ax.get_ylim(), [-np.pi, np.pi])
            assert [t.get_text() for t in ax.get_yticklabels()] == ["-π", "-π/2", "0", "π/2", "π"]
    if angles == [0]:
        ax = gplvm.plot.latent(fit, time=np.arange(15))
        assert [t.get_text() for t in ax.get_yticklabels()][2] == "0"
    plt.close("all")


def test_means_of_angles():
    assert circular_mean(np.array([3.0, 3.0 - 2 * np.pi])) == pytest.approx(3.0)
    draws = np.array([3.1, -3.1])[:, None, None]
    assert abs(unrolled(draws, [0]).mean()) == pytest.approx(np.pi)
    assert unrolled(draws, []) is draws
    rng = np.random.default_rng(0)
    x = rng.uniform(-np.pi, np.pi, 20)
    moved_draws = np.stack([x + 1.0, 0.3 - x, x - 2 * np.pi])
    mean, change = circular_procrustes_mean(moved_draws)
    assert change < 1e-9
    both = [wrapped(s * mean - x - circular_mean(s * mean - x)) for s in (1.0, -1.0)]
    assert min(abs(each).max() for each in both) < 1e-9


def test_periods_of_a_users_own_kernel_are_found():
    def around(input_dim, lengthscale):
        line = pm.gp.cov.ExpQuad(input_dim, ls=lengthscale, active_dims=[0])
        return line + pm.gp.cov.Periodic(input_dim, 2 * np.pi, ls=lengthscale, active_dims=[1])

    kernel = OwnKernel.of(around)
    assert kernel.angles(2) == [1]
    assert OwnKernel.of(lambda input_dim: pm.gp.cov.ExpQuad(input_dim, ls=1.0)).angles(2) == []
