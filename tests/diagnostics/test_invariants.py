"""Invariants of the draws: by SciPy and loops, and that they are invariant."""

import numpy as np
import pymc as pm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import fit_of, rotations, signed_permutations, turned
from oracles import ALL_KERNELS, SUMS, column_logps, kernel_matrix

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.invariants import invariants, row_pairs

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.4, "bias": 0.7}


def theta_of(kernel):
    names = ("sigma", "bias") if kernel == "linear" else THETA
    return {name: THETA[name] for name in names} | ({"weight": 0.6} if kernel in SUMS else {})


@pytest.fixture(scope="module")
def models(Y):
    return {
        kernel: gplvm.build_model(Y, kernel=f"{kernel} + bias", scale="feature")
        for kernel in ALL_KERNELS
    }


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_every_draw_is_what_scipy_and_scikit_learn_say(models, Y, kernel, rng):
    theta = theta_of(kernel) | {"sigma": rng.uniform(0.3, 0.6, (2, 3))}
    fit = fit_of(models[kernel], rng.standard_normal((2, 3, 12, 2)), **theta)
    known = invariants(fit, n_pairs=9)
    mean, scale = (fit.constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    for chain, draw in np.ndindex(2, 3):
        X = fit.posterior["X"].to_numpy()[chain, draw]
        one = theta | {"sigma": theta["sigma"][chain, draw]}
        noise = np.hypot(one["sigma"], 0.01)  # its floor included
        K = kernel_matrix(kernel, X, **one | {"sigma": noise})
        at = known.isel(chain=chain, draw=draw)
        logp = column_logps(Y.to_numpy(), K, mean, scale).sum()
        assert at["log_likelihood"].item() == pytest.approx(logp, rel=1e-10)
        F = (Y.to_numpy() - mean) / scale
        fitted = (K - noise**2 * np.eye(12)) @ np.linalg.solve(K, F)
        rms = np.sqrt(((F - fitted) ** 2).mean())
        assert at["reconstruction"].item() == pytest.approx(rms, rel=1e-9)
        for i, (n, m) in enumerate(zip(known["first"].values, known["second"].values, strict=True)):
            distance = np.linalg.norm(X[n] - X[m]) / one.get("lengthscale", 1.0)
            assert at["distance"][i].item() == pytest.approx(distance, rel=1e-12)
            assert at["covariance"][i].item() == pytest.approx(K[n, m], rel=1e-9)
    assert set(known.data_vars) - set(theta) == {
        "log_likelihood",
        "log_posterior",
        "distance",
        "covariance",
        "reconstruction",
    }


def test_the_likelihood_and_objective_are_those_that_the_map_noted(best):
    # 64 columns, 30 rows: by the shortened factor.
    known = invariants(best)
    noted = best.sample_stats["log_likelihood"].item()
    assert known["log_likelihood"].item() == pytest.approx(noted, rel=1e-9)
    assert known["log_posterior"].item() == best.sample_stats["lp"].item()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kernel=st.sampled_from(ALL_KERNELS))
def test_no_rotation_changes_them_and_no_move_where_the_kernel_is_stationary(models, seed, kernel):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((1, 4, 12, 2))
    moves = 0.0 if kernel.endswith("linear") else rng.standard_normal((1, 4, 1, 2))
    other = turned(X, rotations(rng, (1, 4), 2)) + moves
    fits = [fit_of(models[kernel], x, **theta_of(kernel)) for x in (X, other)]
    before, after = (invariants(fit) for fit in fits)
    for name, values in before.data_vars.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-8, atol=1e-9, err_msg=name)


def test_signs_and_order_of_the_dimensions_change_nothing_under_ard(Y, rng):
    model = gplvm.build_model(Y, latent_dim=3, ard=True)
    X, ell = rng.standard_normal((2, 5, 12, 3)), rng.uniform(0.5, 3.0, (2, 5, 3))
    W = signed_permutations(rng, (2, 5), 3)
    theta = {"amplitude": 1.1, "sigma": 0.3}
    before = invariants(fit_of(model, X, lengthscale=ell, **theta))
    after = invariants(
        fit_of(model, turned(X, W), lengthscale=np.einsum("cslf,csf->csl", abs(W), ell), **theta)
    )
    for name, values in before.data_vars.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(before["lengthscale"], np.sort(ell, axis=-1))
    assert before["lengthscale"].dims == ("chain", "draw", "rank")
    # Not every permutation: X turned and the lengthscales left is another K.
    wrong = invariants(fit_of(model, turned(X, W), lengthscale=ell, **theta))
    assert not np.allclose(wrong["log_likelihood"], before["log_likelihood"])


@settings(max_examples=60, deadline=None)
@given(N=st.integers(3, 40), n_pairs=st.integers(1, 900), seed=st.integers(0, 2**32 - 1))
def test_pairs_are_different_and_spread_over_the_rows(N, n_pairs, seed):
    first, second = row_pairs(N, n_pairs, seed)
    assert len(first) == min(n_pairs, N * (N - 1) // 2)
    assert (first != second).all()
    assert len({frozenset(p) for p in zip(first, second, strict=True)}) == len(first)
    counts = np.bincount([*first, *second], minlength=N)
    assert counts.max() - counts.min() <= 2
    np.testing.assert_array_equal(row_pairs(N, n_pairs, seed), (first, second))


def test_where_x_is_held_distances_follow_the_lengthscale(theta, best):
    known = invariants(theta, n_pairs=5)
    X = best.posterior["X"].to_numpy()[0, 0]
    apart = np.linalg.norm(X[known["first"]] - X[known["second"]], axis=1)
    expected = apart / theta.posterior["lengthscale"].to_numpy()[..., None]
    np.testing.assert_allclose(known["distance"], expected, rtol=1e-12)
    assert Fit(theta).scaled_positions().dims == ("chain", "draw", "obs", "latent")


def test_a_covariance_of_the_users_own_gives_what_needs_no_k(Y, rng):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(12, 2))
        ell = pm.Exponential("lengthscale", 1.0, shape=2)
        alpha = pm.Exponential("alpha", 1.0)
        K = pm.gp.cov.RatQuad(2, alpha=alpha, ls=1.0)(X / ell) + 0.1 * np.eye(12)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    stats = {"log_likelihood": rng.standard_normal((1, 3))}
    draws = rng.standard_normal((1, 3, 12, 2))
    scales = rng.uniform(1.0, 2.0, (1, 3, 2))
    known = invariants(fit_of(model, draws, lengthscale=scales, alpha=1.0, stats=stats))
    assert set(known.data_vars) == {"log_likelihood", "distance", "lengthscale", "alpha"}
    np.testing.assert_array_equal(known["log_likelihood"], stats["log_likelihood"])
    pair = (draws / scales[:, :, None])[:, :, [known["first"][0], known["second"][0]]]
    apart = np.linalg.norm(pair[:, :, 0] - pair[:, :, 1], axis=-1)
    np.testing.assert_allclose(known["distance"][..., 0], apart)


@pytest.mark.parametrize("n_pairs", [0, -1, 2.0, True, "all"])
def test_a_wrong_number_of_pairs_is_refused(best, n_pairs):
    with pytest.raises(ValueError, match="n_pairs must be a whole number of at least 1"):
        invariants(best, n_pairs=n_pairs)


def test_what_is_no_fit_is_refused():
    with pytest.raises(TypeError, match="invariants needs a fit"):
        invariants({"X": 1})
