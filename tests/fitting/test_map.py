"""fit_map: closed forms of PCA, its table of optima, and how it says that something went wrong."""

import json
import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from made import InterruptAt
from oracles import ppca, ppca_with_prior

import pm_gplvm as gplvm
from pm_gplvm.fitting.optimise import TOL


def values(fit):
    return {str(name): v.to_numpy()[0, 0] for name, v in fit["posterior"].data_vars.items()}


# The linear kernel is PCA


@pytest.fixture(scope="module")
def plane():
    """15 x 6, two strong directions and noise."""
    rng = np.random.default_rng(11)
    Y = rng.normal(size=(15, 2)) * [3.0, 1.5] @ rng.normal(size=(2, 6)) + 0.4 * rng.normal(
        size=(15, 6)
    )
    return Y - Y.mean(axis=0)


def test_linear_kernel_with_flat_priors_is_probabilistic_pca(plane):
    model = gplvm.build_model(
        plane,
        2,
        kernel="linear",
        scale="none",
        priors={"X": "flat", "sigma": "flat"},
        resolution=0,
    )
    fit = values(gplvm.fit_map(model, tol=1e-8, progressbar=False))
    expected, noise = ppca(plane, 2)
    assert fit["sigma"] ** 2 == pytest.approx(noise, rel=1e-4)
    np.testing.assert_allclose(
        fit["X"] @ fit["X"].T, expected, rtol=0.0, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize(("latent_dim", "sigma"), [(2, 0.5), (3, 0.9), (3, 2.5), (2, 4.0)])
def test_linear_kernel_with_normal_prior_has_its_closed_form(latent_dim, sigma, plane):
    """Also where the noise is so large that directions of X vanish."""
    model = gplvm.build_model(
        plane, latent_dim, kernel="linear", scale="none", priors={"sigma": sigma}, resolution=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        fit = values(gplvm.fit_map(model, tol=1e-8, progressbar=False))
    # Where all vanish, that is said.
    said = ["all latent positions fell onto one point" in str(w.message) for w in caught]
    assert said == ([True] if sigma == 4.0 else [])
    expected = ppca_with_prior(plane, latent_dim, sigma**2)
    atol = 1e-4 * max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(fit["X"] @ fit["X"].T, expected, rtol=0.0, atol=atol)


@pytest.mark.parametrize(
    ("latent_dim", "sigma", "left"), [(2, 0.5, 2), (3, 0.9, 2), (3, 2.5, 1), (2, 4.0, 0)]
)
def test_directions_that_the_closed_form_leaves(latent_dim, sigma, left, plane):
    expected = ppca_with_prior(plane, latent_dim, sigma**2)
    assert np.linalg.matrix_rank(expected, tol=1e-8) == left


# What comes back


def test_groups_dims_and_settings(best):
    assert set(best.children) == {
        "posterior",
        "sample_stats",
        "observed_data",
        "constant_data",
        "optima",
        "optima_positions",
    }
    posterior = best["posterior"]
    assert posterior["X"].dims == ("chain", "draw", "obs", "latent")
    assert posterior["X"].shape == (1, 1, 30, 2)
    assert posterior["sigma"].dims == ("chain", "draw")
    attrs = best.attrs
    assert (attrs["method"], attrs["kernel"], attrs["start"]) == ("map", "rbf", "pca")
    assert attrs["converged"] == 1
    assert attrs["random_seed"] == 1
    assert all(isinstance(value, str | int | float) for value in attrs.values())


def test_objective_of_the_result(best, model):
    point = values(best)
    stats = best["sample_stats"]
    value, _ = gplvm.model.compile_objective(model)(point)
    assert float(stats["lp"][0, 0]) == pytest.approx(value, rel=1e-10)
    likelihood, _ = gplvm.model.compile_objective(model, prior=False)(point)
    assert float(stats["log_likelihood"][0, 0]) == pytest.approx(likelihood, rel=1e-10)


def test_tol_is_what_there_is_still_to_be_gained(best, model):
    """By going on from there, with the default of 0.01 nats, to 1e-7 nats."""
    further = gplvm.fit_map(model, start=best, tol=1e-7, relocate=False, progressbar=False)
    gained = float((further["sample_stats"]["lp"] - best["sample_stats"]["lp"]).squeeze())
    # Little beside what draws of the posterior lie below its mode, ½ for each of 63 free numbers.
    assert 0.0 <= gained < 0.1 * 63
    remaining = [float(fit["optima"]["remaining_gain"][0]) for fit in (best, further)]
    assert 0.0 < remaining[1] < 1e-7
    assert remaining[1] < remaining[0] < TOL
    # Scale-free: how much the objective, some 1e3, would rise as θ doubled or X moved by its spread.
    point = values(further)
    gradient = gplvm.model.compile_objective(model)(point)[1]
    for name in ("lengthscale", "amplitude", "sigma"):
        assert abs(gradient[name] * point[name]) < 0.1
    assert np.abs(gradient["X"] * point["X"].std(axis=0)).max() < 0.1


def test_better_than_the_start(best):
    optima = best["optima"]
    assert (optima["objective"] > optima["objective_at_start"] + 10.0).all()


def test_what_was_asked_for_is_climbed_to_its_end(best):
    """Restarts and the best; the other forms of a start may fall behind."""
    optima = best["optima"].to_dataset()
    ended = optima["converged"].to_numpy()
    assert ended[0]
    assert ended[optima["start"] >= 4].all()
    messages = np.where(ended, "converged", "fell behind another start")
    assert optima["message"].to_numpy().tolist() == messages.tolist()
    assert not ended.all()
    assert (optima["remaining_gain"].to_numpy()[ended] < TOL).all()


def test_table_of_optima_is_sorted_and_keeps_the_starts_numbers(best):
    """Four forms of the start by PCA, then two restarts."""
    optima = best["optima"].to_dataset()
    assert sorted(optima["start"].to_numpy().tolist()) == [0, 1, 2, 3, 4, 5]
    objective = optima["objective"].to_numpy()
    assert (np.diff(objective) <= 0).all()
    assert objective[0] == best["sample_stats"]["lp"][0, 0]
    assert (optima["evaluations"] > 5).all()
    assert (optima["seconds"] > 0).all()


def test_first_starts_are_the_unmoved_ones(best, model):
    optima = best["optima"].to_dataset().sortby("start")
    alone = gplvm.fit_map(model, max_iter=5000, progressbar=False, random_seed=1)["optima"]
    alone = alone.to_dataset().sortby("start")
    for name in ("objective_at_start", "size", "spread"):
        np.testing.assert_array_equal(optima[name][:4], alone[name])
    # Restarts are of the same forms, moved.
    np.testing.assert_array_equal(optima["size"][4:], optima["size"][:2])
    assert (optima["objective_at_start"][4:] != optima["objective_at_start"][:2].values).all()


def test_same_seed_same_fit(model, best):
    again = gplvm.fit_map(model, n_restarts=2, random_seed=1, progressbar=False)
    for name, value in values(best).items():
        np.testing.assert_array_equal(values(again)[name], value)
    np.testing.assert_array_equal(again["optima"]["objective"], best["optima"]["objective"])


@pytest.fixture(scope="module")
def small(Y):
    return gplvm.build_model(Y)


def test_other_seed_other_restarts(small):
    first, second = (
        gplvm.fit_map(small, n_restarts=1, random_seed=s, progressbar=False)["optima"]
        .to_dataset()
        .sortby("start")
        for s in (1, 2)
    )
    begin = [optima["objective_at_start"].to_numpy() for optima in (first, second)]
    np.testing.assert_array_equal(begin[0][:4], begin[1][:4])
    assert begin[0][4] != begin[1][4]


@pytest.mark.parametrize("start", ["pca", "isomap", "random"])
def test_starts_by_name(start, small):
    fit = gplvm.fit_map(small, start=start, random_seed=3, progressbar=False)
    assert fit.attrs["start"] == start
    assert fit.attrs["converged"] == 1
    assert (
        float(fit["sample_stats"]["lp"][0, 0]) > float(fit["optima"]["objective_at_start"][0]) + 1.0
    )


def test_start_from_positions_values_and_a_fit(small, rng):
    first = gplvm.fit_map(small, start=rng.normal(size=(12, 2)), progressbar=False)
    assert first.attrs["converged"] == 1
    point = values(first)
    for start in (point, first):
        again = gplvm.fit_map(small, start=start, progressbar=False)
        begin = float(again["optima"]["objective_at_start"][0])
        assert begin == pytest.approx(float(first["sample_stats"]["lp"][0, 0]), rel=1e-10)
        assert float(again["sample_stats"]["lp"][0, 0]) >= begin
        assert again.attrs["start"] == type(start).__name__


def test_deterministics_of_the_model_are_kept(rng):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(6, 1))
        sigma = pm.HalfNormal("sigma")
        pm.Deterministic("variance", sigma**2)
        gplvm.GPColumns(
            "Y", gplvm.covariance("rbf", X, sigma=sigma), observed=rng.normal(size=(3, 6))
        )
    point = values(gplvm.fit_map(model, progressbar=False))
    assert point["variance"] == pytest.approx(point["sigma"] ** 2)


def test_shared_scale_of_every_kernel(Y):
    for kernel in ("matern32", "matern52 + bias"):
        fit = gplvm.fit_map(gplvm.build_model(Y, kernel=kernel, ard=True), progressbar=False)
        assert fit["posterior"]["lengthscale"].dims == ("chain", "draw", "latent")
        assert np.isfinite(fit["sample_stats"]["lp"]).all()
        assert (fit["posterior"]["sigma"] > 0).all()


# Beside fit_marginal


@pytest.mark.parametrize("ard", [False, True], ids=["shared", "ard"])
def test_each_fit_is_higher_in_its_own_objective(ard):
    Y = simulated(30, 10, noise=0.3)
    model = gplvm.build_model(Y, ard=ard)
    floor = float(model["Y_resolution"].get_value())
    objective = gplvm.model.compile_objective(model)

    def information(point):
        slope = np.square(point["amplitude"] / np.broadcast_to(point["lengthscale"], 2))
        return 10 * slope / (point["sigma"] ** 2 + floor**2)

    def marginal(point):
        volume = 30 * (np.log(2.0 * np.pi) - np.log1p(information(point))).sum()
        return objective(point)[0] + 0.5 * volume

    settings = {"random_seed": 1, "progressbar": False}
    joint = gplvm.fit_map(model, **settings)
    # From there, so that one mode is compared with the same of the other objective.
    fit = gplvm.fit_marginal(model, start=joint, tol=1e-6, relocate=False, **settings)
    assert marginal(values(fit)) > marginal(values(joint)) + 1.0
    assert objective(values(joint))[0] > objective(values(fit))[0] + 1.0
    stats = fit["sample_stats"]
    assert float(stats["log_marginal"][0, 0]) == pytest.approx(marginal(values(fit)), rel=1e-10)
    # The point of it: X keeps the scale of its prior, and the noise is not explained by X.
    assert fit["posterior"]["X"].std() > joint["posterior"]["X"].std()
    assert values(fit)["sigma"] > values(joint)["sigma"]
    assert (joint.attrs["method"], fit.attrs["method"]) == ("map", "marginal")
    assert "log_marginal" not in joint["sample_stats"]
    # Stationary in ln θ at given X, by the derivatives of ln(1 + h) written out.
    point = values(fit)
    h, gradient = information(point), objective(point)[1]
    share = 30 * h / (1.0 + h)
    own = point["sigma"] ** 2 / (point["sigma"] ** 2 + floor**2)
    along = {"amplitude": -share.sum(), "sigma": share.sum() * own}
    along["lengthscale"] = share if ard else share.sum()
    for name, slope in along.items():
        assert np.abs(gradient[name] * point[name] + slope).max() < 0.02


# What goes wrong


def test_too_few_iterations(small):
    with pytest.warns(
        RuntimeWarning, match=r"fit_map did not converge: the limit of it.*raise max_iter = 3"
    ) as caught:
        fit = gplvm.fit_map(small, max_iter=3, progressbar=False)
    assert caught[0].filename == __file__
    assert fit.attrs["converged"] == 0
    assert not fit["optima"]["converged"].any()
    assert float(fit["sample_stats"]["lp"][0, 0]) > float(fit["optima"]["objective_at_start"][0])
    # As the warning says, one can go on from there.
    further = gplvm.fit_map(small, start=fit, progressbar=False)
    assert further.attrs["converged"] == 1
    assert float(further["sample_stats"]["lp"][0, 0]) > float(fit["sample_stats"]["lp"][0, 0])


def test_interrupt_returns_the_best_so_far(Y, ctrl_c):
    model = gplvm.build_model(Y)
    with model:
        pm.Potential("interrupt", InterruptAt(25)(model["sigma"]))
    with pytest.warns(
        RuntimeWarning, match=r"interrupted.*Go on from here with fit_map\(model, start=fit\)"
    ):
        fit = gplvm.fit_map(model, n_restarts=2, random_seed=1, progressbar=False)
    assert fit.attrs["converged"] == 0
    assert fit.attrs["interrupted"] == 1
    optima = fit["optima"]
    assert optima.sizes["start"] == 3  # of four forms and two restarts
    assert optima["message"].to_numpy()[0] == "interrupted"
    assert int(optima["evaluations"].sum()) == 25
    assert (optima["objective"] > optima["objective_at_start"]).all()
    value, _ = gplvm.model.compile_objective(gplvm.build_model(Y))(values(fit))
    assert float(fit["sample_stats"]["lp"][0, 0]) == pytest.approx(value, rel=1e-10)


def test_start_where_nothing_is_finite(Y):
    without_floor = gplvm.build_model(Y, resolution=0)
    with pytest.raises(
        ValueError, match=r"not finite at the start: K is not positive definite.*larger sigma"
    ):
        gplvm.fit_map(without_floor, start={"X": np.eye(12, 2), "sigma": 1e-200}, progressbar=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_restarts": -1}, r"n_restarts must be a whole number of at least 0, got -1"),
        ({"n_restarts": 1.5}, r"n_restarts must be a whole number of at least 0, got 1\.5"),
        ({"max_iter": 0}, r"max_iter must be a whole number of at least 1, got 0"),
        ({"max_iter": True}, r"max_iter must be a whole number of at least 1, got True"),
        ({"tol": 0.0}, r"tol must be a finite number above 0, got 0\.0"),
        ({"tol": np.inf}, r"tol must be a finite number above 0, got inf"),
        ({"tol": np.nan}, r"tol must be a finite number above 0, got nan"),
        ({"blas_threads": 0}, r"blas_threads must be a whole number of at least 1, got 0"),
        ({"backend": "torch"}, r"backend must be 'python', 'numba' or 'jax', got 'torch'"),
    ],
)
@pytest.mark.parametrize("fit", [gplvm.fit_map, gplvm.fit_marginal])
def test_arguments_out_of_range(fit, arguments, message, small):
    with pytest.raises(ValueError, match=message):
        fit(small, progressbar=False, **arguments)


@pytest.mark.parametrize("fit", [gplvm.fit_map, gplvm.fit_marginal])
def test_something_else_than_a_model(fit, Y):
    with pytest.raises(
        TypeError, match=r"model must be a pm\.Model, got DataArray\. See build_model"
    ):
        fit(Y)


def test_settings_without_a_seed_are_json(small):
    fit = gplvm.fit_map(small, progressbar=False)
    assert json.loads(fit.attrs["random_seed"]) is None
