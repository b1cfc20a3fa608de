"""Dual probabilistic PCA in closed form: against its definition, scikit-learn and the optimiser."""

import tracemalloc

import numpy as np
import pymc as pm
import pytest
from oracles import centre_and_spread, ppca, ppca_with_prior
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import pm_gplvm as gplvm

FLAT = {"X": "flat", "sigma": "flat"}


@pytest.fixture(scope="module")
def table():
    """20 x 6 of rank 3 and noise: two directions stand out, one less so."""
    rng = np.random.default_rng(8)
    signal = rng.normal(size=(20, 3)) * [3.0, 2.0, 0.7]
    return signal @ rng.normal(size=(3, 6)) + 0.5 * rng.normal(size=(20, 6))


def linear(table, latent_dim=2, *, resolution=0, **options):
    return gplvm.build_model(table, latent_dim, kernel="linear", resolution=resolution, **options)


def positions(fit):
    return fit["posterior"]["X"].to_numpy()[0, 0]


def number(fit, name, group="posterior"):
    return float(fit[group][name][0, 0])


def standardised(table, scale="global"):
    mean, spread = centre_and_spread(table, scale)
    return (table - mean) / spread


# Flat priors: Lawrence's and Tipping & Bishop's


@pytest.mark.parametrize("scale", ["none", "global", "feature"])
def test_flat_priors_give_probabilistic_pca(scale, table):
    fit = gplvm.fit_linear(linear(table, priors=FLAT, scale=scale))
    outer, noise = ppca(standardised(table, scale), 2)
    np.testing.assert_allclose(positions(fit) @ positions(fit).T, outer, atol=1e-10)
    assert number(fit, "sigma") ** 2 == pytest.approx(noise, rel=1e-10)


def test_more_columns_than_rows(digits):
    fit = gplvm.fit_linear(linear(digits, priors=FLAT))
    outer, noise = ppca(standardised(digits.to_numpy()), 2)
    np.testing.assert_allclose(positions(fit) @ positions(fit).T, outer, atol=1e-10)
    assert number(fit, "sigma") ** 2 == pytest.approx(noise, rel=1e-10)
    assert fit["posterior"]["X"].coords["label"].dims == ("obs",)


@pytest.mark.parametrize("priors", [FLAT, {}, {"X": "flat"}, {"sigma": 0.3}], ids=str)
def test_span_is_scikit_learns(priors, table):
    fit = gplvm.fit_linear(linear(table, priors=priors))
    scores = PCA(2).fit_transform(table)
    assert np.rad2deg(subspace_angles(positions(fit), scores)).max() < 1e-6


# Every prior: the optimiser finds nothing better, and the same X Xᵀ


@pytest.mark.parametrize(
    "priors",
    [
        FLAT,
        {"sigma": "flat"},
        {"X": "flat"},
        {},
        {"sigma": 0.4},
        {"X": pm.Normal.dist(0.0, 3.0), "sigma": "flat"},
        {"X": pm.Normal.dist(0.0, 0.3), "sigma": pm.HalfNormal.dist(0.5)},
    ],
    ids=["flat", "flat sigma", "flat X", "default", "fixed", "wide X", "narrow X"],
)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_equals_the_map_by_gradients(latent_dim, priors, table):
    model = linear(table, latent_dim, priors=priors)
    fit = gplvm.fit_linear(model)
    value, gradient = gplvm.model.compile_objective(model)(
        {rv.name: fit["posterior"][rv.name][0, 0].to_numpy() for rv in model.free_RVs}
    )
    assert number(fit, "lp", "sample_stats") == pytest.approx(value, rel=1e-10)
    assert max(np.abs(slope).max() for slope in gradient.values()) < 1e-3
    other = gplvm.fit_map(model, n_restarts=4, random_seed=1, tol=1e-8, progressbar=False)
    assert 0.0 <= value - number(other, "lp", "sample_stats") + 1e-9 < 1e-3
    outer = positions(fit) @ positions(fit).T
    np.testing.assert_allclose(positions(other) @ positions(other).T, outer, atol=2e-3)


@pytest.mark.parametrize("priors", [{}, {"sigma": 0.3}, {"sigma": "flat"}], ids=str)
@pytest.mark.parametrize("resolution", ["auto", 0.3])
def test_the_floor_of_the_noise_is_part_of_it(resolution, priors, table):
    model = linear(table, priors=priors, resolution=resolution)
    fit = gplvm.fit_linear(model)
    point = {rv.name: fit["posterior"][rv.name][0, 0].to_numpy() for rv in model.free_RVs}
    value, gradient = gplvm.model.compile_objective(model)(point)
    assert number(fit, "lp", "sample_stats") == pytest.approx(value, rel=1e-10)
    assert max(np.abs(slope).max() for slope in gradient.values()) < 1e-3
    if priors.get("sigma") == "flat":
        floor = float(model["Y_resolution"].get_value())
        plain = number(gplvm.fit_linear(linear(table, priors=priors)), "sigma")
        assert np.hypot(number(fit, "sigma"), floor) == pytest.approx(max(plain, floor), rel=1e-10)


def test_a_floor_above_what_is_left(table):
    """sigma is 0 then, and the floor all of the noise: there is a mode, of rank Q too."""
    for latent_dim in (2, 6):
        model = linear(table, latent_dim, priors={"sigma": "flat"}, resolution=0.8, scale="none")
        fit = gplvm.fit_linear(model)
        assert number(fit, "sigma") == 0.0
        outer = ppca_with_prior(standardised(table, "none"), latent_dim, 0.64)
        np.testing.assert_allclose(positions(fit) @ positions(fit).T, outer, atol=1e-9)


def test_standard_normal_prior_has_its_own_roots(table):
    fit = gplvm.fit_linear(linear(table, priors={"sigma": 0.4}, scale="none"))
    outer = ppca_with_prior(standardised(table, "none"), 2, 0.16)
    np.testing.assert_allclose(positions(fit) @ positions(fit).T, outer, atol=1e-9)
    assert "sigma" in fit["constant_data"]


def test_prior_of_X_draws_it_in(table):
    lengths = [
        np.linalg.norm(positions(gplvm.fit_linear(linear(table, priors=p))), axis=0)
        for p in (FLAT, {"sigma": "flat"})
    ]
    assert (lengths[1] < lengths[0]).all()


def test_of_two_maxima_the_higher_one():
    """A tight prior: two columns kept and all taken for noise are both stationary."""
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 5)) * 2.0 + 0.4 * rng.normal(size=(20, 5))
    for spread in (0.1, 0.15, 0.2, 0.4):
        priors = {"X": pm.Normal.dist(0.0, spread), "sigma": "flat"}
        model = linear(Y, priors=priors, scale="none")
        value = number(gplvm.fit_linear(model), "lp", "sample_stats")
        objective = gplvm.model.compile_objective(model)
        vectors = np.linalg.svd(standardised(Y, "none"))[0][:, :2]
        for sigma in np.geomspace(0.1, 10.0, 25):
            for lengths in ((0.0, 0.0), (2.0, 0.0), (4.0, 1.0), (6.0, 3.0)):
                assert objective({"X": vectors * lengths, "sigma": sigma})[0] <= value + 1e-9


def test_noise_alone_leaves_no_positions(rng):
    fit = gplvm.fit_linear(linear(rng.normal(size=(30, 5)), priors={"sigma": 3.0}))
    np.testing.assert_array_equal(positions(fit), 0.0)


def test_columns_are_orthogonal_the_longest_first(table):
    X = positions(gplvm.fit_linear(linear(table, 3)))
    gram = X.T @ X
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0.0, atol=1e-10)
    assert (np.diff(np.diag(gram)) < 0.0).all()
    assert (X[np.abs(X).argmax(axis=0), range(3)] > 0.0).all()


def test_all_goes_on_from_here(table):
    fit = gplvm.fit_linear(linear(table))
    assert fit.attrs["method"] == "linear"
    assert gplvm.predict(fit, np.zeros((1, 2)))["mean"].shape == (1, 6)


def test_memory_is_linear_in_the_rows():
    rng = np.random.default_rng(2)
    Y = rng.normal(size=(20_000, 1)) * np.ones(4) + rng.normal(size=(20_000, 4))
    model = linear(Y, 1)
    gplvm.fit_linear(linear(Y[:10], 1))
    tracemalloc.start()
    gplvm.fit_linear(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * Y.nbytes  # one N × N array would be 5000 times Y


# Turned away


def test_no_noise_left(table):
    with pytest.raises(ValueError, match=r"latent_dim must be below the rank .*got 6.*no maximum"):
        gplvm.fit_linear(linear(table, 6, priors=FLAT))


def test_no_noise_left_but_a_prior(table):
    fit = gplvm.fit_linear(linear(table, 6, priors={"X": "flat"}))
    assert number(fit, "sigma") > 0.0


@pytest.mark.parametrize("kernel", ["rbf", "linear + bias"])
def test_other_kernels(kernel, table):
    with pytest.raises(
        ValueError, match=r"fit_linear needs kernel='linear', no bias .*Use fit_map"
    ):
        gplvm.fit_linear(gplvm.build_model(table, kernel=kernel))


@pytest.mark.parametrize(
    "prior",
    [
        pm.Normal.dist(0.5, 1.0),
        pm.Normal.dist(0.0, np.tile([1.0, 2.0], (20, 1))),
        pm.StudentT.dist(4),
    ],
    ids=["mean", "two spreads", "heavy tails"],
)
def test_other_priors_of_X(prior, table):
    with pytest.raises(ValueError, match="needs a flat prior of X, or a normal one of mean 0"):
        gplvm.fit_linear(linear(table, priors={"X": prior}))


def test_spread_of_X_that_is_random(table):
    def prior(name, dims):
        return pm.Normal(name, 0.0, pm.HalfNormal("tau"), dims=dims)

    with pytest.raises(ValueError, match=r"knows models of X, sigma and one table, got .*tau"):
        gplvm.fit_linear(linear(table, priors={"X": prior}))


def test_positions_that_are_fixed(table):
    with pytest.raises(ValueError, match="and a free X, got a model with the kernel 'linear'"):
        gplvm.fit_linear(linear(table, priors={"X": np.eye(20, 2)}))
