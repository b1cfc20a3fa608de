"""Compiled iterations against those of NumPy calls: densities, gradients, and what is drawn."""

from functools import cache

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from conftest import simulated
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pm_gplvm as gplvm
from pm_gplvm.core.trajectories import evaluate
from pm_gplvm.sampling.joint import untransformed
from pm_gplvm.sampling.replicas import Replicas, chosen_backend, compile_posterior

N = 9
TIMES = np.array([0.0, 0.5, 1.5, 2.0, 2.2, 3.0, 4.5, 5.0, 6.0])


def table(missing=False):
    Y = simulated(N, 4, seed=3)
    if missing:
        Y = Y.copy()
        Y[:2, 1] = Y[4:6, 3] = np.nan
    return Y


def bounded(name, dims):
    return pm.Uniform(name, -4.0, 4.0, dims=dims)


def tied(name, dims):
    X = pm.Normal(name, dims=dims)
    pm.Potential("smooth", -((X[1:] - X[:-1]) ** 2).sum())
    return X


def driven(name, dims):
    steps = pm.Normal("steps", dims=dims)
    return pm.Deterministic(name, steps.cumsum(axis=0), dims=dims)


MODELS = {
    "default": {},
    "ard, missing": {"kernel": "matern52 + linear + bias", "ard": True, "missing": "mask"},
    "linear": {"kernel": "linear", "scale": "feature"},
    "dynamics": {"kernel": "cauchy", "priors": {"X": gplvm.priors.dynamics(TIMES)}},
    "classes": {"priors": {"X": gplvm.priors.class_mixture(["a", "b", "a"] * 3)}},
    "theta held": {
        "kernel": "matern32",
        "priors": {"X": bounded, "lengthscale": 0.7, "sigma": 0.3},
        "resolution": 0,
    },
    "tied": {"priors": {"X": tied}},
    "driven": {"priors": {"X": driven}},
}


@cache
def both(name):
    """A model in NumPy calls, and compiled."""
    arguments = dict(MODELS[name])
    model = untransformed(gplvm.build_model(table("missing" in name), latent_dim=2, **arguments))
    return compile_posterior(model), compile_posterior(model, "numba")


@pytest.mark.parametrize("name", MODELS)
def test_densities_and_gradients_are_those_in_numpy(name, rng):
    plain, posterior = both(name)
    assert (plain.backend, posterior.backend) == ("python", "numba")
    states = 0.3 * rng.standard_normal((3, plain.ensemble.size))
    wanted, found = plain(states), posterior(states)
    np.testing.assert_allclose(found.log_likelihood, wanted.log_likelihood, rtol=1e-10)
    np.testing.assert_allclose(found.log_prior, wanted.log_prior, rtol=1e-10)
    native, beta = posterior.native, 0.4
    outputs, given = np.empty((2, native.addresses.n_outputs))
    gradient = np.empty(states.shape[1])
    for i, state in enumerate(states):
        value = evaluate(posterior.columns, native.addresses, state, beta, outputs, given, gradient)
        assert value == pytest.approx((found.log_likelihood[i], found.log_prior[i]), rel=1e-12)
        expected = wanted.tempered(np.full(3, beta))[1][i]
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-9)
    np.testing.assert_array_equal(native.units, plain.ensemble.units)
    # Iterations leave a state and what is known of it in step.
    first = states.reshape(3, 1, -1)
    sampler = Replicas(
        posterior, first, np.ones(1), np.full(1, 0.02), n_proposals=8, rng=np.random.default_rng(1)
    )
    moved = np.mean([sampler.iterate().moved for _ in range(5)])
    assert np.abs(sampler.states - states).max() > 0.0
    after = plain(sampler.states)
    np.testing.assert_allclose(sampler.known.log_likelihood, after.log_likelihood, rtol=1e-10)
    np.testing.assert_allclose(sampler.known.log_prior, after.log_prior, rtol=1e-10)
    assert (moved > 0.0) == (plain.row_prior is not None)


@pytest.mark.parametrize("name", ["default", "ard, missing", "dynamics", "theta held"])
def test_a_state_without_a_density_is_not_left_for_another(name):
    """Outside the support, and where K is singular: -inf, and no trajectory is taken there."""
    plain, posterior = both(name)
    states = np.zeros((2, plain.ensemble.size))
    states[1, :] = 800.0
    with np.errstate(all="ignore"):
        wanted = plain(states)
    found = posterior(states)
    assert np.isfinite(found.log_likelihood[0]) == np.isfinite(wanted.log_likelihood[0])
    value, _ = found.tempered(np.ones(2))
    assert value[1] == -np.inf


@pytest.mark.parametrize("backend", ["python", "numba"])
def test_rows_of_a_prior_that_ties_them_look_at_the_others_as_they_are_by_now(backend, rng):
    """At β = 0, from draws of the prior, a sweep leaves how far neighbours in time are apart."""
    Y = simulated(N, 2, seed=3)
    priors = {"X": gplvm.priors.dynamics(TIMES, lengthscale=2.0), "lengthscale": 0.8}
    model = gplvm.build_model(Y, latent_dim=1, priors=priors)
    posterior = compile_posterior(model, backend)
    chains = 600
    drawn = gplvm.sample_prior(model, draws=chains, random_seed=1)["prior"].to_dataset()
    states = np.empty((chains, posterior.ensemble.size))
    for i, state in enumerate(states):
        point = {str(n): v.to_numpy()[0, i] for n, v in drawn.data_vars.items()}
        inner = {
            v.name: point["X"] if v.name == "X" else np.log(point[v.name.removesuffix("_log__")])
            for v in model.value_vars
        }
        state[:] = posterior.ensemble.inward(inner)
    sampler = Replicas(
        posterior, states[:, None], np.zeros(1), np.full(1, 1e-6), n_proposals=48, rng=rng
    )

    def apart():
        X = posterior.ensemble.draws(sampler.states)["X"][..., 0]
        return (np.diff(X, axis=1) ** 2).mean()

    before = apart()
    for _ in range(4):
        sampler.iterate()
    assert apart() == pytest.approx(before, rel=0.08)


class Strange(Op):
    """An Op that numba knows nothing of."""

    def make_node(self, x):
        return Apply(self, [pt.as_tensor_variable(x)], [pt.dscalar()])

    def perform(self, node, inputs, storage):
        storage[0][0] = np.asarray(-0.5 * (inputs[0] ** 2).sum())

    def pullback(self, inputs, outputs, cotangents):
        return [-inputs[0] * cotangents[0]]


def strange(name, dims):
    X = pm.Flat(name, dims=dims)
    pm.Potential("strange", Strange()(X))
    return X


def test_a_prior_that_numba_cannot_compile_has_numpy_calls():
    model = gplvm.build_model(table(), priors={"X": strange})
    few = {"draws": 4, "tune": 4, "chains": 2, "replicas": 1, "progressbar": False}
    fit = gplvm.sample(model, backend="numba", random_seed=1, **few)
    assert fit.attrs["backend"] == "python"
    same = gplvm.sample(model, backend="python", random_seed=1, **few)
    np.testing.assert_array_equal(fit["posterior"]["X"], same["posterior"]["X"])


def test_what_is_chosen():
    assert chosen_backend("auto", 1999) == "python"
    assert chosen_backend("auto", 2000) == "numba"
    assert chosen_backend("python", 10**6) == "python"
    assert chosen_backend("numba", 1) == "numba"
    with pytest.raises(ValueError, match="backend must be one of auto, numba, python, got 'jax'"):
        gplvm.sample(gplvm.build_model(table()), backend="jax")
