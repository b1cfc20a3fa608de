"""Alignment: against SciPy and brute force, and that it changes nothing that the data can tell."""

from itertools import permutations, product

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import fit_of, rotations, rows_drawn, signed_permutations, turned
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics import align as alignment
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.prediction.processes import each_draw

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.4}


@pytest.fixture(scope="module")
def small(Y):
    """A model of 12 rows in two dimensions."""
    return gplvm.build_model(Y)


def cloud(rng, *, shape=(2, 5), n=12, q=2, spread=0.1):
    """Draws about one centred place with a width of its own in each dimension."""
    place = rng.standard_normal((n, q)) * np.arange(q, 0, -1)
    return place - place.mean(axis=0) + spread * rng.standard_normal((*shape, n, q))


@pytest.mark.parametrize("q", [1, 2, 3])
def test_turned_and_moved_copies_of_one_place_fall_together(Y, rng, q):
    model = gplvm.build_model(Y, latent_dim=q)
    place = cloud(rng, shape=(1, 1), q=q, spread=0.0)
    copies = turned(np.repeat(place, 8, axis=0), rotations(rng, (8, 1), q))
    fit = fit_of(model, copies + rng.standard_normal((8, 1, 1, q)), **THETA)
    for to in (None, place[0, 0], fit_of(model, place, **THETA)):
        group = gplvm.align(fit, to=to)["aligned"]
        X = group["X"].to_numpy()
        np.testing.assert_allclose(X, np.broadcast_to(X[:1], X.shape), atol=1e-8)
        np.testing.assert_allclose(group["residual"], 0.0, atol=1e-7)
    np.testing.assert_allclose(X[0], place[0], atol=1e-8)


def test_one_draw_is_turned_as_scipy_turns_it(small, rng):
    draws, place = rng.standard_normal((1, 6, 12, 2)), 3.0 + rng.standard_normal((12, 2))
    fit = fit_of(small, draws, **THETA)
    plain, scaled = (gplvm.align(fit, to=place, scale=s)["aligned"] for s in (False, True))
    target = place - place.mean(axis=0)
    for i, X in enumerate(draws[0]):
        centred = X - X.mean(axis=0)
        R, _ = orthogonal_procrustes(centred, target)
        np.testing.assert_allclose(plain["rotation"][0, i], R.T, atol=1e-12)
        np.testing.assert_allclose(plain["X"][0, i], centred @ R + place.mean(axis=0), atol=1e-12)
        distance = np.linalg.norm(centred @ R - target) / np.sqrt(12)
        assert plain["residual"][0, i].item() == pytest.approx(distance)
        # SciPy's disparity is the squared residual of a draw in best size, of a reference of size 1.
        disparity = 12 * scaled["residual"][0, i].item() ** 2 / np.linalg.norm(target) ** 2
        assert disparity == pytest.approx(procrustes(target, X)[2])


def test_under_ard_no_other_signs_and_order_come_nearer(Y, rng):
    model = gplvm.build_model(Y, latent_dim=3, ard=True)
    draws, place = rng.standard_normal((1, 4, 12, 3)), rng.standard_normal((12, 3))
    ell = rng.uniform(0.5, 3.0, (1, 4, 3))
    fit = fit_of(model, draws, lengthscale=ell, amplitude=1.0, sigma=0.3)
    group = gplvm.align(fit, to=place)["aligned"]
    target = place - place.mean(axis=0)
    for i, X in enumerate(draws[0]):
        centred = X - X.mean(axis=0)
        best, order, _ = min(
            (np.linalg.norm(centred[:, order] * signs - target), order, signs)
            for order in permutations(range(3))
            for signs in product([-1.0, 1.0], repeat=3)
        )
        assert group["residual"][0, i].item() == pytest.approx(best / np.sqrt(12))
        np.testing.assert_array_equal(group["lengthscale"][0, i], ell[0, i, list(order)])
    assert group.attrs["group"] == "signed permutation"


CASES = [
    ("rbf", False, False),
    ("rbf", False, True),
    ("matern52", True, False),
    ("matern52", True, True),
    ("rbf + bias", True, True),
    ("linear + bias", False, False),
    ("rbf + linear", False, False),
    ("rbf + linear + bias", True, False),
]


@pytest.mark.parametrize(("kernel", "ard", "scale"), CASES)
def test_k_and_predictions_are_those_of_the_raw_draws(Y, rng, kernel, ard, scale):
    model = gplvm.build_model(Y, kernel=kernel, ard=ard)
    theta = {
        rv.name: rng.uniform(0.5, 1.5, (2, 3, *((2,) if rv.name == "lengthscale" and ard else ())))
        for rv in model.free_RVs[1:]
    }
    fit = fit_of(model, 1.0 + rng.standard_normal((2, 3, 12, 2)), **theta)
    aligned = gplvm.align(fit, to=rng.standard_normal((12, 2)), scale=scale)
    for raw, now in zip(each_draw(Fit(fit)), each_draw(Fit(aligned)), strict=True):
        np.testing.assert_allclose(now.K, raw.K, rtol=1e-9, atol=1e-12)
        assert not np.allclose(now.X, raw.X)
    X_new, group = rng.standard_normal((4, 2)), aligned["aligned"].to_dataset()
    for i in np.ndindex(2, 3):
        at = group.isel(chain=[i[0]], draw=[i[1]])
        size = at["scale"].item() if scale else 1.0
        there = size * X_new @ at["rotation"].to_numpy()[0, 0].T + at["shift"].to_numpy()[0, 0]
        before, after = (tree.isel(chain=[i[0]], draw=[i[1]]) for tree in (fit, aligned))
        raw, now = gplvm.predict(before, X_new), gplvm.predict(after, there)
        np.testing.assert_allclose(now["mean"], raw["mean"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(now["sd"], raw["sd"], rtol=1e-6)
    assert np.allclose(group["shift"], 0.0) == ("linear" in kernel)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ard=st.booleans(), scale=st.booleans())
def test_the_frame_the_draws_came_in_does_not_matter(Y, small, seed, ard, scale):
    rng = np.random.default_rng(seed)
    model = gplvm.build_model(Y, ard=True) if ard else small
    X, ell = cloud(rng), rng.uniform(0.5, 1.5, (2, 5, 2) if ard else (2, 5))
    W = (signed_permutations if ard else rotations)(rng, (2, 5), 2)
    other = np.einsum("cslf,csf->csl", abs(W), ell) if ard else ell
    moved = turned(X, W) + rng.standard_normal((2, 5, 1, 2))
    first, second = (
        gplvm.align(fit_of(model, x, lengthscale=e, amplitude=1.0, sigma=0.3), scale=scale)
        for x, e in ((X, ell), (moved, other))
    )
    np.testing.assert_allclose(Fit(second).draws("X"), Fit(first).draws("X"), atol=1e-6)
    np.testing.assert_allclose(
        Fit(second).draws("lengthscale"), Fit(first).draws("lengthscale"), rtol=1e-6
    )


@pytest.mark.parametrize("ard", [False, True])
def test_the_own_mean_is_the_mean_of_what_is_turned_onto_it(Y, rng, ard):
    model = gplvm.build_model(Y, latent_dim=3, ard=ard)
    lengthscale = np.ones((2, 5, 3)) if ard else 1.0
    X = cloud(rng, q=3, spread=0.4)
    fit = fit_of(model, X, lengthscale=lengthscale, amplitude=1.0, sigma=0.3)
    group = gplvm.align(fit)["aligned"].to_dataset()
    mean = group["X"].mean(("chain", "draw")).to_numpy()
    np.testing.assert_allclose(group["reference"], mean, atol=1e-7)
    spread = (mean**2).sum(axis=0)
    assert (np.diff(spread) < 0).all()
    assert (mean[np.abs(mean).argmax(axis=0), np.arange(3)] > 0).all()
    if not ard:
        np.testing.assert_allclose(mean.T @ mean, np.diag(spread), atol=1e-7)


def test_scaling_brings_a_small_mode_and_wide_draws_together(small, rng):
    place = cloud(rng, shape=(1, 1), spread=0.0)
    mode = fit_of(small, 0.2 * place, **(THETA | {"lengthscale": 0.2}))
    sizes = rng.uniform(0.5, 2.0, (1, 6))
    wide = fit_of(small, sizes[..., None, None] * place, **(THETA | {"lengthscale": sizes}))
    group = gplvm.align(wide, to=mode, scale=True)["aligned"]
    np.testing.assert_allclose(group["scale"], 0.2 / sizes)
    np.testing.assert_allclose(group["lengthscale"], np.full((1, 6), 0.2))
    np.testing.assert_allclose(group["residual"], 0.0, atol=1e-9)
    assert gplvm.align(wide, to=mode)["aligned"]["residual"].min() > 0.5


def test_nothing_but_the_new_group_is_touched(small, rng):
    fit = fit_of(small, cloud(rng), **THETA)
    kept = fit.copy(deep=True)
    aligned = gplvm.align(fit)
    assert fit.identical(kept)
    assert set(aligned.children) - set(fit.children) == {"aligned"}
    assert all(aligned[name].identical(kept[name]) for name in kept.children)
    np.testing.assert_array_equal(Fit(aligned).draws("X", raw=True), kept.posterior["X"])


def test_aligning_again_is_the_same_and_to_another_replaces(small, rng):
    fit = fit_of(small, turned(cloud(rng), rotations(rng, (2, 5), 2)), **THETA)
    here, there = rng.standard_normal((2, 12, 2))
    for to in (None, here):
        once = gplvm.align(fit, to=to)
        assert gplvm.align(once, to=to).identical(once)
        assert gplvm.align(gplvm.align(fit, to=there, scale=True), to=to).identical(once)
    # Onto itself: its mean is its own reference.
    once = gplvm.align(fit)
    np.testing.assert_allclose(
        Fit(gplvm.align(once, to=once)).draws("X"), Fit(once).draws("X"), atol=1e-7
    )


def test_a_fit_of_raw_draws_serves_as_a_reference_by_its_aligned_mean(small, rng):
    other = fit_of(small, turned(cloud(rng), rotations(rng, (2, 5), 2)), **THETA)
    fit = fit_of(small, rng.standard_normal((1, 3, 12, 2)), **THETA)
    by_raw, by_aligned = gplvm.align(fit, to=other), gplvm.align(fit, to=gplvm.align(other))
    np.testing.assert_allclose(Fit(by_raw).draws("X"), Fit(by_aligned).draws("X"), atol=1e-7)


def test_pictures_and_predictions_are_in_the_aligned_frame(small, rng):
    X = turned(cloud(rng), rotations(rng, (2, 5), 2))
    aligned = gplvm.align(fit_of(small, X, **THETA))
    mean = Fit(aligned).draws("X").mean(("chain", "draw")).to_numpy()
    ax = gplvm.plot.latent(aligned, grid=5)
    assert set(rows_drawn(ax.collections[-1], mean)) == set(range(len(mean)))
    plt.close("all")
    # Raw draws in ten frames say nothing at a place; aligned, the rows' own places are known.
    now, before = (
        gplvm.predict(fit, mean)["sd"].mean().item() for fit in (aligned, fit_of(small, X, **THETA))
    )
    assert now < 0.7 * before


def test_held_positions_are_turned_for_every_draw(theta, best, rng):
    frame = turned(best.posterior["X"].to_numpy()[0, 0], rotations(rng, (), 2)[()])
    aligned = gplvm.align(theta, to=frame)
    X = Fit(aligned).draws("X").to_numpy()
    assert X.shape == (2, 1000, 30, 2)
    np.testing.assert_allclose(X - frame, np.zeros_like(X), atol=1e-9)
    assert "X" not in aligned.posterior


def test_theta_is_sampled_at_aligned_positions_from_aligned_lengthscales(Y, rng):
    model = gplvm.build_model(Y, ard=True)
    ell = np.array([[[0.5, 2.0]]])
    fit = fit_of(model, cloud(rng, shape=(1, 1)), lengthscale=ell, amplitude=1.0, sigma=0.3)
    swapped = gplvm.align(fit, to=fit.posterior["X"].to_numpy()[0, 0][:, ::-1])
    from pm_gplvm.sampling.nuts import _positions

    X, start = _positions(ModelSpec.of(model), swapped)
    np.testing.assert_allclose(X, fit.posterior["X"].to_numpy()[0, 0][:, ::-1], atol=1e-12)
    np.testing.assert_array_equal(start["lengthscale"], [2.0, 0.5])


def test_a_covariance_of_the_users_own_is_turned_but_not_moved(Y, rng):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(12, 2))
        K = pm.gp.cov.RatQuad(2, alpha=1.0, ls=1.0)(X) + 0.1 * np.eye(12)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    place = 1.0 + rng.standard_normal((1, 1, 12, 2))
    W = rotations(rng, (3, 1), 2)
    aligned = gplvm.align(fit_of(model, turned(np.repeat(place, 3, axis=0), W)), to=place[0, 0])
    np.testing.assert_allclose(aligned["aligned"]["X"], np.repeat(place, 3, axis=0), atol=1e-10)
    assert not aligned["aligned"]["shift"].any()


def test_an_aligned_fit_is_saved_whole(small, rng, tmp_path):
    aligned = gplvm.align(fit_of(small, cloud(rng), **THETA), scale=True)
    again = gplvm.load(gplvm.save(aligned, tmp_path / "aligned.nc"))
    assert again["aligned"].to_dataset().equals(aligned["aligned"].to_dataset())
    assert again["aligned"].attrs == aligned["aligned"].attrs
    assert again["aligned"]["X"].coords["label"].to_numpy().tolist()[0] in ("left", "right")


def test_a_mean_that_has_not_settled_is_said(small, rng, monkeypatch):
    monkeypatch.setattr(alignment, "_ITERATIONS", 2)
    fit = fit_of(small, rng.standard_normal((2, 20, 12, 2)), **THETA)
    with pytest.warns(RuntimeWarning, match="mean of the draws has not settled: in iteration 2"):
        gplvm.align(fit)


def test_a_reference_is_joined_by_its_row_labels(small, rng):
    fit = fit_of(small, cloud(rng), **THETA)
    one = fit["posterior"]["X"][0, 0]
    for to, other in (
        (fit, fit.isel(obs=slice(None, None, -1))),
        (one, one[::-1]),
        (one, one.to_pandas()[::-1]),
    ):
        expected, found = (gplvm.align(fit, to=t)["aligned"]["X"] for t in (to, other))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_wrong_references_are_refused(small, best, rng):
    fit = fit_of(small, cloud(rng), **THETA)
    with pytest.raises(ValueError, match=r"\(N, Q\) = \(12, 2\), got \(12, 3\)"):
        gplvm.align(fit, to=np.zeros((12, 3)))
    with pytest.raises(ValueError, match="to must have the rows of the table"):
        gplvm.align(fit, to=best)
    with pytest.raises(ValueError, match="to must be finite"):
        gplvm.align(fit, to=np.full((12, 2), np.nan))
    with pytest.raises(TypeError, match=r"to must be an array of numbers, got a dict"):
        gplvm.align(fit, to={"X": 1})
    with pytest.raises(TypeError, match="align needs a fit"):
        gplvm.align(np.zeros((12, 2)))


def test_scaling_is_refused_where_k_would_change(Y, rng):
    model = gplvm.build_model(Y, kernel="linear")
    fit = fit_of(model, cloud(rng), sigma=0.3)
    with pytest.raises(
        ValueError, match=r"scale=True needs a stationary kernel .* got .* 'linear'"
    ):
        gplvm.align(fit, scale=True)
