"""X and θ by stochastic gradients of neighbourhoods."""

import tracemalloc
import warnings

import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from oracles import ALL_KERNELS, neighbour_errors
from test_map import InterruptAt

import pm_gplvm as gplvm
from pm_gplvm.starts import start_values


@pytest.fixture(scope="module")
def digits_200():
    return gplvm.load_digits(n=200)


@pytest.fixture(scope="module")
def big(digits_200):
    return gplvm.build_model(digits_200)


@pytest.fixture(scope="module")
def learnt(big):
    return gplvm.fit_stochastic(big, random_seed=1, progressbar=False)


def positions(fit):
    return fit["posterior"]["X"].to_numpy()[0, 0]


def number(fit, name, group="sample_stats"):
    return float(fit[group][name][0, 0])


# What it finds


def test_neighbours_share_a_class_more_often_than_in_pca(big, learnt, digits_200):
    labels = digits_200["label"].to_numpy()
    pca = start_values(big, "pca", np.random.default_rng(0))["X"]
    assert neighbour_errors(positions(learnt), labels) < neighbour_errors(pca, labels) / 3


def test_trace_rises_to_what_the_fit_says(big, learnt):
    trace = learnt["trace"].to_dataset()
    assert trace["step"].to_numpy().tolist() == [120 * i for i in range(11)]
    for name in ("objective", "held_out"):
        assert trace[name][5] > trace[name][0]
        assert trace[name][-1] > trace[name][0]
    assert float(trace["objective"][-1]) == pytest.approx(number(learnt, "lp"), rel=1e-12)
    assert (np.diff(trace["seconds"]) > 0.0).all()
    names = [rv.name for rv in big.free_RVs]
    point = {name: learnt["posterior"][name][0, 0].to_numpy() for name in names}
    assert gplvm.compile_objective(big)(point)[0] == pytest.approx(number(learnt, "lp"), rel=1e-9)
    likelihood, _ = gplvm.compile_objective(big, prior=False)(point)
    assert likelihood == pytest.approx(number(learnt, "log_likelihood"), rel=1e-9)


def test_map_goes_on_from_here(big, learnt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 40 iterations do not converge
        finished = gplvm.fit_map(big, start=learnt, maxiter=40, progressbar=False)
    assert float(finished["optima"]["objective_at_start"][0]) == pytest.approx(
        number(learnt, "lp"), rel=1e-9
    )
    assert number(finished, "lp") > number(learnt, "lp") + 10.0


def test_all_rows_a_step_come_to_the_optimisers_place():
    """With R = N there is no bias: a mode that fit_map stays at."""
    model = gplvm.build_model(simulated(12, 4))
    fit = gplvm.fit_stochastic(
        model, n_neighbors=12, steps=6000, random_seed=1, progressbar=False, monitor=1
    )
    mode = gplvm.fit_map(model, start=fit, progressbar=False)
    assert 0.0 <= number(mode, "lp") - number(fit, "lp") < 2.0
    assert number(fit, "lp") > float(fit["trace"]["objective"][0]) + 10.0


@pytest.mark.parametrize("kernel", [*ALL_KERNELS, "rbf + bias"])
def test_every_kernel_is_learnt(kernel):
    model = gplvm.build_model(simulated(60, 5, seed=3), kernel=kernel)
    fit = gplvm.fit_stochastic(model, n_neighbors=20, random_seed=1, progressbar=False)
    objective = fit["trace"]["objective"]
    assert objective[-1] > objective[0] + 10.0


def test_lengthscale_for_each_dimension():
    model = gplvm.build_model(simulated(60, 5, seed=3), ard=True)
    fit = gplvm.fit_stochastic(model, n_neighbors=20, random_seed=1, progressbar=False)
    assert fit["posterior"]["lengthscale"].dims == ("chain", "draw", "latent")
    assert fit["trace"]["objective"][-1] > fit["trace"]["objective"][0]


# Many rows


def test_twenty_thousand_rows_in_memory_linear_in_N():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(20_000, 2))
    Y = np.sin(X @ rng.normal(size=(2, 5))) + 0.1 * rng.normal(size=(20_000, 5))
    gplvm.fit_stochastic(gplvm.build_model(Y[:50]), steps=2, progressbar=False)
    tracemalloc.start()
    model = gplvm.build_model(Y)
    fit = gplvm.fit_stochastic(model, steps=400, random_seed=1, monitor=1, progressbar=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * Y.nbytes  # one N × N array would be 4000 times Y
    assert positions(fit).shape == (20_000, 2)
    assert set(fit["trace"].data_vars) == {"held_out", "seconds"}
    assert fit["trace"]["held_out"][1] > fit["trace"]["held_out"][0]
    assert set(fit["sample_stats"].data_vars) == {"held_out"}
    assert float(fit["trace"]["held_out"][-1]) == pytest.approx(number(fit, "held_out"))


# What comes out


def test_fit_has_what_every_fit_has(learnt, digits_200):
    assert learnt.attrs["method"] == "stochastic"
    assert learnt.attrs["n_neighbors"] == 50
    assert learnt.attrs["steps"] == 300 * 200 // 50
    assert learnt["posterior"]["label"].to_numpy().tolist() == digits_200["label"].values.tolist()
    assert gplvm.predict(learnt, np.zeros((1, 2)))["mean"].shape == (1, 64)


def test_seed_decides(big):
    a, b, c = (
        gplvm.fit_stochastic(big, steps=30, random_seed=s, monitor=1, progressbar=False)
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(positions(a), positions(b))
    assert not np.array_equal(positions(a), positions(c))


def test_goes_on_from_a_fit(big, learnt):
    """Steps are measured by the start's spread, here that of a fit."""
    before = positions(learnt).copy()
    further = gplvm.fit_stochastic(
        big, start=learnt, steps=200, learning_rate=0.005, random_seed=2, progressbar=False
    )
    assert number(further, "held_out") > number(learnt, "held_out") - 0.5
    np.testing.assert_array_equal(positions(learnt), before)
    assert further.attrs["random_seed"] == 2
    assert further.attrs["start"] == "DataTree"


def test_theta_held(big):
    start = {"X": np.random.default_rng(1).normal(size=(200, 2)), "sigma": 0.7}
    fit = gplvm.fit_stochastic(
        big, start=start, learning_rate_theta=0.0, steps=50, random_seed=1, progressbar=False
    )
    assert number(fit, "sigma", "posterior") == pytest.approx(0.7, rel=1e-12)
    assert not np.array_equal(positions(fit), start["X"])


def test_theta_waits_until_the_start_has_unfolded():
    """An interrupt within the first fifth of the steps finds θ at its start, one after it does not."""
    for at, moved in ((15, False), (45, True)):
        model = gplvm.build_model(gplvm.load_digits(n=60))
        with model:
            pm.Potential("interrupt", InterruptAt(at)(model["sigma"]))
        with pytest.warns(RuntimeWarning, match="fit_stochastic"):
            fit = gplvm.fit_stochastic(
                model, steps=100, monitor=1, random_seed=1, progressbar=False
            )
        assert (number(fit, "lengthscale", "posterior") != 1.0) == moved


def test_few_rows_are_all_neighbours(Y):
    fit = gplvm.fit_stochastic(gplvm.build_model(Y), steps=20, random_seed=1, progressbar=False)
    assert fit.attrs["n_neighbors"] == 12


# What goes wrong


def test_worse_than_at_the_start(big, learnt):
    with pytest.warns(RuntimeWarning, match=r"fit_stochastic left rows less likely .*Lower") as w:
        gplvm.fit_stochastic(
            big, start=learnt, learning_rate=3.0, steps=60, random_seed=1, progressbar=False
        )
    assert w[0].filename == __file__


def test_interrupt_returns_the_fit_so_far(Y):
    model = gplvm.build_model(Y)
    with model:
        pm.Potential("interrupt", InterruptAt(200)(model["sigma"]))
    with pytest.warns(RuntimeWarning, match=r"interrupted, after 19\d of 5000 steps.*start=fit"):
        fit = gplvm.fit_stochastic(model, steps=5000, monitor=1, random_seed=1, progressbar=False)
    assert int(fit["trace"]["step"][-1]) < 200
    assert number(fit, "lp") > float(fit["trace"]["objective"][0])


def test_step_that_is_not_finite(Y):
    with pytest.raises(ValueError, match=r"Step 1 is not finite: K .*not positive definite"):
        gplvm.fit_stochastic(
            gplvm.build_model(Y, resolution=0),
            start={"X": np.eye(12, 2), "sigma": 1e-200},
            random_seed=1,
            progressbar=False,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neighbors": 13}, r"n_neighbors must lie between 2 and N = 12, got 13"),
        ({"n_neighbors": 1}, r"n_neighbors must lie between 2 and N = 12, got 1"),
        ({"steps": 0}, r"steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number of at least 1, got 2\.5"),
        ({"monitor": -1}, r"monitor must be a whole number of at least 0, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive and finite, got 0\.0"),
        ({"learning_rate": np.nan}, r"learning_rate must be positive and finite, got nan"),
        ({"learning_rate_theta": -0.1}, r"learning_rate_theta must be finite and not negative"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1\.0"),
        ({"blas_threads": 0}, r"blas_threads must be a positive whole number or None, got 0"),
        ({"backend": "torch"}, r"backend must be 'python', 'numba' or 'jax', got 'torch'"),
    ],
)
def test_arguments_out_of_range(arguments, message, Y):
    with pytest.raises(ValueError, match=message):
        gplvm.fit_stochastic(gplvm.build_model(Y), progressbar=False, **arguments)


def test_neighbours_that_are_no_number(Y):
    with pytest.raises(TypeError, match=r"n_neighbors must be a whole number, got 2\.5"):
        gplvm.fit_stochastic(gplvm.build_model(Y), n_neighbors=2.5)


def test_something_else_than_a_model(Y):
    with pytest.raises(TypeError, match=r"model must be a pm\.Model, got DataArray"):
        gplvm.fit_stochastic(Y)


# The papers' data


@pytest.mark.slow
def test_oil_flow(data_file):
    """1000 rows: PCA 162 errors, published full GP-LVM 1, sparse IVM 24."""
    with np.load(data_file("oil_flow.npz")) as file:
        Y, labels = file["Y_train"], file["labels_train"]
    model = gplvm.build_model(Y)
    assert (
        neighbour_errors(start_values(model, "pca", np.random.default_rng(0))["X"], labels) == 162
    )
    fit = gplvm.fit_stochastic(model, random_seed=1, progressbar=False)
    assert neighbour_errors(positions(fit), labels) <= 30
    finished = gplvm.fit_map(model, start=fit, progressbar=False)
    assert finished.attrs["converged"] == 1
    assert neighbour_errors(positions(finished), labels) <= 10
