"""The optimiser's coordinates by the curvature that is expected at a place."""

import numpy as np
import pytest
from conftest import simulated
from oracles import SUMS, kernel_matrix

import pm_gplvm as gplvm
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.fitting.optimise import loosely, maximise, tightly
from pm_gplvm.fitting.relocation import Relocation
from pm_gplvm.model.density import compile_log_density, measured, optimiser_coordinates
from pm_gplvm.model.starts import start_values

KERNELS = ["rbf", "matern52", "linear", "rbf + linear", "rbf + bias"]
THETA = {"lengthscale": 0.8, "amplitude": 1.1, "weight": 0.7, "sigma": 0.3, "bias": 0.5}


def _model(kernel, holes, **options):
    Y = simulated(12).to_numpy().copy()
    if holes:
        Y[[1, 4, 7], [0, 2, 2]] = np.nan
    return gplvm.build_model(
        Y, 2, kernel=kernel, resolution=0, missing="mask" if holes else "raise", **options
    )


def _values(model, rng):
    values = model.initial_point()
    values["X"] = rng.standard_normal((12, 2))
    for name in values:
        if name.endswith("_log__"):
            value = THETA[name.removesuffix("_log__")]
            values[name] = np.full_like(values[name], np.log(value))
    return values


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_information_is_fishers(kernel, holes, rng):
    """½ tr(K⁻¹ ∂K K⁻¹ ∂K) of each column, the derivatives by central differences."""
    model = _model(kernel, holes)
    values = _values(model, rng)
    X = values["X"]
    theta = {n: v for n, v in THETA.items() if n in model.named_vars}

    def K(X):
        return kernel_matrix(kernel.removesuffix(" + bias"), X, **theta)

    def slope(n, q):
        step = np.zeros_like(X)
        step[n, q] = 1e-6
        return (K(X + step) - K(X - step)) / 2e-6

    seen = np.ones((12, 4), dtype=bool)
    if holes:
        seen[[1, 4, 7], [0, 2, 2]] = False
    wanted = np.zeros((2, 12, 12))
    for q in range(2):
        slopes = [slope(n, q) for n in range(12)]
        for rows in seen.T:
            at = np.ix_(rows, rows)
            inverse = np.linalg.inv(K(X)[at])
            turned = [inverse @ s[at] for s in slopes]
            wanted[q] += [[0.5 * (a * b.T).sum() for b in turned] for a in turned]
    found = Relocation(model, rng).information(values)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("ard", [False, True])
@pytest.mark.parametrize("kernel", ["rbf", "linear", *SUMS])
def test_the_objective_is_the_same_and_the_way_back_too(kernel, ard, rng):
    model = _model(kernel, False, ard=ard and kernel != "linear")
    values = _values(model, rng)
    plain = compile_log_density(model, coordinates=optimiser_coordinates)
    information = Relocation(model, rng).information(values) + np.eye(12)
    there = measured(plain, values, information)
    assert there is not None
    vector = there.inward(values)
    for name, value in there.outward(vector).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-10, atol=1e-12)
    value, gradient = there(vector)
    assert value == pytest.approx(plain(plain.inward(values))[0], rel=1e-12)
    for direction in rng.standard_normal((3, len(vector))):
        up, down = (there(vector + s * 1e-5 * direction)[0] for s in (1.0, -1.0))
        assert (up - down) / 2e-5 == pytest.approx(gradient @ direction, rel=1e-6, abs=1e-5)


def test_what_has_no_factor_is_left_as_it_is(rng):
    model = _model("rbf", False)
    plain = compile_log_density(model, coordinates=optimiser_coordinates)
    values = _values(model, rng)
    assert measured(plain, values, -np.stack([np.eye(12)] * 2)) is None


def test_they_save_evaluations_near_the_maximum():
    slow, fast = 0, 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        model = gplvm.build_model(simulated(100, 8, seed=seed), resolution=0)
        plain = compile_log_density(model, volume=True, coordinates=optimiser_coordinates)
        with progress_bar("", 1, "starts", show=False) as counter:
            near = maximise(
                plain, start_values(model, "pca", rng), 1000, loosely(3.0), counter
            ).values
            information = Relocation(model, rng).information(near) + np.eye(100)
            there = measured(plain, near, information)
            ends = [maximise(c, near, 1000, tightly(), counter) for c in (plain, there)]
        assert all(end.converged for end in ends)
        assert ends[1].objective > ends[0].objective - 0.3
        slow, fast = slow + ends[0].evaluations, fast + ends[1].evaluations
    assert fast < 0.7 * slow
