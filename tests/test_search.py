"""The coordinates of fits with inducing inputs, and what is held at first."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from oracles import central_differences

import pm_gplvm as gplvm
from pm_gplvm import search as module
from pm_gplvm.density import compile_log_density
from pm_gplvm.optimise import CONVERGED, LINE_SEARCH, maximise
from pm_gplvm.search import induced_coordinates, search


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "ard"])
def variational(request, Y):
    model = gplvm.build_variational(gplvm.build_model(Y, 2, ard=request.param), 4)
    return model, compile_log_density(model)


def values_of(model, density, rng):
    start = model.initial_point()
    return {
        name: start[name] + 0.3 * rng.standard_normal(np.shape(start[name]))
        for name in density.names
    }


def test_the_way_in_and_the_way_out_are_inverse(variational, rng):
    model, density = variational
    values = values_of(model, density, rng)
    for held in ({}, {"sigma_log__": values["sigma_log__"]}):
        coordinates = induced_coordinates(model, density, held)
        again = coordinates.outward(coordinates.inward(values))
        assert set(again) == set(density.names)
        for name, value in values.items():
            np.testing.assert_allclose(again[name], value, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_that_of_the_vector(variational, rng):
    model, density = variational
    values = values_of(model, density, rng)
    coordinates = induced_coordinates(model, density, {"sigma_log__": values["sigma_log__"]})
    vector = coordinates.inward(values)
    assert len(vector) == density.size - 1
    _, gradient = coordinates(vector)
    slope = central_differences(lambda point: coordinates(point["v"])[0], {"v": vector})["v"]
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-5 * np.abs(slope).max())


def test_positions_are_in_units_of_the_lengthscale(variational, rng):
    """Where lengthscale and positions grow together, the lengthscale alone moves in the vector."""
    model, density = variational
    coordinates = induced_coordinates(model, density, {})
    values = values_of(model, density, rng)
    grown = {name: values[name] * np.exp(0.5) for name in ("X_mean", "X_inducing")}
    grown |= {name: values[name] + 0.5 for name in ("X_sd_log__", "lengthscale_log__")}
    one, other = coordinates.inward(values), coordinates.inward(values | grown)
    assert (~np.isclose(one, other, rtol=1e-10)).sum() == values["lengthscale_log__"].size


def test_noise_and_amplitude_are_held_for_the_first_iterations(variational, rng, monkeypatch):
    model, density = variational
    seen = []

    def watched(coordinates, values, *settings):
        optimum = maximise(coordinates, values, *settings)
        seen.append((set(coordinates.held), values, optimum.values))
        return optimum

    monkeypatch.setattr(module, "maximise", watched)
    values = values_of(model, density, rng)
    settings = {"maxiter": 5, "tol": 1e-8, "progressbar": False, "blas_threads": 1}
    ((_, best),) = search(model, [values], title="test", hold=7, **settings)
    (held, began, ended), (free, _, last) = seen[:2]
    assert held == {"sigma_log__", "amplitude_log__"}
    assert free == set()
    for name in density.names:
        assert np.array_equal(began[name], ended[name]) == (name in held), name
    assert all(not np.array_equal(last[name], ended[name]) for name in held)
    assert best.evaluations == len(best.trace)
    assert best.start < best.objective


def giving_up(monkeypatch, messages):
    """Let the line search give up where the messages say so."""
    calls = iter(messages)

    def ending(*arguments):
        return replace(maximise(*arguments), message=next(calls), converged=False)

    monkeypatch.setattr(module, "maximise", ending)
    return calls


def test_a_line_search_that_gives_up_is_begun_afresh(variational, rng, monkeypatch):
    model, density = variational
    left = giving_up(monkeypatch, [LINE_SEARCH, LINE_SEARCH, CONVERGED])
    settings = {"maxiter": 3, "tol": 1e-8, "progressbar": False, "blas_threads": 1}
    ((_, best),) = search(model, [values_of(model, density, rng)], title="t", hold=0, **settings)
    assert best.message == CONVERGED
    assert (np.diff(best.trace) >= 0.0).all()
    assert next(left, None) is None


def test_where_a_fresh_start_gains_nothing_it_has_converged(variational, rng, monkeypatch):
    model, density = variational
    giving_up(monkeypatch, [LINE_SEARCH, LINE_SEARCH])
    settings = {"maxiter": 3000, "tol": 1e-10, "progressbar": False, "blas_threads": 1}
    ((_, best),) = search(model, [values_of(model, density, rng)], title="t", hold=0, **settings)
    assert best.converged
    assert best.message == CONVERGED


def test_what_rounding_leaves_has_converged_and_more_has_not(variational, rng, monkeypatch):
    model, density = variational
    settings = {"maxiter": 3000, "tol": 1e-12, "progressbar": False, "blas_threads": 1}
    for gain, converged in ((1e-7, True), (1e-5, False)):
        heights = itertools.count()

        def rising(*arguments, gain=gain, heights=heights):
            at = 1000.0 * (1.0 + gain * next(heights))
            return replace(maximise(*arguments), objective=at, message=LINE_SEARCH, converged=False)

        monkeypatch.setattr(module, "maximise", rising)
        ((_, best),) = search(
            model, [values_of(model, density, rng)], title="t", hold=0, **settings
        )
        assert best.converged == converged
